"""Adapter models that no head fits on: they hold a base model and nothing else."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable
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
        # Upstream (pipelines, trainers, files) asks the model, whose class does not know what it holds. The answer is kept, not the
        # method of the base model's class: pickle finds classes by name, and by its name there is upstream's.
        self.can_generate: Callable[[], bool] = functools.partial(bool, self.adapters_base.can_generate())
        self.post_init()

    @property
    def generation_config(self) -> GenerationConfig:
        """How the base model generates.

        Raises:
            AttributeError: it does not. (As of upstream's, `hasattr` says so.)
        """
        return self.adapters_base.generation_config

    @generation_config.setter
    def generation_config(self, value: GenerationConfig) -> None:
        self.adapters_base.generation_config = value

    @property
    def generate(self) -> Generate:
        """See transformers: that of the base model, where that ends in a head and generates (EncoderDecoder, Llama 4).

        This is a property, so that models whose base model cannot generate still have no such attribute.
        """
        generate: Generate = self.adapters_base.generate
        return generate

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str] | None, *args: Any, **kwargs: Any
    ) -> Any:
        """See transformers. A base model that generates does so as it is told here, else as the files of its checkpoint say."""
        loaded = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        if not model.can_generate():
            return loaded
        if kwargs.get("generation_config") is not None:
            model.generation_config = kwargs["generation_config"]
        elif pretrained_model_name_or_path is not None:
            where = {name: value for name, value in kwargs.items() if name in _WHERE}
            # There may be no such file: the config of the model has said what there is to say.
            with contextlib.suppress(OSError):
                model.generation_config = GenerationConfig.from_pretrained(pretrained_model_name_or_path, **where)
        return loaded
