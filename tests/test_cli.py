"""The command line is made from the options, and the page of options too."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from instruct_course import config, reward_config
from instruct_course.common.errors import InputError
from instruct_course.common.options import check_options, flag
from tools.options import command_of, kinds

ROOT = Path(__file__).parents[1]
KINDS = kinds()


@pytest.mark.parametrize("kind", KINDS, ids=command_of)
def test_every_option_is_on_the_command_line_with_its_help(kind, command):
    code, out, _ = command(*command_of(kind).split(), "--help")
    said = " ".join(out.split())
    assert code == 0
    for declared in dataclasses.fields(kind):
        name = declared.name if declared.metadata["positional"] else flag(declared.name)
        assert name.lower() in said.lower(), name
        help = "".join(declared.metadata["help"].split())
        assert help in "".join(out.split()), declared.name


def test_help_names_all_commands_whole(command):
    code, out, _ = command("--help")
    assert code == 0
    for kind in KINDS:
        group, *rest = command_of(kind).split()
        assert f"\n  {group} " in out
        if rest:
            assert f"\n  {rest[0]} " in command(group, "--help")[1]


@pytest.mark.parametrize(
    "made, says",
    [
        (
            config.TuneConfig(lora_dropout=1.0),
            "--lora-dropout 1.0: it must be at least 0 and below 1",
        ),
        (config.TuneConfig(epochs=0), "--epochs 0: it must be above 0 and at most 1000"),
        (config.TuneConfig(schedule="step"), "--schedule step: it must be one of linear, cosine"),
        (
            config.ServeConfig(run="r", port=70000),
            "--port 70000: it must be at least 0 and at most",
        ),
        (
            config.ExportConfig(run="r", out="o", format="zip"),
            "--format zip: it must be one of gguf",
        ),
        (config.PlanConfig(model="7b", price=0), "--price 0: it must be above 0"),
        (
            reward_config.RewardBestConfig(run="r", reward="w", data="d", n=65),
            "--n 65: it must be at least 1 and at most 64",
        ),
    ],
)
def test_ranges_are_checked_in_one_place(made, says):
    with pytest.raises(InputError, match=says):
        check_options(made)


def test_none_is_always_in_range():
    check_options(config.TuneConfig(epochs=None, template=None, limit=None))


def test_the_page_of_options_is_in_step():
    done = subprocess.run(
        [sys.executable, "-m", "tools.options", "--check"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
