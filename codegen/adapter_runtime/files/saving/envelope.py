"""What every file says about the model that it was written from, and by what it was written."""

from __future__ import annotations

from pathlib import Path

from adapter_runtime import __version__
from adapter_runtime.contract.config_values import config_value
from adapter_runtime.contract.protocol import AdaptedModel
from adapter_runtime.contract.values import Json
from adapter_runtime.files import heads as head_files
from adapter_runtime.files.documents import write_document
from adapter_runtime.files.formats.own import WRITER
from adapter_runtime.files.names import INTERFACE_FILE


def envelope(model: AdaptedModel) -> dict[str, Json]:
    """The entries that all JSON files of adapters, heads and fusions have."""
    return {
        "model_type": model.config.model_type,
        "model_class": head_files.upstream_class_name(model),
        "model_name": model.config.name_or_path or "",
        "hidden_size": config_value(model.config, "hidden_size"),
        "version": written_by(),
    }


def written_by() -> str:
    """The "version" that every file states: name and version of this library."""
    return f"{WRITER}.{__version__}"


def write_interface(model: AdaptedModel, folder: Path) -> None:
    """Write ``adapter_interface.json`` for a model without generated classes; for others nothing."""
    described = model.adapters_base.described_interface()
    if described is not None:
        document = {"model_type": model.adapters_base.config.model_type, **described, "version": written_by()}
        write_document(folder / INTERFACE_FILE, document)
