"""Roles written by hand: nothing of the tool is needed to test the references."""

from __future__ import annotations

import torch
from torch import Tensor

from conformance.reference.layout import Attention, Layer, Layout
from conformance.subjects import Subject

NAME = "adapter_a"


def layout(subject: Subject) -> Layout:
    """The layout of a tiny Llama or BERT."""
    if subject.model_type == "llama":
        layers = tuple(_llama_layer(f"model.layers.{i}") for i in range(2))
        return _layout(layers, "model", "model.embed_tokens", "model.embed_tokens")
    layers = tuple(_bert_layer(f"bert.encoder.layer.{i}") for i in range(2))
    return _layout(layers, "bert", "bert.embeddings", "bert.embeddings.word_embeddings")


def _layout(layers: tuple[Layer, ...], base: str, embeddings: str, table: str) -> Layout:
    return Layout(
        layers,
        base,
        embeddings,
        entry=embeddings,
        keeper=base,
        reader=base,
        token_embeddings=table,
        front=base,
        text=base,
    )


def _llama_layer(path: str) -> Layer:
    attention, mlp = f"{path}.self_attn", f"{path}.mlp"
    projections = (f"{attention}.{name}_proj" for name in "qkv")
    core = Attention(
        path, attention, "self", *projections, fused="", output=f"{attention}.o_proj", in_encoder=False, part="model"
    )
    hosts = (("attention", f"{path}.attention_adapters"), ("output", f"{path}.output_adapters"))
    return Layer(path, (core,), hosts, (f"{mlp}.up_proj",), (f"{mlp}.down_proj",), part="model")


def _bert_layer(path: str) -> Layer:
    attention = f"{path}.attention.self"
    projections = (f"{attention}.{name}" for name in ("query", "key", "value"))
    output = f"{path}.attention.output"
    core = Attention(
        path, attention, "self", *projections, fused="", output=f"{output}.dense", in_encoder=False, part="bert"
    )
    hosts = (("attention", output), ("output", f"{path}.output"))
    return Layer(path, (core,), hosts, (f"{path}.intermediate.dense",), (f"{path}.output.dense",), part="bert")


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * shape[-1] ** -0.5
