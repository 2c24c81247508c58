"""Defects of generated code. That a site is missing is in ``test_broken_variants.py``, once per site."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from adapter_runtime.roles import OutputOrder
from conformance.adapted import initialised
from conformance.defects.planting import (
    BERT,
    BERT_CODE,
    LLAMA,
    LLAMA_CODE,
    Defect,
    Patch,
    Plant,
    in_text,
    swap,
)
from conformance.subjects import Subject, method_subjects

GPT2 = method_subjects("gpt2")[0]
(LXMERT,) = method_subjects("lxmert")  # reads a text and an image in lists of their own


def _swapped_roles(patch: Patch) -> None:
    layer = type(initialised(LLAMA).model.layers[0])
    attention = layer.roles.attentions[0]
    wrong = replace(attention, key=attention.value, value=attention.key)
    patch.setattr(layer, "roles", replace(layer.roles, attentions=(wrong,)))


def _feed_forward(**roles: tuple[str, ...]) -> Plant:
    """Other roles of Llama's feed-forward block than those that are declared."""

    def plant(patch: Patch) -> None:
        layer = type(initialised(LLAMA).model.layers[0])
        patch.setattr(layer, "roles", replace(layer.roles, mlp=replace(layer.roles.mlp, **roles)))

    return plant


def _in_order(*sizes: str, parts: str = "qkv", group: str = "") -> Plant:
    """What is declared of the projection that gives GPT-2's queries, keys and values."""

    def plant(patch: Patch) -> None:
        layer = type(initialised(GPT2).transformer.h[0])
        attention, *others = layer.roles.attentions
        wrong = replace(attention, orders=(OutputOrder(parts, sizes, group),))
        patch.setattr(layer, "roles", replace(layer.roles, attentions=(wrong, *others)))

    return plant


def _streams(subject: Subject, forms: Mapping[str, str]) -> Plant:
    """Other statements of what the hidden states of a list have to do with tokens; of a list -> the statement."""

    def plant(patch: Patch) -> None:
        base = type(initialised(subject).adapters_base)
        owner = next(cls for cls in base.__mro__ if "layer_stacks" in vars(cls))
        stacks = [replace(one, form=forms.get(one.path, one.form)) for one in owner.layer_stacks]
        assert tuple(stacks) != tuple(owner.layer_stacks), "nothing is stated otherwise"
        patch.setattr(owner, "layer_stacks", tuple(stacks))

    return plant


def _without_output_host(text: str) -> str:
    return text.replace("self.output_adapters(hidden_states, residual, None)", "residual + hidden_states")


def _first_layer_as_upstream(patch: Patch) -> None:
    layer = type(initialised(LLAMA).model.layers[0])
    forward = layer.forward

    def as_upstream(self: Any, *args: Any, **kwargs: Any) -> Any:
        mro = type(self).__mro__
        upstream = next(base for base in mro if base.__module__.startswith("transformers.models"))
        return (upstream.forward if self.self_attn.layer_idx == 0 else forward)(self, *args, **kwargs)

    patch.setattr(layer, "forward", as_upstream)


GENERATED = {
    "identity: the scores are scaled by a millionth more": Defect(
        in_text(LLAMA_CODE, lambda text: text.replace("scaling=self.scaling", "scaling=self.scaling * 1.000001")),
        "identity",
    ),
    "identity: the dropout of the attention is left out": Defect(
        in_text(
            LLAMA_CODE, lambda text: re.sub(r"dropout=0\.0 if not self\.training else [\w.]+", "dropout=0.0", text)
        ),
        "identity",
    ),
    "identity: the norm comes before the addition": Defect(
        in_text(
            BERT_CODE,
            lambda text: text.replace(
                "self.bottleneck_layer_forward(hidden_states, input_tensor, self.LayerNorm, branch_first=True)",
                "self.LayerNorm(hidden_states) + input_tensor",
            ),
        ),
        "identity",
        subject=BERT,
    ),
    "roles: a list that reads a text is said to see no tokens": Defect(
        _streams(LXMERT, {"encoder.layer": "no tokens"}),
        "roles",
        subject=LXMERT,
        message="encoder.layer.0 is said to see 'no tokens'",
    ),
    "roles: tokens are said to come first in a list that reads an image": Defect(
        _streams(LXMERT, {"encoder.r_layers": "followed"}),
        "roles",
        subject=LXMERT,
        message="encoder.r_layers.0 is said to see 'followed'",
    ),
    "roles: key and value are exchanged": Defect(_swapped_roles, "roles"),
    "roles: gate and up projection are exchanged": Defect(
        _feed_forward(first=("mlp.gate_proj",), gate=("mlp.up_proj",)), "roles", message="declared as gate, but no act"
    ),
    "roles: the gate is declared as up projection too": Defect(
        _feed_forward(first=("mlp.gate_proj", "mlp.up_proj"), gate=()), "roles", message="no activation lies between"
    ),
    "roles: the output of the attention is declared as that of the feed-forward block": Defect(
        _feed_forward(last=("self_attn.o_proj",)), "roles", message="reads nothing of a first one"
    ),
    "roles: values are declared before keys": Defect(
        _in_order(*["split_size"] * 3, parts="qvk"), "roles", subject=GPT2
    ),
    "roles: an order in each head is declared": Defect(
        _in_order(*["head_dim"] * 3, group="3 * head_dim"), "roles", subject=GPT2
    ),
    "branches: a residual addition has no host": Defect(
        in_text(LLAMA_CODE, _without_output_host),
        "branches",
        ("double_seq_bn", "compacter"),
        message="adds what no host is given",
    ),
    "branches: the hosts of attention and MLP are exchanged": Defect(
        in_text(LLAMA_CODE, swap("self.attention_adapters(", "self.output_adapters(")),
        "branches",
        ("double_seq_bn",),
    ),
    "branches: branch and residual are exchanged": Defect(
        in_text(
            LLAMA_CODE, lambda text: text.replace("(hidden_states, residual, None)", "(residual, hidden_states, None)")
        ),
        "branches",
        ("double_seq_bn",),
    ),
    "union: upstream's value joins the stream": Defect(
        in_text(LLAMA_CODE, _without_output_host),
        "union",
        message="alone without effect",
    ),
    "union: only the last of the layers has a host": Defect(
        _first_layer_as_upstream, "union", message="alone without effect"
    ),
}
