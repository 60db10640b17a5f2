"""Verifiable instructions: each checker says yes and no in both languages, rows are checked at the door, scores are what they claim."""

import inspect
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instruct_course.common.errors import InputError
from instruct_course.evaluate.checkers import CHECKS, is_json
from instruct_course.evaluate.ifeval import (
    VerifiablePrompt,
    follows_loose,
    follows_strict,
    parse,
    read,
    score,
    validate,
    variants,
)

# name, arguments, (English yes, English no, Chinese yes, Chinese no)
CASES = [
    ("length", {"at_least": 3}, "one two three", "one two", "一二三", "一，二。"),
    (
        "length",
        {"at_most": 3},
        "one, don't, 3.14!",
        "one two three four",
        "一、二、三。",
        "一二三四",
    ),
    ("length", {"at_least": 2, "at_most": 3}, "well-known fact", "fact", "用Python", "我很喜欢"),
    ("length", {"exactly": 2}, "Good-bye, friend.", "Good bye friend", "你好！", "你好啊"),
    (
        "sentences",
        {"exactly": 2},
        "Mr. Li paid 3.14 yuan. Then he left!",
        "Mr. Li paid. He left. Good.",
        "他说：“走吧。”门关上了。",
        "他走了，门关上了。",
    ),
    ("sentences", {"exactly": 1}, "Really?!", "Yes. No.", "真的吗？！", "好。不好。"),
    (
        "sentences",
        {"exactly": 3},
        "1. Boil water\n2. Add tea\n3. Wait",
        "1. Boil water. Add tea.",
        "第一句。\n\n第二句\n\n第三句",
        "第一句。\n第二句",
    ),
    (
        "sentences",
        {"at_most": 1},
        "He lives in the U.S. and works.",
        "He lives. He works.",
        "价格是3.5元。",
        "价格是3.5元。贵。",
    ),
    ("paragraphs", {"exactly": 2}, "One.\n\nTwo.", "One.\nTwo.", "一。\n \n二。", "一。\n二。"),
    ("paragraphs", {"at_least": 2}, "One.\n\n\n\nTwo.", "\n\nOne.\n\n", "一\n\n二\n\n三", "一"),
    ("lines", {"exactly": 2}, "a\n\nb", "a b", "甲\n乙", "甲\n乙\n丙"),
    (
        "items",
        {"kind": "numbers", "exactly": 3},
        "Here:\n1. a\n2) b\n 3. c",
        "1. a\n2. b",
        "一、茶\n二、米\n三、面",
        "1、茶\n3、米\n4、面",
    ),
    (
        "items",
        {"kind": "numbers", "at_least": 2},
        "1. a\n2. b",
        "1. a\n1. b",
        "（1）茶\n（2）米",
        "1茶\n2米",
    ),
    ("items", {"kind": "bullets", "exactly": 2}, "- a\n- b", "- a\n-b", "•茶\n•米", "1. 茶\n2. 米"),
    (
        "items",
        {"kind": "bullets", "at_most": 1},
        "* a\n**bold** b",
        "* a\n* b",
        "- 茶",
        "- 茶\n- 米",
    ),
    (
        "language",
        {"kind": "en"},
        "Good morning, 2 teas.",
        "早上好",
        "The word 茶 means a hot drink made of leaves and water.",
        "我喜欢 tea",
    ),
    (
        "language",
        {"kind": "zh"},
        "我用 PyTorch 训练一个 model。",
        "good 好",
        "早上好！",
        "おはようございます、学生です",
    ),
    ("case", {"kind": "upper"}, "YES, 3!", "Yes", "是 OK", "是"),
    ("case", {"kind": "lower"}, "yes, don't", "yes, I do", "是 ok", "是"),
    (
        "case",
        {"kind": "title"},
        "The Last Lamp on the Coast",
        "The last Lamp",
        "《The Coast》",
        "海岸",
    ),
    ("case", {"kind": "title"}, "A Dog's Life", "a Dog's Life", "A 猫 Story", "123"),
    ("json", {}, '[1, "a"]', "{'a': 1}", '{"名": "李"}', "名：李"),
    (
        "json",
        {"keys": ["name"]},
        ' {"name": 1, "x": 2}\n',
        '["name"]',
        '{"name": "李"}',
        '{"名": "name"}',
    ),
    (
        "includes",
        {"words": ["cat", "海"]},
        "A CAT (海).",
        "concatenate 海",
        "猫Cat，大海",
        "cat 湖",
    ),
    ("includes", {"words": ["green tea"]}, "Green\n tea!", "green teas", "喝green tea吧", "绿茶"),
    ("excludes", {"words": ["hot", "热"]}, "A photograph.", "Too Hot!", "冷水", "热水"),
    (
        "mentions",
        {"word": "moon", "exactly": 2},
        "Moon, moon.",
        "moonlight moon",
        "moon和moon",
        "moon",
    ),
    ("mentions", {"word": "海", "at_least": 2}, "海 海", "海", "海上的海鸟", "湖和海"),
    ("mentions", {"word": "a", "at_most": 1}, "a banana", "a b a", "a吧", "a和a"),
    ("starts_with", {"phrase": "To be"}, "“to  be honest”", "To begin", "To be是动词", "不是To be"),
    ("starts_with", {"phrase": "说实话"}, "说实话 yes", "yes 说实话", "说实话，好。", "他说实话"),
    (
        "ends_with",
        {"phrase": "the end"},
        "So: The End.",
        "the end is near",
        "这就是the end。",
        "the end了",
    ),
    (
        "ends_with",
        {"phrase": "祝你好梦。"},
        "Well, 祝你好梦。",
        "祝你好梦。 Bye.",
        "早睡，祝你好梦。",
        "祝你好梦。再见。",
    ),
    ("no_commas", {}, "a; b: c.", "a, b", "甲；乙。", "甲、乙"),
    ("no_commas", {}, "a-b", "1,000", "甲和乙", "甲，乙"),
    ("quoted", {}, '"Yes."', '"Yes." he said', "「好」", "“好”和“坏”"),
    ("quoted", {}, "“Yes”", "'", "『好。』", "他说“好”"),
    ("titled", {}, "<<The Key>>\nShe …", "<The Key>", "《钥匙》\n她……", "《》钥匙"),
    ("one_of", {"options": ["yes", "no", "是"]}, "Yes.", "yes or no", "“是”。", "是不是"),
    ("one_of", {"options": ["不是", "no"]}, " NO ", "nope", "不是", "是"),
    (
        "repeats",
        {"request": "What do bees eat?"},
        "What do  bees eat? Nectar.",
        "What do bees eat?",
        "What do bees eat? 花蜜",
        "花蜜。What do bees eat?",
    ),
    (
        "repeats",
        {"request": "蜜蜂吃什么？"},
        "“蜜蜂吃什么？” Nectar",
        "Nectar 蜜蜂吃什么？",
        "蜜蜂吃什么？花蜜。",
        "蜜蜂吃什么？",
    ),
    ("two_answers", {}, "tea\n******\nmilk", "tea\n***\nmilk", "茶******奶", "茶******茶"),
    ("two_answers", {"mark": "##"}, "a ## b", "a ## b ## c", "茶##奶", "##奶"),
    ("digits_only", {}, " 42\n", "42.", "12", "十二"),
    (
        "placeholders",
        {"at_least": 2},
        "Dear [name], on [date]",
        "Dear [name], []",
        "【时间】【地点】",
        "【】【地点】",
    ),
    (
        "postscript",
        {},
        "Dear Jo,\nP.S. Bring tea.",
        "P.S. Bring tea.",
        "小林：\n附：带伞。",
        "小林：\n附近有店。",
    ),
    (
        "postscript",
        {},
        "Dear Jo,\n\nPS: tea",
        "Dear Jo,\nPsst!",
        "小林：\n又及：带伞。",
        "小林：\n附：",
    ),
    ("highlights", {"at_least": 1}, "so *this* is", "3 * 4 * 5", "这是*重点*。", "这是重点*。"),
    ("highlights", {"exactly": 2}, "**one** and *two*", "**one**", "*一*和**二**", "*一*"),
]


def test_every_checker_has_cases():
    assert {c[0] for c in CASES} == set(CHECKS) and len(CHECKS) >= 14


@pytest.mark.parametrize("name, arguments, en_yes, en_no, zh_yes, zh_no", CASES)
def test_a_checker_says_yes_and_no_in_both_languages(name, arguments, en_yes, en_no, zh_yes, zh_no):
    validate({"name": name, **arguments})
    assert [CHECKS[name](t, **arguments) for t in (en_yes, en_no, zh_yes, zh_no)] == [
        True,
        False,
        True,
        False,
    ]


def test_json_is_no_python():
    assert (
        not CHECKS["json"]('{"a": NaN}')
        and not CHECKS["json"]("[" * 200_000)
        and not CHECKS["json"]("```json\n{}\n```")
    )


TEXTS = st.text(st.sampled_from('ab 好海,，。.!\n-*1《》[]"“”'), max_size=60)
COUNTED = [
    (n, {"kind": "numbers"} if n == "items" else {"word": "海"} if n == "mentions" else {})
    for n, f in CHECKS.items()
    if "at_most" in inspect.signature(f).parameters
]


@settings(deadline=None)
@given(TEXTS, st.integers(1, 8), st.sampled_from(COUNTED))
def test_bounds_never_agree_and_never_leave_a_gap(text, n, counted):
    name, more = counted
    low, high = CHECKS[name](text, at_least=n, **more), CHECKS[name](text, at_most=n - 1, **more)
    if name == "items":  # a list that is numbered wrongly has no count
        assert not (low and high)
    else:
        assert low != high
    assert CHECKS[name](text, exactly=n, **more) == CHECKS[name](
        text, at_least=n, at_most=n, **more
    )


@settings(deadline=None)
@given(TEXTS, st.sampled_from(["a", "海", "ab 好", "."]))
def test_words_are_there_or_not(text, word):
    assert CHECKS["includes"](text, words=[word]) != CHECKS["excludes"](text, words=[word])
    assert CHECKS["includes"](text, words=[word]) == CHECKS["mentions"](text, word=word, at_least=1)
    if CHECKS["starts_with"](text, phrase="海") or CHECKS["ends_with"](text, phrase="海"):
        assert CHECKS["includes"](text, words=["海"])
    assert not (CHECKS["language"](text, kind="en") and CHECKS["language"](text, kind="zh"))
    assert not (CHECKS["case"](text, kind="upper") and CHECKS["case"](text, kind="lower"))


@settings(deadline=None)
@given(st.one_of(TEXTS, st.text(max_size=40)), st.sampled_from(read()))
def test_strict_implies_loose_and_nothing_crashes(text, prompt):
    strict, loose = follows_strict(text, prompt.checks), follows_loose(text, prompt.checks)
    assert len(strict) == len(loose) == len(prompt.checks) and all(
        l or not s for s, l in zip(strict, loose)
    )
    if not text.strip():
        assert not any(strict + loose)


def test_the_eight_variants():
    assert variants("Sure:\n**a**\n*b*\nBye") == [
        "Sure:\n**a**\n*b*\nBye",
        "Sure:\na\nb\nBye",
        "**a**\n*b*\nBye",
        "a\nb\nBye",
        "Sure:\n**a**\n*b*",
        "Sure:\na\nb",
        "**a**\n*b*",
        "a\nb",
    ]
    check = [{"name": "json"}]
    assert follows_strict('```json\n{"a": 1}\n```', check) == [False] and follows_loose(
        '```json\n{"a": 1}\n```', check
    ) == [True]
    assert follows_strict("**yes**", [{"name": "one_of", "options": ["yes"]}]) == [
        False
    ] and follows_loose("**yes**", [{"name": "one_of", "options": ["yes"]}]) == [True]
    assert follows_loose("Sure:\nno", [{"name": "one_of", "options": ["yes"]}]) == [False]


def test_an_empty_answer_follows_nothing():
    for text in ("", " \n\t", "　"):
        assert (
            follows_strict(text, [{"name": "no_commas"}, {"name": "length", "at_most": 5}])
            == follows_loose(text, [{"name": "no_commas"}] * 2)
            == [False, False]
        )
    assert follows_loose("a, b", [{"name": "no_commas"}]) == [
        False
    ]  # both lines taken off leave nothing


def test_the_built_in_prompts_can_all_be_answered():
    prompts = read()
    assert [sum(w.lang == k for w in prompts) for k in ("en", "zh")] == [40, 40]
    assert (
        all(1 <= len(w.checks) <= 3 for w in prompts)
        and len({w.instruction for w in prompts}) == 80
    )
    assert {c["name"] for w in prompts for c in w.checks} == set(CHECKS)
    assert [
        (w.instruction, follows_strict(w.answer, w.checks))
        for w in prompts
        if not all(follows_strict(w.answer, w.checks))
    ] == []
    swapped = [
        follows_strict(prompts[(i + 1) % 80].answer, w.checks) for i, w in enumerate(prompts)
    ]  # another's answer mostly fails
    assert sum(map(all, swapped)) <= 24


GOOD = {"instruction": "Say yes.", "lang": "en", "checks": [{"name": "length", "at_most": 2}]}


@pytest.mark.parametrize(
    "change, said",
    [
        ({"instruction": ""}, "'instruction'"),
        ({"instruction": "  "}, "'instruction'"),
        ({"instruction": 5}, "'instruction'"),
        ({"input": None}, "'input'"),
        ({"lang": "fr"}, "'lang'"),
        ({"lang": None}, "'lang'"),
        ({"checks": []}, "'checks'"),
        ({"checks": "length"}, "'checks'"),
        ({"checks": [5]}, "number 1"),
        (
            {"checks": [GOOD["checks"][0], {"name": "lenght"}]},
            "number 2: there is no checker 'lenght'; use one of length",
        ),
        (
            {"checks": [{"name": "length", "at_most": "2"}]},
            "'at_most' of the checker 'length' is '2'; make it a whole number",
        ),
        ({"checks": [{"name": "length", "at_most": True}]}, "whole number"),
        ({"checks": [{"name": "length", "at_most": -1}]}, "whole number"),
        ({"checks": [{"name": "length", "at_most": 2.5}]}, "whole number"),
        ({"checks": [{"name": "length"}]}, "at_least"),
        ({"checks": [{"name": "length", "at_least": 3, "at_most": 2}]}, "in that order"),
        ({"checks": [{"name": "length", "exactly": 3, "at_most": 4}]}, "alone"),
        (
            {"checks": [{"name": "length", "at_mots": 2}]},
            "takes no 'at_mots'; it takes at_least, at_most, exactly",
        ),
        ({"checks": [{"name": "no_commas", "words": ["a"]}]}, "no arguments"),
        ({"checks": [{"name": "includes"}]}, "needs 'words'"),
        ({"checks": [{"name": "includes", "words": "cat"}]}, "a list of texts"),
        ({"checks": [{"name": "includes", "words": []}]}, "a list of texts"),
        ({"checks": [{"name": "includes", "words": [" "]}]}, "a list of texts"),
        ({"checks": [{"name": "starts_with", "phrase": ""}]}, "a text"),
        ({"checks": [{"name": "language", "kind": "fr"}]}, '"en" or "zh"'),
        ({"checks": [{"name": "items", "exactly": 2}]}, "needs 'kind'"),
        ({"checks": [{"name": "case", "kind": "upper"}], "lang": "zh"}, "no case"),
    ],
)
def test_bad_rows_are_told(tmp_path, change, said):
    path = tmp_path / "prompts.jsonl"
    path.write_text(
        json.dumps(GOOD) + "\n\n" + json.dumps(GOOD | change, ensure_ascii=False) + "\n",
        encoding="utf-8",
    )
    with pytest.raises(InputError) as error:
        read(path)
    assert (
        f"{path}, row 3" in str(error.value)
        and said in str(error.value)
        and "\n" not in str(error.value)
    )


def test_bad_files_are_told(tmp_path):
    for name, content, said in (
        ("a.jsonl", b"{", "row 1: the line is not JSON"),
        ("b.jsonl", b"\n", "no row"),
        ("c.jsonl", b"\xff\xfe\xff", "UTF-8"),
        ("d.jsonl", b"[1]", "not an object"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=said):
            read(tmp_path / name)
    with pytest.raises(InputError, match="cannot be read"):
        read(tmp_path / "none.jsonl")
    (tmp_path / "bom.jsonl").write_text(json.dumps(GOOD), encoding="utf-8-sig")
    assert read(tmp_path / "bom.jsonl") == [
        VerifiablePrompt("Say yes.", "", "en", ({"name": "length", "at_most": 2},))
    ]


def test_score_by_hand():
    prompts = [
        parse(
            {
                "instruction": "a",
                "lang": "en",
                "checks": [{"name": "no_commas"}, {"name": "length", "at_most": 2}],
            }
        ),
        parse(
            {
                "instruction": "b",
                "lang": "zh",
                "checks": [
                    {"name": "no_commas"},
                    {"name": "language", "kind": "zh"},
                    {"name": "length", "at_least": 2},
                ],
            }
        ),
        parse({"instruction": "c", "lang": "zh", "checks": [{"name": "json"}]}),
        parse({"instruction": "d", "lang": "en", "checks": [{"name": "no_commas"}]}),
    ]
    s = score(["yes", "你，好", "Sure:\n[1]\n", ""], prompts)
    assert (s["n"], s["checks"], s["empty"], s["followed"]) == (4, 7, 1, ["11", "011", "0", "0"])
    assert (
        s["strict"]["prompts"],
        s["strict"]["checks"],
        s["loose"]["prompts"],
        s["loose"]["checks"],
    ) == (1 / 4, 4 / 7, 2 / 4, 5 / 7)
    assert s["by_check"]["no_commas"] == {"strict": 1 / 3, "loose": 1 / 3, "n": 3} and s[
        "by_check"
    ]["json"] == {"strict": 0, "loose": 1, "n": 1}
    assert (
        s["langs"]["zh"]["n"] == 2
        and s["langs"]["zh"]["strict"]["checks"] == 2 / 4
        and s["langs"]["en"]["strict"]["prompts"] == 1 / 2
    )
    for kind in ("strict", "loose"):
        for key in ("prompts", "checks"):
            low, high = s[kind]["interval"][key]
            assert 0 <= low <= s[kind][key] <= high <= 1 and low < high
    assert json.loads(json.dumps(s, allow_nan=False)) == s


def test_a_missing_answer_is_an_error():
    prompts = read()[:2]
    for texts, said in (
        (["a"], "1 answers to 2 prompts"),
        (["a", None], "answer 2 is NoneType"),
        ([], "0 answers"),
    ):
        with pytest.raises(InputError, match=said):
            score(texts, prompts)
    with pytest.raises(InputError):
        score([], [])


def test_a_prompt_is_a_row():
    ex = read()[40].example
    assert (ex.lang, ex.task, ex.output) == ("zh", "ifeval", "") and ex.instruction == read()[
        40
    ].instruction
    assert CHECKS["json"] is is_json
