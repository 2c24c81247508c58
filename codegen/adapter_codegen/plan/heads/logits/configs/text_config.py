"""Which config of a model ``config.get_text_config()`` gives, where upstream's own method decides it by the names of fields."""

from __future__ import annotations

from adapter_codegen.parse.automappings import ModelEntry
from adapter_codegen.parse.glance import glance
from adapter_codegen.plan.heads.logits.factors import OF_TEXT
from adapter_codegen.upstream import Release

# The fields that `PreTrainedConfig.get_text_config` looks for. With two of them it raises.
_NAMES = frozenset({"text_encoder", "decoder", "generator", "text_config"})
_ROOT = "PreTrainedConfig"


def text_config(release: Release, entry: ModelEntry) -> str | None:
    """The path of that config in the one of a model; "" = it is the same; None where the text of the class does not decide it."""
    if not entry.config_path:
        return None
    configs = glance(release, entry.config_path)
    lineage = [*configs.lineage(entry.config_class)]
    if lineage[-1] != _ROOT or any(OF_TEXT in configs.names(known) for known in lineage):
        return None  # of another file, or with a method of its own
    inside = configs.sub_config_names(entry.config_class)
    named = _NAMES & inside.union(*(configs.names(known) for known in lineage))
    if not named:
        return ""
    return next(iter(named)) if len(named) == 1 and named <= inside else None
