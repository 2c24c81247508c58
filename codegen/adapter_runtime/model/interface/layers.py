"""Layers of a model with an interface: their roles, which a generated mixin states and which are worked out here."""

from __future__ import annotations

from torch import nn

from adapter_runtime.contract.paths import found
from adapter_runtime.contract.widths import has_out_width
from adapter_runtime.errors import UnsupportedMethodError
from adapter_runtime.methods.table import METHODS
from adapter_runtime.model.interface.declaration import AdapterModelInterface
from adapter_runtime.model.layer import LayerAdaptersMixin
from adapter_runtime.roles import (
    AttentionKind,
    AttentionRoles,
    LayerRoles,
    MLPRoles,
    OutputOrder,
)


class InterfaceLayerAdaptersMixin(LayerAdaptersMixin):
    """A layer whose roles come from an interface. They are its own: layers of one model may differ."""

    config_width: int  # width of the residual stream as the config says; 0 = it does not

    def use_interface(self, interface: AdapterModelInterface, config_width: int) -> None:
        """Take the roles from `interface`, which was checked, and set the hooks."""
        self.config_width = config_width
        self.roles = LayerRoles(
            attentions=tuple(_attentions(self, interface)),
            bottlenecks=tuple(role for spec in METHODS.values() for role in spec.described_roles(self, interface)),
            mlp=MLPRoles(
                first=_there(self, interface.layer_intermediate_proj), last=_there(self, interface.layer_output_proj)
            ),
        )
        for spec in METHODS.values():
            spec.hook_layer(self, interface)

    def stream_width(self) -> int:
        """Width H of the residual stream.

        Raises:
            UnsupportedMethodError: no projection and no config tells it.
        """
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
            orders=(_order(interface),) if interface.attn_qkv_proj else (),
            output=_below(layer, core, interface.attn_o_proj),
        )
        for kind, core in kinds
        if core is not None and found(layer, core) is not None
    ]


def _order(interface: AdapterModelInterface) -> OutputOrder:
    """All queries, all keys, all values. There are as many queries as the projection after the core reads."""
    if interface.attn_o_proj is None:
        return OutputOrder("qkv", ("outputs // 3",) * 3)
    return OutputOrder("qkv", ("attended", "(outputs - attended) // 2", "(outputs - attended) // 2"))


def _there(layer: nn.Module, path: str) -> tuple[str, ...]:
    return (path,) if found(layer, path) is not None else ()


def _below(layer: nn.Module, core: str, path: str | None) -> str:
    """The path from the layer of a projection of an attention; "" where this layer has none."""
    whole = f"{core}.{path}"
    return whole if path is not None and found(layer, whole) is not None else ""
