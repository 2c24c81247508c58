"""Invertible adapters of models that add positions to what their table of tokens gives: they stand at the table."""

from __future__ import annotations

from pathlib import Path

import pytest

from generated_aside import errors_of, names_in

pytestmark = pytest.mark.slow

CHECKS = Path(__file__).with_name("checks_of_token_tables.py")
MODELS = ("m2m_100", "opt", "pegasus", "whisper", "xglm")


@pytest.fixture(scope="module")
def errors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Check -> what went wrong, or ""."""
    return errors_of(CHECKS, MODELS, tmp_path_factory.mktemp("tables"))


@pytest.mark.parametrize("check", names_in(CHECKS, "tables_"))
def test_at_a_table(check: str, errors: dict[str, str]) -> None:
    assert check in errors, f"{check} was not run"
    assert not errors[check], errors[check]
