"""The names of the labels of upstream's own heads, by the same methods as those of flexible heads."""

from __future__ import annotations

from adapter_runtime.contract.protocol import AdaptedModel


class StaticLabelsMixin:
    """Methods of models with one head, whose labels are in the config of the model."""

    def get_labels_dict(self: AdaptedModel) -> dict[int, str]:
        """Index -> name of the labels."""
        return _labels(self)

    def get_labels(self: AdaptedModel) -> list[str]:
        """The names of the labels in the order of their indices."""
        labels = _labels(self)
        return [labels[index] for index in sorted(labels)]


def _labels(model: AdaptedModel) -> dict[int, str]:
    return {int(index): label for index, label in (model.config.id2label or {}).items()}
