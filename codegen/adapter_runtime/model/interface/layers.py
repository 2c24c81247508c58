"""Layers of a model with an interface: their roles, the hosts of their bottlenecks, and the hooks that run these."""

from __future__ import annotations

from torch import nn

from adapter_runtime.contract.widths import has_out_width
from adapter_runtime.errors import UnsupportedMethodError
from adapter_runtime.methods.bottleneck.config import BnConfig
from adapter_runtime.model.interface.checking import found
from adapter_runtime.model.interface.declaration import AdapterModelInterface
from adapter_runtime.model.interface.hooks import (
    BottleneckHook,
    HookedBottleneckLayer,
    ResidualHook,
)
from adapter_runtime.model.layer import LayerAdaptersMixin
from adapter_runtime.roles import (
    AttentionKind,
    AttentionRoles,
    BottleneckLocation,
    BottleneckRole,
    LayerRoles,
    MLPRoles,
)

HOSTS: dict[BottleneckLocation, str] = {
    "attention": "attention_adapters",
    "cross_attention": "cross_attention_adapters",
    "output": "output_adapters",
}
PRE: dict[BottleneckLocation, str] = {
    "attention": "layer_pre_self_attn",
    "cross_attention": "layer_pre_cross_attn",
    "output": "layer_pre_ffn",
}
NORMS: dict[BottleneckLocation, str] = {"attention": "layer_ln_1", "output": "layer_ln_2"}


class InterfaceLayerAdaptersMixin(LayerAdaptersMixin):
    """A layer whose roles come from an interface. They are its own: layers of one model may differ."""

    config_width: int  # width of the residual stream as the config says; 0 = it does not

    def use_interface(self, interface: AdapterModelInterface, config_width: int) -> None:
        """Take the roles from `interface`, which was checked, and set the hooks."""
        self.config_width = config_width
        self.roles = LayerRoles(
            attentions=tuple(_attentions(self, interface)),
            bottlenecks=tuple(
                BottleneckRole(host=HOSTS[location], location=location)
                for location, path in adapted_outputs(interface).items()
                if found(self, path) is not None
            ),
            mlp=MLPRoles(
                first=_there(self, interface.layer_intermediate_proj), last=_there(self, interface.layer_output_proj)
            ),
        )
        for role in self.roles.bottlenecks:
            self._hook(interface, role.location)

    def _hook(self, interface: AdapterModelInterface, location: BottleneckLocation) -> None:
        host = HookedBottleneckLayer()
        self.add_module(HOSTS[location], host)
        norm, pre = _path(interface, NORMS.get(location)), _path(interface, PRE[location])
        before = found(self, pre) if pre else None
        if before is not None:
            before.register_forward_pre_hook(ResidualHook(host), with_kwargs=True)
        hook = BottleneckHook(
            host,
            norm=found(self, norm) if norm else None,
            pre=f"{PRE[location]} ({pre!r})" if before is not None else None,
        )
        adapted = found(self, adapted_outputs(interface)[location])
        assert adapted is not None  # else the layer would not have the role
        adapted.register_forward_hook(hook)

    def stream_width(self) -> int:
        """Width of the residual stream."""
        for path in (*self.roles.mlp.last, *(roles.output for roles in self.roles.attentions)):
            module = found(self, path) if path else None
            if module is not None and has_out_width(module):
                return super().stream_width()
        if self.config_width:
            return self.config_width
        raise UnsupportedMethodError(
            f"{type(self).__name__}: neither layer_output_proj nor attn_o_proj of its interface tells the width of the "
            "residual stream, and its config has no hidden_size."
        )


def _attentions(layer: nn.Module, interface: AdapterModelInterface) -> list[AttentionRoles]:
    kinds: list[tuple[AttentionKind, str | None]] = [
        ("self", interface.layer_self_attn),
        ("cross", interface.layer_cross_attn),
    ]
    return [
        AttentionRoles(
            core=core,
            kind=kind,
            query=_below(layer, core, interface.attn_q_proj),
            key=_below(layer, core, interface.attn_k_proj),
            value=_below(layer, core, interface.attn_v_proj),
            fused=_below(layer, core, interface.attn_qkv_proj),
            fused_layout="concatenated" if interface.attn_qkv_proj else "",
            output=_below(layer, core, interface.attn_o_proj),
        )
        for kind, core in kinds
        if core is not None and found(layer, core) is not None
    ]


def adapted_outputs(interface: AdapterModelInterface) -> dict[BottleneckLocation, str]:
    """The modules of a layer on whose outputs bottlenecks act, by location."""
    outputs: dict[BottleneckLocation, str] = {}
    if interface.attn_o_proj is not None:
        outputs["attention"] = f"{interface.layer_self_attn}.{interface.attn_o_proj}"
    if interface.layer_cross_attn is not None:
        projection = f".{interface.attn_o_proj}" if interface.attn_o_proj is not None else ""
        outputs["cross_attention"] = f"{interface.layer_cross_attn}{projection}"
    outputs["output"] = interface.layer_output_proj
    return outputs


def check_bottleneck(config: BnConfig, interface: AdapterModelInterface) -> None:
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
    if config.mh_adapter and interface.attn_o_proj is None:
        raise UnsupportedMethodError("mh_adapter=True: the interface of this model gives no attn_o_proj.")
    wanted: dict[BottleneckLocation, bool] = {
        "attention": config.mh_adapter,
        "cross_attention": config.cross_adapter and interface.layer_cross_attn is not None,
        "output": config.output_adapter,
    }
    for location in (location for location, is_wanted in wanted.items() if is_wanted):
        if _path(interface, PRE[location]) is not None:
            continue
        norm = NORMS.get(location)
        if config.is_parallel:
            raise UnsupportedMethodError(f"is_parallel=True: the interface of this model gives no {PRE[location]}.")
        if config.original_ln_before and _path(interface, norm) is not None:
            raise UnsupportedMethodError(
                f"original_ln_before=True: the interface of this model gives {norm}, but no {PRE[location]}, whose input is "
                "to be added first. Give both or neither."
            )


def _path(interface: AdapterModelInterface, field: str | None) -> str | None:
    path = interface.to_dict()[field] if field is not None else None
    return path if isinstance(path, str) else None


def _there(layer: nn.Module, path: str) -> tuple[str, ...]:
    return (path,) if found(layer, path) is not None else ()


def _below(layer: nn.Module, core: str, path: str | None) -> str:
    """The path from the layer of a projection of an attention; "" where this layer has none."""
    whole = f"{core}.{path}"
    return whole if path is not None and found(layer, whole) is not None else ""
