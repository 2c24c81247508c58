"""What is taken out of generated code leaves what upstream computes there, in every form that an edit has."""

from __future__ import annotations

import ast

import pytest

from conformance.breaking import without_site


@pytest.mark.parametrize(
    ("edited", "upstreams"),
    [
        pytest.param("y = self.output_adapters(x, r, None)", "y = x + r", id="an addition"),
        pytest.param("y = self.output_adapters(x, r, None, branch_first=True)", "y = x + r", id="of either order"),
        pytest.param("y = self.output_adapters(x, r, self.norm)", "y = self.norm(x + r)", id="with its norm"),
        pytest.param("y = add(self.output_adapters(x, r), r)", "y = add(x, r)", id="upstream adds (Zaya, BLOOM)"),
        pytest.param("y = mix(self.output_adapters(x))", "y = mix(x)", id="upstream mixes streams"),
        pytest.param("k, v, m = self.prepend_prefix(q, k, v, m, x, **kw)", "k, v, m = (k, v, m)", id="a prefix"),
    ],
)
def test_without_a_site_upstreams_code_is_left(edited: str, upstreams: str) -> None:
    assert without_site(edited, 0) == ast.unparse(ast.parse(upstreams))


def test_the_other_sites_stay() -> None:
    edited = "y = self.attention_adapters(x, r, None)\nz = self.output_adapters(y, r, None)"
    assert without_site(edited, 1) == "y = self.attention_adapters(x, r, None)\nz = y + r"
