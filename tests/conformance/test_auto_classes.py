"""Whatever an auto class of upstream makes goes through `init`: its base model has adapters, or the models that it is made of have."""

from __future__ import annotations

import pytest
from transformers import PreTrainedModel

from adapter_models import init
from adapter_runtime.contract.registry import registered
from adapter_runtime.errors import UnsupportedModelError
from adapter_runtime.model.base import ModelBaseAdaptersMixin
from conformance.auto_classes import auto_classes, built, known_to_be_refused

MODEL_TYPES = sorted(registered().model_types)


def _classes(model: PreTrainedModel) -> list[type]:
    return [type(module) for module in model.modules()]


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_init(model_type: str) -> None:
    models = [model for cls in auto_classes(model_type) if (model := built(model_type, cls)) is not None]
    assert models
    for model in models:
        name = type(model).__name__
        if name in known_to_be_refused():
            before = _classes(model)
            with pytest.raises(UnsupportedModelError, match=r"has no adapter classes"):
                init(model)
            assert _classes(model) == before
        else:
            init(model)
            base = model.adapters_base
            bases = [module for module in model.modules() if isinstance(module, ModelBaseAdaptersMixin)]
            assert base in bases and all(module.adapters_base is base for module in bases), name
            assert list(base.iter_layers()), name


def test_every_class_that_is_known_to_be_refused_is_one_of_a_table() -> None:
    assert known_to_be_refused() <= {cls.__name__ for name in MODEL_TYPES for cls in auto_classes(name)}


def test_most_classes_are_built() -> None:
    """One that upstream refuses to build is not tried: where that were the rule, the test above would say nothing."""
    tried = [(name, cls) for name in MODEL_TYPES[::10] for cls in auto_classes(name)]
    assert sum(built(name, cls) is not None for name, cls in tried) >= 0.95 * len(tried)
