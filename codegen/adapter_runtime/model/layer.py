"""Layers: the roles that a generated mixin states, resolved to modules."""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce
from typing import Any, NamedTuple

from torch import nn

from adapter_runtime.errors import UnsupportedMethodError, UnsupportedModelError
from adapter_runtime.methods.bottleneck.layer import BottleneckLayer
from adapter_runtime.methods.prefix_tuning.layer import AttentionAdaptersMixin, PrefixTuningLayer
from adapter_runtime.methods.prefix_tuning.module import PrefixShape
from adapter_runtime.programs.dynamic import DynamicMixin
from adapter_runtime.programs.showing import ShowsOccupiedRoom
from adapter_runtime.roles import AttentionRoles, LayerRoles

BOTTLENECK_KEYS = {"attention": "mh_adapter", "cross_attention": "cross_adapter", "output": "output_adapter"}


class Projection(NamedTuple):
    """A projection that LoRA can adapt."""

    path: str  # from the layer
    location: str  # "selfattn_lora", "intermediate_lora", "gate_lora", "output_lora": the option that asks for it
    matrix: str  # "q", "k", "v", "o" in attention, "kv" where one gives both, else ""
    fused: AttentionRoles | None  # where the projection gives several matrices


def child_of(module: Any, name: str) -> Any:
    """The child `name` of a module, or None. A number counts elements of a list, from its end if negative (T5's
    feed-forward block is the last of two or of three sublayers)."""
    if isinstance(module, (nn.ModuleList, nn.Sequential)):
        return module[int(name)] if -len(module) <= int(name) < len(module) else None
    return getattr(module, name, None)


class LayerAdaptersMixin(ShowsOccupiedRoom, DynamicMixin):
    """Base of generated layer mixins, which state `roles`."""

    roles: LayerRoles  # one for the class; where an interface names the modules, each layer has its own

    adapter_layer_index: int

    def init_adapters(self, layer_index: int, self_location: str) -> None:
        """Give all places of the layer room for adapters.

        Args:
            layer_index: counted over all stacks of the model.
            self_location: "self" or "encoder", which prefixes of self-attention are told apart by.

        Raises:
            UnsupportedModelError: a module that the roles name is not there.
        """
        self.adapter_layer_index = layer_index
        for roles, core in self.adapted_attentions():
            location = "cross" if roles.kind == "cross" else self_location
            if isinstance(core, AttentionAdaptersMixin):
                core.init_prefix_tuning(layer_index, f"{location}_prefix")
        for bottleneck in self.roles.bottlenecks:
            host = self._host(bottleneck.host, bottleneck.location)
            if host is not None:
                host.init_adapter_layer(layer_index, BOTTLENECK_KEYS[bottleneck.location])

    def _host(self, path: str, location: str) -> BottleneckLayer | None:
        """The module that holds bottlenecks: one of upstream's, or a child, which is created here."""
        if location == "cross_attention" and not self._has_cross_attention():
            return None
        found = self.module_at(path, required="." in path)
        if found is None and "." not in path:
            found = BottleneckLayer()
            self.add_module(path, found)
        if found is not None and not isinstance(found, BottleneckLayer):
            raise UnsupportedModelError(
                f"{type(self).__name__}: {path} is a {type(found).__name__}, which no adapter class was generated for."
            )
        return found

    def _has_cross_attention(self) -> bool:
        stated = [roles for roles in self.roles.attentions if roles.kind == "cross"]
        return not stated or any(self.module_at(roles.core) is not None for roles in stated)

    def module_at(self, path: str, required: bool = True) -> Any:
        """The module at a path from the layer; None where this layer lacks it and may.

        Raises:
            UnsupportedModelError: it must be there and is not.
        """
        module: Any = self
        for name in path.split(".") if path else ():
            module = child_of(module, name)
            if module is None:
                break
        if module is None and required and not any(f"{path}.".startswith(f"{p}.") for p in self.roles.optional):
            raise UnsupportedModelError(
                f"{type(self).__name__} has no module {path!r}, which its adapter class names."
            )
        return module

    def adapted_attentions(self) -> Iterator[tuple[AttentionRoles, Any]]:
        """The attentions that this layer has, each with the module in which keys meet queries."""
        for roles in self.roles.attentions:
            core = self.module_at(roles.core)
            if core is not None:
                yield roles, core

    def prefix_layers(self) -> Iterator[tuple[AttentionRoles, PrefixTuningLayer]]:
        """The places of prefixes."""
        for roles, core in self.adapted_attentions():
            if isinstance(core, AttentionAdaptersMixin):
                yield roles, core.prefix_tuning

    def bottleneck_layers(self) -> Iterator[BottleneckLayer]:
        """The places of bottlenecks."""
        for role in self.roles.bottlenecks:
            host = self.module_at(role.host, required=False)
            if isinstance(host, BottleneckLayer):
                yield host

    def adapted_projections(self) -> Iterator[Projection]:
        """The projections that this layer has."""
        for roles, _ in self.adapted_attentions():
            if roles.fused:
                yield Projection(roles.fused, "selfattn_lora", "", roles)
            for matrix, path in _matrices(roles):
                if path:
                    yield Projection(path, "selfattn_lora", matrix, None)
        for path in self.roles.mlp.first:
            yield Projection(path, "intermediate_lora", "", None)
        for path in self.roles.mlp.gate:
            yield Projection(path, "gate_lora", "", None)
        for path in self.roles.mlp.last:
            yield Projection(path, "output_lora", "", None)

    # Widths, from the modules of this very layer: configs do not know about grouped, latent or varying heads

    def stream_width(self) -> int:
        """Width of the residual stream."""
        for path in (*self.roles.mlp.last, *(roles.output for roles in self.roles.attentions)):
            module = self.module_at(path) if path else None
            if module is not None:
                return out_width(module)
        raise UnsupportedMethodError(f"{type(self).__name__} names no projection that tells the width of its outputs.")

    def prefix_shape(self, roles: AttentionRoles) -> PrefixShape:
        """Heads and widths of the keys and values of one attention.

        Raises:
            UnsupportedMethodError: they do not show.
        """
        keys, values = self._key_value_sizes(roles)
        core = self.module_at(roles.core)
        width = reduce(lambda module, name: getattr(module, name, None), roles.head_dim.split("."), core)
        if not isinstance(width, int) or keys % width:
            raise UnsupportedMethodError(
                f"Prefix tuning: {type(core).__name__} does not tell the width of a key head (attribute "
                f"{roles.head_dim!r} is {width!r}, all keys are {keys} wide)."
            )
        heads = keys // width
        return PrefixShape(heads, width, values // heads)

    def _key_value_sizes(self, roles: AttentionRoles) -> tuple[int, int]:
        if roles.key and roles.value and roles.key != roles.value:
            return out_width(self.module_at(roles.key)), out_width(self.module_at(roles.value))
        if roles.fused:
            _, key, value = self.fused_spans(roles).values()
            return key[1] - key[0], value[1] - value[0]
        raise UnsupportedMethodError(f"Prefix tuning: {type(self).__name__} has no projection of its own for keys.")

    def fused_spans(self, roles: AttentionRoles) -> dict[str, tuple[int, int]]:
        """Which outputs of a fused projection are queries, keys and values, if they come one after the other."""
        total = out_width(self.module_at(roles.fused))
        queries = in_width(self.module_at(roles.output)) if roles.output else total // 3
        keys = (total - queries) // 2
        return {"q": (0, queries), "k": (queries, queries + keys), "v": (queries + keys, total)}


def _matrices(roles: AttentionRoles) -> Iterator[tuple[str, str]]:
    """Which matrix comes out of which projection; of alternatives, a layer has one."""
    for path in (roles.query, *roles.query_alternatives):
        yield "q", path
    if roles.key == roles.value:
        yield "kv", roles.key
    else:
        yield from (("k", roles.key), ("v", roles.value))
    yield "o", roles.output


def out_width(module: Any) -> int:
    """Output features of a linear layer or Conv1D."""
    return int(module.nf if hasattr(module, "nf") else module.out_features)


def in_width(module: Any) -> int:
    """Input features of a linear layer or Conv1D."""
    return int(module.nx if hasattr(module, "nx") else module.in_features)
