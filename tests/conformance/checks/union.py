"""All methods that a model has, in one adapter on all sites: the one check that runs for every model in the normal test run.

Without the adapter the model is bitwise upstream's; each site acts alone and is trained, and there is one that does; what is saved is what is loaded.
"""

from __future__ import annotations

import copy
import functools
import tempfile
from typing import Any

from torch import nn

from conformance.adapted import (
    FIRST,
    initialised,
    parts_are_unknown,
    parts_refuse,
    planned_for,
    randomise_adapter,
    state,
    that_can_undo,
)
from conformance.in_double import IN_DOUBLE, doubled, in_either_precision
from conformance.methods import FAMILIES, LoRA, ReFT, method
from conformance.outputs import assert_bitwise, assert_equal_within, run
from conformance.reference.layout import Layout, layout_of
from conformance.sites import assert_each_acts_alone
from conformance.subjects import Subject
from conformance.unread import Unread, unread_edits

REFT = ReFT(prefix=2, suffix=1)
NOTHING_ACTS = (
    "no site of the adapter acts and is trained: all were passed over, since upstream's own parameters around them get no "
    "gradient from what it gives out, or change nothing of it"
)


def every_method_together(subject: Subject, without: frozenset[str] = frozenset()) -> None:
    """All planned families but some, on all their sites."""
    if "invertible" not in without:
        subject = that_can_undo(subject)
    inputs = subject.padded_inputs()
    expected = run(subject.upstream(), inputs)
    model = initialised(subject)
    assert_bitwise(run(model, inputs), expected, "without an adapter")
    bare = initialised(subject)
    refused = {family for family, name in FAMILIES.items() if parts_refuse(bare, method(name))}
    planned = {family: why for family, why in planned_for(subject).items() if family not in without | refused}
    config = union_config(layout_of(model), planned)
    if not config:
        return
    model.add_adapter(FIRST, config=config)
    randomise_adapter(model, FIRST)
    assert_bitwise(run(model, inputs), expected, "with an adapter that is not active")
    model.train_adapter(FIRST)
    model.eval()
    with tempfile.TemporaryDirectory() as folder:
        model.save_adapter(folder, FIRST)
        fresh = initialised(subject)
        fresh.load_adapter(folder, set_active=True)
    assert_bitwise(state(fresh), state(model), "weights that were loaded")
    in_either_precision(functools.partial(_same_outputs, fresh, model, inputs))
    unread = unread_edits(subject, layout_of(model), REFT, FIRST, inputs) if "noreft" in config else Unread()
    if not assert_each_acts_alone(model, FIRST, subject, inputs, unread=unread):
        raise AssertionError(NOTHING_ACTS)


def _same_outputs(fresh: nn.Module, model: nn.Module, inputs: dict[str, Any], is_double: bool) -> None:
    """Not bitwise: torch may round in another way where tensors lie elsewhere in memory."""
    bound = IN_DOUBLE if is_double else 1.0
    if is_double:
        fresh, model, inputs = copy.deepcopy(fresh).double(), copy.deepcopy(model).double(), doubled(inputs)
    ours, theirs = run(fresh, inputs), run(model, inputs)
    assert_equal_within(ours, theirs, "with the adapter that was loaded", 1e-5 * bound, 1e-4 * bound)


def union_config(layout: Layout, planned: dict[str, str]) -> str:
    """The configs of all planned families, each on all sites; "" if there are none."""
    return "|".join(family_configs(layout, planned).values())


def family_configs(layout: Layout, planned: dict[str, str]) -> dict[str, str]:
    """Planned families, each with its config on all sites."""
    locations = {location for layer in layout.layers for location, _ in layer.hosts}
    attentions = layout.attentions
    matrices = [
        short
        for short, role in (("q", "query"), ("k", "key"), ("v", "value"))
        if any(getattr(one, role) or one.fused for one in attentions)
    ]
    roles = LoRA(r=2, alpha=4, attention=("query", "key", "value"))
    known = not any(parts_are_unknown(one, roles) for one in attentions)
    lora = [f"attn_matrices={matrices}".replace(" ", "")] if known else ["selfattn_lora=False"]
    lora += ["intermediate_lora=True"] if any(layer.mlp_first for layer in layout.layers) else []
    lora += ["output_lora=True"] if any(layer.mlp_last for layer in layout.layers) else []
    lora += ["mixer_lora=True"] if any(layer.mixer_first for layer in layout.layers) else []
    lora += ["mixer_output_lora=True"] if any(layer.mixer_last for layer in layout.layers) else []
    hosts = [f"mh_adapter={'attention' in locations}", f"output_adapter={'output' in locations}"]
    hosts += ["cross_adapter=True"] if "cross_attention" in locations else []
    configs = {
        "bottleneck": f"double_seq_bn[reduction_factor=4,{','.join(hosts)}]",
        "prefix_tuning": "prefix_tuning_flat[prefix_length=3]",
        "lora": f"lora[r=2,alpha=4,{','.join(lora)}]",
        "reft": f"noreft[r=2,prefix_positions={REFT.prefix},suffix_positions={REFT.suffix}]",
        "prompt_tuning": "prompt_tuning[prompt_length=3]",
        "invertible": "seq_bn[output_adapter=False,inv_adapter='nice',inv_adapter_reduction_factor=2]",
    }
    if planned.get("bottleneck", "not planned"):
        del configs["invertible"]  # its config is one of bottlenecks
    return {family: config for family, config in configs.items() if not planned.get(family, "not planned")}
