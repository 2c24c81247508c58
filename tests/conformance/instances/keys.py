"""Inputs that show more of a model: several keys for each attention, and no mask that hides everything.

Over a single key, queries and keys do nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel

from conformance.instances.inputs import Found
from conformance.instances.reach import unreached
from conformance.instances.recipes import Recipe, tensors
from conformance.instances.trial import Failed, ran, takes
from conformance.outputs import all_outputs, flatten

_SOFTMAX = {torch.softmax, torch.nn.functional.softmax, torch.Tensor.softmax}
TIMES = (2, 4, 8)  # as large


def with_several_keys(model: PreTrainedModel, found: Found) -> Found:
    """`found`, with images and sounds as large as it takes (a backbone halves them five times); as it is, where that is not enough."""
    for larger in (found, *_larger(model, found)):
        try:
            if not sees_one_key(model, tensors(larger.recipes(model.config))):
                return larger
        except Failed:  # they have one size alone
            continue
    return found


def with_nothing_hidden(model: PreTrainedModel, found: Found) -> Found:
    """`found`, or with a mask turned round that is True at what it hides: where the outputs are one number."""
    recipes = found.recipes(model.config)
    if not is_one_number(ran(model, tensors(recipes))):
        return found
    for name, recipe in recipes.items():
        if recipe["kind"] == "ones" and recipe.get("dtype") == "bool":
            turned = Found(found.choice, {**found.overrides, name: {**recipe, "kind": "zeros"}}, found.put)
            if not is_one_number(ran(model, tensors(turned.recipes(model.config)))):
                return turned
    return found


def without_unread(model: PreTrainedModel, found: Found) -> Found:
    """`found`, without numbers that may be left out and change nothing: upstream reads something else in their place (CSM)."""
    for name, entry in takes(model).items():
        recipes = found.recipes(model.config)
        if entry.default is not None or recipes.get(name, {}).get("kind") != "normal":
            continue
        fewer = Found(
            *({k: v for k, v in one.items() if k != name} for one in (found.choice, found.overrides, found.put))
        )
        try:
            if _shows(model, fewer.recipes(model.config)) == _shows(model, recipes):
                found = fewer
        except Failed:
            continue
    return found


def _shows(model: PreTrainedModel, recipes: Mapping[str, Recipe]) -> tuple[Any, ...]:
    """The layers that do not run, and every number that comes out."""
    outputs = flatten(ran(model, tensors(recipes)))
    return unreached(model, tensors(recipes)), {name: value.tolist() for name, value in outputs.items()}


def is_one_number(outputs: Any) -> bool:
    """Whether every tensor holds one number only."""
    return all(bool((value == value.flatten()[:1]).all()) for value in all_outputs(outputs).values())


def sees_one_key(model: PreTrainedModel, inputs: Mapping[str, Any]) -> bool:
    """Whether some softmax is over a single score."""
    watch = _Softmax()
    with watch:
        ran(model, inputs)
    return watch.single


class _Softmax(TorchFunctionMode):
    single = False

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if func in _SOFTMAX and args[0].dim() > 2 and args[0].shape[-1] == 1:
            self.single = True
        return func(*args, **(kwargs or {}))


def _larger(model: PreTrainedModel, found: Found) -> Iterator[Found]:
    for times in TIMES:
        larger = as_large(times, model, found)
        if larger != found:
            yield larger


def as_large(times: int, model: PreTrainedModel, found: Found) -> Found:
    """`found`, with images that are as many times as high and wide, and sounds as many times as long."""
    recipes = found.recipes(model.config)
    shapes = {name: shape for name, recipe in recipes.items() if times > 1 and (shape := _times(times, name, recipe))}
    larger = {name: {**recipes[name], "shape": shape} for name, shape in shapes.items()}
    return Found(found.choice, {**found.overrides, **larger}, found.put)


def _times(times: int, name: str, recipe: Recipe) -> list[int]:
    """The shape of images that are as many times as high and wide, of a sound of samples that is as many times as long; of all else, none."""
    shape = list(recipe.get("shape", ()))
    if name.startswith("pixel") and len(shape) >= 4 and shape[-1] == shape[-2]:
        return [*shape[:-2], times * shape[-2], times * shape[-1]]
    return [*shape[:-1], times * shape[-1]] if name == "input_values" and recipe["kind"] == "normal" else []
