"""Models that do what few others do, and are not checked in: what the runtime makes of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from generated_aside import errors_of, names_in

pytestmark = pytest.mark.slow

CHECKS = Path(__file__).with_name("checks_of_odd_models.py")
MODELS = (
    *("esmc", "gte", "hrm_text", "lilt", "lxmert", "megatron-bert", "mixtral", "nomic_bert", "openai-gpt", "owlvit"),
    *("prophetnet", "rembert", "roformer", "tapas"),
)


@pytest.fixture(scope="module")
def errors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Check -> what went wrong, or ""."""
    return errors_of(CHECKS, MODELS, tmp_path_factory.mktemp("odd"))


@pytest.mark.parametrize("check", names_in(CHECKS, "odd_"))
def test_it_is_right_that(check: str, errors: dict[str, str]) -> None:
    assert check in errors, f"{check} was not run"
    assert not errors[check], errors[check]
