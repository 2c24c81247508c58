"""Heads on a weighted sum of the hidden states of all layers, where a flag of the config asks for it."""

from __future__ import annotations

from dataclasses import dataclass

from adapter_codegen.parse.facts import ClassFacts
from adapter_codegen.parse.forms import form, inside

_INIT = """
def form(config, layers):
    layers = config.num_hidden_layers + 1
    if config.flag:
        self.weights = nn.Parameter(torch.ones(layers) / layers)
"""
_FORWARD = """
def form(outputs, states):
    if self.config.flag:
        states = {}
        states = torch.stack(states, dim=1)
        weights = nn.functional.softmax(self.weights, dim=-1)
        states = (states * weights.view(-1, 1, 1)).sum(dim=1)
    else:
        states = {}
"""
# As fields of the outputs, or by their numbers. The constant is that of the file, which counts what its outputs hold.
_READ = (
    ("outputs.hidden_states", "outputs.last_hidden_state"),
    ("outputs[_HIDDEN_STATES_START_POSITION]", "outputs[0]"),
)


@dataclass(frozen=True)
class WeightedSum:
    """Of all layers."""

    flag: str  # field of the config that asks for it
    weights: str  # the parameter, one number for each layer and for what enters the first


def read_weighted_sum(head: ClassFacts) -> WeightedSum | None:
    """What a class sums, in the place of the last hidden states; None where it does nothing of this form."""
    init, forward = head.functions.get("__init__"), head.functions.get("forward")
    made = inside(form(_INIT), init.node) if init is not None else None
    if made is None or forward is None or made["config.num_hidden_layers"] != "num_hidden_layers":
        return None
    for pair in _READ:
        run = inside(form(_FORWARD.format(*pair)), forward.node)
        if run is not None:
            same = all(run[name] == made[name] for name in ("config.flag", "self.weights"))
            return WeightedSum(made["config.flag"], made["self.weights"]) if same else None
    return None
