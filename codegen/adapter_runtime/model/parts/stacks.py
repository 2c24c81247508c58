"""The layers of a model, in the lists that the plan found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import nn

from adapter_runtime.contract.paths import found
from adapter_runtime.errors import UnsupportedModelError
from adapter_runtime.roles import LayerStack


def layers_in(model: nn.Module, stack: LayerStack) -> Iterator[nn.Module]:
    """The layers of a list, or of the lists that stand in its elements, as `LayerStack.path` says.

    None where upstream's config leaves the list, or what holds it, out. A list of lists (Funnel's blocks) holds their layers.

    Raises:
        UnsupportedModelError: there is nothing at the path.
    """
    elements, optional = [model], stack.optional
    for path in stack.path.split(".*."):
        holders = _with_list(elements, path) if stack.in_some else elements
        elements = [element for holder in holders for element in _present(holder, path, optional)]
        optional = ""  # which is the beginning of the whole path
    for element in elements:
        yield from element.children() if isinstance(element, nn.ModuleList) else (element,)


def _with_list(elements: Sequence[nn.Module], path: str) -> Sequence[nn.Module]:
    """Those that hold a list at a path; all, where none does, so that a path that is wrong is an error all the same."""
    return [element for element in elements if found(element, path) is not None] or elements


def _present(module: nn.Module, path: str, optional: str) -> Iterator[nn.Module]:
    """The elements of the list at `path`; none where upstream set a part of the path to None, or left out what is `optional`.

    Raises:
        UnsupportedModelError: there is nothing at the path.
    """
    holder, so_far = module, ""
    for name in path.split("."):
        so_far = f"{so_far}.{name}".lstrip(".")
        child: object = getattr(holder, name, "")  # None is what upstream sets; "" = it sets nothing
        if child is None or (child == "" and so_far == optional):
            return
        if not isinstance(child, nn.Module):
            raise UnsupportedModelError(
                f"{type(module).__name__} has no layers at {path!r}, where its adapter classes say."
            )
        holder = child
    yield from holder.children()
