"""Everything in a model that goes with its token embeddings, and how all of it changes at once."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn
from transformers import PreTrainedConfig

from adapter_runtime.contract.protocol import AdaptedModel
from adapter_runtime.errors import UnsupportedMethodError
from adapter_runtime.heads.base import PredictionHead


def _table(model: AdaptedModel) -> nn.Embedding:
    """The table of token embeddings of a model.

    Raises:
        UnsupportedMethodError: it has none.
    """
    try:
        table = model.get_input_embeddings()
    except NotImplementedError:
        table = None
    if not isinstance(table, nn.Embedding):
        raise UnsupportedMethodError(
            f"{type(model).__name__} has no table of token embeddings, which others could replace."
        )
    return table


class EmbeddingSlots:
    """The table of token embeddings of a model, and what is tied to it: found by identity, so by whatever upstream ties.

    Args:
        root: the model, with its head if it has one.
    """

    def __init__(self, root: AdaptedModel) -> None:
        self.root = root
        self.table: nn.Embedding = _table(root)

    @property
    def weight(self) -> nn.Parameter:
        """[V, E], what the table holds."""
        weight = self.table.weight
        assert isinstance(weight, nn.Parameter)
        return weight

    @property
    def config(self) -> PreTrainedConfig:
        """The config that has ``vocab_size``."""
        config: PreTrainedConfig = self.root.config.get_text_config()
        return config

    def check(self, chosen: nn.Embedding) -> None:
        """Raise where the model cannot use `chosen`.

        Raises:
            UnsupportedMethodError: the width is another, or a projection of its own is for another vocabulary.
        """
        if chosen.embedding_dim != self.table.embedding_dim:
            raise UnsupportedMethodError(
                f"These embeddings are {chosen.embedding_dim} wide, but the model reads {self.table.embedding_dim}."
            )
        projection = self.root.get_output_embeddings()
        weight = getattr(projection, "weight", None)  # some of upstream's projections are modules around one
        if weight is None or weight is self.table.weight or weight.shape[0] == chosen.num_embeddings:
            return
        raise UnsupportedMethodError(
            f"The projection to the vocabulary of {type(self.root).__name__} is not tied to the embeddings. It predicts "
            f"{weight.shape[0]} tokens, and would go on with that if the embeddings were of {chosen.num_embeddings}. Tie it "
            "(config.tie_word_embeddings), or use the base model or another head."
        )

    def put(self, chosen: nn.Embedding, active: str, name: str) -> nn.Embedding:
        """Put the weight of `chosen` into the table and all that is tied to it.

        Args:
            active: the name of what is in it.
            name: the name of `chosen`.

        Returns:
            What was in it.
        """
        old = self.weight
        # The very parameter, not a copy: an optimizer may hold it.
        size, width = old.shape
        before = nn.Embedding(size, width, padding_idx=self.table.padding_idx, _weight=old)
        before.weight = old
        new = chosen.weight
        assert isinstance(new, nn.Parameter)
        if new.device != old.device or new.dtype != old.dtype:
            new = nn.Parameter(new.detach().to(old.device, old.dtype), requires_grad=new.requires_grad)
        self._swap_biases(active, name, new.shape[0])
        for module, key in list(self._holders(old)):
            module._parameters[key] = new
            if isinstance(module, nn.Embedding):
                module.num_embeddings, module.padding_idx = new.shape[0], chosen.padding_idx
            elif isinstance(module, nn.Linear):
                module.out_features = new.shape[0]
        self._set_size(new.shape[0])
        return before

    def _holders(self, parameter: nn.Parameter) -> Iterator[tuple[nn.Module, str]]:
        """The modules that have `parameter`, each with its name there."""
        for module in self.root.modules():
            for key, held in module._parameters.items():
                if held is parameter:
                    yield module, key

    def _swap_biases(self, active: str, name: str, size: int) -> None:
        """Keep the biases of tied projections under `active`, and take those of `name`, at first zero."""
        kept: dict[str, dict[str, torch.Tensor]] = self.root.__dict__.setdefault("_output_biases", {})
        known, leaving = kept.pop(name, {}), dict[str, torch.Tensor]()
        for path, old in self._biases():
            leaving[path] = old
            shape = (*old.shape[:-1], size)
            new = known.get(path, torch.zeros(shape)).to(old.device, old.dtype)
            if isinstance(old, nn.Parameter) and not isinstance(new, nn.Parameter):
                new = nn.Parameter(new.detach(), requires_grad=old.requires_grad)
            self._replace(old, new)
        kept[active] = leaving

    def _biases(self) -> list[tuple[str, torch.Tensor]]:
        """What is added to the logits of tied projections, by its name: a parameter, or a buffer of BART's kind."""
        tied = {module for module, _ in self._holders(self.weight) if isinstance(module, nn.Linear)}
        found: list[tuple[str, torch.Tensor | None]] = [
            (f"{path}.bias", module.bias) for path, module in self.root.named_modules() if module in tied
        ]
        found += [(key, buffer) for key, buffer in self.root.named_buffers() if key == "final_logits_bias"]
        size = self.table.num_embeddings
        return [(key, bias) for key, bias in found if bias is not None and bias.shape[-1] == size]

    def _replace(self, old: torch.Tensor, new: torch.Tensor) -> None:
        """Put `new` in the place of the parameter or buffer `old`, whoever has it."""
        for module in self.root.modules():
            for key in [key for key, tensor in module._parameters.items() if tensor is old]:
                module._parameters[key] = new if isinstance(new, nn.Parameter) else nn.Parameter(new)
            for key in [key for key, tensor in module._buffers.items() if tensor is old]:
                module._buffers[key] = new

    def _set_size(self, size: int) -> None:
        """Tell configs and heads of how many tokens the table is."""
        for model in {self.root, self.root.adapters_base}:
            model.config.get_text_config().vocab_size = size
            if "vocab_size" in model.__dict__:  # some upstream classes keep a copy
                model.__dict__["vocab_size"] = size
        for head in self.root.modules():
            projection = head.get_output_embeddings() if isinstance(head, PredictionHead) else None
            if isinstance(head, PredictionHead) and projection is not None and projection.weight is self.table.weight:
                head.config["vocab_size"] = size
