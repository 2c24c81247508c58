"""Models inside a model that are no parts: an adapter in them would learn nothing, or finds no layer.

Where do I add a reason? A function of `_REASONS`, which gives the sentence for those it holds for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from adapter_codegen.parse.facts import ModuleFacts
from adapter_codegen.plan.parts.elsewhere import Class
from adapter_codegen.plan.parts.learning import only_comparisons_read
from adapter_codegen.plan.parts.running import Runs, looks_up_nearest


@dataclass(frozen=True)
class Suspect:
    """A model inside a model, and what is known of it."""

    facts: ModuleFacts
    name: str  # of its class in the same file; "" = it is of another file
    other: Class | None  # its class in another file, where that is known
    has_layers: bool  # of a class of the same file: whether anything in it is a layer, or a part of its own
    runs: Runs


def near_miss(suspect: Suspect) -> str:
    """Why a model is no part; "" where it is one."""
    return next((sentence for reason in _REASONS if (sentence := reason(suspect))), "")


def _without_layers(suspect: Suspect) -> str:
    if suspect.name and not suspect.has_layers:
        return f"{suspect.name} has no layers."
    if suspect.other is not None and not suspect.other.file.has_lists:
        return f"{suspect.other.name} has no layers: its file holds no list of modules."
    return ""


def _without_gradient(suspect: Suspect) -> str:
    runs = suspect.runs.in_forward
    return "It runs without gradients only." if runs and not any(run.has_gradient for run in runs) else ""


def _never_in_forward(suspect: Suspect) -> str:
    runs = suspect.runs
    return "No forward runs it." if runs.is_followed and not runs.in_forward else ""


def _gives_indices(suspect: Suspect) -> str:
    """A tokenizer of images: asked for the nearest entries of a table, which have no gradient, and never run itself."""
    methods = {run.method for run in suspect.runs.in_forward if run.method}
    if not suspect.name or not methods or "forward" in methods:
        return ""
    if any(looks_up_nearest(suspect.facts, suspect.name, method) for method in methods):
        return "It gives the numbers of the nearest entries of a table, through which no gradient passes."
    return ""


def _gives_comparisons(suspect: Suspect) -> str:
    """What cuts a text into patches, where a score is above a threshold (BLT's patcher)."""
    if suspect.name and only_comparisons_read(suspect.facts, suspect.name, suspect.runs.in_forward):
        return "What is read of it comes out of comparisons, through which no gradient passes."
    return ""


_REASONS: tuple[Callable[[Suspect], str], ...] = (
    _without_layers,
    _without_gradient,
    _gives_indices,
    _gives_comparisons,
    _never_in_forward,
)
