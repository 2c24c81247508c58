"""Whether tokens come first in the hidden states of a list, or it sees none, is seen on upstream; a wrong statement is found."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from conformance.reference.layout import Layer, Layout
from conformance.reference.streams import assert_streams

TOKENS = {"input_ids": torch.tensor([[0, 1, 2, 3], [4, 3, 2, 1]])}


class _Model(nn.Module):
    """Gives its layer the embeddings of tokens, with others in front of them or behind them."""

    def __init__(self, front: int, behind: int, mixes: bool = False, sees: bool = True) -> None:
        super().__init__()
        self.embed = nn.Embedding(8, 4)
        self.layers = nn.ModuleList([nn.Identity()])
        self.beside, self.mixes, self.sees = (front, behind), mixes, sees

    def forward(self, input_ids: Tensor) -> Tensor:
        hidden = self.embed(input_ids) if self.sees else torch.ones(2, 4, 4)
        hidden = hidden.cumsum(1) if self.mixes else hidden
        return self.layers[0](
            torch.cat([torch.zeros(2, self.beside[0], 4), hidden, torch.zeros(2, self.beside[1], 4)], 1)
        )


def _check(model: nn.Module, form: str) -> None:
    assert_streams(model, Layout((Layer("layers.0", (), (), (), (), form),), ""), TOKENS)


def test_what_is_said_of_a_list_is_seen() -> None:
    _check(_Model(0, 3), "followed")
    _check(_Model(2, 3, sees=False), "no tokens")
    _check(_Model(0, 3), "padded")


@pytest.mark.parametrize(
    ("model", "form"),
    [
        pytest.param(_Model(2, 3), "followed", id="something in front"),
        pytest.param(_Model(0, 3, mixes=True), "followed", id="tokens that are mixed"),
        pytest.param(_Model(0, 3, sees=False), "followed", id="no tokens at all"),
        pytest.param(_Model(0, 3), "no tokens", id="tokens where there should be none"),
        pytest.param(_Model(0, 0), "padded", id="no position that holds nothing"),
    ],
)
def test_a_list_of_which_something_else_is_said_is_found(model: nn.Module, form: str) -> None:
    with pytest.raises(AssertionError, match=f"said to see '{form}'"):
        _check(model, form)
