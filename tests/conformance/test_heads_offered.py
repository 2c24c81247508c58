"""Every kind of head that a generated class offers can be added to it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import adapter_models
from adapter_runtime.contract.registry import registered
from conformance.heads import HEADS, adapter_model_class, head_types
from conformance.tiny import tiny_config

ROOT = Path(adapter_models.__file__).parent


def _offers_heads(path: str) -> bool:
    """By the text of the class: importing those of all types takes as long as all tests of this file."""
    return "\n    head_types = " in (ROOT.parent / f"{path.rpartition('.')[0].replace('.', '/')}.py").read_text(
        "utf-8"
    )


MODEL_TYPES = sorted(name for name, path in registered().adapter_models.items() if _offers_heads(path))


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_what_is_offered_can_be_added(model_type: str) -> None:
    offered = head_types(model_type)
    with torch.device("meta"):
        model = adapter_model_class(model_type)._from_config(tiny_config(model_type), attn_implementation="eager")
    for head_type in offered:
        case = HEADS[head_type]
        getattr(model, case.add)(head_type, **case.options)
    assert tuple(model.heads) == offered != ()


def test_many_models_offer_heads() -> None:
    """Where few did, the test above would say little. (Towers and many models of several offer none.)"""
    assert len(MODEL_TYPES) >= len(registered().adapter_models) / 3
