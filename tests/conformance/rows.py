"""What in upstream's outputs belongs to which row of a batch, and what to none.

A row has one entry along the first axis, or as many as every other row (pieces of an image), or entries of a list, one behind the other's.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from conformance.adapted import initialised
from conformance.outputs import are_close, changed, flatten, run
from conformance.reasons import DoesNotApply, Reason
from conformance.reference.layout import layout_of
from conformance.subjects import BATCH, Subject

FEW = 2  # rows
TURNS = range(1, 6)  # of weights, that make others of them


def run_by_rows(subject: Subject, model: nn.Module, inputs: Mapping[str, Any]) -> dict[str, Tensor]:
    """Outputs of a forward, of each list with entries of rows one tensor: [numbers of all entries]."""
    return _joined(run(model, inputs), lists_of_rows(subject))


def _asked(subject: Subject, inputs: Mapping[str, Any], seed: int = 5) -> dict[str, Tensor]:
    """What upstream's model gives."""
    return _joined(run(subject.upstream(), inputs, seed=seed), lists_of_rows(subject))


@functools.cache
def lists_of_rows(subject: Subject) -> frozenset[str]:
    """Lists in upstream's outputs that have twice as many entries where the batch stands behind itself: of images, not of layers."""
    inputs = subject.padded_inputs()
    once, twice = _entries(run(subject.upstream(), inputs)), _entries(_of_two_copies(subject, inputs))
    return frozenset(name for name, entries in once.items() if len(twice.get(name, ())) == 2 * len(entries))


def _entries(outputs: dict[str, Tensor]) -> dict[str, list[str]]:
    """The names of the tensors in each list, in their order."""
    lists: dict[str, list[str]] = {}
    for name in outputs:
        of, _, number = name.rpartition(".")
        if of and number.isdecimal():
            lists.setdefault(of, []).append(name)
    return lists


def _joined(outputs: dict[str, Tensor], lists: frozenset[str]) -> dict[str, Tensor]:
    entries = {name: found for name, found in _entries(outputs).items() if name in lists}
    apart = {name for found in entries.values() for name in found}
    kept = {name: value for name, value in outputs.items() if name not in apart}
    return kept | {name: torch.cat([outputs[one].flatten() for one in found]) for name, found in entries.items()}


@functools.cache
def parts_on_other_rows(subject: Subject) -> bool:
    """Whether upstream calls a model inside of a whole, which is a part of it, with other rows than the batch has, or layers with
    the positions of all rows in one.
    """
    model, upstream, rows = initialised(subject), subject.upstream(), set[int]()
    parts = {id(part) for part in model.adapters_base.adapter_parts().values()}
    paths = [
        path for path, module in model.named_modules() if id(module) in parts and module is not model.adapters_base
    ]

    def see(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        given = (*args, *kwargs.values())
        rows.add(next((len(value) for value in given if isinstance(value, Tensor) and value.dim() > 1), BATCH))

    def see_packed(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        states = next((value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)), None)
        if states is not None and (states.dim() == 2 or (states.dim() == 3 and len(states) == 1)):
            rows.add(1)

    for path in paths:
        upstream.get_submodule(path).register_forward_pre_hook(see, with_kwargs=True)
    for layer in layout_of(model).layers:
        upstream.get_submodule(layer.path).register_forward_pre_hook(see_packed, with_kwargs=True)
    run(upstream, subject.padded_inputs())
    return not rows <= {BATCH}


def given_one_row(subject: Subject) -> frozenset[str]:
    """The modules of upstream's that are given a tensor with a batch of one."""
    return frozenset(path for path, size in _given_first(subject) if len(size) > 2 and size[0] == 1)


def given_some_positions(subject: Subject) -> frozenset[str]:
    """The modules of upstream's that are given positions of all rows in one dimension, and not as many of each row."""
    return frozenset(
        path for path, size in _given_first(subject) if len(size) == 2 and (size[0] % BATCH or not size[0])
    )


@functools.cache
def _given_first(subject: Subject) -> frozenset[tuple[str, torch.Size]]:
    """The modules of upstream's, each with the sizes of the tensors that it is given first."""
    upstream, found = subject.upstream(), set[tuple[str, torch.Size]]()

    def see(path: str, args: Any) -> None:
        if args and isinstance(args[0], Tensor):
            found.add((path, args[0].shape))

    for path, module in upstream.named_modules():
        module.register_forward_pre_hook(lambda module, args, path=path: see(path, args))
    run(upstream, subject.padded_inputs())
    return frozenset(found)


@functools.cache
def compared_rows(subject: Subject) -> Mapping[str, tuple[int, ...]]:
    """The outputs of upstream's that have several dimensions for rows, as where all texts are compared with all images, and which these are.

    However many parts a model has: one that is planned as a whole may hold a tower for each.
    """
    inputs = subject.padded_inputs()
    all_rows, few_rows = (_asked(subject, given) for given in (inputs, some_rows(inputs, 0, FEW)))
    dims = {
        name: tuple(
            at
            for at, sizes in enumerate(zip(value.shape, few_rows[name].shape, strict=False))
            if sizes == (BATCH, FEW)
        )
        for name, value in all_rows.items()
        if name in few_rows
    }
    return {name: found for name, found in dims.items() if len(found) > 1}


@functools.cache
def has_rows(subject: Subject) -> bool:
    """Every input of upstream's has a row per example, and so has some output, which has twice as many of a batch behind itself: JEV
    reads the first row alone, of which as many numbers may come out by chance.
    """
    inputs = subject.padded_inputs()
    if not all(map(_are_rows, flatten(inputs).values())):
        return False
    once, twice = _asked(subject, inputs), _of_two_copies(subject, inputs)
    return any(
        _are_rows(value) and (name not in twice or len(twice[name]) == 2 * BATCH) for name, value in once.items()
    )


@functools.cache
def has_pieces_of_rows(subject: Subject, are_packed: bool) -> bool:
    """Every input has a row per example, and so has some output, or, where a text has images in it, as many pieces of each; where inputs
    `are_packed`, these too.
    """
    inputs = subject.padded_inputs()
    if "input_ids" not in inputs:
        return has_rows(subject)
    have_rows = (_are_rows(tensor) or (are_packed and _are_pieces(tensor)) for tensor in flatten(inputs).values())
    return all(have_rows) and any(map(_are_pieces, _asked(subject, inputs).values()))


@functools.cache
def outputs_without_rows(subject: Subject) -> frozenset[str]:
    """Outputs of upstream's in which an example has no row, nor pieces beside each other: of layers that see something else than
    rows (SegGPT's prompts are rows behind those of the images), or the same for all.
    """
    inputs = subject.padded_inputs()
    in_pieces = "input_ids" in inputs

    def has_own(name: str, tensor: Tensor) -> bool:
        return _are_pieces(tensor) if in_pieces or name in lists_of_rows(subject) else _are_rows(tensor)

    return frozenset(name for name, tensor in _asked(subject, inputs).items() if not has_own(name, tensor))


def with_rows(subject: Subject, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Outputs of which an example has a row."""
    return {name: value for name, value in outputs.items() if name not in outputs_without_rows(subject)}


def _are_rows(tensor: Tensor) -> bool:
    return tensor.dim() > 0 and len(tensor) == BATCH


def _are_pieces(tensor: Tensor) -> bool:
    return tensor.dim() > 0 and len(tensor) > 0 and len(tensor) % BATCH == 0


def require_rows(subject: Subject, are_packed: bool = False) -> None:
    if not has_pieces_of_rows(subject, are_packed):
        raise DoesNotApply(Reason.UPSTREAM_MIXES_ROWS)


def some_rows(inputs: dict[str, Any], first: int, after: int) -> dict[str, Any]:
    """What belongs to the rows from `first` on."""
    return changed(inputs, lambda value: value[first * len(value) // BATCH : after * len(value) // BATCH])


@functools.cache
def mixed_outputs(subject: Subject) -> frozenset[str]:
    """Outputs of upstream's that compare the rows with each other, as fewer rows change those that are left; those that count images
    over all rows (HunYuan-VL), so that a second copy of a batch behind it gives something else; and what it draws at random, of
    which a batch of another size gets other numbers.
    """
    inputs = subject.padded_inputs()
    all_rows, few_rows = (_asked(subject, given) for given in (inputs, some_rows(inputs, 0, FEW)))
    drawn_again, behind = _asked(subject, inputs, seed=6), second_copy(subject, inputs) or all_rows
    return frozenset(
        name
        for name, value in all_rows.items()
        if name not in outputs_without_rows(subject)
        if not are_near(name, few_rows, some_rows({name: value}, 0, FEW))
        or not are_near(name, drawn_again, all_rows)
        or not are_near(name, behind, all_rows)
    )


def second_copy(subject: Subject, inputs: dict[str, Any]) -> dict[str, Tensor]:
    """What upstream gives for a batch that stands behind itself; nothing where it does not take twice as many rows."""
    outputs = _joined(_of_two_copies(subject, inputs), lists_of_rows(subject))
    return {name: value[len(value) // 2 :] for name, value in outputs.items() if value.dim() > 0}


def _of_two_copies(subject: Subject, inputs: dict[str, Any]) -> dict[str, Tensor]:
    twice = changed(inputs, lambda value: torch.cat([value, value]))
    try:
        return run(subject.upstream(), twice)
    except Exception:  # whatever upstream raises
        return {}


def are_near(name: str, ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    return name in ours and are_close({name: ours[name]}, {name: theirs[name]}, atol=1e-4, rtol=1e-3)


@functools.cache
def ragged_outputs(subject: Subject) -> frozenset[str]:
    """Outputs of upstream's that are as long as the values of a row make them (a sound), or lists that have as many entries (the steps until
    SLANeXt has written a table): in a batch, as the longest. Those of one model may be alike, and those of other weights not.
    """
    inputs = subject.padded_inputs()
    alone = [_asked(subject, some_rows(inputs, row, row + 1)) for row in range(BATCH)]
    return _of_other_shapes(alone) | _of_other_shapes([_turned(subject, inputs, turn) for turn in TURNS])


def _turned(subject: Subject, inputs: Mapping[str, Any], turn: int) -> dict[str, Tensor]:
    """What upstream's model gives with other weights of the same size: in each matrix that is trained, so many rows go to its end."""
    upstream = subject.upstream()
    with torch.no_grad():
        for parameter in upstream.parameters():
            if parameter.dim() > 1 and parameter.requires_grad:
                parameter.copy_(parameter.roll(-turn, 0))
    return _joined(run(upstream, inputs), lists_of_rows(subject))


def _of_other_shapes(several: list[dict[str, Tensor]]) -> frozenset[str]:
    """The outputs that have not the same shape in each of `several`, or are not in all."""
    every = {name for one in several for name in one}
    return frozenset(name for name in every if len({one[name].shape if name in one else None for one in several}) > 1)


def in_each(subject: Subject, *several: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    """Outputs without the entries of lists that not all have, where upstream's values decide how many there are."""
    lacking = {name for one in several for other in several for name in one.keys() - other.keys()}
    if not lacking or not _lists(lacking) <= _lists(ragged_outputs(subject)):
        return list(several)
    return [{name: value for name, value in one.items() if name not in lacking} for one in several]


def _lists(names: Collection[str]) -> set[str]:
    """The lists that entries stand in; of what is in none, itself."""
    return {name.rpartition(".")[0] if name.rpartition(".")[2].isdecimal() else name for name in names}


def of_rows(subject: Subject, *outputs: dict[str, Tensor]) -> list[str]:
    """What a row has to itself: not how alike each text and each image of the batch are, nor what the longest decides."""
    names = [name for name in with_rows(subject, outputs[0]) if name not in mixed_outputs(subject)]
    if not names:
        raise DoesNotApply(Reason.UPSTREAM_MIXES_ROWS)
    other_shapes = {name for name in names if len({one[name].shape[1:] for one in outputs}) > 1}
    if other_shapes and not other_shapes <= ragged_outputs(subject):
        raise AssertionError(f"other shapes than under each adapter: {sorted(other_shapes - ragged_outputs(subject))}")
    return [name for name in names if name not in other_shapes]
