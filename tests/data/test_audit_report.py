"""An audit on a terminal and on a page."""

import html.parser
import io
import json

import jsonschema
import numpy as np
import pytest
from data import planted
from data.planted import Planted
from PIL import Image
from rich.console import Console

from instruct_course.common.errors import InputError
from instruct_course.common.files import ASSETS
from instruct_course.data import audit_report

SCHEMA = json.loads((ASSETS / "schemas" / "audit.schema.json").read_text(encoding="utf-8"))
EVIL = '</code><script>alert("[red]")</script> TODO'


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Of rows with a grave fault, a note, and text that is markup to rich and to HTML."""
    rows = planted.mixed()
    rows[3]["output"] = f" {EVIL}"
    rows[5]["output"] = "TODO"
    rows[7]["output"] += "\n"
    return planted.audited("bytes", Planted(rows), tmp_path_factory.mktemp("audit"))


def printed(report, width=200):
    console = Console(file=io.StringIO(), width=width, color_system=None)
    audit_report.print_report(report, console)
    return console.file.getvalue()


class Page(html.parser.HTMLParser):
    """Collects tags, attributes and text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.texts = [], [], []
        self.open = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in ("meta", "br", "rect"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def test_the_report_follows_its_schema(report, tmp_path):
    jsonschema.validate(report, SCHEMA)
    jsonschema.validate(json.loads(json.dumps(report)), SCHEMA)
    long = planted.FAULTS["all rows too long"].plant(None)
    jsonschema.validate(planted.audited("bytes", long, tmp_path), SCHEMA)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(report | {"more": 1}, SCHEMA)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(report | {"version": 2}, SCHEMA)


def test_the_terminal_tells_every_finding(report):
    text = printed(report)
    for finding in report["findings"]:
        for part in ("title", "effect", "mend", "key"):
            assert finding[part] in text
        for example in finding["examples"]:
            assert f"row {example['row']}: {example['text']}" in text
    assert "[red]" in text  # a row's text is no markup
    assert "Training will work, and will learn what is listed as harmful too." in text
    assert "█" * audit_report.BAR in text


def test_the_terminal_shows_the_mask(report):
    console = Console(file=io.StringIO(), width=200, color_system="standard", force_terminal=True)
    audit_report.print_report(report, console)
    assert "\x1b[30;42m" in console.file.getvalue()  # black on green


def test_the_page_is_whole_and_loads_nothing(report):
    text = audit_report.page(report)
    page = Page(text)
    assert page.open == []
    assert not {"script", "link", "img", "iframe"} & set(page.tags)
    assert "http" not in text and "url(" not in text and "@import" not in text
    assert not [name for name, _ in page.attributes if name.startswith("on") or name == "src"]
    assert page.tags.count("section") == len(report["findings"])
    assert page.tags.count("svg") == 2
    said = "".join(page.texts)
    for finding in report["findings"]:
        assert finding["title"] in said and finding["mend"] in said
    assert "<script>" in said  # as text


def test_the_page_colours_what_is_supervised(report):
    text = audit_report.page(report)
    marks = [mark for row in report["shown"] for _, mark in row["tokens"]]
    assert text.count('<span class="s">') == marks.count("s") > 0
    assert text.count('<span class="s x">') == marks.count("sx") == len(report["shown"])


def test_bars_are_as_long_as_their_rows(report):
    made = report["lengths"]["row"]
    rows = max(made["counts"])
    assert 'width="400.0" height="14"/><text x="506.0"' in audit_report.page(report)
    assert f"{rows:,}" in printed(report)


def test_verdicts(tmp_path):
    clean = planted.audited("bytes", Planted(planted.uses()), tmp_path)
    assert audit_report.verdict(clean) == "Nothing harmful was found."
    assert "None." in audit_report.page(clean)
    grave = planted.audited("bytes", planted.same(1.0)(None), tmp_path)
    assert audit_report.verdict(grave).startswith("Training on these rows is meaningless")


def test_a_refused_row_has_no_tokens(tmp_path):
    made = planted.FAULTS["all rows too long"].plant(None)
    report = planted.audited("bytes", made, tmp_path)
    assert "it has no tokens: it was refused" in printed(report)
    assert "it has no tokens: it was refused" in audit_report.page(report)


def test_a_page_that_cannot_be_written(report, tmp_path):
    with pytest.raises(InputError, match="--html .*: it cannot be written"):
        audit_report.write_page(tmp_path / "none" / "audit.html", report)
    assert list(tmp_path.iterdir()) == []


def test_the_picture_shows_each_row_and_green_where_it_is_supervised(report, tmp_path):
    path = tmp_path / "rows.png"
    audit_report.write_picture(path, report)
    shown = np.asarray(Image.open(path))
    one = np.asarray(audit_report.picture(report | {"shown": report["shown"][:1]}))
    assert shown.shape[1:] == (1296, 4) and shown.shape[0] > one.shape[0]
    assert (shown[: one.shape[0]] == one).all()
    green = (shown[..., :3] == (0x9A, 0xD6, 0xA4)).all(-1)
    assert green.sum() > 1000
    masked = [
        row | {"tokens": [[text, ""] for text, _ in row["tokens"]]} for row in report["shown"]
    ]
    none = audit_report.picture(report | {"shown": masked})
    assert not (none[..., :3] == (0x9A, 0xD6, 0xA4)).all(-1).any()


def test_a_picture_that_cannot_be_written(report, tmp_path):
    with pytest.raises(InputError, match="--picture .*nowhere.*a folder that exists"):
        audit_report.write_picture(tmp_path / "nowhere" / "rows.png", report)
