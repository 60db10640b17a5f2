"""Rows of IFEval's own form: what each id becomes, and what is refused."""

import pytest

from instruct_course.evaluate.ifeval import follows_strict, parse, validate
from instruct_course.evaluate.instruction_ids import INSTRUCTIONS

# id, arguments, an answer that follows, one that does not; most as IFEval's paper describes them
CASES = [
    ("keywords:existence", {"keywords": ["sea", "salt"]}, "Sea and salt.", "Sea."),
    ("keywords:forbidden_words", {"forbidden_words": ["sea"]}, "A lake.", "The sea."),
    ("keywords:frequency", {"keyword": "a", "frequency": 2, "relation": "at least"}, "a a", "a"),
    ("keywords:frequency", {"keyword": "a", "frequency": 2, "relation": "less than"}, "a", "a a"),
    ("language:response_language", {"language": "zh"}, "你好", "Hello"),
    (
        "length_constraints:number_sentences",
        {"num_sentences": 2, "relation": "less than"},
        "One.",
        "One. Two.",
    ),
    (
        "length_constraints:number_words",
        {"num_words": 3, "relation": "at least"},
        "one two three",
        "one two",
    ),
    ("detectable_content:number_placeholders", {"num_placeholders": 1}, "[name]", "name"),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, "Hi.\nP.S. Bye.", "Hi."),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* a\n* b", "* a"),
    ("detectable_format:constrained_response", {}, "My answer is no.", "No."),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 1}, "*so*", "so"),
    ("detectable_format:json_format", {}, '{"a": 1}', "a: 1"),
    ("detectable_format:title", {}, "<<Salt>> It is.", "Salt"),
    ("combination:two_responses", {}, "Yes.******No.", "Yes."),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Say it"}, "Say it: now", "Now"),
    (
        "startend:end_checker",
        {"end_phrase": "That is all"},
        "So. That is all",
        "That is all I know",
    ),
    ("startend:quotation", {}, '"So it is."', "So it is."),
    ("change_case:english_capital", {}, "HELLO", "Hello"),
    ("change_case:english_lowercase", {}, "hello", "Hello"),
    ("punctuation:no_comma", {}, "yes and no", "yes, no"),
]


def row(*instructions, **fields):
    made = {
        "prompt": "Do it.",
        "instruction_id_list": [id for id, _ in instructions],
        "kwargs": [arguments for _, arguments in instructions],
    }
    return made | fields


@pytest.mark.parametrize("id, arguments, good, bad", CASES)
def test_each_instruction_says_yes_and_no(id, arguments, good, bad):
    made = parse(row((id, arguments)))
    for check in made.checks:
        validate(check)
    assert follows_strict(good, made.checks) == [True]
    assert follows_strict(bad, made.checks) == [False]


def test_all_are_tried():
    assert {id for id, *_ in CASES} == set(INSTRUCTIONS)


def test_a_row_as_the_hub_has_it():
    """Arguments of other instructions are null, and columns that are not needed stay unread."""
    null = {"num_words": None, "relation": None}
    made = parse(
        row(
            ("punctuation:no_comma", null),
            ("length_constraints:number_words", {"num_words": 5, "relation": "less than"}),
            key=1000,
        )
    )
    assert made.instruction == "Do it." and made.lang == "en"
    assert list(made.checks) == [{"name": "no_commas"}, {"name": "length", "at_most": 4}]
    assert parse(row(("punctuation:no_comma", {}), prompt="不要用逗号。")).lang == "zh"


WORDS = "length_constraints:number_words"


@pytest.mark.parametrize(
    "bad, says",
    [
        ({"instruction_id_list": []}, "'instruction_id_list' is missing or empty; give the ids"),
        ({"prompt": " "}, "'prompt' is missing or empty; write what is asked"),
        ({"kwargs": [{}, {}]}, "'kwargs' does not fit; give a list of 1 objects, one per id"),
        ({"kwargs": "{}"}, "'kwargs' does not fit"),
        ({"kwargs": [3]}, "'kwargs', number 1 is not an object"),
        ({"instruction_id_list": ["keywords:letter_frequency"]}, "number 1: no checker knows 'key"),
        ({"instruction_id_list": [7]}, "number 1: no checker knows 7"),
        ({"kwargs": [{"num_words": 3}]}, f"'{WORDS}' needs 'relation'; add it"),
        ({"kwargs": [{"num_words": 3, "at": 1}]}, "takes no 'at'; it takes num_words, relation"),
        (
            {"kwargs": [{"num_words": "3", "relation": "at least"}]},
            "has the num_words '3'; make it a whole number, 1 or more",
        ),
        (
            {"kwargs": [{"num_words": 3, "relation": "at most"}]},
            'has the relation \'at most\'; make it "at least" or "less than"',
        ),
    ],
)
def test_what_does_not_fit_is_named(bad, says):
    good = row((WORDS, {"num_words": 3, "relation": "at least"}))
    parse(good)
    with pytest.raises(ValueError) as caught:
        parse(good | bad)
    assert says in str(caught.value)


def test_texts_and_languages():
    for id, arguments, says in (
        ("keywords:existence", {"keywords": "sea"}, "make it a list of texts"),
        ("startend:end_checker", {"end_phrase": ""}, "make it a text"),
        ("language:response_language", {"language": "hi"}, 'make it "en" or "zh"'),
        ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, 'make it "P.S."'),
    ):
        with pytest.raises(ValueError, match=says):
            parse(row((id, arguments)))
