"""Heads on frames of sounds, on sounds and on videos: they compute what upstream's classes do, padding included."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from transformers import (
    ASTConfig,
    ASTForAudioClassification,
    GenerationConfig,
    HubertConfig,
    HubertForCTC,
    HubertForSequenceClassification,
    PreTrainedModel,
    TimesformerConfig,
    TimesformerForVideoClassification,
    VideoMAEConfig,
    VideoMAEForVideoClassification,
    ViTConfig,
    Wav2Vec2Config,
    Wav2Vec2ForAudioFrameClassification,
    Wav2Vec2ForCTC,
    Wav2Vec2ForSequenceClassification,
    Wav2Vec2ForXVector,
    WhisperConfig,
    WhisperForAudioClassification,
    WhisperForConditionalGeneration,
)

from adapter_models import AutoAdapterModel, UnsupportedHeadError
from adapter_runtime import Parallel
from adapter_runtime.heads.pooling import pool
from conformance.checks.conversion import conversion_goes_back, conversion_keeps_outputs, converting_subjects
from conformance.heads import (
    head_is_saved_with_adapter,
    head_types,
    head_works,
    heads_run_together,
    model_is_saved,
)

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
WAVES = {
    **SMALL,
    "vocab_size": 12,
    "conv_dim": (16, 16),
    "conv_kernel": (10, 3),
    "conv_stride": (5, 2),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
    "classifier_proj_size": 20,
    "mask_time_prob": 0.0,
    "apply_spec_augment": False,
    "layerdrop": 0.0,
    "num_labels": 3,
    "feat_extract_norm": "layer",
}
SOUND = torch.randn(2, 400, generator=torch.Generator().manual_seed(1))
MASK = torch.ones(2, 400, dtype=torch.long)
MASK[1, 250:] = 0
TEXT = torch.tensor([[5, 6, 7, 8], [9, 4, -100, -100]])
PAINTERS = ("vit", "deit", "swin", "swinv2")
TYPES = ("wav2vec2", "audio-spectrogram-transformer", "timesformer", "videomae", "dinov2", "dinov2_with_registers")


def wave(**options: object) -> Wav2Vec2Config:
    return Wav2Vec2Config(**{**WAVES, **options})


def spectrogram(**options: object) -> ASTConfig:
    return ASTConfig(**SMALL, num_mel_bins=8, max_length=24, patch_size=4, num_labels=3, **options)


def video(config: type, **options: object) -> object:
    return config(**SMALL, image_size=8, patch_size=4, num_frames=4, num_labels=3, **options)


def both(upstream: PreTrainedModel, folder: Path) -> tuple[PreTrainedModel, PreTrainedModel]:
    upstream.save_pretrained(folder)
    return upstream.eval(), AutoAdapterModel.from_pretrained(folder).eval()


def randomised(model: PreTrainedModel) -> PreTrainedModel:
    generator = torch.Generator().manual_seed(7)
    for parameter in model.parameters():  # norms and biases too, which start as ones and zeros
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


FRAMES = 39
VOICES = {"tdnn_dim": (8, 8, 6), "tdnn_kernel": (3, 2, 1), "tdnn_dilation": (1, 2, 1), "xvector_output_dim": 5}
SOUNDS: dict[str, Tensor] = {"input_values": SOUND, "attention_mask": MASK}


@pytest.mark.parametrize(
    ("upstream", "inputs", "labels"),
    [
        pytest.param(lambda: Wav2Vec2ForCTC(wave()), SOUNDS, TEXT, id="CTC"),
        pytest.param(lambda: Wav2Vec2ForCTC(wave(ctc_loss_reduction="mean")), SOUNDS, TEXT, id="CTC, the mean"),
        pytest.param(lambda: Wav2Vec2ForCTC(wave()), {"input_values": SOUND}, TEXT, id="CTC, no mask"),
        pytest.param(
            lambda: Wav2Vec2ForCTC(wave(add_adapter=True, output_hidden_size=24, num_adapter_layers=1)),
            SOUNDS,
            TEXT,
            id="CTC on fewer frames of another width",
        ),
        pytest.param(lambda: HubertForCTC(HubertConfig(**WAVES)), SOUNDS, TEXT, id="CTC on Hubert"),
        pytest.param(lambda: Wav2Vec2ForSequenceClassification(wave()), SOUNDS, torch.tensor([2, 0]), id="a sound"),
        pytest.param(
            lambda: Wav2Vec2ForSequenceClassification(wave()),
            {"input_values": SOUND},
            torch.tensor([2, 0]),
            id="a sound, no mask",
        ),
        pytest.param(
            lambda: HubertForSequenceClassification(HubertConfig(**WAVES)),
            SOUNDS,
            torch.tensor([2, 0]),
            id="a sound on Hubert",
        ),
        pytest.param(
            lambda: Wav2Vec2ForAudioFrameClassification(wave()),
            SOUNDS,
            torch.nn.functional.one_hot(torch.arange(2 * FRAMES).reshape(2, FRAMES) % 3, 3),
            id="frames",
        ),
        *(
            pytest.param(lambda cls=cls: cls(wave(use_weighted_layer_sum=True, **VOICES)), SOUNDS, labels, id=name)
            for cls, labels, name in (
                (Wav2Vec2ForSequenceClassification, torch.tensor([2, 0]), "a sound, by all layers"),
                (
                    Wav2Vec2ForAudioFrameClassification,
                    torch.nn.functional.one_hot(torch.arange(2 * FRAMES).reshape(2, FRAMES) % 3, 3),
                    "frames, by all layers",
                ),
                (Wav2Vec2ForXVector, torch.tensor([2, 0]), "voices, by all layers"),
            )
        ),
        pytest.param(
            lambda: HubertForSequenceClassification(HubertConfig(**WAVES, use_weighted_layer_sum=True)),
            SOUNDS,
            torch.tensor([2, 0]),
            id="a sound on Hubert, by all layers",
        ),
        pytest.param(lambda: Wav2Vec2ForXVector(wave(**VOICES)), SOUNDS, torch.tensor([2, 0]), id="voices"),
        pytest.param(
            lambda: Wav2Vec2ForXVector(wave(**VOICES)),
            {"input_values": SOUND},
            torch.tensor([2, 0]),
            id="voices, no mask",
        ),
        pytest.param(
            lambda: ASTForAudioClassification(spectrogram()),
            {"input_values": SOUND.reshape(4, 25, 8)[:2, :24]},
            torch.tensor([2, 0]),
            id="a spectrogram, with a norm first",
        ),
        pytest.param(
            lambda: ASTForAudioClassification(spectrogram(problem_type="multi_label_classification")),
            {"input_values": SOUND.reshape(4, 25, 8)[:2, :24]},
            torch.tensor([[1.0, 0, 1], [0, 1, 0]]),
            id="a spectrogram with several labels",
        ),
        pytest.param(
            lambda: VideoMAEForVideoClassification(video(VideoMAEConfig)),
            {"pixel_values": torch.randn(2, 4, 3, 8, 8, generator=torch.Generator().manual_seed(2))},
            torch.tensor([2, 0]),
            id="the mean of a video, with a norm",
        ),
        pytest.param(
            lambda: TimesformerForVideoClassification(video(TimesformerConfig)),
            {"pixel_values": torch.randn(2, 4, 3, 8, 8, generator=torch.Generator().manual_seed(2))},
            torch.tensor([2, 0]),
            id="the first token of a video",
        ),
    ],
)
def test_logits_loss_and_weights_are_those_of_upstreams_class(
    upstream: object, inputs: dict[str, Tensor], labels: Tensor, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model, flexible = both(randomised(upstream()), tmp_path)  # type: ignore[operator]
    assert list(flexible.heads) == ["default"]
    with torch.no_grad():
        theirs, ours = model(**inputs, labels=labels), flexible(**inputs, labels=labels)
    assert_close(ours.logits, theirs.logits, atol=1e-5, rtol=1e-5)
    assert_close(ours.loss, theirs.loss, atol=1e-4, rtol=1e-5)
    if "embeddings" in theirs:
        assert_close(ours.embeddings, theirs.embeddings, atol=1e-5, rtol=1e-5)
    again = flexible.to_static("default")
    assert type(again) is type(model)
    assert_close(dict(again.state_dict()), dict(model.state_dict()), atol=0.0, rtol=0.0)


@pytest.mark.parametrize(
    "upstream",
    [
        pytest.param(
            lambda: VideoMAEForVideoClassification(video(VideoMAEConfig, use_mean_pooling=False)),
            id="another position",
        ),
    ],
)
def test_a_checkpoint_whose_config_asks_for_something_else_loads_without_its_head(
    upstream: object, tmp_path: Path
) -> None:
    _, flexible = both(upstream(), tmp_path)  # type: ignore[operator]
    assert not flexible.heads


def test_padding_of_a_sound_does_not_count_in_its_class(tmp_path: Path) -> None:
    _, flexible = both(randomised(Wav2Vec2ForSequenceClassification(wave())), tmp_path)
    with torch.no_grad():
        alone = flexible(SOUND[1:, :250]).logits
        beside = flexible(SOUND, attention_mask=MASK).logits[1:]
        unmasked = flexible(SOUND).logits[1:]
    assert_close(beside, alone, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(unmasked, alone, atol=1e-3)


def test_means_leave_out_what_they_say() -> None:
    states = torch.arange(12.0).reshape(1, 4, 3)
    states[0, 3] = float("nan")
    real = torch.tensor([[True, True, True, False]])
    assert_close(pool(states, "frames", frame_mask=real), states[:, :3].mean(dim=1))
    assert_close(pool(states[:, :3], "mean"), states[:, :3].mean(dim=1))
    assert_close(pool(states[:, :3], "rest"), states[:, 1:3].mean(dim=1))
    assert_close(pool(states[:, :3], "rest", skipped=1), states[:, 2])
    assert_close(pool(states[:, :3], "both"), torch.cat([states[:, 0], states[:, 1:3].mean(dim=1)], dim=1))
    assert_close(pool(states[:, :3], "frames"), states[:, :3].mean(dim=1))


def test_a_ctc_head_is_as_wide_as_one_asks_and_refuses_other_tokens() -> None:
    model = AutoAdapterModel.from_config(wave())
    model.add_ctc_head("letters", vocab_size=7, layers=2)
    assert model.heads["letters"].config["vocab_size"] == 7
    with pytest.raises(ValueError, match="7 tokens, but a label is 8"):
        model(SOUND, labels=TEXT.clamp(max=8))


def test_a_ctc_head_needs_a_blank() -> None:
    model = AutoAdapterModel.from_config(wave(pad_token_id=None))
    with pytest.raises(ValueError, match="no pad_token_id, the blank"):
        model.add_ctc_head("letters")


def test_the_layers_of_an_xvector_head_are_described_by_the_caller_or_the_config(tmp_path: Path) -> None:
    model = AutoAdapterModel.from_config(wave(**VOICES))
    model.add_xvector_head("as_config")
    model.add_xvector_head(
        "wide", num_labels=4, tdnn_dim=[7], tdnn_kernel=[2], tdnn_dilation=[3], xvector_output_dim=9
    )
    assert [layer.out_features for layer in model.heads["as_config"][1]] == [8, 8, 6]
    assert sorted(name for name, _ in model.heads["wide"].named_parameters()) == [
        "0.bias",
        "0.weight",
        "1.0.bias",
        "1.0.weight",
        "2.bias",
        "2.weight",
        "3.bias",
        "3.weight",
        "4.weight",
    ]
    assert model(SOUND).embeddings.shape == (2, 9)
    model.save_head(tmp_path, "wide")
    other = AutoAdapterModel.from_config(wave(**VOICES))
    other.load_head(tmp_path)
    assert other.heads["wide"].config == model.heads["wide"].config
    with pytest.raises(ValueError, match="one number each"):
        model.add_xvector_head("odd", tdnn_dim=[7, 7])


def test_a_head_that_weighs_all_layers_is_added_trained_and_saved(tmp_path: Path) -> None:
    model = AutoAdapterModel.from_config(wave())
    model.add_adapter("a", config="lora")
    model.add_audio_classification_head("a", weighted_layers=True)
    model.add_audio_classification_head("last")
    model.train_adapter("a")
    assert model(SOUND, head="last").hidden_states is None
    model(SOUND, attention_mask=MASK, labels=torch.tensor([1, 0]), head="a").loss.backward()
    assert model.heads["a"].layer_weights.grad.abs().sum() > 0
    model.save_adapter(tmp_path, "a")
    other = AutoAdapterModel.from_config(wave())
    other.load_adapter(tmp_path)
    assert torch.equal(other.heads["a"].layer_weights, model.heads["a"].layer_weights)
    outputs = model.adapters_base(SOUND)
    with pytest.raises(ValueError, match="output_hidden_states=True"):
        model.forward_head(outputs, head="a")


def test_heads_that_upstream_has_no_class_for_are_refused() -> None:
    model = AutoAdapterModel.from_config(HubertConfig(**WAVES))
    with pytest.raises(UnsupportedHeadError, match="audio_frame_classification"):
        model.add_audio_frame_classification_head("frames")


@pytest.mark.parametrize("model_type", TYPES)
@pytest.mark.parametrize("check", [head_works, model_is_saved, head_is_saved_with_adapter])
def test_heads_are_trained_and_saved(model_type: str, check: object) -> None:
    assert head_types(model_type)
    for head_type in head_types(model_type):
        check(model_type, head_type)  # type: ignore[operator]


def listener(**options: object) -> WhisperForAudioClassification:
    sizes = {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4}
    config = WhisperConfig(
        **sizes,
        decoder_attention_heads=4,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        vocab_size=40,
        num_mel_bins=8,
        max_source_positions=12,
        max_target_positions=16,
        classifier_proj_size=20,
        num_labels=3,
        **options,
        **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"), 1),
    )
    return randomised(WhisperForAudioClassification(config))


MEL = {"input_features": torch.randn(2, 8, 24, generator=torch.Generator().manual_seed(3))}


@pytest.mark.parametrize("weighted", [False, True])
def test_a_head_on_an_encoder_computes_what_upstreams_class_does(weighted: bool, tmp_path: Path) -> None:
    upstream, flexible = both(listener(use_weighted_layer_sum=weighted), tmp_path)
    labels = torch.tensor([2, 0])
    with torch.no_grad():
        theirs, ours = upstream(**MEL, labels=labels), flexible(**MEL, labels=labels)
    assert_close((ours.logits, ours.loss), (theirs.logits, theirs.loss), atol=1e-5, rtol=1e-5)
    again = flexible.to_static()
    assert type(again) is WhisperForAudioClassification  # without a decoder
    assert_close(dict(again.state_dict()), dict(upstream.state_dict()), atol=0.0, rtol=0.0)


def test_heads_on_an_encoder_and_behind_a_decoder_run_in_one_call(tmp_path: Path) -> None:
    _, model = both(listener(), tmp_path)
    model.add_seq2seq_lm_head("text")
    text = torch.tensor([[5, 6, 7], [8, 9, 1]])
    targets = {"default": torch.tensor([2, 0]), "text": text}
    with torch.no_grad():
        sound, written = model(**MEL, labels=targets, head=["default", "text"]).head_outputs
        assert_close(sound.logits, model(**MEL, head="default").logits, atol=0.0, rtol=0.0)
        assert_close(written.logits, model(**MEL, labels=text, head="text").logits, atol=0.0, rtol=0.0)


def test_a_head_on_an_encoder_works_beside_parallel_adapters(tmp_path: Path) -> None:
    _, model = both(listener(), tmp_path)
    for name in ("a", "b"):
        model.add_adapter(name, config="lora")
    model.set_active_adapters(Parallel("a", "b"))
    outputs = model(**MEL, labels=torch.tensor([2, 0]), head="default")
    assert [output.logits.shape for output in outputs.head_outputs] == [(2, 3)] * 2
    assert_close(outputs[0].loss, outputs[1].loss)


@pytest.mark.parametrize("check", [head_works, model_is_saved, head_is_saved_with_adapter])
def test_a_head_on_an_encoder_is_trained_and_saved(check: object) -> None:
    check("whisper", "audio_classification")  # type: ignore[operator]


@pytest.mark.parametrize("model_type", PAINTERS)
@pytest.mark.parametrize("check", [head_works, model_is_saved, head_is_saved_with_adapter])
def test_heads_that_paint_are_trained_and_saved(model_type: str, check: object) -> None:
    check(model_type, "masked_image_modeling")  # type: ignore[operator]


@pytest.mark.parametrize("model_type", PAINTERS)
def test_checkpoints_of_classes_that_paint_become_flexible_heads_and_go_back(model_type: str) -> None:
    subject = next(one for one in converting_subjects(model_type) if one.label.endswith("ForMaskedImageModeling"))
    conversion_keeps_outputs(subject)  # the image, and the loss
    conversion_goes_back(subject)  # the mask token too


def painter() -> tuple[PreTrainedModel, dict[str, Tensor]]:
    """A model with two heads that paint, whose mask tokens differ, and a masked image."""
    model = AutoAdapterModel.from_config(ViTConfig(**SMALL, image_size=8, patch_size=4, encoder_stride=4))
    for seed, name in enumerate(("first", "second"), start=1):
        model.add_masked_image_modeling_head(name)
        torch.nn.init.constant_(model.heads[name].mask_token, float(seed))
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    return model.eval(), {"pixel_values": images, "bool_masked_pos": torch.tensor([[0, 1, 0, 1], [1, 0, 0, 0]])}


def test_the_mask_token_is_that_of_the_head_and_only_in_a_call() -> None:
    model, inputs = painter()
    with torch.no_grad():
        first, second = (model(**inputs, head=name, output_hidden_states=True) for name in ("first", "second"))
    assert not torch.equal(first.hidden_states[0], second.hidden_states[0])
    assert model.vit.embeddings.mask_token is None
    assert "vit.embeddings.mask_token" not in model.state_dict()
    model.train()
    model(**inputs, head="first").loss.backward()
    assert model.heads["first"].mask_token.grad.abs().sum() > 0


def test_an_image_that_is_masked_needs_the_token_of_one_head() -> None:
    model, inputs = painter()
    model.add_image_classification_head("class")
    for heads, count in (("class", 0), (["first", "second"], 2)):
        with pytest.raises(ValueError, match=f"bool_masked_pos needs one active head.*, not {count}"):
            model(**inputs, head=heads)
    assert model(inputs["pixel_values"], head="class").logits.shape == (2, 2)
    assert model(inputs["pixel_values"], head="first").loss is None


def test_the_token_is_taken_back_where_a_call_fails() -> None:
    model, inputs = painter()
    with pytest.raises((ValueError, RuntimeError), match="match"):
        model(inputs["pixel_values"][:, :, :4], inputs["bool_masked_pos"], head="first")
    assert model.vit.embeddings.mask_token is None


def test_an_image_of_another_size_than_the_one_that_is_painted_is_refused() -> None:
    model = AutoAdapterModel.from_config(ViTConfig(**SMALL, image_size=8, patch_size=4, encoder_stride=8))
    model.add_masked_image_modeling_head("large")
    _, inputs = painter()
    with pytest.raises(ValueError, match="encoder_stride is 8"):
        model(**inputs)


def test_a_head_that_paints_works_beside_parallel_adapters() -> None:
    model, inputs = painter()
    for name in ("a", "b"):
        model.add_adapter(name, config="lora")
    model.set_active_adapters(Parallel("a", "b"))
    outputs = model(**inputs, head="first")
    assert [output.reconstruction.shape for output in outputs.head_outputs] == [(2, 3, 8, 8)] * 2
    assert_close(outputs[0].loss, outputs[1].loss)


def test_heads_run_together() -> None:
    heads_run_together("wav2vec2")


def test_whisper_writes_in_the_language_that_is_asked_for_as_upstreams_class_does(tmp_path: Path) -> None:
    """Languages, tasks and times are arguments of a class that upstream's derives from for its generation."""
    sizes = {"d_model": 16, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "encoder_layers": 2, "decoder_layers": 2}
    sizes |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "vocab_size": 60, "num_mel_bins": 8}
    tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 3}
    config = WhisperConfig(
        **sizes,
        **tokens,
        max_source_positions=20,
        max_target_positions=30,
        suppress_tokens=[],
        begin_suppress_tokens=[],
    )
    upstream = randomised(WhisperForConditionalGeneration(config))
    spoken = {"lang_to_id": {"<|en|>": 10, "<|de|>": 11}, "task_to_id": {"transcribe": 12, "translate": 13}}
    options = {**tokens, **spoken, "is_multilingual": True, "no_timestamps_token_id": 20}
    upstream.generation_config = GenerationConfig(**options, suppress_tokens=[], begin_suppress_tokens=[])
    upstream, flexible = both(upstream, tmp_path)
    sound = torch.randn(2, 8, 40, generator=torch.Generator().manual_seed(2))
    for asked in ({}, {"language": "de", "task": "translate"}, {"return_timestamps": True}):
        expected = upstream.generate(sound, max_new_tokens=5, **asked)
        assert torch.equal(flexible.generate(sound, max_new_tokens=5, **asked), expected)
    for name in ("a", "b"):
        flexible.add_adapter(name, config="lora")
    flexible.set_active_adapters(Parallel("a", "b"))
    flexible.active_head = "default"
    assert len(flexible.generate(sound, max_new_tokens=5)) == 4  # that of all models, which knows nothing of languages
