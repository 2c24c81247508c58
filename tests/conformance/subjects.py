"""What the checks run on: one upstream class in one tiny configuration, with inputs.

Which classes a model type has, and which of them decodes, encodes or does both, is read from upstream's auto mappings and
from the default configuration; no model is named here.

Letters of shapes: B batch, L tokens, C channels, H height, W width, T frames.
"""

from __future__ import annotations

import functools
import inspect
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import transformers
from transformers import CONFIG_MAPPING, PreTrainedConfig, PreTrainedModel
from transformers.models.auto import modeling_auto as auto

from conformance import instances
from conformance.auto_classes import auto_names
from conformance.copies import Template
from conformance.instances.fields import config_class
from conformance.outputs import run
from conformance.tiny import randomise, tiny_config

Kind = Literal["encoder", "decoder", "encoder-decoder", "vision", "audio"]
Padding = Literal["none", "left", "right"]
Attention = Literal["eager", "sdpa"]

BATCH = 3
LENGTH = 8
PADS = (0, 2, 3)  # padded places of each row
FIRST_TOKEN = 5  # lower ids may be special
IGNORED = -100  # a label that no loss counts


@dataclass(frozen=True)
class Subject:
    """One upstream class in one configuration."""

    model_type: str
    architecture: str  # "LlamaForCausalLM"
    kind: Kind
    label: str  # what tells it apart from the other subjects of its model type: "decoder"
    changes: tuple[tuple[str, Any], ...] = ()  # fields that differ from the tiny configuration
    cross: bool = False  # it is given the hidden states of an encoder

    def __str__(self) -> str:
        return self.label

    @property
    def causal(self) -> bool:
        """A token sees no later one (in an encoder-decoder: in the decoder)."""
        return self.kind in ("decoder", "encoder-decoder")

    @property
    def text(self) -> bool:
        """It reads tokens, and needs nothing beside them."""
        return self.kind in ("encoder", "decoder", "encoder-decoder") and _reads_tokens_alone(self)

    @property
    def generates(self) -> bool:
        """It does so as upstream's other classes do. (Whisper cuts sounds into pieces, and puts texts together.)"""
        own = getattr(model_class(self.architecture), "generate", None)
        return self.causal and own is transformers.GenerationMixin.generate

    def changed(self, *changes: tuple[str, Any]) -> Subject:
        """The same with fields of the config that have other values, which its label names."""
        named = ", ".join(f"{name}={value}" for name, value in changes)
        return replace(self, label=f"{self.label}, {named}", changes=(*self.changes, *changes))

    def config(self) -> PreTrainedConfig:
        return tiny_config(self.model_type, **dict(self.changes))

    def upstream(self, attention: Attention = "eager") -> PreTrainedModel:
        """A fresh copy of the untouched upstream model, in evaluation mode; equal weights in each call."""
        return _upstream(self, attention).copy()

    @property
    def pools(self) -> bool:
        """It gives one prediction per sequence."""
        return self.architecture.endswith("ForSequenceClassification")

    def uncached_inputs(self) -> dict[str, Any]:
        """Those of a forward without a cache, out of which keys may come that no projection of the core gave (BigBird)."""
        without = {"use_cache": False} if self.causal and takes(self, "use_cache") else {}
        return {**self.padded_inputs(), **without}

    def padded_inputs(self, padding: Padding = "none", one_per_token: bool = False) -> dict[str, Any]:
        """Keyword arguments of a forward.

        Args:
            one_per_token: a decoder gets as many tokens as its encoder, which a head that pools at a token needs; else
                one less, so that a mix-up of the two lengths shows.
        """
        config = _known_config(self)
        inputs = text_inputs(config, padding) if self.text else _instance_inputs(self, config, padding)
        has_tokens = self.text or inputs.get("decoder_input_ids", _NONE).dim() == 2
        if self.kind == "encoder-decoder" and has_tokens and takes(self, "decoder_input_ids"):
            length = LENGTH if one_per_token or self.pools else LENGTH - 1
            inputs["decoder_input_ids"] = random_tokens(config, length, seed=2)
        if self.cross:
            generator = torch.Generator().manual_seed(3)
            states = torch.randn(BATCH, LENGTH + 1, config.hidden_size, generator=generator)
            if not takes(self, "encoder_hidden_states"):  # Whisper's decoder takes what an encoder gives
                inputs["encoder_outputs"] = (states,)
                return inputs
            inputs["encoder_hidden_states"] = states
            if padding != "none":
                inputs["encoder_attention_mask"] = padding_mask(LENGTH + 1, padding)
        return inputs


@functools.lru_cache(maxsize=64)
def takes(subject: Subject, name: str) -> bool:
    """Whether the forward has a parameter of that name: a decoder may be given frames that its model works out, and no tokens."""
    return name in inspect.signature(model_class(subject.architecture).forward).parameters


@functools.lru_cache(maxsize=64)
def _known_config(subject: Subject) -> PreTrainedConfig:
    """To be read only: making one takes as long as a forward."""
    return subject.config()


@functools.lru_cache(maxsize=64)
def _upstream(subject: Subject, attention: Attention) -> Template[PreTrainedModel]:
    model = model_class(subject.architecture)._from_config(subject.config(), attn_implementation=attention)
    randomise(model)
    return Template(model.eval())


@functools.cache
def upstream_is_built(subject: Subject) -> bool:
    """Whether upstream makes a model of the class: a head may need fields that the defaults of its config leave open (Hiera)."""
    try:
        subject.upstream()
    except Exception:  # whatever upstream raises
        return False
    return True


@functools.cache
def attentions(subject: Subject) -> tuple[Attention, ...]:
    """The attention implementations that upstream has for the class."""
    return ("eager",) if without_sdpa(subject) else ("eager", "sdpa")


@functools.cache
def without_sdpa(subject: Subject) -> str:
    """Why upstream refuses sdpa for the class; "" if it has it."""
    try:
        with torch.device("meta"):
            model_class(subject.architecture)._from_config(subject.config(), attn_implementation="sdpa")
    except ValueError as refused:
        message, _, _ = str(refused).partition(" yet")
        if "scaled_dot_product_attention" not in message:
            raise
        return f"upstream: {message}"
    return ""


def model_class(architecture: str) -> type[PreTrainedModel]:
    return getattr(transformers, architecture)


@functools.cache
def method_subjects(model_type: str) -> tuple[Subject, ...]:
    """The subjects on which every method is checked: one per way in which the model can be used."""
    config = tiny_config(model_type)
    base = base_architecture(model_type)
    causal = architecture(model_type, auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    if config.is_encoder_decoder:
        head = architecture(model_type, auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES) or architecture(
            model_type, auto.MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES
        )
        bare = Subject(model_type, base, "encoder-decoder", "encoder-decoder")
        headed = replace(bare, architecture=head or base)
        return (headed if upstream_runs(headed) else bare,)
    if hasattr(config, "is_decoder") and hasattr(config, "add_cross_attention"):
        masked = architecture(model_type, auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES)
        encoder = Subject(model_type, masked or base, "encoder", "encoder")
        if not causal:
            return (encoder,)
        decodes = (("is_decoder", True),)
        decoder = Subject(model_type, causal, "decoder", "decoder", decodes)
        crossing = replace(decoder, label="cross", changes=(*decodes, ("add_cross_attention", True)), cross=True)
        return (crossing,) if _always_crosses(decoder, crossing) else (encoder, decoder, crossing)
    if causal:
        decoder = Subject(model_type, causal, "decoder", "decoder")
        if not hasattr(config, "add_cross_attention"):
            return (decoder,)
        crossing = replace(decoder, label="cross", changes=(("add_cross_attention", True),), cross=True)
        return (decoder, crossing)
    masked = architecture(model_type, auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES)
    bare = Subject(model_type, base, _kind_of_input(base), "encoder")
    headed = replace(bare, architecture=masked or base)
    return (headed if upstream_runs(headed) else bare,)  # Perceiver's reads tokens, but its base model vectors


@functools.cache
def upstream_runs(subject: Subject) -> bool:
    """Whether upstream's own class runs on the inputs of the subject. (That it does not is noted by the check "identity".)"""
    try:
        run(subject.upstream(), subject.padded_inputs())
    except Exception:  # whatever upstream raises
        return False
    return True


def _always_crosses(decoder: Subject, crossing: Subject) -> bool:
    """It has its cross-attention with and without ``add_cross_attention``, so that it cannot be used without an encoder."""
    if not (upstream_runs(decoder) and upstream_runs(crossing)):
        return False
    if decoder.upstream().state_dict().keys() != crossing.upstream().state_dict().keys():
        return False
    alone, together = (run(one.upstream(), one.padded_inputs())["logits"] for one in (decoder, crossing))
    return alone.shape == together.shape and not torch.allclose(alone, together, atol=1e-5)


def head_subjects(model_type: str) -> tuple[Subject, ...]:
    """A subject per upstream class of the model type, the base model included: what `init` must leave unchanged.

    From whichever of upstream's tables: some types stand in one of segmentation, depth or matting alone.
    """
    first, *_ = method_subjects(model_type)
    names = [name for name in auto_names(model_type) if not _is_of_a_part(model_type, name)]
    causal = architecture(model_type, auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    return tuple(
        next((s for s in method_subjects(model_type) if name == causal and s.architecture == name), None)
        or Subject(model_type, name, _kind_of_class(name, first.kind, is_causal=name == causal), name)
        for name in names
    )


def _kind_of_class(architecture: str, kind: Kind, is_causal: bool) -> Kind:
    """`kind`, the family's; but a class of encoder-decoders that takes no tokens for a decoder is one half alone."""
    takes = inspect.signature(model_class(architecture).forward).parameters
    if kind != "encoder-decoder" or "decoder_input_ids" in takes:
        return kind
    return "decoder" if is_causal else "encoder"


def architecture(model_type: str, mapping: dict[str, Any]) -> str:
    """The class of `model_type` in one of upstream's auto mappings; "" if there is none, or only one of a part of it."""
    name = mapping.get(model_type, "")
    name = name[0] if isinstance(name, (tuple, list)) else name
    return "" if name and _is_of_a_part(model_type, name) else name


def base_architecture(model_type: str) -> str:
    """The base model's class; where upstream has none (only heads: depth, retrieval, ...), the class of the instance."""
    return architecture(model_type, auto.MODEL_MAPPING_NAMES) or instances.read(model_type).architecture


def _is_of_a_part(model_type: str, architecture: str) -> bool:
    """Emu3's causal language model is built with the config of its text model alone."""
    wanted = getattr(getattr(transformers, architecture, None), "config_class", None)
    parts = CONFIG_MAPPING[model_type].sub_configs.values()
    return wanted in parts and wanted is not config_class(model_type)


_PREDICTING = ("ForCausalLM", "LMHeadModel", "ForMaskedLM", "ForConditionalGeneration")  # ends of names


def with_labels(subject: Subject, inputs: dict[str, Any]) -> dict[str, Any] | None:
    """`inputs` with the labels that the head of `subject` computes a loss from; None if we know of none."""
    tokens = inputs.get("decoder_input_ids", inputs.get("input_ids"))
    if tokens is None:
        return None
    name = subject.architecture
    is_choice = name.endswith("ForMultipleChoice")
    tokens = tokens if tokens.dim() == 2 or is_choice else tokens[..., 0]  # of books of codes the first, of text
    generator = torch.Generator().manual_seed(7)
    classes = torch.randint(0, 2, (BATCH,), generator=generator)
    mask = inputs.get("attention_mask")
    padded = torch.zeros_like(tokens) if mask is None or mask.shape != tokens.shape else 1 - mask
    token_labels = tokens.masked_fill(padded.bool() | _without_logits(subject, tokens), IGNORED)
    if name.endswith(_PREDICTING) or name == architecture(
        subject.model_type, auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES
    ):
        return {**inputs, "labels": token_labels}
    if name.endswith("ForPreTraining"):
        return {**inputs, "labels": token_labels, "next_sentence_label": classes}
    if name.endswith(("ForSequenceClassification", "ForNextSentencePrediction")):
        return {**inputs, "labels": classes}
    if name.endswith("ForTokenClassification"):
        return {**inputs, "labels": torch.where(token_labels == IGNORED, IGNORED, token_labels % 2)}
    if name.endswith("ForQuestionAnswering"):
        return {**inputs, "start_positions": classes, "end_positions": classes + 2}
    if is_choice:
        return {**inputs, "labels": torch.zeros_like(classes)}
    return None


def _without_logits(subject: Subject, tokens: torch.Tensor) -> torch.Tensor:
    """Which of `tokens` are beyond the vocabulary, as what stands for an image may be (Kimi K2.5), or beyond those that have logits (Inkling 2)."""
    try:
        size = getattr(subject.config().get_text_config(decoder=True), "vocab_size", None)
    except ValueError:  # there are several
        size = None
    width = _width_of_logits(subject) if subject.architecture.endswith(_PREDICTING) else None
    if size is None or width is None:
        return torch.zeros_like(tokens, dtype=torch.bool) if size is None else tokens >= size
    return tokens >= min(size, width)


@functools.cache
def _width_of_logits(subject: Subject) -> int | None:
    """How many tokens upstream's class gives logits of; None where it does not run on the inputs of the subject."""
    try:
        logits = run(subject.upstream(), subject.padded_inputs()).get("logits")
    except Exception:  # whatever upstream raises
        return None
    return None if logits is None else logits.shape[-1]


def shaped_for(subject: Subject, inputs: dict[str, Any]) -> dict[str, Any]:
    """Multiple choice takes (B, choices, L): here the row itself and another one."""
    if not subject.architecture.endswith("ForMultipleChoice"):
        return inputs
    return {name: torch.stack([value, value.flip(0)], dim=1) for name, value in inputs.items()}


def text_inputs(config: PreTrainedConfig, padding: Padding, seed: int = 1) -> dict[str, torch.Tensor]:
    """``input_ids`` (B, L) and, where something is padded, ``attention_mask`` (B, L)."""
    tokens = random_tokens(config, LENGTH, seed)
    mask = padding_mask(LENGTH, padding)
    end = getattr(config.get_text_config(), "eos_token_id", None)  # configs of encoders need not have one
    if config.is_encoder_decoder and isinstance(end, int):  # pooled there, once per row: at the last real token
        tokens[torch.arange(BATCH), LENGTH - 1 - mask.flip(-1).argmax(-1)] = end
    if padding == "none":
        return {"input_ids": tokens}
    pad = getattr(config.get_text_config(), "pad_token_id", None)
    return {"input_ids": tokens.masked_fill(mask == 0, pad if pad is not None else 0), "attention_mask": mask}


def random_tokens(config: PreTrainedConfig, length: int, seed: int) -> torch.Tensor:
    """(B, length), none of them padding or, for encoder-decoders, the end of a sequence: there heads tell tokens by these."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(FIRST_TOKEN, vocabulary(config), (BATCH, length), generator=generator)
    names = ("pad_token_id", "eos_token_id") if config.is_encoder_decoder else ("pad_token_id",)
    known = (getattr(config.get_text_config(), name, None) for name in names)
    special = {token for token in known if isinstance(token, int)}
    plain = next(token for token in itertools.count(FIRST_TOKEN) if token not in special)
    for token in special:
        tokens = tokens.masked_fill(tokens == token, plain)
    return tokens


def vocabulary(config: PreTrainedConfig) -> int:
    """Where there is no table of tokens (they may be hashed), as many as the instance was run with."""
    size = getattr(config.get_text_config(), "vocab_size", None)
    return size if size is not None else instances.read(config.model_type).recipes["input_ids"]["high"]


def padding_mask(length: int, padding: Padding) -> torch.Tensor:
    """(B, length): 1 at real tokens."""
    mask = torch.ones(BATCH, length, dtype=torch.long)
    for row, pads in enumerate(PADS):
        if pads and padding == "left":
            mask[row, :pads] = 0
        elif pads:
            mask[row, -pads:] = 0
    return mask


_TOKENS = {"input_ids", "decoder_input_ids"}
_NONE = torch.empty(0)


def _taken(subject: Subject) -> set[str]:
    """The inputs of the instance that the class takes: by name, or as the instance's class does by none (Diffusion Gemma)."""
    instance = instances.read(subject.model_type)
    own, base = _parameters(model_class(subject.architecture)), _parameters(instance.model_class)
    is_open = any(entry.kind is entry.VAR_KEYWORD for entry in own.values())
    return {name for name in instance.recipes if name in own or (is_open and name not in base)}


def _parameters(cls: type[PreTrainedModel]) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(cls.forward).parameters


@functools.cache
def _reads_tokens_alone(subject: Subject) -> bool:
    cls = model_class(subject.architecture)
    recipes = instances.read(subject.model_type).recipes
    taken = _taken(subject)
    if cls.main_input_name != "input_ids" or not taken <= _TOKENS:
        return False
    if any(len(recipes[name]["shape"]) != 2 for name in taken):  # books of codes
        return False
    if "decoder_input_ids" in taken and subject.kind != "encoder-decoder":  # what it is given beside them
        return False
    tokens = recipes.get("input_ids") if "input_ids" in taken else None
    return tokens is None or (tokens["shape"] == [BATCH, LENGTH] and "put" not in tokens)


def _kind_of_input(base: str) -> Kind:
    main = model_class(base).main_input_name
    if not isinstance(main, str):
        return "vision" if "pixel_values" in main else "encoder"
    if main.startswith("pixel_values"):
        return "vision"
    return "encoder" if main == "input_ids" else "audio"


def _instance_inputs(subject: Subject, config: PreTrainedConfig, padding: Padding) -> dict[str, Any]:
    """What the instance of the model type was run with, as far as the class takes it.

    Rows are padded where the model reads text with a mask, and nothing stands for an image or a sound in the tokens.
    """
    takes = _parameters(model_class(subject.architecture))
    instance, taken = instances.read(subject.model_type), _taken(subject)
    inputs = {name: value for name, value in instance.inputs(seed=4).items() if name in taken}
    tokens = inputs.get("input_ids")
    plain = tokens is not None and tokens.dim() == 2 and "put" not in instance.recipes["input_ids"]
    end = getattr(config.get_text_config(), "eos_token_id", None)
    known = isinstance(end, int) and plain and end < instance.recipes["input_ids"]["high"]
    if known and not subject.causal:  # pooled there, where it sees all of its row
        inputs["input_ids"] = torch.cat([tokens[:, :-1], torch.full_like(tokens[:, -1:], end)], dim=1)
    if plain and padding != "none" and "attention_mask" in takes and "attention_mask" not in inputs:
        mask = padding_mask(tokens.shape[1], padding)
        pad = getattr(config.get_text_config(), "pad_token_id", None)
        inputs |= {"input_ids": tokens.masked_fill(mask == 0, pad if pad is not None else 0), "attention_mask": mask}
    return inputs
