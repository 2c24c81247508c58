"""What meets written-out scores later than the keys are lengthened, grows where it stands; keys may be folded into the batch."""

from __future__ import annotations

import pytest

from adapter_codegen.model import PrefixSite
from plan_snippets import PROJECT, codes, plan_of_attention, prefix_sites, scores


def _site(*lines: str) -> PrefixSite:
    (site,) = prefix_sites(plan_of_attention(*lines))
    return site


@pytest.mark.parametrize(
    ("between", "late"),
    [
        pytest.param("scores = scores.masked_fill(mask, -1e9)", "mask", id="a mask that hides"),
        pytest.param(
            "scores = torch.masked_fill(scores, ~mask.bool(), -1e9)", "~mask.bool()", id="by torch's function"
        ),
        pytest.param("scores = scores + self.table", "self.table", id="a buffer"),
        pytest.param("scores += self.table[: key.shape[-2]]", "self.table[: key.shape[-2]]", id="in place"),
        pytest.param("bias = states @ self.table\nscores = scores + bias", "bias", id="what is computed in between"),
    ],
)
def test_a_term_that_is_not_known_before_the_core_grows_where_it_stands(between: str, late: str) -> None:
    site = _site(*scores(between))
    assert [term.code for term in site.late] == [late]
    assert set(site.kept) == {"key", "value"}, "what is made ready behind the core reads upstream's keys"


def test_a_mask_that_hides_is_the_mask_and_may_hide_weights_too() -> None:
    """CPM-Ant, whose scores are -inf where nothing is seen."""
    hidden = "weights = torch.masked_fill(torch.softmax(scores, dim=-1), mask, 0.0)"
    lines = [
        line.replace("weights = torch.softmax(scores, dim=-1)", hidden)
        for line in scores("scores = scores + self.table")
    ]
    site = _site(*lines)
    assert [term.code for term in site.late] == ["self.table", "mask"]
    bias = _site(*scores("scores = scores + mask", "scores = scores.masked_fill(states > 0, -1e9)"))
    assert bias.mask is None and [one.code for one in bias.biases] == ["mask"]


def test_without_a_mask_the_softmax_hides_prefixes_from_rows() -> None:
    site = _site(*scores())
    assert site.mask is None and site.scores is not None and site.scores.code == "scores"
    masked = _site(*scores("scores = scores + mask"))
    assert masked.mask is not None and masked.scores is None, "there the mask does"


TURNED = "key = self.k(states).view(shape).transpose(1, 2).transpose(-1, -2)"
TURNED_SCORES = [line.replace("key.transpose(-1, -2)", "key") for line in scores()[1:]]


@pytest.mark.parametrize(
    ("lines", "code"),
    [
        pytest.param(
            scores("scores = scores.masked_fill(key.sum(-1) > 0, -1e9)"), "P202", id="keys say what is hidden"
        ),
        pytest.param(scores("scores = torch.where(mask, scores, late)"), "P203", id="others take the place of scores"),
        pytest.param(
            scores("late = self.table\nlate += scores\nscores = late"), "P203", id="scores are added in place"
        ),
        pytest.param(
            scores("late = self.q(states) @ self.k(states).transpose(-1, -2)", "scores = scores + late"),
            "P203",
            id="two products of what the values are of",
        ),
        pytest.param(
            scores("far = self.k(mask)", "scores = scores + self.q(mask) @ far.transpose(-1, -2)"),
            "P203",
            id="scores of other queries and keys, which may be lengthened too (LiLT)",
        ),
        pytest.param(
            (PROJECT.replace("key = self.k(states).view(shape).transpose(1, 2)", TURNED), *TURNED_SCORES),
            "P201",
            id="keys are turned before the product (Bloom)",
        ),
    ],
)
def test_other_scores_take_no_prefix(lines: tuple[str, ...], code: str) -> None:
    plan = plan_of_attention(*lines)
    assert prefix_sites(plan) == []
    assert code in codes(plan)


def test_of_several_products_that_of_the_values_states_has_the_keys() -> None:
    """DeBERTa: positions are projected too, and meet queries and keys in products of their own."""
    lines = (
        "far = self.k(mask).view(shape).transpose(1, 2)",
        "scores = scores + torch.gather(query @ far.transpose(-1, -2), -1, self.table)",
    )
    site = _site(*scores(*lines))
    assert site.key.code == "key"
    assert len(site.late) == 1 and site.late[0].code.startswith("torch.gather")


SCALED = """
scores = torch.matmul(query, key.transpose(-1, -2) / {scale})
out = torch.matmul(torch.softmax(scores, dim=-1), value)
return self.o(out), 0
"""


@pytest.mark.parametrize(
    ("scale", "count"),
    [
        pytest.param("math.sqrt(query.shape[-1])", 1, id="a number"),
        pytest.param("torch.sqrt(torch.tensor(query.size(-1)))", 1, id="a number in a tensor"),
        pytest.param("states.mean()", 0, id="no: a tensor"),
    ],
)
def test_keys_may_be_scaled_where_they_are_turned(scale: str, count: int) -> None:
    assert len(prefix_sites(plan_of_attention(PROJECT, SCALED.format(scale=scale)))) == count


FOLDED = """
shape = (*states.shape[:-1], -1, self.head_dim)
query = self.q(states).view(shape).transpose(1, 2).reshape({view})
key = self.k(states).view(shape).transpose(1, 2).reshape({view})
value = self.v(states).view(shape).transpose(1, 2).reshape({view})
"""


@pytest.mark.parametrize(
    ("view", "count"),
    [
        pytest.param("-1, states.size(1), self.head_dim", 1, id="the length is stated"),
        pytest.param("states.shape[0] * self.heads, -1, self.head_dim", 1, id="rows and heads are stated"),
        pytest.param("-1, self.length, self.head_dim", 0, id="no: some length"),
        pytest.param("states.shape[0], -1, self.head_dim", 0, id="no: heads become positions"),
    ],
)
def test_heads_may_stand_in_the_batch(view: str, count: int) -> None:
    assert len(prefix_sites(plan_of_attention(FOLDED.format(view=view), *scores()[1:]))) == count


MATRICES = """
if mask is None:
    shape = (*states.shape[:-1], -1, self.head_dim)
    key = self.k(states).view(shape).transpose(1, 2)
else:
    key = fold(torch.matmul(self.k.weight, {other}))
query = self.q(states).view(shape).transpose(1, 2)
value = self.v(states).view(shape).transpose(1, 2)
"""


@pytest.mark.parametrize(
    ("other", "count"),
    [
        pytest.param("states.t()", 1, id="torch turns no hidden states of three dimensions"),
        pytest.param("states.mT", 0, id="no: these it turns"),
        pytest.param("self.table.t()", 0, id="no: another tensor"),
    ],
)
def test_a_branch_for_matrices_says_nothing_of_the_layout(other: str, count: int) -> None:
    assert len(prefix_sites(plan_of_attention(MATRICES.format(other=other), *scores()[1:]))) == count


WIDTHS = """
shape = states.size()[:-1] + (self.heads, {width})
query = self.q(states).view(shape).permute(0, 2, 1, 3)
key = self.k(states).view(shape).permute(0, 2, 1, 3)
value = self.v(states).view(shape).permute(0, 2, 1, 3)
"""


@pytest.mark.parametrize(
    ("width", "head_dim"),
    [
        pytest.param("self.head_dim", "head_dim", id="it is stated"),
        pytest.param("-1", "outputs // heads", id="the number of heads is"),
    ],
)
def test_the_width_of_a_head_follows_from_their_number(width: str, head_dim: str) -> None:
    (layer,) = plan_of_attention(WIDTHS.format(width=width), *scores()[1:]).layers
    assert [roles.head_dim for roles in layer.attentions] == [head_dim]
