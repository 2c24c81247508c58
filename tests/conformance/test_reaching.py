"""Images and sounds come to the towers that read them: the parts of the search that see to it, on made-up models."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from transformers import BertConfig, CLIPConfig, CLIPVisionConfig

from conformance.instances import inputs, recipes, repair, sizes
from conformance.instances.reach import layers, unreached
from conformance.instances.trial import Failed


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


class _Patches(_Towers):
    """Images come by one map."""

    def __init__(self) -> None:
        super().__init__()
        self.tower, self.patches = nn.Identity(), nn.Linear(2, 2)

    def forward(self, x: torch.Tensor, image: torch.Tensor | None = None) -> torch.Tensor:
        return super().forward(x if image is None else x + self.patches(image))


def test_a_part_without_layers_that_does_not_run_is_named_and_a_part_without_weights_is_not() -> None:
    given = {"x": torch.ones(1, 2)}
    assert unreached(_Patches(), given) == {"patches"}
    assert not unreached(_Patches(), {**given, "image": torch.ones(1, 2)})


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


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("Image features and image tokens do not match, tokens: 0, features: 12", 12),
        ("Audio features and audio tokens do not match: tokens: 2, features 30", 30),
        ("Placeholder tokens (2) and features (30) do not match for token id 4", 30),
        ("Number of image placeholder tokens (6) does not match number of image tokens from VQVAE (12)", 12),
        pytest.param("The size (6) does not match number of channels (12)", 0, id="sizes of something else"),
        pytest.param("mat1 and mat2 shapes cannot be multiplied (12x32 and 30x64)", 0, id="no tokens are named"),
        pytest.param("tokens: 5 are too few", 0, id="no number of features"),
    ],
)
def test_the_number_of_features_is_read_from_the_error_that_states_it(text: str, number: int) -> None:
    assert inputs.features_stated([text]) == number


class _Listens(nn.Module):
    """Sounds of eight bins become four vectors a row, which stand in the place of tokens; no method makes them alone."""

    main_input_name = "input_ids"

    def __init__(self, vocabulary: int = 99, says: str = "tokens: {}, features: {}") -> None:
        super().__init__()
        self.config = BertConfig(vocab_size=99, audio_token_id=98, num_mel_bins=8, max_source_positions=4)
        self.embed = nn.Embedding(vocabulary, 4)
        self.text = nn.ModuleList([_Layer()])
        self.tower = nn.ModuleList([_Layer()])
        self.says = says

    def forward(
        self, input_ids: torch.Tensor | None = None, input_features: torch.Tensor | None = None
    ) -> torch.Tensor:
        x = self.embed(input_ids)[..., :2]
        if input_features is not None:
            sounds = self.tower[0](input_features.unflatten(1, (4, 2)).mean(-1))  # four of two bins each
            places = input_ids == 98
            if int(places.sum()) != sounds.shape[0] * sounds.shape[1]:
                raise ValueError(self.says.format(int(places.sum()), sounds.shape[0] * sounds.shape[1]))
            x = x.masked_scatter(places[..., None], sounds)
        return self.text[0](x)


def test_as_many_tokens_stand_for_a_sound_as_the_error_says() -> None:
    found = inputs.find(_Listens())  # type: ignore[arg-type]
    assert found.put == {"audio": 4}
    assert not found.missed


class _Maps(_Listens):
    """What its method makes of a sound are the columns of a map, which become tokens later."""

    def get_audio_features(self, input_features: torch.Tensor) -> list[torch.Tensor]:
        return list(input_features.unflatten(1, (4, 2)).mean(-1).transpose(1, 2))


def test_a_number_that_was_counted_otherwise_is_the_one_that_the_error_says() -> None:
    found = inputs.find(_Maps())  # type: ignore[arg-type]
    assert found.put == {"audio": 4}
    assert not found.missed


def _makes(source: torch.Tensor, grid: torch.Tensor | None = None, mask: torch.Tensor | None = None) -> None:
    """Of a source; what may be left out is a grid."""


def _needs(source: torch.Tensor, grid: torch.Tensor) -> None:
    """Of a source and a grid."""


@pytest.mark.parametrize(
    ("maker", "expected"),
    [
        pytest.param(None, [[]], id="nothing makes features"),
        pytest.param(_needs, [["grid"]], id="what it requires, which is all"),
        pytest.param(_makes, [[], ["grid"]], id="what it requires, then all tensors, and no masks"),
    ],
)
def test_a_maker_of_features_is_given_what_it_requires_and_then_all(
    maker: Callable[..., None] | None, expected: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs, "_maker", lambda *_: maker)
    monkeypatch.setattr(inputs, "made_of", lambda *_: "source")
    monkeypatch.setattr(inputs, "takes", lambda _: {"source": None, "grid": None, "mask": None})
    assert inputs._beside(nn.Identity(), "image") == expected  # type: ignore[arg-type]


def test_sounds_whose_number_nobody_says_are_left_out() -> None:
    found = inputs.find(_Listens(says="tokens do not fit: {} {}"))  # type: ignore[arg-type]
    assert found.missed == {"tower.0"}
    assert not found.put


def test_what_other_inputs_met_is_told_beside_the_error_that_got_furthest() -> None:
    near, far = Failed(ValueError("near"), 1), Failed(ValueError("far"), 5)
    far.others = (Failed(ValueError("of its own"), 4), Failed(ValueError("near"), 1))
    told = inputs._furthest([near, far])
    assert told is far
    assert [str(one) for one in told.others] == ["ValueError: near", "ValueError: of its own"]
    assert inputs._furthest([]) is None


def test_a_token_beyond_the_smallest_vocabulary_needs_room() -> None:
    assert repair.tokens_without_room(BertConfig(vocab_size=16, image_token_id=96))
    assert not repair.tokens_without_room(BertConfig(vocab_size=99, image_token_id=96))
    assert not repair.tokens_without_room(BertConfig(vocab_size=16))


def test_numbers_of_layers_beyond_the_last_become_those_that_are_there() -> None:
    config = CLIPVisionConfig(num_hidden_layers=2, feature_layer=[-2, -5, 6], global_indexes=[5], other_layer=7)
    code = "hidden_states[index] for index in feature_layer"
    assert list(repair._layers_that_are_there(config, code)) == [
        {("feature_layer",): [-2, 1]},
        {("feature_layer",): [-2, 1, 0]},
    ]
    assert list(repair._layers_that_are_there(config, "hidden_states[self.global_index + 1]")) == [
        {("global_indexes",): [1]}
    ]
    assert not list(repair._layers_that_are_there(config, "input_ids[0]"))


def test_what_several_steps_of_a_tower_are_joined_into_is_a_multiple_of_its_stream() -> None:
    config = CLIPVisionConfig(hidden_size=64, num_attention_heads=4, intermediate_size=20)
    text = "RuntimeError: shape '[-1, 20]' is invalid for input of size 12288"
    code = "states.reshape(-1, self.config.intermediate_size)"
    assert [change[("intermediate_size",)] for change in repair._reshaped(config, text, code)] == [256, 128, 64]
    assert not list(repair._reshaped(config, text, "states.reshape(-1, self.size)"))
    assert not list(repair._reshaped(config, text.replace("20]", "24]"), code))


def test_table_that_lacks_a_number_holds_it() -> None:
    config = BertConfig(queries={1225: 128, 4900: 256}, others={1: 2})
    text = "KeyError: 'Number of patches 16 not found in queries amongst possible values dict_keys([1225, 4900]).'"
    assert list(repair._keyed(config, text)) == [{("queries",): {"16": 4}}]
    assert not list(repair._keyed(config, "KeyError: 'dense'"))
