"""`generate` for models whose language modelling head is one of several."""

from __future__ import annotations

from typing import Any

from transformers import GenerationMixin

from adapter_runtime.heads.errors import UnsupportedHeadError


class HeadsGenerationMixin(GenerationMixin):  # type: ignore[misc]
    """The base of a generated class with flexible heads where one of its head types can generate."""

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """See transformers. Needs an active head that generates.

        Raises:
            UnsupportedHeadError: no head, or one that predicts no tokens, is active.
        """
        active = kwargs.get("head") or self.active_head
        head = self.heads[active] if active in self.heads else None
        if head is None or not head.is_generative:
            state = "no head is active" if head is None else f"the active head {active!r} is a {head.head_type} head"
            raise UnsupportedHeadError(
                f"generate() needs an active language modelling head, but {state}. Add one: add_causal_lm_head(...)."
            )
        return super().generate(*args, **kwargs)
