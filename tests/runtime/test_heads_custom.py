"""Heads of a user's own, averaged heads, the pooler by default, vocabulary of several language modelling heads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from transformers import BertForSequenceClassification, PreTrainedModel, Trainer, TrainingArguments
from transformers.modeling_outputs import SequenceClassifierOutput

from adapter_models import AutoAdapterModel, BertAdapterModel, init
from adapter_models.heads import PredictionHead, register_custom_head
from adapter_runtime.errors import InvalidConfigError
from adapter_runtime.heads import custom
from adapter_runtime.heads.errors import UnknownHeadError
from conformance.tiny import randomise, tiny_config

TOKENS = torch.randint(3, 90, (2, 7), generator=torch.Generator().manual_seed(2))
LABELS = torch.tensor([0, 1])


def adapter_model(**changes: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    model = AutoAdapterModel.from_config(tiny_config("bert", **changes))
    randomise(model)
    return model.eval()


class Scorer(PredictionHead):
    """As the guides of `adapters` write a head."""

    label_arguments = ("labels", "importance")

    def __init__(self, model: Any, head_name: str, num_labels: int = 2, layers: int = 1, **_: Any) -> None:
        super().__init__(head_name)
        self.config = {"num_labels": num_labels, "layers": layers, "activation_function": "tanh"}
        self.build(model=model)

    def forward(
        self,
        outputs: Any,
        cls_output: Any = None,
        attention_mask: Any = None,
        return_dict: bool = False,
        **kwargs: Any,
    ) -> Any:
        logits = super().forward(cls_output)
        labels, importance = kwargs.pop("labels", None), kwargs.pop("importance", 1.0)
        loss = None if labels is None else (nn.functional.cross_entropy(logits, labels) * importance).mean()
        return SequenceClassifierOutput(loss=loss, logits=logits) if return_dict else (loss, logits)


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(custom, "_registered", {})


def test_a_custom_head_runs_with_targets_of_its_own() -> None:
    model = adapter_model()
    model.register_custom_head("scorer", Scorer)
    model.add_custom_head("scorer", "s", num_labels=3, layers=2)
    outputs = model(TOKENS, labels=LABELS, importance=2.0)
    assert outputs.logits.shape == (2, 3)
    assert_close(outputs.loss, 2 * model(TOKENS, labels=LABELS).loss)
    assert model.get_prediction_heads_config()["s"]["head_type"] == "scorer"


def test_a_custom_head_is_one_of_several() -> None:
    model = adapter_model()
    model.register_custom_head("scorer", Scorer)
    model.add_custom_head("scorer", "s")
    model.add_classification_head("c")
    model.active_head = ["s", "c"]
    outputs = model(TOKENS, labels=LABELS)
    assert_close(
        outputs.loss, model(TOKENS, labels=LABELS, head="s").loss + model(TOKENS, labels=LABELS, head="c").loss
    )


def test_a_custom_head_is_saved_and_loaded_by_its_identifier(tmp_path: Path) -> None:
    model = adapter_model()
    model.register_custom_head("scorer", Scorer)
    model.add_custom_head("scorer", "s", num_labels=3)
    model.save_head(tmp_path / "head", "s")
    model.save_pretrained(tmp_path / "model")
    other = BertAdapterModel(model.config.__class__.from_dict({**model.config.to_dict(), "prediction_heads": {}}))
    with pytest.raises(InvalidConfigError, match=r"no head of type 'scorer'.*register_custom_head\(identifier"):
        other.load_head(tmp_path / "head")
    with pytest.raises(InvalidConfigError, match="no head of type 'scorer'"):
        AutoAdapterModel.from_pretrained(tmp_path / "model")
    assert len(other.heads) == 0
    register_custom_head("scorer", Scorer)
    other.load_head(tmp_path / "head")
    again = AutoAdapterModel.from_pretrained(tmp_path / "model").eval()
    for loaded in (other, again):
        assert type(loaded.heads["s"]) is Scorer
        assert torch.equal(loaded.heads["s"].state_dict()["1.weight"], model.heads["s"].state_dict()["1.weight"])
    assert_close(again(TOKENS, head="s").logits, model(TOKENS).logits)


def test_a_custom_identifier_that_makes_no_sense_is_refused() -> None:
    model = adapter_model()
    with pytest.raises(ValueError, match="'tagging' is a type of head that there is already"):
        model.register_custom_head("tagging", Scorer)
    with pytest.raises(TypeError, match="subclass of PredictionHead"):
        register_custom_head("mine", nn.Linear)  # type: ignore[arg-type]
    with pytest.raises(InvalidConfigError, match="no head of type 'scorer'"):
        model.add_custom_head("scorer", "s")
    model.register_custom_head("strict", Strict)
    with pytest.raises(InvalidConfigError, match="does not take the options width"):
        model.add_custom_head("strict", "s", width=3)
    assert len(model.heads) == 0


class Strict(PredictionHead):
    def __init__(self, model: Any, head_name: str) -> None:
        super().__init__(head_name, {"layers": 1, "num_labels": 1})
        self.build(model)


def two_heads() -> PreTrainedModel:
    model = adapter_model()
    for name in ("a", "b"):
        model.add_classification_head(name, num_labels=3)
        randomise(model.heads[name], seed=ord(name))
    return model


@pytest.mark.parametrize(
    ("heads", "weights", "normalize", "factors"),
    [
        (["a", "b"], None, True, (0.5, 0.5)),
        (["a", "b"], [3, 1], True, (0.75, 0.25)),
        (["a", "b"], [3, 1], False, (3.0, 1.0)),
        ({"a": 1, "b": 3}, None, True, (0.25, 0.75)),
        (["a", "b"], [1, -1], False, (1.0, -1.0)),
    ],
)
def test_an_averaged_head_is_the_weighted_sum(heads: Any, weights: Any, normalize: bool, factors: Any) -> None:
    model = two_heads()
    model.average_head("m", heads, weights, normalize_weights=normalize)
    assert model.active_head == "b"
    first, second, mean = (model.heads[name].state_dict() for name in ("a", "b", "m"))
    for key, value in mean.items():
        assert_close(value, factors[0] * first[key] + factors[1] * second[key])


@pytest.mark.parametrize(
    ("heads", "weights", "error", "message"),
    [
        (["a", "z"], None, UnknownHeadError, "no head 'z'"),
        (["a", "other"], None, ValueError, "differ in label2id, num_labels"),
        (["a", "tags"], None, ValueError, "differ in their class"),
        (["a", "b"], [1, -1], ValueError, "sum to 0"),
        (["a", "b"], [1], ValueError, "1 weights"),
        ({"a": 1.0, "b": 1.0}, [1, 1], ValueError, "given twice"),
        ([], None, ValueError, "no heads to average"),
    ],
)
def test_heads_that_cannot_be_averaged_are_refused(heads: Any, weights: Any, error: type, message: str) -> None:
    model = two_heads()
    model.add_classification_head("other", num_labels=4)
    model.add_tagging_head("tags", num_labels=3)
    with pytest.raises(error, match=message):
        model.average_head("m", heads, weights)
    assert "m" not in model.heads


def test_averaged_language_modelling_heads_are_tied_too() -> None:
    model = adapter_model()
    for name in ("a", "b"):
        model.add_masked_lm_head(name)
    model.average_head("m", ["a", "b"])
    assert model.heads["m"].get_output_embeddings().weight is model.get_input_embeddings().weight


def test_defect_34_the_pooler_is_used_where_the_class_says_so() -> None:
    """In `adapters` the attribute of the class had no effect."""

    class Pooling(BertAdapterModel):
        use_pooler = True

    for cls, expected in ((Pooling, True), (BertAdapterModel, False)):
        model = cls(tiny_config("bert"))
        model.add_classification_head("c")
        model.add_multiple_choice_head("m")
        model.add_classification_head("other", use_pooler=not expected)
        assert model.heads["c"].config["use_pooler"] is expected
        assert model.heads["m"].config["use_pooler"] is expected
        assert model.heads["other"].config["use_pooler"] is not expected


@pytest.mark.parametrize("tie", [True, False])
def test_new_tokens_reach_every_language_modelling_head_active_or_not(tie: bool, tmp_path: Path) -> None:
    model = adapter_model(tie_word_embeddings=tie)
    for name in ("a", "b"):
        model.add_masked_lm_head(name)
    old = model.heads["a"].get_output_embeddings().weight[:99].clone()
    model.active_head = ["b", "a"]
    model.resize_token_embeddings(120)
    for name in ("a", "b"):
        projection = model.heads[name].get_output_embeddings()
        assert (projection.weight is model.get_input_embeddings().weight) is tie
        assert model(TOKENS, head=name).logits.shape == (2, 7, 120)
        assert model.heads[name].config["vocab_size"] == 120
    assert torch.equal(model.heads["a"].get_output_embeddings().weight[:99], old)
    model.save_pretrained(tmp_path)
    again = AutoAdapterModel.from_pretrained(tmp_path).eval()
    assert_close(again(TOKENS, head="a").logits, model(TOKENS, head="a").logits)


def test_defect_26_several_tied_heads_change_no_class_and_all_keys_are_known() -> None:
    model, other = adapter_model(), adapter_model()
    classes = {cls: dict(vars(cls)) for cls in type(model).__mro__}
    for name in ("a", "b"):
        model.add_masked_lm_head(name)
    assert {cls: dict(vars(cls)) for cls in type(model).__mro__} == classes
    source = "bert.embeddings.word_embeddings.weight"
    assert model.all_tied_weights_keys == {"heads.a.3.weight": source, "heads.b.3.weight": source}
    assert other.all_tied_weights_keys == {}
    model.delete_head("a")
    assert model.all_tied_weights_keys == {"heads.b.3.weight": source}


def test_output_embeddings_are_those_of_the_first_active_head_that_has_them() -> None:
    model = adapter_model(tie_word_embeddings=False)
    model.add_masked_lm_head("a")
    model.add_classification_head("c")
    assert model.get_output_embeddings() is None
    model.active_head = ["c", "a"]
    assert model.get_output_embeddings() is model.heads["a"].get_output_embeddings()
    fresh = nn.Linear(32, 50)
    model.set_output_embeddings(fresh)
    assert model.heads["a"].get_output_embeddings() is fresh
    with pytest.raises(TypeError, match="has no projection to the vocabulary"):
        model.heads["c"].set_output_embeddings(fresh)


def test_inverse_invertible_adapters_run_just_before_the_projection(monkeypatch: pytest.MonkeyPatch) -> None:
    model = adapter_model()
    model.add_masked_lm_head("a")
    model.add_classification_head("c")
    *transform, projection = model.heads["a"]

    def inverse(hidden: torch.Tensor, rev: bool = False) -> torch.Tensor:
        assert rev
        return hidden * 2 + 1

    with torch.no_grad():
        plain = model(TOKENS, head="c").logits
        hidden = model.bert(TOKENS).last_hidden_state
        for layer in transform:
            hidden = layer(hidden)
        monkeypatch.setattr(model.bert, "invertible_adapters_forward", inverse, raising=False)
        monkeypatch.setattr(model.bert, "has_running_invertible", lambda projection: True, raising=False)
        assert_close(model.forward_head(model.bert(TOKENS), head="a").logits, projection(hidden * 2 + 1))
        assert torch.equal(model.forward_head(model.bert(TOKENS), head="c").logits, plain)


def test_steps_that_accumulate_gradients_sum_up_to_the_mean_over_the_batches(tmp_path: Path) -> None:
    """`Trainer` divides a loss only by what the model has not divided by; see `accepts_loss_kwargs`."""
    rows = [{"input_ids": row, "labels": label} for row, label in zip(TOKENS, LABELS, strict=True)]
    weights = []
    for steps in (1, 2):
        model = adapter_model(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
        model.add_classification_head("c")
        randomise(model.heads["c"])
        arguments = TrainingArguments(
            output_dir=str(tmp_path),
            per_device_train_batch_size=2 // steps,
            gradient_accumulation_steps=steps,
            max_steps=1,
            learning_rate=0.1,
            optim="sgd",
            max_grad_norm=0.0,
            report_to=[],
            save_strategy="no",
            use_cpu=True,
            disable_tqdm=True,
        )
        Trainer(model, arguments, train_dataset=rows).train()  # type: ignore[arg-type]
        weights.append(model.heads["c"].state_dict()["4.weight"])
    assert_close(weights[0], weights[1], rtol=1e-4, atol=1e-5)


def test_training_an_adapter_leaves_heads_trainable_but_what_is_tied_to_the_base_model() -> None:
    """As in `adapters`. A head that does not run gets no gradient, so no optimizer changes it."""
    model = adapter_model()
    model.add_adapter("a", "lora")
    model.add_classification_head("a")
    model.add_masked_lm_head("m", set_active=False)
    model.train_adapter("a")
    assert model.active_head == "a"
    assert all(parameter.requires_grad for parameter in model.heads["a"].parameters())
    frozen = [name for name, parameter in model.heads["m"].named_parameters() if not parameter.requires_grad]
    assert frozen == ["3.weight"]
    model(TOKENS, labels=LABELS).loss.backward()
    assert all(parameter.grad is not None for parameter in model.heads["a"].parameters())
    assert all(parameter.grad is None for parameter in model.heads["m"].parameters())


def test_the_head_of_an_adapter_moves_with_it_and_the_embeddings_stay() -> None:
    model = adapter_model()
    model.add_adapter("a")
    model.add_masked_lm_head("a")
    model.add_classification_head("b")
    model.adapter_to("a", dtype=torch.float64)
    dtypes = {name: parameter.dtype for name, parameter in model.heads["a"].named_parameters()}
    assert dtypes.pop("3.weight") is torch.float32
    assert set(dtypes.values()) == {torch.float64}
    assert {parameter.dtype for parameter in model.heads["b"].parameters()} == {torch.float32}
    assert model.get_input_embeddings().weight.dtype is torch.float32


def test_a_static_model_tells_its_labels_too() -> None:
    static = BertForSequenceClassification(
        tiny_config("bert", id2label={0: "no", 1: "yes"}, label2id={"no": 0, "yes": 1})
    )
    init(static)
    assert static.get_labels_dict() == {0: "no", 1: "yes"}
    assert static.get_labels() == ["no", "yes"]
