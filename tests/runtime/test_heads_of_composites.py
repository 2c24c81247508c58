"""Heads on the part of a model that gives its hidden states: they compute, and write, what upstream's classes do."""

from __future__ import annotations

import pytest
from transformers import GenerationMixin, PreTrainedModel

import adapter_models  # noqa: F401  registers
from adapter_runtime.contract.registry import registered
from adapter_runtime.heads.sizes import feeding_config, hidden_size
from adapter_runtime.model.heads.generation import rebound
from conformance.checks.conversion import conversion_goes_back, conversion_keeps_outputs, converting_subjects
from conformance.heads import (
    adapter_model,
    adapter_model_class,
    head_is_saved_with_adapter,
    head_types,
    head_works,
    model_is_saved,
)

WRITERS = ("qwen2_vl", "exaone4_5", "audioflamingo3", "granite_docling")


@pytest.mark.parametrize("model_type", WRITERS)
def test_a_checkpoint_becomes_a_flexible_head_and_goes_back(model_type: str) -> None:
    subjects = converting_subjects(model_type)
    assert subjects
    for subject in subjects:
        conversion_keeps_outputs(subject)  # logits, loss, and three more tokens
        conversion_goes_back(subject)


@pytest.mark.parametrize("model_type", WRITERS)
@pytest.mark.parametrize("check", [head_works, model_is_saved, head_is_saved_with_adapter])
def test_heads_are_trained_and_saved(model_type: str, check: object) -> None:
    assert "causal_lm" in head_types(model_type)
    check(model_type, "causal_lm")  # type: ignore[operator]


@pytest.mark.parametrize("model_type", WRITERS)
def test_a_head_is_as_wide_as_what_feeds_it(model_type: str) -> None:
    model = adapter_model(model_type)
    model.add_causal_lm_head("text")
    width = hidden_size(feeding_config(model))
    assert feeding_config(model) is model.config.get_text_config()
    assert model.heads["text"][-1].in_features == width


def test_what_upstream_says_of_a_step_is_taken_over() -> None:
    cls = adapter_model_class("qwen2_vl")
    upstream = cls.borrowed_from  # type: ignore[attr-defined]
    taken = cls.__dict__["_prepare_position_ids_for_generation"]
    assert taken is not upstream.__dict__["_prepare_position_ids_for_generation"]
    assert taken.__code__ is upstream.__dict__["_prepare_position_ids_for_generation"].__code__


def test_super_in_a_method_that_is_taken_over_goes_on_behind_the_class_that_took_it() -> None:
    class Base:
        def step(self, more: int = 1, *, last: int = 2) -> list[str]:
            return [f"base {more} {last}"]

    class Lender(Base):
        def step(self, more: int = 1, *, last: int = 3) -> list[str]:
            return ["lender", *super().step(more, last=last)]

    class Taker(Base):
        pass

    with pytest.raises(TypeError):
        Lender.step(Taker())  # type: ignore[arg-type]
    Taker.step = rebound(Lender.step, Taker)  # type: ignore[method-assign, assignment, arg-type]
    assert Taker().step(4) == ["lender", "base 4 3"]
    assert Lender().step() == ["lender", "base 1 3"]


def test_a_class_whose_loss_leaves_out_images_has_no_flexible_head() -> None:
    """GIT's logits begin with those of its image, its labels do not."""
    assert head_types("git") == ()
    assert "GitForCausalLM" not in registered().static_heads


def test_a_class_without_heads_does_not_generate() -> None:
    assert not issubclass(adapter_model_class("siglip_vision_model"), GenerationMixin)
    assert issubclass(adapter_model_class("qwen2_vl"), GenerationMixin)
    assert issubclass(adapter_model_class("qwen2_vl"), PreTrainedModel)
