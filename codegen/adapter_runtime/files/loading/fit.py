"""Do the tensors of a file fit those of a model? All is compared before anything is copied."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from adapter_runtime.errors import listing

Shapes = tuple[tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True)
class Mismatch:
    """How the tensors of a file differ from those of a model."""

    missing: frozenset[str]  # the model has them, the file has not
    unexpected: frozenset[str]  # the file has them, the model has not
    shapes: Mapping[str, Shapes]  # both have them: shape in the file, shape in the model

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.shapes)

    def __str__(self) -> str:
        shapes = [
            f"{key}: {list(ours)} in the file, {list(its)} in the model" for key, (ours, its) in self.shapes.items()
        ]
        parts = (
            ("missing from the file", self.missing),
            ("unknown to the model", self.unexpected),
            ("of another shape", shapes),
        )
        return "\n".join(f"  {title} ({len(names)}):\n{listing(names)}" for title, names in parts if names)


def compare(given: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> Mismatch:
    """Compare names and shapes. A tensor that the model holds under several names needs to be given under one."""
    provided = {id(expected[key]) for key in given.keys() & expected.keys()}
    missing = {key for key, tensor in expected.items() if id(tensor) not in provided}
    shapes = {
        key: (tuple(given[key].shape), tuple(expected[key].shape))
        for key in sorted(given.keys() & expected.keys())
        if given[key].shape != expected[key].shape
    }
    return Mismatch(frozenset(missing), frozenset(given.keys() - expected.keys()), shapes)


@torch.no_grad()
def copy_tensors(given: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> None:
    """Copy every tensor that both sides know, in the type and on the device of the model's."""
    for key in given.keys() & expected.keys():
        expected[key].copy_(given[key])


def without_aliases(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Each tensor once, under the first of its names."""
    seen: set[int] = set()
    result = {}
    for key, tensor in tensors.items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            result[key] = tensor
    return result
