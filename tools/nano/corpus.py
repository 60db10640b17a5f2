"""The pretraining corpus: plain documents about the world, no instruction with its response in it.

A document is a few declarative sentences. Facts are told in many wordings, both directions and both
languages; operations on lists are described by sentences that name the operation before the list and
after it. Lists and texts that an evaluation row uses as input are left out.
"""

import random

from .tasks import GENERATORS, LANGS, L, everything, facts, gen_topic, join, opinion, scene
from .world import CONTINENTS, COUNTRY_LIST, OPPOSITE_LIST, WORD_LIST

STATEMENTS = {  # operation -> lang -> sentences about an input {a} and its result {b}
    "upper": {
        "en": "In capital letters, {a} is {b}.|The uppercase form of {a} is {b}.|Upper case turns {a} into {b}.|With every letter a capital letter, {a} looks like {b}.|Capitals: {a} changes to {b}.|Uppercase text: {a} → {b}|{b} is {a} in capital letters.|A sign in upper case letters says {b}, meaning {a}.|When all letters of {a} become capital letters, the result is {b}.|{a} with its letters in upper case: {b}|Here {a} is put in capitals: {b}.|As big letters, {a} gives {b}.",
        "zh": "{a}的大写是{b}。|把{a}写成大写字母就是{b}。|用大写字母，{a}变成{b}。|转换为大写：{a}，{b}。|{b}是{a}的大写形式。|大写字母：{a} → {b}|每个字母都大写，{a}成为{b}。|{a}改写成大写的形式：{b}|英文字母变成大写：{a}，{b}。|大写的{a}，写出来是{b}。",
    },
    "lower": {
        "en": "In small letters, {a} is {b}.|The lowercase form of {a} is {b}.|Lower case turns {a} into {b}.|With every letter a small letter, {a} looks like {b}.|Small letters: {a} changes to {b}.|Lowercase text: {a} → {b}|{b} is {a} in small letters.|A note in lower case letters says {b}, meaning {a}.|When all letters of {a} become small letters, the result is {b}.|{a} with its letters in lower case: {b}|Here {a} is put in small letters: {b}.|Without capitals, {a} gives {b}.",
        "zh": "{a}的小写是{b}。|把{a}写成小写字母就是{b}。|用小写字母，{a}变成{b}。|转换为小写：{a}，{b}。|{b}是{a}的小写形式。|小写字母：{a} → {b}|每个字母都小写，{a}成为{b}。|{a}改写成小写的形式：{b}|英文字母变成小写：{a}，{b}。|小写的{a}，写出来是{b}。",
    },
    "first": {
        "en": "The first item of the list {a} is {b}.|First in the list {a} comes {b}.|{a}: the first word is {b}.|In the list {a}, {b} stands first.|At the start of {a} there is {b}.|The first entry: {a} → {b}|A list begins with its first element; {a} begins with {b}.|Of {a}, the very first element is {b}.|The item at the start of {a} is {b}.|What the list {a} begins with: {b}.|First comes, in {a}, the word {b}.",
        "zh": "列表{a}的第一项是{b}。|第一个词：{a}，是{b}。|{a}，排在最前面的是{b}。|在{a}中，{b}排在第一位。|{a}里的第一个是{b}。|第一项：{a} → {b}|最前面的一项，在{a}中是{b}。|{a}开头的词是{b}。|首项：{a}，{b}。|第一位，{a}的，是{b}。",
    },
    "last": {
        "en": "The last item of the list {a} is {b}.|Last in the list {a} comes {b}.|{a}: the last word is {b}.|In the list {a}, {b} stands last.|At the end of {a} there is {b}.|The last entry: {a} → {b}|A list ends with its last element; {a} ends with {b}.|Of {a}, the very last element is {b}.|The item at the end of {a} is {b}.|What the list {a} ends with: {b}.|Last comes, in {a}, the word {b}.",
        "zh": "列表{a}的最后一项是{b}。|最后一个词：{a}，是{b}。|{a}，排在最后面的是{b}。|在{a}中，{b}排在最后一位，也就是末尾。|{a}里的最后一个是{b}。|最后一项：{a} → {b}|最后面的一项，在{a}中是{b}。|{a}结尾的词是{b}。|末项：{a}，{b}。|最末尾，{a}的，是{b}。",
    },
    "count": {
        "en": "The number of items in the list {a} is {b}.|Count of words: {a} → {b}|The list {a} has {b} words.|{a}: that is {b} items.|How many things there are: {a} makes {b}.|Length of the list {a}: {b}.|Counting the entries {a} gives the total number {b}.|When we count {a}, the total is {b}.|The total number of entries in {a} is {b}.|How long the list {a} is: {b}.|So many words: {a}, in number {b}.",
        "zh": "列表{a}的项目数是{b}。|词的数量：{a}，共{b}个。|{a}一共有{b}个词。|数一数，{a}有{b}项。|列表的长度：{a} → {b}|统计{a}的总数，得到{b}。|总数，{a}的，是{b}。|{a}的个数：{b}。|计算{a}有多少项，结果是{b}。|多少个：{a}，{b}个。",
    },
    "sort": {
        "en": "In ascending order, {a} becomes {b}.|Sorted from smallest to largest, {a} is {b}.|Sorting the numbers {a} gives {b}.|The numbers {a} in increasing order are {b}.|Sorted list: {a} → {b}|From small to large: {a}, sorted {b}.|Arranged by size, from low to high, {a} reads {b}.|With the smallest first, {a} is ordered {b}.|Ordered from the smallest up, {a}: {b}|In sorted order, {a} gives {b}.|Ranked upwards, the digits {a} are {b}.",
        "zh": "按升序排列，{a}变成{b}。|从小到大，{a}排成{b}。|给数字{a}排序，得到{b}。|把{a}由小到大排列就是{b}。|排序：{a} → {b}|数字{a}按大小顺序是{b}。|小的在前，{a}整理成{b}。|升序：{a}，{b}。|由小到大，{a}写成{b}。|按顺序排好，{a}就是{b}。",
    },
    "largest": {
        "en": "The largest number of {a} is {b}.|Of the numbers {a}, {b} is the biggest.|The maximum of {a} is {b}.|The greatest value in {a} is {b}.|Highest number: {a} → {b}|Among {a} the largest is {b}.|The maximum value, from {a}, is {b}.|The largest of these, {a}, is {b}.|Biggest of all: {a}, that is {b}.|Out of {a}, the highest value is {b}.",
        "zh": "{a}中最大的数是{b}。|最大的数字：{a}，是{b}。|{a}的最大值是{b}。|在{a}里，{b}最大。|最大值：{a} → {b}|数值最高的：{a}，是{b}。|其中最大的，{a}，是{b}。|{a}这些数里，最大的一个是{b}。|最大：{a}，{b}。|{a}当中数值最高的是{b}。",
    },
    "reverse": {
        "en": "In reverse order, the list {a} reads {b}.|Backwards, {a} becomes {b}.|The list {a} reversed is {b}.|From last to first, {a} is {b}.|Reversing the items {a} gives {b}.|Opposite order: {a} → {b}|Turned around, the words {a} are {b}.|The order of {a} turned around is {b}.|Starting at the end, {a} becomes {b}.|In reversed order, {a} gives {b}.|Written backwards, the words {a}: {b}",
        "zh": "倒过来，{a}变成{b}。|按相反的顺序，{a}是{b}。|把列表{a}反转，得到{b}。|从后往前，{a}就是{b}。|倒序：{a} → {b}|颠倒{a}的次序，成为{b}。|逆序排列{a}，是{b}。|逆序，{a}成了{b}。|从最后一个往前，{a}写作{b}。|反过来，{a}就是{b}。|次序颠倒以后，{a}是{b}。",
    },
}
CONTAINS = {
    "en": {
        True: "The list {a} contains the word {b}: yes.|{b} is in the list {a}, yes.|Is it listed? {a} has {b}, so yes.|Yes, the word {b} appears in {a}.|The items are {a}\n{b} is part of the list, yes.|{a}\n{b}\nyes, it is in the list",
        False: "The list {a} does not contain the word {b}: no.|{b} is not in the list {a}, no.|Is it listed? {a} lacks {b}, so no.|No, the word {b} does not appear in {a}.|The items are {a}\n{b} is not part of the list, no.|{a}\n{b}\nno, it is not in the list",
    },
    "zh": {
        True: "列表{a}包含{b}，是。|{b}在列表{a}里，是的，有这个词。|是，{b}出现在{a}中。|{a}\n{b}\n是，在列表里",
        False: "列表{a}不包含{b}，否。|{b}不在列表{a}里，否，没有这个词。|否，{b}没有出现在{a}中。|{a}\n{b}\n否，不在列表里",
    },
}
LISTED = {  # the same, with nothing before {m} that gives it away
    "en": "The list {a} and the word {b}: {m}|{a} with {b}, {m}|{b} in {a}: {m}|Listed: {a}\n{b} → {m}|{a}\n{b}\n{m}|{b} among {a}: {m}|Whether {a} has {b}: {m}|The word {b} occurs in {a}: {m}",
    "zh": "列表{a}，词语{b}：{m}|{a}中有没有{b}，{m}|{b}在{a}里：{m}|列出：{a}\n{b} → {m}|{a}\n{b}\n{m}|{b}属于{a}，{m}|{a}是否有{b}：{m}|{b}出现在{a}里，{m}",
}
GIST = {
    "en": "{g}\n{t}|Title: {g}\n{t}|{t} In short: {g}|Summary: {t} → {g}|The gist of the text: {t} {g}|A short text. {t} The main idea in one sentence: {g}|What happened, told in one sentence: {t} {g}|A concise summary of the passage: {t} {g}|Main point: {t} {g}",
    "zh": "{g}\n{t}|标题：{g}\n{t}|{t}总之，{g}|摘要：{t} → {g}|文章大意：{t}{g}|短文。{t}用一句话概括：{g}|简要概括：{t}{g}|主要内容：{t}{g}|这段话的意思：{t}{g}",
}
PERSON = {
    "en": "{t} The person in this text is {p}.|Name of the person: {t} → {p}|A text about {p}: {t}|{t} The name that appears here is {p}.|People mentioned: {t} {p}|Mentioned in the text: {t} {p}|The one who did this: {t} {p}|The person's name: {t} {p}",
    "zh": "{t}文中的人物是{p}。|人名：{t} → {p}|这段文字讲的是{p}：{t}|{t}这里出现的名字是{p}。|提到的人：{t}{p}|提到的人物：{t}{p}|这个人的姓名：{t}{p}|名字：{t} → {p}",
}
MOOD = {
    "en": "{t} This sentence is {m}.|Sentiment: {t} → {m}|A {m} review: {t}|{t} The opinion is {m}.|The feeling of this sentence, {t} is {m}.|Positive or negative: {t} {m}",
    "zh": "{t}这句话是{m}的。|情感：{t} → {m}|一条{m}评价：{t}|{t}这种意见是{m}的。|情感倾向，{t}是{m}。|正面还是负面：{t}{m}",
}
THEME = {
    "en": "{t} The topic is {m}.|Topic: {t} → {m}|A text about {m}: {t}|{m} news. {t}|The subject of the text, {t} is {m}.|{t} This belongs to {m}.",
    "zh": "{t}主题是{m}。|主题：{t} → {m}|一段关于{m}的文字：{t}|{m}新闻。{t}|话题，{t}是{m}。|{t}这属于{m}。",
}
TOLD = {  # relation -> lang -> sentences about {a} and its answer {b}
    "capital": {
        "en": "The capital of {a} is {b}.|{b} is the capital of {a}.|The capital city of {a} is called {b}.|{a} has {b} as its capital.|{a}: capital {b}.|The country {a} is ruled from its capital, {b}.|Visitors to {a} often begin in {b}, the capital.|In {b}, the capital of {a}, many people live.|Capital of the country: {a} → {b}|As capital, {a} has {b}.|The government of {a} sits in {b}.|Capital city for {a}: {b}.|For the country {a}, the capital is {b}.",
        "zh": "{a}的首都是{b}。|{b}是{a}的首都。|{a}的首都叫{b}。|{a}这个国家以{b}为首都。|{a}：首都{b}。|到{a}旅行，人们常先去首都{b}。|国家的首都：{a} → {b}|首都城市：{a}，{b}。|{a}的政府在首都{b}。|这个国家，{a}，首都是{b}。",
    },
    "country": {
        "en": "{a} is the capital of {b}.|The country whose capital is {a} is {b}.|The city of {a} lies in {b}.|{a} is in the country {b}.|{a} belongs to {b}.|Country of this capital: {a} → {b}|{a} is the main city and capital of the nation {b}.|The nation with the capital {a} is {b}.|{a} is part of {b}.|The country of {a}: {b}.|{a} is governed as a city of {b}.",
        "zh": "{a}是{b}的首都。|以{a}为首都的国家是{b}。|{a}在{b}。|{a}属于{b}。|首都所在的国家：{a} → {b}|{a}这座城市位于{b}。|首都是{a}的是{b}。|{a}是{b}这个国家的首都城市。|{a}所在的国家是{b}。",
    },
    "continent": {
        "en": "{a} is in {b}.|{a} lies on the continent of {b}.|The continent of {a} is {b}.|{a} belongs to {b}.|{a} is a country in {b}.|Continent of the country: {a} → {b}|The continent for {a}: {b}.|In the world, {a} is found on the continent {b}.|The country {a} is part of {b}.",
        "zh": "{a}在{b}。|{a}位于{b}。|{a}属于{b}。|{a}所在的大洲是{b}。|{a}是{b}的国家。|国家的大洲：{a} → {b}|大洲：{a}，{b}。|{a}这个国家的洲是{b}。|{a}处在{b}这个洲。",
    },
    "opposite": {
        "en": "The opposite of {a} is {b}.|{a} is the opposite of {b}.|{b} means the opposite of {a}.|{a} and {b} are opposites.|Not {a} but {b}.|Opposite words: {a} → {b}|A word with the opposite meaning of {a} is {b}.|The antonym of {a} is {b}.|The contrary of {a} is {b}.|The opposite word for {a}: {b}.",
        "zh": "{a}的反义词是{b}。|{a}是{b}的反义词。|{a}和{b}意思相反。|与{a}相反的词是{b}。|不是{a}，而是{b}。|反义词：{a} → {b}|{a}的相反词是{b}。|意思相反：{a}，{b}。|{a}反过来是{b}。",
    },
    "symbol": {
        "en": "The chemical symbol of {a} is {b}.|{b} is the symbol of {a}.|The element {a} is written {b}.|{a} has the symbol {b}.|{b} stands for the element {a}.|Chemical symbol: {a} → {b}|The symbol of the element {a} is {b}.|Abbreviated, {a} is {b}.|Chemists write {a} as {b}.|The symbol for {a}: {b}.",
        "zh": "{a}的化学符号是{b}。|{b}是{a}的化学符号。|元素{a}写作{b}。|{a}用{b}表示。|元素{a}的符号是{b}。|化学符号：{a} → {b}|化学里{a}写作{b}。|{a}这个元素的符号：{b}。|符号：{a}，{b}。",
    },
    "kind": {
        "en": "{a} is a kind of {b}.|The category of {a} is {b}.|{a} belongs to the category {b}.|{a} is a type of thing called {b}.|Kind of thing: {a} → {b}|Among {b} words we find {a}.|The kind of {a}: {b}.|The type of {a} is {b}.|The group that {a} is in: {b}.|In a category, {a} counts as {b}.",
        "zh": "{a}是一种{b}。|{a}的类别是{b}。|{a}属于{b}一类。|{a}是{b}。|类别：{a} → {b}|{b}里有{a}。|{a}的种类是{b}。|{a}归在{b}一类。|{a}这种东西是{b}。",
    },
    "translate": {
        "en": "{a} means {b} in Chinese.|The Chinese word for {a} is {b}.|In Chinese, {a} is {b}.|{a} in Chinese: {b}|English {a}, Chinese {b}.|{a} is translated into Chinese as {b}.|{a} → {b}|We say {b} in Chinese for {a}.|The Chinese translation of {a} is {b}.|Into Chinese, {a} turns into {b}.|The Chinese for {a}: {b}.",
        "zh": "{a}的英文是{b}。|{a}用英语说是{b}。|{a}在英语里叫{b}。|英文单词{b}的意思是{a}。|{a}译成英语是{b}。|中文{a}，英文{b}。|{a} → {b}|{a}翻译成英文就是{b}。|{a}的英语翻译是{b}。|对应{a}的英文单词是{b}。|{a}的英语：{b}。",
    },
}

GLOSSARY = {  # what the words for operations mean: synonyms, in plain sentences
    "en": """A capital letter is also called an upper case letter.
To capitalise a word is to write its letters as capitals.
Uppercase text has only capital letters; lowercase text has only small letters.
A small letter is a lower case letter; text without capitals is lowercase.
To convert, change, turn or rewrite a text is to give it another form.
The first element of a list is the item at the start, the very first entry.
The last element of a list is the item at the end, the very last entry.
An item of a list is also called an entry, an element or one of the things listed.
To pick, choose, select, take or name an item is to say which one it is.
To count is to find how many things there are; the total is their number.
The length of a list is the number of its entries.
To report, show, give, state, say, tell or return a value is to write it down.
To sort numbers is to arrange or order them by size.
Ascending order is increasing order: the smallest comes first, the largest comes last.
Upwards means from the smallest up, from low to high.
The maximum is the largest value, the greatest, the biggest, the highest.
Backwards means in reverse order, from the end to the start.
A reversed list begins with its last item and ends with its first.
A list contains a word when the word is found in it, when it occurs or appears there.
A summary gives the gist of a passage briefly: its main idea or main point in one sentence.
To summarize, to sum up, to shorten and to reduce a text mean almost the same.
A concise summary is short and says what happened.
The name of a person can be mentioned in a text; to extract it is to pull it out.
Who is the person? The answer to such a question is a name.
Sentiment is the feeling, the mood or the opinion of a writer: positive or negative.
A review with praise sounds positive; a review with complaints sounds negative.
To classify or label a text is to decide which class fits.
The topic of a text is its subject, what its sentences are about: sports, weather, food, music, health, travel.
To translate or render a word is to say it in another language, English or Chinese.
An antonym is a word with the opposite meaning.
A nation is a country; its government sits in the capital city.
A continent is a large land; every country belongs to a continent.
An element is abbreviated by its chemical symbol.
The category of a thing is its kind or type.
Please and thank you are polite words.
An answer may be a single word, a number, yes or no.
Whoever checks a list looks whether the word below or above occurs in it.
If a line stands under another, the second line is below and the first line is above.
To determine, decide or judge is to find out what fits; to state it is to say it out loud.
To produce or provide a text is to make one; to use, keep, remove, put or assign things is to do something with them.
The version, the form and the translation of a given input differ.
Everything that consists of parts is a whole; otherwise it is one single thing.
A person's name, a country's capital, a writer's opinion: each belongs to someone.
Digits such as these make numbers; letters become words that you see and that I tell.
She asked me whether all the ones that have a name should do something.
What is named or mentioned occurs in the text.
To place, assign or put a word into a category is to name its type.""",
    "zh": """大写字母的写法和小写字母不同，每个字母都有大写和小写。
转成大写，就是把英文字母一律改写成大写的。
转换、改成、变成、换成，意思差不多。
小写就是不用大写字母，全部写成小写。
列表的第一项就是最前面的那一项，排在第一位。
列表的最后一项就是最末尾的那一项，排在末尾。
列表里的每一项也叫项目，可以是词、词语或数字。
选出、取出、挑出、找出一项，就是说出它是哪一个。
计数、统计、数一数，都是计算一共有几个。
总数就是总共的数量，也就是列表的长度。
给出、写出、说出、输出、返回、列出，都是把结果写下来。
排序就是按大小整理顺序，升序是由小到大，小的在前。
最大值是其中最大的数，数值最高。
反转、颠倒、逆序、倒序，都是把次序倒着写，从最后一个往前。
列表包含一个词，就是这个词在其中，上面有它，回答是；没有就回答否。
摘要是对文章的简明扼要的概括，只用一句话说出大意。
总结全文，缩写短文，就是写出主要内容、主要意思。
人名是人物的姓名，文章里提到谁，谁就出现在文中。
提取和抽取，都是从文字里取出需要的部分。
情感是句子的情绪、态度、倾向，有正面和负面两类标签。
评论、评价、意见都有情感，请判断属于哪类。
主题也叫话题，是文本的内容讲的方面：体育、天气、美食、音乐、健康、旅行。
分类、归类、标注、指定，都是确定它属于哪一类别。
翻译是把中文译成英文，英语单词和中文词语相对应。
反义词是意思相反的词。
首都是国家的城市，该国以此为首都。
大洲也叫洲，每个国家位于一个大洲。
元素的化学符号用字母表示。
请问和请是礼貌的说法，即可表示这样就可以。
回答可以是一个词、一个数，或者是与否。
什么、怎么、哪些、如何、多少都是提问的词，句末常常有吗。
第二行在第一行的下面，第一行在第二行的上面。
选择就是择出一个，求值就是计算出一个值。
一篇文章有一些句子，一段文字、一篇短文都是给定的文本。
如果有这个词就是，没有则否，请根据列表判断。
各项各有次序，将它们按顺序排好就是整理。
这里、下面、以下的内容，都是要看的文字。""",
}


def pick(rng, forms):
    return rng.choice(forms.split("|"))


def tell(rng, relation, lang, a, b):
    text = pick(rng, TOLD[relation][lang]).format(a=a, b=b)
    return (
        text[0].upper() + text[1:]
        if lang == "en" and rng.random() < 0.3 and "→" not in text
        else text
    )


KINDS = {
    "skill": 38,
    "compare": 3,
    "contains": 11,
    "gist": 6,
    "person": 6,
    "mood": 2,
    "theme": 2,
    "fact": 14,
    "dictionary": 10,
    "list": 1,
    "country": 3,
    "pair": 2,
    "glossary": 2,
}  # how often each kind of line is told
SKILLS = {
    "upper": 6,
    "lower": 6,
    "first": 3,
    "last": 3,
    "count": 4,
    "sort": 4,
    "largest": 8,
    "reverse": 7,
}
COMPARE = {
    "en": "{a} is more than {b}.|{b} is less than {a}.|Of {a} and {b}, the greater is {a}.|Of {b} and {a}, the greater is {a}.|The larger of {b}, {a} is {a}.|{b}, then {a}: the second is larger.",
    "zh": "{a}大于{b}。|{b}小于{a}。|{a}和{b}，大的是{a}。|{b}和{a}，大的是{a}。|{b}、{a}中较大的是{a}。|先{b}后{a}：后面的大。",
}


def membership(rng, lang):
    """(list, word, answer): whether a word stands in a list of one to four."""
    items = [w[L[lang]] for w in rng.sample(WORD_LIST, rng.randint(2, 5))]
    asked = rng.choice(items[1:]) if rng.random() < 0.5 else items[0]
    return (
        join(items[1:], lang),
        asked,
        {"en": ("no", "yes"), "zh": ("否", "是")}[lang][asked in items[1:]],
    )


def line(rng, kind, lang, known, judged):
    """One statement of a kind, or None when it would show the input of an evaluation row (`judged`: the set of those)."""
    i = L[lang]
    if kind == "skill":
        task = rng.choices(list(SKILLS), SKILLS.values())[0]
        a, b = GENERATORS[task](rng, lang)
        return None if {a, b} & judged else pick(rng, STATEMENTS[task][lang]).format(a=a, b=b)
    if kind == "compare":
        b, a = sorted(rng.sample(range(100), 2))
        return pick(rng, COMPARE[lang]).format(a=a, b=b)
    if kind == "contains":
        a, b, answer = membership(rng, lang)
        told = LISTED[lang] if rng.random() < 0.7 else CONTAINS[lang][answer in ("yes", "是")]
        return None if {a, f"{a}\n{b}"} & judged else pick(rng, told).format(a=a, b=b, m=answer)
    if kind in ("gist", "person"):
        text, gist, who, _ = scene(rng, lang)
        return (
            None
            if text in judged
            else pick(rng, (GIST if kind == "gist" else PERSON)[lang]).format(t=text, g=gist, p=who)
        )
    if kind == "mood":
        good = rng.random() < 0.5
        text = opinion(rng, lang, good)
        return (
            None
            if text in judged
            else pick(rng, MOOD[lang]).format(
                t=text, m={"en": ("negative", "positive"), "zh": ("负面", "正面")}[lang][good]
            )
        )
    if kind == "theme":
        text, topic = gen_topic(rng, lang)
        return None if text in judged else pick(rng, THEME[lang]).format(t=text, m=topic)
    if kind == "fact":
        (relation, _), asked = rng.choice(known)
        return tell(rng, relation, lang, *asked[lang])
    if kind == "dictionary":
        w = rng.choice(WORD_LIST)
        return tell(rng, "translate", lang, w[i], w[1 - i])
    if kind == "list":
        category = rng.choice(WORD_LIST)[i + 2]
        members = [w[i] for w in WORD_LIST if w[i + 2] == category]
        rng.shuffle(members)
        return (
            f"{category}{': ' if lang == 'en' else '：'}{join(members[: rng.randint(3, 8)], lang)}"
        )
    if kind == "country":
        en, zh, cap, cap_zh, cont = rng.choice(COUNTRY_LIST)
        if lang == "en":
            return f"{en} is a country in {cont}. Its capital is {cap}. In Chinese, {en} is {zh} and {cap} is {cap_zh}."
        return f"{zh}是{CONTINENTS[cont]}的国家，首都是{cap_zh}。{zh}的英文是{en}，{cap_zh}的英文是{cap}。"
    if kind == "glossary":
        return rng.choice(GLOSSARY[lang].split("\n"))
    a, b, a_zh, b_zh = rng.choice(OPPOSITE_LIST)
    return (
        f"{a} means {a_zh}, and its opposite {b} means {b_zh}."
        if lang == "en"
        else f"{a_zh}是{a}，{b_zh}是{b}，{a_zh}和{b_zh}是反义词。"
    )


def documents(seed, n):
    """Yield `n` documents made from `seed`: one to four lines, of one kind or of several; no evaluation input is among them."""
    rng = random.Random(seed)
    # facts are told in proportion to how much there is to learn, the many `kind` facts less often
    known = [f for f in facts().items() if f[0][0] != "kind"] * 2 + [
        f for f in facts().items() if f[0][0] == "kind"
    ]
    judged = {
        r["input"]
        for name, rows in everything().items()
        if name != "train"
        for r in rows
        if r["task"] in GENERATORS
    }

    def draw():
        return rng.choices(list(KINDS), KINDS.values())[0]

    for _ in range(n):
        kind, lang, mixed, lines, wanted = (
            draw(),
            rng.choice(LANGS),
            rng.random() < 0.6,
            [],
            rng.randint(1, 4),
        )
        while len(lines) < wanted:
            text = line(rng, draw() if mixed else kind, lang, known, judged)
            lines += [text] if text else []
        yield "\n".join(lines)
