"""Whatever an auto class of upstream makes goes through `init` if its base model is one of its attributes."""

from __future__ import annotations

import pytest
from transformers import PreTrainedModel

from adapter_models import init
from adapter_runtime.contract.registry import registered
from adapter_runtime.errors import UnsupportedModelError
from adapter_runtime.model.base import ModelBaseAdaptersMixin
from conformance.auto_classes import auto_classes, built, holds_a_base_model, known_to_hold_parts

MODEL_TYPES = sorted(registered().model_types)


def _classes(model: PreTrainedModel) -> list[type]:
    return [type(module) for module in model.modules()]


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_init(model_type: str) -> None:
    models = [model for cls in auto_classes(model_type) if (model := built(model_type, cls)) is not None]
    assert models
    for model in models:
        name = type(model).__name__
        assert holds_a_base_model(model) != (name in known_to_hold_parts()), name
        if holds_a_base_model(model):
            init(model)
            bases = [module for module in model.modules() if isinstance(module, ModelBaseAdaptersMixin)]
            assert len(bases) == 1 and list(bases[0].iter_layers()), name
        else:
            before = _classes(model)
            with pytest.raises(UnsupportedModelError, match=r"has no adapter classes|several models"):
                init(model)
            assert _classes(model) == before


def test_every_class_that_is_known_to_hold_parts_is_one_of_a_table() -> None:
    assert known_to_hold_parts() <= {cls.__name__ for name in MODEL_TYPES for cls in auto_classes(name)}


def test_most_classes_are_built() -> None:
    """One that upstream refuses to build is not tried: where that were the rule, the test above would say nothing."""
    tried = [(name, cls) for name in MODEL_TYPES[::10] for cls in auto_classes(name)]
    assert sum(built(name, cls) is not None for name, cls in tried) >= 0.95 * len(tried)
