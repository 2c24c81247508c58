"""Tests of weights: how they are initialised, kept, named in files and divided."""

from __future__ import annotations

import inspect
import re
import sys
from typing import Any

from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    PrefixChange,
    WeightRenaming,
    process_target_pattern,
    revert_weight_conversion,
)
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

from conformance.subjects import head_subjects, upstream_is_built
from conformance.tiny import configs_of
from upstream.exempt.table import Exempt, Facts
from upstream.model_tester import ModelTester


def _without_fp32_modules(facts: Facts) -> bool:
    """Upstream keeps no module in float32, not of a part either."""
    return not (facts.on_meta._keep_in_fp32_modules or facts.on_meta._keep_in_fp32_modules_strict)


def _without_plan(facts: Facts) -> bool:
    """Upstream has no plan for tensor parallelism, not for a part either."""
    return all(getattr(config, "base_model_tp_plan", None) is None for config in configs_of(facts.config))


def _with_tied_head(facts: Facts) -> bool:
    """The head shares the matrix of the embeddings, for which there is a plan."""
    return (
        facts.vocabulary
        and facts.tested.can_generate()
        and bool(facts.with_head._tied_weights_keys)
        and not _without_plan(facts)
    )


def _keeps_names(facts: Facts) -> bool:
    """Upstream renames no weight of the model when it loads a file."""
    return not _conversions(facts)


def _conversions(facts: Facts) -> list[Any]:
    return list(get_model_conversion_mapping(facts.on_meta, add_legacy=False))


def renames_weights(model: PreTrainedModel) -> bool:
    """Upstream's table gives weights other names in files, and does not only change their numbers, as of experts that are turned."""
    changes = get_model_conversion_mapping(model, add_legacy=False)
    return not changes or any(change.source_patterns != change.target_patterns for change in changes)


def _renames_by_beginnings(facts: Facts) -> bool:
    """Upstream renames weights by what their names begin with, which those of an AdapterModel do not: they begin with that of its base
    model."""
    changes = [change for change in _conversions(facts) if not isinstance(change, PrefixChange)]
    sources = [source for change in changes for source in change.source_patterns]
    if not sources or not all(source.startswith("^") for source in sources):
        return False
    model = facts.tested(facts.subject.config())
    return _names_in_a_file(model) == set(model.state_dict())


def _names_what_is_not_there(facts: Facts) -> bool:
    """A name that upstream's table gives to weights in files is of none that the model saves. (Upstream's test leaves out those of
    tied weights, and of the projection of a causal language model; and it asks for one layer without experts.)"""
    config = ModelTester(facts.subject.model_type).get_config()
    text = config.get_text_config(decoder=True)
    text.first_k_dense_replace = text.moe_layer_start_index = text.num_dense_layers = 1
    text.mlp_only_layers = [0]
    model = facts.tested(config)
    names, tied = _names_in_a_file(model), model.all_tied_weights_keys
    for change in get_model_conversion_mapping(model, add_legacy=False):
        if isinstance(change, PrefixChange) or change.scope_prefix is not None:
            continue
        matches = [match[2].lastgroup for name in names if (match := change._scoped_match(name)) is not None]
        for place, source in enumerate(change.source_patterns):
            group = process_target_pattern(source)[1]
            target = change.target_patterns[0].replace(r"\1", group) if group else change.target_patterns[0]
            is_tied = isinstance(change, WeightRenaming) and any(re.search(target, name) for name in tied)
            if not is_tied and "lm_head" not in source and f"g{place}" not in matches:
                return True
    return False


def _is_saved_as_upstream(facts: Facts) -> bool:
    """Each weight of the base model goes by the name in a file that some class of upstream's gives it: what else upstream's table
    names is of its heads, or of files in another precision."""
    prefix, base = f"{facts.tested.base_model_prefix}.", facts.upstream.__name__
    known: set[str] = set()
    for subject in head_subjects(facts.subject.model_type):
        if upstream_is_built(subject):
            names = _names_in_a_file(subject.upstream())
            known |= names | ({prefix + name for name in names} if subject.architecture == base else set())
    ours = _names_in_a_file(facts.tested(facts.subject.config()))
    return {name for name in ours if not name.startswith("heads.")} <= known


def _names_in_a_file(model: PreTrainedModel) -> set[str]:
    return set(revert_weight_conversion(model, model.state_dict()))


def _holds_no_difference(facts: Facts) -> bool:
    """Of a tensor of the model the largest difference from itself is no number: it is empty, or holds infinities."""
    tensors = facts.subject.upstream().state_dict().values()
    return any(not tensor.numel() or bool(tensor.isinf().any()) for tensor in tensors)


def _before_2023(facts: Facts) -> bool:
    years = re.findall(
        r"^# Copyright (\d{4})", inspect.getsource(sys.modules[type(facts.config).__module__]), re.MULTILINE
    )
    return not years or int(years[0]) < 2023


EXEMPT: tuple[Exempt, ...] = (
    Exempt(
        "keep_in_fp32_modules keep_in_fp32_modules_exist",
        "upstream keeps no module of the model in float32",
        "_keep_in_fp32_modules",
        _without_fp32_modules,
    ),
    Exempt(
        "can_init_all_missing_weights", "upstream runs it for models since 2023", "Not a prioritized", _before_2023
    ),
    Exempt(
        "tp_plan_matches_params tied_head_has_a_tp_plan_entry",
        "upstream has no plan for tensor parallelism",
        "have a TP plan",
        _without_plan,
    ),
    Exempt(
        "reverse_loading_mapping can_load_from_already_mapped_keys",
        "upstream renames no weights of the model",
        "No conversion found",
        _keeps_names,
    ),
    Exempt(
        "reverse_loading_mapping",
        "upstream changes only what names of weights begin with, and does not test that",
        "Only PrefixChange",
        lambda facts: all(isinstance(change, PrefixChange) for change in _conversions(facts)),
    ),
    Exempt(
        "reverse_loading_mapping",
        "upstream renames weights of its class by what their names begin with, which is here the name of the base model",
        "No key mapping was performed",
        _renames_by_beginnings,
    ),
    Exempt(
        "reverse_loading_mapping",
        "upstream's table names weights of heads, and of files in another precision, which this model does not have",
        "did not match any of the source keys",
        lambda facts: _names_what_is_not_there(facts) and _is_saved_as_upstream(facts),
    ),
    Exempt(
        "torch_save_load",
        "upstream's test takes the largest difference of each tensor, and one is empty or infinite",
        r"max\(\): Expected reduction dim|nan not less than or equal",
        lambda facts: facts.config.model_type in MODEL_MAPPING_NAMES and _holds_no_difference(facts),
    ),
    Exempt(
        "keep_in_fp32_modules_exist",
        "upstream names modules to keep in float32 that its model does not have",
        "but are not part of the modules in",
        of_upstream=True,
        word_for_word=True,
    ),
    Exempt(
        "can_init_all_missing_weights init_weights_can_init_buffers",
        "upstream's `_init_weights` leaves weights or buffers out",
        "are not properly handled in `_init_weights",
        of_upstream=True,
        word_for_word=True,
    ),
    Exempt(
        "can_load_ignoring_mismatched_shapes",
        "upstream's test makes every deviation that the configuration names one number, and this is a list of them",
        "doesn't match any type in",
        of_upstream=True,
        word_for_word=True,
    ),
    Exempt(
        "model_weights_reload_no_missing_tied_weights",
        "upstream's positions are of a model inside, which alone says that files need not have them",
        "Items in the second set but not the first",
        of_upstream=True,
    ),
    Exempt(
        "torch_save_load", "upstream runs it for heads on its base models", "not in MODEL_MAPPING", of_upstream=True
    ),
    Exempt(
        "tp_plan_matches_params",
        "upstream's plan names modules that its model does not have under these names, or is of another class",
        "entries of the TP-plan are not valid|No TP-plan found for class",
        of_upstream=True,
    ),
    Exempt(
        "tied_head_has_a_tp_plan_entry",
        "heads come and go, and have no plan for tensor parallelism yet",
        "not found in",
        _with_tied_head,
    ),
    Exempt(
        "base_model_prefix_loads_base_weights",
        "it makes another object of the class that `init` gave the base model, which only `init` can make",
        "has no attribute 'adapters_config'",
        lambda facts: facts.config.model_type in MODEL_MAPPING_NAMES,
    ),
)
