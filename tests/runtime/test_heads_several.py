"""Several heads in one call: the same as one call for each, with the rows and targets that belong to it."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close
from transformers import PreTrainedModel, Trainer, TrainingArguments

from adapter_models import AdapterSetup, AutoAdapterModel, BatchSplit, Fuse, MultiTask, Parallel, Stack
from adapter_models.heads import MultiHeadOutput
from adapter_runtime.errors import InvalidCompositionError
from adapter_runtime.heads.errors import UnknownHeadError, UnsupportedHeadError
from adapter_runtime.heads.setups import heads_of
from conformance.tiny import randomise, tiny_config
from runtime_models import randomise as randomise_adapter

TOKENS = torch.randint(3, 90, (4, 7), generator=torch.Generator().manual_seed(2))
MASK = torch.ones_like(TOKENS)
MASK[1, 4:] = 0
LABELS = torch.tensor([0, 1, 2, 1])
WORDS = torch.randint(3, 90, (4, 7), generator=torch.Generator().manual_seed(3))


def model_with_heads(model_type: str = "bert", heads: str = "classify") -> PreTrainedModel:
    """A model with adapters "a", "b" and heads of these names, random and active nowhere."""
    torch.manual_seed(0)
    model = AutoAdapterModel.from_config(tiny_config(model_type, eos_token_id=None))
    randomise(model)
    for name in ("a", "b"):
        model.add_adapter(name, "seq_bn")
        randomise_adapter(model, name, seed=ord(name))
        if heads == "classify":
            model.add_classification_head(name, num_labels=3)
        else:
            model.add_causal_lm_head(name)
        randomise(model.heads[name], seed=ord(name))
    model.tie_weights()
    model.active_head = None
    return model.eval()


def alone(model: PreTrainedModel, head: str, adapter: Any = None, rows: slice = slice(None), **labels: Any) -> Any:
    """One head on some rows of the inputs, in a call of its own."""
    with torch.no_grad(), AdapterSetup(adapter, head_setup=head):
        return model(TOKENS[rows], attention_mask=MASK[rows], **labels)


def together(model: PreTrainedModel, **arguments: Any) -> Any:
    with torch.no_grad():
        return model(TOKENS, attention_mask=MASK, **arguments)


def assert_same(outputs: MultiHeadOutput, separate: list[Any]) -> None:
    """Each logits and loss is that of the separate call, and the loss is their sum."""
    assert isinstance(outputs, MultiHeadOutput)
    assert len(outputs) == len(outputs.head_outputs) == len(separate)
    for index, one in enumerate(separate):
        assert_close(outputs[index].logits, one.logits, rtol=1e-5, atol=1e-6)
        assert_close(outputs[index].loss, one.loss, rtol=1e-5, atol=1e-6)
    assert_close(outputs.loss, torch.stack([one.loss for one in separate]).sum(), rtol=1e-5, atol=1e-6)


def test_a_list_runs_every_head_on_the_whole_batch() -> None:
    model = model_with_heads()
    model.active_head = ["a", "b"]
    separate = [alone(model, name, labels=LABELS) for name in "ab"]
    assert not torch.allclose(separate[0].logits, separate[1].logits)
    assert_same(together(model, labels=LABELS), separate)
    model.active_head = None
    assert_same(together(model, labels=LABELS, head=["a", "b"]), separate)


@pytest.mark.parametrize("heads", [["a", "b"], Parallel("a", "b")], ids=["list", "Parallel"])
@pytest.mark.parametrize("model_type", ["bert", "llama"])
def test_parallel_adapters_give_each_head_its_copy_and_the_same_labels(model_type: str, heads: Any) -> None:
    model = model_with_heads(model_type)
    model.set_active_adapters(Parallel("a", "b"))
    assert model.active_head == ["a", "b"]
    model.active_head = heads
    separate = [alone(model, name, name, labels=LABELS) for name in "ab"]
    outputs = together(model, labels=LABELS)
    assert_same(outputs, separate)
    assert_close(outputs.logits, torch.cat([one.logits for one in separate]), rtol=1e-5, atol=1e-6)


def test_one_head_on_parallel_adapters_runs_on_each_copy() -> None:
    model = model_with_heads()
    model.set_active_adapters(Parallel("a", "b"))
    model.active_head = "a"
    assert_same(together(model, labels=LABELS), [alone(model, "a", name, labels=LABELS) for name in "ab"])


def test_parallel_heads_of_different_kinds_take_their_own_targets() -> None:
    model = model_with_heads()
    model.add_qa_head("q")
    model.add_tagging_head("t", num_labels=3)
    model.active_head = ["a", "q", "t"]
    tags = torch.randint(0, 3, (4, 7))
    starts, ends = torch.tensor([1, 2, 0, 3]), torch.tensor([2, 3, 1, 3])
    outputs = together(model, labels={"a": LABELS, "t": tags}, start_positions=starts, end_positions=ends)
    separate = [
        alone(model, "a", labels=LABELS),
        alone(model, "q", start_positions=starts, end_positions=ends),
        alone(model, "t", labels=tags),
    ]
    assert_close(outputs.loss, sum(one.loss for one in separate))
    by_position = together(model, labels=[LABELS, None, tags], start_positions=starts, end_positions=ends)
    assert_close(by_position.loss, outputs.loss)
    assert_close(together(model, labels={"t": tags}).loss, separate[2].loss)
    assert together(model).loss is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"labels": {"z": LABELS}}, "labels names the heads 'z', but 'a', 'b' are active"),
        ({"labels": [LABELS]}, "one entry per head: 2, not 1"),
        ({"start_positions": LABELS}, "head 'a' takes labels, not start_positions"),
        ({"start_positions": {"b": LABELS}}, "head 'b' takes labels, not start_positions"),
    ],
)
def test_targets_for_no_head_are_an_error(arguments: dict[str, Any], message: str) -> None:
    model = model_with_heads()
    model.active_head = ["a", "b"]
    with pytest.raises(ValueError, match=message):
        together(model, **arguments)


def test_a_batch_split_gives_each_head_its_rows_labels_and_mask() -> None:
    model = model_with_heads("llama")  # pools the last real token: a mask of other rows would show
    model.set_active_adapters(BatchSplit("a", "b", batch_sizes=[1, 3]))
    assert model.active_head == BatchSplit("a", "b", batch_sizes=[1, 3])
    first, rest = slice(0, 1), slice(1, 4)
    separate = [
        alone(model, "a", "a", first, labels=LABELS[first]),
        alone(model, "b", "b", rest, labels=LABELS[rest]),
    ]
    assert_same(together(model, labels=LABELS), separate)
    assert_same(together(model, labels={"a": LABELS[first], "b": LABELS[rest]}), separate)


def test_rows_that_do_not_add_up_are_an_error() -> None:
    model = model_with_heads()
    model.active_head = BatchSplit("a", "b", batch_sizes=[1, 2])
    with pytest.raises(InvalidCompositionError, match=r"divides 3 rows \(1 \+ 2\) among heads, but the batch has 4"):
        together(model)
    model.active_head = BatchSplit("a", "b", batch_sizes=2)
    with pytest.raises(ValueError, match="labels has 3 rows, but the batch that is divided among heads has 4"):
        together(model, labels=LABELS[:3])
    model.set_active_adapters(Parallel("a", "b"))
    model.add_classification_head("c")
    model.active_head = ["a", "b", "c"]
    with pytest.raises(InvalidCompositionError, match="2 parallel adapters but 3 active heads"):
        together(model)


def test_multi_task_heads_get_the_rows_of_their_tasks() -> None:
    model = model_with_heads()
    model.add_classification_head("c", num_labels=3)
    model.add_adapter("c", "seq_bn")
    model.set_active_adapters(MultiTask("a", "b", "c"))
    assert model.active_head == "c", "as in `adapters`, it stays: one head may serve all tasks"
    model.active_head = MultiTask("a", "b", "c")
    outputs = together(model, labels=LABELS, task_ids=torch.tensor([1, 0, 1, 1]))
    rows = {"a": [1], "b": [0, 2, 3]}
    for index, (name, own) in enumerate(rows.items()):
        expected = alone(model, name, name, own, labels=LABELS[own])  # type: ignore[arg-type]
        assert_close(outputs[index].logits, expected.logits, rtol=1e-5, atol=1e-6)
        assert_close(outputs[index].loss, expected.loss, rtol=1e-5, atol=1e-6)
    assert outputs[2].logits.shape == (0, 3)
    assert outputs[2].loss is None, "a task without rows spoils no sum"
    assert_close(outputs.loss, outputs[0].loss + outputs[1].loss)
    model.set_active_adapters("a")
    model.active_head = MultiTask("a", "b")
    with pytest.raises(InvalidCompositionError, match="activate MultiTask adapters too"):
        together(model)


@pytest.mark.parametrize(
    ("setup", "expected"),
    [
        (Stack("a", "b"), "b"),
        (Stack("a", Stack("b", "c")), "c"),
        (Parallel("a", Stack("b", "c")), ["a", "c"]),
        (Stack("z", Parallel("a", "b")), ["a", "b"]),
        (BatchSplit("a", Stack("b", "c"), batch_sizes=2), BatchSplit("a", "c", batch_sizes=2)),
        (Stack("a", Fuse("b", "c")), None),
        (Fuse("b", "c"), None),
        (None, None),
    ],
    ids=str,
)
def test_the_last_block_decides_which_heads_follow(setup: Any, expected: Any) -> None:
    assert heads_of(setup) == expected


def test_heads_that_are_not_there_do_not_follow() -> None:
    model = model_with_heads()
    model.active_head = "b"
    model.delete_head("a")
    model.set_active_adapters("a")
    assert model.active_head == "b"
    model.set_active_adapters(Parallel("a", "b"))
    assert model.active_head == "b"


def test_a_setup_takes_the_heads_of_its_adapters_if_they_are_there_and_its_own_in_any_case() -> None:
    model = model_with_heads()
    model.active_head = "b"
    with AdapterSetup("a"):
        assert model.used_heads() == "a"
        assert model.used_heads("b") == "b", "the head of a call comes first"
    with AdapterSetup(Parallel("a", "b")):
        assert_same(together(model, labels=LABELS), [alone(model, name, name, labels=LABELS) for name in "ab"])
    with AdapterSetup("a", head_setup=["a", "b"]):
        assert len(together(model)) == 2
    with AdapterSetup("a", head_setup="aa"), pytest.raises(UnknownHeadError, match=r"no head 'aa'\. Did you mean 'a'"):
        together(model)
    model.delete_head("a")
    with AdapterSetup("a"):
        assert model.used_heads() == "b"


@pytest.mark.parametrize("heads", [Stack("a", "b"), [Parallel("a", "b")], 3, ["a", "z"], "z"], ids=str)
def test_what_names_no_heads_cannot_be_active(heads: Any) -> None:
    model = model_with_heads()
    model.active_head = "a"
    with pytest.raises(ValueError):
        model.active_head = heads
    assert model.active_head == "a"


def test_a_single_head_in_a_list_is_just_that_head_and_none_is_none() -> None:
    model = model_with_heads()
    model.active_head = ["a"]
    assert model.active_head == "a"
    assert "head_outputs" not in together(model)
    model.active_head = []
    assert model.active_head is None


def test_deleting_one_of_several_active_heads_deactivates_them() -> None:
    model = model_with_heads()
    model.active_head = ["a", "b"]
    with pytest.raises(UnknownHeadError, match="Say which head to delete"):
        model.delete_head()
    model.delete_head("a")
    assert model.active_head is None


def test_the_active_head_tells_the_config_its_labels() -> None:
    model = model_with_heads()
    model.add_classification_head("c", num_labels=2, id2label={0: "no", 1: "yes"})
    assert model.config.id2label == {0: "no", 1: "yes"}
    assert model.config.label2id == {"no": 0, "yes": 1}
    model.active_head = ["a", "b"]
    with pytest.raises(UnknownHeadError, match="Say which head has the labels"):
        model.get_labels()
    assert model.get_labels("a") == ["LABEL_0", "LABEL_1", "LABEL_2"]


def test_gradients_of_several_heads_are_those_of_the_sum_of_their_losses() -> None:
    model = model_with_heads()
    model.train_adapter("a")
    model.eval()
    model.active_head = ["a", "b"]
    parameter = next(model.adapter_parameters("a"))[1]
    model(TOKENS, attention_mask=MASK, labels=LABELS).loss.backward()
    both = parameter.grad.clone()
    model.zero_grad()
    for name in "ab":
        model(TOKENS, attention_mask=MASK, labels=LABELS, head=name).loss.backward()
    assert both.abs().sum() > 0
    assert_close(both, parameter.grad, rtol=1e-4, atol=1e-6)


def test_an_output_of_several_heads_is_a_sequence_a_dict_and_a_tuple() -> None:
    model = model_with_heads()
    model.active_head = ["a", "b"]
    outputs = together(model, labels=LABELS, output_hidden_states=True)
    assert [one is outputs[index] for index, one in enumerate(outputs)] == [True, True]
    assert outputs["loss"] is outputs.loss
    assert outputs["head_outputs"] is outputs.head_outputs
    assert len(outputs.hidden_states) == model.config.num_hidden_layers + 1
    as_tuple = together(model, labels=LABELS, return_dict=False)
    assert_close(as_tuple[0], outputs.loss)
    assert_close(as_tuple[2][1], outputs[1].logits)
    assert torch.equal(pickle.loads(pickle.dumps(outputs)).logits, outputs.logits)
    replaced = copy.copy(outputs)
    replaced[0] = outputs[1]
    assert replaced[0] is outputs[1]


def test_several_heads_compile_to_one_graph() -> None:
    model = model_with_heads()
    model.set_active_adapters("a")
    model.active_head = ["a", "b"]
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    with torch.no_grad():
        given = compiled(TOKENS, attention_mask=MASK, labels=LABELS)
    assert_close(given.loss, together(model, labels=LABELS).loss)
    torch._dynamo.reset()


OPTIONS = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0}


@pytest.mark.parametrize("use_cache", [True, False])
def test_generation_takes_the_head_of_the_call(use_cache: bool) -> None:
    model = model_with_heads("llama", heads="generate")
    model.active_head = "a"
    mask = torch.ones_like(TOKENS)
    first = model.generate(TOKENS, attention_mask=mask, use_cache=use_cache, **OPTIONS)
    other = model.generate(TOKENS, attention_mask=mask, use_cache=use_cache, head="b", **OPTIONS)
    assert not torch.equal(first, other)
    model.active_head = "b"
    assert torch.equal(model.generate(TOKENS, attention_mask=mask, use_cache=use_cache, **OPTIONS), other)
    with pytest.raises(UnknownHeadError):
        model.generate(TOKENS, head="z")


@pytest.mark.parametrize("use_cache", [True, False])
def test_generation_with_a_head_per_parallel_adapter_equals_one_after_the_other(use_cache: bool) -> None:
    model = model_with_heads("llama", heads="generate")
    mask = torch.ones_like(TOKENS)
    separate = []
    for name in "ab":
        model.set_active_adapters(name)
        separate.append(model.generate(TOKENS, attention_mask=mask, use_cache=use_cache, **OPTIONS))
    model.set_active_adapters(Parallel("a", "b"))
    assert model.active_head == ["a", "b"]
    given = model.generate(TOKENS, attention_mask=mask, use_cache=use_cache, **OPTIONS)
    assert torch.equal(given, torch.cat(separate))


def test_generation_refuses_several_heads_on_the_same_rows_and_any_that_generates_nothing() -> None:
    model = model_with_heads("llama", heads="generate")
    model.active_head = ["a", "b"]
    with pytest.raises(UnsupportedHeadError, match="only if each has its parallel adapter"):
        model.generate(TOKENS)
    model.add_classification_head("c")
    with pytest.raises(UnsupportedHeadError, match="head 'c' is a classification head"):
        model.generate(TOKENS, head="c")


def invertible_model() -> PreTrainedModel:
    torch.manual_seed(0)
    model = AutoAdapterModel.from_config(tiny_config("bert"))
    randomise(model)
    for name in ("a", "b"):
        model.add_adapter(name, "seq_bn_inv")
        randomise_adapter(model, name, seed=ord(name))
        model.add_masked_lm_head(name)
    randomise(model.heads)
    model.tie_weights()
    return model.eval()


def test_defect_15_invertible_adapters_are_undone_before_a_tied_head_under_a_setup_too() -> None:
    model = invertible_model()
    model.set_active_adapters("a")
    active = together(model, head="a").logits
    with torch.no_grad():
        *transform, projection = model.heads["a"]
        hidden = model.bert(TOKENS, attention_mask=MASK).last_hidden_state
        for layer in transform:
            hidden = layer(hidden)
        plain = projection(hidden)
        assert_close(active, projection(model.bert.invertible_adapters_forward(hidden, rev=True)))
    assert not torch.allclose(active, plain, atol=1e-3)
    model.set_active_adapters(None)
    with AdapterSetup("a"):
        assert_close(together(model).logits, active)


def test_parallel_heads_undo_the_invertible_adapter_of_their_copy() -> None:
    model = invertible_model()
    separate = [alone(model, name, name, labels=WORDS) for name in "ab"]
    model.set_active_adapters(Parallel("a", "b"))
    assert_same(together(model, labels=WORDS), separate)
    model.add_classification_head("c", num_labels=3)
    model.active_head = ["c", "b"]
    assert_close(together(model)[1].logits, separate[1].logits, rtol=1e-5, atol=1e-5)
    model.set_active_adapters(BatchSplit("a", "b", batch_sizes=[1, 3]))
    halves = [
        alone(model, name, name, rows, labels=WORDS[rows]) for name, rows in (("a", slice(0, 1)), ("b", slice(1, 4)))
    ]
    assert_same(together(model, labels=WORDS), halves)


def test_a_trainer_evaluates_several_heads(tmp_path: Path) -> None:
    model = model_with_heads()
    model.active_head = ["a", "b"]
    rows = [{"input_ids": row, "labels": label} for row, label in zip(TOKENS, LABELS, strict=True)]
    arguments = TrainingArguments(output_dir=str(tmp_path), report_to=[], use_cpu=True, per_device_eval_batch_size=2)
    result = Trainer(model, arguments, eval_dataset=rows).predict(rows)  # type: ignore[arg-type]
    with torch.no_grad():
        outputs = model(TOKENS, labels=LABELS)
    heads = result.predictions
    assert len(heads) == 2
    for given, expected in zip(heads, outputs, strict=True):
        assert_close(torch.as_tensor(given["logits"]), expected.logits, rtol=1e-5, atol=1e-6)
    assert result.metrics["test_loss"] == pytest.approx(float(outputs.loss), rel=1e-4)
