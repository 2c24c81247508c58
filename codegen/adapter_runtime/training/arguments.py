"""Options of training scripts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Optional


@dataclass
class AdapterArguments:
    """What a training script asks its user about adapters, for transformers' `HfArgumentParser`.

    `setup_adapter_training` carries the answers out.
    """

    # `Optional`, not `X | None`: releases of HfArgumentParser for older Pythons read only the former.
    train_adapter: bool = field(default=False, metadata={"help": "Train an adapter in place of the whole model."})
    load_adapter: Optional[str] = field(  # noqa: UP045
        default="", metadata={"help": "Folder or repository of an adapter to go on training; empty: a new one."}
    )
    adapter_config: Optional[str] = field(  # noqa: UP045
        default="seq_bn",
        metadata={"help": "Config of a new adapter: a name, a config string or the path of a JSON file."},
    )
    load_lang_adapter: Optional[str] = field(  # noqa: UP045
        default=None,
        metadata={"help": "Folder or repository of a language adapter, which runs before the trained one, frozen."},
    )
    lang_adapter_config: Optional[str] = field(  # noqa: UP045
        default=None,
        metadata={"help": "Config that the language adapter is expected to have; its files decide."},
    )
