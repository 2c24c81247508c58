"""A sound gives the same by itself and in a batch in which it is padded.

A mask of samples or frames has another length than what the layers see of them. So other values in padded places would not do
here: where padding is taken for the end of a sound, they change nothing in front of it.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from conformance.adapted import adapted, initialised
from conformance.methods import Method, Prompt, ReFT
from conformance.outputs import are_close, assert_differs, assert_equal_within, run
from conformance.reasons import DoesNotApply, Reason
from conformance.reference.layout import layout_of
from conformance.subjects import Subject, model_class, takes

MASKS = ("attention_mask", "input_features_mask")  # arguments that say where a sound ends
ROW = 1  # the one that is shorter
CUTS = (
    2,
    4,
)  # one part of so many is padding: a model makes one position of so many samples, and more where it pools them


def padded_sounds_are_as_alone(subject: Subject, method: Method) -> None:
    """Edits stand at the same positions of a row, and all that is given at these is the same."""
    alone, padded = sounds(subject, *cut_of(subject))
    model, upstream = adapted(subject, method), subject.upstream()
    edits_positions = any(isinstance(part, ReFT) for part in method.parts) and not method.has(Prompt)
    if edits_positions:
        path = _first_layer(subject)
        here, there = (_moved(model, upstream, path, inputs, row) for inputs, row in ((alone, 0), (padded, ROW)))
        if here != there and _attends_behind(subject, alone, padded):
            raise DoesNotApply(
                Reason.UPSTREAM_SEES_PADDING
            )  # it counts more of them as real than it makes of the sound by itself
        if not here or here != there:
            raise AssertionError(f"a sound is edited at {here} of {path} by itself, and at {there} where it is padded")
    if not are_close(*_at_sound(upstream, alone, padded), atol=1e-6, rtol=1e-5):
        if edits_positions:
            return  # the edits stand where they must, and with other values around them
        raise DoesNotApply(Reason.UPSTREAM_SEES_PADDING)
    ours, beside = _at_sound(model, alone, padded)
    assert_equal_within(beside, ours, "a sound in a batch in which it is padded")
    assert_differs(ours, run(upstream, alone), "the adapter")


@functools.lru_cache(maxsize=64)
def cut_of(subject: Subject) -> tuple[int, int]:
    """The dimension of a sound that the mask of a model counts, and one of `CUTS`, as upstream's own class runs.

    Two zeros where it has no such mask, reads tokens too, or makes as many positions of a shorter sound.
    """
    inputs = subject.padded_inputs()
    sound = _sound(subject, inputs)
    if sound is None or not _mask_name(subject) or "input_ids" in inputs:
        return 0, 0
    for axis, cut in itertools.product(range(1, sound.dim()), CUTS):
        try:
            alone, padded = (
                _given_by(subject.upstream(), _first_layer(subject), given).shape[1]
                for given in sounds(subject, axis, cut)
            )
        except Exception:  # whatever upstream raises: a mask of another length, nothing left to pool
            continue
        if alone < padded:
            return axis, cut
    return 0, 0


def sounds(subject: Subject, axis: int, cut: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Inputs with the start of one sound by itself, and with all sounds, of which that one is padded with zeros behind it."""
    inputs, name = subject.padded_inputs(), model_class(subject.architecture).main_input_name
    sound, mask_name = inputs[name], _mask_name(subject)
    length = sound.shape[axis] - max(1, sound.shape[axis] // cut)
    mask = torch.ones(len(sound), sound.shape[axis], dtype=torch.long)
    mask[ROW, length:] = 0
    kept = mask.view(len(sound), *(-1 if one == axis else 1 for one in range(1, sound.dim())))
    alone = {key: value[ROW : ROW + 1] if isinstance(value, Tensor) else value for key, value in inputs.items()}
    alone |= {name: alone[name].narrow(axis, 0, length), mask_name: mask[ROW : ROW + 1, :length]}
    return alone, {**inputs, name: sound * kept, mask_name: mask}


def _sound(subject: Subject, inputs: Mapping[str, Any]) -> Tensor | None:
    name = model_class(subject.architecture).main_input_name
    sound = inputs.get(name) if isinstance(name, str) and name in ("input_values", "input_features") else None
    return sound if isinstance(sound, Tensor) and sound.dim() in (2, 3) else None


def _mask_name(subject: Subject) -> str:
    return next((name for name in MASKS if takes(subject, name)), "")


@functools.lru_cache(maxsize=64)
def _first_layer(subject: Subject) -> str:
    """The path of the layer that runs first."""
    ran: list[str] = []
    upstream = subject.upstream()
    for layer in layout_of(initialised(subject)).layers:
        upstream.get_submodule(layer.path).register_forward_hook(lambda *_, path=layer.path: ran.append(path))
    run(upstream, subject.padded_inputs())
    return ran[0]


def _moved(model: nn.Module, upstream: nn.Module, path: str, inputs: Mapping[str, Any], row: int) -> list[int]:
    """The positions of a row that an adapter changes in what its first layer gives."""
    ours, theirs = (_given_by(one, path, inputs)[row] for one in (model, upstream))
    return [place for place, (one, other) in enumerate(zip(ours, theirs, strict=True)) if not torch.equal(one, other)]


def _attends_behind(subject: Subject, alone: Mapping[str, Any], padded: Mapping[str, Any]) -> bool:
    """Whether, in upstream's own class, what stands behind a sound changes what its first layer gives in front of it."""
    path, upstream = _first_layer(subject), subject.upstream()
    length = _given_by(upstream, path, alone).shape[1]
    before = _given_by(upstream, path, padded)[ROW, :length]
    layer = upstream.get_submodule(path)
    handle = layer.register_forward_pre_hook(functools.partial(_disturbed, length), with_kwargs=True)
    try:
        return not torch.equal(_given_by(upstream, path, padded)[ROW, :length], before)
    finally:
        handle.remove()


def _disturbed(length: int, layer: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Arguments with other hidden states behind the first `length` positions of the row."""
    name = None if args else next(iter(kwargs))
    hidden = (args[0] if args else kwargs[name]).clone()
    hidden[ROW, length:] += torch.linspace(1.0, 2.0, hidden.shape[-1])
    return ((hidden, *args[1:]), kwargs) if args else ((), {**kwargs, name: hidden})


def _given_by(model: nn.Module, path: str, inputs: Mapping[str, Any]) -> Tensor:
    """What a layer gives."""
    found: list[Tensor] = []

    def see(module: nn.Module, args: Any, output: Any) -> None:
        found.append((output[0] if isinstance(output, (tuple, list)) else output).clone())

    handle = model.get_submodule(path).register_forward_hook(see)
    try:
        run(model, inputs)
    finally:
        handle.remove()
    return found[0]


def _at_sound(model: nn.Module, alone: Any, padded: Any) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """All outputs for a sound by itself, and for that sound among others, without what belongs to its padding."""
    ours, others = run(model, alone), run(model, padded)
    names = [name for name, value in ours.items() if value.dim() and value.shape[0] == 1 and name in others]
    beside = {name: _corner(others[name][ROW : ROW + 1], ours[name].shape) for name in names}
    return {name: ours[name] for name in names}, beside


def _corner(value: Tensor, shape: torch.Size) -> Tensor:
    return value[tuple(slice(length) for length in shape)]
