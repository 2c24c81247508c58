"""Defects of flexible heads that hold the weights of one of upstream's."""

from __future__ import annotations

import torch

from adapter_models import LlamaAdapterModel
from adapter_runtime.heads import sizes
from adapter_runtime.heads.base import PredictionHead
from adapter_runtime.heads.kinds.language_modeling import CausalLMHead
from conformance.checks.conversion import converting_subjects
from conformance.defects.planting import Defect, around, instead
from conformance.subjects import Subject


def _head(model_type: str, architecture: str) -> Subject:
    return next(subject for subject in converting_subjects(model_type) if subject.architecture == architecture)


CONVERSION: dict[str, Defect] = {
    "conversion: an activation is left out": Defect(
        instead(PredictionHead, "_append_activation", lambda self: self._append(torch.nn.Identity())),
        "conversion",
        subject=_head("bert", "BertForMaskedLM"),
        message="logits",
    ),
    "conversion: a classifier reads another token": Defect(
        instead(LlamaAdapterModel, "pooling", "first"),
        "conversion",
        subject=_head("llama", "LlamaForSequenceClassification"),
        message="logits",
    ),
    "conversion: the last token is left out of the loss": Defect(
        around(
            CausalLMHead,
            "_loss",
            lambda loss, self, logits, labels, items, mask: loss(self, logits[:, :-1], labels[:, :-1], items, mask),
        ),
        "conversion",
        subject=_head("llama", "LlamaForCausalLM"),
        message="loss",
    ),
    "conversion: labels of padding do not count": Defect(
        instead(sizes, "upstream_head", lambda model, head_type: {"skip_padding": True}),
        "conversion",
        subject=_head("llama", "LlamaForCausalLM"),
        message="with labels",
    ),
    "conversion: a head drops as hidden states do": Defect(
        instead(sizes, "upstream_head", lambda model, head_type: {}),
        "conversion",
        subject=_head("distilbert", "DistilBertForQuestionAnswering"),
        message="drops",
    ),
}
