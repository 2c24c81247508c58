"""Layers that do not read the text compute the same whichever of its places are padded.

Images could be taken for the text only where they have as many positions as it has tokens: so the text is made as long.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from conformance.adapted import FIRST, adapted, adapter_parameters, initialised
from conformance.methods import Method
from conformance.outputs import assert_bitwise, assert_differs, run
from conformance.reasons import DoesNotApply, Reason
from conformance.reference.layout import layout_of
from conformance.subjects import Subject, random_tokens

PADDED = 2  # places at the front of each row but the first


def padding_of_the_text_stays_there(subject: Subject, method: Method) -> None:
    """Bitwise, of each layer that upstream's own class shows not to read the text."""
    beside = layers_beside_the_text(subject)
    if not beside:
        raise DoesNotApply(Reason.NO_EQUAL_LENGTHS)
    model = adapted(subject, method)
    with_tensors = [layer for layer in beside if any(f"{layer}." in name for name in adapter_parameters(model, FIRST))]
    for length in sorted(set(beside.values())):
        unpadded, padded, _ = _texts(subject, length)
        expected, found = (_given_by(model, beside, inputs) for inputs in (unpadded, padded))
        assert_bitwise(found, expected, f"with padding in a text of {length} tokens")
        if with_tensors:
            assert_differs(expected, _given_by(subject.upstream(), beside, unpadded), "the adapter")


@functools.cache
def layers_beside_the_text(subject: Subject) -> Mapping[str, int]:
    """Layers that do not read the text -> how many positions they have, where upstream's own class takes a text as long."""
    inputs, upstream = subject.padded_inputs(), subject.upstream()
    tokens = inputs.get("input_ids")
    if subject.text or tokens is None or tokens.dim() != 2:
        return {}
    layers = [layer.path for layer in layout_of(initialised(subject)).layers]
    lengths = {
        layer: hidden.shape[1] for layer, hidden in _given_by(upstream, layers, inputs).items() if hidden.dim() == 3
    }
    return {
        layer: length
        for layer, length in lengths.items()
        if length >= tokens.shape[1] and layer in _not_moved_by_the_text(subject, length)
    }


@functools.cache
def _not_moved_by_the_text(subject: Subject, length: int) -> frozenset[str]:
    """Layers that give the same whatever stands in a text of `length` tokens, and where it is padded; none where upstream takes none."""
    layers = [layer.path for layer in layout_of(initialised(subject)).layers]
    try:
        first, *others = (_given_by(subject.upstream(), layers, inputs) for inputs in _texts(subject, length))
    except Exception:  # whatever upstream raises: other arguments count its tokens, or its table of positions ends
        return frozenset()
    return frozenset(
        layer
        for layer, hidden in first.items()
        if hidden.shape[1] == length and all(torch.equal(hidden, other[layer]) for other in others if layer in other)
    )


def _texts(subject: Subject, length: int) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Inputs with `length` tokens: all real, some padded, and others. What stands for an image among them stays."""
    inputs = subject.padded_inputs()
    tokens = inputs["input_ids"]
    missing = length - tokens.shape[1]
    longer, other = (
        torch.cat([random_tokens(subject.config(), PADDED + missing, seed)[:, :missing], tokens], dim=1)
        for seed in (9, 10)
    )
    if not missing:
        other = random_tokens(subject.config(), length, seed=10)
    mask = torch.ones_like(longer)
    padded = mask.clone()
    padded[1:, :PADDED] = 0
    given = ((longer, mask), (longer, padded), (other, mask))
    unpadded, some, others = ({**inputs, "input_ids": ids, "attention_mask": one} for ids, one in given)
    return unpadded, some, others


def _given_by(model: nn.Module, layers: Any, inputs: Mapping[str, Any]) -> dict[str, Tensor]:
    """What those of the layers give that run in a forward."""
    found: dict[str, Tensor] = {}

    def see(path: str, module: nn.Module, args: Any, output: Any) -> None:
        hidden = output[0] if isinstance(output, (tuple, list)) else output
        if isinstance(hidden, Tensor):
            found[path] = hidden.clone()

    handles = [model.get_submodule(path).register_forward_hook(functools.partial(see, path)) for path in layers]
    try:
        run(model, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return found
