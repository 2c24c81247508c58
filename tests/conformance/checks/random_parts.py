"""What of a base model is random after a checkpoint was read: told by the tensors themselves, not by what a loader says.

All tensors of upstream's class are random, so that no two are equal by chance.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor
from transformers import PreTrainedModel

State = Mapping[str, Tensor]


def random_tensors(base: PreTrainedModel, theirs: PreTrainedModel, plain: State) -> set[str]:
    """The tensors of a base model that upstream's class has nowhere under the name that they have in the innermost model around them.

    Args:
        theirs: the class that wrote the checkpoint.
        plain: what upstream's own base model reads from it, which may rename what it reads (TIPSv2's segmentation).
    """
    models = [path for path, module in base.named_modules() if path and isinstance(module, PreTrainedModel)]
    ends: dict[str, list[Tensor]] = {}
    for key, tensor in theirs.state_dict().items():
        for end in _ends(key):
            ends.setdefault(end, []).append(tensor)

    def known(key: str) -> list[Tensor]:
        inside = max((path for path in models if key.startswith(f"{path}.")), key=len, default="")
        return [*ends.get(key.removeprefix(f"{inside}."), ()), *([plain[key]] if key in plain else ())]

    state = base.state_dict()
    return {key for key, tensor in state.items() if not any(torch.equal(tensor, other) for other in known(key))}


def models_to_be_read(base: PreTrainedModel, theirs: PreTrainedModel, random: set[str]) -> list[str]:
    """The paths of models of which all is random, though upstream's class has one of this class with such tensors, and has no other.

    Not where that one is read elsewhere, or stands in a model that has another counterpart (the decoder in SeamlessM4T's model of units).
    """
    ours = {path: one for path, one in _models(base) if (keys := _keys(path, one)) and keys <= random}
    read = [tensor for key, tensor in base.state_dict().items() if key not in random]
    outer = [one for _, one in _models(theirs) if any(isinstance(mine, type(one)) for mine in ours.values())]
    found = []
    for path, mine in ours.items():
        alike = [one for _, one in _models(theirs) if _are_alike(mine, one)]
        if len(alike) != 1 or any(_is_in(alike[0], one) for one in outer):
            continue
        first = next(iter(alike[0].state_dict().values()))
        if not any(torch.equal(first, tensor) for tensor in read):
            found.append(path)
    return found


def _models(whole: PreTrainedModel) -> Iterator[tuple[str, PreTrainedModel]]:
    yield from ((path, one) for path, one in whole.named_modules() if isinstance(one, PreTrainedModel))


def _keys(path: str, model: PreTrainedModel) -> set[str]:
    return {f"{path}.{name}".lstrip(".") for name in model.state_dict()}


def _is_in(inner: PreTrainedModel, outer: PreTrainedModel) -> bool:
    return inner is not outer and any(one is inner for one in outer.modules())


def _are_alike(ours: PreTrainedModel, theirs: PreTrainedModel) -> bool:
    """Whether they are of one class of upstream's and have the same tensors."""
    shapes, others = ({key: tensor.shape for key, tensor in one.state_dict().items()} for one in (ours, theirs))
    return isinstance(ours, type(theirs)) and shapes == others


def _ends(key: str) -> Iterator[str]:
    """A name, and what is left of it below each module that it stands in."""
    while key:
        yield key
        key = key.partition(".")[2]
