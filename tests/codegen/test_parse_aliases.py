"""Model types that are only another name: told by the config class that they share and the type that it states."""

from __future__ import annotations

import pytest

from adapter_codegen.model import Refusal
from adapter_codegen.parse import AutoMappings
from adapter_codegen.parse.aliases import alias_of
from adapter_codegen.plan import plan_model
from adapter_codegen.upstream import Release


@pytest.mark.parametrize("model_type", ["gpt2", "mlcd_vision_model", "llama", "xlm-roberta"])
def test_a_type_that_its_config_class_states_is_its_own(mappings: AutoMappings, model_type: str) -> None:
    assert alias_of(mappings, model_type) is None


def test_a_type_with_a_config_class_of_its_own_is_its_own_though_it_borrows_the_model(mappings: AutoMappings) -> None:
    assert mappings.entry("internlm3").base_class == mappings.entry("llama").base_class
    assert alias_of(mappings, "internlm3") is None


def test_another_name_is_told_with_the_place_that_states_the_type(mappings: AutoMappings) -> None:
    alias = alias_of(mappings, "gpt-sw3")
    assert alias is not None
    assert (alias.model_type, alias.config_class) == ("gpt2", "GPT2Config")
    line = mappings.release.read(alias.location.path).splitlines()[alias.location.line - 1]
    assert line.strip() == 'model_type = "gpt2"'


def test_another_name_is_refused_and_the_own_one_named(release: Release) -> None:
    refusal = plan_model(release, "gpt-sw3")
    assert isinstance(refusal, Refusal)
    (diagnostic,) = refusal.diagnostics
    assert diagnostic.code == "P104"
    assert "`adapter-codegen add-model gpt2`" in diagnostic.remedy
