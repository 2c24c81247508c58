"""A config that holds others: those within start at the instances of their own model types.

What a type that stands alone needs was searched once; only what ties the parts together is left to try.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from transformers import CONFIG_MAPPING, PreTrainedConfig

from conformance.instances import sizes
from conformance.instances.fields import Draft, Path, explicit, nodes, own_fields

Known = Callable[[str], Mapping[str, Any] | None]  # model type -> the fields of its instance


def composed(draft: Draft, known: Known) -> Iterator[tuple[Draft, frozenset[Path]]]:
    """`draft` with known parts, and what is settled by that; the most faithful first: with what it sets in them."""
    parts = dict(_parts(draft.seen, known))
    if not parts:
        return
    before = {path: _widths(node) for path, node in nodes(draft.seen) if path in parts}
    for with_own in (True, False):
        changes: dict[Path, Any] = {}
        for path, (node, fields) in parts.items():
            own = {name: value for name, value in explicit(node).items() if with_own or name == "model_type"}
            changes[path] = {"model_type": node.model_type, **own, **_roomy(fields)}
        changed = draft.changed(changes)
        for joined in (True, False):
            try:
                ties = _ties(changed.seen, before, parts, joined)
                yield changed.changed(ties), frozenset({*parts, *ties})
            except Exception:
                continue


def _roomy(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Placeholders need room in a vocabulary."""
    return {
        name: sizes.VOCABULARY if sizes.kind(name) == "vocabulary" and value in range(40) else copy.deepcopy(value)
        for name, value in fields.items()
    }


def _parts(
    config: PreTrainedConfig, known: Known
) -> Iterator[tuple[Path, tuple[PreTrainedConfig, Mapping[str, Any]]]]:
    """The outermost configs within, of whose type an instance is known."""
    taken: list[Path] = []
    for path, node in nodes(config):
        if not path or any(path[: len(outer)] == outer for outer in taken):
            continue
        fields = known(node.model_type) if node.model_type in CONFIG_MAPPING else None
        if fields is not None and type(node) is CONFIG_MAPPING[node.model_type]:
            taken.append(path)
            yield path, (node, fields)


def _widths(config: PreTrainedConfig) -> dict[Path, int]:
    return {
        (*path, name): value
        for path, node in nodes(config)
        for name, value in own_fields(node).items()
        if sizes.kind(name) == "width" and isinstance(value, int) and not isinstance(value, bool) and value > 32
    }


def _ties(
    config: PreTrainedConfig, before: Mapping[Path, Mapping[Path, int]], parts: Mapping[Path, Any], joined: bool
) -> dict[Path, Any]:
    """What had the width of a part has it again; where `joined`, so have other parts."""
    now = {(*path, *place): value for path, node in nodes(config) if path in parts for place, value in _all(node)}
    small: dict[int, int] = {}
    for path, widths in before.items():
        # the width of a part's stream comes first: it is what others are made to fit
        for place, old in sorted(widths.items(), key=lambda entry: entry[0][-1] not in sizes.STREAM):
            if (*path, *place) in now:
                small.setdefault(old, now[(*path, *place)])
    ties: dict[Path, Any] = {}
    for path, node in nodes(config):
        within = next((part for part in parts if path[: len(part)] == part), None)
        for name, value in own_fields(node).items():
            old = before[within].get((*path[len(within) :], name)) if within else value
            free = (
                joined if within else name not in sizes.STREAM
            )  # the heads of a stream that is no part are still many
            if isinstance(old, int) and old in small and free and sizes.kind(name) == "width":
                ties[(*path, name)] = small[old]
    return ties


def _all(node: PreTrainedConfig) -> Iterator[tuple[Path, int]]:
    for path, inner in nodes(node):
        for name, value in own_fields(inner).items():
            if isinstance(value, int) and not isinstance(value, bool):
                yield (*path, name), value
