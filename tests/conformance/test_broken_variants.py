"""Every check can fail: for each there is a defect, planted on purpose, that it finds.

A defect is planted into the text of a generated module, or into the runtime, in memory and for one test. The checks on
sound code are in ``tests/generated``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

import adapter_models.bert.modeling_bert
import adapter_models.llama.modeling_llama  # noqa: F401  the modules that are broken here
from adapter_runtime import context, loading, model_api, saving
from adapter_runtime.errors import UnsupportedMethodError
from adapter_runtime.layers import lora as lora_layers
from adapter_runtime.layers import prefix_tuning as prefix_layers
from adapter_runtime.layers.base import AdapterLayerBase
from adapter_runtime.methods.bottleneck import Bottleneck
from adapter_runtime.methods.lora import LoRA
from adapter_runtime.methods.prefix_tuning import LayerPrefix
from conformance.adapted import initialised
from conformance.breaking import edit_generated, modeling_module, sites, without_site
from conformance.checks import CHECKS, MODEL_CHECKS, Check
from conformance.heads import conversion_goes_back, conversion_keeps_outputs
from conformance.methods import method
from conformance.subjects import Subject, head_subjects, method_subjects

Patch = pytest.MonkeyPatch
(LLAMA,) = method_subjects("llama")
BERT, BERT_DECODER, BERT_CROSS = method_subjects("bert")
LLAMA_CODE, BERT_CODE = modeling_module("llama"), modeling_module("bert")


@dataclass(frozen=True)
class Defect:
    """What is planted, and the cell of the table that must find it."""

    plant: Callable[[Patch], None]
    check: str
    method: str = ""
    subject: Subject = LLAMA
    raises: type[Exception] = AssertionError


def in_text(module: str, edit: Callable[[str], str]) -> Callable[[Patch], None]:
    return lambda patch: edit_generated(patch, module, edit)


def around(owner: Any, name: str, change: Callable[..., Any]) -> Callable[[Patch], None]:
    """`change` gets the original function and its arguments."""

    def plant(patch: Patch) -> None:
        original = getattr(owner, name)
        patch.setattr(owner, name, lambda *args, **kwargs: change(original, *args, **kwargs))

    return plant


def swap(first: str, second: str) -> Callable[[str], str]:
    """Exchange two names in a text."""
    return lambda text: text.replace(first, "\0").replace(second, first).replace("\0", second)


def prefix_before_cache(text: str) -> str:
    block = re.search(r" *# >>> adapters\n.*?prepend_prefix.*?# <<< adapters\n", text, re.DOTALL)
    assert block is not None
    without = text.replace(block.group(), "")
    return without.replace(
        "        if past_key_values is not None:\n", f"{block.group()}        if past_key_values is not None:\n", 1
    )


def swapped_roles(patch: Patch) -> None:
    layer = type(initialised(LLAMA).model.layers[0])
    attention = layer.roles.attentions[0]
    wrong = replace(attention, key=attention.value, value=attention.key)
    patch.setattr(layer, "roles", replace(layer.roles, attentions=(wrong,)))


def missing_site_role(patch: Patch) -> None:
    layer = type(initialised(LLAMA).model.layers[0])
    patch.setattr(layer, "roles", replace(layer.roles, bottlenecks=layer.roles.bottlenecks[:1]))


def unscaled_lora(patch: Patch) -> None:
    original = LoRA.__init__

    def unscaled(self: LoRA, *args: Any) -> None:
        original(self, *args)
        self.scaling = 1.0

    patch.setattr(LoRA, "__init__", unscaled)


def random_start(add: Any, self: Any, name: str, *args: Any) -> None:
    add(self, name, *args)
    torch.nn.init.normal_(self.loras[name].lora_B, std=0.02)


def unmerged_by_subtraction(patch: Patch) -> None:
    def unmerge(self: Any) -> None:
        if self.merged_adapter is not None:
            zero = torch.zeros_like(self.weight)
            with torch.no_grad():
                self.weight.sub_(self.loras[self.merged_adapter].merged(zero, None)[0])
            self.merged_adapter = self.unmerged = None

    patch.setattr(lora_layers.LoRALayer, "unmerge", unmerge)


def masked_first_column(grow: Any, *args: Any) -> Tensor | None:
    mask = grow(*args)
    if mask is None:  # nothing masks anything: make a mask that does
        _, _, query, key, length, _ = args
        mask = torch.ones(1, 1, query.shape[2], key.shape[2] + length, dtype=torch.bool)
    mask = mask.clone()
    mask[..., 0] = False if mask.dtype == torch.bool else torch.finfo(mask.dtype).min
    return mask


def masked_in_a_step(grow: Any, *args: Any) -> Tensor | None:
    return masked_first_column(grow, *args) if args[2].shape[2] == 1 else grow(*args)


def mask_grown_at_the_end(grow: Any, module: Any, mask: Any, query: Any, key: Any, length: int, causal: bool) -> Any:
    grown = grow(module, mask, query, key, length, causal)
    return None if grown is None else torch.roll(grown, -length, dims=-1)


def without_scale(transform: Any, self: Bottleneck, entry: Tensor) -> Tensor:
    return transform(self, entry) / (self.scaling if self.is_scaled else 1.0)


DEFECTS = {
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
                "self.bottleneck_layer_forward(hidden_states, input_tensor, self.LayerNorm)",
                "self.LayerNorm(hidden_states) + input_tensor",
            ),
        ),
        "identity",
        subject=BERT,
    ),
    "roles: key and value are exchanged": Defect(swapped_roles, "roles"),
    "roles: a residual addition is not declared": Defect(missing_site_role, "roles"),
    "inactive: deactivating does nothing": Defect(
        around(
            AdapterLayerBase, "activate", lambda activate, self, block, skip: block and activate(self, block, skip)
        ),
        "inactive",
        "lora",
    ),
    "zero start: LoRA starts with a random B": Defect(
        around(lora_layers.LoRALayer, "add_adapter", random_start), "zero start", "lora"
    ),
    "zero start: a bottleneck forgets its residual": Defect(
        around(Bottleneck, "forward", lambda forward, self, x, r, norm: forward(self, x, r, norm) - x),
        "zero start",
        "double_seq_bn",
    ),
    "reference: the hosts of attention and MLP are exchanged": Defect(
        in_text(LLAMA_CODE, swap("self.attention_adapters(", "self.output_adapters(")), "reference", "double_seq_bn"
    ),
    "reference: branch and residual are exchanged": Defect(
        in_text(
            LLAMA_CODE, lambda text: text.replace("(hidden_states, residual, None)", "(residual, hidden_states, None)")
        ),
        "reference",
        "double_seq_bn",
    ),
    "reference: the norm of a post-norm site is left out": Defect(
        around(Bottleneck, "before", lambda before, self, x, r, norm: before(self, x, r, None)),
        "reference",
        "seq_bn",
        BERT,
    ),
    "reference: the scale of a parallel bottleneck is missing": Defect(
        around(Bottleneck, "transform", without_scale), "reference", "par_bn"
    ),
    "reference: the scale of LoRA is missing": Defect(unscaled_lora, "reference", "lora"),
    "reference: keys and values of a prefix are exchanged": Defect(
        around(prefix_layers.PlacedPrefix, "states", lambda states, *args: LayerPrefix(*reversed(states(*args)))),
        "reference",
        "prefix_tuning",
        BERT,
    ),
    "lora = peft: the scale is missing": Defect(unscaled_lora, "lora = peft", "lora"),
    "merge: unmerging subtracts what merging added": Defect(unmerged_by_subtraction, "merge", "lora"),
    "prefix = cache: the first column of the mask is dropped": Defect(
        around(prefix_layers, "grow", masked_first_column), "prefix = cache", "prefix_tuning_flat"
    ),
    "prefix = cache: the mask grows at the wrong end": Defect(
        around(prefix_layers, "grow", mask_grown_at_the_end), "prefix = cache", "prefix_tuning_flat"
    ),
    "causal: no mask is made for a prefix": Defect(
        around(prefix_layers, "grow", lambda grow, *args: None), "causal", "prefix_tuning"
    ),
    "padding: the mask grows at the wrong end": Defect(
        around(prefix_layers, "grow", mask_grown_at_the_end), "padding", "prefix_tuning", BERT
    ),
    "decoding: a step with a cache sees one column of the prefix less": Defect(
        around(prefix_layers, "grow", masked_in_a_step), "decoding", "prefix_tuning_flat"
    ),
    "decoding: the prefix goes into the cache": Defect(
        # The runtime itself refuses: the mask no longer has a column per key.
        in_text(LLAMA_CODE, prefix_before_cache),
        "decoding",
        "prefix_tuning",
        raises=UnsupportedMethodError,
    ),
    "stack: the last adapter runs first": Defect(
        around(
            AdapterLayerBase,
            "resolve",
            lambda resolve, self, block: (found := resolve(self, block)) and tuple(reversed(found)),
        ),
        "stack",
        "seq_bn",
    ),
    "round trip: weights are saved in half precision": Defect(
        around(
            saving,
            "write_tensors",
            lambda write, folder, files, tensors, *args: write(
                folder, files, {name: tensor.bfloat16() for name, tensor in tensors.items()}, *args
            ),
        ),
        "round trip",
        "seq_bn",
    ),
    "damaged files: tensors that do not fit are passed over": Defect(
        around(loading, "_require_fit", lambda require, *args: None), "damaged files", "lora"
    ),
    "damaged files: the type of the model is not asked": Defect(
        around(loading, "_require_same_type", lambda require, *args: None), "damaged files", "lora"
    ),
    "checkpointing: the recomputation draws other random numbers": Defect(
        around(
            context.ContextualCheckpoint,
            "__call__",
            lambda call, self, function, *args, **kwargs: call(
                self, function, *args, **kwargs, preserve_rng_state=False
            ),
        ),
        "checkpointing",
        "lora",
    ),
    "removal: projections keep their class": Defect(
        around(model_api, "disable_lora", lambda disable, module: None), "removal", "lora"
    ),
}


@pytest.mark.parametrize("name", DEFECTS)
def test_check_finds(name: str, monkeypatch: Patch) -> None:
    defect = DEFECTS[name]
    defect.plant(monkeypatch)
    with pytest.raises(defect.raises):
        run(defect)


def run(defect: Defect) -> None:
    for check in MODEL_CHECKS:
        if check.name == defect.check:
            check.run(defect.subject)
    for check in CHECKS:
        if check.name == defect.check:
            check.run(defect.subject, method(defect.method))


def test_every_check_has_a_defect_that_it_finds() -> None:
    named = {defect.check for defect in DEFECTS.values()} | {"liveness"}  # liveness: below, per site
    assert named == {check.name for check in (*CHECKS, *MODEL_CHECKS)}


@pytest.mark.parametrize(
    ("model_type", "index"),
    [
        pytest.param(model_type, index, id=f"{model_type}-{label}")
        for model_type in ("bert", "llama")
        for index, label in enumerate(sites(modeling_module(model_type)))
    ],
)
def test_liveness_finds_that_a_site_is_missing(model_type: str, index: int, monkeypatch: Patch) -> None:
    """Whichever site of the generated file is removed."""
    module = modeling_module(model_type)
    label = sites(module)[index]
    edit_generated(monkeypatch, module, lambda text: without_site(text, index))
    names = ["prefix_tuning_flat"] if "prepend_prefix" in label else ["double_seq_bn", "cross_bn"]
    liveness = next(check for check in CHECKS if check.name == "liveness")
    cells = [(subject, name) for subject in method_subjects(model_type) for name in names[: 1 + subject.cross]]
    errors = [error for subject, name in cells if (error := _error_of(liveness, subject, name))]
    assert errors
    assert all("no gradient reaches" in error for error in errors)


def _error_of(check: Check, subject: Subject, name: str) -> str:
    try:
        check.run(subject, method(name))
    except AssertionError as error:
        return str(error)
    return ""


def test_conversion_finds_that_an_activation_is_left_out(monkeypatch: Patch) -> None:
    from adapter_runtime.heads.base import PredictionHead

    monkeypatch.setattr(PredictionHead, "_append_activation", lambda self: self._append(torch.nn.Identity()))
    static = next(subject for subject in head_subjects("bert") if subject.architecture == "BertForMaskedLM")
    with pytest.raises(AssertionError):
        conversion_keeps_outputs(static)


@pytest.mark.parametrize("mistake", ["a loss is left out", "two heads change places"])
def test_the_check_of_several_heads_finds_that(mistake: str, monkeypatch: Patch) -> None:
    from adapter_runtime.heads import running
    from conformance.heads import heads_run_together

    whole = running.multi_head_output

    def broken(outputs: Any, results: list[Any]) -> Any:
        if mistake == "two heads change places":
            return whole(outputs, [results[1], results[0], *results[2:]])
        joined = whole(outputs, results)
        joined.loss = whole(outputs, results[1:]).loss
        return joined

    monkeypatch.setattr(running, "multi_head_output", broken)
    with pytest.raises(AssertionError):
        heads_run_together("llama")


def test_conversion_back_finds_that_two_layers_change_places(monkeypatch: Patch) -> None:
    from adapter_runtime.heads import exporting
    from adapter_runtime.heads.static import static_keys

    def swapped(*arguments: Any) -> dict[str, torch.Tensor]:
        keys = static_keys(*arguments)
        first, second = "cls.predictions.transform.dense.bias", "cls.predictions.transform.LayerNorm.bias"
        keys[first], keys[second] = keys[second], keys[first]
        return keys

    monkeypatch.setattr(exporting, "static_keys", swapped)
    static = next(subject for subject in head_subjects("bert") if subject.architecture == "BertForMaskedLM")
    with pytest.raises(AssertionError, match="weights"):
        conversion_goes_back(static)
