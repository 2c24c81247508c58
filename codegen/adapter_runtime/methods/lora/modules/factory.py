"""From config to module.

Where do I add a variant?  Its config in ``lora/config.py``, its module in this folder, its line in `VARIANTS`, and in
``lora/spec.py`` the name by which strings ask for it. From outside of this library: `projection_method`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

from adapter_runtime.errors import InvalidConfigError
from adapter_runtime.methods.common.shared_parameters import SharedDict
from adapter_runtime.methods.lora.config import LoRAConfig, MTLLoRAConfig
from adapter_runtime.methods.lora.modules.base import ProjectionAdapter, ProjectionSite
from adapter_runtime.methods.lora.modules.low_rank import LoRA
from adapter_runtime.methods.lora.modules.mtl import MTLLoRA
from adapter_runtime.methods.lora.modules.scale import Scale
from adapter_runtime.methods.lora.modules.vera import VeRA


def is_vera(config: LoRAConfig) -> bool:
    """Whether `config` asks for matrices that all projections share."""
    return config.vera_d is not None


def check_lora(config: LoRAConfig) -> None:
    """Check the options that a config, which does not import torch, cannot check by itself.

    Raises:
        InvalidConfigError: its dtype is none of torch's floating-point types.
    """
    dtype = torch.float32 if config.dtype is None else getattr(torch, str(config.dtype), None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise InvalidConfigError(
            f'{type(config).__name__}: dtype is {config.dtype!r}, but must be a floating-point type of torch ("float32",'
            ' "bfloat16", ...), or None for that of the model.'
        )


def _vera(config: LoRAConfig, site: ProjectionSite, shared: SharedDict | None) -> VeRA:
    assert shared is not None
    return VeRA(config, site, shared)


def _mtl_lora(config: LoRAConfig, site: ProjectionSite, shared: SharedDict | None) -> MTLLoRA:
    assert isinstance(config, MTLLoRAConfig)
    return MTLLoRA(config, site)


class Variant(NamedTuple):
    """A relative of LoRA: which configs ask for it, and what makes its module for one projection."""

    is_meant: Callable[[LoRAConfig], bool]
    make: Callable[[LoRAConfig, ProjectionSite, SharedDict | None], ProjectionAdapter]


# The first one whose `is_meant` is true of a config makes its modules.
VARIANTS = (
    Variant(lambda config: config.composition_mode == "scale", lambda config, site, shared: Scale(config, site)),
    Variant(lambda config: isinstance(config, MTLLoRAConfig), _mtl_lora),
    Variant(is_vera, _vera),
    Variant(lambda config: True, lambda config, site, shared: LoRA(config, site)),
)


def make_adapter(config: LoRAConfig, site: ProjectionSite, shared: SharedDict | None = None) -> ProjectionAdapter:
    """The module that `config` asks for.

    Args:
        config: the options.
        site: the projection.
        shared: the parameters that all projections of the adapter share; None but for VeRA (`is_vera`).
    """
    variant = next(variant for variant in VARIANTS if variant.is_meant(config))
    return variant.make(config, site, shared)
