"""Repairs of the search that read upstream's own text: its errors, its code, its documentation; and models that no search can help."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import nn
from transformers import BertConfig, CLIPConfig, PreTrainedConfig, PreTrainedModel

from conformance.instances import inputs, keys, repair, search, trial
from conformance.instances.fields import Draft
from conformance.instances.trial import Failed


def test_model_without_a_forward_is_not_searched() -> None:
    assert "no forward" in search.without_a_forward("BarkModel")
    assert not search.without_a_forward("BarkSemanticModel")
    assert not search.without_a_forward("no such class"), "what upstream does not export fails by itself"


def test_forward_that_cannot_be_trained_is_not_searched() -> None:
    assert "inference_mode" in search.without_a_forward("Sam2VideoModel")
    assert not search.without_a_forward("Sam2Model")


def _mentions() -> None:
    """Of torch.inference_mode, which decorates nothing here."""


@torch.inference_mode()
def _infers() -> None:
    pass


def test_decorator_is_read_where_it_stands_and_not_in_a_text() -> None:
    assert search._decorated(_infers, "inference_mode")
    assert not search._decorated(_mentions, "inference_mode")


def test_field_that_does_not_divide_as_upstream_says_is_as_by_default() -> None:
    text = "ValueError: `image_size` has to be divisible by `num_windows`, where image_size / num_windows % 4 != 0"
    config = CLIPConfig(vision_config={"image_size": 16})
    assert next(repair._as_by_default(config, text)) == {("vision_config", "image_size"): 224}
    assert not list(repair._as_by_default(CLIPConfig(), text)), "it is"
    assert not list(repair._as_by_default(config, text.replace("`", "")))


def test_tuple_that_is_added_to_a_list_is_a_list() -> None:
    config = BertConfig(some_sizes=(4, 2), other_sizes=(4, 2))
    code = "self.channels = [config.hidden_size] + config.some_sizes\n"
    text = 'TypeError: can only concatenate list (not "tuple") to list'
    assert next(repair.repairs(config, text, code)) == {("some_sizes",): [4, 2]}
    assert not list(repair._as_lists(BertConfig(some_sizes=[4, 2]), code))


def test_channels_beside_others_are_as_many_as_the_stream_that_comes() -> None:
    config = CLIPConfig(projection_dim=32, vision_config={"hidden_size": 64, "num_attention_heads": 4})
    text = "RuntimeError: Given groups=1, weight of size [20, 48, 3, 3], expected input[12, 80, 2, 2] to have 48 channels, but got 80 channels instead"
    assert {("projection_dim",): 64} in list(repair.repairs(config, text))
    assert {("projection_dim",): 64} not in list(repair._wide_as_a_stream(config, text.replace("80", "70")))


def test_patches_that_meet_a_smaller_map_are_larger_and_so_are_images() -> None:
    config = CLIPConfig(vision_config={"image_size": 16, "patch_size": 4})
    text = "RuntimeError: Sizes of tensors must match except in dimension 1. Expected size 1 but got size 2 for tensor number 1 in the list."
    larger = [
        {("vision_config", "image_size"): 16 * times, ("vision_config", "patch_size"): 4 * times} for times in (2, 4)
    ]
    assert list(repair.repairs(config, text))[:2] == larger
    assert not list(repair._coarser(config, text.replace("size 2", "size 1"))), "it is no smaller one"
    assert not list(repair._coarser(config, text.replace("dimension 1", "dimension 2"))), "a sequence is joined"
    assert not list(repair._coarser(BertConfig(), text)), "it cuts no image"


def test_tokens_that_only_upstreams_code_knows_come_into_the_vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        repair, "_code", lambda _: 'getattr(config, "yes_token_index", 10_784) + getattr(config, "few_layers", 10_784)'
    )
    text = "IndexError: index 10784 is out of bounds for dimension 1 with size 99"
    assert {("yes_token_index",): 1} in list(repair.repairs(BertConfig(vocab_size=99), text))
    assert not list(repair._tokens_of_code(BertConfig(vocab_size=20_000))), "they are in it"


class _Documented(PreTrainedConfig):
    """
    kernel_list (`list[int]`, *optional*, defaults to `[3, 2, 2]`):
        Kernels.
    other_list (`list[int]`, *optional*, defaults to `None`):
        Kernels, of which nothing is said.
    """

    kernel_list: list[int] | None = None
    other_list: list[int] | None = None


def test_field_that_is_none_gets_its_documented_default() -> None:
    code = "nn.Conv2d(8, 8, kernel_size=config.kernel_list[0])\nself.other_list[0]"
    assert list(repair._of_upstream(_Documented(), "kernel_list", code)) == [[3, 2, 2]]
    assert not list(repair._of_upstream(_Documented(), "other_list", code))
    assert not list(repair._of_upstream(_Documented(), "kernel_list", "")), "no statement reads it"


def test_table_that_is_none_gets_the_words_by_which_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    code = 'nn.Conv2d(8, 8, *block_config["reduce"])\nnn.Conv2d(8, 8, *block_config["back"])'
    monkeypatch.setattr(repair, "_code", lambda _: code)
    config = BertConfig(block_config=None)
    assert list(repair._of_upstream(config, "block_config", code)) == [{"reduce": [1, 1, 0], "back": [1, 1, 0]}]
    assert not list(repair._of_upstream(config, "block_config", code.replace("*", ""))), "it holds no convolutions"


def test_factors_of_stages_are_powers_of_two_one_per_stage() -> None:
    backbone = Draft("dinov2", {"out_features": ["stage1", "stage2", "stage3"]}).seen
    backbone.scale_factor_list = None
    assert list(repair._of_upstream(backbone, "scale_factor_list", "zip(maps, self.scale_factor_list)")) == [[1, 2, 4]]


class _Part(PreTrainedModel):
    config_class = BertConfig

    def forward(
        self, states: torch.Tensor, mask: torch.Tensor | None = None, extra: torch.Tensor | None = None
    ) -> None:
        pass


class _Whole(PreTrainedModel):
    config_class = BertConfig

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.part = _Part(config)

    def forward(self, pixels: torch.Tensor, **kwargs: torch.Tensor) -> None:
        self.part(pixels, mask=None, **kwargs)


def test_what_is_handed_on_in_its_place_is_none_of_the_further_arguments() -> None:
    assert list(trial.takes(_Whole(BertConfig()))) == ["extra", "pixels"]


def test_stream_of_which_something_was_cut_off_is_as_much_wider() -> None:
    text = "RuntimeError: mat1 and mat2 shapes cannot be multiplied (24x30 and 32x32)"
    patches = {"kind": "unit", "shape": [3, 8, 32]}
    assert list(inputs._widened(text, {"patches": patches})) == [{"patches": {"kind": "unit", "shape": [3, 8, 34]}}]
    assert not list(inputs._widened(text, {"patches": {"kind": "ids", "shape": [3, 8, 32]}}))
    assert not list(inputs._widened(text.replace("24x30", "24x34"), {"patches": patches})), "it is too wide"


@pytest.mark.parametrize(("reads_labels", "missed"), [(True, frozenset()), (False, frozenset({"part"}))])
def test_labels_are_given_where_only_they_bring_a_part_to_run(
    reads_labels: bool, missed: frozenset[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Model(nn.Module):
        config = BertConfig()

        def forward(self, input_ids: torch.Tensor, labels: torch.Tensor | None = None) -> None:
            pass

    def unreached(_: nn.Module, given: dict[str, torch.Tensor]) -> frozenset[str]:
        return frozenset() if reads_labels and "labels" in given else frozenset({"part"})

    monkeypatch.setattr(inputs, "unreached", unreached)
    found = inputs._with_optional(Model(), inputs.Found({"input_ids": 0}, missed=frozenset({"part"})), 1)
    assert found.missed == missed
    assert ("labels" in found.choice) is reads_labels


def test_sounds_come_by_one_name_only() -> None:
    class Model(nn.Module):
        main_input_name = "inputs"

        def forward(self, inputs: torch.Tensor, input_features: torch.Tensor | None = None) -> None:
            pass

    every = list(inputs._names(Model(), inputs.Found({})))
    assert every == [["inputs"]]
    Model.main_input_name = "input_ids"
    Model.forward = functools.partialmethod(lambda self, input_ids, input_features=None: None)  # type: ignore[assignment]
    assert ["input_ids", "input_features"] in inputs._names(Model(), inputs.Found({}))


def test_of_several_names_that_are_none_the_one_is_asked_for_of_which_an_attribute_is() -> None:
    failed = Failed(AttributeError("'NoneType' object has no attribute 'sum'"))
    vars(failed)["absent"] = ("lengths", "feature_mask")
    vars(failed)["code"] = "lengths if lengths is not None else feature_mask.sum(-1)"
    known = {"lengths": None, "feature_mask": None}
    assert inputs._asked(failed, known, []) == ["feature_mask"]
    vars(failed)["code"] = "lengths.max() + feature_mask.mean()"
    assert inputs._asked(failed, known, []) == ["lengths"], "no attribute of that name: masks come last"


class _Prefers(nn.Module):
    """Reads `states` where it is given them, and `sounds` else."""

    config = BertConfig()

    def forward(
        self, states: torch.Tensor | None = None, sounds: torch.Tensor | None = None, shift: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        read = states if states is not None else sounds
        return {"out": read if shift is None else read + shift}


def test_numbers_that_are_not_read_are_no_inputs() -> None:
    one = {"kind": "normal", "shape": [2]}
    found = inputs.Found({}, {"states": one, "sounds": one, "shift": one})
    assert keys.without_unread(_Prefers(), found).overrides.keys() == {"states", "shift"}
    alone = inputs.Found({}, {"sounds": one})
    assert keys.without_unread(_Prefers(), alone) == alone


def test_parts_are_of_the_types_that_their_class_declares() -> None:
    draft = search.with_declared(Draft("pp_ocrv6_medium_det", {}))
    assert draft.seen.backbone_config.model_type == "hgnet_v2"
    assert draft.seen.backbone_config.out_features == ["stage1", "stage2", "stage3", "stage4"]
    assert not search.with_declared(Draft("clip", {})).given, "they are"
    given = Draft("pp_ocrv6_medium_det", {"backbone_config": {"model_type": "pp_lcnet_v4"}})
    assert search.with_declared(given) == given


def test_layers_that_are_beyond_the_last_are_as_many_of_those_that_are_there() -> None:
    config = BertConfig(num_hidden_layers=2, hook_ids=[11, 5], hidden_size=32, num_attention_heads=4)
    code = "states[self.hook_ids[i] + 1]"
    assert list(repair._layers_that_are_there(config, code)) == [{("hook_ids",): [1]}, {("hook_ids",): [1, 0]}]
    config.hook_ids = 11
    assert list(repair._layers_that_are_there(config, code)) == [{("hook_ids",): 1}]


def test_what_is_told_is_what_upstream_says_furthest_on() -> None:
    def upstream(states: torch.Tensor) -> None:
        assert states.shape[-1] == 8, "wants 8, not 4"
        _ = states + 1
        raise ValueError("something else is missing")

    run = inputs._Once(upstream)
    found = inputs.Found({}, {"states": {"kind": "normal", "shape": [3, 4]}})
    with pytest.raises(Failed, match="something else"):
        inputs._repaired(run, BertConfig(), found, float("inf"))


def test_list_by_class_has_an_entry_per_label() -> None:
    config = BertConfig(num_labels=3, class_order=None)
    assert list(repair._of_upstream(config, "class_order", "self.config.class_order")) == [[0.5] * 3, [0, 1, 2]]
    assert not list(repair._of_upstream(config, "order_class", "self.config.order_class"))


def test_one_after_the_other_of_a_list_becomes_the_channels_that_come() -> None:
    text = "RuntimeError: Given groups=1, weight of size [32, 2, 1, 1], expected input[3, 48, 16, 16] to have 2 channels, but got 48 channels instead"
    config = BertConfig(list_out_channels=[24, 2, 2])
    every = list(repair.repairs(config, text))
    assert {("list_out_channels",): [24, 48, 2]} in every
    assert {("list_out_channels",): [24, 48, 96]} in every, "stages double"
    assert not list(repair._as_many_channels(config, text.replace("have 2", "have 3")))


def test_window_whose_name_stands_in_the_statement_is_the_first_to_be_larger() -> None:
    config = BertConfig(n_window=4, window_size=2)
    code = "pad = merger_window_size - height % merger_window_size\nvision_window_index(grid)"
    assert next(repair.repairs(config, "ZeroDivisionError: integer modulo by zero", code)) == {("window_size",): 8}
    assert next(repair.repairs(config, "ZeroDivisionError: integer modulo by zero", "1 % n")) == {("n_window",): 16}
