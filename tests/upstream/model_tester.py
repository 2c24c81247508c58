"""What upstream's tests ask a model tester for: a configuration, inputs, targets, and a few sizes of both."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from conformance import heads
from conformance.outputs import run
from conformance.subjects import BATCH, Subject, model_class
from conformance.tiny import configs_of

HEAD = "upstream"
# The head that the AdapterModel gets: one with a vocabulary, whose weights may be tied, or the one that lets patches be masked, which
# a test of upstream's does wherever the forward has an argument for it. Else the first that the model has.
PREFERRED = ("masked_lm", "seq2seq_lm", "causal_lm", "masked_image_modeling")
# Of a mask: some of upstream's tests lengthen inputs to seven rows, by any numbers.
TIMES = 3


class ModelTester:
    """Stands where upstream's ``LlamaModelTester`` does. Its instance is the one that our own checks run on."""

    is_training = True  # losses are asked for

    def __init__(self, model_type: str) -> None:
        self.subject = heads.base_subject(model_type)
        config = self.get_config()
        part = part_of_head(model_type)
        stack = self.subject.upstream().get_submodule(part).config if part else config.get_text_config()
        stack = first_layer(stack)
        weights, states_given = attentions_of(self.subject), hidden_states_of(self.subject)
        self.num_hidden_layers: int = getattr(stack, "num_hidden_layers", 0)
        self.num_attention_heads = heads_of(stack, weights)
        self.hidden_size: int = getattr(stack, "hidden_size", 0)
        if states_given:  # stages have states of several widths, and one in front of none
            self.expected_num_hidden_layers, self.hidden_size = len(states_given), states_given[0].shape[-1]
        inputs = self._inputs()
        self.batch_size = BATCH * self._times()
        states, decoder_states = lengths(self.subject)
        # Patches of an image may stand in front of the tokens
        in_rows = bool(states_given) and states_given[0].dim() == 3
        self.seq_length = states if in_rows or part or "input_ids" not in inputs else inputs["input_ids"].shape[1]
        if self.subject.kind == "vision":  # upstream masks some patches, where the forward takes a mask
            self.num_masks, self.mask_length = 1, patches(config)
            self.image_size, self.patch_size = sizes(config)  # it counts them itself, where this takes their noise
        if weights:
            self.num_hidden_layers = len(weights)  # of other kinds of layers, and of stages, upstream counts none
        if decoder_states:
            self.encoder_seq_length, self.decoder_seq_length = states, decoder_states
        elif weights:  # where attention is local, the keys are no tokens
            self.key_length = weights[0].shape[-1]
            if pieces := chunks(weights, states):  # upstream's names of how many, and of how many positions of each
                self.encoder_seq_length, self.chunk_length = pieces

    def get_config(self) -> PreTrainedConfig:
        """The configuration of the instance, which names the head."""
        config = without_long_masks(self.subject.config(), lengths(self.subject)[0])
        return with_head(without_dropped_layers(config), self.subject.model_type)

    def prepare_config_and_inputs_for_common(self) -> tuple[PreTrainedConfig, dict[str, Any]]:
        return self.get_config(), self._inputs()

    def _inputs(self) -> dict[str, Any]:
        inputs = _inputs(self.subject)
        return {name: value.repeat(self._times(), *[1] * (value.dim() - 1)) for name, value in inputs.items()}

    def _times(self) -> int:
        return TIMES if masks_inputs(self.subject) else 1


def patches(config: PreTrainedConfig) -> int:
    """Into how many patches an image is cut, or a video, whose patches are of several frames."""
    image, patch = sizes(config)
    frames, together = getattr(config, "num_frames", 1), getattr(config, "tubelet_size", 1)
    return (image // patch) ** 2 * (frames // together if isinstance(together, int) else 1)


def sizes(config: PreTrainedConfig) -> tuple[int, int]:
    """Of an image, and of its patches."""
    given = (getattr(config, name, 1) for name in ("image_size", "patch_size"))
    image, patch = (size if isinstance(size, int) else size[0] for size in given)
    return image, patch


def first_layer(config: PreTrainedConfig) -> PreTrainedConfig:
    """The configuration of the first layer where layers differ: upstream lets sizes that may differ be read there only."""
    return config.per_layer_config[0] if config.is_heterogeneous else config


def heads_of(config: PreTrainedConfig, weights: Sequence[torch.Tensor]) -> int:
    """Of the first attention: a configuration may name none, one number for each stage, or some that are not used (ConvBERT)."""
    if weights and weights[0].dim() >= 3:
        return weights[0].shape[-4] if weights[0].dim() == 5 else weights[0].shape[-3]
    named = getattr(config, "num_attention_heads", 0)
    return named if isinstance(named, int) else 0


def chunks(weights: Sequence[torch.Tensor], states: int) -> tuple[int, ...]:
    """Into how many chunks of how many positions an attention over chunks cuts all states; () where it does not."""
    pieces = tuple(weights[0].shape[-3:-1]) if weights[0].dim() == 5 else ()
    return pieces if pieces and pieces[0] * pieces[1] == states else ()


def without_dropped_layers(config: PreTrainedConfig) -> PreTrainedConfig:
    """`config`, changed to leave out no layer at random in training: of what is left out, upstream's tests would read the outputs."""
    for part in configs_of(config):
        for name in vars(part):
            if name.endswith("layerdrop"):
                setattr(part, name, 0.0)
    return config


def without_long_masks(config: PreTrainedConfig, frames: int) -> PreTrainedConfig:
    """`config`, changed to mask nothing in training where it masks spans that are longer than a sound of so many frames."""
    for part in configs_of(config):
        if getattr(part, "mask_time_length", 0) > frames:
            part.mask_time_prob = 0.0
    return config


def with_head(config: PreTrainedConfig, model_type: str) -> PreTrainedConfig:
    """`config`, changed to name a head if the AdapterModel of its type can have any. (The instance may have the
    configuration of a part.)"""
    head_type = head_of(model_type)
    if head_type:
        config.prediction_heads = {HEAD: dict(_head_config(model_type, head_type))}
    return config


def head_of(model_type: str) -> str:
    """The type of the head; "" if the class has none."""
    has = heads.head_types(model_type)
    return next((name for name in (*PREFERRED, *has) if name in has and not heads.HEADS[name].choices), "")


def targets(model_type: str, tokens: int) -> dict[str, torch.Tensor]:
    """What the head computes a loss from."""
    head_type = head_of(model_type)
    if not head_type:
        return {}
    case = heads.case_of(model_type, head_type)
    masks = case.masks(heads.base_subject(model_type).config()) if case.masks else {}
    return {**case.labels(tokens), **masks}


@functools.cache
def _head_config(model_type: str, head_type: str) -> dict[str, Any]:
    model = heads.adapter_model(model_type)
    case = heads.case_of(model_type, head_type)
    getattr(model, case.add)(HEAD, **case.options)
    return dict(model.config.prediction_heads[HEAD])


@functools.cache
def outputs_of(subject: Subject) -> Any:
    """What upstream's base model gives, with all that can be asked for, or the part of it that runs alone where the head does.
    To be read only. (A backbone of timm's refuses attention weights, and may refuse states, too.)"""
    model, inputs = _read(subject)
    asked = [{"output_attentions": True, "output_hidden_states": True}, {"output_hidden_states": True}, {}]
    for flags in asked:
        with torch.no_grad(), contextlib.suppress(ValueError) if flags else contextlib.nullcontext():
            outputs = model(**inputs, **flags, return_dict=True)
            return outputs if isinstance(outputs, Mapping) else {}  # a tower may give a tensor alone
    raise AssertionError("the last of what is asked returns or raises")


def _read(subject: Subject) -> tuple[PreTrainedModel, dict[str, Any]]:
    """What of upstream's model runs under the head, and its inputs."""
    model, inputs = subject.upstream(), _inputs(subject)
    path = part_of_head(subject.model_type)
    if not path:
        return model, inputs
    part = model.get_submodule(path)
    assert isinstance(part, PreTrainedModel)
    return part, {name: inputs[name] for name in inspect.signature(part.forward).parameters if name in inputs}


@functools.cache
def needed(subject: Subject) -> tuple[str, ...]:
    """The inputs without which what runs does not, beside the first and those that upstream's tests bring along."""
    model, inputs = _read(subject)
    brought = {*main_inputs(model_class(subject.architecture)), "attention_mask", "decoder_input_ids"}
    others = [name for name in inputs if name not in brought]
    first = {name: value for name, value in inputs.items() if name in brought}
    if _runs(model, first):
        return ()
    for name in list(others):
        fewer = {key: value for key, value in inputs.items() if key in first or (key in others and key != name)}
        if _runs(model, fewer):
            others.remove(name)
    return tuple(others)


def masks_inputs(subject: Subject) -> bool:
    """Nothing runs without a mask over another input."""
    others = [_inputs(subject)[name] for name in needed(subject)]
    return any(not value.is_floating_point() and int(value.max()) <= 1 for value in others)


def main_inputs(cls: type[PreTrainedModel]) -> tuple[str, ...]:
    """Upstream names one, or a few of several kinds."""
    named: str | list[str] = cls.main_input_name
    return (named,) if isinstance(named, str) else tuple(named)


def _runs(model: PreTrainedModel, inputs: dict[str, Any]) -> bool:
    try:
        run(model, inputs)
    except Exception:  # whatever upstream raises
        return False
    return True


def part_of_head(model_type: str) -> str:
    """Path of what runs alone under the head, as one tower of two; "" = the base model runs, or there is no head."""
    return heads.adapter_model_class(model_type).head_part if head_of(model_type) else ""


def lengths(subject: Subject) -> tuple[int, int]:
    """How many states per row the encoder has, or the only stack; and the decoder, 0 where there is none."""
    states, decoder = hidden_states_of(subject), outputs_of(subject).get("decoder_hidden_states")
    return states[0].shape[-2] if states else 0, decoder[0].shape[-2] if decoder else 0


def hidden_states_of(subject: Subject) -> tuple[torch.Tensor, ...]:
    """Those of the encoder, or of the only stack."""
    return _tensors(subject, "hidden_states")


def gives_attentions(subject: Subject) -> bool:
    """Upstream's model hands its attention weights out."""
    return bool(attentions_of(subject))


def attentions_of(subject: Subject) -> tuple[torch.Tensor, ...]:
    """The attention weights of the encoder, or of the only stack."""
    return _tensors(subject, "attentions")


def _tensors(subject: Subject, name: str) -> tuple[torch.Tensor, ...]:
    """What is given under a name: that of the encoder comes first where the configuration says that there is one, as in upstream's
    tests (MaskFormer gives some such, and is none). These ask for one tensor per layer: what is nested by stages (PVT v2) or by
    towers (BridgeTower) they do not read."""
    names = (f"encoder_{name}", name) if subject.config().is_encoder_decoder else (name, f"encoder_{name}")
    given = next((found for one in names if (found := outputs_of(subject).get(one))), ())
    return given if all(isinstance(entry, torch.Tensor) for entry in given) else ()


@functools.cache
def trains_wholly(subject: Subject) -> bool:
    """Every parameter of upstream's model gets a gradient from its states. (A pooler gets none, nor a tower that no head reads.)"""
    model = subject.upstream()
    if part_of_head(subject.model_type):
        return False
    states = model(**_inputs(subject), return_dict=True)[0]
    if not isinstance(states, torch.Tensor) or not states.requires_grad:  # codes are chosen, and have no gradient
        return False
    states.sum().backward()
    return all(parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad)


def _inputs(subject: Subject) -> dict[str, Any]:
    """Where upstream's model draws noise in each call, to mask patches by, and takes it, it is given."""
    inputs = subject.padded_inputs("right" if subject.text else "none", one_per_token=True)
    if _draws_noise(subject):
        inputs["noise"] = torch.rand(BATCH, patches(subject.config()), generator=torch.Generator().manual_seed(8))
    return inputs


@functools.cache
def _draws_noise(subject: Subject) -> bool:
    """Upstream's forward has an argument for noise, and without it two calls give different things."""
    if "noise" not in inspect.signature(model_class(subject.architecture).forward).parameters:
        return False
    one, other = (run(subject.upstream(), subject.padded_inputs(), seed=seed) for seed in (1, 2))
    return not all(torch.equal(one[name], other[name]) for name in one)
