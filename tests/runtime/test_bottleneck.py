"""Bottleneck adapters: every option in every combination, and every block, against plain torch."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import gelu, layer_norm
from torch.testing import assert_close
from transformers import PreTrainedModel, T5Config, T5Model

from adapter_runtime import AdapterSetup, init
from adapter_runtime.composition import (
    AdapterCompositionBlock,
    Average,
    BatchSplit,
    Parallel,
    Split,
    Stack,
)
from adapter_runtime.contract.config import AdapterConfig
from adapter_runtime.errors import InvalidConfigError, UnsupportedMethodError
from adapter_runtime.methods.bottleneck.config import AdapterPlusConfig, BnConfig, ParBnConfig
from adapter_runtime.methods.bottleneck.layer import BottleneckLayer, BranchBottleneckLayer
from adapter_runtime.methods.bottleneck.module import Bottleneck
from adapter_runtime.methods.configs.union import ConfigUnion
from runtime_models import adapted, randomise

H = 6
B, L = 4, 6


def bottleneck(**options: Any) -> BnConfig:
    given = {"mh_adapter": False, "output_adapter": True, "reduction_factor": 2, "non_linearity": "gelu", **options}
    return BnConfig(**given)


def host(configs: dict[str, BnConfig], block: AdapterCompositionBlock | None = None) -> BottleneckLayer:
    """A place with these adapters, all weights random, running `block` (by default a stack of all)."""
    layer = BottleneckLayer()
    layer.init_adapter_layer(0, "output_adapter")
    for name, config in configs.items():
        layer.add_adapter(name, config, H)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    layer.activate(block or Stack(*configs), frozenset())
    return layer.eval()


def tensors(seed: int) -> torch.Tensor:
    return torch.randn(B, L, H, generator=torch.Generator().manual_seed(seed))


X, R = tensors(3), tensors(4)
NORM = nn.LayerNorm(H)
with torch.no_grad():
    NORM.weight.copy_(torch.linspace(0.5, 2, H))
    NORM.bias.copy_(torch.linspace(-1, 1, H))


def written_out(adapter: Bottleneck, x: torch.Tensor, r: torch.Tensor, norm: Any) -> torch.Tensor:
    """The adapter in plain torch, from its parameters and config."""
    config, p = adapter.config, {name: value.detach() for name, value in adapter.named_parameters()}
    number = 1 if config.ln_before else 0
    entry, own = x, x
    if config.is_parallel:
        entry = r
    elif config.original_ln_before:
        entry = norm(x + r) if norm else x + r
        own = {True: x, False: entry, "post_add": x + r}[config.residual_before_ln]
    hidden = entry
    if config.ln_before:
        hidden = layer_norm(hidden, (H,), p["adapter_norm_before.weight"], p["adapter_norm_before.bias"])
    hidden = gelu(hidden @ p[f"adapter_down.{number}.weight"].T + p[f"adapter_down.{number}.bias"])
    output = (hidden @ p["adapter_up.weight"].T + p["adapter_up.bias"]) * p.get("scaling", config.scaling)
    if config.use_gating:
        output = output * torch.sigmoid(entry @ p["gate.weight"].T + p["gate.bias"]).mean(1, keepdim=True)
    if config.adapter_residual_before_ln and not config.is_parallel:
        output = output + own
    if config.ln_after:
        output = layer_norm(output, (H,), p["adapter_norm_after.weight"], p["adapter_norm_after.bias"])
    return output if config.adapter_residual_before_ln and not config.is_parallel else output + own


def finished(x: torch.Tensor, r: torch.Tensor, norm: Any) -> torch.Tensor:
    return norm(x + r) if norm else x + r


@pytest.mark.parametrize("is_parallel", [False, True])
@pytest.mark.parametrize("norm", [None, NORM], ids=["pre-norm", "post-norm"])
@pytest.mark.parametrize("residual", [True, False, "post_add"])
def test_every_combination_of_options(residual: bool | str, norm: Any, is_parallel: bool) -> None:
    switches = ("original_ln_before", "original_ln_after", "ln_before", "ln_after", "adapter_residual_before_ln")
    tried = 0
    for values in itertools.product([False, True], repeat=len(switches)):
        options = dict(zip(switches, values, strict=True))
        if residual == "post_add" and not options["original_ln_before"]:
            with pytest.raises(InvalidConfigError, match="post_add"):
                bottleneck(residual_before_ln=residual, **options)
            continue
        for use_gating, scaling in itertools.product([False, True], [1.0, 3, "learned", "channel"]):
            config = bottleneck(
                residual_before_ln=residual,
                is_parallel=is_parallel,
                use_gating=use_gating,
                scaling=scaling,
                **options,
            )
            layer = host({"a": config})
            expected = written_out(layer.adapters["a"], X, R, norm)
            if config.original_ln_after:
                expected = finished(expected, R, norm)
            torch.testing.assert_close(layer(X, R, norm), expected)
            tried += 1
    assert tried == (128 if residual == "post_add" else 256)


def test_defect_21_integer_scaling_scales() -> None:
    config = bottleneck(scaling=4)
    assert config.scaling == 4.0 and type(config.scaling) is float
    assert config == bottleneck(scaling=4.0)
    layer = host({"a": config})
    torch.testing.assert_close(layer(X, R), written_out(layer.adapters["a"], X, R, None) + R)


@pytest.mark.parametrize("name", ["llama", "bert"])
def test_defect_21_post_add_runs_on_models_with_the_norm_before(name: str, inputs: dict[str, torch.Tensor]) -> None:
    model = adapted(name)
    model.add_adapter("a", "seq_bn[residual_before_ln='post_add']", set_active=True)
    before = model(**inputs)[0]
    randomise(model, "a")
    assert not torch.allclose(model(**inputs)[0], before)


# Training


def test_stochastic_depth_needs_no_torchvision_and_acts_in_training_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torchvision", None)
    layer = host({"a": AdapterPlusConfig(reduction_factor=2, stochastic_depth=0.5)})
    adapter, whole = layer.adapters["a"], layer(X, R, NORM)
    layer.train()
    torch.manual_seed(0)
    seen = set()
    entry = NORM(X + R)
    for _ in range(20):
        output = layer(X, R, NORM) - entry
        for row in range(B):
            kept = torch.allclose(output[row], 2 * (whole - entry)[row], atol=1e-5)
            assert kept or torch.equal(output[row], torch.zeros(L, H))
            seen.add(kept)
    assert seen == {True, False}
    assert adapter.config.residual_before_ln is False


def test_dropout_acts_in_training_only() -> None:
    layer = host({"a": bottleneck(dropout=0.5)})
    expected = layer(X, R)
    torch.testing.assert_close(layer(X, R), expected)
    dropped = layer.train()(X, R) == X + R
    assert 0.3 < dropped.float().mean().item() < 0.7


@pytest.mark.parametrize("scheme", ["bert", "mam_adapter", "houlsby"])
def test_init_schemes(scheme: str) -> None:
    torch.manual_seed(0)
    adapter = Bottleneck(bottleneck(init_weights=scheme, use_gating=True, scaling="channel"), 400, 0)
    down, up = adapter.adapter_down[0], adapter.adapter_up
    for layer in (down, up, adapter.gate):
        assert not layer.bias.any()
    assert abs(adapter.gate.weight.std().item() - 0.02) < 0.004
    assert torch.equal(adapter.scaling, torch.ones(400))
    if scheme == "mam_adapter":
        assert not up.weight.any()
        assert abs(down.weight.abs().max().item() - 400**-0.5) < 1e-3  # uniform in 1 / sqrt(inputs)
    else:
        limit, deviation = (0.021, 0.0088) if scheme == "houlsby" else (1.0, 0.02)
        for layer in (down, up):
            assert layer.weight.abs().max().item() < limit
            assert abs(layer.weight.std().item() - deviation) < 3e-4


@pytest.mark.parametrize("seed", [0, 7])
@pytest.mark.parametrize("config", ["double_seq_bn", "compacter[phm_dim=2,reduction_factor=4]"])
def test_defect_27_seeds_count_from_zero_and_leave_the_global_generator_alone(seed: int, config: str) -> None:
    drawn = []
    for start in (1, 2):
        model = adapted("bert")
        torch.manual_seed(start)
        state = torch.get_rng_state()
        model.add_adapter("a", AdapterConfig.load(config, init_weights_seed=seed, ln_before=True, use_gating=True))
        assert torch.equal(torch.get_rng_state(), state)
        drawn.append([parameter for _, parameter in model.adapter_parameters("a")])
    assert all(torch.equal(*pair) for pair in zip(*drawn, strict=True))
    other = adapted("bert")
    other.add_adapter("a", AdapterConfig.load(config, init_weights_seed=seed + 1, ln_before=True, use_gating=True))
    assert not all(torch.equal(a, b) for a, (_, b) in zip(drawn[0], other.adapter_parameters("a"), strict=True))


# Where adapters stand


def places(model: nn.Module, name: str) -> set[tuple[int, str]]:
    return {(index, place) for index, found in model.get_adapter(name).items() for place in found}


def test_cross_adapters_stand_after_cross_attention_only(inputs: dict[str, torch.Tensor]) -> None:
    model = adapted("bert_decoder")
    model.add_adapter("a", bottleneck(output_adapter=False, cross_adapter=True), set_active=True)
    assert places(model, "a") == {(index, "cross_adapter") for index in range(3)}
    states = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(0))
    call = {**inputs, "encoder_hidden_states": states}
    before = model(**call)[0]
    randomise(model, "a")
    assert not torch.allclose(model(**call)[0], before)


def test_leave_out_and_reduction_factors_by_layer() -> None:
    model = adapted("llama")
    model.add_adapter("a", bottleneck(mh_adapter=True, leave_out=[1], reduction_factor={"0": 2, "default": 64}))
    assert places(model, "a") == {(i, key) for i in (0, 2) for key in ("mh_adapter", "output_adapter")}
    sizes = {i: found["output_adapter"].adapter_up.in_features for i, found in model.get_adapter("a").items()}
    assert sizes == {0: 16, 2: 1}  # never less than one


def test_reduction_factors_need_no_default_where_all_layers_are_named() -> None:
    config = bottleneck(reduction_factor={0: 2, 1: 4, 2: 8})
    assert config.reduction_factor == {"0": 2, "1": 4, "2": 8}  # the keys of JSON
    model = adapted("llama")
    model.add_adapter("a", config)
    before = list(model.state_dict())
    with pytest.raises(InvalidConfigError, match=r'layer 1.*"default"'):
        model.add_adapter("b", bottleneck(reduction_factor={"0": 2}))
    assert list(model.state_dict()) == before and "b" not in model.adapters_config


@pytest.mark.parametrize(
    "options",
    [
        {"reduction_factor": 0},
        {"reduction_factor": {"0": -2, "default": 4}},
        {"dropout": 1.0},
        {"stochastic_depth": -0.1},
        {"scaling": "row"},
        {"init_weights": "xavier"},
        {"residual_before_ln": "pre_add"},
    ],
)
def test_options_without_meaning_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidConfigError, match=next(iter(options))):
        bottleneck(**options)


def test_names_of_activations() -> None:
    assert isinstance(Bottleneck(bottleneck(non_linearity="LeakyReLU"), H, 0).adapter_down[1], nn.LeakyReLU)
    with pytest.raises(InvalidConfigError, match="'gelu'"):
        Bottleneck(bottleneck(non_linearity="gelü"), H, 0)


def test_gates_are_recorded_where_they_stand(inputs: dict[str, torch.Tensor]) -> None:
    model = adapted("llama")
    model.add_adapter("a", "double_seq_bn[use_gating=True]", set_active=True)
    model.add_adapter("b", "seq_bn", set_active=False)
    randomise(model, "a")
    outputs = model(**inputs, output_adapter_gating_scores=True)
    scores = outputs["adapter_gating_scores"]
    assert set(scores) == {"a"} and set(scores["a"]) == {0, 1, 2}
    adapter = model.get_adapter("a")[0]["mh_adapter"]
    kept: list[torch.Tensor] = []
    handle = adapter.gate.register_forward_hook(lambda module, args, logits: kept.append(logits))
    model(**inputs)
    handle.remove()
    expected = torch.sigmoid(kept[0]).mean(1).squeeze(-1)
    torch.testing.assert_close(torch.from_numpy(scores["a"][0]["mh_adapter"]), expected.detach())
    assert set(scores["a"][2]) == {"mh_adapter", "output_adapter"}


# Compositions


CONFIGS = {
    "a": bottleneck(),
    "b": bottleneck(is_parallel=True),
    "c": bottleneck(original_ln_before=True, original_ln_after=False, residual_before_ln=False),
    "d": bottleneck(original_ln_before=True, ln_after=True),
}
NAMES = [*CONFIGS, "elsewhere"]  # an adapter that does not live in the layer


def interpret(
    block: str | AdapterCompositionBlock,
    layer: BottleneckLayer,
    x: torch.Tensor,
    r: torch.Tensor,
    follows: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """What `block` means, token by token: the new x, and at which tokens the layer's addition still follows [B, L, 1]."""
    if isinstance(block, str):
        if block not in layer.adapters:
            return x, follows
        adapter = layer.adapters[block]
        return written_out(adapter, x, r, None), torch.full_like(follows, adapter.config.original_ln_after)
    if isinstance(block, Stack):
        for child in block:
            x, follows = interpret(child, layer, x, r, follows)
        return x, follows
    if isinstance(block, Average):
        results = [interpret(child, layer, x, r, follows) for child in block]
        weights = block.weights
        total = sum(w * torch.where(f, value + r, value) for w, (value, f) in zip(weights, results, strict=True))
        return total, torch.zeros_like(follows)
    dimension = 1 if isinstance(block, Split) else 0
    sizes = {Split: "splits", BatchSplit: "batch_sizes"}.get(type(block))
    lengths = getattr(block, sizes) if sizes else [x.shape[0] // len(block)] * len(block)
    parts = zip(*(torch.split(value, lengths, dimension) for value in (x, r, follows)), strict=True)
    done = [interpret(child, layer, *part) for child, part in zip(block, parts, strict=True)]
    return tuple(torch.cat(values, dimension) for values in zip(*done, strict=True))  # type: ignore[return-value]


def expected_of(block: AdapterCompositionBlock, layer: BottleneckLayer) -> torch.Tensor:
    x, follows = interpret(block, layer, X, R, torch.ones(B, L, 1, dtype=torch.bool))
    return torch.where(follows, x + R, x)


def cuts(total: int, parts: int) -> st.SearchStrategy[list[int]]:
    """`parts` positive numbers that sum up to `total`."""
    points = st.lists(st.integers(1, max(1, total - 1)), min_size=parts - 1, max_size=parts - 1, unique=True)
    return points.map(lambda found: [b - a for a, b in itertools.pairwise([0, *sorted(found), total])])


@st.composite
def blocks(draw: Any, rows: int, length: int, depth: int, is_last: bool = True) -> Any:
    """A name or a block that can run on `rows` x `length` tokens. An average stands only where it is the last step."""
    kinds = (
        ["name"] if depth == 0 else ["name", "stack", "batch", "span", "parallel", *(["average"] if is_last else [])]
    )
    kind = draw(st.sampled_from(kinds))
    if kind == "name":
        return draw(st.sampled_from(NAMES))
    count = draw(st.integers(1, 3))
    if kind == "stack":
        steps = [draw(blocks(rows, length, depth - 1, is_last=False)) for _ in range(count - 1)]
        return Stack(*steps, draw(blocks(rows, length, depth - 1, is_last)))
    if kind == "average":
        children = [draw(st.sampled_from(NAMES)) for _ in range(count)]
        return Average(*children, weights=[1.0 + index for index in range(count)])
    if kind == "span":
        lengths = draw(cuts(length, min(count, length)))
        return Split(*(draw(blocks(rows, size, depth - 1, is_last)) for size in lengths), splits=lengths)
    if kind == "parallel":
        count = count if rows % count == 0 else 1
        return Parallel(*(draw(blocks(rows // count, length, depth - 1, is_last)) for _ in range(count)))
    sizes = draw(cuts(rows, min(count, rows)))
    children = [draw(blocks(size, length, depth - 1, is_last)) for size in sizes]
    return BatchSplit(*children, batch_sizes=sizes)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(block=blocks(B, L, depth=3))
def test_blocks_mean_the_same_to_the_layer_as_token_by_token(block: str | AdapterCompositionBlock) -> None:
    whole = Stack(block)
    try:
        layer = host(CONFIGS, whole)
    except UnsupportedMethodError:  # see `test_rows_whose_end_is_not_known_beforehand_are_refused`
        return
    torch.testing.assert_close(layer(X, R), expected_of(whole, layer), rtol=1e-4, atol=1e-4)


def test_parts_that_differ_in_what_follows_are_finished_one_by_one() -> None:
    block = BatchSplit("a", "c", "elsewhere", batch_sizes=[1, 2, 1])
    layer = host(CONFIGS, block)
    a, c = layer.adapters["a"], layer.adapters["c"]
    expected = [
        NORM(written_out(a, X[:1], R[:1], NORM) + R[:1]),
        written_out(c, X[1:3], R[1:3], NORM),
        NORM(X[3:] + R[3:]),
    ]
    torch.testing.assert_close(layer(X, R, NORM), torch.cat(expected))


def test_an_adapter_that_ends_the_layer_does_so_before_a_missing_one_too() -> None:
    layer = host(CONFIGS, Stack("c", BatchSplit("elsewhere", "a", batch_sizes=2)))
    first = written_out(layer.adapters["c"], X, R, NORM)
    second = NORM(written_out(layer.adapters["a"], first[2:], R[2:], NORM) + R[2:])
    torch.testing.assert_close(layer(X, R, NORM), torch.cat([first[:2], second]))


def test_rows_whose_end_is_not_known_beforehand_are_refused() -> None:
    with pytest.raises(UnsupportedMethodError, match="original_ln_after"):
        host(CONFIGS, Stack(BatchSplit("a", "c", batch_sizes=2), BatchSplit("elsewhere", "a", batch_sizes=[3, 1])))


@pytest.mark.parametrize("config", ["seq_bn", "double_seq_bn", "par_bn", "compacter++[phm_dim=2,reduction_factor=4]"])
@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_defect_9_the_average_of_an_adapter_with_itself_is_the_adapter(
    kind: str, config: str, inputs: dict[str, torch.Tensor]
) -> None:
    model = adapted(kind)
    for name in ("a", "b"):
        model.add_adapter(name, config)
        randomise(model, name)
    model.set_active_adapters("a")
    expected = model(**inputs)[0]
    model.set_active_adapters(Average("a", "b"))
    torch.testing.assert_close(model(**inputs)[0], expected)


def test_an_average_is_the_weighted_sum_and_weights_need_not_sum_to_one() -> None:
    for weights in ([1.0, 3.0], [0.2, 0.5]):
        block = Average("a", "b", weights=weights, normalize_weights=False)
        layer = host(CONFIGS, block)
        parts = [written_out(layer.adapters[name], X, R, NORM) for name in ("a", "b")]
        expected = NORM(weights[0] * parts[0] + weights[1] * parts[1] + R)
        torch.testing.assert_close(layer(X, R, NORM), expected)


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_defect_20_parallel_adapters_in_the_block_parallel(kind: str, inputs: dict[str, torch.Tensor]) -> None:
    model = adapted(kind)
    alone = []
    for name in ("a", "b"):
        model.add_adapter(name, ParBnConfig(scaling="learned"), set_active=True)
        randomise(model, name, seed=ord(name))
        alone.append(model(**inputs)[0])
    model.set_active_adapters(Parallel("a", "b"))
    torch.testing.assert_close(model(**inputs)[0], torch.cat(alone))
    assert not torch.allclose(*alone)


@pytest.mark.parametrize(
    "pair",
    [
        ("seq_bn", "par_bn"),
        (AdapterPlusConfig(reduction_factor=2), "seq_bn"),
        ("double_seq_bn", ConfigUnion(bottleneck(mh_adapter=True, output_adapter=False), ParBnConfig())),
    ],
    ids=["seq par", "plus seq", "double union"],
)
@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_rows_of_different_adapters_are_as_alone(
    kind: str, pair: Sequence[Any], inputs: dict[str, torch.Tensor]
) -> None:
    model = adapted(kind)
    alone = []
    for name, config in zip(("a", "b"), pair, strict=True):
        model.add_adapter(name, config, set_active=True)
        randomise(model, name, seed=ord(name))
        alone.append(model(**inputs)[0])
    model.set_active_adapters(BatchSplit("a", "b", batch_sizes=1))
    torch.testing.assert_close(model(**inputs)[0], torch.cat([alone[0][:1], alone[1][1:]]))
    with AdapterSetup(BatchSplit("b", "a", batch_sizes=1)):
        torch.testing.assert_close(model(**inputs)[0], torch.cat([alone[1][:1], alone[0][1:]]))


@pytest.mark.parametrize("branch_first", [True, False])
@pytest.mark.parametrize("transposed", ["branch", "residual"])
def test_without_adapters_the_sum_has_the_strides_of_upstream_s_expression(
    transposed: str, branch_first: bool
) -> None:
    view = tensors(5).transpose(0, 1).contiguous().transpose(0, 1)  # equal values of X's shape, in another order
    x, r = (view, R) if transposed == "branch" else (X, view)
    expected = x + r if branch_first else r + x
    idle = host({"a": bottleneck()})
    idle.activate(None, frozenset())
    found = idle(x, r, None, branch_first=branch_first)
    assert torch.equal(found, expected) and found.stride() == expected.stride()
    other = r + x if branch_first else x + r
    assert other.stride() != expected.stride()  # else the order would not matter here


def test_a_host_says_whether_adapters_run_in_it() -> None:
    with_adapter = host({"a": bottleneck()})
    assert with_adapter.runs
    with_adapter.activate(None, frozenset())
    assert not with_adapter.runs


@pytest.mark.parametrize("gating", [False, True])
@pytest.mark.parametrize(
    "config",
    [
        "double_seq_bn",
        "double_seq_bn[ln_before=True]",
        "double_seq_bn[ln_after=True,adapter_residual_before_ln=True]",
        "double_seq_bn[ln_after=True]",
        "compacter[reduction_factor=4,shared_phm_rule=False]",
    ],
)
def test_sublayers_that_upstream_keeps_in_single_precision_have_adapters_too(config: str, gating: bool) -> None:
    """T5 in half precision, whose feed-forward blocks end in single precision."""
    name, _, options = config.rstrip("]").partition("[")
    model = half_precision(f"{name}[{','.join(filter(None, (options, f'use_gating={gating}')))}]")
    ids = torch.arange(2, 8)[None]
    with torch.no_grad():
        half = model(input_ids=ids, decoder_input_ids=ids)[0]
        single = model.float()(input_ids=ids, decoder_input_ids=ids)[0]
    assert half.dtype is torch.float16
    assert_close(half.float(), single, atol=2e-2, rtol=2e-2)


def test_a_fusion_of_such_adapters_runs_too() -> None:
    model = half_precision("seq_bn", "seq_bn")
    model.add_adapter_fusion(["a0", "a1"], set_active=True)
    model.to(torch.float16)
    _keep_in_single_precision(model)
    ids = torch.arange(2, 8)[None]
    assert model(input_ids=ids, decoder_input_ids=ids)[0].dtype is torch.float16


def half_precision(*configs: str) -> PreTrainedModel:
    torch.manual_seed(0)
    sizes = {"d_model": 32, "d_kv": 8, "num_heads": 4, "d_ff": 48, "num_layers": 2, "vocab_size": 40}
    model = T5Model(T5Config(**sizes)).half().eval()
    _keep_in_single_precision(model)
    init(model)
    for index, config in enumerate(configs):
        model.add_adapter(f"a{index}", config, set_active=True)
        assert {one.dtype for _, one in model.adapter_parameters(f"a{index}")} == {torch.float16}
    return model


def _keep_in_single_precision(model: PreTrainedModel) -> None:
    """What `from_pretrained` does."""
    for name, module in model.named_modules():
        if name.rpartition(".")[2] in model._keep_in_fp32_modules:
            module.float()


def branch_host(config: BnConfig) -> BranchBottleneckLayer:
    """A place whose sum upstream makes itself, with one adapter that runs."""
    layer = BranchBottleneckLayer()
    layer.init_adapter_layer(0, "output_adapter")
    layer.add_adapter("a", config, H)
    layer.activate(Stack("a"), frozenset())
    return layer.eval()


@pytest.mark.parametrize(
    ("options", "residual"),
    [
        pytest.param({}, R, id="after the sublayer"),
        pytest.param({}, None, id="after the sublayer, among several streams"),
        pytest.param({"original_ln_before": True}, R, id="what reads the sum"),
        pytest.param({"is_parallel": True}, R, id="what reads the stream"),
    ],
)
def test_where_upstream_adds_the_host_gives_the_branch(options: dict[str, Any], residual: torch.Tensor | None) -> None:
    layer = branch_host(bottleneck(**options))
    adapter = layer.adapters["a"]
    assert isinstance(adapter, Bottleneck)
    expected = written_out(adapter, X, R if residual is None else residual, None)
    torch.testing.assert_close(layer(X, residual), expected)
    layer.activate(None, frozenset())
    assert layer(X, residual) is X


def test_among_several_streams_what_reads_the_sum_reads_the_branch() -> None:
    layer = branch_host(bottleneck(original_ln_before=True))
    plain = branch_host(bottleneck())
    plain.load_state_dict(layer.state_dict())
    torch.testing.assert_close(layer(X), plain(X, R))


@pytest.mark.parametrize(
    ("options", "has_residual", "message"),
    [
        ({"original_ln_after": False}, True, "original_ln_after=False: in layer 0 .* Use original_ln_after=True"),
        ({"is_parallel": True}, False, "is_parallel=True: in layer 0 .* upstream mixes several streams"),
    ],
)
def test_what_only_the_addition_could_give_is_refused(
    options: dict[str, Any], has_residual: bool, message: str
) -> None:
    layer = BranchBottleneckLayer()
    layer.init_adapter_layer(0, "output_adapter")
    layer.has_residual = has_residual
    with pytest.raises(UnsupportedMethodError, match=message):
        layer.check(bottleneck(**options))
    layer.has_residual = True
    layer.check(bottleneck(is_parallel=True))
