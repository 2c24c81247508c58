"""What adapters do between the embeddings and the layers: invertible adapters and prompts, by hooks on upstream."""

from __future__ import annotations

import contextlib
import inspect
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.utils import ModelOutput

from adapter_runtime.methods.prompt_tuning.windows import counts_columns
from conformance.methods import Invertible, Prompt
from conformance.outputs import main_outputs, removed
from conformance.reference.layout import Layout, join
from conformance.reference.together import Averaged, Together, only_in_turn
from conformance.subjects import FIRST_TOKEN
from conformance.tiny import configs_of


@contextlib.contextmanager
def invertible_applied(
    upstream: nn.Module,
    layout: Layout,
    adapters: Sequence[tuple[str, Invertible]],
    weights: Mapping[str, Tensor],
    together: Together = None,
) -> Iterator[None]:
    """The embeddings of `upstream` go through `adapters`; before a tied projection to them stands the inverse.

    Within a whole, it is what enters the part that embeds the tokens, be it tokens or, with images among them, embeddings.
    """
    only_in_turn("invertible adapters", together)

    def forward(module: nn.Module, args: Any, output: Any) -> Any:
        if isinstance(output, tuple):  # some embeddings give more
            return (forward(module, args, output[0]), *output[1:])
        for name, _ in adapters:
            output = nice(output, name, layout, weights)
        return output

    def backward(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hidden = args[0]
        for name, _ in reversed(adapters):
            hidden = inverse(hidden, name, layout, weights)
        return (hidden, *args[1:])

    embedding = upstream.get_submodule(layout.entry)
    if layout.has_parts and isinstance(embedding, nn.Embedding):
        handles = _around_part(upstream.get_submodule(layout.reader), embedding, forward)
    else:  # behind the table, what enters the part goes through what stands there, however it comes in (BART's norm)
        handles = [embedding.register_forward_hook(forward)]
    projection = upstream.get_output_embeddings()
    if projection is not None and projection.weight is upstream.get_submodule(layout.token_embeddings).weight:
        handles.append(projection.register_forward_pre_hook(backward))
    with removed(handles):
        yield


def _around_part(part: nn.Module, table: nn.Module, change: Any) -> list[Any]:
    """`change` what `part` is given as embeddings, and what it embeds itself: others may use its table before."""
    inside: list[nn.Module] = []

    def enter(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        inside.append(module)
        given = kwargs.get("inputs_embeds")
        return args, kwargs if given is None else {**kwargs, "inputs_embeds": change(module, args, given)}

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        inside.pop()

    def embedded(module: nn.Module, args: Any, output: Any) -> Any:
        return change(module, args, output) if inside else output

    return [
        part.register_forward_pre_hook(enter, with_kwargs=True),
        part.register_forward_hook(leave),
        table.register_forward_hook(embedded),
    ]


def invertible_names(layout: Layout, name: str) -> list[str]:
    """The names under which a checkpoint stores the invertible adapter `name`."""
    return [
        join(layout.keeper, f"invertible_adapters.{name}.{half}.{index}.{tensor}")
        for half in ("F", "G")
        for index in (0, 2)
        for tensor in ("weight", "bias")
    ]


def _half(x: Tensor, half: str, name: str, layout: Layout, weights: Mapping[str, Tensor]) -> Tensor:
    tensors = [weights[key] for key in invertible_names(layout, name) if f".{half}." in key]
    hidden = torch.relu(x @ tensors[0].T + tensors[1])
    return hidden @ tensors[2].T + tensors[3]


def nice(x: Tensor, name: str, layout: Layout, weights: Mapping[str, Tensor]) -> Tensor:
    """[..., E] -> [..., E]"""
    first, second = x.chunk(2, dim=-1)
    first = first + _half(second, "F", name, layout, weights)
    return torch.cat([first, second + _half(first, "G", name, layout, weights)], dim=-1)


def inverse(y: Tensor, name: str, layout: Layout, weights: Mapping[str, Tensor]) -> Tensor:
    """What `nice` was given, from what it gave."""
    first, second = y.chunk(2, dim=-1)
    second = second - _half(first, "G", name, layout, weights)
    return torch.cat([first - _half(second, "F", name, layout, weights), second], dim=-1)


@contextlib.contextmanager
def prompts_applied(
    upstream: nn.Module,
    layout: Layout,
    adapters: Sequence[tuple[str, Prompt]],
    weights: Mapping[str, Tensor],
    together: Together = None,
) -> Iterator[None]:
    """`upstream` sees the prompts in front of the tokens, the last of a stack first, and gives outputs at the tokens.

    Where the table of tokens stands alone, they are new tokens: all that upstream makes of tokens, it makes of them.
    An encoder-decoder has them in its encoder, and gives outputs at the tokens of its decoder anyway.
    Within a whole, the part that embeds the tokens has them. Where the whole gives a decoder embeddings, room is kept for the
    prompts in all that the whole is given, so that it makes masks and positions of them as of tokens. An encoder, or what embeds
    tokens by a module with a norm behind, has them alone, and hands nothing of them out.
    Where layers count columns, the prompts stand behind the padding, as the tokens do.
    """
    prompts = [weights[prompt_name(layout, name)] for name, _ in adapters]
    prompt = together.of(prompts) if isinstance(together, Averaged) else torch.cat(prompts[::-1])
    base, front = upstream.get_submodule(layout.text), upstream.get_submodule(layout.front)
    is_fed = layout.has_parts and layout.is_fed
    if is_fed and layout.embeds_tokens and "past_key_values" in inspect.signature(type(base).forward).parameters:
        with removed(_kept_and_filled(upstream, layout, prompt)):
            yield
        return
    length = len(prompt)
    near = _Near(length, is_asked=counts_columns(base.config))

    def longer_mask(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        given = {**dict(zip(inspect.signature(module.forward).parameters, args, strict=False)), **kwargs}
        tokens, mask = given.get("inputs_embeds" if is_fed else "input_ids"), kwargs.get("attention_mask")
        if mask is None and makes_mask and tokens is not None:
            mask = torch.ones(tokens.shape[:2], dtype=torch.long)
        if mask is not None:
            near.see(mask)
            kwargs = {**kwargs, "attention_mask": near.put(nn.functional.pad(mask, (length, 0), value=1))}
        positions = kwargs.get("position_ids")
        if positions is None and positions_of_layers:
            kwargs = {**kwargs, "position_ids": torch.arange(length + tokens.shape[1]).expand(len(tokens), -1)}
        if positions is not None and layout.embeds_tokens:
            places = torch.arange(length).expand(len(positions), -1)
            kwargs["position_ids"] = near.put(torch.cat([places, positions + length], dim=1))
        return args, kwargs

    def mask_of_tokens(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        given = {**dict(zip(takes, args, strict=False)), **kwargs}
        return (), {**given, **{name: given[name][:, length:] for name in masks if given.get(name) is not None}}

    def positions_of_tokens(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return args, {**kwargs, "position_ids": kwargs["position_ids"][:, length:] - length}

    def grown(entry: Any, embeddings: Tensor) -> Any:
        """Embeddings that read the mask may give that of all that they embed (ViLT)."""
        is_mask = masks and isinstance(entry, Tensor) and entry.shape == embeddings.shape[:2]
        return nn.functional.pad(entry, (length, 0), value=1) if is_mask else entry

    def insert(module: nn.Module, args: Any, output: Any) -> Any:
        if isinstance(output, tuple):  # some models of images give more
            return (insert(module, args, output[0]), *(grown(entry, output[0]) for entry in output[1:]))
        if isinstance(output, ModelOutput):  # in its first field
            return type(output)(**{**output, next(iter(output)): insert(module, args, output[0])})
        return near.put(torch.cat([prompt.expand(len(output), -1, -1), output], dim=1))

    def longer_tokens(module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        given = {**dict(zip(inspect.signature(module.forward).parameters, args, strict=False)), **kwargs}
        tokens = given["input_ids"]
        new = torch.arange(len(table.weight), len(table.weight) + length).expand(len(tokens), -1)
        given |= {name: near.put(_seen_by_none(value, length)) for name, value in _of_images(given, tokens).items()}
        return (), {**given, "input_ids": near.put(torch.cat([new, tokens], dim=1))}

    def longer_embeddings(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return args, {**kwargs, "inputs_embeds": insert(module, args, kwargs["inputs_embeds"])}

    def strip(module: nn.Module, args: Any, output: Any) -> Any:
        if base is not upstream and base is front and isinstance(output, ModelOutput):
            output["last_hidden_state"] = near.back(output["last_hidden_state"])[:, length:]
            if layout.has_parts and output.get("hidden_states") is not None:  # the whole may read these
                output["hidden_states"] = tuple(states[:, length:] for states in output["hidden_states"])
        return output

    def cut_off(module: nn.Module, args: Any) -> Any:
        return (args[0][:, length:], *args[1:])

    embeddings = upstream.get_submodule(layout.embeddings)
    table = (
        embeddings  # not the one that upstream names where the encoder has one of its own, tied to it (T5EncoderModel)
    )
    if layout.embeds_tokens and not isinstance(embeddings, nn.Embedding):
        table = front.get_input_embeddings()
    takes = inspect.signature(embeddings.forward).parameters
    masks = {"mask", "attention_mask"} & set(takes)  # DeBERTa, ESM
    makes_mask = (
        layout.ones_are_none
        and not layout.embeds_tokens
        and "attention_mask" in inspect.signature(base.forward).parameters
    )
    embeds_positions = "position_ids" in takes
    positions_of_layers = (  # counted from the tokens, and read behind the embeddings, be it also (GTE) or only (ModernBERT)
        not layout.embeds_tokens
        and "position_ids" in inspect.signature(base.forward).parameters
        and (not embeds_positions or "rotary_emb" in base._modules)
    )
    handles = [
        base.register_forward_pre_hook(longer_mask, with_kwargs=True),
        base.register_forward_hook(strip),
    ]
    pooler = base._modules.get("pooler")
    if layout.has_parts and pooler is not None and not isinstance(pooler, nn.Linear):  # the whole reads what it gives
        handles.append(pooler.register_forward_pre_hook(cut_off))
    if layout.embeds_tokens and is_fed:
        handles.append(front.register_forward_pre_hook(longer_embeddings, with_kwargs=True))
    elif layout.embeds_tokens:
        handles.append(front.register_forward_pre_hook(longer_tokens, with_kwargs=True))
        handles.append(_NewTokens(table, prompt))
    else:
        handles.append(embeddings.register_forward_hook(insert))
    if masks and not layout.embeds_tokens:
        handles.append(embeddings.register_forward_pre_hook(mask_of_tokens, with_kwargs=True))
    if embeds_positions and positions_of_layers:
        handles.append(embeddings.register_forward_pre_hook(positions_of_tokens, with_kwargs=True))
    with removed(handles):
        yield


def _of_images(given: Mapping[str, Any], tokens: Tensor) -> dict[str, Tensor]:
    """Masks (B, L, N) of which of N images each token sees."""
    masks = {name: value for name, value in given.items() if name.endswith("attention_mask") and value is not None}
    return {name: mask for name, mask in masks.items() if mask.dim() == 3 and mask.shape[:2] == tokens.shape}


def _seen_by_none(mask: Tensor, length: int) -> Tensor:
    """`mask` (B, L, N) with `length` tokens in front of all images, which see none of them."""
    return torch.cat([torch.zeros(len(mask), length, mask.shape[2], dtype=mask.dtype), mask], dim=1)


class _Near:
    """Moves what stands in front of all columns of a row behind its padding on the left, and back.

    Args:
        length: how many columns.
        is_asked: else nothing is moved.
    """

    def __init__(self, length: int, is_asked: bool) -> None:
        self._length = length
        self._is_asked = is_asked
        self._order: Tensor | None = None

    def see(self, mask: Tensor) -> None:
        """Take the padding out of a mask of tokens (B, L)."""
        self._order = None
        if self._is_asked and mask.dim() == 2:
            front = torch.arange(-self._length, 0).expand(len(mask), -1)
            places = torch.arange(mask.shape[1]).expand(len(mask), -1)
            first = mask.bool().int().argmax(-1, keepdim=True)
            # Padding, then the prompt, then the tokens: the order of columns by where each belongs.
            rank = torch.cat([first * 2 + 1 + 0 * front, places * 2 + 2 * (places >= first)], dim=1)
            self._order = rank.argsort(dim=1, stable=True)

    def put(self, columns: Tensor) -> Tensor:
        """(B, P + L, ...) with the prompt in front -> the same with the prompt where it belongs."""
        return columns if self._order is None else _columns(columns, self._order)

    def back(self, columns: Tensor) -> Tensor:
        return columns if self._order is None else _columns(columns, self._order.argsort(dim=1))


def _columns(of: Tensor, order: Tensor) -> Tensor:
    index = order.reshape(*order.shape, *(1,) * (of.dim() - 2))
    return of.expand(len(order), *of.shape[1:]).gather(1, index.expand(*order.shape, *of.shape[2:]))


def _kept_and_filled(upstream: nn.Module, layout: Layout, prompt: Tensor) -> list[Any]:
    """The whole gets tokens without a meaning in front of its own, over whose embeddings the text part writes the prompt (P, H).

    Behind the padding, as in a model that is no whole, where the text part counts columns.
    """
    length, front = len(prompt), upstream.get_submodule(layout.front)
    token = _meaningless_token(upstream.config)
    near = _Near(length, is_asked=counts_columns(upstream.get_submodule(layout.text).config))

    def keep(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        given = {**dict(zip(inspect.signature(module.forward).parameters, args, strict=False)), **kwargs}
        if (mask := given.get("attention_mask")) is not None:
            near.see(mask)
        for name, value in (
            ("input_ids", token),
            ("attention_mask", 1),
            ("token_type_ids", 0),
            ("mm_token_type_ids", 0),
        ):
            if given.get(name) is not None:
                given[name] = near.put(nn.functional.pad(given[name], (length, 0), value=value))
        if (positions := given.get("position_ids")) is not None:
            places = torch.arange(length).expand(*positions.shape[:-1], -1)
            longer = torch.cat([places, positions + length], dim=-1)
            given["position_ids"] = (
                torch.stack([near.put(axis) for axis in longer]) if longer.dim() > 2 else near.put(longer)
            )
        return (), given

    def fill(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        behind = near.back(kwargs["inputs_embeds"])[:, length:]
        filled = torch.cat([prompt.expand(len(behind), -1, -1), behind], dim=1)
        return args, {**kwargs, "inputs_embeds": near.put(filled)}

    def strip(module: nn.Module, args: Any, output: Any) -> Any:
        if layout.base and layout.front == layout.text:  # without a head, the whole gives what is in front too
            output["last_hidden_state"] = near.back(output["last_hidden_state"])[:, length:]
        if (
            not layout.base and "last_hidden_state" not in output
        ):  # it ends in a head itself, which gives outputs at the tokens
            name = next(iter(main_outputs(output)))
            output[name] = near.back(output[name])[:, length:]
        return output

    return [
        upstream.get_submodule(layout.base).register_forward_pre_hook(keep, with_kwargs=True),
        front.register_forward_pre_hook(fill, with_kwargs=True),
        upstream.get_submodule(layout.base).register_forward_hook(strip),
    ]


def _meaningless_token(config: Any) -> int:
    """The first that no config of the whole names: nothing stands for an image there, and no row ends."""
    configs = configs_of(config)
    named = [value for one in configs for key, value in one.to_dict().items() if re.search(r"token_(id|index)", key)]
    return next(token for token in itertools.count(FIRST_TOKEN) if token not in named)


class _NewTokens:
    """A table of tokens gives `rows` (P, H) for the P tokens that it lacks, so that upstream treats these as any other.

    Its forward is exchanged, and comes back with `remove`.
    """

    def __init__(self, table: nn.Module, rows: Tensor) -> None:
        self._table = table
        forward, size = table.forward, len(table.weight)

        def longer(tokens: Tensor) -> Tensor:
            is_new = (tokens >= size).unsqueeze(-1)
            return torch.where(is_new, rows[(tokens - size).clamp(min=0)], forward(tokens.clamp(max=size - 1)))

        table.forward = longer

    def remove(self) -> None:
        del self._table.forward


def prompt_name(layout: Layout, name: str) -> str:
    """The name under which a checkpoint stores the prompt `name`."""
    return join(layout.text, f"prompt_tuning.prompt_tunings.{name}.prompt_embedding.weight")
