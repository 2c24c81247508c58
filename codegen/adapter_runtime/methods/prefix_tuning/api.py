"""What models can do with prefixes."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from adapter_runtime.contract.config import AdapterConfig
from adapter_runtime.contract.snapshot import unchanged_on_error
from adapter_runtime.errors import UnsupportedMethodError
from adapter_runtime.methods.prefix_tuning.config import PrefixTuningConfig
from adapter_runtime.methods.prefix_tuning.module import PrefixTuning
from adapter_runtime.methods.union import ConfigUnion

if TYPE_CHECKING:
    from torch import nn

    from adapter_runtime.contract.state import ModelAdaptersConfig
    from adapter_runtime.model.base import ModelBaseAdaptersMixin


class PrefixTuningMixin:
    """Methods of every model with adapters."""

    if TYPE_CHECKING:

        @property
        def adapters_base(self) -> ModelBaseAdaptersMixin: ...

        @property
        def adapters_config(self) -> ModelAdaptersConfig: ...

    def eject_prefix_tuning(self, name: str) -> None:
        """Put what the MLP of a prefix computes in its place: the same outputs without its cost (arXiv:2101.00190, 4.3).

        The config of the adapter becomes that of a flat prefix, and the adapter is saved as such. A flat prefix stays as it
        is. Optimizers that hold the parameters of the MLP must be made anew.

        Raises:
            UnknownAdapterError: there is no such adapter.
            UnsupportedMethodError: it has no prefix.
        """
        state = self.adapters_config
        config = state.get(name)
        held = self.adapters_base.prefix_tuning.prefix_tunings
        if name not in held:
            raise UnsupportedMethodError(f"Adapter {name!r} has no prefix that could be ejected.")
        with unchanged_on_error(self.adapters_base, state):
            for tuning in cast("nn.ModuleDict", held[name]).values():
                cast("PrefixTuning", tuning).eject()
            state.adapters[name] = _flattened(config)


def _flattened(config: AdapterConfig) -> AdapterConfig:
    """The same config with a flat prefix."""
    if isinstance(config, ConfigUnion):
        return ConfigUnion(*(_flattened(member) for member in config.configs))
    return config.replace(flat=True) if isinstance(config, PrefixTuningConfig) else config
