"""What all generated ``<Model>AdapterModel`` classes share, with heads or without."""

from __future__ import annotations

from transformers.utils.generic import can_return_tuple

from adapter_runtime.methods.invertible.api import InvertibleAdaptersWrapperMixin
from adapter_runtime.model.calls import with_call_context
from adapter_runtime.model.embeddings.api import EmbeddingAdaptersWrapperMixin
from adapter_runtime.model.head_model import ModelAroundBaseAdaptersMixin


class AdapterModelMixin(EmbeddingAdaptersWrapperMixin, InvertibleAdaptersWrapperMixin, ModelAroundBaseAdaptersMixin):
    """Base of the bases of generated adapter models.

    A generated class creates its base model, calls `init_adapter_model` at the end of its constructor, and runs the base
    model in its forward.
    """

    is_adapter_model = True

    # With True, `Trainer` would leave the division by the number of accumulation steps to the loss of the model. Losses of
    # heads do not divide by it, and without a head there is no loss.
    accepts_loss_kwargs = False

    def __init_subclass__(cls) -> None:
        """Let the forward of a generated class give a tuple where one is asked for, and run it in a context.

        `subclass` does the latter for upstream's classes.
        """
        super().__init_subclass__()
        if "forward" in cls.__dict__:
            cls.forward = with_call_context(can_return_tuple(cls.__dict__["forward"]), is_base=False)

    @classmethod
    def is_custom_code(cls) -> bool:
        """False: upstream renames keys of old checkpoints for its own classes only, and this class wraps one of those."""
        return False
