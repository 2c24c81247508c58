"""Whole checkpoints: what upstream's classes write is read into adapter models, and what has adapters is read back with them."""

from __future__ import annotations

import functools
import logging
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

from conformance.adapted import FIRST, init_refuses, randomise_adapter, refused, state, upstream_class
from conformance.auto_classes import auto_classes, classes_of_the_file
from conformance.checks.random_parts import models_to_be_read, random_tensors
from conformance.heads import PREFERRED, adapter_model_class, realigned
from conformance.instances.fields import config_class
from conformance.methods import METHODS, Method
from conformance.outputs import are_close, assert_bitwise, run
from conformance.reasons import DoesNotApply, Reason
from conformance.subjects import (
    Subject,
    architecture,
    base_architecture,
    head_subjects,
    model_class,
    shaped_for,
    upstream_is_built,
    upstream_runs,
)
from conformance.tiny import tiny_config

LOADER = "adapter_runtime.files.api"  # says that a head is left out, and which parts are random


def checkpoint_subjects(model_type: str) -> tuple[Subject, ...]:
    """Every class of upstream's for the model type, each under its own name: of its tables, and of the file of its base model."""
    known = {subject.architecture: subject for subject in head_subjects(model_type)}
    first = next(iter(known.values()), None)
    if first is None:  # upstream has no base model of the type, and each class holds the layers itself
        return ()
    own = config_class(model_type)
    classes = (*auto_classes(model_type), *classes_of_the_file(model_class(base_architecture(model_type))))
    names = [cls.__name__ for cls in classes if cls.config_class is own]
    found = (
        replace(known.get(name, first), architecture=name, label=name) for name in dict.fromkeys([*known, *names])
    )
    return tuple(subject for subject in found if upstream_is_built(subject))


def checkpoint_is_read(subject: Subject) -> None:
    """Upstream's own class and the adapter model read the same base model from a checkpoint; so do both from what these write again."""
    written = subject.upstream()
    with _saved(written) as folder:
        theirs = type(written).from_pretrained(folder)
        if not _is_read_as_written(theirs):
            raise DoesNotApply(Reason.UPSTREAM_READS_OTHERWISE)
        # Else upstream's own base model cannot be read from it: the class makes its base model of other sizes (Perceiver).
        if _base_model_fits(subject, folder):
            _adapter_model_reads(subject, theirs, folder)
    if upstream_runs(subject) and not init_refuses(subject):
        _adapters_are_in_the_checkpoint(subject)


def _adapter_model_reads(subject: Subject, theirs: PreTrainedModel, folder: str) -> None:
    """What upstream's class reads from a checkpoint of its own, and the same from what the adapter model writes again."""
    read = _read(adapter_model_class(subject.model_type), folder)
    plain, lacking = _read_by_upstream(subject.model_type, folder)
    random = random_tensors(read.model.base_model, theirs, plain)
    _compare(read, theirs, lacking, random)
    _nothing_is_random_in_silence(read, theirs, random)
    _nothing_is_lost_in_silence(subject, read, theirs)
    if wrong := _by_another_name(read) - (lacking & read.named):
        raise AssertionError(f"lacking, while what is left over has such names: {', '.join(sorted(wrong)[:5])}")
    with _saved(read.model) as again_folder:
        again = _read(_auto_class(), again_folder)
    if again.lacking or again.left_over:
        raise AssertionError(f"written again, missing: {again.lacking}, unexpected: {again.left_over}")
    assert_bitwise(state(again.model), state(read.model), "what the adapter model wrote")


@functools.cache
def _held(model_type: str) -> type[PreTrainedModel]:
    """Upstream's class of what an adapter model holds: the base model, or one with a head, where upstream has no other."""
    if base := architecture(model_type, MODEL_MAPPING_NAMES):
        return model_class(base)
    with torch.device("meta"):
        model = adapter_model_class(model_type)(tiny_config(model_type))
    return upstream_class(type(model.base_model))


def _base_model_fits(subject: Subject, folder: str) -> bool:
    """Whether upstream's own base model has the shapes of a checkpoint of the class, whatever it calls what it holds there."""
    try:
        held = _held(subject.model_type).from_pretrained(folder)
    except RuntimeError as error:
        if "ignore_mismatched_sizes" not in str(error):
            raise
        return False
    if architecture(subject.model_type, MODEL_MAPPING_NAMES):
        return True
    # One head has as many outputs as there are classes, and another one as an image has colours.
    shapes = {name: tensor.shape for name, tensor in held.state_dict().items()}
    return all(shapes.get(name, one.shape) == one.shape for name, one in subject.upstream().state_dict().items())


def _adapters_are_in_the_checkpoint(subject: Subject) -> None:
    """`save_pretrained` of upstream's class after `init` writes its adapters too, and `load_model` reads both."""
    from adapter_models import init, load_model

    method = _first_method(subject)
    if method is None:
        return
    with _saved(subject.upstream()) as folder:  # a row for padding becomes zeros
        model = realigned(
            model_class(subject.architecture).from_pretrained(folder, attn_implementation="eager")
        ).eval()
    init(model)
    model.add_adapter(FIRST, config=method.config)
    randomise_adapter(model, FIRST)
    with _saved(model) as folder:
        again = realigned(load_model(folder, model_class(subject.architecture), attn_implementation="eager")).eval()
    assert_bitwise(state(again), state(model), f"weights with {method}")
    inputs = shaped_for(subject, subject.padded_inputs())
    for loaded in (model, again):
        loaded.set_active_adapters(FIRST)
    assert_bitwise(run(again, inputs), run(model, inputs), f"outputs with {method}")


def _first_method(subject: Subject) -> Method | None:
    return next((method for method in (PREFERRED, *METHODS) if not refused(subject, method)), None)


@dataclass(frozen=True)
class _Read:
    """What came of reading a checkpoint into an adapter model."""

    model: PreTrainedModel
    lacking: list[str]  # tensors of the model that the checkpoint has not
    left_over: list[str]  # those of the checkpoint that the model has not
    told: str  # what a warning says of these
    refusal: str = ""  # where it was refused: what it says. It was read after all, as whoever asks for it may

    @property
    def named(self) -> set[str]:
        """The tensors of the base model of which a warning says that they are random: they, or what they stand in."""
        words = {word.strip(".,") for word in self.told.split()}
        return {key for key in self.base if any(path in words for path in _paths(f"{self.prefix}{key}"))}

    @property
    def base(self) -> Mapping[str, Tensor]:
        """Tensors of the base model, by their names in it."""
        base: PreTrainedModel = self.model.base_model
        return base.state_dict()

    @property
    def prefix(self) -> str:
        return f"{self.model.base_model_prefix}."

    @property
    def lacking_of_base(self) -> set[str]:
        return {key.removeprefix(self.prefix) for key in self.lacking if key.startswith(self.prefix)}


def _compare(read: _Read, theirs: PreTrainedModel, lacking: set[str], random: set[str]) -> None:
    """What upstream's class has of the base model is there, bitwise; what is left over belongs to its head, and is said to be.

    Args:
        lacking: what upstream's own base model does not find in the checkpoint either. What the class that wrote it alone ties is no
            fault of ours (UDOP's tables of relative positions).
        random: what upstream's class has nowhere. All of it may be so in a model that was refused.
    """
    written_by = type(theirs).__name__
    base, upstream = read.base, _base_of(theirs, read.base)
    common = base.keys() & upstream.keys()
    if not common and base.keys() <= random and not read.refusal:
        raise AssertionError(f"no tensor of {written_by} has the name of one of the base model")
    if wrong := sorted((read.lacking_of_base & common) - (lacking & _tied(upstream))):
        raise AssertionError(f"not read from the checkpoint: {', '.join(wrong[:5])} and {len(wrong) - 1} more")
    common -= read.lacking_of_base
    if common:  # else it is all elsewhere: see `_nothing_is_random_in_silence`
        assert_bitwise({key: base[key] for key in common}, {key: upstream[key] for key in common}, "the base model")
    if heads := sorted(key for key in read.lacking if not key.startswith(read.prefix)):
        raise AssertionError(f"of the flexible head, not read: {', '.join(heads)}")
    if wrong := sorted(key for key in read.left_over if key.removeprefix(read.prefix) in base):
        raise AssertionError(f"of the base model, left over: {', '.join(wrong)}")
    if read.left_over and written_by not in read.told:
        raise AssertionError(f"nothing says that these are left out: {', '.join(sorted(read.left_over)[:5])}")


def _nothing_is_lost_in_silence(subject: Subject, read: _Read, theirs: PreTrainedModel) -> None:
    """What upstream's class has beside the base model and what is in no file is said to be left out where no flexible head has it: weights
    that are tied, and what is predicted without weights of its own. (What a flexible head computes, the check "conversion" compares.)
    """
    if getattr(read.model.config, "prediction_heads", None) or "Its head is not loaded" in read.told:
        return
    held = {f".{key}" for key in read.base}
    tied = _tied(theirs.state_dict(keep_vars=True))
    if lost := sorted(key for key in tied if not any(_are_one_end(f".{key}", known) for known in held)):
        raise AssertionError(f"nothing says that these are left out: {', '.join(lost[:5])}")
    if not upstream_runs(subject):
        return
    inputs = shaped_for(subject, subject.padded_inputs())
    predicted = {name: value for name, value in run(theirs, inputs).items() if name.endswith("logits")}
    # The base model may call them its last states (FSMT).
    ours = list(run(read.model, inputs).values()) if predicted else []
    for name, value in predicted.items():
        if not any(are_close({name: other}, {name: value}) for other in ours):
            raise AssertionError(f"nothing says that the adapter model gives no {name}")


def _are_one_end(name: str, other: str) -> bool:
    """Whether one name is the other, below further modules; both begin with a dot."""
    return name.endswith(other) or other.endswith(name)


def _tied(tensors: Mapping[str, Tensor]) -> set[str]:
    """Names of tensors that are one with another."""
    places = Counter(tensor.data_ptr() for tensor in tensors.values() if tensor.numel())
    return {key for key, tensor in tensors.items() if places[tensor.data_ptr()] > 1}


def _base_of(theirs: PreTrainedModel, base: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The tensors of upstream's class by their names in the base model, which it may hold elsewhere than it says."""
    candidates = [part.state_dict() for part in theirs.modules() if isinstance(part, PreTrainedModel)]
    return max(candidates, key=lambda tensors: len(base.keys() & tensors.keys()))


def _paths(key: str) -> Iterator[str]:
    """A name, and those of all that it stands in."""
    while key:
        yield key
        key = key.rpartition(".")[0]


def _nothing_is_random_in_silence(read: _Read, theirs: PreTrainedModel, random: set[str]) -> None:
    """What of the base model is random is named; no whole model is that could have been read; a refusal says what to do instead."""
    base, name = read.model.base_model, type(theirs).__name__
    parameters = {name for name, _ in base.named_parameters(remove_duplicate=False)}
    if wrong := sorted(random & parameters - read.named):
        raise AssertionError(f"random, and nothing says so: {', '.join(wrong[:5])} and {len(wrong) - 1} more")
    if read.refusal and name not in read.refusal:
        raise AssertionError(f"refused, without the class to take instead: {read.refusal}")
    if paths := models_to_be_read(base, theirs, random):
        raise AssertionError(f"random, while {name} has one such model: {', '.join(path or 'all' for path in paths)}")


def _by_another_name(read: _Read) -> set[str]:
    """What is missing and may be among what is left over, under another prefix: a tower that was not recognised."""
    ends = {_end(key) for key in read.left_over}
    return {key for key in read.lacking_of_base if _end(key) in ends}


def _read_by_upstream(model_type: str, folder: str) -> tuple[dict[str, Tensor], set[str]]:
    """What upstream's own base model reads from a checkpoint, and what it does not find: BLIP's that generates has a text model of another kind."""
    held = _held(model_type)
    try:
        model, info = held.from_pretrained(folder, output_loading_info=True)
    except (
        AttributeError
    ):  # the class gives what was read something, and does not expect the information beside it (JEV)
        model, info = PreTrainedModel.from_pretrained.__func__(held, folder, output_loading_info=True)
    lacking = set(info["missing_keys"])
    return {key: tensor for key, tensor in model.state_dict().items() if key not in lacking}, lacking


def _is_read_as_written(model: PreTrainedModel) -> bool:
    """Whether upstream's class reads back what it wrote. The norms of Pixio's backbone and of the model in it change places each time."""
    with _saved(model) as folder:
        again = type(model).from_pretrained(folder).state_dict()
    return all(torch.equal(tensor, again[key]) for key, tensor in model.state_dict().items())


def _end(key: str) -> str:
    """From the first number on; the whole name where it has none."""
    segments = key.split(".")
    first = next((index for index, segment in enumerate(segments) if segment.isdigit()), 0)
    return ".".join(segments[first:])


@contextmanager
def _saved(model: PreTrainedModel) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        yield folder


def _read(cls: Any, folder: str) -> _Read:
    refusal = ""
    with _told() as told:
        try:
            model, info = cls.from_pretrained(folder, output_loading_info=True)
        except _mismatch() as refused:
            refusal = str(refused)
            model, info = cls.from_pretrained(folder, output_loading_info=True, allow_random_parts=True)
    if info["mismatched_keys"]:
        raise AssertionError(f"of another shape: {sorted(map(str, info['mismatched_keys']))}")
    return _Read(model, sorted(info["missing_keys"]), sorted(info["unexpected_keys"]), " ".join(told), refusal)


def _mismatch() -> type[Exception]:
    from adapter_models import AdapterMismatchError

    return AdapterMismatchError


def _auto_class() -> Any:
    from adapter_models import AutoAdapterModel

    return AutoAdapterModel


@contextmanager
def _told() -> Iterator[list[str]]:
    """The messages of the loader."""
    told: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: told.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger(LOADER)
    level, disabled = logger.level, logging.root.manager.disable
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING)
    logging.disable(logging.NOTSET)
    try:
        yield told
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logging.disable(disabled)
