"""Classes made at run time from a mixin of ours and a class of upstream, such that their objects can be pickled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, SupportsIndex

from torch import nn
from typing_extensions import Never

from adapter_runtime.call.arguments import ModelForward
from adapter_runtime.errors import UnsupportedModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel as _Upstream  # what a mixin may count on
else:
    _Upstream = object


# (transformers has no types for mypy, so that a class of it is Any.)
class DynamicMixin(_Upstream):  # type: ignore[misc]
    """Base of mixins that `subclass` combines with upstream classes."""

    def __reduce_ex__(self, protocol: SupportsIndex) -> str | tuple[Any, ...]:
        made_of = type(self).__dict__.get("_made_of")
        reduced: str | tuple[Any, ...] = super().__reduce_ex__(protocol)
        if made_of is None:
            return reduced
        return (_new, made_of, *reduced[2:])

    @classmethod
    def prepare_subclass(cls, upstream: type[nn.Module]) -> dict[str, ModelForward[Never]]:
        """Further attributes of the class made of this mixin and `upstream`."""
        return {}


# One class per pair, so that objects of the same mixin and upstream class share it.
_MADE: dict[tuple[type, type], type[nn.Module]] = {}


def subclass(mixin: type, upstream: type[nn.Module]) -> type[nn.Module]:
    """The class that inherits from `mixin`, then from `upstream`. It has upstream's name and module.

    Upstream compares class names (``_no_split_modules``), writes them to files (``architectures``) and reads the source
    of a class's module, so a class made here must look like the one that it extends.

    Args:
        mixin: of ours; or a generated class of `upstream` with both among its bases, whose own forward was edited (XLM).
    """
    if (mixin, upstream) in _MADE:
        return _MADE[mixin, upstream]
    namespace: dict[str, str | tuple[type, type] | ModelForward[Never] | None] = {
        "__module__": upstream.__module__,
        "__qualname__": upstream.__qualname__,
        "__doc__": upstream.__doc__,
        "_made_of": (mixin, upstream),
    }
    bases = (mixin,) if issubclass(mixin, upstream) else (mixin, upstream)
    if issubclass(mixin, DynamicMixin):
        namespace.update(mixin.prepare_subclass(bases[-1]))
    made = _MADE[mixin, upstream] = type(upstream.__name__, bases, namespace)
    return made


def _new(mixin: type, upstream: type[nn.Module]) -> nn.Module:
    """An object of the class that `subclass` gives, without attributes; pickle and copy fill it."""
    made: nn.Module = object.__new__(subclass(mixin, upstream))
    return made


def change_class(module: nn.Module, made: type) -> None:
    """Make `module` an object of `made`, a subclass of its class.

    Raises:
        UnsupportedModelError: `made` would hide a child, parameter or attribute of the module by one of its own names.
    """
    held = {name for name in vars(module) if not name.startswith("_")} - {"forward"}  # accelerate puts one there
    held |= {*module._modules, *module._parameters, *module._buffers}
    added = (cls for cls in made.__mro__ if cls not in type(module).__mro__)
    hidden = held & {name for cls in added for name in vars(cls)}
    if hidden:
        raise UnsupportedModelError(
            f"{type(module).__name__} has {', '.join(sorted(hidden))}, which adapters need as names of their own. "
            "Please report this model: the names in adapter_runtime have to give way."
        )
    module.__class__ = made
