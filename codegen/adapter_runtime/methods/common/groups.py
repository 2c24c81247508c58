"""Projections whose outputs come in groups: in each group some of the queries, then some of the keys, then some of the values.

Adapters act on spans of outputs. So they are shown the outputs *in order*: all queries, all keys, all values.
Letters: G groups, P output features.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from adapter_runtime.contract.protocol import AdaptedLayer
from adapter_runtime.contract.widths import out_width
from adapter_runtime.errors import UnsupportedMethodError
from adapter_runtime.roles import AttentionRoles


@dataclass(frozen=True)
class Groups:
    """How the outputs of one projection are grouped."""

    count: int  # G
    sizes: tuple[int, ...]  # of the parts in a group

    @property
    def spans(self) -> list[tuple[int, int]]:
        """Where each part stands in the outputs in order."""
        stops = [self.count * sum(self.sizes[: index + 1]) for index in range(len(self.sizes))]
        return list(zip([0, *stops], stops, strict=False))

    def in_order(self, outputs: torch.Tensor, dim: int = -1) -> torch.Tensor:
        """`outputs` [..., P, ...], of which dimension `dim` is grouped, with the parts one after the other there."""
        dim %= outputs.dim()
        heads = outputs.reshape(*outputs.shape[:dim], self.count, sum(self.sizes), *outputs.shape[dim + 1 :])
        parts = torch.split(heads, list(self.sizes), dim=dim + 1)
        return torch.cat([part.flatten(dim, dim + 1) for part in parts], dim=dim)

    def grouped(self, ordered: torch.Tensor, dim: int = -1) -> torch.Tensor:
        """What `in_order` made `ordered` [..., P, ...] of."""
        dim %= ordered.dim()
        parts = torch.split(ordered, [self.count * size for size in self.sizes], dim=dim)
        before, behind = ordered.shape[:dim], ordered.shape[dim + 1 :]
        heads = [
            part.reshape(*before, self.count, size, *behind) for part, size in zip(parts, self.sizes, strict=True)
        ]
        return torch.cat(heads, dim=dim + 1).flatten(dim, dim + 1)


def groups_of(layer: AdaptedLayer, roles: AttentionRoles) -> Groups | None:
    """The groups of the projection that gives several matrices; None where its outputs are in order, or no order is known.

    Raises:
        UnsupportedMethodError: the attributes that state them are missing, or say something else than the projection.
    """
    if not roles.group:
        return None
    core, projection = layer.module_at(roles.core), layer.module_at(roles.fused or roles.key)
    assert core is not None and projection is not None
    sizes = [_attribute(core, path) for path in roles.group]
    known = [size for size in sizes if isinstance(size, int) and size > 0]
    width = out_width(projection)
    if len(known) != len(sizes) or width % sum(known):
        stated = ", ".join(f"{path} = {size!r}" for path, size in zip(roles.group, sizes, strict=True))
        raise UnsupportedMethodError(
            f"{roles.fused or roles.key} has {width} outputs, which are no groups of {stated}. Choose other places:"
            " selfattn_lora=False, or attn_matrices=['o']."
        )
    return Groups(width // sum(known), tuple(known))


def _attribute(core: object, path: str) -> object:
    """``head_dim``, or ``config.head_dim``."""
    for name in path.split("."):
        core = getattr(core, name, None)
    return core
