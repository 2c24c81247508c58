"""Rows of models made of several: which meet those of other adapters, which are copied once, and which image is whose."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pytest
import torch
import transformers
from transformers import (
    BertConfig,
    BertModel,
    CLIPConfig,
    CLIPModel,
    PreTrainedModel,
    ViTConfig,
    ViTModel,
)
from transformers.modeling_outputs import BaseModelOutput

from adapter_runtime import BatchSplit, MultiTask, Parallel, init
from adapter_runtime.call.context import thread
from adapter_runtime.call.crossing import RowsMeetError, RowWatch
from adapter_runtime.call.placeholders import kinds_without_places
from adapter_runtime.errors import UnsupportedMethodError
from adapter_runtime.model.parts.towers import towers_of
from composite_models import BERT, IMAGE, VIT, Composite, blip2, dual_encoder, llava, logits, pixels, with_adapters
from conformance import instances
from conformance.tiny import randomise as randomise_base
from conformance.tiny import tiny_config
from runtime_models import randomise

SPLIT = BatchSplit("a", "b", batch_sizes=[1, 1])
WORDS = torch.tensor([[1, 7, 5, 9], [2, 8, 3, 4]])


def _adapted(made: Composite, config: str = "lora", **second: str) -> Composite:
    init(made.model.eval())
    for seed, name in enumerate("ab"):
        made.model.add_adapter(name, second.get(name, config))
        randomise(made.model, name, seed)
    return made


# All rows against all


def clip() -> Composite:
    shared = {"intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    text = {"hidden_size": 32, "vocab_size": 100, "max_position_embeddings": 16, "eos_token_id": 2, **shared}
    vision = {"hidden_size": 24, "image_size": 8, "patch_size": 4, **shared}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16))
    return Composite(model, {"pixel_values": pixels(2), "input_ids": WORDS})


class Pair(PreTrainedModel):  # type: ignore[misc]
    """A text and an image in each row, each read by a model of its own."""

    config_class = BertConfig
    base_model_prefix = "pair"

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.words, self.images = BertModel(config), ViTModel(ViTConfig(**{**VIT, "hidden_size": config.hidden_size}))
        self.post_init()

    def forward(self, input_ids: torch.Tensor, pixel_values: torch.Tensor) -> BaseModelOutput:
        words = self.words(input_ids).last_hidden_state
        images = self.images(pixel_values).last_hidden_state
        return BaseModelOutput(last_hidden_state=self.compared(words, images))

    def compared(self, words: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError


class ByEinsum(Pair):
    def compared(self, words: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        return torch.einsum("id,jd->ij", words[:, 0], images[:, 0])


class ByBroadcast(Pair):
    def compared(self, words: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        return (words[:, 0].unsqueeze(1) * images[:, 0][None]).sum(dim=-1)


class ByEachToken(Pair):
    def compared(self, words: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.normalize(words, dim=-1) @ images.mean(dim=1).T.contiguous()


class BySpreadRows(Pair):  # as X-CLIP does
    def compared(self, words: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        spread = words[:, 0].unsqueeze(0).expand(len(images), -1, -1)
        return torch.einsum("bd,bkd->bk", images[:, 0], spread)


class RowByRow(Pair):
    """The products of each row: where there are as many tokens as rows, their shapes are those of a contrastive matrix."""

    def compared(self, words: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        scores = torch.einsum("bqd,bkd->bqk", words, images).softmax(dim=-1)
        read = scores @ images + (words.transpose(1, 2) @ words).mean(dim=1, keepdim=True)
        turned = read.permute(1, 0, 2) * words.transpose(0, 1)
        first = turned.transpose(0, 1).reshape(-1, read.shape[-1])
        weight: torch.Tensor = self.words.pooler.dense.weight
        return first @ weight.T


def _pair(kind: type[Pair], rows: int = 2) -> Composite:
    return Composite(kind(BertConfig(**BERT)), {"pixel_values": pixels(rows), "input_ids": WORDS.repeat(rows // 2, 1)})


def tiny(model_type: str) -> Composite:
    """A model with the inputs of its conformance run, of which two rows."""
    made = instances.read(model_type)
    torch.manual_seed(0)
    model = getattr(transformers, made.architecture)._from_config(tiny_config(model_type), attn_implementation="eager")
    randomise_base(model)
    return Composite(model, {name: value[:2] for name, value in made.inputs().items()})


COMPARING: Mapping[str, Callable[[], Composite]] = {
    "CLIP": clip,
    "any two": dual_encoder,
    **{kind.__name__: partial(_pair, kind) for kind in (ByEinsum, ByBroadcast, ByEachToken, BySpreadRows)},
    # Planned as one model, with a tower for texts and one for images
    **{model_type: partial(tiny, model_type) for model_type in ("xclip", "groupvit", "clvp")},
}


@pytest.mark.parametrize("kind", COMPARING)
@pytest.mark.parametrize("setup", [Parallel("a", "b"), SPLIT], ids=lambda setup: type(setup).__name__)
def test_rows_of_one_adapter_are_not_compared_with_those_of_another(kind: str, setup: Any) -> None:
    model, inputs = _adapted(COMPARING[kind]())
    model.set_active_adapters("a")
    model(**inputs)
    model.set_active_adapters(setup)
    with pytest.raises(UnsupportedMethodError, match="compares all rows of one part with all rows of another"):
        model(**inputs)
    assert thread.context is None


def test_features_of_a_contrastive_model_are_computed_side_by_side() -> None:
    model, inputs = _adapted(clip())
    for name, asked in (("get_text_features", "input_ids"), ("get_image_features", "pixel_values")):
        found = _features(model, name, {asked: inputs[asked]})
        assert torch.allclose(found[2], torch.cat(found[:2]), atol=1e-5)
        assert not torch.allclose(found[0], found[1], atol=1e-3)


@pytest.mark.parametrize("rows", [2, 4])
@pytest.mark.parametrize(
    "setup", [Parallel("a", "b"), BatchSplit("a", "b", batch_sizes=[1, 1])], ids=["copies", "split"]
)
def test_products_within_rows_are_no_comparison_of_them(rows: int, setup: Any) -> None:
    if isinstance(setup, BatchSplit):
        setup = BatchSplit("a", "b", batch_sizes=[1, rows - 1])
    model, inputs = _adapted(
        Composite(
            RowByRow(BertConfig(**BERT)), {"pixel_values": pixels(rows), "input_ids": WORDS.repeat(rows // 2, 1)}
        )
    )
    found = []
    for active in ("a", "b", setup):
        model.set_active_adapters(active)
        found.append(model(**inputs).last_hidden_state)
    one, two, both = found
    tokens = len(one) // rows
    expected = torch.cat([one, two] if isinstance(setup, Parallel) else [one[:tokens], two[tokens:]])
    assert torch.allclose(both, expected, atol=1e-4)


def test_texts_under_several_adapters_are_compared_with_images_under_none() -> None:
    model, inputs = _adapted(clip(), "lora[parts='text']")
    found = []
    for active in ("a", "b", SPLIT):
        model.set_active_adapters(active)
        found.append(model(**inputs).logits_per_text)
    assert torch.allclose(found[2], torch.stack([found[0][0], found[1][1]]), atol=1e-5)


def _as_one_or_the_other(model: PreTrainedModel, inputs: Mapping[str, torch.Tensor], field: str) -> bool:
    """Whether the first row is as under "a" and the second as under "b", where the batch is divided so."""
    found = []
    for active in ("a", "b", SPLIT):
        model.set_active_adapters(active)
        with torch.no_grad():
            found.append(getattr(model(**inputs), field))
    one, two, split = found
    assert not torch.allclose(one, two, atol=1e-3)
    return torch.allclose(split, torch.stack([one[0], two[1]]), atol=1e-5)


def test_a_tower_without_adapters_is_compared_with_one_that_has_them() -> None:
    model, inputs = _adapted(tiny("groupvit"))
    texts = len(model.text_model.encoder.layers)
    is_text_first = next(layer for _, layer in model.adapters_base.iter_layers()) is model.text_model.encoder.layers[0]
    assert is_text_first
    for name in "ab":
        model.delete_adapter(name)
    model, inputs = _adapted(Composite(model, inputs), f"lora[leave_out={list(range(texts))}]")
    assert _as_one_or_the_other(model, inputs, "logits_per_image")


@pytest.mark.parametrize(
    ("model_type", "rows"),
    [
        pytest.param("blip", "logits_per_image", id="texts without adapter classes"),
        pytest.param("align", "logits_per_text", id="images without layers"),
    ],
)
def test_what_has_no_adapters_has_copies_too(model_type: str, rows: str) -> None:
    model, inputs = _adapted(tiny(model_type))
    assert _as_one_or_the_other(model, inputs, rows)
    model.set_active_adapters(Parallel("a", "b"))
    with pytest.raises(UnsupportedMethodError, match="compares all rows"):
        model(**inputs)


def test_nothing_is_left_of_the_watch_after_a_call() -> None:
    model, inputs = _adapted(tiny("groupvit"))
    hooks = [len(tower._forward_hooks) + len(tower._forward_pre_hooks) for tower in towers_of(model.adapters_base)]
    model.set_active_adapters(SPLIT)
    with pytest.raises(UnsupportedMethodError):
        model(**inputs)
    assert hooks == [
        len(tower._forward_hooks) + len(tower._forward_pre_hooks) for tower in towers_of(model.adapters_base)
    ]
    model.set_active_adapters("a")
    assert model(**inputs).logits_per_image.shape == (2, 2)


@pytest.mark.parametrize(
    ("model_type", "towers"),
    [
        pytest.param("llama", [], id="one list of layers"),
        pytest.param("bert", [], id="one encoder beside modules without layers"),
        pytest.param("t5", [], id="an encoder and its decoder"),
        pytest.param("clip", ["text_model", "vision_model"], id="parts"),
        pytest.param("blip", ["text_model", "vision_model"], id="a part and a model without adapter classes"),
        pytest.param("groupvit", ["text_model", "vision_model"], id="modules of one model"),
        pytest.param("hiera", [], id="stages, one behind the other"),
    ],
)
def test_towers_are_what_stands_beside_each_other(model_type: str, towers: list[str]) -> None:
    model = tiny(model_type).model
    init(model)
    base = model.adapters_base
    names = {module: name for name, module in base.named_modules()}
    assert [names[tower] for tower in towers_of(base)] == towers


@pytest.mark.parametrize(
    "function",
    [
        lambda rows, weight: rows @ weight,
        lambda rows, weight: rows[0] @ rows[1].T,
        lambda rows, weight: torch.stack([rows[:, 0], rows[:, 1]]) * rows[:, 0],
        lambda rows, weight: rows.reshape(1, -1, 4) @ rows.reshape(1, -1, 4).transpose(1, 2),
        lambda rows, weight: torch.zeros(4, 9, 4).masked_scatter(
            torch.ones(4, 9, 4, dtype=torch.bool), rows.repeat(1, 3, 1)
        ),
    ],
    ids=["weights", "tokens of one row", "new dimensions", "all positions in one row", "places"],
)
def test_what_is_not_known_of_rows_is_no_reason_to_refuse(function: Callable[..., torch.Tensor]) -> None:
    watch = RowWatch(2)
    with watch:
        function(watch.apart(lambda: torch.randn(4, 3, 4), follows=True), torch.randn(4, 4))


def test_rows_are_followed_where_they_go() -> None:
    with RowWatch(2) as watch:
        rows = watch.apart(lambda: torch.randn(4, 3, 8), follows=True)
        turned = rows.permute(2, 0, 1).to(torch.float64).mean(dim=-1)  # [8, 4]
        last = rows.double()[:, -1]
        with pytest.raises(RowsMeetError):
            torch.mm(last, turned)


# Copies are made once


def _features(model: PreTrainedModel, name: str, inputs: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
    """The features under "a", under "b", and under both."""
    found = []
    for active in ("a", "b", Parallel("a", "b")):
        model.set_active_adapters(active)
        with torch.no_grad():
            given = getattr(model, name)(**inputs).pooler_output
        found.append(given if isinstance(given, torch.Tensor) else torch.cat(list(given)))
    return found


@pytest.mark.parametrize(
    "make", [blip2, lambda: Composite(llava().model, {"pixel_values": pixels(3)})], ids=["several parts", "one"]
)
def test_features_outside_of_a_forward_are_copied_once(make: Callable[[], Composite]) -> None:
    torch.manual_seed(0)
    model, inputs = _adapted(make())
    one, two, both = _features(model, "get_image_features", inputs)
    assert both.shape[0] == 2 * one.shape[0]
    assert torch.allclose(both, torch.cat([one, two]), atol=1e-5)
    assert not torch.allclose(one, two, atol=1e-3)


# Which image is whose


def _with_images(counts: tuple[int, int]) -> Composite:
    torch.manual_seed(0)
    return llava(counts)


@pytest.mark.parametrize("counts", [(2, 0), (0, 2)])
def test_as_many_images_as_rows_are_not_taken_for_one_each(counts: tuple[int, int]) -> None:
    model, inputs = _adapted(_with_images(counts))
    model.set_active_adapters(SPLIT)
    with pytest.raises(UnsupportedMethodError, match="not each of them has a place for what CLIPVisionModel reads"):
        model(**inputs)
    model.set_active_adapters(MultiTask("a", "b"))
    with pytest.raises(UnsupportedMethodError, match="not each of them has a place"):
        model(**inputs, task_ids=["a", "b"])


def test_embeddings_do_not_show_which_image_is_whose() -> None:
    model, inputs = _adapted(_with_images((1, 1)))
    tokens = inputs.pop("input_ids")
    model.set_active_adapters(SPLIT)
    with pytest.raises(UnsupportedMethodError, match="not each of them has a place"):
        model(**inputs, inputs_embeds=model.get_input_embeddings()(tokens))


@pytest.mark.parametrize("counts", [(1, 1), (2, 0)])
def test_images_may_be_anyones_where_their_tower_has_no_adapter(counts: tuple[int, int]) -> None:
    model, inputs = _adapted(_with_images(counts), "lora[parts='text']")
    one, two, split = (logits(model, inputs, setup) for setup in ("a", "b", SPLIT))
    assert torch.allclose(split, torch.stack([one[0], two[1]]), atol=1e-5)


@pytest.mark.parametrize("kind", ["llava", "gemma3", "encoder-decoder", "vision-encoder-decoder"])
def test_one_image_in_each_row_or_rows_without_places_are_split(kind: str) -> None:
    model, inputs = with_adapters(kind, a="lora", b="lora")
    assert kind != "llava" or bool((inputs["input_ids"] == IMAGE).any(dim=1).all())
    one, two, split = (logits(model, inputs, setup) for setup in ("a", "b", SPLIT))
    assert torch.allclose(split, torch.stack([one[0], two[1]]), atol=1e-5)


@pytest.mark.parametrize(
    ("rows", "is_lacking"),
    [
        pytest.param([[IMAGE, 5], [IMAGE, 6]], False, id="each has a place"),
        pytest.param([[IMAGE, IMAGE], [5, 6]], True, id="one has none"),
        pytest.param([[5, 6], [8, 9]], False, id="no place at all: what they attend to comes row by row (Mllama)"),
        pytest.param(None, True, id="no tokens are given"),
    ],
)
def test_rows_lack_a_place_where_others_have_one(rows: list[list[int]] | None, is_lacking: bool) -> None:
    config = with_adapters("llava").model.config
    tokens = None if rows is None else torch.tensor(rows)
    assert ("vision" in kinds_without_places(config, {"input_ids": tokens})) == is_lacking


class Around(PreTrainedModel):  # type: ignore[misc]
    """A model of a user's own: one that reads images and texts, and another one beside it."""

    config_class = BertConfig
    tokens = "input_ids"

    def __init__(self, reader: PreTrainedModel) -> None:
        config = BertConfig(**BERT)
        super().__init__(config)
        self.reader, self.beside = reader, BertModel(config)
        self.eval()

    def forward(self, **inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        tokens = inputs.pop(self.tokens)
        return self.reader(input_ids=tokens, **inputs).logits, self.beside(tokens).last_hidden_state


class AroundWords(Around):
    """Which calls the tokens something else, so that its own arguments do not tell where images have their places."""

    tokens = "words"


def _around(kind: type[Around], counts: tuple[int, ...]) -> Composite:
    made = _with_images(counts)
    inputs = {kind.tokens if name == "input_ids" else name: value for name, value in made.inputs.items()}
    return _adapted(Composite(kind(made.model), inputs))


@pytest.mark.parametrize("kind", [Around, AroundWords])
@pytest.mark.parametrize("counts", [(2, 1, 0), (0, 1, 2), (1, 1, 1)])
def test_images_are_whose_they_are_in_a_model_around_the_one_that_reads_them(
    kind: type[Around], counts: tuple[int, ...]
) -> None:
    model, inputs = _around(kind, counts)
    one, two = logits(model, inputs, "a"), logits(model, inputs, "b")
    real = inputs["attention_mask"].bool()
    for setup, owners, more in (
        (BatchSplit("a", "b", batch_sizes=[1, 2]), (0, 1, 1), {}),
        (MultiTask("a", "b"), (1, 0, 1), {"task_ids": torch.tensor([1, 0, 1])}),
    ):
        if counts != (1, 1, 1):
            with pytest.raises(UnsupportedMethodError, match="not each of them has a place for what CLIPVisionModel"):
                logits(model, {**inputs, **more}, setup)
            continue
        expected = torch.stack([(one, two)[owner][row] for row, owner in enumerate(owners)])
        assert torch.allclose(logits(model, {**inputs, **more}, setup)[real], expected[real], atol=1e-5)
    both = logits(model, inputs, Parallel("a", "b"))
    assert torch.allclose(both, torch.cat([one, two]), atol=1e-5)


def test_a_model_in_a_model_is_called_by_itself_with_copies_of_its_rows() -> None:
    model, inputs = _around(Around, (2, 1))
    one, two, both = (logits(model, inputs, setup) for setup in ("a", "b", Parallel("a", "b")))
    assert torch.allclose(model.reader(**inputs).logits, both, atol=1e-5)
    assert model.reader.model(**inputs).last_hidden_state.shape[:2] == both.shape[:2]
    assert not torch.allclose(one, two, atol=1e-3)


def test_features_of_images_are_split_by_these() -> None:
    model, _ = _adapted(_with_images((1, 1)))
    found = []
    for active in ("a", "b", SPLIT):
        model.set_active_adapters(active)
        given = model.get_image_features(pixel_values=pixels(2)).pooler_output
        found.append(torch.stack(list(given)) if not isinstance(given, torch.Tensor) else given)
    assert torch.allclose(found[2], torch.stack([found[0][0], found[1][1]]), atol=1e-5)
