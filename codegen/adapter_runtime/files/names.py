"""File names on disk (those of `adapters`), and which names of adapters and heads may become paths and modules."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from adapter_runtime.errors import AdapterError


@dataclass(frozen=True)
class FileSet:
    """The three files that an adapter, a head or a fusion can consist of."""

    kind: str  # for messages: "adapter", "head", "fusion"
    config: str
    safetensors: str
    pickle: str


ADAPTER_FILES = FileSet("adapter", "adapter_config.json", "adapter.safetensors", "pytorch_adapter.bin")
HEAD_FILES = FileSet("head", "head_config.json", "model_head.safetensors", "pytorch_model_head.bin")
FUSION_FILES = FileSet(
    "fusion",
    "adapter_fusion_config.json",
    "model_adapter_fusion.safetensors",
    "pytorch_model_adapter_fusion.bin",
)
PEFT_FILES = FileSet("PEFT adapter", "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")
INTERFACE_FILE = "adapter_interface.json"  # beside adapters of models that an interface describes
SETUP_FILE = "adapter_setup.json"  # beside one folder for each adapter, fusion and head
CARD_FILE = "README.md"

_FORBIDDEN = frozenset('./\\:*?"<>|\0')
_RESERVED = nn.ModuleDict()


class InvalidNameError(AdapterError, ValueError):
    """A name that cannot be the name of an adapter or a head."""


def check_name(name: object, kind: str = "adapter") -> str:
    """Return `name` if it can name a module and a folder.

    Raises:
        InvalidNameError: it is no string, is empty, holds a separator, a dot or a control character, or is an attribute
            of the containers of modules ("keys").
    """
    if not isinstance(name, str) or not name:
        raise InvalidNameError(f"The name of {_article(kind)} is a non-empty string, not {name!r}.")
    bad = sorted({char for char in name if char in _FORBIDDEN or not char.isprintable()})
    if bad:
        shown = " ".join(map(repr, bad))
        raise InvalidNameError(f"The {kind} name {name!r} contains {shown}. Names become module names and folders.")
    if hasattr(_RESERVED, name):
        raise InvalidNameError(f"{name!r} is an attribute of torch's modules and cannot name {_article(kind)}.")
    return name


def _article(kind: str) -> str:
    return f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"


def child_folder(parent: Path, name: str, kind: str = "adapter") -> Path:
    """The folder of adapter or head `name` inside `parent`.

    Raises:
        InvalidNameError: `name` could lead elsewhere.
    """
    return parent / check_name(name, kind)
