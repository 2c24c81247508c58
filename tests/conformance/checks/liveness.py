"""Every adapter parameter of every layer gets a gradient, and no parameter of the base model does."""

from __future__ import annotations

import functools
import operator
from collections.abc import Collection

from torch import nn
from transformers import PreTrainedModel

from conformance.adapted import FIRST, adapter_parameters, base_parameters, initialised, randomise_adapter
from conformance.methods import Bottleneck, Invertible, LoRA, Method, Part, Prefix, Prompt, ReFT
from conformance.outputs import flags, loss_of, seeded
from conformance.reference.bottleneck import rule_of
from conformance.reference.embeddings import invertible_names, prompt_name
from conformance.reference.layout import Layout, layout_of
from conformance.reference.lora import lora_names, shared_names
from conformance.reference.prefix import prefix_key
from conformance.reference.reft import reft_names
from conformance.sites import assert_each_acts_alone, is_dead, quiet_names
from conformance.subjects import Subject
from conformance.unread import Unread, unread_edits


def every_site_is_live(subject: Subject, method: Method) -> None:
    model = initialised(subject)
    model.add_adapter(FIRST, config=method.config)
    model.train_adapter(FIRST)
    randomise_adapter(model, FIRST)
    model.eval()  # dropout could silence a parameter by chance
    with seeded(5):
        loss = loss_of(model(**subject.padded_inputs(), **flags(model)))
    if loss.requires_grad:  # not where nothing of the adapter is called
        loss.backward()
    assert_all_sites(model, method)
    unread = unread_names(subject, model, method)
    assert_gradients(model, method, unread.untrained | quiet_names(subject, model, FIRST))
    if all(_is_silent_at_zero(part) for part in method.parts):
        assert_each_acts_alone(model, FIRST, subject, subject.padded_inputs(), fixed_names(model, method), unread)


def _is_silent_at_zero(part: Part) -> bool:
    """Factors and norms of weights that are zero would silence the model; a prefix out of an MLP has no parameters per site."""
    if isinstance(part, LoRA):
        return part.form in ("lora", "mtl")
    return not isinstance(part, Prefix) or part.flat


def assert_all_sites(model: nn.Module, method: Method) -> None:
    """The adapter has its parameters at each site of each layer, and nowhere else."""
    layout = layout_of(model)
    expected = {name for part in method.parts for name in parameter_names(layout, part, FIRST)}
    actual = set(adapter_parameters(model, FIRST))
    if actual != expected:
        raise AssertionError(f"missing: {sorted(expected - actual)}; not expected: {sorted(actual - expected)}")


def unread_names(subject: Subject, model: nn.Module, method: Method) -> Unread:
    """Tensors of edits at positions that upstream's own class does not read."""
    layout, inputs = layout_of(model), subject.padded_inputs()
    parts = [part for part in method.parts if isinstance(part, ReFT)]
    found = [unread_edits(subject, layout, part, FIRST, inputs) for part in parts]
    return functools.reduce(operator.or_, found, Unread())


def assert_gradients(model: PreTrainedModel, method: Method, unread: Collection[str] = ()) -> None:
    """Each tensor of the adapter is trained, in at least a part of it, but those that are meant to stay; the base is not.

    Args:
        unread: names of tensors that upstream itself could not train where they stand.
    """
    fixed = fixed_names(model, method)
    dead = [
        name
        for name, parameter in adapter_parameters(model, FIRST).items()
        if name not in fixed and name not in unread and is_dead(parameter.grad)
    ]
    if dead:
        raise AssertionError(f"no gradient reaches {dead}")
    if fixed.union(unread).issuperset(adapter_parameters(model, FIRST)):
        raise AssertionError("no tensor of the adapter can be trained; the check would be empty")
    trained = [name for name, p in base_parameters(model).items() if p.grad is not None or p.requires_grad]
    trained += [name for name in fixed if model.get_parameter(name).requires_grad]
    if trained:
        raise AssertionError(f"parameters that should stay are trained: {trained}")


def fixed_names(model: nn.Module, method: Method) -> set[str]:
    """Parameters of the adapter that are never trained: the random matrices of VeRA; a unit of ReFT without positions."""
    layout = layout_of(model)
    fixed: set[str] = set()
    for part in method.parts:
        if isinstance(part, LoRA) and part.form in ("vera", "dvora"):
            fixed |= set(shared_names(layout, part, FIRST))
        if isinstance(part, ReFT) and part.suffix == 0:
            fixed |= {name for name in reft_names(layout, part, FIRST) if ".units.1." in name}
    return fixed


def parameter_names(layout: Layout, part: Part, name: str) -> list[str]:
    """The names under which a checkpoint stores `part` of the adapter `name`."""
    if isinstance(part, Bottleneck):
        return _bottleneck_names(layout, part, name)
    if isinstance(part, LoRA):
        return lora_names(layout, part, name)
    if isinstance(part, ReFT):
        return reft_names(layout, part, name)
    if isinstance(part, Invertible):
        return invertible_names(layout, name)
    if isinstance(part, Prompt):
        return [prompt_name(layout, name)]
    return _prefix_names(layout, part, name)


def _bottleneck_names(layout: Layout, part: Bottleneck, name: str) -> list[str]:
    hosts = [host for layer in layout.layers for key, host in layer.hosts if key in part.locations]
    tensors = ("W_left", "W_right", "b") if part.hypercomplex else ("weight", "bias")
    rules = dict.fromkeys(rule_of(layout.part_of(host), part, name) for host in hosts)
    return [rule for rule in rules if rule] + [
        f"{host}.adapters.{name}.{linear}.{tensor}"
        for host in hosts
        for linear in ("adapter_down.0", "adapter_up")
        for tensor in tensors
    ]


def _prefix_names(layout: Layout, part: Prefix, name: str) -> list[str]:
    tensors = ["control_trans"]
    if not part.flat:
        tensors = ["wte.weight", *(f"control_trans.{i}.{kind}" for i in (0, 2) for kind in ("weight", "bias"))]
    keys = dict.fromkeys(prefix_key(attention, name) for attention in layout.prefixed)
    return [f"{key}.{tensor}" for key in keys for tensor in tensors]
