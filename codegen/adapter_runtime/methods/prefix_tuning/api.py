"""What models can do with prefixes."""

from __future__ import annotations

from adapter_runtime.contract.config import AdapterConfig
from adapter_runtime.contract.protocol import AdaptedModel
from adapter_runtime.contract.snapshot import unchanged_on_error
from adapter_runtime.errors import UnsupportedMethodError
from adapter_runtime.methods.configs.union import ConfigUnion
from adapter_runtime.methods.prefix_tuning.config import PrefixTuningConfig
from adapter_runtime.methods.prefix_tuning.places import prefixes_of


class PrefixTuningMixin:
    """Methods of every model with adapters."""

    def eject_prefix_tuning(self: AdaptedModel, name: str) -> None:
        """Replace the MLP of a prefix by the keys and values that it computes (arXiv:2101.00190, 4.3): the same outputs, cheaper.

        The config of the adapter becomes that of a flat prefix, and the adapter is saved as such. A flat prefix stays as it
        is. Optimizers that hold the parameters of the MLP must be made anew.

        Raises:
            UnknownAdapterError: there is no such adapter.
            UnsupportedMethodError: it has no prefix.
        """
        state = self.adapters_config
        config = state.get(name)
        parts = self.adapters_base.adapter_parts().values()
        tunings = [tuning for part in parts for tuning in prefixes_of(part, name).values()]
        if not tunings:
            raise UnsupportedMethodError(f"Adapter {name!r} has no prefix that could be ejected.")
        with unchanged_on_error(self.adapters_base, state):
            for tuning in tunings:
                tuning.eject()
            state.adapters[name] = _flattened(config)


def _flattened(config: AdapterConfig) -> AdapterConfig:
    """`config`, with `flat` set for its prefix."""
    if isinstance(config, ConfigUnion):
        return ConfigUnion(*(_flattened(member) for member in config.configs))
    return config.replace(flat=True) if isinstance(config, PrefixTuningConfig) else config
