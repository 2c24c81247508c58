"""Softmaxes in layers of which none was recognised: where they are, and why they may be no attention."""

from __future__ import annotations

import pytest

from adapter_codegen.model import Refusal
from adapter_codegen.plan import plan_model
from adapter_codegen.plan.stream.lists.unclaimed import unclaimed_softmaxes
from adapter_codegen.plan.told.verdicts import NO_VERDICTS
from adapter_codegen.upstream import open_release
from plan_snippets import facts_of

NO_PRODUCT = "no two tensors are multiplied in front of it"
BY_CONVOLUTIONS = "which it projects by convolutions"
HOLDER = """
class Holder(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.inner = Weighing(config)

    def forward(self, x):
        return x + self.inner(x)
"""
WEIGHING = """
class Weighing(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.first = nn.{0}(8, 8, 1)
        self.second = nn.{0}(8, 8, 1)
        self.softmax = nn.Softmax(dim=-1)
        self.table = nn.Parameter(0)

    def forward(self, x):
        first, second = self.first(x), self.second(x)
        weights = {1}
        return self.weighed(weights, second)

    def weighed(self, weights, second):
        return weights * second
"""


def said(weights: str, projection: str = "Linear", layer: str = "Holder") -> list[str]:
    facts = facts_of(WEIGHING.format(projection, weights), HOLDER)
    return [found.message for found in unclaimed_softmaxes(facts, [layer])]


@pytest.mark.parametrize(
    "weights", ["F.softmax(first, dim=-1)", "first.softmax(-1)", "(first @ self.table).softmax(-1)"]
)
def test_a_softmax_of_no_product_of_two_tensors_is_said_to_be_one(weights: str) -> None:
    (message,) = said(weights)
    assert message.startswith("Here Weighing takes a softmax") and NO_PRODUCT in message


@pytest.mark.parametrize(
    "weights",
    [
        "F.softmax(torch.matmul(first, second), dim=-1)",
        "(first @ second).softmax(-1)",
        'torch.einsum("ij,kj->ik", first, second).softmax(-1)',
    ],
)
def test_of_a_softmax_of_a_product_no_reason_is_given(weights: str) -> None:
    (message,) = said(weights)
    assert message.endswith("that no kind of attention core claims.")


def test_what_is_projected_by_convolutions_alone_is_said_to_be_maps() -> None:
    (message,) = said("F.softmax(first, dim=-1)", "Conv2d")
    assert BY_CONVOLUTIONS in message


def test_a_softmax_of_a_class_that_no_layer_holds_is_not_met() -> None:
    assert said("F.softmax(first, dim=-1)", layer="Mlp") == []


@pytest.mark.parametrize(
    ("model_type", "said"),
    [
        pytest.param(
            "ibert",
            ". They are made of IntGELU, IntLayerNorm, IntSoftmax, QuantAct, QuantLinear, which stand in other files.",
            id="quantised modules, which hand on a factor with each tensor",
        ),
        pytest.param("swiftformer", "SwiftFormerEmbeddings.", id="no: what the file itself defines"),
    ],
)
def test_a_refusal_names_the_modules_of_other_files(model_type: str, said: str) -> None:
    result = plan_model(open_release(), model_type, verdicts=NO_VERDICTS)
    assert isinstance(result, Refusal)
    assert result.diagnostics[0].message.endswith(said)


def test_layers_without_a_softmax_have_none() -> None:
    assert said("self.softmax(first)") == []  # a module of its own, which may be anything


@pytest.mark.parametrize(
    ("model_type", "name", "why"),
    [
        ("swiftformer", "SwiftFormerEfficientAdditiveAttention", NO_PRODUCT),
        ("mobilevitv2", "MobileViTV2LinearSelfAttention", BY_CONVOLUTIONS),
    ],
)
def test_refusals_of_upstreams_models_name_the_place(model_type: str, name: str, why: str) -> None:
    result = plan_model(open_release(), model_type, verdicts=NO_VERDICTS)
    assert isinstance(result, Refusal)
    assert result.diagnostics[0].code == "P252"
    (found,) = (one for one in result.diagnostics if one.code == "P253")
    assert name in found.message and why in found.message and found.location is not None
