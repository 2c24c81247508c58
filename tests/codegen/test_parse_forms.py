"""Code that is the same as a form, but for the names that it gives."""

from __future__ import annotations

import libcst as cst
import pytest

from adapter_codegen.parse.forms import Names, form, inside, whole

FORM = """
def form(self, x, count=COUNT):
    for layer in self.layers:
        x = layer(x)
    y = self.out(x)
    return torch.cat([x, y], dim=1) * count / self.config.size
"""
SAME = '''
@decorated
def forward(self, hidden: torch.Tensor, n: int = 3) -> torch.Tensor:
    """Says something."""
    if is_available():
        from elsewhere import Kind
        if isinstance(self.head, Kind):
            warnings.warn("not trained")
    for module in self.blocks:
        hidden = module(hidden)
    logits: torch.Tensor = self.head(hidden)
    return torch.cat([hidden, logits], dim=1) * n / self.config.width
'''


def function(text: str) -> cst.FunctionDef:
    found = cst.parse_module(text).body[0]
    assert isinstance(found, cst.FunctionDef)
    return found


def test_names_are_free_and_are_told() -> None:
    names = whole(form(FORM), function(SAME))
    assert names is not None
    assert (names["x"], names["self.layers"], names["self.out"], names["config.size"]) == (
        "hidden",
        "blocks",
        "head",
        "width",
    )
    assert names.number("COUNT") == 3


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param("dim=1", "dim=0", id="another number"),
        pytest.param("torch.cat", "torch.stack", id="another function"),
        pytest.param("[hidden, logits]", "[logits, hidden]", id="another order"),
        pytest.param("[hidden, logits]", "[hidden, hidden]", id="one name for two"),
        pytest.param("self.head(hidden)", "self.blocks(hidden)", id="one attribute for two"),
        pytest.param("self.head(hidden)", "self.head(hidden, n)", id="one argument more"),
        pytest.param("self.head(hidden)", "self.head.inner(hidden)", id="a part of an attribute"),
        pytest.param("    return", "    hidden = 0 * hidden\n    return", id="one statement more"),
        pytest.param("n: int = 3", "n: int = None", id="a default that is no number"),
        pytest.param("n: int = 3", "n: int = 3, *more", id="one parameter more"),
        pytest.param('warnings.warn("not trained")', "hidden = hidden + 1", id="an if that does something"),
        pytest.param(
            'warnings.warn("not trained")', 'warnings.warn("x")\n        else:\n            hidden = 0', id="an else"
        ),
        pytest.param("self.config.width", "self.config.part.width", id="a field of another config"),
        pytest.param("self.config.width", "self.width", id="an attribute for a field"),
    ],
)
def test_anything_else_is_another_form(old: str, new: str) -> None:
    assert old in SAME
    assert whole(form(FORM), function(SAME.replace(old, new))) is None


def test_a_form_inside_of_a_body_is_found_where_its_statements_follow_on_each_other() -> None:
    part = form("def form(a, b):\n    a = self.out(b)\n    return a")
    code = "def forward(self, x):\n    y = self.first(x)\n    z = self.second(y)\n    return z"
    names = inside(part, function(code))
    assert names is not None
    assert (names["a"], names["self.out"]) == ("z", "second")
    assert inside(part, function(code.replace("    return", "    z = z + 1\n    return"))) is None


def test_a_constant_of_a_file_stands_for_itself() -> None:
    part = form("def form(a, b):\n    a = b[_START + COUNT]")
    assert inside(part, function("def f(x):\n    y = x[_START + 2]")) is not None
    assert inside(part, function("def f(x):\n    y = x[1 + 2]")) is None


def test_what_names_stand_for_in_another_form_is_kept() -> None:
    part = form("def form(a, b):\n    a = self.out(b)")
    code = function("def forward(self, x):\n    y = self.first(x)")
    assert inside(part, code, Names({"self.out": "first"})) is not None
    assert inside(part, code, Names({"self.out": "other"})) is None
    assert inside(part, code, Names({"self.other": "first"})) is None
