"""Configs of all adapter methods. A new method adds a file with its class, and its name in ``strings.py``."""

from adapter_runtime.configuration.base import AdapterConfig
from adapter_runtime.configuration.bottleneck import (
    AdapterPlusConfig,
    BnConfig,
    CompacterConfig,
    CompacterPlusPlusConfig,
    DoubleSeqBnConfig,
    DoubleSeqBnInvConfig,
    ParBnConfig,
    SeqBnConfig,
    SeqBnInvConfig,
)
from adapter_runtime.configuration.fusion import (
    ADAPTERFUSION_CONFIG_MAP,
    DEFAULT_ADAPTERFUSION_CONFIG,
    AdapterFusionConfig,
    DynamicAdapterFusionConfig,
    StaticAdapterFusionConfig,
)
from adapter_runtime.configuration.lora import (
    DoRAConfig,
    DvoRAConfig,
    IA3Config,
    LoRAConfig,
    MTLLoRAConfig,
    MultiTaskConfig,
    VeraConfig,
)
from adapter_runtime.configuration.prefix_tuning import PrefixTuningConfig, PromptTuningConfig
from adapter_runtime.configuration.reft import DiReftConfig, LoReftConfig, NoReftConfig, ReftConfig
from adapter_runtime.configuration.strings import (
    ADAPTER_CONFIG_MAP,
    DEFAULT_ADAPTER_CONFIG,
    parse_config_string,
    resolve_adapter_config,
)
from adapter_runtime.configuration.union import ConfigUnion, MAMConfig, UniPELTConfig

__all__ = [
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
    "parse_config_string",
    "resolve_adapter_config",
]
