"""`import adapter_models as adapters`: the names and methods that projects touch are there."""

from __future__ import annotations

import importlib

import pytest

import adapter_models
from adapter_runtime.contract.registry import registered
from runtime_models import adapted

# What `adapters` 1.3.0 exports, but for its model classes (those of generated models are tested below) and the one below.
NAMES = [
    "ADAPTERFUSION_CONFIG_MAP",
    "ADAPTER_CACHE",
    "ADAPTER_CONFIG_MAP",
    "ADAPTER_MODEL_MAPPING",
    "AdapterArguments",
    "AdapterCompositionBlock",
    "AdapterConfig",
    "AdapterFusionConfig",
    "AdapterInfo",
    "AdapterLayerBase",
    "AdapterMethod",
    "AdapterModelInterface",
    "AdapterPlusConfig",
    "AdapterSetup",
    "AdapterTrainer",
    "AdapterType",
    "AutoAdapterModel",
    "BatchSplit",
    "BertStyleMaskedLMHead",
    "BiaffineParsingHead",
    "BnConfig",
    "CausalLMHead",
    "ClassificationHead",
    "CompacterConfig",
    "CompacterPlusPlusConfig",
    "ComposableAdapterLayerBase",
    "ConfigUnion",
    "DEFAULT_ADAPTERFUSION_CONFIG",
    "DEFAULT_ADAPTER_CONFIG",
    "DependencyParsingOutput",
    "DiReftConfig",
    "DoRAConfig",
    "DoubleSeqBnConfig",
    "DoubleSeqBnInvConfig",
    "DvoRAConfig",
    "DynamicAdapterFusionConfig",
    "EmbeddingAdaptersMixin",
    "ForwardContext",
    "Fuse",
    "IA3Config",
    "InvertibleAdaptersMixin",
    "InvertibleAdaptersWrapperMixin",
    "LoRAConfig",
    "LoReftConfig",
    "MAMConfig",
    "MTLLoRAConfig",
    "ModelAdaptersConfig",
    "ModelAdaptersMixin",
    "ModelWithFlexibleHeadsAdaptersMixin",
    "ModelWithHeadsAdaptersMixin",
    "MultiHeadOutput",
    "MultiLabelClassificationHead",
    "MultiTask",
    "MultiTaskConfig",
    "MultipleChoiceHead",
    "NoReftConfig",
    "ParBnConfig",
    "Parallel",
    "PredictionHead",
    "PrefixTuningConfig",
    "PromptTuningConfig",
    "QuestionAnsweringHead",
    "ReftConfig",
    "Seq2SeqAdapterTrainer",
    "Seq2SeqLMHead",
    "SeqBnConfig",
    "SeqBnInvConfig",
    "Split",
    "Stack",
    "StaticAdapterFusionConfig",
    "TaggingHead",
    "UniPELTConfig",
    "VeraConfig",
    "get_adapter_config_hash",
    "get_adapter_info",
    "init",
    "list_adapters",
    "load_model",
    "parse_composition",
    "setup_adapter_training",
    "validate_composition",
]
# It wires the config of `adapters` into a model's and is called by its `init` alone; here `init` does that work itself.
NOT_OFFERED = {"init_adapters_config"}

# Paths below the package that users and tests import from.
PLACES = {
    "composition": ("Average", "Stack", "parse_composition"),
    "configuration": ("AdapterConfig", "BnConfig"),
    "configuration.adapter_config": ("LoRAConfig",),
    "context": ("AdapterSetup", "ForwardContext"),
    "heads": ("ImageClassificationHead", "ModelWithFlexibleHeadsAdaptersMixin", "MultiHeadOutput"),
    "heads.language_modeling": ("CausalLMHead",),
    "interface": ("AdapterModelInterface",),
    "methods.lora": ("LoRALayer",),
    "model_mixin": ("ModelBaseAdaptersMixin",),
    "models.auto.adapter_model": ("ADAPTER_MODEL_MAPPING", "AutoAdapterModel"),
    "trainer": ("AdapterTrainer", "logger"),
    "training": ("AdapterArguments", "setup_adapter_training"),
    "utils": ("ADAPTERFUSION_CONFIG_NAME", "CONFIG_NAME", "HEAD_CONFIG_NAME", "WEIGHTS_NAME"),
    "wrappers": ("init", "load_model"),
}

# Methods and properties that `adapters` puts on every model, ...
ON_MODELS = [
    "active_adapters",
    "active_embeddings",
    "adapter_fusion_to",
    "adapter_summary",
    "adapter_to",
    "add_adapter",
    "add_adapter_fusion",
    "add_embeddings",
    "apply_to_adapter_layers",
    "apply_to_basemodel_childs",
    "average_adapter",
    "delete_adapter",
    "delete_adapter_fusion",
    "delete_embeddings",
    "eject_prefix_tuning",
    "freeze_model",
    "get_adapter",
    "get_fusion_regularization_loss",
    "gradient_checkpointing_enable",
    "has_adapters",
    "has_parallel_adapters",
    "iter_layers",
    "load_adapter",
    "load_adapter_fusion",
    "load_adapter_setup",
    "load_embeddings",
    "loaded_embeddings",
    "merge_adapter",
    "push_adapter_setup_to_hub",
    "push_adapter_to_hub",
    "reset_adapter",
    "save_adapter",
    "save_adapter_fusion",
    "save_adapter_setup",
    "save_all_adapter_fusions",
    "save_all_adapters",
    "save_embeddings",
    "save_pretrained",
    "set_active_adapters",
    "set_active_embeddings",
    "share_parameters",
    "supports_adapter",
    "train_adapter",
    "train_adapter_fusion",
    "unshare_parameters",
]
# ... on models with a head, ...
ON_HEAD_MODELS = ["freeze_embeddings", "get_labels", "get_labels_dict", "load_head", "save_all_heads", "save_head"]
# ... and on those with flexible heads.
ON_FLEXIBLE_MODELS = [
    "active_head",
    "average_head",
    "add_causal_lm_head",
    "add_classification_head",
    "add_custom_head",
    "add_dependency_parsing_head",
    "add_image_classification_head",
    "add_masked_lm_head",
    "add_multiple_choice_head",
    "add_prediction_head",
    "add_prediction_head_from_config",
    "add_qa_head",
    "add_seq2seq_lm_head",
    "add_tagging_head",
    "delete_head",
    "forward_head",
    "get_prediction_heads_config",
    "head_types",
    "register_custom_head",
    "tie_weights",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_public_name_is_exported(name: str) -> None:
    assert name in adapter_models.__all__
    assert getattr(adapter_models, name) is not None


@pytest.mark.parametrize("place", PLACES)
def test_a_name_is_found_where_projects_import_it_from(place: str) -> None:
    module = importlib.import_module(f"adapter_models.{place}")
    assert [name for name in PLACES[place] if not hasattr(module, name)] == []


@pytest.mark.parametrize("model_type", ["bert", "llama"])
def test_a_generated_model_has_its_class(model_type: str) -> None:
    dotted = registered().adapter_models[model_type]
    assert dotted.rpartition(".")[2] in adapter_models.__all__


@pytest.mark.parametrize("kind", ["bert", "llama", "bert_lm"])
def test_models_have_the_methods(kind: str) -> None:
    model = type(adapted(kind))
    assert [name for name in ON_MODELS if not hasattr(model, name) and not hasattr(adapted(kind), name)] == []


def test_models_with_a_head_have_theirs() -> None:
    assert [name for name in ON_HEAD_MODELS if not hasattr(adapted("bert_lm"), name)] == []


def test_models_with_flexible_heads_have_theirs() -> None:
    model = adapter_models.BertAdapterModel
    missing = [name for name in [*ON_MODELS, *ON_HEAD_MODELS, *ON_FLEXIBLE_MODELS] if not hasattr(model, name)]
    assert missing == []


def test_layers_are_walked() -> None:
    model = adapted("bert")
    model.add_adapter("a", "seq_bn")
    seen: list[tuple[int, str]] = []
    model.apply_to_adapter_layers(lambda index, layer: seen.append((index, layer.location_key)))
    assert (0, "output_adapter") in seen and (2, "mh_adapter") in seen and -1 in {index for index, _ in seen}
    modules: list[object] = []
    model.apply_to_basemodel_childs(modules.append)
    assert model in modules and model.get_layer(2) in modules
    with pytest.raises(IndexError, match="0 to 2"):
        model.get_layer(3)


def test_a_parallel_setup_shows() -> None:
    model = adapted("bert")
    for name in ("a", "b"):
        model.add_adapter(name)
    assert not model.has_parallel_adapters
    model.active_adapters = adapter_models.Parallel("a", "b")
    assert model.has_parallel_adapters
