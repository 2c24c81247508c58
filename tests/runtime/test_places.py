"""What layers run: bottlenecks, adapted projections, prefixes and masks, each against plain torch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers import DynamicCache, GPT2Config, GPT2Model, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from adapter_runtime.call.context import ForwardContext, thread
from adapter_runtime.composition import Stack
from adapter_runtime.errors import UnsupportedMethodError
from adapter_runtime.methods.bottleneck.config import BnConfig
from adapter_runtime.methods.bottleneck.layer import BottleneckLayer
from adapter_runtime.methods.bottleneck.module import drop_samples
from adapter_runtime.methods.bottleneck.places import width_at
from adapter_runtime.methods.lora.config import IA3Config, LoRAConfig
from adapter_runtime.methods.lora.layer import LoRAConv1D, LoRALinear, disable_lora, enable_lora
from adapter_runtime.methods.prefix_tuning.masks import grow, hides_later_keys
from adapter_runtime.methods.prefix_tuning.module import LayerPrefix, PrefixShape
from adapter_runtime.methods.prefix_tuning.places import prefix_shape
from adapter_runtime.model.layer import LayerAdaptersMixin
from adapter_runtime.roles import AttentionRoles, BottleneckRole, LayerRoles, MLPRoles
from runtime_models import adapted, randomise

H = 6


def bottleneck(**options: Any) -> BnConfig:
    given = {"mh_adapter": False, "output_adapter": True, "reduction_factor": 2, "non_linearity": "gelu", **options}
    return BnConfig(**given)


def host(*configs: BnConfig) -> BottleneckLayer:
    """A place with one adapter per config, all running, all weights random."""
    layer = BottleneckLayer()
    layer.init_adapter_layer(0, "output_adapter")
    names = [f"a{index}" for index in range(len(configs))]
    for name, config in zip(names, configs, strict=True):
        layer.add_adapter(name, config, H)
    torch.manual_seed(1)
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    layer.activate(Stack(*names), frozenset())
    return layer.eval()


def plain(adapter: Any, entry: torch.Tensor) -> torch.Tensor:
    """Up-projection of the activated down-projection."""
    down = adapter.adapter_down[-2]
    return (
        nn.functional.gelu(entry @ down.weight.T + down.bias) @ adapter.adapter_up.weight.T + adapter.adapter_up.bias
    )


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(2, 5, H, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def r() -> torch.Tensor:
    return torch.randn(2, 5, H, generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize("norm", [None, nn.LayerNorm(H)], ids=["pre-norm", "post-norm"])
@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("after", [True, False])
@pytest.mark.parametrize("residual", [True, False, "post_add"])
def test_order_of_norm_and_residuals(
    norm: Any, before: bool, after: bool, residual: bool | str, x: torch.Tensor, r: torch.Tensor
) -> None:
    if residual == "post_add" and not before:
        pytest.skip("refused by the config")
    layer = host(bottleneck(original_ln_before=before, original_ln_after=after, residual_before_ln=residual))
    normed = norm or (lambda value: value)
    entry = normed(x + r) if before else x
    own = {True: x, False: entry, "post_add": x + r}[residual]
    expected = plain(layer.adapters["a0"], entry) + own
    if after:
        expected = normed(expected + r)
    torch.testing.assert_close(layer(x, r, norm), expected)


def test_own_norms_scale_and_gate(x: torch.Tensor, r: torch.Tensor) -> None:
    for before_norm in (True, False):
        layer = host(
            bottleneck(
                ln_before=True,
                ln_after=True,
                adapter_residual_before_ln=before_norm,
                scaling="channel",
                use_gating=True,
            )
        )
        adapter = layer.adapters["a0"]
        output = plain(adapter, adapter.adapter_norm_before(x)) * adapter.scaling
        output = output * torch.sigmoid(adapter.gate(x)).mean(1, keepdim=True)
        after = adapter.adapter_norm_after
        expected = after(output + x) if before_norm else after(output) + x
        torch.testing.assert_close(layer(x, r), expected + r)


@pytest.mark.parametrize(("scaling", "factor"), [(1, 1.0), (4, 4.0), (0.5, 0.5)])
def test_a_parallel_adapter_reads_the_residual_stream(
    scaling: float, factor: float, x: torch.Tensor, r: torch.Tensor
) -> None:
    layer = host(bottleneck(is_parallel=True, scaling=scaling))
    norm = nn.LayerNorm(H)
    torch.testing.assert_close(layer(x, r, norm), norm(x + factor * plain(layer.adapters["a0"], r) + r))


def test_a_stack_runs_one_after_the_other(x: torch.Tensor, r: torch.Tensor) -> None:
    layer = host(bottleneck(), bottleneck(is_parallel=True), bottleneck(original_ln_before=True))
    first, second, third = (layer.adapters[f"a{index}"] for index in range(3))
    one = plain(first, x) + x
    two = one + plain(second, r)
    three = plain(third, two + r) + two
    torch.testing.assert_close(layer(x, r), three + r)


def test_stochastic_depth_keeps_the_mean_and_drops_whole_samples() -> None:
    torch.manual_seed(0)
    kept = drop_samples(torch.ones(4000, 3, 2), 0.25)
    assert set(kept.flatten(1).std(1).tolist()) == {0.0}
    assert abs(kept.mean().item() - 1) < 0.05
    assert torch.equal(kept.unique(), torch.tensor([0.0, 1 / 0.75]))


def test_a_seed_gives_the_same_adapter_whatever_was_drawn_before() -> None:
    weights = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        layer = BottleneckLayer()
        layer.init_adapter_layer(0, "output_adapter")
        layer.add_adapter("a", bottleneck(init_weights_seed=0), H)
        weights.append(layer.adapters["a"].adapter_up.weight)
    assert torch.equal(*weights)
    assert torch.initial_seed() == 2  # the global generator is not set


# Projections


def lora_layer(module: nn.Module, parts: list[tuple[int, int]], *configs: LoRAConfig) -> Any:
    layer = enable_lora(module, 0, "selfattn_lora_q", fused=len(parts) > 1)
    names = [f"a{index}" for index in range(len(configs))]
    for name, config in zip(names, configs, strict=True):
        layer.add_adapter(name, config, parts)
        for parameter in layer.loras[name].parameters():
            nn.init.normal_(parameter, std=0.5)
    layer.activate(Stack(*names), frozenset())
    return layer


class Doubled(nn.Linear):
    """Stands for a quantised or sharded layer: a linear layer with a forward of its own."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


def conv1d() -> Conv1D:
    module = Conv1D(4, H)
    nn.init.normal_(module.bias)
    return module


@pytest.mark.parametrize(
    "make", [lambda: nn.Linear(H, 4), lambda: Doubled(H, 4), conv1d], ids=["linear", "own", "conv1d"]
)
def test_a_low_rank_update_is_added_and_the_class_comes_back(make: Any, x: torch.Tensor) -> None:
    module = make()
    upstream, bare = type(module), module(x)
    weight, state = module.weight, list(module.state_dict())
    layer = lora_layer(module, [(0, 4)], LoRAConfig(r=2, alpha=6))
    assert layer is module and isinstance(module, upstream) and module.weight is weight
    adapter = layer.loras["a0"]
    torch.testing.assert_close(layer(x), bare + 3 * (x @ adapter.lora_A.T @ adapter.lora_B.T))
    assert list(layer.state_dict()) == [*state, "loras.a0.lora_A", "loras.a0.lora_B"]
    layer.delete_adapter("a0")
    disable_lora(layer)
    assert type(module) is upstream
    assert torch.equal(module(x), bare)
    assert list(module.state_dict()) == state


def test_a_stack_of_updates_passes_each_through_the_next(x: torch.Tensor) -> None:
    module = nn.Linear(H, H)
    bare = module(x)
    layer = lora_layer(module, [(0, H)], LoRAConfig(r=2), LoRAConfig(r=2))
    first, second = layer.loras["a0"], layer.loras["a1"]
    update = 4 * (x @ first.lora_A.T @ first.lora_B.T)
    torch.testing.assert_close(layer(x), bare + 4 * (update @ second.lora_A.T @ second.lora_B.T))


def test_a_stack_of_updates_needs_as_many_inputs_as_outputs() -> None:
    with pytest.raises(UnsupportedMethodError, match="as many inputs as outputs"):
        lora_layer(nn.Linear(H, 4), [(0, 4)], LoRAConfig(r=2), LoRAConfig(r=2))


@pytest.mark.parametrize(
    "make", [lambda: nn.Linear(H, 10), lambda: nn.Linear(H, 10, bias=False), lambda: Conv1D(10, H)]
)
@pytest.mark.parametrize("config", [LoRAConfig(r=2), IA3Config()], ids=["lora", "ia3"])
@pytest.mark.parametrize("parts", [[(0, 4), (7, 10)], [(4, 7)], [(0, 4), (4, 7), (7, 10)]], ids=["q,v", "k", "q,k,v"])
def test_parts_of_a_fused_projection(make: Any, config: LoRAConfig, parts: Any, x: torch.Tensor) -> None:
    module = make()
    bare = module(x)
    layer = lora_layer(module, parts, config)
    adapter, expected = layer.loras["a0"], bare.clone()
    row = 0
    for index, (start, stop) in enumerate(parts):
        b = adapter.lora_B[row : row + stop - start]
        row += stop - start
        if config.composition_mode == "scale":
            expected[..., start:stop] *= b[:, 0]
        else:
            expected[..., start:stop] += 4 * (x @ adapter.lora_A[2 * index : 2 * index + 2].T @ b.T)
    output = layer(x)
    torch.testing.assert_close(output, expected)
    layer.merge("a0")
    layer.activate(Stack("a0"), frozenset())
    torch.testing.assert_close(layer(x), output)
    layer.unmerge()
    layer.activate(None, frozenset())
    assert torch.equal(layer(x), bare)


class Block(LayerAdaptersMixin, nn.Module):
    """A layer around GPT-2's fused projection."""

    roles = LayerRoles(
        attentions=(AttentionRoles("attn", "self", fused="attn.c_attn", output="attn.c_proj", head_dim="head_dim"),)
    )


class Attends(nn.Module):
    """An attention of upstream's."""

    def __init__(self) -> None:
        super().__init__()
        self.q = nn.Linear(H, H)
        self.o = nn.Linear(H, 2 * H)


class AttendsWithAdapters(Attends):
    """What is generated from it."""


class MixesLinearly(nn.Module):
    """What other layers have in its place, with projections of the same names."""

    def __init__(self) -> None:
        super().__init__()
        self.q = nn.Linear(H, H)
        self.o = nn.Linear(H, 2 * H)


class Hybrid(LayerAdaptersMixin, nn.Module):
    """A layer that attends, or mixes in another way."""

    roles = LayerRoles(
        attentions=(AttentionRoles("mixer", "self", query="mixer.q", output="mixer.o", core_classes=("Attends",)),)
    )

    def __init__(self, mixer: nn.Module) -> None:
        super().__init__()
        self.mixer = mixer
        self.norm = nn.LayerNorm(H)


@pytest.mark.parametrize(("mixer", "attends"), [(Attends, True), (AttendsWithAdapters, True), (MixesLinearly, False)])
def test_only_classes_that_attend_are_attentions(mixer: type[nn.Module], attends: bool) -> None:
    from adapter_runtime.methods.common.projections import projections_of

    layer = Hybrid(mixer())
    assert [core for _, core in layer.adapted_attentions()] == ([layer.mixer] if attends else [])
    assert [found.path for found in projections_of(layer)] == (["mixer.q", "mixer.o"] if attends else [])
    assert layer.stream_width() == (2 * H if attends else H)


class KeysAreValues(LayerAdaptersMixin, nn.Module):
    """A layer that may lack a projection of values: its keys are values, too."""

    roles = LayerRoles(
        attentions=(AttentionRoles("core", "self", query="core.q", key="core.k", value="core.v", head_dim="width"),),
        optional=("core.v",),
    )

    def __init__(self, values: int) -> None:
        super().__init__()
        self.core = nn.Module()
        self.core.width, self.core.q, self.core.k = 3, nn.Linear(H, 2 * H), nn.Linear(H, H)
        self.core.v = nn.Linear(H, values) if values else None


@pytest.mark.parametrize(("values", "width"), [(0, 3), (4, 2)], ids=["keys are values", "values of their own"])
def test_a_prefix_of_values_is_as_wide_as_what_gives_them(values: int, width: int) -> None:
    layer = KeysAreValues(values)
    assert prefix_shape(layer, layer.roles.attentions[0]) == PrefixShape(2, 3, width)


class SharesKeys(LayerAdaptersMixin, nn.Module):
    """A layer that reads the keys and values of an earlier one (Gemma 3n): four heads of queries, two for each of keys."""

    roles = LayerRoles(
        attentions=(
            AttentionRoles(
                *("core", "self"), query="core.q", key="core.k", value="core.v", output="core.o", head_dim="width"
            ),
        ),
        optional=("core.k", "core.v"),
    )

    def __init__(self, groups: int | None) -> None:
        super().__init__()
        self.core = nn.Module()
        self.core.width, self.core.q, self.core.o = 3, nn.Linear(H, 12), nn.Linear(8, H)
        if groups is not None:
            self.core.num_key_value_groups = groups


def test_a_layer_that_shares_keys_has_the_prefix_that_its_queries_can_see() -> None:
    layer = SharesKeys(groups=2)
    assert prefix_shape(layer, layer.roles.attentions[0]) == PrefixShape(2, 3, 2)


def test_a_layer_that_shares_keys_and_says_not_how_many_gets_no_prefix() -> None:
    layer = SharesKeys(groups=None)
    with pytest.raises(UnsupportedMethodError, match="no projection of its own for keys"):
        prefix_shape(layer, layer.roles.attentions[0])


class Mixer(LayerAdaptersMixin, nn.Module):
    """A layer of which no projection is known."""

    roles = LayerRoles()

    def __init__(self, *widths: int) -> None:
        super().__init__()
        # Of things inside: they tell the width only where they agree, and the layer itself holds none.
        self.norms = nn.ModuleList([nn.LayerNorm(3), nn.LayerNorm(4)])
        self.mixing = nn.Linear(5, 5)
        for index, width in enumerate(widths):
            self.add_module(f"norm{index}", nn.RMSNorm(width))


class TwoAxes(LayerAdaptersMixin, nn.Module):
    """A layer whose first block works on another axis of its stream than the last."""

    roles = LayerRoles(mlp=MLPRoles(last=("across.down", "along.down")))

    def __init__(self, across: int, along: int) -> None:
        super().__init__()
        self.across, self.along = (nn.ModuleDict({"down": nn.Linear(2 * width, width)}) for width in (across, along))
        self.norm = nn.LayerNorm(H)


@pytest.mark.parametrize(
    ("across", "along", "width"),
    [
        pytest.param(3, H, H, id="a norm says which is the last axis"),
        pytest.param(H, 3, H, id="the first, where that has a norm"),
        pytest.param(3, 5, 3, id="the first, where none has"),
        pytest.param(3, 3, 3, id="they agree"),
    ],
)
def test_of_projections_of_two_widths_that_of_a_norm_is_the_stream_s(across: int, along: int, width: int) -> None:
    assert TwoAxes(across, along).stream_width() == width


def test_a_layer_without_known_projections_is_as_wide_as_its_norms() -> None:
    assert Mixer(H, H).stream_width() == H


def test_a_layer_without_norms_of_its_own_is_as_wide_as_those_inside_it() -> None:
    layer = Mixer()
    layer.norms = nn.ModuleList([nn.LayerNorm(H), nn.LayerNorm(H)])
    assert layer.stream_width() == H


@pytest.mark.parametrize("widths", [(), (H, H + 1)], ids=["none", "of two widths"])
def test_norms_that_do_not_agree_tell_no_width(widths: tuple[int, ...]) -> None:
    with pytest.raises(UnsupportedMethodError, match="no norms of one width"):
        Mixer(*widths).stream_width()


def test_a_fused_projection_of_unknown_order_is_refused() -> None:
    from adapter_runtime.methods.common.projections import projections_of
    from adapter_runtime.methods.lora.places import adapted_parts

    block = Block()
    block.attn = GPT2Model(GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=10)).h[0].attn
    fused, output = projections_of(block)
    assert adapted_parts(block, output, LoRAConfig(attn_matrices=["o"])) == [(0, 8)]
    assert adapted_parts(block, fused, LoRAConfig(attn_matrices=["o"])) == []
    with pytest.raises(UnsupportedMethodError, match=r"attn\.c_attn gives"):
        adapted_parts(block, fused, LoRAConfig())


def test_what_is_no_linear_layer_is_refused() -> None:
    model = adapted("llama")
    model.layers[0].self_attn.q_proj = nn.Identity()
    with pytest.raises(UnsupportedMethodError, match=r"self_attn\.q_proj is a Identity"):
        model.add_adapter("a", "lora")
    assert not isinstance(model.layers[0].self_attn.v_proj, (LoRALinear, LoRAConv1D))


# Masks


class Core:
    """An attention with an implementation."""

    def __init__(self, implementation: str) -> None:
        self.config = type("Config", (), {"_attn_implementation": implementation})()


class Columns:
    """A program of prefixes, as far as masks need it."""

    def __init__(self, length: int, *rows: list[int]) -> None:
        self.length = length
        self.layout = (length, rows)

    def pieces(self, attended: object) -> list[LayerPrefix]:
        raise NotImplementedError

    def visible(self, rows: torch.Tensor) -> torch.Tensor | None:
        return torch.tensor(self.layout[1], dtype=torch.bool) if self.layout[1] else None


def states(length: int) -> torch.Tensor:
    return torch.zeros(2, 3, length, 4)


@pytest.mark.parametrize(
    ("implementation", "queries", "is_causal"),
    [
        pytest.param("eager", 3, True, id="eager has no mask of its own"),
        pytest.param("sdpa", 3, False, id="every query sees every key"),
        pytest.param("sdpa", 1, True, id="one query sees every key"),
    ],
)
def test_no_mask_stays_none(implementation: str, queries: int, is_causal: bool) -> None:
    assert grow(Core(implementation), None, states(queries), states(5), Columns(2), is_causal) is None


@pytest.mark.parametrize(
    ("implementation", "stated", "own", "hides"),
    [
        pytest.param("sdpa", None, True, True, id="sdpa reads the attribute of the module"),
        pytest.param("sdpa", None, False, False, id="of an encoder too"),
        pytest.param("sdpa", False, True, False, id="the call is asked first"),
        pytest.param(None, None, True, False, id="a module without a config calls no kernel that reads it"),
        pytest.param(None, True, False, True, id="unless the call says so"),
        pytest.param("eager", None, True, False, id="eager reads masks alone"),
    ],
)
def test_who_hides_later_keys(implementation: str | None, stated: bool | None, own: bool, hides: bool) -> None:
    core = nn.Identity()
    core.is_causal = own
    if implementation is not None:
        core.config = Core(implementation).config
    assert hides_later_keys(core, stated) is hides


def test_a_mask_that_is_made_can_be_added_whoever_adds_it() -> None:
    mask = grow(nn.Identity(), None, states(3), states(3), Columns(2), True)
    assert mask is not None and mask.dtype is torch.float32
    assert torch.equal(mask.exp()[0, 0], torch.tensor([[1.0, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]))


def test_a_causal_kernel_without_a_mask_gets_one() -> None:
    mask = grow(Core("sdpa"), None, states(3), states(3), Columns(2), True)
    assert mask is not None and mask.shape == (1, 1, 3, 5)
    assert torch.equal(mask.exp()[0, 0], torch.tensor([[1.0, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]))


def test_an_empty_static_cache_counts_keys_from_the_first_query() -> None:
    mask = grow(Core("sdpa"), None, states(2), states(4), Columns(1), True)
    assert mask is not None
    assert torch.equal(mask.exp()[0, 0], torch.tensor([[1.0, 1, 0, 0, 0], [1, 1, 1, 0, 0]]))


@pytest.mark.parametrize(
    ("mask", "value"),
    [
        (torch.zeros(2, 1, 3, 3, dtype=torch.bool), True),
        (torch.full((2, 1, 3, 3), -1e9), 0.0),
        (torch.zeros(2, 3, dtype=torch.long), 1),
    ],
    ids=["boolean", "additive", "integer"],
)
def test_a_mask_grows_by_visible_columns(mask: torch.Tensor, value: float) -> None:
    grown = grow(Core("eager"), mask, states(3), states(3), Columns(2), True)
    assert grown is not None and grown.dtype is mask.dtype
    assert torch.equal(grown[..., 2:], mask)
    assert bool((grown[..., :2] == value).all())


@pytest.mark.parametrize("mask", [torch.ones(2, 1, 3, 3, dtype=torch.bool), torch.zeros(2, 1, 3, 3), None], ids=str)
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_a_mask_hides_positions_of_a_prefix_from_rows(implementation: str, mask: torch.Tensor | None) -> None:
    grown = grow(Core(implementation), mask, states(3), states(3), Columns(2, [1, 1], [0, 1]), False)
    assert grown is not None
    seen = grown.expand(2, 1, 3, 5) if grown.dtype is torch.bool else grown.exp().expand(2, 1, 3, 5)
    assert [row[0, 0].int().tolist() for row in seen] == [[1, 1, 1, 1, 1], [0, 1, 1, 1, 1]]


def test_a_mask_of_ones_and_zeros_hides_positions_of_a_prefix_from_rows() -> None:
    mask = torch.tensor([[0, 1, 1], [1, 1, 1]])
    grown = grow(Core("eager"), mask, states(3), states(3), Columns(2, [1, 1], [0, 1]), False)
    assert grown is not None
    assert grown.tolist() == [[1, 1, 0, 1, 1], [0, 1, 1, 1, 1]]


def test_a_mask_for_all_keys_alike_gets_columns() -> None:
    mask = torch.full((2, 1, 3, 1), -1e9)
    grown = grow(Core("eager"), mask, states(3), states(4), Columns(2), False)
    assert grown is not None
    assert grown[0, 0, 0].tolist() == [0, 0, -1e9, -1e9, -1e9, -1e9]


def test_a_mask_of_another_width_is_refused() -> None:
    with pytest.raises(UnsupportedMethodError, match="4 columns and 3 keys"):
        grow(Core("eager"), torch.zeros(2, 1, 3, 4), states(3), states(3), Columns(2), True)


def test_layers_that_share_a_mask_share_the_grown_one() -> None:
    mask, other = torch.zeros(1, 1, 3, 3), torch.zeros(1, 1, 3, 3)
    thread.context = ForwardContext()
    try:
        first = grow(Core("eager"), mask, states(3), states(3), Columns(2), True)
        assert grow(Core("eager"), mask, states(3), states(3), Columns(2), True) is first
        assert grow(Core("eager"), mask, states(3), states(3), Columns(4), True) is not first
        assert grow(Core("eager"), other, states(3), states(3), Columns(2), True) is not first
    finally:
        thread.context = None


@pytest.mark.parametrize("implementation", ["flash_attention_2", "flex_attention", "paged|eager", "my_kernel"])
def test_an_implementation_that_would_ignore_the_mask_is_refused(implementation: str) -> None:
    model = adapted("llama")
    model.add_adapter("a", "prefix_tuning_flat", set_active=True)
    model.config._attn_implementation_internal = implementation
    core = model.layers[0].self_attn
    with pytest.raises(UnsupportedMethodError, match=r"set_attn_implementation\(\"sdpa\"\)"):
        core.prepend_prefix(states(3), states(3), states(3), None)


# Prefixes


def prefilled(model: PreTrainedModel, batch: int) -> DynamicCache:
    """A cache that holds the prefix of the adapter "a"."""
    cache = DynamicCache(config=model.config)
    (tuning,) = model.base_model.prefix_tuning.prefix_tunings["a"].values()
    for index, prefix in enumerate(tuning()):
        cache.update(*(part.expand(batch, -1, -1, -1).clone() for part in prefix), index)
    return cache


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("config", ["prefix_tuning_flat[prefix_length=3]", "prefix_tuning[prefix_length=3]"])
def test_a_prefix_is_a_cache_with_positions_from_zero(
    attention: str, padded: bool, config: str, inputs: dict[str, torch.Tensor]
) -> None:
    model = adapted("llama", attention)
    model.add_adapter("a", config, set_active=True)
    randomise(model, "a")
    if not padded:
        inputs["attention_mask"][:] = 1
    with torch.no_grad():
        ours = model(**inputs).last_hidden_state
        model.set_active_adapters(None)
        theirs = model(
            input_ids=inputs["input_ids"],
            attention_mask=nn.functional.pad(inputs["attention_mask"], (3, 0), value=1),
            position_ids=torch.arange(7)[None],
            past_key_values=prefilled(model, 2),
        ).last_hidden_state
    real = inputs["attention_mask"].bool()
    torch.testing.assert_close(ours[real], theirs[real], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("cache", ["dynamic", "static", None])
def test_decoding_with_a_prefix_equals_full_forwards(attention: str, cache: str | None) -> None:
    model = adapted("llama_lm", attention)
    model.add_adapter("a", "prefix_tuning[prefix_length=3]|lora", set_active=True)
    randomise(model, "a")
    ids = torch.randint(3, 99, (2, 4), generator=torch.Generator().manual_seed(7))
    options = {"use_cache": False} if cache is None else {"cache_implementation": cache}
    given = model.generate(ids, max_new_tokens=5, do_sample=False, eos_token_id=None, **options)
    for _ in range(5):
        with torch.no_grad():
            ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], dim=1)
    assert torch.equal(given, ids)


def test_the_mlp_of_a_prefix_runs_once_per_generation(monkeypatch: pytest.MonkeyPatch) -> None:
    model = adapted("llama_lm")
    model.add_adapter("a", "prefix_tuning[prefix_length=3]", set_active=True)
    calls: list[int] = []
    (tuning,) = model.model.prefix_tuning.prefix_tunings["a"].values()
    tuning.control_trans.register_forward_hook(lambda *_: calls.append(1))
    ids = torch.randint(3, 99, (2, 4))
    model.generate(ids, max_new_tokens=4, do_sample=False, eos_token_id=None)
    assert len(calls) == 1
    model(ids)
    model(ids)
    assert len(calls) == 3
    assert thread.context is None


def test_an_encoder_called_alone_computes_its_prefix() -> None:
    model = adapted("bert")
    model.add_adapter("a", "prefix_tuning[prefix_length=3]", set_active=True)
    randomise(model, "a")
    hidden = torch.randn(1, 4, 32)
    active = model.encoder(hidden)[0]
    model.set_active_adapters(None)
    assert not torch.allclose(active, model.encoder(hidden)[0])


def test_layers_of_different_widths_share_one_prefix_module() -> None:
    from adapter_runtime.methods.prefix_tuning.config import PrefixTuningConfig
    from adapter_runtime.methods.prefix_tuning.module import PrefixTuning

    shapes = [PrefixShape(2, 4, 4), PrefixShape(1, 8, 6)]
    for flat in (True, False):
        tuning = PrefixTuning(PrefixTuningConfig(flat=flat, prefix_length=3, bottleneck_size=5), H, shapes, "a.self")
        assert [(part.key.shape, part.value.shape) for part in tuning()] == [
            ((2, 3, 4), (2, 3, 4)),
            ((1, 3, 8), (1, 3, 6)),
        ]


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_uniform_layers_are_laid_out_like_different_ones(kind: str) -> None:
    model = adapted(kind)
    model.add_adapter("a", "prefix_tuning_flat[prefix_length=3]")
    (tuning,) = model.prefix_tuning.prefix_tunings["a"].values()
    uniform = tuning()
    tuning.is_uniform = False
    for ours, theirs in zip(uniform, tuning(), strict=True):
        assert torch.equal(ours.key, theirs.key) and torch.equal(ours.value, theirs.value)


class Widens(nn.Module):
    """A module of upstream's that adds: the projection of one operand, and the norm of the sum."""

    def __init__(self, projected: int, normed: int) -> None:
        super().__init__()
        self.dense, self.LayerNorm = nn.Linear(H, projected), nn.LayerNorm(normed)


class Narrow(LayerAdaptersMixin, nn.Module):
    """A layer that is narrower inside than what it gives (MobileBERT)."""

    roles = LayerRoles(
        bottlenecks=(
            BottleneckRole("attention", "attention"),
            BottleneckRole("blocks.*.output", "output"),
            BottleneckRole("output", "output"),
            BottleneckRole("output.wide", "output"),
        ),
        mlp=MLPRoles(last=("output.dense",)),
        optional=("blocks", "output.wide"),
    )

    def __init__(self, wide: Widens | None) -> None:
        super().__init__()
        self.attention, self.output = Widens(H, H), Widens(H, H)
        if wide is not None:
            self.output.wide = wide


@pytest.mark.parametrize(
    ("wide", "width"),
    [
        pytest.param(None, H, id="nothing widens it"),
        pytest.param(Widens(2 * H, 2 * H), 2 * H, id="a last addition of another width"),
        pytest.param(Widens(2 * H, 4), H, id="a norm of something else than the sum"),
    ],
)
def test_a_layer_gives_what_its_last_addition_makes(wide: Widens | None, width: int) -> None:
    layer = Narrow(wide)
    assert (layer.stream_width(), layer.output_width()) == (H, width)


class WideHost(BottleneckLayer):
    def __init__(self) -> None:
        super().__init__()
        self.dense, self.LayerNorm = nn.Linear(H, 2 * H), nn.LayerNorm(2 * H)


def test_a_place_in_a_module_of_upstreams_is_as_wide_as_the_sum_in_it() -> None:
    layer = Narrow(None)
    assert width_at(WideHost(), layer) == 2 * H
    assert width_at(BottleneckLayer(), layer) == H
