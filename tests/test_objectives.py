"""`tune --objective`: pairs of one's own, from the base or from a run, stopped, resumed, used."""

import json

import jsonschema
import pytest
import torch

import instruct_course
from instruct_course import generate, pair_rows
from instruct_course.common.files import ASSETS
from instruct_course.data import dataset
from instruct_course.data.example import Example
from instruct_course.data.pairs import builtin_pairs, load_pairs, pair
from instruct_course.deploy.merged import open_merged
from instruct_course.run import open_run


def schema(name):
    return json.loads((ASSETS / "schemas" / f"{name}.schema.json").read_text(encoding="utf-8"))


def adapter(path):
    return (path / "adapter" / "adapter_model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Sixty pairs in a file, as prompt, chosen and rejected."""
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for row in builtin_pairs("train").select(range(60)):
            prompt = "\n".join(filter(None, (row["instruction"], row["input"])))
            made = {"prompt": prompt, "chosen": row["output"], "rejected": row["rejected"]}
            file.write(json.dumps(made, ensure_ascii=False) + "\n")
    return path


OPTIONS = {"holdout": "0.2", "epochs": 1, "eval_rows": 4, "quiet": True}


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A short run on single answers, those of two hundred built-in rows."""
    folder = tmp_path_factory.mktemp("start")
    rows = dataset.builtin("train").select(range(200))
    dataset.save(folder / "rows.jsonl", [dataset.example(row) for row in rows])
    data = str(folder / "rows.jsonl")
    return instruct_course.tune(data=data, out=str(folder / "start"), **OPTIONS)


@pytest.fixture(scope="module")
def dpo_run(pairs, start, tmp_path_factory):
    out = tmp_path_factory.mktemp("dpo") / "dpo"
    options = OPTIONS | {"objective": "dpo", "start_from": str(start.path), "lr": 2e-4, "epochs": 3}
    return instruct_course.tune(data=str(pairs), out=str(out), **options)


def test_the_run_directory_says_what_happened(dpo_run, start):
    report = json.loads((dpo_run.path / "report.json").read_text(encoding="utf-8"))
    jsonschema.validate(report, schema("report"))
    made = json.loads((dpo_run.path / "run.json").read_text(encoding="utf-8"))
    jsonschema.validate(made, schema("run"))
    lines = (dpo_run.path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    steps = [json.loads(line) for line in lines]
    for step in steps:
        jsonschema.validate(step, schema("metrics"))
    assert (report["objective"], report["start_from"]) == ("dpo", "start")
    assert report["before"]["best_prompt"] is None  # the start is no base to be prompted
    assert report["pairs"]["n"] == 12
    assert made["config"]["lora_r"] == start.made["config"]["lora_r"]
    assert steps[0]["loss"] == pytest.approx(0.6931, abs=1e-3)  # it is its own reference
    third = len(steps) // 3  # an epoch
    assert sum(h["loss"] for h in steps[-third:]) < 0.9 * sum(h["loss"] for h in steps[:third])
    assert adapter(dpo_run.path) != adapter(start.path)


def test_the_first_reference_is_the_start_and_not_the_base(dpo_run, start):
    """The loss on the held-out rows before is what the run that was started from had."""
    run = open_run(start.path)
    model, tokenizer, template = run.ready()
    from instruct_course.evaluate.answers import predict

    held = dataset.load(dpo_run.path / "heldout.jsonl")
    rows = [dataset.example(row) for row in held]
    found = predict(model, tokenizer, template, rows, most=0).scores()
    assert found["loss"] == pytest.approx(dpo_run.report["before"]["loss"], rel=1e-3)


def test_stopped_and_resumed_bitwise(dpo_run, pairs, start, tmp_path):
    options = OPTIONS | {"objective": "dpo", "start_from": str(start.path), "lr": 2e-4, "epochs": 3}
    out = str(tmp_path / "again")

    def stop(record):
        if record["step"] == 3:
            raise RuntimeError("the power fails")

    with pytest.raises(RuntimeError):
        instruct_course.tune(data=str(pairs), out=out, save_steps=1, on_step=stop, **options)
    kept = tmp_path / "again.unfinished" / "reference.safetensors"
    written = kept.read_bytes()
    seen = []
    run = instruct_course.tune(
        resume=True, out=out, quiet=True, on_step=lambda h: seen.append(kept.read_bytes())
    )
    assert adapter(run.path) == adapter(dpo_run.path)
    assert set(seen) == {written}  # the reference was not computed again


def test_run_yaml_makes_it_again_bitwise(dpo_run, pairs, start, tmp_path, monkeypatch, command):
    """Files and runs are named without their folders."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / pairs.name).write_bytes(pairs.read_bytes())
    (folder / start.path.name).symlink_to(start.path)
    monkeypatch.chdir(folder)
    code, _, err = command(
        "tune", "--config", dpo_run.path / "run.yaml", "--out", tmp_path / "again", "--json"
    )
    assert code == 0, err
    assert adapter(tmp_path / "again") == adapter(dpo_run.path)


def test_it_is_evaluated_merged_and_answers(dpo_run, tmp_path, command):
    code, out, err = command("eval", "--run", dpo_run.path, "--json")
    assert code == 0, err
    after = json.loads(out)["after"]
    assert after["loss"] == pytest.approx(open_run(dpo_run.path).report["after"]["loss"], rel=1e-3)
    code, out, err = command(
        "merge", "--run", dpo_run.path, "--out", tmp_path / "merged", "--limit", "4", "--json"
    )
    assert code == 0, err
    question = ("Count the words.", "red green blue")
    model, tokenizer, template = open_merged(tmp_path / "merged", dtype=torch.float32)
    merged = generate.answer(model, tokenizer, template, [Example(*question)])
    assert merged == [dpo_run.answer(*question)]


@pytest.mark.parametrize("objective", ["sft+contrastive", "ipo", "kto"])
def test_the_other_objectives_learn_from_the_base(objective, pairs, tmp_path, command):
    out = tmp_path / "run"
    code, text, err = command(
        "tune", "--objective", objective, "--data", pairs, "--holdout", "0.2", "--eval-rows", "0",
        "--epochs", "4", "--lr", "3e-4", "--out", out, "--json",
    )  # fmt: skip
    assert code == 0, err
    report = json.loads(text)
    jsonschema.validate(report, schema("report"))
    pairs_report = report["pairs"]
    assert pairs_report["chosen"]["mean"] > pairs_report["rejected"]["mean"]
    assert pairs_report["accuracy"]["value"] > 0.6
    assert report["start_from"] is None


def test_an_objective_that_starts_from_the_base_says_a_hint(pairs, start, tmp_path, capsys):
    options = OPTIONS | {"objective": "dpo", "max_steps": 1, "eval_rows": 0, "quiet": False}
    for number, more in enumerate(({}, {"start_from": str(start.path)})):
        out = str(tmp_path / f"run{number}")
        instruct_course.tune(data=str(pairs), out=out, **options, **more)
        said = capsys.readouterr().err
        assert ("use --start-from with that run" in said) == (number == 0)


HELLO = [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "Hi."}]
CALL = {"type": "function", "function": {"name": "look", "arguments": {"at": "sky"}}}
KINDS_OF_PAIRS = [
    {"prompt": "Say yes.", "chosen": "yes", "rejected": "no", "kind": "wrong"},
    {"instruction": "Add.", "input": "1 2", "system": "Be brief.", "chosen": "3", "rejected": "4"},
    {
        "prompt": [{"role": "system", "content": "Be brief."}, *HELLO, HELLO[0]],
        "chosen": [HELLO[1]],
        "rejected": [{"role": "assistant", "content": "Go."}],
    },
    {"instruction": "Add.", "input": "1 2", "history": HELLO, "chosen": "3", "rejected": "4"},
    {
        "prompt": HELLO[:1],
        "tools": [{"type": "function", "function": {"name": "look", "parameters": {}}}],
        "chosen": [{"role": "assistant", "content": "", "tool_calls": [CALL]}],
        "rejected": [HELLO[1]],
    },
]


def test_pairs_that_are_saved_come_back_as_they_were(tmp_path):
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in KINDS_OF_PAIRS), encoding="utf-8")
    pairs = load_pairs(file)
    pair_rows.save(tmp_path / "saved.jsonl", pairs)
    again = load_pairs(tmp_path / "saved.jsonl")
    assert [pair(row) for row in again] == [pair(row) for row in pairs]


# -- refusals


@pytest.mark.parametrize(
    "args, says",
    [
        (["--beta", "0.1"], "--beta: --objective sft has no such option; it belongs to dpo, ipo"),
        (["--objective", "dpo", "--group-size", "4"], "--group-size: --objective dpo has no"),
        (["--objective", "dpo", "--truncate-response"], "--truncate-response: preference pairs"),
        (["--objective", "ppo"], "--objective ppo: it must be one of sft, sft+contrastive, dpo"),
        (["--objective", "dpo", "--beta", "0"], "--beta 0.0: it must be above 0"),
        (["--start-from", "nowhere"], "--start-from nowhere: this is no run directory"),
        (
            ["--objective", "sft+contrastive", "--micro-batches", "2"],
            "--objective sft+contrastive: it compares the answers of a step",
        ),
    ],
)
def test_options_that_do_not_go_together(args, says, pairs, tmp_path, command):
    out = tmp_path / "run"
    code, _, err = command("tune", "--data", pairs, "--eval-rows", "0", "--out", out, *args)
    assert code == 2
    assert says in err
    assert err.strip().count("\n") == 0 or "error:" in err.splitlines()[-1]
    assert not out.exists() and not out.with_name("run.unfinished").exists()


def test_an_option_that_the_start_says_otherwise(start, pairs, command):
    code, _, err = command(
        "tune", "--objective", "dpo", "--data", pairs, "--start-from", start.path, "--lora-r", "8"
    )
    assert code == 2
    assert "--lora-r 8: the run of --start-from has 16; leave it out" in err


GOOD = {"prompt": "Say yes.", "chosen": "yes", "rejected": "no"}


@pytest.mark.parametrize(
    "bad, says",
    [
        (GOOD | {"rejected": "yes"}, "row 3"),
        ({"chosen": "yes", "rejected": "no"}, "row 3"),
        (GOOD | {"chosen": " "}, "row 3"),
        (GOOD | {"rejected": ""}, "row 3"),
    ],
    ids=["identical", "no prompt", "chosen empty", "rejected empty"],
)
def test_bad_pairs_are_refused_in_one_sentence(bad, says, tmp_path, command):
    file = tmp_path / "bad.jsonl"
    rows = [GOOD, GOOD | {"prompt": "Say it."}, bad]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    code, _, err = command("tune", "--objective", "dpo", "--data", file, "--out", tmp_path / "run")
    assert code == 2
    last = err.strip().splitlines()[-1]
    assert last.startswith("error: ") and says in last and "bad.jsonl" in last
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.jsonl"]


def test_single_answers_are_no_pairs(tmp_path, command):
    file = tmp_path / "rows.jsonl"
    row = {"instruction": "Say yes.", "output": "yes"}
    file.write_text(json.dumps(row) + "\n" + json.dumps(row) + "\n", encoding="utf-8")
    code, _, err = command("tune", "--objective", "kto", "--data", file, "--out", tmp_path / "run")
    assert code == 2
    assert "none of its 2 rows has a chosen and a rejected answer" in err


# -- how pairs are judged


def test_scores_by_hand():
    before = [[-1.0, -2.0], [-3.0, -1.0], [-2.0, -2.0], [-5.0, -4.0]]
    after = [[-0.5, -3.0], [-2.0, -2.0], [-2.0, -2.0], [-6.0, -2.0]]
    found = pair_rows.scores(before, after, ["cut", "cut", "", "long"])
    assert found["n"] == 4
    assert found["accuracy"]["value"] == (1 + 1 + 0.5 + 0) / 4
    assert found["chosen"]["mean"] == pytest.approx((0.5 + 1 + 0 - 1) / 4)
    assert found["rejected"]["mean"] == pytest.approx((-1 - 1 + 0 + 2) / 4)
    assert found["likelier"]["before"]["value"] == (1 + 0 + 0.5 + 0) / 4
    assert found["likelier"]["after"]["value"] == (1 + 0.5 + 0.5 + 0) / 4
    kinds = {kind: (part["value"], part["n"]) for kind, part in found["by_kind"].items()}
    assert kinds == {"cut": (1.0, 2), "long": (0.0, 1)}
    low, high = found["accuracy"]["interval"]
    assert 0 <= low < found["accuracy"]["value"] < high <= 1


def test_scores_agree_with_the_models(dpo_run, start, pairs):
    """The report's log-probabilities are those that both finished runs give."""
    from instruct_course.data.pairs import encode_pairs, load_pairs, pair, split_pairs
    from instruct_course.data.template import pad_id
    from instruct_course.train.logprobs import pair_logprobs

    _, held = split_pairs(load_pairs(pairs), "0.2", seed=0)
    found = []
    for run in (open_run(start.path), open_run(dpo_run.path)):
        model, tokenizer, template = run.ready()
        encoded = encode_pairs(template, tokenizer, [pair(row) for row in held])
        found.append(pair_logprobs(model, encoded, pad_id=pad_id(tokenizer)))
    scored = pair_rows.scores(found[0].tolist(), found[1].tolist(), held["kind"])
    reported = dpo_run.report["pairs"]
    assert scored["accuracy"] == reported["accuracy"]
    for side in ("chosen", "rejected"):
        assert scored[side]["mean"] == pytest.approx(reported[side]["mean"], abs=2e-2)
    assert torch.isfinite(found[1]).all()
