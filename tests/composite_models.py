"""Small models made of models, with adapters and inputs for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from transformers import (
    BertConfig,
    Blip2Config,
    Blip2ForConditionalGeneration,
    CanaryConfig,
    CanaryForConditionalGeneration,
    CLIPVisionConfig,
    EncoderDecoderConfig,
    EncoderDecoderModel,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    GPT2Config,
    GraniteSpeechConfig,
    GraniteSpeechForConditionalGeneration,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    PreTrainedModel,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
    VisionTextDualEncoderConfig,
    VisionTextDualEncoderModel,
    ViTConfig,
)

from adapter_runtime import init
from runtime_models import randomise

BERT: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 100,
}  # fmt: skip
VIT: dict[str, Any] = {
    "hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "image_size": 8, "patch_size": 4,
}  # fmt: skip
IMAGE = 7  # the token of a place in an image


class Composite(NamedTuple):
    """A model made of others, and inputs of two rows."""

    model: PreTrainedModel
    inputs: dict[str, torch.Tensor]


def pixels(images: int) -> torch.Tensor:
    return torch.randn(images, 3, 8, 8, generator=torch.Generator().manual_seed(images))


def llava(images_per_row: tuple[int, ...] = (1, 1)) -> Composite:
    text = LlamaConfig(
        hidden_size=48, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, vocab_size=100
    )  # fmt: skip
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**VIT), text_config=text, image_token_index=IMAGE, vision_feature_layer=-2
    )
    rows = [[1, *[IMAGE] * 4 * images, 5, 6, 9] for images in images_per_row]
    length = max(map(len, rows))
    tokens = torch.tensor([[0] * (length - len(row)) + row for row in rows])
    inputs = {
        "input_ids": tokens,
        "attention_mask": (tokens > 0).long(),
        "position_ids": ((tokens > 0).cumsum(-1) - 1).clamp(min=0),
        "pixel_values": pixels(sum(images_per_row)),
    }
    return Composite(LlavaForConditionalGeneration(config), inputs)


def gemma3() -> Composite:
    """Its root makes masks, in which the places of an image see each other, and hands embeddings to its text model."""
    text = {
        "hidden_size": 48,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "head_dim": 16,
    }
    config = Gemma3Config(
        text_config={**text, "num_key_value_heads": 2, "vocab_size": 100, "sliding_window": 6},
        vision_config={**VIT, "model_type": "siglip_vision_model", "patch_size": 2},
        mm_tokens_per_image=4, image_token_index=IMAGE, boi_token_index=8, eoi_token_index=9,
    )  # fmt: skip
    rows = [[1, 8, *[IMAGE] * 4, 9, 5, 6, 11], [0, 0, 8, *[IMAGE] * 4, 9, 3, 4]]
    tokens = torch.tensor(rows)
    inputs = {
        "input_ids": tokens,
        "attention_mask": (tokens > 0).long(),
        "token_type_ids": (tokens == IMAGE).long(),
        "position_ids": ((tokens > 0).cumsum(-1) - 1).clamp(min=0),
        "pixel_values": pixels(2),
    }
    model = Gemma3ForConditionalGeneration(config)
    torch.nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight)  # zeros until they are loaded
    return Composite(model, inputs)


def encoder_decoder() -> Composite:
    decoder = BertConfig(**BERT | {"num_hidden_layers": 3}, is_decoder=True, add_cross_attention=True)
    config = EncoderDecoderConfig.from_encoder_decoder_configs(
        BertConfig(**BERT), decoder, decoder_start_token_id=1, pad_token_id=0, eos_token_id=99
    )
    tokens = torch.tensor([[1, 7, 11, 12, 5, 6], [0, 0, 2, 8, 3, 4]])
    inputs = {"input_ids": tokens, "attention_mask": (tokens > 0).long(), "decoder_input_ids": tokens[:, 2:]}
    return Composite(EncoderDecoderModel(config), inputs)


def vision_encoder_decoder() -> Composite:
    decoder = GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=100, bos_token_id=1, eos_token_id=99)
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(
        ViTConfig(**VIT), decoder, decoder_start_token_id=1, pad_token_id=0, eos_token_id=99
    )
    inputs = {"pixel_values": pixels(2), "decoder_input_ids": torch.tensor([[1, 7, 5], [2, 8, 3]])}
    return Composite(VisionEncoderDecoderModel(config), inputs)


def dual_encoder() -> Composite:
    config = VisionTextDualEncoderConfig.from_vision_text_configs(
        ViTConfig(**VIT), BertConfig(**BERT), projection_dim=16
    )
    inputs = {"pixel_values": pixels(2), "input_ids": torch.tensor([[1, 7, 5, 9], [2, 8, 3, 4]])}
    return Composite(VisionTextDualEncoderModel(config), inputs)


MAKERS: dict[str, Callable[[], Composite]] = {
    "llava": llava,
    "gemma3": gemma3,
    "encoder-decoder": encoder_decoder,
    "vision-encoder-decoder": vision_encoder_decoder,
    "dual encoder": dual_encoder,
}
PARTS = {
    "llava": {"vision_tower": 3, "language_model": 2},
    "gemma3": {"vision_tower": 3, "language_model": 2},
    "encoder-decoder": {"encoder": 2, "decoder.bert": 3},
    "vision-encoder-decoder": {"encoder": 3, "decoder.transformer": 2},
    "dual encoder": {"vision_model": 3, "text_model": 2},
}


def canary() -> Composite:
    """A decoder of its own beside an encoder of sounds, which is a part."""
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
    encoder = {"model_type": "parakeet_encoder", "num_mel_bins": 80, "subsampling_conv_channels": 8, "layerdrop": 0.0}
    decoder = {
        "model_type": "canary_decoder",
        "num_key_value_heads": 2,
        "vocab_size": 99,
        "max_position_embeddings": 64,
    }
    config = CanaryConfig(encoder_config={**sizes, **encoder}, decoder_config={**sizes, **decoder}, vocab_size=99)
    torch.manual_seed(0)
    sounds = torch.randn(2, 48, 80, generator=torch.Generator().manual_seed(0))
    tokens = torch.tensor([[5, 9, 17, 40], [6, 22, 8, 31]])
    return Composite(
        CanaryForConditionalGeneration(config).eval(), {"input_features": sounds, "decoder_input_ids": tokens}
    )


def mistral3() -> Composite:
    """A tower that packs images, here of different sizes, into one row, beside a language model."""
    text = {
        "model_type": "mistral", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": 100, "sliding_window": None, "pad_token_id": 0,
    }  # fmt: skip
    tower = {
        "model_type": "pixtral", "hidden_size": 64, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
        "image_size": 16, "patch_size": 4,
    }  # fmt: skip
    config = Mistral3Config(vision_config=tower, text_config=text, image_token_index=IMAGE, spatial_merge_size=2)
    torch.manual_seed(0)
    inputs = {
        "input_ids": torch.tensor([[1, *[IMAGE] * 4, 5], [1, *[IMAGE] * 2, 6, 9, 11]]),
        "pixel_values": torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)),
        "image_sizes": torch.tensor([[16, 16], [8, 16]]),
    }
    return Composite(Mistral3ForConditionalGeneration(config).eval(), inputs)


def granite_speech() -> Composite:
    """A Q-Former between an encoder of sounds and a language model, which gets one row of queries for all windows of all rows."""
    encoder = {
        "context_size": 64, "hidden_dim": 64, "input_dim": 8, "max_pos_emb": 64, "num_heads": 4, "num_layers": 1, "output_dim": 4,
    }  # fmt: skip
    projector = {
        "model_type": "blip_2_qformer", "encoder_hidden_size": 64, "hidden_size": 32, "intermediate_size": 16, "num_attention_heads": 4,
        "num_hidden_layers": 2, "vocab_size": 96,
    }  # fmt: skip
    text = {
        "model_type": "granite", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": 100, "pad_token_id": 0,
    }  # fmt: skip
    config = GraniteSpeechConfig(
        encoder_config=encoder, projector_config=projector, text_config=text, audio_token_index=IMAGE, window_size=4,
        downsample_rate=2,
    )  # fmt: skip
    torch.manual_seed(0)
    inputs = {
        "input_ids": torch.tensor([[1, *[IMAGE] * 4, 5], [1, *[IMAGE] * 4, 9]]),
        "input_features": torch.randn(2, 8, 8, generator=torch.Generator().manual_seed(0)),
    }
    return Composite(GraniteSpeechForConditionalGeneration(config).eval(), inputs)


def blip2() -> Composite:
    """Its features of images come out of two parts, one after the other."""
    shared = {"intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    text = {"model_type": "opt", "hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
            "vocab_size": 60, "max_position_embeddings": 64, "word_embed_proj_dim": 32}  # fmt: skip
    config = Blip2Config(
        vision_config={"hidden_size": 24, "image_size": 8, "patch_size": 4, **shared},
        qformer_config={"hidden_size": 32, "encoder_hidden_size": 24, "cross_attention_frequency": 1, "vocab_size": 60, **shared},
        text_config=text,
        num_query_tokens=4,
        image_token_index=50,
    )  # fmt: skip
    model = Blip2ForConditionalGeneration(config)
    torch.nn.init.normal_(model.query_tokens)
    return Composite(model, {"pixel_values": pixels(2)})


def made(kind: str, **options: Any) -> Composite:
    torch.manual_seed(0)
    model, inputs = MAKERS[kind](**options)
    init(model.eval())
    return Composite(model, inputs)


def with_adapters(kind: str, **configs: str) -> Composite:
    found = made(kind)
    for seed, (name, config) in enumerate(configs.items()):
        found.model.add_adapter(name, config)
        randomise(found.model, name, seed + 1)
    return found


def logits(model: PreTrainedModel, inputs: Mapping[str, Any], setup: Any = None) -> torch.Tensor:
    if setup is not None:
        model.set_active_adapters(setup)
    with torch.no_grad():
        outputs: torch.Tensor = model(**inputs)[0]
    return outputs


def generated(model: PreTrainedModel, inputs: Mapping[str, Any], **options: Any) -> Any:
    given = {name: value for name, value in inputs.items() if name not in ("decoder_input_ids", "position_ids")}
    options |= {"do_sample": False, "output_scores": True, "return_dict_in_generate": True}
    without_features = [IMAGE, 8, 9]  # an image would have to come with each
    return model.generate(**given, max_new_tokens=4, suppress_tokens=without_features, **options)
