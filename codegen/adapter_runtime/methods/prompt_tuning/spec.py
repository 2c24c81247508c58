"""Prompt tuning in the table of methods."""

from __future__ import annotations

from adapter_runtime.methods.prompt_tuning import peft, places
from adapter_runtime.methods.prompt_tuning.config import PromptTuningConfig
from adapter_runtime.methods.spec import MethodSpec

PROMPT_TUNING = MethodSpec[PromptTuningConfig](
    name="prompt_tuning",
    configs=(PromptTuningConfig,),
    named={"prompt_tuning": PromptTuningConfig()},
    acts_on_tokens=True,
    acts_on_other_inputs=True,
    place=places.place,
    count_places=places.count_places,
    containers=frozenset({"prompt_tunings"}),
    prepare_model=places.prepare_model,
    remove_empty=places.remove_empty,
    peft=(peft.FORMAT,),
)
