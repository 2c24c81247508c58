"""What a person may add to a plan, and what is refused."""

from __future__ import annotations

import pytest

from adapter_codegen.diagnostics.errors import CodegenError
from adapter_codegen.model import Method, ModelPlan
from adapter_codegen.plan import plan_model
from adapter_codegen.plan.told.overrides import apply_override, read_overrides
from adapter_codegen.upstream import Release


@pytest.mark.parametrize(
    ("text", "code"),
    [
        pytest.param("[llama", "P300", id="text that is not TOML"),
        pytest.param('[llama]\nreason = "r"\nhead = "x"', "P301", id="a key that nobody knows"),
        pytest.param('[llama]\nunsupported = ["lora"]', "P302", id="an entry without a reason"),
        pytest.param('[llama]\nreason = " "\nunsupported = ["lora"]', "P302", id="an empty reason"),
        pytest.param('[llama]\nreason = "r"\nunsupported = ["magic"]', "P303", id="a method that does not exist"),
        pytest.param('llama = "r"', "P303", id="a value where a table should be"),
    ],
)
def test_a_wrong_entry_is_an_error(text: str, code: str) -> None:
    with pytest.raises(CodegenError) as caught:
        read_overrides(text)
    assert [one.code for one in caught.value.diagnostics] == [code]
    assert all(one.remedy for one in caught.value.diagnostics)


def test_the_file_that_comes_with_the_tool_can_be_read() -> None:
    assert all(entry.reason for entry in read_overrides().values())


@pytest.fixture(scope="module")
def llama(release: Release) -> ModelPlan:
    plan = plan_model(release, "llama", {})
    assert isinstance(plan, ModelPlan)
    return plan


@pytest.mark.parametrize(
    "entry",
    [
        pytest.param("", id="an entry with nothing but a reason"),
        pytest.param('final_norm = "norm"', id="a path that the plan has found already"),
    ],
)
def test_an_entry_that_changes_nothing_is_an_error(llama: ModelPlan, entry: str) -> None:
    override = read_overrides(f'[llama]\nreason = "r"\n{entry}')["llama"]
    with pytest.raises(CodegenError) as caught:
        apply_override(llama, override)
    assert [one.code for one in caught.value.diagnostics] == ["P304"]


def test_an_entry_switches_a_method_off_and_says_why(llama: ModelPlan) -> None:
    override = read_overrides('[llama]\nreason = "because"\nunsupported = ["lora"]')["llama"]
    plan = apply_override(llama, override)
    assert not plan.supports(Method.LORA)
    assert next(one.reason for one in plan.methods if one.method is Method.LORA) == "because"
    assert plan.overrides == ("llama",)
    assert plan.supports(Method.BOTTLENECK)


def test_an_entry_names_a_path(llama: ModelPlan) -> None:
    override = read_overrides('[llama]\nreason = "r"\nfinal_norm = "other"')["llama"]
    assert apply_override(llama, override).base.final_norm == "other"
