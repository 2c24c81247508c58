"""What all adapters of one projection have in common: the places they act on, their gate, their way into the weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from adapter_runtime.call.context import Place, record_gate
from adapter_runtime.errors import UnsupportedMethodError
from adapter_runtime.methods.gates import mean_gate
from adapter_runtime.methods.lora.config import LoRAConfig


class AdaptedProjection(Protocol):
    """What adapters may ask of the projection that they are in: see `LoRALayer`."""

    @property
    def bias(self) -> torch.Tensor | None: ...

    def own_weight(self, without_merged: bool = False) -> torch.Tensor: ...


Parts = Sequence[tuple[int, int]]  # spans of output features that are adapted, in order; a plain projection has one


@dataclass(frozen=True)
class Site:
    """What an adapter must know about its projection.

    Letters: I input features, P output features of the projection, O those of them that are adapted, n number of parts.
    """

    projection: AdaptedProjection
    in_features: int  # I
    out_features: int  # P
    parts: Parts

    @property
    def sizes(self) -> list[int]:
        """Output features per part."""
        return [stop - start for start, stop in self.parts]

    @property
    def is_whole(self) -> bool:
        """Whether one part is all of the output."""
        return list(self.parts) == [(0, self.out_features)]


class ProjectionAdapter(nn.Module):
    """Base of what adapts one projection.

    Letters: those of `Site`; r rank.
    """

    has_own_type = (
        True  # the layer decides it, and not the model: the config may ask for another one than the model has
    )
    place = Place("", -1, "")

    def __init__(self, config: LoRAConfig, site: Site) -> None:
        super().__init__()
        self.config = config
        self.parts = list(site.parts)
        self.sizes = site.sizes
        self.in_features, self.out_features = site.in_features, site.out_features
        self.is_whole = site.is_whole
        self.scaling = config.alpha / config.r
        self.gate = nn.Linear(site.in_features, len(self.parts)) if config.use_gating else None
        if self.gate is not None:
            nn.init.normal_(self.gate.weight, std=0.02)
            nn.init.zeros_(self.gate.bias)

    def forward(self, x: torch.Tensor, output: torch.Tensor, source: torch.Tensor | None = None) -> torch.Tensor:
        """The adapted output.

        Args:
            x: [..., I], what the adapter transforms: the input of the projection, or in a stack the update before.
            output: [..., P], what the projection made of its input.
            source: [..., I], the input of the projection where it is not `x`.
        """
        raise NotImplementedError

    def extra_repr(self) -> str:
        return f"r={self.config.r}, alpha={self.config.alpha}"

    def merged(self, weight: torch.Tensor, bias: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The weight [P, I] and bias [P] with which the bare projection gives the adapted output.

        Raises:
            UnsupportedMethodError: the output depends on the input in another way.
        """
        raise NotImplementedError

    def gates(self, source: torch.Tensor) -> list[torch.Tensor]:
        """One [B, 1, 1] per part, from the input [B, L, I] of the projection."""
        assert self.gate is not None
        if source.dim() < 3:
            raise UnsupportedMethodError(
                f"A gate is the mean over a sequence, but {self.place.location} of layer {self.place.layer} gets all tokens"
                " of a batch in one row. Use use_gating=False, or leave the place out."
            )
        gate = mean_gate(self.gate(source.to(self.gate.weight.dtype)))
        record_gate(self.place, gate)
        return [gate] if len(self.parts) == 1 else list(torch.split(gate, 1, dim=-1))

    def refuse_to_merge_gates(self) -> None:
        if self.gate is not None:
            raise UnsupportedMethodError("An adapter with a gate depends on the input and cannot be merged.")


def in_parts(output: torch.Tensor, parts: Parts, values: Sequence[torch.Tensor]) -> torch.Tensor:
    """`output` [..., P] with `values` [..., O_i] in the spans `parts`."""
    pieces, position = [], 0
    for (start, stop), value in zip(parts, values, strict=True):
        pieces += [output[..., position:start], value]
        position = stop
    return torch.cat([*pieces, output[..., position:]], dim=-1)


def spans_of(output: torch.Tensor, parts: Parts) -> Iterator[torch.Tensor]:
    """The spans [..., O_i] of the adapted features."""
    return (output[..., start:stop] for start, stop in parts)
