"""Composition blocks as JSON, in the form of `adapters`, read through the explicit registry of blocks only."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from adapter_runtime.composition import BLOCKS, AdapterCompositionBlock, Average, Fuse, validate_composition
from adapter_runtime.contract.names import check_name
from adapter_runtime.contract.values import Json
from adapter_runtime.errors import AdapterFileError, InvalidCompositionError, nearest

_SINGLE = "single"  # the "type" of a child that is a name
_DEEPEST = 16  # no block that can run nests deeper; a file that does is damaged, and may not exhaust the stack

# Finds the name of a fusion whose document does not state it; gives None where there is none to be found.
FindName = Callable[[tuple[str, ...]], str | None]


def block_to_dict(block: AdapterCompositionBlock) -> dict[str, Json]:
    """The form in ``adapter_setup.json``. `adapters` reads it too, and then knows the names of fusions as well."""
    children: list[Json] = [
        {"type": _SINGLE, "children": [child]} if isinstance(child, str) else block_to_dict(child) for child in block
    ]
    result: dict[str, Json] = {"type": type(block).__name__, "children": children}
    options = {name: value for name, value in block.options().items() if value is not None}
    if isinstance(block, Average):
        options.pop("normalize_weights")  # the weights are stored as they act
    if options:
        result["kwargs"] = options
    return result


def block_from_dict(data: Json, kind: str = "adapter", find_name: FindName | None = None) -> AdapterCompositionBlock:
    """The block that a document describes.

    Args:
        data: what `block_to_dict`, or `adapters`, wrote.
        kind: what the names name, "adapter" or "head".
        find_name: for a `Fuse` without a name: `adapters` does not store it.

    Raises:
        AdapterFileError: the document is no block of a known type.
        InvalidNameError: a name could lead out of a folder.
        InvalidCompositionError: blocks are nested as they cannot be.
    """
    block = _read(data, kind, find_name, _DEEPEST)
    if isinstance(block, str):
        raise AdapterFileError(f"A setup is a block, not the single name {block!r}.")
    validate_composition(block)
    return block


def _read(data: Json, kind: str, find_name: FindName | None, depth: int) -> str | AdapterCompositionBlock:
    children = data.get("children") if isinstance(data, Mapping) else None
    if not isinstance(data, Mapping) or not isinstance(children, list):
        raise AdapterFileError(f'A block in a setup is an object with "type" and a list "children", not {data!r}.')
    if not depth:
        raise AdapterFileError(f"The blocks of the setup are nested more than {_DEEPEST} deep.")
    block_type = data.get("type")
    if block_type == _SINGLE:
        if len(children) != 1:
            raise AdapterFileError(f"A child of type {_SINGLE!r} has one name, not {children!r}.")
        return check_name(children[0], kind)
    if not isinstance(block_type, str) or block_type not in BLOCKS:
        raise AdapterFileError(
            f"The setup has a block of the unknown type {block_type!r}. {nearest(str(block_type), BLOCKS)}"
        )
    options = data.get("kwargs") or {}
    if not isinstance(options, Mapping):
        raise AdapterFileError(f'The "kwargs" of a {block_type} are options by name, not {options!r}.')
    found = [_read(child, kind, find_name, depth - 1) for child in children]
    return _build(BLOCKS[block_type], found, dict(options), find_name)


def _build(
    block: type[AdapterCompositionBlock],
    children: list[str | AdapterCompositionBlock],
    options: dict[str, Json],
    find_name: FindName | None,
) -> AdapterCompositionBlock:
    if block is Average:
        options.setdefault("normalize_weights", False)  # they were normalised, or were not to be, when written
    if block is Fuse and options.get("name") is not None:
        check_name(options["name"], "fusion")
    try:
        built = block(*children, **options)
    except (TypeError, InvalidCompositionError) as error:
        raise AdapterFileError(f"The setup has a {block.__name__} that cannot be built: {error}") from error
    if isinstance(built, Fuse) and options.get("name") is None and find_name is not None:
        name = find_name(fused_names(built))
        if name is not None and name != built.name:
            built = Fuse(*children, name=check_name(name, "fusion"))
    return built


def fused_names(fuse: Fuse) -> tuple[str, ...]:
    """The adapters whose outputs a fusion mixes: the last one of each child."""
    return tuple(child if isinstance(child, str) else child.last() for child in fuse)
