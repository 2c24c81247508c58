"""LoRA and its relatives at one projection, against plain torch and against PEFT."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from transformers.pytorch_utils import Conv1D

from adapter_runtime.call.context import GATING_SCORES, ForwardContext, thread
from adapter_runtime.errors import InvalidConfigError, UnsupportedMethodError
from adapter_runtime.methods.common.shared_parameters import SharedDict
from adapter_runtime.methods.lora.config import (
    DoRAConfig,
    IA3Config,
    LoRAConfig,
    MTLLoRAConfig,
    VeraConfig,
)
from adapter_runtime.methods.lora.layer import disable_lora, enable_lora
from adapter_runtime.methods.lora.modules.factory import is_vera
from adapter_runtime.methods.lora.modules.vera import add_shared_matrices
from lora_projections import FAMILY, KINDS, PARTS, I, P, active, adapt, conv1d, low_rank_of, written_out


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(2, 5, I, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("parts", PARTS.values(), ids=list(PARTS))
@pytest.mark.parametrize("name", FAMILY)
def test_active_and_merged_outputs_are_those_of_the_formula(name: str, parts: Any, kind: str, x: torch.Tensor) -> None:
    module = KINDS[kind]()
    bare, before = module(x), {key: value.clone() for key, value in module.state_dict().items()}
    layer = active(adapt(module, parts, FAMILY[name]), "a0")
    with torch.no_grad():
        expected = written_out(layer, layer.loras["a0"], parts, x)
        output = layer(x)
    assert not torch.allclose(output, bare, atol=1e-2)
    assert_close(output, expected, atol=1e-5, rtol=1e-5)
    assert_close(layer(x.flatten(0, 1)), output.flatten(0, 1), atol=1e-6, rtol=1e-5)
    layer.merge("a0")
    assert_close(active(layer, "a0")(x), output, atol=1e-5, rtol=1e-5)
    layer.unmerge()
    assert all(torch.equal(layer.state_dict()[key], value) for key, value in before.items())
    assert torch.equal(active(layer, None)(x), bare)


@pytest.mark.parametrize("name", ["lora", "ia3", "dora", "vera", "dvora", "mtl", "mtl linear"])
def test_a_new_adapter_changes_nothing(name: str, x: torch.Tensor) -> None:
    config = FAMILY[name].replace(alpha=1 if name == "ia3" else 6)
    module = nn.Linear(I, P)
    bare = module(x)
    layer = enable_lora(module, 0, "output_lora", fused=False)
    shared = SharedDict()
    if is_vera(config):
        add_shared_matrices(shared, config, [layer.site([(0, P)])], layer.weight)
    layer.add_adapter("a", config, [(0, P)], shared)
    assert_close(active(layer, "a")(x), bare, atol=1e-6, rtol=1e-6)


def test_the_names_and_shapes_of_parameters_are_those_of_files() -> None:
    expected = {
        "lora": {"lora_A": (2, I), "lora_B": (P, 2)},
        "ia3": {"lora_B": (P, 1)},
        "dora": {"lora_A": (2, I), "lora_B": (P, 2), "m.weight": (P, 1)},
        "vera": {"vera_D": (2,), "vera_B": (P,)},
        "dvora": {"vera_D": (2,), "vera_B": (P,), "m.weight": (P, 1)},
        "mtl": {"lora_A": (2, I), "lora_B": (3, P, 2), "weights": (3,), "task_specific.values": (2,)},
        "mtl linear": {"lora_A": (2, I), "lora_B": (2, P, 2), "weights": (2,), "task_specific.values": (2, 2)},
    }
    for name, shapes in expected.items():
        layer = adapt(nn.Linear(I, P), [(0, P)], FAMILY[name])
        found = {key: tuple(value.shape) for key, value in layer.loras["a0"].state_dict().items()}
        assert found == shapes, name
        assert sorted(key for key in layer.state_dict() if not key.startswith("loras.")) == ["bias", "weight"]


# PEFT


def peft_layer(base: nn.Module, config: Any) -> Any:
    from peft import get_peft_model

    return get_peft_model(nn.ModuleDict({"proj": base}), config).base_model.model["proj"]


def bases() -> Iterator[tuple[nn.Module, nn.Module]]:
    for kind in ("linear", "linear without bias", "conv1d"):
        module = KINDS[kind]()
        yield module, copy.deepcopy(module)


@pytest.mark.parametrize("use_dora", [False, True])
def test_lora_and_dora_are_those_of_peft(use_dora: bool, x: torch.Tensor) -> None:
    from peft import LoraConfig

    for ours, theirs in bases():
        layer = active(adapt(ours, PARTS["whole"], LoRAConfig(r=2, alpha=6, use_dora=use_dora)), "a0")
        adapter = layer.loras["a0"]
        options = {"fan_in_fan_out": isinstance(theirs, Conv1D), "use_dora": use_dora}
        twin = peft_layer(theirs, LoraConfig(r=2, lora_alpha=6, target_modules=["proj"], **options))
        pairs = [(adapter.lora_A, twin.lora_A.default.weight), (adapter.lora_B, twin.lora_B.default.weight)]
        if use_dora:
            pairs.append((adapter.m.weight, twin.lora_magnitude_vector.default.weight))
        same_outputs_and_gradients(layer, twin, pairs, x)


def same_outputs_and_gradients(layer: Any, twin: Any, pairs: Any, x: torch.Tensor) -> None:
    """Both layers, after the parameters of ours were copied into the other's."""
    for own, other in pairs:
        other.data.copy_(own.data.view_as(other))
    output, expected = layer(x), twin(x)
    assert_close(output, expected, atol=1e-5, rtol=1e-5)
    output.square().sum().backward()
    expected.square().sum().backward()
    for own, other in pairs:
        if other.requires_grad:
            assert_close(own.grad.view_as(other), other.grad, atol=1e-4, rtol=1e-4)


def test_vera_is_that_of_peft_for_the_same_matrices_and_vectors(x: torch.Tensor) -> None:
    from peft import VeraConfig as PeftVera

    for ours, theirs in bases():
        layer = active(adapt(ours, PARTS["whole"], VeraConfig(r=2, alpha=2)), "a0")
        adapter = layer.loras["a0"]
        fan_in_fan_out = isinstance(theirs, Conv1D)
        twin = peft_layer(theirs, PeftVera(r=2, target_modules=["proj"], fan_in_fan_out=fan_in_fan_out))
        twin.vera_A["default"].copy_(adapter.shared["lora_A"])
        twin.vera_B["default"].copy_(adapter.shared["lora_B"])
        pairs = [(adapter.vera_D, twin.vera_lambda_d.default), (adapter.vera_B, twin.vera_lambda_b.default)]
        same_outputs_and_gradients(layer, twin, pairs, x)


def test_ia3_is_that_of_peft(x: torch.Tensor) -> None:
    from peft import IA3Config as PeftIA3

    for ours, theirs in bases():
        layer = active(adapt(ours, PARTS["whole"], IA3Config()), "a0")
        options = {"feedforward_modules": [], "fan_in_fan_out": isinstance(theirs, Conv1D)}
        twin = peft_layer(theirs, PeftIA3(target_modules=["proj"], **options))
        # PEFT scales the output, bias included, as the paper does
        same_outputs_and_gradients(layer, twin, [(layer.loras["a0"].lora_B, twin.ia3_l.default)], x)


# Options


@pytest.mark.parametrize("parts", [PARTS["whole"], PARTS["q, v"]], ids=["whole", "parts"])
@pytest.mark.parametrize("name", ["lora", "ia3", "vera", "mtl", "dora"])
def test_a_gate_takes_the_place_of_the_scaling_and_is_recorded(name: str, parts: Any, x: torch.Tensor) -> None:
    layer = active(adapt(nn.Linear(I, P), parts, FAMILY[name].replace(use_gating=True)), "a0")
    adapter = layer.loras["a0"]
    recorded: list[Any] = []
    thread.context = context = ForwardContext()
    context.recorded[GATING_SCORES] = type(
        "Scores", (), {"add": lambda self, *entry, columns: recorded.append(entry)}
    )()
    try:
        output = layer(x)
    finally:
        thread.context = None
    gates = torch.sigmoid(x @ adapter.gate.weight.T + adapter.gate.bias).mean(1, keepdim=True)  # (B, 1, n)
    row = 0
    plain = nn.functional.linear(x, layer.weight, layer.bias)
    for part, (start, stop) in enumerate(parts):
        span, gate = plain[..., start:stop], gates[..., part : part + 1]
        if name == "ia3":
            value = span * adapter.lora_B[row : row + stop - start, 0] * gate
        else:
            product = low_rank_of(adapter, part, (start, stop), row)
            value = span + gate * (x @ product.T)
            if name == "dora":
                scale = adapter.m.weight[row : row + stop - start, 0] / (layer.weight[start:stop] + product).norm(
                    dim=1
                )
                value = (value - layer.bias[start:stop]) * scale + layer.bias[start:stop]
        plain[..., start:stop] = value
        row += stop - start
    assert_close(output, plain, atol=1e-5, rtol=1e-5)
    (entry,) = recorded
    assert entry[:3] == ("a0", 3, "selfattn_lora")
    assert_close(entry[3], gates)
    with pytest.raises(UnsupportedMethodError, match="cannot be merged"):
        layer.merge("a0")
    with pytest.raises(UnsupportedMethodError, match="all tokens of a batch in one row"):
        layer(x.flatten(0, 1))


@pytest.mark.parametrize("name", FAMILY)
def test_parameters_have_the_type_that_the_config_gives(name: str, x: torch.Tensor) -> None:
    layer = active(adapt(nn.Linear(I, P).bfloat16(), PARTS["whole"], FAMILY[name].replace(dtype="float32")), "a0")
    assert {parameter.dtype for parameter in layer.loras["a0"].parameters()} == {torch.float32}
    output = layer(x.bfloat16())
    assert output.dtype is torch.bfloat16
    layer.merge("a0")
    assert_close(active(layer, "a0")(x.bfloat16()), output, atol=0.2, rtol=0.05)


def test_dropout_leaves_what_a_gate_reads_alone(x: torch.Tensor) -> None:
    layer = active(adapt(nn.Linear(I, P), PARTS["whole"], LoRAConfig(r=2, use_gating=True, dropout=0.5)), "a0").train()
    adapter, seen = layer.loras["a0"], []
    adapter.gate.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    torch.manual_seed(0)
    output = layer(x)
    torch.manual_seed(0)
    dropped = nn.functional.dropout(x, 0.5)
    gate = torch.sigmoid(adapter.gate(x)).mean(1, keepdim=True)
    plain = nn.functional.linear(x, layer.weight, layer.bias)
    assert_close(output, plain + gate * (dropped @ adapter.lora_A.T @ adapter.lora_B.T))
    assert torch.equal(seen[0], x)


def test_first_values_are_those_that_the_config_names() -> None:
    found = {}
    for scheme in ("lora", "bert", "ia3", "vera"):
        layer = enable_lora(nn.Linear(200, 100), 0, "output_lora", fused=False)
        layer.add_adapter("a", LoRAConfig(init_weights=scheme, init_weights_seed=0), [(0, 100)])
        found[scheme] = layer.loras["a"]
    assert found["lora"].lora_B.abs().max() == 0 and found["lora"].lora_A.std() > 0.02
    assert abs(found["bert"].lora_B.std().item() - 0.02) < 0.003
    assert bool((found["ia3"].lora_B == 1).all() and (found["ia3"].lora_A == 1).all())
    assert found["vera"].lora_B.std() > 0.2
    factors = {}
    for scheme in ("lora", "bert", "ia3"):
        layer = enable_lora(nn.Linear(200, 100), 0, "output_lora", fused=False)
        layer.add_adapter("a", IA3Config(init_weights=scheme), [(0, 100)])
        factors[scheme] = layer.loras["a"].lora_B
    assert bool((factors["lora"] == 0).all() and (factors["ia3"] == 1).all()) and 0 < factors["bert"].std() < 0.03


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"composition_mode": "scale", "r": 2}, id="a factor of rank 2"),
        pytest.param({"composition_mode": "scale", "r": 1, "use_dora": True}, id="a factor with magnitudes"),
        pytest.param({"composition_mode": "scale", "r": 1, "dropout": 0.1}, id="a factor with dropout"),
        pytest.param({"vera_d": 0.1, "init_weights": "vera"}, id="half of VeRA's options"),
        pytest.param({"vera_d": 0.1, "vera_b": 0.0}, id="frozen matrices of which one is zero"),
        pytest.param({"vera_dense": True}, id="dense matrices without VeRA"),
        pytest.param({"dora_form": "mine"}, id="an unknown form"),
        pytest.param({"dropout": 1.0}, id="a dropout of everything"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidConfigError):
        LoRAConfig(**options)


@pytest.mark.parametrize(
    "options", [{"n_up_projection": 0}, {"weights_sharpness": 0.0}, {"vera_d": 0.1, "vera_b": 0.0}]
)
def test_options_of_mtl_lora_that_mean_nothing_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidConfigError):
        MTLLoRAConfig(init_weights="vera", **options)


def test_sharp_weights_do_not_overflow(x: torch.Tensor) -> None:
    layer = active(adapt(nn.Linear(I, P), PARTS["whole"], FAMILY["mtl linear"].replace(weights_sharpness=1e-3)), "a0")
    layer.loras["a0"].weights.data = torch.tensor([100.0, 99.0])
    adapter = layer.loras["a0"]
    product = adapter.lora_B[0] @ adapter.task_specific.values.T @ adapter.lora_A
    assert_close(layer(x), nn.functional.linear(x, layer.weight + 3 * product, layer.bias), atol=1e-5, rtol=1e-5)


def test_the_norm_of_dora_counts_as_a_constant(x: torch.Tensor) -> None:
    gradients = []
    for form in ("paper", "adapters"):
        layer = active(
            adapt(nn.Linear(I, P, bias=False), PARTS["whole"], DoRAConfig(r=2, alpha=2, dora_form=form)), "a0"
        )
        layer.weight.data = torch.linspace(-1, 1, P * I).view(P, I)
        layer(x).square().sum().backward()
        gradients.append(layer.loras["a0"].lora_B.grad)
    assert not torch.allclose(*gradients, rtol=1e-2)


def test_dora_starts_from_weights_without_a_merged_adapter() -> None:
    layer = adapt(nn.Linear(I, P), PARTS["whole"], FAMILY["lora"])
    norms = layer.weight.detach().norm(dim=1)
    layer.merge("a0")
    layer.add_adapter("b", DoRAConfig(r=2), PARTS["whole"])
    assert_close(layer.loras["b"].m.weight[:, 0].detach(), norms)


def test_vera_takes_the_first_rows_and_columns_where_projections_differ_in_width(x: torch.Tensor) -> None:
    wide, narrow = (enable_lora(nn.Linear(*widths), 0, "output_lora", fused=False) for widths in ((8, 5), (I, P)))
    config, shared = VeraConfig(r=2), SharedDict()
    add_shared_matrices(shared, config, [wide.site([(0, 5)]), narrow.site([(0, P)])], wide.weight)
    assert (shared["lora_A"].shape, shared["lora_B"].shape) == ((2, 8), (P, 2))
    assert not any(parameter.requires_grad for parameter in shared.values())
    for layer, outputs in ((wide, 5), (narrow, P)):
        layer.add_adapter("a", config, [(0, outputs)], shared)
        nn.init.normal_(layer.loras["a"].vera_B)
    adapter = active(narrow, "a").loras["a"]
    product = torch.diag(adapter.vera_B) @ shared["lora_B"] @ torch.diag(adapter.vera_D) @ shared["lora_A"][:, :I]
    assert_close(narrow(x), nn.functional.linear(x, narrow.weight + 4 * product, narrow.bias))
    entry = torch.randn(3, 8)
    adapter = active(wide, "a").loras["a"]
    product = torch.diag(adapter.vera_B) @ shared["lora_B"][:5] @ torch.diag(adapter.vera_D) @ shared["lora_A"]
    assert_close(wide(entry), nn.functional.linear(entry, wide.weight + 4 * product, wide.bias))


def test_copies_keep_to_their_own_weights(x: torch.Tensor) -> None:
    holder = nn.ModuleDict({"proj": adapt(nn.Linear(I, P), PARTS["whole"], FAMILY["dvora"])})
    active(holder["proj"], "a0")
    twin = copy.deepcopy(holder)
    expected = twin["proj"](x)
    nn.init.zeros_(holder["proj"].weight)
    holder["proj"].loras["a0"].shared["lora_A"].data.zero_()
    assert torch.equal(twin["proj"](x), expected)
    assert twin["proj"].loras["a0"].m.projection is twin["proj"]


# Defects


def test_defect_2_no_bias_is_invented(x: torch.Tensor) -> None:
    for name, config in FAMILY.items():
        module = nn.Linear(I, P, bias=False)
        bare = module(x)
        layer = adapt(module, PARTS["q, v"], config)
        assert layer.bias is None and torch.equal(active(layer, None)(x), bare), name
        layer.merge("a0")
        assert layer.bias is None
        layer.delete_adapter("a0")
        disable_lora(layer)
        assert list(module.state_dict()) == ["weight"] and torch.equal(module(x), bare)


def test_defect_10_merging_ia3_scales_the_bias(x: torch.Tensor) -> None:
    layer = active(adapt(nn.Linear(I, P), PARTS["whole"], IA3Config()), "a0")
    expected, factor = layer(x), layer.loras["a0"].lora_B[:, 0]
    bias = layer.bias.clone()
    layer.merge("a0")
    assert_close(layer.bias, bias * factor)
    assert_close(active(layer, "a0")(x), expected)
    layer.unmerge()
    assert torch.equal(layer.bias, bias)


def test_defect_10_merging_dora_heeds_alpha_and_resetting_restores(x: torch.Tensor) -> None:
    layer = active(adapt(nn.Linear(I, P), PARTS["whole"], DoRAConfig(r=2, alpha=8)), "a0")
    expected, weight = layer(x), layer.weight.clone()
    layer.merge("a0")
    assert not torch.allclose(layer.weight, weight)
    assert_close(active(layer, "a0")(x), expected, atol=1e-5, rtol=1e-5)
    layer.unmerge()
    assert torch.equal(layer.weight, weight)


def test_defect_17_vera_has_vectors() -> None:
    layer = adapt(nn.Linear(32, 32), [(0, 32)], VeraConfig(r=2))
    assert sum(parameter.numel() for parameter in layer.loras["a0"].parameters()) == 2 + 32


def test_defect_21_a_linear_task_matrix_can_be_made() -> None:
    layer = adapt(nn.Linear(I, P), PARTS["whole"], FAMILY["mtl linear"])
    assert layer.loras["a0"].task_specific.values.shape == (2, 2)


@pytest.mark.parametrize("name", ["dora", "vera", "dvora", "mtl", "mtl linear"])
def test_defect_21_fused_conv1d_projections_take_every_member(name: str, x: torch.Tensor) -> None:
    layer = active(adapt(conv1d(), [(0, 4), (8, 12)], FAMILY[name]), "a0")
    with torch.no_grad():
        expected = written_out(layer, layer.loras["a0"], [(0, 4), (8, 12)], x)
    assert_close(layer(x), expected, atol=1e-5, rtol=1e-5)
