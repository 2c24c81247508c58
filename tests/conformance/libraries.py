"""Libraries that some of upstream's models are made from, which need not be installed with all that they depend on.

timm imports torchvision for what reads and cuts pictures, and no model calls that. torchvision's wheel runs with one build of torch only,
so timm is installed alone (``pip install --no-deps timm``), and while it is imported, a stand-in has the name of torchvision. It is gone
afterwards: nothing else in the process meets it, and upstream's ``is_torchvision_available()`` says what it said before.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib
import inspect
import sys
import types
from collections.abc import Iterable, Iterator
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from unittest import mock

from transformers.utils import import_utils

STAND_INS = {"timm": ("torchvision",)}  # library -> what it imports, and none of its models calls


def missing(needs: Iterable[str]) -> str:
    """Make the libraries `needs` usable for upstream's models in this process. Why that cannot be done; "" where it was."""
    return next((why for library in needs if (why := _provided(library))), "")


@functools.cache
def _provided(library: str) -> str:
    question = getattr(import_utils, f"is_{library}_available")
    if question():
        return ""
    if library not in STAND_INS:
        return f"{library} is not installed"
    with _standing_in(STAND_INS[library]):
        try:
            importlib.import_module(library)
        except ImportError as error:
            return (
                f"{library} is not installed, or not with all that it needs (pip install --no-deps {library}): {error}"
            )
        _say_yes(question)
        _catch_up(question.__name__)
    return ""


def _say_yes(question: functools._lru_cache_wrapper[bool]) -> None:
    """Upstream asks `question` before each use of a library, and keeps the answer; so it does not ask for the others again."""
    question.cache_clear()
    with mock.patch.object(import_utils, "is_torchvision_available", return_value=True):
        question()


def _catch_up(question: str) -> None:
    """Modules of models that were imported before now import what they would have."""
    for name, module in list(sys.modules.items()):
        if name.startswith("transformers.models.") and question in vars(module):
            for statement in ast.parse(inspect.getsource(module)).body:
                if isinstance(statement, ast.If) and ast.unparse(statement.test) == f"{question}()":
                    body = ast.Module(statement.body, type_ignores=[])
                    exec(compile(body, module.__file__ or name, "exec"), vars(module))


# Stand-ins ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _standing_in(libraries: tuple[str, ...]) -> Iterator[None]:
    """While this runs, `libraries` can be imported, and have any name that is asked for."""
    absent = tuple(name for name in libraries if name not in sys.modules)
    finder = _Finder(absent)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in [name for name in sys.modules if finder.stands_in_for(name)]:
            del sys.modules[name]


class _Finder(MetaPathFinder, Loader):
    def __init__(self, libraries: tuple[str, ...]) -> None:
        self.libraries = libraries

    def stands_in_for(self, name: str) -> bool:
        return name.partition(".")[0] in self.libraries

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        return ModuleSpec(name, self, is_package=True) if self.stands_in_for(name) else None

    def create_module(self, spec: ModuleSpec) -> types.ModuleType:
        return _StandIn(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        """There is nothing to execute."""


class _Anything(type):
    """A class whose attributes are such classes."""

    def __getattr__(cls, name: str) -> type:
        return _anything(name)


class _StandIn(types.ModuleType):
    __version__ = "0.0"

    def __getattr__(self, name: str) -> type:
        return _anything(name)


def _anything(name: str) -> type:
    if name.startswith("__"):
        raise AttributeError(name)
    return _Anything(name, (), {})
