"""Each post-condition fails on the defect that it is there for, and on nothing else."""

from __future__ import annotations

import pytest

from adapter_codegen.diagnostics.errors import CodegenError
from adapter_codegen.emit.formatting import formatted
from adapter_codegen.emit.verify import undefined_names, verify_model, verify_shared
from adapter_codegen.model import ModelPlan
from adapter_codegen.rewrite import rewrite_module
from handmade import Handmade

MODULE = """
import torch
from torch import nn

def helper(x): return x

class Block(nn.Module):
    def forward(self, x: torch.Tensor, r, q, k, v) -> torch.Tensor:
        out = helper(q, k, v)
        x = x + out * 2
        x = r + x
        return self.norm(x)
"""
PATH = "modeling_mine.py"


@pytest.fixture
def module() -> Handmade:
    return Handmade(MODULE)


@pytest.fixture
def plan(module: Handmade) -> ModelPlan:
    core = module.prefix("Block", "out = helper(q, k, v)", "helper(q, k, v)", "q", "k", "v", None, "x")
    return module.plan(core, module.residual("Block", "x = r + x", "r + x", "x", "r", host="output_adapters"))


@pytest.fixture
def text(module: Handmade, plan: ModelPlan) -> str:
    return formatted(PATH, rewrite_module(module.facts, plan))


def codes(module: Handmade, plan: ModelPlan, text: str) -> set[str]:
    try:
        verify_model(module.facts, plan, {PATH: text})
    except CodegenError as error:
        return {diagnostic.code for diagnostic in error.diagnostics}
    return set()


def test_what_the_rewrite_wrote_passes(module: Handmade, plan: ModelPlan, text: str) -> None:
    assert codes(module, plan, text) == set()


@pytest.mark.parametrize(
    ("there", "instead", "code"),
    [
        pytest.param("return self.norm(x)", "return self.norm(x", "V101", id="text that does not parse"),
        pytest.param("x = x + out * 2", "x = x+out*2", "V102", id="text that black would change"),
        pytest.param("import Block, helper", "import Block, gone, helper", "V103", id="an import that upstream lacks"),
        pytest.param("return self.norm(x)", "return self.norm(y)", "V104", id="a name that nothing defines"),
        pytest.param("x = x + out * 2", "x = x + out * 3", "V106", id="a number of upstream changed"),
        pytest.param("        x = x + out * 2\n", "", "V106", id="a statement of upstream lost"),
        pytest.param("x: torch.Tensor", "x: torch.LongTensor", "V106", id="an annotation of upstream changed"),
        pytest.param("adapters(x, r, None)", "adapters(r, x, None)", "V106", id="branch and residual swapped"),
        pytest.param(
            "adapters(x, r, None)", "adapters(x, r, None, branch_first=True)", "V106", id="the order of an addition"
        ),
        pytest.param("(q, k, v, None, x)", "(q, k, v, None)", "V105", id="an argument of the prefix lost"),
        pytest.param("k, v, _ = self", "v, k, _ = self", "V106", id="key and value swapped"),
        pytest.param("self.output_adapters(", "self.attention_adapters(", "V105", id="a call of another host"),
        pytest.param(
            "        # <<< adapters\n        return", "        return", "V105", id="a marker without its twin"
        ),
        pytest.param("def forward", "def backward", "V105", id="a function that is not planned"),
    ],
)
def test_a_defect_in_the_emitted_text_is_caught(
    module: Handmade, plan: ModelPlan, text: str, there: str, instead: str, code: str
) -> None:
    assert there in text
    assert codes(module, plan, text.replace(there, instead)) == ({code} if code else set())


def test_an_edit_outside_of_its_markers_is_caught(module: Handmade, plan: ModelPlan, text: str) -> None:
    marked = "        # >>> adapters\n        x = self.output"
    moved = text.replace(marked, "        # >>> adapters\n        # <<< adapters\n        x = self.output")
    moved = moved.replace("None)\n        # <<< adapters\n        return", "None)\n        return")
    assert codes(module, plan, moved) == {"V105"}


def test_a_shared_file_that_is_not_formatted_is_caught() -> None:
    with pytest.raises(CodegenError, match="formatted again"):
        verify_shared({"registry.py": "x=1\n"})


def test_names_of_all_scopes_and_of_python_are_defined() -> None:
    text = "import a\nB = 1\ndef f(c, *d, **e):\n    return [g for g in c if len(B)] + a.h\nclass C:\n    x = B\n"
    assert undefined_names(text) == []


def test_a_name_read_only_in_an_annotation_counts() -> None:
    assert undefined_names("def f(x: Missing): return x\n") == ["Missing"]
