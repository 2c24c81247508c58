"""``adapter-codegen list``: what is supported, what could be, and why not the rest.

The quick listing knows the manifest and upstream's auto mappings. Whether a model type that is not generated yet can be
planned is only known after planning it; `plan_entries` does that for all of them, in processes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from fnmatch import fnmatchcase
from functools import partial

from adapter_codegen.diagnostics.errors import CodegenError
from adapter_codegen.diagnostics.report import collect
from adapter_codegen.emit.manifest import Manifest, ModelRecord
from adapter_codegen.emit.parts import PartRow, mark_of, parts_of_plan, parts_of_record
from adapter_codegen.model import LEFT_TO_PARTS, Diagnostic, Method, Refusal
from adapter_codegen.parse import AutoMappings
from adapter_codegen.plan import plan_model
from adapter_codegen.plan.pool import in_processes
from adapter_codegen.upstream import Release


class Status(str, Enum):
    """Where a model type stands. The values are the words shown to people."""

    SUPPORTED = "supported"  # generated, and in this release
    GONE = "gone"  # generated, but no longer in this release
    AVAILABLE = "available"  # planned: add-model would write it
    REFUSED = "refused"  # planned, and not understood
    KNOWN = "known"  # in upstream's auto mappings; not planned yet


@dataclass(frozen=True)
class Entry:
    """One model type of a listing."""

    model_type: str
    status: Status
    methods: tuple[Method, ...] = ()  # that hold for it; () also where it was not planned
    left_to_parts: frozenset[Method] = frozenset()  # those of them that the models inside decide about
    reason: str = ""  # REFUSED: why
    stacks: Mapping[str, str] = field(default_factory=dict)  # residual stream -> "" if complete, else why it is not
    parts: tuple[PartRow, ...] = ()  # of a model made of several


def listing(mappings: AutoMappings, manifest: Manifest) -> tuple[Entry, ...]:
    """Every model type of the release or of the manifest, sorted by name."""
    names = sorted({*mappings.model_types, *manifest.models})
    return tuple(_entry(name, manifest, name in mappings.mains) for name in names)


def _entry(model_type: str, manifest: Manifest, upstream_has_it: bool) -> Entry:
    record = manifest.models.get(model_type)
    if record is None:
        return Entry(model_type, Status.KNOWN)
    methods = tuple(method for method in Method if record.methods.get(method.value) == "")
    status, parts = Status.SUPPORTED if upstream_has_it else Status.GONE, parts_of_record(record, manifest.models)
    left = frozenset(method for method in methods if mark_of(record, method) == "open")
    return Entry(model_type, status, methods, left, stacks=record.stacks, parts=parts)


def matching(entries: Sequence[Entry], pattern: str) -> tuple[Entry, ...]:
    """The entries whose model type is like `pattern`, a glob."""
    return tuple(entry for entry in entries if fnmatchcase(entry.model_type, pattern))


def unplanned(entries: Sequence[Entry]) -> int:
    """How many entries `plan_entries` would plan."""
    return sum(entry.status is Status.KNOWN for entry in entries)


def plan_entries(
    release: Release,
    entries: Sequence[Entry],
    manifest: Manifest,
    jobs: int | None = None,
    advance: Callable[[str], None] = lambda model_type: None,
) -> tuple[Entry, ...]:
    """The entries with every model type that is only known planned, in processes."""
    known = [entry.model_type for entry in entries if entry.status is Status.KNOWN]
    planned = dict(
        zip(known, in_processes(partial(_planned, release, manifest.models), known, jobs, advance), strict=True)
    )
    return tuple(planned.get(entry.model_type, entry) for entry in entries)


def _planned(release: Release, records: Mapping[str, ModelRecord], model_type: str) -> Entry:
    """The entry of a model type that is not generated yet. Never raises."""
    try:
        result = plan_model(release, model_type)
    except CodegenError as error:
        return Entry(model_type, Status.REFUSED, reason=_reason(error.diagnostics))
    except Exception as error:
        return Entry(model_type, Status.REFUSED, reason=f"Internal error: {type(error).__name__}: {error}")
    if isinstance(result, Refusal):
        return Entry(model_type, Status.REFUSED, reason=_reason(result.diagnostics))
    methods = tuple(method for method in Method if result.supports(method))
    parts = parts_of_plan(result, records)
    left = frozenset(entry.method for entry in result.methods if entry.supported and entry.reason == LEFT_TO_PARTS)
    return Entry(model_type, Status.AVAILABLE, methods, left, stacks=result.base.streams, parts=parts)


def _reason(diagnostics: Sequence[Diagnostic]) -> str:
    """What to say where there is room for one sentence."""
    return next((entry.message for entry in collect(diagnostics)), "")
