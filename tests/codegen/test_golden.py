"""Every file of two models, compared with what a person looked at and checked in.

After an intended change: ``pytest tests/codegen/test_golden.py --update-golden``, and read the diff.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from adapter_codegen.emit.disk import write
from adapter_codegen.emit.manifest import MANIFEST_PATH
from adapter_codegen.generate import Generated, generate
from adapter_codegen.upstream import open_release

GOLDEN = Path(__file__).parents[1] / "golden"
MODELS = ("bert", "llama")


@pytest.fixture(scope="module")
def generated() -> Generated:
    return generate(open_release(), MODELS)


def expected(model_type: str) -> dict[str, str]:
    folder = GOLDEN / model_type
    files = (file for file in folder.rglob("*") if file.is_file() and "__pycache__" not in file.parts)
    return {file.relative_to(folder).as_posix().removesuffix(".txt"): file.read_text("utf-8") for file in files}


def test_both_models_are_generated(generated: Generated) -> None:
    assert [plan.model_type for plan in generated.plans] == list(MODELS)


@pytest.mark.parametrize("model_type", MODELS)
def test_a_model_s_files_are_the_golden_ones(
    generated: Generated, model_type: str, pytestconfig: pytest.Config
) -> None:
    files = {path: generated.files[path] for path in generated.manifest.models[model_type].files}
    if pytestconfig.getoption("--update-golden"):
        # With ".txt" behind it, so that no tool takes a golden test module for a test or formats golden code.
        named = {f"{path}.txt": text for path, text in files.items()}
        there = {f"{path}.txt" for path in expected(model_type)}
        write(GOLDEN / model_type, named, obsolete=there - set(named), overwrite=True)
    assert files == expected(model_type)


def test_the_order_of_the_models_and_a_second_run_change_nothing(generated: Generated) -> None:
    again = generate(open_release(), reversed(MODELS))
    assert again.files == generated.files


def test_the_checked_in_tree_holds_the_same_files(generated: Generated) -> None:
    root = Path(__file__).parents[2]
    own = [path for name in MODELS for path in generated.manifest.models[name].files]
    different = [path for path in own if (root / path).read_text("utf-8") != generated.files[path]]
    assert different == [], "run: adapter-codegen add-model --existing"
    assert (root / MANIFEST_PATH).is_file()
