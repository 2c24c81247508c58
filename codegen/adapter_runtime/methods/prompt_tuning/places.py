"""Where prompts stand: at one place of a base model."""

from __future__ import annotations

from adapter_runtime.contract.protocol import AdaptedBaseModel
from adapter_runtime.methods.prompt_tuning.call import PromptSites
from adapter_runtime.methods.prompt_tuning.config import PromptTuningConfig
from adapter_runtime.methods.prompt_tuning.layer import PromptTuningLayer
from adapter_runtime.methods.prompt_tuning.module import PromptTuning, check_start, initialise_prompt, prompt_width

ATTRIBUTE = "prompt_tuning"  # of base models, which holds the prompts; a part of keys in files


def prepare_model(model: AdaptedBaseModel) -> None:
    """Give a base model room for prompts."""
    model.add_module(ATTRIBUTE, PromptTuningLayer())


def prompts_of(model: AdaptedBaseModel) -> PromptTuningLayer:
    """The prompts of a base model."""
    layer = model.get_submodule(ATTRIBUTE)
    assert isinstance(layer, PromptTuningLayer)
    return layer


def place(model: AdaptedBaseModel, name: str, config: PromptTuningConfig) -> int:
    """Create an adapter. Returns 1: a prompt enters a model at one place."""
    tuning = PromptTuning(config, prompt_width(model, config))
    initialise_prompt(tuning, model)
    prompts_of(model).add_adapter(name, tuning, model)
    return 1


def count_places(model: AdaptedBaseModel, config: PromptTuningConfig) -> int:
    """1, where the model has a place for a prompt.

    Raises:
        UnsupportedMethodError: it has none.
        InvalidConfigError: the prompt shall start from a text, and cannot.
    """
    PromptSites.find(model)
    prompt_width(model, config)
    check_start(config, model)
    return 1


def remove_empty(model: AdaptedBaseModel) -> None:
    """Remove the hooks for prompts from a base model, when its last prompt is deleted."""
    prompts_of(model).leave_if_empty(model)
