"""LoRA and its relatives in the table of methods."""

from __future__ import annotations

from adapter_runtime.methods.lora import averaging, places
from adapter_runtime.methods.lora.config import (
    DoRAConfig,
    DvoRAConfig,
    IA3Config,
    LoRAConfig,
    MTLLoRAConfig,
    VeraConfig,
)
from adapter_runtime.methods.lora.modules.factory import check_lora
from adapter_runtime.methods.lora.peft import ia3 as peft_ia3
from adapter_runtime.methods.lora.peft import low_rank as peft
from adapter_runtime.methods.spec import MethodSpec, RefusedFile

LORA = MethodSpec[LoRAConfig](
    name="lora",
    configs=(LoRAConfig,),
    named={
        "lora": LoRAConfig(),
        "ia3": IA3Config(),
        "vera": VeraConfig(),
        "dora": DoRAConfig(),
        "dvora": DvoRAConfig(),
        "mtl_lora": MTLLoRAConfig(),
    },
    check=check_lora,
    place=places.place,
    count_places=places.count_places,
    wishes=places.wishes,
    containers=places.CONTAINERS,
    remove_empty=places.remove_empty,
    averages=(averaging.NEGATING_B, averaging.DECOMPOSED),
    peft=(peft.FORMAT, peft_ia3.FORMAT),
    refused_files=(
        RefusedFile(
            frozenset({"deberta"}),
            lambda config: config.selfattn_lora and not {"q", "k", "v"}.isdisjoint(config.attn_matrices),
            "takes queries, keys and values for the three thirds of the projection that gives them head by head",
        ),
    ),
)
