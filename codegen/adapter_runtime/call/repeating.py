"""Giving each adapter of `Parallel` its copy of the batch.

The arguments of the outermost call of a model are repeated once, before upstream computes anything from them: every mask,
bias, position and cache then has the right number of rows by itself, in any architecture. Row i of copy c is c * B + i.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence

import torch
from transformers.utils import ModelOutput

from adapter_runtime.call.arguments import Argument, Model, ModelForward
from adapter_runtime.errors import UnsupportedMethodError

# The arguments that tell the size of the batch: the first one that is given counts.
_MAIN = ("input_ids", "inputs_embeds", "decoder_input_ids", "decoder_inputs_embeds", "pixel_values", "input_features",
         "input_values", "attention_mask")  # fmt: skip
# Arguments without a batch: positions in a cache; which positions get logits.
_WITHOUT_BATCH = frozenset({"cache_position", "logits_to_keep"})


def by_name(names: Sequence[str], args: Sequence[Argument], kwargs: Mapping[str, Argument]) -> dict[str, Argument]:
    """The arguments of a call, each with the name of its parameter.

    Args:
        names: of the parameters that may be given by position. What is given behind these (``*args``) is left out.
    """
    return {**dict(zip(names, args, strict=False)), **kwargs}


def repeated(
    names: tuple[str, ...],
    args: tuple[Argument, ...],
    kwargs: Mapping[str, Argument],
    copies: int,
    kept: frozenset[str] = frozenset(),
    whole: bool = False,
) -> tuple[tuple[Argument, ...], dict[str, Argument]]:
    """The arguments of a call with `copies` of each row.

    Args:
        names: the names of the positional parameters of the forward.
        args, kwargs: the arguments; tensors are [B, ...].
        copies: how many copies of each row.
        kept: names of arguments that stay as they are.
        whole: whether rows may have several images or sounds, so that the first dimension of an argument need not be the batch.
            A copy of all of them follows the next, so that each copy of a row finds its own.

    Raises:
        UnsupportedMethodError: a tensor does not show which of its dimensions is the batch.
    """
    given = by_name(names, args, kwargs)
    rows = batch_size(given)
    if rows is None:
        return args, dict(kwargs)

    def repeat(name: str, value: Argument) -> Argument:
        return value if name in kept | _WITHOUT_BATCH else _repeat(name, value, rows, copies, whole)

    positional = tuple(repeat(name, value) for name, value in zip(names, args, strict=False))
    return (*positional, *args[len(positional) :]), {name: repeat(name, value) for name, value in kwargs.items()}


def batch_size(given: Mapping[str, Argument]) -> int | None:
    """How many rows a call has; None where it is given no tensor."""
    values = (*(given.get(name) for name in _MAIN), *given.values())
    return next((value.shape[0] for value in values if isinstance(value, torch.Tensor) and value.dim() > 0), None)


def with_all_rows(given: dict[str, Argument]) -> dict[str, Argument]:
    """The arguments of a model that attends to states of others, with a row of embeddings for each of those.

    Upstream may give it one row for all (the queries of Granite Speech's Q-Former), which its attention spreads over the rows of the others
    on the way. What divides rows, or counts positions in each, needs them from the first layer on.
    """
    states = given.get("encoder_hidden_states")
    if not isinstance(states, torch.Tensor):
        return given
    return {
        name: (
            value.expand(states.shape[0], *value.shape[1:])
            if name.endswith("_embeds") and isinstance(value, torch.Tensor) and value.shape[0] == 1
            else value
        )
        for name, value in given.items()
    }


def _repeat(name: str, value: Argument, rows: int, copies: int, whole: bool) -> Argument:
    if isinstance(value, torch.Tensor):
        dimension = _repeated_dimension(name, value, rows, whole)
        if dimension is None:
            return value
        return value.repeat(*(copies if at == dimension else 1 for at in range(value.dim())))
    if isinstance(value, ModelOutput):
        return type(value)(**{key: _repeat(name, entry, rows, copies, whole) for key, entry in value.items()})
    if isinstance(value, (tuple, list)) and any(isinstance(entry, torch.Tensor) for entry in _flat(value)):
        if whole and _are_items(value, rows):
            return type(value)(value * copies)
        return type(value)(_repeat(name, entry, rows, copies, whole) for entry in value)
    return value


def _flat(value: Sequence[Argument]) -> Iterator[Argument]:
    for entry in value:
        if isinstance(entry, (tuple, list)):
            yield from _flat(entry)
        else:
            yield entry


def _are_items(value: Sequence[Argument], rows: int) -> bool:
    """Whether a sequence is one of images or sounds of different sizes, and not of tensors [B, ...] of different layers."""
    return not all(
        isinstance(entry, torch.Tensor) and entry.dim() > 0 and entry.shape[0] == rows for entry in _flat(value)
    )


# Where a tensor with one row may be the same for all rows of the batch.
_FOR_ALL_ROWS = ("mask", "bias", "position")


def _repeated_dimension(name: str, value: torch.Tensor, rows: int, whole: bool) -> int | None:
    """Which dimension of an argument counts rows; None where it is the same for all of them.

    Args:
        whole: see `repeated`: then it may also count images, sounds, or patches of them.

    Raises:
        UnsupportedMethodError: it shows none, or it holds sums over rows, which a copy would have to continue.
    """
    if value.dim() == 0:
        return None
    if whole and (name.startswith("cu_") or "cumulative" in name):
        raise UnsupportedMethodError(
            f"Parallel repeats all images and sounds of a call, but {name} counts these from the first on. Leave it out, or run the"
            " adapters one after the other."
        )
    if name == "position_ids" and value.dim() == 3:  # one set of positions per axis: time, height, width
        return 1 if value.shape[1] == rows else None
    if value.shape[0] == rows:
        return 0
    if value.shape[0] == 1 and (not whole or any(word in name for word in _FOR_ALL_ROWS)):
        return None
    if whole:
        return 0
    raise UnsupportedMethodError(
        f"Parallel repeats the rows of all arguments, but {name} has the shape {list(value.shape)} and the batch has "
        f"{rows} rows. Run the adapters one after the other."
    )


def positional_names(forward: ModelForward[Model]) -> tuple[str, ...]:
    """The names of the parameters of a method that can be given by position, without `self`."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = list(inspect.signature(forward).parameters.values())[1:]
    return tuple(parameter.name for parameter in parameters if parameter.kind in kinds)
