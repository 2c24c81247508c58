"""Every name that is imported from outside of this package, and the module that defines it.

These tables have two readers. ``__init__`` imports a name by them when it is first touched. The tool, which imports nothing of
this package, reads this file as text and renders ``adapter_models`` from it; so the tables are literals. Modules are named
as seen from this package. Where do I add a name? In `PUBLIC`, if users write it; a page of ``docs/reference`` must name it too.
"""

# Module -> names that ``adapter_models`` and this package offer: the public names of `adapters`, and ours.
PUBLIC: dict[str, tuple[str, ...]] = {
    "call.context": ("AdapterSetup", "ForwardContext"),
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
    "contract.state": ("ModelAdaptersConfig",),
    "errors": (
        "AdapterError",
        "AdapterFileError",
        "AdapterMismatchError",
        "InvalidCompositionError",
        "InvalidConfigError",
        "UnknownAdapterError",
        "UnsupportedMethodError",
        "UnsupportedModelError",
    ),
    "files.hub.pushing": ("HubError",),
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
    "heads.errors": ("UnknownHeadError", "UnsupportedHeadError"),
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
    "methods.fusion.config": (
        "ADAPTERFUSION_CONFIG_MAP",
        "AdapterFusionConfig",
        "DEFAULT_ADAPTERFUSION_CONFIG",
        "DynamicAdapterFusionConfig",
        "StaticAdapterFusionConfig",
    ),
    "methods.invertible.api": ("InvertibleAdaptersMixin", "InvertibleAdaptersWrapperMixin"),
    "methods.lora.base": ("ProjectionAdapter", "ProjectionSite", "WeightUpdate"),
    "methods.lora.config": (
        "DoRAConfig",
        "DvoRAConfig",
        "IA3Config",
        "LoRAConfig",
        "MTLLoRAConfig",
        "MultiTaskConfig",
        "VeraConfig",
    ),
    "methods.lora.low_rank": ("LowRank",),
    "methods.lora.variant": ("projection_method",),
    "methods.prefix_tuning.config": ("PrefixTuningConfig",),
    "methods.prompt_tuning.config": ("PromptTuningConfig",),
    "methods.reft.config": ("DiReftConfig", "LoReftConfig", "NoReftConfig", "ReftConfig"),
    "methods.registering": ("MethodRegistrationError", "register_method"),
    "methods.spec": ("MethodSpec",),
    "methods.strings": ("ADAPTER_CONFIG_MAP", "AdapterConfig", "DEFAULT_ADAPTER_CONFIG"),
    "methods.union": ("ConfigUnion", "MAMConfig", "UniPELTConfig"),
    "model.api": ("ModelAdaptersMixin",),
    "model.auto": ("ADAPTER_MODEL_MAPPING", "AutoAdapterModel"),
    "model.embeddings.api": ("EmbeddingAdaptersMixin",),
    "model.head_model": ("ModelWithHeadsAdaptersMixin",),
    "model.heads.flexible": ("ModelWithFlexibleHeadsAdaptersMixin",),
    "model.init": ("init",),
    "model.interface.declaration": ("AdapterMethod", "AdapterModelInterface"),
    "model.interface.loading": ("load_model",),
    "programs.blocks": ("BlockSpec", "register_block"),
    "programs.layer": ("AdapterLayerBase", "ComposableAdapterLayerBase"),
    "training": (
        "AdapterArguments",
        "AdapterTrainer",
        "Seq2SeqAdapterTrainer",
        "TrainingSetupError",
        "setup_adapter_training",
    ),
}

# Module -> names that this package alone offers: what generated classes are made of, and what is of use beside them.
OF_THE_RUNTIME: dict[str, tuple[str, ...]] = {
    "heads.setups": ("HeadSetup",),
    "methods.bottleneck.layer": ("BottleneckLayer",),
    "methods.lora.layer": ("LoRAConv1D", "LoRALinear", "LoRAMergedLinear"),
    "methods.prefix_tuning.layer": ("AttentionAdaptersMixin", "PrefixTuningLayer"),
    "model.base": ("ModelBaseAdaptersMixin",),
    "model.embeddings.api": ("EmbeddingAdaptersWrapperMixin", "UnknownEmbeddingsError"),
    "model.head_model": ("ModelUsingSubmodelsAdaptersMixin",),
    "model.heads.generation": ("HeadsGenerationMixin",),
    "model.heads.headless": ("ModelWithoutHeadsAdaptersMixin",),
    "model.layer": ("LayerAdaptersMixin",),
    "programs.hooks": ("patch_forward",),
}

# Submodule of ``adapter_models``, where `adapters` has one of this name -> its docstring, the modules of which it offers all of
# `PUBLIC`, and further names by module.
SUBMODULES: dict[str, tuple[str, tuple[str, ...], dict[str, tuple[str, ...]]]] = {
    "composition": ("Composition blocks: which adapters are active together, and how.", ("composition",), {}),
    "configuration": (
        "The configs of all adapter methods.",
        (
            "methods.bottleneck.config",
            "methods.fusion.config",
            "methods.lora.config",
            "methods.prefix_tuning.config",
            "methods.prompt_tuning.config",
            "methods.reft.config",
            "methods.strings",
            "methods.union",
        ),
        {},
    ),
    "context": ("Adapters for the calls of one thread.", ("call.context",), {}),
    "heads": ("Prediction heads that are added, saved and chosen by name.", ("heads", "model.heads.flexible"), {}),
    "heads.language_modeling": (
        "Heads that predict tokens.",
        (),
        {"heads": ("BertStyleMaskedLMHead", "CausalLMHead", "Seq2SeqLMHead")},
    ),
    "interface": ("How a model that nobody generated is laid out.", ("model.interface.declaration",), {}),
    "methods": ("What runs adapters inside of models.", (), {"programs.layer": ("AdapterLayerBase",)}),
    "methods.lora": (
        "Projections that run adapters of the LoRA family.",
        (),
        {"methods.lora.layer": ("LoRAConv1D", "LoRALayer", "LoRALinear", "LoRAMergedLinear")},
    ),
    "model_mixin": (
        "The mixins that give models the methods for adapters.",
        ("model.api", "model.embeddings.api"),
        {
            "methods.invertible.api": ("InvertibleAdaptersMixin",),
            "model.base": ("ModelBaseAdaptersMixin",),
            "model.head_model": ("ModelWithHeadsAdaptersMixin",),
        },
    ),
    "models.auto.adapter_model": ("The model class of a checkpoint, by its type.", ("model.auto",), {}),
    "trainer": (
        "Training adapters with transformers' `Trainer`.",
        (),
        {"training.seq2seq": ("Seq2SeqAdapterTrainer",), "training.trainer": ("AdapterTrainer", "logger")},
    ),
    "training": (
        "Options of training scripts.",
        (),
        {"training.arguments": ("AdapterArguments",), "training.preparation": ("setup_adapter_training",)},
    ),
    "utils": (
        "Names of files, what is on the hub, digests of configs.",
        ("files.utils",),
        {
            "files.utils": (
                "ADAPTERFUSION_CONFIG_NAME",
                "ADAPTERFUSION_WEIGHTS_NAME",
                "CONFIG_NAME",
                "EMBEDDING_FILE",
                "HEAD_CONFIG_NAME",
                "HEAD_WEIGHTS_NAME",
                "INTERFACE_CONFIG_NAME",
                "SAFE_ADAPTERFUSION_WEIGHTS_NAME",
                "SAFE_HEAD_WEIGHTS_NAME",
                "SAFE_WEIGHTS_NAME",
                "SETUP_CONFIG_NAME",
                "TOKENIZER_PATH",
                "WEIGHTS_NAME",
                "resolve_adapter_config",
            )
        },
    ),
    "wrappers": ("Adapters for models of upstream's own classes.", ("model.init", "model.interface.loading"), {}),
}
# A second path of a submodule -> the first one: `adapters` defines its configs in a module of that name.
SECOND_PATHS: dict[str, str] = {"configuration.adapter_config": "configuration"}
