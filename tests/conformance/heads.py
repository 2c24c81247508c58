"""Checks of the classes with flexible heads, written once for all models.

Letters of shapes: B batch, L tokens, N labels, V vocabulary.
"""

from __future__ import annotations

import functools
import pickle
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedConfig, PreTrainedModel

from adapter_runtime.contract.registry import registered, type_of_adapter_model
from adapter_runtime.heads.kinds.masked_image import MASK
from conformance.adapted import FIRST, adapter_parameters, randomise_adapter, refused, state, upstream_class
from conformance.methods import METHODS, method
from conformance.outputs import assert_bitwise, assert_differs, assert_equal_within, flags, main_outputs, run
from conformance.sites import quiet_names
from conformance.subjects import (
    BATCH,
    LENGTH,
    Subject,
    base_architecture,
    head_subjects,
    method_subjects,
    model_class,
    vocabulary,
)
from conformance.tiny import VOCAB_SIZE, randomise

HEAD = "head_a"
LABELS = 3
PREFERRED = method("lora")
OF_TOKENS = ("masked_lm", "causal_lm", "seq2seq_lm")


@dataclass(frozen=True)
class HeadCase:
    """How one type of head is added, fed and read."""

    add: str  # method of the model
    options: Mapping[str, Any]
    labels: Callable[[int], dict[str, Tensor]]  # from the number of tokens
    shape: Callable[[int], tuple[int, ...]]  # of its logits, from the number of tokens
    choices: int = 0  # inputs have a second dimension of this size
    pools: bool = False  # it reads one token of each sequence
    inputs: Callable[[int], dict[str, Tensor]] = lambda _: {}  # beside those of the base model
    # Where those, and the shape, follow from the config of the model instead: of images, whose patches may be merged.
    masks: Callable[[PreTrainedConfig], dict[str, Tensor]] | None = None


def _ids(*shape: int, high: int = LABELS) -> Tensor:
    return torch.randint(0, high, shape, generator=torch.Generator().manual_seed(6))


def _of_tokens(head_type: str, size: int) -> HeadCase:
    return HeadCase(
        f"add_{head_type}_head",
        {},
        lambda length: {"labels": _ids(BATCH, length, high=size)},
        lambda length: (BATCH, length, size),
    )


HEADS: Mapping[str, HeadCase] = {
    "classification": HeadCase(
        "add_classification_head",
        {"num_labels": LABELS},
        lambda _: {"labels": _ids(BATCH)},
        lambda _: (BATCH, LABELS),
        pools=True,
    ),
    "multilabel_classification": HeadCase(
        "add_classification_head",
        {"num_labels": LABELS, "multilabel": True},
        lambda _: {"labels": _ids(BATCH, LABELS, high=2).float()},
        lambda _: (BATCH, LABELS),
        pools=True,
    ),
    "image_classification": HeadCase(
        "add_image_classification_head",
        {"num_labels": LABELS},
        lambda _: {"labels": _ids(BATCH)},
        lambda _: (BATCH, LABELS),
    ),
    "masked_image_modeling": HeadCase(
        "add_masked_image_modeling_head", {}, lambda _: {}, lambda _: (), masks=lambda config: masked_patches(config)
    ),
    **{
        head_type: HeadCase(
            f"add_{head_type}_head",
            {"num_labels": LABELS},
            lambda _: {"labels": _ids(BATCH)},
            lambda _: (BATCH, LABELS),
        )
        for head_type in ("video_classification", "audio_classification")
    },
    "audio_frame_classification": HeadCase(
        "add_audio_frame_classification_head",
        {"num_labels": LABELS},
        lambda length: {"labels": functional.one_hot(_ids(BATCH, length), LABELS)},
        lambda length: (BATCH, length, LABELS),
    ),
    "ctc": HeadCase(
        "add_ctc_head",
        {"vocab_size": VOCAB_SIZE},
        lambda length: {"labels": _ids(BATCH, max(1, length // 3)) + 5},
        lambda length: (BATCH, length, VOCAB_SIZE),
    ),
    "xvector": HeadCase(
        "add_xvector_head",
        {
            "num_labels": LABELS,
            "tdnn_dim": (8, 6),
            "tdnn_kernel": (1, 1),
            "tdnn_dilation": (1, 2),
            "xvector_output_dim": 5,
        },
        lambda _: {"labels": _ids(BATCH)},
        lambda _: (BATCH, 5),
    ),
    "tagging": HeadCase(
        "add_tagging_head",
        {"num_labels": LABELS},
        lambda length: {"labels": _ids(BATCH, length)},
        lambda length: (BATCH, length, LABELS),
    ),
    "question_answering": HeadCase(
        "add_qa_head",
        {},
        lambda _: {"start_positions": _ids(BATCH), "end_positions": _ids(BATCH) + 2},
        lambda length: (BATCH, length),
    ),
    "multiple_choice": HeadCase(
        "add_multiple_choice_head",
        {"num_choices": 2},
        lambda _: {"labels": _ids(BATCH, high=2)},
        lambda _: (BATCH, 2),
        choices=2,
    ),
    "dependency_parsing": HeadCase(
        "add_dependency_parsing_head",
        {"num_labels": LABELS},
        lambda length: {"labels_arcs": _ids(BATCH, length - 2), "labels_rels": _ids(BATCH, length - 2)},
        lambda length: (BATCH, length, length + 1),
        inputs=lambda length: {"word_starts": torch.arange(1, length).repeat(BATCH, 1)},
    ),
    **{head_type: _of_tokens(head_type, VOCAB_SIZE) for head_type in OF_TOKENS},
}


def case_of(model_type: str, head_type: str) -> HeadCase:
    """How a head is fed and read on the instance of a model type: one that scores tokens, by how many these are."""
    if head_type not in OF_TOKENS:
        return HEADS[head_type]
    return _of_tokens(head_type, vocabulary(base_subject(model_type).config()))


def head_types(model_type: str) -> tuple[str, ...]:
    """The heads that the generated class declares; none where it is a class without heads."""
    return tuple(getattr(adapter_model_class(model_type), "head_types", ()))


@functools.cache
def held_subject(model_type: str) -> Subject:
    """The subject of upstream's class that the AdapterModel holds, or of one around that: upstream's table may name several, and the
    other one first (TIPSv2's DPT)."""
    subject = base_subject(model_type)
    with torch.device("meta"):
        tested = adapter_model_class(model_type)(subject.config())
        named = model_class(subject.architecture)(subject.config())
    held = getattr(tested, tested.base_model_prefix)
    if isinstance(held, (type(named), type(named.base_model))):
        return subject
    return replace(subject, architecture=upstream_class(type(held)).__name__)


def headless_is_base(model_type: str) -> None:
    """Without heads, the outputs are bitwise those of upstream's base model."""
    subject = held_subject(model_type)
    upstream = subject.upstream()
    model = adapter_model(model_type)
    base = getattr(model, model.base_model_prefix)
    if not isinstance(base, type(upstream)):
        upstream = upstream.base_model  # upstream's table names a class around one alone (PP-Chart2Table)
    base.load_state_dict(upstream.state_dict())
    inputs = subject.padded_inputs("left" if subject.text else "none")
    _skip_if_random(upstream, inputs)
    assert_bitwise(run(model, inputs), run(upstream, inputs), "outputs")


def head_works(model_type: str, head_type: str) -> None:
    """Logits have their shape, the loss reaches head and adapter, and the adapter matters for both.

    A head that is tied to the embeddings has no parameters of its own: they are the base model's, and so are not trained.
    """
    model, inputs, case = with_head(model_type, head_type)
    length = positions_of(model, inputs, head_type)
    logits = _logits(run(model, inputs))
    expected = tuple(inputs["pixel_values"].shape) if case.masks else case.shape(length)
    if logits.shape != expected and (scored := _scored_by_upstream(model_type, head_type, inputs)) is not None:
        expected = case.shape(scored)
    if logits.shape != expected:
        raise AssertionError(f"logits are {tuple(logits.shape)}, not {expected}")
    model.set_active_adapters(None)
    model.active_head = HEAD
    assert_differs({"logits": logits}, {"logits": _logits(run(model, inputs))}, "the adapter")
    model.train_adapter(FIRST)
    model.active_head = HEAD
    outputs = model.eval()(**inputs, **case.labels(length), **flags(model))
    outputs["loss"].backward()
    # Of what a head reads; other parts do not run, or not for it.
    read = f".{model.head_part}." if model.head_part else ".encoder." if head_type in model.encoder_heads else ""
    adapters = {name: parameter for name, parameter in adapter_parameters(model, FIRST).items() if read in name}
    trained = {**adapters, **_head_parameters(model)}
    dead = [name for name, parameter in trained.items() if parameter.requires_grad and parameter.grad is None]
    dead = sorted(set(dead) - _quiet_names(model_type, model)) if dead else []
    adapters = {name: parameter for name, parameter in adapters.items() if parameter.grad is not None}
    if dead or not adapters or not _head_parameters(model):
        raise AssertionError(f"the loss does not reach {dead or 'any head'}")


def heads_run_together(model_type: str) -> None:
    """All heads of a model in one call give what they give one by one, and the sum of the losses."""
    model = adapter_model(model_type)
    add_random_adapter(model)
    subject = base_subject(model_type)
    inputs = subject.padded_inputs("right" if subject.text else "none", one_per_token=True)
    known = {name: case_of(model_type, name) for name in head_types(model_type)}
    cases = {name: case for name, case in known.items() if not case.choices and not case.masks}
    lengths = {name: positions_of(model, inputs, name) for name in cases}
    targets: dict[str, dict[str, Tensor]] = {}
    for seed, (name, case) in enumerate(cases.items(), start=2):
        getattr(model, case.add)(name, **case.options)
        randomise(model.heads[name], seed=seed)
        inputs.update(case.inputs(lengths[name]))
        for argument, labels in case.labels(lengths[name]).items():
            targets.setdefault(argument, {})[name] = labels
    model.tie_weights()
    separate = [run(model, {**inputs, **case.labels(lengths[name]), "head": name}) for name, case in cases.items()]
    together = run(model, {**inputs, **targets, "head": list(cases)})
    for index, (name, alone) in enumerate(zip(cases, separate, strict=True)):
        prefix = f"head_outputs.{index}." if len(cases) > 1 else ""
        expected = main_outputs(alone)
        assert_bitwise({key: together[prefix + key] for key in expected}, expected, name)
    total = torch.stack([alone["loss"] for alone in separate]).sum()
    assert_equal_within({"loss": together["loss"]}, {"loss": total}, "the sum", atol=1e-5, rtol=1e-5)


def model_is_saved(model_type: str, head_type: str) -> None:
    """`save_pretrained` and `from_pretrained` keep base, adapter and head bitwise."""
    from adapter_models import AutoAdapterModel

    model, inputs, _ = with_head(model_type, head_type)
    for table in emptied_tables(base_subject(model_type)):
        empty_padding(getattr(model, model.base_model_prefix).get_submodule(table))
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        again = realigned(AutoAdapterModel.from_pretrained(folder, attn_implementation="eager")).eval()
    assert_bitwise(state(again), state(model), "weights")
    again.set_active_adapters(FIRST)
    again.active_head = HEAD
    assert_bitwise(run(again, inputs), run(model, inputs), "outputs")


@functools.cache
def emptied_tables(subject: Subject) -> tuple[str, ...]:
    """Paths of tables of embeddings whose row of padding upstream's own class sets to zero whenever it loads a file (Funnel, Youtu)."""
    upstream = subject.upstream().base_model
    found = [name for name, module in upstream.named_modules() if getattr(module, "padding_idx", None) is not None]
    tables = {name: module for name in found if isinstance(module := upstream.get_submodule(name), nn.Embedding)}
    if not tables:
        return ()
    for table in tables.values():
        table.weight.data[table.padding_idx] = 1.0
    with tempfile.TemporaryDirectory() as folder:
        upstream.save_pretrained(folder)
        again = type(upstream).from_pretrained(folder)
    return tuple(
        name for name, table in tables.items() if not again.get_submodule(name).weight[table.padding_idx].any()
    )


def empty_padding(table: nn.Module) -> None:
    assert isinstance(table, nn.Embedding)
    table.weight.data[table.padding_idx] = 0.0


def _skip_if_random(model: PreTrainedModel, inputs: dict[str, Any]) -> None:
    """Skip where upstream draws at random in each call (which parts of an image to mask): then nothing can be compared."""
    try:
        assert_bitwise(run(model, inputs), run(model, inputs), "a second call")
    except AssertionError:
        pytest.skip("upstream's model draws at random in each call")


def headless_is_saved(model_type: str) -> None:
    """Without a head too, `save_pretrained` and `from_pretrained` keep base and adapter bitwise, and so do the adapter's own files."""
    from adapter_models import AutoAdapterModel

    subject = base_subject(model_type)
    model = adapter_model(model_type).eval()
    add_random_adapter(model)
    inputs = subject.padded_inputs("right" if subject.text else "none")
    _skip_if_random(model, inputs)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        again = realigned(AutoAdapterModel.from_pretrained(folder, attn_implementation="eager")).eval()
    again.set_active_adapters(FIRST)
    assert_bitwise(run(again, inputs), run(model, inputs), "outputs")
    with tempfile.TemporaryDirectory() as folder:
        model.save_adapter(folder, FIRST)
        other = adapter_model(model_type).eval()
        other.load_state_dict(_base_state(model), strict=True)
        other.load_adapter(folder, set_active=True)
    assert_bitwise(run(other, inputs), run(model, inputs), "outputs of the loaded adapter")


def head_is_saved_with_adapter(model_type: str, head_type: str) -> None:
    """`save_adapter` writes the head of the adapter's name beside it, and `load_adapter` brings both back."""
    model, inputs, _ = with_head(model_type, head_type, name=FIRST)
    with tempfile.TemporaryDirectory() as folder:
        model.save_adapter(folder, FIRST, with_head=True)
        other = adapter_model(model_type)
        other.load_state_dict(_base_state(model), strict=True)
        other.load_adapter(folder, set_active=True)
    other.active_head = FIRST
    assert_bitwise(run(other, inputs), run(model, inputs), "outputs")


def embeddings_are_resized(model_type: str) -> None:
    """New tokens are added at the end: known ones keep their outputs, with the adapter active."""
    subject = base_subject(model_type)
    if not subject.text:
        pytest.skip("no token embeddings")
    inputs = subject.padded_inputs("right")
    of_new = {**inputs, "input_ids": inputs["input_ids"] * 0 + VOCAB_SIZE + 6}
    upstream = subject.upstream()
    try:
        upstream.resize_token_embeddings(VOCAB_SIZE + 7)
        run(upstream, of_new)
    except (
        Exception
    ) as error:  # whatever upstream raises: it names no table (VITS), or has another one too (DeepSeek-V4)
        why = f"{type(error).__name__}: {error}"
        pytest.skip(f"upstream's model cannot be resized, or cannot read new tokens then: {why}")
    model = adapter_model(model_type)
    add_random_adapter(model)
    before = run(model, inputs)
    model.resize_token_embeddings(VOCAB_SIZE + 7)
    assert_bitwise(run(model, inputs), before, "known tokens")
    if model.config.get_text_config().vocab_size != VOCAB_SIZE + 7:
        raise AssertionError("the config does not have the new size")
    run(model, of_new)


def model_is_pickled(model_type: str) -> None:
    """A model with an active adapter survives `pickle`, as multi-process training needs, where upstream's own does."""
    subject = base_subject(model_type)
    try:
        pickle.dumps(subject.upstream())
    except (RuntimeError, AttributeError) as error:  # of parametrised modules, of hooks within functions
        pytest.skip(f"upstream's model cannot be pickled: {error}")
    model = adapter_model(model_type)
    add_random_adapter(model)
    inputs = subject.padded_inputs("left" if subject.text else "none")
    again = pickle.loads(pickle.dumps(model))  # before a call, in which upstream installs hooks that cannot be pickled
    _skip_if_random(model, inputs)
    assert_bitwise(run(again, inputs), run(model, inputs), "outputs")


def realigned(model: PreTrainedModel) -> PreTrainedModel:
    """`model` with each weight in a memory of its own.

    Loaded weights lie in the map of their file, at any multiple of 4 bytes. A product reads such a matrix in other steps than
    one that was allocated, so its last bit may differ.
    """
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    return model


def with_head(model_type: str, head_type: str, name: str = HEAD) -> tuple[PreTrainedModel, dict[str, Any], HeadCase]:
    """A model with a random head and an active random adapter, and inputs."""
    case = case_of(model_type, head_type)
    subject = base_subject(model_type)
    model = adapter_model(model_type)
    add_random_adapter(model)
    getattr(model, case.add)(name, **case.options)
    randomise(model.heads[name], seed=2)
    model.tie_weights()
    model.active_head = name
    inputs = subject.padded_inputs("right" if subject.text else "none", one_per_token=case.pools)
    if case.choices:
        inputs = {key: _of_choices(value, case.choices) for key, value in inputs.items()}
    masks = case.masks(model.config) if case.masks else {}
    return model.eval(), {**inputs, **case.inputs(tokens_of(inputs)), **masks}, case


def _of_choices(value: Tensor, choices: int) -> Tensor:
    """An input of multiple choice: each row as often as there are choices, (B, choices, L).

    What is no row but pieces of all rows, one behind the other's (patches of images), has no such axis: it stays in their order.
    """
    if value.shape[0] == BATCH:
        return value[:, None].expand(-1, choices, *(-1,) * (value.dim() - 1)).clone()
    return value.unflatten(0, (BATCH, -1)).repeat_interleave(choices, dim=0).flatten(0, 1)


def masked_patches(config: PreTrainedConfig) -> dict[str, Tensor]:
    """Which patches of images are masked, [B, patches]: every other one."""
    patches = (config.image_size // config.patch_size) ** 2
    return {MASK: torch.arange(patches).expand(BATCH, -1) % 2 == 1}


def add_random_adapter(model: PreTrainedModel) -> None:
    """The first method that the model has: heads must not care which."""
    # The type is the class's: the config may be that of a part (MusicGen).
    subject = base_subject(type_of_adapter_model(type(model)) or model.config.model_type)
    method = next(method for method in (PREFERRED, *METHODS) if not refused(subject, method))
    model.add_adapter(FIRST, config=method.config)
    randomise_adapter(model, FIRST)
    model.set_active_adapters(FIRST)


def adapter_model(model_type: str) -> PreTrainedModel:
    """A fresh model with flexible heads and random weights."""
    from adapter_models import AutoAdapterModel

    model = AutoAdapterModel.from_config(base_subject(model_type).config(), attn_implementation="eager")
    randomise(model)
    return model.eval()


def base_subject(model_type: str) -> Subject:
    name = base_architecture(model_type)
    return next(
        subject
        for subject in (*head_subjects(model_type), *method_subjects(model_type))
        if subject.architecture == name
    )


def tokens_of(inputs: Mapping[str, Tensor]) -> int:
    """L of the outputs; 0 where there are no tokens."""
    tokens = inputs.get("decoder_input_ids", inputs.get("input_ids"))
    return LENGTH if tokens is None else tokens.shape[-1]


def positions_of(model: PreTrainedModel, inputs: Mapping[str, Tensor], head_type: str) -> int:
    """L of what a head reads, also where these are frames of a sound, which only the base model counts."""
    if head_type in model.encoder_heads and "input_ids" in inputs:
        return inputs["input_ids"].shape[1]
    if {"decoder_input_ids", "input_ids"} & inputs.keys():
        return tokens_of(inputs)
    with torch.no_grad():
        own = {name: value for name, value in inputs.items() if name != MASK}  # its token is a head's
        hidden_states = model.adapters_base(**own, **flags(model)).last_hidden_state
    return hidden_states.shape[1] if hidden_states.dim() == 3 else LENGTH


def _scored_by_upstream(model_type: str, head_type: str, inputs: Mapping[str, Tensor]) -> int | None:
    """Of how many positions upstream's class gives logits that the head is made from: an image may stand beside the text (GIT, LayoutLMv3).

    None where it has no such class.
    """
    for subject in head_subjects(model_type):
        if static_head_type(subject) == head_type:
            return _logits(run(subject.upstream(), dict(inputs))).shape[1]
    return None


def static_head_type(static: Subject) -> str:
    """The type of flexible head that the head of an upstream class turns into; "" = none."""
    known = registered().static_heads.get(static.architecture)
    return known["config"]["head_type"] if known is not None else ""


def _logits(outputs: Mapping[str, Tensor]) -> Tensor:
    return next(outputs[name] for name in ("logits", "start_logits", "arc_preds", "reconstruction") if name in outputs)


def _head_parameters(model: PreTrainedModel) -> dict[str, torch.nn.Parameter]:
    named = model.named_parameters(remove_duplicate=False)  # also those that are tied to the embeddings
    return {name: parameter for name, parameter in named if f"heads.{HEAD}." in name}


def _quiet_names(model_type: str, model: PreTrainedModel) -> set[str]:
    """Parameters of the adapter where upstream's own base model has none that get a gradient: LLaVA reads an earlier layer of its tower."""
    prefix = model.base_model_prefix
    quiet = quiet_names(base_subject(model_type), getattr(model, prefix), FIRST)
    return {f"{prefix}.{name}" for name in quiet}


def _base_state(model: PreTrainedModel) -> dict[str, Tensor]:
    return {key: value for key, value in state(model).items() if f".{FIRST}." not in key}


def adapter_model_class(model_type: str) -> type[PreTrainedModel]:
    import adapter_models  # noqa: F401  registers
    from adapter_runtime.contract.registry import load_class

    return load_class(registered().adapter_models[model_type])
