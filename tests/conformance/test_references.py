"""The references themselves, on upstream alone: an oracle that is wrong would pass the same mistake in ours."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from conformance.checks.prefix import positioned, with_prefix_in_mask
from conformance.handmade import NAME, layout, random
from conformance.methods import LORA, PREFIX_FLAT, SEQ_BN, Bottleneck, Prefix
from conformance.outputs import assert_bitwise, assert_differs, assert_equal_within, at_tokens, run
from conformance.reference import applied
from conformance.reference.bottleneck import sites_of
from conformance.reference.layout import Layout
from conformance.reference.prefix import filled_cache, prefix_states
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
            if location in layer.hosts:
                prefix = f"{layer.hosts[location]}.adapters.{NAME}"
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


def test_keys_and_values_of_prefixes_alternate_from_layer_to_layer() -> None:
    where, length, heads, width = layout(LLAMA), PREFIX_FLAT.length, 2, 8
    weights = prefix_weights(where, PREFIX_FLAT)
    flat = next(iter(weights.values()))
    shapes = {attention.core: (heads, width) for attention in where.attentions}
    states = prefix_states(where, PREFIX_FLAT, NAME, weights, shapes)
    for layer, attention in enumerate(where.attentions):
        for kind, found in enumerate(states[attention.core]):
            for position in range(length):
                start = ((position * len(where.attentions) + layer) * 2 + kind) * heads * width
                assert torch.equal(found[0, :, position].flatten(), flat[start : start + heads * width])


def test_residual_additions_before_a_norm_are_found() -> None:
    found = sites_of(LLAMA.upstream(), layout(LLAMA), LLAMA.padded_inputs())
    assert [(branch.location, norm) for branch, norm in found] == [("attention", ""), ("output", "")] * 2


def test_residual_additions_inside_a_norm_are_found_with_it() -> None:
    found = sites_of(BERT.upstream(), layout(BERT), BERT.padded_inputs())
    layer = "bert.encoder.layer.0"
    assert [norm for _, norm in found[:2]] == [f"{layer}.attention.output.LayerNorm", f"{layer}.output.LayerNorm"]


@pytest.mark.parametrize("subject", [LLAMA, BERT], ids=lambda subject: subject.model_type)
def test_bottleneck_without_up_projection_leaves_upstream_as_it_is(subject: Subject) -> None:
    where, upstream, inputs = layout(subject), subject.upstream(), subject.padded_inputs("right")
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
    where, upstream, inputs = layout(LLAMA), LLAMA.upstream(), LLAMA.padded_inputs("left")
    before = run(upstream, inputs)
    parts = (SEQ_BN, PREFIX_FLAT)
    weights = {**prefix_weights(where, PREFIX_FLAT), **bottleneck_weights(where, SEQ_BN, up=1.0)}
    with applied(upstream, where, [(NAME, parts)], weights):
        assert_differs(run(upstream, inputs, use_cache=False), before, "the adapter")
    assert_bitwise(run(upstream, inputs), before, "afterwards")
