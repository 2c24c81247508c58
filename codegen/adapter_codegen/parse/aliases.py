"""Model types that are only another name of one: ``gpt-sw3`` has the config class of GPT-2, and that class says ``gpt2``.

No model ever bears such a name: what is loaded under it has the config, and so the model type, of the other.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass

from adapter_codegen.model import Location
from adapter_codegen.parse.automappings import AutoMappings


@dataclass(frozen=True)
class Alias:
    """What a model type is another name of."""

    model_type: str
    config_class: str  # that both have
    location: Location  # where it states the model type


def alias_of(mappings: AutoMappings, model_type: str) -> Alias | None:
    """What `model_type` is another name of; None where it is a type of its own."""
    entry = mappings.entry(model_type)
    sharing = {other for other, config in mappings.configs.items() if config == entry.config_class} - {model_type}
    if not sharing or not entry.config_path:
        return None
    for node in ast.parse(mappings.release.read(entry.config_path)).body:
        if isinstance(node, ast.ClassDef) and node.name == entry.config_class:
            for stated, value in _model_types(node):
                end = value.end_lineno or value.lineno, value.end_col_offset or value.col_offset
                place = Location(entry.config_path, value.lineno, value.col_offset, *end)
                return Alias(stated, entry.config_class, place) if stated in sharing else None
    return None


def _model_types(config: ast.ClassDef) -> list[tuple[str, ast.Constant]]:
    """What a config class assigns to ``model_type``."""
    found = []
    for node in config.body:
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        value = node.value if isinstance(node, ast.Assign | ast.AnnAssign) else None
        named = any(isinstance(target, ast.Name) and target.id == "model_type" for target in targets)
        if named and isinstance(value, ast.Constant) and isinstance(value.value, str):
            found.append((value.value, value))
    return found
