"""No circles between files, and arrows between rooms as ``docs/rooms.toml`` has them (see ``rooms.py``)."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import rooms
from rooms import HOUSES, arrows, circles, is_lazy, looked_up, shortest_circle, wrong_arrows

MOST_ENTRIES = 14  # of a folder: what fits on one screen with a word about each

KNOWN = {"house", "house.a", "house.b", "house.b.deep", "house.b.deep.er"}


# How arrows are found


@pytest.mark.parametrize(
    "source",
    [
        pytest.param("import json, torch", id="other packages are no rooms of this one"),
        pytest.param("import housekeeping.b", id="a package whose name begins alike is another one"),
        pytest.param('"""Reads `house.b`."""', id="a docstring may name a module"),
        pytest.param('def f():\n    """house.b"""', id="the docstring of a function too"),
        pytest.param('x = "see house.b for more"', id="a sentence may name a module"),
        pytest.param('x = "b"', id="a word that is also a module is only a word where nothing is imported by name"),
        pytest.param('x = "b.toml"', id="a file's name is not a name inside of a module"),
        pytest.param('x = "b.py"', id="nor is the name of a file of code that is read as text"),
        pytest.param('x = f"{name}.b"', id="a text that is put together from something else"),
        pytest.param("x.house.b", id="an attribute is no import"),
        pytest.param("from house.a import f", id="a file that names itself makes no arrow"),
    ],
)
def test_no_arrow(source: str) -> None:
    assert arrows(source, "house.a", KNOWN) == set()


@pytest.mark.parametrize(
    ("source", "target"),
    [
        pytest.param("import house.b", "house.b", id="a plain import"),
        pytest.param("import json, house.b as c", "house.b", id="the second name of an import"),
        pytest.param("from house.b import f", "house.b", id="a name of a module"),
        pytest.param("from house.b import deep", "house.b.deep", id="a module of a package is the module"),
        pytest.param("from .b import f", "house.b", id="a relative import"),
        pytest.param("from . import b", "house.b", id="a module of the own package"),
        pytest.param("from house import f", "house", id="the package itself"),
        pytest.param("def f():\n    from house.b import g", "house.b", id="inside of a function"),
        pytest.param("if TYPE_CHECKING:\n    import house.b", "house.b", id="for type checkers only"),
        pytest.param("if x:\n    pass\nelse:\n    import house.b", "house.b", id="in the other branch"),
        pytest.param('import_module("house.b")', "house.b", id="by name"),
        pytest.param('importlib.import_module("house.b")', "house.b", id="by name, called with its module"),
        pytest.param('import_module(".b", __package__)', "house.b", id="by a relative name"),
        pytest.param(
            'T = ("b",)\nimport_module(T[0])', "house.b", id="by a word, where something is imported by name"
        ),
        pytest.param('T = {"x": "b.deep"}', "house.b.deep", id="a table of names that someone else imports"),
        pytest.param('T = "house.b:f"', "house.b", id="the value of an entry point"),
        pytest.param('T = "house.b.f"', "house.b", id="the full name of a function"),
    ],
)
def test_an_arrow(source: str, target: str) -> None:
    assert arrows(source, "house.a", KNOWN) == {target}


def test_a_package_may_name_its_modules_by_its_own_name() -> None:
    assert arrows('import_module(f"{__name__}.deep")', "house.b", KNOWN, "__init__.py") == {"house.b.deep"}
    assert arrows('import_module(f"{__name__}.deep.er")', "house.b", KNOWN, "__init__.py") == {"house.b.deep.er"}
    assert arrows('import_module(f"{__name__}.{name}")', "house.b", KNOWN, "__init__.py") == set(), "no literal name"


def test_relative_imports_start_from_the_package() -> None:
    assert arrows("from ..a import f", "house.b.deep", KNOWN) == {"house.a"}
    assert arrows("from ...a import f", "house.b.deep.er", KNOWN) == {"house.a"}
    assert arrows("from .deep import f", "house.b", KNOWN, "__init__.py") == {"house.b.deep"}


LAZY = """
from importlib import import_module
from typing import TYPE_CHECKING
{more}
if TYPE_CHECKING:
    from house.b.deep import f
HOMES = {{"f": "deep"}}
def {name}(name):
    return getattr(import_module(f"house.b.{{HOMES[name]}}"), name)
"""


def test_the_table_of_a_lazy_package_makes_no_arrows() -> None:
    assert arrows(LAZY.format(name="__getattr__", more=""), "house.b", KNOWN, "__init__.py") == set()


@pytest.mark.parametrize(
    ("source", "file_name"),
    [
        pytest.param(LAZY.format(name="other", more=""), "__init__.py", id="a package that is not lazy"),
        pytest.param(LAZY.format(name="__getattr__", more=""), "", id="a file that is no package"),
        pytest.param(
            LAZY.format(name="__getattr__", more="from house.b.deep import g"),
            "__init__.py",
            id="what a lazy package imports at once",
        ),
    ],
)
def test_what_is_like_a_lazy_table_makes_arrows(source: str, file_name: str) -> None:
    assert "house.b.deep" in arrows(source, "house.b", KNOWN, file_name)


def test_tables_of_public_names_make_no_arrows() -> None:
    table = 'PUBLIC = {"b.deep": ("f",)}'
    assert arrows(table, "house.a", KNOWN, "public.py") == set()
    assert arrows(table, "house.a", KNOWN, "other.py") == {"house.b.deep"}


@pytest.mark.parametrize(
    ("source", "found"),
    [
        pytest.param("from house import __version__", [], id="a name that the package states"),
        pytest.param("from house import b", [], id="a module of the package"),
        pytest.param("from house.b import f", [], id="a name of a module"),
        pytest.param("from house import f", ["house.f"], id="a name that the package looks up"),
        pytest.param("def g():\n    from . import f", ["house.f"], id="inside of a function, relative"),
    ],
)
def test_looked_up(source: str, found: list[str]) -> None:
    assert list(looked_up(source, "house.a", False, {"house": {"__version__"}}, KNOWN)) == found


def test_circles_are_found_in_files(tmp_path: Path) -> None:
    house = tmp_path / "house"
    house.mkdir()
    (house / "__init__.py").write_text("")
    (house / "a.py").write_text("if TYPE_CHECKING:\n    from house.b import f")
    (house / "b.py").write_text("def f():\n    from house import c")
    (house / "c.py").write_text('import_module("house.a")')
    (house / "d.py").write_text("from house import a, b, c")
    found = rooms.graph(house)
    assert circles(found) == [["house.a", "house.b", "house.c"]]
    assert shortest_circle(found, circles(found)[0]) == ["house.a", "house.b", "house.c", "house.a"]
    (house / "c.py").write_text("")
    rooms.graph.cache_clear()
    assert circles(rooms.graph(house)) == []


def test_circles_of_graphs() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": set()}) == []
    assert circles({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == [], "two ways to one place"
    two = {"a": {"b"}, "b": {"a", "c"}, "c": {"d"}, "d": {"e"}, "e": {"c"}}
    assert circles(two) == [["c", "d", "e"], ["a", "b"]]


def test_a_table_and_what_it_forbids() -> None:
    real = {"errors": set[str](), "call": {"errors"}, "model": {"call"}}
    table = {"errors": [], "call": ["errors"], "model": ["call"]}
    assert wrong_arrows(real, table) == []
    assert wrong_arrows(real | {"call": set()}, table) == ["call does not import from errors any more"]
    assert wrong_arrows(real | {"call": {"errors", "model"}}, table) == ["call imports from model"]
    assert wrong_arrows(real | {"attic": set()}, table) == ["attic is a room without a line"]
    assert wrong_arrows(real, {**table, "attic": []}) == ["attic is no room any more"]
    upwards = {"errors": [], "call": ["errors", "model"], "model": ["call"]}
    assert wrong_arrows(real | {"call": {"errors", "model"}}, upwards) == ["call stands below model and uses it"]


def test_floors() -> None:
    assert rooms.floors({"a": set(), "b": {"a"}, "c": {"a"}, "d": {"a", "b"}}) == {"a": 0, "b": 1, "c": 1, "d": 2}


# The code


@pytest.mark.parametrize("house", HOUSES)
def test_no_circle_of_files(house: str) -> None:
    found = rooms.graph(HOUSES[house])
    wrong = [" -> ".join(shortest_circle(found, group)) for group in circles(found)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("house", HOUSES)
def test_arrows_between_rooms_are_those_of_the_table(house: str) -> None:
    wrong = wrong_arrows(rooms.rooms(rooms.graph(HOUSES[house])), rooms.read_table()[house])
    assert not wrong, "\n".join([*wrong, "If that is meant: python tests/rooms.py --write"])


@pytest.mark.parametrize("house", HOUSES)
def test_no_file_imports_what_a_lazy_package_looks_up_for_others(house: str) -> None:
    files = rooms.modules(HOUSES[house])
    trees = {name: ast.parse(file.read_text(encoding="utf-8")) for name, file in files.items()}
    lazy = {
        name: rooms.bound_names(tree)
        for name, tree in trees.items()
        if files[name].name == "__init__.py" and is_lazy(tree)
    }
    wrong = [
        f"{name} imports {what}"
        for name, file in files.items()
        for what in looked_up(file.read_text(encoding="utf-8"), name, file.name == "__init__.py", lazy, set(files))
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("house", HOUSES)
def test_every_folder_can_be_seen_at_a_glance(house: str) -> None:
    folders = [folder for folder in [HOUSES[house], *HOUSES[house].rglob("*")] if folder.is_dir()]
    counts = {folder: len(rooms.entries(folder)) for folder in folders if folder.name != "__pycache__"}
    wrong = [f"{folder.name} has {count} entries" for folder, count in counts.items() if count > MOST_ENTRIES]
    assert not wrong, "\n".join(wrong)


def test_every_room_says_what_it_is() -> None:
    wrong = [
        f"{house}.{name}"
        for house, folder in HOUSES.items()
        for name in rooms.rooms(rooms.graph(folder))
        if not rooms.purpose(folder, name)
    ]
    assert not wrong, "these modules begin without a docstring: " + ", ".join(wrong)
