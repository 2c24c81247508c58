"""Classes of upstream that are part of a model, and are base models by themselves."""

from __future__ import annotations

import pytest

from adapter_runtime.contract.registry import registered
from adapter_runtime.errors import UnsupportedMethodError
from runtime_models import adapted


def test_a_class_that_says_what_it_supports_is_asked_in_place_of_its_type(monkeypatch: pytest.MonkeyPatch) -> None:
    model, of_type = adapted("bert"), registered().methods["bert"]
    assert isinstance(of_type, dict)
    monkeypatch.setitem(of_type, "lora", "Another part of the model has no place for it.")
    monkeypatch.setattr(type(model), "own_methods", {"lora": "", "prefix_tuning": "It packs rows."})
    with pytest.raises(UnsupportedMethodError, match=r"A BertModel\w* does not support prefix_tuning: It packs rows"):
        model.add_adapter("p", config="prefix_tuning")
    assert model.supports_adapter("lora") and not model.supports_adapter("prefix_tuning")
