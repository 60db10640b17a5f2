"""`tune --objective grpo --reward instructions`: trained, stopped, resumed, judged, and refused."""

import io
import json

import jsonschema
import pytest
from rich.console import Console

import instruct_course
from instruct_course import verifiable_rows
from instruct_course.common.files import ASSETS
from instruct_course.evaluate import ifeval
from instruct_course.evaluate.ifeval import VerifiablePrompt
from instruct_course.evaluate.show import describe_run

TOPICS = ("bread", "rivers", "snow", "cats", "clocks", "trains", "bees", "books")
COMMAS = "punctuation:no_comma"
OPTIONS = {
    "objective": "grpo",
    "reward": "instructions",
    "holdout": "0.25",
    "max_steps": 3,
    "batch_tokens": 600,
    "group_size": 4,
    "max_completion_length": 12,
    "lr": 3e-4,
    "eval_rows": 6,
    "quiet": True,
}


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def short(topic):
    return {
        "prompt": f"Write about {topic} in a few words without commas.",
        "instruction_id_list": ["length_constraints:number_words", COMMAS],
        "kwargs": [{"relation": "less than", "num_words": 5}, {"num_words": None}],
    }


def sentence(topic):
    checks = [{"name": "sentences", "exactly": 1}]
    return {"instruction": f"One sentence about {topic}.", "lang": "en", "checks": checks}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Sixteen prompts, half in the form of IFEval and half in our own; none has an answer."""
    rows = [form(topic) for topic in TOPICS for form in (short, sentence)]
    return write(tmp_path_factory.mktemp("prompts") / "prompts.jsonl", rows)


@pytest.fixture(scope="module")
def run(file, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "rewarded"
    return instruct_course.tune(data=str(file), out=str(out), **OPTIONS)


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def adapter(path):
    return (path / "adapter" / "adapter_model.safetensors").read_bytes()


def test_the_report_says_how_many_are_followed(run):
    report = read(run.path / "report.json")
    jsonschema.validate(report, read(ASSETS / "schemas" / "report.schema.json"))
    jsonschema.validate(read(run.path / "run.json"), read(ASSETS / "schemas" / "run.schema.json"))
    held = ifeval.read(run.path / ifeval.HELD_OUT)
    assert report["instructions"]["n"] == len(held) == 4
    assert report["before"]["n"] == report["after"]["n"] == 0  # of other rows only the loss
    for when, name in (("before", "base"), ("after", "tuned")):
        said = {sample["instruction"]: sample[name] for sample in report["samples"]}
        scored = ifeval.score([said[prompt.instruction] for prompt in held], held)
        assert report["instructions"][when] == json.loads(json.dumps(scored))
    assert not (run.path / "heldout.jsonl").exists()


def test_the_reward_is_the_share_of_instructions(run):
    """Of 4 answers per prompt with 1 or 2 instructions each: a multiple of an eighth, averaged."""
    lines = (run.path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    for step in map(json.loads, lines):
        jsonschema.validate(step, read(ASSETS / "schemas" / "metrics.schema.json"))
        assert 0 <= step["reward"] <= 1


def test_no_prompt_is_trained_on_and_judged_by(run, file):
    held = {prompt.instruction for prompt in ifeval.read(run.path / ifeval.HELD_OUT)}
    assert run.made["data"]["rows"] == 16 - len(held)
    train = verifiable_rows.load(str(file))
    assert verifiable_rows.fingerprint(train) != run.made["data"]["sha256"]


def test_stopped_and_resumed_bitwise(run, file, tmp_path):
    out = str(tmp_path / "again")

    def stop(record):
        if record["step"] == 2:
            raise RuntimeError("the power fails")

    with pytest.raises(RuntimeError):
        instruct_course.tune(data=str(file), out=out, save_steps=1, on_step=stop, **OPTIONS)
    again = instruct_course.tune(resume=True, out=out, quiet=True)
    assert adapter(again.path) == adapter(run.path)
    assert again.report["instructions"] == run.report["instructions"]


def test_eval_asks_the_held_out_prompts_again(run, command):
    code, out, err = command(
        "eval", "--run", run.path, "--limit", "4", "--max-tokens", "12", "--json"
    )
    assert code == 0, err
    found = json.loads(out)["ifeval"]["tuned"]
    assert found["followed"] == run.report["instructions"]["after"]["followed"]


def test_the_table_shows_it(run):
    console = Console(width=100, file=io.StringIO())
    for part in describe_run(run.report):
        console.print(part)
    shown = console.file.getvalue()
    assert "instructions followed" in shown and "on a few built-in rows" in shown


def test_scores_by_hand():
    commas = {"name": "no_commas"}
    prompts = [
        VerifiablePrompt("a", checks=(commas, {"name": "length", "at_most": 2})),
        VerifiablePrompt("b", checks=(commas,)),
    ]
    found = verifiable_rows.scores(["one, two, three", "yes"], ["one two", "yes"], prompts)
    assert found["before"]["strict"]["checks"] == 1 / 3
    assert found["after"]["strict"]["prompts"] == 1
    assert found["change"]["checks"]["mean"] == pytest.approx(2 / 3)
    assert found["change"]["prompts"]["mean"] > 0
    assert found["n"] == 2


# -- refusals


@pytest.mark.parametrize(
    "bad, says",
    [
        ({"instruction": "Say yes.", "output": "yes"}, "'instruction_id_list' is missing"),
        ({"prompt": "Say yes."}, "'instruction_id_list' is missing"),
        (short("x") | {"instruction_id_list": ["a:b", COMMAS]}, "number 1: no checker knows 'a:b'"),
        (short("x") | {"kwargs": [{"num_words": 3}, {}]}, "needs 'relation'; add it"),
        (sentence("x") | {"checks": [{"name": "sentence"}]}, "there is no checker 'sentence'"),
    ],
)
def test_bad_prompts_are_refused_in_one_sentence(bad, says, tmp_path, command):
    file = write(tmp_path / "bad.jsonl", [short("a"), short("b"), bad])
    code, _, err = tune(command, file, tmp_path)
    assert code == 2
    last = err.strip().splitlines()[-1]
    assert last.startswith("error: ") and "bad.jsonl, row 3: " in last and says in last
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.jsonl"]


def tune(command, file, folder, *more):
    data = ("--data", file) if file else ()
    options = ("--objective", "grpo", "--reward", "instructions", "--out", folder / "run")
    return command("tune", *options, *data, *more)


def test_the_built_in_prompts_are_kept_to_judge_by(tmp_path, command):
    code, _, err = tune(command, None, tmp_path)
    assert code == 2
    assert "--reward instructions: it needs --data with prompts to train on" in err
    code, _, err = tune(command, ASSETS / "ifeval.jsonl", tmp_path)
    assert code == 2
    assert "row 1: this prompt is one of the built-in ones" in err


@pytest.mark.parametrize(
    "more, says",
    [
        (("--columns", "instruction=prompt"), "--columns: verifiable instructions are read"),
        (("--eval-steps", "1"), "--eval-steps: it validates by the loss of expected outputs"),
        (("--max-length", "16"), "row 1: "),
    ],
)
def test_options_that_do_not_go_together(more, says, file, tmp_path, command):
    code, _, err = tune(command, file, tmp_path, *more)
    assert code == 2
    assert says in err
    assert list(tmp_path.iterdir()) == []


def test_rows_without_an_output_are_refused_for_other_rewards(file, tmp_path, command):
    code, _, err = command("tune", "--objective", "grpo", "--data", file, "--out", tmp_path / "run")
    assert code == 2 and "row 1" in err


def test_bad_prompts_may_be_left_out(tmp_path, command):
    rows = [*map(short, TOPICS), short("x") | {"kwargs": [{}, {}]}]
    file = write(tmp_path / "some.jsonl", rows)
    code, out, err = tune(
        command, file, tmp_path, "--skip-bad", "--max-steps", "1", "--group-size", "2",
        "--max-completion-length", "4", "--eval-rows", "0", "--json",
    )  # fmt: skip
    assert code == 0, err
    assert json.loads(out)["instructions"] is None  # nothing was answered
    (bad,) = (tmp_path / "run" / "rejects.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(bad)["row"] == 9
