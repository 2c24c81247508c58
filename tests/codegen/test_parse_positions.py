"""Positions that are worked out statement by statement are those of libcst's own provider."""

from __future__ import annotations

import libcst as cst
import pytest
from libcst.metadata import MetadataWrapper, PositionProvider

from adapter_codegen.parse.positions import Positions
from adapter_codegen.parse.syntax import descendants
from adapter_codegen.upstream import open_release

TWICE = "def f():\n    return 1\n\n\ndef f():\n    return 1\n"
PLAIN = "# licence\n\nimport torch\n\n\n# about\nclass A(B):\n    x = [\n        1,\n    ]\n"


def assert_same_positions(text: str) -> None:
    tree = cst.parse_module(text)
    expected = MetadataWrapper(tree, unsafe_skip_copy=True).resolve(PositionProvider)
    positions = Positions(tree, text)
    nodes = [node for node in descendants(tree) if node in expected]
    assert len(nodes) > 5
    for node in reversed(nodes):  # the last statement first: no answer may depend on an earlier question
        assert positions.range(node) == expected[node], tree.code_for_node(node)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(PLAIN, id="comments before statements"),
        pytest.param(TWICE, id="two statements of the same text"),
        pytest.param(TWICE.rstrip("\n"), id="no line feed at the end"),
        pytest.param(PLAIN.replace("\n", "\r\n"), id="carriage returns"),
        pytest.param(PLAIN + "if x:\n\n    class A(B):\n        x = 1; y = 2\n", id="several statements on a line"),
        pytest.param("x = 1\n" * 3 + PLAIN, id="a statement whose text is part of another"),
    ],
)
def test_positions_of_small_texts(text: str) -> None:
    assert_same_positions(text)


@pytest.mark.parametrize("name", ["llama", "bert", "t5", "mistral"])
def test_positions_of_every_node_of_an_upstream_file(name: str) -> None:
    assert_same_positions(open_release().read(f"models/{name}/modeling_{name}.py"))


def test_a_node_of_another_tree_has_no_position() -> None:
    with pytest.raises(KeyError):
        Positions(cst.parse_module(PLAIN), PLAIN).range(cst.Name("x"))


def test_descendants_come_as_they_are_written() -> None:
    code = "f(a.b if c else d, *e, **g)[h:i] + {j: k} + [l for m in n if o] + (lambda p: q) + (r < s)"
    names = [node.value for node in descendants(cst.parse_expression(code)) if isinstance(node, cst.Name)]
    assert names == list("fabcdeghijklmnopqrs")
