"""Numbers in prose agree with the outputs above them."""

import json

import nbformat.v4 as v4
import pytest

from tools import prose
from tools.export import notebooks


def page(*cells):
    """A notebook of Markdown cells (texts) and code cells ((source, what it printed))."""
    made = v4.new_notebook()
    for i, cell in enumerate(cells):
        if isinstance(cell, str):
            made.cells.append(v4.new_markdown_cell(cell, id=f"c{i}"))
        else:
            source, text = cell
            outputs = [v4.new_output("stream", text=text)]
            made.cells.append(v4.new_code_cell(source, outputs=outputs, id=f"c{i}"))
    return made


@pytest.mark.parametrize(
    "said, shown, agree",
    [
        ("It falls to 0.38.", "loss 0.3812", True),
        ("It falls to 0.39.", "loss 0.3812", False),
        ("About 38 % are right.", "share 0.3812", True),
        ("About 37 % are right.", "share 0.3812", False),
        ("There are 4,154 tokens.", "4154", True),
        ("There are 4,155 tokens.", "4154", False),
        ("Some 4,200 tokens.", "4154", True),
        ("Some 4,300 tokens.", "4154", False),
        ("It takes 62.3 GB.", "62,312,345,678 bytes", True),
        ("It takes 63.3 GB.", "62,312,345,678 bytes", False),
        ("All 13 rows.", "14 rows", False),
    ],
)
def test_a_number_is_paired_by_rounding(said, shown, agree):
    found = prose.unpaired(page(("x", shown), said))
    assert (found == {}) is agree


def test_only_outputs_above_count_and_code_counts():
    assert prose.unpaired(page("It is 77.", ("x", "77"))) == {"c0": ["77"]}
    assert prose.unpaired(page(("n = 77", ""), "It is 77.")) == {}


def test_what_is_no_claim_is_left_out():
    source = (
        "# 77 things\n\nSee [this](a.ipynb#88), lesson 13, equation 3.14, (7.15), chapters 14 and "
        "15; "
        "`code 99`, $x_{66}$, $$55$$ in 2023, arXiv 2106.09685, three or 12 rows, GPT-4o, H100."
    )
    assert prose.prose_numbers(source) == []
    assert prose.prose_numbers("1. First, 25 rows, 40, and 1,000.5.") == ["25", "40", "1,000.5"]


def test_the_numbers_of_all_prose_are_paired_or_allowed():
    found = prose.all_unpaired(notebooks())
    allowed = json.loads(prose.ALLOWED.read_text(encoding="utf-8"))
    assert prose.left_over(found, allowed) == [], "no output above says these"
    assert prose.left_over(allowed, found) == [], "these need not be allowed"
