"""All types of heads, by the name that files give them."""

from __future__ import annotations

from adapter_runtime.heads.base import PredictionHead
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
    Seq2SeqLMHead,
)
from adapter_runtime.heads.kinds.masked_image import MaskedImageModelingHead
from adapter_runtime.heads.kinds.multiple_choice import MultipleChoiceHead
from adapter_runtime.heads.kinds.question_answering import QuestionAnsweringHead
from adapter_runtime.heads.kinds.tagging import TaggingHead
from adapter_runtime.heads.kinds.xvector import XVectorHead

HEAD_CLASSES: dict[str, type[PredictionHead]] = {
    cls.head_type: cls
    for cls in (
        ClassificationHead,
        MultiLabelClassificationHead,
        ImageClassificationHead,
        MaskedImageModelingHead,
        VideoClassificationHead,
        AudioClassificationHead,
        AudioFrameClassificationHead,
        CTCHead,
        XVectorHead,
        MultipleChoiceHead,
        TaggingHead,
        QuestionAnsweringHead,
        BiaffineParsingHead,
        BertStyleMaskedLMHead,
        CausalLMHead,
        Seq2SeqLMHead,
    )
}
