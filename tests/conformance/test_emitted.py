"""Where the text of a generated model is found, of the library and beside it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from adapter_runtime.contract import registry
from conformance import emitted
from conformance.emitted import modeling_module, source_of


def test_the_module_of_a_model_is_that_of_the_package_which_holds_its_classes() -> None:
    assert modeling_module("llama") == "adapter_models.llama.modeling_llama"
    assert "class LlamaDecoderLayer" in source_of(modeling_module("llama"))


def test_a_model_in_a_package_beside_the_library_is_found_there(monkeypatch: pytest.MonkeyPatch) -> None:
    known = registry.registered()
    models = {**known.adapter_models, "tiny": "planned_models.tiny.adapter_model.TinyAdapterModel"}
    monkeypatch.setattr(emitted, "registered", lambda: replace(known, adapter_models=models))
    assert modeling_module("tiny") == "planned_models.tiny.modeling_tiny"


def test_a_model_without_edits_has_no_text() -> None:
    assert source_of("adapter_models.llama.modeling_nothing") == ""
