"""Models made of models: the parts that `init` finds, what adapters do in each, and what belongs to the whole."""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import (
    BartConfig,
    BertConfig,
    BertModel,
    Blip2Config,
    Blip2ForConditionalGeneration,
    BlipConfig,
    BlipForImageTextRetrieval,
    BlipModel,
    DPRConfig,
    LlamaConfig,
    LlamaModel,
    PreTrainedModel,
    Qwen2AudioConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    RagConfig,
    RagTokenForGeneration,
)
from transformers.modeling_outputs import CausalLMOutput

from adapter_models.llava import LlavaModelAdaptersMixin
from adapter_runtime import AdapterSetup, BatchSplit, MultiTask, Parallel, Stack, init
from adapter_runtime.call.context import thread
from adapter_runtime.contract.registry import registered
from adapter_runtime.errors import InvalidConfigError, UnsupportedMethodError, UnsupportedModelError
from adapter_runtime.methods.invertible.layer import InvertibleAdapters
from adapter_runtime.methods.prompt_tuning.layer import PromptTuningLayer
from adapter_runtime.model.calls import _warn_of_idle
from adapter_runtime.model.heads.headless import ModelWithoutHeadsAdaptersMixin
from adapter_runtime.model.parts.composite import OwnLayers
from adapter_runtime.roles import LayerStack
from composite_models import (
    BERT,
    IMAGE,
    MAKERS,
    PARTS,
    Composite,
    canary,
    dual_encoder,
    generated,
    granite_speech,
    llava,
    logits,
    made,
    mistral3,
    pixels,
    with_adapters,
)
from conformance import heads
from runtime_models import randomise

METHODS = ("seq_bn[reduction_factor=2]", "lora", "prefix_tuning", "loreft", "prompt_tuning", "seq_bn_inv", "mam")


# Parts


@pytest.mark.parametrize("kind", MAKERS)
def test_parts_are_found_by_their_classes_and_count_their_layers_together(kind: str) -> None:
    base = made(kind).model.adapters_base
    counted = {path: [index for index, _ in part.iter_layers()] for path, part in base.adapter_parts().items()}
    assert {path: len(indices) for path, indices in counted.items()} == PARTS[kind]
    assert [index for indices in counted.values() for index in indices] == list(range(sum(PARTS[kind].values())))


@pytest.mark.parametrize("kind", MAKERS)
def test_without_adapters_nothing_changes(kind: str) -> None:
    torch.manual_seed(0)
    model, inputs = MAKERS[kind]()
    expected = logits(model.eval(), inputs)
    init(model)
    assert torch.equal(logits(model, inputs), expected)
    model.add_adapter("a", "mam")
    assert torch.equal(logits(model, inputs), expected)
    randomise(model, "a", 1)
    assert not torch.allclose(logits(model, inputs, "a"), expected)
    model.delete_adapter("a")
    assert torch.equal(logits(model, inputs), expected)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", MAKERS)
def test_every_part_has_its_share_of_an_adapter_and_acts(kind: str, method: str) -> None:
    model, inputs = with_adapters(kind, a=method)
    expected = logits(model, inputs, None)
    whole = logits(model, inputs, "a")
    assert not torch.allclose(whole, expected)
    names = [name for name, _ in model.adapters_base.adapter_parameters("a")]
    for path in PARTS[kind]:
        own = [name for name in names if name.startswith(f"{path}.")]
        is_of_tokens = method == "prompt_tuning"
        assert bool(own) is (
            not is_of_tokens or model.adapters_base.get_submodule(path) is model.adapters_base.text_part
        )
        saved = {name: model.adapters_base.get_parameter(name).detach().clone() for name in own}
        for name in own:  # an adapter of zeros is not none, but another one
            model.adapters_base.get_parameter(name).data.zero_()
        if own:
            assert not torch.allclose(logits(model, inputs), whole, atol=1e-7)
        for name, values in saved.items():
            model.adapters_base.get_parameter(name).data.copy_(values)


@pytest.mark.parametrize("kind", MAKERS)
def test_the_whole_is_frozen_and_only_the_adapter_is_trained(kind: str) -> None:
    model = with_adapters(kind, a="lora").model
    model.train_adapter("a")
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {name for name, _ in model.adapter_parameters("a")}


def test_no_context_is_left_behind() -> None:
    model, inputs = with_adapters("llava", a="mam")
    logits(model, inputs, "a")
    with pytest.raises(ValueError):
        model(**inputs | {"pixel_values": inputs["pixel_values"][:1]})
    assert thread.context is None


def test_a_part_gets_what_it_has_a_place_for_and_the_file_says_the_same(tmp_path: Path) -> None:
    """Only the decoder has a cross-attention."""
    config = "double_seq_bn[reduction_factor=2,cross_adapter=True]"
    model, inputs = with_adapters("encoder-decoder", a=config)
    names = [name for name, _ in model.adapters_base.adapter_parameters("a")]
    assert any(name.startswith("encoder.") for name in names)
    assert any("crossattention" in name for name in names)
    model.save_adapter(tmp_path, "a")
    other = made("encoder-decoder").model
    other.load_adapter(tmp_path, set_active=True)
    assert torch.equal(logits(other, inputs), logits(model, inputs, "a"))


def test_what_no_part_has_a_place_for_is_refused() -> None:
    with pytest.raises(InvalidConfigError, match="cross_adapter=True"):
        made("llava").model.add_adapter("a", "double_seq_bn[cross_adapter=True]")


# Prefixes, prompts, invertible adapters, ReFT: of each part by itself


def test_prefixes_of_parts_are_told_apart() -> None:
    model, inputs = with_adapters("encoder-decoder", a="prefix_tuning_flat")
    whole = logits(model, inputs, "a")
    with AdapterSetup("a"):
        assert torch.equal(logits(model, inputs), whole)
    encoder = model.encoder(inputs["input_ids"], attention_mask=inputs["attention_mask"])
    by_hand = model(encoder_outputs=encoder, **{key: value for key, value in inputs.items() if key != "input_ids"})
    assert torch.allclose(by_hand[0], whole, atol=1e-6)


def test_an_invertible_adapter_is_coupled_once() -> None:
    model, inputs = with_adapters("llava", a="seq_bn_inv")
    calls = []
    held = model.adapters_base.get_submodule("language_model").invertible_adapters
    held["a"].register_forward_hook(lambda *_: calls.append(1))
    logits(model, inputs, "a")
    assert len(calls) == 1


def test_reft_in_a_tower_does_not_take_the_padding_of_the_text_for_its_own() -> None:
    torch.manual_seed(0)
    model, inputs = dual_encoder()
    init(model.eval())
    model.add_adapter("a", "loreft")
    randomise(model, "a", 1)
    model.set_active_adapters("a")
    length = model.vision_model(inputs["pixel_values"]).last_hidden_state.shape[1]
    tokens = torch.randint(3, 99, (2, length))
    masks = torch.ones_like(tokens), torch.ones_like(tokens).tril(2)  # as many tokens as patches, padded or not
    images = [
        model(input_ids=tokens, attention_mask=mask, **{"pixel_values": inputs["pixel_values"]}).image_embeds
        for mask in masks
    ]
    assert torch.equal(*images)


def test_what_a_part_hands_to_the_whole_has_no_positions_of_a_prompt() -> None:
    model, inputs = with_adapters("llava", a="prompt_tuning")
    assert logits(model, inputs, "a").shape == (*inputs["input_ids"].shape, 100)


class ReadsLayers(PreTrainedModel):
    """A whole that reads the states of the layers of its text part, as tuple or by name: FLAVA."""

    config_class = BertConfig

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.text, self.other = BertModel(config), BertModel(config)
        self.post_init()

    def get_input_embeddings(self) -> torch.nn.Module:
        return self.text.get_input_embeddings()

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, named: bool = True
    ) -> tuple[torch.Tensor]:
        found = self.text(input_ids, attention_mask=attention_mask, output_hidden_states=True, return_dict=named)
        states = (found.hidden_states if named else found[2])[-1]
        return (self.other(inputs_embeds=states, attention_mask=attention_mask).last_hidden_state,)


@pytest.mark.parametrize("named", [True, False])
def test_a_whole_reads_the_layers_of_a_part_without_the_prompt(named: bool) -> None:
    model = ReadsLayers(BertConfig(**BERT)).eval()
    init(model)
    model.add_adapter("a", "prompt_tuning[prompt_length=3]", set_active=True)
    tokens = torch.tensor([[1, 7, 5, 9]])
    states = model(tokens, torch.ones_like(tokens), named=named)[0]
    assert states.shape[1] == tokens.shape[1]
    seen = model.text(tokens, output_hidden_states=True)  # by itself it is a part all the same
    assert {one.shape[1] for one in (*seen.hidden_states, seen.last_hidden_state)} == {tokens.shape[1]}


@pytest.mark.parametrize("kind", ["llava", "gemma3"])
@pytest.mark.parametrize("combine", ["prefix", "prefix_after_bos"])
def test_a_prompt_is_what_tokens_would_be_that_have_its_embeddings(kind: str, combine: str) -> None:
    """The same model, given P further tokens by hand, over whose embeddings the prompt is written in front of its text model."""
    model, inputs = with_adapters(kind, a=f"prompt_tuning[prompt_length=3,combine='{combine}']")
    ours = logits(model, inputs, "a")
    prompt = next(parameter for _, parameter in model.adapter_parameters("a"))
    model.set_active_adapters(None)
    given, columns = _with_free_tokens(inputs, 3, after_first=combine != "prefix", is_near=kind == "gemma3")

    def write(module: torch.nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        embeddings = kwargs["inputs_embeds"].clone()
        for row, places in enumerate(columns):
            embeddings[row, places] = prompt
        return args, {**kwargs, "inputs_embeds": embeddings}

    text = model.adapters_base.get_submodule("language_model")
    with text.register_forward_pre_hook(write, with_kwargs=True):
        by_hand = logits(model, given)
    for row, places in enumerate(columns):
        kept = [column for column in range(by_hand.shape[1]) if column not in places]
        real = inputs["attention_mask"][row].bool()
        assert torch.allclose(by_hand[row, kept][real], ours[row][real], atol=1e-5)


def _with_free_tokens(
    inputs: Mapping[str, torch.Tensor], count: int, after_first: bool, is_near: bool
) -> tuple[dict[str, torch.Tensor], list[list[int]]]:
    """Inputs with `count` further tokens in each row, and where these stand: in front, or beside the first real token."""
    mask = inputs["attention_mask"]
    starts = [int(row.argmax()) + after_first if after_first or is_near else 0 for row in mask]
    rows = []
    for row, start in enumerate(starts):
        one = {name: inputs[name][row] for name in ("input_ids", "attention_mask", "token_type_ids") if name in inputs}
        fills = {"input_ids": 50, "attention_mask": 1, "token_type_ids": 0}
        rows.append(
            {name: torch.cat([v[:start], v.new_full((count,), fills[name]), v[start:]]) for name, v in one.items()}
        )
        positions = inputs["position_ids"][row]
        before = int(positions[start - 1]) + 1 if after_first else int(positions[start])
        rows[-1]["position_ids"] = torch.cat(
            [positions[:start], before + torch.arange(count), positions[start:] + count]
        )
    given = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
    return {**inputs, **given}, [list(range(start, start + count)) for start in starts]


# Adapters of some parts


def test_a_setup_runs_an_adapter_that_one_part_has() -> None:
    model, inputs = with_adapters("dual encoder", a="prompt_tuning", b="lora")
    expected = logits(model, inputs, Stack("a", "b"))
    model.set_active_adapters(None)
    with AdapterSetup(Stack("a", "b")):
        assert torch.equal(logits(model, inputs), expected)


# Blocks


@pytest.mark.parametrize("method", ["seq_bn", "lora", "prefix_tuning_flat", "loreft"])
@pytest.mark.parametrize("kind", MAKERS)
def test_parallel_gives_what_its_children_give_one_after_the_other(kind: str, method: str) -> None:
    model, inputs = with_adapters(kind, a=method, b=method)
    if kind == "dual encoder":
        features = {name: inputs[name] for name in ("input_ids",)}
        one, two = (_text_features(model, features, setup) for setup in ("a", "b"))
        both = _text_features(model, features, Parallel("a", "b"))
    else:
        one, two = (logits(model, inputs, setup) for setup in ("a", "b"))
        both = logits(model, inputs, Parallel("a", "b"))
    assert torch.allclose(both, torch.cat([one, two]), atol=1e-5)


def _text_features(model: PreTrainedModel, inputs: Mapping[str, Any], setup: Any) -> torch.Tensor:
    model.set_active_adapters(setup)
    with torch.no_grad():
        found = model.get_text_features(**inputs)
    return found if isinstance(found, torch.Tensor) else found.pooler_output


@pytest.mark.parametrize("images", [(1, 1), (1, 3), (2, 2)])
def test_parallel_with_several_images_in_a_row(images: tuple[int, int]) -> None:
    torch.manual_seed(0)
    model, inputs = llava(images)
    init(model.eval())
    for seed, name in enumerate("ab"):
        model.add_adapter(name, "mam")
        randomise(model, name, seed)
    one, two = (logits(model, inputs, name) for name in "ab")
    assert torch.allclose(logits(model, inputs, Parallel("a", "b")), torch.cat([one, two]), atol=1e-5)


def test_rows_that_are_assigned_to_adapters_are_refused_where_a_part_has_other_rows() -> None:
    torch.manual_seed(0)
    model, inputs = llava((1, 3))
    init(model.eval())
    model.add_adapter("a", "lora")
    model.add_adapter("b", "lora")
    model.set_active_adapters(BatchSplit("a", "b", batch_sizes=[1, 1]))
    with pytest.raises(
        UnsupportedMethodError, match="assigns the 2 rows of the batch to adapters, but CLIPVisionModel works on 4"
    ):
        model(**inputs)
    model.set_active_adapters(MultiTask("a", "b"))
    with pytest.raises(UnsupportedMethodError, match="works on 4"):
        model(**inputs, task_ids=["a", "b"])


def test_a_batch_is_split_where_every_part_has_its_rows() -> None:
    model, inputs = with_adapters("llava", a="lora", b="lora")
    one, two = (logits(model, inputs, name) for name in "ab")
    split = logits(model, inputs, BatchSplit("a", "b", batch_sizes=[1, 1]))
    assert torch.allclose(split, torch.stack([one[0], two[1]]), atol=1e-5)


PACKED = ["seq_bn", "lora", "prefix_tuning_flat", "mam"]


def _packing(**configs: str) -> Composite:
    model, inputs = mistral3()
    init(model)
    for seed, (name, config) in enumerate(configs.items()):
        model.add_adapter(name, config)
        randomise(model, name, seed)
    return Composite(model, inputs)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("method", PACKED)
def test_parallel_where_a_part_packs_all_rows_into_one(method: str, attention: str) -> None:
    model, inputs = _packing(a=method, b=method)
    model.set_attn_implementation(attention)
    one, two = (logits(model, inputs, name) for name in "ab")
    assert not torch.allclose(one, two, atol=1e-3)
    assert torch.allclose(logits(model, inputs, Parallel("a", "b")), torch.cat([one, two]), atol=1e-5)


def test_blocks_in_blocks_where_a_part_packs_all_rows_into_one() -> None:
    """Prefixes of different lengths, one child without any, a stack in front of all."""
    model, inputs = _packing(
        a="prefix_tuning_flat[prefix_length=2]",
        b="prefix_tuning_flat[prefix_length=5]",
        c="lora",
        d="prefix_tuning_flat",
    )
    for setup, children in (
        (Parallel("a", "b", "c"), ("a", "b", "c")),
        (Parallel(Stack("a", "d"), "b"), (Stack("a", "d"), "b")),
        (Stack("d", Parallel("a", "b")), (Stack("d", "a"), Stack("d", "b"))),
    ):
        expected = torch.cat([logits(model, inputs, child) for child in children])
        assert torch.allclose(logits(model, inputs, setup), expected, atol=1e-5), setup


@pytest.mark.parametrize("method", PACKED)
def test_rows_are_not_assigned_to_adapters_where_a_part_packs_all_into_one(method: str) -> None:
    """As many images as rows do not tell which positions are whose."""
    model, inputs = _packing(a=method, b=method)
    model.set_active_adapters(BatchSplit("a", "b", batch_sizes=[1, 1]))
    with pytest.raises(UnsupportedMethodError, match="gets the positions of all rows in one: which belong"):
        model(**inputs)
    model.set_active_adapters(MultiTask("a", "b"))
    with pytest.raises(
        UnsupportedMethodError,
        match="gets the positions of all rows in one: which belong",
    ):
        model(**inputs, task_ids=["a", "b"])
    model.set_active_adapters("a")
    model(**inputs)


def test_patches_that_rows_have_unequal_numbers_of_are_not_divided_equally() -> None:
    """Qwen2-VL's tower has all patches in tensors (length, width): 16 + 8 are no 12 + 12."""
    text = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "vocab_size": 100,
    }
    config = Qwen2VLConfig(
        text_config={**text, "num_key_value_heads": 2, "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2]}},
        vision_config={"depth": 1, "embed_dim": 16, "num_heads": 2, "hidden_size": 32, "patch_size": 2, "mlp_ratio": 2},
        image_token_id=IMAGE,
    )  # fmt: skip
    torch.manual_seed(0)
    model = Qwen2VLForConditionalGeneration(config).eval()
    init(model)
    for seed, name in enumerate("ab"):
        model.add_adapter(name, "lora")
        randomise(model, name, seed)
    inputs = {
        "input_ids": torch.tensor([[IMAGE] * 4 + [5], [IMAGE] * 2 + [6, 9, 11]]),
        "pixel_values": torch.randn(24, 3 * 2 * 2 * 2, generator=torch.Generator().manual_seed(0)),
        "image_grid_thw": torch.tensor([[1, 4, 4], [1, 2, 4]]),
        "mm_token_type_ids": torch.tensor([[1] * 4 + [0], [1] * 2 + [0] * 3]),
    }
    one, two = (logits(model, inputs, name) for name in "ab")
    assert torch.allclose(logits(model, inputs, Parallel("a", "b")), torch.cat([one, two]), atol=1e-5)
    model.set_active_adapters(BatchSplit("a", "b", batch_sizes=[1, 1]))
    with pytest.raises(UnsupportedMethodError, match="which belong to which does not show"):
        model(**inputs)
    words = {"input_ids": torch.tensor([[5, 9], [6, 11]])}
    split = logits(model, words, BatchSplit("a", "b", batch_sizes=[1, 1]))
    one, two = (logits(model, words, name) for name in "ab")
    assert torch.allclose(split, torch.stack([one[0], two[1]]), atol=1e-5)


@pytest.mark.parametrize("method", ["seq_bn", "lora", "prefix_tuning_flat", "loreft"])
def test_a_part_that_is_given_one_row_for_all_has_adapters_in_each(method: str) -> None:
    """Upstream spreads the queries of Granite Speech's Q-Former over the rows only where they meet the sounds."""
    model, inputs = granite_speech()
    init(model)
    for seed, name in enumerate("ab"):
        model.add_adapter(name, f"{method}[parts='projector.qformer']")
        randomise(model, name, seed)
    one, two = (logits(model, inputs, name) for name in "ab")
    assert torch.allclose(logits(model, inputs, Parallel("a", "b")), torch.cat([one, two]), atol=1e-5)
    for row in (0, 1):  # each is what it is alone
        alone = {name: value[row : row + 1] for name, value in inputs.items()}
        assert torch.allclose(logits(model, alone, "a"), one[row : row + 1], atol=1e-5)
        assert not torch.allclose(logits(model, alone, "b"), one[row : row + 1], atol=1e-4)


# Generation


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["llava", "gemma3", "encoder-decoder", "vision-encoder-decoder"])
def test_decoding_with_a_cache_gives_what_it_gives_without(kind: str, method: str) -> None:
    model, inputs = with_adapters(kind, a=method)
    model.set_active_adapters("a")
    with_cache, without = (generated(model, inputs, use_cache=use) for use in (True, False))
    for one, two in zip(with_cache.scores, without.scores, strict=True):
        assert torch.allclose(one.nan_to_num(neginf=0), two.nan_to_num(neginf=0), atol=1e-4)


@pytest.mark.parametrize("beams", [1, 2])
@pytest.mark.parametrize("kind", ["llava", "gemma3", "encoder-decoder", "vision-encoder-decoder"])
def test_parallel_generates_what_its_children_generate(kind: str, beams: int) -> None:
    model, inputs = with_adapters(kind, a="mam", b="mam")
    found = {}
    for setup in ("a", "b", Parallel("a", "b")):
        model.set_active_adapters(setup)
        found[str(setup)] = generated(model, inputs, num_beams=beams, min_new_tokens=4).sequences
    one, two, both = found.values()
    assert torch.equal(both, torch.cat([one, two]))


# Files, copies


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", MAKERS)
def test_an_adapter_comes_back_from_its_file(kind: str, method: str, tmp_path: Path) -> None:
    model, inputs = with_adapters(kind, a=method)
    expected = logits(model, inputs, "a")
    model.save_adapter(tmp_path, "a")
    other = made(kind).model
    other.load_adapter(tmp_path, set_active=True)
    assert torch.equal(logits(other, inputs), expected)


@pytest.mark.parametrize("kind", MAKERS)
def test_a_whole_checkpoint_names_the_adapters_of_all_parts(kind: str, tmp_path: Path) -> None:
    model, inputs = with_adapters(kind, a="mam")
    model.save_pretrained(tmp_path)
    model.save_adapter(tmp_path / "a", "a")
    other = MAKERS[kind]().model.from_pretrained(tmp_path).eval()
    init(other)
    assert other.state_dict().keys() == model.state_dict().keys()
    assert torch.equal(logits(other, inputs), logits(model, inputs))
    other.load_adapter(tmp_path / "a")
    assert torch.equal(logits(other, inputs, "a"), logits(model, inputs, "a"))


@pytest.mark.parametrize("kind", MAKERS)
def test_copies_and_pickles_have_parts_of_their_own(kind: str) -> None:
    model, inputs = with_adapters(kind, a="mam")
    copies = [
        copy.deepcopy(model),
        pickle.loads(pickle.dumps(model)),
    ]  # before upstream hooks outputs, which cannot be pickled
    expected = logits(model, inputs, "a")
    for other in copies:
        assert torch.equal(logits(other, inputs, "a"), expected)
        base = other.adapters_base
        assert base is not model.adapters_base
        assert all(part.adapters_base is base for part in base.adapter_parts().values())
        other.delete_adapter("a")
    assert torch.equal(logits(model, inputs, "a"), expected)


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("kind", [kind for kind in MAKERS if kind != "dual encoder"])  # upstream's has none
def test_gradient_checkpointing_changes_no_gradient(kind: str, reentrant: bool) -> None:
    gradients = []
    for checkpoints in (False, True):
        model, inputs = with_adapters(kind, a="mam")
        model.train_adapter("a")
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        if checkpoints:
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        torch.manual_seed(1)
        model(**inputs)[0].square().sum().backward()
        gradients.append({name: parameter.grad for name, parameter in model.adapter_parameters("a")})
    for name, gradient in gradients[0].items():
        other = gradients[1][name]
        assert (gradient is None) == (other is None), name
        if gradient is not None:
            assert torch.allclose(gradient, other, atol=1e-5, rtol=1e-4), name


# Near misses


class Helper(PreTrainedModel):
    """A model without layers, and so without adapter classes."""

    config_class = BertConfig


class OfBerts(PreTrainedModel):
    """Base of classes of somebody's own."""

    config_class = BertConfig


class TwoStreams(OfBerts):
    """A class of somebody's own, of two models that are supported and one that is not."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.first, self.second = BertModel(config), BertModel(config)
        self.helper = Helper(config)
        self.out = torch.nn.Linear(config.hidden_size, 3)
        self.post_init()

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        streams = (model(input_ids).last_hidden_state for model in (self.first, self.second))
        return (self.out(sum(streams)),)


def test_a_class_of_ones_own() -> None:
    torch.manual_seed(0)
    model = TwoStreams(BertConfig(**BERT)).eval()
    tokens = {"input_ids": torch.tensor([[1, 7, 5, 9]])}
    expected = logits(model, tokens)
    init(model)
    assert torch.equal(logits(model, tokens), expected)
    assert list(model.adapter_parts()) == ["first", "second"]
    model.add_adapter("a", "mam")
    randomise(model, "a", 1)
    assert not torch.allclose(logits(model, tokens, "a"), expected)
    model.train_adapter("a")
    assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == {
        *(name for name, _ in model.adapter_parameters("a")),
        "out.weight",
        "out.bias",
    }


class Writer(PreTrainedModel):
    """A whole that ends in a projection of its own, tied to the table of its text part, and reads the mask behind that part."""

    config_class = LlamaConfig

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__(config)
        self.text = LlamaModel(config)
        self.out = torch.nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.out.weight = self.text.embed_tokens.weight
        self.post_init()

    def get_output_embeddings(self) -> torch.nn.Module:
        return self.out

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, kept: int = 0) -> Any:
        states = self.text(input_ids, attention_mask=attention_mask).last_hidden_state
        if attention_mask is not None:
            states = states * attention_mask[..., None]
        return CausalLMOutput(logits=self.out(states[:, -kept:]))


def writer(method: str) -> tuple[Writer, dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    small = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = Writer(LlamaConfig(**small, vocab_size=50)).eval()
    init(model)
    model.add_adapter("a", method, set_active=True)
    randomise(model, "a", 1)
    tokens = torch.tensor([[0, 7, 5, 9], [3, 1, 4, 6]])
    return model, {"input_ids": tokens, "attention_mask": (tokens > 0).long()}


def test_an_invertible_adapter_is_undone_before_a_projection_of_the_whole_that_is_tied_to_the_table_of_a_part() -> (
    None
):
    model, inputs = writer("seq_bn[output_adapter=False,inv_adapter='nice',inv_adapter_reduction_factor=2]")
    ours = model(**inputs).logits
    coupling = model.text.invertible_adapters
    model.set_active_adapters(None)
    with torch.no_grad():
        embedded = coupling["a"](model.text.embed_tokens(inputs["input_ids"]))
        states = model.text(inputs_embeds=embedded, attention_mask=inputs["attention_mask"]).last_hidden_state
        expected = model.out(coupling["a"](states * inputs["attention_mask"][..., None], rev=True))
    assert torch.allclose(ours, expected, atol=1e-5)


@pytest.mark.parametrize("kept", [0, 2])
def test_a_whole_that_ends_in_a_head_itself_gives_outputs_at_the_tokens_of_a_prompt(kept: int) -> None:
    model, inputs = writer("prompt_tuning[prompt_length=3]")
    ours = model(**inputs, kept=kept).logits
    prompt = next(parameter for _, parameter in model.adapter_parameters("a"))
    model.set_active_adapters(None)
    embedded = torch.cat([prompt.expand(2, -1, -1), model.text.embed_tokens(inputs["input_ids"])], dim=1)
    mask = torch.nn.functional.pad(inputs["attention_mask"], (3, 0), value=1)
    states = model.text(inputs_embeds=embedded, attention_mask=mask).last_hidden_state * mask[..., None]
    assert torch.allclose(ours, model.out(states[:, 3:])[:, -kept:], atol=1e-5)


def test_a_text_part_without_invertible_adapters_runs_and_generates_with_other_methods() -> None:
    tower = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
    text = {"model_type": "opt", "hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
    config = Blip2Config(
        vision_config={**tower, "image_size": 8, "patch_size": 4},
        qformer_config={**tower, "encoder_hidden_size": 32, "vocab_size": 100},
        text_config={**text, "vocab_size": 100, "word_embed_proj_dim": 32, "max_position_embeddings": 32},
        num_query_tokens=2,
        image_token_index=IMAGE,
    )
    model = Blip2ForConditionalGeneration(config).eval()
    init(model)
    model.add_adapter("a", config="loreft", set_active=True)
    inputs = {"input_ids": torch.tensor([[IMAGE, IMAGE, 3, 4]]), "pixel_values": pixels(1)}
    assert model(**inputs).logits.shape == (1, 4, 100)
    assert not model.has_running_invertible()


def test_a_class_that_derives_from_no_class_of_a_model_leaves_attention_to_the_models_inside() -> None:
    class OfAnyTwo(ModelWithoutHeadsAdaptersMixin, PreTrainedModel):
        pass

    assert OfAnyTwo._can_set_attn_implementation()
    assert not OfAnyTwo._can_set_experts_implementation()


class GoesPast(OfBerts):
    """A whole that calls the layers of its text part past the forward of that."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.first, self.second = BertModel(config), BertModel(config)
        self.post_init()

    def get_input_embeddings(self) -> torch.nn.Module:
        return self.first.get_input_embeddings()

    def forward(self, input_ids: torch.Tensor) -> tuple[torch.Tensor]:
        states = self.first.encoder(self.first.embeddings(input_ids)).last_hidden_state
        return (self.second(inputs_embeds=states).last_hidden_state,)


@pytest.mark.parametrize("method", ["prompt_tuning", "seq_bn_inv", "loreft"])
def test_what_acts_at_the_entry_of_a_part_is_not_lost_where_the_whole_goes_past_it(method: str) -> None:
    model = GoesPast(BertConfig(**BERT)).eval()
    init(model)
    model.add_adapter("a", method, set_active=True)
    with pytest.raises(UnsupportedMethodError, match="past"):
        model(input_ids=torch.tensor([[1, 7, 5, 9]]))
    model.add_adapter("b", "mam", set_active=True)
    randomise(model, "b", 1)
    assert logits(model, {"input_ids": torch.tensor([[1, 7, 5, 9]])}).shape == (1, 4, BERT["hidden_size"])


@pytest.mark.parametrize("method", ["prompt_tuning", "seq_bn_inv", "loreft"])
def test_what_acts_at_the_entry_of_a_part_rests_with_it_and_says_so(
    method: str, caplog: pytest.LogCaptureFixture
) -> None:
    """RAG is given documents, and does not run the question encoder, whose table it calls its own."""
    generator = BartConfig(
        d_model=32, vocab_size=100, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=48, decoder_ffn_dim=48,
        encoder_attention_heads=4, decoder_attention_heads=4, max_position_embeddings=40, decoder_start_token_id=2,
    )  # fmt: skip
    encoder = DPRConfig(**BERT, projection_dim=0)
    torch.manual_seed(0)
    model = RagTokenForGeneration(
        RagConfig.from_question_encoder_generator_configs(encoder, generator, n_docs=2)
    ).eval()
    init(model)
    documents = torch.randint(4, 99, (4, 7), generator=torch.Generator().manual_seed(0))
    given = {"context_input_ids": documents, "context_attention_mask": torch.ones_like(documents), "n_docs": 2}
    given |= {"doc_scores": torch.tensor([[0.3, 0.6], [0.1, 0.9]]), "labels": torch.tensor([[2, 9, 4], [2, 8, 5]])}
    plain = model(**given).loss
    model.add_adapter("a", method, set_active=True)
    randomise(model, "a", 1)
    _warn_of_idle.cache_clear()
    assert torch.equal(model(**given).loss, plain) is (
        method == "prompt_tuning"
    )  # the others act in the generator too
    assert ("did not run its BertModel" in caplog.text) is (method != "loreft")
    questions = torch.tensor([[1, 7, 5, 9]])
    part = model.rag.question_encoder
    read = part(questions).pooler_output
    model.set_active_adapters(None)
    assert not torch.allclose(read, part(questions).pooler_output)


@pytest.mark.parametrize("kind", ["llava", "gemma3"])
def test_reft_runs_beside_a_prompt(kind: str) -> None:
    """The part is called with the positions of the prompt among those of the tokens, and ReFT still counts the tokens alone."""
    model, inputs = with_adapters(
        kind, a="prompt_tuning[prompt_length=3]|loreft[prefix_positions=1,suffix_positions=1]"
    )
    whole = logits(model, inputs, "a")
    assert whole.shape[:2] == inputs["input_ids"].shape
    for row, mask in enumerate(inputs["attention_mask"]):  # a row without padding gives what it gives alone
        if mask.all():
            alone = {name: value[row : row + 1] for name, value in inputs.items()}
            assert torch.allclose(logits(model, alone, "a"), whole[row : row + 1], atol=1e-5)


def test_the_layers_of_a_root_beside_its_parts_can_be_copied() -> None:
    model = made("llava").model.adapters_base
    own = OwnLayers(model, [])
    assert type(copy.copy(own)) is OwnLayers
    assert copy.copy(own).model is model


def test_invertible_adapters_of_a_decoder_beside_an_encoder_of_sounds_belong_to_the_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The encoder, a part of its own, embeds no tokens: hooks that it would hold were not found again at the deletion."""
    monkeypatch.setitem(registered().methods["canary"], "invertible", "")
    model, inputs = canary()
    init(model)
    expected, hooks = logits(model, inputs), _hooks(model)
    for name in ("a", "b"):
        model.add_adapter(name, "seq_bn_inv[reduction_factor=2]")
        randomise(model, name, 1)
    held = {path for path, module in model.named_modules() if isinstance(module, InvertibleAdapters)}
    assert held == {"model.invertible_adapters"}
    assert not torch.allclose(logits(model, inputs, "a"), expected)
    for name in ("a", "b"):
        model.delete_adapter(name)
    assert _hooks(model) == hooks
    assert torch.equal(logits(model, inputs), expected)


def _hooks(model: torch.nn.Module) -> dict[str, int]:
    return {
        path: len(module._forward_hooks) + len(module._forward_pre_hooks) for path, module in model.named_modules()
    }


def test_the_layers_of_a_root_are_found_by_a_path_that_begins_with_a_name_of_ours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """VibeVoice's layers beside its parts stand in an attribute that is called ``model``."""
    whole = made("llava").model
    monkeypatch.setattr(type(whole), "layer_stacks", (LayerStack("model.language_model.layers"),), raising=False)
    found = [layer for _, layer in OwnLayers(whole, []).iter_layers()]
    assert found == list(whole.model.language_model.layers)


@pytest.mark.parametrize("optional", ["multi_modal_projector.inner", ""])
def test_layers_of_a_root_are_a_part_unless_its_config_leaves_them_out(
    optional: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nothing explains that they are missing, `init` refuses the model."""
    stack = LayerStack("multi_modal_projector.inner.layers", optional=optional)
    monkeypatch.setattr(LlavaModelAdaptersMixin, "layer_stacks", (stack,))
    model = llava().model
    if optional:
        init(model)
        assert list(model.adapters_base.adapter_parts()) == list(PARTS["llava"])
    else:
        with pytest.raises(UnsupportedModelError, match="has no layers at"):
            init(model)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_reft_edits_the_last_real_position_of_a_sound_that_is_padded(attention: str) -> None:
    sizes = {"d_model": 16, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 24}
    text = {"model_type": "qwen2", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
    config = Qwen2AudioConfig(
        audio_config={**sizes, "num_mel_bins": 8, "max_source_positions": 16},
        text_config={**text, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 100},
        audio_token_index=IMAGE,
    )
    torch.manual_seed(0)
    model = Qwen2AudioForConditionalGeneration(config).eval()
    model.set_attn_implementation(attention)
    init(model)
    model.add_adapter("a", "loreft[prefix_positions=0,suffix_positions=1]")
    randomise(model, "a", 1)
    seen: list[torch.Tensor] = []
    model.model.audio_tower.layers[0].register_forward_hook(
        lambda module, args, output: seen.append(output[0] if isinstance(output, tuple) else output)
    )
    frames = torch.ones(2, 32, dtype=torch.long)
    frames[1, 12:] = 0  # the convolution halves them: 16 and 6 real positions
    inputs = {
        "input_ids": torch.tensor([[IMAGE] * 8 + [5, 9], [3] * 5 + [IMAGE] * 3 + [5, 9]]),
        "input_features": torch.randn(2, 8, 32, generator=torch.Generator().manual_seed(1)),
        "feature_attention_mask": frames,
    }
    logits(model, inputs)
    logits(model, inputs, "a")
    changed = (seen[0] != seen[1]).any(dim=-1)
    assert [row.nonzero().flatten().tolist() for row in changed] == [[15], [5]]


@pytest.mark.parametrize("reentrant", [True, False])
def test_layers_that_are_called_past_the_forward_of_their_part_can_be_computed_again(
    reentrant: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(GoesPast, "supports_gradient_checkpointing", True)
    gradients = []
    for checkpoints in (False, True):
        torch.manual_seed(0)
        model = GoesPast(BertConfig(**BERT, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0))
        init(model)
        model.add_adapter("a", "prefix_tuning|lora")
        randomise(model, "a", 1)
        model.train_adapter("a")
        if checkpoints:
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        model(input_ids=torch.tensor([[1, 7, 5, 9]]))[0].square().sum().backward()
        gradients.append({name: parameter.grad for name, parameter in model.adapter_parameters("a")})
    for name, gradient in gradients[0].items():
        assert gradient is not None
        assert torch.allclose(gradient, gradients[1][name], atol=1e-5, rtol=1e-4), name


def test_a_method_that_failed_on_the_whole_is_refused_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its parts are planned for it one by one."""
    model = made("llava").model
    planned = dict(registered().methods["llava"], lora="It fails the check `decoding`.")
    monkeypatch.setitem(registered().methods, "llava", planned)  # type: ignore[arg-type]
    assert not model.supports_adapter("lora")
    with pytest.raises(UnsupportedMethodError, match="'llava' do not support lora: It fails"):
        model.add_adapter("a", "lora[parts='text']")
    assert model.supports_adapter("seq_bn")


def test_the_summary_names_the_models_inside_that_get_no_adapters() -> None:
    """BLIP's text stands in a file of no model type. LLaVA's parts all have adapters."""
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
    config = BlipConfig(
        text_config={**sizes, "encoder_hidden_size": 32, "projection_dim": 16, "vocab_size": 100},
        vision_config={**sizes, "image_size": 8, "patch_size": 4},
        image_text_hidden_size=16,
    )
    for cls, path in ((BlipModel, "text_model"), (BlipForImageTextRetrieval, "text_encoder")):
        model = cls(config)
        init(model)
        model.add_adapter("a", "lora")
        (row,) = model.adapter_summary(as_dict=True)[-1]["without"]
        inner = model.get_submodule(path)
        assert (row["name"], row["architecture"]) == (path, "no adapters")
        assert row["#param"] == sum(parameter.numel() for parameter in inner.parameters())
        assert not any(name.startswith(f"{path}.") for name, _ in model.adapter_parameters("a"))
        assert row["reason"] == "no adapter classes were generated for a BlipTextModel"
        assert model.adapter_summary().endswith(f"{path}: {row['reason']}.")
    whole = with_adapters("llava", a="lora").model
    assert "without" not in whole.adapter_summary(as_dict=True)[-1]


def test_what_a_model_inside_gets_later_is_none_of_the_layers_beside_it() -> None:
    """Its prompt would run at the entry of the whole too, and its invertible adapter twice (Fun-ASR Nano)."""
    whole, inner = nn.Module(), nn.Module()
    whole.layer_stacks = ()
    whole.inner = inner
    own = OwnLayers(whole, [inner])
    inner.prompt_tuning, whole.prompt_tuning = PromptTuningLayer(), PromptTuningLayer()
    assert list(own.adapter_layers()) == [whole.prompt_tuning]


@pytest.mark.parametrize("model_type", ["dpr", "colpali", "mask2former"])
def test_embeddings_are_found_where_upstream_finds_them(model_type: str) -> None:
    """Upstream asks what a class has under the name of its base model: DPR's encoder, and nothing in Mask2Former."""
    plain, adapted = (heads.base_subject(model_type).upstream() for _ in range(2))
    init(adapted)
    try:
        expected = plain.get_input_embeddings()
    except NotImplementedError as refused:
        with pytest.raises(NotImplementedError, match=f"^{re.escape(str(refused))}$"):
            adapted.get_input_embeddings()
        with pytest.raises(NotImplementedError):
            adapted.set_input_embeddings(torch.nn.Embedding(3, 4))
        return
    assert torch.equal(adapted.get_input_embeddings().weight, expected.weight)
    size = len(expected.weight) + 7
    adapted.resize_token_embeddings(size)
    assert adapted.get_input_embeddings().num_embeddings == size
    adapted.add_adapter("a", "lora")
    adapted.train_adapter("a", train_embeddings=True)
    assert adapted.get_input_embeddings().weight.requires_grad
