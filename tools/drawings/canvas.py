"""A canvas for drawings: one palette, a few sizes of type, and primitives that give SVG.

Coordinates are pixels at the drawing's own width (800 unless told), y grows downwards. The text
of a formula may hold `_{...}` and `^{...}`: "h_{i}W^{V}". Nothing in the SVG has an id, and there
is no style sheet, so that several drawings can stand in one page.
"""

import math
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape, quoteattr

INK = "#1f2933"
GREY = "#55616f"
RULE = "#9aa5b1"
PANEL = "#f7f8fa"
WHITE = "#ffffff"

# role: (fill, edge); the edge is dark enough for text on the panel and on the fill
ROLES = {
    "instruction": ("#cfe3fb", "#1f5a9c"),
    "input": ("#fbe7b5", "#7d5200"),
    "output": ("#cbecd5", "#1e6b43"),
    "template": ("#e3daf7", "#5b3aad"),
    "frozen": ("#d9e0e8", "#4a5a6d"),
    "trained": ("#fcd3c8", "#ab3a0b"),
    "neutral": (WHITE, GREY),
    "pad": (PANEL, RULE),
}
COLOURS = {"ink": INK, "grey": GREY, "rule": RULE, "panel": PANEL, "white": WHITE}
PALETTE = {*COLOURS.values(), *(colour for pair in ROLES.values() for colour in pair)}

HEADING = 21  # of the drawing
LABEL = 17  # names of things
SMALL = 15  # Chinese under English, remarks
TINY = 13  # numbers in cells; nothing is smaller

SANS = (
    "Helvetica, Arial, 'Noto Sans CJK SC', 'Microsoft YaHei', 'PingFang SC',"
    " 'Droid Sans Fallback', sans-serif"
)
MONO = (
    "Menlo, Consolas, 'DejaVu Sans Mono', 'Noto Sans Mono CJK SC', 'Noto Sans CJK SC',"
    " 'Microsoft YaHei', 'PingFang SC', 'Droid Sans Fallback', monospace"
)
SCRIPT = re.compile(r"([_^])\{([^}]*)\}")


def colour(name: str) -> str:
    """A colour by name: "ink", "grey", "rule", "panel", "white", or a role for its edge."""
    return COLOURS[name] if name in COLOURS else ROLES[name][1]


def fill(role: str) -> str:
    """The fill of a role; "none" is no fill, and a colour's name that colour."""
    if role == "none":
        return "none"
    return ROLES[role][0] if role in ROLES else COLOURS[role]


def text_width(text: str, size: float) -> float:
    """About how wide a text is: 1 em per Chinese character, 0.6 em per other one."""
    plain = SCRIPT.sub(lambda found: found[2], text)
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in plain)
    return size * (wide + 0.6 * (len(plain) - wide))


def number(value: float) -> str:
    """A coordinate, without needless digits."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


def element(tag: str, content: str | None = None, **attributes) -> str:
    """One SVG element on a line; `_` in names of attributes is "-", None is left out."""
    parts = [tag]
    for key, value in attributes.items():
        if value is not None:
            value = number(value) if isinstance(value, int | float) else value
            parts.append(f"{key.rstrip('_').replace('_', '-')}={quoteattr(value)}")
    head = " ".join(parts)
    return f"<{head}/>" if content is None else f"<{head}>{content}</{tag}>"


def scripts(text: str, size: float) -> str:
    """The content of a text element: escaped, with `_{}` and `^{}` as small shifted parts."""
    out, end, back = "", 0, 0.0
    for found in SCRIPT.finditer(text):
        between = text[end : found.start()]
        out += _shifted(between, back)
        back = 0.0 if between else back
        shift = size * (0.25 if found[1] == "_" else -0.38)
        small = number(size * 0.75)
        out += element("tspan", escape(found[2]), dy=shift + back, font_size=small)
        end, back = found.end(), -shift
    return out + _shifted(text[end:], back)


def _shifted(text: str, dy: float) -> str:
    if not text:
        return ""
    return element("tspan", escape(text), dy=dy) if dy else escape(text)


@dataclass(frozen=True)
class Box:
    """Where a thing stands; its sides and middles are where arrows start and end."""

    x: float
    y: float
    w: float
    h: float

    @property
    def cx(self) -> float:
        return self.x + self.w / 2

    @property
    def cy(self) -> float:
        return self.y + self.h / 2

    @property
    def right(self) -> float:
        return self.x + self.w

    @property
    def bottom(self) -> float:
        return self.y + self.h


class Canvas:
    """A drawing: a light rounded panel, and what is drawn on it in order.

    Args:
        title: one short line, English and Chinese, for screen readers.
        desc: what the drawing says, in sentences, for screen readers; sources of numbers.
        height, width: of the drawing, pixels.
    """

    def __init__(self, title: str, desc: str, *, height: float, width: float = 800):
        self.title = title
        self.desc = desc
        self.width = width
        self.height = height
        self.lines: list[str] = []

    # ---- plain shapes

    def rect(self, x, y, w, h, role="neutral", *, dashed=False, radius=6, edge=1.5) -> Box:
        """A rectangle in the colours of a role; `edge` is the width of its line."""
        self._add(
            "rect",
            x=x,
            y=y,
            width=w,
            height=h,
            rx=radius,
            fill=fill(role),
            stroke=colour("grey" if role == "none" else role),
            stroke_width=edge,
            stroke_dasharray="6 4" if dashed else None,
        )
        return Box(x, y, w, h)

    def circle(self, x, y, r, role="neutral", *, solid=False, edge=1.5) -> None:
        """A circle; `solid` fills it with the role's dark colour."""
        paint = colour(role) if solid else fill(role)
        self._add("circle", cx=x, cy=y, r=r, fill=paint, stroke=colour(role), stroke_width=edge)

    def line(self, x1, y1, x2, y2, role="grey", *, dashed=False, edge=2) -> None:
        """A straight line."""
        self.path([(x1, y1), (x2, y2)], role, dashed=dashed, edge=edge)

    def path(self, points: Sequence[tuple], role="grey", *, dashed=False, edge=2) -> None:
        """A line through points."""
        self._add(
            "polyline",
            points=" ".join(f"{number(x)},{number(y)}" for x, y in points),
            fill="none",
            stroke=colour(role),
            stroke_width=edge,
            stroke_linejoin="round",
            stroke_dasharray="6 4" if dashed else None,
        )

    def area(self, points: Sequence[tuple], role="neutral", *, edge=1.5) -> None:
        """A filled polygon; `edge` 0 draws no line around it."""
        self._add(
            "polygon",
            points=" ".join(f"{number(x)},{number(y)}" for x, y in points),
            fill=fill(role),
            stroke=colour(role) if edge else None,
            stroke_width=edge or None,
        )

    def arrow(self, x1, y1, x2, y2, role="grey", *, dashed=False, edge=2) -> None:
        """An arrow from the first point to the second, which its tip touches."""
        self.route([(x1, y1), (x2, y2)], role, dashed=dashed, edge=edge)

    def route(self, points: Sequence[tuple], role="grey", *, dashed=False, edge=2) -> None:
        """An arrow through points; its tip touches the last one."""
        (x1, y1), (x2, y2) = points[-2], points[-1]
        length = math.hypot(x2 - x1, y2 - y1)
        dx, dy = (x2 - x1) / length, (y2 - y1) / length
        tip, half = 5 + 2.5 * edge, 2.5 + edge
        bx, by = x2 - tip * dx, y2 - tip * dy
        self.path([*points[:-1], (bx, by)], role, dashed=dashed, edge=edge)
        head = [(x2, y2), (bx - half * dy, by + half * dx), (bx + half * dy, by - half * dx)]
        shape = " ".join(f"{number(x)},{number(y)}" for x, y in head)
        self._add("polygon", points=shape, fill=colour(role))

    # ---- text

    def text(
        self, x, y, text, size=LABEL, *, role="ink", anchor="middle", bold=False, mono=False
    ) -> None:
        """A line of text, whose middle in height is y.

        Args:
            x: of its middle; of its start or end with `anchor` "start" or "end".
            text: may hold `_{...}` and `^{...}`.
            role: of its colour.
        """
        self._add(
            "text",
            scripts(text, size),
            x=x,
            y=y + 0.35 * size,
            font_size=size,
            fill=colour(role),
            text_anchor=anchor,
            font_weight="bold" if bold else None,
            font_family=MONO if mono else None,
        )

    def label(
        self,
        x,
        y,
        english,
        chinese="",
        size=LABEL,
        *,
        role="ink",
        anchor="middle",
        bold=False,
        mono=False,
        beside=False,
    ) -> None:
        """English, and Chinese below it in a smaller size; y is the middle of both.

        Args:
            beside: one line, English and then Chinese.
        """
        if not chinese or beside:
            line = f"{english} {chinese}".strip()
            self.text(x, y, line, size, role=role, anchor=anchor, bold=bold, mono=mono)
            return
        small = max(TINY, size - 2)
        up, down = 0.62 * small, 0.68 * size
        self.text(x, y - up, english, size, role=role, anchor=anchor, bold=bold, mono=mono)
        self.text(x, y + down, chinese, small, role=role, anchor=anchor)

    def heading(self, english, chinese="") -> None:
        """The drawing's heading, at the top left: English and Chinese in one line."""
        line = f"{english}  {chinese}".strip()
        self.text(24, 30, line, HEADING, anchor="start", bold=True)

    def caption(self, english, chinese="") -> None:
        """A sentence at the bottom: English, and Chinese below it."""
        lines = [line for line in (english, chinese) if line]
        for i, line in enumerate(lines):
            y = self.height - 20 - 22 * (len(lines) - 1 - i)
            self.text(24, y, line, SMALL, role="grey", anchor="start")

    # ---- things made of both

    def box(
        self, x, y, w, h, english="", chinese="", role="neutral", *, size=LABEL, **options
    ) -> Box:
        """A box with a label in its middle; `options` are those of `rect` and bold, mono."""
        style = {key: options.pop(key) for key in ("bold", "mono") if key in options}
        place = self.rect(x, y, w, h, role, **options)
        self.label(place.cx, place.cy, english, chinese, size, **style)
        return place

    def cell(self, x, y, w, h, text="", role="neutral", *, size=SMALL, dashed=False) -> Box:
        """A cell of a row or grid: square corners, monospaced text."""
        place = self.rect(x, y, w, h, role, radius=2, edge=1, dashed=dashed)
        if text != "":
            self.text(place.cx, place.cy, str(text), size, mono=True)
        return place

    def tokens(
        self, x, y, texts: Sequence[str], roles, *, w=None, h=34, gap=3, size=SMALL
    ) -> list[Box]:
        """A row of token cells from left to right.

        Args:
            roles: one for each, or one for all.
            w: of each; None fits the cells to their texts.
        """
        roles = [roles] * len(texts) if isinstance(roles, str) else roles
        places = []
        for text, role in zip(texts, roles, strict=True):
            width = w or max(h, text_width(str(text), size) + 12)
            places.append(self.cell(x, y, width, h, text, role, size=size))
            x += width + gap
        return places

    def grid(
        self, x, y, rows: int, columns: int, side, role="neutral", *, text=None, size=TINY
    ) -> Box:
        """A matrix of cells.

        Args:
            side: of a cell, pixels, or (width, height).
            role: a role, or a function of (row, column) that gives one.
            text: a function of (row, column) that gives the text, or None.
        """
        w, h = side if isinstance(side, tuple) else (side, side)
        pick: Callable = role if callable(role) else lambda i, j: role
        for i in range(rows):
            for j in range(columns):
                written = "" if text is None else text(i, j)
                self.cell(x + j * w, y + i * h, w, h, written, pick(i, j), size=size)
        return Box(x, y, columns * w, rows * h)

    def bracket(
        self, start, end, at, english="", chinese="", *, side="below", role="grey", size=SMALL
    ) -> None:
        """A bracket along one side of things, with a label outside.

        Args:
            start, end: from x to x for side "below" and "above", from y to y for the others.
            at: y of its line, or x of it.
            side: "below", "above", "left" or "right" of what it embraces.
        """
        out = {"below": 1, "above": -1, "left": -1, "right": 1}[side]
        ends = [(start, at - 6 * out), (start, at), (end, at), (end, at - 6 * out)]
        middle = (start + end) / 2
        if side in ("below", "above"):
            self.path(ends, role, edge=1.5)
            lift = (24 if chinese else 15) * out
            self.label(middle, at + lift, english, chinese, size, role=role)
            return
        self.path([(y, x) for x, y in ends], role, edge=1.5)
        anchor = "start" if out > 0 else "end"
        self.label(at + 8 * out, middle, english, chinese, size, role=role, anchor=anchor)

    # ---- the file

    def svg(self) -> str:
        """The text of the SVG file."""
        w, h = number(self.width), number(self.height)
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {w} {h}" width="{w}"'
            f' height="{h}" role="img" style="max-width:100%;height:auto"'
            f" font-family={quoteattr(SANS)}>"
        )
        panel = element(
            "rect",
            x=1,
            y=1,
            width=self.width - 2,
            height=self.height - 2,
            rx=14,
            fill=PANEL,
            stroke=RULE,
        )
        parts = [element("title", escape(self.title)), element("desc", escape(self.desc)), panel]
        body = "\n".join(f"  {line}" for line in [*parts, *self.lines])
        return f"{head}\n{body}\n</svg>\n"

    def _add(self, tag: str, content: str | None = None, **attributes) -> None:
        self.lines.append(element(tag, content, **attributes))
