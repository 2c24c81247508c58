"""The projections to the vocabulary of all language modelling heads of a model: tied, resized, found."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from adapter_runtime.heads.base import PredictionHead
from adapter_runtime.heads.protocol import FlexibleHeadsModel, active_heads, all_heads
from adapter_runtime.programs.dynamic import DynamicMixin


class VocabularyHeadsMixin(DynamicMixin):
    """What upstream asks a model with one language modelling head, answered for a model with several."""

    def get_output_embeddings(self) -> nn.Module | None:
        """The projection to the vocabulary of the active head; of several, that of the first that has one."""
        found = (head.get_output_embeddings() for head in active_heads(self))
        return next((projection for projection in found if projection is not None), None)

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Replace the projection that `get_output_embeddings` gives."""
        for head in active_heads(self):
            if head.get_output_embeddings() is not None:
                head.set_output_embeddings(new_embeddings)
                return

    def train_vocabulary(self, train: bool) -> None:
        """Resume, or with False stop, the training of the projections to the vocabulary of all active heads."""
        for head in active_heads(self):
            projection = head.get_output_embeddings()
            if projection is not None:
                projection.requires_grad_(train)

    def _resize_token_embeddings(
        self, new_num_tokens: int | None, pad_to_multiple_of: int | None = None, mean_resizing: bool = True
    ) -> nn.Module:
        """Resize the embeddings, and the projection of every head, active or not."""
        embeddings: nn.Module = super()._resize_token_embeddings(new_num_tokens, pad_to_multiple_of, mean_resizing)
        size = _weight(embeddings).shape[0]
        for head, projection in _projections(self):
            weight = _weight(projection)
            # A tied weight was replaced with the embeddings already; the module around it does not know.
            if weight.shape[0] != size or getattr(projection, "out_features", size) != size:
                resized = self._get_resized_lm_head(projection, size, mean_resizing=mean_resizing)
                head.set_output_embeddings(resized.requires_grad_(weight.requires_grad))
        return embeddings

    @property
    def _tied_weights_keys(self) -> dict[str, str]:
        """What upstream ties if the config says so: the projections of language modelling heads, to the input embeddings.

        Upstream keeps this on the class; heads come and go, so here it belongs to the object. Upstream also asks while
        the base model is being made, before there are heads.
        """
        return _tied_projections(self) if hasattr(self, "heads") else {}


def _projections(model: FlexibleHeadsModel) -> Iterator[tuple[PredictionHead, nn.Module]]:
    """The heads that predict tokens, each with its last layer."""
    for head in all_heads(model):
        projection = head.get_output_embeddings()
        if projection is not None:
            yield head, projection


def _weight(module: nn.Module) -> torch.Tensor:
    """The weight of embeddings or of a projection, [V, H]."""
    weight = module.weight
    assert isinstance(weight, torch.Tensor)
    return weight


def _tied_projections(model: FlexibleHeadsModel) -> dict[str, str]:
    """The names of the weights of projections -> the name of that of the embeddings of what they predict.

    Upstream ties in one step: where these embeddings are tied to others themselves, the projections are to those. A projection of
    another shape than the embeddings is not tied, as in upstream's classes.
    """
    projections = [projection for _, projection in _projections(model)]
    if not projections:
        return {}
    embeddings = predicted_embeddings(model)
    shape = _weight(embeddings).shape  # CPM-Ant's have more rows than there are tokens: those of its prompts
    projections = [projection for projection in projections if _weight(projection).shape == shape]
    names = {module: name for name, module in model.named_modules()}
    source = f"{names[embeddings]}.weight"
    prefix = f"{model.base_model_prefix}."
    tied = getattr(model.base_model, "_tied_weights_keys", None) or {}
    target = tied.get(source.removeprefix(prefix))
    source = source if target is None else f"{prefix}{target}"
    return dict.fromkeys(sorted(f"{names[projection]}.weight" for projection in projections), source)


def predicted_embeddings(model: FlexibleHeadsModel) -> nn.Module:
    """The embeddings of the tokens that a head predicts: those of the decoder, which may have a vocabulary of its own."""
    own = model.get_input_embeddings()
    if not model.config.is_encoder_decoder:
        return own
    decoder = model.get_decoder()
    try:
        found: nn.Module | None = decoder.get_input_embeddings()
    except (AttributeError, NotImplementedError):
        return own
    return own if found is None else found


def tie_head(model: FlexibleHeadsModel, head: PredictionHead) -> None:
    """Tie a head that is added after construction; before, upstream's `post_init` does."""
    if not hasattr(model, "all_tied_weights_keys"):
        return
    update_ties(model)
    projection = head.get_output_embeddings()
    if projection is not None and any(key.startswith(f"heads.{head.name}.") for key in model.all_tied_weights_keys):
        projection.weight = predicted_embeddings(model).weight


def update_ties(model: FlexibleHeadsModel) -> None:
    """Work out anew what is tied to what: a head was added or removed."""
    model.all_tied_weights_keys = model.get_expanded_tied_weights_keys(all_submodels=True)
