"""What ``adapter_model.py`` imports and derives from, as its template prints it; all else is in `AdapterModelPlan`."""

from __future__ import annotations

from dataclasses import dataclass

from adapter_codegen.emit.public_names import Imports, read_public_names
from adapter_codegen.model import AdapterModelPlan, ModelPlan

_FLEXIBLE = "ModelWithFlexibleHeadsAdaptersMixin"
_HEADLESS = "ModelWithoutHeadsAdaptersMixin"
_GENERATION = "HeadsGenerationMixin"


@dataclass(frozen=True)
class AdapterModelFile:
    """The imports and the bases."""

    upstream: tuple[str, ...]  # classes of upstream's modeling file
    runtime: Imports
    for_types: tuple[str, ...]  # statements that only type checkers run
    bases: tuple[str, ...]


def adapter_model_file(plan: ModelPlan, model: AdapterModelPlan) -> AdapterModelFile:
    has_heads, public = bool(model.head_types), read_public_names()
    mixins = [_FLEXIBLE if has_heads else _HEADLESS, *([_GENERATION] if model.generates else [])]
    for_types = {
        *model.imports,
        f"from {plan.config_module} import {plan.config_class}",
        "from transformers.utils import ModelOutput",
        *(f"from {home} import HeadSetup" for home, _ in public.imports(["HeadSetup"] if has_heads else [])),
    }
    return AdapterModelFile(
        upstream=tuple(sorted({plan.base.class_name, plan.base.pretrained_class})),
        runtime=public.imports(mixins),
        for_types=tuple(
            sorted(for_types, key=lambda line: (line.startswith("from "), "adapter_runtime" in line, line))
        ),
        bases=(mixins[0], plan.base.pretrained_class, *mixins[1:]),
    )
