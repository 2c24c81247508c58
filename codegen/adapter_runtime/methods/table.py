"""The table of all methods, and what other parts of the library ask of it. Methods from outside come by `register_method`.

Where do I add a method?  Its folder with a ``spec.py``, and its line in `METHODS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

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
from adapter_runtime.methods.placing import Wish, check_wishes, warn_of_gaps
from adapter_runtime.methods.prefix_tuning.spec import PREFIX_TUNING
from adapter_runtime.methods.prompt_tuning.spec import PROMPT_TUNING
from adapter_runtime.methods.reft.spec import REFT
from adapter_runtime.methods.spec import Spec, every_method

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
    if not weights_will_follow():  # files say of each option what it is, and are held to their tensors
        warn_of_gaps(model, name, (wish for member in members(config) for wish in _wishes(model, member, applies)))
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
    granted: dict[str, Wish] = {}
    for wish in (wish for part, applies in parts for wish in _wishes(part, config, applies)):
        known = granted.get(wish.shown, wish)
        granted[wish.shown] = wish._replace(found=known.found | wish.found, lacking=known.lacking | wish.lacking)
    check_wishes(whole, config, list(granted.values()))


def _wishes(model: AdaptedBaseModel, config: AdapterConfig, applies: Callable[[Spec], bool]) -> list[Wish]:
    return [wish for spec in specs_of(config) if applies(spec) for wish in spec.wishes(model, config)]


def _no_place(model: AdaptedBaseModel, config: AdapterConfig) -> InvalidConfigError:
    message = f"No layer of {type(model).__name__} has a place for {config}."
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
