"""Defects of `adapters` in models that are not checked in."""

from __future__ import annotations

from pathlib import Path

import pytest

from generated_aside import errors_of, names_in

pytestmark = pytest.mark.slow

CHECKS = Path(__file__).with_name("checks_of_other_models.py")
MODELS = ("bart", "bert-generation", "deberta", "distilbert", "gpt2", "mistral", "modernbert", "vit")


@pytest.fixture(scope="module")
def errors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Check -> what went wrong, or ""."""
    return errors_of(CHECKS, MODELS, tmp_path_factory.mktemp("other"))


@pytest.mark.parametrize("check", names_in(CHECKS, "defect_"))
def test_a_generated_model_does_not_have(check: str, errors: dict[str, str]) -> None:
    assert check in errors, f"{check} was not run"
    assert not errors[check], errors[check]
