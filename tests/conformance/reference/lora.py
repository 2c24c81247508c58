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
            if attention.fused:
                raise NotImplementedError("the reference has no LoRA on a fused projection yet")
            paths += [getattr(attention, role) for role in part.attention]
        if part.mlp_first:
            paths += layer.mlp_first
        if part.mlp_last:
            paths += layer.mlp_last
    return tuple(path for path in paths if path)


@contextlib.contextmanager
def lora_applied(
    upstream: nn.Module, layout: Layout, adapters: Sequence[tuple[str, LoRA]], weights: Mapping[str, Tensor]
) -> Iterator[None]:
    """The projections of `upstream` give their output plus the delta of `adapters`.

    As in `adapters` 1.3.0, an adapter in a stack reads the delta of the one before it, not the input.
    """
    deltas: dict[str, list[Delta]] = {}
    for name, part in adapters:
        for path in lora_targets(layout, part):
            down, up = (weights[f"{path}.loras.{name}.{letter}"] for letter in ("lora_A", "lora_B"))
            deltas.setdefault(path, []).append((down, up, part.alpha / part.r))
    handles = [upstream.get_submodule(path).register_forward_hook(_adding(entry)) for path, entry in deltas.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


Delta = tuple[Tensor, Tensor, float]  # A (r, in), B (out, r), alpha / r


def _adding(deltas: Sequence[Delta]) -> Callable[..., Tensor]:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        delta = inputs[0]
        for down, up, scale in deltas:
            delta = scale * (delta @ down.T) @ up.T
        return output + delta

    return hook
