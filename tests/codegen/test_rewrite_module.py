"""What a copied function needs around it: its class, its imports, its ``super()``."""

from __future__ import annotations

import libcst as cst
import pytest

from adapter_codegen.diagnostics.errors import CodegenError
from adapter_codegen.emit.formatting import formatted
from adapter_codegen.emit.verify import verify_model
from adapter_codegen.rewrite import rewrite_module
from adapter_codegen.rewrite.imports import unresolved_names
from handmade import Handmade

MODULE = """
import math
import numpy as np
import torch
import torch.nn.functional as F
from collections.abc import Callable
from torch import nn, unused
from ...activations import ACT2FN
from ...utils import deprecate, logging

logger = logging.get_logger(__name__)
SCALE = 2

def helper(x): return x

class Parent(nn.Module):
    def forward(self, x):
        return super().forward(x) + helper(x)

class Block(Parent):
    def other(self, x):
        return ACT2FN["gelu"](x)

    @deprecate("y", version="6")
    def forward(self, x: torch.Tensor, f: Callable = None) -> "torch.Tensor":
        \"\"\"Copied.\"\"\"
        logger.info(math.pi * SCALE)
        y = [helper(value) for value in np.array(x)]
        return super().forward(F.relu(x)) + x

class Child(Block):
    pass
"""
SUM = "super().forward(F.relu(x)) + x"


def emitted(module: Handmade, *sites: object) -> str:
    plan = module.plan(*sites)  # type: ignore[arg-type]
    text = formatted("modeling_mine.py", rewrite_module(module.facts, plan))
    verify_model(module.facts, plan, {"modeling_mine.py": text})
    return text


@pytest.fixture
def module() -> Handmade:
    return Handmade(MODULE)


def site_in(module: Handmade, class_name: str) -> object:
    return module.residual(class_name, f"return {SUM}", SUM, "super().forward(F.relu(x))", "x")


def test_nothing_is_written_where_nothing_is_planned(module: Handmade) -> None:
    assert rewrite_module(module.facts, module.plan()) == ""


def test_only_planned_functions_are_copied_with_decorators_and_docstring(module: Handmade) -> None:
    text = emitted(module, site_in(module, "Block"))
    assert "def other" not in text
    assert "class BlockWithAdapters(BottleneckLayer, Block):\n    @deprecate(" in text
    assert '"""Copied."""' in text


def test_imports_are_exactly_the_names_that_the_copy_uses(module: Handmade) -> None:
    imports = emitted(module, site_in(module, "Block")).split("\n\n\nclass")[0]
    assert imports == (
        "import math\nfrom collections.abc import Callable\n\n"
        "import torch\nfrom torch.nn import functional as F\n\n"
        "from transformers.models.mine.modeling_mine import Block, SCALE, deprecate, helper, logger, np\n\n"
        "from adapter_runtime import BottleneckLayer"
    )


def test_super_names_the_class_that_the_function_came_from(module: Handmade) -> None:
    assert "super(Block, self).forward(F.relu(x))" in emitted(module, site_in(module, "Block"))


def test_upstreams_own_forward_stays_where_another_function_is_edited() -> None:
    code = MODULE.replace("def other(self, x):", "def other(self, x):\n        x = x + helper(x)")
    module = Handmade(code)
    site = module.residual("Block", "x = x + helper(x)", "x + helper(x)", "helper(x)", "x", function="other")
    assert "class BlockWithAdapters(Block, BottleneckLayer):" in emitted(module, site)


def test_an_inherited_function_keeps_the_super_of_its_owner(module: Handmade) -> None:
    text = emitted(module, site_in(module, "Child"))
    assert "class ChildWithAdapters(BottleneckLayer, Child):" in text
    assert "super(Block, self).forward(F.relu(x))" in text


def test_an_edit_that_is_only_super_is_marked_too(module: Handmade) -> None:
    site = module.residual(
        "Parent",
        "return super().forward(x) + helper(x)",
        "super().forward(x) + helper(x)",
        "helper(x)",
        "super().forward(x)",
    )
    assert emitted(module, site).count("# >>> adapters") == 1


@pytest.mark.parametrize("code", ["__class__", "self.__mangled"])
def test_code_that_means_something_else_in_another_class_is_refused(code: str) -> None:
    text = f"class Block:\n    def forward(self, x, r):\n        print({code})\n        return x + r\n"
    module = Handmade(text)
    site = module.residual("Block", "return x + r", "x + r", "x", "r")
    with pytest.raises(CodegenError) as caught:
        rewrite_module(module.facts, module.plan(site))
    assert caught.value.diagnostics[0].code == "R104"


def test_the_class_of_an_object_is_not_the_class_around_the_code() -> None:
    module = Handmade("class Block:\n    def forward(self, x, r):\n        print(x.__class__)\n        return x + r\n")
    site = module.residual("Block", "return x + r", "x + r", "x", "r")
    assert "print(x.__class__)" in emitted(module, site)


def test_a_name_that_upstream_binds_nowhere_is_refused() -> None:
    module = Handmade("class Block:\n    def forward(self, x, r):\n        nowhere(x)\n        return x + r\n")
    site = module.residual("Block", "return x + r", "x + r", "x", "r")
    with pytest.raises(CodegenError) as caught:
        rewrite_module(module.facts, module.plan(site))
    assert caught.value.diagnostics[0].code == "R401"


def test_names_of_comprehensions_parameters_and_builtins_are_resolved() -> None:
    code = "def f(a, *b, **c):\n    d = [e for e in a if len(b)]\n    return lambda g: g + outside\n"
    assert unresolved_names(cst.parse_module(code)) == ["outside"]
