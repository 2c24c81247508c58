"""AdapterFusion: an attention over the outputs of several adapters, at each token (https://arxiv.org/abs/2005.00247)."""

from __future__ import annotations

import torch
from torch import nn

from adapter_runtime.call.context import Place, record
from adapter_runtime.methods.fusion.config import AdapterFusionConfig

FUSION_ATTENTIONS = "output_adapter_fusion_attentions"  # the argument of a call that asks for them

FIRST_TEMPERATURE = 50.0
ANNEALING_STEPS = 1000  # the temperature falls by a thousandth of its first value per step, and not below 1


class AdapterFusion(nn.Module):
    """Mixes the outputs of N adapters. There is one such module per place of the adapters.

    Shapes: B batch, L length, N adapters, H hidden.

    With `temperature`, the softmax is flat when training begins and sharpens from call to call of the model in training
    mode. The temperature is no weight: no file holds it, training that is resumed begins anew, and evaluation always
    runs at its last value, 1, so that what was saved and loaded gives the same outputs.

    Args:
        config: the options.
        hidden_size: H.
        dropout: probability of dropping a score in training, where the config gives none.
    """

    undecayed = ("value.weight",)  # has a regularisation of its own: see ``training/decay.py``

    def __init__(self, config: AdapterFusionConfig, hidden_size: int, dropout: float) -> None:
        super().__init__()
        self.config = config
        self.place = Place("", -1, "")  # `BottleneckLayer` sets it
        self.dropout = dropout if config.dropout_prob is None else config.dropout_prob
        self.query = nn.Linear(hidden_size, hidden_size) if config.query else None
        self.key = nn.Linear(hidden_size, hidden_size) if config.key else None
        self.value = nn.Linear(hidden_size, hidden_size, bias=False) if config.value else None
        self.steps: torch.Tensor | None
        self.register_buffer(
            "steps", torch.zeros((), dtype=torch.long) if config.temperature else None, persistent=False
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights; the value matrix starts as (almost) the identity if the config says so."""
        for projection in (self.query, self.key):
            if projection is not None:
                nn.init.normal_(projection.weight, std=0.02)
                nn.init.zeros_(projection.bias)
        if self.value is None:
            return
        if self.config.value_initialized:
            with torch.no_grad():
                self.value.weight.fill_(1e-6).fill_diagonal_(1.0)
        else:
            nn.init.normal_(self.value.weight, std=0.02)

    def forward(self, query: torch.Tensor, values: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """[B, L, H]: the weighted sum of the values, plus the residual.

        Args:
            query: [B, L, H], what all adapters read.
            values: [B, L, N, H], outputs of their up-projections. They are the keys too.
            residual: [B, L, H], added to the weighted sum, or with `residual_before` to each of the values.
        """
        if self.config.residual_before:
            values = values + residual.unsqueeze(-2)
        given = values
        query, values = self._in_own_type(query), self._in_own_type(values)
        attention = torch.softmax(self.tempered(self.scores(query, values)), dim=-1)
        record(FUSION_ATTENTIONS, self.place, attention, columns=False)
        mixture = (attention.unsqueeze(-2) @ values).squeeze(-2)
        # The weights sum up to 1 and the projection is linear, so `value_before_softmax` does not change what comes
        # out: projecting the sum once is N times as cheap as projecting each value.
        if self.value is not None:
            mixture = self.value(mixture)
        if values is not given:
            mixture = mixture.to(given.dtype)
        return mixture if self.config.residual_before else mixture + residual

    def _in_own_type(self, states: torch.Tensor) -> torch.Tensor:
        """`states` in the type of the projections: see `Bottleneck`."""
        layer = self.query or self.key or self.value
        if layer is None or layer.weight.dtype is states.dtype or torch.is_autocast_enabled(states.device.type):
            return states
        return states.to(layer.weight.dtype)

    def scores(self, query: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        """[B, L, N]: the products of the projected query with the projected keys; some are dropped in training.

        Args:
            query: [B, L, H].
            keys: [B, L, N, H].
        """
        if self.query is not None:
            query = self.query(query)
        offset = None
        if self.key is not None:
            # q (W k + b) = (q W) k + q b: one product with W, not one per adapter
            offset = (query * self.key.bias).sum(-1, keepdim=True)
            query = query @ self.key.weight
        scores = (keys @ query.unsqueeze(-1)).squeeze(-1)
        if offset is not None:
            scores = scores + offset
        return nn.functional.dropout(scores, self.dropout, self.training)

    def tempered(self, scores: torch.Tensor) -> torch.Tensor:
        """The scores [B, L, N], in training divided by the current temperature."""
        if self.steps is None or not self.training:
            return scores
        temperature = FIRST_TEMPERATURE * (1 - self.steps.to(scores.dtype) / ANNEALING_STEPS)
        return scores / temperature.clamp(min=1.0)

    def advance(self) -> None:
        """Lower the temperature by one step: once per call in training mode, even where checkpointing runs layers twice."""
        if self.steps is not None:
            self.steps += 1

    def distance_from_identity(self) -> torch.Tensor | None:
        """||I - V||² of the value matrix V; None where there is none, or it is not trained or not regularised."""
        if self.value is None or not self.config.regularization or not self.value.weight.requires_grad:
            return None
        weight = self.value.weight
        identity = torch.eye(weight.shape[0], device=weight.device, dtype=weight.dtype)
        return (identity - weight).pow(2).sum()
