"""Every name of the table can be imported, from where the table says and from where users import it."""

from __future__ import annotations

import importlib
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import adapter_models
import adapter_runtime
from adapter_runtime.contract.registry import registered
from adapter_runtime.public import OF_THE_RUNTIME, PUBLIC, SECOND_PATHS, SUBMODULES

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("module", sorted({*PUBLIC, *OF_THE_RUNTIME}))
def test_a_module_defines_the_names_that_the_table_gives_it(module: str) -> None:
    home = importlib.import_module(f"adapter_runtime.{module}")
    for name in (*PUBLIC.get(module, ()), *OF_THE_RUNTIME.get(module, ())):
        assert getattr(adapter_runtime, name) is getattr(home, name)


def test_the_root_of_the_models_offers_the_public_names_and_the_classes_of_models() -> None:
    public = {name for names in PUBLIC.values() for name in names}
    models = {dotted.rpartition(".")[2] for dotted in registered().adapter_models.values()}
    assert set(adapter_models.__all__) == public | models
    assert adapter_models.__all__ == sorted(adapter_models.__all__)
    for name in adapter_models.__all__:
        assert getattr(adapter_models, name) is not None


@pytest.mark.parametrize("path", [*SUBMODULES, *SECOND_PATHS])
def test_a_submodule_offers_the_names_of_its_row(path: str) -> None:
    _, whole, further = SUBMODULES[SECOND_PATHS.get(path, path)]
    expected = {name for module in whole for name in PUBLIC[module]} | {n for names in further.values() for n in names}
    module = importlib.import_module(f"adapter_models.{path}")
    assert set(module.__all__) == expected
    assert all(hasattr(module, name) for name in expected)


def test_no_name_stands_in_the_table_twice() -> None:
    names = [name for table in (PUBLIC, OF_THE_RUNTIME) for entries in table.values() for name in entries]
    assert len(names) == len(set(names))


def test_a_name_that_nobody_offers_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        adapter_models.Nothing  # noqa: B018


def test_the_version_is_that_of_the_distribution() -> None:
    assert adapter_models.__version__ == version("adapter-codegen")
    assert "__version__" in dir(adapter_models)


def test_nothing_is_looked_up_or_imported_before_it_is_asked_for() -> None:
    heavy = ("importlib.metadata", "torch", "transformers")
    program = f"import sys, adapter_models; print([name for name in {heavy} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
