"""A head that tells voices apart.

Letters of shapes: B batch, L frames, T frames behind the time delay layers, H hidden, D and E widths of these layers, W frames that
one of them reads together, X width of the vector, C voices.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional
from transformers.modeling_outputs import XVectorOutput
from transformers.utils import ModelOutput

from adapter_runtime.contract.head_config import HeadConfig
from adapter_runtime.heads.base import PredictionHead, label_config
from adapter_runtime.heads.outputs import with_logits
from adapter_runtime.heads.sizes import feeding_config, hidden_size

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class XVectorHead(PredictionHead):
    """One vector per sound, which stands for the voice: close for sounds of one voice, far for others.

    A projection, time delay layers over the frames, the mean and the deviation of these, and two projections. With labels, the loss
    compares by angle with one vector per voice, which the head also holds.

    Raises:
        ValueError: the time delay layers are not described alike, or there is none.
    """

    head_type = "xvector"
    is_pooled = False

    def __init__(
        self,
        model: PreTrainedModel,
        head_name: str,
        num_labels: int = 2,
        tdnn_dim: Sequence[int] | None = None,
        tdnn_kernel: Sequence[int] | None = None,
        tdnn_dilation: Sequence[int] | None = None,
        xvector_output_dim: int | None = None,
        scale: float = 30.0,
        margin: float = 0.4,
        weighted_layers: bool = False,
        id2label: dict[int, str] | None = None,
    ) -> None:
        of_model = feeding_config(model)
        config: HeadConfig = {
            **label_config(num_labels, id2label),
            "tdnn_dim": list(tdnn_dim or of_model.tdnn_dim),
            "tdnn_kernel": list(tdnn_kernel or of_model.tdnn_kernel),
            "tdnn_dilation": list(tdnn_dilation or of_model.tdnn_dilation),
            "xvector_output_dim": xvector_output_dim or of_model.xvector_output_dim,
            "scale": scale,
            "margin": margin,
            "weighted_layers": weighted_layers,
        }
        super().__init__(head_name, config)
        self.build(model)

    def build(self, model: PreTrainedModel, out_features: int | None = None) -> None:
        widths, size = self.config["tdnn_dim"], self.config["xvector_output_dim"]
        described = {len(self.config[name]) for name in ("tdnn_dim", "tdnn_kernel", "tdnn_dilation")}
        if described != {len(widths)} or not widths:
            raise ValueError(
                "tdnn_dim, tdnn_kernel and tdnn_dilation need one number each for every time delay layer."
            )
        layers = zip(
            (widths[0], *widths), widths, self.config["tdnn_kernel"], self.config["tdnn_dilation"], strict=False
        )
        self._weigh_layers(model)
        self._append(nn.Linear(hidden_size(feeding_config(model)), widths[0]))
        self._append(nn.ModuleList(TimeDelayLayer(*layer) for layer in layers))
        self._append(nn.Linear(2 * widths[-1], size))
        self._append(nn.Linear(size, size))
        self._append(
            Voices(size, out_features or self.config["num_labels"], self.config["scale"], self.config["margin"])
        )
        self.initialise(model)

    def logits(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """The vectors that the loss compares: [B, L, H] -> [B, X]."""
        return self._compared(self.embeddings(hidden_states))

    def embeddings(self, hidden_states: torch.Tensor, frame_mask: torch.Tensor | None = None) -> torch.Tensor:
        """The vectors of sounds: [B, L, H] -> [B, X].

        Args:
            hidden_states: [B, L, H].
            frame_mask: [B, L], true at frames that are no padding; None = all are none.
        """
        projector, layers, embedder, *_ = self
        hidden_states = projector(hidden_states)
        assert isinstance(layers, nn.ModuleList)
        for layer in layers:
            hidden_states = layer(hidden_states)  # [B, fewer, D]
        embeddings: torch.Tensor = embedder(self._statistics(hidden_states, frame_mask))
        return embeddings

    def _compared(self, embeddings: torch.Tensor) -> torch.Tensor:
        vectors: torch.Tensor = self[3](embeddings)
        return vectors

    def _statistics(self, states: torch.Tensor, frame_mask: torch.Tensor | None) -> torch.Tensor:
        """Mean and deviation of the frames of each sound that are no padding: [B, T, D] -> [B, 2 D]."""
        if frame_mask is None:
            return torch.cat([states.mean(dim=1), states.std(dim=1)], dim=-1)
        # As upstream counts: frames that lie further apart (dilation) leave fewer, which it does not consider.
        lost = sum(width - 1 for width in self.config["tdnn_kernel"])
        rows = [row[:length] for row, length in zip(states, frame_mask.sum(dim=1) - lost, strict=True)]
        pairs = [torch.cat([row.mean(dim=0), row.std(dim=0)]) for row in rows]
        return torch.stack(pairs)

    def forward(
        self,
        outputs: ModelOutput,
        cls_output: torch.Tensor | None = None,
        frame_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
    ) -> ModelOutput:
        """Vectors of the sounds, ``embeddings`` [B, X], ``logits`` [B, X], which are these behind one more projection, and the loss.

        Args:
            outputs: of the base model; ``last_hidden_state`` is [B, L, H].
            cls_output: not used.
            frame_mask: [B, L], true at frames that are no padding; None = all are none.
            labels: [B], the voice of each sound.
        """
        embeddings = self.embeddings(outputs.last_hidden_state, frame_mask)
        logits = self._compared(embeddings)
        loss = None
        if labels is not None:
            voices = self[4]
            assert isinstance(voices, Voices)
            loss = voices.loss(logits, labels)
        return with_logits((XVectorOutput,), outputs, loss, logits=logits, embeddings=embeddings)


class TimeDelayLayer(nn.Linear):
    """A projection of `width` frames that lie `dilation` apart, and ReLU."""

    def __init__(self, inner: int, outer: int, width: int, dilation: int) -> None:
        super().__init__(inner * width, outer)
        self.inner, self.width, self.dilation = inner, width, dilation

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """[B, L, D] -> [B, L - dilation * (width - 1), E], where the weight is [E, W * D], the frames one after the other."""
        weight = self.weight.view(self.out_features, self.width, self.inner).transpose(1, 2)  # [E, D, W]
        states = functional.conv1d(input.transpose(1, 2), weight, self.bias, dilation=self.dilation)  # [B, E, T]
        return functional.relu(states.transpose(1, 2))


class Voices(nn.Module):
    """One vector per voice, with which vectors of sounds are compared by their angles (additive margin softmax).

    Attributes:
        weight: [X, C].
    """

    def __init__(self, size: int, count: int, scale: float, margin: float) -> None:
        super().__init__()
        self.scale, self.margin = scale, margin
        self.weight = nn.Parameter(torch.randn(size, count))

    def loss(self, vectors: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The loss, a scalar: cross entropy of cosines, of which that of the true voice must be larger by a margin.

        Args:
            vectors: [B, X].
            labels: [B], the voice of each.
        """
        cosines = functional.normalize(vectors, dim=1) @ functional.normalize(self.weight, dim=0)  # [B, C]
        labels = labels.flatten()
        is_true = functional.one_hot(labels, self.weight.shape[1]).bool()
        return functional.cross_entropy(self.scale * torch.where(is_true, cosines - self.margin, cosines), labels)
