"""What became of the checks of each model, and the file that holds it: one line of JSON per model type, sorted, with the release.

The file is written after each model, so a run that is interrupted goes on where it stopped. It holds no times and no addresses: the
same code gives the same file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Status = Literal["ran", "untested", "crash", "time-out"]


@dataclass(frozen=True)
class Result:
    """What became of one check of one method on one subject."""

    model_type: str
    subject: str
    method: str  # "" for a check of models without methods
    check: str
    text: str = ""  # the error, or the name of the reason why the check does not apply
    ran: bool = True
    compared: tuple[str, ...] = ()  # of what only some models can be compared in: see `conformance.compared`

    @property
    def failed(self) -> bool:
        return self.ran and bool(self.text)


@dataclass(frozen=True)
class ModelResult:
    """All cells of one model type."""

    model_type: str
    status: Status
    text: str = ""  # of what kept it from running to its end
    cells: tuple[Result, ...] = ()
    planned: Mapping[str, str] = field(default_factory=dict)  # family -> "" or the reason why the plan has none
    # Subject -> check -> what was compared, with any method, beyond what always is.
    compared: Mapping[str, Mapping[str, Sequence[str]]] = field(default_factory=dict)

    @property
    def failures(self) -> list[Result]:
        return [cell for cell in self.cells if cell.failed]

    @property
    def clean(self) -> bool:
        return self.status == "ran" and not self.failures

    def to_json(self) -> dict[str, Any]:
        """Cells that hold are listed by subject and method; the others have their text."""
        document: dict[str, Any] = {"model_type": self.model_type, "status": self.status}
        if self.text:
            document["text"] = self.text
        if self.planned:
            document["planned"] = dict(self.planned)
        for kind in ("ok", "failed", "left out"):
            found: dict[str, Any] = {}
            for cell in self.cells:
                if kind == "ok" and cell.ran and not cell.failed:
                    found.setdefault(cell.subject, {}).setdefault(cell.method, []).append(cell.check)
                elif (kind == "failed" and cell.failed) or (kind == "left out" and not cell.ran):
                    found.setdefault(cell.subject, {}).setdefault(cell.method, {})[cell.check] = cell.text
            if found:
                document[kind] = found
        if self.compared:
            document["compared"] = {subject: dict(checks) for subject, checks in self.compared.items()}
        return document

    @staticmethod
    def from_json(document: Mapping[str, Any]) -> ModelResult:
        name = document["model_type"]
        cells: list[Result] = []
        for kind in ("ok", "failed", "left out"):
            for subject, methods in document.get(kind, {}).items():
                for method, checks in methods.items():
                    for check in checks:
                        text = "" if kind == "ok" else checks[check]
                        cells.append(Result(name, subject, method, check, text, ran=kind != "left out"))
        planned, compared = document.get("planned", {}), document.get("compared", {})
        return ModelResult(name, document["status"], document.get("text", ""), tuple(cells), planned, compared)


def compared_in(cells: Iterable[Result]) -> dict[str, dict[str, list[str]]]:
    """Subject -> check -> all that its cells compared."""
    found: dict[str, dict[str, list[str]]] = {}
    for cell in cells:
        if cell.compared:
            checks = found.setdefault(cell.subject, {})
            checks[cell.check] = sorted({*checks.get(cell.check, ()), *cell.compared})
    return found


class ResultFile:
    """The results of all models of one release, on disk."""

    def __init__(self, path: Path, release: str) -> None:
        self.path = path
        self.release = release
        self.models: dict[str, ModelResult] = {}
        for document in _lines(path):
            if "transformers" in document:
                if document["transformers"] != release:
                    raise ValueError(
                        f"{path} holds results for transformers {document['transformers']}; {release} is installed. "
                        "Name another file: --results."
                    )
            else:
                self.models[document["model_type"]] = ModelResult.from_json(document)

    def ordered(self) -> list[ModelResult]:
        """All results, by model type."""
        return [self.models[name] for name in sorted(self.models)]

    def keep(self, model_types: Iterable[str]) -> None:
        """Forget models that are not among `model_types`."""
        self.models = {name: self.models[name] for name in model_types if name in self.models}

    def add(self, result: ModelResult) -> None:
        """Put `result` in the place of an earlier one of its model, and write the file."""
        self.models[result.model_type] = result
        lines = [{"transformers": self.release}, *(result.to_json() for result in self.ordered())]
        text = "".join(json.dumps(line, sort_keys=True, ensure_ascii=False) + "\n" for line in lines)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_name(self.path.name + ".part")
        partial.write_text(text, encoding="utf-8")
        partial.replace(self.path)  # an interruption leaves the old file or the new one


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            yield json.loads(line)


_ADDRESS = re.compile(r"\b0x[0-9a-fA-F]+")
_DIGITS = re.compile(r"(?<![\w.])-?\d+\.\d+(e[+-]?\d+)?|\b\d+e-?\d+")


def stable(text: str, length: int = 300) -> str:
    """The first line of a message that is the same in each run: addresses and measured numbers are taken out."""
    first = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return _DIGITS.sub("…", _ADDRESS.sub("0x…", first))[:length]


def summary(results: Iterable[ModelResult]) -> str:
    found = list(results)
    cells = [cell for result in found for cell in result.cells]
    ran = [cell for cell in cells if cell.ran]
    states = {status: sum(result.status == status for result in found) for status in ("untested", "crash", "time-out")}
    others = "".join(f", {count} {status}" for status, count in states.items() if count)
    return (
        f"{len(found)} model types, {sum(result.clean for result in found)} clean{others}; {len(ran)} checks ran, "
        f"{sum(cell.failed for cell in ran)} failed, {len(cells) - len(ran)} do not apply"
    )
