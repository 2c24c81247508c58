"""``verdicts.json``: what the conformance checks found in models that were generated. They write the file, and no person edits it.

    {"transformers": "5.23.0",
     "refused": {MODEL_TYPE: {"check": "identity", "reason": "..."}},
     "dropped": {MODEL_TYPE: {METHOD: {"check": "padding", "reason": "..."}}},
     "untested": {MODEL_TYPE: "no instance could be made: ..."},
     "unconverted": {MODEL_TYPE: {CLASS: {"check": "conversion", "reason": "..."}}},
     "left_to_parts": {MODEL_TYPE: [METHOD]}}

A model type that is *refused* fails a check whatever the method, and is not written. One with *dropped* methods is right with the
others. An *untested* one is written where it is named, with a warning. The head of an *unconverted* class of upstream's becomes no
flexible one. A method that is *left to the parts* of a model made of several is one that the models which were tried inside of it refuse,
and others may take. These two parts are missing where they have nothing. All others are clean, or are in no release that was
tried: the file speaks of one release, and for any other it says nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from adapter_codegen.diagnostics.table import Problem
from adapter_codegen.model import LEFT_TO_PARTS, Diagnostic, Method, MethodSupport, ModelPlan, Refusal, TowerPlan

_PARTS = ("refused", "dropped", "untested")
_UNCONVERTED = "unconverted"
_LEFT_TO_PARTS = "left_to_parts"


@dataclass(frozen=True)
class Verdict:
    """Why something that was understood is not offered."""

    check: str  # the conformance check that fails
    reason: str  # what it found, one sentence


@dataclass(frozen=True)
class Verdicts:
    """What the checks found for one release."""

    transformers: str  # the release that was tried; "" = none
    refused: Mapping[str, Verdict] = field(default_factory=dict)
    dropped: Mapping[str, Mapping[Method, Verdict]] = field(default_factory=dict)
    untested: Mapping[str, str] = field(default_factory=dict)  # model type -> why no check could try it
    unconverted: Mapping[str, Mapping[str, Verdict]] = field(default_factory=dict)  # model type -> upstream's classes
    left_to_parts: Mapping[str, frozenset[Method]] = field(default_factory=dict)

    def of(self, version: str) -> Verdicts:
        """What holds for a release of transformers: nothing where another one was tried."""
        return self if version == self.transformers else NO_VERDICTS

    def refusal(self, model_type: str) -> Refusal | None:
        """The refusal of a model type that fails; None where it does not."""
        verdict = self.refused.get(model_type)
        if verdict is None:
            return None
        failed = Problem.FAILED_CHECK.diagnostic(model_type=model_type, check=verdict.check, reason=verdict.reason)
        return Refusal(model_type, (failed,))

    def applied(self, plan: ModelPlan) -> ModelPlan:
        """The plan without the methods and converted heads that fail, and with a warning where nothing was tried."""
        dropped, left = self.dropped.get(plan.model_type, {}), self.left_to_parts.get(plan.model_type, frozenset())
        judged = (_judged(entry, dropped.get(entry.method)) for entry in plan.methods)
        methods = tuple(_left(entry) if entry.method in left else entry for entry in judged)
        towers = tuple(_judged_tower(tower, dropped) for tower in plan.towers)
        lost = self.unconverted.get(plan.model_type, {})
        heads = tuple(
            head.unconverted(f"A check found: {lost[head.class_name].reason}") if head.class_name in lost else head
            for head in plan.static_heads
        )
        diagnostics = (*plan.diagnostics, *self._warnings(plan.model_type))
        return replace(plan, methods=methods, towers=towers, static_heads=heads, diagnostics=diagnostics)

    def _warnings(self, model_type: str) -> tuple[Diagnostic, ...]:
        if model_type not in self.untested:
            return ()
        return (Problem.UNTRIED.diagnostic(model_type=model_type, reason=self.untested[model_type].rstrip(".")),)


NO_VERDICTS = Verdicts("")


def _judged(support: MethodSupport, verdict: Verdict | None) -> MethodSupport:
    if verdict is None or not support.supported:
        return support
    return replace(support, supported=False, reason=f"It fails the check `{verdict.check}`: {verdict.reason}")


def _left(support: MethodSupport) -> MethodSupport:
    return replace(support, reason=LEFT_TO_PARTS) if support.supported and not support.reason else support


def _judged_tower(tower: TowerPlan, dropped: Mapping[Method, Verdict]) -> TowerPlan:
    """A check that fails on the whole may fail because of any of its towers: nothing tells which."""
    methods = tuple(_judged(entry, dropped.get(entry.method)) for entry in tower.methods)
    return replace(tower, methods=methods)


@lru_cache(maxsize=1)
def own_verdicts() -> Verdicts:
    """Those of the file that comes with the tool. Raises what `read_verdicts` raises."""
    return read_verdicts((Path(__file__).parents[1] / "verdicts.json").read_text(encoding="utf-8"))


def read_verdicts(text: str) -> Verdicts:
    """The verdicts in a text.

    Raises:
        CodegenError: it is no JSON, or not of the form above (C100).
    """
    try:
        content: dict[str, Any] = json.loads(text)
        if unknown := sorted({*content} - {"transformers", *_PARTS, _UNCONVERTED, _LEFT_TO_PARTS}):
            raise ValueError(f"unknown keys {', '.join(unknown)}")
        refused, dropped, untested = (dict(content[part]) for part in _PARTS)
        return Verdicts(
            str(content["transformers"]),
            {model_type: _verdict(entry) for model_type, entry in refused.items()},
            {
                model_type: {Method(method): _verdict(entry) for method, entry in methods.items()}
                for model_type, methods in dropped.items()
            },
            {model_type: _sentence(reason) for model_type, reason in untested.items()},
            {
                model_type: {name: _verdict(entry) for name, entry in classes.items()}
                for model_type, classes in content.get(_UNCONVERTED, {}).items()
            },
            {
                model_type: frozenset(Method(method) for method in methods)
                for model_type, methods in content.get(_LEFT_TO_PARTS, {}).items()
            },
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Problem.BROKEN_VERDICTS.error(error=error) from error


def _verdict(entry: dict[str, object]) -> Verdict:
    return Verdict(check=_sentence(entry["check"]), reason=_sentence(entry["reason"]))


def _sentence(text: object) -> str:
    """One line that says something: it is printed in tables, in docstrings and on terminals."""
    if not isinstance(text, str) or not text.strip() or "\n" in text:
        raise ValueError(f"{text!r} is not one line of text")
    return text
