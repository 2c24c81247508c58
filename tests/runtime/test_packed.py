"""Layers that get the positions of all examples in one row: which of them belong to which row of the batch does not show there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from transformers import (
    PixtralVisionConfig,
    PixtralVisionModel,
    PreTrainedModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLModel,
    RadioConfig,
    RadioModel,
)
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel

from adapter_runtime import AdapterSetup, BatchSplit, LoRAConfig, MultiTask, Parallel, SeqBnConfig, Stack, init
from adapter_runtime.composition import AdapterCompositionBlock
from adapter_runtime.errors import UnsupportedMethodError
from adapter_runtime.methods.bottleneck.module import Bottleneck
from adapter_runtime.programs.nodes import Keep, PackedInFront
from runtime_models import randomise

IMAGE = 94
GRID = (1, 4, 4)  # of an image: 16 patches, which become 4 tokens
REFUSED = r"of layer 0 gets the positions of all rows in one: which belong to which does not show.*leave_out"
VISION = {
    "depth": 2,
    "hidden_size": 32,
    "intermediate_size": 36,
    "num_heads": 4,
    "patch_size": 2,
    "window_size": 4,
    "out_hidden_size": 32,
    "fullatt_block_indexes": [1],
}
TEXT = {
    "vocab_size": 99,
    "hidden_size": 32,
    "intermediate_size": 36,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_window_layers": 4,
    "rope_parameters": {"mrope_section": [1, 1, 2], "rope_theta": 1000000.0, "rope_type": "default"},
    "pad_token_id": 0,
    "bos_token_id": 98,
    "eos_token_id": 97,
}
TOWER = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "patch_size": 4, "image_size": 16}


def qwen() -> PreTrainedModel:
    config = Qwen2_5_VLConfig(
        text_config=TEXT, vision_config=VISION, image_token_id=IMAGE, video_token_id=93, tie_word_embeddings=False
    )
    return initialised(Qwen2_5_VLModel(config))


def qwen_tower() -> PreTrainedModel:
    return initialised(Qwen2_5_VisionTransformerPretrainedModel(qwen().config.vision_config))


def initialised(model: PreTrainedModel) -> PreTrainedModel:
    init(model.eval())
    return model


def with_two(model: PreTrainedModel, config: Any) -> PreTrainedModel:
    for seed, name in enumerate("ab"):
        model.add_adapter(name, config)
        randomise(model, name, seed)
    return model


def inputs(images_of_rows: tuple[int, ...]) -> dict[str, torch.Tensor]:
    """Rows with some images each."""
    generator, total = torch.Generator().manual_seed(0), sum(images_of_rows)
    ids = torch.randint(5, 90, (len(images_of_rows), 24), generator=generator)
    for row, images in enumerate(images_of_rows):
        for image in range(images):
            ids[row, 1 + 5 * image : 5 + 5 * image] = IMAGE
    return {"input_ids": ids, **patches(total)} if total else {"input_ids": ids}


def patches(images: int) -> dict[str, torch.Tensor]:
    pixels = torch.randn(16 * images, 24, generator=torch.Generator().manual_seed(1))
    return {"pixel_values": pixels, "image_grid_thw": torch.tensor([GRID] * images)}


def run(model: PreTrainedModel, given: Mapping[str, Any], setup: Any = None, **keywords: Any) -> torch.Tensor:
    model.set_active_adapters(setup)
    with torch.no_grad():
        states: torch.Tensor = model(**given, **keywords).last_hidden_state
    return states


def packed_layers(model: PreTrainedModel) -> list[int]:
    parts = model.adapters_base.adapter_parts().values()
    return sorted(index for part in parts for index in part.layers_of_form("packed"))


@pytest.mark.parametrize("config", ["seq_bn", "lora", "ia3", "compacter[reduction_factor=8]", "mtl_lora"])
@pytest.mark.parametrize("images", [(2, 0, 1), (1, 1, 1), (2, 1, 1)])
def test_rows_are_given_to_no_adapters_where_images_of_all_of_them_are_in_one(
    images: tuple[int, ...], config: str
) -> None:
    model, given = with_two(qwen(), config), inputs(images)
    with pytest.raises(UnsupportedMethodError, match="belong to which does not show"):
        run(model, given, BatchSplit("a", "b", batch_sizes=[1, 2]))
    with pytest.raises(UnsupportedMethodError, match="belong to which does not show"):
        run(model, given, MultiTask("a", "b"), task_ids=["a", "b", "b"])
    model.set_active_adapters(None)
    with AdapterSetup(Stack(BatchSplit("a", "b", batch_sizes=[1, 2]))), pytest.raises(UnsupportedMethodError):
        model(**given)


@pytest.mark.parametrize("images", [(2, 0, 1), (1, 1, 1)])
def test_adapters_with_nothing_in_such_layers_are_given_their_rows(images: tuple[int, ...]) -> None:
    model = qwen()
    with_two(model, LoRAConfig(r=2, leave_out=packed_layers(model)))
    given = inputs(images)
    one, two = (run(model, given, name) for name in "ab")
    expected = torch.cat([one[:1], two[1:]])
    assert not torch.allclose(one, two)
    found = run(model, given, BatchSplit("a", "b", batch_sizes=[1, 2]))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    found = run(model, given, MultiTask("a", "b"), task_ids=[0, 1, 1])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_a_block_behind_an_adapter_of_all_rows_is_refused_too() -> None:
    """A part is not told which adapters of a block that assigns rows have no place in it."""
    model = qwen()
    model.add_adapter("all", "seq_bn")
    with_two(model, f"seq_bn[leave_out={packed_layers(model)}]")
    with pytest.raises(UnsupportedMethodError, match="which belong to which does not show"):
        run(model, inputs((2, 0, 1)), Stack("all", BatchSplit("a", "b", batch_sizes=[1, 2])))


def test_calls_without_images_and_copies_are_divided() -> None:
    model = with_two(qwen(), "lora")
    given = inputs((0, 0, 0))
    one, two = (run(model, given, name) for name in "ab")
    found = run(model, given, BatchSplit("a", "b", batch_sizes=[1, 2]))
    torch.testing.assert_close(found, torch.cat([one[:1], two[1:]]), atol=1e-5, rtol=1e-5)
    given = inputs((2, 0, 1))
    one, two = (run(model, given, name) for name in "ab")
    found = run(model, given, Parallel("a", "b"))
    torch.testing.assert_close(found, torch.cat([one, two]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "block", [BatchSplit("a", "b", batch_sizes=[1, 2]), BatchSplit("a", "b", batch_sizes=[16, 32])]
)
def test_a_tower_of_packed_patches_divides_none(block: AdapterCompositionBlock) -> None:
    tower = with_two(qwen_tower(), "lora")
    given = {"hidden_states": patches(3)["pixel_values"], "grid_thw": patches(3)["image_grid_thw"]}
    with pytest.raises(UnsupportedMethodError, match=REFUSED):
        run(tower, given, block)
    with pytest.raises(UnsupportedMethodError, match=REFUSED):
        run(tower, given, MultiTask("a", "b"), task_ids=[0, 1, 1])


def pixtral() -> PreTrainedModel:
    return initialised(PixtralVisionModel(PixtralVisionConfig(**TOWER, intermediate_size=16)))


@pytest.mark.parametrize("config", ["lora", "seq_bn", "prefix_tuning"])
def test_a_tower_that_makes_one_row_of_a_batch_says_so(config: str) -> None:
    tower, given = with_two(pixtral(), config), {"pixel_values": torch.randn(3, 3, 16, 16)}
    with pytest.raises(UnsupportedMethodError, match=REFUSED):
        run(tower, given, BatchSplit("a", "b", batch_sizes=[1, 2]))
    with pytest.raises(UnsupportedMethodError, match=REFUSED):
        run(tower, given, MultiTask("a", "b"), task_ids=[0, 1, 1])


@pytest.mark.parametrize("config", ["lora", "seq_bn", "par_bn", "ia3", "prefix_tuning"])
def test_copies_of_a_batch_follow_each_other_in_that_row(config: str) -> None:
    torch.manual_seed(0)
    tower, given = with_two(pixtral(), config), {"pixel_values": torch.randn(3, 3, 16, 16)}
    one, two = (run(tower, given, name) for name in "ab")
    assert one.shape[0] == 1 and not torch.allclose(one, two)
    found = run(tower, given, Parallel("a", "b"))
    torch.testing.assert_close(found, torch.cat([one, two], dim=1), atol=1e-5, rtol=1e-5)


def test_a_tower_that_can_be_given_packed_patches_divides_the_rows_that_it_has() -> None:
    torch.manual_seed(0)
    model = with_two(initialised(RadioModel(RadioConfig(**TOWER, max_img_size=16))), "lora")
    assert packed_layers(model) == [0, 1]
    given = {"pixel_values": torch.randn(3, 3, 16, 16)}
    one, two = (run(model, given, name) for name in "ab")
    found = run(model, given, BatchSplit("a", "b", batch_sizes=[1, 2]))
    torch.testing.assert_close(found, torch.cat([one[:1], two[1:]]), atol=1e-5, rtol=1e-5)
    packed = {"pixel_values": torch.randn(3 * 16, 48), "image_grid_hw": torch.tensor([(4, 4)] * 3)}
    with pytest.raises(UnsupportedMethodError, match=REFUSED):
        run(model, packed, MultiTask("a", "b"), task_ids=[0, 1, 1])


GATED = ["seq_bn[use_gating=True]", "lora[use_gating=True]", "ia3[use_gating=True]"]


def test_a_gate_of_a_prefix_is_refused_where_all_rows_are_one() -> None:
    """It was the mean over all images of a batch, so that one changed what the others gave."""
    tower = pixtral()
    assert tower.supports_adapter("prefix_tuning_flat") and not tower.supports_adapter("unipelt")
    with pytest.raises(UnsupportedMethodError, match=r"mean over a sequence.*all rows in one.*leave_out=\[0, 1\]"):
        tower.add_adapter("a", "prefix_tuning_flat[use_gating=True]")


@pytest.mark.parametrize("config", GATED)
@pytest.mark.parametrize("made", [qwen_tower, pixtral])
def test_a_gate_per_row_is_refused_where_all_rows_are_one(made: Callable[[], PreTrainedModel], config: str) -> None:
    tower = made()
    with pytest.raises(UnsupportedMethodError, match=r"mean over a sequence.*all rows in one.*leave_out=\[0, 1\]"):
        tower.add_adapter("a", config)
    assert not tower.supports_adapter(config) and not dict(tower.adapters_config.adapters)


@pytest.mark.parametrize("config", GATED)
def test_gates_are_refused_in_such_layers_alone(config: str) -> None:
    model = qwen()
    with_two(model, f"{config[:-1]},leave_out={packed_layers(model)}]")
    given = inputs((2, 0, 1))
    whole = run(model, given, "a")
    row = {"input_ids": given["input_ids"][1:2]}
    torch.testing.assert_close(run(model, row, "a"), whole[1:2], atol=1e-5, rtol=1e-5)


def test_a_gated_bottleneck_of_tokens_without_a_batch_is_refused_in_the_call() -> None:
    module = Bottleneck(SeqBnConfig(use_gating=True), hidden_size=16, layer_index=3)
    with pytest.raises(UnsupportedMethodError, match="of layer 3 gets all tokens of a batch in one row"):
        module(torch.randn(5, 16), torch.randn(5, 16), None)


class _AddsWhatItFits(Keep):
    """Adds the residual, which must have the dimensions of the branch."""

    def __call__(self, value: torch.Tensor, *rest: Any) -> torch.Tensor:
        assert rest[0].shape == value.shape
        return value + rest[0]


def test_a_residual_may_have_the_batch_of_one_that_the_branch_has_lost() -> None:
    branch, residual = torch.ones(6, 2), torch.ones(1, 6, 2)
    packed = PackedInFront([_AddsWhatItFits()], "a layer")
    assert packed(branch, residual, None).shape == (1, 6, 2)
    assert packed(branch, residual[0], None).shape == (6, 2)
