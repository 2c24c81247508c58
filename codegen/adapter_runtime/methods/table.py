"""The table of all methods, and what other parts of the library ask of it. Methods from outside come by `register_method`.

Where do I add a method?  Its folder with a ``spec.py``, and its line in `METHODS`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeAlias

from adapter_runtime.call.context import GATING_SCORES, ComputedOnce
from adapter_runtime.contract.config import AdapterConfig
from adapter_runtime.contract.protocol import AdaptedBaseModel
from adapter_runtime.errors import AdapterError, InvalidConfigError, UnsupportedMethodError
from adapter_runtime.methods.bottleneck.spec import BOTTLENECK
from adapter_runtime.methods.common.along.copies import CONTAINER as TRAINED_ALONG
from adapter_runtime.methods.common.initialisation import weights_will_follow
from adapter_runtime.methods.common.peft_format import PeftFormat
from adapter_runtime.methods.common.shared_parameters import CONTAINER
from adapter_runtime.methods.configs.union import members
from adapter_runtime.methods.fusion.module import FUSION_ATTENTIONS
from adapter_runtime.methods.invertible.spec import INVERTIBLE
from adapter_runtime.methods.lora.spec import LORA
from adapter_runtime.methods.placing import Wish, check_wishes, gaps_of
from adapter_runtime.methods.prefix_tuning.spec import PREFIX_TUNING
from adapter_runtime.methods.prompt_tuning.spec import PROMPT_TUNING
from adapter_runtime.methods.reft.spec import REFT
from adapter_runtime.methods.spec import Spec, every_method

logger = logging.getLogger(__name__)

# A part of a model, a config that is no union, and which of its methods are asked for there
Asked: TypeAlias = tuple[AdaptedBaseModel, AdapterConfig, Callable[[Spec], bool]]

METHODS: dict[str, Spec] = {
    spec.name: spec for spec in (PREFIX_TUNING, PROMPT_TUNING, BOTTLENECK, INVERTIBLE, LORA, REFT)
}

PLANNED = tuple(METHODS)  # as plans of models name methods
# The names of the module dicts that hold adapters, by which the keys of files tell whose tensors they are
CONTAINERS = {CONTAINER, TRAINED_ALONG}.union(*(spec.containers for spec in METHODS.values()))


def specs_of(config: AdapterConfig) -> list[Spec]:
    """The methods that one config, which is no union, asks for: those of its class, or of the nearest class above.

    Raises:
        UnsupportedMethodError: there are none.
    """
    for cls in type(config).__mro__:
        found = [spec for spec in METHODS.values() if cls in spec.configs]
        if found:
            return [spec for spec in found if spec.is_asked_for(config)]
    raise UnsupportedMethodError(
        f"No method is known for a {type(config).__name__}. Known: {', '.join(METHODS)}. Add one: register_method(...)."
    )


def methods_of(config: AdapterConfig) -> set[str]:
    """The methods that a model must support for `config`, as its plan names them."""
    return {spec.planned_as for member in members(config) for spec in specs_of(member)}


def check_built(config: AdapterConfig) -> None:
    """Raise where this library cannot run `config` on any model.

    Raises:
        UnsupportedMethodError: no method is known for it.
        InvalidConfigError: an option makes no sense.
    """
    for member in members(config):
        for spec in specs_of(member):
            spec.check(member)


def place(
    model: AdaptedBaseModel, name: str, config: AdapterConfig, applies: Callable[[Spec], bool] = every_method
) -> None:
    """Create the adapter `name` in all layers where `config`, which was checked, wants it.

    Args:
        applies: which methods of the config to use.

    Raises:
        UnsupportedMethodError: the model has no place that the method needs.
        InvalidConfigError: no layer would get anything.
    """
    for member in members(config):
        if sum(spec.place(model, name, member) for spec in specs_of(member) if applies(spec)) == 0:
            raise _no_place(model, member)


def check_places(
    model: AdaptedBaseModel, config: AdapterConfig, applies: Callable[[Spec], bool] = every_method, whole: bool = True
) -> None:
    """Raise where `place` would, as far as that can be told without touching the model.

    Args:
        applies: which methods of the config to use.
        whole: what the config says must have places here; else in some part of the whole, which `check_granted` sees to.

    Raises:
        UnsupportedMethodError: a place that the config asks for cannot hold the adapter.
        InvalidConfigError: no layer would get anything, or not one of the things that the config says.
    """
    for member in members(config):
        if whole:
            check_granted(model, member, [(model, applies)])
        specs = [spec for spec in specs_of(member) if applies(spec)]
        counts = [spec.count_places(model, member) for spec in specs if spec.count_places is not None]
        if len(counts) == len(specs) and sum(counts) == 0:
            raise _no_place(model, member)


def check_granted(
    whole: AdaptedBaseModel,
    config: AdapterConfig,
    parts: Sequence[tuple[AdaptedBaseModel, Callable[[Spec], bool]]],
) -> None:
    """Raise for what no layer of some parts of a model has a place for, if the config, which is no union, says it.

    Args:
        parts: each with which methods of the config it is asked for.

    Raises:
        InvalidConfigError: it does, or names a layer that is not there.
    """
    if weights_will_follow():
        return
    check_wishes(whole, config, _wishes((part, config, applies) for part, applies in parts))


def warn_of_gaps(whole: AdaptedBaseModel, name: str, asked: Iterable[Asked], refused: str = "") -> None:
    """Warn, once, of what of an adapter does not come into a model, though its config asks for it.

    Args:
        name: of the adapter.
        asked: what its config asks for, and of which parts.
        refused: which parts got nothing, and why.
    """
    # Files say of each option what it is, and are held to their tensors.
    gaps = "" if weights_will_follow() else gaps_of(_wishes(asked))
    told = [f"is not in all of its parts. {refused}"] if refused else []
    if gaps:
        told.append(f"gets less than its config asks for, as these layers have no place for it: {gaps}.")
    if told:
        logger.warning("Adapter %r of %s %s", name, type(whole.get_submodule("")).__name__, " It ".join(told))


def _wishes(asked: Iterable[Asked]) -> list[Wish]:
    """What configs ask for; the same thing in several parts is one."""
    found: dict[str, Wish] = {}
    for part, config, applies in asked:
        for wish in (wish for spec in specs_of(config) if applies(spec) for wish in spec.wishes(part, config)):
            found[wish.shown] = found[wish.shown].joined(wish) if wish.shown in found else wish
    return list(found.values())


def _no_place(model: AdaptedBaseModel, config: AdapterConfig) -> InvalidConfigError:
    asked = " and ".join(one.stated() for one in members(config))
    message = f"No layer of {type(model.get_submodule('')).__name__} has a place for {asked}."
    if other := list(_with_places(model, config)):
        message += f" There are places with {' or '.join(other)}."
    return InvalidConfigError(message)


def _with_places(model: AdaptedBaseModel, config: AdapterConfig) -> Iterator[str]:
    """The options of a config that find places where they are true, one by one."""
    for option in [name for name, value in config.to_dict().items() if value is False]:
        try:
            changed = config.replace(**{option: True})
            counts = [spec.count_places(model, changed) for spec in specs_of(changed) if spec.count_places is not None]
        except AdapterError:  # it contradicts another option, or its places cannot hold the adapter
            continue
        if sum(counts) > 0:
            yield f"{option}=True"


def remove_empty_places(model: AdaptedBaseModel) -> None:
    """Take away what was created for adapters and holds none any more."""
    for spec in METHODS.values():
        spec.remove_empty(model)


def computed_once(model: AdaptedBaseModel, names: Iterable[str]) -> Iterator[ComputedOnce]:
    """What a call of the model computes once for all layers, where it runs the adapters `names`."""
    for name in dict.fromkeys(names):
        for spec in METHODS.values():
            yield from spec.computed_once(model, name)


def recorded_arguments() -> tuple[str, ...]:
    """The arguments of calls that ask for values which adapters, or fusions of them, compute."""
    return (GATING_SCORES, *(argument for spec in METHODS.values() for argument in spec.recorded), FUSION_ATTENTIONS)


def peft_formats() -> dict[str, PeftFormat[Any]]:
    """The formats of PEFT by their ``peft_type``."""
    return {form.peft_type: form for spec in METHODS.values() for form in spec.peft}
