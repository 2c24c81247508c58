"""``python tests/parity/write_composites.py FOLDER [MODEL ...]``: parity cases of models made of models, and of classes with a head.

As `write_cases`, in the same environment, for classes of transformers that `adapters` turns by `init`. They differ in what is kept:

    MODEL/base/      config.json names the class ("architectures"); pytorch_model.bin has all its weights
    */expected.pt    a dict of outputs by name, those of the class: logits, embeddings, the encoder's last hidden state
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import adapters
import torch
import transformers
from adapters import configuration as methods
from torch import nn
from write_cases import BERT, METHODS, NAME, TEXT, TOWER, randomise

ENCODER_LAYERS, DECODER_LAYERS = 2, 3  # unlike: numbers that restart in each part are not numbers over both


def clip() -> nn.Module:
    text = {**TOWER, "vocab_size": 48, "max_position_embeddings": 24, "eos_token_id": 47, "pad_token_id": 0}
    vision = {**TOWER, "hidden_size": 48, "num_hidden_layers": 3, "image_size": 12, "patch_size": 4}
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)
    return transformers.CLIPModel(_eager(config))


def encoder_decoder() -> nn.Module:
    encoder = transformers.BertConfig(**{**TEXT, **BERT, "num_hidden_layers": ENCODER_LAYERS})
    decoder = transformers.BertConfig(**{**TEXT, **BERT, "num_hidden_layers": DECODER_LAYERS, "intermediate_size": 48})
    config = transformers.EncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    config.decoder_start_token_id, config.pad_token_id = 1, 0
    return transformers.EncoderDecoderModel(_eager(config))


def t5() -> nn.Module:
    config = transformers.T5Config(
        vocab_size=48, d_model=32, d_kv=8, d_ff=40, num_layers=ENCODER_LAYERS, num_decoder_layers=DECODER_LAYERS,
        num_heads=4, pad_token_id=0, eos_token_id=2, decoder_start_token_id=0, feed_forward_proj="gated-gelu",
    )  # fmt: skip
    return transformers.T5ForConditionalGeneration(_eager(config))


def _eager(config: Any) -> Any:
    for part in (
        config,
        *(value for value in vars(config).values() if isinstance(value, transformers.PretrainedConfig)),
    ):
        part._attn_implementation = "eager"
    return config


BY_NUMBER: Mapping[str, Callable[[], Any]] = {
    "seq_bn_leave_out": lambda: methods.SeqBnConfig(reduction_factor=8, leave_out=[1, 2]),
    "seq_bn_factors": lambda: methods.SeqBnConfig(reduction_factor={"1": 4, "2": 2, "default": 8}),
    "loreft_layers": lambda: methods.LoReftConfig(r=2, prefix_positions=2, suffix_positions=0, layers=[1]),
}
# Beside "loreft": the library finds the last positions of one part by the padding of another.
FIRST_POSITIONS = {"loreft_first": lambda: methods.LoReftConfig(r=2, prefix_positions=2, suffix_positions=0)}
MODELS: Mapping[str, tuple[Callable[[], nn.Module], Mapping[str, Callable[[], Any]], tuple[str, ...]]] = {
    "clip": (clip, {**METHODS, **FIRST_POSITIONS}, ("text_embeds", "image_embeds", "logits_per_image")),
    "encoder-decoder": (
        encoder_decoder,
        {**METHODS, **FIRST_POSITIONS, **BY_NUMBER},
        ("logits", "encoder_last_hidden_state"),
    ),
    "t5-with-head": (t5, {**METHODS, **FIRST_POSITIONS, **BY_NUMBER}, ("logits", "encoder_last_hidden_state")),
}


def write(folder: Path, model: str) -> dict[str, str]:
    """Write all cases of one model; what was not produced, with the error."""
    make, wanted, outputs = MODELS[model]
    torch.manual_seed(0)
    base = turned(make)
    randomise(base.parameters(), seed=1)
    weights = {key: value.clone() for key, value in base.state_dict().items()}
    inputs = inputs_of(base)
    where = folder / model / "base"
    where.mkdir(parents=True, exist_ok=True)
    base.config.architectures = [type(make()).__name__]
    base.config.to_json_file(where / "config.json")
    torch.save({key: weights[key] for key in make().state_dict()}, where / "pytorch_model.bin")
    torch.save(inputs, where / "inputs.pt")
    torch.save(run(base, inputs, outputs), where / "expected.pt")
    refused = {}
    for method, config in wanted.items():
        try:
            case(folder / model / method, turned(make), config(), weights, inputs, outputs)
        except Exception as error:
            refused[method] = f"{type(error).__name__}: {error}"[:160]
    return refused


def case(
    where: Path,
    model: nn.Module,
    config: Any,
    weights: Mapping[str, torch.Tensor],
    inputs: Mapping[str, torch.Tensor],
    outputs: tuple[str, ...],
) -> None:
    """Write one adapter, which must matter for each of the outputs."""
    model.load_state_dict(weights, strict=True)
    before = run(model, inputs, outputs)
    model.add_adapter(NAME, config=config)
    named = [(n, p) for n, p in model.named_parameters() if f".{NAME}." in n and "parametrizations" not in n]
    randomise([parameter for _, parameter in named], seed=2)
    model.set_active_adapters(NAME)
    expected = run(model, inputs, outputs)
    for name, value in expected.items():
        if value.shape == before[name].shape and (value - before[name]).abs().max() < 1e-3:
            raise ValueError(f"the adapter has no effect on {name}")
    where.mkdir(parents=True, exist_ok=True)
    model.save_adapter(str(where), NAME)
    saved = torch.load(where / "pytorch_adapter.bin", weights_only=True)
    if lost := {name for name, _ in named} - set(saved):
        shutil.rmtree(where)
        raise ValueError(f"the file lacks {', '.join(sorted(lost))}")
    torch.save(expected, where / "expected.pt")


def turned(make: Callable[[], nn.Module]) -> nn.Module:
    model = make()
    adapters.init(model)
    return model.eval()


def run(model: nn.Module, inputs: Mapping[str, torch.Tensor], outputs: tuple[str, ...]) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        found = model(**inputs)
    return {name: found[name].clone() for name in outputs}


def inputs_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """Tokens, of which the last two of the first row are padding, and beside them an image or what a decoder reads."""
    tokens = torch.randint(5, 47, (2, 7))
    mask = torch.ones_like(tokens)
    mask[0, 5:] = 0
    inputs = {"input_ids": tokens.masked_fill(mask == 0, 0), "attention_mask": mask}
    if isinstance(model, transformers.CLIPModel):
        tokens[0, 4], tokens[1, 6] = 47, 47  # the end, which is pooled
        size = model.config.vision_config.image_size
        return {
            "input_ids": tokens.masked_fill(mask == 0, 0),
            "attention_mask": mask,
            "pixel_values": torch.randn(2, 3, size, size),
        }
    return {**inputs, "decoder_input_ids": torch.randint(5, 47, (2, 7))}


if __name__ == "__main__":
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    root, *chosen = sys.argv[1:]
    report = Path(root) / "not-produced.json"
    refused = json.loads(report.read_text()) if report.is_file() else {}
    for model in chosen or MODELS:
        refused[model] = write(Path(root), model)
        print(model, refused[model])
    report.write_text(json.dumps(refused, indent=1, sort_keys=True) + "\n")
