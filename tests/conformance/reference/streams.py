"""What the hidden states of a list of layers have to do with tokens, seen on the untouched model: which positions change with one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from conformance.outputs import removed, seeded
from conformance.reference.layout import Layout

_TOKENS = ("input_ids", "decoder_input_ids")


def assert_streams(upstream: nn.Module, layout: Layout, inputs: dict[str, Any]) -> None:
    """Where something stands behind the tokens, these come first; a list that is said to see no tokens sees none.

    Where positions are said to be padded by the forward, some that enter hold nothing. They may be seen before the first of several such lists.
    """
    padded = dict(_first_layers(layout, "padded"))
    entering = _entering(upstream, padded, inputs) if padded else {}
    if entering and not any(bool((hidden == 0).all(-1).any()) for hidden in entering.values()):
        raise AssertionError(
            f"{', '.join(padded)} are said to see 'padded', but no position that enters holds nothing"
        )
    firsts = dict(_first_layers(layout, "followed", "no tokens"))
    tokens = {name: inputs[name] for name in _TOKENS if name in inputs}
    places = {name: place for name, given in tokens.items() if (place := _place(given)) is not None}
    if not firsts or not places:
        return
    before = _entering(upstream, firsts, inputs)
    exchanged = {name: _exchanged(tokens[name], place) for name, place in places.items()}
    after = _entering(upstream, firsts, {**inputs, **exchanged})
    for path, form in firsts.items():
        if path not in before:  # it did not run
            continue
        changed = (before[path] != after[path]).flatten(2).any(-1)  # (B, L)
        positions = changed.nonzero().tolist()
        if positions not in ([] if form == "no tokens" else [[0, place]] for place in places.values()):
            raise AssertionError(
                f"{path} is said to see {form!r}, but other tokens at {places} change it at {positions}"
            )


def _first_layers(layout: Layout, *forms: str) -> Iterator[tuple[str, str]]:
    """Paths of the first layers of lists of these forms, and what is said of them."""
    lists = set()
    for layer in layout.layers:
        owner = layer.path.rpartition(".")[0]
        if layer.form in forms and owner not in lists:
            lists.add(owner)
            yield layer.path, layer.form


def _entering(upstream: nn.Module, paths: dict[str, str], inputs: dict[str, Any]) -> dict[str, Tensor]:
    """What each of the layers is first called with."""
    found: dict[str, Tensor] = {}

    def keep(path: str) -> Any:
        def hook(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
            found.setdefault(path, next(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)))

        return hook

    handles = [upstream.get_submodule(path).register_forward_pre_hook(keep(path), with_kwargs=True) for path in paths]
    with removed(handles), torch.no_grad(), seeded(5):
        upstream(**inputs)
    return found


def _place(tokens: Tensor) -> int | None:
    """A position at which rows differ, as they do not where a token stands for an image or a sound; not the first, if possible."""
    places = (tokens[0] != tokens[1]).nonzero().flatten().tolist() if tokens.dim() == 2 and len(tokens) > 1 else []
    return places[min(1, len(places) - 1)] if places else None


def _exchanged(tokens: Tensor, place: int) -> Tensor:
    """The token that the second row has there, in the first row."""
    changed = tokens.clone()
    changed[0, place] = tokens[1, place]
    return changed
