"""A head that was recognised by its form, as data."""

from __future__ import annotations

from dataclasses import dataclass

from adapter_codegen.plan.heads.logits.chain import Step


@dataclass(frozen=True)
class FormedHead:
    """A head of upstream's as a flexible one, but for how it stands on its base model."""

    # As in `StaticHead`. A star in a path stands for the numbers of a list, and counts in the flexible head too.
    layers: tuple[str | None, ...]
    tensors: tuple[tuple[str, str], ...]
    options: tuple[tuple[str, object], ...]
    base_attribute: str = ""  # whose hidden states it reads; "" = that is found by following `start` back
    start: str = ""  # path of the first module of the form
    before: tuple[Step, ...] = ()  # what must stand on the way from the base model, that module included
    frames: str = ""  # the method that counts frames
    mask_token: str = ""  # where the base model reads the token that the head holds
