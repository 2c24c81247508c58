"""What must hold of the checked-in models together, whatever number there is."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
MODELS: dict[str, dict[str, Any]] = json.loads(
    (ROOT / "generated" / "adapter_models" / "manifest.json").read_text(encoding="utf-8")
)["models"]


@pytest.mark.parametrize("field", ["adapter_model", "package", "config_class"])
def test_no_two_models_have_it_in_common(field: str) -> None:
    counts = Counter(record[field] for record in MODELS.values())
    assert {name: count for name, count in counts.items() if count > 1} == {}


def test_a_class_of_upstream_is_either_mixed_with_or_copied() -> None:
    twice = {name for record in MODELS.values() for name in {*record["mixins"]} & {*record["with_adapters"]}}
    assert not twice


def test_no_model_names_a_class_of_upstream_that_is_not_in_its_own_file() -> None:
    for model_type, record in MODELS.items():
        foreign = [
            name
            for table in ("mixins", "with_adapters")
            for name in record[table]
            if name.rpartition(".")[0] != record["module"]
        ]
        assert not foreign, model_type
