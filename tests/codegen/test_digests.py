"""The digest of meaning changes with what the code does, and with nothing else."""

from __future__ import annotations

import pytest

from adapter_codegen.parse.digests import meaning_digest, text_digest

CODE = """\
import torch
from torch import nn


class Layer(nn.Module):
    def forward(self, x, scale=2, *, names=("a", "b")):
        y = self.norm(x)[1:]
        return y + x * scale
"""


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param("y + x", "y - x", id="an operator"),
        pytest.param("y + x", "x + y", id="the order of operands"),
        pytest.param("[1:]", "[:1]", id="which end of a slice is given"),
        pytest.param("scale=2", "scale=3", id="a default"),
        pytest.param("scale=2", "scale", id="whether there is a default"),
        pytest.param("*, names", "names", id="whether a parameter is keyword-only"),
        pytest.param('"b"', '"c"', id="a string"),
        pytest.param("self.norm(x)", "self.norm(x=x)", id="how an argument is passed"),
        pytest.param("nn.Module", "nn.Identity", id="a base class"),
        pytest.param("    def forward", "    @torch.no_grad()\n    def forward", id="a decorator"),
        pytest.param("from torch import nn", "from torch.ao import nn", id="where a used name comes from"),
    ],
)
def test_what_the_code_does_is_meaning(before: str, after: str) -> None:
    assert before in CODE
    assert meaning_digest(CODE.replace(before, after)) != meaning_digest(CODE)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param("self, x,", "self, x: torch.Tensor | None,", id="an annotation"),
        pytest.param("):\n        y", ") -> torch.Tensor:\n        y", id="an annotation of what is returned"),
        pytest.param("y = self", "y: torch.Tensor = self", id="an annotated assignment"),
        pytest.param("        y =", '        """What it does."""\n        y =', id="a docstring"),
        pytest.param("        y =", "        # why\n\n        y =", id="a comment"),
        pytest.param('"a", "b"', "'a', 'b',", id="quotes and a trailing comma"),
        pytest.param("y + x * scale", "(\n            y + x * scale\n        )", id="parentheses and line breaks"),
        pytest.param(
            "import torch\n", "from typing import Optional\nimport torch\n", id="an import that nothing uses"
        ),
        pytest.param(
            "import torch\nfrom torch import nn\n", "from torch import nn\nimport torch\n", id="import order"
        ),
    ],
)
def test_typing_layout_and_prose_are_not_meaning(before: str, after: str) -> None:
    assert before in CODE
    assert meaning_digest(CODE.replace(before, after)) == meaning_digest(CODE)


def test_a_body_on_the_same_line_is_layout() -> None:
    assert meaning_digest("def f(): return 1\n") == meaning_digest("def f():\n    return 1\n")


def test_the_digest_of_a_known_text_never_changes() -> None:
    """It is written into generated files: a change here makes every checked-in digest stale."""
    assert meaning_digest(CODE) == "56b2da9fba06d9aab7b354e1b8d716a7c5475df1a61946a8632dd9a96c945043"
    assert text_digest(b"x = 1\n") == "9e26bf369911c45c243c684147b23fc9e1dcfcf257d299a1c632016a6fcd33f4"
