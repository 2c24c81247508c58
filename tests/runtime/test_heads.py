"""Flexible heads on models: adding, running, tying, generating, deleting.

What every model must fulfil (shapes, losses, conversion of upstream's heads, saving) is in ``tests/conformance/heads.py``.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch.nn import functional
from torch.testing import assert_close
from transformers import BertForMultipleChoice, BertForSequenceClassification, LlamaForCausalLM, PreTrainedModel

from adapter_models import AdapterSetup, AutoAdapterModel, LlamaAdapterModel
from adapter_models.heads import PredictionHead
from adapter_runtime.contract import registry
from adapter_runtime.contract.names import InvalidNameError
from adapter_runtime.contract.registry import registered
from adapter_runtime.errors import InvalidConfigError
from adapter_runtime.heads.errors import UnknownHeadError, UnsupportedHeadError
from adapter_runtime.model.heads.running import _predicted
from conformance.tiny import randomise, tiny_config

TOKENS = torch.randint(3, 90, (2, 7), generator=torch.Generator().manual_seed(2))


def adapter_model(model_type: str, **changes: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    model = AutoAdapterModel.from_config(tiny_config(model_type, **changes))
    randomise(model)
    return model.eval()


def test_without_a_head_the_outputs_are_those_of_the_base_model() -> None:
    model = adapter_model("bert")
    with torch.no_grad():
        ours, base = model(TOKENS), model.bert(TOKENS)
    assert type(ours) is type(base)
    assert torch.equal(ours.last_hidden_state, base.last_hidden_state)


def test_states_are_scaled_before_the_vocabulary_where_the_config_says_so() -> None:
    model, scaled = adapter_model("llama"), adapter_model("llama")
    scaled.config.scale_decoder_outputs = True
    for one in (model, scaled):
        one.add_causal_lm_head("lm", layers=1, layer_norm=False, bias=False)
        one.heads["lm"].load_state_dict(model.heads["lm"].state_dict())
    with torch.no_grad():
        assert_close(scaled(TOKENS).logits, model(TOKENS).logits * model.config.hidden_size**-0.5)


def test_a_head_for_tokens_has_a_bias_unless_it_is_told_otherwise() -> None:
    model = adapter_model("bert")
    model.add_tagging_head("with")
    model.add_tagging_head("without", bias=False)
    assert "bias" not in model.heads["with"].config  # nor in files of `adapters`
    assert {name.rpartition(".")[2] for name in model.heads["with"].state_dict()} == {"weight", "bias"}
    assert {name.rpartition(".")[2] for name in model.heads["without"].state_dict()} == {"weight"}


def test_labels_without_a_head_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"Got labels, but no head is active\. Add one"):
        adapter_model("bert")(TOKENS, labels=torch.tensor([0, 1]))


def test_labels_that_a_head_does_not_take_are_an_error() -> None:
    model = adapter_model("bert")
    model.add_qa_head("q")
    with pytest.raises(ValueError, match="head 'q' takes start_positions and end_positions, not labels"):
        model(TOKENS, labels=torch.tensor([0, 1]))


@pytest.mark.parametrize(
    ("model_type", "method", "head_type"),
    [
        pytest.param("llama", "add_masked_lm_head", "masked_lm", id="a decoder fills in no words"),
        pytest.param("llama", "add_multiple_choice_head", "multiple_choice", id="upstream's Llama chooses no answers"),
        pytest.param(
            "bert", "add_image_classification_head", "image_classification", id="a text model sees no images"
        ),
        pytest.param("bert", "add_seq2seq_lm_head", "seq2seq_lm", id="an encoder has no decoder"),
    ],
)
def test_a_head_that_makes_no_sense_is_refused(model_type: str, method: str, head_type: str) -> None:
    model = adapter_model(model_type)
    with pytest.raises(UnsupportedHeadError, match=f"takes no head of type '{head_type}'.*'"):
        getattr(model, method)("h")
    assert len(model.heads) == 0


def test_the_head_of_a_call_beats_that_of_a_context_which_beats_the_active_one() -> None:
    model = adapter_model("bert")
    for name, count in {"two": 2, "three": 3, "four": 4}.items():
        model.add_classification_head(name, num_labels=count)
    assert model.active_head == "four"
    assert model(TOKENS).logits.shape[-1] == 4
    with AdapterSetup(None, head_setup="three"):
        assert model(TOKENS).logits.shape[-1] == 3
        assert model(TOKENS, head="two").logits.shape[-1] == 2
    model.active_head = None
    assert "logits" not in model(TOKENS)


def test_activating_an_adapter_activates_the_head_of_its_name() -> None:
    model = adapter_model("bert")
    for name in "ab":
        model.add_adapter(name)
        model.add_tagging_head(name)
    model.set_active_adapters("a")
    assert model.active_head == "a"
    model.train_adapter("b")
    assert model.active_head == "b"
    model.set_active_adapters(None)
    assert model.active_head == "b", "without adapters the head stays"


def test_an_unknown_head_names_those_there_are() -> None:
    model = adapter_model("bert")
    model.add_tagging_head("tagger")
    for use in (
        lambda: model(TOKENS, head="taggr"),
        lambda: model.delete_head("taggr"),
        lambda: model.save_head("x", "taggr"),
    ):
        with pytest.raises(UnknownHeadError, match=r"no head 'taggr'\. Did you mean 'tagger'"):
            use()
    with pytest.raises(UnknownHeadError):
        model.active_head = "taggr"
    assert model.active_head == "tagger"


def test_a_name_is_taken_once() -> None:
    model = adapter_model("bert")
    model.add_tagging_head("h")
    first = model.heads["h"]
    with pytest.raises(ValueError, match="has a head 'h'"):
        model.add_classification_head("h")
    assert model.heads["h"] is first
    model.add_classification_head("h", overwrite_ok=True)
    assert model.get_prediction_heads_config()["h"]["head_type"] == "classification"


@pytest.mark.parametrize("name", ["a.b", "../x", "keys", ""])
def test_a_head_cannot_have_a_name_that_leads_elsewhere(name: str) -> None:
    model = adapter_model("bert")
    with pytest.raises(InvalidNameError):
        model.add_tagging_head(name)
    assert model.config.prediction_heads == {}


def test_deleting_a_head_leaves_the_model_as_before() -> None:
    model = adapter_model("bert")
    keys, tied = set(model.state_dict()), dict(model.all_tied_weights_keys)
    model.add_masked_lm_head("h")
    model.delete_head("h")
    assert set(model.state_dict()) == keys
    assert model.all_tied_weights_keys == tied
    assert model.config.prediction_heads == {}
    assert model.active_head is None


@pytest.mark.parametrize(
    ("config", "message"),
    [
        pytest.param({"head_type": "magic"}, "no head of type 'magic'", id="an unknown type"),
        pytest.param({}, "no head of type None", id="no type"),
        pytest.param(
            {"head_type": "tagging", "num_label": 2}, "no option 'num_label'. Did you mean 'num_labels'", id="a slip"
        ),
    ],
)
def test_a_config_that_makes_no_sense_is_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidConfigError, match=message):
        adapter_model("bert").add_prediction_head_from_config("h", config)


def test_every_head_is_built_again_from_its_config() -> None:
    model = adapter_model("bert")
    names = {0: "no", 1: "yes"}
    model.add_classification_head("a", id2label=names, use_pooler=True, dropout_prob=0.3)
    model.add_classification_head("b", multilabel=True, layers=3, bias=False)
    model.add_tagging_head("c", layers=2, activation_function="gelu")
    model.add_qa_head("d")
    model.add_multiple_choice_head("e", num_choices=4)
    model.add_masked_lm_head("f")
    model.add_causal_lm_head("g", layers=1, activation_function=None, layer_norm=False)
    model.add_dependency_parsing_head("h", num_labels=5)
    other = adapter_model("bert")
    for name, config in model.get_prediction_heads_config().items():
        other.add_prediction_head_from_config(name, config)
    assert other.get_prediction_heads_config() == model.get_prediction_heads_config()
    assert str(other.heads) == str(model.heads)
    assert other.get_labels_dict("a") == names
    assert other.get_labels("a") == ["no", "yes"]
    assert other.get_labels("b") == ["LABEL_0", "LABEL_1"], "as `adapters` names labels that nobody named"
    assert other.get_labels("f") is None


def test_labels_must_be_as_many_as_are_named() -> None:
    with pytest.raises(ValueError, match="names 2 labels, but num_labels is 3"):
        adapter_model("bert").add_classification_head("h", num_labels=3, id2label={0: "a", 1: "b"})


@pytest.mark.parametrize(("model_type", "side"), [("bert", "right"), ("llama", "right"), ("llama", "left")])
def test_padding_does_not_change_what_a_classifier_says(model_type: str, side: str) -> None:
    model = adapter_model(model_type)
    model.add_classification_head("h", num_labels=3)
    randomise(model.heads["h"])
    padding = torch.full((2, 3), model.config.pad_token_id)
    real, none = torch.ones_like(TOKENS), torch.zeros_like(padding)
    parts = [(padding, none), (TOKENS, real)] if side == "left" else [(TOKENS, real), (padding, none)]
    tokens, mask = (torch.cat(part, dim=1) for part in zip(*parts, strict=True))
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad():
        bare = model(TOKENS).logits
        padded = model(tokens, attention_mask=mask, position_ids=positions).logits
    assert_close(padded, bare, atol=1e-5, rtol=1e-5)


def test_choices_are_scored_as_if_each_stood_alone() -> None:
    model = adapter_model("bert")
    model.add_multiple_choice_head("h", num_choices=3)
    randomise(model.heads["h"])
    tokens = torch.randint(3, 90, (2, 3, 5))
    with torch.no_grad():
        together = model(tokens, attention_mask=torch.ones_like(tokens)).logits
        alone = torch.stack(
            [model.heads["h"].logits(model.bert(row).last_hidden_state[:, 0]).view(-1) for row in tokens]
        )
    assert_close(together, alone, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="chooses among 3 answers, but got 2 sequences"):
        model(tokens[0, :2])


def test_there_are_as_many_choices_as_the_inputs_have_like_upstream() -> None:
    static = BertForMultipleChoice(tiny_config("bert")).eval()
    randomise(static)
    model = adapter_model("bert")
    model.load_state_dict(static.state_dict(), strict=False)
    model.add_multiple_choice_head("h", num_choices=2, layers=1, activation_function=None, use_pooler=True)
    model.heads["h"][1].load_state_dict(static.classifier.state_dict())
    tokens, labels = torch.randint(3, 90, (2, 3, 5)), torch.tensor([2, 0])
    embedded = model.get_input_embeddings()(tokens)
    with torch.no_grad():
        expected = static(tokens, labels=labels)
        for given in ({"input_ids": tokens}, {"inputs_embeds": embedded}):
            found = model(**given, labels=labels)
            assert_close((found.logits, found.loss), (expected.logits, expected.loss))
        assert model(tokens.flatten(0, 1)).logits.shape == (3, 2), "without choices in the inputs, those of the head"


def test_the_pooled_output_of_the_base_model_is_used_on_request() -> None:
    model = adapter_model("bert")
    model.add_classification_head("h", layers=1, use_pooler=True)
    with torch.no_grad():
        assert_close(model(TOKENS).logits, model.heads["h"].logits(model.bert(TOKENS).pooler_output))
    decoder = adapter_model("llama")
    decoder.add_classification_head("h", use_pooler=True)
    with pytest.raises(ValueError, match="gives no pooled output"):
        decoder(TOKENS)


@pytest.mark.parametrize("tie", [True, False])
@pytest.mark.parametrize("method", ["add_masked_lm_head", "add_causal_lm_head"])
def test_a_language_modelling_head_is_tied_where_the_config_says_so(method: str, tie: bool) -> None:
    model = adapter_model("bert", tie_word_embeddings=tie)
    getattr(model, method)("h")
    projection, embeddings = model.heads["h"].get_output_embeddings(), model.get_input_embeddings()
    assert (projection.weight is embeddings.weight) is tie
    assert model.get_output_embeddings() is projection
    assert ("heads.h.3.weight" in model.all_tied_weights_keys) is tie
    model.tie_weights()
    assert (projection.weight is embeddings.weight) is tie


def test_a_head_is_not_tied_to_embeddings_of_more_than_its_tokens(tmp_path: Path) -> None:
    """CPM-Ant's are of its prompts, too."""
    model = adapter_model("cpmant")
    model.add_causal_lm_head("h")
    projection = model.heads["h"].get_output_embeddings()
    tokens = model.config.vocab_size
    assert model.config.tie_word_embeddings and model.get_input_embeddings().weight.shape[0] > tokens
    assert projection.weight.shape[0] == tokens
    logits = model(TOKENS).logits
    assert logits.shape == (2, 7, tokens)
    model.save_pretrained(tmp_path)
    assert_close(AutoAdapterModel.from_pretrained(tmp_path).eval()(TOKENS).logits, logits)


def test_tying_the_heads_of_one_model_changes_no_class() -> None:
    classes = [cls for cls in type(adapter_model("bert")).__mro__ if cls is not object]
    before = [dict(cls.__dict__) for cls in classes]
    model = adapter_model("bert")
    model.add_masked_lm_head("h")
    assert [dict(cls.__dict__) for cls in classes] == before
    assert adapter_model("bert").all_tied_weights_keys == {}


def test_new_tokens_reach_a_tied_head() -> None:
    model = adapter_model("bert")
    model.add_masked_lm_head("h")
    model.resize_token_embeddings(120)
    assert model(TOKENS).logits.shape == (2, 7, 120)
    assert model.heads["h"].get_output_embeddings().weight is model.get_input_embeddings().weight


def causal_model() -> tuple[PreTrainedModel, PreTrainedModel]:
    """Upstream's causal Llama and ours, with the same weights and an adapter that changes nothing."""
    torch.manual_seed(0)
    upstream = LlamaForCausalLM(tiny_config("llama", eos_token_id=None)).eval()
    randomise(upstream)
    ours = LlamaAdapterModel(tiny_config("llama", eos_token_id=None)).eval()
    ours.model.load_state_dict(upstream.model.state_dict())
    ours.add_causal_lm_head("h", layers=1, activation_function=None, layer_norm=False, bias=False)
    ours.heads["h"].load_state_dict({"0.weight": upstream.lm_head.weight})
    return upstream, ours


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("beams", [1, 3])
def test_generation_gives_upstreams_tokens(use_cache: bool, beams: int) -> None:
    upstream, ours = causal_model()
    options = dict(
        max_new_tokens=8, do_sample=False, num_beams=beams, attention_mask=torch.ones_like(TOKENS), pad_token_id=0
    )
    assert torch.equal(
        ours.generate(TOKENS, use_cache=use_cache, **options), upstream.generate(TOKENS, use_cache=True, **options)
    )


def test_generation_computes_logits_of_the_last_token_only_and_uses_the_cache() -> None:
    _, ours = causal_model()
    shapes: list[tuple[int, ...]] = []
    ours.heads["h"][0].register_forward_hook(lambda module, args, output: shapes.append(tuple(args[0].shape)))
    lengths: list[int] = []
    ours.model.embed_tokens.register_forward_hook(lambda module, args, output: lengths.append(output.shape[1]))
    ours.generate(TOKENS, max_new_tokens=3, do_sample=False, attention_mask=torch.ones_like(TOKENS), pad_token_id=0)
    assert {shape[1] for shape in shapes} == {1}
    assert lengths == [7, 1, 1]


def test_generation_needs_a_head_that_generates() -> None:
    model = adapter_model("llama")
    with pytest.raises(UnsupportedHeadError, match=r"no head is active\. Add one: add_causal_lm_head"):
        model.generate(TOKENS)
    model.add_classification_head("c")
    with pytest.raises(UnsupportedHeadError, match="the active head 'c' is a classification head"):
        model.generate(TOKENS)


def test_a_tuple_is_given_on_request() -> None:
    model = adapter_model("bert")
    model.add_classification_head("h")
    logits = model(TOKENS).logits
    assert torch.equal(model(TOKENS, return_dict=False)[0], logits)
    assert len(model(TOKENS, labels=torch.tensor([0, 1]), return_dict=False)) == 2


def test_hidden_states_and_attentions_pass_through_a_head() -> None:
    model = AutoAdapterModel.from_config(tiny_config("bert"), attn_implementation="eager")
    model.add_tagging_head("h")
    outputs = model(TOKENS, output_hidden_states=True, output_attentions=True)
    assert len(outputs.hidden_states) == model.config.num_hidden_layers + 1
    assert len(outputs.attentions) == model.config.num_hidden_layers


class ScaleHead(PredictionHead):
    """A head of a user's own."""

    head_type = "scale"

    def __init__(self, model: PreTrainedModel, head_name: str) -> None:
        super().__init__(head_name, {"layers": 1})
        self.build(model, 1)

    def forward(self, outputs: Any, cls_output: Any = None, attention_mask: Any = None, labels: Any = None) -> Any:
        return {"logits": self.logits(outputs.last_hidden_state)}


def test_a_head_of_ones_own_is_added_as_an_object() -> None:
    model = adapter_model("bert")
    model.add_prediction_head(ScaleHead(model, "s"))
    assert model(TOKENS)["logits"].shape == (2, 7, 1)


def test_a_new_head_is_where_the_model_is_and_of_its_type() -> None:
    model = adapter_model("bert").to(torch.bfloat16)
    model.add_classification_head("h")
    assert {parameter.dtype for parameter in model.heads["h"].parameters()} == {torch.bfloat16}


def test_a_checkpoint_for_several_labels_at_once_gives_a_multilabel_head(tmp_path: Any) -> None:
    static = BertForSequenceClassification(
        tiny_config("bert", num_labels=3, problem_type="multi_label_classification")
    )
    static.save_pretrained(tmp_path)
    model = AutoAdapterModel.from_pretrained(tmp_path)
    assert model.heads["default"].head_type == "multilabel_classification"
    assert model.heads["default"].config["num_labels"] == 3


# Losses of language modelling


def test_losses_of_micro_batches_add_up_where_the_number_of_labels_is_given() -> None:
    model = adapter_model("llama")
    model.add_causal_lm_head("lm", layers=1, layer_norm=False)
    labels = TOKENS.clone()
    labels[0, :5] = -100
    counted = int((labels[:, 1:] != -100).sum())
    parts = [model(TOKENS[i : i + 1], labels=labels[i : i + 1], num_items_in_batch=counted).loss for i in (0, 1)]
    assert_close(parts[0] + parts[1], model(TOKENS, labels=labels).loss)


@pytest.mark.parametrize(("heads", "counts"), [(["lm"], True), (["c"], False), (["lm", "c"], False), ([], False)])
def test_only_a_language_modelling_head_alone_counts_labels(heads: list[str], counts: bool) -> None:
    model = adapter_model("llama")
    model.add_causal_lm_head("lm")
    model.add_classification_head("c")
    model.active_head = heads or None
    assert model.accepts_loss_kwargs is counts


# What a decoder reads that was given nothing


class Decoder:
    """As much of a head as the choice of what the decoder reads looks at."""

    def __init__(self, name: str, is_generative: bool = True) -> None:
        self.name, self.is_generative = name, is_generative


LM, CLASSIFIER, OTHER = Decoder("lm"), Decoder("c", is_generative=False), Decoder("other")


@pytest.mark.parametrize(
    ("heads", "labels", "copies", "rows"),
    [
        pytest.param([CLASSIFIER], TOKENS, 1, None, id="classes are no tokens"),
        pytest.param([], TOKENS, 1, None, id="without a head"),
        pytest.param([LM], None, 1, None, id="without labels"),
        pytest.param([LM, CLASSIFIER], {"c": TOKENS}, 1, None, id="labels of the classifier"),
        pytest.param([LM], TOKENS, 1, [0, 1], id="the labels"),
        pytest.param([CLASSIFIER, LM], {"lm": TOKENS, "c": TOKENS[:, 0]}, 1, [0, 1], id="by name"),
        pytest.param([CLASSIFIER, LM], [TOKENS[:, 0], TOKENS], 1, [0, 1], id="in order"),
        pytest.param([LM], TOKENS, 2, [0, 1, 0, 1], id="a copy for each parallel adapter"),
        pytest.param([LM, OTHER], [TOKENS[:1], TOKENS[1:]], 2, [0, 1], id="those of each parallel adapter"),
    ],
)
def test_the_decoder_reads_the_labels_of_heads_that_predict_tokens(
    heads: list[Any], labels: Any, copies: int, rows: list[int] | None
) -> None:
    found = _predicted(heads, labels, copies)
    assert (found is None) if rows is None else torch.equal(found, TOKENS[rows])


def test_two_heads_with_labels_of_their_own_cannot_share_a_decoder() -> None:
    with pytest.raises(ValueError, match=r"2 heads have labels .* Say what it reads: decoder_input_ids"):
        _predicted([LM, OTHER], [TOKENS, TOKENS], 1)  # type: ignore[list-item]


def test_logits_are_moved_scaled_and_bent_as_the_options_say() -> None:
    model = adapter_model("llama")
    model.add_causal_lm_head("plain", layers=1, layer_norm=False, bias=False)
    plain = model(TOKENS).logits
    options = {"input_scale": 0.5, "logit_scale": 3.0, "logit_softcap": 2.0, "logits_bias": True}
    config = {"head_type": "causal_lm", "layers": 1, "layer_norm": False, "bias": False, **options}
    model.add_prediction_head_from_config("lm", config)
    model.heads["lm"][0].weight = model.heads["plain"][0].weight
    model.heads["lm"].logits_bias.normal_()
    wanted = torch.tanh((plain * 0.5 + model.heads["lm"].logits_bias) * 3 / 2) * 2
    assert_close(model(TOKENS).logits, wanted)
    assert {name: model.heads["lm"].config[name] for name in options} == options
    assert "logits_bias" not in dict(model.heads["lm"].named_parameters())


@pytest.mark.parametrize(("kept", "size"), [(7, 7), (None, None), (1000, None)])
def test_a_head_gives_logits_of_so_many_tokens(kept: int | None, size: int | None) -> None:
    model = adapter_model("llama").eval()
    model.add_causal_lm_head("plain")
    config = {**model.heads["plain"].config, "kept_tokens": kept}
    model.add_prediction_head_from_config("lm", config)
    model.heads["lm"].load_state_dict(model.heads["plain"].state_dict())
    labels = TOKENS % (size or model.config.vocab_size)
    with torch.no_grad():
        found, plain = model(TOKENS, labels=labels, head="lm"), model(TOKENS, head="plain")
    assert torch.equal(found.logits, plain.logits[..., :size])
    assert_close(found.loss, functional.cross_entropy(found.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()))


def test_a_head_with_fewer_tokens_is_another_than_upstreams(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    model = static_llama(monkeypatch, tmp_path, kept_tokens_key="size")
    assert model.heads["default"].config["kept_tokens"] == 16
    assert type(model.to_static()) is LlamaForCausalLM
    model.heads["default"].config["kept_tokens"] = 8
    with pytest.raises(UnsupportedHeadError, match="kept_tokens: 8 and 16"):
        model.to_static()


def test_what_is_added_to_logits_follows_the_number_of_tokens() -> None:
    model = adapter_model("llama")
    model.add_prediction_head_from_config("lm", {"head_type": "causal_lm", "layers": 1, "logits_bias": True})
    model.heads["lm"].logits_bias.fill_(1.0)
    before = model.config.vocab_size
    model.resize_token_embeddings(before + 2)
    assert model.heads["lm"].logits_bias.tolist() == [[1.0] * before + [0.0] * 2]
    assert model(TOKENS).logits.shape[-1] == before + 2


def test_a_norm_and_biases_of_a_head_are_those_of_its_options() -> None:
    model = adapter_model("bert")
    options = {"layer_norm": True, "norm_eps": 0.1, "norm_bias": False, "hidden_bias": False}
    model.add_prediction_head_from_config("tags", {"head_type": "tagging", "layers": 2, **options})
    _, first, _, norm, _, last = model.heads["tags"]
    assert (first.bias, norm.bias, norm.eps, last.bias is None) == (None, None, 0.1, False)
    assert model(TOKENS).logits.shape == (*TOKENS.shape, 2)


# Checkpoints of classes whose head no flexible head computes


@pytest.mark.parametrize(
    ("kept", "lost"), [("BertModel", False), ("BertForMaskedLM", False), ("BertForNextSentencePrediction", True)]
)
def test_a_head_that_is_not_loaded_is_named(
    kept: str, lost: bool, tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    getattr(transformers, kept)(tiny_config("bert")).save_pretrained(tmp_path)
    model = AutoAdapterModel.from_pretrained(tmp_path)
    told = [record.getMessage() for record in caplog.records if "Its head is not loaded" in record.getMessage()]
    assert [kept in message for message in told] == [True] * lost
    assert bool(model.heads) is (kept == "BertForMaskedLM")
    model.save_pretrained(tmp_path / "again")
    caplog.clear()
    AutoAdapterModel.from_pretrained(tmp_path / "again")
    assert not [record for record in caplog.records if "Its head is not loaded" in record.getMessage()]


def test_what_a_flexible_head_has_not_of_a_static_one_is_named(
    tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """LUKE's words are predicted by a head of ours, its entities by none."""
    transformers.LukeForMaskedLM(tiny_config("luke")).save_pretrained(tmp_path)
    model = AutoAdapterModel.from_pretrained(tmp_path)
    assert set(model.heads) == {"default"}
    (told,) = (record.getMessage() for record in caplog.records if "Of its head" in record.getMessage())
    assert "LukeForMaskedLM" in told and "entity_predictions" in told and "lm_head" not in told


def static_llama(monkeypatch: pytest.MonkeyPatch, tmp_path: Any, **options: Any) -> PreTrainedModel:
    """A checkpoint of LlamaForCausalLM, for which the table says `options` too."""
    entry = registered().static_heads["LlamaForCausalLM"]
    changed = {**entry, "config": {**entry["config"], **options}}
    heads = {**registered().static_heads, "LlamaForCausalLM": changed}
    monkeypatch.setattr(registry, "_registry", dataclasses.replace(registered(), static_heads=heads))
    torch.manual_seed(0)
    LlamaForCausalLM(tiny_config("llama", logit_scale=4.0, size=16, scales=True, text={"cap": 2.5})).save_pretrained(
        tmp_path
    )
    return AutoAdapterModel.from_pretrained(tmp_path)


def test_numbers_of_a_head_come_from_the_config_of_its_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    model = static_llama(
        monkeypatch,
        tmp_path,
        logit_factors={"terms": [["logit_scale", -1.0], [8.0, 1.0]]},
        input_factors={"terms": [["size", -0.5]], "flag": "scales"},
        softcap_key="text.cap",
    )
    found = {name: model.heads["default"].config[name] for name in ("logit_scale", "input_scale", "logit_softcap")}
    assert found == {"logit_scale": 2.0, "input_scale": 0.25, "logit_softcap": 2.5}


def test_a_factor_counts_only_where_its_flag_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    factors = {"terms": [["size", -0.5]], "flag": "does_not_scale"}
    assert static_llama(monkeypatch, tmp_path, input_factors=factors).heads["default"].config["input_scale"] == 1.0


def test_a_number_that_the_config_does_not_hold_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    with pytest.raises(InvalidConfigError, match="no number 'missing'"):
        static_llama(monkeypatch, tmp_path, logit_factors={"terms": [["missing", 1.0]]})


def test_a_head_that_is_another_by_the_config_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    assert not static_llama(monkeypatch, tmp_path, requires={"scales": False}).heads
    assert "LlamaForCausalLM" in caplog.text and "scales=False, not True" in caplog.text
