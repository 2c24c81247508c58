"""The names of files and folders on disk: those of `adapters`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from adapter_runtime.contract.names import check_name

Folder = str | os.PathLike[str]


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
EMBEDDING_FILE = "embedding.pt"
TOKENIZER_FOLDER = "tokenizer"  # beside embeddings
CARD_FILE = "README.md"


def child_folder(parent: Path, name: str, kind: str = "adapter") -> Path:
    """The folder of adapter or head `name` inside `parent`.

    Raises:
        InvalidNameError: `name` could lead elsewhere.
    """
    return parent / check_name(name, kind)
