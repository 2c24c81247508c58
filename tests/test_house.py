"""The measures of ``benchmarks/house.py``: their ceilings, and that they count what they say."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def house() -> ModuleType:
    """The script, with its neighbours on the path as when it is run."""
    path = ROOT / "benchmarks" / "house.py"
    spec = importlib.util.spec_from_file_location("house", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["house"] = module
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent))
    return module


def test_no_ceiling_is_broken(house: ModuleType) -> None:
    wrong = house.broken(ROOT, with_mypy=False)
    assert not wrong, "\n".join(wrong)


def checkout(folder: Path, code: str) -> Path:
    """A checkout whose runtime is one file."""
    for package, text in (("adapter_runtime", code), ("adapter_codegen", "")):
        (folder / "codegen" / package).mkdir(parents=True)
        (folder / "codegen" / package / "code.py").write_text(text, encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("code", "length"),
    [
        pytest.param("def f() -> int:\n    return 1", 2, id="its first line counts"),
        pytest.param(
            'def f() -> int:\n    """One.\n\n    Two.\n    """\n    return 1', 2, id="its docstring does not"
        ),
        pytest.param("@cache\ndef f() -> int:\n    return 1", 2, id="nor do decorators"),
    ],
)
def test_length_of_a_function(house: ModuleType, tmp_path: Path, code: str, length: int) -> None:
    assert house.lengths(checkout(tmp_path, code) / "codegen" / "adapter_runtime") == [length]


@pytest.mark.parametrize(
    ("code", "count"),
    [
        pytest.param("def f(x: int, *rest: int, y: int = 0, **more: int) -> int: ...", 0, id="all have types"),
        pytest.param("class A:\n    def f(self) -> None: ...", 0, id="a receiver needs none"),
        pytest.param("def f(x: int): ...", 1, id="a result without a type"),
        pytest.param("def f(x) -> int: ...", 1, id="an argument without a type"),
        pytest.param("def f(**more) -> int: ...", 1, id="arguments by name without a type"),
        pytest.param("def f(x: int, self) -> int: ...", 1, id="self is only a receiver where it stands first"),
    ],
)
def test_unannotated(house: ModuleType, tmp_path: Path, code: str, count: int) -> None:
    assert house.unannotated(checkout(tmp_path, code)) == count


CLASSES = """
class MineConfig(AdapterConfig): ...
class OwnLayer(TensorLayer[P]): ...
class Other: ...
"""


@pytest.mark.parametrize(
    ("code", "count"),
    [
        pytest.param("isinstance(x, Other)", 0, id="a class that is no config"),
        pytest.param("isinstance(x, AdapterConfig)", 0, id="the config of no method in particular"),
        pytest.param("isinstance(x, MineConfig)", 1, id="a method's config"),
        pytest.param("isinstance(x, (int, MineConfig))", 1, id="among others"),
        pytest.param("isinstance(x, int | OwnLayer)", 1, id="a method's layer, in a union"),
        pytest.param("issubclass(x, MineConfig)", 0, id="only `isinstance` counts"),
    ],
)
def test_tests_of_concrete_classes(house: ModuleType, tmp_path: Path, code: str, count: int) -> None:
    folder = checkout(tmp_path, code) / "codegen" / "adapter_runtime"
    (folder / "mine").mkdir()
    (folder / "mine" / "all.py").write_text(
        "class TensorLayer(AdapterLayerBase): ...\n" + CLASSES + "isinstance(x, MineConfig)", encoding="utf-8"
    )
    assert house.tests_of_concrete_classes(tmp_path) == count


@pytest.mark.parametrize(
    ("code", "count"),
    [
        pytest.param("getattr(module, name)", 0, id="another object"),
        pytest.param("getattr(context, 'has_running_invertible')", 0, id="another name"),
        pytest.param("program.children", 0, id="an attribute that is there"),
        pytest.param("getattr(program, 'last', program)", 1, id="a program"),
        pytest.param("hasattr(layer.running, 'length')", 1, id="what runs in a layer"),
        pytest.param("hasattr(module, 'running')", 1, id="whether there is a program"),
    ],
)
def test_lookups_on_programs(house: ModuleType, tmp_path: Path, code: str, count: int) -> None:
    assert house.lookups_on_programs(checkout(tmp_path, code)) == count


def test_arrows_up_are_the_fewest(house: ModuleType, tmp_path: Path) -> None:
    runtime = checkout(tmp_path, "") / "codegen" / "adapter_runtime"
    for name, uses in {"a": "", "b": "a c", "c": "a b", "d": "a b c"}.items():
        lines = [f"from adapter_runtime.{other} import x" for other in uses.split()]
        (runtime / f"{name}.py").write_text("\n".join(lines), encoding="utf-8")
    assert house.arrows_up(tmp_path) == 1, "b and c use each other"
    assert house.floor_count(tmp_path) == 4
    assert house.files_in_circles(Path("codegen", "adapter_runtime"))(tmp_path) == 2
