"""A checkpoint of a class with a static head, loaded into flexible heads, computes what upstream's own class loads from it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from adapter_runtime.contract.registry import registered
from conformance.auto_classes import auto_classes
from conformance.heads import head_types, masked_patches, realigned
from conformance.instances.fields import config_class
from conformance.outputs import assert_bitwise, assert_equal_within, flatten, main_outputs, run, seeded
from conformance.subjects import (
    BATCH,
    Attention,
    Subject,
    attentions,
    head_subjects,
    shaped_for,
    with_labels,
)

_ONE_CLASS = frozenset({"image_classification", "video_classification", "audio_classification", "xvector"})
_PREDICTED = ("logits", "embeddings", "reconstruction")  # ends of the names of what heads compute


def converting_subjects(model_type: str) -> tuple[Subject, ...]:
    """The classes of a model type for whose head the registry has a flexible one, each under its own name.

    Not where the adapter model has no flexible heads: the class may be what another type has for a base model (that of PP-Chart2Table
    ends in the head of GOT-OCR2).
    """
    import adapter_models  # noqa: F401  registers

    if not head_types(model_type):
        return ()
    subjects = {subject.architecture: subject for subject in head_subjects(model_type)}
    first = next(iter(subjects.values()), None)
    if first is None:
        return ()
    others = [cls.__name__ for cls in auto_classes(model_type) if cls.config_class is config_class(model_type)]
    return tuple(
        replace(subjects.get(name, first), architecture=name, label=name)
        for name in dict.fromkeys([*subjects, *others])
        if name in registered().static_heads
    )


def conversion_keeps_outputs(static: Subject) -> None:
    """Logits and loss of the flexible head are those of the static one; eager and sdpa, padded and not."""
    for attention in attentions(static):
        upstream, flexible = _both(static, attention)
        for padding in ("none", "left", "right") if static.text else ("none",):
            inputs = shaped_for(static, static.padded_inputs(padding))
            inputs = with_labels(static, inputs) or _with_targets(static, inputs)
            _assert_same(upstream, flexible, inputs, f"{attention}, padding {padding}")
    head_type = _head_type(static)
    if head_type == "seq2seq_lm":
        _labels_are_what_the_decoder_reads(static)
    if head_type == "causal_lm":
        _texts_go_on_alike(static)


def _head_type(static: Subject) -> str:
    return registered().static_heads[static.architecture]["config"]["head_type"]


def _with_targets(static: Subject, inputs: dict[str, Any]) -> dict[str, Any]:
    """`inputs`, of images or sounds, with what a head learns from, where that is a class for each of them."""
    if _head_type(static) == "masked_image_modeling":
        return {**inputs, **masked_patches(static.config())}
    rows = {len(value) for value in inputs.values() if isinstance(value, Tensor) and value.dim()}
    if _head_type(static) not in _ONE_CLASS or rows != {BATCH}:
        return inputs
    return {**inputs, "labels": torch.arange(BATCH) % 2}


def _texts_go_on_alike(static: Subject) -> None:
    """A model that holds others prepares the steps of its generation itself: greedily, both write the same text."""
    upstream, flexible = _both(static)
    if not (flexible.head_config or flexible.borrowed_methods):
        return
    inputs = static.padded_inputs("left" if static.text else "none")
    options = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False}
    try:
        with torch.no_grad(), seeded():
            expected = upstream.generate(**inputs, **options)
    except (IndexError, RuntimeError, TypeError, ValueError, AttributeError):
        return  # upstream's own cannot go on from these inputs
    with torch.no_grad(), seeded():
        written = flexible.generate(**inputs, **options)
    assert_bitwise({"text": written}, {"text": expected}, "three more tokens")


def _labels_are_what_the_decoder_reads(static: Subject) -> None:
    """Without inputs of the decoder, labels of any length give upstream's loss."""
    upstream, flexible = _both(static)
    for model in (upstream, flexible):
        if getattr(model.config, "decoder_start_token_id", None) is None:  # in T5's files, not in its config class
            model.config.decoder_start_token_id = 0
    inputs = with_labels(static, static.padded_inputs("none"))
    assert inputs is not None, "no labels are known for a class that predicts tokens"
    given = {name: value for name, value in inputs.items() if not name.startswith("decoder_")}
    for length in (given["labels"].shape[1], given["labels"].shape[1] - 2):
        call = {**given, "labels": given["labels"][:, :length].contiguous()}
        _assert_same(upstream, flexible, call, f"{length} labels, no inputs of the decoder")


def _assert_same(upstream: PreTrainedModel, flexible: PreTrainedModel, inputs: dict[str, Any], what: str) -> None:
    theirs, ours = (_computed(model, inputs) for model in (upstream, flexible))
    logits = {name for name in theirs if name.endswith(_PREDICTED)}
    assert logits, f"{what}: upstream's class gives no logits; the check would be empty"
    # What upstream gives beside them (the loss of each of its tasks) a flexible head need not give.
    wanted = logits | ({*theirs} & {*ours, "loss"})
    expected = {name: value for name, value in theirs.items() if name in wanted}
    actual = {name: value for name, value in ours.items() if name in wanted}
    assert_equal_within(actual, expected, what, atol=5e-6, rtol=1e-5)


def _computed(model: PreTrainedModel, inputs: dict[str, Any]) -> dict[str, Tensor]:
    with torch.no_grad(), seeded():
        outputs = model(**inputs, return_dict=True)
    loss = flatten(outputs).get("loss")
    return main_outputs(outputs) | ({} if loss is None else {"loss": loss})


def converted_model_is_saved(static: Subject) -> None:
    """What was converted saves and loads as a model with flexible heads."""
    model = converted(static)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        again = _flexible(folder)
    inputs = shaped_for(static, static.padded_inputs())
    assert_bitwise(run(again, inputs), run(model, inputs), "outputs")


def conversion_goes_back(static: Subject) -> None:
    """Out of flexible heads again it is the same class with the same weights, which upstream saves and loads."""
    model = converted(static)
    again = model.to_static()
    upstream = static.upstream()
    if type(again) is not type(upstream):
        raise AssertionError(f"{type(upstream).__name__} came back as {type(again).__name__}")
    assert_bitwise(dict(again.state_dict()), dict(upstream.state_dict()), "weights")
    with tempfile.TemporaryDirectory() as folder:
        again.save_pretrained(folder)
        loaded = _loaded(type(upstream), folder)
    inputs = shaped_for(static, static.padded_inputs())
    assert_bitwise(run(loaded, inputs), run(upstream, inputs), "outputs")


def converted(static: Subject) -> PreTrainedModel:
    """The checkpoint of a static class, in flexible heads."""
    with _checkpoint(static) as folder:
        return _flexible(folder)


def _both(static: Subject, attention: Attention = "eager") -> tuple[PreTrainedModel, PreTrainedModel]:
    """What upstream's own class loads from its checkpoint (a row for padding becomes zeros), and what is loaded into flexible heads."""
    with _checkpoint(static) as folder:
        return _loaded(type(static.upstream()), folder, attention), _flexible(folder, attention)


@contextmanager
def _checkpoint(static: Subject) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        static.upstream().save_pretrained(folder)
        yield folder


def _flexible(folder: str, attention: Attention = "eager") -> PreTrainedModel:
    from adapter_models import AutoAdapterModel

    return _loaded(AutoAdapterModel, folder, attention)


def _loaded(cls: Any, folder: str, attention: Attention = "eager") -> PreTrainedModel:
    return realigned(cls.from_pretrained(folder, attn_implementation=attention)).eval()
