"""What a plan says about methods is what the runtime does with them."""

from __future__ import annotations

import pytest

from adapter_codegen.model import Method, ModelPlan
from adapter_codegen.plan import plan_model
from adapter_codegen.plan.methods import IN_RUNTIME, NOT_IN_RUNTIME
from adapter_codegen.upstream import open_release
from adapter_runtime.configuration import (
    AdapterConfig,
    LoRAConfig,
    LoReftConfig,
    PrefixTuningConfig,
    PromptTuningConfig,
    SeqBnConfig,
    SeqBnInvConfig,
)
from adapter_runtime.errors import UnsupportedMethodError
from adapter_runtime.methods.placing import check_built

EXAMPLES = {
    Method.BOTTLENECK: SeqBnConfig(),
    Method.PREFIX_TUNING: PrefixTuningConfig(),
    Method.LORA: LoRAConfig(),
    Method.REFT: LoReftConfig(),
    Method.PROMPT_TUNING: PromptTuningConfig(),
    Method.INVERTIBLE: SeqBnInvConfig(),
}


def is_built(config: AdapterConfig) -> bool:
    try:
        check_built(config)
    except UnsupportedMethodError:
        return False
    return True


@pytest.mark.parametrize("method", Method, ids=lambda method: method.value)
def test_the_planner_knows_which_methods_the_runtime_has(method: Method) -> None:
    assert (method in IN_RUNTIME) == is_built(EXAMPLES[method])


def test_known_places_do_not_make_a_method_supported() -> None:
    plan = plan_model(open_release(), "llama")
    assert isinstance(plan, ModelPlan)
    assert {entry.method for entry in plan.methods if entry.supported} == IN_RUNTIME
    assert {entry.reason for entry in plan.methods if not entry.supported} == {NOT_IN_RUNTIME}


def test_a_place_that_is_missing_is_the_reason_before_the_runtime_is() -> None:
    plan = plan_model(open_release(), "vit")
    assert isinstance(plan, ModelPlan)
    reasons = {entry.method: entry.reason for entry in plan.methods}
    assert "tokens" in reasons[Method.PROMPT_TUNING]
    assert reasons[Method.REFT] == NOT_IN_RUNTIME
