"""Hypercomplex layers: sums of Kronecker products, and what all layers share."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch

from adapter_runtime import AdapterSetup
from adapter_runtime.contract.config import AdapterConfig
from adapter_runtime.errors import InvalidConfigError
from adapter_runtime.methods.bottleneck import phm
from adapter_runtime.methods.bottleneck.config import (
    BnConfig,
    CompacterConfig,
    CompacterPlusPlusConfig,
    ParBnConfig,
)
from adapter_runtime.methods.bottleneck.module import Bottleneck
from adapter_runtime.methods.bottleneck.phm import PHMLinear, share
from adapter_runtime.methods.common.shared_parameters import SharedDict
from adapter_runtime.methods.configs.union import ConfigUnion
from runtime_models import adapted, randomise

H, D, N = 12, 6, 3
SHARING = list(
    itertools.product([False, True], repeat=4)
)  # factorized_phm_W, shared_W_phm, shared_phm_rule, factorized


def config_of(switches: tuple[bool, ...] = (True, False, True, False), **options: Any) -> CompacterPlusPlusConfig:
    names = ("factorized_phm_W", "shared_W_phm", "shared_phm_rule", "factorized_phm_rule")
    given = {"reduction_factor": 2, "phm_dim": N, **dict(zip(names, switches, strict=True)), **options}
    return CompacterPlusPlusConfig(**given)


def made(config: BnConfig) -> tuple[PHMLinear, SharedDict]:
    """The up-projection of an adapter, and the pool of shared parameters, all random."""
    pool = SharedDict()
    share(config, pool, H, D)
    layer = Bottleneck(config, H, 0, pool).adapter_up
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in (*layer.parameters(), *pool.parameters()):
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    assert isinstance(layer, PHMLinear)
    return layer, pool


def kronecker(config: BnConfig, layer: PHMLinear, pool: SharedDict) -> torch.Tensor:
    """[I, O], by `torch.kron`."""
    rules = pool if config.shared_phm_rule else layer
    rule = rules.phm_rule_left @ rules.phm_rule_right if config.factorized_phm_rule else rules.phm_rule
    own = pool if config.shared_W_phm else layer
    part = "W_up" if config.shared_W_phm else "W"
    if config.factorized_phm_W:
        factor = getattr(own, f"{part}_left") @ getattr(own, f"{part}_right")
    else:
        factor = getattr(own, part)
    return torch.stack([torch.kron(rule[index], factor[index]) for index in range(N)]).sum(0)


@pytest.mark.parametrize("rank", [1, 2])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("switches", SHARING, ids=str)
def test_the_weight_is_the_sum_of_kronecker_products(switches: tuple[bool, ...], bias: bool, rank: int) -> None:
    config = config_of(switches, phm_bias=bias, phm_rank=rank)
    layer, pool = made(config)
    x = torch.randn(2, 5, D, generator=torch.Generator().manual_seed(6))
    expected = x @ kronecker(config, layer, pool)
    torch.testing.assert_close(layer(x), expected + layer.b if bias else expected)
    assert (layer.b is not None) is bias


SHAPES = {  # of rules and of factors, in layers [down, up] or shared; hidden 32, bottleneck 8, phm_dim 4, rank 2
    "rule": {"phm_rule": (4, 4, 4)},
    "rules": {"phm_rule_left": (4, 4, 1), "phm_rule_right": (4, 1, 4)},
    "down": {"W": (4, 8, 2)},
    "up": {"W": (4, 2, 8)},
    "downs": {"W_left": (4, 8, 2), "W_right": (4, 2, 2)},
    "ups": {"W_left": (4, 2, 2), "W_right": (4, 2, 8)},
}


@pytest.mark.parametrize("switches", SHARING, ids=str)
def test_names_and_shapes_in_files(switches: tuple[bool, ...]) -> None:
    factorized_w, shared_w, shared_rule, factorized_rule = switches
    model = adapted("llama")
    model.add_adapter("a", config_of(switches, phm_dim=4, reduction_factor=4, phm_rank=2))
    expected: dict[str, tuple[int, ...]] = {}
    rules = SHAPES["rules" if factorized_rule else "rule"]
    for position, width in (("down", 8), ("up", 32)):
        factors = SHAPES[position + "s" if factorized_w else position]
        shared = {f"shared_parameters.a.{key.replace('W', f'W_{position}')}": shape for key, shape in factors.items()}
        expected |= shared if shared_w else {}
        own = {**({} if shared_w else factors), **({} if shared_rule else rules), "b": (width,)}
        number = ".0" if position == "down" else ""
        for index in range(3):
            path = f"layers.{index}.output_adapters.adapters.a.adapter_{position}{number}"
            expected |= {f"{path}.{key}": shape for key, shape in own.items()}
    expected |= {f"shared_parameters.a.{key}": shape for key, shape in rules.items()} if shared_rule else {}
    found = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items() if ".a." in key}
    assert found == expected
    assert {key for key, _ in model.adapter_parameters("a")} == set(expected)


@pytest.mark.parametrize("kind", ["bert", "llama"])
@pytest.mark.parametrize("switches", SHARING, ids=str)
def test_every_parameter_is_live_and_trained(
    switches: tuple[bool, ...], kind: str, inputs: dict[str, torch.Tensor]
) -> None:
    model = adapted(kind)
    model.add_adapter("a", config_of(switches, phm_dim=4, reduction_factor=4, non_linearity="tanh"))
    randomise(model, "a")
    model.train_adapter("a")
    model(**inputs)[0].square().sum().backward()
    for key, parameter in model.adapter_parameters("a"):
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, key


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("factorized", [True, False])
def test_rules_that_are_not_learned_stay_as_they_are_but_are_saved(
    shared: bool, factorized: bool, inputs: dict[str, torch.Tensor]
) -> None:
    model = adapted("bert")
    config = config_of((True, False, shared, factorized), phm_dim=4, reduction_factor=4, learn_phm=False)
    model.add_adapter("a", config)
    rules = {key: tensor for key, tensor in model.adapter_parameters("a") if "phm_rule" in key}
    assert rules and set(rules) <= set(model.state_dict())
    assert not any(rule.requires_grad for rule in rules.values())
    model.train_adapter("a")
    assert not any(rule.requires_grad for rule in rules.values())
    assert all(p.requires_grad for key, p in model.adapter_parameters("a") if key not in rules)
    model(**inputs)[0].sum().backward()


@pytest.mark.parametrize("nonlinearity", ["phm", "glorot-normal", "glorot-uniform", "normal"])
def test_how_factors_are_drawn(nonlinearity: str) -> None:
    torch.manual_seed(0)
    config = config_of(
        (False, False, False, False), phm_dim=2, hypercomplex_nonlinearity=nonlinearity, phm_init_range=0.3
    )
    factor = PHMLinear(config, 400, 200, "down").W
    deviation = 0.3 if nonlinearity == "normal" else (2 / (200 + 100)) ** 0.5
    assert abs(factor.std().item() / deviation - 1) < 0.03
    is_bounded = factor.abs().max().item() < 1.01 * deviation * 3**0.5
    assert is_bounded == (nonlinearity == "glorot-uniform")


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("kind", ["normal", "uniform"])
def test_how_rules_are_drawn(kind: str, shared: bool) -> None:
    torch.manual_seed(0)
    config = config_of(
        (True, False, shared, False), phm_dim=12, reduction_factor=1, phm_c_init=kind, phm_init_range=0.2
    )
    pool = SharedDict()
    share(config, pool, H, H)
    layer = PHMLinear(config, H, H, "down", pool)
    rule = pool["phm_rule"] if shared else layer.phm_rule
    deviation = 0.2 if kind == "normal" else 3**-0.5
    assert abs(rule.std().item() / deviation - 1) < 0.06


def test_options_without_meaning_are_refused() -> None:
    for options in ({"phm_c_init": "zeros"}, {"hypercomplex_nonlinearity": "relu"}, {"phm_dim": 0}, {"phm_rank": 0}):
        with pytest.raises(InvalidConfigError, match=next(iter(options))):
            config_of(**options)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("compacter[phm_dim=5]", "phm_dim=5 must divide"),
        ("compacter[phm_dim=4,reduction_factor=16]", "32 and 2"),
        ("compacter[shared_W_phm=True,reduction_factor={'0':4,'default':8}]", "W_down_right, W_up_left"),
    ],
)
def test_widths_that_do_not_fit_are_refused_and_nothing_is_left_behind(config: str, message: str) -> None:
    model = adapted("bert")
    before = list(model.state_dict())
    with pytest.raises(InvalidConfigError, match=message):
        model.add_adapter("a", config)
    assert list(model.state_dict()) == before and "a" not in model.shared_parameters


def test_deleting_the_adapter_deletes_what_it_shares() -> None:
    model = adapted("bert")
    before = list(model.state_dict())
    model.add_adapter("a", config_of(phm_dim=4, reduction_factor=4))
    model.delete_adapter("a")
    assert list(model.state_dict()) == before


def test_members_of_a_union_share_a_rule_only_where_it_fits() -> None:
    def member(location: str, **options: Any) -> BnConfig:
        places = {"mh_adapter": False, "output_adapter": False, location: True}
        return CompacterConfig(reduction_factor=4, **{**places, **options})

    model = adapted("bert")
    model.add_adapter("a", ConfigUnion(member("mh_adapter"), member("output_adapter")))
    assert list(model.shared_parameters["a"].keys()) == ["phm_rule"]
    with pytest.raises(InvalidConfigError, match=r"phm_rule.*\(4, 4, 4\).*\(2, 2, 2\)"):
        model.add_adapter("b", ConfigUnion(member("mh_adapter"), member("output_adapter", phm_dim=2)))
    assert "b" not in model.shared_parameters


def test_copies_of_a_model_share_among_themselves(inputs: dict[str, torch.Tensor]) -> None:
    model = adapted("llama")
    model.add_adapter("a", config_of((True, True, True, False), phm_dim=4, reduction_factor=4), set_active=True)
    randomise(model, "a")
    other = copy.deepcopy(model)
    expected = model(**inputs)[0]
    torch.testing.assert_close(other(**inputs)[0], expected, rtol=0, atol=0)
    with torch.no_grad():
        other.shared_parameters["a"]["W_down_left"].zero_()
    assert not torch.equal(other(**inputs)[0], expected)
    torch.testing.assert_close(model(**inputs)[0], expected, rtol=0, atol=0)


def test_moving_a_model_moves_what_is_shared(inputs: dict[str, torch.Tensor]) -> None:
    model = adapted("llama")
    model.add_adapter("a", config_of((False, True, True, True), phm_dim=4, reduction_factor=4), set_active=True)
    model.to(torch.bfloat16)
    assert model(**inputs)[0].dtype is torch.bfloat16
    model.add_adapter("b", config_of((False, True, True, True), phm_dim=4, reduction_factor=4), set_active=True)
    assert {parameter.dtype for _, parameter in model.adapter_parameters("b")} == {torch.bfloat16}
    assert model(**inputs)[0].dtype is torch.bfloat16


@pytest.mark.parametrize("switches", SHARING, ids=str)
@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_defect_21_parallel_hypercomplex_adapters_start_as_nothing(
    kind: str, switches: tuple[bool, ...], inputs: dict[str, torch.Tensor]
) -> None:
    model = adapted(kind)
    expected = model(**inputs)[0]
    names = ("factorized_phm_W", "shared_W_phm", "shared_phm_rule", "factorized_phm_rule")
    options = dict(zip(names, switches, strict=True))
    model.add_adapter("a", ParBnConfig(phm_layer=True, phm_init_range=1.0, **options), set_active=True)
    torch.testing.assert_close(model(**inputs)[0], expected)
    randomise(model, "a")
    assert not torch.allclose(model(**inputs)[0], expected)


def test_defect_21_shared_factors_need_no_factorisation(inputs: dict[str, torch.Tensor]) -> None:
    model = adapted("bert")
    model.add_adapter("a", "compacter[shared_W_phm=True,factorized_phm_W=False,reduction_factor=4]", set_active=True)
    before = model(**inputs)[0]
    randomise(model, "a")
    assert not torch.allclose(model(**inputs)[0], before)


@pytest.mark.parametrize("switches", SHARING[::5], ids=str)  # each switch on and off
def test_one_graph(switches: tuple[bool, ...], inputs: dict[str, torch.Tensor]) -> None:
    torch._dynamo.reset()
    model = adapted("llama", "sdpa")
    model.add_adapter("a", config_of(switches, phm_dim=4, reduction_factor=4))
    randomise(model, "a")
    model.train_adapter("a")
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    results = []
    for call in (model, compiled):
        model.zero_grad()
        output = call(**inputs, use_cache=False)[0]
        output.square().sum().backward()
        results.append([output, *(parameter.grad.clone() for _, parameter in model.adapter_parameters("a"))])
    torch.testing.assert_close(*results)
    torch._dynamo.reset()


@pytest.mark.parametrize("switches", SHARING, ids=str)
def test_what_all_layers_share_is_computed_once_per_call(
    switches: tuple[bool, ...], inputs: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = adapted("llama_lm")
    model.add_adapter("a", config_of(switches, phm_dim=4, reduction_factor=4), set_active=True)
    randomise(model, "a")
    calls = []
    compute = phm.kronecker_sum
    monkeypatch.setattr(phm, "kronecker_sum", lambda *given: calls.append(given) or compute(*given))
    model(**inputs)
    per_layer = 6  # 3 layers, down and up
    is_shared = switches[1] and switches[2]
    assert len(calls) == (2 if is_shared else per_layer)
    calls.clear()
    cached = model.generate(**inputs, max_new_tokens=4, min_new_tokens=4, do_sample=False)
    assert len(calls) == (2 if is_shared else 4 * per_layer)
    for _ in range(4):
        mask = torch.cat([inputs["attention_mask"], inputs["attention_mask"].new_ones(2, 1)], 1)
        following = model(**inputs).logits[:, -1].argmax(-1, keepdim=True)
        inputs = {"input_ids": torch.cat([inputs["input_ids"], following], 1), "attention_mask": mask}
    assert torch.equal(cached, inputs["input_ids"])
    with AdapterSetup("a"):
        calls.clear()
        model(**inputs)
        assert len(calls) == (2 if is_shared else per_layer)


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_gradient_checkpointing(kind: str, reentrant: bool, inputs: dict[str, torch.Tensor]) -> None:
    results = []
    for checkpointing in (False, True):
        model = adapted(kind)
        model.add_adapter("a", config_of((True, True, True, True), phm_dim=4, reduction_factor=4))
        randomise(model, "a")
        model.train_adapter("a")
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
            model.enable_input_require_grads()
        model(**inputs)[0].square().sum().backward()
        results.append([parameter.grad for _, parameter in model.adapter_parameters("a")])
    torch.testing.assert_close(*results)


def test_configs_by_name() -> None:
    assert AdapterConfig.load("compacter").reduction_factor == AdapterConfig.load("compacter++").reduction_factor == 32
    assert AdapterConfig.load("compacter").mh_adapter and not AdapterConfig.load("compacter++").mh_adapter
