"""A new kind of attention core is one file and one line: `made_up_core.Radial` is found once it stands in the table."""

from __future__ import annotations

import pytest

from adapter_codegen.model import Method, PrefixSite
from adapter_codegen.plan.attention import table
from adapter_codegen.plan.module import ModulePlan
from made_up_core import Radial
from plan_snippets import plan_of_attention

PROJECT = """
shape = (*states.shape[:-1], -1, self.head_dim)
query = self.q(states).view(shape).transpose(1, 2)
key = self.k(states).view(shape).transpose(1, 2)
value = self.v(states).view(shape).transpose(1, 2)
"""
CALL = "out = kernels.radial_attention(query, key, value, mask, radius=3)"
RETURN = "return self.o(out), None"


def sites(plan: ModulePlan) -> list[PrefixSite]:
    return [site for entry in plan.classes for site in entry.prefix_sites]


@pytest.fixture
def with_radial(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "CORE_KINDS", (*table.CORE_KINDS, Radial()))


def test_without_its_line_in_the_table_the_layer_has_no_attention() -> None:
    plan = plan_of_attention(PROJECT, CALL, RETURN)
    assert not plan.entries and {one.code for one in plan.diagnostics} == {"P250"}


@pytest.mark.usefixtures("with_radial")
@pytest.mark.parametrize(
    "call",
    [
        pytest.param("out = kernels.radial_attention(query, key)", id="a call without values"),
        pytest.param("out = kernels.axial_attention(query, key, value, mask)", id="a call of another kernel"),
        pytest.param("out = query.radial_attention(key, value, mask)", id="a method of a tensor of that name"),
    ],
)
def test_what_only_looks_like_it_is_no_core(call: str) -> None:
    plan = plan_of_attention(PROJECT, call, RETURN)
    assert not any(entry.plan.attentions for entry in plan.entries)


@pytest.mark.usefixtures("with_radial")
def test_an_argument_that_it_does_not_claim_refuses_the_core() -> None:
    plan = plan_of_attention(PROJECT, CALL.replace("radius=3", "distances=mask.cumsum(-1)"), RETURN)
    assert not sites(plan)
    assert {one.code for one in plan.diagnostics if Method.PREFIX_TUNING in one.methods} == {"P202"}


@pytest.mark.usefixtures("with_radial")
def test_it_is_found_with_its_projections_and_takes_a_prefix() -> None:
    plan = plan_of_attention(PROJECT, CALL, RETURN)
    (site,) = sites(plan)
    (entry,) = plan.entries
    (roles,) = entry.plan.attentions
    assert site.core == "radial attention"
    assert (site.key.code, site.value.code, site.gate_input.code) == ("key", "value", "states")
    assert site.mask is not None and site.mask.code == "mask"
    assert entry.takes_prefix
    assert (roles.query, roles.key, roles.value, roles.output) == (
        "attention.q",
        "attention.k",
        "attention.v",
        "attention.o",
    )
