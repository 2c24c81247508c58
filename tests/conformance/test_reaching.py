"""Images and sounds come to the towers that read them: the parts of the search that see to it, on made-up models."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import BertConfig, CLIPConfig, CLIPVisionConfig

from conformance.instances import inputs, recipes, repair, sizes
from conformance.instances.reach import layers, unreached


class _Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.ModuleList(nn.Linear(2, 2) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for linear in self.inner:
            x = linear(x)
        return x


class _Towers(nn.Module):
    """The tower runs for images only; a list of heads is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.text = nn.ModuleList(_Layer() for _ in range(2))
        self.tower = nn.ModuleList(_Layer() for _ in range(2))
        self.heads = nn.ModuleList(nn.Linear(2, 2) for _ in range(4))

    def forward(self, x: torch.Tensor, image: torch.Tensor | None = None) -> torch.Tensor:
        for layer in self.text:
            x = layer(x)
        if image is not None:
            x = x + self.tower[0](image)
        return x


def test_layers_that_do_not_run_are_named() -> None:
    given = {"x": torch.ones(1, 2)}
    assert unreached(_Towers(), given) == {"tower.0", "tower.1"}
    assert unreached(_Towers(), {**given, "image": torch.ones(1, 2)}) == {"tower.1"}


def test_lists_of_single_maps_hold_no_layers_nor_do_lists_within_layers() -> None:
    assert [path for path, _ in layers(_Towers())] == ["text.0", "text.1", "tower.0", "tower.1"]


def test_what_watches_a_forward_is_taken_off_again() -> None:
    model = _Towers()
    unreached(model, {"x": torch.ones(1, 2)})
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("name", "stands"),
    [
        ("image_token_id", True),
        ("image_token_index", True),
        ("image_patch_id", True),
        pytest.param("image_start_token_id", False, id="what stands before an image is none of its vectors"),
        pytest.param("image_size", False, id="a size is no token"),
        pytest.param("audio_token_id", False, id="a sound is no image"),
    ],
)
def test_placeholders_of_images_are_told_by_their_names(name: str, stands: bool) -> None:
    assert inputs.stands_for(name, "image") is stands


def test_tokens_are_drawn_where_none_is_special() -> None:
    facts = inputs.facts_of(BertConfig(vocab_size=64, image_token_id=19, eos_token_id=30))
    tokens, *_ = inputs.alternatives("input_ids", facts)
    assert (tokens["low"], tokens["high"]) == (31, 64)


def test_kinds_of_tokens_tell_images_from_text_and_other_ids_do_not() -> None:
    facts = inputs.facts_of(BertConfig(vocab_size=64, image_token_id=60), {"image": 4})
    kinds, _ = (inputs.alternatives(name, facts)[0] for name in ("mm_token_type_ids", "token_type_ids"))
    tokens = inputs.alternatives("input_ids", facts)[0]
    made = recipes.tensors({"kinds": kinds, "tokens": tokens})
    assert torch.equal(made["kinds"] == 1, made["tokens"] == 60)
    assert "put" not in inputs.alternatives("token_type_ids", facts)[0]


def test_heads_of_a_tower_become_a_multiple_of_eight_and_those_that_are_stay() -> None:
    assert sizes.of_tower(CLIPVisionConfig(hidden_size=24, num_attention_heads=4)) == {"hidden_size": 32}
    assert not sizes.of_tower(CLIPVisionConfig(hidden_size=64, num_attention_heads=4))


def test_tables_of_positions_become_squares() -> None:
    config = CLIPVisionConfig(
        hidden_size=64, num_attention_heads=4, num_patches=20, pos_emb_height=64, pos_emb_width=4
    )
    assert sizes.of_tower(config) == {"num_patches": 16, "pos_emb_height": 4}


def test_stages_are_divided_by_their_heads_and_groups() -> None:
    config = BertConfig(embed_dim=[16, 64], num_heads=[2, 4], num_groups=[4, 6])
    assert sizes.of_tower(config) == {"embed_dim": [16, 72]}


def test_placeholder_that_is_not_set_becomes_a_token_for_which_there_is_room() -> None:
    config = BertConfig(vocab_size=20, image_token_id=None)
    first, *_ = repair.repairs(config, "ValueError: no image_token_id stands for the 12 features of 3 rows")
    assert first == {("vocab_size",): sizes.VOCABULARY, ("image_token_id",): 98}


def test_tower_gives_what_is_as_wide_as_the_text() -> None:
    config = CLIPConfig(text_config={"hidden_size": 32}, vision_config={"out_hidden_size": 48})
    changes = list(repair.repairs(config, "ValueError: Image features and image tokens do not match"))
    assert {("vision_config", "out_hidden_size"): 32} in changes
    assert all(("text_config", "hidden_size") not in change for change in changes)


def test_windows_that_hold_no_patch_grow() -> None:
    changes = list(repair.repairs(BertConfig(window_size=4), "ZeroDivisionError: integer modulo by zero"))
    assert {("window_size",): 16} in changes


def _first_row(x: torch.Tensor) -> torch.Tensor:
    return 2 * x[:1]


def test_features_that_do_not_read_the_last_image_are_none() -> None:
    images = torch.ones(3, 2)
    assert torch.equal(inputs._reading_all(lambda x: 2 * x, "x", x=images), 2 * images)
    with pytest.raises(ValueError, match="last entry of x is not read"):
        inputs._reading_all(_first_row, "x", x=images)


def test_the_number_of_an_axis_is_no_size() -> None:
    text = "The size of tensor a (6) must match the size of tensor b (42) at non-singleton dimension 1"
    changed = [made["x"]["shape"] for made in inputs._mended(text, {"x": {"kind": "normal", "shape": [3, 6]}})]
    assert changed == [[3, 42]]
