"""The base model class: its stacks of layers, its embeddings, its final norm, its signature -> `BasePlan`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import libcst as cst

from adapter_codegen.diagnostics.table import Problem
from adapter_codegen.model import BasePlan, Diagnostic, Method, Parameter, PartPlan, StackPlan, StreamForm
from adapter_codegen.parse.automappings import ModelEntry
from adapter_codegen.parse.facts import ClassFacts, FunctionFacts, ModuleFacts
from adapter_codegen.parse.syntax import (
    assignment,
    descendants,
    dotted_name,
    literal_string,
    self_attribute,
    statements,
)
from adapter_codegen.plan.flow.kinds import Kind, Kinds
from adapter_codegen.plan.flow.modules import local_class
from adapter_codegen.plan.flow.values import Flow
from adapter_codegen.plan.parts.dividing import divided, is_within, of_other_files, way_to_models
from adapter_codegen.plan.parts.elsewhere import Elsewhere
from adapter_codegen.plan.parts.finding import find_models
from adapter_codegen.plan.parts.heads import plan_head
from adapter_codegen.plan.parts.models import is_model
from adapter_codegen.plan.parts.picking import added_to_embeddings, picked_position
from adapter_codegen.plan.stream.entrance.features import embedded_features
from adapter_codegen.plan.stream.entrance.mask import makes_mask
from adapter_codegen.plan.stream.entrance.table import TokenTable, find_token_table
from adapter_codegen.plan.stream.entrance.way import Stream, follow_stream, layer_calls_of, trace_to_layers
from adapter_codegen.plan.stream.lists.candidates import defined_twice
from adapter_codegen.plan.stream.lists.main import main_of
from adapter_codegen.plan.stream.lists.stacks import FoundStack, HasAttention, find_stacks
from adapter_codegen.plan.stream.optional import optional_start

_PRETRAINED = (
    "transformers.modeling_utils.PreTrainedModel",
    "transformers.PreTrainedModel",
)  # a file may import either
_RESCALED = tuple(f".weight{data}.{name}" for data in ("", ".data") for name in ("mul_", "div_"))
_OF_TOKENS = {"input_ids", "inputs_embeds", "decoder_input_ids", "decoder_inputs_embeds"}  # parameters
_AFTER_EMBEDDINGS = (Method.PROMPT_TUNING, Method.INVERTIBLE)  # methods that work on what enters the first layer


def plan_base(
    facts: ModuleFacts,
    entry: ModelEntry,
    has_attention: HasAttention,
    elsewhere: Elsewhere | None = None,
    undivided: bool = False,
) -> tuple[BasePlan | None, tuple[Diagnostic, ...]]:
    """Plan the base model of `entry`.

    Args:
        facts: of the module at ``entry.path``.
        has_attention: whether a class, or anything in it, holds an attention core.
        elsewhere: answers about models of other files; without it, what this file says.
        undivided: take the layers of models of this file for its own.

    Returns:
        The plan with diagnostics about what it lacks; or None and the reason. A composite of models from elsewhere
        (``AutoModel.from_config``) is planned with `models` and without stacks.
    """
    base = facts.classes.get(entry.base_class)
    forward = base.functions.get("forward") if base else None
    if base is None or forward is None:
        return None, (_no_forward(facts, entry, base),)
    if (rescaling := _rescaling(base)) is not None:
        return None, (Problem.WEIGHTS_RESCALED.diagnostic(facts.location(rescaling), base=base.name),)
    stacks = find_stacks(facts, base.name, has_attention)
    found = find_models(facts, base, lambda name: bool(find_stacks(facts, name, has_attention)), elsewhere)
    if not stacks and not any(model.is_part for model in found):
        return None, (_no_layers(facts, base, found),)
    flow = trace_to_layers(facts, base.name, stacks or way_to_models(facts, base, found))
    is_encoder_decoder = "encoder_outputs" in forward.parameters
    main = frozenset[str]() if flow is None else main_of(facts, flow, stacks, of_other_files(found))
    # What the layers of an encoder-decoder are fed with first is what its encoder reads.
    entered = frozenset[str]() if is_encoder_decoder else main
    stream = follow_stream(facts, flow, stacks, entered) if flow is not None else None
    towers = {model.path for model in found if any(is_within(stack.path, model.path) for stack in stacks)}
    entrance = stream.embedding_output if stream and len(towers) < 2 and not _enters_turned(stream) else ""
    reader = f"{entrance.partition('.')[0]}." if is_encoder_decoder else ""
    plan = BasePlan(
        class_name=base.name,
        location=facts.location(base.node),
        pretrained_class=_pretrained_class(facts, base),
        prefix=literal_string(base.attributes.get("base_model_prefix")) or "",
        stacks=tuple(_stack(facts, stack, stream, stack.path in (main or {stacks[0].path})) for stack in stacks),
        parameters=tuple(_parameters(facts, forward)),
        token_embeddings=_one_table(_token_embeddings(facts, base) or (stream.token_embeddings if stream else "")),
        token_scale=stream.token_scale.removeprefix(reader) if stream and entrance else "",
        embedding_output=entrance,
        class_token=_has_class_token(facts, base, entrance),
        has_pooler="pooler" in base.submodules,
        final_norm=stream.final_norm if stream and len(towers) < 2 else "",
        models=found,
        is_encoder_decoder=is_encoder_decoder,
    )
    plan = divided(plan, main, undivided)
    plan = replace(plan, makes_mask=_embeds_inside(plan) and makes_mask(forward))
    table = _token_table(facts, base, plan, flow, stacks, stream)
    plan = _entered_at(table, plan)
    if not entry.has_base:
        plan = replace(plan, head=plan_head(facts, base, flow, plan))
    return plan, tuple(_all_doubts(facts, base, plan, stream, table))


def _embeds_inside(plan: BasePlan) -> bool:
    """Whether what enters the layers comes out of a module that holds the table of tokens, if there is one."""
    table, entrance = plan.token_embeddings, plan.embedding_output
    return bool(entrance) and (not table or table.startswith(f"{entrance}."))


def _token_table(
    facts: ModuleFacts,
    base: ClassFacts,
    plan: BasePlan,
    flow: Flow | None,
    stacks: Sequence[FoundStack],
    stream: Stream | None,
) -> TokenTable | None:
    """The table of tokens on the way to the layers, where no module that tokens come into gives all that enters them."""
    if flow is None or stream is None or plan.is_of_parts or not plan.token_embeddings or _enters_turned(stream):
        return None
    if plan.embedding_output and not _is_entered_by_others(plan, stream):
        return None
    calls = [found for stack in stacks if (found := layer_calls_of(flow, stack))]
    ordered = [[call for _, call in found] for found in sorted(calls, key=lambda found: found[0][0])]
    named = plan.token_embeddings
    return find_token_table(facts, flow, ordered, named, _classes_at(facts, base, named))


def _entered_at(table: TokenTable | None, plan: BasePlan) -> BasePlan:
    if table is None or table.obstacle is not None:
        return plan
    return replace(plan, token_entry=table.path, token_scale=table.scale)


def _rescaling(base: ClassFacts) -> cst.Call | None:
    """A call that multiplies a weight in place, outside of what initialises a model (RWKV scales its layers for evaluation)."""
    bodies = (function.node for name, function in base.functions.items() if "init" not in name)
    calls = (node for body in bodies for node in descendants(body) if isinstance(node, cst.Call))
    return next((call for call in calls if dotted_name(call.func).endswith(_RESCALED)), None)


def _enters_turned(stream: Stream) -> bool:
    """Whether tokens are embedded with their positions in front of the batch: what the module gives has no rows of examples (XLNet)."""
    return any(sign.is_of_tokens for sign in stream.forms.values())


def _stack(facts: ModuleFacts, found: FoundStack, stream: Stream | None, is_main: bool) -> StackPlan:
    optional = optional_start(found.path.partition(".*.")[0], found.owners[0], facts)
    shared = stream is not None and found.path in stream.shared
    plan = StackPlan(found.path, found.classes, shared, is_main=is_main, optional=optional, without=found.without)
    if stream is None:
        return plan
    sign = stream.forms.get(found.path)
    if sign is not None and sign.form is StreamForm.NO_TOKENS and _is_told_by_tower(facts, found):
        sign = None
    return plan if sign is None else replace(plan, form=sign.form, shown=facts.location(sign.node))


def _is_told_by_tower(facts: ModuleFacts, found: FoundStack) -> bool:
    """Whether a list belongs to a model of its own that has no table of tokens, so that it says itself that it reads none.

    One that has a table is asked for tokens that are none of the whole model's (the proteins of Evolla).
    """
    towers = [facts.classes[name] for name in found.owners[1:] if is_model(facts, name)]
    return bool(towers) and not any(_token_embeddings(facts, tower) for tower in towers)


def _parameters(facts: ModuleFacts, forward: FunctionFacts) -> Iterator[Parameter]:
    params = forward.node.params
    for param in (*params.posonly_params, *params.params[1:]):
        yield _parameter(facts, param, "positional")
    if isinstance(params.star_arg, cst.Param):
        yield _parameter(facts, params.star_arg, "args")
    for param in params.kwonly_params:
        yield _parameter(facts, param, "keyword")
    if params.star_kwarg is not None:
        yield _parameter(facts, params.star_kwarg, "kwargs")


def _parameter(facts: ModuleFacts, param: cst.Param, kind: str) -> Parameter:
    annotation = facts.code(param.annotation.annotation) if param.annotation else ""
    return Parameter(param.name.value, annotation, facts.code(param.default) if param.default else "", kind)


def _pretrained_class(facts: ModuleFacts, base: ClassFacts) -> str:
    """The class of the model family that stands below `PreTrainedModel`: ``LlamaPreTrainedModel``."""
    for name in base.lineage[1:]:
        known = facts.classes.get(name)
        if known is not None and any(facts.origin(parent) in _PRETRAINED for parent in known.bases):
            return name
    outside = [name for name in base.lineage[1:] if name not in facts.classes and name.endswith("PreTrainedModel")]
    return outside[0] if outside else "PreTrainedModel"


def _one_table(path: str) -> str:
    """The path of a table of embeddings; "" where it stands for several, one for each book of codes."""
    return "" if "*" in path else path


def _token_embeddings(facts: ModuleFacts, base: ClassFacts) -> str:
    """Path of the embedding that the model's ``get_input_embeddings`` returns; "" where it returns none."""
    path = _returned_path(facts, base) if "get_input_embeddings" in base.functions else _named_path(facts, base)
    return path if path and Kinds(facts).of(_classes_at(facts, base, path)) is Kind.EMBEDDING else ""


def _named_path(facts: ModuleFacts, base: ClassFacts) -> str:
    """``embeddings.token_embedding`` of ``_input_embed_layer = "token_embedding"``: there upstream's own getter looks for it."""
    name = literal_string(base.attributes.get("_input_embed_layer"))
    path = f"embeddings.{name}"
    return path if name and _classes_at(facts, base, path) else ""


def _returned_path(facts: ModuleFacts, known: ClassFacts, depth: int = 3) -> str:
    """``embeddings.word_embeddings`` of ``return self.embeddings.word_embeddings``, through the getters of submodules."""
    getter = known.functions.get("get_input_embeddings")
    body = [node for node in statements(getter.node.body) if isinstance(node, cst.Return)] if getter else []
    if len(body) != 1 or depth == 0:
        return ""
    value = body[0].value
    if isinstance(value, cst.Call) and isinstance(value.func, cst.Attribute):
        owner = dotted_name(value.func.value).removeprefix("self.")
        if value.func.attr.value != "get_input_embeddings" or not owner:
            return ""
        inner = (facts.classes[name] for name in _classes_at(facts, known, owner) if name in facts.classes)
        rest = next((path for owned in inner if (path := _returned_path(facts, owned, depth - 1))), "")
        return f"{owner}.{rest}" if rest else ""
    name = dotted_name(value)
    return name.removeprefix("self.") if name.startswith("self.") else ""


def _classes_at(facts: ModuleFacts, known: ClassFacts, path: str) -> tuple[str, ...]:
    """The classes that the submodule at a path may have; none where the module does not show it."""
    first, _, rest = path.partition(".")
    submodule = known.submodules.get(first)
    if submodule is None or not rest:
        return submodule.classes if submodule else ()
    inner = [facts.classes[name] for name in map(local_class, submodule.classes) if name in facts.classes]
    return next((found for owned in inner if (found := _classes_at(facts, owned, rest))), ())


def _has_class_token(facts: ModuleFacts, base: ClassFacts, path: str) -> bool:
    """Whether the module at a path has a parameter ``cls_token``, as embeddings of images have."""
    if not path:
        return False
    known = (facts.classes[name] for name in map(local_class, _classes_at(facts, base, path)) if name in facts.classes)
    built = (function.node.body for owner in known if (function := owner.functions.get("__init__")))
    assigned = (found for body in built for node in statements(body) if (found := assignment(node)))
    return any(self_attribute(target) == "cls_token" for targets, _ in assigned for target in targets)


def _no_forward(facts: ModuleFacts, entry: ModelEntry, base: ClassFacts | None) -> Diagnostic:
    what = "has no forward of its own in this file" if base else "is not defined in this file"
    location = facts.location(base.node) if base else None
    return Problem.BASE_ELSEWHERE.diagnostic(location, base=entry.base_class, model_type=entry.model_type, what=what)


def _no_layers(facts: ModuleFacts, base: ClassFacts, models: Sequence[PartPlan]) -> Diagnostic:
    held = (name for submodule in base.submodules.values() if submodule.in_list for name in submodule.classes)
    twice = defined_twice(facts)
    known = next(
        (facts.classes[name] for name in map(local_class, held) if name in twice & facts.classes.keys()), None
    )
    if known is not None:
        where = facts.location(known.node)
        return Problem.LAYERS_DEFINED_TWICE.diagnostic(where, base=base.name, name=known.name)
    near = "; ".join(f"{model.path}: {model.near_miss.removesuffix('.')}" for model in models)
    others = f" ({near})" if near else ""
    return Problem.NO_LAYERS.diagnostic(facts.location(base.node), base=base.name, others=others)


def _all_doubts(
    facts: ModuleFacts, base: ClassFacts, plan: BasePlan, stream: Stream | None, table: TokenTable | None
) -> Iterator[Diagnostic]:
    if plan.is_of_parts:
        yield from _doubts_of_parts(facts, base, plan)
        return
    if table is not None and table.obstacle is not None:  # it says more than what follows
        place = facts.location(table.obstacle)
        yield Problem.NOT_AT_TABLE.diagnostic(place, (Method.INVERTIBLE,), table=table.path)
    for rule in (_doubts, _against_prompts, _against_inverting):
        yield from rule(facts, base, plan, stream)


def _doubts_of_parts(facts: ModuleFacts, base: ClassFacts, plan: BasePlan) -> Iterator[Diagnostic]:
    """Of a model made of parts. What enters the layers is the affair of these."""
    picked = picked_position(base, plan.parts)
    if picked is not None:
        yield Problem.PICKED_BY_WHOLE.diagnostic(facts.location(picked), (Method.PROMPT_TUNING,))
    added = added_to_embeddings(base, plan.parts)
    if added is not None:
        yield Problem.ADDED_BY_WHOLE.diagnostic(facts.location(added), (Method.PROMPT_TUNING,))


def _doubts(facts: ModuleFacts, base: ClassFacts, plan: BasePlan, stream: Stream | None) -> Iterator[Diagnostic]:
    if not plan.stacks or plan.embedding_output:
        return
    node, path = facts.location(base.node), plan.stacks[0].path
    methods = (Method.PROMPT_TUNING,) if plan.token_entry else _AFTER_EMBEDDINGS
    if stream is None:
        yield Problem.NOT_FOLLOWED_TO_LAYERS.diagnostic(node, methods, base=base.name, path=path)
    elif stream.mixed is not None:
        yield Problem.MIXED_ENTRANCE.diagnostic(facts.location(stream.mixed), methods)
    elif stream.embedding_output and not _enters_turned(stream):
        yield Problem.SEVERAL_MODELS.diagnostic(node, methods, base=base.name)
    else:
        yield Problem.NO_SINGLE_ENTRANCE.diagnostic(node, methods, base=base.name, path=path)


def _against_prompts(
    facts: ModuleFacts, base: ClassFacts, plan: BasePlan, stream: Stream | None
) -> Iterator[Diagnostic]:
    """Why no prompt can go in: the layers read something else of each token, or no embeddings can be given.

    They must be given where nothing adds to them behind the table but in one module.
    """
    if stream is None or not plan.embedding_output:
        return
    methods, path = (Method.PROMPT_TUNING,), plan.stacks[0].path
    if stream.beside is not None:
        yield Problem.BESIDE_STREAM.diagnostic(facts.location(stream.beside), methods, path=path)
    if stream.picked is not None:
        yield Problem.PICKED_BY_TOKENS.diagnostic(facts.location(stream.picked), methods)
    if stream.between is not None:
        yield Problem.BETWEEN_LAYERS.diagnostic(facts.location(stream.between), methods)
    if not plan.token_embeddings or plan.token_embeddings.startswith(f"{plan.embedding_output}."):
        return
    reader = _reader(facts, base, plan)
    if isinstance(reader, str) or "inputs_embeds" not in reader.parameters:
        name = reader if isinstance(reader, str) else f"The forward of {reader.owner}"
        node = base.node if isinstance(reader, str) else reader.node
        yield Problem.NO_EMBEDDINGS_TAKEN.diagnostic(facts.location(node), methods, reader=name)
    elif stream.made_of_tokens is not None:
        yield Problem.MADE_OF_TOKENS.diagnostic(facts.location(stream.made_of_tokens), methods)
    elif stream.reads_tokens is not None:
        yield Problem.TOKENS_IN_LAYERS.diagnostic(facts.location(stream.reads_tokens), methods, path=path)


def _against_inverting(
    facts: ModuleFacts, base: ClassFacts, plan: BasePlan, stream: Stream | None
) -> Iterator[Diagnostic]:
    """Why an invertible adapter would not act on embeddings of tokens, or on more than these: sounds enter the first layer (SeamlessM4T,
    Higgs Audio), images are codes with embeddings of the same table."""
    looked_up = embedded_features(base, plan.token_embeddings) if plan.token_embeddings else None
    if looked_up is not None:
        place = facts.location(looked_up)
        yield Problem.FEATURES_OF_TOKENS.diagnostic(place, (Method.INVERTIBLE,), table=plan.token_embeddings)
    if stream is None or plan.token_entry or not _is_entered_by_others(plan, stream):
        return
    yield Problem.ENTERED_BY_OTHERS.diagnostic(
        facts.location(base.functions["forward"].node),
        (Method.INVERTIBLE,),
        path=plan.embedding_output,
        fed=" and ".join(stream.fed_by),
        table=plan.token_embeddings,
    )


def _is_entered_by_others(plan: BasePlan, stream: Stream) -> bool:
    """Whether the module that gives what enters the first layer makes it of anything but the tokens of the model."""
    if not plan.embedding_output or not plan.token_embeddings or _OF_TOKENS & {*stream.fed_by}:
        return False
    return bool(stream.fed_by) and not f"{plan.token_embeddings}.".startswith(f"{plan.embedding_output}.")


def _reader(facts: ModuleFacts, base: ClassFacts, plan: BasePlan) -> FunctionFacts | str:
    """The forward that reads the tokens which a prompt stands in front of: the model's, or that of its encoder.

    A name where that has no forward in this file, or is no encoder.
    """
    forward = base.functions["forward"]
    if not plan.is_encoder_decoder:
        return forward
    name = plan.embedding_output.partition(".")[0]
    if _is_given_states(forward.node, name):
        return f"The encoder of {base.name}"
    known = (facts.classes.get(local_class(found)) for found in _classes_at(facts, base, name))
    inner = next((owned.functions["forward"] for owned in known if owned and "forward" in owned.functions), None)
    return inner or f"The encoder of {base.name}"


def _is_given_states(forward: cst.FunctionDef, name: str) -> bool:
    """Whether a submodule is called with what an encoder gave."""
    calls = (node for node in descendants(forward) if isinstance(node, cst.Call))
    ours = (call for call in calls if dotted_name(call.func) == f"self.{name}")
    given = {argument.keyword.value for call in ours for argument in call.args if argument.keyword is not None}
    return "encoder_hidden_states" in given
