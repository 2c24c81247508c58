"""The JSON of PEFT. An option that would change what is computed is honoured or refused, one by one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from adapter_runtime.errors import UnsupportedMethodError

Document = Mapping[str, Any]

# Options of all methods that say nothing about what is computed. Which modules were adapted shows in the tensors, so the
# patterns by which they were chosen (a list, a regular expression, "all-linear") need not be read.
INERT = frozenset(
    {
        "auto_mapping",
        "base_model_name_or_path",
        "exclude_modules",
        "fan_in_fan_out",
        "inference_mode",
        "layers_pattern",
        "layers_to_transform",
        "modules_to_save",  # the tensors show it
        "peft_type",
        "peft_version",
        "revision",
        "target_modules",
        "task_type",
    }
)


def refuse_unknown(document: Document, read: Sequence[str], inert: Sequence[str]) -> None:
    """Raise for options that are set and that nobody here knows the meaning of.

    Args:
        read: those that the caller reads.
        inert: those that change nothing once there are tensors: how they were initialised, for example.

    Raises:
        UnsupportedMethodError: there are such.
    """
    known = {*INERT, *read, *inert}
    given = {name: value for name, value in sorted(document.items()) if name not in known and value}
    if given:
        shown = ", ".join(f"{name}={value!r}" for name, value in given.items())
        raise UnsupportedMethodError(
            f"The {document.get('peft_type')} adapter of PEFT has options that have no counterpart here: {shown}."
        )
