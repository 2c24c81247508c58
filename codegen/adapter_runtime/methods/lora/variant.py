"""A relative of LoRA in one call: its places, files and compositions are those of LoRA, its modules are its own."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TypeVar

from adapter_runtime.contract.protocol import AdaptedBaseModel
from adapter_runtime.errors import InvalidConfigError
from adapter_runtime.methods.lora import places
from adapter_runtime.methods.lora.config import LoRAConfig
from adapter_runtime.methods.lora.modules.base import ProjectionAdapter, ProjectionSite
from adapter_runtime.methods.lora.modules.factory import check_lora
from adapter_runtime.methods.spec import MethodSpec, nothing_to_check

L = TypeVar("L", bound=LoRAConfig)

# Options of `LoRAConfig` that only some relatives of LoRA have a meaning for
PARTICULAR = ("composition_mode", "init_weights", "use_dora", "dora_form", "vera_d", "vera_b", "vera_dense")


def projection_method(
    name: str,
    config: L,
    adapter: Callable[[L, ProjectionSite], ProjectionAdapter],
    check: Callable[[L], None] = nothing_to_check,
    honours: Collection[str] = (),
) -> MethodSpec[L]:
    """The spec of a method that adapts projections one by one, to be given to `register_method`.

    Args:
        name: of the method; also the config string that stands for `config`.
        config: the default options, of a class of your own below `LoRAConfig`.
        adapter: makes the module for one projection: a class of your own below `ProjectionAdapter`.
        check: raises `InvalidConfigError` for options of your own that make no sense.
        honours: which of composition_mode, init_weights, use_dora, dora_form, vera_d, vera_b and vera_dense the module
            honours. A config that changes another one of them is refused.

    Raises:
        InvalidConfigError: `config` is a `LoRAConfig` itself, so that its adapters could not be told from those of LoRA; or
            `honours` names another option.
    """
    kind = type(config)
    if kind is LoRAConfig:
        raise InvalidConfigError(f"The method {name!r} needs a config class of its own: class ...(LoRAConfig).")
    unknown = sorted(set(honours) - set(PARTICULAR))
    if unknown:
        raise InvalidConfigError(
            f"honours names {', '.join(unknown)}, but these options are refused unless it names them: {', '.join(PARTICULAR)}."
        )

    def check_all(given: L) -> None:
        check_lora(given)
        for option in PARTICULAR:
            if option not in honours and given[option] != config[option]:
                raise InvalidConfigError(f"{kind.__name__}: {option} has no meaning for the method {name!r}.")
        check(given)

    def make(config: LoRAConfig, site: ProjectionSite) -> ProjectionAdapter:
        assert isinstance(config, kind)
        return adapter(config, site)

    def place(model: AdaptedBaseModel, name: str, config: L) -> int:
        return places.place_each(model, name, config, make)

    return MethodSpec(
        name=name,
        configs=(kind,),
        named={name: config},
        places="lora",
        check=check_all,
        place=place,
        count_places=places.count_each,
        wishes=places.wishes,
        containers=places.CONTAINERS,
    )
