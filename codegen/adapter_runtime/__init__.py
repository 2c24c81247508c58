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
    "call.context": (
        "AdapterSetup",
        "ForwardContext",
    ),
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
    "contract.config": ("AdapterConfig",),
    "contract.state": ("ModelAdaptersConfig",),
    "errors": (
        "AdapterError",
        "InvalidCompositionError",
        "InvalidConfigError",
        "UnknownAdapterError",
        "UnsupportedMethodError",
        "UnsupportedModelError",
    ),
    "files.utils": (
        "ADAPTER_CACHE",
        "AdapterInfo",
        "AdapterType",
        "get_adapter_config_hash",
        "get_adapter_info",
        "list_adapters",
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
    "methods.bottleneck.config": (
        "AdapterPlusConfig",
        "BnConfig",
        "CompacterConfig",
        "CompacterPlusPlusConfig",
        "DoubleSeqBnConfig",
        "DoubleSeqBnInvConfig",
        "ParBnConfig",
        "SeqBnConfig",
        "SeqBnInvConfig",
    ),
    "methods.bottleneck.layer": ("BottleneckLayer",),
    "methods.fusion.config": (
        "ADAPTERFUSION_CONFIG_MAP",
        "AdapterFusionConfig",
        "DEFAULT_ADAPTERFUSION_CONFIG",
        "DynamicAdapterFusionConfig",
        "StaticAdapterFusionConfig",
    ),
    "methods.invertible.api": (
        "InvertibleAdaptersMixin",
        "InvertibleAdaptersWrapperMixin",
    ),
    "methods.lora.config": (
        "DoRAConfig",
        "DvoRAConfig",
        "IA3Config",
        "LoRAConfig",
        "MTLLoRAConfig",
        "MultiTaskConfig",
        "VeraConfig",
    ),
    "methods.lora.layer": (
        "LoRAConv1D",
        "LoRALinear",
        "LoRAMergedLinear",
    ),
    "methods.prefix_tuning.config": ("PrefixTuningConfig",),
    "methods.prefix_tuning.layer": (
        "AttentionAdaptersMixin",
        "PrefixTuningLayer",
    ),
    "methods.prompt_tuning.config": ("PromptTuningConfig",),
    "methods.reft.config": (
        "DiReftConfig",
        "LoReftConfig",
        "NoReftConfig",
        "ReftConfig",
    ),
    "methods.strings": (
        "ADAPTER_CONFIG_MAP",
        "DEFAULT_ADAPTER_CONFIG",
    ),
    "methods.union": (
        "ConfigUnion",
        "MAMConfig",
        "UniPELTConfig",
    ),
    "model.api": ("ModelAdaptersMixin",),
    "model.auto": (
        "ADAPTER_MODEL_MAPPING",
        "AutoAdapterModel",
    ),
    "model.base": ("ModelBaseAdaptersMixin",),
    "model.embeddings.api": (
        "EmbeddingAdaptersMixin",
        "EmbeddingAdaptersWrapperMixin",
        "UnknownEmbeddingsError",
    ),
    "model.head_model": (
        "ModelUsingSubmodelsAdaptersMixin",
        "ModelWithHeadsAdaptersMixin",
    ),
    "model.heads.flexible": ("ModelWithFlexibleHeadsAdaptersMixin",),
    "model.init": ("init",),
    "model.interface.declaration": (
        "AdapterMethod",
        "AdapterModelInterface",
    ),
    "model.interface.loading": ("load_model",),
    "model.layer": ("LayerAdaptersMixin",),
    "programs.hooks": ("patch_forward",),
    "programs.layer": (
        "AdapterLayerBase",
        "ComposableAdapterLayerBase",
    ),
    "training": (
        "AdapterArguments",
        "AdapterTrainer",
        "Seq2SeqAdapterTrainer",
        "TrainingSetupError",
        "setup_adapter_training",
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
