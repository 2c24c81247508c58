"""Edits of ReFT that no loss can train, as upstream's own class shows: it reads none of the positions at which they stand.

A model that pools one token reads no other one of its last layer. What stands there is mostly still seen in the hidden states that a
forward returns, so that an edit which is missing or misplaced is found; but no gradient reaches its tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from conformance.methods import ReFT
from conformance.outputs import all_outputs, flags, fresh, loss_of, main_outputs, seeded
from conformance.reference.layout import Layout
from conformance.reference.reft import edited_positions, mask_of, real_positions, reft_names, remember_inputs
from conformance.subjects import Subject


@dataclass(frozen=True)
class Unread:
    """Names of tensors of an adapter."""

    untrained: frozenset[str] = frozenset()  # on which no main output depends
    unseen: frozenset[str] = frozenset()  # on which nothing depends that a forward returns

    def __or__(self, other: Unread) -> Unread:
        return Unread(self.untrained | other.untrained, self.unseen | other.unseen)


def unread_edits(subject: Subject, layout: Layout, part: ReFT, name: str, inputs: Mapping[str, Any]) -> Unread:
    """Of units at whose positions the gradient of upstream's outputs is exactly zero.

    Only of layers that ran and to which a gradient comes at other positions: what is not read at all is another case.
    """
    untrained = _unread_by(main_outputs, subject, layout, part, name, inputs)
    if not untrained:
        return Unread()
    return Unread(frozenset(untrained), frozenset(_unread_by(all_outputs, subject, layout, part, name, inputs)))


def _unread_by(
    read: Callable[[Any], dict[str, Tensor]],
    subject: Subject,
    layout: Layout,
    part: ReFT,
    name: str,
    inputs: Mapping[str, Any],
) -> set[str]:
    upstream = subject.upstream()
    gradients, given = _gradients_at_layers(upstream, layout, inputs, read)
    unread: set[str] = set()
    for layer in layout.layers:
        mask = mask_of(upstream, layout, layer, given)
        found = gradients.get(layer.path, [])
        if not any(bool(gradient.any()) for gradient in found):
            continue
        for unit in range(2):
            if not any(_reads(gradient, part, unit, mask, layer.form) for gradient in found):
                start = f"{layer.path}.reft_layer.refts.{name}.units.{unit}."
                unread |= {key for key in reft_names(layout, part, name) if key.startswith(start)}
    return unread


def _gradients_at_layers(
    upstream: nn.Module, layout: Layout, inputs: Mapping[str, Any], read: Callable[[Any], dict[str, Tensor]]
) -> tuple[dict[str, list[Tensor]], dict[str, dict[str, Any]]]:
    """Gradients (B, L, H) of what each layer gives, one per call of it; and what each part was given."""
    upstream.requires_grad_(True)
    gradients: dict[str, list[Tensor]] = {}
    given, handles = remember_inputs(upstream, layout)

    def keep(path: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            hidden = output[0] if isinstance(output, (tuple, list)) else output
            if isinstance(hidden, Tensor) and hidden.dim() == 3 and hidden.requires_grad:
                hidden.register_hook(gradients.setdefault(path, []).append)

        return hook

    for layer in layout.layers:
        handles.append(upstream.get_submodule(layer.path).register_forward_hook(keep(layer.path), prepend=True))
    with seeded(5):
        outputs = upstream(**fresh(inputs), **flags(upstream))
    for handle in handles:
        handle.remove()
    loss_of(outputs, read).backward()
    return gradients, given


def _reads(gradient: Tensor, part: ReFT, unit: int, mask: Tensor | None, form: str) -> bool:
    """A position that the unit edits matters for the outputs of some row. Layers may see more positions than the mask has."""
    if mask is not None and (mask.dim() != 2 or (mask.shape != gradient.shape[:2] and form != "followed")):
        mask = None
    for index, row in enumerate(gradient):
        positions = edited_positions(part, real_positions(mask, index, len(row)))[unit]
        if bool(row[positions].any()):
            return True
    return False
