"""Whose the layers of a file are, where a model holds other models: its own stacks, or those of a part.

Where all layers stand in several models inside of it (CLIP's towers), or in one that reads tokens beside others without layers (Emu3's codes
of images), or where what the whole returns comes out of a model of another file alone (the text of BLIP-2), it is made of its parts, and each of
them has its own. Else it has layers itself, and can name the lists in the models
of the same file as well (SAM's image encoder beside its decoder). The halves of an encoder-decoder are one model.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

from adapter_codegen.model import BasePlan, Making, PartPlan
from adapter_codegen.parse.facts import ClassFacts, ModuleFacts
from adapter_codegen.plan.flow.modules import local_class
from adapter_codegen.plan.stream.lists.stacks import FoundStack


def is_within(path: str, model: str) -> bool:
    return path.startswith(f"{model}.")


def of_other_files(models: Sequence[PartPlan]) -> tuple[str, ...]:
    """The paths of the parts whose layers stand in other files."""
    return tuple(model.path for model in models if model.is_part and model.making is not Making.OWN)


def way_to_models(facts: ModuleFacts, base: ClassFacts, models: Sequence[PartPlan]) -> tuple[FoundStack, ...]:
    """The classes whose forwards run the models inside of a model without layers, in the form of a list of layers."""
    owners = (base.name, *(name for model in models for name in _way(facts, base, model.path)))
    return (FoundStack("", (), tuple(dict.fromkeys(owners))),)


def _way(facts: ModuleFacts, known: ClassFacts, path: str) -> Iterator[str]:
    """The classes of this file between a model and one inside of it."""
    first, _, rest = path.partition(".")
    names = map(local_class, known.submodules[first].classes) if rest and first in known.submodules else ()
    for name in names:
        if name in facts.classes:
            yield name
            yield from _way(facts, facts.classes[name], rest)


def divided(base: BasePlan, main: Collection[str], undivided: bool = False) -> BasePlan:
    """The plan of a model, with its layers divided between it and its parts.

    Args:
        base: with all layers of the file as stacks.
        main: the stacks, or models of other files, that what it returns comes out of.
        undivided: where it holds all layers in models of this file, they are stacks of the whole.
    """
    is_made_elsewhere = any(path == model.path for path in main for model in base.models)
    is_made_elsewhere = is_made_elsewhere and not any(stack.path in main for stack in base.stacks)
    has_parts = is_made_elsewhere or (not undivided and _holds_all_in_models(base))
    models = tuple(_with_role(model, base, main, has_parts) for model in base.models)
    parts = [model.path for model in models if model.is_part]
    lost = [model.path for model in models if model.near_miss]
    inner = tuple(stack for stack in base.stacks if any(is_within(stack.path, path) for path in parts))
    own = [stack for stack in base.stacks if not any(is_within(stack.path, path) for path in (*parts, *lost))]
    plan = replace(base, models=models, stacks=tuple(own), inner=inner)
    if not has_parts:
        return plan
    return replace(plan, token_scale="", embedding_output="", class_token=False, final_norm="")


def _holds_all_in_models(base: BasePlan) -> bool:
    """Whether all layers are in models inside, several of which have some, and not as the halves of one model.

    One that reads tokens is enough beside others that have no layers (the codes of Emu3's images): tokens enter it, and not the whole.
    """
    holding = [model for model in base.models if not model.near_miss and _has_layers(model, base)]
    left = [stack for stack in base.stacks if not any(is_within(stack.path, model.path) for model in base.models)]
    several = len(holding) > 1 or (len(base.models) > 1 and any("tokens" in model.reads for model in holding))
    return several and not left and not base.is_encoder_decoder


def _has_layers(model: PartPlan, base: BasePlan) -> bool:
    return model.making is not Making.OWN or any(is_within(stack.path, model.path) for stack in base.stacks)


def _with_role(model: PartPlan, base: BasePlan, main: Collection[str], has_parts: bool) -> PartPlan:
    has_stacks = any(is_within(stack.path, model.path) for stack in base.stacks)
    is_main = any(path == model.path or is_within(path, model.path) for path in main)
    is_stack = has_stacks and not model.near_miss and not has_parts
    return replace(model, is_stack=is_stack, is_main=is_main)
