"""``python tests/parity/write_cases.py FOLDER [MODEL ...]``: parity cases, written by `adapters` 1.3.0 itself.

It runs in an environment of its own (``pip install torch adapters==1.3.0``, which brings transformers 4.57), never in that of this
project. For each model it writes what `tests/runtime/test_parity.py` reads:

    MODEL/base/      config.json, pytorch_model.bin, inputs.pt (keyword arguments), expected.pt (last hidden state)
    MODEL/METHOD/    the folder of ``save_adapter``, with every weight of adapter "A" random, and expected.pt with it active
    not-produced.json  what the library itself refuses or fails at, with its error

Models are tiny and random: float32, CPU, eager attention. Cases that exist are written anew.
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

NAME = "A"
TEXT = dict(
    vocab_size=48, hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4, pad_token_id=0
)
BERT = dict(max_position_embeddings=24, type_vocab_size=2)
DECODER = dict(num_key_value_heads=2, max_position_embeddings=24, bos_token_id=1, eos_token_id=2)
SEQ2SEQ = dict(
    vocab_size=48, d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4,
    encoder_ffn_dim=40, decoder_ffn_dim=40, max_position_embeddings=24, pad_token_id=0, eos_token_id=2, forced_eos_token_id=2,
)  # fmt: skip
LAYERS_OF_TWO_KINDS = ["sliding_attention", "full_attention"]
TOWER = dict(hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4)

# Model type -> the class, by its name in `adapters` (an AdapterModel) or transformers (turned by `init`), and its configuration. It has a
# head where it can, as files that are saved from a base model lack what layers share.
MODELS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "bert-generation": ("BertGenerationAdapterModel", {**TEXT, "max_position_embeddings": 24, "bos_token_id": 1, "eos_token_id": 2}),
    "clip_text_model": ("CLIPTextModel", {**TOWER, "vocab_size": 48, "max_position_embeddings": 24, "eos_token_id": 2}),
    "clip_vision_model": ("CLIPVisionModel", {**TOWER, "image_size": 8, "patch_size": 4}),
    "electra": ("ElectraAdapterModel", {**TEXT, **BERT, "embedding_size": 24}),
    "gemma2": ("Gemma2ForCausalLM", {**TEXT, **DECODER, "head_dim": 8, "sliding_window": 4, "layer_types": LAYERS_OF_TWO_KINDS}),
    "gemma3_text": ("Gemma3ForCausalLM", {**TEXT, **DECODER, "head_dim": 8, "sliding_window": 4, "layer_types": LAYERS_OF_TWO_KINDS}),
    "mbart": ("MBartAdapterModel", SEQ2SEQ),
    "modernbert": ("ModernBertForMaskedLM", {**TEXT, "max_position_embeddings": 24, "global_attn_every_n_layers": 2, "local_attention": 4,
                                      "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2,
                                      "reference_compile": False}),
    "mt5": ("MT5AdapterModel", {"vocab_size": 48, "d_model": 32, "d_kv": 8, "d_ff": 40, "num_layers": 2, "num_decoder_layers": 2,
                                "num_heads": 4, "pad_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 0}),
    "phi": ("PhiForCausalLM", {**TEXT, **DECODER}),
    "qwen2": ("Qwen2ForCausalLM", {**TEXT, **DECODER}),
    "qwen3": ("Qwen3ForCausalLM", {**TEXT, **DECODER, "head_dim": 8}),
    "xlm-roberta": ("XLMRobertaAdapterModel", {**TEXT, **BERT, "pad_token_id": 1}),
}  # fmt: skip

# The library's hooks take the norm of the last layer for that of each layer (in a closure that is bound late). Where all layers have
# the same norms, that makes no difference.
WITH_EQUAL_NORMS = ("gemma2", "gemma3_text")

METHODS: Mapping[str, Callable[[], Any]] = {
    "seq_bn": lambda: methods.SeqBnConfig(reduction_factor=8),
    "double_seq_bn": lambda: methods.DoubleSeqBnConfig(reduction_factor=8, original_ln_after=True),
    "par_bn": lambda: methods.ParBnConfig(reduction_factor=8),
    "seq_bn_inv": lambda: methods.SeqBnInvConfig(reduction_factor=8),
    "compacter": lambda: methods.CompacterConfig(reduction_factor=8, phm_dim=2),
    "lora": lambda: methods.LoRAConfig(
        r=2, alpha=4, attn_matrices=["q", "k", "v"], intermediate_lora=True, output_lora=True
    ),
    "ia3": lambda: methods.IA3Config(),
    "prefix_tuning": lambda: methods.PrefixTuningConfig(prefix_length=3, bottleneck_size=4),
    "prompt_tuning": lambda: methods.PromptTuningConfig(prompt_length=3),
    "loreft": lambda: methods.LoReftConfig(r=2, prefix_positions=2, suffix_positions=1),
}


def write(folder: Path, model_type: str) -> dict[str, str]:
    """Write all cases of one model; what was not produced, with the error."""
    torch.manual_seed(0)
    inputs = inputs_of(fresh(model_type))
    base = fresh(model_type)
    randomise(base.parameters(), seed=1)
    weights = base.state_dict()
    if model_type in WITH_EQUAL_NORMS:
        for key in [key for key in weights if ".layers.0." in key and "layernorm" in key]:
            weights[key.replace(".layers.0.", ".layers.1.")].copy_(weights[key])
    invented = weights.keys() - fresh(model_type, turned=False).state_dict().keys()
    for key in invented:  # `init` gives fused projections without a bias a random one
        weights[key].zero_()
    where = folder / model_type / "base"
    where.mkdir(parents=True, exist_ok=True)
    base.config.to_json_file(where / "config.json", use_diff=False)
    prefix = base.base_model_prefix if base.base_model is not base else ""
    kept = {key: value for key, value in weights.items() if key.startswith(prefix) and key not in invented}
    torch.save(kept, where / "pytorch_model.bin")
    torch.save(inputs, where / "inputs.pt")
    torch.save(run(base, inputs), where / "expected.pt")
    refused = {}
    for method in METHODS:
        try:
            case(folder / model_type / method, model_type, method, weights, inputs)
        except Exception as error:
            refused[method] = f"{type(error).__name__}: {error}"[:160]
    return refused


def case(
    where: Path, model_type: str, method: str, weights: dict[str, torch.Tensor], inputs: dict[str, torch.Tensor]
) -> None:
    """Write one adapter, which must matter for the outputs."""
    model = fresh(model_type)
    model.load_state_dict(weights, strict=True)
    before = run(model, inputs)
    model.add_adapter(NAME, config=METHODS[method]())
    # (`init_weights` of ReFT makes the rows orthonormal; random numbers would not be, in that parametrisation.)
    named = [(n, p) for n, p in model.named_parameters() if f".{NAME}." in n and "parametrizations" not in n]
    randomise([parameter for _, parameter in named], seed=2)
    model.set_active_adapters(NAME)
    expected = run(model, inputs)
    if expected.shape == before.shape and (expected - before).abs().max() < 1e-3:
        raise ValueError("the adapter has no effect")
    where.mkdir(parents=True, exist_ok=True)
    model.save_adapter(str(where), NAME, **({"with_head": False} if model.base_model is not model else {}))
    saved = torch.load(where / "pytorch_adapter.bin", weights_only=True)
    if lost := {name for name, _ in named} - set(saved):
        shutil.rmtree(where)
        raise ValueError(f"the file lacks {', '.join(sorted(lost))}")
    torch.save(expected, where / "expected.pt")


def fresh(model_type: str, turned: bool = True) -> nn.Module:
    name, fields = MODELS[model_type]
    config_class = type(transformers.AutoConfig.for_model(model_type))
    config = config_class(**fields)
    config._attn_implementation = "eager"
    model = getattr(adapters, name, None) or getattr(transformers, name)
    made = model(config)
    if turned and not hasattr(adapters, name):
        adapters.init(made)
    return made.eval()


def run(model: nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """The last hidden state of the base model. (Some AdapterModels scale it for a head.)"""
    base = model.base_model if model.base_model is not None else model
    with torch.no_grad():
        return base(**inputs).last_hidden_state.clone()


def randomise(parameters: Any, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in parameters:
            scale = 0.3 if parameter.dim() < 2 else parameter[0].numel() ** -0.5
            centre = 1.0 if parameter.dim() < 2 and bool((parameter == 1).all()) else 0.0
            parameter.copy_(centre + scale * torch.randn(parameter.shape, generator=generator))


def inputs_of(model: nn.Module) -> dict[str, torch.Tensor]:
    config = model.config
    if model.main_input_name == "pixel_values":
        return {"pixel_values": torch.randn(2, 3, config.image_size, config.image_size)}
    tokens = torch.randint(5, config.vocab_size, (2, 7))
    inputs = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    if config.is_encoder_decoder:
        inputs["decoder_input_ids"] = torch.randint(5, config.vocab_size, (2, 7))
    return inputs


if __name__ == "__main__":
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    root, *chosen = sys.argv[1:]
    report = Path(root) / "not-produced.json"
    refused = json.loads(report.read_text()) if report.is_file() else {}
    for model_type in chosen or MODELS:
        refused[model_type] = write(Path(root), model_type)
        print(model_type, refused[model_type])
    report.write_text(json.dumps(refused, indent=1, sort_keys=True) + "\n")
