"""Layers whose hosts are called beside them: what joins the stream between two of them is seen."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from conformance.checks.beside import in_no_layer, joined_until_next, running
from conformance.reference.layout import Layer

WIDTH = 4


class Loop(nn.Module):
    """Two layers with a block beside each, whose branches are all silent, or all but one."""

    def __init__(self) -> None:
        super().__init__()
        self.entry = nn.Linear(WIDTH, WIDTH)
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(2))
        self.blocks = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(2))

    def forward(self, states: Tensor, open_to: str = "") -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        given, results = {}, {}
        states = self.entry(states)
        for i in range(2):
            given[f"layers.{i}"] = states
            for part in (f"layers.{i}", f"blocks.{i}"):
                branch = self.get_submodule(part)(states)
                states = states + (branch if part == open_to else torch.zeros_like(branch))
            results[f"layers.{i}"] = states
        return given, results


MODEL = Loop()
LAYERS = [Layer(f"layers.{i}", (), (), (), ()) for i in range(2)]
WEIGHTS = {name: module.weight for name, module in MODEL.named_modules() if isinstance(module, nn.Linear)}


@pytest.mark.parametrize(
    ("open_to", "found"),
    [
        pytest.param("", [[], []], id="nothing, with all silent: the entry of the stream is no branch"),
        pytest.param("layers.0", [["layers.0"], []], id="what a layer gives, without a host"),
        pytest.param("blocks.0", [["blocks.0"], []], id="a block in another list"),
        pytest.param("blocks.1", [[], ["blocks.1"]], id="a block behind the last layer, which its last host gives"),
    ],
)
def test_what_joins_the_stream_between_two_layers(open_to: str, found: list[list[str]]) -> None:
    given, results = MODEL(torch.randn(2, 3, WIDTH), open_to)
    assert [joined_until_next(layer, LAYERS, given, results, WEIGHTS) for layer in LAYERS] == found


def test_a_layer_that_was_not_seen_is_a_fault_of_the_check() -> None:
    with pytest.raises(AssertionError, match="harness"):
        joined_until_next(LAYERS[0], LAYERS, {}, {}, WEIGHTS)


def test_which_layers_run_is_known_at_each_moment() -> None:
    seen = []
    hooks = [
        module.register_forward_pre_hook(lambda *_: seen.append(set(inside)))
        for module in (*MODEL.layers, *MODEL.blocks)
    ]
    with running(MODEL, LAYERS) as inside:
        MODEL(torch.randn(2, 3, WIDTH))
    for hook in hooks:
        hook.remove()
    assert [paths for paths in seen if paths] == []  # a hook that was there first runs first
    assert inside == set()


def test_parameters_beside_all_layers_are_told_by_their_names() -> None:
    names = [name for name in WEIGHTS if in_no_layer(f"{name}.weight", LAYERS)]
    assert names == ["entry", "blocks.0", "blocks.1"]
