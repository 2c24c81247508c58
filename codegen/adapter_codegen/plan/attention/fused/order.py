"""In which order a projection gives its parts, from the cuts that make them.

A cut under ``if self.multi_query:`` makes an order for the modules in which this attribute is true. Several orders are told apart by the
attributes around them; where these do not tell, no order is known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from adapter_codegen.model import OutputOrder
from adapter_codegen.plan.attention.fused.cuts import Cut, Cuts, Span
from adapter_codegen.plan.attention.fused.sizes import OUTPUTS, number
from adapter_codegen.plan.flow.scene import Scene
from adapter_codegen.plan.flow.values import Value
from adapter_codegen.plan.stream.optional import Flag, flags_around

_Flags = frozenset[Flag]


def orders(
    path: str, core: str, parts: Mapping[str, Value], scene: Scene, elsewhere: Sequence[Value] = ()
) -> tuple[OutputOrder, ...]:
    """The orders of a projection's outputs; () where the text does not prove them.

    Args:
        path: of the projection.
        core: path of the module that attends.
        parts: "q", "k" and "v", or "k" and "v", as they enter the core.
        elsewhere: what else enters it. A call of the projection that gives this too is that of another attention.
    """
    cuts = Cuts(path, core, scene.kinds)
    others = {id(cut.projection) for value in elsewhere for cut in cuts.of(value)}
    spans: dict[_Flags, dict[str, set[Span | None]]] = {}
    for letter, value in parts.items():
        for cut in cuts.of(value):
            if id(cut.projection) not in others:
                known = spans.setdefault(_flags(cut, core, scene), {})
                known.setdefault(letter, set()).add(cut.span)
    found = [_order(known, parts, flags) for flags, known in spans.items()]
    known_orders = [order for order in found if order is not None]
    flags = list(spans)
    are_apart = all(_exclude(one, other) for place, one in enumerate(flags) for other in flags[:place])
    return tuple(sorted(known_orders, key=_by_flags)) if len(known_orders) == len(found) and are_apart else ()


def _by_flags(order: OutputOrder) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return order.where, order.unless


def _flags(cut: Cut, core: str, scene: Scene) -> _Flags:
    """The attributes of the module that attends, without which it does not come to a cut."""
    if cut.statement is None or cut.frame.path != core:
        return frozenset()
    return flags_around(cut.statement, cut.frame, scene.facts)


def _exclude(one: _Flags, other: _Flags) -> bool:
    return any(Flag(flag.name, not flag.is_true) in other for flag in one)


def _order(known: Mapping[str, set[Span | None]], letters: Mapping[str, Value], flags: _Flags) -> OutputOrder | None:
    """One span for each part, which together are a group."""
    if set(known) != set(letters) or any(len(spans) != 1 for spans in known.values()):
        return None
    spans = {letter: span for letter, found in known.items() for span in found if span is not None}
    groups = {span.group for span in spans.values()}
    if len(spans) != len(letters) or len(groups) != 1:
        return None
    row: list[str] = []
    end = number(0)
    while len(following := [letter for letter, span in spans.items() if letter not in row and span.start == end]) == 1:
        row += following
        end = spans[row[-1]].stop
    if len(row) != len(letters) or not spans[row[-1]].is_last:
        return None
    group = groups.pop()
    return OutputOrder(
        parts="".join(row),
        sizes=tuple(str(spans[letter].stop - spans[letter].start) for letter in row),
        group="" if group == OUTPUTS else str(group),
        where=tuple(sorted(flag.name for flag in flags if flag.is_true)),
        unless=tuple(sorted(flag.name for flag in flags if not flag.is_true)),
    )
