"""LoRA by forward hooks on upstream's projections: y + alpha / r * B A x (https://arxiv.org/abs/2106.09685)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

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
    upstream: nn.Module, layout: Layout, part: LoRA, name: str, weights: Mapping[str, Tensor]
) -> Iterator[None]:
    """The projections of `upstream` give their output plus the delta of adapter `name`."""
    handles = []
    for path in lora_targets(layout, part):
        down, up = (weights[f"{path}.loras.{name}.{letter}"] for letter in ("lora_A", "lora_B"))
        handles.append(upstream.get_submodule(path).register_forward_hook(_delta(down, up, part.alpha / part.r)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _delta(down: Tensor, up: Tensor, scale: float):  # type: ignore[no-untyped-def]
    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output + scale * (inputs[0] @ down.T) @ up.T  # (r, in) and (out, r)

    return hook
