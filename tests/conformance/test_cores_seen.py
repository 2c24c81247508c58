"""The reference sees where queries meet keys, however that is written; and no core where there is none."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from conformance.reference.cores import Seen, observed, only_mixes

LENGTH, WIDTH = 5, 4
TORCH = {"query": 1, "key": 2, "value": 3}


class Attending(nn.Module):
    """Scores, weights and the attended values in one's own forward."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        scores = self.scores(self.q(x), self.k(x))
        return self.attended(torch.softmax(scores, dim=-1), self.v(x))

    def scores(self, query: Tensor, key: Tensor) -> Tensor:
        return query @ key.transpose(-1, -2)

    def attended(self, weights: Tensor, value: Tensor) -> Tensor:
        return weights @ value


class Summed(Attending):
    """By einsum, the values first."""

    def scores(self, query: Tensor, key: Tensor) -> Tensor:
        return torch.einsum("bqd,bkd->bqk", query, key)

    def attended(self, weights: Tensor, value: Tensor) -> Tensor:
        return torch.einsum("bkd,bqk->bqd", value, weights)


class Shifted(Attending):
    """The largest score is taken off, in place and not."""

    def scores(self, query: Tensor, key: Tensor) -> Tensor:
        scores = super().scores(query, key)
        scores = scores - scores.max(dim=-1, keepdim=True).values
        scores -= 1.0
        return scores


class Windowed(Attending):
    """Scores of windows are written into a larger tensor."""

    def scores(self, query: Tensor, key: Tensor) -> Tensor:
        whole = query.new_zeros(query.shape[0], LENGTH, LENGTH)
        whole[:, 1:] = nn.functional.pad(super().scores(query, key), (0, 0, 0, 1))[:, :-2]
        return whole.transpose(1, 2)


class Torch(nn.Module):
    """The attention of torch, which shows nothing of itself."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(WIDTH, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(**{name: x + by for name, by in TORCH.items()})[0]


class Holding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner: nn.Module = Summed()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


class Choosing(nn.Module):
    """Puts another attention in when it runs, with the projections of the one before."""

    def __init__(self) -> None:
        super().__init__()
        self.holder = Holding()

    def forward(self, x: Tensor) -> Tensor:
        before, other = self.holder.inner, Attending()
        other.q, other.k, other.v = before.q, before.k, before.v
        self.holder.inner = other
        return self.holder(x)


class Twice(Attending):
    """Runs again on what it gave."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + super().forward(x + 1)


class Routed(nn.Module):
    """A softmax over what a weight gives chooses experts: nothing is attended to."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Parameter(torch.randn(WIDTH, 3))
        self.experts = nn.Parameter(torch.randn(3, WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        shares = torch.softmax(torch.einsum("bld,de->ble", x, self.router), dim=-1)
        return torch.einsum("ble,bled->bld", shares, torch.einsum("bld,edf->blef", x, self.experts))


def seen_in(inner: nn.Module) -> dict[str, list[Seen]]:
    model = nn.Sequential(inner, nn.Identity())
    return observed(model, [], {"input": torch.randn(2, LENGTH, WIDTH)})


def test_a_core_is_seen_however_its_products_are_written() -> None:
    for kind in (Attending, Summed, Shifted, Windowed):
        ((seen,),) = seen_in(kind()).values()
        assert {name: tensor.shape[-1] for name, tensor in seen.items()}["value"] == WIDTH


def test_the_attention_of_torch_is_a_core() -> None:
    x = torch.randn(2, LENGTH, WIDTH)
    seen = observed(nn.Sequential(Torch()), [], {"input": x})
    assert list(seen) == ["0.inner"]
    (one,) = seen["0.inner"]
    assert all(torch.equal(one[name], (x + by).transpose(0, 1)) for name, by in TORCH.items())


def test_what_a_model_draws_at_random_is_the_same_in_each_call() -> None:
    class Drawing(Attending):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x + torch.randn(x.shape))

    model, x = nn.Sequential(Drawing()), {"input": torch.randn(2, LENGTH, WIDTH)}
    ((one,),), ((other,),) = (observed(model, [], x).values() for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_module_that_a_forward_puts_in_has_its_path() -> None:
    assert list(seen_in(Choosing())) == ["0.holder.inner"]


def test_a_router_is_no_core() -> None:
    assert seen_in(Routed()) == {}


def test_all_that_a_core_attends_to_in_its_first_run_is_seen() -> None:
    inner = Twice()
    model = nn.Sequential(inner, inner)
    (seen,) = observed(model, [], {"input": torch.randn(2, LENGTH, WIDTH)}).values()
    assert len(seen) == 2


def test_values_that_are_sampled_are_those_of_a_declared_core_only() -> None:
    class Sampled(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.grid_sample(x[:, None], x[:, :, None, :2].tanh(), align_corners=False)

    model, x = nn.Sequential(Sampled()), {"input": torch.randn(2, LENGTH, WIDTH)}
    ((seen,),) = observed(model, ["0"], x).values()
    assert list(seen) == ["value"]
    assert observed(model, [], x) == {}


def test_what_the_same_queries_make_of_states_that_are_keys_and_values_only_mixes() -> None:
    states, other = torch.randn(2, 3, LENGTH, WIDTH), torch.randn(2, 3, LENGTH, WIDTH)
    learned = torch.randn(1, WIDTH).expand(2, 3, 1, WIDTH)
    of_input = torch.cat([learned[:, :2], other[:, 2:, :1]], dim=1)
    assert only_mixes({"query": learned, "key": states, "value": states})
    assert not only_mixes({"query": of_input, "key": states, "value": states}), "one position asks otherwise"
    assert not only_mixes({"query": learned, "key": states, "value": other}), "values are projected"
    assert not only_mixes({"query": learned[:1, :1], "key": states[:1, :1], "value": states[:1, :1]}), "nothing shows"
    assert not only_mixes({"value": states}), "sampled values"
