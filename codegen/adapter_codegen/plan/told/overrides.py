"""``overrides.toml``: what cannot be inferred, one declarative entry per model type, each with its reason.

    [roberta]
    reason = "one sentence: why upstream's text cannot tell"
    unsupported = ["prefix_tuning"]        # methods to switch off
    embedding_output = "embeddings"        # also token_embeddings, final_norm: paths from the base model

An unknown key is an error, and so is an entry that changes nothing: what has become inferable has to go.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from adapter_codegen.diagnostics.table import Problem
from adapter_codegen.model import BasePlan, Method, MethodSupport, ModelPlan

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]

_PATHS = ("token_embeddings", "embedding_output", "final_norm")
KEYS = frozenset({"reason", "unsupported", *_PATHS})


@dataclass(frozen=True)
class Override:
    model_type: str
    reason: str
    unsupported: tuple[Method, ...] = ()
    paths: tuple[tuple[str, str], ...] = ()  # field of BasePlan -> path


Overrides = Mapping[str, Override]


def read_overrides(text: str | None = None) -> Overrides:
    """The entries of `text`, by model type; without it, those of the file that comes with the tool.

    Raises:
        CodegenError: the text is no TOML (P300), a key is unknown (P301), a reason is missing (P302), or a value is not
            what its key takes (P303).
    """
    if text is None:
        text = (Path(__file__).parents[1] / "overrides.toml").read_text(encoding="utf-8")
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise Problem.OVERRIDES_NO_TOML.error(error=error) from error
    return {model_type: _override(model_type, table) for model_type, table in tables.items()}


def _override(model_type: str, table: object) -> Override:
    if not isinstance(table, dict):
        raise Problem.OVERRIDE_NO_TABLE.error(model_type=model_type)
    unknown = sorted(set(table) - KEYS)
    if unknown:
        known = ", ".join(sorted(KEYS))
        raise Problem.OVERRIDE_UNKNOWN_KEYS.error(model_type=model_type, unknown=", ".join(unknown), known=known)
    reason = table.get("reason")
    if not isinstance(reason, str) or not reason.strip():
        raise Problem.OVERRIDE_WITHOUT_REASON.error(model_type=model_type)
    unsupported = tuple(_method(model_type, name) for name in table.get("unsupported", ()))
    paths = tuple((name, str(table[name])) for name in _PATHS if name in table)
    return Override(model_type, reason, unsupported, paths)


def _method(model_type: str, name: object) -> Method:
    try:
        return Method(name)
    except ValueError:
        known = ", ".join(method.value for method in Method)
        raise Problem.OVERRIDE_UNKNOWN_METHOD.error(model_type=model_type, name=name, known=known) from None


def apply_override(plan: ModelPlan, override: Override) -> ModelPlan:
    """The plan with an entry applied.

    Raises:
        CodegenError: a part of the entry changes nothing (P304).
    """
    idle = [method.value for method in override.unsupported if not plan.supports(method)]
    planned = _paths_of(plan.base)
    idle += [name for name, path in override.paths if planned[name] == path]
    if idle or not (override.unsupported or override.paths):
        what = ", ".join(idle) or "nothing"
        raise Problem.OVERRIDE_IDLE.error(model_type=override.model_type, what=what)
    methods = _without(plan.methods, override)
    towers = tuple(replace(tower, methods=_without(tower.methods, override)) for tower in plan.towers)
    paths = {**planned, **dict(override.paths)}
    base = replace(
        plan.base,
        token_embeddings=paths["token_embeddings"],
        embedding_output=paths["embedding_output"],
        final_norm=paths["final_norm"],
    )
    return replace(plan, base=base, methods=methods, towers=towers, overrides=(override.model_type,))


def _without(methods: Sequence[MethodSupport], override: Override) -> tuple[MethodSupport, ...]:
    return tuple(
        replace(entry, supported=False, reason=override.reason) if entry.method in override.unsupported else entry
        for entry in methods
    )


def _paths_of(base: BasePlan) -> dict[str, str]:
    """What the plan says, by the keys of `_PATHS`."""
    return {
        "token_embeddings": base.token_embeddings,
        "embedding_output": base.embedding_output,
        "final_norm": base.final_norm,
    }
