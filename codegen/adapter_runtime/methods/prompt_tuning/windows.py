"""Whether layers tell how many columns lie between a prompt and a token: then padding must not stand between the two.

Attention to all columns sees a prompt wherever it stands, and tells distances by positions. A window of columns ends before a prompt that
stands in front of much padding; a convolution does so sooner, and the state of a recurrence fades on the way.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from transformers import PreTrainedConfig

# What upstream's configs call the sizes of these, and the kinds of their layers.
_SIZE = re.compile(
    r"(^|_)(window|windows|window_size|local_attention|attention_chunk_size|conv_kernel|state_size|d_state|d_conv|conv_kernel_dim)$"
)
_KINDS = frozenset({"layer_types", "layers_block_type", "block_types", "attention_layers"})
_TO_ALL = frozenset({"full_attention", "attention", "global"})


def counts_columns(config: PreTrainedConfig) -> bool:
    """Whether a config, or one inside of it, has layers to which the number of columns between two places means something."""
    return any(_is_narrow(name, value) for name, value in _entries(config.to_dict()))


def _entries(config: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _entries({str(key): entry for key, entry in value.items()})
        else:
            yield name, value


def _is_narrow(name: str, value: object) -> bool:
    """Whether an entry of a config says so; a size of 0 or None, or a flag, says nothing."""
    if name in _KINDS:
        return isinstance(value, (list, tuple)) and any(kind not in _TO_ALL for kind in value)
    return _SIZE.search(name) is not None and not isinstance(value, bool) and bool(value)
