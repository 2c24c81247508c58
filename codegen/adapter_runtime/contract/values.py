"""The types of the values that options of configs have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

# What JSON can hold. A config is itself such a mapping, from its options to their values.
Json: TypeAlias = str | float | bool | Sequence["Json"] | Mapping[str, "Json"] | None
