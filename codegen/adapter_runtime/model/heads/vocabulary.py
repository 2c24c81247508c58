"""The projections to the vocabulary of all language modelling heads of a model: tied, resized, found."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

from torch import nn

from adapter_runtime.heads.base import PredictionHead
from adapter_runtime.programs.dynamic import DynamicMixin


class VocabularyHeadsMixin(DynamicMixin):
    """What upstream asks a model with one head of this kind, for one with several."""

    if TYPE_CHECKING:  # of other mixins of the model

        def active_heads(self) -> list[PredictionHead]: ...

    def _projections(self) -> Iterator[tuple[PredictionHead, nn.Module]]:
        """The heads that predict tokens, each with its last layer."""
        heads = cast("dict[str, PredictionHead]", getattr(self, "heads", {}))
        for head in heads.values():
            projection = head.get_output_embeddings()
            if projection is not None:
                yield head, projection

    def get_output_embeddings(self) -> nn.Module | None:
        """The projection to the vocabulary of the active head; of several, that of the first that has one."""
        found = (head.get_output_embeddings() for head in self.active_heads())
        return next((projection for projection in found if projection is not None), None)

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Replace the projection that `get_output_embeddings` gives."""
        for head in self.active_heads():
            if head.get_output_embeddings() is not None:
                head.set_output_embeddings(new_embeddings)
                return

    def _resize_token_embeddings(
        self, new_num_tokens: int | None, pad_to_multiple_of: int | None = None, mean_resizing: bool = True
    ) -> nn.Module:
        """Resize the embeddings, and the projection of every head, active or not."""
        embeddings: Any = super()._resize_token_embeddings(new_num_tokens, pad_to_multiple_of, mean_resizing)
        size = embeddings.weight.shape[0]
        for head, projection in self._projections():
            weight: Any = projection.weight
            # A tied weight was replaced with the embeddings already; the module around it does not know.
            if weight.shape[0] != size or getattr(projection, "out_features", size) != size:
                resized = self._get_resized_lm_head(projection, size, mean_resizing=mean_resizing)
                head.set_output_embeddings(resized.requires_grad_(weight.requires_grad))
        return embeddings  # type: ignore[no-any-return]

    @property
    def _tied_weights_keys(self) -> dict[str, str]:
        """What upstream ties if the config says so: the projections of language modelling heads, to the input embeddings.

        Upstream keeps this on the class; heads come and go, so here it belongs to the object.
        """
        projections = [projection for _, projection in self._projections()]
        if not projections:
            return {}
        embeddings = self.get_input_embeddings()
        names = {module: name for name, module in self.named_modules()}
        source = f"{names[embeddings]}.weight"
        return dict.fromkeys(sorted(f"{names[projection]}.weight" for projection in projections), source)

    def _tie_head(self, head: PredictionHead) -> None:
        """Tie a head that is added after construction; before, upstream's `post_init` does."""
        if not hasattr(self, "all_tied_weights_keys"):
            return
        self._untie_heads()
        projection = head.get_output_embeddings()
        if projection is not None and any(key.startswith(f"heads.{head.name}.") for key in self.all_tied_weights_keys):
            projection.weight = self.get_input_embeddings().weight

    def _untie_heads(self) -> None:
        """Forget heads that are gone."""
        self.all_tied_weights_keys = self.get_expanded_tied_weights_keys(all_submodels=True)
