"""Upstream's classes with heads -> flexible heads that the same weights fit into (`StaticHead`).

A flexible head is a plain sequence of layers. Upstream's head converts where following its logits back to the base model
meets just such a sequence; dropout may stand elsewhere, since it holds no weights. Where do I add a head type? A row of
`flexible_heads.TASKS`, and, if its layers are in another order, a pattern in `_layers`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache

import libcst as cst

from adapter_codegen.model import BasePlan, Borrowed, StaticHead
from adapter_codegen.parse.automappings import ModelEntry
from adapter_codegen.parse.facts import ClassFacts, ModuleFacts
from adapter_codegen.parse.module import parse_module
from adapter_codegen.parse.syntax import dotted_name, literal_string, statements
from adapter_codegen.plan.heads.encoders import encoder_read, on_encoder
from adapter_codegen.plan.heads.flexible import (
    GENERATIVE,
    OF_FRAMES,
    ON_ENCODERS,
    base_attribute,
    feeding_config,
    is_composite,
    part_at,
    pooling,
    tasks,
    why_not,
)
from adapter_codegen.plan.heads.forms.masked_image import read_masked_image
from adapter_codegen.plan.heads.forms.weighted import read_weighted_sum
from adapter_codegen.plan.heads.forms.xvector import read_xvector
from adapter_codegen.plan.heads.generating import borrowed, generation_of
from adapter_codegen.plan.heads.logits.chain import Chain, Link, Step, head_chain
from adapter_codegen.plan.heads.logits.configs.decoders import decoder_config
from adapter_codegen.plan.heads.logits.configs.text_config import text_config
from adapter_codegen.plan.heads.logits.factors import OF_DECODER, OF_TEXT, ConfigMethods, config_field
from adapter_codegen.plan.heads.logits.holding import tied_apart
from adapter_codegen.plan.heads.logits.options import (
    hidden_options,
    norm_options,
    read_bias,
    surroundings,
    width_options,
)
from adapter_codegen.plan.heads.logits.passing import passes_on
from adapter_codegen.plan.heads.logits.positions import BOTH, EOS, FIRST, FRAMES, LAST, MEAN, MEANS, OTHERS, REST
from adapter_codegen.plan.heads.logits.rates import NOTHING, Rates
from adapter_codegen.plan.heads.unclear import Unclear
from adapter_codegen.upstream import Release

_LANGUAGE_MODELS = frozenset({"masked_lm", "causal_lm", "seq2seq_lm"})
_POOLING = frozenset(
    {"classification", "image_classification", "video_classification", "audio_classification", "multiple_choice"}
)  # take use_pooler
_LABELLED = frozenset({"tagging", "question_answering"})  # targets say something of each position that is read
_CLASSIFYING = _POOLING - {"multiple_choice"}
_NARROWED = frozenset(
    {"audio_classification"}
)  # upstream's project to a width of their own first, with nothing behind
_IN_LAYERS = frozenset({Step.LINEAR, Step.ACTIVATION, Step.NORM})
_ONE = [Step.LINEAR]
_PLAIN = [Step.LINEAR, Step.LINEAR]
_TWO = [Step.LINEAR, Step.ACTIVATION, Step.LINEAR]
_TWO_WITH_NORM = [Step.LINEAR, Step.ACTIVATION, Step.NORM, Step.LINEAR]
_OF_SENSES = frozenset(
    {"image_classification", "video_classification", "audio_classification"}
)  # take input_norm, and means
# Types of heads that are more than layers one after the other -> what reads upstream's class.
_FORMED = {"xvector": read_xvector, "masked_image_modeling": read_masked_image}
_WITHOUT_BIAS = _CLASSIFYING | _LANGUAGE_MODELS | {"tagging"}  # take bias=False

_READ = {
    "": "all tokens",
    FIRST: "the first token",
    LAST: "the last token",
    EOS: "the token at its end",
    MEAN: "the mean",
    REST: "the mean of all but the first token",
    BOTH: "the first token and the mean of the others",
    FRAMES: "the mean of those frames that are no padding",
    OTHERS: "positions by a rule of its own",
}  # what is read of a sequence, in words


def plan_static_heads(
    release: Release,
    entry: ModelEntry,
    facts: ModuleFacts,
    base: BasePlan,
    possible: tuple[str, ...],
    states_width: bool = True,
) -> tuple[StaticHead, ...]:
    """The head classes of a model type, those first whose task comes first in `TASKS`.

    Args:
        possible: types of flexible heads that can stand on the base model.
        states_width: whether the config tells how wide the hidden states are.

    A class whose head has no flexible counterpart, or one that cannot stand on this base model, has an empty `head_type`.
    """
    if base.head is not None:
        return ()  # upstream has no class around it: it ends in a head itself
    planner = _HeadPlanner(release, entry, facts, base)
    found: dict[str, StaticHead] = {}
    for task, head_type in tasks(base).items():
        for class_name in entry.heads.get(task, ()):
            known = class_name in found and bool(found[class_name].head_type)
            if class_name in facts.classes and not known:
                missing = "" if head_type in possible else why_not(entry, base, head_type, states_width)
                found[class_name] = planner.plan(facts.classes[class_name], head_type, missing)
    read = pooling(base, possible, (head.reads for head in found.values() if head.reads))
    part = next((head.part for head in found.values() if head.head_type), "") if is_composite(base) else ""
    return tuple(_where_heads_stand(base, head, read, part) for head in found.values())


def _where_heads_stand(base: BasePlan, head: StaticHead, read: str, part: str) -> StaticHead:
    """`head`, if it reads what the flexible heads of the model read: they all stand at one place."""
    if not head.head_type or on_encoder(base, head):
        return head
    if head.reads not in ("", read):
        return head.unconverted(
            f"It reads {_READ[head.reads]} of a sequence, flexible heads of this model {_READ[read]}."
        )
    if head.part != part:
        return head.unconverted(f"It reads the part {head.part}, flexible heads of this model {part or 'the whole'}.")
    return head


class _HeadPlanner:
    def __init__(self, release: Release, entry: ModelEntry, facts: ModuleFacts, base: BasePlan) -> None:
        self.release = release
        self.entry = entry
        self.facts = facts
        self.base = base
        self.text_config = text_config(release, entry)

    def plan(self, head: ClassFacts, head_type: str, missing: str = "") -> StaticHead:
        """A class, as a flexible head of a type if it is one.

        Args:
            missing: why no head of this type can stand on the base model; "" = one can.
        """
        facts, owner = self._definition(head)
        prefix = self._prefix(head, facts, owner)
        attribute = prefix
        try:
            if missing:
                raise Unclear(missing)
            if head_type in _FORMED:
                return _weighing(head, self._formed(head, head_type))
            if not owner:
                raise Unclear("Its forward stands in another file.")
            chain = head_chain(facts, owner, self.base.class_name, prefix, methods=self._methods(head))
            attribute = chain.base_attribute
            # A model that holds others may put what it read of them before its text, and compare what stands behind.
            if is_composite(self.base):
                self._check_feeding(chain)
            apart = tied_apart(head, self.facts.classes.get(self.base.class_name)) if not attribute else ()
            if apart:
                raise Unclear(f"It ties weights that the base model has apart: {', '.join(apart)}.")
            flexible = self._flexible(head, chain, head_type)
            return _weighing(head, replace(flexible, class_name=head.name, borrowed=self._borrowed(head, head_type)))
        except Unclear as why:
            location = None if why.node is None else facts.location(why.node)
            return StaticHead(
                head.name, attribute, "", reason=why.told(facts), location=location, precludes=why.precludes
            )

    def _borrowed(self, head: ClassFacts, head_type: str) -> Borrowed | None:
        """What of its generation an adapter model takes over. Raises `Unclear` where it cannot."""
        if not is_composite(self.base) and head_type not in GENERATIVE:
            return None
        generation = generation_of(self.release, self.facts, head.name)
        pretrained, attribute = self.base.pretrained_class, base_attribute(self.base)
        return borrowed(self.facts, head.name, pretrained, attribute, generation) or None

    def _methods(self, head: ClassFacts) -> ConfigMethods:
        of_decoder = decoder_config(head, self.facts.classes.get(self.base.class_name))
        return {OF_TEXT: self.text_config, OF_DECODER: of_decoder}

    def _formed(self, head: ClassFacts, head_type: str) -> StaticHead:
        """A head that is recognised by its form, on the hidden states of the base model."""
        formed = None if is_composite(self.base) else _FORMED[head_type](self.facts, head, self.base.class_name)
        if formed is None:
            raise Unclear("What it computes is not written as in other heads of its kind.")
        attribute, options = formed.base_attribute, dict(formed.options)
        if formed.start:
            prefix = self._prefix(head, self.facts, head.name)
            chain = head_chain(self.facts, head.name, self.base.class_name, prefix, formed.start)
            met = tuple(link.step for link in chain.links)
            if not chain.base_attribute or chain.pooled or chain.reads or met != formed.before:
                raise Unclear(f"What stands before its {formed.start} is not that of other heads of its kind.")
            attribute = chain.base_attribute
            options |= {"requires": dict(chain.requires)} if chain.requires else {}
        return StaticHead(
            head.name,
            attribute,
            head_type,
            formed.layers,
            tuple(options.items()),
            formed.tensors,
            frames=formed.frames,
            mask_token=formed.mask_token,
        )

    def _check_feeding(self, chain: Chain) -> None:
        """Raises `Unclear` unless a head of a model that holds others stands on what its flexible heads do, and compares all of its logits."""
        if feeding_config(self.base) is not None:
            if not chain.base_attribute:
                raise Unclear(f"It holds the model {chain.part} itself, where flexible heads stand on the base model.")
            if not (chain.is_compared_whole or chain.compares_end):
                raise Unclear(
                    "It compares other logits than all of those that it returns with labels, or has no loss."
                )
            return
        part = part_at(self.base, chain.part)
        if part is None or chain.pooled:
            what = f"what {chain.part} pools" if part is not None else chain.part or "the whole model"
            raise Unclear(
                f"It reads {what}, and no part that the base model has at the same path gives it hidden states."
            )

    def _definition(self, head: ClassFacts) -> tuple[ModuleFacts, str]:
        """The module and class that hold the head's forward: upstream's generic heads stand in a file of their own."""
        if "forward" in head.functions and not passes_on(head.functions["forward"]):
            return self.facts, head.name
        for base in head.lineage[1:]:
            module, _, name = self.facts.origin(base).rpartition(".")
            path = module.removeprefix("transformers.").replace(".", "/") + ".py"
            if base not in self.facts.classes and module.startswith("transformers.") and self.release.exists(path):
                facts = _shared_module(self.release, path)
                if name in facts.classes and "forward" in facts.classes[name].functions:
                    return facts, name
        return self.facts, ""

    def _prefix(self, head: ClassFacts, facts: ModuleFacts, owner: str) -> str:
        """``base_model_prefix`` as Python resolves it: the class, then its bases in order."""
        own = {target for node in statements(head.node.body) for target in _targets(node)}
        if "base_model_prefix" not in own and owner and facts is not self.facts:
            generic = literal_string(facts.classes[owner].attributes.get("base_model_prefix"))
            if generic:
                return generic
        return literal_string(head.attributes.get("base_model_prefix")) or self.base.prefix

    def _flexible(self, head: ClassFacts, chain: Chain, head_type: str) -> StaticHead:
        """The head, without the name of its class.

        Its config holds keyword arguments of the flexible head, and what `StaticHeadConfig` of the runtime has beside them:
        fields of the model's config that decide when a model is loaded (``activation_function`` is then the default).

        Raises:
            Unclear: no flexible head of this type computes the same.
        """
        norm, links = _input_norm(chain.links) if head_type in _OF_SENSES else (None, chain.links)
        around = surroundings(links, head_type in _LANGUAGE_MODELS)
        layers = _layers(links, head_type)
        if around is None or not layers:
            raise Unclear(f"A {head_type} head has not these layers: {_written(chain.links)}.")
        if not _may_read(chain.reads, head_type):
            # LayoutLMv3's class reads the states of the text alone, without those of the image, as labels are.
            reason = f"It reads {_READ[chain.reads]} of a sequence, which no {head_type} head does."
            raise Unclear(reason, precludes=(head_type,) if head_type in _LABELLED else ())
        options = self._options(replace(chain, links=links), head_type)
        encoder = encoder_read(self.facts, self.base, head, chain.part) if self.base.is_encoder_decoder else ""
        if bool(encoder) != (self.base.is_encoder_decoder and head_type in ON_ENCODERS):
            read, others = ("encoder", "behind the decoder") if encoder else ("decoder", "on the encoder")
            raise Unclear(f"It reads what the {read} gives, where {head_type} heads of such models stand {others}.")
        if norm is not None:
            of_norm = norm_options([norm])
            if of_norm is None or any(link.step is Step.NORM for link in links):
                raise Unclear(f"The norm before its projections, {norm.path}, is none that a flexible head has.")
            layers = (norm.path, *layers)
            options |= {"input_norm": True, **of_norm}
        tensors = []
        if around.offset:
            if options["bias"]:
                raise Unclear(f"It adds {around.offset} to logits that have a bias already.")
            options["bias"] = True
            tensors.append((around.offset, f"{len(layers) - 1}.bias"))
        if around.buffer:
            options["logits_bias"] = True
            tensors.append((around.buffer, "logits_bias"))
        options |= around.options
        options |= {"requires": dict(chain.requires)} if chain.requires else {}
        frames = chain.frames if head_type in OF_FRAMES else ""
        given, part = tuple(options.items()), chain.part if is_composite(self.base) else encoder
        return StaticHead(
            "",
            chain.base_attribute,
            head_type,
            layers,
            given,
            tuple(tensors),
            chain.reads,
            frames,
            part=part,
            skips=chain.skips,
        )

    def _options(self, chain: Chain, head_type: str) -> dict[str, object]:
        """The options of the layers. Raises `Unclear` where the flexible head has none for what upstream's does."""
        linear = [link for link in chain.links if link.step is Step.LINEAR]
        activations = [self._activation(link) for link in chain.links if link.step is Step.ACTIVATION]
        norms = [link for link in chain.links if link.step is Step.NORM]
        bias, hidden, norm = read_bias(linear[-1]), hidden_options(linear[:-1]), norm_options(norms)
        widths = width_options(linear)
        if any(name is None and "." not in field for name, field in activations):
            raise Unclear("Its activation follows from a field of the config without a default.")
        if bias is None or hidden is None:
            raise Unclear("Whether its projections have a bias follows from more than a field of the config.")
        if norm is None:
            raise Unclear(f"Its norm is none that a flexible head has: {norms[0].path}.")
        widths = _narrowed(widths) if head_type in _NARROWED else widths
        if widths is None or (widths and head_type not in _LANGUAGE_MODELS | _NARROWED):
            raise Unclear(f"The widths of its projections are none that a {head_type} head has.")
        if bias != {"bias": True} and head_type not in _WITHOUT_BIAS:
            raise Unclear(f"Its last projection has no bias, which that of a {head_type} head has.")
        if chain.pooled and head_type not in _POOLING:
            raise Unclear(f"It reads a pooled vector, which a {head_type} head does not.")
        activation, field = next(iter(activations), (None, ""))
        options: dict[str, object] = {"layers": len(linear)}
        options |= {"activation_function": activation} if activation or not field else {}
        options |= {"activation_key": field} if field else {}
        if head_type in _LANGUAGE_MODELS:
            options |= {"layer_norm": bool(norms), **bias}
            if head_type == "causal_lm":
                options["shift_labels"] = not chain.compares_in_place
                options |= {"skip_padding": True} if chain.skips_padding else {}
                options |= {"labels_of_end": True} if chain.compares_end else {}
        else:
            options |= {"use_pooler": True} if chain.pooled else {}
            options |= bias if bias != {"bias": True} else {}
            options |= {"layer_norm": True} if norms else {}
            options |= _dropout_options(chain.links)
        return {**options, **hidden, **norm, **widths}

    def _activation(self, link: Link) -> tuple[str | None, str]:
        """The name of an activation, None if unknown; where the config chooses it, that field's default and the field.

        The default of a config in that of the model is not known: which one stands there is told when a model is made.
        """
        if isinstance(link.activation, str):
            return link.activation, ""
        field = config_field(dotted_name(link.activation))
        if not field or not self.entry.config_path:
            return literal_string(link.activation), ""
        config = _shared_module(self.release, self.entry.config_path).classes.get(self.entry.config_class)
        return (literal_string(config.attributes.get(field)) if config and "." not in field else None), field


def _dropout_options(links: Sequence[Link]) -> dict[str, object]:
    """How much a head drops before its last projection, and before its first where that is another one; nothing where that is not known,
    so that the head drops as any other does."""
    if all(link.step is not Step.DROPOUT for link in links):
        return {"dropout_prob": 0.0}
    places = [index for index, link in enumerate(links) if link.step is Step.LINEAR]
    last = _rates(links[places[-2] if len(places) > 1 else 0 : places[-1]])
    first = _rates(links[: places[0]])
    if not last or not first:
        return {}
    return {"dropout_rates": list(last), **({"first_dropout_rates": list(first)} if first != last else {})}


def _rates(links: Sequence[Link]) -> Rates:
    """What the dropouts among these links have in common; empty where that is not known."""
    rates = {link.rates for link in links if link.step is Step.DROPOUT and link.rates != NOTHING} or {NOTHING}
    return rates.pop() if len(rates) == 1 else ()


@lru_cache(maxsize=4)
def _shared_module(release: Release, path: str) -> ModuleFacts:
    """Facts of a file that several head classes, and with upstream's generic heads several models, look into."""
    return parse_module(release.read(path), path)


def _may_read(position: str, head_type: str) -> bool:
    """A head that pools reads one position by a rule that is known, any other head reads all. Texts are never averaged: their padding
    would count."""
    known = _POOLING if position in (FIRST, LAST, EOS) else _OF_SENSES if position in MEANS else ()
    return not position or head_type in known


def _weighing(head: ClassFacts, found: StaticHead) -> StaticHead:
    """The flexible head of a class, which may also sum all layers, where upstream's does so by a flag: so far that had to be off."""
    options = dict(found.config)
    required = options.get("requires")
    summed = read_weighted_sum(head) if isinstance(required, dict) and found.head_type in OF_FRAMES else None
    if summed is None or not isinstance(required, dict) or required.get(summed.flag) is not False:
        return found
    others = {name: value for name, value in required.items() if name != summed.flag}
    options = {name: value for name, value in options.items() if name != "requires"}
    options |= {"weighted_layers_key": summed.flag, **({"requires": others} if others else {})}
    tensors = (*found.tensors, (summed.weights, "layer_weights"))
    return replace(found, config=tuple(options.items()), tensors=tensors, weighs_layers=True)


def _input_norm(links: Sequence[Link]) -> tuple[Link | None, tuple[Link, ...]]:
    """A norm before the first projection, if there is one, and the other links."""
    first = next((link for link in links if link.step is not Step.DROPOUT), None)
    if first is None or first.step is not Step.NORM:
        return None, tuple(links)
    return first, tuple(link for link in links if link is not first)


def _narrowed(widths: dict[str, object] | None) -> dict[str, object] | None:
    """The width between two projections as the option of heads that are no language models."""
    return widths and {"projection_size_key": widths["embedding_size_key"]}


def _written(links: Sequence[Link]) -> str:
    """The steps from the hidden states to the logits, as a reason names them."""
    return ", ".join(link.path or link.step.value for link in links) or "none"


def _layers(links: Sequence[Link], head_type: str) -> tuple[str | None, ...]:
    """Per position of the flexible head's layers, the path of upstream's module; empty where the order differs."""
    weighted = [link for link in links if link.step in _IN_LAYERS]
    order = [link.step for link in weighted]
    paths = [None if link.step is Step.ACTIVATION else link.path for link in weighted]
    if head_type in _LANGUAGE_MODELS:
        return tuple(paths) if order in (_ONE, _TWO, _TWO_WITH_NORM) else ()
    if order == _ONE:
        return (None, paths[0])
    if order == _PLAIN and head_type in _NARROWED:
        return (None, paths[0], None, paths[1])
    if order == _TWO:
        return (None, paths[0], None, None, paths[2])
    if order == _TWO_WITH_NORM:
        return (None, paths[0], None, paths[2], None, paths[3])
    return ()


def _targets(node: cst.CSTNode) -> Iterator[str]:
    targets: Sequence[cst.AssignTarget] = node.targets if isinstance(node, cst.Assign) else ()
    yield from (dotted_name(target.target) for target in targets)
