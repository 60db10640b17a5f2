"""Rows, faults and tokenizers that the audit is tried on; all written here, from lists.

`CLEAN` holds sets of rows without a fault, `FAULTS` what is planted into them, `TOKENIZERS` what
they are read with. `named` says which findings an audit of rows gives.
"""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

CAPITALS = """France Paris|Japan Tokyo|Egypt Cairo|Peru Lima|Norway Oslo|Kenya Nairobi|Cuba Havana
Spain Madrid|Italy Rome|Greece Athens|Poland Warsaw|Hungary Budapest|Austria Vienna|Ireland Dublin
Portugal Lisbon|Finland Helsinki|Denmark Copenhagen|Chile Santiago|Canada Ottawa|Nepal Kathmandu
Iceland Reykjavik|Vietnam Hanoi|Latvia Riga|Ghana Accra"""
CAPITALS_ZH = """法国 巴黎|日本 东京|埃及 开罗|秘鲁 利马|挪威 奥斯陆|肯尼亚 内罗毕|古巴 哈瓦那|西班牙 马德里
意大利 罗马|希腊 雅典|波兰 华沙|匈牙利 布达佩斯|奥地利 维也纳|爱尔兰 都柏林|葡萄牙 里斯本|芬兰 赫尔辛基
丹麦 哥本哈根|智利 圣地亚哥|加拿大 渥太华|尼泊尔 加德满都|冰岛 雷克雅未克|越南 河内|拉脱维亚 里加|加纳 阿克拉"""
USES = """hammer:driving nails into wood|ladder:reaching the roof of a house|kettle:boiling water for tea
compass:finding north on a long walk|needle:sewing two pieces of cloth together|ruler:measuring short lengths on paper
bucket:carrying sand or milk|candle:giving light when the power fails|whistle:stopping a football match
blanket:keeping warm during cold nights|bridge:crossing a river with dry feet|saddle:sitting safely on a horse
anchor:holding a ship in one place|mirror:seeing your own face|spade:digging holes in the garden
umbrella:staying dry in heavy rain|telescope:watching distant planets|pillow:resting the head while sleeping
stamp:paying for a letter|thermometer:telling how warm the air is|broom:sweeping dust from the floor
scissors:cutting hair, thread and paper|map:planning a journey abroad|lock:closing a door against thieves"""
USES_ZH = """锤子：把钉子敲进木头里|梯子：爬到高处去修屋顶|水壶：烧开水来泡茶喝|指南针：在野外辨认方向
缝衣针：把两块布缝在一起|尺子：量一量东西有多长|水桶：装满沙子或者牛奶|蜡烛：停电的时候照亮房间
哨子：让比赛马上停下来|毯子：在寒冷的夜里保暖|大桥：不湿脚就走过河去|马鞍：安稳地坐在马背上
船锚：使轮船停住不动|镜子：看见自己的脸庞|铲子：在花园里挖坑种树|雨伞：下大雨也不会淋湿
望远镜：观察遥远的行星|枕头：睡觉时垫着头颈|邮票：支付寄信的费用|温度计：知道天气有多热
扫帚：扫掉地上的灰尘|剪刀：裁剪头发和纸张|地图：计划一次远行|门锁：防止小偷进屋"""
OPPOSITES = """hot cold|tall short|early late|open closed|wet dry|young old|strong weak|full empty
loud quiet|rich poor|thick thin|heavy light|sharp blunt|brave cowardly|polite rude|smooth rough
sweet bitter|deep shallow|wide narrow|clean dirty|cheap expensive|happy sad|fast slow|near far"""
PRAISE = "lovely cosy helpful tasty bright charming clever gentle superb honest fresh comfortable"
BLAME = "dreadful noisy rude bland gloomy boring clumsy harsh awful greedy stale uncomfortable"
PLACES = (
    "hotel bakery museum cinema garden station library market harbour theatre school restaurant"
)
NAMES = """Rosa Paul Mia Tom Ines Karl Lena Omar Yuki Nora Igor Sara Hugo Vera Abel Zoe Liam Anya Felix
Greta Boris Clara Dario Elsa"""
CITIES = """Bergen Porto Lyon Graz Ghent Turin Basel Malmo Seville Krakow Leeds Bremen Ulm Nantes Delft
Zagreb Pisa Bari Bilbao Aarhus Split Linz Brno Varna"""
PAIRS = """The cat is sleeping.=猫在睡觉。|I like green tea.=我喜欢绿茶。|The train is late today.=今天火车晚点了。
Where is the library?=图书馆在哪里？|She reads a book every week.=她每周读一本书。|It will rain tomorrow.=明天会下雨。
My brother plays the piano.=我哥哥会弹钢琴。|Please close the window.=请把窗户关上。|The soup is too hot.=汤太烫了。
We moved to a new house.=我们搬进了新房子。|He forgot his keys again.=他又忘带钥匙了。|The mountain is covered with snow.=山上盖满了雪。
Children love the playground.=孩子们喜欢操场。|This road leads to the sea.=这条路通向大海。|The doctor is on holiday.=医生正在休假。
Bread is cheaper here.=这里的面包更便宜。|Our team won the match.=我们队赢了比赛。|The museum opens at nine.=博物馆九点开门。
I lost my umbrella yesterday.=我昨天丢了雨伞。|Bees make honey in summer.=蜜蜂在夏天酿蜜。|The lamp does not work.=这盏灯坏了。
They are waiting for the bus.=他们在等公共汽车。|Spring begins in March.=春天从三月开始。|The river is very wide.=这条河很宽。"""
FUNCTIONS = """add:adds two numbers:a, b:a + b|square:squares a number:x:x * x|last:returns the last item of a list:items:items[-1]
shout:turns a text into capitals:text:text.upper()|is_even:tells whether a number is even:n:n % 2 == 0
half:halves a number:value:value / 2|words:splits a sentence at spaces:sentence:sentence.split()
largest:finds the largest of some numbers:numbers:max(numbers)|mean:takes the mean of a list:xs:sum(xs) / len(xs)
flip:reverses a string:s:s[::-1]|unique:removes repeated items:row:sorted(set(row))
count_a:counts the letter a:word:word.count("a")|lines:joins strings with newlines:parts:"\\n".join(parts)
area:computes the area of a circle:r:3.14159 * r ** 2|negate:changes the sign:v:-v
first_word:returns the first word:phrase:phrase.split()[0]|trim:strips spaces at both ends:raw:raw.strip()
product:multiplies three numbers:p, q, s:p * q * s|to_celsius:converts from Fahrenheit:f:(f - 32) / 1.8
pairs:zips two lists:left, right:list(zip(left, right))"""
ADVICE = """Start early in the morning|Ask a neighbour for help|Write down what you need|Compare three prices
Leave the phone at home|Take a short break each hour|Check the weather before you go|Keep the receipt in a drawer
Learn ten new words per day|Measure twice and cut once|Wash the fruit under cold water|Turn off the main switch
Read the small print first|Invite somebody who knows the town|Pack warm socks and a torch|Paint the darkest wall last
Let the dough rest overnight|Water the roots and not the leaves|Tune the lowest string first|Stretch slowly before running"""
GOALS = """learn to swim|bake rye bread|repair a bicycle|grow tomatoes|plan a wedding|paint a kitchen|buy a used car
train a puppy|write a diary|play the guitar|save money|build a shelf|visit Iceland|choose a school|sell old books
sleep better|run ten kilometres|clean a carpet|move to another town|host a dinner"""


def cells(text: str, separator: str | None = None, most: int = -1) -> list[list[str]]:
    """The entries of a list above, split into their parts."""
    entries = text.replace("\n", "|").split("|")
    return [[part.strip() for part in entry.split(separator, most)] for entry in entries]


def row(instruction: str, output: str, input: str = "") -> dict:
    """One row as it stands in a file."""
    return {"instruction": instruction, "input": input, "output": output}


# ---- sets without a fault


def capitals():
    return [
        row(f"What is the capital of {c}?", f"{t} is the capital of {c}.")
        for c, t in cells(CAPITALS)
    ]


def capitals_zh():
    return [row(f"{c}的首都是哪座城市？", f"{c}的首都是{t}。") for c, t in cells(CAPITALS_ZH)]


def uses():
    return [row(f"What is a {n} good for?", f"A {n} is good for {u}.") for n, u in cells(USES, ":")]


def uses_zh():
    return [row(f"{n}有什么用处？", f"{n}可以用来{u}。") for n, u in cells(USES_ZH, "：")]


def mixed():
    return [each for both in zip(uses(), uses_zh()) for each in both]


def sums():
    rng = random.Random(1)
    pairs = [(rng.randint(11, 99), rng.randint(100, 999)) for _ in range(30)]
    return [row(f"What is {a} + {b}?", f"{a} + {b} = {a + b}") for a, b in pairs]


def problems():
    rng = random.Random(2)
    made = []
    for name in NAMES.split():
        a, b = rng.randint(12, 60), rng.randint(3, 9)
        asked = (
            f"{name} has {a} apples, gives {b} of them away and eats {b} more. How many are left?"
        )
        made.append(
            row(asked, f"{name} loses {b} + {b} = {2 * b} apples, so {a - 2 * b} are left.")
        )
    return made


def code():
    made = []
    for name, what, given, body in cells(FUNCTIONS, ":", 3):
        answer = f"```python\ndef {name}({given}):\n    return {body}\n```"
        made.append(row(f"Write a Python function that {what}.", answer))
    return made


def markup():
    return [
        row(f"Write a line of HTML about a {n}.", f"<p><b>{n.title()}</b>&nbsp;&mdash; {u}<br></p>")
        for n, u in cells(USES, ":")
    ]


def sentiment():
    made = []
    for i, place in enumerate(PLACES.split()):
        for words, label in ((PRAISE, "positive"), (BLAME, "negative")):
            words = words.split()
            text = f"The {place} was {words[i]} and rather {words[i - 5]}."
            made.append(row("Is this review positive or negative? One word.", label, text))
    return made


def opposites():
    return [row(f"What is the opposite of {a}?", b) for a, b in cells(OPPOSITES)]


def choices():
    made = []
    for i, (country, town) in enumerate(cells(CAPITALS)):
        wrong = [cells(CAPITALS)[(i + k) % 24][1] for k in (5, 9, 14)]
        options = [*wrong[: i % 4], town, *wrong[i % 4 :]]
        asked = "\n".join(f"{letter}. {option}" for letter, option in zip("ABCD", options))
        made.append(row(f"Choose the capital of {country}.", "ABCD"[i % 4], asked))
    return made


def names():
    made = []
    for i, (name, city) in enumerate(zip(NAMES.split(), CITIES.split())):
        thing = cells(USES, ":")[i][0]
        made.append(row("Which person is named?", name, f"In {city}, {name} lost a {thing}."))
    return made


def to_chinese():
    return [row("Translate into Chinese.", zh, en) for en, zh in cells(PAIRS, "=")]


def to_english():
    return [row("把下面的句子翻译成英文。", en, zh) for en, zh in cells(PAIRS, "=")]


def long_answers():
    rng = random.Random(3)
    made = []
    for (goal,) in cells(GOALS, "\n"):
        steps = [text for (text,) in rng.sample(cells(ADVICE, "\n"), 4)]
        tools = [n for n, _ in rng.sample(cells(USES, ":"), 2)]
        answer = f"{'. '.join(steps)}. For this, a {tools[0]} and a {tools[1]} may be of use."
        made.append(row(f"How do I {goal}?", answer))
    return made


def lists():
    rng = random.Random(4)
    made = []
    for (goal,) in cells(GOALS, "\n"):
        steps = [text for (text,) in rng.sample(cells(ADVICE, "\n"), 3)]
        made.append(row(f"Give me three tips to {goal}.", "\n".join(f"- {s}" for s in steps)))
    return made


def facts_as_json():
    made = []
    for i, (name, city) in enumerate(zip(NAMES.split(), CITIES.split())):
        answer = json.dumps({"name": name, "city": city, "age": 20 + 2 * i})
        made.append(row("Write the facts as JSON.", answer, f"{name} ({20 + 2 * i}), from {city}"))
    return made


def formulas():
    letters = "abcdefghkmnpqrstuvwxyz"
    return [
        row(
            f"Write the gradient of {x} over {y} in LaTeX.",
            rf"$\nabla {x} = \frac{{\nu {x}}}{{\neq {y}}}$",
        )
        for x, y in zip(letters, letters[3:] + "αβγ")
    ]


def talk(turns: list[str], system: str = "") -> dict:
    """A conversation that the user begins."""
    roles = ["user", "assistant"] * len(turns)
    messages = [{"role": r, "content": text} for r, text in zip(roles, turns)]
    return {"messages": [{"role": "system", "content": system}] * bool(system) + messages}


def conversations():
    made = []
    for (n, u), (goal,) in zip(cells(USES, ":"), cells(GOALS, "\n")):
        turns = [
            f"I want to {goal}.",
            f"Good. Do you own a {n}?",
            "What for?",
            f"For {u}, of course.",
        ]
        made.append(talk(turns, "You are a patient helper."))
    return made


def conversations_zh():
    made = []
    for n, u in cells(USES_ZH, "：")[:20]:
        made.append(
            talk([f"你家里有{n}吗？", "有的，就放在柜子里。", "它能做什么？", f"它可以用来{u}。"])
        )
    return made


CLEAN: dict[str, Callable[[], list[dict]]] = {
    "questions, English": capitals,
    "questions, Chinese": capitals_zh,
    "explanations, English": uses,
    "explanations, Chinese": uses_zh,
    "explanations, both": mixed,
    "sums": sums,
    "problems in words": problems,
    "Python": code,
    "HTML": markup,
    "formulas": formulas,
    "two classes": sentiment,
    "one word": opposites,
    "one letter": choices,
    "names found": names,
    "into Chinese": to_chinese,
    "into English": to_english,
    "long answers": long_answers,
    "lists": lists,
    "JSON": facts_as_json,
    "conversations, English": conversations,
    "conversations, Chinese": conversations_zh,
}
TALKS = ("conversations, English", "conversations, Chinese")


# ---- tokenizers

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
INST = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %} {{ m.content }}"
    "{{ eos_token }}{% else %}[INST] {{ m.content }} [/INST]{% endif %}{% endfor %}"
)
HEADERS = (
    "{{ bos_token }}{% for m in messages %}<|header|>{{ m.role }}<|/header|>\n{{ m.content }}<|eot|>"
    "{% endfor %}{% if add_generation_prompt %}<|header|>assistant<|/header|>\n{% endif %}"
)
NO_END = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
TWO_BEGINS = "{{ bos_token }}{{ bos_token }}" + NO_END


@cache
def corpus() -> tuple[str, ...]:
    """All texts of the clean sets and of the templates."""
    from instruct_course.data.template import TEMPLATES

    rows = [each for make in CLEAN.values() for each in make()]
    texts = [text for each in rows for text in each.values() if isinstance(text, str)]
    texts += [m["content"] for each in rows for m in each.get("messages", ())]
    for template in TEMPLATES.values():
        texts += [template.with_input, template.without_input]
    return (*texts, "user assistant system : [INST] [/INST]")


def fast(tok, chat: str = "", **names):
    """A trained tokenizer as transformers wraps it."""
    from transformers import PreTrainedTokenizerFast

    made = PreTrainedTokenizerFast(tokenizer_object=tok, **names)
    if chat:
        made.chat_template = chat
    return made


def byte_level(special: list[str], begin: str = ""):
    """A BPE over bytes, as GPT-2's; with a token at the beginning of every text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=900, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tok.train_from_iterator(corpus(), trainer)
    if begin:
        pieces = [(begin, tok.token_to_id(begin))]
        tok.post_processor = processors.TemplateProcessing(
            single=f"{begin} $A", special_tokens=pieces
        )
    return tok


def metaspace(model: str, special: list[str]):
    """A tokenizer that writes spaces as ▁ and begins every text with <s>, as Llama's."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    if model == "bpe":
        tok = Tokenizer(models.BPE(unk_token="<unk>"))
        trainer = trainers.BpeTrainer(vocab_size=1800, special_tokens=special, show_progress=False)
    else:
        tok = Tokenizer(models.Unigram())
        trainer = trainers.UnigramTrainer(
            vocab_size=1800, special_tokens=special, unk_token="<unk>", show_progress=False
        )
    tok.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tok.decoder = decoders.Metaspace(prepend_scheme="first")
    tok.train_from_iterator(corpus(), trainer)
    pieces = [("<s>", tok.token_to_id("<s>"))]
    tok.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=pieces)
    return tok


def words(model: str):
    """A tokenizer of words, or of pieces of words, that writes [UNK] for others."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    special = ["[UNK]", "[PAD]", "[SEP]"]
    if model == "words":
        tok = Tokenizer(models.WordLevel(unk_token="[UNK]"))
        trainer = trainers.WordLevelTrainer(special_tokens=special, show_progress=False)
    else:
        tok = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        trainer = trainers.WordPieceTrainer(
            vocab_size=2500, special_tokens=special, show_progress=False
        )
    tok.pre_tokenizer = pre_tokenizers.Whitespace()
    tok.train_from_iterator(corpus(), trainer)
    return tok


def characters():
    """A BPE over characters that drops those it does not know."""
    from tokenizers import Tokenizer, models, trainers

    tok = Tokenizer(models.BPE())
    special = ["<end>", "<pad>"]
    trainer = trainers.BpeTrainer(vocab_size=1800, special_tokens=special, show_progress=False)
    tok.train_from_iterator(corpus(), trainer)
    return tok


def nano():
    from transformers import AutoTokenizer

    from instruct_course.common.files import ASSETS

    return AutoTokenizer.from_pretrained(ASSETS / "nano")


_SP = ["<unk>", "<s>", "</s>", "<pad>"]
_SP_NAMES = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
_ONE = "<|endoftext|>"
_WORD_NAMES = {"unk_token": "[UNK]", "pad_token": "[PAD]", "eos_token": "[SEP]"}


@dataclass(frozen=True)
class Reader:
    """A tokenizer and what it is used with."""

    make: Callable
    template: str = "alpaca"
    knows_all: bool = True  # no text is unknown to it
    drops: bool = False  # unknown characters vanish
    begin: bool = False


def chatml():
    tok = byte_level([_ONE, "<|im_start|>", "<|im_end|>"])
    more = {"additional_special_tokens": ["<|im_start|>"]}
    return fast(tok, CHATML, eos_token="<|im_end|>", pad_token=_ONE, **more)


def headers():
    special = ["<|begin|>", "<|end|>", "<|eot|>", "<|header|>", "<|/header|>", "<|pad|>"]
    tok = byte_level(special, "<|begin|>")
    names = {"bos_token": "<|begin|>", "eos_token": "<|end|>", "pad_token": "<|pad|>"}
    return fast(tok, HEADERS, additional_special_tokens=special[2:5], **names)


TOKENIZERS: dict[str, Reader] = {
    "nano": Reader(nano, "article"),
    "bytes": Reader(
        lambda: fast(byte_level(["<eos>", "<pad>"]), eos_token="<eos>", pad_token="<pad>")
    ),
    "GPT-2": Reader(
        lambda: fast(
            byte_level([_ONE]), bos_token=_ONE, eos_token=_ONE, unk_token=_ONE, pad_token=_ONE
        )
    ),
    "no end": Reader(lambda: fast(byte_level(["<pad>"]), pad_token="<pad>")),
    "ChatML": Reader(chatml, "chat"),
    "headers": Reader(headers, "chat", begin=True),
    "Llama": Reader(lambda: fast(metaspace("bpe", _SP), **_SP_NAMES), knows_all=False, begin=True),
    "unigram": Reader(
        lambda: fast(metaspace("unigram", _SP), INST, **_SP_NAMES), "chat", False, begin=True
    ),
    "words": Reader(lambda: fast(words("words"), **_WORD_NAMES), knows_all=False),
    "characters": Reader(
        lambda: fast(characters(), eos_token="<end>", pad_token="<pad>"),
        knows_all=False,
        drops=True,
    ),
}


# ---- faults


@dataclass(frozen=True)
class Planted:
    """What an audit is asked to look at.

    Attributes:
        rows: of the file; a text stands for a line as it is.
        held: rows of a held-out file.
        options: of `audit`.
        chat: a chat template in place of the tokenizer's own.
        pad: the padding token becomes the end token.
    """

    rows: list
    held: list = field(default_factory=list)
    options: dict = field(default_factory=dict)
    chat: str = ""
    pad: bool = False


@dataclass(frozen=True)
class Fault:
    """One planted fault.

    Attributes:
        key: the finding that must be named.
        plant: makes the rows; gets the tokenizer.
        fits: which tokenizers it can happen with.
        code: the exit code.
    """

    key: str
    plant: Callable[[object], Planted]
    fits: Callable[[Reader], bool] = lambda reader: True
    code: int | None = None


def spoil(
    change: Callable[[str], str], rows: Callable = uses, field: str = "output", every: int = 8
):
    """Every eighth row gets a changed answer."""

    def plant(tokenizer) -> Planted:
        made = rows()
        for each in made[::every]:
            each[field] = change(each[field])
        return Planted(made)

    return plant


def with_rows(*more: dict | str, rows: Callable = uses):
    """Rows are added."""
    return lambda tokenizer: Planted([*rows(), *more])


def own_end(tokenizer) -> Planted:
    rows = uses()
    for each in rows[::8]:
        each["output"] += tokenizer.eos_token or "<eos>"
    return Planted(rows)


def own_control(tokenizer) -> Planted:
    rows = uses()
    rows[3]["instruction"] += f" {tokenizer.eos_token or '<eos>'}"
    return Planted(rows)


def same(share: float):
    """So many rows get one and the same answer."""

    def plant(tokenizer) -> Planted:
        rows = uses()
        for each in rows[: round(share * len(rows))]:
            each["output"] = "It is good for many things."
        return Planted(rows)

    return plant


def long_rows(rows: int, **options):
    """So many rows do not fit into 160 tokens or what is said."""

    def plant(tokenizer) -> Planted:
        made = uses()
        for i, each in enumerate(made[:rows]):
            each["output"] += " and so on" * (400 + i) + "."
        return Planted(made, options=options)

    return plant


def long_inputs(tokenizer) -> Planted:
    rows = uses()
    for i, each in enumerate(rows[:4]):
        each["input"] = "one more word " * (300 + i)
    return Planted(rows, options={"max_length": 500})


def little(tokenizer) -> Planted:
    rng = random.Random(5)
    steps = [text for (text,) in cells(ADVICE, "\n")]
    rows = opposites()
    for each in rows:
        each["input"] = ". ".join(rng.choice(steps) for _ in range(45))
    return Planted(rows, options={"max_length": 8192})


def overlap(tokenizer) -> Planted:
    held = capitals()[:6]
    copies = long_answers()[:3]
    for each in copies:
        each["output"] = each["output"].replace("may be", "might be")
        each["instruction"] += " Tell me."
    return Planted(long_answers(), held=[*held, *copies])


def near_copies(rows: Callable, old: str, new: str):
    def plant(tokenizer) -> Planted:
        made = rows()
        copies = [dict(each) for each in made[2:5]]
        for each in copies:
            each["output"] = each["output"].replace(old, new)
        return Planted([*made, *copies])

    return plant


def long_zh():
    """Explanations of some length in Chinese."""
    uses = cells(USES_ZH, "：")
    made = []
    for i, (n, u) in enumerate(uses):
        other, use = uses[(i * 7 + 5) % len(uses)]
        text = (
            f"{n}可以用来{u}，{other}则可以用来{use}，所以出门之前最好想一想，家里究竟缺不缺{n}。"
        )
        made.append(row(f"{n}和{other}有什么区别？", text))
    return made


def open_ended(tokenizer) -> Planted:
    rows = long_answers()
    for each in rows:
        each["output"] = each["output"][:70]
    return Planted(rows)


def crossed(rows: Callable, others: Callable):
    """Every eighth answer comes from rows in another language."""

    def plant(tokenizer) -> Planted:
        made = rows()
        for each, other in zip(made[::8], others()[3:]):
            each["output"] = other["output"]
        return Planted(made)

    return plant


def turns(change: Callable[[list], list]):
    """Every eighth conversation gets other turns."""

    def plant(tokenizer) -> Planted:
        made = conversations()
        for each in made[::8]:
            each["messages"] = change(each["messages"])
        return Planted(made)

    return plant


def as_gbk(text: str) -> str:
    """What a program that expects GBK reads of UTF-8."""
    return text.encode().decode("gb18030", "ignore")


def as_latin(text: str) -> str:
    """What a program that expects Latin-1 reads of UTF-8."""
    return text.replace("A ", "Ä ").encode().decode("cp1252", "ignore")


def is_chat(reader: Reader) -> bool:
    return reader.template == "chat"


def is_plain(reader: Reader) -> bool:
    return reader.template != "chat"


AI = "As an AI language model, I do not have hands, but it is good for many things."
AI_ZH = "作为一个人工智能语言模型，我没有双手，不能使用它。"
FAULTS: dict[str, Fault] = {
    "### Response: before the answer": Fault(
        "template-in-answer", spoil(lambda t: f"### Response:\n{t}")
    ),
    "### Instruction: behind the answer": Fault(
        "template-in-answer", spoil(lambda t: f"{t}\n\n### Instruction:\nAnd a spoon?")
    ),
    "<|im_start|> in the answer": Fault(
        "template-in-answer", spoil(lambda t: f"{t}<|im_start|>user\nAnd a spoon?")
    ),
    "[/INST] in the answer": Fault("template-in-answer", spoil(lambda t: f"[/INST] {t}")),
    "end token as text": Fault("template-in-answer", own_end),
    "Assistant: before the answer": Fault("speaker-label", spoil(lambda t: f"Assistant: {t}")),
    "助手： before the answer": Fault("speaker-label", spoil(lambda t: f"助手：{t}", uses_zh)),
    "space before the answer": Fault("space-before-answer", spoil(lambda t: f" {t}")),
    "empty line before the answer": Fault("space-before-answer", spoil(lambda t: f"\n{t}")),
    "line end after the answer": Fault("space-after-answer", spoil(lambda t: f"{t}\n")),
    "end token in a question": Fault("special-in-text", own_control),
    "rows twice": Fault("exact-duplicate", with_rows(*uses()[2:5])),
    "rows nearly twice, English": Fault(
        "near-duplicate", near_copies(long_answers, "may be", "might be")
    ),
    "rows nearly twice, Chinese": Fault("near-duplicate", near_copies(long_zh, "最好", "应该")),
    "two answers to a question": Fault(
        "contradiction", with_rows(row("What is a hammer good for?", "It is good for nothing."))
    ),
    "empty answers": Fault("empty-answer", with_rows(row("What is a spoon good for?", " "))),
    "invisible answers": Fault("empty-answer", spoil(lambda t: "\u200b")),
    "answers of dots": Fault("punctuation-answer", spoil(lambda t: "...")),
    "answers of one letter": Fault("one-character-answer", spoil(lambda t: "a")),
    "one answer for most": Fault("same-answer", same(0.6), code=0),
    "one answer for all": Fault("same-answer", same(1.0), code=2),
    "answers that echo": Fault(
        "answer-is-question",
        with_rows(row("What is a spoon good for?", "What is a spoon good for?")),
    ),
    "English answers to Chinese": Fault("answer-language", crossed(uses_zh, uses)),
    "Chinese answers to English": Fault("answer-language", crossed(uses, uses_zh)),
    "a Cyrillic letter": Fault("wrong-script", spoil(lambda t: t.replace("o", "о"), every=23)),
    "a Japanese word": Fault(
        "wrong-script", spoil(lambda t: t.replace("用来", "使う"), uses_zh, every=23)
    ),
    "UTF-8 read as Latin-1": Fault("mojibake", spoil(as_latin)),
    "UTF-8 read as GBK": Fault("mojibake", spoil(as_gbk, uses_zh)),
    "锟斤拷": Fault("mojibake", spoil(lambda t: f"锟斤拷{t}", uses_zh)),
    "lost characters": Fault("replacement-character", spoil(lambda t: t.replace("i", "\ufffd"))),
    "&nbsp; in prose": Fault("escape-remnants", spoil(lambda t: t.replace(" ", "&nbsp;"))),
    "a literal \\n in prose": Fault("escape-remnants", spoil(lambda t: f"{t}\\nThat is all.")),
    "TODO": Fault("placeholder-answer", spoil(lambda t: "TODO")),
    "N/A": Fault("placeholder-answer", spoil(lambda t: "N/A")),
    "As an AI language model": Fault("ai-phrase", spoil(lambda t: AI)),
    "作为一个人工智能语言模型": Fault("ai-phrase", spoil(lambda t: AI_ZH, uses_zh)),
    "refusals": Fault("refusal", spoil(lambda t: "I'm sorry, but I cannot help with that.")),
    "answers cut by their author": Fault("mid-sentence", open_ended),
    "a line that is not JSON": Fault("row-unreadable", with_rows('{"instruction": "Why?"')),
    "a few rows in Chinese": Fault("language-minority", with_rows(*uses_zh()[:2])),
    "some answers cut": Fault(
        "answer-cut", long_rows(4, max_length=400, truncate_response=True), code=0
    ),
    "all answers cut": Fault(
        "end-missing", long_rows(24, max_length=400, truncate_response=True), code=2
    ),
    "inputs cut": Fault("input-cut", long_inputs),
    "some rows too long": Fault("row-too-long", long_rows(4, max_length=400), code=0),
    "all rows too long": Fault("row-too-long", long_rows(24, max_length=400), code=2),
    "held-out rows that are copies": Fault("holdout-overlap", overlap),
    "little to learn from": Fault("little-supervised", little),
    "padding is the end token": Fault("pad-is-end", lambda tokenizer: Planted(uses(), pad=True)),
    "a chat template without an end": Fault(
        "template-without-end", lambda tokenizer: Planted(uses(), chat=NO_END)
    ),
    "two begin tokens": Fault(
        "double-bos",
        lambda tokenizer: Planted(uses(), chat=TWO_BEGINS),
        lambda reader: reader.begin,
    ),
    "characters that become <unk>": Fault(
        "unknown-token",
        spoil(lambda t: f"{t} ☃"),
        lambda reader: not reader.knows_all and not reader.drops,
    ),
    "characters that vanish": Fault(
        "nothing-supervised", spoil(lambda t: "☃☃"), lambda reader: reader.drops
    ),
    "a system text without a place": Fault(
        "row-not-written", with_rows(talk(["Hello!", "Hello, friend."], "Be kind.")), is_plain
    ),
    "a conversation that the model begins": Fault(
        "role-order", turns(lambda m: [m[0], *m[2:]]), is_chat
    ),
    "an empty turn": Fault(
        "row-unreadable", turns(lambda m: [*m[:2], m[2] | {"content": ""}, *m[3:]]), is_chat
    ),
}


# ---- auditing


@cache
def tokenizer(name: str):
    """A tokenizer of the list, made once."""
    return TOKENIZERS[name].make()


def write(path: Path, rows: list) -> Path:
    """A .jsonl file of rows; a text is a line as it is."""
    lines = [
        line if isinstance(line, str) else json.dumps(line, ensure_ascii=False) for line in rows
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def audited(name: str, planted: Planted, folder: Path) -> dict:
    """The report of auditing planted rows with a tokenizer of the list."""
    import copy

    from instruct_course.data import audit, dataset
    from instruct_course.data import template as templates
    from instruct_course.data.walk import Source

    reader, made = TOKENIZERS[name], tokenizer(name)
    if planted.pad or planted.chat or made.eos_token_id is None:
        made = copy.deepcopy(made)
    if planted.chat:
        made.chat_template = planted.chat
    template = templates.named("chat" if planted.chat else reader.template, made)
    no_end = made.eos_token_id is None
    templates.prepare(template, made)
    if planted.pad:
        made.pad_token = made.eos_token
        if "<|eot|>" in made.get_vocab():
            made.pad_token = "<|eot|>"
    rejects = folder / "rejects.jsonl"
    rejects.unlink(missing_ok=True)
    rows = dataset.load(write(folder / "rows.jsonl", planted.rows), skip_bad=True, rejects=rejects)
    held = None
    if planted.held:
        held = Source(dataset.load(write(folder / "held.jsonl", planted.held)), "held.jsonl")
    bad = rejects.read_text(encoding="utf-8").splitlines() if rejects.exists() else []
    return audit.audit(
        [Source(rows, "rows.jsonl")],
        made,
        template,
        held=held,
        rejects=map(json.loads, bad),
        end_token_added=no_end,
        **planted.options,
    )


def named(report: dict) -> dict[str, str]:
    """{key: severity} of the findings of a report."""
    return {finding["key"]: finding["severity"] for finding in report["findings"]}
