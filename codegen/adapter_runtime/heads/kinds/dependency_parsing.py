"""The head that finds the syntactic head of each word, and the relation between the two.

Letters of shapes: B batch, L tokens, W words (at most L), H hidden, N relations, S entries of ``word_starts``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional
from transformers.utils import ModelOutput

from adapter_runtime.heads.base import PredictionHead, label_config
from adapter_runtime.heads.kinds.losses import IGNORED
from adapter_runtime.heads.outputs import DependencyParsingOutput, with_logits
from adapter_runtime.heads.sizes import feeding_config, head_dropout, hidden_size

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Biaffine(nn.Module):
    """One score for each pair of a vector x and a vector y: x W y, summed over both.

    Args:
        features: width of the vectors.
        out_features: how many scores each pair gets.
        bias_x: append a 1 to x, so that W also scores y by itself.
        bias_y: append a 1 to y, so that W also scores x by itself.
    """

    def __init__(self, features: int, out_features: int, bias_x: bool = True, bias_y: bool = True) -> None:
        super().__init__()
        self.bias_x, self.bias_y = bias_x, bias_y
        self.weight = nn.Parameter(torch.zeros(out_features, features + bias_x, features + bias_y))

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """[B, X, H] and [B, Y, H], X and Y numbers of vectors, -> [B, out_features, X, Y]."""
        x = functional.pad(x, (0, 1), value=1.0) if self.bias_x else x
        y = functional.pad(y, (0, 1), value=1.0) if self.bias_y else y
        return torch.einsum("bxi,oij,byj->boxy", x, self.weight, y)


class BiaffineParsingHead(PredictionHead):
    """Dependency parsing with one biaffine layer on the words of a transformer (https://arxiv.org/abs/2008.06788).

    A word is the mean of its tokens; the first position of the sequence stands for the root, and comes first among the
    candidates for heads. So word i (counted from 0) is candidate i + 1.
    """

    head_type = "dependency_parsing"
    is_pooled = False
    label_arguments = ("labels_arcs", "labels_rels")
    input_arguments = ("word_starts",)

    def __init__(
        self, model: PreTrainedModel, head_name: str, num_labels: int = 2, id2label: dict[int, str] | None = None
    ) -> None:
        super().__init__(head_name, label_config(num_labels, id2label))
        width = hidden_size(feeding_config(model))
        self.biaffine_arcs = Biaffine(width, 1, bias_y=False)
        self.biaffine_rels = Biaffine(width, num_labels)
        self.dropout = nn.Dropout(head_dropout(model, self.head_type))
        self.initialise(model)

    def forward(
        self,
        outputs: ModelOutput,
        cls_output: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        word_starts: torch.Tensor | None = None,
        labels_arcs: torch.Tensor | None = None,
        labels_rels: torch.Tensor | None = None,
    ) -> ModelOutput:
        """Scores [B, L, L + 1] of arcs and [B, L, L + 1, N] of relations: of each word, and each candidate for its head.

        There is room for L words; rows and candidates after the last word of a sequence mean nothing.

        Args:
            outputs: of the base model; ``last_hidden_state`` is [B, L, H].
            cls_output: not used.
            attention_mask: not used: `word_starts` tells where the words end.
            word_starts: [B, up to L + 1], the position of the first token of each word, and after the last word the
                position where it ends. Only the first values, as long as they increase, are read; the rest is padding.
            labels_arcs: [B, up to L], the candidate that is the head of each word. Negative ones, and those after the last
                word, are ignored.
            labels_rels: [B, up to L], the relation of each word to its head. Negative ones are ignored.

        Raises:
            ValueError: `word_starts` is missing, only one kind of labels is given, or labels are for more than L words.
        """
        if word_starts is None:
            raise ValueError(f"Head {self.name!r} needs word_starts: where the words of each sequence begin.")
        hidden_states = self.dropout(outputs.last_hidden_state)
        words, is_word = merge_tokens(hidden_states, word_starts)
        candidates = torch.cat([hidden_states[:, :1], words], dim=1)  # [B, 1 + L, H]
        arcs = self.biaffine_arcs(words, candidates).squeeze(1)
        relations = self.biaffine_rels(words, candidates).permute(0, 2, 3, 1)
        loss = self._loss(arcs, relations, is_word, labels_arcs, labels_rels)
        return with_logits((DependencyParsingOutput,), outputs, loss, rel_preds=relations, arc_preds=arcs)

    def _loss(
        self,
        arcs: torch.Tensor,
        relations: torch.Tensor,
        is_word: torch.Tensor,
        labels_arcs: torch.Tensor | None,
        labels_rels: torch.Tensor | None,
    ) -> torch.Tensor | None:
        """Cross entropy of the arcs, plus that of the relations at the right arcs; None without labels.

        Args:
            arcs: [B, L, L + 1], scores.
            relations: [B, L, L + 1, N], scores.
            is_word: [B, L], whether there is a word.
            labels_arcs: [B, up to L].
            labels_rels: of the same shape.
        """
        if labels_arcs is None and labels_rels is None:
            return None
        if labels_arcs is None or labels_rels is None:
            raise ValueError(f"Head {self.name!r} needs both labels_arcs and labels_rels for a loss.")
        given = labels_arcs.shape[1]
        if labels_rels.shape != labels_arcs.shape or given > arcs.shape[1]:
            raise ValueError(
                f"labels_arcs {tuple(labels_arcs.shape)} and labels_rels {tuple(labels_rels.shape)} must be of one shape,"
                f" for at most {arcs.shape[1]} words, as many as there are tokens."
            )
        counts = is_word[:, :given] & (labels_arcs >= 0)
        right = labels_arcs.clamp(min=0)[..., None, None].expand(-1, -1, 1, relations.shape[-1])
        chosen = relations[:, :given].gather(2, right).squeeze(2)  # [B, W, N]
        loss = _masked_cross_entropy(arcs[:, :given], labels_arcs, counts)
        return loss + _masked_cross_entropy(chosen, labels_rels, counts & (labels_rels >= 0))


def _masked_cross_entropy(scores: torch.Tensor, labels: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """The mean cross entropy over the words that count.

    Args:
        scores: [B, W, candidates or relations].
        labels: [B, W].
        counts: [B, W], whether a word counts.
    """
    labels = labels.masked_fill(~counts, IGNORED)
    return functional.cross_entropy(scores.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)


def merge_tokens(hidden_states: torch.Tensor, word_starts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean of the tokens of each word.

    Args:
        hidden_states: [B, L, H].
        word_starts: [B, S]; word j spans ``word_starts[:, j]`` up to ``word_starts[:, j + 1]``. Where it stops increasing,
            the words of a row end.

    Returns:
        [B, L, H], zeros after the last word; and [B, L], whether there is a word.
    """
    length = hidden_states.shape[1]
    starts, ends = word_starts[:, :-1, None], word_starts[:, 1:, None]
    is_word = ((ends > starts) & (starts >= 0)).squeeze(-1).cumprod(dim=1).bool()[:, :length]
    positions = torch.arange(length, device=hidden_states.device)
    belongs = (positions >= starts[:, :length]) & (positions < ends[:, :length]) & is_word[..., None]  # [B, W, L]
    tokens = belongs.sum(dim=-1, keepdim=True).clamp(min=1)  # [B, W, 1]
    words = (belongs.to(hidden_states.dtype) @ hidden_states) / tokens
    missing = length - words.shape[1]
    return functional.pad(words, (0, 0, 0, missing)), functional.pad(is_word, (0, missing))
