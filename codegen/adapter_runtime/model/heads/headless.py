"""Adapter models that no head fits on: they hold a base model and nothing else."""

from __future__ import annotations

from transformers.utils.generic import can_return_tuple

from adapter_runtime.methods.invertible.api import InvertibleAdaptersWrapperMixin
from adapter_runtime.model.calls import in_call
from adapter_runtime.model.embeddings.api import EmbeddingAdaptersWrapperMixin
from adapter_runtime.model.head_model import ModelAroundBaseAdaptersMixin
from adapter_runtime.model.init import init


class ModelWithoutHeadsAdaptersMixin(
    EmbeddingAdaptersWrapperMixin, InvertibleAdaptersWrapperMixin, ModelAroundBaseAdaptersMixin
):
    """Base of the generated ``<Model>AdapterModel`` classes without heads, whose outputs are those of the base model.

    A generated class creates its base model, calls `init_adapter_model`, and calls the base model in its forward.
    """

    is_adapter_model = True

    # As in the classes with flexible heads: `Trainer` shall not count items for a loss that there is not.
    accepts_loss_kwargs = False

    def __init_subclass__(cls) -> None:
        """Let the forward of a generated class give a tuple where one is asked for, and run it in a context."""
        super().__init_subclass__()
        if "forward" in cls.__dict__:
            cls.forward = in_call(can_return_tuple(cls.__dict__["forward"]), is_base=False)

    @classmethod
    def is_custom_code(cls) -> bool:
        """Upstream renames keys of old checkpoints only for code that it knows; what we wrap is such code."""
        return False

    def init_adapter_model(self) -> None:
        """Finish the constructor: adapters that the config names, then upstream's own last step."""
        init(self)
        self.post_init()
