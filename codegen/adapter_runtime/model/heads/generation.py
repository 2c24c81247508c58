"""`generate` for models whose language modelling head is one of several."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from operator import attrgetter
from types import CellType, FunctionType
from typing import ClassVar

import torch
from transformers import GenerationConfig, GenerationMixin
from transformers.utils import ModelOutput

from adapter_runtime.call.arguments import Argument
from adapter_runtime.composition import Parallel, Setup
from adapter_runtime.heads.errors import UnsupportedHeadError
from adapter_runtime.heads.protocol import FlexibleHeadsModel, head_named
from adapter_runtime.heads.setups import HeadSetup, head_names
from adapter_runtime.model.heads.running import copies_of_batch, used_heads


class HeadsGenerationMixin(GenerationMixin):
    """The base of a generated class with flexible heads where one of its head types can generate.

    Attributes:
        borrowed_from: rendered: upstream's class whose methods say what a step of generation reads; None = there is nothing to say.
        borrowed_methods: rendered: the names of these methods.
        borrowed_fields: rendered: attributes that these methods read -> where in the config they stand.
    """

    borrowed_from: ClassVar[type | None] = None
    borrowed_methods: ClassVar[tuple[str, ...]] = ()
    borrowed_fields: ClassVar[tuple[tuple[str, str], ...]] = ()

    def __init_subclass__(cls) -> None:
        """Take over the methods of upstream's class, as if the generated class had their text."""
        super().__init_subclass__()
        for name, path in cls.__dict__.get("borrowed_fields", ()):
            setattr(cls, name, property(attrgetter(f"config.{path}")))
        for name in cls.__dict__.get("borrowed_methods", ()):
            method = inspect.getattr_static(cls.borrowed_from, name)
            setattr(cls, name, taken_over(method, cls) if isinstance(method, FunctionType) else method)

    def generate(self, *args: Argument, head: Setup = None, **kwargs: Argument) -> ModelOutput | torch.Tensor:
        """See transformers. Needs an active head that generates, or ``head=...``; with parallel adapters, one or one for each.

        Raises:
            UnknownHeadError: there is no head of the given name.
            UnsupportedHeadError: no head, one that predicts no tokens, or several are active.
        """
        check_generative(self, used_heads(self, head))
        if head is not None:
            kwargs["head"] = head
        # What some classes derive from beside this one counts the rows of a batch by itself (Whisper's), and not the copies of each.
        run = functools.partial(GenerationMixin.generate, self) if copies_of_batch(self) > 1 else super().generate
        generated: ModelOutput | torch.Tensor = run(*args, **kwargs)
        return generated

    def _prepare_text_encoder_decoder_kwargs_for_generation(
        self,
        inputs_tensor: torch.Tensor,
        model_kwargs: dict[str, Argument],
        model_input_name: str | None,
        generation_config: GenerationConfig,
    ) -> dict[str, Argument]:
        """See transformers. The encoder, which runs by itself before the first call, knows no heads."""
        head = model_kwargs.pop("head", None)
        prepared: dict[str, Argument] = super()._prepare_text_encoder_decoder_kwargs_for_generation(
            inputs_tensor, model_kwargs, model_input_name, generation_config
        )
        return prepared if head is None else {**prepared, "head": head}


def check_generative(model: FlexibleHeadsModel, setup: HeadSetup | None) -> None:
    """Raise where the heads of `setup` cannot generate.

    Raises:
        UnsupportedHeadError: no head, one that predicts no tokens, or several are active.
    """
    heads = [head_named(model, name) for name in head_names(setup)]
    other = next((head for head in heads if not head.is_generative), None)
    if heads and other is None:
        # Heads of other blocks give their logits in another order than that of the rows.
        if len(heads) == 1 or (isinstance(setup, (list, Parallel)) and len(heads) == copies_of_batch(model)):
            return
        state = f"{setup!r} are active; several heads can generate only if each has its parallel adapter"
    elif other is None:
        state = "no head is active"
    else:
        state = f"the active head {other.name!r} is a {other.head_type} head"
    raise UnsupportedHeadError(
        f"generate() needs an active language modelling head, but {state}. Add one: add_causal_lm_head(...), or"
        " say which: generate(..., head=...)."
    )


def taken_over(method: FunctionType, owner: type) -> Callable[..., object]:
    """`rebound`, also of a method under ``torch.no_grad()``, the one decorator of methods that are taken over."""
    inner = inspect.unwrap(method)
    if inner is method:
        return rebound(method, owner)
    assert isinstance(inner, FunctionType)
    without_gradients: Callable[..., object] = torch.no_grad()(rebound(inner, owner))
    return without_gradients


def rebound(method: FunctionType, owner: type) -> FunctionType:
    """A copy of a method whose ``super()`` goes on behind `owner`."""
    cells = dict(zip(method.__code__.co_freevars, method.__closure__ or (), strict=True))
    if "__class__" in cells:
        cells["__class__"] = CellType(owner)
    copy = FunctionType(
        method.__code__, method.__globals__, method.__name__, method.__defaults__, tuple(cells.values()) or None
    )
    copy.__kwdefaults__, copy.__doc__, copy.__module__ = method.__kwdefaults__, method.__doc__, method.__module__
    copy.__annotations__ = dict(method.__annotations__)
    copy.__qualname__ = f"{owner.__qualname__}.{method.__name__}"
    return copy
