"""Where upstream's tests are, and how they are imported."""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

# A checkout of transformers, with the tests of each model.
CHECKOUT = "TRANSFORMERS_CHECKOUT"
# The folder ``tests`` out of the source archive of the installed release.
TESTS = "ADAPTER_CODEGEN_UPSTREAM_TESTS"
# What ``test_modeling_common`` imports and the archive does not have: module -> the one name that is taken out of it.
STAND_INS = {
    "exporters.test_export": "ExportTesterMixin",
    "generation.test_utils": "GenerationTesterMixin",
}
COMMON = "test_modeling_common"
# Upstream's files import one another relatively, so that their folder may go by any name; `tests` could be someone else's.
PACKAGE = "tests_of_transformers"


class UpstreamTestsError(Exception):
    """A variable names a folder without upstream's tests, or a checkout has no test class for a model."""


def folder() -> Path | None:
    """Upstream's folder ``tests``: of the checkout if there is one, else of the archive; None where neither is named.

    Raises:
        UpstreamTestsError: a variable names something else.
    """
    for variable, inside in ((CHECKOUT, "tests"), (TESTS, "")):
        if named := os.environ.get(variable):
            found = Path(named) / inside
            if not (found / f"{COMMON}.py").is_file():
                raise UpstreamTestsError(
                    f"{variable} is {named}, where no {Path(inside) / COMMON}.py is. Name "
                    + ("a checkout of transformers." if inside else "the folder that tests/upstream/fetch.py wrote.")
                )
            return found
    return None


def why_not() -> str:
    """Why upstream's tests cannot run here; "" if they can."""
    if folder() is not None:
        return ""
    return (
        f"upstream's tests are not here: {TESTS} names no folder of the source archive of transformers "
        "(python tests/upstream/fetch.py FOLDER fetches it), and "
        f"{CHECKOUT} no checkout"
    )


@functools.cache
def common() -> ModuleType:
    """Upstream's ``test_modeling_common``, with stand-ins for those modules of `STAND_INS` that are not there."""
    tests = folder()
    if tests is None:
        raise UpstreamTestsError(why_not())
    _package(PACKAGE, tests)
    for module, name in STAND_INS.items():
        if not tests.joinpath(*module.split(".")).with_suffix(".py").is_file():
            _stand_in(module, name)
    return _imported(COMMON)


def own_class(model_type: str) -> type | None:
    """Upstream's own test class for the main class of a model type, out of the checkout; None where there is no checkout.

    It is known by what it is: a test case on `ModelTesterMixin`, in a file of the model's folder, whose models have the
    configuration of the model type.

    Raises:
        UpstreamTestsError: there is none.
    """
    tests = folder()
    if tests is None or not os.environ.get(CHECKOUT):
        return None
    mixin = common().ModelTesterMixin
    files = list(_test_files(tests, model_type))
    for file in files:
        module = _imported(".".join(file.relative_to(tests).with_suffix("").parts))
        for _, found in inspect.getmembers(module, inspect.isclass):
            if issubclass(found, mixin) and found.__module__ == module.__name__ and _tests_type(found, model_type):
                return found
    looked = ", ".join(str(file.relative_to(tests)) for file in files) or "no file"
    raise UpstreamTestsError(
        f"{CHECKOUT} has no subclass of ModelTesterMixin for the model type {model_type!r} (looked into {looked})."
    )


def _test_files(tests: Path, model_type: str) -> Iterator[Path]:
    """The files that may hold the test class of `model_type`: in the folder that its modeling file stands in."""
    from transformers import CONFIG_MAPPING

    package = CONFIG_MAPPING[model_type].__module__.split(".")[-2]
    first = tests / "models" / package / f"test_modeling_{package}.py"
    others = sorted(first.parent.glob("test_modeling_*.py"))
    yield from dict.fromkeys(file for file in (first, *others) if file.is_file())


def _tests_type(case: type, model_type: str) -> bool:
    """`case` tests models of this type: some class that it names, itself or in its model tester, has its configuration."""
    tester = getattr(case, "model_tester_class", None)
    named = [
        *(getattr(case, "all_model_classes", None) or ()),
        *(value for value in (vars(tester).values() if tester else ()) if isinstance(value, type)),
    ]
    configs = (getattr(cls, "config_class", None) for cls in named)
    return any(getattr(config, "model_type", None) == model_type for config in configs)


def _imported(module: str) -> ModuleType:
    """A module of upstream's tests. It marks tests with markers that upstream's configuration of pytest declares, and ours does
    not: while it is imported, any marker is accepted."""
    config, pytest.mark._config = pytest.mark._config, None
    try:
        return importlib.import_module(f"{PACKAGE}.{module}")
    finally:
        pytest.mark._config = config


def _package(name: str, path: Path | None = None) -> ModuleType:
    package = ModuleType(name)
    package.__path__ = [] if path is None else [str(path)]
    sys.modules[name] = package
    return package


def _stand_in(module: str, name: str) -> None:
    """Put an empty class `name` where upstream's file would be."""
    parent, _, leaf = module.rpartition(".")
    package = _package(f"{PACKAGE}.{parent}")
    made = ModuleType(f"{PACKAGE}.{module}")
    empty: Callable[..., Any] = type
    setattr(
        made, name, empty(name, (), {"__doc__": "Stands in for upstream's class, which the archive lacks: no tests."})
    )
    setattr(package, leaf, made)
    sys.modules[made.__name__] = made
