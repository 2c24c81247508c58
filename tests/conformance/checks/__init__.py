"""The checks, one module per promise of the library. `CHECKS` is the table that the tests and the report run.

A check is a function of a subject and a method that raises AssertionError. It must be able to fail: in each kind of method,
``test_broken_variants.py`` plants a defect that it finds. Where a check says nothing about a method or subject,
`Check.why_not` gives the reason.

Where do I add a check? A module here, its line in `CHECKS`, a defect per kind of method in ``conformance/defects``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from transformers import PreTrainedConfig

from conformance.adapted import (
    adapted_subjects,
    holding_subjects,
    init_refuses,
    refused,
    that_can_undo,
)
from conformance.branches import subjects_of_all_branches
from conformance.checks.added import adapter_runs
from conformance.checks.apart import padding_of_the_text_stays_there
from conformance.checks.branches import hosts_receive_branches
from conformance.checks.causality import earlier_outputs_are_unchanged, why_not_causal
from conformance.checks.checkpoint import checkpoint_is_read, checkpoint_subjects
from conformance.checks.checkpointing import checkpointing_gives_the_same_gradients
from conformance.checks.composition import (
    average_is_the_weighted_sum,
    fusion_is_an_attention,
    parallel_is_one_at_a_time,
    split_batch_is_its_parts,
    stack_is_one_after_the_other,
    tasks_are_their_rows,
)
from conformance.checks.conversion import conversion_keeps_outputs, converting_subjects
from conformance.checks.decoding import decoding_agrees
from conformance.checks.features import features_are_those_of_the_forward, has_features
from conformance.checks.gates import gates_are_of_rows
from conformance.checks.identity import inactive_is_upstream, initialised_is_upstream
from conformance.checks.liveness import every_site_is_live
from conformance.checks.lora import compared_with_peft, lora_is_peft, merging_is_exact
from conformance.checks.padded_sounds import cut_of
from conformance.checks.padded_texts import reads_padded_texts
from conformance.checks.padding import padded_places_do_not_matter
from conformance.checks.prefix import prefix_is_cache
from conformance.checks.reference import equals_the_reference
from conformance.checks.removal import removal_restores
from conformance.checks.roles import roles_are_true
from conformance.checks.round_trip import damaged_files_are_refused, saved_is_loaded
from conformance.checks.setup import setup_is_activation
from conformance.checks.stepping import steps_are_the_whole
from conformance.checks.union import every_method_together
from conformance.checks.wrapping import nothing_is_half_prepared
from conformance.checks.zero_start import new_adapter_changes_nothing
from conformance.methods import METHODS, Bottleneck, Invertible, LoRA, Method, Prefix, Prompt, ReFT
from conformance.prompts import generating
from conformance.reasons import Reason
from conformance.subjects import Subject, head_subjects, model_class, upstream_is_built


@dataclass(frozen=True)
class Check:
    name: str
    run: Callable[[Subject, Method], None]
    why_not: Callable[[Subject, Method], Reason | None] = lambda subject, method: None
    may_find: tuple[Reason, ...] = ()  # reasons that it raises as `DoesNotApply` while it runs


@dataclass(frozen=True)
class ModelCheck:
    """A check of a model without any method."""

    name: str
    run: Callable[[Subject], None]
    subjects: Callable[[str], tuple[Subject, ...]]
    may_find: tuple[Reason, ...] = ()
    needs_init: bool = True  # it is about what `init` does; else, also about classes that `init` does not take

    def why_not(self, subject: Subject) -> Reason | None:
        """The reason why the check does not apply; None if it does."""
        if not upstream_is_built(subject):
            return Reason.UPSTREAM_DOES_NOT_RUN
        return Reason.NO_ADAPTER_CLASSES if self.needs_init and init_refuses(subject) else None


def _no_cross_attention(subject: Subject, method: Method) -> Reason | None:
    wanted = any("cross_attention" in part.locations for part in method.parts if isinstance(part, Bottleneck))
    has = subject.cross or subject.kind == "encoder-decoder"
    return Reason.NO_CROSS_ATTENTION if wanted and not has else None


def _no_causality(subject: Subject, method: Method) -> Reason | None:
    return None if subject.causal else why_not_causal(subject)


def _no_padding(subject: Subject, method: Method) -> Reason | None:
    has_padding = subject.text or reads_padded_texts(subject) or all(cut_of(subject))
    return None if has_padding else Reason.NO_PADDING


def _no_generation(subject: Subject, method: Method) -> Reason | None:
    if method.has(Prompt) and _only_windows(subject):
        return Reason.WINDOW
    return None if generating(subject) else Reason.NO_GENERATION


def _no_steps(subject: Subject, method: Method) -> Reason | None:
    if any(isinstance(part, ReFT) and part.suffix for part in method.parts):
        return Reason.EDITS_THE_END
    return _no_generation(subject, method) if subject.generates else Reason.NO_GENERATION


def _only_windows(subject: Subject) -> bool:
    config = _of_text(subject.config())
    kinds = getattr(config, "layer_types", None)
    return bool(getattr(config, "sliding_window", None)) and "full_attention" not in (kinds or ())


def _of_text(config: PreTrainedConfig) -> PreTrainedConfig:
    """The config of the part that reads tokens; `config` where there are several."""
    try:
        return config.get_text_config(decoder=True)
    except ValueError:
        return config


def _no_checkpointing(subject: Subject, method: Method) -> Reason | None:
    supported = model_class(subject.architecture).supports_gradient_checkpointing
    return None if supported else Reason.NO_CHECKPOINTING


def _no_zero_start(subject: Subject, method: Method) -> Reason | None:
    return Reason.NO_ZERO_START if any(method.has(kind) for kind in (Prefix, Prompt, ReFT, Invertible)) else None


def _not_lora_alone(subject: Subject, method: Method) -> Reason | None:
    return None if isinstance(method.only, LoRA) else Reason.ONLY_LORA


def _not_in_peft(subject: Subject, method: Method) -> Reason | None:
    if not isinstance(method.only, LoRA):
        return Reason.ONLY_LORA
    if method.only.form != "lora":
        return Reason.OTHER_THAN_PEFT
    return None if compared_with_peft(subject, method) else Reason.FUSED_IN_PEFT


def _no_cache_to_fill(subject: Subject, method: Method) -> Reason | None:
    if not isinstance(method.only, Prefix):
        return Reason.ONLY_PREFIX
    if subject.kind != "decoder" or subject.cross:
        return Reason.NO_CACHE
    config = _of_text(subject.config())
    windows = [getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size")]
    return Reason.WINDOW if any(windows) else None


def _only_bottleneck(subject: Subject, method: Method) -> Reason | None:
    return None if isinstance(method.only, Bottleneck) else Reason.ONLY_BOTTLENECK


def _per_part(subject: Subject, method: Method) -> Reason | None:
    return None if method.only is not None or method.has(Invertible) else Reason.PER_PART


def _no_features(subject: Subject, method: Method) -> Reason | None:
    return None if has_features(subject) else Reason.NO_FEATURES


def _only_text(subject: Subject, method: Method) -> Reason | None:
    return Reason.ONLY_TEXT if subject.text else None


_ROWS = (
    Reason.UPSTREAM_MIXES_ROWS,
    Reason.PARTS_ON_OTHER_ROWS,
    Reason.ONE_ROW_FOR_ALL,
    Reason.SOME_POSITIONS,
)  # what keeps rows from being assigned to adapters

MODEL_CHECKS: tuple[ModelCheck, ...] = (
    ModelCheck("identity", initialised_is_upstream, head_subjects, (Reason.UPSTREAM_DOES_NOT_RUN,)),
    ModelCheck("roles", roles_are_true, adapted_subjects, (Reason.BRANCH_NOT_FOLLOWED,)),
    ModelCheck("wrapping", nothing_is_half_prepared, head_subjects),
    ModelCheck("conversion", conversion_keeps_outputs, converting_subjects),
    ModelCheck(
        "checkpoint",
        checkpoint_is_read,
        checkpoint_subjects,
        (Reason.UPSTREAM_READS_OTHERWISE,),
        needs_init=False,
    ),
    ModelCheck("gates", gates_are_of_rows, adapted_subjects, _ROWS),
    ModelCheck("union", every_method_together, subjects_of_all_branches),
)

CHECKS: tuple[Check, ...] = (
    Check("added", adapter_runs),
    Check("inactive", inactive_is_upstream),
    Check("zero start", new_adapter_changes_nothing, _no_zero_start),
    Check("liveness", every_site_is_live),
    Check("branches", hosts_receive_branches, _only_bottleneck, (Reason.NO_PLACE,)),
    Check("reference", equals_the_reference, may_find=(Reason.BRANCH_NOT_FOLLOWED,)),
    Check("lora = peft", lora_is_peft, _not_in_peft),
    Check("merge", merging_is_exact, _not_lora_alone, (Reason.SHARED_WEIGHT,)),
    Check("prefix = cache", prefix_is_cache, _no_cache_to_fill, (Reason.NO_CACHE, Reason.COUNTS_FROM_CACHE)),
    Check(
        "causal",
        earlier_outputs_are_unchanged,
        _no_causality,
        may_find=(Reason.NOT_CAUSAL, Reason.UPSTREAM_SEES_LATER_TOKENS, Reason.NO_TOKENS),
    ),
    Check("padding", padded_places_do_not_matter, _no_padding, (Reason.UPSTREAM_SEES_PADDING,)),
    Check(
        "decoding",
        decoding_agrees,
        _no_generation,
        (Reason.UPSTREAM_DECODES_OTHERWISE, Reason.GENERATES_PAST_FORWARD),
    ),
    Check("steps", steps_are_the_whole, _no_steps, (Reason.UPSTREAM_DECODES_OTHERWISE,)),
    Check("stack", stack_is_one_after_the_other, _per_part, (Reason.BRANCH_NOT_FOLLOWED,)),
    Check("parallel", parallel_is_one_at_a_time, may_find=(Reason.UPSTREAM_MIXES_ROWS, Reason.ONE_ROW_FOR_ALL)),
    Check("batch split", split_batch_is_its_parts, _per_part, _ROWS),
    Check("multi task", tasks_are_their_rows, _per_part, _ROWS),
    Check("average", average_is_the_weighted_sum, may_find=(Reason.BRANCH_NOT_FOLLOWED,)),
    Check("fuse", fusion_is_an_attention, may_find=(Reason.BRANCH_NOT_FOLLOWED,)),
    Check("apart", padding_of_the_text_stays_there, _only_text, (Reason.NO_EQUAL_LENGTHS,)),
    Check("features", features_are_those_of_the_forward, _no_features, (Reason.NO_FEATURES,)),
    Check("setup", setup_is_activation),
    Check("round trip", saved_is_loaded),
    Check("damaged files", damaged_files_are_refused),
    Check("checkpointing", checkpointing_gives_the_same_gradients, _no_checkpointing, (Reason.NO_CHECKPOINTING,)),
    Check("removal", removal_restores),
)


@dataclass(frozen=True)
class Cell:
    """One check of one method on one subject."""

    check: Check
    method: Method
    subject: Subject

    def why_not(self) -> Reason | None:
        """The reason why the check does not apply; None if it does."""
        return (
            refused(self.subject, self.method)
            or _no_cross_attention(self.subject, self.method)
            or self.check.why_not(self.subject, self.method)
        )

    @property
    def label(self) -> str:
        return f"{self.check.name}-{self.method}-{self.subject}".replace(" ", "_")


def cells(model_type: str) -> Iterator[Cell]:
    """Every cell of the table of one model."""
    subjects = (*adapted_subjects(model_type), *holding_subjects(model_type))
    for check in CHECKS:
        for method in METHODS:
            for subject in subjects:
                yield Cell(check, method, that_can_undo(subject) if method.has(Invertible) else subject)
