"""Models inside of a model that are base models by themselves, as subjects: taken out of the whole, with what the whole calls them with."""

from __future__ import annotations

import copy
import functools
import inspect
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import transformers
from torch import nn
from transformers import Cache, PreTrainedConfig, PreTrainedModel

import adapter_models  # noqa: F401  registers what was generated
from adapter_runtime.contract.registry import load_class, registered
from adapter_runtime.model.init.finding import qualified_name
from conformance.copies import Template
from conformance.outputs import FLAGS, run
from conformance.subjects import Attention, Kind, Padding, Subject, head_subjects, model_class, upstream_runs


@dataclass(frozen=True)
class Tower(Subject):
    """A model inside of another one."""

    path: str = ""  # from the model around it
    around: Subject | None = None  # that model

    def config(self) -> PreTrainedConfig:
        return self.upstream().config

    def upstream(self, attention: Attention = "eager") -> PreTrainedModel:
        """See `Subject`."""
        return _taken_out(self, attention).copy()

    def padded_inputs(self, padding: Padding = "none", one_per_token: bool = False) -> dict[str, Any]:
        """What the tower is called with first, where the model around it gets such inputs."""
        return copy.deepcopy(_given(self, padding, one_per_token))  # a cache grows in a forward


def towers_of(model_type: str) -> tuple[Tower, ...]:
    """A subject per tower of the model type that a class of upstream holds, where that runs with our inputs.

    A class that stands at two places is one subject per set of arguments: the stacks of T5.
    """
    wanted = tower_classes(model_type)
    found: dict[tuple[str, frozenset[str]], Tower] = {}
    for subject in _classes_around(model_type) if wanted else ():
        if {name for name, _ in found} == wanted:
            break
        if upstream_runs(subject):
            for tower, arguments in _towers_in(subject, wanted):
                found.setdefault((tower.architecture, arguments), tower)
    return tuple(found.values())


def _classes_around(model_type: str) -> Iterator[Subject]:
    """Upstream's classes of a model type, and then all others of its file; a decoder that can with what an encoder gave."""
    heads = head_subjects(model_type)
    for subject in heads:
        crossing = replace(subject, cross=True)
        yield crossing if subject.kind == "decoder" and upstream_runs(crossing) else subject
    known = {subject.architecture for subject in heads}
    module = sys.modules[model_class(heads[0].architecture).__module__]
    for name, cls in vars(module).items():
        # The file's own: `PreTrainedModel` stands there too, and what upstream notes on a class that was built, all others inherit.
        is_own = isinstance(cls, type) and cls.__module__ == module.__name__ and issubclass(cls, PreTrainedModel)
        if is_own and name not in known and getattr(transformers, name, None) is cls:
            yield replace(heads[0], architecture=name, label=name)


@functools.cache
def tower_classes(model_type: str) -> frozenset[str]:
    """The names of upstream's classes that are towers of a model type: they say themselves which methods they support."""
    classes = registered().own_classes[model_type].model_mixins
    towers = {name for name, ours in classes.items() if getattr(load_class(ours), "own_methods", None)}
    return frozenset(name.rpartition(".")[2] for name in towers - answered_elsewhere(model_type))


def answered_elsewhere(model_type: str) -> frozenset[str]:
    """Classes of upstream's for which another model type has a mixin too: parts that are base models of that type, which is asked at run time."""
    own = registered().own_classes
    others = (classes.model_mixins for other, classes in own.items() if other != model_type)
    return frozenset(own[model_type].model_mixins) & {name for mixins in others for name in mixins}


def _towers_in(subject: Subject, wanted: frozenset[str]) -> Iterator[tuple[Tower, frozenset[str]]]:
    """The towers that a forward calls, with the names of what they are given."""
    model = subject.upstream()
    named = {path: module for path, module in model.named_modules() if path and _is_of(module, wanted)}
    inputs = subject.padded_inputs()
    calls = _calls(model, named, inputs)
    for path, module in named.items():
        arguments = calls.get(path) or _by_name(module, inputs)
        if arguments:
            name, kind = type(module).__name__, _kind_of(module, subject)
            tower = Tower(subject.model_type, name, kind, f"{name} at {path}", path=path, around=subject)
            yield tower, frozenset(arguments)


def _by_name(tower: nn.Module, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """What a tower takes of the inputs of a model that goes past its forward; nothing where that is not what it reads."""
    takes = inspect.signature(tower.forward).parameters
    given = {name: value for name, value in inputs.items() if name in takes}
    return (
        given
        if all(
            name in given or one.default is not one.empty
            for name, one in takes.items()
            if one.kind is one.POSITIONAL_OR_KEYWORD
        )
        else {}
    )


def _kind_of(tower: nn.Module, around: Subject) -> Kind:
    """Half of an encoder-decoder is a decoder where it takes a cache."""
    if around.kind != "encoder-decoder":
        return around.kind
    return "decoder" if "past_key_values" in inspect.signature(tower.forward).parameters else "encoder"


def _is_of(module: nn.Module, wanted: frozenset[str]) -> bool:
    return type(module).__name__ in wanted and qualified_name(type(module)) in registered().model_mixins


def _calls(model: nn.Module, towers: Mapping[str, nn.Module], inputs: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What each tower is called with first, by the names of its arguments."""
    calls: dict[str, dict[str, Any]] = {}

    def hook_of(path: str) -> Any:
        def before(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
            if path not in calls:
                calls[path] = copy.deepcopy(_named(module, args, kwargs))

        return before

    handles = [module.register_forward_pre_hook(hook_of(path), with_kwargs=True) for path, module in towers.items()]
    run(model, inputs)
    for handle in handles:
        handle.remove()
    return calls


def _named(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments by name, without those that are not given and those that only ask for outputs."""
    bound = inspect.signature(module.forward).bind(*args, **kwargs)
    rest = next((name for name, one in bound.signature.parameters.items() if one.kind is one.VAR_KEYWORD), "")
    given = {
        **{name: value for name, value in bound.arguments.items() if name != rest},
        **bound.arguments.get(rest, {}),
    }
    required = {name for name, one in bound.signature.parameters.items() if one.default is one.empty}
    kept = {name: value for name, value in given.items() if name in required or not _is_nothing(name, value)}
    return {name: value for name, value in kept.items() if name not in FLAGS}


def _is_nothing(name: str, value: Any) -> bool:
    """A forward would fill a cache that it is given; with none, it makes its own. So it does with positions in several dimensions, which
    take no prompt.
    """
    if isinstance(value, Cache):
        return value.get_seq_length() == 0
    return value is None or (name == "position_ids" and bool(value.dim() > 2))


@functools.lru_cache(maxsize=16)
def _taken_out(tower: Tower, attention: Attention) -> Template[PreTrainedModel]:
    assert tower.around is not None
    module = tower.around.upstream(attention).get_submodule(tower.path)
    assert isinstance(module, PreTrainedModel)
    return Template(module)


@functools.lru_cache(maxsize=16)
def _given(tower: Tower, padding: Padding, one_per_token: bool) -> dict[str, Any]:
    assert tower.around is not None
    model = tower.around.upstream()
    inputs = tower.around.padded_inputs(padding, one_per_token)
    module = model.get_submodule(tower.path)
    return _calls(model, {tower.path: module}, inputs).get(tower.path) or _by_name(module, inputs)
