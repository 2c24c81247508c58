"""What ``adapter_model.py`` imports and derives from, as its template prints it; all else is in `AdapterModelPlan`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from adapter_codegen.emit.public_names import RUNTIME, Imports, read_public_names
from adapter_codegen.model import AdapterModelPlan, ModelPlan

_WORD = re.compile(r"\w+")
_FLEXIBLE = "ModelWithFlexibleHeadsAdaptersMixin"
_HEADLESS = "ModelWithoutHeadsAdaptersMixin"
_GENERATION = "HeadsGenerationMixin"


@dataclass(frozen=True)
class AdapterModelFile:
    """The imports and the bases."""

    upstream: tuple[str, ...]  # classes and functions of upstream's modeling file
    runtime: Imports
    for_types: tuple[
        tuple[str, ...], ...
    ]  # statements that only type checkers run, in groups by where they import from
    bases: tuple[str, ...]


def adapter_model_file(plan: ModelPlan, model: AdapterModelPlan) -> AdapterModelFile:
    has_heads, public = bool(model.head_types), read_public_names()
    mixins = [_FLEXIBLE if has_heads else _HEADLESS, *([_GENERATION] if model.generates else [])]
    written = {
        word for group in model.head_arguments for one in group.arguments for word in _WORD.findall(one.annotation)
    }
    for_types = {
        *model.imports,
        f"from {plan.config_module} import {plan.config_class}",
        "from transformers.utils import ModelOutput",
        *(f"from {home} import {', '.join(names)}" for home, names in public.imports(written & {*public.homes})),
    }
    functions = [model.shift.function] if model.shift is not None and model.shift.function else []
    lent = model.borrowed
    lender = [lent.class_name] if lent is not None and lent.methods else []
    generation = [lent.generation] if lent is not None and lent.generation else []
    return AdapterModelFile(
        upstream=tuple(sorted({plan.base.class_name, plan.base.pretrained_class, *functions, *lender, *generation})),
        runtime=public.imports(mixins),
        for_types=tuple(tuple(sorted(group)) for group in _by_source(for_types) if group),
        bases=(mixins[0], plan.base.pretrained_class, *mixins[1:], *generation),
    )


def _by_source(statements: Iterable[str]) -> tuple[list[str], ...]:
    """Those that import modules, those from Python and torch, those from upstream, those from the runtime."""
    modules = [line for line in statements if line.startswith("import ")]
    upstream = [line for line in statements if line.startswith("from transformers.")]
    runtime = [line for line in statements if line.startswith(f"from {RUNTIME}.")]
    return modules, [*{*statements} - {*modules, *upstream, *runtime}], upstream, runtime
