"""The built-in instruction set: fourteen tasks with a checkable answer, in English and Chinese.

A task is a function `gen(rng, lang) -> (input, output)` or a pool of pairs, and its wordings.
Wordings come in three groups, train / dev / test, and MORE for training; no test wording shares a run of four words
(six characters in Chinese) with a training wording. `build(seed)` returns the five splits.
"""

import random

from .world import (
    BAD_LIST,
    CONTINENTS,
    COUNTRY_LIST,
    DEEDS,
    ELEMENT_LIST,
    GOOD_LIST,
    OPPOSITE_LIST,
    PEOPLE_LIST,
    SUBJECT_LIST,
    TOPICS,
    WORD_LIST,
)

LANGS = ("en", "zh")
SEP = {"en": ", ", "zh": "、"}
L = {"en": 0, "zh": 1}


def words(rng, lang, n):
    return [w[L[lang]] for w in rng.sample(WORD_LIST, n)]


def join(items, lang):
    return SEP[lang].join(items)


def gen_upper(rng, lang):
    text = " ".join(words(rng, "en", rng.choice((1, 2, 2, 3))))
    return text, text.upper()


def gen_lower(rng, lang):
    lower, upper = gen_upper(rng, lang)
    return upper, lower


def gen_first(rng, lang):
    items = words(rng, lang, rng.randint(3, 5))
    return join(items, lang), items[0]


def gen_last(rng, lang):
    items = words(rng, lang, rng.randint(3, 5))
    return join(items, lang), items[-1]


def gen_count(rng, lang):
    items = words(rng, lang, rng.randint(2, 6))
    return join(items, lang), str(len(items))


def gen_sort(rng, lang):
    items = rng.sample(range(10), rng.randint(3, 5))
    return join(map(str, items), lang), join(map(str, sorted(items)), lang)


def gen_largest(rng, lang):
    items = rng.sample(range(100), rng.randint(3, 4))
    return join(map(str, items), lang), str(max(items))


def gen_reverse(rng, lang):
    items = words(rng, lang, rng.randint(3, 4))
    return join(items, lang), join(items[::-1], lang)


def gen_contains(rng, lang):
    items = words(rng, lang, rng.randint(3, 4) + 1)
    asked = rng.choice(items[1:]) if rng.random() < 0.5 else items[0]
    yes = asked in items[1:]
    return f"{join(items[1:], lang)}\n{asked}", {"en": ("no", "yes"), "zh": ("否", "是")}[lang][yes]


def scene(rng, lang):
    """A short text about one person, one place and one deed: (text, gist, person, capital)."""
    (who, who_zh), (_, _, city, city_zh, _) = rng.choice(PEOPLE_LIST), rng.choice(COUNTRY_LIST)
    past, gerund, deed_zh, detail, detail_zh = rng.choice(DEEDS)
    when, when_zh = rng.choice(
        (
            ("Yesterday", "昨天"),
            ("Last week", "上周"),
            ("In spring", "春天"),
            ("On Sunday", "星期天"),
            ("Last year", "去年"),
        )
    )
    after, after_zh = rng.choice(
        (
            ("It was a good day.", "那是美好的一天。"),
            ("The way home was long.", "回家的路很长。"),
            ("Everyone was tired in the evening.", "晚上大家都累了。"),
            ("Nobody had expected it.", "谁也没有想到。"),
        )
    )
    if lang == "en":
        return (
            f"{when} {who} {past} in {city}. {detail} {after}",
            f"{who} {past} in {city}.",
            who,
            city,
        )
    return (
        f"{when_zh}，{who_zh}在{city_zh}{deed_zh}。{detail_zh}{after_zh}",
        f"{who_zh}在{city_zh}{deed_zh}。",
        who_zh,
        city_zh,
    )


def gen_summary(rng, lang):
    text, gist, *_ = scene(rng, lang)
    return text, gist


def gen_extract(rng, lang):
    text, _, who, _ = scene(rng, lang)
    return text, who


def opinion(rng, lang, good):
    i = L[lang]
    subject, other = (s[i] for s in rng.sample(SUBJECT_LIST, 2))
    a, b = (s[i] for s in rng.sample(GOOD_LIST if good else BAD_LIST, 2))
    forms = {
        "en": (
            "The {s} was {a} and the {o} was {b}.",
            "What a {a} {s}, the {o} was {b} too.",
            "I think the {s} is {a} and {b}.",
            "Our {s} was {a}, my {o} was {b}.",
        ),
        "zh": (
            "{s}{a}，{o}也{b}。",
            "我觉得{s}{a}，而且{b}。",
            "这里的{s}{a}，{o}{b}。",
            "今天的{s}真的{a}，{o}同样{b}。",
        ),
    }[lang]
    return rng.choice(forms).format(s=subject, o=other, a=a, b=b)


def gen_sentiment(rng, lang):
    good = rng.random() < 0.5
    return opinion(rng, lang, good), {"en": ("negative", "positive"), "zh": ("负面", "正面")}[lang][
        good
    ]


def gen_topic(rng, lang):
    topic = rng.choice(list(TOPICS))
    text = ("" if lang == "zh" else " ").join(s[L[lang]] for s in rng.sample(TOPICS[topic], 2))
    return text, topic.split()[L[lang]]


# -- facts: what only pretraining told --------------------------------------------------------------


def facts():
    """(relation, key) -> {lang: (asked, answer)}; `key` names the fact, which may be asked in two directions."""
    out = {}
    for en, zh, cap, cap_zh, cont in COUNTRY_LIST:
        out["capital", f"capital/{en}"] = {"en": (en, cap), "zh": (zh, cap_zh)}
        out["country", f"capital/{en}"] = {"en": (cap, en), "zh": (cap_zh, zh)}
        out["continent", f"continent/{en}"] = {"en": (en, cont), "zh": (zh, CONTINENTS[cont])}
    for a, b, a_zh, b_zh in OPPOSITE_LIST:
        out["opposite", f"opposite/{a}"] = {"en": (a, b), "zh": (a_zh, b_zh)}
    for en, zh, symbol in ELEMENT_LIST:
        out["symbol", f"symbol/{en}"] = {"en": (en, symbol), "zh": (zh, symbol)}
    for en, zh, cat, cat_zh in WORD_LIST:
        out["kind", f"kind/{en}"] = {"en": (en, cat), "zh": (zh, cat_zh)}
    return out


GENERATORS = {
    "upper": gen_upper,
    "lower": gen_lower,
    "first": gen_first,
    "last": gen_last,
    "count": gen_count,
    "sort": gen_sort,
    "largest": gen_largest,
    "reverse": gen_reverse,
    "contains": gen_contains,
    "summary": gen_summary,
    "extract": gen_extract,
    "sentiment": gen_sentiment,
    "topic": gen_topic,
}
# Whether a list contains a word is told in the corpus, but so small a base does not learn it: 44 to 62 % of yes and no right,
# after all of pretraining and after 600 more steps with a third of the lines on it. Tuning cannot bring out what is not there, so it is not asked.
LEFT_OUT = ("contains",)
TASKS = (*(t for t in GENERATORS if t not in LEFT_OUT), "translate", "knowledge")

# -- wordings: task -> lang -> (train, dev, test), one a line; {x} puts the input into the instruction ----------

WORDINGS = {
    "upper": {
        "en": (
            """Write the text in capital letters.
Change all letters to upper case.
Make every letter a capital letter.
Turn this text into upper case letters.
Convert to uppercase.
Put the words in capitals.
Rewrite the input with capital letters only.
Give me the uppercase form of the text.""",
            "Use capital letters for the whole text.\nUppercase this.",
            "Capitalise every letter you see.\nShow the uppercase version.\nAll letters should become capital letters.",
        ),
        "zh": (
            """把文字改成大写字母。
将所有字母转换为大写。
请用大写字母写出来。
把这段英文变成大写。
输出这些单词的大写形式。
全部改写为大写。
请把下面的字母都换成大写的。
写成大写字母。""",
            "请转成大写。\n英文字母一律大写。",
            "请给出大写的写法。\n每个字母都要大写。\n用大写表示这些词。",
        ),
    },
    "lower": {
        "en": (
            """Write the text in small letters.
Change all letters to lower case.
Make every letter a small letter.
Turn this text into lower case letters.
Convert to lowercase.
Put the words in small letters.
Rewrite the input with small letters only.
Give me the lowercase form of the text.""",
            "Use small letters for the whole text.\nLowercase this.",
            "Remove the capitals and keep small letters.\nShow the lowercase version.\nAll letters should become small letters.",
        ),
        "zh": (
            """把文字改成小写字母。
将所有字母转换为小写。
请用小写字母写出来。
把这段英文变成小写。
输出这些单词的小写形式。
全部改写为小写。
请把下面的字母都换成小写的。
写成小写字母。""",
            "请转成小写。\n英文字母一律小写。",
            "请给出小写的写法。\n每个字母都要小写。\n用小写表示这些词。",
        ),
    },
    "first": {
        "en": (
            """Pick the first item of the list.
What is the first word in the list?
Name the first item.
Give only the first entry.
Return the item that comes first.
Which item stands first?
Take the first one from the list.
Find the first word.""",
            "Say the first word of this list.\nThe first item, please.",
            "Select the very first element.\nWhich one is first here?\nAnswer with the first item only.",
        ),
        "zh": (
            """选出列表中的第一项。
列表的第一个词是什么？
说出第一个项目。
只给出第一项。
返回排在最前面的词。
哪一个排在第一位？
请取出第一个。
找出第一个词语。""",
            "请说第一个词。\n第一项是哪个？",
            "只写最前面的那一项。\n回答第一个即可。\n哪一项在第一位？",
        ),
    },
    "last": {
        "en": (
            """Pick the last item of the list.
What is the last word in the list?
Name the last item.
Give only the last entry.
Return the item that comes last.
Which item stands last?
Take the last one from the list.
Find the last word.""",
            "Say the last word of this list.\nThe last item, please.",
            "Select the very last element.\nWhich one is last here?\nAnswer with the last item only.",
        ),
        "zh": (
            """选出列表中的最后一项。
列表的最后一个词是什么？
说出最后一个项目。
只给出最后一项。
返回排在最后面的词。
哪一个排在最后一位？
请取出最后一个。
找出最后一个词语。""",
            "请说最后一个词。\n最后一项是哪个？",
            "只写最末尾的那一项。\n回答最后一个即可。\n排在末尾的是哪一项？",
        ),
    },
    "count": {
        "en": (
            """Count the items in the list.
How many items are there?
How many words does the list have?
Give the number of items.
Say how many things are listed.
Count the words.
What is the number of entries?
Tell me the length of the list.""",
            "Count how many words you see.\nNumber of things, please.",
            "Of how many things does this list consist?\nCount all the entries here.\nReport the total number of words.",
        ),
        "zh": (
            """数一数列表里有几项。
一共有多少个词？
给出项目的数量。
列表中有几个词语？
请计数。
统计词的个数。
总共有几个？
说出列表的长度。""",
            "数数有几个。\n词的总数是多少？",
            "这里有几个词？\n请统计项目数。\n计算一下总数。",
        ),
    },
    "sort": {
        "en": (
            """Sort the numbers in ascending order.
Sort from smallest to largest.
Put the numbers in order, small ones first.
Arrange the numbers from low to high.
Order the numbers by size.
Write the numbers in increasing order.
Sort the list.
Arrange these from small to large.""",
            "Sort these numbers upwards.\nPut the digits in ascending order.",
            "Order them from the smallest up.\nList the numbers in sorted order.\nArrange everything in ascending order.",
        ),
        "zh": (
            """把数字从小到大排序。
按升序排列这些数字。
将数字由小到大排列。
请给数字排序。
从小到大写出这些数。
把数字按大小顺序排好。
升序排序。
整理数字，小的在前。""",
            "把这些数从小到大排好。\n请升序排列。",
            "请按从小到大的顺序写。\n排序以下数字。\n用升序列出来。",
        ),
    },
    "largest": {
        "en": (
            """Find the largest number.
Which number is the biggest?
Give the maximum of the numbers.
Pick the greatest number.
What is the largest value?
Return the highest number.
Name the biggest of these numbers.
Say which number is largest.""",
            "Choose the largest of the numbers.\nMaximum, please.",
            "Report the maximum value.\nWhich value is greatest?\nOut of these, select the largest.",
        ),
        "zh": (
            """找出最大的数字。
哪个数最大？
给出这些数的最大值。
选出最大的一个数。
最大的数是多少？
返回数值最高的那个。
请说出其中最大的数。
求最大值。""",
            "最大数是哪个？\n挑出最大的。",
            "请写出最大值。\n其中哪个最大？\n选最大的那个。",
        ),
    },
    "reverse": {
        "en": (
            """Reverse the list.
Write the list backwards.
Give the items in reverse order.
Turn the order of the items around.
List the words from last to first.
Put the list in the opposite order.
Say the items backwards.
Reverse the order of the words.""",
            "Write the words in reverse order.\nList everything backwards.",
            "Show the list in reversed order.\nStart at the end and go backwards.\nReverse these items.",
        ),
        "zh": (
            """把列表倒过来写。
将顺序颠倒。
按相反的顺序写出各项。
反转列表。
从后往前列出这些词。
倒序输出。
把词语的顺序反过来。
请逆序排列。""",
            "请把列表反转。\n从最后一个往前写。",
            "倒着写出这些词。\n给出逆序的结果。\n请颠倒它们的次序。",
        ),
    },
    "contains": {
        "en": (
            """Is the word on the second line in the list?
Does the list contain the word below it?
Check whether the last line is part of the list. Answer yes or no.
Is the single word one of the listed items?
Say yes if the list has the word under it, otherwise no.
Does the word below appear in the list above?
Answer yes or no: is the word listed?
Tell me if the word below is in the list.""",
            "Is the word below listed?\nCheck if the list has the word.",
            "Can the single word be found in the list?\nYes or no: the list contains the word?\nDoes the word occur above?",
        ),
        "zh": (
            """第二行的词在列表里吗？
列表中包含下面的词吗？
判断最后一行是否属于列表，回答是或否。
下面的词是列表中的一项吗？
如果列表里有下面的词就答是，否则答否。
下面的词出现在上面的列表里吗？
回答是或否：这个词在列表中吗？
请判断列表有没有这个词。""",
            "下面这个词在不在列表里？\n列表有这个词吗？",
            "请看这个词是否在其中。\n列表是否包含该词？\n上面有没有下面的词？",
        ),
    },
    "summary": {
        "en": (
            """Write a short summary of the text.
Summarize the text in one sentence.
Give the gist of this passage.
Say in one sentence what the text is about.
What is the main point of the text?
Produce a concise summary for the given text.
Shorten the text to its main idea.
Sum up the passage.""",
            "Summarize this passage briefly.\nThe main idea, in one sentence.",
            "Briefly, what happened in this text?\nProvide a one sentence summary.\nReduce the passage to its gist.",
        ),
        "zh": (
            """对给定的文章生成一个简明扼要的摘要。
用一句话概括这段文字。
写出这篇短文的摘要。
这段话主要讲了什么？
请总结下面的内容。
概括文章的大意。
给出文章的主要意思。
把文章缩写成一句话。""",
            "对给定的文本生成一个摘要。\n请概括主要内容。",
            "一句话总结全文。\n短文的大意是什么？\n请写摘要。",
        ),
    },
    "extract": {
        "en": (
            """Extract the name of the person.
Who is the text about?
Find the person in the text.
Which person is named in the text?
Give the name that appears in the passage.
Write down the person's name.
Name the person mentioned.
Return only the name of the person.""",
            "Find the name in this text.\nWho is named here?",
            "Which name occurs in the text?\nPull out the person's name.\nTell me who is mentioned.",
        ),
        "zh": (
            """提取文中的人名。
这段文字讲的是谁？
找出文中的人物。
文中提到了哪个人？
写出文章里出现的名字。
请给出人物的姓名。
只返回人名。
文章中的人叫什么名字？""",
            "找一找文中的人名。\n文中的人是谁？",
            "请抽取人物名字。\n谁出现在文中？\n说出这个人的名字。",
        ),
    },
    "sentiment": {
        "en": (
            """Is the sentence positive or negative?
Classify the sentiment of the sentence.
Decide if the review is positive or negative.
What is the feeling of this sentence: positive or negative?
Label the text as positive or negative.
Judge the sentiment.
Tell whether the opinion is positive or negative.
Determine the mood of the text.""",
            "Positive or negative?\nGive the sentiment of this review.",
            "Say if the writer's opinion sounds positive or negative.\nFind the sentiment label.\nWhich sentiment does the sentence show?",
        ),
        "zh": (
            """这句话是正面还是负面？
判断句子的情感。
对评论进行情感分类。
这条评价是正面的还是负面的？
给文本标注正面或负面。
请判断情感倾向。
说出这种意见的态度是正面还是负面。
确定文字的情绪。""",
            "是正面还是负面？\n情感是什么？",
            "请给出情感标签。\n情感属于哪类？\n正面或负面，请选择。",
        ),
    },
    "topic": {
        "en": (
            """What is the topic of the text?
Name the topic.
Which subject is the text about: sports, weather, food, music, health or travel?
Classify the text by topic.
Give the topic of this passage.
Choose the topic: sports, weather, food, music, health, travel.
Assign a topic to the text.
Label the subject of the text.""",
            "Find the topic of these sentences.\nThe topic, please.",
            "State which topic fits.\nWhat topic do these sentences have?\nDecide on a topic label.",
        ),
        "zh": (
            """这段文字的主题是什么？
说出主题。
文字属于哪个主题：体育、天气、美食、音乐、健康还是旅行？
按主题给文本分类。
给出这段话的主题。
选择主题：体育、天气、美食、音乐、健康、旅行。
为文本指定一个主题。
标出文字的话题。""",
            "请找出主题。\n主题是哪一个？",
            "请写出它的主题。\n判断属于什么主题。\n内容是哪方面的主题？",
        ),
    },
    "translate": {
        "en": (
            """Translate the word into Chinese.
What is this word in Chinese?
Give the Chinese word.
How do you say {x} in Chinese?
Write the word in Chinese.
Translate from English to Chinese.
Say this in Chinese.
What does {x} mean in Chinese?""",
            "Put it into Chinese.\nThe Chinese for this word.",
            "Find the Chinese translation.\nWhich Chinese word means {x}?\nRender {x} as Chinese.",
        ),
        "zh": (
            """把这个词翻译成英文。
这个词用英语怎么说？
给出对应的英文单词。
{x}的英文是什么？
请译成英语。
将中文翻译为英文。
写出它的英文。
{x}用英文怎么写？""",
            "翻译成英语。\n英文单词是哪个？",
            "请给出英语翻译。\n英语里{x}叫什么？\n用英文表示{x}。",
        ),
    },
    "capital": {
        "en": (
            """What is the capital of {x}?
Name the capital of the country.
Give the capital city of {x}.
Which city is the capital of {x}?
Tell me the capital of this country.""",
            "The capital of {x}, please.",
            "Answer with the country's capital city.\n{x} has which capital?",
        ),
        "zh": (
            """{x}的首都是哪里？
说出这个国家的首都。
哪个城市是{x}的首都？
{x}的首都叫什么？
请写出该国首都。""",
            "{x}首都是什么？",
            "请问{x}的首都？\n给出国家的首都名。",
        ),
    },
    "country": {
        "en": (
            """Which country has {x} as its capital?
{x} is the capital of which country?
Name the country whose capital this is.
In which country is the city of {x}?
Give the country of this capital.""",
            "The country of {x}, please.",
            "What nation is {x} part of?\nFind the nation with this capital.",
        ),
        "zh": (
            """{x}是哪个国家的首都？
哪个国家的首都是{x}？
{x}在哪个国家？
说出以此为首都的国家。
写出这个首都所在的国家。""",
            "{x}是哪国的首都？",
            "请问{x}属于哪国？\n首都是{x}的国家是？",
        ),
    },
    "continent": {
        "en": (
            """On which continent is {x}?
Which continent does {x} belong to?
Name the continent of the country.
{x} lies on which continent?
Tell me the continent of this country.""",
            "The continent of {x}, please.",
            "Find the continent for {x}.\nWhat continent is {x} in?",
        ),
        "zh": (
            """{x}在哪个洲？
{x}属于哪个洲？
说出这个国家所在的洲。
{x}位于哪个大洲？
写出该国所在的大洲。""",
            "{x}是哪个洲的国家？",
            "请问{x}在什么洲？\n给出国家的大洲。",
        ),
    },
    "opposite": {
        "en": (
            """What is the opposite of {x}?
Give the opposite of the word.
Which word means the opposite of {x}?
Name the opposite.
Write a word with the opposite meaning.""",
            "The opposite of {x}, please.",
            "State the opposite for {x}.\nFind an antonym, the opposite word.",
        ),
        "zh": (
            """{x}的反义词是什么？
写出这个词的反义词。
哪个词与{x}意思相反？
给出反义词。
和{x}相反的词是什么？""",
            "{x}的相反词是什么？",
            "请找{x}的反义词。\n反义词：{x}。",
        ),
    },
    "symbol": {
        "en": (
            """What is the chemical symbol of {x}?
Give the symbol of the element.
Which symbol stands for {x}?
Write the chemical symbol.
Name the symbol of the element {x}.""",
            "The symbol of {x}, please.",
            "Find the symbol for {x}.\nState how {x} is abbreviated, its symbol.",
        ),
        "zh": (
            """{x}的化学符号是什么？
写出这个元素的符号。
{x}用什么符号表示？
给出元素符号。
元素{x}的符号是什么？""",
            "{x}的符号是哪个？",
            "请写{x}的符号。\n化学符号：{x}。",
        ),
    },
    "kind": {
        "en": (
            """What kind of thing is {x}?
Which category does {x} belong to?
Name the category of the word.
Put the word into a category.
What type of thing is {x}?""",
            "The category of {x}, please.",
            "Give the category for {x}.\nState what kind {x} is.",
        ),
        "zh": (
            """{x}属于哪一类？
{x}是什么类别的东西？
说出这个词的类别。
给词语归类。
{x}是哪一种东西？""",
            "{x}的类别是什么？",
            "请写{x}的类别。\n类别：{x}。",
        ),
    },
}
RELATIONS = ("capital", "country", "continent", "opposite", "symbol", "kind")


def wordings(name, lang, group):
    """The wordings of a task or relation: group 'train', 'dev' or 'test'."""
    return WORDINGS[name][lang][("train", "dev", "test").index(group)].split("\n")


# -- more ways to ask, for half of the training rows; with eight wordings a task the tuned model knew too few words for asking ----

MORE = {  # task or relation: (English, Chinese), one a line
    "upper": (
        """Uppercase the words.
Capitals, please.
I want this in capital letters.
Could you write this in upper case?
The same words, but in capitals.
Print the text with big letters.""",
        """变成大写。
请写大写。
大写字母形式是什么？
我要这些词的大写。
字母改大写。
能不能写成大写？""",
    ),
    "lower": (
        """Lowercase the words.
Small letters, please.
I want this in small letters.
Could you write this in lower case?
The same words, but without capitals.
Print the text with little letters.""",
        """变成小写。
请写小写。
小写字母形式是什么？
我要这些词的小写。
字母改小写。
能不能写成小写？""",
    ),
    "first": (
        """The first word, please.
What does the list begin with?
Show me the item at the start.
First item only.
Say which word comes first.
Tell me the first entry here.""",
        """第一个是什么？
列表以什么开头？
告诉我开头的词。
只要第一个。
写出首项。
最前面是什么？""",
    ),
    "last": (
        """The last word, please.
What does the list end with?
Show me the item at the end.
Last item only.
Say which word comes last.
Tell me the last entry here.""",
        """最后一个是什么？
列表以什么结尾？
告诉我结尾的词。
只要最后一个。
写出末项。
最后面是什么？""",
    ),
    "count": (
        """How many are there?
The number of words, please.
Count them all.
How long is this list?
Find the number of listed things.
Write how many entries you count.""",
        """有几个？
多少项？
请给出总的个数。
词语的数目是多少？
数出所有的词。
列表有多长？""",
    ),
    "sort": (
        """Sort these, smallest first.
In ascending order, please.
Could you order these numbers?
Show the digits from small to large.
Rank the numbers upwards.
Give the sorted numbers.""",
        """从小排到大。
请排好这些数字。
数字升序。
由小到大怎么排？
按从低到高写出。
把它们排序。""",
    ),
    "largest": (
        """The largest number, please.
Which one is largest?
What is the maximum?
Show me the biggest value.
Write only the greatest one.
Find the highest value here.""",
        """最大的是几？
请找最大数。
给我最大的值。
只写最大的。
最高的数是哪一个？
这些数里谁最大？""",
    ),
    "reverse": (
        """Backwards, please.
The same list in reverse.
Turn the list around.
Reverse everything.
Could you write these words from the end to the start?
From the final one up to the first one.""",
        """反过来写。
请倒序。
逆着写出全部的词。
把所有词反向排列。
从末尾写到开头。
全部颠倒过来。""",
    ),
    "contains": (
        """Is it in the list?
Look for the word in the list above, then say yes or no.
Is the second line part of the first?
Find out if the word occurs in the list.
Does the list have it? Yes or no.
Can you find the word in the list above?""",
        """它在列表中吗？
看看列表里有没有它，答是或否。
第二行属于第一行吗？
查一查这个词有没有出现。
列表含有它吗？是或否。
能在上面找到这个词吗？""",
    ),
    "summary": (
        """Summary, please.
In short, what does it say?
Tell the main thing in one sentence.
Make the text short.
What happened? One sentence.
State the gist.""",
        """请简短概括。
简单说，发生了什么？
用一个句子写出要点。
缩短这段文字。
主要的事情是什么？
说说大意。""",
    ),
    "extract": (
        """The name, please.
Who appears in the passage?
Which person does it mention?
Get the name out of the text.
What is the person called?
Say who did this.""",
        """请写人名。
是谁做的？
文章提到谁？
从文字中取出名字。
这个人叫什么？
人物是哪一位？""",
    ),
    "sentiment": (
        """Good or bad? Say positive or negative.
The sentiment, please.
Is this opinion positive?
How does the writer feel, positive or negative?
Mood of the review?
Choose positive or negative for this text.""",
        """评价好不好？答正面或负面。
请说情感。
是正面的意见吗？
作者的态度是正面还是负面？
这条评论的情绪是什么？
为这句话选正面或负面。""",
    ),
    "topic": (
        """What is it about?
Topic, please.
Which topic is this?
Say the subject of the sentences.
Sort the text into a topic.
Pick a topic for this text.""",
        """讲的是哪方面？
请说话题。
这是什么话题？
属于哪一类主题？
把文字归入一个主题。
选一个话题。""",
    ),
    "translate": (
        """In Chinese, please.
Chinese for {x}?
The Chinese translation, please.
Tell me {x} in Chinese.
Which word is this in Chinese?
Turn the word into Chinese.""",
        """英文怎么说？
请写英文。
{x}的英语翻译是什么？
告诉我{x}用英文怎么讲。
对应的英语词是哪个？
译为英文。""",
    ),
    "capital": (
        """Capital of {x}?
What is the country's capital?
Where is the government of {x}, in which capital?
Say the capital of {x}.
Which capital does the country have?""",
        """{x}以哪里为首都？
首都是哪座城市？
{x}的首都在哪？
请说{x}的首都名。
这个国家首都叫什么？""",
    ),
    "country": (
        """Which country does {x} belong to?
{x} lies in what country?
Say the country that has this capital.
Whose capital is {x}?
Which nation is governed from {x}?""",
        """{x}属于什么国家？
这是哪国的首都？
{x}位于哪个国家？
请说出{x}所在国。
这座首都在什么国家？""",
    ),
    "continent": (
        """Continent of {x}?
Where in the world is {x}, on what continent?
Say which continent this country is on.
{x} is part of which continent?
Give the continent.""",
        """{x}是哪一洲的？
它在哪个大洲？
{x}所在的是什么洲？
请说{x}的大洲。
这个国家位于哪一洲？""",
    ),
    "opposite": (
        """Opposite of {x}?
What is not {x} but the contrary?
Say a word that means the opposite.
The antonym of {x}?
Tell me the opposite of this word.""",
        """{x}反过来是什么？
意思相反的词是哪个？
请说{x}的相反词。
反义词呢？
告诉我{x}的反义词。""",
    ),
    "symbol": (
        """Symbol of {x}?
How do chemists write {x}?
The chemical symbol, please.
Say the symbol that {x} has.
Which letters mean {x} in chemistry?""",
        """{x}怎么写成符号？
元素符号是什么？
请说{x}的化学符号。
这个元素用哪个符号？
化学里{x}写作什么？""",
    ),
    "kind": (
        """Kind of thing?
{x} is a kind of what?
Say the category of {x}.
The category, please.
Which group of things has {x} in it?""",
        """{x}是哪类东西？
请说类别。
它是一种什么？
{x}归哪一类？
这个词属于什么类别？""",
    ),
}


def reword(rng, rows):
    """Ask half of `rows` in one of MORE's wordings, in place."""
    for r in rows:
        relation = next(
            n
            for n in WORDINGS
            if (r["task"] == n or r["task"] == "knowledge" and n in RELATIONS)
            and r["wording"] in wordings(n, r["lang"], "train")
        )
        if rng.random() < 0.5:
            head, tail = (r["wording"].split("{x}") + [""])[:2]
            asked = r["input"] or r["instruction"][len(head) : len(r["instruction"]) - len(tail)]
            r["wording"] = rng.choice(MORE[relation][L[r["lang"]]].split("\n"))
            r["instruction"], r["input"] = (
                r["wording"].replace("{x}", asked),
                "" if "{x}" in r["wording"] else asked,
            )


def row(rng, name, lang, group, split, asked, answer):
    wording = rng.choice(wordings(name, lang, group))
    named = "{x}" in wording
    return {
        "instruction": wording.replace("{x}", asked),
        "input": "" if named else asked,
        "output": answer,
        "task": "knowledge" if name in RELATIONS else name,
        "lang": lang,
        "wording": wording,
        "split": split,
    }


def fresh(rng, task, lang, n, seen):
    """`n` pairs of `task` whose inputs are not in `seen`, which grows."""
    out = []
    for _ in range(100 * n):
        asked, answer = GENERATORS[task](rng, lang)
        if (task, lang, asked) not in seen:
            seen.add((task, lang, asked))
            out.append((asked, answer))
        if len(out) == n:
            break
    return out


def build(seed=2026, **sizes):
    """The five splits as lists of rows: train, dev, inputs, wordings, knowledge; sizes as in `everything`."""
    return {
        name: [r for r in rows if r["task"] not in LEFT_OUT]
        for name, rows in everything(seed, **sizes).items()
    }


def everything(seed=2026, *, a_task=130, a_test=30, a_dev=10):
    """`build` with the tasks that are left out.

    `a_task` training rows a task and language, `a_test` rows a task and language in `inputs` and in
    `wordings`, `a_dev` in `dev`. Facts and dictionary words are divided before any row is written:
    a fact of an evaluation split stands in no training row, in neither direction nor language.
    """
    rng = random.Random(seed)
    splits = {"train": [], "dev": [], "inputs": [], "wordings": [], "knowledge": []}
    seen = set()
    for task in GENERATORS:
        for lang in LANGS:
            for split, n, groups in (
                ("inputs", a_test, ("train",)),
                ("wordings", a_test, ("test",)),
                ("dev", a_dev, ("train", "dev")),
                ("train", a_task, ("train",)),
            ):
                for i, (asked, answer) in enumerate(fresh(rng, task, lang, n, seen)):
                    splits[split].append(
                        row(rng, task, lang, groups[i % len(groups)], split, asked, answer)
                    )
    # dictionary: words divided into train / dev / inputs / wordings
    vocabulary = rng.sample(WORD_LIST, len(WORD_LIST))
    cuts = {
        "inputs": vocabulary[:a_test],
        "wordings": vocabulary[a_test : 2 * a_test],
        "dev": vocabulary[2 * a_test : 2 * a_test + a_dev],
        "train": vocabulary[2 * a_test + a_dev :],
    }
    for split, part in cuts.items():
        for lang in LANGS:
            for i, w in enumerate(part):
                asked, answer = (w[0], w[1]) if lang == "en" else (w[1], w[0])
                group = {"wordings": "test", "dev": ("train", "dev")[i % 2]}.get(split, "train")
                splits[split].append(row(rng, "translate", lang, group, split, asked, answer))
    # facts: divided by fact, so that no direction or language of it leaks
    known = facts()
    keys = sorted({key for _, key in known})
    for kind in sorted({key.split("/")[0] for key in keys}):
        of_kind = [k for k in keys if k.startswith(kind + "/")]
        rng.shuffle(of_kind)
        if kind == "kind":  # most words name their kind only in pretraining
            of_kind = of_kind[:100]
        n = len(of_kind)
        part = {
            "knowledge": of_kind[: int(n * 0.30)],
            "inputs": of_kind[int(n * 0.30) : int(n * 0.42)],
            "wordings": of_kind[int(n * 0.42) : int(n * 0.52)],
            "dev": of_kind[int(n * 0.52) : int(n * 0.58)],
            "train": of_kind[int(n * 0.58) :],
        }
        for split, chosen in part.items():
            for (relation, key), asked_in in known.items():
                if key in chosen:
                    for lang in LANGS:
                        group = {"wordings": "test", "dev": rng.choice(("train", "dev"))}.get(
                            split, "train"
                        )
                        for _ in range(2 if split == "train" else 1):
                            splits[split].append(
                                row(rng, relation, lang, group, split, *asked_in[lang])
                            )
    for rows in splits.values():
        unique = list({(r["instruction"], r["input"]): r for r in rows}.values())
        rng.shuffle(unique)
        rows[:] = unique
    reword(random.Random(seed + 1), splits["train"])
    judged = {
        (r["task"], r["input"])
        for name, rows in splits.items()
        if name != "train"
        for r in rows
        if r["task"] in GENERATORS
    }
    splits["train"] = list(
        {
            (r["instruction"], r["input"]): r
            for r in splits["train"]
            if (r["task"], r["input"]) not in judged
        }.values()
    )
    return splits
