"""Adapter models that no head fits on: they hold a base model and nothing else."""

from __future__ import annotations

import contextlib
import os
from typing import Any

from transformers import GenerationConfig

from adapter_runtime.call.arguments import Generate
from adapter_runtime.files.api.checkpoints import ReadCheckpointsMixin
from adapter_runtime.model.heads.adapter_model import AdapterModelMixin
from adapter_runtime.model.init import init

# Arguments that say where a checkpoint lies.
_WHERE = ("cache_dir", "force_download", "proxies", "local_files_only", "token", "revision", "subfolder")


class ModelWithoutHeadsAdaptersMixin(ReadCheckpointsMixin, AdapterModelMixin):
    """Base of the generated ``<Model>AdapterModel`` classes without heads, whose outputs are those of the base model.

    A generated class creates its base model, calls `init_adapter_model`, and calls the base model in its forward.
    """

    def init_adapter_model(self) -> None:
        """Finish the constructor: adapters that the config names, then upstream's own last step."""
        init(self)
        self.post_init()

    @property
    def generate(self) -> Generate:
        """See transformers: that of the base model, where that ends in a head and generates (EncoderDecoder, Llama 4).

        This is a property, so that models whose base model cannot generate still have no such attribute.
        """
        generate: Generate = self.adapters_base.generate
        return generate

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], *args: Any, **kwargs: Any) -> Any:
        """See transformers. A base model that generates does so as the files of its checkpoint say."""
        loaded = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        if model.base_model.can_generate():
            where = {name: value for name, value in kwargs.items() if name in _WHERE}
            with contextlib.suppress(
                OSError
            ):  # there may be no such file: the config of the model has said what there is to say
                model.base_model.generation_config = GenerationConfig.from_pretrained(
                    pretrained_model_name_or_path, **where
                )
        return loaded

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """See transformers. How the base model generates is saved too, if it does."""
        super().save_pretrained(save_directory, *args, **kwargs)
        if self.base_model.can_generate() and kwargs.get("is_main_process", True):
            self.base_model.generation_config.save_pretrained(save_directory)
