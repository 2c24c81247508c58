"""What all adapters of one projection have in common: the places they act on, their gate, their way into the weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import nn

from adapter_runtime.call.context import Place, record_gate
from adapter_runtime.errors import UnsupportedMethodError
from adapter_runtime.methods.common.gates import mean_gate, refuse_without_sequence
from adapter_runtime.methods.lora.config import LoRAConfig


class AdaptedProjection(Protocol):
    """What adapters may ask of the projection that they are in: see `LoRALayer`."""

    def own_bias(self) -> torch.Tensor | None: ...

    def own_weight(self, without_merged: bool = False) -> torch.Tensor: ...


Parts = Sequence[tuple[int, int]]  # spans of output features that are adapted, in order; a plain projection has one


NOWHERE = Place("", -1, "")


@dataclass(frozen=True)
class ProjectionSite:
    """What an adapter must know about its projection.

    Letters: I input features, P output features of the projection, O those of them that are adapted, n number of parts.
    """

    projection: AdaptedProjection
    in_features: int  # I
    out_features: int  # P
    parts: Parts
    place: Place = NOWHERE  # which adapter is made, and where

    @property
    def sizes(self) -> list[int]:
        """Output features per part."""
        return [stop - start for start, stop in self.parts]

    @property
    def is_whole(self) -> bool:
        """Whether one part is all of the output."""
        return list(self.parts) == [(0, self.out_features)]

    def frozen_weights(self) -> list[torch.Tensor]:
        """The weight [O_i, I] of each part, as it is without any adapter, whichever way it is stored.

        Raises:
            UnsupportedMethodError: it is quantised, so that it cannot be read.
        """
        weight = self.projection.own_weight(without_merged=True).detach()
        if not weight.dtype.is_floating_point or weight.dim() != 2:
            raise UnsupportedMethodError(
                f"This adapter reads the weight of its projection, which is of type {weight.dtype} and not in floating point."
                " Use lora."
            )
        return [weight[start:stop] for start, stop in self.parts]


class ProjectionAdapter(nn.Module):
    """Base of what adapts one projection.

    Letters: those of `ProjectionSite`; r rank.

    Attributes:
        config: the options.
        site: the projection.
        place: which adapter this is, and where.
        parts, sizes, is_whole, in_features, out_features: those of the `ProjectionSite`.
        scaling: alpha / r.
        gate: one value per part that takes the place of the scaling, read from the input; None = there is no gate.
    """

    has_own_type = (
        True  # the layer decides it, and not the model: the config may ask for another one than the model has
    )
    scales: ClassVar[bool] = (
        False  # whether it multiplies the output, where others add to it: a stack cannot hold both kinds
    )

    def __init__(self, config: LoRAConfig, site: ProjectionSite) -> None:
        super().__init__()
        self.config = config
        self.site = site
        self.place = site.place
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
        raise NotImplementedError(f"{type(self).__name__} has no forward(x, output, source).")

    def extra_repr(self) -> str:
        return f"r={self.config.r}, alpha={self.config.alpha}"

    def merged(self, weight: torch.Tensor, bias: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The weight [P, I] and bias [P] with which the bare projection gives the adapted output.

        Raises:
            UnsupportedMethodError: the output depends on the input in another way.
        """
        raise NotImplementedError(f"{type(self).__name__} has no merged(weight, bias).")

    def gates(self, source: torch.Tensor) -> list[torch.Tensor]:
        """One gate [B, 1, 1] per part, from the input [B, L, I] of the projection.

        Raises:
            UnsupportedMethodError: the input has no dimension for the sequence.
        """
        assert self.gate is not None
        refuse_without_sequence(source, self.place)
        gate = mean_gate(self.gate(source.to(self.gate.weight.dtype)))
        record_gate(self.place, gate)
        return [gate] if len(self.parts) == 1 else list(torch.split(gate, 1, dim=-1))

    def refuse_to_merge_gates(self) -> None:
        if self.gate is not None:
            raise UnsupportedMethodError("An adapter with a gate depends on the input and cannot be merged.")

    def refuse_in_stack(self) -> None:
        """Raise where the adapter cannot stand in a stack: what it makes of an update must be an update.

        Raises:
            UnsupportedMethodError: it cannot.
        """
        if self.in_features != self.out_features:
            raise UnsupportedMethodError(
                f"In a Stack, a {type(self).__name__} adapter reads the update of the one before it, so the projection must have as many "
                f"inputs as outputs, not {self.in_features} and {self.out_features} ({self.place.location} of layer"
                f" {self.place.layer})."
            )


class WeightUpdate(ProjectionAdapter):
    """Base of what adds to the weight: ``W x + s D x``, with s = alpha / r or a gate, and D given by `matrices`."""

    def __init__(self, config: LoRAConfig, site: ProjectionSite) -> None:
        super().__init__(config, site)
        if self.gate is not None:
            self.scaling = 1.0  # the gate takes its place

    def matrices(self) -> list[torch.Tensor]:
        """D of each part: [O_i, I]."""
        raise NotImplementedError(f"{type(self).__name__} has no matrices(), which give what is added to the weight.")

    def deltas(self) -> list[torch.Tensor]:
        """What is added to the rows [O_i, I] of the weight, per part, in a precision of at least fp32."""
        return [exact(matrix) * self.scaling for matrix in self.matrices()]

    def forward(self, x: torch.Tensor, output: torch.Tensor, source: torch.Tensor | None = None) -> torch.Tensor:
        dropped = self.dropped(x)
        updates = [nn.functional.linear(dropped.to(matrix.dtype), matrix) for matrix in self.matrices()]
        return self.added(output, self.scaled(updates, x if source is None else source))

    def dropped(self, x: torch.Tensor) -> torch.Tensor:
        """The input [..., I] with the dropout of the config, in training."""
        if self.training and self.config.dropout > 0.0:
            return nn.functional.dropout(x, self.config.dropout)
        return x

    def scaled(self, updates: list[torch.Tensor], source: torch.Tensor) -> list[torch.Tensor]:
        """The updates [..., O_i] of each part times s, or times gates that read `source` [B, L, I]."""
        if self.gate is None:
            return updates if self.scaling == 1.0 else [update * self.scaling for update in updates]
        return [update * gate for update, gate in zip(updates, self.gates(source), strict=True)]

    def added(self, output: torch.Tensor, updates: list[torch.Tensor]) -> torch.Tensor:
        """`output` [..., P] and the updates [..., O_i] in the spans of the parts."""
        if self.is_whole:
            return output + updates[0].to(output.dtype)
        spans = spans_of(output, self.parts)
        return in_parts(
            output, self.parts, [span + update.to(output.dtype) for span, update in zip(spans, updates, strict=True)]
        )

    def merged(self, weight: torch.Tensor, bias: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        self.refuse_to_merge_gates()
        merged = exact(weight).clone()
        for (start, stop), delta in zip(self.parts, self.deltas(), strict=True):
            merged[start:stop] += delta
        return merged.to(weight.dtype), bias


def in_parts(output: torch.Tensor, parts: Parts, values: Sequence[torch.Tensor]) -> torch.Tensor:
    """`output` [..., P] with `values` [..., O_i] in place of the features in `parts`."""
    pieces, position = [], 0
    for (start, stop), value in zip(parts, values, strict=True):
        pieces += [output[..., position:start], value]
        position = stop
    return torch.cat([*pieces, output[..., position:]], dim=-1)


def spans_of(output: torch.Tensor, parts: Parts) -> Iterator[torch.Tensor]:
    """The spans [..., O_i] of the adapted features."""
    return (output[..., start:stop] for start, stop in parts)


def exact(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor [...] in a precision of at least fp32."""
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()
