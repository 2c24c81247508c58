"""What a model of several kinds of input gives past its forward (``get_image_features``) is what its forward computes with.

No forward of the whole is around it: a part that is called by itself has to prepare what adapters need.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from conformance.adapted import FIRST, adapter_parameters, initialised, randomise_adapter
from conformance.methods import Method
from conformance.outputs import all_outputs, are_close, assert_bitwise, assert_equal_within, fresh, run, seeded
from conformance.reasons import DoesNotApply, Reason
from conformance.reference.layout import layout_of
from conformance.reference.prefix import prefix_key
from conformance.subjects import Subject, model_class

NAMED = re.compile(r"get_(text|image|audio|video)_features")


@dataclass(frozen=True)
class Features:
    """One method that gives features, and a call of it."""

    name: str
    arguments: Mapping[str, Any]
    in_forward: bool  # the forward calls it itself
    in_outputs: bool = (
        False  # a forward that does not gives the same among its outputs (X-CLIP adds to it what the video prompts)
    )

    @property
    def embeds(self) -> str:
        """The field of outputs in which a forward that does not call it gives the same, as rows of length one."""
        return f"{self.name.split('_')[1]}_embeds"

    def of(self, base: nn.Module) -> dict[str, Tensor]:
        """What it gives."""
        with torch.no_grad(), seeded(5):
            return all_outputs(getattr(base, self.name)(**fresh(self.arguments)))


def features_are_those_of_the_forward(subject: Subject, method: Method) -> None:
    """Bitwise upstream's without an adapter; with one, what the forward computes with, and changed where the adapter has a place."""
    calls = features_of(subject)
    if not calls:
        raise DoesNotApply(Reason.NO_FEATURES)
    model = initialised(subject)
    base = model.adapters_base
    expected = {one.name: one.of(_base_of(subject, subject.upstream())) for one in calls}
    for what in ("after init", "with an adapter that is not active"):
        for one in calls:
            assert_bitwise(one.of(base), expected[one.name], f"{one.name} {what}")
        if what == "after init":
            model.add_adapter(FIRST, config=method.config)
            randomise_adapter(model, FIRST)
    model.set_active_adapters(FIRST)
    for one in calls:
        found, has_place = _found(one, model)
        if has_place:
            if are_close(found, expected[one.name], atol=1e-4):
                raise AssertionError(f"{one.name}: an adapter that has a place there changes nothing")
        else:
            assert_bitwise(found, expected[one.name], f"{one.name}, in which the adapter has no place")
        _assert_as_in_forward(one, model, subject, found)


def _assert_as_in_forward(one: Features, model: PreTrainedModel, subject: Subject, found: dict[str, Tensor]) -> None:
    if one.in_forward:
        (seen,) = _seen_in_forward(model.adapters_base, model, subject, (one.name,))
        assert_equal_within(one.of(model.adapters_base), all_outputs(seen.outputs), f"{one.name}, in the forward")
        return
    if one.in_outputs and not _is_output(one, found, run(model, subject.padded_inputs())):
        raise AssertionError(f"{one.name} gives something else than {one.embeds} of the forward")


def _is_output(one: Features, found: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> bool:
    """Whether the field of `outputs` for the features is among what was `found`."""
    if one.embeds not in outputs:
        return False
    theirs = _of_length_one(outputs[one.embeds])
    alike = (_of_length_one(value) for value in found.values() if value.shape == theirs.shape)
    return any(torch.allclose(value, theirs, atol=2e-5, rtol=1e-4) for value in alike)


def _of_length_one(rows: Tensor) -> Tensor:
    return nn.functional.normalize(rows, dim=-1)


@functools.cache
def features_of(subject: Subject) -> tuple[Features, ...]:
    """What upstream's own class gives of the inputs of the subject, in its forward or by itself."""
    upstream = subject.upstream()
    base = _base_of(subject, upstream)
    names = tuple(name for name in dir(type(base)) if NAMED.fullmatch(name))
    called = {seen.name: seen for seen in _seen_in_forward(base, upstream, subject, names)} if names else {}
    inputs = subject.padded_inputs()
    found = []
    for name in names:
        arguments = called[name].arguments if name in called else _by_name(getattr(base, name), inputs)
        one = Features(name, arguments, name in called)
        with contextlib.suppress(Exception):  # upstream's own class may not give them of these inputs
            if arguments and (given := one.of(base)):
                in_outputs = not one.in_forward and _is_output(one, given, run(upstream, inputs))
                found.append(replace(one, in_outputs=in_outputs))
    return tuple(found)


def has_features(subject: Subject) -> bool:
    """Its class has a method for them."""
    return any(NAMED.fullmatch(name) for name in dir(model_class(subject.architecture)))


def _base_of(subject: Subject, upstream: nn.Module) -> nn.Module:
    return upstream.get_submodule(layout_of(initialised(subject)).base)


def _by_name(method: Any, inputs: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in inputs.items() if name in inspect.signature(method).parameters}


@dataclass(frozen=True)
class _Seen:
    name: str
    arguments: dict[str, Any]
    outputs: Any


def _seen_in_forward(base: nn.Module, model: nn.Module, subject: Subject, names: tuple[str, ...]) -> list[_Seen]:
    """The first call of each of the methods in a forward of `model`, without those that one of them makes itself."""
    seen: dict[str, _Seen] = {}
    depth: list[str] = []

    def watching(name: str, original: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            given = copy.deepcopy({**dict(zip(inspect.signature(original).parameters, args, strict=False)), **kwargs})
            depth.append(name)
            try:
                outputs = original(*args, **kwargs)
            finally:
                depth.pop()
            if not depth:
                # Upstream may go on in the lists that it was given (SAM 2 adds to the last map).
                seen.setdefault(name, _Seen(name, given, copy.deepcopy(outputs)))
            return outputs

        return call

    with _instead(base, {name: watching(name, getattr(base, name)) for name in names}):
        run(model, subject.padded_inputs())
    return list(seen.values())


@contextlib.contextmanager
def _instead(base: nn.Module, methods: Mapping[str, Any]) -> Iterator[None]:
    base.__dict__.update(methods)
    try:
        yield
    finally:
        for name in methods:
            del base.__dict__[name]


def _found(one: Features, model: PreTrainedModel) -> tuple[dict[str, Tensor], bool]:
    """The features, and whether something ran for them in which the adapter has a place."""
    ran: list[str] = []
    handles = [
        model.get_submodule(path).register_forward_pre_hook(lambda module, args, path=path: ran.append(path))
        for path in _places(model)
    ]
    try:
        return one.of(model.adapters_base), bool(ran)
    finally:
        for handle in handles:
            handle.remove()


def _places(model: PreTrainedModel) -> set[str]:
    """Layers with tensors or a prefix of the adapter; the part at whose entry it acts."""
    layout, names = layout_of(model), list(adapter_parameters(model, FIRST))
    layers = {layer.path for layer in layout.layers if any(name.startswith(f"{layer.path}.") for name in names)}
    layers |= {
        attention.layer
        for attention in layout.prefixed
        if any(name.startswith(f"{prefix_key(attention, FIRST)}.") for name in names)
    }
    entries = (("prompt_tuning.", layout.text), ("invertible_adapters.", layout.reader))
    return layers | {path for part, path in entries if any(part in name for name in names)}
