"""Classes made at run time from a mixin of ours and a class of upstream, such that their objects can be pickled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, SupportsIndex

if TYPE_CHECKING:
    from transformers import PreTrainedModel as _Upstream  # what a mixin may count on
else:
    _Upstream = object


class DynamicMixin(_Upstream):  # type: ignore[misc]
    """Base of mixins that `subclass` combines with upstream classes."""

    def __reduce_ex__(self, protocol: SupportsIndex) -> Any:
        made_of = type(self).__dict__.get("_made_of")
        reduced: Any = super().__reduce_ex__(protocol)
        if made_of is None:
            return reduced
        return (_new, made_of, *reduced[2:])


_MADE: dict[tuple[type, type], type] = {}  # one class per pair: objects of equal make are of one class


def subclass(mixin: type, upstream: type) -> type:
    """The class of objects that are `upstream` with `mixin`. It has upstream's name and module.

    Upstream compares class names (``_no_split_modules``), writes them to files (``architectures``) and reads the source
    of a class's module, so a class made here must look like the one that it extends.
    """
    if (mixin, upstream) in _MADE:
        return _MADE[mixin, upstream]
    namespace: dict[str, Any] = {
        "__module__": upstream.__module__,
        "__qualname__": upstream.__qualname__,
        "__doc__": upstream.__doc__,
        "_made_of": (mixin, upstream),
    }
    prepare = getattr(mixin, "prepare_subclass", None)
    if prepare is not None:
        namespace.update(prepare(upstream))
    made = _MADE[mixin, upstream] = type(upstream.__name__, (mixin, upstream), namespace)
    return made


def _new(mixin: type, upstream: type) -> Any:
    made = subclass(mixin, upstream)
    return object.__new__(made)
