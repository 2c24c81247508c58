"""`train_adapter` trains as many parameters as that of `adapters` 1.3.0, in a model without a head and beside each head.

The numbers were written down from `adapters` 1.3.0 on transformers 4.57.6: (tensors, values), of models of these sizes. What is missing
here is different on purpose: VeRA trains vectors, as its paper says, where that library trains whole matrices; ReFT's units for the end of
a sequence are not trained where no position is edited; IA3 in Llama is as wide as the projection that it scales; and that library
cannot add prompts to decoders, nor DoRA to GPT-2.
"""

from __future__ import annotations

import pytest
from transformers import (
    BartConfig,
    BertConfig,
    GPT2Config,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedModel,
    T5Config,
    ViTConfig,
)

from adapter_models import AutoAdapterModel
from adapter_runtime.contract.registry import registered

_SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
_TWO = {
    f"{part}_{name}": size
    for part in ("encoder", "decoder")
    for name, size in (("layers", 2), ("attention_heads", 4), ("ffn_dim", 64))
}

TRAINED = {
    "bert": {
        "seq_bn": (8, 324),
        "double_seq_bn": (16, 648),
        "par_bn": (8, 2144),
        "seq_bn_inv": (16, 884),
        "prefix_tuning": (5, 83520),
        "prefix_tuning_flat": (1, 3840),
        "lora": (8, 2048),
        "ia3": (6, 256),
        "dora": (12, 2176),
        "prompt_tuning": (1, 320),
        "mam": (13, 132032),
        "unipelt": (37, 85516),
    },
    "gpt2": {
        "seq_bn": (8, 324),
        "double_seq_bn": (16, 648),
        "par_bn": (8, 2144),
        "seq_bn_inv": (16, 884),
        "prefix_tuning": (5, 83520),
        "prefix_tuning_flat": (1, 3840),
        "lora": (4, 2048),
        "ia3": (4, 384),
        "mam": (13, 132032),
        "unipelt": (29, 85516),
    },
    "t5": {
        "seq_bn": (16, 648),
        "double_seq_bn": (32, 1296),
        "par_bn": (16, 4288),
        "seq_bn_inv": (24, 1208),
        "prefix_tuning": (15, 250560),
        "prefix_tuning_flat": (3, 11520),
        "lora": (24, 6144),
        "ia3": (16, 640),
        "dora": (36, 6528),
        "mam": (31, 393952),
        "unipelt": (99, 256158),
    },
    "bart": {
        "seq_bn": (16, 648),
        "double_seq_bn": (32, 1296),
        "par_bn": (16, 4288),
        "seq_bn_inv": (24, 1208),
        "prefix_tuning": (15, 250560),
        "prefix_tuning_flat": (3, 11520),
        "lora": (24, 6144),
        "ia3": (16, 640),
        "dora": (36, 6528),
        "mam": (31, 393952),
        "unipelt": (99, 256158),
    },
    "vit": {
        "seq_bn": (8, 324),
        "double_seq_bn": (16, 648),
        "par_bn": (8, 2144),
        "prefix_tuning": (5, 83520),
        "prefix_tuning_flat": (1, 3840),
        "lora": (8, 2048),
        "ia3": (6, 256),
        "dora": (12, 2176),
        "prompt_tuning": (1, 320),
        "mam": (13, 132032),
        "unipelt": (37, 85516),
    },
    "llama": {
        "seq_bn": (8, 324),
        "double_seq_bn": (16, 648),
        "par_bn": (8, 2144),
        "seq_bn_inv": (16, 884),
        "prefix_tuning": (5, 50688),
        "prefix_tuning_flat": (1, 1920),
        "lora": (8, 1792),
        "dora": (12, 1888),
        "mam": (13, 80768),
        "unipelt": (37, 52428),
    },
}
# Model, head, whether it is tied, whether the embeddings are trained; with "seq_bn".
BESIDE_A_HEAD = {
    ("bert", "classification", True, False): (12, 1446),
    ("bert", "classification", True, True): (13, 3366),
    ("bert", "classification", False, False): (12, 1446),
    ("bert", "classification", False, True): (13, 3366),
    ("bert", "masked_lm", True, False): (12, 1444),
    ("bert", "masked_lm", True, True): (14, 3424),
    ("bert", "masked_lm", False, False): (12, 1444),
    ("bert", "masked_lm", False, True): (15, 5344),
    ("bert", "causal_lm", True, False): (12, 1444),
    ("bert", "causal_lm", True, True): (14, 3424),
    ("bert", "causal_lm", False, False): (12, 1444),
    ("bert", "causal_lm", False, True): (15, 5344),
    ("bert", "tagging", True, False): (10, 390),
    ("bert", "tagging", True, True): (11, 2310),
    ("bert", "tagging", False, False): (10, 390),
    ("bert", "tagging", False, True): (11, 2310),
    ("llama", "causal_lm", True, False): (12, 1444),
    ("llama", "causal_lm", True, True): (14, 3424),
    ("llama", "causal_lm", False, False): (12, 1444),
    ("llama", "causal_lm", False, True): (15, 5344),
    ("gpt2", "causal_lm", True, False): (12, 1444),
    ("gpt2", "causal_lm", True, True): (14, 3424),
    ("gpt2", "causal_lm", False, False): (12, 1444),
    ("gpt2", "causal_lm", False, True): (15, 5344),
    ("bart", "seq2seq_lm", True, False): (16, 648),
    ("bart", "seq2seq_lm", True, True): (17, 2568),
    ("bart", "seq2seq_lm", False, False): (16, 648),
    ("bart", "seq2seq_lm", False, True): (18, 4488),
    ("t5", "seq2seq_lm", True, False): (16, 648),
    ("t5", "seq2seq_lm", True, True): (17, 2568),
    ("t5", "seq2seq_lm", False, False): (16, 648),
    ("t5", "seq2seq_lm", False, True): (18, 4488),
    ("vit", "image_classification", True, False): (10, 390),
    ("vit", "image_classification", False, False): (10, 390),
    ("bart", "classification", True, False): (20, 1770),
    ("bart", "classification", True, True): (21, 3690),
    ("bart", "classification", False, False): (20, 1770),
    ("bart", "classification", False, True): (21, 3690),
}


def config(kind: str) -> PreTrainedConfig:
    made: dict[str, PreTrainedConfig] = {
        "bert": BertConfig(vocab_size=60, **_SIZES),
        "gpt2": GPT2Config(vocab_size=60, n_embd=32, n_layer=2, n_head=4, n_positions=64),
        "t5": T5Config(vocab_size=60, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4),
        "bart": BartConfig(vocab_size=60, d_model=32, **_TWO),
        "vit": ViTConfig(**_SIZES, image_size=8, patch_size=4),
        "llama": LlamaConfig(vocab_size=60, **_SIZES, num_key_value_heads=2),
    }
    return made[kind]


def made(kind: str, head: str = "", tied: bool = True) -> PreTrainedModel:
    if kind not in registered().adapter_models:
        pytest.skip(f"{kind} is not generated")
    wanted = config(kind)
    wanted.tie_word_embeddings = tied
    wanted.is_decoder = (kind, head) == ("bert", "causal_lm")
    model = AutoAdapterModel.from_config(wanted)
    if head:
        getattr(model, f"add_{head}_head")("a")
    return model


def trained(model: PreTrainedModel) -> tuple[int, int]:
    found = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return len(found), sum(parameter.numel() for parameter in found)


@pytest.mark.parametrize(
    ("kind", "method"), [(kind, method) for kind, methods in TRAINED.items() for method in methods]
)
def test_as_many_parameters_of_an_adapter_are_trained(kind: str, method: str) -> None:
    model = made(kind)
    model.add_adapter("other", config=method)
    model.add_adapter("a", config=method)
    model.train_adapter("a")
    assert trained(model) == TRAINED[kind][method]


@pytest.mark.parametrize(("kind", "head", "tied", "embeddings"), BESIDE_A_HEAD)
def test_as_many_parameters_are_trained_beside_a_head(kind: str, head: str, tied: bool, embeddings: bool) -> None:
    model = made(kind, head, tied)
    model.add_adapter("a", config="seq_bn")
    model.train_adapter("a", train_embeddings=embeddings)
    assert trained(model) == BESIDE_A_HEAD[kind, head, tied, embeddings]
