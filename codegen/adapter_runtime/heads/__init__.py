"""Flexible prediction heads: any number on one model, added, saved, loaded and chosen by name.

Where do I add a head? A class in a file of its own here, its entry in `HEAD_CLASSES` (``classes.py``), its ``add_..._head`` in
``adding.py``; the generator decides which models get it (``adapter_codegen/plan/heads/flexible.py``).
"""

from adapter_runtime.heads.base import PredictionHead
from adapter_runtime.heads.classes import HEAD_CLASSES
from adapter_runtime.heads.classification import (
    ClassificationHead,
    ImageClassificationHead,
    MultiLabelClassificationHead,
)
from adapter_runtime.heads.custom import register_custom_head
from adapter_runtime.heads.dependency_parsing import BiaffineParsingHead
from adapter_runtime.heads.language_modeling import (
    BertStyleMaskedLMHead,
    CausalLMHead,
    LanguageModelingHead,
    Seq2SeqLMHead,
)
from adapter_runtime.heads.multiple_choice import MultipleChoiceHead
from adapter_runtime.heads.outputs import DependencyParsingOutput, MultiHeadOutput
from adapter_runtime.heads.question_answering import QuestionAnsweringHead
from adapter_runtime.heads.tagging import TaggingHead

__all__ = [
    "HEAD_CLASSES",
    "BertStyleMaskedLMHead",
    "BiaffineParsingHead",
    "CausalLMHead",
    "ClassificationHead",
    "DependencyParsingOutput",
    "ImageClassificationHead",
    "LanguageModelingHead",
    "MultiHeadOutput",
    "MultiLabelClassificationHead",
    "MultipleChoiceHead",
    "PredictionHead",
    "QuestionAnsweringHead",
    "Seq2SeqLMHead",
    "TaggingHead",
    "register_custom_head",
]
