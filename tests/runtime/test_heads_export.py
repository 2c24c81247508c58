"""Flexible heads back in upstream's classes: whole models, and files of heads.

That each class of a generated model comes back as it was is checked in ``tests/conformance/heads.py``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BertForMaskedLM,
    BertForSequenceClassification,
    LlamaForCausalLM,
    LlamaForQuestionAnswering,
    LlamaForSequenceClassification,
    PreTrainedModel,
)

from adapter_models import AutoAdapterModel, init
from adapter_runtime.errors import AdapterMismatchError
from adapter_runtime.heads.errors import UnknownHeadError, UnsupportedHeadError
from conformance.tiny import randomise, tiny_config
from runtime_models import randomise as randomise_adapter

TOKENS = torch.randint(3, 90, (2, 7), generator=torch.Generator().manual_seed(2))
MASK = torch.ones_like(TOKENS)


def adapter_model(model_type: str, **changes: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    model = AutoAdapterModel.from_config(tiny_config(model_type, **changes))
    randomise(model)
    return model.eval()


def test_a_head_is_written_back_and_upstream_computes_the_same(tmp_path: Path) -> None:
    model = adapter_model("bert")
    names = {0: "no", 1: "maybe", 2: "yes"}
    model.add_classification_head(
        "c", layers=1, activation_function=None, use_pooler=True, id2label=names, num_labels=3
    )
    randomise(model.heads["c"])
    model.add_masked_lm_head("other")
    expected = model(TOKENS, head="c").logits
    static = model.to_static("c")
    assert type(static) is BertForSequenceClassification
    assert_close(static(TOKENS).logits, expected)
    static.save_pretrained(tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert type(again) is BertForSequenceClassification
    assert again.config.id2label == names
    assert not hasattr(again.config, "prediction_heads")
    assert_close(again(TOKENS).logits, expected)
    assert model.heads.keys() == {"c", "other"}


@pytest.mark.parametrize("model_type", ["iquestcoder", "internlm3"])
def test_a_class_that_upstream_uses_with_the_config_of_another_model_type_is_written_back_to(
    model_type: str, tmp_path: Path
) -> None:
    model = adapter_model(model_type)
    model.add_causal_lm_head("c", layers=1, activation_function=None, layer_norm=False, bias=False)
    expected = model(TOKENS).logits
    static = model.to_static("c")
    assert type(static) is LlamaForCausalLM and static.config.model_type == model_type
    static.save_pretrained(tmp_path)
    assert_close(AutoModelForCausalLM.from_pretrained(tmp_path)(TOKENS).logits, expected)
    with pytest.raises(UnsupportedHeadError, match="LlamaForQuestionAnswering is no class of upstream's"):
        model.to_static("c", class_name="LlamaForQuestionAnswering")


def test_what_comes_out_shares_no_memory_and_holds_no_adapter_but_a_merged_one() -> None:
    model = adapter_model("llama")
    model.add_causal_lm_head("c", layers=1, activation_function=None, layer_norm=False, bias=False)
    model.add_adapter("a", "lora")
    randomise_adapter(model, "a")
    without = model(TOKENS).logits
    exported = model.export_static_head("c")
    assert exported.class_name == "LlamaForCausalLM"
    upstream = LlamaForCausalLM(tiny_config("llama"))
    assert exported.state_dict.keys() == upstream.state_dict().keys()
    upstream.load_state_dict(exported.state_dict)
    assert_close(upstream.eval()(TOKENS).logits, without)
    model.set_active_adapters("a")
    expected = model(TOKENS).logits
    assert not torch.allclose(expected, without)
    model.merge_adapter("a")
    static = model.to_static("c")
    assert_close(static(TOKENS).logits, expected, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        static.lm_head.weight.zero_()
    assert model.heads["c"][0].weight.any()


def test_several_labels_at_once_become_the_problem_type_of_upstream() -> None:
    model = adapter_model("llama")
    model.add_classification_head("c", layers=1, multilabel=True, num_labels=3, bias=False)
    static = model.to_static()
    assert static.config.problem_type == "multi_label_classification"
    labels = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
    assert_close(static(TOKENS, labels=labels).loss, model(TOKENS, labels=labels).loss)


def test_a_class_that_keeps_its_base_model_elsewhere_is_served() -> None:
    model = adapter_model("llama")
    model.add_qa_head("q")
    static = model.to_static()
    assert type(static) is LlamaForQuestionAnswering
    assert_close(static(TOKENS).start_logits, model(TOKENS).start_logits)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": 2, "use_pooler": True}, "BertForSequenceClassification: layers: 2 and 1"),
        ({"layers": 1}, "use_pooler: False and True"),
        ({"layers": 1, "use_pooler": True, "bias": False}, "bias: False and True"),
    ],
)
def test_a_head_that_upstream_does_not_have_is_refused(options: dict[str, Any], message: str) -> None:
    model = adapter_model("bert")
    model.add_classification_head("c", **options)
    with pytest.raises(UnsupportedHeadError, match=message):
        model.to_static("c")


def test_an_activation_that_the_model_does_not_have_is_refused() -> None:
    model = adapter_model("bert")
    model.add_masked_lm_head("m", activation_function="relu")
    with pytest.raises(UnsupportedHeadError, match="activation_function: 'relu' and 'gelu'"):
        model.to_static("m")
    model.add_masked_lm_head("n")
    assert type(model.to_static("n")) is BertForMaskedLM


def test_a_class_that_makes_no_sense_is_refused() -> None:
    model = adapter_model("bert")
    model.add_masked_lm_head("m")
    with pytest.raises(UnsupportedHeadError, match=r"LlamaForCausalLM is no class of upstream's.*BertForMaskedLM"):
        model.to_static("m", class_name="LlamaForCausalLM")
    with pytest.raises(UnsupportedHeadError, match="BertForTokenClassification: head_type: masked_lm and tagging"):
        model.to_static("m", class_name="BertForTokenClassification")
    with pytest.raises(UnknownHeadError):
        model.to_static("z")


def static_model(**changes: Any) -> LlamaForSequenceClassification:
    torch.manual_seed(1)
    static = LlamaForSequenceClassification(tiny_config("llama", num_labels=3, **changes)).eval()
    init(static)
    return static


def flexible_file(folder: Path, **options: Any) -> torch.Tensor:
    """Write an adapter "a" with a head beside it. Returns the weight of the head."""
    model = adapter_model("llama")
    model.add_adapter("a")
    model.add_classification_head("a", **{"layers": 1, "bias": False, "num_labels": 3, **options})
    randomise(model.heads["a"])
    model.save_adapter(folder, "a", with_head=True)
    return model.heads["a"].state_dict()["1.weight"]


def test_a_static_model_takes_a_flexible_head_that_is_like_its_own(tmp_path: Path) -> None:
    weight = flexible_file(tmp_path, id2label={0: "x", 1: "y", 2: "z"})
    beside, alone = static_model(), static_model()
    assert beside.load_adapter(tmp_path) == "a"
    assert alone.load_head(tmp_path) is None
    for static in (beside, alone):
        assert torch.equal(static.score.weight, weight)
        assert static.config.id2label == {0: "x", 1: "y", 2: "z"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": 2}, "layers: 2 and 1"),
        ({"num_labels": 4}, "num_labels: 4 and 3"),
        ({"bias": True}, "bias: True and False"),
    ],
)
def test_a_static_model_leaves_another_head_beside_an_adapter_and_refuses_it_alone(
    tmp_path: Path, options: dict[str, Any], message: str, caplog: pytest.LogCaptureFixture
) -> None:
    flexible_file(tmp_path, **options)
    static = static_model()
    before = static.score.weight.detach().clone()
    assert static.load_adapter(tmp_path) == "a"
    assert "was not loaded into a LlamaForSequenceClassification" in caplog.text
    with pytest.raises(AdapterMismatchError, match=message):
        static.load_head(tmp_path)
    assert torch.equal(static.score.weight, before)


def test_a_static_head_in_a_flexible_model_and_out_again(tmp_path: Path) -> None:
    static = static_model()
    randomise(static.score)
    static.save_head(tmp_path / "static")
    model = adapter_model("llama")
    model.load_head(tmp_path / "static", load_as="h")
    model.save_head(tmp_path / "flexible", "h")
    other = static_model()
    other.load_head(tmp_path / "flexible")
    assert torch.equal(other.score.weight, static.score.weight)
