"""Reward models from the command line: trained, stopped and gone on with, asked, and refused."""

import json
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch

import instruct_course
from instruct_course import reward
from instruct_course.common.errors import InputError
from instruct_course.common.files import ASSETS
from instruct_course.data.dataset import builtin
from instruct_course.evaluate.metrics import exact_match
from instruct_course.objectives.best_of import kl_bound
from instruct_course.objectives.pair_scores import mean_score
from instruct_course.objectives.reward import pair_accuracy
from instruct_course.reward.scoring import QuestionReader

FILES = {
    "adapter",
    "reward_head.safetensors",
    "template.json",
    "run.json",
    "run.yaml",
    "metrics.jsonl",
    "curves.png",
    "report.json",
    "heldout.jsonl",
}
SETTINGS = {"holdout": "0.2", "max_steps": 5, "noise": "neftune:5", "save_steps": 2, "seed": 3}


def read(path):
    return json.loads(Path(path).read_text(encoding="utf-8"))


def lines(path):
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def schema(name):
    return read(ASSETS / "schemas" / f"{name}.schema.json")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """The first 64 built-in pairs as a user's file."""
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    text = (ASSETS / "preferences" / "train.jsonl").read_text(encoding="utf-8")
    path.write_text("".join(text.splitlines(keepends=True)[:64]), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    kept = ("instruction", "input", "output")
    made = [{k: r[k] for k in kept} for r in builtin("train").select(range(60))]
    path.write_text("".join(json.dumps(r) + "\n" for r in made), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def judge(pairs, tmp_path_factory):
    """A finished run of a reward model."""
    out = tmp_path_factory.mktemp("judge") / "whole"
    return reward.train(data=str(pairs), out=str(out), quiet=True, **SETTINGS)


@pytest.fixture(scope="module")
def tuned(rows, tmp_path_factory):
    """A finished run that answers."""
    out = tmp_path_factory.mktemp("tuned") / "t"
    options = {"holdout": "0.2", "max_steps": 8, "eval_rows": 0, "quiet": True}
    return instruct_course.tune(data=str(rows), out=str(out), **options)


def weights(path):
    """The bytes of what was learnt."""
    names = ("adapter/adapter_model.safetensors", "reward_head.safetensors")
    return [(Path(path) / name).read_bytes() for name in names]


# -- training


def test_a_run_directory_is_whole_and_follows_its_schemas(judge):
    assert {p.name for p in judge.path.iterdir()} == FILES
    jsonschema.validate(read(judge.path / "report.json"), schema("reward_report"))
    jsonschema.validate(read(judge.path / "run.json"), schema("run"))
    history = lines(judge.path / "metrics.jsonl")
    for record in history:
        jsonschema.validate(record, schema("metrics"))
    assert [record["step"] for record in history] == [1, 2, 3, 4, 5]
    text = (judge.path / "run.yaml").read_text(encoding="utf-8")
    assert "data:\n- pairs.jsonl\n" in text and "turns" not in text


def test_the_report_says_what_scoring_the_held_out_pairs_says(judge, pairs, tmp_path):
    """The held-out pairs lie beside the run, and are scored from there."""
    from instruct_course.data.pairs import load_pairs, pairs_fingerprint, split_pairs

    _, held = split_pairs(load_pairs(str(pairs)), "0.2", seed=SETTINGS["seed"])
    path = tmp_path / "held.jsonl"
    path.write_bytes((judge.path / "heldout.jsonl").read_bytes())
    assert pairs_fingerprint(load_pairs(path)) == pairs_fingerprint(held)
    summary = reward.score(run=str(judge.path), data=str(path), quiet=True)
    report = judge.report["held_out"]
    assert summary["n"] == report["n"] == len(held) and summary["kind"] == "pairs"
    assert summary["by_kind"].keys() == report["by_kind"].keys()
    for side in ("chosen", "rejected"):
        assert summary[side]["mean"] == pytest.approx(report[side]["mean"], abs=1e-4)
    scored = lines(tmp_path / "held.rewards.jsonl")
    both = torch.tensor([[line["chosen"], line["rejected"]] for line in scored])
    assert summary["accuracy"]["value"] == pair_accuracy(*both.unbind(1))
    assert summary["accuracy"] == mean_score((both[:, 0] > both[:, 1]).tolist())


def test_training_ranks_the_pairs_that_it_saw(pairs, tmp_path):
    """More steps on few pairs: the loss falls far below that of a coin, ln 2."""
    run = reward.train(
        data=str(pairs), out=str(tmp_path / "r"), limit=12, max_steps=40, quiet=True, lr=3e-3
    )
    history = lines(run.path / "metrics.jsonl")
    assert abs(history[0]["loss"] - np.log(2)) < 0.1
    assert np.mean([record["loss"] for record in history[-5:]]) < 0.2
    assert np.mean([record["pair_accuracy"] for record in history[-5:]]) > 0.9


def test_a_broken_run_resumes_to_the_same_bits(judge, pairs, tmp_path, command):
    def stop(record):
        if record["step"] == 4:
            raise RuntimeError("the machine is gone")

    out = tmp_path / "r"
    with pytest.raises(RuntimeError):
        reward.train(data=str(pairs), out=str(out), quiet=True, on_step=stop, **SETTINGS)
    assert [p.name for p in tmp_path.iterdir()] == ["r.unfinished"]
    code, _, err = command("reward", "score", "--run", out, "--data", pairs)
    assert code == 2 and f"go on with reward train --resume --out {out}" in err
    code, _, err = command("tune", "--resume", "--out", out)
    assert code == 2 and "is a run of reward train; go on with" in err
    code, _, err = command("reward", "train", "--resume", "--out", out, "--lr", "0.5")
    assert code == 2 and "--lr 0.5: the unfinished run was begun with 0.001" in err
    code, text, err = command("reward", "train", "--resume", "--out", out)
    assert code == 0 and "going on after step 2 of 5" in err, err
    assert "control: the" in text and [p.name for p in tmp_path.iterdir()] == ["r"]
    assert weights(out) == weights(judge.path)
    assert read(out / "report.json")["held_out"] == judge.report["held_out"]


def test_ctrl_c_keeps_what_was_learnt(pairs, tmp_path):
    def stop(record):
        if record["step"] == 3:
            raise KeyboardInterrupt

    out = tmp_path / "r"
    run = reward.train(data=str(pairs), out=str(out), quiet=True, on_step=stop, **SETTINGS)
    assert run.report["stopped"] and run.report["steps"] == 3
    jsonschema.validate(run.report, schema("reward_report"))


def test_run_yaml_makes_the_run_again_bitwise(judge, pairs, tmp_path, monkeypatch, command):
    monkeypatch.chdir(pairs.parent)
    file = judge.path / "run.yaml"
    code, out, err = command("reward", "train", "--config", file, "--out", tmp_path / "b", "--json")
    assert code == 0, err
    assert json.loads(out)["held_out"] == judge.report["held_out"]
    assert weights(tmp_path / "b") == weights(judge.path)
    assert (tmp_path / "b" / "run.yaml").read_bytes() == file.read_bytes()


def test_the_built_in_pairs_are_the_default(tmp_path, command):
    out = tmp_path / "r"
    args = ("--limit", "64", "--max-steps", "1", "--out", out, "--json")
    code, text, err = command("reward", "train", *args)
    assert code == 0, err
    report = json.loads(text)
    held = report["held_out"]
    assert held["n"] == 432 and report["train_pairs"] == 64
    assert set(held["by_kind"]) == {"wrong", "off_task", "cut", "language", "repeated", "long"}
    assert sum(kind["n"] for kind in held["by_kind"].values()) == 432
    # a property of the pairs, not of the model
    assert held["length_only"]["accuracy"]["value"] == pytest.approx(0.646, abs=0.001)


# -- rewards of a file


def test_scores_are_those_of_plain_transformers_and_a_head_by_hand(judge, rows, tmp_path, command):
    """PEFT loads the adapter, safetensors the head, and each row goes alone."""
    from peft import PeftModel
    from safetensors.torch import load_file

    from instruct_course.data import dataset
    from instruct_course.data import template as templates
    from instruct_course.model.load import load_base
    from instruct_course.objectives.reward import RewardHead, row_rewards
    from instruct_course.train.batch import collate

    out = tmp_path / "rewards.jsonl"
    args = ("--run", judge.path, "--data", rows, "--limit", "10", "--out", out, "--json")
    code, text, err = command("reward", "score", *args)
    assert code == 0, err
    base = load_base("nano")
    template = templates.read(judge.path / "template.json")
    model = PeftModel.from_pretrained(base.model, str(judge.path / "adapter")).eval()
    head = RewardHead(base.model.config.hidden_size)
    head.load_state_dict(load_file(judge.path / "reward_head.safetensors"))
    found = lines(out)
    for line, row in zip(found, dataset.load(rows), strict=False):
        jsonschema.validate(line, schema("reward_score"))
        encoded = templates.encode(template, base.tokenizer, dataset.example(row))
        with torch.no_grad():
            alone = row_rewards(model, head, collate([encoded], 0)).item()
        assert line["reward"] == pytest.approx(alone, abs=2e-4)
        assert (line["file"], line["row"]) == (str(rows), row["row"])
    summary = json.loads(text)
    assert summary["n"] == len(found) == 10 and summary["left_out"] == 0
    assert summary["rewards"]["value"] == pytest.approx(np.mean([x["reward"] for x in found]))


def test_scores_are_the_same_for_any_batch_size_and_every_time(judge, rows, tmp_path):
    found = []
    for i, batch_tokens in enumerate((4096, 4096, 64)):
        out = tmp_path / f"{i}.jsonl"
        options = {"run": str(judge.path), "data": str(rows), "out": str(out), "quiet": True}
        reward.score(batch_tokens=batch_tokens, **options)
        found.append(out.read_bytes())
    assert found[0] == found[1]
    a, b = ([line["reward"] for line in lines(tmp_path / f"{i}.jsonl")] for i in (0, 2))
    assert a == pytest.approx(b, abs=2e-4)


def test_bad_rows_are_left_out_and_counted(judge, tmp_path, command):
    path = tmp_path / "answers.jsonl"
    good = {"instruction": "Say yes.", "output": "yes"}
    long = {"instruction": "no " * 2000, "output": "no"}
    rows = (good, {"instruction": "Say no."}, long, good)
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    code, _, err = command("reward", "score", "--run", judge.path, "--data", path)
    assert code == 2 and f"{path}, row 2" in err and "--skip-bad" in err
    assert [p.name for p in tmp_path.iterdir()] == ["answers.jsonl"]
    args = ("--run", judge.path, "--data", path, "--skip-bad")
    code, out, err = command("reward", "score", *args)
    assert code == 0 and "2 bad rows are left out" in out, err
    scored = lines(tmp_path / "answers.rewards.jsonl")
    assert [line["row"] for line in scored] == [1, 4]
    assert scored[0]["reward"] == pytest.approx(scored[1]["reward"], abs=1e-5)
    code, _, err = command("reward", "score", *args)
    assert code == 2 and "already exists; name another file" in err


# -- the best of n


@pytest.fixture(scope="module")
def best(tuned, judge, rows, tmp_path_factory):
    """(summary, lines) of the best of 4 of 6 questions."""
    out = tmp_path_factory.mktemp("best") / "best.jsonl"
    summary = reward.best(
        run=str(tuned.path),
        reward=str(judge.path),
        data=str(rows),
        n=4,
        limit=6,
        max_tokens=12,
        out=str(out),
        quiet=True,
    )
    return summary, lines(out)


def test_the_best_answer_has_the_highest_reward(best):
    _, found = best
    assert len(found) == 6
    for line in found:
        jsonschema.validate(line, schema("reward_best"))
        rewards = [answer["reward"] for answer in line["answers"]]
        assert len(rewards) == 4 and line["reward"] == max(rewards)
        assert line["best"] == line["answers"][np.argmax(rewards)]["text"]
    assert len({answer["text"] for answer in found[0]["answers"]}) > 1


def test_the_summary_says_what_the_lines_say(best):
    summary, found = best
    rewards = np.array([[answer["reward"] for answer in line["answers"]] for line in found])
    curve = summary["curve"]
    assert [point["k"] for point in curve] == [1, 2, 4]
    assert [point["kl_bound"] for point in curve] == [kl_bound(k) for k in (1, 2, 4)]
    means = [point["reward"]["value"] for point in curve]
    assert means[0] == pytest.approx(rewards.mean()) and means[2] == pytest.approx(
        rewards.max(1).mean()
    )
    assert means[0] < means[1] < means[2]
    change = summary["reward"]
    assert change["mean"] == pytest.approx(means[2] - means[0]) and change["n"] == 6
    assert 0 <= change["interval"][0] <= change["mean"] <= change["interval"][1]
    right = [
        [exact_match(answer["text"], line["expected"]) for answer in line["answers"]]
        for line in found
    ]
    assert curve[0]["exact_match"]["value"] == pytest.approx(np.mean(right))


def test_the_rewards_are_those_that_score_gives(best, judge, tmp_path):
    _, found = best
    path = tmp_path / "best.jsonl"
    with path.open("w", encoding="utf-8") as file:
        kept = [line for line in found if line["best"]]
        for line in kept:
            row = {key: line[key] for key in ("instruction", "input")}
            file.write(json.dumps(row | {"output": line["best"]}) + "\n")
    reward.score(run=str(judge.path), data=str(path), quiet=True)
    scored = [line["reward"] for line in lines(tmp_path / "best.rewards.jsonl")]
    assert scored == pytest.approx([line["reward"] for line in kept], abs=2e-4) and len(kept) > 2


def test_questions_without_outputs_have_no_exact_match(tuned, judge, tmp_path, command):
    path = tmp_path / "asked.jsonl"
    path.write_text('{"instruction": "Count the words.", "input": "a b"}\n', encoding="utf-8")
    args = ("--run", tuned.path, "--reward", judge.path, "--data", path, "--n", 1)
    args += ("--max-tokens", "8", "--json")
    code, out, err = command("reward", "best", *args)
    assert code == 0, err
    summary = json.loads(out)
    assert summary["exact_match"] is None and summary["curve"][0]["exact_match"] is None
    assert summary["reward"]["mean"] == 0 and len(summary["curve"]) == 1
    (line,) = lines(tmp_path / "asked.best.jsonl")
    assert line["expected"] == "" and line["instruction"] == "Count the words."


CHAT = [{"role": "user", "content": "Count the words."}]
SAID = {"role": "assistant", "content": "Three."}


def test_a_chat_that_ends_with_a_question_is_answered(tuned, judge, tmp_path):
    path = tmp_path / "chats.jsonl"
    sharegpt = [{"from": "human", "value": "Count the words."}]
    rows = [{"messages": CHAT}, {"prompt": CHAT}, {"conversations": sharegpt}]
    rows.append({"messages": [*CHAT, SAID]})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    options = {"run": str(tuned.path), "reward": str(judge.path), "n": 2, "max_tokens": 6}
    reward.best(data=str(path), quiet=True, **options)
    found = lines(tmp_path / "chats.best.jsonl")
    assert [line["instruction"] for line in found] == ["Count the words."] * 4
    assert [line["expected"] for line in found] == ["", "", "", "Three."]
    assert {answer["reason"] for line in found for answer in line["answers"]} <= {"end", "length"}


def test_the_last_turn_of_the_user_is_the_question():
    turns = [{"role": "system", "content": "Be brief."}, *CHAT, SAID, *CHAT]
    made = QuestionReader().parse({"messages": turns})
    assert (made.instruction, made.output, made.system) == ("Count the words.", "", "Be brief.")
    assert [turn.content for turn in made.history] == ["Count the words.", "Three."]
    answered = QuestionReader().parse({"messages": [*turns, SAID]})
    assert answered.output == "Three." and len(answered.history) == 2


# -- refusals


@pytest.mark.parametrize("args", [("chat", "--prompt", "hi"), ("eval",), ("merge",), ("export",)])
def test_a_reward_model_answers_nothing(judge, tmp_path, command, args):
    more = ("--out", tmp_path / "x") if args[0] in ("merge", "export") else ()
    code, out, err = command(*args, "--run", judge.path, *more)
    assert code == 2 and not out
    assert "this is a reward model, which answers nothing; name a run directory that tune" in err
    assert list(tmp_path.iterdir()) == []


def test_a_reward_model_is_not_served(judge):
    from instruct_course.deploy.serve.queue import open_model

    with pytest.raises(InputError, match="this is a reward model, which answers nothing"):
        open_model(judge.path)


def test_a_tuned_model_does_not_judge(tuned, judge, rows, tmp_path, command):
    code, _, err = command("reward", "score", "--run", tuned.path, "--data", rows)
    assert code == 2 and f"--run {tuned.path}: this run has no reward head" in err
    args = ("--run", tuned.path, "--reward", tuned.path, "--data", rows)
    code, _, err = command("reward", "best", *args)
    assert code == 2 and f"--reward {tuned.path}: this run has no reward head" in err
    args = ("--run", judge.path, "--reward", judge.path, "--data", rows)
    code, _, err = command("reward", "best", *args)
    assert code == 2 and f"--run {judge.path}: this is a reward model" in err
    assert not list(rows.parent.glob("*.best.jsonl"))


@pytest.mark.parametrize(
    "args, says",
    [
        (("--lr", "0"), "--lr 0.0: it must be above 0"),
        (("--holdout", "0.1"), "--holdout: the built-in rows have their own"),
        (("--data", "nowhere.jsonl"), "nowhere.jsonl: there is no such file"),
        (("--resume", "--out", "nowhere"), "there is no unfinished run in nowhere.unfinished"),
    ],
)
def test_bad_options_are_named(tmp_path, monkeypatch, command, args, says):
    monkeypatch.chdir(tmp_path)
    code, out, err = command("reward", "train", *args)
    assert code == 2 and says in err and not out and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "row, says",
    [
        ({"prompt": "a", "chosen": "b", "rejected": "b"}, "are the same answer"),
        ({"prompt": "a", "chosen": "b", "rejected": ""}, "the field 'rejected' is empty"),
        ({"chosen": "b", "rejected": "c"}, "the prompt is missing"),
    ],
)
def test_bad_pairs_are_one_sentence_and_leave_nothing(tmp_path, command, row, says):
    path = tmp_path / "p.jsonl"
    path.write_text(f"{json.dumps(row)}\n", encoding="utf-8")
    code, _, err = command("reward", "train", "--data", path, "--out", tmp_path / "r")
    assert code == 2 and f"{path}, row 1: " in err and says in err and "Traceback" not in err
    assert [p.name for p in tmp_path.iterdir()] == ["p.jsonl"]


def test_a_model_that_changes_its_logits_is_refused():
    """The state before the head is out of reach there, so the head would read logits."""
    from types import SimpleNamespace

    from instruct_course.reward import training

    config = SimpleNamespace(final_logit_softcapping=30.0)
    base = SimpleNamespace(model=SimpleNamespace(config=config))
    job = SimpleNamespace(config=SimpleNamespace(model="gemma"))
    with pytest.raises(InputError, match="--model gemma: its config has final_logit_softcapping"):
        training.attach(job, SimpleNamespace(base=base))


@pytest.mark.parametrize(
    "data, out, says",
    [
        ("nowhere.jsonl", None, "there is no such file"),
        (".", None, "this is not one file; name the file to write with --out"),
        ("a.jsonl", "no/b.jsonl", "there is no folder no"),
    ],
)
def test_where_rewards_go_is_known_before_any_work(tmp_path, monkeypatch, data, out, says):
    monkeypatch.chdir(tmp_path)
    Path("a.jsonl").write_text("{}\n", encoding="utf-8")
    with pytest.raises(InputError, match=says):
        reward.score(run="no run", data=data, out=out, quiet=True)
