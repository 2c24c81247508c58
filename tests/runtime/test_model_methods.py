"""Adding, activating, training, merging and deleting adapters; errors leave the model as it was."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from adapter_runtime import AdapterSetup, Stack
from adapter_runtime.composition import Average
from adapter_runtime.contract.names import InvalidNameError
from adapter_runtime.errors import AdapterError, InvalidConfigError, UnknownAdapterError, UnsupportedMethodError
from adapter_runtime.methods.lora.config import LoRAConfig
from adapter_runtime.methods.lora.layer import LoRALayer, LoRALinear
from adapter_runtime.roles import MLPRoles
from runtime_models import adapted, randomise

EVERY_METHOD = "prefix_tuning_flat|lora|seq_bn"


def structure(model: PreTrainedModel) -> dict[str, Any]:
    """Classes, children, parameters and what runs, per path."""
    return {
        path: (type(module), list(module._modules), dict(module._parameters), getattr(module, "running", None))
        for path, module in model.named_modules()
    }


def output(model: PreTrainedModel, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        return model(**inputs)[0]


REFUSED = [
    pytest.param("a.b", "seq_bn", InvalidNameError, id="a name with a dot"),
    pytest.param("keys", "seq_bn", InvalidNameError, id="a name that module dicts use"),
    pytest.param("here", "seq_bn", ValueError, id="a name that is taken"),
    pytest.param("new", "nothing", InvalidConfigError, id="an unknown config"),
    pytest.param("new", "compacter", InvalidConfigError, id="hypercomplex layers that do not divide the width"),
    pytest.param(
        "new", "seq_bn_inv[inv_adapter_reduction_factor=None]", InvalidConfigError, id="half of an invertible adapter"
    ),
    pytest.param("new", "lora[vera_d=0.1]", InvalidConfigError, id="half of VeRA's options"),
    pytest.param("new", "lora[dtype='int8']", InvalidConfigError, id="a type that cannot be trained"),
    pytest.param("new", "loreft[layers=[3]]", InvalidConfigError, id="ReFT in a layer that is not there"),
    pytest.param("new", "prompt_tuning[prompt_init='from_string']", InvalidConfigError, id="a prompt from no text"),
    pytest.param("new", "lora|loreft[layers=[3]]", InvalidConfigError, id="a union whose second member has no place"),
    pytest.param("new", "seq_bn[leave_out=[0,1,2]]", InvalidConfigError, id="a config that leaves out every layer"),
    pytest.param("new", "seq_bn[non_linearity='wavy']", InvalidConfigError, id="an unknown activation"),
]


@pytest.mark.parametrize(("name", "config", "error"), REFUSED)
def test_a_refused_adapter_leaves_no_trace(name: str, config: str, error: type[Exception]) -> None:
    model = adapted("llama_lm")
    model.add_adapter("here", EVERY_METHOD, set_active=True)
    before = structure(model)
    with pytest.raises(error):
        model.add_adapter(name, config)
    assert structure(model) == before
    assert list(model.adapters_config.adapters) == ["here"]
    assert model.active_adapters == Stack("here")


def test_an_overwrite_that_fails_keeps_the_old_adapter(inputs: dict[str, torch.Tensor]) -> None:
    model = adapted("bert")
    model.add_adapter("a", EVERY_METHOD, set_active=True)
    randomise(model, "a")
    before, expected = structure(model), output(model, inputs)
    with pytest.raises(InvalidConfigError):
        model.add_adapter("a", "vera|seq_bn[non_linearity='wavy']", overwrite_ok=True)
    assert structure(model) == before
    assert torch.equal(output(model, inputs), expected)
    model.add_adapter("a", "double_seq_bn", overwrite_ok=True)
    assert model.adapters_config.get("a")["mh_adapter"]


@pytest.mark.parametrize("kind", ["bert", "llama_lm", "bert_decoder"])
def test_deleting_the_last_adapter_restores_what_init_left(kind: str) -> None:
    model = adapted(kind)
    before = structure(model)
    for name in ("a", "b"):
        model.add_adapter(name, EVERY_METHOD, set_active=True)
    for name in ("a", "b"):
        model.delete_adapter(name)
    assert structure(model) == before
    assert not any(isinstance(module, LoRALayer) for module in model.modules())


def test_deleting_one_of_a_stack_leaves_the_other_running(inputs: dict[str, torch.Tensor]) -> None:
    model = adapted("llama")
    for name in ("a", "b"):
        model.add_adapter(name, "seq_bn")
        randomise(model, name)
    model.set_active_adapters("b")
    expected = output(model, inputs)
    model.set_active_adapters(["a", "b"])
    model.delete_adapter("a")
    assert model.active_adapters == Stack("b")
    assert torch.equal(output(model, inputs), expected)


def test_an_unknown_name_cannot_be_used() -> None:
    model = adapted("llama")
    model.add_adapter("english", "seq_bn", set_active=True)
    for call in (
        model.set_active_adapters,
        model.train_adapter,
        model.delete_adapter,
        model.merge_adapter,
        model.get_adapter,
    ):
        with pytest.raises(UnknownAdapterError, match="Did you mean 'english'"):
            call("engish")
    assert model.active_adapters == Stack("english")


def test_a_block_that_cannot_run_is_refused() -> None:
    model = adapted("llama")
    model.add_adapter("a", "prefix_tuning_flat", set_active=True)
    with pytest.raises(UnsupportedMethodError, match="Average"):
        model.set_active_adapters(Average("a", "a"))
    assert model.active_adapters == Stack("a")


def test_skipped_layers_run_nothing(inputs: dict[str, torch.Tensor]) -> None:
    model = adapted("llama")
    bare = output(model, inputs)
    model.add_adapter("a", EVERY_METHOD)
    randomise(model, "a")
    model.set_active_adapters("a", skip_layers=[0, 1, 2])
    assert torch.equal(output(model, inputs), bare)
    model.set_active_adapters("a", skip_layers=[0])
    assert not torch.allclose(output(model, inputs), bare)


def test_a_setup_holds_within_its_context_only(inputs: dict[str, torch.Tensor]) -> None:
    model = adapted("bert")
    bare = output(model, inputs)
    for name, config in (("a", EVERY_METHOD), ("b", "prefix_tuning|seq_bn")):
        model.add_adapter(name, config)
        randomise(model, name)
    model.set_active_adapters("b")
    b = output(model, inputs)
    model.set_active_adapters("a")
    a = output(model, inputs)
    with AdapterSetup("b"):
        assert torch.equal(output(model, inputs), b)
        with AdapterSetup(None):
            assert torch.equal(output(model, inputs), bare)
        assert torch.equal(output(model, inputs), b)
    assert torch.equal(output(model, inputs), a)


def test_training_reaches_the_adapter_alone() -> None:
    model = adapted("bert")
    for name in ("a", "b"):
        model.add_adapter(name, EVERY_METHOD)
    model.train_adapter("a")
    assert model.training
    declared = {id(parameter) for _, parameter in model.adapter_parameters("a")}
    assert {id(p) for p in model.parameters() if p.requires_grad} == declared
    model.freeze_model(False)
    assert all(p.requires_grad for p in model.parameters())


def test_a_parameter_that_no_layer_declares_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    model = adapted("llama")
    host = model.layers[0].output_adapters
    add = type(host).add_adapter

    def add_and_hide(self: Any, *args: Any) -> None:
        add(self, *args)
        self.hidden = nn.Parameter(torch.zeros(1))

    monkeypatch.setattr(type(host), "add_adapter", add_and_hide)
    with pytest.raises(AssertionError, match=r"no layer declares.*hidden"):
        model.add_adapter("a", "seq_bn")
    assert not hasattr(host, "hidden")


@pytest.mark.parametrize("config", ["lora[alpha=16]", "ia3", "lora[attn_matrices=['q','k','v','o'],output_lora=True]"])
@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_merged_weights_give_the_same_outputs_and_come_back_bitwise(
    kind: str, config: str, inputs: dict[str, torch.Tensor]
) -> None:
    model = adapted(kind)
    base = {name: value.clone() for name, value in model.named_parameters()}
    bare = output(model, inputs)
    model.add_adapter("a", config, set_active=True)
    randomise(model, "a")
    expected = output(model, inputs)
    assert not torch.allclose(expected, bare, atol=1e-3)
    for activate in (True, False):
        model.set_active_adapters("a" if activate else None)
        model.merge_adapter("a")
        torch.testing.assert_close(output(model, inputs), expected, atol=2e-5, rtol=1e-4)
        model.reset_adapter()
        assert all(torch.equal(value, base[name]) for name, value in model.named_parameters() if name in base)
        assert torch.equal(output(model, inputs), expected if activate else bare)


def test_what_cannot_be_merged_is_refused_and_nothing_is_merged() -> None:
    model = adapted("llama")
    weights = {name: value.clone() for name, value in model.named_parameters()}
    for name, config in (("gated", "lora[use_gating=True]"), ("mixed", "lora|seq_bn"), ("bottleneck", "seq_bn")):
        model.add_adapter(name, config)
        randomise(model, name)
        with pytest.raises(UnsupportedMethodError, match="cannot be merged"):
            model.merge_adapter(name)
    assert all(torch.equal(value, weights[name]) for name, value in model.named_parameters() if name in weights)


def test_deleting_a_merged_adapter_restores_the_weights() -> None:
    model = adapted("llama")
    weight = model.layers[0].self_attn.q_proj.weight
    before = weight.clone()
    model.add_adapter("a", "lora", set_active=True)
    randomise(model, "a")
    model.merge_adapter("a")
    assert isinstance(model.layers[0].self_attn.q_proj, LoRALinear)
    assert not torch.equal(weight, before)
    model.delete_adapter("a")
    assert torch.equal(weight, before)


def test_modules_are_found_by_layer_and_place() -> None:
    model = adapted("llama_lm")
    model.add_adapter("a", "prefix_tuning_flat|lora|double_seq_bn[leave_out=[1]]")
    found = model.get_adapter("a")
    assert sorted(found) == [-1, 0, 1, 2]
    assert list(found[-1]) == ["prefix_tuning"]
    assert sorted(found[0]) == ["mh_adapter", "output_adapter", "selfattn_lora_q", "selfattn_lora_v"]
    assert sorted(found[1]) == ["selfattn_lora_q", "selfattn_lora_v"]
    model.adapter_to("a", dtype=torch.float64)
    assert {parameter.dtype for _, parameter in model.adapter_parameters("a")} == {torch.float64}


def test_new_modules_have_the_type_of_the_model(inputs: dict[str, torch.Tensor]) -> None:
    model = adapted("llama").to(torch.bfloat16)
    model.add_adapter("a", EVERY_METHOD, set_active=True)
    assert {parameter.dtype for _, parameter in model.adapter_parameters("a")} == {torch.bfloat16}
    assert output(model, inputs).dtype is torch.bfloat16


def test_the_summary_counts_and_marks() -> None:
    model = adapted("llama")
    model.add_adapter("english", "seq_bn", set_active=True)
    row, full = model.adapter_summary(as_dict=True)
    assert (row["name"], row["architecture"], row["active"]) == ("english", "bottleneck", True)
    assert row["#param"] == 3 * (2 * 32 * 2 + 2 + 32)
    assert full["#param"] == sum(p.numel() for p in model.parameters()) - row["#param"]
    table = model.adapter_summary()
    assert table.splitlines()[0].split() == ["Name", "Architecture", "#Param", "%Param", "Active", "Train"]
    assert "english" in table


def test_support_is_told_by_the_plan() -> None:
    model = adapted("llama")
    assert model.supports_adapter("seq_bn")
    assert not model.supports_adapter("no_such_method")
    assert model.supports_adapter("loreft") and model.supports_adapter("seq_bn_inv")


@pytest.mark.parametrize(
    ("roles", "config"),
    [
        pytest.param({"attentions": {"value": "self_attn.k_proj"}}, "lora", id="one projection for keys and values"),
        pytest.param(
            {"attentions": {"value": "self_attn.k_proj", "value_head_dim": "head_dim"}},
            "prefix_tuning",
            id="no width of keys is known",
        ),
        pytest.param({"bottlenecks": ()}, "seq_bn", id="no residual addition"),
        pytest.param(
            {"attentions": {}, "mlp": MLPRoles()}, LoRAConfig(intermediate_lora=True, selfattn_lora=False), id="no MLP"
        ),
    ],
)
def test_what_is_supported_can_be_added_and_nothing_else(
    roles: dict[str, Any], config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = adapted("llama")
    assert model.supports_adapter(config)
    layer = type(next(layer for _, layer in model.adapters_base.iter_layers()))
    changed = dict(roles)
    if "attentions" in roles:
        changed["attentions"] = tuple(replace(found, **roles["attentions"]) for found in layer.roles.attentions)
    monkeypatch.setattr(layer, "roles", replace(layer.roles, **changed))
    assert not model.supports_adapter(config)
    with pytest.raises(AdapterError):
        model.add_adapter("a", config)


def test_an_invertible_adapter_needs_a_place_to_be_supported(monkeypatch: pytest.MonkeyPatch) -> None:
    model = adapted("llama")
    assert model.supports_adapter("seq_bn_inv")
    assert not model.supports_adapter("seq_bn_inv[inv_adapter_reduction_factor=0]")
    monkeypatch.setattr(type(model), "embedding_output", "")
    assert not model.supports_adapter("seq_bn_inv") and model.supports_adapter("seq_bn")


@pytest.mark.parametrize(
    ("config", "is_supported"),
    [
        ("compacter[reduction_factor=4]", True),
        ("compacter[reduction_factor=4,phm_dim=3]", False),
        ("compacter[reduction_factor=4,phm_dim=3,shared_phm_rule=False]", False),
        ("seq_bn[non_linearity='none such']", False),
    ],
)
def test_options_that_do_not_fit_the_widths_of_the_model_are_not_supported(config: str, is_supported: bool) -> None:
    model = adapted("llama")
    before = torch.get_rng_state()
    assert model.supports_adapter(config) is is_supported
    assert torch.equal(torch.get_rng_state(), before)
    if not is_supported:
        with pytest.raises(AdapterError):
            model.add_adapter("a", config)


def test_errors_share_a_base() -> None:
    with pytest.raises(AdapterError):
        adapted("llama").add_adapter("a", "compacter")
