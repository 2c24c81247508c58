"""The torch runtime of adapter models: hand-written, for all models. It imports torch and transformers only.

Names are imported when they are first touched, so that importing this package costs nothing.

Where do I find ...
  the methods of models?     model_api.py (add, train, merge ...), base_model.py, head_model.py, files_api.py
  `init`?                    wrapping.py; for models nobody generated: interface/
  what runs in a layer?      layers/ (places) and methods/ (modules of one adapter)
  options of methods?        configuration/
  blocks like Stack?         composition.py
  files and the hub?         saving.py, loading.py, files/
  prediction heads?          heads/
  embeddings of tokens?      embeddings.py (further ones, by name), invertible_api.py
  `AdapterTrainer`?          training/
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_MODULES: dict[str, tuple[str, ...]] = {
    "adapters_config": ("ModelAdaptersConfig",),
    "auto": ("ADAPTER_MODEL_MAPPING", "AutoAdapterModel"),
    "composition": (
        "AdapterCompositionBlock",
        "Average",
        "BatchSplit",
        "Fuse",
        "MultiTask",
        "Parallel",
        "Split",
        "Stack",
        "parse_composition",
        "validate_composition",
    ),
    "configuration": (
        "ADAPTERFUSION_CONFIG_MAP",
        "ADAPTER_CONFIG_MAP",
        "DEFAULT_ADAPTERFUSION_CONFIG",
        "DEFAULT_ADAPTER_CONFIG",
        "AdapterConfig",
        "AdapterFusionConfig",
        "AdapterPlusConfig",
        "BnConfig",
        "CompacterConfig",
        "CompacterPlusPlusConfig",
        "ConfigUnion",
        "DiReftConfig",
        "DoRAConfig",
        "DoubleSeqBnConfig",
        "DoubleSeqBnInvConfig",
        "DvoRAConfig",
        "DynamicAdapterFusionConfig",
        "IA3Config",
        "LoRAConfig",
        "LoReftConfig",
        "MAMConfig",
        "MTLLoRAConfig",
        "MultiTaskConfig",
        "NoReftConfig",
        "ParBnConfig",
        "PrefixTuningConfig",
        "PromptTuningConfig",
        "ReftConfig",
        "SeqBnConfig",
        "SeqBnInvConfig",
        "StaticAdapterFusionConfig",
        "UniPELTConfig",
        "VeraConfig",
    ),
    "context": ("AdapterSetup", "ForwardContext"),
    "embeddings": ("EmbeddingAdaptersMixin", "EmbeddingAdaptersWrapperMixin", "UnknownEmbeddingsError"),
    "invertible_api": ("InvertibleAdaptersMixin", "InvertibleAdaptersWrapperMixin"),
    "errors": (
        "AdapterError",
        "InvalidCompositionError",
        "InvalidConfigError",
        "UnknownAdapterError",
        "UnsupportedMethodError",
        "UnsupportedModelError",
    ),
    "heads": (
        "BertStyleMaskedLMHead",
        "BiaffineParsingHead",
        "CausalLMHead",
        "ClassificationHead",
        "DependencyParsingOutput",
        "ImageClassificationHead",
        "MultiHeadOutput",
        "MultiLabelClassificationHead",
        "MultipleChoiceHead",
        "PredictionHead",
        "QuestionAnsweringHead",
        "Seq2SeqLMHead",
        "TaggingHead",
        "register_custom_head",
    ),
    "heads.model_mixin": ("ModelWithFlexibleHeadsAdaptersMixin",),
    "interface": ("AdapterMethod", "AdapterModelInterface"),
    "interface.loading": ("load_model",),
    "training": (
        "AdapterArguments",
        "AdapterTrainer",
        "Seq2SeqAdapterTrainer",
        "TrainingSetupError",
        "setup_adapter_training",
    ),
    "utils": (
        "ADAPTER_CACHE",
        "AdapterInfo",
        "AdapterType",
        "get_adapter_config_hash",
        "get_adapter_info",
        "list_adapters",
    ),
    "wrapping": ("init",),
    "layers.base": ("AdapterLayerBase", "ComposableAdapterLayerBase"),
    "layers.bottleneck": ("BottleneckLayer",),
    "layers.hooks": ("patch_forward",),
    "layers.layer": ("LayerAdaptersMixin",),
    "layers.lora": ("LoRAConv1D", "LoRALinear", "LoRAMergedLinear"),
    "layers.prefix_tuning": ("AttentionAdaptersMixin", "PrefixTuningLayer"),
    "model_mixin": (
        "ModelAdaptersMixin",
        "ModelBaseAdaptersMixin",
        "ModelUsingSubmodelsAdaptersMixin",
        "ModelWithHeadsAdaptersMixin",
    ),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
