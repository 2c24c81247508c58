"""What a plan says about methods is what the runtime does with them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from adapter_codegen.model import Method, ModelPlan, Refusal
from adapter_codegen.plan import plan_model
from adapter_codegen.plan.methods import RULES
from adapter_codegen.plan.told.verdicts import NO_VERDICTS
from adapter_codegen.upstream import open_release
from adapter_runtime.methods.bottleneck.config import SeqBnConfig, SeqBnInvConfig
from adapter_runtime.methods.lora.config import LoRAConfig
from adapter_runtime.methods.prefix_tuning.config import PrefixTuningConfig
from adapter_runtime.methods.prompt_tuning.config import PromptTuningConfig
from adapter_runtime.methods.reft.config import LoReftConfig
from adapter_runtime.methods.table import check_built

EXAMPLES = {
    Method.BOTTLENECK: SeqBnConfig(),
    Method.PREFIX_TUNING: PrefixTuningConfig(),
    Method.LORA: LoRAConfig(),
    Method.REFT: LoReftConfig(),
    Method.PROMPT_TUNING: PromptTuningConfig(),
    Method.INVERTIBLE: SeqBnInvConfig(),
}


@pytest.mark.parametrize("method", Method, ids=lambda method: method.value)
def test_the_runtime_has_every_method_that_is_planned(method: Method) -> None:
    check_built(EXAMPLES[method])


def test_a_decoder_of_text_has_all_methods() -> None:
    plan = plan_model(open_release(), "llama", verdicts=NO_VERDICTS)
    assert isinstance(plan, ModelPlan)
    assert [entry.method for entry in plan.methods if entry.supported] == list(Method)


def test_a_method_without_a_place_says_why() -> None:
    plan = plan_model(open_release(), "vit", verdicts=NO_VERDICTS)
    assert isinstance(plan, ModelPlan)
    reasons = {entry.method: entry.reason for entry in plan.methods if not entry.supported}
    assert reasons.keys() == {Method.INVERTIBLE}
    assert all("token" in reason for reason in reasons.values())


@pytest.mark.parametrize(
    ("model_type", "reason"),
    [
        ("beit", ""),
        ("deit", ""),
        ("swin", "not known to be a plain sequence"),
        ("timesformer", "attends in several ways"),
        ("segformer", "not known to be a plain sequence"),
        ("dinov2", "no submodule `pooler` shows what is read"),  # its class token is read in the forward itself
        ("mgp-str", "no submodule `pooler` shows what is read"),  # its heads attend to all positions
        ("clip_text_model", "which positions of the layers' output are read"),  # pools at the last token of a text
    ],
)
def test_a_prompt_stands_in_front_of_an_image_where_its_parts_are_a_sequence(model_type: str, reason: str) -> None:
    plan = plan_model(open_release(), model_type, verdicts=NO_VERDICTS)
    assert isinstance(plan, ModelPlan)
    (prompt,) = (entry for entry in plan.methods if entry.method is Method.PROMPT_TUNING)
    assert prompt.supported is (reason == "")
    assert reason in prompt.reason


@pytest.mark.parametrize(
    ("model_type", "reason"),
    [
        pytest.param("depth_anything", "", id="it has no layers beside its backbone, which may be named"),
        pytest.param("colpali", "", id="its head stands on a part that reads tokens"),
        pytest.param("zoedepth", "in its own forward", id="its own layers would take it, in front of its head"),
    ],
)
def test_a_prompt_goes_into_no_layers_of_a_head_whose_parts_read_no_tokens(model_type: str, reason: str) -> None:
    plan = plan_model(open_release(), model_type, verdicts=NO_VERDICTS)
    assert isinstance(plan, ModelPlan)
    (prompt,) = (entry for entry in plan.methods if entry.method is Method.PROMPT_TUNING)
    assert prompt.supported is (reason == "")
    assert reason in prompt.reason


def test_a_layer_with_attention_and_no_place_behind_it_takes_no_bottlenecks() -> None:
    plan = plan_model(open_release(), "inkling2_text", verdicts=NO_VERDICTS)
    assert isinstance(plan, ModelPlan) and not plan.supports(Method.BOTTLENECK)
    (reason,) = (entry.reason for entry in plan.methods if entry.method is Method.BOTTLENECK)
    assert reason


def test_a_list_of_mere_attentions_takes_no_reft() -> None:
    plan = plan_model(open_release(), "xlm", verdicts=NO_VERDICTS)
    assert isinstance(plan, ModelPlan) and plan.supports(Method.LORA) and not plan.supports(Method.REFT)
    (reason,) = (entry.reason for entry in plan.methods if entry.method is Method.REFT)
    assert reason.startswith("Nothing is added to a stream in MultiHeadAttention,")


def test_lists_behind_the_layers_that_hold_none_are_no_stacks() -> None:
    plan = plan_model(open_release(), "vits", verdicts=NO_VERDICTS)  # its flows invert a distribution
    assert isinstance(plan, ModelPlan)
    assert [stack.path for stack in plan.base.stacks] == ["text_encoder.encoder.layers"]


def test_a_model_that_no_method_fits_is_refused() -> None:
    result = plan_model(
        open_release(), "squeezebert", verdicts=NO_VERDICTS
    )  # its channels stand in front of its positions
    assert isinstance(result, Refusal)
    assert result.diagnostics[0].code == "P252"


def test_an_addition_of_the_layer_that_no_rule_claims_costs_the_bottlenecks() -> None:
    plan = plan_model(
        open_release(), "higgs_audio_v2", verdicts=NO_VERDICTS
    )  # adds something at the positions of sounds alone
    assert isinstance(plan, ModelPlan)
    (support,) = (entry for entry in plan.methods if entry.method is Method.BOTTLENECK)
    assert not support.supported and support.location is not None
    assert support.reason.startswith("Not every layer of the stack model.layers has its sites. Here something is")


@pytest.mark.parametrize("model_type", ["d_fine", "deimv2"])
def test_a_gate_that_weighs_the_stream_and_what_was_attended_to_costs_none(model_type: str) -> None:
    plan = plan_model(open_release(), model_type, verdicts=NO_VERDICTS)
    assert isinstance(plan, ModelPlan) and plan.supports(Method.BOTTLENECK)
    (decoder,) = (layer for layer in plan.layers if layer.class_name.endswith("DecoderLayer"))
    assert [role.location.value for role in decoder.bottlenecks] == ["attention", "cross_attention", "output"]


def test_an_addition_inside_a_sublayer_that_no_rule_claims_costs_nothing() -> None:
    plan = plan_model(open_release(), "xmod", verdicts=NO_VERDICTS)  # upstream's own adapters of languages
    assert isinstance(plan, ModelPlan) and plan.supports(Method.BOTTLENECK)
    assert "P233" in {found.code for found in plan.diagnostics}


@pytest.mark.parametrize(
    "model_type",
    [
        pytest.param("mamba", id="goes on from a cache of states, which is told"),
        pytest.param("fnet", id="reads texts as a whole"),
        pytest.param("jamba", id="has attention too, and its cache"),
    ],
)
def test_what_stands_at_the_first_tokens_holds_where_they_can_be_told(model_type: str) -> None:
    plan = plan_model(open_release(), model_type, verdicts=NO_VERDICTS)
    assert isinstance(plan, ModelPlan)
    assert all(plan.supports(method) for method in (Method.BOTTLENECK, Method.REFT, Method.PROMPT_TUNING))


@pytest.mark.parametrize("method", [Method.REFT, Method.PROMPT_TUNING])
@pytest.mark.parametrize(
    ("annotation", "is_counted"),
    [("Cache | None", True), ("MambaCache | None", False), ("list[torch.FloatTensor] | None", False)],
)
def test_a_state_that_is_no_cache_of_upstream_does_not_show_the_first_tokens(
    method: Method, annotation: str, is_counted: bool
) -> None:
    plan = plan_model(open_release(), "mamba", verdicts=NO_VERDICTS)
    assert isinstance(plan, ModelPlan)
    kept = tuple(replace(p, annotation=annotation) if p.name == "cache_params" else p for p in plan.base.parameters)
    obstacle = RULES[method](replace(plan.base, parameters=kept), ())
    assert ("is no Cache" in ("" if obstacle is None else obstacle.reason)) is not is_counted


def test_a_model_that_multiplies_the_weights_of_its_layers_is_refused() -> None:
    result = plan_model(open_release(), "rwkv", verdicts=NO_VERDICTS)  # for evaluation, and not what adapters add
    assert isinstance(result, Refusal) and result.diagnostics[0].code == "P106"
