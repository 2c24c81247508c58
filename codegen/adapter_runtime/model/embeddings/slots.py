"""Everything in a model that goes with its token embeddings, and how all of it changes at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from adapter_runtime.errors import UnsupportedMethodError


def _table(model: Any) -> nn.Embedding:
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

    def __init__(self, root: Any) -> None:
        self.root = root
        self.table: nn.Embedding = _table(root)

    @property
    def weight(self) -> nn.Parameter:
        """[V, E], what the table holds."""
        weight = self.table.weight
        assert isinstance(weight, nn.Parameter)
        return weight

    @property
    def config(self) -> Any:
        """The config that has ``vocab_size``."""
        return self.root.config.get_text_config()

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
        weight = getattr(projection, "weight", None)
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
        found = [(f"{path}.bias", module.bias) for path, module in self.root.named_modules() if module in tied]
        found += [(key, buffer) for key, buffer in self.root.named_buffers() if key == "final_logits_bias"]
        size = self.table.num_embeddings
        return [(key, bias) for key, bias in found if bias is not None and bias.shape[-1] == size]

    def _replace(self, old: torch.Tensor, new: torch.Tensor) -> None:
        for module in self.root.modules():
            for held in (module._parameters, module._buffers):
                for key in [key for key, tensor in held.items() if tensor is old]:
                    held[key] = new

    def _set_size(self, size: int) -> None:
        for model in {self.root, self.root.base_model}:
            model.config.get_text_config().vocab_size = size
            if "vocab_size" in model.__dict__:  # some upstream classes keep a copy
                model.vocab_size = size
        heads: Any = getattr(self.root, "heads", {})
        for head in heads.values():
            projection = head.get_output_embeddings()
            if projection is not None and projection.weight is self.table.weight:
                head.config["vocab_size"] = size
