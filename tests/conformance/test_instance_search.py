"""The parts of the search for tiny instances, on made-up configs and models."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import pytest
import torch
import transformers
from huggingface_hub.errors import StrictDataclassClassValidationError
from torch import nn
from transformers import BertConfig, CLIPConfig, GPT2Config, LlamaConfig, MistralConfig, PreTrainedConfig

from conformance.instances import __main__ as command
from conformance.instances import compose, inputs, keys, layers, reach, read, recipes, repair, search, sizes, trial
from conformance.instances.fields import (
    Draft,
    architecture,
    computed,
    config_class,
    explicit,
    followers,
    nodes,
    own_fields,
)
from conformance.instances.trial import Failed, statements


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("hidden_size", "width"),
        ("intermediate_size", "width"),
        ("num_attention_heads", "heads"),
        ("num_key_value_heads", "heads"),
        ("head_dim", "head size"),
        ("num_hidden_layers", "depth"),
        ("vocab_size", "vocabulary"),
        ("num_query_tokens", "count"),
        ("latent_query_num", "count"),
        ("image_size", "image"),
        ("patch_size", "patch"),
        ("sliding_window", "window"),
        pytest.param("default_num_lookahead_tokens", "window", id="what is seen ahead is a part of a window"),
        ("max_position_embeddings", "positions"),
        pytest.param("layer_list_out_channels", "width", id="channels are no layers"),
        ("image_token_id", "token"),
        ("num_experts_per_tok", "experts"),
        ("num_frames", "count"),
        ("frames_per_clip", "count"),
        pytest.param("num_stacked_frames", "other", id="how many frames of a sound make one are none of a film"),
        pytest.param("num_channels", "other", id="the colours of an image are no width"),
        pytest.param("d_latents", "width", id="how wide latents are, not how many"),
        pytest.param("type_vocab_size", "width", id="kinds of tokens are no vocabulary"),
        pytest.param("vision_feature_layer", "other", id="the number of one layer is no depth"),
        pytest.param("mlp_layer_types", "other", id="kinds of layers are no depth"),
        pytest.param("conv_kernel_size", "other", id="a kernel is no width"),
        pytest.param(
            "patch_kernel_size", "other", id="a kernel over patches is no patch: its padding would not follow"
        ),
        pytest.param("intermediate_hidden_state_indices", "other", id="places of layers are no widths"),
        pytest.param("pos_emb_width", "window", id="a side of a table is no width of vectors"),
        pytest.param("patch_embeds_hidden_size", "width", id="how wide patches are as vectors, not as pictures"),
        pytest.param("num_frames", "count", id="pictures of a video"),
    ],
)
def test_words_of_a_name_say_what_it_counts(name: str, kind: str) -> None:
    assert sizes.kind(name) == kind


def test_widths_keep_what_was_equal_equal_and_the_ratio() -> None:
    config = BertConfig(hidden_size=768, intermediate_size=3072, embedding_size=768)
    small = sizes.widths(config, sizes.heads(config))
    assert small["hidden_size",] == small["embedding_size",] == 32
    assert small["intermediate_size",] == 4 * 32


def test_widths_that_differ_stay_different() -> None:
    config = BertConfig(hidden_size=768, intermediate_size=772)
    small = sizes.widths(config, sizes.heads(config))
    assert small["hidden_size",] != small["intermediate_size",]


def test_the_width_of_codes_is_not_taken_for_that_of_a_stream() -> None:
    for width, small in ((8, 8), (64, 128)):
        config = PreTrainedConfig()
        config.embed_dim, config.base_channels = width, 256
        assert sizes.widths(config, {})["base_channels",] == (32 if width == 8 else small), width


def test_windows_keep_their_ratio() -> None:
    config = LlamaConfig()
    config.n_window, config.n_window_infer, config.window = 50, 800, 2
    assert sizes.windows(config) == {("n_window",): 4, ("n_window_infer",): 64, ("window",): 2}


def test_key_heads_are_fewer_than_heads() -> None:
    small = sizes.heads(LlamaConfig(num_attention_heads=32, num_key_value_heads=8))
    assert 1 < small["num_key_value_heads",] < small["num_attention_heads",]


@pytest.mark.parametrize(
    ("outputs", "is_nothing"),
    [
        ({"states": torch.full((2, 3), torch.nan), "length": torch.tensor([3])}, True),
        ((torch.ones(2), {"logits": torch.full((2,), torch.nan)}), True),
        pytest.param({"states": torch.tensor([torch.nan, 1.0])}, False, id="in some places (Grounding DINO's words)"),
        pytest.param({"states": torch.full((2,), -torch.inf), "ids": torch.ones(2).long()}, False, id="infinite"),
        pytest.param({"states": torch.ones(0)}, False, id="nothing at all"),
    ],
)
def test_outputs_without_any_number_are_none(outputs: Any, is_nothing: bool) -> None:
    assert trial.gives_no_number(outputs) == is_nothing


def test_key_heads_are_as_many_where_upstream_would_not_read_what_it_writes() -> None:
    """It cuts a fused weight into three equal parts."""
    changes: search.Changes = {("num_key_value_heads",): 2}
    for model_type, is_lost in (("gradium_phonon_tts", True), ("llama", False)):
        draft = Draft(model_type, {**read(model_type).fields, "num_key_value_heads": 4})
        found, changed = search.Search(model_type), draft.changed(changes)
        assert found.is_read_no_more(draft, changed, changes) == is_lost
        assert not found.is_read_no_more(draft, changed, {("attention_dropout",): 0.1})


def test_one_key_head_stays_one() -> None:
    assert sizes.heads(LlamaConfig(num_attention_heads=32, num_key_value_heads=1))["num_key_value_heads",] == 1


def test_tokens_beyond_the_vocabulary_stay_different() -> None:
    config = LlamaConfig(vocab_size=99, bos_token_id=50256, eos_token_id=50257, pad_token_id=0)
    small = sizes.tokens(config)
    moved = {small["bos_token_id",], small["eos_token_id",]}
    assert len(moved) == 2
    assert max(moved) < 99
    assert small["pad_token_id",] == 0


def test_what_one_layer_has_of_its_own_shrinks_as_what_the_others_have() -> None:
    config = LlamaConfig(num_attention_heads=8, num_key_value_heads=8, hidden_act="silu", head_dim=128)
    config.per_layer_config = {1: {"num_attention_heads": 4, "num_key_value_heads": 4, "hidden_act": "gelu"}}
    small = sizes.per_layer(config, {("num_attention_heads",): 4})
    assert small == {
        ("per_layer_config",): {"1": {"num_attention_heads": 2, "num_key_value_heads": 4, "hidden_act": "gelu"}}
    }
    assert not sizes.per_layer(LlamaConfig(), {("num_attention_heads",): 4})


def test_the_class_of_a_type_without_a_base_model_is_its_own_head() -> None:
    assert architecture("upernet") == "UperNetForSemanticSegmentation"
    assert architecture("shieldgemma2") == "ShieldGemma2ForImageClassification"  # others of its tables are Gemma 3's
    assert architecture("pp_chart2table") == "GotOcr2ForConditionalGeneration"  # it has no class of its own
    assert architecture("bert") == "BertModel"  # no head where there is a base model
    with pytest.raises(KeyError):
        architecture("no such model")


def test_the_base_class_of_a_part_is_built_with_the_config_of_the_part() -> None:
    assert config_class("musicgen").model_type == "musicgen_decoder"
    assert config_class("iquestcoder").model_type == "iquestcoder"  # its base class is Llama's, but Llama is no part
    assert config_class("clip").model_type == "clip"


def test_what_is_said_not_to_be_set_is_given() -> None:
    config = LlamaConfig()
    config.sliding_window, config.other_window = None, None
    text = "ValueError: Could not find a `sliding_window` argument in the config, or it is not set"
    assert next(iter(repair.repairs(config, text))) == {("sliding_window",): 4}


def test_fields_that_must_match_become_equal() -> None:
    config = BertConfig(hidden_size=32, intermediate_size=64)
    asked = list(repair.repairs(config, "ValueError: intermediate_size must match hidden_size"))
    assert {("intermediate_size",): 32} in asked
    assert {("hidden_size",): 64} in asked


def test_a_draft_that_its_class_refuses_is_mended_by_what_is_given() -> None:
    draft = Draft("llama", {"num_attention_heads": 5, "hidden_size": 32})
    with pytest.raises(StrictDataclassClassValidationError):  # 5 heads do not divide 32
        draft.build()
    assert draft.sketch.num_attention_heads == 5
    assert draft.changed({("num_attention_heads",): 4}).build().num_attention_heads == 4
    nested = Draft("clip", {"text_config": {"hidden_size": 32, "num_attention_heads": 5}})
    assert nested.sketch.text_config.hidden_size == 32


def test_heads_get_as_wide_as_what_must_match_them() -> None:
    text = "RuntimeError: The size of tensor a ({}) must match the size of tensor b ({}) at non-singleton dimension 3"
    config = BertConfig(hidden_size=32, num_attention_heads=4, intermediate_size=64)
    assert {("hidden_size",): 128} in list(repair.repairs(config, text.format(8, 32)))
    assert {("hidden_size",): 128} in list(repair.repairs(config, text.format(32, 8)))
    assert not any(("hidden_size",) in changes for changes in repair.repairs(config, text.format(7, 32)))
    assert not any(("hidden_size",) in changes for changes in repair.repairs(config, text.format(8, 33)))


def test_tokens_of_one_part_are_in_the_vocabulary_of_the_other() -> None:
    config = CLIPConfig()
    config.text_config.vocab_size, config.codes, config.vocab_size = 40, [3, 248], 99
    (one,) = (c for c in repair.repairs(config, "IndexError: index out of range in self") if ("codes",) in c)
    assert one == {("text_config", "vocab_size"): 40, ("vocab_size",): 40, ("codes",): [3, 39]}


def test_a_placeholder_that_a_config_leaves_out_is_given_and_no_other_token() -> None:
    config = CLIPConfig()
    config.image_token_index, config.audio_token_id, config.image_start_token_id = None, 7, None
    assert set(inputs.missing_placeholders(config)) == {("image_token_index",)}


def test_a_sound_and_its_mask_get_the_length_that_is_asked_for() -> None:
    given = {"sound": {"kind": "normal", "shape": [3, 16, 64]}, "mask": {"kind": "ones", "shape": [3, 64]}}
    (longer,) = inputs._lengthened("expects `length` to be a multiple of `n * 2` (100), but got 64.", given)
    assert {name: recipe["shape"] for name, recipe in longer.items()} == {"sound": [3, 16, 100], "mask": [3, 100]}
    assert not list(inputs._lengthened("64 is no multiple of 100", given))


def test_a_mask_of_positions_is_one_where_the_tokens_stand_for_an_image() -> None:
    config = CLIPConfig()
    config.image_token_id = 7
    facts = inputs.Facts(config, put={"image": 3, "audio": 2})
    made = {name: inputs.alternatives(name, facts)[0] for name in ("input_ids", "image_embeds_position_mask")}
    given = recipes.tensors(made)
    assert given["image_embeds_position_mask"].tolist() == [[0, 1, 1, 1, 0, 1, 1, 0, 0, 0, 0, 0, 0]] * 3
    assert bool((given["input_ids"][:, 1:4] == 7).all())
    assert set(inputs.alternatives("image_mask", facts)[0]["shape"][1:]) == {facts.image}
    assert (
        len(inputs.alternatives("input_ids", facts)) == 1
    )  # tokens without the placeholders would not bring the image


@pytest.mark.parametrize(("section", "total"), [([16, 24, 24], 8), ([8, 12, 12], 4), ([1, 1], 7)])
def test_sections_add_up_and_none_is_empty(section: list[int], total: int) -> None:
    small = sizes.in_ratio(section, total)
    assert sum(small) == total
    assert min(small) > 0


def test_field_that_follows_another_is_found() -> None:
    follow = followers(Draft("llama", {}))
    assert ("head_dim",) in follow["hidden_size",]
    assert ("vocab_size",) not in follow["hidden_size",]


def test_change_within_a_nested_config_leaves_its_other_fields() -> None:
    draft = Draft("clip", {})
    before = draft.build().text_config
    after = draft.changed({("text_config", "hidden_size"): 64}).build().text_config
    assert after.hidden_size == 64
    assert {**before.to_dict(), "hidden_size": 64} == after.to_dict()


def test_a_field_that_is_kept_by_another_name_is_given_by_its_own() -> None:
    draft = Draft("omdet-turbo", {})
    assert "encoder_hidden_dim" in own_fields(draft.seen)
    assert "d_model" not in own_fields(draft.seen)
    assert draft.changed({("encoder_hidden_dim",): 32}).build().d_model == 32
    assert "hidden_size" in own_fields(BertConfig()), "declared, and kept by its name"
    assert "n_embd" in own_fields(GPT2Config()), "another name for it is no field"


def test_what_is_not_changed_is_not_given() -> None:
    hidden = BertConfig().hidden_size
    assert Draft("bert", {}).changed({("hidden_size",): hidden}).given == {}
    assert explicit(BertConfig(hidden_size=48)) == {"model_type": "bert", "hidden_size": 48}


def test_nested_configs_are_found() -> None:
    assert [path for path, _ in nodes(Draft("clip", {}).build())] == [(), ("text_config",), ("vision_config",)]


class _Layer(nn.Module):
    def __init__(self, width: int, window: bool) -> None:
        super().__init__()
        self.width, self.window = width, window
        self.inner = nn.Linear(width, width)


def test_layers_of_other_sizes_are_of_one_kind_and_other_settings_make_another() -> None:
    model = nn.Module()
    model.layers = nn.ModuleList([_Layer(4, False), _Layer(8, False), _Layer(4, True), _Layer(4, False)])
    assert layers.first_of_each(layers.kinds(model)["layers"]) == [0, 2]


def test_layers_with_a_window_are_of_one_kind_whatever_its_size_and_without_one_of_another() -> None:
    model = nn.Module()
    model.layers = nn.ModuleList([_Layer(4, size) for size in (128, 4, None, 128)])  # type: ignore[arg-type]
    assert layers.first_of_each(layers.kinds(model)["layers"]) == [0, 2]


def test_stages_of_more_blocks_alike_are_of_one_kind() -> None:
    model = nn.Module()
    stages = [nn.Sequential(*(_Layer(4, False) for _ in range(number))) for number in (2, 6)]
    model.stages = nn.ModuleList([*stages, nn.Sequential(_Layer(4, False), _Layer(4, True))])
    assert layers.first_of_each(layers.kinds(model)["stages"]) == [0, 2]


def test_number_of_a_layer_that_goes_becomes_one_that_stays() -> None:
    config = BertConfig(num_hidden_layers=12, insert_layer_id=6, merge_index=1, semantic_loss_ignore_index=11)
    assert search.Search.places_of_layers(config, {}, 2) == {("insert_layer_id",): 0}


def test_a_number_of_the_last_layers_counts_those_of_them_that_stay() -> None:
    config = BertConfig(num_hidden_layers=12, num_shared_layers=5, num_other_layers=2)
    assert search.Search.last_layers(config, {12: [0, 6, 7, 11]}) == {("num_shared_layers",): 2}
    assert not search.Search.last_layers(config, {24: [0, 23]}), "of another list"


def test_what_has_the_width_of_a_stream_elsewhere_follows_it() -> None:
    config = (
        Draft("clip", {})
        .changed({("text_config", "hidden_size"): 640, ("text_config", "intermediate_size"): 768})
        .seen
    )
    small = sizes.widths(config, sizes.heads(config))
    assert small["text_config", "intermediate_size"] == small["vision_config", "hidden_size"]


def test_of_two_failures_the_one_after_more_modules_is_told_and_of_alike_the_one_after_more_functions() -> None:
    early, late, other = (Failed(ValueError(), reached) for reached in ((1, 9), (3, 5), (3, 5)))
    assert trial.further(early, late) is late
    assert trial.further(late, early) is late
    assert trial.further(late, other) is late
    with pytest.raises(Failed) as failed:
        trial.ran(nn.Sequential(nn.Linear(2, 3), nn.Linear(2, 3)), {"input": torch.ones(2)})
    assert failed.value.reached == (1, 2)


def test_list_of_factors_without_one_gets_one_and_other_lists_stay() -> None:
    config = BertConfig(projector_scale_factors=[], window_block_indices=[], ratios=[2.0])
    text = "ValueError: torch.cat(): expected a non-empty list of Tensors"
    assert list(repair.repairs(config, text)) == [{("projector_scale_factors",): [1.0]}]


def test_sides_of_an_image_keep_their_ratio() -> None:
    small = sizes.images(BertConfig(image_size=[896, 448], other_image_size=224), 16, 4)
    assert small == {("image_size",): [32, 16], ("other_image_size",): 16}


def test_bins_of_a_folded_spectrum_keep_their_ratio_to_its_side_and_others_stay() -> None:
    assert sizes.images(BertConfig(spec_size=256, num_mel_bins=64), 16, 4)["num_mel_bins",] == 4
    assert ("num_mel_bins",) not in sizes.images(BertConfig(image_size=256, num_mel_bins=64), 16, 4)


def test_maps_of_features_fit_to_the_patches_and_other_pairs_stay() -> None:
    config = BertConfig(backbone_feature_sizes=[[288, 288], [72, 72]], windows=[[144, 72]])
    assert sizes.maps(config, 4, 72) == {("backbone_feature_sizes",): [[16, 16], [4, 4]]}
    assert not sizes.maps(config, 4, 720), "a map of no position is none"


def test_repair_of_rotary_sections_takes_the_sum_that_the_error_asks_for() -> None:
    config = LlamaConfig(rope_parameters={"rope_type": "default", "rope_theta": 1e4})
    text = "RuntimeError: split_with_sizes expects split_sizes to sum exactly to 6, but got split_sizes=[8, 12, 12]"
    first, *_ = repair.repairs(config, text)
    assert sum(first["rope_parameters",]["mrope_section"]) == 6


def test_what_a_config_lacks_is_taken_from_one_within_it_with_all_its_fields() -> None:
    config = CLIPConfig(projection_dim=7)
    text = "AttributeError: 'CLIPConfig' object has no attribute 'num_hidden_layers'"
    first, *_ = repair.repairs(config, text)
    assert first["num_hidden_layers",] == config.text_config.num_hidden_layers
    assert ("hidden_size",) in first
    assert ("projection_dim",) not in first, "what the config has itself stays"


def test_lacking_field_without_a_config_beside_it_gets_a_usual_value() -> None:
    text = "AttributeError: 'BertConfig' object has no attribute 'rope_theta'"
    assert list(repair.repairs(BertConfig(), text)) == [{("rope_theta",): 10000.0}]


def test_books_of_codes_become_powers_of_two() -> None:
    config = BertConfig(vocab_size=99, codebook_size=96)
    first, *_ = repair.repairs(config, "ValueError: The codebook_size must be a power of 2.")
    assert first == {("codebook_size",): 64}


def test_kinds_of_layers_are_those_that_upstreams_code_compares_with() -> None:
    config = Draft("lfm2", {}).seen
    config.layer_types = None
    offered = [changes["layer_types",] for changes in repair.repairs(config, "'NoneType' object is not subscriptable")
               if ("layer_types",) in changes]  # fmt: skip
    assert {"conv", "full_attention"} == set(offered[0])
    assert len(offered[0]) == config.num_hidden_layers


def test_grids_of_images_shrink_with_the_image_and_other_pairs_stay() -> None:
    config = BertConfig(grid_pinpoints=[[336, 672], [1008, 336]], windows=[[16, 4], [16, 0]])
    assert sizes.grids(config, 16) == {("grid_pinpoints",): [[16, 32], [48, 16]]}


def test_parts_start_at_their_instances_and_what_had_their_width_has_it_again() -> None:
    draft = Draft("blip-2", {"qformer_config": {"encoder_hidden_size": 1408}, "vision_config": {"hidden_size": 1408}})
    known = {"blip_2_vision_model": {"hidden_size": 24, "num_attention_heads": 4}}.get
    made, settled = next(compose.composed(draft, known))
    assert made.seen.vision_config.hidden_size == 24
    assert made.seen.qformer_config.encoder_hidden_size == 24
    assert made.seen.qformer_config.hidden_size == draft.seen.qformer_config.hidden_size
    assert ("vision_config",) in settled


def test_config_of_which_no_part_is_known_is_not_composed() -> None:
    assert not list(compose.composed(Draft("clip", {}), {}.get))


class _Asks(nn.Module):
    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None, other: torch.Tensor | None = None):  # type: ignore[no-untyped-def]
        return x * mask.sum()  # type: ignore[union-attr]


class _AsksForBoth(nn.Module):
    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None, other: torch.Tensor | None = None):  # type: ignore[no-untyped-def]
        return torch.stack([x, mask, other.sum()])  # type: ignore[union-attr]


def test_a_mask_is_asked_for_where_nothing_else_is_none_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = functools.partial(trial.missing, within="test_instance_search")
    monkeypatch.setattr(trial, "missing", missing)
    for model, asked in ((_Asks(), ["mask"]), (_AsksForBoth(), ["other"])):
        with pytest.raises(AttributeError) as error:
            model(torch.ones(2))
        assert inputs._asked(Failed(error.value), {"mask": None, "other": None}, []) == asked


def test_input_that_is_none_in_the_failing_statement_is_asked_for() -> None:
    with pytest.raises(AttributeError) as error:
        _Asks()(torch.ones(2))
    assert list(trial.missing(error.value, within="test_instance_search")) == ["mask"]


class _NeverSets(nn.Module):
    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None, other: torch.Tensor | None = None):  # type: ignore[no-untyped-def]
        if mask is not None and x is not None:
            features = x * mask
        if other is not None:
            x = x + other
        return features if x is not None else x


def test_what_a_variable_waits_for_that_is_never_set_is_asked_for_and_nothing_else() -> None:
    with pytest.raises(UnboundLocalError) as error:
        _NeverSets()(torch.ones(2))
    assert list(trial.missing(error.value, within="test_instance_search")) == ["mask"]


def test_choices_come_by_the_sum_of_their_places_after_those_of_one_form() -> None:
    first, second, *others = (tuple(choice.values()) for choice in inputs.choices({"a": 3, "b": 12, "c": 2}))
    assert (first, second) == ((0, 0, 0), (1, 1, 1))
    assert [sum(choice) for choice in others] == sorted(sum(choice) for choice in others)
    assert len({first, second, *others}) == 3 * 12 * 2


def test_every_alternative_is_tried_among_the_likeliest_others() -> None:
    assert list(inputs.one_unlikely({"a": 3, "b": 1})) == [{"a": 1, "b": 0}, {"a": 2, "b": 0}]


def test_field_that_is_none_in_the_failing_statement_is_given() -> None:
    config = BertConfig(clip_qkv=None, clip_other=None)
    changes = list(repair.repairs(config, "RuntimeError: at least one must not be None", "x.clamp(max=self.clip_qkv)"))
    assert {("clip_qkv",): 8} in changes
    assert not any(("clip_other",) in change for change in changes)


def test_heads_too_small_for_their_sections_grow() -> None:
    config = LlamaConfig(hidden_size=32, rope_parameters={"rope_type": "default", "rope_theta": 1e4})
    text = "RuntimeError: split_with_sizes expects split_sizes to sum exactly to 1, but got split_sizes=[8, 12, 12]"
    first, *_ = repair.repairs(config, text)
    assert first["hidden_size",] == 4 * 32
    assert sum(first["rope_parameters",]["mrope_section"]) == 4


@pytest.mark.parametrize(
    ("model_type", "choices"),
    [
        pytest.param("llava", [], id="parts that are there by default"),
        pytest.param("llama", [], id="no parts"),
        pytest.param("encoder-decoder", [], id="parts of no fixed class"),
        pytest.param(
            "gemma4",
            [("vision_config", "audio_config"), ("vision_config",), ("audio_config",)],
            id="towers that the default config does without: all first",
        ),
        pytest.param(
            "embedding_gemma2",
            [("vision_config", "audio_config"), ("vision_config",), ("audio_config",)],
            id="towers of a declared type",
        ),
    ],
)
def test_parts_that_a_default_config_does_without_are_tried(model_type: str, choices: list[tuple[str, ...]]) -> None:
    assert search.choices_of_parts(model_type) == choices


def test_a_part_that_a_config_does_without_is_of_the_class_that_it_declares() -> None:
    seen = search.with_optional(Draft("gemma4", {}), ("vision_config",)).seen
    assert (seen.vision_config.model_type, seen.audio_config) == ("gemma4_vision", None)


def test_a_part_that_a_config_does_without_is_made_of_what_is_declared_beside_its_type() -> None:
    audio = search.with_optional(Draft("nemotron_h_omni", {}), ("audio_config",)).given["audio_config"]
    assert audio == {"model_type": "parakeet_encoder", "attention_bias": False, "scale_input": False}


class _Projects(nn.Module):
    """Makes features of patches, of whichever form they come in (Fuyu)."""

    main_input_name = "input_ids"

    def __init__(self, *, counts: bool) -> None:
        super().__init__()
        config = {"image_size": 16, "patch_size": 4, "image_token_id": 9, "vocab_size": 99}
        self.config = PreTrainedConfig(**config)
        self.patches = nn.Linear(48, 4)
        self.counts = counts

    def get_image_features(self, pixel_values: torch.Tensor) -> Any:
        if self.counts and pixel_values.dim() > 2:
            raise ValueError("patches of all images in a row")
        return transformers.modeling_outputs.BaseModelOutputWithPooling(last_hidden_state=self.patches(pixel_values))

    def forward(self, input_ids: torch.Tensor, pixel_values: torch.Tensor | None = None) -> torch.Tensor:
        raise NotImplementedError


def test_patches_that_nothing_beside_them_counts_are_told_apart_by_rows_where_upstream_takes_that() -> None:
    for counts, shape in ((False, [inputs.BATCH, 4, 48]), (True, [inputs.BATCH * 4, 48])):
        model: Any = _Projects(counts=counts)
        first, *_ = inputs._features(model, "image", 1)
        assert first.put == {"image": 4}
        assert first.recipes(model.config)["pixel_values"]["shape"] == shape


def test_a_vocabulary_that_is_given_gets_no_room() -> None:
    given = {"vocab_size": 20}
    one = search.Search("llama")
    one.given, one.fixed = given, frozenset([("vocab_size",)])
    assert not one.open(repair.room(Draft("llama", given).seen))


def test_of_two_fields_that_follow_each_other_the_first_is_given() -> None:
    searching = search.Search("bert")
    searching.derived = {("a",): {("b",)}, ("b",): {("a",)}, ("c",): {("d",)}}
    assert searching.without_derived({("a",): 1, ("b",): 2, ("d",): 3}) == {("a",): 1, ("d",): 3}


def test_error_that_says_nothing_of_the_config_asks_for_no_repair() -> None:
    assert not list(repair.repairs(BertConfig(), "RuntimeError: out of luck"))


def test_every_patch_has_a_place_of_its_own() -> None:
    (recipe,) = inputs.alternatives("pixel_position_ids", inputs.facts_of(BertConfig(pooling_kernel_size=3)))
    places = recipes.tensors({"x": recipe})["x"]
    assert places.shape == (inputs.BATCH, 36, 2)
    assert len({tuple(place) for place in places[0].tolist()}) == 36


def test_tokens_pool_the_patches_of_a_window_of_their_own_image() -> None:
    config = BertConfig(image_size=16, patch_size=4)
    (recipe,) = inputs.alternatives("image_token_pooling", inputs.facts_of(config))
    windows = recipe["value"]
    assert sorted(number for window in windows for number in window) == list(range(inputs.BATCH * 16))
    assert windows[0] == [0, 1, 4, 5]
    assert [sum(16 * image <= min(window) < 16 * image + 16 for window in windows) for image in range(3)] == [4, 4, 4]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        pytest.param("images_per_sample", [[1, 1, 1], [2, 2, 2]], id="how many of them each row has"),
        pytest.param("image_grids", [3, 2, 4, 3], id="grids are numbers and no images"),
    ],
)
def test_names_that_say_images_may_mean_numbers(name: str, expected: list[Any]) -> None:
    found = [one["value"] for one in inputs.alternatives(name, inputs.facts_of(BertConfig()))]
    assert [value if isinstance(value[0], int) else len(value[0]) for value in found] == expected


def test_a_picture_is_no_number() -> None:
    first, *_ = inputs.alternatives("images", inputs.facts_of(BertConfig()))
    assert first["kind"] == "normal"


def test_placeholders_stand_in_every_row_and_a_seed_repeats() -> None:
    recipe = {"x": {"kind": "ids", "shape": [3, 8], "low": 5, "high": 20, "put": [[50, 1, 4]]}}
    one, again, other = (recipes.tensors(recipe, seed)["x"] for seed in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert (one == 50).sum(-1).tolist() == [4, 4, 4]


def test_unknown_kind_of_recipe_says_where_kinds_stand() -> None:
    with pytest.raises(ValueError, match="recipes"):
        recipes.tensors({"x": {"kind": "no such", "shape": [1]}})


def test_what_a_class_sets_itself_is_no_field_unless_it_is_given() -> None:
    assert ("feature_size",) in computed(Draft("informer", {"prediction_length": 8}))
    assert ("feature_size",) not in computed(Draft("informer", {"prediction_length": 8, "feature_size": 9}))
    assert not computed(Draft("bert", {}))


def test_what_a_backbone_hands_on_is_kept_when_another_field_of_it_changes() -> None:
    draft = Draft("rt_detr", {})
    before = draft.seen.backbone_config.out_features
    after = draft.changed({("backbone_config", "embedding_size"): 8}).seen.backbone_config
    assert len(before) > 1
    assert after.out_features == before


class _Halving(nn.Module):
    """A backbone that halves an image five times, and an attention over what is left."""

    def __init__(self, largest: int = 1024) -> None:
        super().__init__()
        self.config, self.largest = BertConfig(), largest

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        if pixel_values.shape[-1] > self.largest:
            raise ValueError("too large")
        x = nn.functional.avg_pool2d(pixel_values, 32).flatten(2).transpose(1, 2)
        return torch.softmax(x @ x.transpose(1, 2), dim=-1) @ x


@pytest.mark.parametrize(
    ("size", "largest", "expected"),
    [
        pytest.param(32, 1024, 64, id="one key becomes several"),
        pytest.param(64, 1024, 64, id="several stay"),
        pytest.param(32, 32, 32, id="one size alone stays"),
    ],
)
def test_images_are_as_large_as_it_takes_for_several_keys(size: int, largest: int, expected: int) -> None:
    model = _Halving(largest)
    found = inputs.Found({}, {"pixel_values": {"kind": "normal", "shape": [2, 3, size, size]}})
    recipe = keys.with_several_keys(model, found).recipes(model.config)["pixel_values"]
    assert recipe["shape"] == [2, 3, expected, expected]


def test_a_sound_is_as_long_as_it_takes_for_several_keys_and_its_features_stay() -> None:
    sound, features = ({"kind": "normal", "shape": [2, 16]} for _ in range(2))
    found = inputs.Found({}, {"input_values": sound, "input_features": features})
    model = _Halving(32)
    larger = next(keys._larger(model, found)).recipes(model.config)
    assert larger["input_values"]["shape"] == [2, 32]
    assert larger["input_features"]["shape"] == [2, 16]


def test_an_instance_whose_config_states_the_size_of_its_images_is_widened_with_it() -> None:
    known = read("pvt")
    assert known.fields["image_size"] == known.recipes["pixel_values"]["shape"][-1] == 64


def test_tokens_beyond_a_vocabulary_that_is_checked_move_into_the_new_one() -> None:
    config = LlamaConfig(vocab_size=30_000, bos_token_id=29_999)
    vocabulary = sizes.vocabulary(config)
    assert sizes.smallest_vocabulary(vocabulary) == vocabulary["vocab_size",] == 99
    assert sizes.tokens(config, high=99)["bos_token_id",] == 98


@pytest.mark.parametrize(
    ("hides", "kind"),
    [pytest.param(True, "zeros", id="True hides"), pytest.param(False, "ones", id="True shows")],
)
def test_a_mask_that_would_hide_everything_is_turned_round(hides: bool, kind: str) -> None:
    class Masked(nn.Module):
        config = BertConfig()

        def forward(self, states: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"states": states.masked_fill(mask == hides, 0.0)}

    given = {"states": {"kind": "normal", "shape": [2, 3]}, "mask": {"kind": "ones", "shape": [2, 3], "dtype": "bool"}}
    model = Masked()
    found = keys.with_nothing_hidden(model, inputs.Found({}, given))
    assert found.recipes(model.config)["mask"]["kind"] == kind


def test_sections_that_were_equal_are_so_again_where_they_are_stacked() -> None:
    assert sizes.in_equal_ratio([22, 22, 20], 4) == [1, 1, 2]
    assert sizes.in_equal_ratio([2, 2], 5) == [2, 2], "no equal numbers add up to five"
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}
    config = Draft("ernie4_5_vl_moe", {}).seen
    config.text_config.rope_parameters = rope
    text = "RuntimeError: stack expects each tensor to be equal size, but got [3, 2] at entry 0 and [3, 1] at entry 1"
    assert next(iter(repair.repairs(config, text))) == {
        ("text_config", "rope_parameters"): {**rope, "mrope_section": [1, 1, 2]}
    }


def test_factors_of_products_that_must_be_equal_are_those_that_make_them_so() -> None:
    config = LlamaConfig(hidden_size=32, num_attention_heads=4, head_dim=8)
    config.expand = 2
    text = "ValueError: hidden_size * expand (64) must equal num_attention_heads * head_dim (32)."
    changes = list(repair.repairs(config, text))
    assert changes[:4] == [
        {("head_dim",): 16}, {("num_attention_heads",): 8}, {("expand",): 1}, {("hidden_size",): 16}
    ]  # fmt: skip
    config.head_dim = 7
    no_multiple = ("num_attention_heads",)
    assert no_multiple not in {path for change in repair._equal_products(config, text) for path in change}


def test_table_by_kind_of_layer_gets_an_entry_for_each_kind_and_other_tables_none() -> None:
    config = BertConfig()
    config.layer_types, config.rope_parameters = ["sliding", "full"], {"full": {"rope_theta": 7.0}}
    code = "self.config.rope_parameters[layer_type]"
    (changes,) = repair.repairs(config, "KeyError: 'sliding'", code)
    assert changes == {("rope_parameters",): {"sliding": {"rope_theta": 7.0}, "full": {"rope_theta": 7.0}}}
    assert not list(repair.repairs(config, "KeyError: 'sliding'", "self.other[layer_type]"))
    assert not list(repair.repairs(config, "KeyError: 'hidden'", code)), "no kind of layer is missing"


def test_number_that_an_error_requires_of_a_field_is_given() -> None:
    config = LlamaConfig(num_key_value_heads=4)
    assert next(iter(repair.repairs(config, "ValueError: it requires num_key_value_heads=1."))) == {
        ("num_key_value_heads",): 1
    }
    assert not list(repair.repairs(config, "ValueError: it requires other_heads=1."))


def test_widths_that_are_joined_become_equal_and_of_a_list_the_last_does() -> None:
    config = BertConfig(hidden_size=64, intermediate_size=20)
    config.out_channels = [20, 36]
    text = "RuntimeError: Sizes of tensors must match except in dimension 1. Expected size 36 but got size 64"
    asked = list(repair.repairs(config, text))
    assert {("out_channels",): [20, 64]} in asked and {("hidden_size",): 36} in asked
    assert not any(("intermediate_size",) in changes for changes in asked)


def test_streams_are_as_wide_as_heads_that_are_counted_by_their_width() -> None:
    config = BertConfig(hidden_size=32, num_attention_heads=4, intermediate_size=64)
    text = "ZeroDivisionError: integer modulo by zero"
    assert not any(("hidden_size",) in changes for changes in repair.repairs(config, text))
    config.num_attention_heads = 0
    assert next(iter(repair.repairs(config, text))) == {("hidden_size",): 128}


def test_lists_have_as_many_entries_as_stages_and_the_first_channels_are_those_of_the_stem() -> None:
    config = Draft("convnext", {"num_stages": 2, "hidden_sizes": [32, 64, 128, 256]}).seen
    (changes,) = repair.repairs(
        config, "RuntimeError: Given normalized_shape=[256], expected input with shape [*, 256]"
    )
    assert changes == {("hidden_sizes",): [32, 64], ("depths",): [3, 3]}
    whole = Draft("convnext", {"hidden_sizes": [32, 64, 128, 256]}).seen
    assert not list(repair.repairs(whole, "RuntimeError: Given normalized_shape=[256], expected input with shape"))
    config = Draft("efficientnet", {"in_channels": [8, 4, 8, 12, 16, 20, 24]}).seen
    (changes,) = repair.repairs(config, "RuntimeError: Given groups=8, weight of size [8, 1, 3, 3], expected input")
    assert changes == {("in_channels",): [32, 4, 8, 12, 16, 20, 24]}, "what is its default is kept"


def test_ratio_that_is_split_is_given_as_two_numbers() -> None:
    config = BertConfig(rate=None, other=None)
    text = "AttributeError: 'NoneType' object has no attribute 'split'"
    asked = list(repair.repairs(config, text, 'query, window = config.rate.split("/")'))
    assert {("rate",): "1/2"} in asked
    assert not any(("other",) in changes for changes in asked)


def test_a_token_gets_fewer_experts_than_there_are() -> None:
    assert sizes.are_chosen("num_experts_per_tok")
    assert not sizes.are_chosen("num_experts")
    config = BertConfig(num_experts_per_tok=None, num_experts=None)
    asked = list(repair.repairs(config, "TypeError: topk(): argument 'k' must be int, not NoneType"))
    assert {("num_experts_per_tok",): 2} in asked and {("num_experts",): 4} in asked


def test_list_of_two_kinds_gets_the_words_that_upstream_says_it_may_hold() -> None:
    config = Draft("deepseek_ocr2", {}).seen.text_config
    assert list(repair._own_pair(config, "mlp_layer_types")) == [["dense", "sparse"]]
    assert not list(repair._own_pair(config, "topk_method")), "one word alone is no pair"


class _Reading(nn.Module):
    """Reads its pictures through weights of next to nothing."""

    def __init__(self, reads: bool) -> None:
        super().__init__()
        self.reads, self.inner = reads, nn.Linear(4, 4)
        nn.init.constant_(self.inner.weight, 1e-12)
        nn.init.ones_(self.inner.bias)

    def features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.inner(pixel_values if self.reads else torch.ones_like(pixel_values))


def test_input_is_read_also_through_weights_that_are_next_to_nothing() -> None:
    given = {"pixel_values": torch.zeros(3, 4)}
    inputs._reading_all(_Reading(True).features, "pixel_values", **given)
    with pytest.raises(ValueError, match="not read"):
        inputs._reading_all(_Reading(False).features, "pixel_values", **given)


def test_inputs_that_failed_are_not_run_again() -> None:
    calls = []

    def call(x: torch.Tensor) -> None:
        calls.append(x)
        raise ValueError

    once = inputs._Once(call)
    for shape in ([2], [2], [3]):
        with pytest.raises(Failed):
            once({"x": {"kind": "normal", "shape": shape}})
    assert [len(x) for x in calls] == [2, 3]


def test_backbone_hands_on_as_many_stages_as_are_joined() -> None:
    config = Draft("uvdoc", {}).seen
    names = config.backbone_config.stage_names
    text = "RuntimeError: Given groups=1, weight of size [8, {}, 1, 1], expected input[3, 4] to have {} channels, but got 128 channels"
    (changes,) = repair._more_stages(config, text.format(768, 768))
    assert changes == {("backbone_config", "out_features"): names[-6:]}
    assert not list(repair._more_stages(config, text.format(700, 700))), "no multiple"
    assert not list(repair._more_stages(config, text.format(12800, 12800))), "more stages than there are"


def test_filters_that_double_start_narrow_and_other_widths_stay() -> None:
    config = BertConfig(hidden_size=64)
    config.num_filters, config.num_channels = 32, 3
    assert list(repair.repairs(config, "ValueError: 86,020,432 parameters are too many to try")) == [
        {("num_filters",): 4}
    ]


def test_norm_is_told_the_width_of_what_comes_to_it() -> None:
    config = BertConfig(hidden_size=32, intermediate_size=64)
    text = "RuntimeError: running_mean should contain 2560 elements not 32"
    assert next(iter(repair.repairs(config, text))) == {("hidden_size",): 2560}
    assert {("intermediate_size",): 2560} not in list(repair.repairs(config, text))


class _Masks(nn.Module):
    def forward(self, x: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        scores = x @ torch.ones(3, 6)
        attention_mask = torch.zeros(1, 3) if attention_mask is None else attention_mask
        if self.training:
            return scores + attention_mask
        return scores * torch.ones(2)


def test_mask_that_is_too_short_is_asked_for_and_no_mask_where_other_sizes_do_not_match(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(trial, "statements", lambda error: statements(error, within="test_instance_search"))
    for training, asked in ((True, ["attention_mask"]), (False, [])):
        with pytest.raises(Failed) as failed:
            trial.ran(_Masks().train(training), {"x": torch.ones(2, 3)})
        assert inputs._misfitting(failed.value) == asked


def test_what_is_written_down_for_a_type_stays_as_it_is() -> None:
    searching = search.Search("bert")
    searching.fixed = frozenset({("vision_config",), ("projection_dim",)})
    changes = {("vision_config", "hidden_size"): 4, ("projection_dim",): 4, ("text_config", "hidden_size"): 4}
    assert searching.without_derived(changes) == {("text_config", "hidden_size"): 4}


def test_strides_that_leave_no_room_for_a_kernel_become_twos() -> None:
    config = BertConfig()
    config.downsampling_ratios, config.mlp_ratios, config.kernel_sizes = [2, 4, 8], [1, 2], [7, 7]
    text = "RuntimeError: Calculated padded input size per channel: (8). Kernel size: (10). Kernel size can't be greater than actual"
    assert next(iter(repair.repairs(config, text))) == {("downsampling_ratios",): [2, 2, 2]}


def test_size_that_is_to_be_a_multiple_becomes_the_number_that_is_said() -> None:
    config = BertConfig(chunk_size=4)
    text = "ValueError: `{}` must be a multiple of hop length (3200), got 4."
    assert list(repair._multiples(config, text.format("chunk_size"))) == [{("chunk_size",): 3200}]
    assert not list(repair._multiples(config, text.format("other_size")))


@pytest.mark.parametrize(("unbuilt", "parts"), [("TypeError", True), ("", False)])
def test_parts_are_tried_without_the_kinds_of_layers_of_a_default_that_does_not_build(
    unbuilt: str, parts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(draft: Draft) -> None:
        raise ValueError

    searching = search.Search("clip")
    monkeypatch.setattr(searching, "from_parts", lambda draft, full=None: (draft, "parts") if full == {} else None)
    monkeypatch.setattr(searching, "from_defaults", fails)
    monkeypatch.setattr(searching, "unbuilt", lambda draft: unbuilt)
    start = Draft("clip", {})
    if parts:
        assert searching.first(start) == (start, "parts")
    else:
        with pytest.raises(Failed):
            searching.first(start)


@pytest.mark.parametrize("mend", [True, False])
def test_a_search_that_finds_nothing_is_written_down_but_mending_that_fails_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, mend: bool
) -> None:
    written: list[tuple[dict[str, object], dict[str, str]]] = []
    monkeypatch.setattr(command, "_every", lambda *_: iter([("bert", "no memory", 0.1)]))
    monkeypatch.setattr(command, "_warm_up", lambda _: None)
    monkeypatch.setattr(command, "write", lambda _, done, without: written.append((dict(done), dict(without))))
    assert command.main(["bert", *["--mend"] * mend]) == 0
    assert written == [({}, {} if mend else {"bert": "no memory"})]


@pytest.mark.parametrize(
    ("error", "stated"),
    [
        pytest.param(
            "Audio features and audio tokens do not match, tokens: 0, features: 96", True, id="tokens belong beside it"
        ),
        pytest.param("mat1 and mat2 shapes cannot be multiplied", False, id="another error stays one"),
    ],
)
def test_features_that_are_made_only_beside_their_tokens_are_counted_by_the_error(
    error: str, stated: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, told = inputs.Found({"input_features": 0}, put={"audio": 32}), list[Failed]()

    def fails(*_: object) -> list[inputs.Found]:
        raise Failed(ValueError(error))

    monkeypatch.setattr(inputs, "_features", fails)
    monkeypatch.setattr(inputs, "_stated", lambda *_: [found])
    assert inputs._standing(nn.Identity(), "audio", 1, told) == ([found] if stated else [])
    assert [str(one.error) for one in told] == ([] if stated else [error])


def test_windows_that_slide_grow_where_an_image_stands_in_front() -> None:
    config = MistralConfig(sliding_window=4)
    config.window_size = 4  # of a tower: it cuts images into pieces
    assert search.wider_windows(config) == {("sliding_window",): 8}
    config.sliding_window = None
    assert search.wider_windows(config) == {}


def test_what_a_failure_says_is_kept_without_its_tensors() -> None:
    with pytest.raises(AttributeError) as error:
        _Asks()(torch.ones(2))
    failed = Failed(error.value)
    assert next(trial.missing(error.value, "test_instance_search")) == "mask"
    trace = error.value.__traceback__
    while trace.tb_next is not None:  # type: ignore[union-attr]
        trace = trace.tb_next  # type: ignore[union-attr]
    assert trace.tb_frame.f_locals  # type: ignore[union-attr]
    assert failed.light() is failed
    assert not trace.tb_frame.f_locals  # type: ignore[union-attr]


def test_alternatives_are_exchanged_one_after_the_other_for_those_that_get_further() -> None:
    facts = inputs.facts_of(BertConfig())
    names = ("pixel_values", "spatial_shapes", "pixel_attention_mask")
    counts = {name: len(inputs.alternatives(name, facts)) for name in names}

    def upstream(pixel_values: torch.Tensor, spatial_shapes: torch.Tensor, pixel_attention_mask: torch.Tensor) -> None:
        assert pixel_values.dim() == 3
        pixel_values + 1
        assert spatial_shapes.shape[-1] == 3
        pixel_values + 2
        assert pixel_attention_mask.shape == pixel_values.shape[:2]

    run = inputs._Once(upstream)
    found = inputs._climbed(counts, run, BertConfig(), inputs.Found(dict.fromkeys(names, 0)), float("inf"))
    run(found.recipes(BertConfig()))


def test_parameters_that_are_given_already_are_not_asked_for_in_the_place_of_masks() -> None:
    failed = Failed(TypeError("None"))
    vars(failed)["absent"] = ("lengths", "mask")
    known = {"lengths": None, "mask": None}
    assert inputs._asked(failed, known, []) == ["lengths"]
    assert inputs._asked(failed, known, ["lengths"]) == ["mask"]
    assert not inputs._asked(failed, known, ["lengths", "mask"])


def test_heads_that_do_not_divide_their_stream_become_as_many_as_do() -> None:
    config = BertConfig(hidden_size=24, num_attention_heads=7)
    text = "ValueError: embed_dim must be divisible by num_heads (got `embed_dim`: 24 and `num_heads`: 7)."
    assert next(repair.repairs(config, text)) == {("num_attention_heads",): 6}
    assert not list(repair._dividing(config, "ValueError: 25 must be divisible by 5"))


def test_windows_are_as_wide_as_by_default_where_a_window_holds_nothing() -> None:
    assert {("sliding_window",): 4096} in list(
        repair.repairs(Draft("mistral", {"sliding_window": 4}).seen, "ZeroDivisionError")
    )
    assert not list(repair._usual_windows(Draft("mistral", {}).seen))


def test_width_that_does_not_meet_what_comes_becomes_that() -> None:
    config = CLIPConfig(projection_dim=20)
    text = "RuntimeError: mat1 and mat2 shapes cannot be multiplied (12x64 and 20x32)"
    assert {("projection_dim",): 64} in list(repair.repairs(config, text))
    assert not list(repair._multiplied(config, text.replace("20x32", "21x32")))


def test_names_of_stages_become_those_of_the_last_layers_that_stay() -> None:
    backbone = Draft("dinov3_vit", {"num_hidden_layers": 12, "out_features": ["stage3", "stage12"]}).seen
    assert search._stages(backbone, 3) == {("out_features",): ["stage2", "stage3"]}
    assert not search._stages(backbone, 1)
    few = Draft("dinov3_vit", {"num_hidden_layers": 12, "out_features": ["stage3"]}).seen
    assert not search._stages(few, 2), "what a backbone hands on before its last layer may be a stage of several"


def test_numbers_of_layers_beside_the_config_that_counts_them_are_renumbered() -> None:
    config = CLIPConfig(vision_config={"num_hidden_layers": 25}, taken_layers=[24, 18], taken_places=[24, 18])
    places = search.Search.places_of_layers(config, {25: [0, 1]}, 2)
    assert places == {("taken_layers",): [1]}


def test_sublayer_that_does_not_run_is_missed_in_a_layer_that_does() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = nn.ModuleList(nn.Linear(2, 2) for _ in range(4))

        def forward(self, states: torch.Tensor) -> torch.Tensor:
            for part in self.parts:
                states = part(states)
            return states

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.own, self.cross = Attention(), Attention()

        def forward(self, states: torch.Tensor, encoded: torch.Tensor | None) -> torch.Tensor:
            states = self.own(states)
            return states if encoded is None else self.cross(states + encoded)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([Layer()])

        def forward(self, states: torch.Tensor, encoded: torch.Tensor | None = None) -> torch.Tensor:
            return self.layers[0](states, encoded)

    states = torch.ones(1, 2)
    assert reach.unreached(Model(), {"states": states}) == {"layers.0.cross"}
    assert not reach.unreached(Model(), {"states": states, "encoded": states})


def test_what_a_forward_hands_on_is_what_it_takes_but_for_what_it_gives_itself() -> None:
    model = transformers.DiffusionGemmaModel
    known = trial.takes(trial.built(model.__name__, read("diffusion_gemma").config(), "meta"))
    assert {"pixel_values", "image_position_ids", "input_ids"} <= known.keys()
    llama = trial.takes(trial.built("LlamaModel", read("llama").config(), "meta"))
    assert llama.keys() == dict(trial._named(transformers.LlamaModel.forward)).keys() - {"self"}


class _Stretches(nn.Module):
    """Makes a sound of what it is given, as many times as long as the product of its config's ratios."""

    main_input_name = "latents"

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        times = 1
        for ratio in self.config.ratios:
            times *= ratio
        return latents.repeat_interleave(times, dim=-1)


@pytest.mark.parametrize(("slow", "ratios"), [(0.0, [2, 2]), (float("inf"), [8, 5])])
def test_strides_become_twos_where_a_forward_takes_long(
    slow: float, ratios: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    draft = Draft("bert", {"ratios": [8, 5]})
    one = search.Search("bert")
    one.found = inputs.Found({}, {"latents": {"kind": "normal", "shape": [1, 2]}})
    monkeypatch.setattr(search, "SLOW", slow)
    monkeypatch.setattr(one, "small_model", lambda draft: _Stretches(draft.seen))
    monkeypatch.setattr(one, "keeps", lambda draft, changes: draft.changed(changes))
    assert one.quicker(draft).seen.ratios == ratios


def test_towers_get_what_they_may_need_at_once_and_a_text_keeps_its_windows() -> None:
    draft = Draft(
        "qwen3_asr",
        {
            "text_config": {"model_type": "qwen3", "hidden_size": 64, "sliding_window": 4, "use_sliding_window": True},
            "audio_config": {"model_type": "qwen3_asr_encoder", "n_window": 4, "n_window_infer": 4, "output_dim": 20},
        },
    )
    changes = repair.of_towers(draft.seen)
    assert changes["audio_config", "n_window"] == 50
    assert changes["audio_config", "output_dim"] == 64
    assert not any(path[0] == "text_config" for path in changes)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        pytest.param(
            {"num_hidden_layers": 6, "layer_types": ["full_attention"] * 6}, {"num_hidden_layers": 2}, id="all alike"
        ),
        pytest.param(
            {
                "num_hidden_layers": 6,
                "layer_types": ["sliding_attention"] * 5 + ["full_attention"],
                "sliding_window": 4,
            },
            {"num_hidden_layers": 2, "layer_types": ["sliding_attention", "full_attention"]},
            id="one of each kind",
        ),
    ],
)
def test_an_instance_that_is_known_gets_as_few_layers_as_show_each_kind(
    monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], expected: dict[str, Any]
) -> None:
    known = read("gemma2")
    deep = dataclasses.replace(known, fields={**known.fields, **fields})
    monkeypatch.setattr(search, "read", lambda _: deep)
    found = search.Search("gemma2").shallower()
    assert {name: found.config[name] for name in expected} == expected
    assert found.inputs == known.recipes


def test_an_instance_that_shows_each_kind_once_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    known = read("gemma2")
    shallow = dataclasses.replace(known, fields={**known.fields, "num_hidden_layers": 2})
    monkeypatch.setattr(search, "read", lambda _: shallow)
    with pytest.raises(Failed, match="fewer layers"):
        search.Search("gemma2").shallower()


@pytest.mark.parametrize(
    ("offered", "expected"),
    [
        pytest.param([{("head_dim",): 4}, {("num_hidden_layers",): 2}], 2, id="what leaves it deep is no answer"),
        pytest.param([{("head_dim",): 4}], 12, id="where nothing else shows each kind, it is"),
    ],
)
def test_a_change_that_leaves_a_deep_stack_as_it_is_makes_it_no_shallower(
    monkeypatch: pytest.MonkeyPatch, offered: list[search.Changes], expected: int
) -> None:
    draft = Draft("gemma2", {**read("gemma2").fields, "num_hidden_layers": 12})
    found = search.Search("gemma2")
    monkeypatch.setattr(found, "depth_changes", lambda *_: iter(offered))
    assert found.try_depths(draft, layers.kinds(found.on_meta(draft))).seen.num_hidden_layers == expected
