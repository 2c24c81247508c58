"""AdapterFusion: the attention itself, what it means in a layer, and the methods of models."""

from __future__ import annotations

import copy
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from adapter_runtime import AdapterSetup
from adapter_runtime.composition import BatchSplit, Fuse, Parallel, Stack
from adapter_runtime.errors import (
    AdapterError,
    InvalidCompositionError,
    InvalidConfigError,
    UnknownAdapterError,
    UnsupportedMethodError,
)
from adapter_runtime.methods.bottleneck.config import BnConfig
from adapter_runtime.methods.bottleneck.layer import BottleneckLayer
from adapter_runtime.methods.fusion.config import (
    ADAPTERFUSION_CONFIG_MAP,
    AdapterFusionConfig,
    DynamicAdapterFusionConfig,
    StaticAdapterFusionConfig,
)
from adapter_runtime.methods.fusion.module import AdapterFusion
from runtime_models import adapted, randomise

B, L, N, H = 2, 5, 3, 6
SWITCHES = ("key", "query", "value", "residual_before", "value_before_softmax", "query_before_ln")


def config_of(**options: Any) -> AdapterFusionConfig:
    return DynamicAdapterFusionConfig(**options)


def random_(module: nn.Module, seed: int = 1) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)


def tensors(*shape: int, seed: int = 3) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def attended(
    fusion: AdapterFusion, query: torch.Tensor, values: torch.Tensor, residual: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The mixture and the attention in plain torch, with a projection of every key and value."""
    config = fusion.config
    if config.residual_before:
        values = values + residual[:, :, None]
    keys = fusion.key(values) if config.key else values
    query = fusion.query(query) if config.query else query
    attention = torch.einsum("blh,blnh->bln", query, keys).softmax(-1)
    if config.value and config.value_before_softmax:
        mixture = torch.einsum("bln,blnh->blh", attention, fusion.value(values))
    else:
        mixture = torch.einsum("bln,blnh->blh", attention, values)
        mixture = fusion.value(mixture) if config.value else mixture
    return (mixture if config.residual_before else mixture + residual), attention


@pytest.mark.parametrize("switches", itertools.product([False, True], repeat=5), ids=str)
def test_every_combination_of_options(switches: tuple[bool, ...]) -> None:
    fusion = AdapterFusion(config_of(**dict(zip(SWITCHES, switches, strict=False))), H, 0.3).eval()
    random_(fusion)
    given = tensors(B, L, H), tensors(B, L, N, H, seed=4), tensors(B, L, H, seed=5)
    torch.testing.assert_close(fusion(*given), attended(fusion, *given)[0])


def test_how_weights_are_drawn() -> None:
    torch.manual_seed(0)
    fusion = AdapterFusion(config_of(), 200, 0.0)
    expected = torch.full((200, 200), 1e-6).fill_diagonal_(1.0)
    assert torch.equal(fusion.value.weight, expected) and fusion.value.bias is None
    for layer in (fusion.query, fusion.key, AdapterFusion(config_of(value_initialized=False), 200, 0.0).value):
        assert abs(layer.weight.std().item() - 0.02) < 1e-3
    assert not fusion.query.bias.any() and not fusion.key.bias.any()


# Dropout and temperature


def test_scores_are_dropped_in_training_at_the_rate_of_the_model_or_of_the_config() -> None:
    model = adapted("bert")
    for name in "ab":
        model.add_adapter(name, "seq_bn")
    rates = {}
    for rate in (None, 0.0, 0.6):
        model.add_adapter_fusion("a,b", config_of(dropout_prob=rate), overwrite_ok=True)
        rates[rate] = {module.dropout for module in model._fusion_modules("a,b")}
    assert rates == {None: {0.1}, 0.0: {0.0}, 0.6: {0.6}}
    scores = next(iter(model._fusion_modules("a,b"))).train().scores(torch.ones(50, 4, 32), torch.ones(50, 4, 9, 32))
    assert abs((scores == 0).float().mean().item() - 0.6) < 0.05


def test_the_temperature_falls_with_the_calls_of_a_training_and_evaluation_knows_none(
    inputs: dict[str, torch.Tensor],
) -> None:
    model = fused("llama", config_of(temperature=True, dropout_prob=0.0))
    modules = list(model._fusion_modules("a,b"))
    model.set_active_adapters(Fuse("a", "b"))
    evaluated = model(**inputs)[0]
    model.train()
    warm = [model(**inputs)[0] for _ in range(3)]
    assert {module.steps.item() for module in modules} == {3}
    torch.testing.assert_close(model.eval()(**inputs)[0], evaluated)
    assert {module.steps.item() for module in modules} == {3}
    assert not torch.allclose(warm[0], evaluated) and not torch.equal(warm[0], warm[2])
    scores = torch.tensor([[1.0, 3.0]])
    for steps, temperature in ((0, 50.0), (500, 25.0), (979, 1.05), (980, 1.0), (5000, 1.0)):
        modules[0].train().steps.fill_(steps)
        torch.testing.assert_close(modules[0].tempered(scores), scores / temperature)
    assert not any("steps" in key for key in model.state_dict())
    assert copy.deepcopy(modules[0]).steps.item() == 5000


def test_the_temperature_of_what_does_not_run_stays(inputs: dict[str, torch.Tensor]) -> None:
    model = fused("llama", config_of(temperature=True))
    model.set_active_adapters("a")
    model.train()(**inputs)
    assert {module.steps.item() for module in model._fusion_modules("a,b")} == {0}
    with AdapterSetup(Stack("a", Fuse("a", "b"))):
        model(**inputs)
    assert {module.steps.item() for module in model._fusion_modules("a,b")} == {1}


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointed_layers_see_one_temperature_per_step(reentrant: bool, inputs: dict[str, torch.Tensor]) -> None:
    gradients = []
    for checkpointing in (False, True):
        model = fused("llama", config_of(temperature=True, dropout_prob=0.0))
        model.train_adapter_fusion(Fuse("a", "b"))
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
            model.enable_input_require_grads()
        for _ in range(2):
            model.zero_grad()
            model(**inputs, use_cache=False)[0].square().sum().backward()
        gradients.append([p.grad.clone() for module in model._fusion_modules("a,b") for p in module.parameters()])
        assert {module.steps.item() for module in model._fusion_modules("a,b")} == {2}
    torch.testing.assert_close(*gradients)


# In a layer


def bottleneck(**options: Any) -> BnConfig:
    given = {"mh_adapter": False, "output_adapter": True, "reduction_factor": 2, "non_linearity": "gelu", **options}
    return BnConfig(**given)


CONFIGS = {
    "a": bottleneck(),
    "b": bottleneck(original_ln_before=True, scaling=2.0, use_gating=True, ln_after=True),
    "c": bottleneck(original_ln_before=True, original_ln_after=False),
    "p": bottleneck(is_parallel=True),
}
NORM = nn.LayerNorm(H)
with torch.no_grad():
    NORM.weight.copy_(torch.linspace(0.5, 2, H))
    NORM.bias.copy_(torch.linspace(-1, 1, H))
X, R = tensors(B, L, H, seed=6), tensors(B, L, H, seed=7)


def host(block: Any, fusion: AdapterFusionConfig, name: str) -> BottleneckLayer:
    """A place with `CONFIGS` and one fusion, running `block`; all weights random."""
    layer = BottleneckLayer()
    layer.init_adapter_layer(0, "output_adapter")
    for adapter, config in CONFIGS.items():
        layer.add_adapter(adapter, config, H)
    layer.add_fusion(name, fusion, H, 0.0)
    random_(layer)
    layer.activate(block, frozenset())
    return layer.eval()


def up(layer: BottleneckLayer, name: str, entry: torch.Tensor) -> torch.Tensor:
    """What an adapter gives before its residual, dropout, gate and last norm, in plain torch."""
    adapter = layer.adapters[name]
    down = adapter.adapter_down[0]
    hidden = nn.functional.gelu(entry @ down.weight.T + down.bias)
    return (hidden @ adapter.adapter_up.weight.T + adapter.adapter_up.bias) * adapter.config.scaling


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("norm", [None, NORM], ids=["pre-norm", "post-norm"])
@pytest.mark.parametrize("last", ["a", "b", "c", "p"])
def test_members_read_what_the_last_one_reads(last: str, norm: Any, early: bool) -> None:
    names = [name for name in CONFIGS if name != last] + [last]
    layer = host(Fuse(*names), config_of(query_before_ln=early), ",".join(names))
    normed = norm or (lambda value: value)
    before = CONFIGS[last].original_ln_before
    entry = R if last == "p" else normed(X + R) if before else X
    values = torch.stack([up(layer, name, entry) for name in names], dim=2)
    query = X if early and last != "p" else entry
    expected, _ = attended(layer.adapter_fusion_layer[",".join(names)], query, values, X)
    if CONFIGS[last].original_ln_after:
        expected = normed(expected + R)
    torch.testing.assert_close(layer(X, R, norm), expected)


def test_a_stack_in_a_fusion_starts_from_the_sublayer() -> None:
    layer = host(Fuse(Stack("b", "a"), "p", Stack("c")), config_of(), "a,p,c")
    fusion = layer.adapter_fusion_layer["a,p,c"]
    first = layer.adapters["b"](X, R, NORM)
    entry = NORM(X + R)  # of c, the last
    values = torch.stack([up(layer, "a", first), up(layer, "p", entry), up(layer, "c", entry)], dim=2)
    torch.testing.assert_close(layer(X, R, NORM), attended(fusion, entry, values, X)[0])


def test_a_stack_that_does_not_end_with_an_adapter_cannot_be_mixed() -> None:
    layer = host(Fuse("a", "b"), config_of(), "a,b")
    with pytest.raises(UnsupportedMethodError, match="ends with an adapter"):
        layer.activate(Fuse("a", Stack("b", BatchSplit("a", "b", batch_sizes=1)), name="a,b"), frozenset())


def test_missing_members_are_skipped() -> None:
    layer = host(Fuse("elsewhere", "a", Stack("b", "elsewhere")), config_of(), "elsewhere,a,elsewhere")
    fusion = layer.adapter_fusion_layer["elsewhere,a,elsewhere"]
    entry = NORM(X + R)
    values = torch.stack([up(layer, name, entry) for name in ("a", "b")], dim=2)
    expected = layer.adapters["b"].config.original_ln_after and attended(fusion, entry, values, X)[0]
    torch.testing.assert_close(layer(X, R, NORM), NORM(expected + R))
    layer.activate(Fuse("elsewhere", "nowhere"), frozenset())
    assert layer.program is None


def test_a_fusion_that_was_not_added_is_not_run_as_something_else() -> None:
    layer = host(Fuse("a", "b"), config_of(), "a,b")
    with pytest.raises(UnknownAdapterError, match="no fusion 'b,a'"):
        layer.activate(Fuse("b", "a"), frozenset())


# Models


def fused(kind: str, config: Any = None, adapter: Any = "seq_bn", names: str = "ab") -> Any:
    """A model with adapters a, b, ... and a fusion of a and b, all weights random."""
    model = adapted(kind)
    for name in names:
        model.add_adapter(name, adapter)
        randomise(model, name, seed=ord(name))
    model.add_adapter_fusion(["a", "b"], config)
    for index, module in enumerate(model._fusion_modules("a,b")):
        random_(module, seed=index)
    return model


@pytest.mark.parametrize("kind", ["bert", "llama"])
@pytest.mark.parametrize("config", ["static", "dynamic"])
def test_names_and_shapes_in_files(kind: str, config: str) -> None:
    model = fused(kind, config, "double_seq_bn")
    hosts = {
        "bert": ["encoder.layer.{}.attention.output", "encoder.layer.{}.output"],
        "llama": ["layers.{}.attention_adapters", "layers.{}.output_adapters"],
    }[kind]
    shapes = {"query.weight": (32, 32), "query.bias": (32,), "key.weight": (32, 32), "key.bias": (32,)}
    shapes |= {"value.weight": (32, 32)} if config == "dynamic" else {}
    found = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items() if "fusion" in key}
    assert found == {
        f"{path.format(index)}.adapter_fusion_layer.a,b.{key}": shape
        for path in hosts
        for index in range(3)
        for key, shape in shapes.items()
    }


@pytest.mark.parametrize("given", [Fuse("a", "b"), ["a", "b"], ("a", "b"), "a,b", "a, b"], ids=repr)
def test_ways_to_name_a_fusion(given: Any) -> None:
    model = fused("bert")
    before = list(model.state_dict())
    model.delete_adapter_fusion("a,b")
    model.add_adapter_fusion(given, set_active=True)
    assert model.active_adapters == Fuse("a", "b") and list(model.adapters_config.fusions) == ["a,b"]
    assert model.adapters_config.get_fusion("a,b").adapter_names == ("a", "b")
    assert list(model.state_dict()) == before
    model.delete_adapter_fusion(given if given != "a, b" else "a,b")
    assert model.active_adapters is None and not model.adapters_config.fusions


def test_a_name_of_its_own(inputs: dict[str, torch.Tensor]) -> None:
    model = fused("bert")
    model.add_adapter_fusion(["a", "b"], "static", name="mix", set_active=True)
    assert model.active_adapters == Fuse("a", "b", name="mix")
    named = model(**inputs)[0]
    model.set_active_adapters(Fuse("a", "b"))
    assert not torch.allclose(model(**inputs)[0], named)
    model.add_adapter_fusion(Fuse(Stack("a", "b"), "a", name="deep"), set_active=True)
    assert model.adapters_config.get_fusion("deep").adapter_names == ("b", "a")
    model.delete_adapter_fusion("mix")
    assert model.active_adapters == Fuse(Stack("a", "b"), "a", name="deep")
    model.delete_adapter_fusion(model.active_adapters)
    assert model.active_adapters is None and list(model.adapters_config.fusions) == ["a,b"]


def unchanged(model: Any) -> tuple[Any, ...]:
    state = model.adapters_config
    return list(model.state_dict()), dict(state.fusions), state.active_setup, list(model.named_modules())


@pytest.mark.parametrize(
    ("names", "options", "error", "message"),
    [
        (["a", "nobody"], {}, UnknownAdapterError, "'nobody'"),
        (["a", "b"], {}, ValueError, "overwrite_ok"),
        (["a", "l"], {}, UnsupportedMethodError, "'l' has none: LoRAConfig"),
        (["a", "m"], {}, InvalidConfigError, r"a: \['output_adapter'\], m: \['mh_adapter'\]"),
        (["a", "b"], {"name": "x.y"}, AdapterError, "'x.y'"),
        (["a", "b"], {"name": "keys"}, AdapterError, "'keys'"),
        (["a", "b"], {"name": "x", "config": "sttic"}, InvalidConfigError, "'static'"),
        (["a", "b"], {"name": "x", "config": {"key": True}}, InvalidConfigError, "missing"),
        ([], {}, InvalidCompositionError, "at least one"),
        (Fuse("a", BatchSplit("b", batch_sizes=2)), {}, InvalidCompositionError, "BatchSplit"),
    ],
)
def test_defect_24_what_cannot_be_fused_is_refused_and_nothing_is_left_behind(
    names: Any, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    model = fused("bert")
    model.add_adapter("l", "lora")
    model.add_adapter("m", bottleneck(mh_adapter=True, output_adapter=False))
    model.set_active_adapters("a")
    before = unchanged(model)
    with pytest.raises(error, match=message):
        model.add_adapter_fusion(names, set_active=True, **options)
    assert unchanged(model) == before


def test_defect_24_an_error_while_modules_are_made_leaves_no_ghost(monkeypatch: pytest.MonkeyPatch) -> None:
    model = fused("llama")
    before = unchanged(model)
    make, made = BottleneckLayer.add_fusion, []

    def failing(self: BottleneckLayer, *arguments: Any) -> None:
        if len(made) == 2:
            raise MemoryError("no room")
        made.append(self)
        make(self, *arguments)

    monkeypatch.setattr(BottleneckLayer, "add_fusion", failing)
    for options in ({"name": "x"}, {"overwrite_ok": True}):
        made.clear()
        with pytest.raises(MemoryError):
            model.add_adapter_fusion("a,b", set_active=True, **options)
        assert unchanged(model) == before


def test_a_fusion_stands_where_all_its_adapters_can(inputs: dict[str, torch.Tensor]) -> None:
    model = adapted("llama")
    model.add_adapter("a", "double_seq_bn[leave_out=[1]]")
    model.add_adapter("b", "seq_bn[leave_out=[1,2]]")
    for name in "ab":
        randomise(model, name)
    model.add_adapter_fusion("a,b", set_active=True)
    found = {(m.place.layer, m.place.location) for m in model._fusion_modules("a,b")}
    assert found == {(index, "output_adapter") for index in range(3)}
    outputs = model(**inputs, output_adapter_fusion_attentions=True)
    attentions = outputs["adapter_fusion_attentions"]["a,b"]
    assert {i: {k: v.shape for k, v in places.items()} for i, places in attentions.items()} == {
        0: {"output_adapter": (2, 7, 2)},
        2: {"output_adapter": (2, 7, 1)},  # alone there
    }


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_attentions_are_recorded(kind: str, inputs: dict[str, torch.Tensor]) -> None:
    model = fused(kind, "dynamic", "double_seq_bn")
    model.set_active_adapters(Stack("b", Fuse("a", "b")))
    kept: list[torch.Tensor] = []
    fusion = next(iter(model._fusion_modules("a,b")))
    fusion.register_forward_hook(lambda module, given, output: kept.extend(given))
    outputs = model(**inputs, output_adapter_fusion_attentions=True)
    found = outputs["adapter_fusion_attentions"]
    assert set(found) == {"a,b"} and set(found["a,b"]) == {0, 1, 2}
    assert set(found["a,b"][1]) == {"mh_adapter", "output_adapter"}
    _, expected = attended(fusion, *kept)
    torch.testing.assert_close(torch.from_numpy(found["a,b"][0]["mh_adapter"]), expected.detach())
    assert "adapter_fusion_attentions" not in model(**inputs)


def test_setups_with_unknown_fusions_are_refused(inputs: dict[str, torch.Tensor]) -> None:
    model = fused("bert")
    model.add_adapter("m", bottleneck(mh_adapter=True, output_adapter=False), set_active=True)
    for block in (Fuse("b", "a"), Stack("a", Fuse("a", "b", name="x")), Fuse("a", "m")):
        with pytest.raises(UnknownAdapterError, match="no fusion"):
            model.set_active_adapters(block)
        with pytest.raises(UnknownAdapterError, match="no fusion"), AdapterSetup(block):
            model(**inputs)
    assert model.active_adapters == Stack("m")


def test_deleting_an_adapter_that_is_mixed_is_refused() -> None:
    model = fused("bert", names="abc")
    before = unchanged(model)
    with pytest.raises(AdapterError, match=r"delete_adapter_fusion\('a,b'\)"):
        model.delete_adapter("b")
    assert unchanged(model) == before
    model.delete_adapter("c")
    with pytest.raises(UnknownAdapterError, match="'a,c'"):
        model.delete_adapter_fusion("a,c")
    model.delete_adapter_fusion("a,b")
    model.delete_adapter("b")
    model.delete_adapter("a")
    assert list(model.state_dict()) == list(adapted("bert").state_dict())


@pytest.mark.parametrize("block", [Parallel(Stack("a"), "c"), BatchSplit("a", "c", batch_sizes=1), Stack("c", "a")])
def test_an_error_within_a_fusion_is_no_reason_to_lose_the_active_setup(block: Any) -> None:
    model = fused("bert", names="abc")
    model.set_active_adapters(block)
    model.add_adapter_fusion("b,c")
    model.delete_adapter_fusion("b,c")
    assert model.active_adapters == block


# Training


@pytest.mark.parametrize("kind", ["bert", "bert_lm", "llama"])
@pytest.mark.parametrize("unfreeze", [False, True])
def test_what_is_trained(kind: str, unfreeze: bool, inputs: dict[str, torch.Tensor]) -> None:
    compacter = "compacter++[phm_dim=4,reduction_factor=4,learn_phm=False,non_linearity='tanh']"
    model = fused(kind, None, compacter, names="abc")
    model.train_adapter_fusion(Stack("c", Fuse("a", "b")), unfreeze_adapters=unfreeze)
    assert model.training and model.active_adapters == Stack("c", Fuse("a", "b"))
    trained = {key for key, parameter in model.named_parameters() if parameter.requires_grad}
    expected = {key for key, _ in model.named_parameters() if ".adapter_fusion_layer." in key}
    if unfreeze:
        expected |= {
            key for name in "abc" for key, _ in model.adapter_parameters(name) if not key.endswith("phm_rule")
        }
    heads = {key for key in trained if key.startswith("cls.")}
    assert trained - heads == expected and bool(heads) == (kind == "bert_lm")
    torch.manual_seed(0)
    model(**inputs)[0].square().sum().backward()
    for key, parameter in model.named_parameters():
        if key in expected:
            assert parameter.grad is not None and parameter.grad.abs().max() > 0, key


def test_training_needs_a_fusion() -> None:
    model = fused("bert")
    for setup in ("a", Stack("a", "b"), None, ["a", "b"]):
        with pytest.raises(InvalidCompositionError, match=r"Fuse\('a', 'b'\)"):
            model.train_adapter_fusion(setup)
    with pytest.raises(UnknownAdapterError, match="'b,a'"):
        model.train_adapter_fusion([["b", "a"]])
    assert model.active_adapters is None and not model.training
    model.train_adapter_fusion([["a", "b"]])
    assert model.active_adapters == Stack(Fuse("a", "b"))


def test_the_regularisation_pulls_trained_values_to_the_identity() -> None:
    model = fused("bert", "dynamic")
    model.add_adapter_fusion("b,a", "dynamic")
    model.add_adapter_fusion("a", "static")
    model.add_adapter_fusion("b", config_of(regularization=False))
    model.train_adapter("a")
    assert model.get_fusion_regularization_loss() is None  # nothing of it is trained
    model.train_adapter_fusion(Fuse("a"))
    assert model.get_fusion_regularization_loss() is None
    model.train_adapter_fusion(Fuse("b"))
    assert model.get_fusion_regularization_loss() is None  # as its config says
    model.train_adapter_fusion(Fuse("a", "b"))
    weights = [module.value.weight for module in model._fusion_modules("a,b")]
    loss = model.get_fusion_regularization_loss()
    expected = sum(0.01 * (torch.eye(32) - weight).square().sum() for weight in weights)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    for weight in weights:
        torch.testing.assert_close(weight.grad, 0.02 * (weight - torch.eye(32)))


def test_moving_a_fusion() -> None:
    model = fused("bert").to(torch.bfloat16)
    model.add_adapter_fusion("b,a", "dynamic")
    assert {p.dtype for module in model._fusion_modules("b,a") for p in module.parameters()} == {torch.bfloat16}
    assert not any(module.training for module in model._fusion_modules("b,a"))
    model.adapter_fusion_to(["a", "b"], dtype=torch.float64)
    assert {p.dtype for module in model._fusion_modules("a,b") for p in module.parameters()} == {torch.float64}
    assert {p.dtype for _, p in model.adapter_parameters("a")} == {torch.bfloat16}
    with pytest.raises(UnknownAdapterError, match="'a'"):
        model.adapter_fusion_to("a", dtype=torch.float32)


# In compositions


@pytest.mark.parametrize("adapter", ["seq_bn", "par_bn", "double_seq_bn"])
@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_equal_members_are_as_one_however_they_are_weighed(
    kind: str, adapter: str, inputs: dict[str, torch.Tensor]
) -> None:
    model = fused(kind, "static", adapter)
    for name in "ab":
        randomise(model, name, seed=9)
    model.set_active_adapters("a")
    expected = model(**inputs)[0]
    model.set_active_adapters(Fuse("a", "b"))
    torch.testing.assert_close(model(**inputs)[0], expected)


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_fusions_in_parts_of_a_batch(kind: str, inputs: dict[str, torch.Tensor]) -> None:
    model = fused(kind, "dynamic", names="abc")
    alone = {}
    for key, block in {"fused": Fuse("a", "b"), "c": Stack("c"), "after": Stack("c", Fuse("a", "b"))}.items():
        model.set_active_adapters(block)
        alone[key] = model(**inputs)[0]
    model.set_active_adapters(BatchSplit(Stack(Fuse("a", "b")), "c", batch_sizes=1))
    torch.testing.assert_close(model(**inputs)[0], torch.cat([alone["fused"][:1], alone["c"][1:]]))
    model.set_active_adapters(Parallel(Stack("c", Fuse("a", "b")), "c"))
    torch.testing.assert_close(model(**inputs)[0], torch.cat([alone["after"], alone["c"]]))


@pytest.mark.parametrize("config", ["static", "dynamic", config_of(temperature=True, residual_before=True)], ids=str)
@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_one_graph(kind: str, config: Any, inputs: dict[str, torch.Tensor]) -> None:
    torch._dynamo.reset()
    results = []
    for compiled in (False, True):
        model = fused(kind, config)
        model.train_adapter_fusion(Fuse("a", "b"))
        for module in model.modules():  # no dropout
            if isinstance(module, nn.Dropout):
                module.p = 0.0
            if hasattr(module, "attention_dropout"):
                module.attention_dropout = 0.0
        for module in model._fusion_modules("a,b"):
            module.dropout = 0.0
        call = torch.compile(model, fullgraph=True, backend="eager") if compiled else model
        outputs = []
        for _ in range(2):
            model.zero_grad()
            outputs.append(call(**inputs, use_cache=False)[0])
            outputs[-1].square().sum().backward()
        gradients = [p.grad for module in model._fusion_modules("a,b") for p in module.parameters()]
        results.append([*outputs, *gradients])
    torch.testing.assert_close(*results)
    torch._dynamo.reset()


# Configs


def test_configs(tmp_path: Path) -> None:
    dynamic = AdapterFusionConfig.load(None)
    assert dynamic == AdapterFusionConfig.load("dynamic") == DynamicAdapterFusionConfig()
    options = dynamic.to_dict()
    assert AdapterFusionConfig.from_dict(options) == AdapterFusionConfig.load(options) == dynamic
    for name, content in {
        "plain": options,
        "file": {"config": options, "name": "a,b"},
        "named": {"config": "dynamic"},
    }.items():
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(content))
        assert AdapterFusionConfig.load(path) == AdapterFusionConfig.load(str(path)) == dynamic
    changed = AdapterFusionConfig.load("static", temperature=True)
    assert changed.temperature and changed == StaticAdapterFusionConfig().replace(temperature=True)
    assert not ADAPTERFUSION_CONFIG_MAP["static"].temperature
    assert len({dynamic, changed, AdapterFusionConfig.load("dynamic")}) == 2


@pytest.mark.parametrize(
    ("load", "message"),
    [
        (lambda: AdapterFusionConfig.load("dynamic", temprature=True), "'temperature'"),
        (lambda: AdapterFusionConfig.load({**config_of().to_dict(), "heads": 2}), "no option 'heads'"),
        (lambda: config_of().replace(querry=True), "'query'"),
        (lambda: AdapterFusionConfig.load("average"), "Known: 'dynamic', 'static'"),
        (lambda: AdapterFusionConfig.load(3), "not 3"),  # type: ignore[arg-type]
        (lambda: config_of(dropout_prob=1.5), "dropout_prob"),
        (lambda: config_of(value="yes"), "value is 'yes'"),
    ],
)
def test_configs_that_make_no_sense(load: Any, message: str) -> None:
    with pytest.raises(InvalidConfigError, match=message):
        load()


def test_files_that_are_no_configs(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    for content, message in {"{": "not a JSON file", "[1]": "holds no fusion config"}.items():
        path.write_text(content)
        with pytest.raises(InvalidConfigError, match=message):
            AdapterFusionConfig.load(path)
