"""Adapters with gates, on all places that a model has for bottlenecks, prefixes and LoRA.

A gate is the one part of these methods whose width and whose rows are those of what the place is called with, and not those of the weights:
so it is tried where nothing else would be found. What `supports_adapter` says of each method is what `add_adapter` does, all of them run
in one call, and each row has gates of its own: rows that are given to two adapters are as under each of them alone.
"""

from __future__ import annotations

from transformers import PreTrainedModel

from conformance.adapted import initialised
from conformance.checks.added import adapter_runs
from conformance.checks.composition import split_batch_is_its_parts
from conformance.checks.union import family_configs
from conformance.methods import LORA, PREFIX_FLAT, SEQ_BN, Method, Part
from conformance.reference.layout import layout_of
from conformance.subjects import Subject
from conformance.supported import supported_can_be_added

GATED: dict[str, Part] = {"bottleneck": SEQ_BN, "prefix_tuning": PREFIX_FLAT, "lora": LORA}


def gates_run(subject: Subject) -> Method | None:
    """Adapters with gates run where the model says so: all of them in one. The method that is; None without any."""
    model = initialised(subject)
    found = [method for method in _gated(model) if model.supports_adapter(method.config)]
    if not found:
        return None
    parts = tuple(part for method in found for part in method.parts)
    together = Method("gated", "|".join(method.config for method in found), parts)
    adapter_runs(subject, together)
    return together


def gates_are_of_rows(subject: Subject) -> None:
    """And can be added only there, and each row has its own."""
    supported_can_be_added(subject, _gated(initialised(subject)))
    method = gates_run(subject)
    if method is not None:
        split_batch_is_its_parts(subject, method)


def _gated(model: PreTrainedModel) -> list[Method]:
    configs = family_configs(layout_of(model), dict.fromkeys(GATED, ""))
    return [
        Method(f"gated {family}", f"{configs[family].removesuffix(']')},use_gating=True]", (part,))
        for family, part in GATED.items()
    ]
