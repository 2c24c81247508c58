"""Defects of generated code. That a site is missing is in ``test_broken_variants.py``, once per site."""

from __future__ import annotations

import re
from dataclasses import replace

from conformance.adapted import initialised
from conformance.defects.planting import BERT, BERT_CODE, LLAMA, LLAMA_CODE, Defect, Patch, in_text, swap


def _swapped_roles(patch: Patch) -> None:
    layer = type(initialised(LLAMA).model.layers[0])
    attention = layer.roles.attentions[0]
    wrong = replace(attention, key=attention.value, value=attention.key)
    patch.setattr(layer, "roles", replace(layer.roles, attentions=(wrong,)))


def _missing_site_role(patch: Patch) -> None:
    layer = type(initialised(LLAMA).model.layers[0])
    patch.setattr(layer, "roles", replace(layer.roles, bottlenecks=layer.roles.bottlenecks[:1]))


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
    "roles: key and value are exchanged": Defect(_swapped_roles, "roles"),
    "roles: a residual addition is not declared": Defect(_missing_site_role, "roles"),
    "reference: the hosts of attention and MLP are exchanged": Defect(
        in_text(LLAMA_CODE, swap("self.attention_adapters(", "self.output_adapters(")),
        "reference",
        ("double_seq_bn",),
    ),
    "reference: branch and residual are exchanged": Defect(
        in_text(
            LLAMA_CODE, lambda text: text.replace("(hidden_states, residual, None)", "(residual, hidden_states, None)")
        ),
        "reference",
        ("double_seq_bn",),
    ),
}
