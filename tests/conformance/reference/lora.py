"""LoRA by forward hooks on upstream's projections: y + alpha / r * B A x (https://arxiv.org/abs/2106.09685)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence

from torch import Tensor, nn

from conformance.methods import LoRA
from conformance.reference.layout import Layout


def lora_targets(layout: Layout, part: LoRA) -> tuple[str, ...]:
    """Paths of the projections that get a delta.

    ``intermediate_lora`` is the projection that carries the signal into the block, not the gate.
    """
    paths = []
    for layer in layout.layers:
        for attention in layer.attentions:
            paths += [attention.fused] if attention.fused and part.attention else []
            paths += [getattr(attention, role) for role in part.attention]
        if part.mlp_first:
            paths += layer.mlp_first
        if part.mlp_last:
            paths += layer.mlp_last
    return tuple(dict.fromkeys(path for path in paths if path))


@contextlib.contextmanager
def lora_applied(
    upstream: nn.Module, layout: Layout, adapters: Sequence[tuple[str, LoRA]], weights: Mapping[str, Tensor]
) -> Iterator[None]:
    """The projections of `upstream` give their output plus the delta of `adapters`.

    As in `adapters` 1.3.0, an adapter in a stack reads the delta of the one before it, not the input.
    """
    spans = {one.fused: one.spans for one in layout.attentions if one.fused}
    deltas: dict[str, list[Delta]] = {}
    for name, part in adapters:
        for path in lora_targets(layout, part):
            down, up = (weights[f"{path}.loras.{name}.{letter}"] for letter in ("lora_A", "lora_B"))
            if path in spans:
                down, up = _unfused(down, up, [spans[path][role] for role in part.attention], part.r)
            deltas.setdefault(path, []).append((down, up, part.alpha / part.r))
    handles = [upstream.get_submodule(path).register_forward_hook(_adding(entry)) for path, entry in deltas.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _unfused(down: Tensor, up: Tensor, spans: Sequence[tuple[int, int]], rank: int) -> tuple[Tensor, Tensor]:
    """One A and B over all outputs of a fused projection, of one pair per adapted span, stored one after the other."""
    sizes = [stop - start for start, stop in spans]
    outputs = max(stop for _, stop in spans)
    whole = up.new_zeros(outputs, rank * len(spans))
    for index, ((start, stop), block) in enumerate(zip(spans, up.split(sizes), strict=True)):
        whole[start:stop, index * rank : (index + 1) * rank] = block
    return down, whole


Delta = tuple[Tensor, Tensor, float]  # A (r, in), B (out, r), alpha / r


def _adding(deltas: Sequence[Delta]) -> Callable[..., Tensor]:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        delta = inputs[0]
        for down, up, scale in deltas:
            delta = scale * (delta @ down.T) @ up.T
        return output + nn.functional.pad(delta, (0, output.shape[-1] - delta.shape[-1]))

    return hook
