"""The references themselves, on upstream alone: an oracle that is wrong would pass the same mistake in ours."""

from __future__ import annotations

import functools
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from conformance.adapted import initialised
from conformance.checks.padding import without_mask
from conformance.checks.prefix import positioned, with_prefix_in_mask
from conformance.checks.reference import _loss, with_sites, without_lone_weights
from conformance.handmade import NAME, layout, random
from conformance.methods import LORA, PREFIX_FLAT, SEQ_BN, Bottleneck, Prefix
from conformance.outputs import assert_bitwise, assert_differs, assert_equal_within, at_tokens, run
from conformance.reference import applied
from conformance.reference.bottleneck import AdditionSite, Claim, claims_of, sites_of
from conformance.reference.handed_on import BranchSite, HandedOn, handed_on
from conformance.reference.layout import Layout, layout_of
from conformance.reference.prefix import filled_cache, prefix_states, turn_of_keys
from conformance.subjects import BATCH, Subject, method_subjects

(LLAMA,) = method_subjects("llama")
BERT, BERT_DECODER, _ = method_subjects("bert")


def prefix_weights(where: Layout, part: Prefix) -> dict[str, Tensor]:
    heads = 2 if where.base == "model" else 4
    size = part.length * len(where.attentions) * 2 * heads * 8
    return {
        f"{where.base}.prefix_tuning.prefix_tunings.{NAME}.self_prefix.control_trans": random(1, size)[0] * size**0.5
    }


def bottleneck_weights(where: Layout, part: Bottleneck, up: float) -> dict[str, Tensor]:
    width = 32 // part.reduction_factor
    weights = {}
    for layer in where.layers:
        for location in part.locations:
            if location in dict(layer.hosts):
                prefix = f"{dict(layer.hosts)[location]}.adapters.{NAME}"
                weights[f"{prefix}.adapter_down.0.weight"] = random(width, 32)
                weights[f"{prefix}.adapter_down.0.bias"] = random(width)
                weights[f"{prefix}.adapter_up.weight"] = up * random(32, width, seed=1)
                weights[f"{prefix}.adapter_up.bias"] = up * random(32)
    return weights


@pytest.mark.parametrize("padding", ["none", "left"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("subject", [LLAMA, BERT_DECODER], ids=lambda subject: subject.model_type)
def test_written_out_attention_agrees_with_the_filled_cache(subject: Subject, attention: str, padding: str) -> None:
    where, upstream = layout(subject), subject.upstream(attention)
    weights = prefix_weights(where, PREFIX_FLAT)
    inputs = positioned(subject.padded_inputs(padding))
    mask = inputs.get("attention_mask")
    plain = at_tokens(run(upstream, inputs), mask)
    cache = filled_cache(upstream, where, PREFIX_FLAT, NAME, weights, BATCH)
    cached = at_tokens(run(upstream, with_prefix_in_mask(inputs, PREFIX_FLAT.length), past_key_values=cache), mask)
    with applied(upstream, where, [(NAME, (PREFIX_FLAT,))], weights):
        written_out = at_tokens(run(upstream, inputs, use_cache=False), mask)
    assert_equal_within(written_out, cached, "prefix")
    assert_differs(cached, plain, "the prefix")


def test_a_cache_is_turned_where_upstream_counts_what_it_holds() -> None:
    _, subject, _ = method_subjects("roformer")
    where, upstream, inputs = layout_of(initialised(subject)), subject.upstream(), subject.padded_inputs()
    weights = prefix_weights(where, PREFIX_FLAT)
    fill = functools.partial(filled_cache, upstream, where, PREFIX_FLAT, NAME, weights, BATCH)
    turn = turn_of_keys(upstream, fill(), inputs)
    assert turn is not None and not torch.allclose(turn, torch.eye(len(turn)), atol=0.1)
    with applied(upstream, where, [(NAME, (PREFIX_FLAT,))], weights):
        expected = run(upstream, inputs, use_cache=False)["logits"]
    turned, plain, back = (run(upstream, inputs, past_key_values=fill(one))["logits"] for one in (turn, None, turn.mT))
    torch.testing.assert_close(turned, expected, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(plain, expected, atol=1e-3) and not torch.allclose(back, expected, atol=1e-3)


def test_a_cache_stays_as_it_is_where_positions_are_given() -> None:
    where, upstream = layout(LLAMA), LLAMA.upstream()
    cache = filled_cache(upstream, where, PREFIX_FLAT, NAME, prefix_weights(where, PREFIX_FLAT), BATCH)
    assert turn_of_keys(upstream, cache, positioned(LLAMA.padded_inputs())) is None


def test_keys_and_values_of_prefixes_alternate_from_layer_to_layer() -> None:
    where, length, heads, width = layout(LLAMA), PREFIX_FLAT.length, 2, 8
    weights = prefix_weights(where, PREFIX_FLAT)
    flat = next(iter(weights.values()))
    shapes = {attention.core: (heads, width, width) for attention in where.attentions}
    states = prefix_states(where, PREFIX_FLAT, NAME, weights, shapes)
    for layer, attention in enumerate(where.attentions):
        for kind, found in enumerate(states[attention.core]):
            for position in range(length):
                start = ((position * len(where.attentions) + layer) * 2 + kind) * heads * width
                assert torch.equal(found[0, :, position].flatten(), flat[start : start + heads * width])


def sites(subject: Subject) -> list[AdditionSite]:
    where, inputs = layout(subject), subject.padded_inputs()
    found = sites_of(subject.upstream(), claims_of(initialised(subject), where, inputs), inputs).values()
    return [site for site in found if isinstance(site, AdditionSite)]


def test_residual_additions_before_a_norm_are_found() -> None:
    assert [(site.hosts[0][1], site.norm) for site in sites(LLAMA)] == [("attention", ""), ("output", "")] * 2


def test_residual_additions_inside_a_norm_are_found_with_it() -> None:
    layer = "bert.encoder.layer.0"
    assert [site.norm for site in sites(BERT)[:2]] == [
        f"{layer}.attention.output.LayerNorm",
        f"{layer}.output.LayerNorm",
    ]


class Parallel(torch.nn.Module):
    """Attention and MLP of the same input, added to each other before they join the stream."""

    def forward(self, a: Tensor, f: Tensor, r: Tensor) -> Tensor:
        return a + f + r


def test_two_branches_that_are_added_to_each_other_are_one_site_of_both() -> None:
    a, f, r = (random(2, 3, seed=seed) for seed in range(3))
    claims = [Claim("h1", "attention", a, r, ""), Claim("h2", "output", f, a + r, "")]
    (site,) = sites_of(Parallel(), claims, {"a": a, "f": f, "r": r}).values()
    assert isinstance(site, AdditionSite)
    assert site.hosts == (("h1", "attention"), ("h2", "output"))
    assert site.residual == 1


@pytest.mark.parametrize("wrong", ["x", "residual"])
def test_a_host_that_adds_something_else_than_upstream_has_no_site(wrong: str) -> None:
    a, f, r = (random(2, 3, seed=seed) for seed in range(3))
    claim = replace(Claim("h1", "attention", a, f, ""), **{wrong: r})
    with pytest.raises(AssertionError, match=r"no addition of what these hosts add: h1 \(attention\)"):
        sites_of(Parallel(), [claim], {"a": a, "f": f, "r": r})


class Scaled(torch.nn.Module):
    """A sublayer, whose output is scaled as it is added."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = torch.nn.LayerNorm(3)
        self.inner = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Identity())

    def forward(self, x: Tensor) -> Tensor:
        return x * 0.5 + self.inner(self.norm(x)) * 0.25


def claimed(upstream: Scaled, x: Tensor) -> HandedOn:
    with torch.no_grad():
        return HandedOn("host", "output", upstream.inner(upstream.norm(x)), x)


def test_what_upstream_scales_as_it_adds_is_adapted_where_the_outermost_module_gives_it() -> None:
    upstream, x = Scaled(), random(2, 3, seed=1)
    sites = sites_of(upstream, [claimed(upstream, x)], {"x": x})
    (site,) = sites.values()
    assert isinstance(site, BranchSite)
    assert site.x == ("inner", 1, "out", 0) and site.residual == ("norm", 1, "in", 0)
    with torch.no_grad(), handed_on(upstream, [site], lambda host, location, given, residual: given + residual):
        found = upstream(x)
    with torch.no_grad():
        expected = x * 0.5 + (upstream.inner(upstream.norm(x)) + x) * 0.25
    torch.testing.assert_close(found, expected)
    assert not upstream.norm._forward_pre_hooks and not upstream.inner._forward_hooks


@pytest.mark.parametrize(
    ("wrong", "message"),
    [("x", "no module of upstream gives"), ("residual", "no module of upstream has the residual")],
)
def test_what_a_host_is_given_must_be_there_in_upstream(wrong: str, message: str) -> None:
    upstream, x = Scaled(), random(2, 3, seed=1)
    with pytest.raises(AssertionError, match=message):
        sites_of(upstream, [replace(claimed(upstream, x), **{wrong: random(2, 3, seed=2)})], {"x": x})


@pytest.mark.parametrize("subject", [LLAMA, BERT], ids=lambda subject: subject.model_type)
def test_bottleneck_without_up_projection_leaves_upstream_as_it_is(subject: Subject) -> None:
    upstream, inputs = subject.upstream(), subject.padded_inputs("right")
    where = with_sites(layout(subject), subject, inputs)
    flags = {"use_cache": False} if subject.causal else {}
    plain = run(upstream, inputs, **flags)
    with applied(upstream, where, [(NAME, (SEQ_BN,))], bottleneck_weights(where, SEQ_BN, up=0.0)):
        assert_equal_within(run(upstream, inputs, **flags), plain, "zero up-projection", atol=1e-6)
    with applied(upstream, where, [(NAME, (SEQ_BN,))], bottleneck_weights(where, SEQ_BN, up=1.0)):
        assert_differs(run(upstream, inputs, **flags), plain, "the bottleneck")


def test_lora_is_a_change_of_the_weights() -> None:
    where, upstream, inputs = layout(LLAMA), LLAMA.upstream(), LLAMA.padded_inputs()
    changed, weights = LLAMA.upstream(), {}
    for attention in where.attentions:
        for path in (attention.query, attention.value):
            linear = changed.get_submodule(path)
            down, up = random(LORA.r, linear.in_features), random(linear.out_features, LORA.r, seed=1)
            weights.update({f"{path}.loras.{NAME}.lora_A": down, f"{path}.loras.{NAME}.lora_B": up})
            with torch.no_grad():
                linear.weight += LORA.alpha / LORA.r * up @ down
    with applied(upstream, where, [(NAME, (LORA,))], weights):
        assert_equal_within(run(upstream, inputs), run(changed, inputs), "LoRA")
    with applied(upstream, where, [(NAME, (replace(LORA, alpha=4),))], weights), pytest.raises(AssertionError):
        assert_equal_within(run(upstream, inputs), run(changed, inputs), "another scale")


def test_upstream_is_restored_afterwards() -> None:
    upstream, inputs = LLAMA.upstream(), LLAMA.padded_inputs("left")
    where = with_sites(layout(LLAMA), LLAMA, inputs)
    before = run(upstream, inputs)
    parts = (SEQ_BN, PREFIX_FLAT)
    weights = {**prefix_weights(where, PREFIX_FLAT), **bottleneck_weights(where, SEQ_BN, up=1.0)}
    with applied(upstream, where, [(NAME, parts)], weights):
        assert_differs(run(upstream, inputs, use_cache=False), before, "the adapter")
    assert_bitwise(run(upstream, inputs), before, "afterwards")


def test_base_model_is_not_the_part_of_it_that_has_the_name_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    bare = initialised(replace(LLAMA, architecture="LlamaModel"))
    monkeypatch.setattr(type(bare), "base_model_prefix", "layers")
    assert layout_of(bare).base == ""
    assert layout_of(initialised(LLAMA)).base == "model"


def test_attention_without_keys_takes_no_prefix() -> None:
    where = layout(LLAMA)
    first, second = where.layers
    linear = replace(first, attentions=(replace(first.attentions[0], key="", query="", value=""),))
    assert [one.layer for one in replace(where, layers=(linear, second)).prefixed] == [second.path]
    fused = replace(first, attentions=(replace(first.attentions[0], key="", query="", value="", fused="qkv"),))
    assert len(replace(where, layers=(fused, second)).prefixed) == 2


def test_only_weights_of_attention_may_be_given_by_one_alone() -> None:
    one = torch.ones(1)
    ours, theirs = without_lone_weights({"states": one}, {"states": one, "projection_attentions": one, "more": one})
    assert set(ours) == {"states"} and set(theirs) == {"states", "more"}
    both = {"states": one, "attentions": one}
    assert without_lone_weights(both, both) == [both, both]


@pytest.mark.parametrize(
    ("last", "is_read"),
    [
        pytest.param(2, True, id="the last layers see fewer positions than there are tokens"),
        pytest.param(4, False, id="all layers see the tokens"),
        pytest.param(5, False, id="one more stands in front"),
    ],
)
def test_what_rows_give_is_read_with_padding_where_layers_see_fewer_positions(last: int, is_read: bool) -> None:
    """No gradient would reach these: of what they give, nothing is at tokens."""
    logits = torch.ones(2, 3, requires_grad=True)
    states = torch.ones(2, 4, 6, requires_grad=True), torch.ones(2, last, 6)
    mask = torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1]])
    _loss({"logits": logits, "hidden_states": states}, mask, in_front=0).backward()
    assert states[0].grad is not None
    assert (logits.grad is not None) is is_read


def test_a_mask_is_left_out_or_of_ones_where_upstream_fails_without() -> None:
    inputs = BERT.padded_inputs("right")
    assert without_mask(BERT.upstream(), inputs).keys() == {"input_ids"}
    (funnel,) = method_subjects("funnel")
    ones = without_mask(funnel.upstream(), funnel.padded_inputs("right"))["attention_mask"]
    assert bool((ones == 1).all())
