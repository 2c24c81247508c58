"""Attention over windows of the positions, with a second one of global tokens: which is the one that adapters take hold of."""

from __future__ import annotations

import pytest

from adapter_codegen.model import AttentionRoles
from adapter_codegen.plan.module import ModulePlan, plan_module
from plan_snippets import MLP, STACK, facts_of, layer

TEXT = "x = x + self.attention(self.norm1(x), mask)\nreturn x + self.mlp(self.norm2(x))"
ATTENTION = """
class Attention(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.q = nn.Linear(8, 8)
        self.k = nn.Linear(8, 8)
        self.v = nn.Linear(8, 8)
        self.global_q = nn.Linear(8, 8)
        self.global_k = nn.Linear(8, 8)
        self.global_v = nn.Linear(8, 8)
        self.o = nn.Linear(8, 8)

    def windows(self, query, key):
        parts = torch.einsum("bcxd,bcyd->bcxy", (query.view(1, 2, 4, 8), key.view(1, 2, 4, 8)))
        scores = parts.new_zeros((1, 3, 4, 9))
        scores[:, :-1, :, 4:] = parts[:, :, :4, :5]
        scores[:, 1:, :, :4] = parts[:, :, -5:-1, 5:]
        return scores

    def of_global(self, states):
        scores = torch.bmm(self.global_q(states), self.global_k(states).transpose(1, 2))
        return torch.bmm(torch.softmax(scores, dim=-1), self.global_v(states))

    def forward(self, states, has_global=None):
        value = self.v(states)
        weights = torch.softmax(self.windows(self.q(states), self.k(states)), dim=-1)
        if has_global:
            out = torch.matmul(weights.narrow(-1, 0, 4), value) + torch.einsum("bcwd,bcdh->bcwh", (weights, value))
        else:
            out = torch.einsum("bcwd,bcdh->bcwh", (weights, value))
        out = out.reshape(4, 2, 8)
        if has_global:
            out[has_global] = self.of_global(states)
        return self.o(out)

"""
ALWAYS = ATTENTION.replace("        if has_global:\n            out[has_global]", "        out[has_global]")


def plan(attention: str) -> ModulePlan:
    return plan_module(facts_of(attention, MLP, layer(TEXT), STACK))


def roles(attention: str) -> AttentionRoles:
    (found,) = plan(attention).layers[0].attentions
    return found


def test_windows_of_scores_that_are_put_together_lead_back_to_their_projections() -> None:
    found = roles(ATTENTION)
    assert (found.query, found.key, found.value) == ("attention.q", "attention.k", "attention.v")


def test_what_windows_and_global_tokens_give_is_added_up_ahead_of_the_output() -> None:
    assert roles(ATTENTION).output == "attention.o"


def test_windows_of_scores_take_no_prefix() -> None:
    found = plan(ATTENTION)
    assert found.cores == 0
    assert any("windows of the scores" in diagnostic.message for diagnostic in found.diagnostics)


def test_entries_that_are_written_over_are_no_windows_of_scores() -> None:
    body = (
        "        scores = torch.bmm(query, key.transpose(1, 2))\n        scores[mask] = -1e9\n        return scores\n"
    )
    head, _, rest = ATTENTION.partition("        parts = ")
    _, _, rest = rest.partition("        return scores\n")
    found = plan(f"{head}{body}{rest}")
    assert not any("windows of the scores" in diagnostic.message for diagnostic in found.diagnostics)


TRANSPOSED = "states = states.transpose(0, 1)\n        value = self.v(states)"


@pytest.mark.parametrize(
    ("lines", "turned"),
    [
        pytest.param("value = self.v(states)", (), id="the layer's own tensor"),
        pytest.param(TRANSPOSED.replace("0, 1", "1, 2"), (), id="channels ahead of positions"),
        pytest.param(TRANSPOSED.replace("(0, 1)", "(0, 1).transpose(1, 0)"), (), id="turned back"),
        pytest.param(TRANSPOSED.replace("(0, 1)", "(0, 1).view(2, 4, 8)"), (), id="cut up anew"),
        pytest.param(TRANSPOSED, ("q", "k", "v"), id="turned"),
        pytest.param(TRANSPOSED.replace("transpose(0, 1)", "permute(1, 0, 2)"), ("q", "k", "v"), id="permuted"),
        pytest.param(
            TRANSPOSED.replace("states.transpose(0, 1)", "states.transpose(0, 1) if states is not None else None"),
            ("q", "k", "v"),
            id="turned where it is given",
        ),
    ],
)
def test_projections_that_see_batch_and_positions_turned_are_named(lines: str, turned: tuple[str, ...]) -> None:
    found = plan(ATTENTION.replace("value = self.v(states)", lines)).layers[0].turned
    assert found == tuple(f"attention.{name}" for name in turned)


def test_an_output_that_is_turned_back_behind_it_was_turned() -> None:
    head, _, rest = ATTENTION.partition("return self.o(out)")
    assert plan(f"{head}return self.o(out).permute(1, 0, 2){rest}").layers[0].turned == ("attention.o",)
