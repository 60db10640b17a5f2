"""A run judged: paired changes that are right, copies that are named, a base that is the base, and nothing half-written."""

import http.server
import json
import math
import shutil
import threading

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import instruct_course
from instruct_course.common.errors import InputError
from instruct_course.common.files import ASSETS
from instruct_course.data import dataset
from instruct_course.data import template as templates
from instruct_course.data.example import Example
from instruct_course.evaluate import metrics, report
from instruct_course.generate import Completion
from instruct_course.model.load import load_base

ROWS = [
    Example(f"Say {w}.", output=w, task="say" if i % 2 else "tell", lang="en")
    for i, w in enumerate("one two three four five six".split())
]


def answers(texts, nats=None, tokens=None, rows=ROWS):
    n = len(texts)
    return report.Answers(
        rows[:n],
        [Completion([], t, "end") for t in texts],
        rows[:n],
        list(zip(nats or [1.0] * n, tokens or [2] * n)),
    )


def schema(name):
    return json.loads((ASSETS / "schemas" / f"{name}.schema.json").read_text(encoding="utf-8"))


# -- changes and copies, on paper


def test_changes_are_those_of_the_same_rows():
    before, after = (
        answers(["one", "x", "x", "x", "x", "x"]),
        answers(["x", "two", "three", "four", "five", "six"]),
    )
    got = report.changes(before, after)
    assert (
        got["n"] == 6
        and got["exact_match"]["mean"] == pytest.approx(4 / 6)
        and got["tasks"]["say"]["exact_match"]["mean"] == 1
        and got["tasks"]["tell"]["n"] == 3
    )
    wanted = metrics.difference([1, 0, 0, 0, 0, 0], [0, 1, 1, 1, 1, 1])
    assert (got["exact_match"]["low"], got["exact_match"]["high"]) == (wanted.low, wanted.high)


@given(
    st.lists(
        st.tuples(st.floats(0, 50), st.floats(0, 50), st.integers(1, 9)), min_size=1, max_size=6
    )
)
@settings(deadline=None, max_examples=30)
def test_the_change_of_the_loss_is_the_difference_of_the_losses(rows):
    a, b, n = zip(*rows)
    texts = [ex.output for ex in ROWS[: len(rows)]]
    before, after = answers(texts, a, n), answers(texts, b, n)
    assert report.changes(before, after)["loss"]["mean"] == pytest.approx(
        after.scores()["loss"] - before.scores()["loss"], abs=1e-9
    )


def test_nothing_has_changed_in_one_and_the_same():
    same = answers(["one", "x", "three", "x", "five", "x"])
    got = report.changes(same, same)
    assert got["exact_match"]["mean"] == got["loss"]["mean"] == got["rouge_l"]["mean"] == 0
    assert not any(
        d["significant"]
        for d in (
            got["exact_match"],
            got["rouge_l"],
            got["loss"],
            got["tasks"]["say"]["exact_match"],
        )
    )


def test_tasks_are_held_to_a_stricter_level():
    got = report.changes(answers(["x"] * 6), answers([ex.output for ex in ROWS]))["tasks"]["say"][
        "exact_match"
    ]
    plain, strict = (metrics.difference([0] * 3, [1] * 3, level=level) for level in (0.95, 0.975))
    assert (got["low"], got["high"]) == (strict.low, strict.high) and strict.low < plain.low


def test_only_common_rows_count_and_other_tokens_give_no_loss():
    got = report.changes(answers(["one", "two", "x"]), answers([ex.output for ex in ROWS]))
    assert got["n"] == 3 and got["exact_match"]["mean"] == pytest.approx(1 / 3)
    assert (
        report.changes(answers(["one"], tokens=[2]), answers(["one"], tokens=[3]))["loss"] is None
    )
    with pytest.raises(InputError, match="different rows"):
        report.changes(answers(["one"]), answers(["x"], rows=[Example("Other.", output="x")]))


def test_answers_come_back_from_a_file():
    some = report.Answers(
        ROWS[1:4:2],
        [Completion([], " two ", "end"), Completion([], "", "length")],
        ROWS,
        [(float(i), i + 1) for i in range(6)],
    )
    again = report.Answers.parse(json.loads(json.dumps(some.facts())), ROWS)
    assert (
        again.scores() == some.scores() and again.texts == ["two", ""] and again.asked == some.asked
    )
    assert (
        some.scores()["loss"] == sum(range(6)) / sum(range(1, 7)) and some.scores()["n"] == 2
    )  # the loss is over all rows, the answers over two


def test_copies_are_named_and_left_out_of_the_second_score():
    said = answers(["one", "x", "three", "x", "five", "six"])
    got = report.copied(
        [metrics.Overlap(7, 1, "exact", 1.0), metrics.Overlap(2, 5, "near", 0.9)], ROWS, said
    )
    assert (got["exact"], got["near"]) == (1, 1) and got["rows"][0] == {
        "row": 2,
        "training_row": 8,
        "kind": "exact",
        "share": 1.0,
    }
    assert got["without"]["n"] == 4 and got["without"]["exact_match"] == 0.75
    assert report.copied([], ROWS, said)["without"] is None


@given(st.lists(st.integers(), max_size=30), st.integers(1, 40))
def test_a_spread_keeps_order_and_ends_of_the_file_in_reach(items, most):
    got = report.subsample(list(enumerate(items)), most)
    assert (
        len(got) == min(most, len(items))
        and got == sorted(got, key=lambda x: x[0])
        and len({i for i, _ in got}) == len(got)
    )


# -- a real run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    rows = [dataset.example(r) for r in dataset.builtin("train").select(range(200))]
    dataset.save(folder / "rows.jsonl", rows)
    return instruct_course.tune(
        data=str(folder / "rows.jsonl"),
        holdout="0.1",
        epochs=2,
        out=str(folder / "run"),
        quiet=True,
    )


@pytest.fixture(scope="module")
def judged(run, tmp_path_factory):
    other = tmp_path_factory.mktemp("other") / "twin"
    shutil.copytree(run.path, other)
    return report.assess(
        run=str(run.path),
        base=True,
        against=str(other),
        training=str(run.path.parent / "rows.jsonl"),
        quiet=True,
    )


def test_an_evaluation_is_whole_and_follows_its_schema(judged, run):
    folder, got = judged
    assert folder.parent == run.path / "evaluations" and {p.name for p in folder.iterdir()} == {
        "evaluation.json",
        "answers.jsonl",
        "scores.png",
    }
    assert json.loads((folder / "evaluation.json").read_text(encoding="utf-8")) == json.loads(
        json.dumps(got)
    )
    jsonschema.validate(got, schema("evaluation"))
    assert (folder / "scores.png").read_bytes()[:4] == b"\x89PNG"
    table = [
        json.loads(line)
        for line in (folder / "answers.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert len(table) == got["data"]["n"] == got["after"]["n"] == 20
    assert sum(r["tuned"]["exact_match"] for r in table) == pytest.approx(
        20 * got["after"]["exact_match"]
    )
    assert sum(r["tuned"]["nats"] for r in table) / sum(
        r["tuned"]["tokens"] for r in table
    ) == pytest.approx(got["after"]["loss"])


def test_it_says_what_tune_said_of_the_same_rows(judged, run):
    for now, then in (
        (judged[1]["after"], run.report["after"]),
        (judged[1]["before"], run.report["before"]),
    ):
        assert (
            now["loss"] == pytest.approx(then["loss"], rel=1e-3)
            and now["exact_match"] == then["exact_match"]
            and now["n"] == then["n"]
        )


def test_a_twin_is_no_different(judged):
    change = judged[1]["changes"]["against"]
    assert (
        change["exact_match"]["mean"] == change["loss"]["mean"] == 0
        and not change["loss"]["significant"]
    )
    assert (
        judged[1]["changes"]["base"]["loss"]["significant"]
        and judged[1]["changes"]["base"]["loss"]["high"] < 0
    )


def test_rows_that_were_learnt_are_found(judged):
    assert (
        judged[1]["contamination"]["exact"] == 20 and judged[1]["contamination"]["without"] is None
    )  # the file holds the held-out rows as well


def test_the_base_below_an_adapter_is_the_base(run):
    model, tokenizer, template = run.ready()
    rows = [dataset.example(r) for r in dataset.load(run.path / "heldout.jsonl")][:8]
    with model.disable_adapter():
        below = report.ask(model, tokenizer, template, rows, max_new_tokens=12)
    alone = load_base("nano")
    templates.prepare(template, alone.tokenizer, alone.model.get_input_embeddings().weight)
    fresh = report.ask(alone.model, alone.tokenizer, template, rows, max_new_tokens=12)
    assert below.texts == fresh.texts
    for (a, n), (b, m) in zip(below.losses, fresh.losses):
        assert n == m and a == pytest.approx(
            b, rel=0.02, abs=0.02
        )  # one goes through transformers' modules in bf16, one through the engine


def test_bad_rows_are_counted_and_named(run, tmp_path):
    file = tmp_path / "judge by.jsonl"
    file.write_text(
        '{"instruction": "Say one.", "output": "one"}\n{"instruction": "Say two."}\n{"instruction": "说三。", "output": "三"}\n',
        encoding="utf-8",
    )
    with pytest.raises(InputError, match="row 2"):
        report.assess(
            run=str(run.path), data=str(file), out=str(tmp_path / "no" / "out"), quiet=True
        )
    assert not (tmp_path / "no").exists()
    folder, got = report.assess(
        run=str(run.path),
        data=str(file),
        skip_bad=True,
        out=str(tmp_path / "new" / "out"),
        max_tokens=4,
        quiet=True,
    )
    assert (
        got["data"]["n"] == 2
        and got["data"]["left_out"][0]["row"] == 2
        and "output" in got["data"]["left_out"][0]["reason"]
    )
    assert got["contamination"] is None and folder == tmp_path / "new" / "out"
    assert str(tmp_path) not in (folder / "evaluation.json").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "options, said",
    [
        ({"limit": 0}, "--limit"),
        ({"judge": "http://127.0.0.1:1/v1", "judge_model": "m"}, "--judge"),
        ({"base": True, "judge": "http://127.0.0.1:1/v1"}, "--judge-model"),
        ({"data": "none.jsonl"}, "none.jsonl"),
        ({"against": "nowhere"}, "nowhere"),
        ({"following": "none.jsonl"}, "none.jsonl"),
        ({"max_tokens": -1}, "--max-tokens"),
    ],
)
def test_bad_options_are_one_sentence_and_leave_nothing(run, options, said, tmp_path):
    with pytest.raises(InputError, match=said):
        report.assess(run=str(run.path), out=str(tmp_path / "a" / "b"), quiet=True, **options)
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_not_overwritten(run, tmp_path):
    with pytest.raises(InputError, match="already exists"):
        report.assess(run=str(run.path), out=str(tmp_path), quiet=True)


def test_an_interrupt_leaves_nothing(run, tmp_path, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(report, "draw", interrupt)
    with pytest.raises(KeyboardInterrupt):
        report.assess(
            run=str(run.path), limit=2, max_tokens=2, out=str(tmp_path / "a" / "b"), quiet=True
        )
    assert list(tmp_path.iterdir()) == []


def test_a_judge_compares_the_answers(run, tmp_path):
    class Tie(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            body = json.dumps(
                {"choices": [{"message": {"content": "The same.\nverdict: tie"}}]}
            ).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Tie)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        _, got = report.assess(
            run=str(run.path),
            base=True,
            limit=3,
            max_tokens=4,
            judge=f"http://127.0.0.1:{server.server_port}/v1",
            judge_model="m",
            following="builtin",
            out=str(tmp_path / "out"),
            quiet=True,
        )
    finally:
        server.shutdown()
        server.server_close()
    jsonschema.validate(got, schema("evaluation"))
    jsonschema.validate(got["judge"], schema("judge"))
    assert (
        got["judge"]["wins"]["tie"] == 3
        and got["judge"]["win_rate"] == 0.5
        and set(got["following"]) == {"tuned", "base"}
        and got["following"]["tuned"]["n"] == 80
    )


def test_the_command_line(run, tmp_path, command):
    code, out, _ = command(
        "eval",
        "--run",
        run.path,
        "--limit",
        4,
        "--max-tokens",
        4,
        "--out",
        tmp_path / "a",
        "--json",
    )
    jsonschema.validate(json.loads(out), schema("evaluation"))
    assert code == 0 and json.loads(out)["data"]["n"] == 4
    code, out, _ = command(
        "eval",
        "--run",
        run.path,
        "--base",
        "--limit",
        4,
        "--max-tokens",
        4,
        "--out",
        tmp_path / "b",
    )
    assert code == 0 and "significant" in out and "minus the base" in out and "exact match" in out
    code, out, err = command("eval", "--run", tmp_path)
    assert code == 2 and out == "" and err.count("\n") == 1 and "no run directory" in err


def test_the_rows_that_were_held_out_come_back(run):
    kept = [dataset.example(r) for r in dataset.load(run.path / "heldout.jsonl")]
    rows, held = dataset.split(dataset.load(run.path.parent / "rows.jsonl"), "0.1", seed=0)
    assert kept == [dataset.example(r) for r in held] and len(kept) == 20
    assert run.report["contamination"]["exact"] == 0 and math.isfinite(
        run.report["changes"]["loss"]["mean"]
    )
