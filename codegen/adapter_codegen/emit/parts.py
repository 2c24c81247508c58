"""What the parts of a model made of several are, and which methods each takes, as far as the text and the records of others say.

A part is a model of its own class. Where only one class is possible, its own model type, or the file that it stands in, says what it
supports. Elsewhere that is known when a model is built.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from adapter_codegen.emit.manifest import ModelRecord
from adapter_codegen.model import LEFT_TO_PARTS, Method, ModelPlan

Reasons = Mapping[str, str]  # method -> "" if supported, else the reason why not


@dataclass(frozen=True)
class PartRow:
    """A part of a model, for tables."""

    path: str  # from the base model
    class_name: str  # "" = known when a model is built
    model_type: str = ""  # whose base model it is; "" = no generated one, or it is not known
    methods: Reasons | None = None  # None = not known
    usual_type: str = ""  # the generated model type that stands there by default, where it is open; "" = none

    @property
    def is_open(self) -> bool:
        """Whether the class is known only when a model is built."""
        return not self.class_name

    def supports(self, method: Method) -> bool:
        """Whether the part takes a method; no part takes any that adapters do not know."""
        return self.methods is not None and self.methods.get(method.value) == ""


def mark_of(record: ModelRecord, method: Method) -> str:
    """Whether a model takes a method: "yes", "no", or "open" where that depends on the models inside of it."""
    if record.methods[method.value]:
        return "no"
    return "open" if record.restrictions.get(method.value) == LEFT_TO_PARTS else "yes"


def parts_of_record(record: ModelRecord, records: Mapping[str, ModelRecord]) -> tuple[PartRow, ...]:
    """The parts of a generated model.

    Args:
        records: of all models, by type.
    """
    return _rows(record.parts, record.usual_parts, record.module, record.towers, records)


def parts_of_plan(plan: ModelPlan, records: Mapping[str, ModelRecord]) -> tuple[PartRow, ...]:
    """The parts of a model that is planned but not generated."""
    towers = {
        f"{plan.module}.{tower.base.class_name}": {
            entry.method.value: "" if entry.supported else entry.reason for entry in tower.methods
        }
        for tower in plan.towers
    }
    return _rows(classes_of(plan), usual_types_of(plan), plan.module, towers, records)


def classes_of(plan: ModelPlan) -> dict[str, str]:
    """The parts of a model by their paths, each with its class; "" = known when a model is built."""
    return {part.path: part.class_name for part in plan.base.parts}


def usual_types_of(plan: ModelPlan) -> dict[str, str]:
    """The paths of parts of any class, each with the model type that stands there by default, as far as upstream says it."""
    return {part.path: part.usual_type for part in plan.base.parts if part.usual_type}


def _rows(
    parts: Mapping[str, str],
    usual: Mapping[str, str],
    module: str,
    towers: Mapping[str, Reasons],
    records: Mapping[str, ModelRecord],
) -> tuple[PartRow, ...]:
    def row(path: str, class_name: str) -> PartRow:
        if class_name:
            return _row(path, class_name, module, towers, records)
        model_type = usual.get(path, "")
        return PartRow(path, "", usual_type=model_type if model_type in records else "")

    return tuple(row(path, class_name) for path, class_name in parts.items())


def _row(
    path: str, class_name: str, module: str, towers: Mapping[str, Reasons], records: Mapping[str, ModelRecord]
) -> PartRow:
    """The row of a part. A class of the same file comes before one of this name elsewhere, of which there must be one.

    Args:
        module: of the model that has the part.
        towers: classes of that file that are base models by themselves, each with its methods.
    """
    bases = [record for record in records.values() if record.base_class == class_name]
    for record in [record for record in bases if record.module == module] or (bases if len(bases) == 1 else []):
        return PartRow(path, class_name, record.model_type, record.methods)
    if f"{module}.{class_name}" in towers:
        return PartRow(path, class_name, methods=towers[f"{module}.{class_name}"])
    elsewhere = {
        key: (record.model_type, own)
        for record in records.values()
        for key, own in record.towers.items()
        if key.rpartition(".")[2] == class_name
    }
    if len(elsewhere) == 1:
        ((model_type, own),) = elsewhere.values()
        return PartRow(path, class_name, model_type, own)
    return PartRow(path, class_name)
