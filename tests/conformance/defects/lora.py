"""Defects of LoRA and its relatives, and of merging them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from adapter_runtime.methods.common.shared_parameters import SharedDict
from adapter_runtime.methods.lora import places
from adapter_runtime.methods.lora.layer import LoRALayer
from adapter_runtime.methods.lora.modules.dora import Magnitude
from adapter_runtime.methods.lora.modules.low_rank import LoRA, LowRank
from adapter_runtime.methods.lora.modules.mtl import MTLLoRA, TaskMatrix
from adapter_runtime.methods.lora.modules.scale import Scale
from adapter_runtime.methods.lora.modules.vera import VeRA
from adapter_runtime.methods.lora.program import ProjectionLeaf
from conformance.defects.planting import BERT, LORA_FORMS, Defect, Patch, around, drawn_anew, instead
from conformance.subjects import method_subjects

(QWEN2_VL,) = method_subjects(
    "qwen2_vl"
)  # one projection gives queries, keys and values of images, three those of a text
GPT2 = method_subjects("gpt2")[0]  # one projection gives all three


def _random_start(add: Any, self: LoRALayer, name: str, *rest: Any) -> None:
    add(self, name, *rest)
    drawn_anew(self.loras[name])


def _unscaled(patch: Patch) -> None:
    original = LoRA.__init__

    def init(self: LoRA, *args: Any) -> None:
        original(self, *args)
        self.scaling = 1.0

    patch.setattr(LoRA, "__init__", init)


def _slightly_off(patch: Patch) -> None:
    """By ten times what single precision may round: double precision must not excuse it."""
    original = LoRA.__init__

    def init(self: LoRA, *args: Any) -> None:
        original(self, *args)
        self.scaling *= 1.001

    patch.setattr(LoRA, "__init__", init)


def _unmerged_by_subtraction(self: LoRALayer) -> None:
    if self.merged_adapter is not None:
        zero = torch.zeros_like(self.weight)
        with torch.no_grad():
            self.weight.sub_(self.loras[self.merged_adapter].merged(zero, None)[0])
        self.merged_adapter = self.unmerged = None


def _forgotten(self: LoRALayer) -> None:
    self.merged_adapter = self.unmerged = None


def _with_bias_as_it_is(forward: Any, self: LoRALayer, x: Tensor) -> Tensor:
    output = forward(self, x)
    if isinstance(self.program, ProjectionLeaf) and isinstance(self.program.adapter, Scale) and self.bias is not None:
        output = output + self.bias * (1 - self.program.adapter.factor())
    return output


def _with_gradients_of_the_norm(scale: Any, self: Magnitude, weight: Tensor, factors: Any, scaling: float) -> Tensor:
    return self.weight.view(-1) / self._norms(weight, factors, scaling)


def _trained_matrices(add: Any, shared: SharedDict, *rest: Any, **keywords: Any) -> None:
    add(shared, *rest, **keywords)
    del shared.frozen_parameters


LORA_FAMILY = {
    "zero start: a relative of LoRA starts with random weights": Defect(
        around(LoRALayer, "add_adapter", _random_start), "zero start", LORA_FORMS
    ),
    "liveness: the matrices that VeRA shares are trained": Defect(
        around(places, "add_shared_matrices", _trained_matrices), "liveness", ("vera", "dvora")
    ),
    "reference: the scale of LoRA is missing": Defect(_unscaled, "reference", ("lora",)),
    "reference: the scale of LoRA is a thousandth too large": Defect(_slightly_off, "reference", ("lora",)),
    "reference: the factors of IA3 leave the bias alone": Defect(
        around(LoRALayer, "forward", _with_bias_as_it_is), "reference", ("ia3",), BERT
    ),
    "reference: DoRA does not rescale": Defect(
        instead(Magnitude, "forward", lambda self, adapted, factors, scaling: adapted), "reference", ("dora", "dvora")
    ),
    "reference: DoRA rescales the bias": Defect(
        around(
            Magnitude,
            "forward",
            lambda forward, self, adapted, factors, scaling: adapted
            * self.scale(self.projection.own_weight(), factors, scaling),
        ),
        "reference",
        ("dora", "dvora"),
        BERT,
    ),
    "reference: gradients go through the norm of DoRA": Defect(
        around(Magnitude, "scale", _with_gradients_of_the_norm), "reference", ("dora", "dvora")
    ),
    "reference: VeRA leaves its inner vector out": Defect(
        around(VeRA, "factors", lambda factors, self: (self.shared["lora_A"], factors(self)[1])),
        "reference",
        ("vera",),
    ),
    "reference: VeRA leaves its outer vector out": Defect(
        around(VeRA, "factors", lambda factors, self: (factors(self)[0], self.shared["lora_B"][: self.out_features])),
        "reference",
        ("vera", "dvora"),
    ),
    "reference: up-projections are added without a softmax": Defect(
        instead(MTLLoRA, "_up", lambda self: torch.einsum("u,uor->or", self.weights, self.lora_B)),
        "reference",
        ("mtl_lora",),
    ),
    "reference: the matrix of a task is left out": Defect(
        instead(TaskMatrix, "forward", lambda self, down: down + 0 * self.values.sum()), "reference", ("mtl_lora",)
    ),
    "lora = peft: the scale is missing": Defect(_unscaled, "lora = peft", ("lora",)),
    "lora = peft: the scale is missing beside fused projections": Defect(
        _unscaled, "lora = peft", ("lora",), QWEN2_VL, message="peft"
    ),
    "lora = peft: the scale is missing where every attention is fused": Defect(
        _unscaled, "lora = peft", ("lora",), GPT2, message="peft"
    ),
    "merge: unmerging subtracts what merging added": Defect(
        instead(LoRALayer, "unmerge", _unmerged_by_subtraction), "merge", ("lora",)
    ),
    "merge: unmerging forgets the weights as they were": Defect(
        instead(LoRALayer, "unmerge", _forgotten), "merge", LORA_FORMS
    ),
    "merge: the scale is missing": Defect(
        around(LowRank, "deltas", lambda deltas, self: [delta / self.scaling for delta in deltas(self)]),
        "merge",
        ("lora", "vera", "mtl_lora"),
    ),
    "merge: DoRA does not rescale": Defect(
        instead(Magnitude, "merged", lambda self, weight, updated, bias, *_: (updated, bias)),
        "merge",
        ("dora", "dvora"),
    ),
    "merge: the factors of IA3 leave the bias alone": Defect(
        around(Scale, "merged", lambda merged, self, weight, bias: (merged(self, weight, bias)[0], bias)),
        "merge",
        ("ia3",),
        BERT,
    ),
}
