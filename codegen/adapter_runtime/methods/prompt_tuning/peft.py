"""Prompt tuning in PEFT's format: its prompts stand in the place of embeddings of tokens."""

from __future__ import annotations

from adapter_runtime.contract.protocol import AdaptedModel
from adapter_runtime.contract.values import Json
from adapter_runtime.errors import UnsupportedMethodError
from adapter_runtime.methods.common.peft_format import (
    PeftFile,
    PeftFormat,
    Tensors,
    refuse_unknown,
)
from adapter_runtime.methods.prefix_tuning.peft import EMBEDDINGS, SHAPE_OPTIONS, only_embeddings
from adapter_runtime.methods.prompt_tuning.config import PromptTuningConfig

_INERT = ("prompt_tuning_init", "prompt_tuning_init_text", "tokenizer_kwargs", "tokenizer_name_or_path")
_POOLED = (
    "With PEFT, the classifier of a {model} reads the first position of the prompt; here it reads the first token. The"
    " hidden states are the same, the logits are not."
)


def read(model: AdaptedModel, saved: PeftFile) -> tuple[PromptTuningConfig, Tensors]:
    """The config and tensors that give the same hidden states here as the prompt does in PEFT.

    Where PEFT's classifier reads the prompt, its logits differ from those here: refused, if `saved.strict`.

    Raises:
        UnsupportedMethodError: the model or an option has no counterpart in the other library.
    """
    document = saved.document
    refuse_unknown(document, SHAPE_OPTIONS, _INERT)
    states = only_embeddings(saved.tensors)
    base = model.adapters_base
    if base.config.is_encoder_decoder or document.get("num_transformer_submodules") not in (None, 1):
        raise UnsupportedMethodError("PEFT gives encoder and decoder prompts; here a prompt is one of the inputs.")
    if saved.strict and document.get("task_type") == "SEQ_CLS" and getattr(base, "pooler", None) is not None:
        raise UnsupportedMethodError(
            f"{_POOLED.format(model=type(base).__name__)} To load it all the same: strict=False. The model is unchanged."
        )
    # Where nothing is added to the embeddings of tokens, both places are one: then the default one is stored.
    same = base.embedding_output == base.token_embeddings
    place = PromptTuningConfig.insert_at if same else "token_embeddings"
    config = PromptTuningConfig(prompt_length=int(states.shape[0]), insert_at=place)
    base_path = "" if base is model else f"{model.base_model_prefix}."
    return config, {f"{base_path}prompt_tuning.prompt_tunings.{saved.name}.prompt_embedding.weight": states}


def write(model: AdaptedModel, name: str, config: PromptTuningConfig) -> tuple[dict[str, Json], Tensors]:
    """The document, without what all methods have, and the tensors by PEFT's names.

    Raises:
        UnsupportedMethodError: PEFT has no counterpart.
    """
    base = model.adapters_base
    if config.combine != "prefix":
        raise UnsupportedMethodError(f"PEFT puts prompts in front of all tokens, not combine={config.combine!r}.")
    if config.insert_at != "token_embeddings" and base.embedding_output != base.token_embeddings:
        raise UnsupportedMethodError(
            "PEFT gives prompts positions and norms like those of tokens; this one goes in behind them. Train it with"
            " insert_at='token_embeddings'."
        )
    if base.config.is_encoder_decoder:
        raise UnsupportedMethodError("PEFT gives encoder and decoder prompts; here a prompt is one of the inputs.")
    tensors = {key: tensor for key, tensor in base.state_dict().items() if f".prompt_tunings.{name}." in f".{key}"}
    (embeddings,) = tensors.values()
    layers = [layer for _, layer in base.iter_layers()]
    document: dict[str, Json] = {
        "peft_type": "PROMPT_TUNING",
        "num_virtual_tokens": int(embeddings.shape[0]),
        "token_dim": int(embeddings.shape[1]),
        "num_layers": len(layers),
        "num_attention_heads": getattr(base.config, "num_attention_heads", None),
        "num_transformer_submodules": 1,
        "prompt_tuning_init": "RANDOM",
    }
    return document, {EMBEDDINGS: embeddings}


FORMAT = PeftFormat[PromptTuningConfig](
    peft_type="PROMPT_TUNING", read=read, write=write, writes=lambda config: True, marks=(EMBEDDINGS,), is_prompt=True
)
