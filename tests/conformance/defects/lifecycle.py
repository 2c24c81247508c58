"""Defects of what is done with adapters between forwards, in every method."""

from __future__ import annotations

from typing import Any

import torch

from adapter_runtime.call import checkpoint, context
from adapter_runtime.files.loading import adapter as loading
from adapter_runtime.files.loading import fit
from adapter_runtime.files.saving import adapter as saving
from adapter_runtime.methods.invertible.module import Coupling
from adapter_runtime.methods.lora import places as lora_places
from adapter_runtime.methods.prefix_tuning.module import PrefixTuning
from adapter_runtime.methods.prompt_tuning.module import PromptTuning
from adapter_runtime.model import api as model_api
from adapter_runtime.model import init as init_module
from adapter_runtime.model.base import ModelBaseAdaptersMixin
from adapter_runtime.programs.layer import AdapterLayerBase
from conformance.defects.planting import BERT, EVERY, LORA_FORMS, Defect, Patch, around, instead, nothing


def _under_one_key(running_under: Any, self: AdapterLayerBase, setup: context.AdapterSetup) -> Any:
    """The first setup that a layer met, for all of them."""
    if self.overrides:
        return next(iter(self.overrides.values()))
    return running_under(self, setup)


def _in_half_precision(write: Any, folder: Any, files: Any, tensors: dict[str, torch.Tensor], *rest: Any) -> Any:
    return write(folder, files, {name: tensor.bfloat16() for name, tensor in tensors.items()}, *rest)


def _with_a_layer_elsewhere(patch: Patch) -> None:
    """The first layer is in no stack, and is not given back to upstream."""
    around(ModelBaseAdaptersMixin, "iter_layers", lambda find, self: list(find(self))[1:])(patch)
    patch.setattr(init_module, "_give_back_unplaced", lambda base, classes: None)


LIFECYCLE = {
    "wrapping: a layer is in no stack": Defect(
        _with_a_layer_elsewhere,
        "wrapping",
        message="is in no stack",
    ),
    "added: activating does nothing": Defect(
        around(ModelBaseAdaptersMixin, "activate", lambda activate, self, block, skip: activate(self, None, skip)),
        "added",
        EVERY,
        message="changes no output",
    ),
    "inactive: deactivating does nothing": Defect(
        around(
            ModelBaseAdaptersMixin,
            "activate",
            lambda activate, self, block, skip: activate(self, block, skip) if block is not None else None,
        ),
        "inactive",
        EVERY,
    ),
    "liveness: the last layer gets no adapter": Defect(
        around(ModelBaseAdaptersMixin, "adapted_layers", lambda layers, self: list(layers(self))[:-1]),
        "liveness",
        tuple(name for name in EVERY if name not in ("prefix_tuning_flat", "prompt_tuning")),
    ),
    "liveness: no gradient reaches a prefix": Defect(
        around(PrefixTuning, "flat_states", lambda states, self: states(self).detach()),
        "liveness",
        ("prefix_tuning_flat", "prefix_tuning"),
    ),
    "liveness: no gradient comes through an invertible adapter": Defect(
        around(Coupling, "forward", lambda forward, *args, **kwargs: forward(*args, **kwargs).detach()),
        "liveness",
        ("seq_bn_inv",),
    ),
    "liveness: no gradient reaches a prompt": Defect(
        around(PromptTuning, "forward", lambda forward, self, states: forward(self, states).detach()),
        "liveness",
        ("prompt_tuning",),
    ),
    "setup: it goes on after its end": Defect(instead(context.AdapterSetup, "__exit__", nothing), "setup", EVERY),
    "setup: the one that a layer met first stands for all": Defect(
        around(AdapterLayerBase, "program_under", _under_one_key), "setup", EVERY
    ),
    "round trip: weights are saved in half precision": Defect(
        around(saving, "write_tensors", _in_half_precision), "round trip", EVERY
    ),
    "damaged files: tensors that do not fit are passed over": Defect(
        instead(fit, "require_fit", nothing),
        "damaged files",
        EVERY,
        message="a tensor under another name: the file was accepted",
    ),
    "damaged files: the type of the model is not asked": Defect(
        instead(loading, "require_same_type", nothing),
        "damaged files",
        ("lora",),
        message="the type of another architecture, with equal shapes: the file was accepted",
    ),
    "checkpointing: the recomputation draws other random numbers": Defect(
        around(
            checkpoint.ContextualCheckpoint,
            "__call__",
            lambda call, self, function, *args, **kwargs: call(
                self, function, *args, **kwargs, preserve_rng_state=False
            ),
        ),
        "checkpointing",
        EVERY,
    ),
    "removal: the weights stay": Defect(
        instead(AdapterLayerBase, "delete_adapter", nothing),
        "removal",
        EVERY,
        message="something of the first adapter",
    ),
    "removal: projections keep their class": Defect(
        instead(lora_places, "disable_lora", nothing), "removal", LORA_FORMS
    ),
    "removal: hooks stay": Defect(
        instead(model_api, "remove_empty_places", nothing), "removal", ("seq_bn_inv", "loreft", "prompt_tuning"), BERT
    ),
}
