"""Weights that a class with a head ties, where it holds the modules of a base model itself: as the base model does, or not."""

from __future__ import annotations

import pytest

from adapter_codegen.model import ModelPlan
from adapter_codegen.parse import parse_module
from adapter_codegen.plan.heads.logits.holding import tied_apart
from adapter_codegen.plan.model import plan_model
from adapter_codegen.upstream import open_release

TEXT = """
class Base(PreTrainedModel):
    _tied_weights_keys = {"encoder.table.weight": "shared.weight"}
    def __init__(self, config):
        self.shared = nn.Embedding(2, 2)
        self.encoder = Stack(config)
        self.decoder = Stack(config)

class Head(PreTrainedModel):
    _tied_weights_keys = KEYS
    def __init__(self, config):
        self.shared = nn.Embedding(2, 2)
        self.encoder = Stack(config)
        self.decoder = Stack(config)
        self.lm_head = nn.Linear(2, 2)
"""


@pytest.mark.parametrize(
    ("keys", "apart"),
    [
        pytest.param('{"encoder.table.weight": "shared.weight"}', (), id="the same"),
        pytest.param("{}", (), id="nothing, where the base model does"),
        pytest.param('{"lm_head.weight": "shared.weight"}', (), id="what the base model has not"),
        pytest.param('{"decoder.bias": "encoder.bias"}', ("decoder.bias",), id="what the base model has apart"),
        pytest.param("None", (), id="none"),
    ],
)
def test_what_is_tied_beside_what_the_base_model_ties(keys: str, apart: tuple[str, ...]) -> None:
    facts = parse_module(TEXT.replace("KEYS", keys), "models/tiny/modeling_tiny.py")
    assert tied_apart(facts.classes["Head"], facts.classes["Base"]) == apart
    assert tied_apart(facts.classes["Head"], None) == ()


def test_a_class_that_ties_more_is_no_flexible_head_and_says_so() -> None:
    found = plan_model(open_release(), "udop")
    assert isinstance(found, ModelPlan)
    (head,) = found.static_heads
    assert head.head_type == ""
    assert "encoder.relative_bias.biases.0.relative_attention_bias.weight" in head.reason
    assert found.flexible_heads == ()
