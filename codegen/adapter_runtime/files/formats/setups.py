"""``adapter_setup.json``: a composition, and the heads that run with it. Its parts lie in folders beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from adapter_runtime.composition import AdapterCompositionBlock
from adapter_runtime.contract.names import check_name
from adapter_runtime.contract.values import Json
from adapter_runtime.errors import AdapterFileError
from adapter_runtime.files.documents import read_document
from adapter_runtime.files.formats.blocks import block_from_dict, block_to_dict
from adapter_runtime.files.names import FUSION_FILES, SETUP_FILE

# None; True = the head of an upstream class; the name of a flexible head; several; a block of them.
SavedHeads: TypeAlias = bool | str | Sequence[str] | AdapterCompositionBlock | None


def head_names(heads: SavedHeads) -> list[str]:
    """The names of the flexible heads among `heads`, each once."""
    if isinstance(heads, AdapterCompositionBlock):
        return list(dict.fromkeys(heads.names()))
    if isinstance(heads, str):
        return [heads]
    return [] if heads is None or isinstance(heads, bool) else list(dict.fromkeys(heads))


def heads_to_json(heads: SavedHeads) -> Json:
    """`heads` as the document holds them."""
    if isinstance(heads, AdapterCompositionBlock):
        return block_to_dict(heads)
    return heads if heads is None or isinstance(heads, (bool, str)) else list(heads)


def read_setup(root: Path) -> tuple[AdapterCompositionBlock, SavedHeads]:
    """The composition and the heads of the setup in `root`.

    Raises:
        AdapterFileError: the document is missing or damaged.
        InvalidNameError: a name in it could lead out of the folder.
        InvalidCompositionError: blocks are nested as they cannot be.
    """
    document = read_document(root / SETUP_FILE)
    block = block_from_dict(document.get("adapter_setup"), find_name=lambda names: _stored_name(root, names))
    return block, _heads(document.get("head_setup"))


def _heads(stored: Json) -> SavedHeads:
    if stored is None or isinstance(stored, bool):
        return stored
    if isinstance(stored, Mapping):
        return block_from_dict(stored, kind="head")
    if isinstance(stored, str):
        return check_name(stored, "head")
    if isinstance(stored, list):
        return [check_name(name, "head") for name in stored]
    raise AdapterFileError(f"The head setup {stored!r} is no name, list of names or block.")


def _stored_name(root: Path, names: tuple[str, ...]) -> str | None:
    """The name of a fusion of the adapters `names`: that of the folder that holds one.

    `adapters` leaves the name out of the setup, and then cannot read its own file where the name is not the default one.

    Raises:
        AdapterFileError: several folders hold such a fusion, none of them under the default name.
    """
    default = ",".join(names)
    if (root / default).is_dir():
        return default
    documents = sorted(root.glob(f"*/{FUSION_FILES.config}"))
    found = [path.parent.name for path in documents if _mixes(path, names)]
    if len(found) > 1:
        raise AdapterFileError(
            f"{root / SETUP_FILE} does not say which of its fusions of {default} it means: {', '.join(found)}."
        )
    return found[0] if found else None


def _mixes(path: Path, names: tuple[str, ...]) -> bool:
    stored = read_document(path).get("adapter_names")
    found = stored.split(",") if isinstance(stored, str) else stored
    return isinstance(found, list) and found == list(names)
