"""A composition as files: its adapters, fusions and heads in folders of their names, and a document beside them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from adapter_runtime.composition import AdapterCompositionBlock, Setup, parse_composition
from adapter_runtime.contract.protocol import AdaptedModel
from adapter_runtime.errors import InvalidCompositionError
from adapter_runtime.files import heads as head_files
from adapter_runtime.files.documents import write_document
from adapter_runtime.files.formats.blocks import block_to_dict
from adapter_runtime.files.formats.setups import SavedHeads, head_names, heads_to_json
from adapter_runtime.files.names import SETUP_FILE, Folder, child_folder
from adapter_runtime.files.options import AS_IT_IS, SaveOptions
from adapter_runtime.files.saving.adapter import save_adapter
from adapter_runtime.files.saving.envelope import written_by
from adapter_runtime.files.saving.fusion import save_adapter_fusion
from adapter_runtime.files.saving.head import save_head
from adapter_runtime.methods.fusion.api import fusions_in


def save_adapter_setup(
    model: AdaptedModel,
    save_directory: Folder,
    adapter_setup: Setup,
    heads: SavedHeads = None,
    options: SaveOptions = AS_IT_IS,
) -> None:
    """See `SetupFilesMixin.save_adapter_setup`.

    Raises:
        InvalidCompositionError: the setup is None.
    """
    block = parse_composition(adapter_setup)
    if block is None:
        raise InvalidCompositionError("There is no setup to save: give a name or a block.")
    _check_present(model, block, heads)
    root, names = Path(save_directory), list(dict.fromkeys(block.names()))
    of_parts = replace(options, custom_weights_loaders=())
    for name in names:
        save_adapter(model, child_folder(root, name), name, of_parts)
    for fuse in fusions_in(block):
        save_adapter_fusion(model, child_folder(root, fuse.name, "fusion"), fuse, options=of_parts)
    if heads is True:
        save_head(model, root, None, options.use_safetensors)
    for name in head_names(heads):
        save_head(model, child_folder(root, name, "head"), name, options.use_safetensors)
    options.run_savers(root, names[-1])
    document = {
        "adapter_setup": block_to_dict(block),
        "head_setup": heads_to_json(heads),
        "version": written_by(),
    }
    write_document(root / SETUP_FILE, document)


def _check_present(model: AdaptedModel, block: AdapterCompositionBlock, heads: SavedHeads) -> None:
    """Raise, before anything is written, where a part of the setup is not there."""
    model.adapters_config.require_block(block)
    for name in [None] if heads is True else head_names(heads):
        head_files.export(model, name)
