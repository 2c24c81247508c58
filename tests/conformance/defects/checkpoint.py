"""Defects of reading and writing whole checkpoints."""

from __future__ import annotations

from adapter_runtime.files.api import checkpoints
from adapter_runtime.files.saving import model as saving
from conformance.defects.planting import BERT, Defect, instead, nothing
from conformance.subjects import Subject

# Upstream renames what a checkpoint of this class holds by the name of the class. No flexible head fits on the model.
_RENAMED = "Qwen2VLForConditionalGeneration"
QWEN2_VL = Subject("qwen2_vl", _RENAMED, "decoder", _RENAMED)
_STAGES = "PvtForImageClassification"
PVT = Subject("pvt", _STAGES, "vision", _STAGES)  # whose head no flexible one is like
# Each class of its type has names of its own, and there is no base model.
SEGMENTS = Subject("tipsv2_dpt", "Tipsv2DptForSemanticSegmentation", "vision", "Tipsv2DptForSemanticSegmentation")
ELSEWHERE = Subject("dpr", "DPRContextEncoder", "encoder", "DPRContextEncoder")  # holds its encoder under another name
HALF = Subject("t5", "T5EncoderModel", "encoder", "T5EncoderModel")
_TIED = "Kosmos2_5ForConditionalGeneration"
KOSMOS2_5 = Subject("kosmos-2.5", _TIED, "decoder", _TIED)  # whose head is tied by a model in it, and in no file

CHECKPOINT: dict[str, Defect] = {
    "checkpoint: the names of the class that wrote it are not looked up": Defect(
        instead(checkpoints, "reader_of", lambda cls, architecture: cls),
        "checkpoint",
        subject=QWEN2_VL,
        message="not read from the checkpoint",
    ),
    "checkpoint: nothing says that a head is left out": Defect(
        instead(checkpoints, "_tell_what_is_lost", nothing),
        "checkpoint",
        subject=PVT,
        message="nothing says",
    ),
    "checkpoint: what a class renames is renamed by its type before": Defect(
        instead(checkpoints, "_all_have_own_names", lambda *arguments: False),
        "checkpoint",
        subject=SEGMENTS,
        message="written again, missing",
    ),
    "checkpoint: what stands elsewhere is not found": Defect(
        instead(checkpoints, "with_renaming", lambda load_config, *arguments: (load_config, [])),
        "checkpoint",
        subject=ELSEWHERE,
        message="random, while DPRContextEncoder has one such model",
    ),
    "checkpoint: nothing says that a part is random": Defect(
        instead(checkpoints, "tell_what_is_random", nothing),
        "checkpoint",
        subject=HALF,
        message="random, and nothing says so",
    ),
    "checkpoint: nothing says that a tied head is left out": Defect(
        instead(checkpoints, "_tied_head", lambda model, architecture: []),
        "checkpoint",
        subject=KOSMOS2_5,
        message="nothing says that these are left out: text_model.lm_head.weight",
    ),
    "checkpoint: the config does not name the adapters": Defect(
        instead(saving, "stored_adapters", lambda model, state: ({}, state)),
        "checkpoint",
        subject=BERT,
        message="weights with",
    ),
}
