"""Modules that hold bottleneck adapters: children that we create, or upstream's own output modules."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn

from adapter_runtime.call.arguments import Argument
from adapter_runtime.call.context import Place
from adapter_runtime.composition import (
    AdapterCompositionBlock,
    Average,
    BatchSplit,
    Fuse,
    MultiTask,
    Parallel,
    Split,
    Stack,
)
from adapter_runtime.errors import UnknownAdapterError, UnsupportedMethodError
from adapter_runtime.methods.bottleneck.config import BnConfig
from adapter_runtime.methods.bottleneck.module import Bottleneck, Norm
from adapter_runtime.methods.bottleneck.program import BottleneckLeaf, BottleneckNode, FusionNode, Member, completed
from adapter_runtime.methods.common.shared_parameters import SharedDict
from adapter_runtime.methods.fusion.config import AdapterFusionConfig
from adapter_runtime.methods.fusion.module import AdapterFusion
from adapter_runtime.programs.layer import AdapterLayerBase, EntryModel, TensorLayer


class BottleneckLayer(TensorLayer[torch.Tensor | None, Norm | None]):
    """Adds the output of a sublayer to the residual stream, with the active bottleneck adapters in between.

    It is used as a child of its own (``layer.output_adapters``), or as a base of a class whose forward it takes part
    in (``BertOutputWithAdapters``), which then calls `bottleneck_layer_forward`. Its programs take the state
    ``(x, residual, norm)`` and give the new value of the residual stream.
    """

    adapter_containers = ("adapters",)
    fusion_modules: ClassVar[str] = "adapter_fusion_layer"  # the attribute that holds modules by name of a fusion
    method_name = "bottleneck adapters"
    runnable_blocks = (Stack, Fuse, Split, BatchSplit, Parallel, MultiTask, Average)

    adapters: nn.ModuleDict
    adapter_fusion_layer: nn.ModuleDict

    def init_adapter_layer(self, layer_index: int, location_key: str) -> None:
        super().init_adapter_layer(layer_index, location_key)
        setattr(self, self.fusion_modules, nn.ModuleDict())

    def adapter_rooms(self) -> tuple[str, ...]:
        """See `AdapterLayerBase`."""
        return (*self.adapter_containers, self.fusion_modules)

    def add_adapter(self, name: str, config: BnConfig, hidden_size: int, shared: SharedDict | None = None) -> None:
        """Create the adapter `name` here.

        Args:
            shared: parameters that its modules in all layers use.
        """
        adapter = Bottleneck(config, hidden_size, self.layer_index, shared)
        adapter.place = Place(name, self.layer_index, self.location_key)
        self.adapters[name] = adapter

    def add_fusion(self, name: str, config: AdapterFusionConfig, hidden_size: int, dropout: float) -> None:
        """Create the fusion `name` here. `dropout` is that of the attention of the model."""
        fusion = AdapterFusion(config, hidden_size, dropout)
        fusion.place = Place(name, self.layer_index, self.location_key)
        self.adapter_fusion_layer[name] = fusion

    def delete_fusion(self, name: str) -> None:
        """Remove the fusion `name`, if it is here."""
        if name in self.adapter_fusion_layer:
            del self.adapter_fusion_layer[name]

    # Activating

    def resolve(self, block: AdapterCompositionBlock | None) -> BottleneckNode | None:
        """The program of `block`, with the addition and the norm of the layer where adapters ask for them."""
        program = super().resolve(block)
        return None if program is None else self.finished(program)

    def finished(self, program: BottleneckNode) -> BottleneckNode:
        """`program`, and after it what the layer does with its result."""
        return completed(program)

    def program_of(self, block: str | AdapterCompositionBlock) -> BottleneckNode | None:
        return self._fusion_node(block) if isinstance(block, Fuse) else super().program_of(block)

    def leaf(self, name: str) -> BottleneckLeaf | None:
        if name not in self.adapters:
            return None
        adapter = self.adapters[name]
        assert isinstance(adapter, Bottleneck)
        return BottleneckLeaf(adapter)

    def _fusion_node(self, block: Fuse) -> FusionNode | None:
        """The program of a fusion: the attention over those of its members that are in this layer. None without any, and
        where the fusion has no module because not all members can stand at this location."""
        members = [member for child in block if (member := self._member(block, child)) is not None]
        if members and block.name in self.adapter_fusion_layer:
            fusion = self.adapter_fusion_layer[block.name]
            assert isinstance(fusion, AdapterFusion)
            return FusionNode(fusion, members)
        if len(members) == len(block):
            raise UnknownAdapterError(
                f"The model has no fusion {block.name!r}. Add it: model.add_adapter_fusion({block.name.split(',')})."
            )
        return None

    def _member(self, fuse: Fuse, child: str | AdapterCompositionBlock) -> Member | None:
        """A child of a fusion: an adapter, with what stands before it where the child is a stack."""
        if isinstance(child, str):
            leaf = self.leaf(child)
            return None if leaf is None else Member((), leaf)
        if not isinstance(child, Stack):
            raise UnsupportedMethodError(
                f"{fuse!r} mixes what adapters give before their residuals are added, so a stack in it ends with an "
                f"adapter, not with {child!r}."
            )
        present = [(part, program) for part in child if (program := self.program_of(part)) is not None]
        if not present:
            return None
        last = self._member(fuse, present[-1][0])
        assert last is not None
        return Member((*(program for _, program in present[:-1]), *last.before), last.last)

    # Running

    # A property in the place of a class variable: here it depends on what is held.
    @property
    def acts_at_entry(self) -> bool:  # type: ignore[override]
        """Whether a fusion here has a temperature that falls from call to call."""
        held = self.adapter_fusion_layer.values()
        return any(fusion.config.temperature for fusion in held if isinstance(fusion, AdapterFusion))

    def at_entry(self, model: EntryModel, given: dict[str, Argument]) -> dict[str, Argument]:
        """Lower the temperatures of running fusions in training: once per call, as forwards of checkpointed layers run twice."""
        program = self.current_program()
        if program is not None and model.training:
            for node in program.walk():
                if isinstance(node, FusionNode):
                    node.fusion.advance()
        return given

    @property
    def runs(self) -> bool:
        """Whether adapters run here now; without, the layer computes what upstream computes."""
        return self.current_program() is not None

    def forward(
        self, x: torch.Tensor, residual: torch.Tensor, norm: Norm | None = None, *, branch_first: bool = False
    ) -> torch.Tensor:
        return self.bottleneck_layer_forward(x, residual, norm, branch_first=branch_first)

    def bottleneck_layer_forward(
        self, x: torch.Tensor, residual: torch.Tensor, norm: Norm | None = None, *, branch_first: bool = False
    ) -> torch.Tensor:
        """The new value of the residual stream.

        Args:
            x: [B, L, H], output of the sublayer.
            residual: [B, L, H], the residual stream before it.
            norm: the norm of the layer where it follows the addition, else None.
            branch_first: whether upstream writes ``x + residual``. The values are the same, but where one of both is a
                transposed view, the first one decides the strides of the sum, on which views and norms behind it depend.
        """
        program = self.current_program()
        if program is not None:
            return program(x, residual, norm)
        total = x + residual if branch_first else residual + x
        return total if norm is None else norm(total)


class BranchBottleneckLayer(BottleneckLayer):
    """Adapters whose output upstream's own code adds to the residual stream: scaled, mixed, or in a function of its own.

    Attributes:
        has_residual: whether it is given the stream before the sublayer; not where upstream mixes several streams.
    """

    has_residual = True

    def check(self, config: BnConfig) -> None:
        """Raise where upstream's addition, which stays as it is, is in the way of an option.

        Raises:
            UnsupportedMethodError: it is.
        """
        where = f"layer {self.layer_index} ({self.location_key})"
        if not config.original_ln_after:
            raise UnsupportedMethodError(
                f"original_ln_after=False: in {where} upstream's own code adds the output of the sublayer to the residual stream, "
                "after the adapter. Use original_ln_after=True."
            )
        if config.is_parallel and not self.has_residual:
            raise UnsupportedMethodError(
                f"is_parallel=True: in {where} upstream mixes several streams, none of which is the input of the sublayer. Use an "
                'adapter behind the sublayer: "seq_bn" or "double_seq_bn".'
            )

    def resolve(self, block: AdapterCompositionBlock | None) -> BottleneckNode | None:
        """The program of `block`, without the layer's addition and norm after it."""
        return AdapterLayerBase.resolve(self, block)

    def forward(
        self,
        x: torch.Tensor,
        residual: torch.Tensor | None = None,
        norm: Norm | None = None,
        *,
        branch_first: bool = False,
    ) -> torch.Tensor:
        return self.bottleneck_layer_forward(x, residual, norm, branch_first=branch_first)

    def bottleneck_layer_forward(
        self,
        x: torch.Tensor,
        residual: torch.Tensor | None = None,
        norm: Norm | None = None,
        *,
        branch_first: bool = False,
    ) -> torch.Tensor:
        """What takes the place of the sublayer's output.

        Args:
            x: [B, L, H], output of the sublayer.
            residual: [B, L, H], the residual stream before it; None where there is no single one, or it is not known.
            norm: applied by adapters to the sum of both, else None.
            branch_first: of no effect, as nothing is added here.
        """
        program = self.current_program()
        return x if program is None else program(x, residual, norm)
