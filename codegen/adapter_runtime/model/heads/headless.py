"""Adapter models that no head fits on: they hold a base model and nothing else."""

from __future__ import annotations

from adapter_runtime.files.api.checkpoints import ReadCheckpointsMixin
from adapter_runtime.model.heads.adapter_model import AdapterModelMixin
from adapter_runtime.model.init import init


class ModelWithoutHeadsAdaptersMixin(ReadCheckpointsMixin, AdapterModelMixin):
    """Base of the generated ``<Model>AdapterModel`` classes without heads, whose outputs are those of the base model.

    A generated class creates its base model, calls `init_adapter_model`, and calls the base model in its forward.
    """

    def init_adapter_model(self) -> None:
        """Finish the constructor: adapters that the config names, then upstream's own last step."""
        init(self)
        self.post_init()
