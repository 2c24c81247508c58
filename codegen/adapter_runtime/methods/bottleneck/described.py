"""Bottlenecks in models that an interface describes: where they stand, the hooks that run them, and what hooks cannot do."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_runtime.contract.described import Described
from adapter_runtime.contract.paths import found
from adapter_runtime.contract.protocol import AdaptedLayer
from adapter_runtime.errors import UnsupportedMethodError
from adapter_runtime.methods.bottleneck.config import BnConfig
from adapter_runtime.methods.bottleneck.hooks import BottleneckHook, ResidualHook
from adapter_runtime.methods.bottleneck.layer import BranchBottleneckLayer
from adapter_runtime.roles import BottleneckLocation, BottleneckRole

HOSTS: dict[BottleneckLocation, str] = {
    "attention": "attention_adapters",
    "cross_attention": "cross_attention_adapters",
    "output": "output_adapters",
}
# The fields of the interface that name a module which gets the residual stream, and a norm behind the addition to it
PRE: dict[BottleneckLocation, str] = {
    "attention": "layer_pre_self_attn",
    "cross_attention": "layer_pre_cross_attn",
    "output": "layer_pre_ffn",
}
NORMS: dict[BottleneckLocation, str] = {"attention": "layer_ln_1", "output": "layer_ln_2"}


def residual_path(described: Described, location: BottleneckLocation) -> str | None:
    """The module that gets the residual stream before the sublayer."""
    paths: dict[BottleneckLocation, str | None] = {
        "attention": described.layer_pre_self_attn,
        "cross_attention": described.layer_pre_cross_attn,
        "output": described.layer_pre_ffn,
    }
    return paths[location]


def norm_path(described: Described, location: BottleneckLocation) -> str | None:
    """The norm that adapters apply to the sum of the sublayer's output and the residual."""
    return {"attention": described.layer_ln_1, "output": described.layer_ln_2}.get(location)


def adapted_outputs(described: Described) -> dict[BottleneckLocation, str]:
    """The modules of a layer on whose outputs bottlenecks act, by location."""
    outputs: dict[BottleneckLocation, str] = {}
    if described.attn_o_proj is not None:
        outputs["attention"] = f"{described.layer_self_attn}.{described.attn_o_proj}"
    if described.layer_cross_attn is not None:
        projection = f".{described.attn_o_proj}" if described.attn_o_proj is not None else ""
        outputs["cross_attention"] = f"{described.layer_cross_attn}{projection}"
    outputs["output"] = described.layer_output_proj
    return outputs


def roles_of(layer: AdaptedLayer, described: Described) -> Iterator[BottleneckRole]:
    """The roles of a layer: those of the locations that it has."""
    for location, path in adapted_outputs(described).items():
        if found(layer.get_submodule(""), path) is not None:
            yield BottleneckRole(host=HOSTS[location], location=location)


def hook_layer(layer: AdaptedLayer, described: Described) -> None:
    """Create the hosts that the roles of a layer name, and the hooks that run them."""
    module = layer.get_submodule("")
    for role in layer.roles.bottlenecks:
        location, host = role.location, BranchBottleneckLayer()
        layer.add_module(role.host, host)
        norm, pre = norm_path(described, location), residual_path(described, location)
        before = found(module, pre) if pre else None
        if before is not None:
            before.register_forward_pre_hook(ResidualHook(host), with_kwargs=True)
        hook = BottleneckHook(
            host,
            norm=found(module, norm) if norm else None,
            pre=f"{PRE[location]} ({pre!r})" if before is not None else None,
        )
        adapted = found(module, adapted_outputs(described)[location])
        assert adapted is not None  # else the layer would not have the role
        adapted.register_forward_hook(hook)


def check(config: BnConfig, described: Described) -> None:
    """Raise where hooks cannot honour the options of a bottleneck.

    Raises:
        UnsupportedMethodError: the layer adds the residual by itself, or the interface leaves out what the options need.
    """
    if not config.original_ln_after:
        raise UnsupportedMethodError(
            "original_ln_after=False: in a model with an interface the layer itself adds the residual and applies its norm "
            "after the adapter; hooks cannot keep it from doing so. Use original_ln_after=True, or generate the model: "
            "adapter-codegen add-model."
        )
    if config.mh_adapter and described.attn_o_proj is None:
        raise UnsupportedMethodError("mh_adapter=True: the interface of this model gives no attn_o_proj.")
    wanted: dict[BottleneckLocation, bool] = {
        "attention": config.mh_adapter,
        "cross_attention": config.cross_adapter and described.layer_cross_attn is not None,
        "output": config.output_adapter,
    }
    for location in (location for location, is_wanted in wanted.items() if is_wanted):
        if residual_path(described, location) is not None:
            continue
        if config.is_parallel:
            raise UnsupportedMethodError(f"is_parallel=True: the interface of this model gives no {PRE[location]}.")
        if config.original_ln_before and norm_path(described, location) is not None:
            raise UnsupportedMethodError(
                f"original_ln_before=True: the interface of this model gives {NORMS[location]}, but no {PRE[location]}, whose "
                "input is to be added first. Give both or neither."
            )


def generated_differs(described: Described) -> str | None:
    """What generated code, which knows the real residual stream and norms, would do otherwise; None = nothing."""
    for name, norm in (("layer_ln_1", described.layer_ln_1), ("layer_ln_2", described.layer_ln_2)):
        if norm is not None:
            return (
                f"Its bottlenecks apply the norm {norm!r} ({name}) by themselves; those of the classes "
                "generated for this model do not."
            )
    for name, path in (
        ("layer_pre_self_attn", described.layer_pre_self_attn),
        ("layer_pre_ffn", described.layer_pre_ffn),
    ):
        if path is None:
            return (
                f"It gives no {name}, so its bottlenecks do not see the residual stream; those of the classes "
                "generated for this model do."
            )
    return None
