"""Further token embeddings: added, switched, saved and loaded, with everything that is tied to them."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from torch import nn
from torch.testing import assert_close
from transformers import (
    BertConfig,
    BertForMaskedLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from adapter_models import AutoAdapterModel
from adapter_runtime import UnknownEmbeddingsError, init
from adapter_runtime.errors import AdapterFileError, InvalidConfigError, UnsupportedMethodError
from runtime_models import BERT, LLAMA, adapted, randomise, upstream

KINDS = ["bert", "llama", "bert_lm"]


def tokenizer_of(*words: str) -> PreTrainedTokenizerFast:
    vocabulary = {word: index for index, word in enumerate(["[PAD]", "[UNK]", *words])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")


OLD = tokenizer_of(*(f"w{index}" for index in range(97)))  # 99 tokens, as the tiny models have
NEW = tokenizer_of("x", "w5", "y", "w0", "z")
NEW_IDS = torch.tensor([[2, 3, 4, 5, 6]])


@pytest.fixture
def ids() -> torch.Tensor:
    return torch.randint(1, 99, (2, 6), generator=torch.Generator().manual_seed(3))


def state_of(model: PreTrainedModel) -> dict[str, Any]:
    """What must not change in a call that fails."""
    return {
        "parameters": {name: (id(p), p.requires_grad) for name, p in model.named_parameters()},
        "size": (model.config.vocab_size, model.get_input_embeddings().num_embeddings),
        "active": model.active_embeddings,
        "loaded": sorted(model.loaded_embeddings),
        "keys": list(model.state_dict()),
    }


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_of_both_vocabularies_are_copied(kind: str, ids: torch.Tensor) -> None:
    model = adapted(kind)
    model.add_embeddings("new", NEW, reference_embedding="default", reference_tokenizer=OLD)
    assert model.active_embeddings == "new"
    assert model.config.vocab_size == model.get_input_embeddings().num_embeddings == 7
    old, new = (model.loaded_embeddings[name].weight for name in ("default", "new"))
    shared = {
        token: (OLD.get_vocab()[token], index) for token, index in NEW.get_vocab().items() if token in OLD.get_vocab()
    }
    assert set(shared) == {"[PAD]", "[UNK]", "w0", "w5"}
    for before, after in shared.values():
        assert torch.equal(new[after], old[before])
    others = [index for token, index in NEW.get_vocab().items() if token not in shared]
    assert not any(torch.isin(new[index], old).all() for index in others)
    assert 0.005 < new[others].std() < 0.05
    assert not new.requires_grad
    model(NEW_IDS)


def test_without_a_reference_all_are_new_and_padding_is_zero() -> None:
    model = adapted("llama")
    model.add_embeddings("new", NEW)
    assert model.get_input_embeddings().padding_idx == NEW.pad_token_id
    assert not model.get_input_embeddings().weight[NEW.pad_token_id].any()


@pytest.mark.parametrize("kind", KINDS)
def test_switching_there_and_back_restores_the_very_parameters(kind: str, ids: torch.Tensor) -> None:
    model = adapted(kind)
    before, outputs, module = state_of(model), model(ids)[0], model.get_input_embeddings()
    padding = module.padding_idx
    model.add_embeddings("new", NEW)
    there = model(NEW_IDS)[0]
    parameters = state_of(model)["parameters"]
    model.set_active_embeddings("default")
    assert {**state_of(model), "loaded": None} == {**before, "loaded": None}
    assert model.get_input_embeddings() is module and module.padding_idx == padding
    assert torch.equal(model(ids)[0], outputs)
    model.set_active_embeddings("new")
    model.set_active_embeddings("new")
    assert torch.equal(model(NEW_IDS)[0], there)
    assert state_of(model)["parameters"] == parameters
    with pytest.raises(IndexError):
        model(torch.tensor([[50]]))


def test_a_tied_head_follows_and_has_a_bias_for_each_vocabulary(ids: torch.Tensor) -> None:
    model = adapted("bert_lm")
    with torch.no_grad():
        model.cls.predictions.bias.normal_()
    logits, labels = model(ids).logits, torch.tensor([[6, 5, 4, 3, 2]])
    model.add_embeddings("new", NEW)
    decoder = model.cls.predictions.decoder
    assert decoder.weight is model.get_input_embeddings().weight
    assert decoder.bias is model.cls.predictions.bias and not decoder.bias.any()
    assert (decoder.out_features, *decoder.bias.shape) == (7, 7)
    model.train_adapter(None, train_embeddings=True)
    output = model(NEW_IDS, labels=labels)
    assert output.logits.shape == (1, 5, 7)
    output.loss.backward()
    assert model.get_input_embeddings().weight.grad is not None
    model.eval()
    with torch.no_grad():
        decoder.bias.fill_(2.0)
    model.set_active_embeddings("default")
    assert torch.equal(model(ids).logits, logits)
    model.set_active_embeddings("new")
    assert (model.cls.predictions.decoder.bias == 2.0).all()


def test_an_untied_projection_for_another_vocabulary_is_refused() -> None:
    model = adapted("llama_lm")
    before = state_of(model)
    with pytest.raises(UnsupportedMethodError, match="not tied"):
        model.add_embeddings("new", NEW)
    assert state_of(model) == before
    model.add_embeddings("same_size", OLD)  # nothing can go wrong
    model(torch.tensor([[98]]))


@pytest.mark.parametrize("is_tied", [False, True])
def test_flexible_heads_follow_where_they_are_tied(is_tied: bool, ids: torch.Tensor) -> None:
    model = AutoAdapterModel.from_config(BertConfig(**BERT, tie_word_embeddings=is_tied)).eval()
    model.add_masked_lm_head("lm")
    model.add_classification_head("cls", num_labels=2)
    model.active_head = "cls" if not is_tied else "lm"
    model.add_embeddings("new", NEW)
    head = model.heads["lm"]
    if is_tied:
        assert head[-1].weight is model.get_input_embeddings().weight
        assert model(NEW_IDS).logits.shape == (1, 5, 7)
        assert head.config["vocab_size"] == 7
    else:
        assert head[-1].weight.shape[0] == head.config["vocab_size"] == 99
        assert model(NEW_IDS).logits.shape == (1, 2)
    model.set_active_embeddings("default")
    assert head.config["vocab_size"] == 99
    model(ids)


def test_generation_with_another_vocabulary() -> None:
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**LLAMA, tie_word_embeddings=True)).eval()
    init(model)
    model.add_embeddings("new", NEW)
    generated = model.generate(NEW_IDS, max_new_tokens=5, do_sample=False)
    assert generated.max() < 7


def test_tables_that_do_more_than_look_up_go_on_doing_it(ids: torch.Tensor) -> None:
    class Scaled(nn.Embedding):
        def forward(self, given: torch.Tensor) -> torch.Tensor:
            return super().forward(given) * 3.0

    model = adapted("llama")
    table = Scaled(99, 32)
    model.set_input_embeddings(table)
    calls: list[int] = []
    table.register_forward_hook(lambda *args: calls.append(1))
    model.add_embeddings("new", NEW)
    assert torch.equal(model.get_input_embeddings()(NEW_IDS), table.weight[NEW_IDS] * 3.0)
    assert calls == [1]


def test_invertible_adapters_work_with_either(ids: torch.Tensor) -> None:
    model = adapted("bert_lm")
    model.add_adapter("a", "seq_bn_inv", set_active=True)
    randomise(model, "a")
    before = model(ids).logits
    model.add_embeddings("new", NEW)
    with_inverse = model(NEW_IDS).logits
    assert model.adapters_base.has_running_invertible(model.get_output_embeddings())
    model.set_active_adapters(None)
    assert not torch.allclose(model(NEW_IDS).logits, with_inverse)
    model.set_active_adapters("a")
    model.set_active_embeddings("default")
    assert torch.equal(model(ids).logits, before)


# Training


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_frozen_stays_frozen_whichever_embeddings_are_active(kind: str) -> None:
    model = adapted(kind)
    model.add_adapter("a", "seq_bn")
    model.add_embeddings("new", NEW)
    model.train_adapter("a")
    for name in ("default", "new"):
        model.set_active_embeddings(name)
        assert not model.get_input_embeddings().weight.requires_grad
    model.train_adapter("a", train_embeddings=True)
    assert model.get_input_embeddings().weight.requires_grad
    model.set_active_embeddings("default")
    assert not model.get_input_embeddings().weight.requires_grad
    model.freeze_model(False)
    model.set_active_embeddings("new")
    assert model.get_input_embeddings().weight.requires_grad


def test_only_the_active_embeddings_are_trained(ids: torch.Tensor) -> None:
    model = adapted("bert")
    model.add_adapter("a", "seq_bn")
    model.add_embeddings("new", NEW)
    default = model.loaded_embeddings["default"].weight.clone()
    model.train_adapter("a", train_embeddings=True)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    before = model.get_input_embeddings().weight.clone()
    model(NEW_IDS)[0].square().sum().backward()
    optimizer.step()
    assert not torch.equal(model.loaded_embeddings["new"].weight, before)
    assert torch.equal(model.loaded_embeddings["default"].weight, default)


# Files


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("is_active", [False, True])
def test_saved_embeddings_come_back(kind: str, is_active: bool, tmp_path: Path) -> None:
    model = adapted(kind)
    model.add_embeddings("new", NEW)
    expected = model(NEW_IDS)[0]
    if not is_active:
        model.set_active_embeddings("default")
    model.save_embeddings(tmp_path / "deep" / "er", "new", NEW)
    stored = torch.load(tmp_path / "deep" / "er" / "embedding.pt", weights_only=True)
    assert isinstance(stored, nn.Parameter) and stored.shape == (7, 32)
    fresh = adapted(kind)
    tokenizer = fresh.load_embeddings(tmp_path / "deep" / "er", "other")
    assert tokenizer.get_vocab() == NEW.get_vocab()
    assert fresh.active_embeddings == "other"
    assert torch.equal(fresh(NEW_IDS)[0], expected)
    assert sorted(path.name for path in (tmp_path / "deep" / "er").iterdir()) == ["embedding.pt", "tokenizer"]


def test_without_a_tokenizer_none_is_given(tmp_path: Path) -> None:
    model = adapted("bert")
    model.save_embeddings(tmp_path, "default")
    assert model.load_embeddings(tmp_path, "copy") is None
    assert torch.equal(model.loaded_embeddings["copy"].weight, model.loaded_embeddings["default"].weight)


class Evil:
    def __reduce__(self) -> Any:
        return (print, ("this must never run",))


@pytest.mark.parametrize(
    "content",
    [None, b"", b"no tensor", {"a": torch.ones(2, 2)}, torch.ones(3), torch.ones(3, 3, dtype=torch.long), Evil()],
)
def test_a_damaged_file_is_refused(content: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if isinstance(content, bytes):
        (tmp_path / "embedding.pt").write_bytes(content)
    elif content is not None:
        torch.save(content, tmp_path / "embedding.pt")
    model = adapted("bert")
    before = state_of(model)
    with pytest.raises(AdapterFileError):
        model.load_embeddings(tmp_path, "new")
    assert state_of(model) == before
    assert "never" not in capsys.readouterr().out


def test_embeddings_of_another_width_are_refused(tmp_path: Path) -> None:
    torch.save(nn.Parameter(torch.ones(5, 31)), tmp_path / "embedding.pt")
    model = adapted("bert_lm")
    before = state_of(model)
    with pytest.raises(UnsupportedMethodError, match="31 wide"):
        model.load_embeddings(tmp_path, "new")
    with pytest.raises(UnsupportedMethodError, match="31"):
        model.add_embeddings("new", NEW, embedding_dim=31)
    assert state_of(model) == before


def test_the_whole_model_is_written_with_the_active_embeddings(tmp_path: Path) -> None:
    model = adapted("bert_lm")
    model.add_embeddings("new", NEW)
    expected = model(NEW_IDS).logits
    model.save_pretrained(tmp_path)
    loaded = BertForMaskedLM.from_pretrained(tmp_path).eval()
    assert loaded.config.vocab_size == 7
    assert_close(loaded(NEW_IDS).logits, expected)


# Copies, resizing, wrong calls


@pytest.mark.parametrize("kind", KINDS)
def test_copies_and_pickles_keep_all_embeddings(kind: str, ids: torch.Tensor) -> None:
    model = adapted(kind)
    default = model(ids)[0]
    model.add_embeddings("new", NEW)
    new = model(NEW_IDS)[0]
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(copied(NEW_IDS)[0], new)
        copied.set_active_embeddings("default")
        assert torch.equal(copied(ids)[0], default)
        with torch.no_grad():
            copied.get_input_embeddings().weight.zero_()
    assert model.active_embeddings == "new"
    assert torch.equal(model(NEW_IDS)[0], new)
    model.set_active_embeddings("default")
    assert torch.equal(model(ids)[0], default)


@pytest.mark.parametrize("kind", KINDS)
def test_resizing_changes_the_active_embeddings_only(kind: str, ids: torch.Tensor) -> None:
    model = adapted(kind)
    default = model(ids)[0]
    model.add_embeddings("new", NEW)
    model.resize_token_embeddings(9)
    assert model.loaded_embeddings["new"].weight.shape[0] == model.config.vocab_size == 9
    model(torch.tensor([[8]]))
    model.set_active_embeddings("default")
    assert model.config.vocab_size == 99
    assert torch.equal(model(ids)[0], default)
    model.set_active_embeddings("new")
    assert model.get_input_embeddings().num_embeddings == model.config.vocab_size == 9
    model(torch.tensor([[8]]))


def test_inactive_embeddings_take_the_type_of_the_model_when_they_become_active() -> None:
    model = adapted("bert_lm")
    model.add_embeddings("new", NEW)
    model.set_active_embeddings("default")
    model.to(torch.bfloat16)
    model.set_active_embeddings("new")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    model(NEW_IDS)


def test_deleting() -> None:
    model = adapted("bert_lm")
    for name in ("one", "two"):
        model.add_embeddings(name, NEW)
    model.delete_embeddings("one")
    assert (model.active_embeddings, sorted(model.loaded_embeddings)) == ("two", ["default", "two"])
    model.delete_embeddings("two")
    assert (model.active_embeddings, sorted(model.loaded_embeddings)) == ("default", ["default"])
    assert torch.equal(model.cls.predictions.decoder.weight, upstream("bert_lm").cls.predictions.decoder.weight)


def wrong_calls(model: PreTrainedModel, folder: Path) -> list[Any]:
    return [
        (UnknownEmbeddingsError, lambda: model.set_active_embeddings("nwe")),
        (UnknownEmbeddingsError, lambda: model.delete_embeddings("nwe")),
        (UnknownEmbeddingsError, lambda: model.save_embeddings(folder, "nwe")),
        (UnknownEmbeddingsError, lambda: model.add_embeddings("n", NEW, "nwe", OLD)),
        (InvalidConfigError, lambda: model.delete_embeddings("default")),
        (InvalidConfigError, lambda: model.add_embeddings("new", NEW)),
        (InvalidConfigError, lambda: model.add_embeddings("default", NEW)),
        (InvalidConfigError, lambda: model.load_embeddings(folder, "new")),
        (InvalidConfigError, lambda: model.add_embeddings("n", NEW, reference_embedding="default")),
        (InvalidConfigError, lambda: model.add_embeddings("n", NEW, reference_tokenizer=OLD)),
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_wrong_calls_leave_the_model_as_it_was(kind: str, tmp_path: Path) -> None:
    model = adapted(kind)
    model.add_embeddings("new", NEW)
    before = state_of(model)
    for error, call in wrong_calls(model, tmp_path / "folder"):
        with pytest.raises(error):
            call()
        assert state_of(model) == before
    assert not (tmp_path / "folder").exists()


def test_models_without_a_table_of_tokens_say_so() -> None:
    model = adapted("bert_lm")
    model.bert.get_input_embeddings = lambda: nn.Conv2d(1, 1, 1)  # as vision models answer
    model.get_input_embeddings = model.bert.get_input_embeddings
    with pytest.raises(UnsupportedMethodError, match="no table"):
        model.add_embeddings("new", NEW)
