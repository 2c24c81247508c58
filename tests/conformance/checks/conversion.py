"""A checkpoint of a class with a static head, loaded into flexible heads, computes what upstream's own class loads from it."""

from __future__ import annotations

import itertools
import json
import re
import tempfile
from collections.abc import Iterator, Set
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from adapter_runtime.contract.registry import registered
from conformance.auto_classes import auto_classes
from conformance.heads import head_types, masked_patches, realigned, static_head_type
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
    """Logits, loss and dropout of the flexible head are those of the static one; eager and sdpa, padded and not."""
    for attention in attentions(static):
        upstream, flexible = _both(static, attention)
        for padding in ("none", "left", "right") if static.text else ("none",):
            inputs = shaped_for(static, static.padded_inputs(padding))
            inputs = with_labels(static, inputs) or _with_targets(static, inputs)
            _assert_same(upstream, flexible, inputs, f"{attention}, padding {padding}")
    _drops_alike(static)
    head_type = static_head_type(static)
    if head_type in ("causal_lm", "masked_lm"):
        _padding_counts_alike(static)
    if head_type == "seq2seq_lm":
        _labels_are_what_the_decoder_reads(static)
    if head_type in ("causal_lm", "seq2seq_lm"):
        _texts_go_on_alike(static)


def _with_targets(static: Subject, inputs: dict[str, Any]) -> dict[str, Any]:
    """`inputs`, of images or sounds, with what a head learns from, where that is a class for each of them."""
    if static_head_type(static) == "masked_image_modeling":
        return {**inputs, **masked_patches(static.config())}
    rows = {len(value) for value in inputs.values() if isinstance(value, Tensor) and value.dim()}
    if static_head_type(static) not in _ONE_CLASS or rows != {BATCH}:
        return inputs
    return {**inputs, "labels": torch.arange(BATCH) % 2}


def _padding_counts_alike(static: Subject) -> None:
    """Labels at padded positions that are no -100: they count where they do in upstream's loss."""
    upstream, flexible = _both(static)
    labelled = with_labels(static, static.padded_inputs("none"))
    if labelled is None or "input_ids" not in labelled or labelled["input_ids"].dim() != 2:
        return
    for side, padded in {"left": slice(0, 1), "right": slice(-2, None)}.items():
        mask = torch.ones_like(labelled["input_ids"])
        mask[0, padded] = 0
        inputs = {**labelled, "attention_mask": mask}
        try:
            _computed(upstream, inputs)
        except (IndexError, RuntimeError, TypeError, ValueError, AttributeError):
            continue  # upstream's own takes no such mask
        _assert_same(upstream, flexible, inputs, f"padding {side}, with labels")


def _drops_alike(static: Subject) -> None:
    """Behind the base model, both drop as much, in the same order; as the config is, and with another rate in each of its fields."""
    for is_varied in (False, True):
        with _checkpoint(static) as folder:
            if is_varied:
                _vary_rates(Path(folder) / "config.json", type(static.upstream()))
            models = _loaded(type(static.upstream()), folder), _flexible(folder)
        inputs = shaped_for(static, static.padded_inputs())
        if static_head_type(static) == "masked_image_modeling":
            inputs |= masked_patches(static.config())
        theirs, ours = (_dropped(model, inputs) for model in models)
        if theirs is not None and ours != theirs:
            raise AssertionError(f"upstream's head drops {theirs}, the flexible one {ours}")


def _vary_rates(path: Path, upstream: type[PreTrainedModel]) -> None:
    """Give each rate of a dropout in a file with a config a value of its own, but for those that upstream's class refuses (DiffLlama)."""
    given, refused = json.loads(path.read_text()), set[str]()
    while True:
        path.write_text(json.dumps(_varied("", given, itertools.count(1), refused)))
        try:
            _loaded(upstream, str(path.parent))
        except ValueError as error:
            named = set(re.findall(r"\w*dropout\w*", str(error))) - refused
            if not named:
                raise
            refused |= named
        else:
            return


def _varied(name: str, value: Any, numbers: Iterator[int], refused: Set[str]) -> Any:
    if isinstance(value, dict):
        return {key: _varied(key, inner, numbers, refused) for key, inner in value.items()}
    is_rate = "dropout" in name and (value is None or (isinstance(value, float) and 0 <= value < 1))
    return next(numbers) / 1000 if is_rate and name not in refused else value


def _dropped(model: PreTrainedModel, inputs: dict[str, Any]) -> list[float] | None:
    """The rates of the dropouts that run behind the base model; None where a class holds the parts of a base model itself."""
    base = model.base_model
    if base is model:
        return None
    rates: list[float] = []
    inside = [0]
    plain = functional.dropout

    def recording(values: Tensor, p: float = 0.5, *arguments: Any, **options: Any) -> Tensor:
        if not inside[0] and p:
            rates.append(p)
        return plain(values, p, *arguments, **options)

    def entered(*_: Any) -> None:
        inside[0] += 1

    def left(*_: Any) -> None:
        inside[0] -= 1

    parts = list(base.modules())  # some heads go past the forward of the whole (OPT)
    hooks = [part.register_forward_pre_hook(entered) for part in parts]
    hooks += [part.register_forward_hook(left) for part in parts]
    functional.dropout = recording
    try:
        run(model, inputs)
    finally:
        functional.dropout = plain
        for hook in hooks:
            hook.remove()
    return rates


def _texts_go_on_alike(static: Subject) -> None:
    """Greedily, both write the same text, by the same logits: some of upstream's classes prepare the steps of their generation themselves."""
    upstream, flexible = _both(static)
    inputs = static.padded_inputs("left" if static.text else "none")
    options: dict[str, Any] = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False}
    options |= {"return_dict_in_generate": True, "output_logits": True}
    try:
        with torch.no_grad(), seeded():
            expected = upstream.generate(**inputs, **options)
    except (IndexError, RuntimeError, TypeError, ValueError, AttributeError):
        return  # upstream's own cannot go on from these inputs
    with torch.no_grad(), seeded():
        written = flexible.generate(**inputs, **options)
    assert_bitwise({"text": written.sequences}, {"text": expected.sequences}, "three more tokens")
    steps = [{str(step): logits for step, logits in enumerate(one.logits)} for one in (written, expected)]
    assert_equal_within(*steps, "logits of three more tokens", atol=5e-6, rtol=1e-5)


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
