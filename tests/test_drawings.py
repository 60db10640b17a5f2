"""The drawings: files are what tools/drawings makes, legible, and they say what the code does."""

import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from instruct_course.common.drawings import drawing, names
from instruct_course.common.errors import InputError
from instruct_course.common.files import ASSETS
from instruct_course.common.text import HAN
from tools.drawings import canvas, data, deploy, registry, training

ROOT = Path(__file__).parents[1]
SVG = "{http://www.w3.org/2000/svg}"
FUNCTIONS = registry.functions()
each = pytest.mark.parametrize("name", sorted(FUNCTIONS))


def file_text(name: str) -> str:
    return (registry.FOLDER / f"{name}.svg").read_text(encoding="utf-8")


def texts(name: str) -> list[ET.Element]:
    return list(ET.fromstring(file_text(name)).iter(f"{SVG}text"))


@each
def test_the_file_is_what_the_function_draws(name):
    assert file_text(name) == FUNCTIONS[name]().svg()


def test_no_file_without_a_function():
    assert sorted(path.name for path in registry.FOLDER.iterdir()) == sorted(
        f"{name}.svg" for name in FUNCTIONS
    )


def test_check_names_what_differs(tmp_path, monkeypatch, capsys):
    from tools.drawings import __main__ as command

    monkeypatch.setattr(command, "FOLDER", tmp_path)
    monkeypatch.setattr("sys.argv", ["drawings", "top-p"])
    assert command.main() == 0 and (tmp_path / "top-p.svg").exists()
    monkeypatch.setattr("sys.argv", ["drawings", "top-p", "--check"])
    assert command.main() == 0
    (tmp_path / "top-p.svg").write_text("<svg/>")
    capsys.readouterr()
    assert command.main() == 1
    assert capsys.readouterr().out == "top-p.svg\n"
    assert (tmp_path / "top-p.svg").read_text() == "<svg/>"


@each
def test_title_and_description(name):
    root = ET.fromstring(file_text(name))
    assert root.get("role") == "img"
    first, second = list(root)[:2]
    assert (first.tag, second.tag) == (f"{SVG}title", f"{SVG}desc")
    assert first.text.strip() and len(second.text) > 60


@each
def test_english_and_chinese(name):
    written = " ".join("".join(t.itertext()) for t in texts(name))
    assert re.search(f"[{HAN}]", written) and re.search("[a-z]{3}", written)


@each
def test_nothing_runs_or_is_fetched(name):
    text = file_text(name).replace('xmlns="http://www.w3.org/2000/svg"', "")
    found = re.search(r"<script|<style|href|url\(|https?:|\bid=|\bon\w+=|<foreignObject", text)
    assert found is None


@each
def test_only_colours_of_the_palette(name):
    used = set(re.findall(r'(?:fill|stroke)="([^"]*)"', file_text(name)))
    assert used - {"none"} <= canvas.PALETTE
    assert not re.search(
        r"#[0-9a-fA-F]{3,8}\b", re.sub(r'(fill|stroke)="#\w+"', "", file_text(name))
    )


@each
def test_sizes(name):
    root = ET.fromstring(file_text(name))
    x, y, width, height = map(float, root.get("viewBox").split())
    assert (x, y) == (0, 0) and 700 <= width <= 900 and height <= 760
    assert min(float(t.get("font-size")) for t in texts(name)) * 800 / width >= 13 - 1e-9


def estimated_width(written: str, size: float, t: ET.Element) -> float:
    """1 em per Chinese character, 0.6 em per other one; in a proportional type narrow ones less."""
    narrow = 0 if t.get("font-family") else sum(c in "iljtf.,:;'|!()[] I" for c in written)
    wide = canvas.text_width(written, size) - 0.2 * size * narrow
    return wide * (1.08 if t.get("font-weight") else 1)


@each
def test_texts_stay_on_the_panel(name):
    _, _, width, height = map(float, ET.fromstring(file_text(name)).get("viewBox").split())
    for t in texts(name):
        written, size = "".join(t.itertext()), float(t.get("font-size"))
        wide = estimated_width(written, size, t)
        left = (
            float(t.get("x")) - {"start": 0, "middle": wide / 2, "end": wide}[t.get("text-anchor")]
        )
        assert left >= 4 and left + wide <= width - 4, written
        assert size <= float(t.get("y")) <= height - 4, written


@each
def test_the_lessons_can_show_it(name):
    assert name in names()
    assert drawing(name).data.startswith("<svg")


def test_an_unknown_name():
    with pytest.raises(InputError, match="there is none; take one of .*six-steps"):
        drawing("seven-steps")


def test_two_drawings_of_one_name():
    with pytest.raises(ValueError, match="two drawings are called top-p"):
        registry.register("top-p")(lambda: None)


def test_scripts_return_to_the_line():
    written = canvas.scripts("x_{1} … x_{2}^{a} b", 20)
    shifts = [float(dy) for dy in re.findall(r'dy="([^"]*)"', written)]
    assert sum(shifts) == 0
    assert shifts[0] == 5 and shifts[2] == 5


# ---- what they say


def test_the_row_is_encoded_as_drawn():
    from transformers import AutoTokenizer

    from instruct_course.data import template as templates
    from instruct_course.data.example import Example

    tokenizer = AutoTokenizer.from_pretrained(ASSETS / "nano")
    template = templates.named("article")
    templates.prepare(template, tokenizer)
    row = templates.encode(
        template, tokenizer, Example("翻译成英文。", input="大猫", output="A big cat.")
    )
    assert row.ids == data.PROMPT_IDS + data.RESPONSE_IDS
    assert row.labels == [-100] * len(data.PROMPT_IDS) + data.RESPONSE_IDS
    words = [tokenizer.decode([i]).replace(" ", "␣") for i in row.ids]
    assert words == data.PROMPT + data.RESPONSE


def printed(notebook: str) -> str:
    cells = json.loads((ROOT / "nbs" / notebook).read_text(encoding="utf-8"))["cells"]
    outputs = [out for cell in cells for out in cell.get("outputs", [])]
    return "".join("".join(out.get("text", "")) for out in outputs if "text" in out)


def test_memory_is_what_the_notebook_traced():
    said = re.findall(r"\{'4-bit weights'.*?\}", printed("workshop/13_memory.ipynb"))
    traced = [[float(v) for v in re.findall(r": ([\d.]+)", line)] for line in said]
    for (_, _, drawn), parts in zip(training.SETTINGS, traced, strict=True):
        weights, tables, adapters, optimizer, gradients, activations, working = parts
        trained = adapters + optimizer + gradients
        assert drawn == pytest.approx([weights, tables, trained, activations, working])


def test_losses_of_merges_are_what_the_notebook_measured():
    said = re.findall(r"(\w+) +loss ([\d.]+) +KL", printed("workshop/12_variants.ipynb"))
    assert dict(said) == {
        "trained": deploy.LOSSES[0],
        **dict(zip(("dequantized", "16bit", "4bit"), deploy.LOSSES)),
    }


def test_the_weight_of_three_merges_is_rounded_as_drawn():
    import torch

    from instruct_course.model.nf4 import NF4_LEVELS

    def nearest(value):
        return NF4_LEVELS[(NF4_LEVELS - value).abs().argmin()].item()

    drawn = torch.tensor(deploy.LEVELS)
    start = int((NF4_LEVELS - drawn[0]).abs().argmin())
    assert torch.allclose(NF4_LEVELS[start : start + 3], drawn, atol=5e-5)
    level = deploy.LEVELS[1]
    assert nearest(deploy.WEIGHT) == pytest.approx(level, abs=5e-5)
    assert nearest(level + deploy.CHANGE) == pytest.approx(level, abs=5e-5)


def test_paired_intervals_say_what_they_show():
    from scipy import stats

    tuned = [a + gain for a, gain in zip(deploy.BASE, deploy.GAIN)]
    base_interval, tuned_interval, gain_interval = (
        deploy.mean_interval(values) for values in (deploy.BASE, tuned, deploy.GAIN)
    )
    assert base_interval[2] > tuned_interval[0]
    assert gain_interval[0] > 0
    library = stats.ttest_rel(tuned, deploy.BASE).confidence_interval(0.95)
    assert gain_interval[::2] == pytest.approx(tuple(library), abs=1e-4)


def test_the_packed_batch_is_as_long_as_drawn():
    from instruct_course.data.template import Encoded
    from instruct_course.train.batch import pack

    rows = []
    for i, length in enumerate(training.LENGTHS):
        own = [100 * (i + 1) + j for j in range(length)]
        ids = [*range(2, 2 + training.PREFIX), *own]
        rows.append(Encoded(ids, [-100] * (len(ids) - 2) + ids[-2:]))
    batch = pack(rows)
    assert batch.prefix_length == training.PREFIX
    assert batch.input_ids.shape[1] == training.PREFIX + sum(training.LENGTHS)
    own = [training.PREFIX + j for length in training.LENGTHS for j in range(length)]
    assert batch.position_ids[0].tolist() == [*range(training.PREFIX), *own]
