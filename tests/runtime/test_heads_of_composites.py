"""Heads on the part of a model that gives its hidden states: they compute, and write, what upstream's classes do."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.testing import assert_close
from transformers import (
    CLIPConfig,
    CLIPForImageClassification,
    GenerationMixin,
    PreTrainedModel,
    SiglipConfig,
    SiglipForImageClassification,
)

from adapter_models import AutoAdapterModel
from adapter_runtime import Parallel
from adapter_runtime.errors import InvalidConfigError
from adapter_runtime.heads.sizes import feeding_config, hidden_size
from adapter_runtime.heads.static import flexible_config
from adapter_runtime.model.heads.generation import rebound, taken_over
from conformance.checks.conversion import conversion_goes_back, conversion_keeps_outputs, converting_subjects
from conformance.heads import (
    adapter_model,
    adapter_model_class,
    head_is_saved_with_adapter,
    head_types,
    head_works,
    model_is_saved,
    static_head_type,
)

WRITERS = ("qwen2_vl", "granite_docling")


@pytest.mark.parametrize("model_type", WRITERS)
def test_a_checkpoint_becomes_a_flexible_head_and_goes_back(model_type: str) -> None:
    subjects = converting_subjects(model_type)
    assert subjects
    for subject in subjects:
        conversion_keeps_outputs(subject)  # logits, loss, and three more tokens
        conversion_goes_back(subject)


@pytest.mark.parametrize(
    "model_type",
    [
        pytest.param("xlnet", id="a token to predict is put behind the others, and states are kept"),
        pytest.param("falcon_mamba", id="the mask is of the first step alone"),
        pytest.param("qwen3_omni_moe_thinker", id="a step asks for a field of the config"),
        pytest.param("mistral4", id="a class for images, of a model of text"),
    ],
)
def test_steps_of_generation_are_upstreams(model_type: str) -> None:
    cls = adapter_model_class(model_type)
    subjects = [one for one in converting_subjects(model_type) if static_head_type(one) == "causal_lm"]
    assert subjects
    assert "causal_lm" in cls.head_types  # type: ignore[attr-defined]
    for subject in subjects:
        conversion_keeps_outputs(subject)
        conversion_goes_back(subject)


def test_heads_of_a_text_part_read_its_config() -> None:
    subjects = converting_subjects("modernvbert")
    assert len(subjects) == 3
    for subject in subjects:
        conversion_keeps_outputs(subject)
        conversion_goes_back(subject)


def test_a_config_that_does_not_say_the_activation_of_a_head_is_no_config_for_it() -> None:
    config = adapter_model("modernvbert").config
    assert flexible_config("ModernVBertForTokenClassification", config)["activation_function"] == "gelu"
    with pytest.raises(InvalidConfigError, match=r"text_config\.classifier_activation"):
        flexible_config("ModernVBertForTokenClassification", {"text_config": {}})


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


def test_a_method_without_gradients_that_is_taken_over_has_none_either() -> None:
    class Base:
        def step(self) -> list[bool]:
            return [torch.is_grad_enabled()]

    class Lender(Base):
        @torch.no_grad()
        def step(self) -> list[bool]:
            return [torch.is_grad_enabled(), *super().step()]

    class Taker(Base):
        pass

    Taker.step = taken_over(Lender.__dict__["step"], Taker)  # type: ignore[method-assign, assignment]
    assert Taker().step() == [False, False]
    assert torch.is_grad_enabled()
    Taker.step = taken_over(Base.step, Taker)  # type: ignore[method-assign, assignment, arg-type]
    assert Taker().step() == [True]


def test_a_class_without_heads_does_not_generate() -> None:
    assert not issubclass(adapter_model_class("blip-2"), GenerationMixin)
    assert issubclass(adapter_model_class("qwen2_vl"), GenerationMixin)


# Heads on one part of a model whose parts are read one by one

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
TOKENS = torch.tensor([[1, 2, 3], [3, 4, 2]])
TWO_TOWERS = [
    pytest.param(CLIPConfig, CLIPForImageClassification, id="the mean without the class token"),
    pytest.param(SiglipConfig, SiglipForImageClassification, id="the mean of all patches"),
]


def classifier(
    config: type, upstream: type, folder: Path, **options: object
) -> tuple[PreTrainedModel, PreTrainedModel]:
    """Upstream's class, and the flexible model of its checkpoint."""
    torch.manual_seed(0)
    text = {**SMALL, "vocab_size": 50, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    vision = {**SMALL, "image_size": 8, "patch_size": 4}
    model = upstream(config(text_config=text, vision_config=vision, num_labels=3, **options)).eval()
    model.save_pretrained(folder)
    return model, AutoAdapterModel.from_pretrained(folder).eval()


@pytest.mark.parametrize(("config", "upstream"), TWO_TOWERS)
def test_an_image_is_classified_by_the_tower_alone(config: type, upstream: type, tmp_path: Path) -> None:
    model, flexible = classifier(config, upstream, tmp_path)
    labels = torch.tensor([2, 0])
    with torch.no_grad():
        theirs, ours = model(pixel_values=IMAGES, labels=labels), flexible(pixel_values=IMAGES, labels=labels)
    assert_close((ours.logits, ours.loss), (theirs.logits, theirs.loss))
    again = flexible.to_static("default")
    assert type(again) is upstream
    assert_close(dict(again.state_dict()), dict(model.state_dict()), atol=0.0, rtol=0.0)


@pytest.mark.parametrize(("config", "upstream"), TWO_TOWERS)
def test_what_a_checkpoint_of_one_tower_does_not_have_is_named(
    config: type, upstream: type, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Not where the file has both."""
    _, flexible = classifier(config, upstream, tmp_path / "one")
    (message,) = (one for one in caplog.messages if "random values" in one)
    prefix = flexible.base_model_prefix
    named = message.partition("has nothing of ")[2].partition(", which")[0].split(", ")
    assert message.startswith(f"A checkpoint of {upstream.__name__} ")
    assert {f"{prefix}.text_model", f"{prefix}.logit_scale"} <= set(named)
    assert f"{prefix}.vision_model" not in message
    caplog.clear()
    flexible.save_pretrained(tmp_path / "both")
    again, info = type(flexible).from_pretrained(tmp_path / "both", output_loading_info=True)
    assert type(again) is type(flexible)
    assert not info["missing_keys"]
    assert "random values" not in caplog.text


@pytest.mark.parametrize(("config", "upstream"), TWO_TOWERS)
def test_without_a_head_both_towers_run(config: type, upstream: type, tmp_path: Path) -> None:
    _, flexible = classifier(config, upstream, tmp_path)
    flexible.active_head = None
    with torch.no_grad():
        outputs = flexible(input_ids=TOKENS, pixel_values=IMAGES)
        base = flexible.base_model(input_ids=TOKENS, pixel_values=IMAGES)
    assert_close(outputs.logits_per_image, base.logits_per_image)


def test_several_labels_of_an_image_come_from_the_config(tmp_path: Path) -> None:
    model, flexible = classifier(
        CLIPConfig, CLIPForImageClassification, tmp_path, problem_type="multi_label_classification"
    )
    labels = torch.tensor([[1.0, 0, 1], [0, 1, 0]])
    with torch.no_grad():
        theirs, ours = model(pixel_values=IMAGES, labels=labels), flexible(pixel_values=IMAGES, labels=labels)
    assert_close(ours.loss, theirs.loss)
    assert flexible.to_static("default").config.problem_type == "multi_label_classification"


def test_parallel_adapters_of_a_tower_are_those_one_after_the_other(tmp_path: Path) -> None:
    _, flexible = classifier(CLIPConfig, CLIPForImageClassification, tmp_path)
    alone = []
    for name, method in (("a", "seq_bn"), ("b", "lora[init_weights='bert']")):
        flexible.add_adapter(name, config=method)
        flexible.set_active_adapters(name)
        with torch.no_grad():
            alone.append(flexible(pixel_values=IMAGES, head="default").logits)
    assert not torch.allclose(*alone)
    flexible.set_active_adapters(Parallel("a", "b"))
    with torch.no_grad():
        together = flexible(pixel_values=IMAGES, head="default").logits
    assert_close(together, torch.cat(alone))


@pytest.mark.parametrize("check", [head_works, model_is_saved, head_is_saved_with_adapter])
def test_heads_of_a_tower_are_trained_and_saved(check: object) -> None:
    check("clip", "image_classification")  # type: ignore[operator]
