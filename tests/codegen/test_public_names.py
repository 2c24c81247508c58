"""The table of public names is read as text, and gives the root and the submodules of a generated package."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from adapter_codegen.emit.public_names import PARENT_DOCSTRING, parse_public_names, read_public_names
from adapter_codegen.emit.render import render_shared

TABLES = """
PUBLIC: dict[str, tuple[str, ...]] = {"heads": ("B", "A"), "init": ("init",)}
OF_THE_RUNTIME: dict[str, tuple[str, ...]] = {"init": ("Own",)}
SUBMODULES: dict[str, object] = {
    "heads": ("All heads.", ("heads",), {"init": ("Own",)}),
    "one.two": ("Some.", (), {"heads": ("C",)}),
}
SECOND_PATHS: dict[str, str] = {"heads.again": "heads"}
"""


def test_the_root_offers_what_is_public_and_nothing_of_the_runtime_alone() -> None:
    names = parse_public_names(TABLES)
    assert names.root == (("adapter_runtime.heads", ("A", "B")), ("adapter_runtime.init", ("init",)))
    assert names.homes["Own"] == "adapter_runtime.init"


def test_a_submodule_that_holds_others_is_a_package() -> None:
    modules = {module.path: module for module in parse_public_names(TABLES).modules}
    assert list(modules) == ["heads/__init__.py", "heads/again.py", "one/__init__.py", "one/two.py"]
    assert modules["one/__init__.py"].docstring == PARENT_DOCSTRING
    assert modules["heads/again.py"].imports == modules["heads/__init__.py"].imports
    assert modules["heads/__init__.py"].names == ("A", "B", "Own")


def test_imports_of_names_are_grouped_by_the_module_that_defines_them() -> None:
    names = parse_public_names(TABLES)
    assert names.imports(["init", "B", "Own"]) == (
        ("adapter_runtime.heads", ("B",)),
        ("adapter_runtime.init", ("Own", "init")),
    )
    with pytest.raises(KeyError):
        names.imports(["Nobody"])


def test_a_table_that_is_no_literal_is_an_error() -> None:
    with pytest.raises(ValueError, match="malformed"):
        parse_public_names(TABLES.replace('("B", "A")', "tuple('BA')"))


def test_type_checkers_see_every_public_name_where_it_is_defined() -> None:
    """The root imports names when they are touched; checkers read the imports that stand under TYPE_CHECKING."""
    (text,) = (text for path, text in render_shared([]).items() if path.endswith("adapter_models/__init__.py"))
    (block,) = (node for node in ast.parse(text).body if isinstance(node, ast.If))
    seen = {
        (node.module, alias.name) for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert seen == {(module, name) for module, names in read_public_names().root for name in names}


def test_every_module_of_the_table_is_there() -> None:
    runtime = Path(__file__).parents[2] / "codegen"
    for module in {*read_public_names().homes.values()}:
        path = runtime.joinpath(*module.split("."))
        assert path.with_suffix(".py").is_file() or (path / "__init__.py").is_file(), module
