"""Flexible prediction heads: any number on one model, added, saved, loaded and chosen by name.

Where do I add a head? A class in a file of its own in ``kinds/``, its entry in `HEAD_CLASSES` (``classes.py``), and its
``add_..._head`` in ``model/heads/adding.py``; the generator decides which models get it
(``adapter_codegen/plan/heads/flexible.py``). A head of your own, outside of this library: `register_custom_head`.

Here are the heads and the functions on them. What makes a model one that has heads is in ``model/heads/``.

Letters of shapes: B batch, L tokens (or positions of an image), H hidden, C classes (the outputs of the last layer), V tokens
of the vocabulary.
"""

from adapter_runtime.heads.base import PredictionHead
from adapter_runtime.heads.classes import HEAD_CLASSES
from adapter_runtime.heads.custom import register_custom_head
from adapter_runtime.heads.kinds.classification import (
    AudioClassificationHead,
    ClassificationHead,
    ImageClassificationHead,
    MultiLabelClassificationHead,
    VideoClassificationHead,
)
from adapter_runtime.heads.kinds.dependency_parsing import BiaffineParsingHead
from adapter_runtime.heads.kinds.frames import AudioFrameClassificationHead, CTCHead
from adapter_runtime.heads.kinds.language_modeling import (
    BertStyleMaskedLMHead,
    CausalLMHead,
    LanguageModelingHead,
    Seq2SeqLMHead,
)
from adapter_runtime.heads.kinds.masked_image import MaskedImageModelingHead
from adapter_runtime.heads.kinds.multiple_choice import MultipleChoiceHead
from adapter_runtime.heads.kinds.question_answering import QuestionAnsweringHead
from adapter_runtime.heads.kinds.tagging import TaggingHead
from adapter_runtime.heads.kinds.xvector import XVectorHead
from adapter_runtime.heads.outputs import DependencyParsingOutput, MultiHeadOutput

__all__ = [
    "HEAD_CLASSES",
    "AudioClassificationHead",
    "AudioFrameClassificationHead",
    "BertStyleMaskedLMHead",
    "BiaffineParsingHead",
    "CTCHead",
    "CausalLMHead",
    "ClassificationHead",
    "DependencyParsingOutput",
    "ImageClassificationHead",
    "LanguageModelingHead",
    "MaskedImageModelingHead",
    "MultiHeadOutput",
    "MultiLabelClassificationHead",
    "MultipleChoiceHead",
    "PredictionHead",
    "QuestionAnsweringHead",
    "Seq2SeqLMHead",
    "TaggingHead",
    "VideoClassificationHead",
    "XVectorHead",
    "register_custom_head",
]
