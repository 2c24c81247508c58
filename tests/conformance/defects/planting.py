"""What a defect is, and ways to plant one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import adapter_models.bert.modeling_bert
import adapter_models.llama.modeling_llama  # noqa: F401  the modules that are broken here
from conformance.breaking import edit_generated
from conformance.emitted import modeling_module
from conformance.methods import Bottleneck, LoRA, Method, Part
from conformance.subjects import Subject, method_subjects

Patch = pytest.MonkeyPatch
Plant = Callable[[Patch], None]

(LLAMA,) = method_subjects("llama")
BERT, BERT_DECODER, BERT_CROSS = method_subjects("bert")  # all with a head that is tied to the embeddings
LLAMA_CODE, BERT_CODE = modeling_module("llama"), modeling_module("bert")

LORA_FORMS = ("lora", "ia3", "dora", "vera", "dvora", "mtl_lora")
LOW_RANK = tuple(form for form in LORA_FORMS if form != "ia3")
# One method of each kind.
EVERY = ("double_seq_bn", "compacter", "seq_bn_inv", "prefix_tuning_flat", *LORA_FORMS, "loreft", "prompt_tuning")


@dataclass(frozen=True)
class Defect:
    """What is planted, and the cells of the table that must find it."""

    plant: Plant
    check: str
    methods: tuple[str, ...] = ("",)  # none: a check of models without methods
    subject: Subject = LLAMA
    raises: type[Exception] = AssertionError
    message: str | None = None  # a part of what the check says, where it could also fail for another reason


def kinds_of(one: Method) -> set[str]:
    """The kinds of the parts of a method."""
    return {kind_of(part) for part in one.parts}


def kind_of(part: Part) -> str:
    """Relatives of LoRA are kinds of their own, and so are hypercomplex bottlenecks."""
    if isinstance(part, LoRA):
        return part.form
    return "hypercomplex" if isinstance(part, Bottleneck) and part.hypercomplex else part.planned_as


def in_text(module: str, edit: Callable[[str], str]) -> Plant:
    """Edit a generated module."""
    return lambda patch: edit_generated(patch, module, edit)


def around(owner: Any, name: str, change: Callable[..., Any]) -> Plant:
    """`change` gets the original function and its arguments."""

    def plant(patch: Patch) -> None:
        original = getattr(owner, name)
        patch.setattr(owner, name, lambda *args, **kwargs: change(original, *args, **kwargs))

    return plant


def instead(owner: Any, name: str, value: Any) -> Plant:
    """Put `value` in the place of an attribute."""
    return lambda patch: patch.setattr(owner, name, value)


def all_of(*plants: Plant) -> Plant:
    """Plant several."""

    def plant(patch: Patch) -> None:
        for one in plants:
            one(patch)

    return plant


def swap(first: str, second: str) -> Callable[[str], str]:
    """Exchange two names in a text."""
    return lambda text: text.replace(first, "\0").replace(second, first).replace("\0", second)


def nothing(*_: Any, **__: Any) -> None:
    """A function that does not do its work."""


def mean_of_row(states: Tensor) -> Tensor:
    """[B, L, ...], at each token the mean over all of its row."""
    return states.mean(dim=1, keepdim=True).expand_as(states)


def drawn_anew(module: nn.Module) -> None:
    """Give a module random weights."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(6)) * 0.1)
