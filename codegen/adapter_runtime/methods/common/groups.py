"""The order in which a projection gives several of queries, keys, values and gates: in each group of its outputs, part after part.

Adapters act on spans of outputs. So they are shown the outputs *in order*: all queries, all keys, all values, all gates.
Letters: G groups, P output features.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from adapter_runtime.contract.protocol import AdaptedLayer
from adapter_runtime.contract.widths import in_width, out_width
from adapter_runtime.errors import UnsupportedMethodError
from adapter_runtime.roles import AttentionRoles, OutputOrder

_IN_ORDER = "qkvg"
_OPERATIONS: Mapping[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
}


@dataclass(frozen=True)
class Groups:
    """How the outputs of one projection are grouped."""

    count: int  # G
    sizes: Mapping[str, int]  # how many outputs of a group are "q", "k", "v", "g": as they stand there

    @property
    def spans(self) -> dict[str, tuple[int, int]]:
        """Where each part stands in the outputs in order."""
        found, start = {}, 0
        for part in self._in_order:
            found[part] = (start, start + self.count * self.sizes[part])
            start = found[part][1]
        return found

    def in_order(self, outputs: torch.Tensor, dim: int = -1) -> torch.Tensor:
        """`outputs` [..., P, ...], of which dimension `dim` is grouped, with the parts one after the other there."""
        if self._are_in_order:
            return outputs
        dim %= outputs.dim()
        groups = outputs.reshape(*outputs.shape[:dim], self.count, -1, *outputs.shape[dim + 1 :])
        parts = dict(zip(self.sizes, torch.split(groups, list(self.sizes.values()), dim=dim + 1), strict=True))
        return torch.cat([parts[part].flatten(dim, dim + 1) for part in self._in_order], dim=dim)

    def grouped(self, ordered: torch.Tensor, dim: int = -1) -> torch.Tensor:
        """What `in_order` made `ordered` [..., P, ...] of."""
        if self._are_in_order:
            return ordered
        dim %= ordered.dim()
        before, behind = ordered.shape[:dim], ordered.shape[dim + 1 :]
        parts = {
            part: ordered.narrow(dim, start, stop - start).reshape(*before, self.count, self.sizes[part], *behind)
            for part, (start, stop) in self.spans.items()
        }
        return torch.cat([parts[part] for part in self.sizes], dim=dim + 1).flatten(dim, dim + 1)

    @property
    def _in_order(self) -> list[str]:
        return sorted(self.sizes, key=_IN_ORDER.index)

    @property
    def _are_in_order(self) -> bool:
        return self.count == 1 and list(self.sizes) == self._in_order


def groups_of(layer: AdaptedLayer, roles: AttentionRoles) -> Groups | None:
    """How the projection that gives keys and values, and maybe queries, groups its outputs; None where no order is known.

    Raises:
        UnsupportedMethodError: what states it is missing, or says something else than the projection.
    """
    return _groups(layer, roles, roles.fused or roles.key, roles.orders)


def groups_with_gates(layer: AdaptedLayer, roles: AttentionRoles) -> Groups | None:
    """The same of the projection that gives queries and gates. Raises what `groups_of` raises."""
    return _groups(layer, roles, roles.gate, roles.gate_orders)


def _groups(layer: AdaptedLayer, roles: AttentionRoles, path: str, orders: Sequence[OutputOrder]) -> Groups | None:
    core, projection = layer.module_at(roles.core), layer.module_at(path)
    if not orders or projection is None:
        return None
    assert core is not None
    order = next((order for order in orders if _holds(order, core)), None)
    if order is None:
        raise _refusal(f"The order in which {path} gives its outputs is not known for this {type(core).__name__}")
    after = layer.module_at(roles.output) if roles.output else None
    names = {"outputs": out_width(projection)} | ({"attended": in_width(after)} if after is not None else {})
    sizes = [evaluated(size, names, core) for size in order.sizes]
    known = [size for size in sizes if size is not None and size > 0]
    group = evaluated(order.group or "outputs", names, core)
    if len(known) != len(sizes) or group != sum(known) or names["outputs"] % group:
        stated = ", ".join(f"{text} = {size!r}" for text, size in zip(order.sizes, sizes, strict=True))
        raise _refusal(
            f"{path} has {names['outputs']} outputs, which are no groups of {stated} ({order.group or 'outputs'} = {group!r})"
        )
    return Groups(names["outputs"] // group, dict(zip(order.parts, known, strict=True)))


def _refusal(what: str) -> UnsupportedMethodError:
    return UnsupportedMethodError(f"{what}. Choose other places: selfattn_lora=False, or attn_matrices=['o'].")


def _holds(order: OutputOrder, core: nn.Module) -> bool:
    return all(getattr(core, name, None) for name in order.where) and not any(
        getattr(core, name, True) for name in order.unless
    )


def evaluated(expression: str, names: Mapping[str, int], module: nn.Module) -> int | None:
    """The value of a size that a role states; None where an attribute of `module` is missing or no whole number."""

    def value(node: ast.expr) -> int | None:
        if isinstance(node, ast.BinOp):
            left, right = value(node.left), value(node.right)
            divides_by_nothing = isinstance(node.op, ast.FloorDiv) and not right
            if left is None or right is None or divides_by_nothing:
                return None
            return _OPERATIONS[type(node.op)](left, right)
        if isinstance(node, ast.Constant):
            found: object = node.value
        else:
            path = ast.unparse(node)
            found = names[path] if path in names else _attribute(module, path)
        return found if isinstance(found, int) else None

    return value(ast.parse(expression, mode="eval").body)


def _attribute(module: object, path: str) -> object:
    """``head_dim``, or ``config.head_dim``."""
    for name in path.split("."):
        module = getattr(module, name, None)
    return module
