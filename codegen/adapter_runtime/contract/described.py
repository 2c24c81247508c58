"""What methods read of an `AdapterModelInterface`, which describes a model without generated classes."""

from __future__ import annotations

from typing import Protocol


class Described(Protocol):
    """The paths in an `AdapterModelInterface` that begin at a layer, or at an attention of it; None = it gives none."""

    @property
    def layer_self_attn(self) -> str: ...

    @property
    def layer_cross_attn(self) -> str | None: ...

    @property
    def layer_output_proj(self) -> str: ...

    @property
    def attn_o_proj(self) -> str | None: ...

    @property
    def layer_pre_self_attn(self) -> str | None: ...

    @property
    def layer_pre_cross_attn(self) -> str | None: ...

    @property
    def layer_pre_ffn(self) -> str | None: ...

    @property
    def layer_ln_1(self) -> str | None: ...

    @property
    def layer_ln_2(self) -> str | None: ...
