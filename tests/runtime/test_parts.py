"""The option `parts` of configs: which parts of a model made of several get an adapter."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    BertConfig,
    BertModel,
    ConvNextConfig,
    ConvNextModel,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2AudioConfig,
    Qwen2AudioForConditionalGeneration,
)
from transformers.models.seamless_m4t.modeling_seamless_m4t import SeamlessM4TTextToUnitModel

from adapter_runtime import AdapterConfig, AdapterSetup, ConfigUnion, LoRAConfig, Parallel, Stack, init
from adapter_runtime.errors import AdapterMismatchError, InvalidConfigError, UnsupportedMethodError
from adapter_runtime.methods.configs.strings import ADAPTER_CONFIG_MAP
from adapter_runtime.model.parts.naming import kind_of
from composite_models import MAKERS, PARTS, generated, logits, made, with_adapters
from conformance.instances import read
from conformance.tiny import tiny_config
from runtime_models import adapted, randomise

KINDS = {
    "llava": ("vision", "text"),
    "gemma3": ("vision", "text"),
    "encoder-decoder": ("text", "text"),
    "vision-encoder-decoder": ("vision", "text"),
    "dual encoder": ("vision", "text"),
}


def parts_with(model: PreTrainedModel, name: str) -> set[str]:
    """The parts in which an adapter has parameters."""
    names = [key for key, _ in model.adapters_base.adapter_parameters(name)]
    return {path for path in model.adapters_base.adapter_parts() if any(key.startswith(f"{path}.") for key in names)}


# The option


def test_one_name_is_a_tuple_of_one() -> None:
    for parts in ("vision", ["vision"], ("vision", "vision")):
        config = LoRAConfig(parts=parts)
        assert config.parts == ("vision",)
        assert config == LoRAConfig(parts="vision") != LoRAConfig()
        assert hash(config) == hash(LoRAConfig(parts="vision"))


@pytest.mark.parametrize("name", ADAPTER_CONFIG_MAP)
def test_every_config_has_the_option_and_writes_it_only_where_it_is_given(name: str) -> None:
    plain = ADAPTER_CONFIG_MAP[name]
    assert "parts" not in json.dumps(plain.to_dict())
    assert "parts" not in plain
    config = AdapterConfig.load(f"{name}[parts=('vision', 'text')]")
    assert config.identity() != plain.identity()
    again = AdapterConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config
    assert hash(again) == hash(config)
    assert pickle.loads(pickle.dumps(config)) == copy.deepcopy(config) == config
    assert again.replace(parts=None) == plain


@pytest.mark.parametrize("parts", [3, (), (3,), {"text"}, b"text"])
def test_what_is_no_name_is_refused(parts: Any) -> None:
    with pytest.raises(InvalidConfigError, match="name of a part"):
        LoRAConfig(parts=parts)


def test_members_of_a_union_are_in_other_parts_if_they_would_meet() -> None:
    text, vision = LoRAConfig(r=2, parts="text"), LoRAConfig(r=4, parts="vision")
    assert ConfigUnion(text, vision) == AdapterConfig.load("lora[r=2,parts='text']|lora[r=4,parts='vision']")
    for other in (LoRAConfig(), LoRAConfig(parts=("text", "audio"))):
        with pytest.raises(InvalidConfigError, match="same places"):
            ConfigUnion(text, other)


# Names


@pytest.mark.parametrize("kind", MAKERS)
def test_parts_are_told_by_what_they_read(kind: str) -> None:
    parts = made(kind).model.adapters_base.adapter_parts()
    assert tuple(kind_of(part) for part in parts.values()) == KINDS[kind]


def test_an_audio_tower_is_told_by_its_features() -> None:
    sizes = {"d_model": 16, "encoder_attention_heads": 2, "encoder_ffn_dim": 32, "encoder_layers": 1}
    text = {"model_type": "qwen2", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
    config = Qwen2AudioConfig(
        audio_config={**sizes, "num_mel_bins": 8, "max_source_positions": 8},
        text_config={**text, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 100},
    )
    model = Qwen2AudioForConditionalGeneration(config)
    init(model)
    model.add_adapter("a", "lora[parts='audio']")
    assert parts_with(model, "a") == {"audio_tower"}


class Tower(torch.nn.Module):
    """What `kind_of` asks of a part without a table of tokens."""

    token_embeddings = ""

    def __init__(self, modalities: Any) -> None:
        super().__init__()
        self.input_modalities = modalities

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return hidden_states


@pytest.mark.parametrize(
    ("modalities", "kind"),
    [(("image", "video"), "vision"), ("audio", "audio"), (("image", "text"), ""), (("time",), ""), ((), "")],
)
def test_what_upstream_says_of_a_class_tells_only_where_it_is_of_one_kind(modalities: Any, kind: str) -> None:
    assert kind_of(Tower(modalities)) == kind  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("modalities", "module", "kind"),
    [
        pytest.param(
            ("image", "text"), torch.nn.Conv3d(3, 8, 2), "vision", id="patches of images with three channels"
        ),
        pytest.param(("image", "text"), torch.nn.Conv2d(8, 8, 2), "", id="a convolution over what a tower gave"),
        pytest.param(("image", "text"), torch.nn.Conv1d(3, 8, 2), "", id="a convolution along one axis"),
        pytest.param(("image", "text"), torch.nn.Linear(3, 8), "", id="a projection"),
        pytest.param(("audio", "text"), torch.nn.Conv2d(3, 8, 2), "", id="nothing is said of images"),
    ],
)
def test_a_tower_of_a_file_that_reads_text_too_is_told_by_the_patches_that_it_embeds(
    modalities: Any, module: torch.nn.Module, kind: str
) -> None:
    tower: Any = Tower(modalities)
    tower.embedding, tower.config = module, PreTrainedConfig(in_channels=3)
    assert kind_of(tower) == kind


def test_the_tower_of_qwen2_5_vl_is_named_by_what_it_reads() -> None:
    text = {
        "hidden_size": 32,
        "intermediate_size": 40,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "vocab_size": 60,
    }
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4}
    vision = {
        "depth": 1,
        "hidden_size": 32,
        "out_hidden_size": 32,
        "intermediate_size": 40,
        "num_heads": 4,
        "patch_size": 4,
    }
    config = Qwen2_5_VLConfig(
        text_config={**text, "num_key_value_heads": 2, "rope_parameters": rope}, vision_config=vision
    )
    model = Qwen2_5_VLForConditionalGeneration(config)
    init(model)
    model.add_adapter("a", "lora[parts='vision']")
    model.add_adapter("b", "lora[parts='text']")
    assert parts_with(model, "a") == {"visual"} and parts_with(model, "b") == {"language_model"}


@pytest.mark.parametrize("name", ["decoder.bert", "bert", "decoder"])
def test_a_part_is_named_by_its_path_or_a_name_in_it(name: str) -> None:
    model = with_adapters("encoder-decoder", a=f"lora[parts='{name}']").model
    assert parts_with(model, "a") == {"decoder.bert"}


def test_a_name_that_means_nothing_is_refused_with_all_that_mean_something() -> None:
    model = made("llava").model
    with pytest.raises(InvalidConfigError, match=r"'audio'.*'vision_tower' .vision., 'language_model' .text."):
        model.add_adapter("a", "lora[parts=('vision', 'audio')]")
    assert not model.supports_adapter("lora[parts='tower']")
    assert "a" not in model.adapters_config


class _OneAdapted(PreTrainedModel):
    """A user's own class of two models, of which one has no layers."""

    config_class = BertConfig

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.left = BertModel(config)
        self.right = ConvNextModel(ConvNextConfig(hidden_sizes=[8, 8, 8, 8], depths=[1, 1, 1, 1]))
        self.post_init()


def test_where_one_model_alone_has_adapters_the_error_says_which_and_names_those_beside() -> None:
    model = _OneAdapted(tiny_config("bert"))
    init(model)
    with pytest.raises(InvalidConfigError, match="in _OneAdapted one alone has adapters, left, and right none"):
        model.add_adapter("a", "lora[parts='left']")
    model.add_adapter("a", "lora")


def test_a_part_may_be_built_without_the_table_of_tokens_that_its_class_has_elsewhere() -> None:
    """SeamlessM4T's encoder reads units that are embedded already."""
    model = SeamlessM4TTextToUnitModel(read("seamless_m4t").config())
    init(model)
    model.add_adapter("a", "lora")
    assert parts_with(model, "a") == {"encoder", "decoder"}


def test_a_model_that_is_one_has_no_parts_to_name() -> None:
    model = adapted("bert")
    for config in ("lora[parts='text']", "prefix_tuning|lora[parts='bert']"):
        with pytest.raises(InvalidConfigError, match="not made of several"):
            model.add_adapter("a", config)


# What the parts get


@pytest.mark.parametrize(
    "method",
    ["seq_bn[", "lora[", "ia3[", "prefix_tuning[", "loreft[", "compacter[phm_dim=2,reduction_factor=2,", "mam["],
)
@pytest.mark.parametrize("kind", MAKERS)
def test_an_adapter_is_in_the_parts_that_are_named_and_acts_there(kind: str, method: str, tmp_path: Path) -> None:
    for path in PARTS[kind]:
        model, inputs = with_adapters(kind, a=f"{method}parts='{path}']")
        bare = logits(model, inputs)
        whole = logits(model, inputs, "a")
        assert parts_with(model, "a") == {path}
        assert not torch.allclose(whole, bare)
        model.save_adapter(tmp_path / path, "a")
        other = made(kind).model
        other.load_adapter(tmp_path / path, set_active=True)
        assert torch.equal(logits(other, inputs), whole)
        model.delete_adapter("a")
        assert torch.equal(logits(model, inputs), bare)


def test_other_parts_compute_as_without_the_adapter() -> None:
    model, inputs = with_adapters("dual encoder", a="mam[parts='vision']")
    features = [
        model.get_text_features(input_ids=inputs["input_ids"], attention_mask=torch.ones_like(inputs["input_ids"]))
        for model in (model, made("dual encoder").model)
    ]
    model.set_active_adapters("a")
    features.append(
        model.get_text_features(input_ids=inputs["input_ids"], attention_mask=torch.ones_like(inputs["input_ids"]))
    )
    plain, other, now = (found if isinstance(found, torch.Tensor) else found.pooler_output for found in features)
    assert torch.equal(plain, other) and torch.equal(plain, now)


def test_members_of_a_union_stand_in_parts_of_their_own() -> None:
    model, inputs = with_adapters("llava", a="lora[r=2,parts='text']|lora[r=4,parts='vision']|prefix_tuning")
    ranks = {key.split(".")[1]: value.shape[0] for key, value in model.adapter_parameters("a") if "lora_A" in key}
    assert ranks == {"language_model": 2, "vision_tower": 4}
    model.add_adapter("b", "seq_bn[parts='text']")
    randomise(model, "b", 2)
    together = logits(model, inputs, Stack("a", "b"))
    model.set_active_adapters(None)
    with AdapterSetup(Stack("a", "b")):
        assert torch.equal(logits(model, inputs), together)


@pytest.mark.parametrize("kind", ["llava", "encoder-decoder", "vision-encoder-decoder"])
def test_adapters_of_different_parts_run_in_parallel(kind: str) -> None:
    first, second = PARTS[kind]
    model, inputs = with_adapters(kind, a=f"mam[parts='{first}']", b=f"lora[parts='{second}']")
    one, two = (logits(model, inputs, name) for name in "ab")
    assert torch.allclose(logits(model, inputs, Parallel("a", "b")), torch.cat([one, two]), atol=1e-5)


def test_a_fusion_is_in_the_parts_that_have_its_adapters() -> None:
    vision, text = "seq_bn[parts='vision']", "seq_bn[parts='text']"
    model, _ = with_adapters("llava", a=vision, b=vision, c=text)
    model.add_adapter_fusion(["a", "b"])
    places = [path for path, _ in model.named_parameters() if "adapter_fusion_layer" in path]
    assert places and all("vision_tower" in path for path in places)
    with pytest.raises(InvalidConfigError, match="no location in common"):
        model.add_adapter_fusion(["a", "c"])


def test_names_of_one_part_do_not_make_two() -> None:
    model = made("llava").model
    with pytest.raises(InvalidConfigError, match="'vision_tower' in common"):
        model.add_adapter("a", "lora[parts='vision']|lora[parts='vision_tower']")


def test_a_part_that_is_named_must_support_the_method() -> None:
    model = made("gemma3").model
    model.add_adapter("a", "seq_bn_inv")  # what is not named may lack it
    for config in ("prompt_tuning[parts='vision']", "prompt_tuning[parts=('text','vision')]"):
        with pytest.raises(UnsupportedMethodError, match=r"siglip_vision_model.* prompt_tuning"):
            model.add_adapter("b", config)
    model.add_adapter("b", "seq_bn_inv[parts=('text','vision')]")
    assert parts_with(model, "b") == {"vision_tower", "language_model"}
    with pytest.raises(UnsupportedMethodError, match=r"'language_model'.* reads tokens"):
        model.add_adapter("c", "seq_bn_inv[parts='vision']")


def test_layers_are_counted_over_all_parts_whatever_is_named() -> None:
    model = made("llava").model
    model.add_adapter("a", "lora[parts='text',leave_out=[3]]")
    assert set(model.get_adapter("a")) == {4}
    with pytest.raises(InvalidConfigError, match="No layer"):
        model.add_adapter("b", "lora[parts='text',leave_out=[3,4]]")


# Prompts


PROMPTS = [
    ("encoder-decoder", "decoder", {"decoder.bert"}),
    ("encoder-decoder", "text", {"encoder", "decoder.bert"}),
    ("vision-encoder-decoder", "vision", {"encoder"}),
    ("vision-encoder-decoder", ("encoder", "text"), {"encoder", "decoder.transformer"}),
    ("dual encoder", "vision", {"vision_model"}),
]


@pytest.mark.parametrize(("kind", "named", "found"), PROMPTS)
def test_a_prompt_goes_into_other_parts_where_they_are_named(kind: str, named: Any, found: set[str]) -> None:
    config = f"prompt_tuning[prompt_length=3,parts={named!r}]"
    model, inputs = with_adapters(kind, a=config, b=config)
    bare = logits(model, inputs)
    assert parts_with(model, "a") == found
    one, two = (logits(model, inputs, name) for name in "ab")
    assert one.shape == bare.shape
    for path in found:  # each acts
        prompt = model.adapters_base.get_parameter(f"{path}.prompt_tuning.prompt_tunings.a.prompt_embedding.weight")
        kept = prompt.detach().clone()
        prompt.data.zero_()
        assert not torch.allclose(logits(model, inputs, "a"), one, atol=1e-7)
        prompt.data.copy_(kept)
    if kind != "dual encoder":
        both = logits(model, inputs, Parallel("a", "b"))
        assert torch.allclose(both, torch.cat([one, two]), atol=1e-5)
        model.set_active_adapters("a")
        cached, plain = (generated(model, inputs, use_cache=use) for use in (True, False))
        for first, second in zip(cached.scores, plain.scores, strict=True):
            assert torch.allclose(first.nan_to_num(neginf=0), second.nan_to_num(neginf=0), atol=1e-4)


def test_a_prompt_in_a_tower_is_the_prompt_of_that_tower_alone() -> None:
    model, inputs = with_adapters("vision-encoder-decoder", a="prompt_tuning[parts='vision']")
    whole = logits(model, inputs, "a")
    alone = MAKERS["vision-encoder-decoder"]().model.encoder.eval()
    alone.load_state_dict(
        {key: value for key, value in model.encoder.state_dict().items() if "prompt_tuning" not in key}
    )
    init(alone)
    alone.add_adapter("a", "prompt_tuning", set_active=True)
    (mine,), (its,) = ([value for _, value in held.adapter_parameters("a")] for held in (model, alone))
    its.data.copy_(mine)
    kept = alone.prompt_tuning.sites
    assert kept is not None
    states = alone(inputs["pixel_values"]).last_hidden_state[:, its.shape[0] :]  # a bare model hands on the prompt too
    model.set_active_adapters(None)
    by_hand = model(encoder_outputs=(states,), decoder_input_ids=inputs["decoder_input_ids"])
    assert torch.allclose(by_hand.logits, whole, atol=1e-6)


@pytest.mark.parametrize(
    "config", ["prompt_tuning", "prompt_tuning[parts='text']", "prefix_tuning_flat[parts='vision']"]
)
def test_peft_knows_no_prompts_and_prefixes_of_parts(config: str, tmp_path: Path) -> None:
    model = with_adapters("dual encoder", a=config).model
    with pytest.raises(UnsupportedMethodError, match="made of several models"):
        model.save_peft_adapter(tmp_path, "a")


def test_peft_has_lora_of_one_part(tmp_path: Path) -> None:
    model, inputs = with_adapters("llava", a="lora[parts='text']")
    model.save_peft_adapter(tmp_path, "a")
    other = made("llava").model
    other.load_adapter(tmp_path, load_as="a", set_active=True)
    assert torch.allclose(logits(other, inputs), logits(model, inputs, "a"), atol=1e-6)


# Files


def test_a_caller_says_other_parts_than_the_file(tmp_path: Path) -> None:
    model, inputs = with_adapters("llava", a="lora")
    model.save_adapter(tmp_path / "both", "a")
    assert "parts" not in (tmp_path / "both" / "adapter_config.json").read_text()
    other = made("llava").model
    other.load_adapter(tmp_path / "both", config={"parts": "language_model"}, set_active=True)
    assert parts_with(other, "a") == {"language_model"}
    for key, value in model.adapter_parameters("a"):
        if "vision_tower" in key:
            value.data.zero_()  # LoRA of zeros is none
    assert torch.allclose(logits(other, inputs), logits(model, inputs, "a"), atol=1e-6)
    other.save_adapter(tmp_path / "one", "a")
    stored = json.loads((tmp_path / "one" / "adapter_config.json").read_text())["config"]
    assert stored["parts"] == ["language_model"]
    third = made("llava").model
    with pytest.raises(AdapterMismatchError, match="missing"):
        third.load_adapter(tmp_path / "one", config={"parts": None})
    assert "a" not in third.adapters_config


def test_a_checkpoint_of_the_whole_keeps_the_parts(tmp_path: Path) -> None:
    model, _ = with_adapters("llava", a="lora[parts='vision']", b="lora")
    model.save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())["adapters"]["config_map"]
    assert [config.get("parts") for config in stored.values()] == [["vision"], None]


# The summary


def test_the_summary_has_a_row_for_each_part_of_an_adapter_in_several() -> None:
    model, _ = with_adapters("llava", a="lora", b="lora[parts='text']")
    model.train_adapter("a")
    both, text, full = model.adapter_summary(as_dict=True)
    assert [row["name"] for row in both["parts"]] == list(PARTS["llava"])
    for key in ("#param", "#train"):
        assert sum(row[key] for row in both["parts"]) == both[key] > 0
    assert "parts" not in text
    names = [line.split()[0] for line in model.adapter_summary().splitlines() if line.strip()]
    assert names[2:6] == ["a", "vision_tower", "language_model", "b"]
    assert full["#total_train"] == both["#train"]


def test_the_summary_of_a_model_that_is_one_is_as_before() -> None:
    model = adapted("bert")
    model.add_adapter("a", "mam")
    randomise(model, "a", 1)
    assert "parts" not in model.adapter_summary(as_dict=True)[0]
