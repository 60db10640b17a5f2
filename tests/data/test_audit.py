"""The audit names what is planted, is silent where nothing is, and counts right."""

import re

import pytest
from data import planted
from data.planted import CLEAN, FAULTS, TALKS, TOKENIZERS, Planted, row

from instruct_course.common.errors import InputError
from instruct_course.data import audit, dataset, walk
from instruct_course.data import template as templates
from instruct_course.data.audit import exit_code, histogram, summary_line
from instruct_course.data.example import Example
from instruct_course.data.findings import KINDS, SEVERITIES
from instruct_course.data.row_checks import TEXT_CHECKS, Lens, text_faults, token_faults
from instruct_course.data.tally import Tally, excerpt, severity
from instruct_course.data.template import Encoded, named
from instruct_course.data.walk import Places, Source
from tools import audit_table

PAGE = audit_table.PAGE.read_text(encoding="utf-8")


def found(report, key):
    """The finding of that key."""
    return next(f for f in report["findings"] if f["key"] == key)


# ---- what was planted


def two_of(number, names):
    """Two tokenizers that take turns."""
    names = list(names)
    return {names[number % len(names)], names[(3 * number + 1) % len(names)]}


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_named_as_the_page_says(name, tmp_path):
    fitting = [t for t, reader in TOKENIZERS.items() if FAULTS[name].fits(reader)]
    tokenizers = list(TOKENIZERS)
    line = audit_table.cells_of(PAGE, "faults")[audit_table.escaped(name)]
    for tokenizer in two_of(list(FAULTS).index(name), fitting):
        assert audit_table.fault_cell(name, tokenizer, tmp_path) == audit_table.NAMED, tokenizer
        assert line[tokenizers.index(tokenizer)] == audit_table.NAMED


@pytest.mark.parametrize("name", CLEAN)
def test_no_false_alarm_on_a_set_without_a_fault(name, tmp_path):
    fitting = [t for t, r in TOKENIZERS.items() if name not in TALKS or planted.is_chat(r)]
    for tokenizer in two_of(list(CLEAN).index(name), fitting):
        assert audit_table.clean_cell(name, tokenizer, tmp_path) == audit_table.NAMED, tokenizer


def test_the_page_has_all_faults_sets_tokenizers_and_kinds():
    for name, entries in (("faults", FAULTS), ("clean", CLEAN)):
        cells = audit_table.cells_of(PAGE, name)
        assert set(cells) >= set(map(audit_table.escaped, entries))
        head = next(iter(cells.values()))
        assert head == list(TOKENIZERS)
        every = [cell for line in list(cells.values())[1:] for cell in line]
        assert set(every) <= {audit_table.NAMED, audit_table.NOT_POSSIBLE}
    assert audit_table.kinds_table() in PAGE


def test_enough_is_planted():
    assert len(FAULTS) >= 40 and len(TOKENIZERS) == 10 and len(CLEAN) >= 20
    planted_keys = {fault.key for fault in FAULTS.values()}
    assert planted_keys | {"end-masked", "end-token-added", "lone-space"} == set(KINDS)


def test_each_kind_says_what_it_does_and_how_to_mend_it():
    assert set(TEXT_CHECKS) <= set(KINDS)
    for key, kind in KINDS.items():
        assert key == kind.key and kind.severity in SEVERITIES
        assert re.fullmatch(r".{10,}[.)]", kind.effect) and re.fullmatch(r".{8,}[.)]", kind.mend)


# ---- what is counted


def test_tokens_are_those_of_encode(tmp_path):
    tokenizer = planted.tokenizer("bytes")
    rows = planted.uses()
    report = planted.audited("bytes", Planted(rows), tmp_path)
    made = [templates.encode(named("alpaca"), tokenizer, Example(**each)) for each in rows]
    learnt = [sum(label != -100 for label in encoded.labels) for encoded in made]
    lengths = [len(encoded.ids) for encoded in made]
    assert report["tokens"] == {
        "supervised": sum(learnt),
        "masked": sum(lengths) - sum(learnt),
        "cut": 0,
    }
    assert report["rows"] == {"all": 24, "audited": 24, "held": 0, "unreadable": 0, "trained": 24}
    assert report["lengths"]["row"]["max"] == max(lengths)
    assert sum(report["lengths"]["answer"]["counts"]) == 24
    assert report["languages"] == {"zh": 0, "en": 24, "other": 0}


def test_examples_say_where_they_stand(tmp_path):
    rows = planted.uses()
    rows[6]["output"] = "TODO"
    report = planted.audited("bytes", Planted(['{"instruction": 3}', *rows]), tmp_path)
    finding = found(report, "placeholder-answer")
    assert finding["examples"] == [{"file": "rows.jsonl", "row": 8, "text": "TODO"}]
    assert finding["rows"] == 1 and finding["share"] == 1 / 25
    bad = found(report, "row-unreadable")["examples"][0]
    assert bad["row"] == 1 and "instruction" in bad["text"]
    assert report["rows"]["unreadable"] == 1


def test_copies_name_the_row_that_they_copy(tmp_path):
    rows = planted.uses()
    report = planted.audited("bytes", Planted([*rows, rows[4]]), tmp_path)
    assert found(report, "exact-duplicate")["examples"][0]["text"].startswith("as row 5: ")
    assert found(report, "exact-duplicate")["rows"] == 1


def test_a_finding_is_meaningless_only_for_almost_all_rows():
    assert severity("end-missing", 0.95) == "meaningless"
    assert severity("end-missing", 0.5) == "harmful"
    assert severity("mojibake", 1.0) == "harmful"
    assert severity("refusal", 1.0) == "note"


def test_refused_for_several_reasons_is_refused_too(tmp_path):
    talks = [planted.talk(["Hi!", "Hello."], f"Be {word}.") for word in planted.PRAISE.split()]
    rows = [row(f"Say {i}.", "word " * 300) for i in range(12)]
    report = planted.audited(
        "bytes", Planted([*talks, *rows], options={"max_length": 64}), tmp_path
    )
    assert report["rows"]["trained"] == 0 and exit_code(report) == 2


def test_the_rows_shown_are_the_worst(tmp_path):
    rows = planted.uses()
    rows[9]["output"] = " TODO"
    report = planted.audited("bytes", Planted(rows), tmp_path)
    (shown,) = report["shown"]
    assert shown["row"] == 10
    assert set(shown["keys"]) == {"space-before-answer", "placeholder-answer"}
    learnt = "".join(text for text, mark in shown["tokens"] if mark == "s")
    assert learnt == "·TODO" and shown["tokens"][-1] == ["<eos>", "sx"]


def test_a_long_row_is_shown_without_its_middle():
    tokenizer = planted.tokenizer("bytes")
    made = templates.encode(
        named("alpaca"), tokenizer, Example("Say it.", "", "word " * 300), max_length=4096
    )
    marks = audit.token_marks(tokenizer, made, 30)
    assert len(marks) == 31 and marks[10] == [" … ", "gap"] and marks[-1] == ["<eos>", "sx"]


def test_no_more_rows_than_are_looked_at_in_a_hurry(tmp_path, monkeypatch):
    monkeypatch.setattr(walk, "FAST_ROWS", 10)
    rows = planted.long_answers()
    twins = Planted([*rows, *planted.near_copies(planted.long_answers, "may", "might")(None).rows])
    twins = Planted(twins.rows, options={"fast": True})
    report = planted.audited("bytes", twins, tmp_path)
    assert report["rows"]["audited"] == 10 and report["rows"]["all"] == 43
    assert "near-duplicate" not in planted.named(report) and report["fast"]


def test_the_report_is_the_same_for_any_number_of_processes(tmp_path, monkeypatch):
    rows = planted.mixed()
    rows[2]["output"] = "TODO"
    rows[-3]["output"] = " and so on"
    rows += [rows[4] | {"output": rows[4]["output"] + " Also."}, rows[1]]
    made = Planted(rows, held=[*planted.uses()[:3], rows[5]])
    alone = planted.audited("bytes", made, tmp_path)
    monkeypatch.setattr(walk, "processes_for", lambda count: 3)
    monkeypatch.setattr(walk, "BATCH", 4)
    shared = planted.audited("bytes", made, tmp_path)
    assert set(planted.named(alone)) >= {"placeholder-answer", "exact-duplicate", "holdout-overlap"}
    assert shared | {"seconds": 0} == alone | {"seconds": 0}


def test_no_row_is_refused(tmp_path):
    rows = dataset.load(planted.write(tmp_path / "rows.jsonl", planted.uses())).select([])
    with pytest.raises(InputError, match="no row to look at"):
        audit.audit([Source(rows, "rows.jsonl")], planted.tokenizer("bytes"), named("alpaca"))


def test_places_run_over_all_sources(tmp_path):
    loaded = [
        Source(
            dataset.load(planted.write(tmp_path / f"{make.__name__}.jsonl", make())), make.__name__
        )
        for make in (planted.uses, planted.capitals)
    ]
    places = Places(loaded)
    assert places.count == 48 and places.where(24) == {"file": "capitals", "row": 1}
    asked = [ex.instruction for ex in places.read([25, 3, 24])]
    assert asked == [
        each["instruction"]
        for each in (*planted.capitals()[1:2], planted.uses()[3], planted.capitals()[0])
    ]


@pytest.mark.parametrize("values", [[3], [0, 0], list(range(200)), [1, 500]])
def test_a_histogram_counts_all(values):
    made = histogram(values)
    assert sum(made["counts"]) == len(values) and len(made["edges"]) == len(made["counts"]) + 1
    assert len(made["counts"]) <= 11 and made["max"] == max(values) < made["edges"][-1]
    for low, high, count in zip(made["edges"], made["edges"][1:], made["counts"]):
        assert sum(low <= value < high for value in values) == count


def test_a_histogram_of_nothing():
    assert histogram([]) == {"edges": [], "counts": [], "median": 0, "p95": 0, "max": 0}


def test_one_line_says_it_all(tmp_path):
    rows = planted.uses()
    rows[6]["output"] = "TODO"
    report = planted.audited("bytes", Planted(rows), tmp_path)
    line = summary_line(report)
    assert "\n" not in line and "24 rows" in line
    assert "1 harmful" in line and KINDS["placeholder-answer"].title in line
    clean = planted.audited("bytes", Planted(planted.uses()), tmp_path)
    assert summary_line(clean).endswith("findings: nothing wrong")


# ---- tokens


def faults(name, ex, made, max_length=64):
    """The keys of a row's token faults."""
    reader = TOKENIZERS[name]
    lens = Lens(
        planted.tokenizer(name), named(reader.template, planted.tokenizer(name)), max_length
    )
    return {key for key, _ in token_faults(lens, ex, made)}


def test_an_end_token_that_is_masked():
    ex = Example("a", "", "b")
    end = planted.tokenizer("bytes").eos_token_id
    assert faults("bytes", ex, [Encoded([5, 6, end], [-100, 6, -100])]) == {"end-masked"}
    assert faults("bytes", ex, [Encoded([5, 6, end], [-100, 6, end])]) == set()
    assert faults("bytes", ex, [Encoded([5, 6], [-100, 6])]) == {"end-missing"}
    assert faults("bytes", ex, [Encoded([5, 6], [-100, 6])], 2) == {"end-missing", "answer-cut"}


def test_a_row_of_which_nothing_is_learnt():
    ex = Example("a", "", "b")
    end = planted.tokenizer("bytes").eos_token_id
    assert faults("bytes", ex, [Encoded([5, 6, end], [-100, -100, end])]) == {"nothing-supervised"}
    assert faults("bytes", ex, []) == {"nothing-supervised"}


def test_end_token_that_is_also_unknown_is_no_unknown_token():
    ex = Example("a", "", "b")
    tokenizer = planted.tokenizer("GPT-2")
    made = [templates.encode(named("alpaca"), tokenizer, ex)]
    assert made[0].labels[-1] == tokenizer.unk_token_id
    assert faults("GPT-2", ex, made) == set()


def test_a_space_token_before_the_answer():
    tokenizer = planted.tokenizer("nano")
    ex = Example("Say it.", "", "猫")
    made = [templates.encode(named("article"), tokenizer, ex)]
    assert faults("nano", ex, made) == {"lone-space"}


# ---- texts


@pytest.mark.parametrize(
    "question, answer",
    [
        ("What is the symbol of sodium?", "Na"),
        ("Is there a person in the text?", "None"),
        ("What does the function return?", "{}"),
        ("How do I quote a line break in a string?", "Write \\n between the quotes."),
        ("Write it as HTML.", "Tom &amp; Jerry"),
        ("Where are the fonts on Windows?", "In C:\\Windows\\fonts and C:\\new."),
        ("Write the gradient.", "$\\nabla f$ and $x \\neq y$"),
        ("Write a line of dialogue.", 'She said: "Human nature is odd."'),
        ("What is AI?", "A field that builds programs which learn."),
        ("用英文说你好。", "Hello there, my dear old friend, how are you today?"),
        ("写一个打印你好的程序。", 'print("hello, hello, hello, hello, world")'),
        ("浣熊是什么？", "浣熊是一种动物，常在涓涓细流边洗食物。"),
        ("Wie heißt das?", "Größe, Ação, «été», 100 °C, £5, naïve"),
        ("Solve it.", "The angle α is π/2, so Σ is 1."),
        ("Show a heading.", "### Input\nThe data."),
        ("Sort these.", "a-b, c_d, e.f"),
        ("Translate to Russian: cat", "кошка"),
    ],
)
def test_what_looks_like_a_fault_and_is_none(question, answer):
    assert dict(text_faults(Example(question, "", answer))) == {}


@pytest.mark.parametrize(
    "answer, key",
    [
        ("An apple.</s>", "template-in-answer"),
        ("<|im_start|>assistant\nAn apple.", "template-in-answer"),
        ("AI: an apple.", "speaker-label"),
        ("[insert answer here]", "placeholder-answer"),
        ("待补充。", "placeholder-answer"),
        ("donâ€™t", "mojibake"),
        ("鏄庡ぉ", "mojibake"),
        ("烫烫烫烫", "mojibake"),
        ("a\\nB", "escape-remnants"),
        ("It&#39;s an apple.", "escape-remnants"),
        ("I apologize, but I am unable to do so.", "refusal"),
        ("很抱歉，我无法回答。", "refusal"),
        ("—", "punctuation-answer"),
    ],
)
def test_a_fault_in_a_text(answer, key):
    assert key in dict(text_faults(Example("Name a fruit.", "", answer)))


def test_a_tally_keeps_three_examples():
    tally = Tally()
    for number in range(1, 6):
        tally.add("mojibake", number, "x", file="f")
    tally.add("refusal", 1, "y")
    tally.show("pad-is-end", 0, "not counted")
    first, second = tally.findings(10)
    assert (first["key"], first["rows"], first["share"]) == ("mojibake", 5, 0.5)
    assert [ex["row"] for ex in first["examples"]] == [1, 2, 3]
    assert second["severity"] == "note"


def test_an_excerpt_is_one_line():
    text = "a" * 100 + "\nMATCH\n" + "b" * 100
    assert excerpt(text, 101, 106) == "…" + "a" * 29 + "⏎MATCH⏎" + "b" * 29 + "…"
