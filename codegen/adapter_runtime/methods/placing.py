"""The layers of a model in which an adapter gets a place, and what a config asks for that some or all of them do not have."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from types import MappingProxyType
from typing import NamedTuple

from adapter_runtime.contract.config import AdapterConfig, left_out_layers
from adapter_runtime.contract.protocol import AdaptedBaseModel, AdaptedLayer
from adapter_runtime.errors import InvalidConfigError


def layers_without(model: AdaptedBaseModel, leave_out: Sequence[int]) -> Iterator[tuple[int, AdaptedLayer]]:
    """The layers of a model with their indices, but for those that are left out."""
    return ((index, layer) for index, layer in model.adapted_layers() if index not in leave_out)


class Wish(NamedTuple):
    """One thing that a config asks for in layers."""

    shown: str  # as messages show it: "intermediate_lora=True", "'o' in attn_matrices"
    is_explicit: bool  # the config says it, and not only the defaults of its class: see `says`
    found: frozenset[int]  # the layers that have a place for it
    lacking: frozenset[int]  # those that might be expected to, and have none
    # Parts of layers that have none, while others of the same layer have: "cross-attention" -> in which layers
    partly: Mapping[str, frozenset[int]] = MappingProxyType({})

    def joined(self, other: Wish) -> Wish:
        """The same thing, asked for in the layers of both."""
        none = frozenset[int]()
        partly = {
            part: self.partly.get(part, none) | other.partly.get(part, none)
            for part in {**self.partly, **other.partly}
        }
        return self._replace(found=self.found | other.found, lacking=self.lacking | other.lacking, partly=partly)

    def gaps(self) -> list[str]:
        """Where it is missing, as messages show it."""
        whole = [] if not self.lacking else ["all layers" if not self.found else _ranges(self.lacking)]
        return whole + [f"{part} of {_ranges(layers)}" for part, layers in self.partly.items() if layers]


def says(config: AdapterConfig, option: str) -> bool:
    """Whether an option was given: it has no default, or another value than that. The same value again does not show."""
    entry = {entry.name: entry for entry in dataclasses.fields(config)}[option]
    if entry.default_factory is not dataclasses.MISSING:
        return bool(config[option] != entry.default_factory())
    return entry.default is dataclasses.MISSING or bool(config[option] != entry.default)


def check_layers(model: AdaptedBaseModel, named: Iterable[int], option: str) -> None:
    """Raise where an option names layers that the model does not have.

    Raises:
        InvalidConfigError: it does.
    """
    whole = model.adapters_base  # numbers count over all of its parts
    known = [index for index, _ in whole.iter_layers()]
    unknown = sorted(set(named).difference(known))
    if unknown:
        raise InvalidConfigError(
            f"{option} names the layers {unknown}, but {type(whole).__name__} has 0 to {known[-1]}."
        )


def check_wishes(model: AdaptedBaseModel, config: AdapterConfig, wishes: Collection[Wish]) -> None:
    """Raise for what no layer has a place for, if the config says it.

    Raises:
        InvalidConfigError: it does, or names a layer that is not there.
    """
    check_layers(model, left_out_layers(config), "leave_out")
    for wish in wishes:
        if not wish.found and wish.is_explicit:
            others = ", ".join(other.shown for other in wishes if other.found) or "nothing else that it asks for"
            raise InvalidConfigError(
                f"{type(config).__name__} asks for {wish.shown}, but no layer of {type(model.get_submodule('')).__name__} has a"
                f" place for that. Leave it out. (There are places for {others}.)"
            )


def gaps_of(wishes: Iterable[Wish]) -> str:
    """What some or all layers have no place for, and which, as messages show it; "" = nothing."""
    shown: dict[str, list[str]] = {}  # by where it is missing
    for wish in wishes:
        if gaps := wish.gaps():
            shown.setdefault(", ".join(gaps), []).append(wish.shown)
    return "; ".join(f"{', '.join(asked)} ({where})" for where, asked in shown.items())


def _ranges(layers: Iterable[int]) -> str:
    """``layers 0, 3-5``"""
    ordered = sorted(layers)
    breaks = [index for index, (one, two) in enumerate(pairwise(ordered), start=1) if two > one + 1]
    runs = [ordered[start:end] for start, end in pairwise([0, *breaks, len(ordered)])]
    shown = ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
    return f"layer{'s' if len(ordered) > 1 else ''} {shown}"
