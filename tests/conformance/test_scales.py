"""Factors that are one by default: which they are, and that a prompt without one is found."""

from __future__ import annotations

import ast

import pytest

from adapter_models.blenderbot_small.mixin_blenderbot_small import BlenderbotSmallModelAdaptersMixin
from conformance.checks.reference import equals_the_reference
from conformance.methods import method
from conformance.scales import scales_in, subjects_of_other_scales
from conformance.subjects import method_subjects

(SMALL,) = method_subjects("blenderbot-small")
(LLAMA,) = method_subjects("llama")


@pytest.mark.parametrize(
    ("text", "factors", "switches"),
    [
        pytest.param("y = x * self.scale", set(), {}, id="nothing shows that a field is behind it"),
        pytest.param("y = x + config.scale", set(), {}, id="a field that is added"),
        pytest.param("self.scale = config.scale", set(), {}, id="a field that is kept"),
        pytest.param("self.scale = config.scale\ny = x * self.scale", {"scale"}, {}, id="kept under a name"),
        pytest.param("y = x / self.config.scale", {"scale"}, {}, id="read where it is used"),
        pytest.param("f = 2.0 if config.on else 0.5", set(), {}, id="neither is neutral"),
        pytest.param("f = 2 if config.on else 1", set(), {}, id="a count"),
        pytest.param("f = 2.0 if on else 1.0", set(), {}, id="no field decides"),
        pytest.param("f = 2.0 if config.on else 1.0", set(), {"on": False}, id="neutral without it"),
        pytest.param("f = 1.0 if config.off else 2.0", set(), {"off": True}, id="neutral with it"),
    ],
)
def test_the_fields_behind_factors(text: str, factors: set[str], switches: dict[str, bool]) -> None:
    assert scales_in(ast.parse(text)) == (factors, switches)


def test_only_neutral_factors_are_changed() -> None:
    assert subjects_of_other_scales(LLAMA) == ()
    (other,) = subjects_of_other_scales(SMALL)
    assert other.changes == (("scale_embedding", True),)
    assert subjects_of_other_scales(other) == ()


def test_the_reference_finds_that_a_prompt_is_not_scaled_as_tokens_are(monkeypatch: pytest.MonkeyPatch) -> None:
    equals_the_reference(SMALL, method("prompt_tuning"))
    monkeypatch.setattr(BlenderbotSmallModelAdaptersMixin, "token_scale", "")
    with pytest.raises(AssertionError, match="scale_embedding=True"):
        equals_the_reference(SMALL, method("prompt_tuning"))
