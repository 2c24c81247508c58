"""Non-linearities by the names that configs have for them: those of transformers, and those of `adapters`."""

from __future__ import annotations

from torch import nn
from transformers.activations import ACT2FN

from adapter_runtime.contract.config import AdapterConfig
from adapter_runtime.errors import InvalidConfigError, nearest

_OTHER_NAMES = {"leakyrelu": "leaky_relu"}  # of `adapters`


def activation(name: str) -> nn.Module:
    """The non-linearity of that name, as transformers or `adapters` call it.

    Raises:
        InvalidConfigError: neither does.
    """
    known = _known(name)
    if known is None:
        raise InvalidConfigError(f"No activation is called {name!r}. {nearest(str(name), ACT2FN)}")
    made: nn.Module = ACT2FN[known]
    return made


def check_activation(config: AdapterConfig) -> None:
    """Check the option `non_linearity`.

    Raises:
        InvalidConfigError: no activation has that name.
    """
    name = config["non_linearity"]
    if _known(name) is None:
        raise InvalidConfigError(
            f"{type(config).__name__}: non_linearity is {name!r}, but no activation is called that. {nearest(str(name), ACT2FN)}"
        )


def _known(name: object) -> str | None:
    """The name that transformers has for it; None where it has none."""
    if not isinstance(name, str):
        return None
    known = _OTHER_NAMES.get(name.lower(), name.lower())
    return known if known in ACT2FN else None
