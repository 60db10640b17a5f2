"""A run judged: paired changes that are right, copies that are named, a base that is the base, and nothing half-written."""

import http.server
import json
import math
import shutil
import threading

import jsonschema
import pytest

import instruct_course
from instruct_course.common.errors import InputError
from instruct_course.common.files import ASSETS
from instruct_course.data import dataset
from instruct_course.data import template as templates
from instruct_course.evaluate import report
from instruct_course.evaluate.answers import predict
from instruct_course.model.load import load_base


def schema(name):
    return json.loads((ASSETS / "schemas" / f"{name}.schema.json").read_text(encoding="utf-8"))


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
    return report.evaluate(
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
        below = predict(model, tokenizer, template, rows, max_new_tokens=12)
    alone = load_base("nano")
    templates.prepare(template, alone.tokenizer, alone.model.get_input_embeddings().weight)
    fresh = predict(alone.model, alone.tokenizer, template, rows, max_new_tokens=12)
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
        report.evaluate(
            run=str(run.path), data=str(file), out=str(tmp_path / "no" / "out"), quiet=True
        )
    assert not (tmp_path / "no").exists()
    folder, got = report.evaluate(
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
        ({"ifeval": "none.jsonl"}, "none.jsonl"),
        ({"max_tokens": -1}, "--max-tokens"),
    ],
)
def test_bad_options_are_one_sentence_and_leave_nothing(run, options, said, tmp_path):
    with pytest.raises(InputError, match=said):
        report.evaluate(run=str(run.path), out=str(tmp_path / "a" / "b"), quiet=True, **options)
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_not_overwritten(run, tmp_path):
    with pytest.raises(InputError, match="already exists"):
        report.evaluate(run=str(run.path), out=str(tmp_path), quiet=True)


def test_an_interrupt_leaves_nothing(run, tmp_path, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(report, "draw", interrupt)
    with pytest.raises(KeyboardInterrupt):
        report.evaluate(
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
        _, got = report.evaluate(
            run=str(run.path),
            base=True,
            limit=3,
            max_tokens=4,
            judge=f"http://127.0.0.1:{server.server_port}/v1",
            judge_model="m",
            ifeval="builtin",
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
        and set(got["ifeval"]) == {"tuned", "base"}
        and got["ifeval"]["tuned"]["n"] == 80
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
