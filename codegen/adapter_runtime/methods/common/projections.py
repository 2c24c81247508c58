"""The projections of a layer by the roles that they play: where LoRA adapts, and where prefixes read widths."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from torch import nn

from adapter_runtime.contract.protocol import AdaptedLayer
from adapter_runtime.methods.common.groups import Groups, groups_of, groups_with_gates
from adapter_runtime.roles import AttentionRoles


class Projection(NamedTuple):
    """A projection that can be adapted."""

    path: str  # from the layer
    location: str  # "selfattn_lora", "intermediate_lora", "mixer_lora", ...: the option that asks for it
    matrix: str  # "q", "k", "v", "o" in attention, "kv" where one gives both, "qg" where one gives queries and gates, else ""
    fused: AttentionRoles | None  # where the projection gives queries, keys and values
    roles: AttentionRoles | None = None  # of its attention


def projections_of(layer: AdaptedLayer) -> Iterator[Projection]:
    """The projections that a layer has."""
    for roles, _ in layer.adapted_attentions():
        if roles.fused:
            yield Projection(roles.fused, "selfattn_lora", "", roles, roles)
        for matrix, path in _matrices(roles):
            if path:
                yield Projection(path, "selfattn_lora", matrix, None, roles)
    for path in layer.roles.mlp.first:
        yield Projection(path, "intermediate_lora", "", None)
    for path in layer.roles.mlp.gate:
        yield Projection(path, "gate_lora", "", None)
    for path in layer.roles.mlp.last:
        yield Projection(path, "output_lora", "", None)
    for path in layer.roles.mixer.first:
        yield Projection(path, "mixer_lora", "", None)
    for path in layer.roles.mixer.last:
        yield Projection(path, "mixer_output_lora", "", None)


def _matrices(roles: AttentionRoles) -> Iterator[tuple[str, str]]:
    """Which matrix comes out of which projection; of alternatives, a layer has one."""
    for path in (roles.query, *roles.query_alternatives):
        yield ("qg" if path == roles.gate else "q"), path
    if roles.key == roles.value:
        yield "kv", roles.key
    else:
        yield from (("k", roles.key), *(("v", path) for path in (roles.value, *roles.value_beside)))
    yield "o", roles.output


def groups_at(layer: AdaptedLayer, projection: Projection) -> Groups | None:
    """How the outputs of a projection are grouped; None where they are of one matrix, or no order is known.

    Raises:
        UnsupportedMethodError: what states it is missing, or says something else than the projection.
    """
    if projection.matrix == "qg" and projection.roles is not None:
        return groups_with_gates(layer, projection.roles)
    gives_several = projection.fused is not None or projection.matrix == "kv"
    return groups_of(layer, projection.roles) if gives_several and projection.roles is not None else None


def module_of(layer: AdaptedLayer, path: str) -> nn.Module:
    """The module at a path from a layer, which must be there."""
    module = layer.module_at(path)
    assert module is not None, path
    return module
