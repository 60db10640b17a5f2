"""The checking habit bites: planted fakes are refused when they run, and found when they are only written down."""

import math
import re

import nbformat
import numpy as np
import pytest
import torch
from equations import problems
from test_house import NOTEBOOKS, ROOT

from instruct_course.verify import check_answer, verify

x = torch.arange(6.0, dtype=torch.float64).view(2, 3)


def test_it_agrees_and_says_so(capsys):
    verify("1.1", x, x.clone() + 1e-12)
    verify("1.2", [1, 2], torch.tensor([1, 2]), atol=0)
    verify("1.3", torch.tensor([math.inf, 1.0]), torch.tensor([math.inf, 1.0]))
    verify("1.4", x.numpy(), x.clone())
    assert capsys.readouterr().out.splitlines() == [
        "(1.1) by hand = by library, error ≤ 1e-10",
        "(1.2) by hand = by library, no difference",
        "(1.3) by hand = by library, error ≤ 1e-10",
        "(1.4) by hand = by library, error ≤ 1e-10",
    ]


@pytest.mark.parametrize(
    "a,b",
    [
        (x, x),
        (x, x.detach()),
        (x, x.view(-1).view(2, 3)),
        (x, x.numpy()),  # one thing twice
        (x, x + 1e-6),
        (1.0, 1.0 + 1e-9),
        ([1.0, 2.0], [1.0, 2.0 + 1e-9]),  # a difference, also of Python's floats
        (x, x[:1]),
        (x, x.sum()),
        (x, x.float()),
        (x.float(), x.half()),
        (x[:0], x[:0].clone()),  # shapes, dtypes, nothing
        (x, x * math.nan),
        (x * math.nan, x * math.nan),
        (x, torch.full((2, 3), math.inf).double()),
        (np.inf, -np.inf),
    ],
)
def test_fakes_are_refused(a, b):
    with pytest.raises(AssertionError):
        verify("1.1", a, b)


HONEST = "import torch\nfrom torch.nn import functional as F\nz = torch.randn(3, 4)\ny = torch.tensor([0, 1, 2])\n"


def cells(*sources, tag=r"$$a = b \tag{1.1}$$"):
    return [nbformat.v4.new_markdown_cell(tag), *map(nbformat.v4.new_code_cell, sources)]


@pytest.mark.parametrize(
    "code",
    [
        'verify("1.1", z.logsumexp(1).sum() - z[range(3), y].sum(), F.cross_entropy(z, y, reduction="sum"))',
        'library = F.cross_entropy(z, y)\nverify("1.1", z[0, 0], library)',
        'z.requires_grad_(True)\nF.cross_entropy(z, y).backward()\nverify("1.1", z.exp() - 1, z.grad)',
        'def loss(a):\n    return F.cross_entropy(a, y)\nverify("1.1", z[0, 0], loss(z))',
        'layer = torch.nn.Linear(4, 4)\nverify("1.1", z @ layer.weight.T + layer.bias, layer(z))',
        'from instruct_course.model.load import load_base\nbase = load_base("nano")\nverify("1.1", z, base.model(z).logits)',
        'p = torch.nn.Parameter(z)\nopt = torch.optim.AdamW([p])\nopt.step()\nverify("1.1", z, p)',
    ],
)
def test_an_honest_check_passes(code):
    assert problems(cells(HONEST, code)) == []


@pytest.mark.parametrize(
    "code",
    [
        'verify("1.1", z, z.clone())',
        'copy = z.clone()\nverify("1.1", z, copy * 1.0)',
        'verify("1.1", z, torch.stack(list(z)))',
        'import copy\nverify("1.1", z, copy.deepcopy(z).double())',
        'def mine(a):\n    return a.exp() / a.exp().sum()\nverify("1.1", mine(z), mine(z.clone()))',
        'from instruct_course.model.attention import attend\nverify("1.1", z, attend(z, z, z)[0])',
        'loss = F.cross_entropy(z, y)\nverify("1.1", loss, loss.clone())',
        'verify("1.1", F.softmax(z, -1), F.softmax(z, -1))',
        'layer = torch.nn.Linear(4, 4)\nverify("1.1", layer.weight, layer.weight.detach().clone())',
    ],
)
def test_a_check_without_a_library_is_found(code):
    (found,) = problems(cells(HONEST, code))
    assert "calls no library" in found


def test_tags_and_checks_without_each_other_are_found():
    check = 'verify("1.1", z[0, 0], F.cross_entropy(z, y))'
    assert problems(cells(HONEST)) == ["(1.1) has 1 equation and 0 checks"]
    assert problems(cells(HONEST, check, tag="no formula")) == ["(1.1) has 0 equations and 1 check"]
    assert problems(cells(HONEST, check, check)) == ["(1.1) has 1 equation and 2 checks"]
    assert problems(cells(HONEST, check, tag=r"$$a \tag{1.1}$$ and $$b \tag{1.1}$$")) == [
        "(1.1) has 2 equations and 1 check"
    ]
    assert problems(cells(HONEST, check, tag=r"$$a \tag{1.1}$$ and $$b$$")) == [
        "a display equation has no tag: b"
    ]
    assert problems(cells(HONEST, "verify(name, z[0, 0], F.cross_entropy(z, y))")) == [
        "a check does not name its equation: verify(name, z[0, 0], F.cross_entropy(z, y))",
        "(1.1) has 1 equation and 0 checks",
    ]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_every_equation_of_a_chapter_has_its_check(path):
    assert problems(nbformat.read(path, as_version=4).cells) == []


def test_the_page_of_equations_lists_every_one():
    """Its table of formulas names each tag of the notebooks, and no other."""
    table = (
        (ROOT / "docs" / "equations.md")
        .read_text(encoding="utf-8")
        .split("| formula | equation |")[1]
        .split("\n\n")[0]
    )
    named = [
        t
        for line in table.splitlines()
        if "|" in line
        for t in re.findall(r"\b\d+\.\d+\b", line.rstrip("| ").split("|")[-1])
    ]
    tags = [
        t
        for path in NOTEBOOKS
        for c in nbformat.read(path, as_version=4).cells
        if c.cell_type == "markdown"
        for t in re.findall(r"\\tag\{([\d.]+)\}", c.source)
    ]
    assert sorted(named) == sorted(tags)


def test_an_exercise_tells_no_answer_right_and_wrong_apart():
    assert check_answer(..., 3).startswith("No answer") and check_answer(None, "x")[:2] == "No"
    assert check_answer(3, 3).startswith("Right") and check_answer(3.0000001, 3)[:5] == "Right"
    assert check_answer(torch.tensor([1.0, 2.0]), [1, 2]).startswith("Right")
    assert check_answer([1, 2, 3], [1, 2]).startswith("Not yet")
    assert check_answer("a", "b", hint="Look at b.") == "Not yet. Look at b. 再想一想。"
    assert check_answer("three", 3).startswith("Not yet")
    assert check_answer({"a": 1}, {"a": 1}).startswith("Right")
    assert check_answer(True, 1.0).startswith("Right") and check_answer(True, False)[:3] == "Not"
