"""What all generated ``<Model>AdapterModel`` classes share, with heads or without."""

from __future__ import annotations

import inspect
import sys
from typing import Any

from transformers import CONFIG_MAPPING, MODEL_MAPPING, PreTrainedConfig, PreTrainedModel
from transformers.utils.generic import can_return_tuple

from adapter_runtime.contract.registry import type_of_adapter_model
from adapter_runtime.methods.invertible.api import InvertibleAdaptersWrapperMixin
from adapter_runtime.model.calls import with_call_context
from adapter_runtime.model.embeddings.api import EmbeddingAdaptersWrapperMixin
from adapter_runtime.model.head_model import ModelAroundBaseAdaptersMixin

_KINDS_OF_ATTENTION = ("_supports_flash_attn", "_supports_sdpa", "_supports_flex_attn", "_supports_attention_backend")


class AdapterModelMixin(EmbeddingAdaptersWrapperMixin, InvertibleAdaptersWrapperMixin, ModelAroundBaseAdaptersMixin):
    """Base of the bases of generated adapter models.

    A generated class creates its base model, calls `init_adapter_model` at the end of its constructor, and runs the base
    model in its forward.
    """

    is_adapter_model = True

    @property
    def accepts_loss_kwargs(self) -> bool:
        """Whether `Trainer` may leave the division by the number of labels of a step to the loss. Without a head there is none."""
        return False

    def __init_subclass__(cls) -> None:
        """Let the forward of a generated class give a tuple where one is asked for, and run it in a context.

        `subclass` does the latter for upstream's classes. What the class that upstream's models of a file share says may be that of
        another model of the file: the config is that of the model type (or of the part of it that its base model is: MusicGen's is the
        decoder), the main input is what its base model says (BLIP-2's are pixels), and
        where that is no argument, the first.
        CLIP's reads tokens, its vision model takes pixels and says so itself. So does Gemma 4's model of sounds, which attends eagerly only.
        """
        super().__init_subclass__()
        model_type = type_of_adapter_model(cls)
        if model_type is not None:
            cls.config_class = CONFIG_MAPPING[model_type]
            base, only = _base_model_class(cls.config_class), _only_model_class(cls)
            if base is not None and base.config_class in cls.config_class.sub_configs.values():
                cls.config_class = base.config_class
            if base is None and only is not None:
                base, cls.supports_gradient_checkpointing = only, only.supports_gradient_checkpointing
            for flag in (*_KINDS_OF_ATTENTION, "main_input_name") if base is not None else ():
                setattr(cls, flag, getattr(base, flag))
        if "forward" in cls.__dict__:
            _, first, *others = inspect.signature(cls.__dict__["forward"]).parameters
            if cls.main_input_name not in (first, *others):
                cls.main_input_name = first
            cls.forward = with_call_context(can_return_tuple(cls.__dict__["forward"]), is_base=False)

    @classmethod
    def is_custom_code(cls) -> bool:
        """False: upstream renames keys of old checkpoints for its own classes only, and this class wraps one of those."""
        return False

    # Upstream reads in the text of a class's module whether its attention and its experts can be exchanged. The text with both is
    # not of the module that a generated class stands in. Where there is none, as of an encoder-decoder of any two models, the models
    # inside are asked for their attention, and experts stay as they are.

    @classmethod
    def _can_set_attn_implementation(cls) -> bool:
        upstream = _upstream_class(cls)
        return upstream is None or upstream._can_set_attn_implementation()

    @classmethod
    def _can_set_experts_implementation(cls) -> bool:
        upstream = _upstream_class(cls)
        return upstream is not None and upstream._can_set_experts_implementation()


def _base_model_class(config_class: type[PreTrainedConfig]) -> type[PreTrainedModel] | None:
    """Upstream's base model for a config; None where it has none, or more than one, or offers none of that name (Voxtral Realtime's text)."""
    try:
        found = MODEL_MAPPING.get(config_class, None)
    except ValueError:
        return None
    return found if isinstance(found, type) else None


def _only_model_class(adapter_model: Any) -> type[PreTrainedModel] | None:
    """Upstream's only model for a config, where it has none of several models in common and no base model: an encoder-decoder of any two.

    Its module has been imported, for the class that the adapter model creates.
    """
    if _upstream_class(adapter_model) is not None:
        return None
    config_class: type[PreTrainedConfig] = adapter_model.config_class
    module = sys.modules.get(config_class.__module__.replace(".configuration_", ".modeling_"))
    classes: list[Any] = [cls for cls in vars(module).values() if isinstance(cls, type)] if module is not None else []
    found = [cls for cls in classes if issubclass(cls, PreTrainedModel) and cls.config_class is config_class]
    return found[0] if len(found) == 1 else None


def _upstream_class(adapter_model: type) -> type[PreTrainedModel] | None:
    """The class of upstream's modeling file that a generated class derives from; None where it derives from `PreTrainedModel` alone."""
    return next((cls for cls in adapter_model.__mro__ if cls.__module__.startswith("transformers.models.")), None)
