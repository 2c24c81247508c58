"""The pictures of docs/architecture.md: `python docs/picture.py` draws the rooms of the runtime and of the tool into docs/_static.

What is drawn is read: rooms and arrows from docs/rooms.toml, which tests/test_rooms.py compares with the imports of the code, and
the sentence in a room from its docstring. An arrow that others imply is left out of the picture (a room that uses `methods`
reaches what `methods` uses); the table below it on the page has them all. tests/test_figures.py says whether the pictures are current.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Mapping
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs" / "_static"
sys.path.insert(0, str(ROOT / "tests"))

from rooms import HOUSES, floors, purpose, read_table  # noqa: E402

WIDTH, HEIGHT = 290, 84  # of a room
GAP, STOREY = 30, 124  # between rooms of one floor; from one floor to the next
LANE = 14  # between a room and an arrow that passes it
MARGIN = 24
COLUMNS = 44  # characters in a line of a room
LINES = 3

# Fill, edge and letters are set for light and for dark pages.
STYLE = """\
<style>
.room { fill: #eef5f2; stroke: #1f6f54; stroke-width: 1.2 }
.name { font: 600 15px Verdana, 'DejaVu Sans', sans-serif; fill: #14352a }
.says { font: 11px Verdana, 'DejaVu Sans', sans-serif; fill: #333 }
.arrow { fill: none; stroke: #5b7f73; stroke-width: 1.4; marker-end: url(#tip) }
.tip { fill: #5b7f73 }
</style>"""


def essential(uses: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """The arrows that no other way implies: room -> rooms, of a table without circles."""
    reached: dict[str, set[str]] = {}
    for name, others in uses.items():  # from the ground floor up, so what `others` reach is known
        reached[name] = set(others).union(*(reached[other] for other in others))
    return {
        name: [other for other in others if not any(other in reached[way] for way in others)]
        for name, others in uses.items()
    }


def placed(uses: Mapping[str, list[str]]) -> dict[str, tuple[float, float]]:
    """Room -> the left and the upper edge of its box; rooms of a floor stand side by side in the middle."""
    height = floors({name: set(others) for name, others in uses.items()})
    storeys = [[name for name in uses if height[name] == level] for level in range(max(height.values()) + 1)]
    broadest = max(map(len, storeys))
    whole = broadest * WIDTH + (broadest - 1) * GAP
    places = {}
    for level, names in enumerate(storeys):
        left = MARGIN + (whole - len(names) * WIDTH - (len(names) - 1) * GAP) / 2
        for index, name in enumerate(names):
            places[name] = (left + index * (WIDTH + GAP), MARGIN + (len(storeys) - 1 - level) * STOREY)
    return places


def box(name: str, says: str, left: float, top: float) -> str:
    lines = textwrap.wrap(says.replace("`", ""), COLUMNS, max_lines=LINES, placeholder=" …")
    return "\n".join(
        [
            f'<rect class="room" x="{left:g}" y="{top:g}" width="{WIDTH}" height="{HEIGHT}" rx="6"/>',
            f'<text class="name" x="{left + 12:g}" y="{top + 22:g}">{escape(name)}</text>',
            *(
                f'<text class="says" x="{left + 12:g}" y="{top + 41 + 15 * index:g}">{escape(line)}</text>'
                for index, line in enumerate(lines)
            ),
        ]
    )


def across(left: float, towards: float) -> float:
    """Where on an edge of a box an arrow begins or ends that comes from `towards` or goes there."""
    return min(max(towards, left + 0.2 * WIDTH), left + 0.8 * WIDTH)


def arrow(name: str, other: str, places: Mapping[str, tuple[float, float]]) -> str:
    """From the lower edge of a room to the upper edge of the other, beside the rooms of the floors between them."""
    (left, top), (to_left, to_top) = places[name], places[other]
    y, to_y, bend = top + HEIGHT, to_top - 4, (STOREY - HEIGHT) / 2
    between = [x for x, at in places.values() if top < at < to_top]
    if between:
        is_right = to_left >= left
        lane = max(between) + WIDTH + LANE if is_right else min(between) - LANE
        x, to_x = across(left, lane), across(to_left, lane)
        turn, turn_back = y + 2 * bend, to_y - 2 * bend
        way = f"{x:g} {y + bend:g} {lane:g} {turn - bend:g} {lane:g} {turn:g}V{turn_back:g}C{lane:g} {turn_back + bend:g}"
    else:
        x, to_x = across(left, to_left + WIDTH / 2), across(to_left, left + WIDTH / 2)
        way = f"{x:g} {y + bend:g}"
    return f'<path class="arrow" d="M{x:g} {y:g}C{way} {to_x:g} {to_y - bend:g} {to_x:g} {to_y:g}"/>'


def drawn(house: str, uses: Mapping[str, list[str]]) -> str:
    """The picture of one package as SVG."""
    places = placed(uses)
    arrows = [arrow(name, other, places) for name, others in essential(uses).items() for other in others]
    boxes = [box(name, purpose(HOUSES[house], name), *places[name]) for name in uses]
    width = max(left for left, _ in places.values()) + WIDTH + MARGIN
    height = max(top for _, top in places.values()) + HEIGHT + MARGIN
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height:g}" '
            f'viewBox="0 0 {width:g} {height:g}" role="img">',
            f"<title>The rooms of {house}, each above those that it imports from</title>",
            STYLE,
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">',
            '<path class="tip" d="M0 0L8 4L0 8z"/></marker></defs>',
            f'<rect width="{width:g}" height="{height:g}" rx="8" fill="#fff"/>',
            *arrows,
            *boxes,
            "</svg>",
            "",
        ]
    )


def pictures() -> dict[Path, str]:
    """Path -> content of each picture."""
    return {
        FOLDER / f"rooms-{house.removeprefix('adapter_')}.svg": drawn(house, uses)
        for house, uses in read_table().items()
    }


if __name__ == "__main__":
    for path, picture in pictures().items():
        path.write_text(picture, encoding="utf-8")
