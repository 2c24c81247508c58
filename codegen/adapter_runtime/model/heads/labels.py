"""The names of the labels of upstream's own heads, as flexible heads give theirs."""

from __future__ import annotations

from adapter_runtime.programs.dynamic import DynamicMixin


class StaticLabelsMixin(DynamicMixin):
    """Of models with one head, whose labels are in the config of the model."""

    def get_labels_dict(self) -> dict[int, str]:
        """Index -> name of the labels."""
        return {int(index): label for index, label in (self.config.id2label or {}).items()}

    def get_labels(self) -> list[str]:
        """The names of the labels in the order of their indices."""
        labels = self.get_labels_dict()
        return [labels[index] for index in sorted(labels)]
