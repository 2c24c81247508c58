"""What follows from the results: which models are refused, and which of their methods are dropped.

A model that fails a check which concerns no method, or does not come to an end, is refused. Where only checks of some methods fail, their
families are lost, and the model is right with the others. Where the head of one of upstream's classes becomes another, only its
conversion is lost: who loads its checkpoint is told so. ``codegen/adapter_codegen/plan/verdicts.json`` is written from this; the generator
reads it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from conformance.methods import FAMILIES, method
from conformance.reasons import Reason
from conformance.results import ModelResult, Result

VERDICTS = Path(__file__).parents[2] / "codegen" / "adapter_codegen" / "plan" / "verdicts.json"
LONGEST = 200
CONVERSION = "conversion"
HELD = frozenset(
    (Path(__file__).parents[1] / "parity" / "held.txt").read_text().split()
)  # the types that `adapters` 1.3.0 has


@dataclass(frozen=True)
class Failed:
    check: str
    reason: str


@dataclass(frozen=True)
class Verdict:
    """Of one model type."""

    model_type: str
    refused: Failed | None = None
    untested: str = ""
    dropped: dict[str, Failed] = field(default_factory=dict)  # family -> the first check that fails
    families: tuple[str, ...] = ()  # that hold
    unconverted: dict[str, Failed] = field(default_factory=dict)  # upstream's class -> how its head becomes another
    unplanned: dict[str, str] = field(default_factory=dict)  # family -> the plan's reason
    left_to_parts: tuple[str, ...] = ()  # families that the plan allows, and the models inside of the instance refuse

    @property
    def clean(self) -> bool:
        """Every check holds, for every family that is not dropped."""
        return self.refused is None and not self.untested


def verdict_of(result: ModelResult) -> Verdict:
    """The verdict that a result leads to."""
    name = result.model_type
    unplanned = {family: reason for family in FAMILIES if (reason := result.planned.get(family, "not planned"))}
    unplanned |= {family: Reason.PARTS_REFUSE.value for family in FAMILIES if _parts_refuse(result, family)}
    if result.status == "untested":
        return Verdict(name, untested=_line(result.text), unplanned=unplanned)
    if result.status != "ran":
        return Verdict(name, refused=Failed(result.status, _line(result.text)), unplanned=unplanned)
    unconverted = {cell.subject: _failed(cell) for cell in result.failures if cell.check == CONVERSION}
    whole = next((cell for cell in result.failures if not cell.method and cell.check != CONVERSION), None)
    if whole is not None:
        return Verdict(name, refused=_failed(whole), unplanned=unplanned)
    dropped: dict[str, Failed] = {}
    for cell in (cell for cell in result.failures if cell.method):
        for family in families_of(cell.method):
            dropped.setdefault(family, _failed(cell))
    for family in FAMILIES:
        if family not in unplanned and family not in dropped and (why := _never_tried(result, family)):
            dropped[family] = Failed("untested", why)
    families = tuple(family for family in FAMILIES if family not in dropped and family not in unplanned)
    if dropped and name in HELD:
        family, first = next(iter(dropped.items()))
        why = f"`adapters` has the model, so none of its methods may be lost, but {family} fails: {first.reason}"
        return Verdict(name, refused=Failed(first.check, _line(why)), unplanned=unplanned)
    if dropped and not families:
        first = next(iter(dropped.values()))
        return Verdict(
            name, refused=Failed(first.check, _line(f"no method holds: {first.reason}")), unplanned=unplanned
        )
    left = tuple(family for family in FAMILIES if _parts_refuse(result, family))
    return Verdict(
        name, dropped=dropped, families=families, unconverted=unconverted, unplanned=unplanned, left_to_parts=left
    )


def _parts_refuse(result: ModelResult, family: str) -> bool:
    """The models that the tiny instance is made of refuse it; of others, the same whole may have it, so that it is not dropped."""
    cells = [cell for cell in result.cells if cell.method and family in families_of(cell.method)]
    return bool(cells) and all(cell.text == Reason.PARTS_REFUSE.name for cell in cells)


def _never_tried(result: ModelResult, family: str) -> str:
    """What is not tried is not known to hold; "" where a check of the family ran."""
    cells = [cell for cell in result.cells if cell.method and family in families_of(cell.method)]
    if any(cell.ran for cell in cells):
        return ""
    return f"no check ran: {Reason[cells[0].text].value}" if cells else "no check ran"


def families_of(name: str) -> list[str]:
    """The families that a method is made of, as the plan names them."""
    return list(dict.fromkeys(part.planned_as for part in method(name).parts))


def _failed(cell: Result) -> Failed:
    return Failed(cell.check, _line(f"{cell.subject}: {cell.text}"))


def _line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 1]}…"


def verdicts_text(results: Iterable[ModelResult], release: str) -> str:
    """The content of ``verdicts.json``, one line per model type."""
    verdicts = sorted((verdict_of(result) for result in results), key=lambda verdict: verdict.model_type)
    refused = {v.model_type: _entry(v.refused) for v in verdicts if v.refused}
    dropped = {v.model_type: _entries(v.dropped) for v in verdicts if v.dropped}
    unconverted = {v.model_type: _entries(v.unconverted) for v in verdicts if v.unconverted}
    untested = {v.model_type: v.untested for v in verdicts if v.untested}
    parts = [f'"transformers": {json.dumps(release)}']
    found = {"refused": refused, "dropped": dropped, "untested": untested}
    if unconverted:
        found["unconverted"] = unconverted
    if left := {v.model_type: list(v.left_to_parts) for v in verdicts if v.left_to_parts and not v.refused}:
        found["left_to_parts"] = left
    for name, entries in found.items():
        lines = [f"    {json.dumps(key)}: {json.dumps(entry, ensure_ascii=False)}" for key, entry in entries.items()]
        parts.append(f'"{name}": {{\n' + ",\n".join(lines) + "\n  }" if lines else f'"{name}": {{}}')
    return "{\n  " + ",\n  ".join(parts) + "\n}\n"


def _entries(failed: dict[str, Failed]) -> dict[str, dict[str, str]]:
    return {name: _entry(failed[name]) for name in sorted(failed)}


def _entry(failed: Failed) -> dict[str, str]:
    return {"check": failed.check, "reason": failed.reason}
