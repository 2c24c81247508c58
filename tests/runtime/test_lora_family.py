"""LoRA and its relatives at one projection, against plain torch and against PEFT, and in whole models."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from transformers.pytorch_utils import Conv1D

import adapter_models
from adapter_runtime.composition import Average, BatchSplit, Fuse, Parallel, Split, Stack
from adapter_runtime.configuration import (
    DoRAConfig,
    DvoRAConfig,
    IA3Config,
    LoRAConfig,
    MTLLoRAConfig,
    VeraConfig,
)
from adapter_runtime.context import AdapterSetup, ForwardContext, thread
from adapter_runtime.errors import InvalidConfigError, UnsupportedMethodError
from adapter_runtime.layers.lora import disable_lora, enable_lora
from adapter_runtime.methods.lora import add_shared_matrices, is_vera
from runtime_models import adapted, randomise

I, P = 6, 12
FAMILY: dict[str, LoRAConfig] = {
    "lora": LoRAConfig(r=2, alpha=6),
    "ia3": IA3Config(alpha=3),
    "dora": DoRAConfig(r=2, alpha=6),
    "dora as in adapters": DoRAConfig(r=2, alpha=6, dora_form="adapters"),
    "vera": VeraConfig(r=2, alpha=6),
    "dvora": DvoRAConfig(r=2, alpha=6),
    "mtl": MTLLoRAConfig(r=2, alpha=6, n_up_projection=3, weights_sharpness=0.5),
    "mtl linear": MTLLoRAConfig(r=2, alpha=6, n_up_projection=2, task_specific_matrix_type="linear"),
    "mtl with magnitudes": MTLLoRAConfig(r=2, alpha=6, use_dora=True),
}
ADDING = [name for name, config in FAMILY.items() if config.composition_mode == "add" and not config.use_dora]
PARTS = {"whole": [(0, P)], "q, v": [(0, 6), (9, 12)], "k": [(6, 9)], "q, k, v": [(0, 6), (6, 9), (9, 12)]}


def conv1d() -> Conv1D:
    module = Conv1D(P, I)
    nn.init.normal_(module.bias)
    return module


KINDS: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(I, P),
    "linear without bias": lambda: nn.Linear(I, P, bias=False),
    "conv1d": conv1d,
}


def adapt(module: nn.Module, parts: Any, *configs: LoRAConfig) -> Any:
    """`module` with adapters "a0", "a1" ... of random weights."""
    layer = enable_lora(module, 3, "selfattn_lora_q", fused=len(parts) > 1)
    generator = torch.Generator().manual_seed(5)
    for index, config in enumerate(configs):
        shared = nn.ParameterDict() if is_vera(config) else None
        if shared is not None:
            add_shared_matrices(shared, config, [layer.site(parts)], layer.weight)
        layer.add_adapter(f"a{index}", config, parts, shared)
        for parameter in [*layer.loras[f"a{index}"].parameters(), *(shared or {}).values()]:
            parameter.data = torch.randn(parameter.shape, generator=generator).to(parameter.dtype) * 0.5
    return layer.eval()


def active(layer: Any, block: Any) -> Any:
    layer.activate(Stack(block) if isinstance(block, str) else block, frozenset())
    return layer


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(2, 5, I, generator=torch.Generator().manual_seed(3))


def weight_of(module: Any) -> torch.Tensor:
    return module.weight.T if isinstance(module, Conv1D) else module.weight


def low_rank_of(adapter: Any, part: int, span: tuple[int, int], row: int) -> torch.Tensor:
    """``B A`` of one part, written out from the parameters."""
    size, rows = span[1] - span[0], slice(2 * part, 2 * part + 2)
    config = adapter.config
    if isinstance(config, MTLLoRAConfig):
        count = config.n_up_projection
        ups = adapter.lora_B[:, row : row + size]
        weights = (adapter.weights[part * count : (part + 1) * count] / config.weights_sharpness).exp()
        up = sum(weight / weights.sum() * matrix for weight, matrix in zip(weights, ups, strict=True))
        values = adapter.task_specific.values[rows]
        matrix = torch.diag(values) if values.dim() == 1 else values
        return up @ matrix.T @ adapter.lora_A[rows]
    if is_vera(config):
        shared = adapter.shared
        b, d = torch.diag(adapter.vera_B[row : row + size]), torch.diag(adapter.vera_D[rows])
        return b @ shared["lora_B"][:size] @ d @ shared["lora_A"][:, :I]
    return adapter.lora_B[row : row + size] @ adapter.lora_A[rows]


def written_out(layer: Any, adapter: Any, parts: Any, x: torch.Tensor) -> torch.Tensor:
    """The adapted output in plain torch, by a new weight and bias."""
    weight = weight_of(layer).clone()
    bias = torch.zeros(P) if layer.bias is None else layer.bias.clone()
    scaling, row = adapter.config.alpha / adapter.config.r, 0
    for part, (start, stop) in enumerate(parts):
        rows = slice(row, row + stop - start)
        if adapter.config.composition_mode == "scale":
            factor = adapter.lora_B[rows, 0] * scaling
            weight[start:stop] *= factor[:, None]
            bias[start:stop] *= factor
        else:
            product = low_rank_of(adapter, part, (start, stop), row)
            norm = (weight[start:stop] + product * (1.0 if adapter.config.dora_form == "adapters" else scaling)).norm(
                dim=1
            )
            weight[start:stop] += scaling * product
            if adapter.config.use_dora:
                factor = adapter.m.weight[rows, 0] / norm
                weight[start:stop] *= factor[:, None]
                if adapter.config.dora_form == "adapters":
                    bias[start:stop] *= factor
        row += stop - start
    return x @ weight.T + bias


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
    shared = nn.ParameterDict()
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
    context.gating_scores = type("Scores", (), {"add": lambda self, *entry: recorded.append(entry)})()
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
    config, shared = VeraConfig(r=2), nn.ParameterDict()
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


# Composition at one projection


def children(layer: Any, x: torch.Tensor, count: int = 2) -> list[torch.Tensor]:
    return [active(layer, f"a{index}")(x) for index in range(count)]


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize("parts", [PARTS["whole"], PARTS["q, v"]], ids=["whole", "parts"])
def test_blocks_divide_the_batch_and_the_sequence(name: str, parts: Any, x: torch.Tensor) -> None:
    layer = adapt(nn.Linear(I, P), parts, FAMILY[name], FAMILY[name])
    first, second = children(layer, x)
    assert_close(active(layer, BatchSplit("a0", "a1", batch_sizes=[1, 1]))(x), torch.cat([first[:1], second[1:]]))
    assert_close(active(layer, Parallel("a0", "a1"))(torch.cat([x, x])), torch.cat([first, second]))
    assert_close(active(layer, Split("a0", "a1", splits=[2, 3]))(x), torch.cat([first[:, :2], second[:, 2:]], 1))
    flat = active(layer, BatchSplit("a0", "a1", batch_sizes=[1, 1]))(x.flatten(0, 1))
    assert_close(flat, torch.cat([first[:1], second[1:]]).flatten(0, 1))


@pytest.mark.parametrize("name", FAMILY)
def test_defect_9_an_average_is_the_weighted_sum(name: str, x: torch.Tensor) -> None:
    layer = adapt(nn.Linear(I, P), PARTS["whole"], FAMILY[name], FAMILY[name])
    first, second = children(layer, x)
    assert_close(active(layer, Average("a0", "a1"))(x), (first + second) / 2)
    assert_close(active(layer, Average("a0", "a1", weights=[1, 3]))(x), first / 4 + second * 3 / 4)
    same = active(layer, Average("a0", "a0"))(x)
    assert_close(same, first)
    bare = active(layer, None)(x)
    block = Average("a0", "a1", weights=[2.0, -0.5], normalize_weights=False)
    assert_close(active(layer, block)(x), bare + 2 * (first - bare) - 0.5 * (second - bare), atol=1e-5, rtol=1e-5)
    assert_close(active(layer, Average("a0", "elsewhere"))(x), (first + bare) / 2)


@pytest.mark.parametrize("name", ADDING)
def test_a_stack_passes_each_update_through_the_next(name: str, x: torch.Tensor) -> None:
    layer = adapt(nn.Linear(I, I), [(0, I)], FAMILY[name], FAMILY["lora"])
    bare = layer(x)
    first = active(layer, "a0")(x) - bare
    second = layer.loras["a1"]
    update = first @ (3 * second.lora_B @ second.lora_A).T
    assert_close(active(layer, Stack("a0", "a1"))(x), bare + update, atol=1e-5, rtol=1e-5)
    assert_close(active(layer, Stack("a0", "elsewhere"))(x), bare + first, atol=1e-5, rtol=1e-5)
    block = Stack("a0", BatchSplit("a1", "elsewhere", batch_sizes=[1, 1]))
    assert_close(active(layer, block)(x), bare + torch.cat([update[:1], first[1:]]), atol=1e-5, rtol=1e-5)
    block = Stack(BatchSplit("a0", "elsewhere", batch_sizes=[1, 1]), "a1")
    assert_close(active(layer, block)(x)[0], (bare + update)[0], atol=1e-5, rtol=1e-5)


def test_a_gate_in_a_stack_reads_the_input_of_the_projection(x: torch.Tensor) -> None:
    gated = LoRAConfig(r=2, use_gating=True)
    layer = adapt(nn.Linear(I, I), [(0, I)], gated, gated)
    update = x
    for index in range(2):
        adapter = layer.loras[f"a{index}"]
        gate = torch.sigmoid(adapter.gate(x)).mean(1, keepdim=True)
        update = gate * (update @ adapter.lora_A.T @ adapter.lora_B.T)
    bare = layer(x)
    assert_close(active(layer, Stack("a0", "a1"))(x), bare + update)


def test_factors_in_a_stack_multiply(x: torch.Tensor) -> None:
    layer = adapt(nn.Linear(I, P), PARTS["whole"], IA3Config(), IA3Config())
    bare, factors = layer(x), [layer.loras[name].lora_B[:, 0] for name in ("a0", "a1")]
    assert_close(active(layer, Stack("a0", "a1"))(x), bare * factors[0] * factors[1])


@pytest.mark.parametrize(
    ("block", "configs", "message"),
    [
        pytest.param(Stack("a0", "a1"), ["lora", "ia3"], "add and that scale", id="sum and product"),
        pytest.param(Stack("a0", "a1"), ["lora", "lora"], "as many inputs as outputs", id="widths that do not chain"),
        pytest.param(Stack("a0", "a1"), ["dora", "lora"], "DoRA rescales", id="a magnitude behind an update"),
        pytest.param(Stack(Fuse("a0", "a1")), ["lora", "lora"], "Fuse cannot be run with LoRA", id="a fusion"),
    ],
)
def test_blocks_that_mean_nothing_at_a_projection_are_refused(block: Any, configs: list[str], message: str) -> None:
    layer = adapt(nn.Linear(I, P), PARTS["whole"], *(FAMILY[name] for name in configs))
    with pytest.raises(UnsupportedMethodError, match=message):
        active(layer, block)


def test_a_merged_adapter_does_not_act_on_the_rows_of_others(x: torch.Tensor) -> None:
    layer = adapt(nn.Linear(I, I), [(0, I)], LoRAConfig(r=2), LoRAConfig(r=2))
    bare, both = layer(x), Parallel("a0", "a1")
    for block in (both, Stack("a0", "a1"), Parallel("a0", "elsewhere")):
        active(layer, block)
        with pytest.raises(UnsupportedMethodError, match="stands in a block with others"):
            layer.merge("a0")
    assert torch.equal(active(layer, None)(x), bare)
    expected = active(layer, "a0")(x)
    second = active(layer, "a1")(x) - bare
    active(layer, None).merge("a0")
    layer.activate(None, frozenset())
    with AdapterSetup(both), pytest.raises(UnsupportedMethodError, match="stands in a block with others"):
        layer(x)
    with AdapterSetup("a0"):
        assert_close(layer(x), expected)
    with AdapterSetup("a1"):  # the merged one is a part of the weights
        assert_close(layer(x), expected + second)


# In whole models

EVERYWHERE = "attn_matrices=['q','k','v','o'],intermediate_lora=True,output_lora=True"
STRINGS = {
    "lora": f"lora[r=2,alpha=6,{EVERYWHERE}]",
    "ia3": "ia3",
    "dora": f"dora[r=2,alpha=6,{EVERYWHERE}]",
    "vera": f"vera[r=2,alpha=6,{EVERYWHERE}]",
    "dvora": f"dvora[r=2,alpha=6,{EVERYWHERE}]",
    "mtl": f"mtl_lora[r=2,alpha=6,n_up_projection=2,{EVERYWHERE}]",
}


def run(model: Any, inputs: dict[str, torch.Tensor], **options: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(**inputs, **options)[0]


def with_adapters(kind: str, config: str, *names: str) -> Any:
    model = adapted(kind)
    for seed, name in enumerate(names):
        model.add_adapter(name, config)
        randomise(model, name, seed)
    return model


@pytest.mark.parametrize("config", STRINGS.values(), ids=list(STRINGS))
@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_merging_into_a_model_is_exact_and_resetting_bitwise(
    kind: str, config: str, inputs: dict[str, torch.Tensor]
) -> None:
    model = adapted(kind)
    base = {name: parameter.clone() for name, parameter in model.named_parameters()}
    bare = run(model, inputs)
    model.add_adapter("a", config, set_active=True)
    randomise(model, "a")
    expected = run(model, inputs)
    model.merge_adapter("a")
    assert_close(run(model, inputs), expected, atol=5e-5, rtol=1e-4)
    assert model.merged_adapters() == {"a"}
    model.set_active_adapters(None)
    assert torch.equal(run(model, inputs), bare)
    assert all(torch.equal(value, base[name]) for name, value in model.named_parameters() if name in base)


@pytest.mark.parametrize("config", STRINGS.values(), ids=list(STRINGS))
@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_defect_20_parallel_adapters_give_what_each_gives(
    kind: str, config: str, inputs: dict[str, torch.Tensor]
) -> None:
    model = with_adapters(kind, config, "a", "b")
    outputs = []
    for name in "ab":
        model.set_active_adapters(name)
        outputs.append(run(model, inputs))
    model.set_active_adapters(Parallel("a", "b"))
    assert_close(run(model, inputs), torch.cat(outputs), atol=1e-5, rtol=1e-5)
    model.set_active_adapters(BatchSplit("a", "b", batch_sizes=[1, 1]))
    assert_close(run(model, inputs), torch.cat([outputs[0][:1], outputs[1][1:]]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("config", STRINGS.values(), ids=list(STRINGS))
def test_files_give_back_the_same_outputs(config: str, tmp_path: Path, inputs: dict[str, torch.Tensor]) -> None:
    model = with_adapters("llama", config, "a")
    model.set_active_adapters("a")
    expected = run(model, inputs)
    model.save_adapter(tmp_path, "a")
    fresh = adapted("llama")
    fresh.load_adapter(tmp_path, set_active=True)
    assert torch.equal(run(fresh, inputs), expected)


@pytest.mark.parametrize("config", STRINGS.values(), ids=list(STRINGS))
def test_training_reaches_every_parameter_but_shared_matrices(config: str, inputs: dict[str, torch.Tensor]) -> None:
    model = with_adapters("llama", config, "a")
    model.train_adapter("a")
    model(**inputs)[0].square().sum().backward()
    for key, parameter in model.adapter_parameters("a"):
        if key.startswith("shared_parameters."):
            assert not parameter.requires_grad and parameter.grad is None
        else:
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, key


def test_matrices_of_vera_stay_frozen_when_the_model_is_thawed() -> None:
    model = with_adapters("llama", "vera[r=2]", "a")
    model.freeze_model(False)
    still = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    assert still == ["shared_parameters.a.lora_A", "shared_parameters.a.lora_B"]


@pytest.mark.parametrize("config", STRINGS.values(), ids=list(STRINGS))
def test_a_whole_model_comes_back_from_files_and_pickles(
    config: str, tmp_path: Path, inputs: dict[str, torch.Tensor]
) -> None:
    model = adapter_models.LlamaAdapterModel(adapted("llama").config).eval()
    model.add_adapter("a", config, set_active=True)
    randomise(model, "a")
    expected = run(model, inputs)
    model.save_pretrained(tmp_path)
    loaded = adapter_models.LlamaAdapterModel.from_pretrained(tmp_path, attn_implementation="eager")
    loaded.set_active_adapters("a")
    assert torch.equal(run(loaded, inputs), expected)
    torch.save(model, tmp_path / "pickled")
    pickled = torch.load(tmp_path / "pickled", weights_only=False)
    assert torch.equal(run(pickled, inputs), expected)


def test_gating_scores_have_a_column_per_projection(inputs: dict[str, torch.Tensor]) -> None:
    model = with_adapters("llama", "lora[r=2,use_gating=True,output_lora=True]", "a")
    model.set_active_adapters("a")
    with torch.no_grad():
        scores = model(**inputs, output_adapter_gating_scores=True).adapter_gating_scores["a"]
    assert sorted(scores) == [0, 1, 2]
    assert {key: value.shape for key, value in scores[0].items()} == {"selfattn_lora": (2, 2), "output_lora": (2,)}


def test_vera_fits_projections_of_different_widths(inputs: dict[str, torch.Tensor]) -> None:
    model = adapted("llama")
    model.add_adapter("a", STRINGS["vera"])
    shared = model.shared_parameters["a"]
    assert (shared["lora_A"].shape, shared["lora_B"].shape) == ((2, 48), (48, 2))  # heads are 4 x 12 wide
    assert sorted(key for key in model.state_dict() if "lora_A" in key or "lora_B" in key) == [
        "shared_parameters.a.lora_A",
        "shared_parameters.a.lora_B",
    ]


def test_a_seed_gives_the_same_shared_matrices() -> None:
    drawn = []
    for seed in (1, 2):
        model = adapted("llama")
        torch.manual_seed(seed)
        model.add_adapter("a", "vera[init_weights_seed=3]")
        drawn.append(model.shared_parameters["a"]["lora_A"])
    assert torch.equal(*drawn)


def test_parameters_of_vera_have_the_type_of_the_config() -> None:
    model = adapted("llama")
    model.add_adapter("a", "vera[dtype='bfloat16']")
    assert {parameter.dtype for _, parameter in model.adapter_parameters("a")} == {torch.bfloat16}


def test_an_unknown_type_is_refused() -> None:
    model = adapted("llama")
    for dtype in ("int8", "float33", "nn"):
        with pytest.raises(InvalidConfigError, match="dtype"):
            model.add_adapter("a", LoRAConfig(dtype=dtype))


def test_a_setup_that_is_refused_leaves_the_merged_adapter_in_the_weights(inputs: dict[str, torch.Tensor]) -> None:
    model = with_adapters("llama", "lora[r=2]", "a", "b")
    model.merge_adapter("a")
    merged = run(model, inputs)
    with pytest.raises(UnsupportedMethodError, match="as many inputs as outputs"):
        model.set_active_adapters(Stack("a", "b"))
    assert model.active_adapters is None and model.merged_adapters() == {"a"}
    assert torch.equal(run(model, inputs), merged)


def test_one_adapter_is_merged_at_a_time(inputs: dict[str, torch.Tensor]) -> None:
    model = with_adapters("llama", "lora[r=2]", "a", "b")
    model.merge_adapter("a")
    merged = run(model, inputs)
    with pytest.raises(UnsupportedMethodError, match=r"'a' is in the weights already.*reset_adapter"):
        model.merge_adapter("b")
    assert torch.equal(run(model, inputs), merged)


def test_merging_beside_others_in_a_block_is_refused(inputs: dict[str, torch.Tensor]) -> None:
    model = with_adapters("llama", "lora[r=2]", "a", "b")
    bare = run(model, inputs)
    model.set_active_adapters(Parallel("a", "b"))
    expected = run(model, inputs)
    with pytest.raises(UnsupportedMethodError, match="stands in a block with others"):
        model.merge_adapter("a")
    assert torch.equal(run(model, inputs), expected)
    model.set_active_adapters(None)
    assert torch.equal(run(model, inputs), bare)


def test_diagonal_matrices_of_old_files_become_vectors(tmp_path: Path, inputs: dict[str, torch.Tensor]) -> None:
    model = with_adapters("llama", "vera[r=2]", "a")
    model.set_active_adapters("a")
    expected = run(model, inputs)
    model.save_adapter(tmp_path, "a", meta_dict={"version": "adapters.1.3.0"}, use_safetensors=False)
    weights = tmp_path / "pytorch_adapter.bin"
    tensors = torch.load(weights, weights_only=True)
    dense = {key: value.diag() if ".vera_" in key else value for key, value in tensors.items()}
    torch.save(dense, weights)
    fresh = adapted("llama")
    fresh.load_adapter(tmp_path, set_active=True)
    assert fresh.adapters_config.get("a")["vera_dense"] is False
    assert torch.equal(run(fresh, inputs), expected)
    dense = {key: value + 0.1 if ".vera_" in key else value for key, value in dense.items()}
    torch.save(dense, weights)
    fresh.load_adapter(tmp_path, load_as="b", set_active=True)
    assert fresh.adapters_config.get("b")["vera_dense"] is True
    adapter = fresh.layers[0].self_attn.q_proj.loras["b"]
    assert torch.equal(adapter.vera_B, dense["layers.0.self_attn.q_proj.loras.a.vera_B"])
    assert not torch.allclose(run(fresh, inputs), expected)


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


def test_defect_10_merging_dora_heeds_alpha_and_resetting_restores(x: torch.Tensor) -> None:
    layer = active(adapt(nn.Linear(I, P), PARTS["whole"], DoRAConfig(r=2, alpha=8)), "a0")
    expected, weight = layer(x), layer.weight.clone()
    layer.merge("a0")
    assert not torch.allclose(layer.weight, weight)
    assert_close(active(layer, "a0")(x), expected, atol=1e-5, rtol=1e-5)
    layer.unmerge()
    assert torch.equal(layer.weight, weight)


def test_defect_13_places_in_the_feed_forward_block_are_what_their_names_say() -> None:
    model = adapted("llama")
    model.add_adapter("first", "lora[selfattn_lora=False,intermediate_lora=True]")
    model.add_adapter("last", "lora[selfattn_lora=False,output_lora=True]")
    mlp = model.layers[0].mlp
    assert list(mlp.up_proj.loras) == ["first"] and list(mlp.down_proj.loras) == ["last"]


def test_defect_17_shared_matrices_have_the_shapes_of_the_adapter_that_is_there(
    inputs: dict[str, torch.Tensor],
) -> None:
    model = adapted("llama")
    before = list(model.state_dict())
    for config, width in (("vera[r=2]", 32), ("vera[r=3,output_lora=True]", 40), ("vera[r=2]", 32)):
        model.add_adapter("a", config, set_active=True)
        assert model.shared_parameters["a"]["lora_A"].shape[1] == width
        run(model, inputs)
        model.delete_adapter("a")
        assert list(model.state_dict()) == before
    model.add_adapter("a", "vera[r=2]", set_active=True)
    model.add_adapter("a", "vera[r=3,output_lora=True]", overwrite_ok=True)
    assert model.shared_parameters["a"]["lora_A"].shape == (3, 40)
    run(model, inputs)


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
