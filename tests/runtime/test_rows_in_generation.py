"""Rows of a generation: what runs before its first forward knows whose they are."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import BertConfig, BertModel, PreTrainedModel, T5Config, T5ForConditionalGeneration

from adapter_runtime import BatchSplit, MultiTask, Parallel, init
from adapter_runtime.call.context import thread
from adapter_runtime.errors import UnsupportedMethodError
from composite_models import BERT, Composite, blip2, gemma3, generated, llava
from runtime_models import randomise

BLOCKS: list[Any] = [
    pytest.param(BatchSplit("a", "b", batch_sizes=[1, 2]), (0, 1, 1), id="split"),
    pytest.param(MultiTask("a", "b"), (1, 0, 1), id="tasks"),
]


def _adapted(made: Composite, config: str = "lora") -> Composite:
    init(made.model.eval())
    for seed, name in enumerate("ab"):
        made.model.add_adapter(name, config)
        randomise(made.model, name, seed)
    return made


def _llava(*counts: int, config: str = "lora") -> Composite:
    torch.manual_seed(0)
    return _adapted(llava(counts), config)


def _scores(model: PreTrainedModel, inputs: Any, setup: Any, owners: tuple[int, ...] = (), **options: Any) -> Any:
    """What each step of a generation scores: [B, steps, V]."""
    model.set_active_adapters(setup)
    if isinstance(setup, MultiTask):
        options["task_ids"] = torch.tensor(owners)
    return torch.stack(generated(model, inputs, min_new_tokens=4, **options).scores, dim=1)


@pytest.mark.parametrize("beams", [1, 2])
@pytest.mark.parametrize("counts", [(2, 1, 0), (0, 2, 1), (0, 3, 0)])
@pytest.mark.parametrize(("block", "owners"), BLOCKS)
def test_images_in_unequal_numbers_are_no_ones(
    block: Any, owners: tuple[int, ...], counts: tuple[int, ...], beams: int
) -> None:
    model, inputs = _llava(*counts)
    with pytest.raises(UnsupportedMethodError, match="not each of them has a place for what CLIPVisionModel"):
        _scores(model, inputs, block, owners, num_beams=beams)
    assert thread.context is None


@pytest.mark.parametrize(("block", "owners"), BLOCKS)
def test_more_images_than_rows_are_no_ones(block: Any, owners: tuple[int, ...]) -> None:
    model, inputs = _llava(1, 2, 3)
    with pytest.raises(
        UnsupportedMethodError, match="3 rows of the batch to adapters, but CLIPVisionModel works on 6"
    ):
        _scores(model, inputs, block, owners)


@pytest.mark.parametrize("beams", [1, 2])
@pytest.mark.parametrize(("block", "owners"), BLOCKS)
@pytest.mark.parametrize(
    ("counts", "config"),
    [
        pytest.param((1, 1, 1), "lora", id="one each"),
        pytest.param((2, 1, 0), "lora[parts='text']", id="nothing runs in the tower"),
    ],
)
def test_each_row_is_as_under_its_adapter(
    block: Any, owners: tuple[int, ...], counts: tuple[int, ...], config: str, beams: int
) -> None:
    model, inputs = _llava(*counts, config=config)
    alone = [_scores(model, inputs, name, num_beams=beams) for name in "ab"]
    assert not torch.allclose(*alone, atol=1e-3)
    found = _scores(model, inputs, block, owners, num_beams=beams)
    rows = [alone[owner].unflatten(0, (3, beams))[row] for row, owner in enumerate(owners)]
    assert torch.allclose(found.unflatten(0, (3, beams)), torch.stack(rows), atol=1e-4)


def test_tokens_are_found_wherever_they_are_given() -> None:
    model, inputs = _llava(2, 0)
    tokens, rest = inputs["input_ids"], {name: inputs[name] for name in ("attention_mask", "pixel_values")}
    model.set_active_adapters(BatchSplit("a", "b", batch_sizes=[1, 1]))
    for args, more in (((tokens,), {}), ((), {"inputs": tokens}), ((), {"input_ids": tokens})):
        with pytest.raises(UnsupportedMethodError, match="not each of them has a place"):
            model.generate(*args, **more, **rest, max_new_tokens=1)


def test_a_root_that_makes_masks_knows_it_too() -> None:
    torch.manual_seed(0)
    model, inputs = _adapted(gemma3())
    split = BatchSplit("a", "b", batch_sizes=[1, 1])
    one, two, both = (_scores(model, inputs, setup) for setup in ("a", "b", split))
    assert torch.allclose(both, torch.stack([one[0], two[1]]), atol=1e-4)
    places = inputs["input_ids"][0, 1:7].clone()
    inputs["input_ids"][1] = 5
    inputs["input_ids"] = torch.cat([inputs["input_ids"], torch.tensor([[*places], [5] * 6])], dim=1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    inputs["token_type_ids"] = (inputs["input_ids"] == places[1]).long()
    with pytest.raises(UnsupportedMethodError, match="not each of them has a place"):
        _scores(model, inputs, split)


def test_rows_of_tokens_that_generate_makes_for_images_are_theirs() -> None:
    """BLIP-2's makes one for each image."""
    torch.manual_seed(0)
    model, inputs = _adapted(blip2())
    found = []
    for setup in ("a", "b", BatchSplit("a", "b", batch_sizes=[1, 1])):
        model.set_active_adapters(setup)
        options = {"do_sample": False, "output_scores": True, "return_dict_in_generate": True}
        found.append(torch.stack(model.generate(**inputs, max_new_tokens=3, min_new_tokens=3, **options).scores, 1))
    assert torch.allclose(found[2], torch.stack([found[0][0], found[1][1]]), atol=1e-4)


@pytest.mark.parametrize("task_ids", [torch.tensor([1, 0]), [1, 0], ["b", "a"]], ids=str)
def test_an_encoder_that_runs_before_any_forward_gets_the_tasks(task_ids: Any) -> None:
    sizes = {"d_model": 32, "d_ff": 48, "d_kv": 8, "num_layers": 2, "num_heads": 4, "vocab_size": 100}
    torch.manual_seed(0)
    made = Composite(
        T5ForConditionalGeneration(T5Config(**sizes, decoder_start_token_id=0, eos_token_id=99, pad_token_id=0)),
        {"input_ids": torch.tensor([[7, 5, 6], [8, 9, 4]])},
    )
    model, inputs = _adapted(made)
    one, two = _scores(model, inputs, "a"), _scores(model, inputs, "b")
    model.set_active_adapters(MultiTask("a", "b"))
    found = torch.stack(generated(model, inputs, min_new_tokens=4, task_ids=task_ids).scores, dim=1)
    assert torch.allclose(found, torch.stack([two[0], one[1]]), atol=1e-4)


# A model in a user's own


class Around(PreTrainedModel):  # type: ignore[misc]
    config_class = BertConfig

    def __init__(self, reader: PreTrainedModel) -> None:
        config = BertConfig(**BERT)
        super().__init__(config)
        self.reader, self.beside = reader, BertModel(config)
        self.eval()

    def forward(self, **inputs: torch.Tensor) -> torch.Tensor:
        """As many rows as are given, or as there are copies of them."""
        return generated(self.reader, inputs, min_new_tokens=4).sequences


@pytest.mark.parametrize("counts", [(1, 1), (2, 1)])
def test_a_model_inside_of_another_generates_for_each_adapter(counts: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    reader, inputs = llava(counts)
    model, _ = _adapted(Composite(Around(reader), inputs))
    for call in (lambda: generated(model.reader, inputs, min_new_tokens=4).sequences, lambda: model(**inputs)):
        found = []
        for setup in ("a", "b", Parallel("a", "b")):
            model.set_active_adapters(setup)
            found.append(call())
        assert torch.equal(found[2], torch.cat(found[:2]))
        assert not torch.equal(found[0], found[1])


def test_images_of_a_model_inside_of_another_are_no_ones_in_unequal_numbers() -> None:
    torch.manual_seed(0)
    reader, inputs = llava((2, 0))
    model, _ = _adapted(Composite(Around(reader), inputs))
    model.set_active_adapters(BatchSplit("a", "b", batch_sizes=[1, 1]))
    for call in (lambda: generated(model.reader, inputs), lambda: model(**inputs)):
        with pytest.raises(UnsupportedMethodError, match="not each of them has a place for what CLIPVisionModel"):
            call()
