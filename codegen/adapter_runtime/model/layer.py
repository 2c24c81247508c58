"""Layers: the roles that a generated mixin states, resolved to modules."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import nn

from adapter_runtime.contract.paths import child_of
from adapter_runtime.contract.widths import has_out_width, norm_width, out_width, summed_width
from adapter_runtime.errors import UnsupportedMethodError, UnsupportedModelError
from adapter_runtime.methods.table import METHODS
from adapter_runtime.programs.dynamic import DynamicMixin
from adapter_runtime.programs.showing import ShowsOccupiedRoom
from adapter_runtime.roles import AttentionRoles, LayerRoles


class LayerAdaptersMixin(ShowsOccupiedRoom, DynamicMixin):
    """Base of generated layer mixins, which state `roles`."""

    roles: LayerRoles  # one for the class; where an interface names the modules, each layer has its own

    adapter_layer_index: int

    def init_adapters(self, layer_index: int, self_location: str) -> None:
        """Give all places of the layer room for adapters.

        Args:
            layer_index: counted over all stacks of the model.
            self_location: "self" or "encoder", by which prefixes of self-attention are told apart.

        Raises:
            UnsupportedModelError: a module that the roles name is not there.
        """
        self.adapter_layer_index = layer_index
        for spec in METHODS.values():
            spec.prepare_layer(self, layer_index, self_location)

    def module_at(self, path: str, required: bool = True) -> nn.Module | None:
        """The module at a path from the layer; None where this layer lacks it and may, or has an identity in its place.

        Raises:
            UnsupportedModelError: it must be there and is not.
        """
        module: nn.Module | None = self
        for name in path.split(".") if path else ():
            module = child_of(module, name) if module is not None else None
        is_optional = any(f"{path}.".startswith(f"{start}.") for start in self.roles.optional)
        if isinstance(module, nn.Identity) and is_optional:
            return None
        if module is None and required and not is_optional:
            raise UnsupportedModelError(
                f"{type(self).__name__} has no module {path!r}, which its adapter class names."
            )
        return module

    def adapted_attentions(self) -> Iterator[tuple[AttentionRoles, nn.Module]]:
        """The attentions that this layer has, each with the module in which keys meet queries."""
        for roles in self.roles.attentions:
            core = self.module_at(roles.core)
            if core is not None and _attends(core, roles):
                yield roles, core

    def stream_width(self) -> int:
        """Width H of the residual stream: of a projection that gives to it, else of the norms that the layer itself holds,
        else of all in it.

        Projections may give other axes than the last (PatchTSMixer's, to the channels of a series). Where their widths differ, it is the first
        that a norm has too.

        Raises:
            UnsupportedMethodError: no module tells it.
        """
        paths = (*self.roles.mlp.last, *(roles.output for roles, _ in self.adapted_attentions()))
        modules = [module for path in paths if path and (module := self.module_at(path)) is not None]
        widths = [out_width(module) for module in modules if has_out_width(module)]
        if widths and len(set(widths)) > 1:
            normed = _norm_widths(self.modules())
            return next((width for width in widths if width in normed), widths[0])
        if widths:
            return widths[0]
        norms = _norm_widths(self.children()) or _norm_widths(self.modules())
        if len(norms) == 1:
            return norms.pop()
        raise UnsupportedMethodError(
            f"{type(self).__name__} names no projection, and holds no norms of one width, that tell how wide its outputs are."
        )

    def output_width(self) -> int:
        """Width H of what the layer gives. It is the stream's, but where the last addition widens that (MobileBERT).

        Raises:
            UnsupportedMethodError: no module tells it.
        """
        outputs = [role.host for role in self.roles.bottlenecks if role.location == "output" and "*" not in role.host]
        hosts = (self.module_at(path, required=False) for path in reversed(outputs))
        last = next((host for host in hosts if host is not None), None)
        return (summed_width(last) if last is not None else None) or self.stream_width()


def _norm_widths(modules: Iterable[nn.Module]) -> set[int]:
    """The widths of the norms among some modules."""
    return {width for module in modules if (width := norm_width(module)) is not None}


def _attends(core: nn.Module, roles: AttentionRoles) -> bool:
    """Whether a module is an attention and not what stands in the place of one in other layers; its class may be generated."""
    return not roles.core_classes or any(known.__name__ in roles.core_classes for known in type(core).__mro__)
