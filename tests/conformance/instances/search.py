"""The search for a tiny instance of one model type.

1. Depth: the fewest layers that show every kind of layer of the default config (on the meta device).
2. Everything else: profiles, from bold to careful; the first of which the model builds and runs.
3. One field after the other: what is still large is tried smaller, and what makes a harder case is tried.
"""

from __future__ import annotations

import ast
import contextlib
import copy
import functools
import inspect
import itertools
import re
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import nn
from transformers import CONFIG_MAPPING, PreTrainedConfig

from conformance import libraries, tiny
from conformance.instances import architectures, layers, names, needs, read, sizes
from conformance.instances.compose import composed
from conformance.instances.fields import (
    Draft,
    Path,
    architecture,
    attribute,
    computed,
    field,
    followers,
    nodes,
    own_fields,
    under,
    words,
)
from conformance.instances.inputs import Found, facts_of, fails_again, find, missing_placeholders
from conformance.instances.keys import (
    TIMES,
    as_large,
    sees_one_key,
    with_nothing_hidden,
    with_several_keys,
    without_unread,
)
from conformance.instances.reach import idle, unreached
from conformance.instances.recipes import Recipe, tensors
from conformance.instances.repair import FILL, of_towers, repairs, room, smaller_strides, tokens_without_room
from conformance.instances.trial import (
    Failed,
    built,
    further,
    gives_no_number,
    parameters,
    ran,
    reads_what_it_writes,
    small_enough,
)

Changes = dict[Path, Any]
SECONDS = 12  # of the processor, for profiles
SLOW = 0.1  # seconds of a forward with which checks of all methods take too long
REACHING = 40  # for towers that no input reaches
LARGE = "128/0"  # an image that windows fit into after three times of halving
DEPTHS = (2, 3, 4, 6, 8)  # numbers of layers that are tried
FILLS = 4  # changes, one after the other, with which a default config is built that does not build
OTHERS = 6  # errors, at other places of upstream's code each, that are heeded
QUICK = 0.4  # seconds for one set of inputs, where many configs are tried
SMALL = 160  # a whole number that is not larger needs no attention


@dataclass
class Outcome:
    """The instance of one model type, or why there is none."""

    model_type: str
    architecture: str
    config: Mapping[str, Any]
    inputs: Mapping[str, Recipe]
    parameters: int
    milliseconds: float
    profile: str
    needs: tuple[str, ...] = ()  # libraries without which it does not run
    idle: frozenset[str] = frozenset()  # parts of the model that the inputs do not reach


class Search:
    def __init__(
        self,
        model_type: str,
        say: Callable[[str], None] = lambda text: None,
        needs: tuple[str, ...] = (),
        seconds: float = SECONDS,
        optional: tuple[str, ...] = (),
    ) -> None:
        self.name = architecture(model_type)
        self.model_type = model_type
        self.say = say
        self.found: Found | None = None
        self.derived: dict[Path, set[Path]] = {}  # field -> what follows it; (): what classes set themselves
        self.errors: list[str] = []
        self.helpful: dict[str, Changes] = {}  # an error -> the first change after which there was another
        self.settled: frozenset[Path] = frozenset()  # fields that profiles leave alone, and all within them
        self.given = tiny.entries().get(model_type, {}).get("set", {})
        self.fixed = frozenset((name,) for name in self.given)  # the same, from the start, and of an architecture
        self.needs = needs
        self.seconds = seconds  # for profiles
        self.optional = optional  # parts that the default config does without, and that are to be there
        self.started = time.process_time()

    # One try ----------------------------------------------------------------------------------------------------

    def on_meta(self, draft: Draft) -> nn.Module:
        if self.last is not None and self.last[0] == draft:
            return self.last[1]
        model = self.fresh_on_meta(draft)
        self.last = (draft, model)
        return model

    last: tuple[Draft, nn.Module] | None = None

    def fresh_on_meta(self, draft: Draft) -> nn.Module:
        try:
            config = draft.build()
        except Exception as error:
            raise Failed(error) from error
        return built(self.name, config, "meta")

    def runs(self, draft: Draft) -> Found:
        """Inputs on which the model runs; raises `Failed`."""
        meta = self.on_meta(draft)
        if not small_enough(meta):
            raise Failed(ValueError(f"{parameters(meta):,} parameters are too many to try"))
        model = built(self.name, draft.build(), "cpu")
        if self.found is not None:
            try:
                missed = unreached(model, tensors(self.found.recipes(model.config)))
                if not missed <= self.found.missed:
                    raise ValueError(f"layers run no more: {sorted(missed - self.found.missed)}")
                return self.found
            except Exception as error:
                if self.profiled:
                    raise Failed(error) from error
        found = find(model)
        if gives_no_number(ran(model, tensors(found.recipes(model.config)))):
            raise Failed(ValueError("upstream's eager attention gives no numbers: all that comes out is NaN"))
        return found

    profiled = False

    # The whole --------------------------------------------------------------------------------------------------

    def outcome(self) -> Outcome:
        draft = self.filled(with_optional(with_declared(Draft(self.model_type, dict(self.given))), self.optional))
        draft = draft.changed(missing_placeholders(draft.seen))
        draft, profile = self.first(draft)
        draft = self.reaching(draft)
        self.profiled = True
        draft = self.smaller(draft)
        draft = self.quicker(draft)
        draft = self.harder(draft)
        return self.written(draft, profile)

    def first(self, draft: Draft) -> tuple[Draft, str]:
        """The first of the starts from which a model is found that runs."""
        told: list[Failed] = []
        for start in self.starts(draft):
            self.started = time.process_time()
            if told and (why := self.unbuilt(start)) and why == self.unbuilt(draft):
                continue  # nothing helped against this error before
            try:
                return self.from_parts(start) or self.from_defaults(start)
            except Exception as error:
                if self.unbuilt(start) and (found := self.from_parts(start, {})):
                    return found
                told.append(error if isinstance(error, Failed) else Failed(error))
                draft = start
                if len(told) == 2 and str(told[0]) == str(told[1]):
                    break  # no architecture changes this error
        raise told[0]

    def unbuilt(self, draft: Draft) -> str:
        """Why the model is not even built; "" where it is."""
        try:
            self.on_meta(draft)
        except Failed as failed:
            return str(failed)
        return ""

    def starts(self, draft: Draft) -> Iterator[Draft]:
        """`draft`, with small architectures in the place of those of a library that it names."""
        named = list(architectures.small(draft.seen)) if "timm" in self.needs else []
        if named:
            self.seconds = SECONDS / 3  # for each of them
        for changes in named:
            self.fixed = frozenset([*((name,) for name in self.given), *changes])
            self.say(f"architectures: {changes}")
            yield draft.changed(changes)
        if not named:
            yield draft

    def mended(self) -> Outcome:
        """The instance that is known, with inputs that reach more of its layers; raises `Failed` where none do."""
        known = read(self.model_type)
        self.settled = frozenset()
        before = unreached(built(self.name, known.config(), "cpu"), known.inputs())
        draft = self.reaching(Draft(self.model_type, known.fields))
        if self.found is None or len(self.found.missed) >= len(before):
            raise Failed(ValueError(f"no inputs reach more layers; missed are {sorted(before)}"))
        return self.written(draft, "mended")

    def shallower(self) -> Outcome:
        """The instance that is known, with fewer layers of each kind and the same inputs; raises `Failed` where it has no more than it needs."""
        known = read(self.model_type)
        draft = Draft(self.model_type, known.fields)
        full = layers.kinds(self.on_meta(draft))
        changed = self.try_depths(draft, full)
        before, after = (built(self.name, one.build(), "cpu") for one in (draft, changed))
        if parameters(after) >= parameters(before) or self.missing(changed, full):
            raise Failed(ValueError("with fewer layers it does not show each kind of layer"))
        if more := unreached(after, known.inputs()) - unreached(before, known.inputs()):
            raise Failed(ValueError(f"with fewer layers these run no more: {sorted(more)}"))
        return Outcome(self.model_type, self.name, changed.given, known.recipes, parameters(after), 0.0, "shallower")

    def widened(self) -> Outcome:
        """The instance that is known, with images and sounds so large that each attention sees several keys; raises `Failed` where none are."""
        known = read(self.model_type)
        for times in (1, *TIMES):
            draft = Draft(self.model_type, known.fields)
            sizes_of_images = sizes.of_kind(draft.seen, "image").items()
            draft = draft.changed({path: sizes.larger(value, times) for path, value in sizes_of_images})
            with contextlib.suppress(Failed):
                model = built(self.name, draft.build(), "cpu")
                self.found = as_large(times, model, Found({}, known.recipes))
                if not sees_one_key(model, tensors(self.found.recipes(model.config))):
                    return self.written(draft, "widened")
        raise Failed(ValueError("no size of images or sounds that was tried gives each attention several keys"))

    def written(self, draft: Draft, profile: str) -> Outcome:
        assert self.found is not None
        config = draft.build()
        model = built(self.name, config, "cpu")
        found = without_unread(model, with_several_keys(model, with_nothing_hidden(model, self.found)))
        recipes = found.recipes(config)
        ran(model, tensors(recipes))
        started = time.perf_counter()
        ran(model, tensors(recipes))
        spent = 1000 * (time.perf_counter() - started)
        shown = parameters(model), spent, profile, self.needs, idle(model, tensors(recipes))
        return Outcome(self.model_type, self.name, draft.given, recipes, *shown)

    def from_parts(
        self, draft: Draft, full: dict[str, list[layers.Signature]] | None = None
    ) -> tuple[Draft, str] | None:
        """A config that holds others, of which the instances are known; None if it holds none, or they do not fit.

        Args:
            full: the kinds of layers of `draft`; found where it is built, none where that is known not to work.
        """
        deadline = time.process_time() + self.seconds
        for changed, settled in composed(draft, self.known):
            if time.process_time() > deadline:
                break
            try:
                full = layers.kinds(self.on_meta(draft)) if full is None else full
                self.settled = settled
                self.derived = {(): computed(changed), **followers(changed, settled)}
                shallow = self.try_depths(changed, full)
                if self.missing(shallow, full):
                    raise Failed(ValueError("the parts do not show every kind of layer"))
                found, profile = self.small(shallow, self.seconds / 3)
                return found, f"parts, {profile}"
            except Exception as error:
                self.say(f"from parts: {str(error)[:300]}")
        self.settled = frozenset()
        return None

    def from_defaults(self, draft: Draft) -> tuple[Draft, str]:
        self.derived = {(): computed(draft), **followers(draft)}
        return self.small(self.shallow(draft), self.seconds)

    def known(self, model_type: str) -> Mapping[str, Any] | None:
        """The fields of the instance of a part; None where it is to have an architecture that was chosen for the whole."""
        if model_type == self.model_type or model_type not in names() or not set(needs(model_type)) <= set(self.needs):
            return None
        fields = read(model_type).fields
        return fields if not fields.keys() & set(architectures.NAMES) else None

    def filled(self, draft: Draft) -> Draft:
        """Many defaults do not build: sizes that are None are given one after the other until the model does."""
        for _ in range(FILLS):
            try:
                self.on_meta(draft)
                break
            except Failed as failed:
                why = _said(failed)
            draft, done = self.filled_once(draft, why)
            if done:
                break
        return draft

    def filled_once(self, draft: Draft, why: str) -> tuple[Draft, bool]:
        """`draft` with the first change with which it builds, or else meets another error than `why`; and whether that is all."""
        best = None
        for changes in self.fillings(draft):
            try:
                changed = draft.changed(changes)
                self.on_meta(changed)
                return changed, True
            except Failed as failed:
                if best is None and _said(failed) != why and "FieldValidation" not in str(failed):
                    best = changed
            except Exception:
                continue
        return (best, False) if best is not None else (draft, True)

    def fillings(self, draft: Draft) -> Iterator[Changes]:
        """What the error asks for with which `draft` is not built; then each size that is None, and all of them."""
        try:
            self.on_meta(draft)
        except Failed as failed:
            yield from list(repairs(draft.sketch, str(failed), failed.code))[:40]
        every = {
            (*path, name): FILL[sizes.kind(name)]
            for path, node in nodes(draft.sketch)
            for name, value in own_fields(node).items()
            if value is None and sizes.kind(name) in FILL
        }
        yield from ({path: value} for path, value in every.items())
        yield every

    # 1. Depth ---------------------------------------------------------------------------------------------------

    def shallow(self, draft: Draft) -> Draft:
        try:
            full = layers.kinds(self.on_meta(draft))
        except Failed:
            return self.try_depths(draft, {})
        return self.try_depths(draft, full)

    def try_depths(self, draft: Draft, full: dict[str, list[layers.Signature]]) -> Draft:
        best, least = draft, None
        for most in DEPTHS:
            for changes in self.depth_changes(draft, full, most):
                try:
                    changed = draft.changed(self.open(changes))
                    rank = self.missing(changed, full), self.left_deep(changed, full)
                except Exception:
                    continue
                if least is None or rank < least:
                    best, least = changed, rank
                if rank == (0, 0):
                    return changed
        return best

    def left_deep(self, draft: Draft, full: dict[str, list[layers.Signature]]) -> int:
        """How many stacks of the full model that are deeper than anything that is tried are as deep in `draft`."""
        now = layers.kinds(self.on_meta(draft))
        return sum(len(now.get(path, ())) == len(entries) > DEPTHS[-1] for path, entries in full.items())

    def missing(self, draft: Draft, full: dict[str, list[layers.Signature]]) -> int:
        """How many kinds of layers of the full model `draft` does not show."""
        shown = layers.shown(self.on_meta(draft))
        return sum(len(set(entries) - shown.get(path, set())) for path, entries in full.items())

    def open(self, changes: Changes) -> Changes:
        return {path: value for path, value in changes.items() if not under(path, self.settled | self.fixed)}

    def depth_changes(self, draft: Draft, full: dict[str, list[layers.Signature]], most: int) -> Iterator[Changes]:
        config = draft.seen
        plain = self.without_derived(sizes.depths(config, most)) | _stages(config, most)
        picks = self.picked(full, most)
        places = self.places_of_layers(config, picks, most)
        lasts = self.last_layers(config, picks)
        for per_layer, indices in (
            *((({}, places), (None, places)) if places else ()),
            *(({}, {}), (None, {})),
            *(((None, {**places, **lasts}), ({}, {**places, **lasts})) if lasts else ()),
        ):
            changes = {**plain, **indices}
            for path, value in self.lists_per_layer(config, picks):
                picked = picks.get(len(value))
                if picked is None:
                    picked = list(range(min(len(value), most)))
                if per_layer is None or path not in {p for moved in self.derived.values() for p in moved}:
                    changes[path] = [value[place] for place in picked]
            yield changes
        thresholds = {
            (*path, name): 1
            for path, node in nodes(config)
            for name, value in own_fields(node).items()
            if isinstance(value, int) and not isinstance(value, bool) and 1 < value <= 48
            and set(words(name)) & {"first", "dense", "interval", "freq", "period", "offset", "step", "every", "k", "layer"} and sizes.kind(name) in {"other", "depth", "window"}
        }  # fmt: skip
        if thresholds:
            yield {**plain, **thresholds}
            for path in thresholds:
                yield {**plain, path: 1}
                yield {**plain, path: 2}

    @staticmethod
    def picked(full: dict[str, list[layers.Signature]], most: int) -> dict[int, list[int]]:
        """Length of a list of layers -> the places that show each kind first, filled up to `most`."""
        picks: dict[int, list[int]] = {}
        for entries in full.values():
            places = layers.first_of_each(entries)[:most]
            others = [place for place in range(len(entries)) if place not in places]
            picks[len(entries)] = sorted(places + others[: max(0, most - len(places))])
        return picks

    @staticmethod
    def last_layers(config: Any, picks: dict[int, list[int]]) -> Changes:
        """Numbers that count the last of a config's layers: so many of these as stay."""
        changes: Changes = {}
        for path, node in nodes(config):
            own = own_fields(node)
            counts = {name: n for name, n in own.items() if sizes.kind(name) == "depth" and sizes.integers(n) == [n]}
            total = max((n for n in counts.values() if n in picks), default=0)
            for name, number in counts.items():
                if 2 < number < total:
                    changes[(*path, name)] = sum(place >= total - number for place in picks[total])
        return changes

    @staticmethod
    def places_of_layers(config: Any, picks: dict[int, list[int]], most: int) -> Changes:
        """Lists of numbers of layers, renumbered to the layers that stay."""
        changes: Changes = {}
        every = [count for _, node in nodes(config) for count in _depths(node)]
        for path, node in nodes(config):
            own = own_fields(node)
            for name, value in own.items():
                counts = _depths(node) or (every if {"layer", "layers"} & set(words(name)) else [])
                numbers = sizes.integers(value)
                if isinstance(value, int) and _says_a_layer(name) and counts and most <= value < max(counts):
                    changes[(*path, name)] = 0
                if not counts or not isinstance(value, list) or not numbers or len(set(numbers)) < len(numbers):
                    continue
                count = min((n for n in counts if n > max(numbers)), default=0)
                if not count or min(numbers) < -count or sizes.kind(name) in ("width", "heads", "head size"):
                    continue
                stay = picks.get(count, list(range(min(count, most))))
                kept = [place for place, old in enumerate(stay) if old in numbers]
                changes[(*path, name)] = kept or [len(stay) - 1]
        return changes

    @staticmethod
    def lists_per_layer(config: Any, picks: Mapping[int, list[int]]) -> Iterator[tuple[Path, list[Any]]]:
        """Lists with an entry per layer of their config; of words, where none of its numbers counts them, of a list of the model."""
        for path, node in nodes(config):
            own = own_fields(node)
            counts = {
                value
                for name, value in own.items()
                if sizes.kind(name) == "depth" and isinstance(value, int) and value > 2
            }
            for name, value in own.items():
                kinds = isinstance(value, list) and bool(value) and all(isinstance(entry, str) for entry in value)
                if isinstance(value, list) and len(value) in (counts or (picks if kinds else ())):
                    yield (*path, name), value

    # 2. Profiles ------------------------------------------------------------------------------------------------

    def small(self, draft: Draft, seconds: float) -> tuple[Draft, str]:
        """The first profile that runs, if need be repaired."""
        first: Failed | None = None
        furthest: Failed | None = None  # what is told: with the others, sizes were not even right
        deadline = time.process_time() + seconds
        failed_with: dict[str, str] = {}  # group of profiles -> the words of its last error, without the numbers
        told: list[str] = []  # all of them
        self.errors = []
        for careful in range(3):
            for name, changes in self.profiles(draft):
                if first is not None and time.process_time() > deadline + min(careful, 1) * seconds:
                    break
                group, _, pictures = name.partition(", image ")
                if not careful and len(self.errors) >= 4 and len(set(self.errors)) == 1:
                    break  # no size changes this error
                if not careful and pictures not in ("", LARGE) and failed_with.get(group, "") in told[:-1]:
                    continue  # another size of images does not change this error, unless all were too small
                try:
                    open_changes = self.without_derived(changes)
                    changed = draft.changed({**open_changes, **self.open(sizes.per_layer(draft.seen, open_changes))})
                    return self.repaired(changed, 1 if first is None else 2 * careful), name
                except Failed as failed:
                    self.say(f"{name}: {str(failed)[:300]} {failed.code.strip().partition(chr(10))[0].strip()}")
                    failed_with[group] = re.sub(r"\d+", "#", str(failed))
                    told.append(failed_with[group])
                    self.errors.append(str(failed))
                    first = first or failed
                    furthest = further(furthest, failed)
        assert furthest is not None
        raise furthest

    def repaired(self, draft: Draft, most: int, once_more: bool = True) -> Draft:
        """`draft`, if its model runs; else with up to `most` repairs one after the other, or one that helped other sizes."""
        try:
            sections = self.with_sections(draft)
            self.found = self.runs(sections)
            return sections
        except Exception as error:
            failed = error if isinstance(error, Failed) else Failed(error)
        if not most:
            if once_more and (helpful := self.helpful.get(str(failed))):
                return self.repaired(draft.changed(helpful), 0, once_more=False)
            raise failed
        for number, changes in enumerate(repairs(draft.sketch, str(failed), failed.code)):
            if number > 25 or time.process_time() > self.started + 3 * SECONDS:
                break
            try:
                return self.repaired(draft.changed(changes), 0)
            except Exception as again:
                self.say(f"  {changes}: {str(again)[:200]}")
                progress = _said(again) != _said(failed) and "FieldValidation" not in str(again)
            if progress:
                self.helpful.setdefault(str(failed), changes)
            if progress and most > 1:
                try:
                    return self.repaired(draft.changed(changes), most - 1)
                except Exception:
                    continue
        raise failed

    def without_derived(self, changes: Changes) -> Changes:
        """A field that follows another which is changed is left to its class."""
        moved = set(self.derived.get((), ()))
        for source in changes:
            if source not in moved:  # of two that follow each other, the first is given
                moved |= self.derived.get(source, set())
        return {
            path: value
            for path, value in self.open(changes).items()
            if path not in moved or sizes.kind(path[-1]) in ("vocabulary", "token")
        }

    @functools.cached_property
    def patches(self) -> int:
        """Along the side of an image of the default config; 0 where that does not build."""
        try:
            return facts_of(Draft(self.model_type, {}).seen).patches
        except Exception:
            return 0

    def with_sections(self, draft: Draft) -> Draft:
        """With what must fit to other sizes: sections of rotary embeddings, grids of images, maps of features."""
        config = draft.seen
        facts = facts_of(config)
        fitting = {**sizes.rope_sections(config), **sizes.grids(config, facts.image)}
        if self.patches and facts.patches != self.patches:
            full = Draft(self.model_type, {}).seen
            fitting |= {
                path: value
                for path, value in sizes.maps(full, facts.patches, self.patches).items()
                if field(config, path) is not None
            }
        return draft.changed(fitting) if fitting else draft

    def profiles(self, draft: Draft) -> Iterator[tuple[str, Changes]]:
        config = draft.seen
        vocabulary = sizes.vocabulary(config)
        try:
            special = sizes.tokens(draft.changed(vocabulary).seen)
        except Exception:  # a config that refuses a token beyond its vocabulary takes both only together
            special = sizes.tokens(config, high=sizes.smallest_vocabulary(vocabulary))
        ends = {**vocabulary, **special, **sizes.positions(config), **sizes.experts(config)}
        small_heads = sizes.heads(config)
        for only_heads, most in ((False, 8), (True, 8), (False, 16), (False, 12), (True, 16), (True, 12)):
            inner = {
                **sizes.widths(config, small_heads, most, only_heads),
                **small_heads,
                **sizes.head_sizes(config, most),
            }
            for image, patch in ((16, 4), (32, 4), (32, 2), (64, 0), (64, 4), (128, 0), (10**6, 0)):
                pictures = sizes.images(config, image, patch)
                if not pictures and image > 16:
                    continue
                yield (
                    f"all, head {most}, image {image}/{patch}{', only heads' * only_heads}",
                    {
                        **ends,
                        **inner,
                        **sizes.counts(config),
                        **pictures,
                        **sizes.windows(config),
                    },
                )
            yield f"all, head {most}, no windows{', only heads' * only_heads}", {**ends, **inner}
        narrow = {**sizes.widths(config, {}), **sizes.head_sizes(config)}
        for image in (32, 64):
            yield f"all but the number of heads, image {image}/4", {**ends, **narrow, **sizes.images(config, image, 4)}
        for image, patch in ((32, 4), (64, 0), (10**6, 0)):
            yield f"ends, image {image}", {**ends, **sizes.images(config, image, patch)}
        inner = {**sizes.widths(config, small_heads, 32), **small_heads, **sizes.head_sizes(config, 32)}
        powers = sizes.vocabulary(config, power=True)
        yield "all, head 32", {**ends, **powers, **inner, **sizes.images(config, 32, 4)}
        yield (
            "all, head 16, powers of two",
            {
                **ends,
                **sizes.widths(config, small_heads, 16),
                **small_heads,
                **powers,
                **sizes.images(config, 32, 4),
            },
        )
        yield "all but heads", {**ends, **powers, **sizes.images(config, 32, 4)}
        yield "vocabulary", {**vocabulary, **special}
        yield "depth", {}

    # 3. Images and sounds ---------------------------------------------------------------------------------------

    def reaching(self, draft: Draft) -> Draft:
        """`draft`, changed as errors ask for until inputs reach all layers, or most of them."""
        deadline = time.process_time() + REACHING
        best, found = self.first_reached(draft)
        waiting, tried = [(draft, found)], {_errors(found)}
        while waiting and found.missed and time.process_time() < deadline:
            start, before = waiting.pop(0)
            if before.why is None:
                continue
            self.say(f"missed {sorted(before.missed)}: {str(before.why)[:300]}")
            every = {one.code: one for one in (before.why, *before.why.others)[::-1]}  # the furthest at each place
            said = list(every.values())[::-1][:OTHERS]
            asked = ((one, changes) for one in said for changes in repairs(start.seen, str(one), one.code))
            sized = ((None, changes) for of in (self.towers, self.shortened) for changes in of(start.seen))
            for why, changes in itertools.chain(sized, asked):
                if time.process_time() > deadline:
                    break
                try:
                    changed = self.with_sections(start.changed(changes))
                    if why is not None and fails_again(self.small_model(changed), why):
                        continue
                    again = self.reached(changed, QUICK)
                except Exception:
                    continue
                if len(again.missed) < len(found.missed):
                    best, found = changed, again
                    waiting, tried = [(changed, again)], {_errors(again)}
                    self.say(f"reaches more with {changes}")
                    break
                if len(again.missed) == len(before.missed) and _errors(again) not in tried:
                    tried.add(_errors(again))
                    waiting.append((changed, again))
        self.found = found
        return best

    def first_reached(self, draft: Draft) -> tuple[Draft, Found]:
        """`draft`, with room in its vocabularies for what stands for an image or a sound, where it runs with that."""
        if tokens_without_room(draft.seen):
            with contextlib.suppress(Exception):
                roomy = draft.changed(self.open(room(draft.seen)))
                return roomy, self.reached(roomy)
        return draft, self.reached(draft)

    def reached(self, draft: Draft, seconds: float = 1) -> Found:
        return find(self.small_model(draft), seconds)

    def small_model(self, draft: Draft) -> Any:
        if not small_enough(self.fresh_on_meta(draft)):
            raise Failed(ValueError("too many parameters to try"))
        return built(self.name, draft.build(), "cpu")

    @staticmethod
    def towers(config: Any) -> Iterator[Changes]:
        """Sizes that a tower needs and a text never asks for, in all towers at once; then without windows and widths."""
        changes: Changes = {}
        for path, node in nodes(config):
            if path and "text" not in words(path[-1]):
                changes |= {(*path, name): value for name, value in sizes.of_tower(node).items()}
        yield from (each for each in (of_towers(config), changes) if each)

    def shortened(self, config: Any) -> Iterator[Changes]:
        """Lists of numbers of layers that are shorter than by default, as long again: what has one module per entry may have more."""
        try:
            full = Draft(self.model_type, {}).seen
        except Exception:
            return
        for path, node in nodes(config):
            for name, value in own_fields(node).items():
                before = field(full, (*path, name))
                if (
                    sizes.integers(value)
                    and isinstance(value, list)
                    and isinstance(before, list)
                    and len(value) < len(before)
                ):
                    yield {(*path, name): [value[place % len(value)] for place in range(len(before))]}

    # 4. One after the other -------------------------------------------------------------------------------------

    def keeps(self, draft: Draft, changes: Changes) -> Draft | None:
        """`draft` with `changes`, if the model still runs and says so; else None."""
        try:
            changed = self.with_sections(draft.changed(changes))
            if changed.seen.to_dict() == draft.seen.to_dict():
                return None
            self.runs(changed)
            return changed
        except Exception:
            return None

    def quicker(self, draft: Draft) -> Draft:
        """With smaller strides, where a forward takes long: what they make of an input is as many times as long as their product."""
        assert self.found is not None
        model = self.small_model(draft)
        started = time.process_time()
        ran(model, tensors(self.found.recipes(model.config)))
        if time.process_time() < started + SLOW:
            return draft
        for changes in smaller_strides(draft.seen):
            draft = self.keeps(draft, self.open(changes)) or draft
        return draft

    def smaller(self, draft: Draft) -> Draft:
        """Fields that are still large, each alone, and together with those of equal value."""
        deadline = time.process_time() + 4
        config = draft.seen
        large: dict[int, list[Path]] = {}
        for path, node in nodes(config):
            for name, value in own_fields(node).items():
                if (
                    sizes.kind(name) not in ("token", "vocabulary", "positions")
                    and not under((*path, name), self.fixed)
                    and isinstance(value, int)
                    and not isinstance(value, bool)
                    and value > SMALL
                ):
                    large.setdefault(value, []).append((*path, name))
        together = {
            path: 16 + 4 * place for place, value in enumerate(sorted(large)) if place < 12 for path in large[value]
        }
        if together and (changed := self.keeps(draft, together)):
            return changed
        for value, paths in sorted(large.items(), reverse=True):
            for group in [paths] if len(paths) == 1 else [paths, *([path] for path in paths)]:
                if time.process_time() > deadline:
                    return draft
                group = [path for path in group if field(draft.seen, path) == value]
                for small in (16, 32, 64, value // 8, value // 4) if group else ():
                    if small < value and (changed := self.keeps(draft, dict.fromkeys(group, small))):
                        draft = changed
                        break
        return draft

    def harder(self, draft: Draft) -> Draft:
        """Fewer key heads, dropout, a token for padding, wider windows: kept where the model takes them, and reads what it writes as before."""
        for changes in self.harder_changes(draft):
            changed = self.keeps(draft, changes)
            if changed is not None and not self.is_read_no_more(draft, changed, changes):
                draft = changed
        return draft

    def is_read_no_more(self, draft: Draft, changed: Draft, changes: Changes) -> bool:
        """Whether upstream reads its own checkpoint of `draft` and not of `changed`: it may cut a weight into equal parts (Gradium Phonon)."""
        if not any(sizes.kind(path[-1]) == "heads" for path in changes):
            return False
        before, after = (reads_what_it_writes(built(self.name, one.build(), "cpu")) for one in (draft, changed))
        return before and not after

    def harder_changes(self, draft: Draft) -> Iterator[Changes]:
        config = draft.seen
        for path, node in nodes(config):
            own = own_fields(node)
            for name, value in own.items():
                said = set(words(name))
                if said & {"kv", "key"} and sizes.kind(name) == "heads" and not isinstance(value, list):
                    heads = attribute(node, "num_attention_heads")
                    if isinstance(heads, int) and heads > 2 and value in (None, heads):
                        yield {(*path, name): heads // 2}
        dropouts = {
            (*path, name): 0.1
            for path, node in nodes(config)
            for name, value in own_fields(node).items()
            if isinstance(value, (int, float)) and not isinstance(value, bool) and value != 0.1
            and set(words(name)) & {"dropout", "pdrop"}
        }  # fmt: skip
        if dropouts:
            yield dropouts
            for path, value in dropouts.items():
                yield {path: value}
        for path, node in nodes(config):
            if vars(node).get("pad_token_id", 0) is None and "vocab_size" in vars(node):
                yield {(*path, "pad_token_id"): 0}
            if not path and config.is_encoder_decoder and vars(node).get("decoder_start_token_id", 0) is None:
                yield {(*path, "decoder_start_token_id"): 0}
        if self.found is not None and "put" in self.found.recipes(config).get("input_ids", {}):
            yield wider_windows(config)


def wider_windows(config: Any) -> Changes:
    """Sliding windows twice as wide: else the last token of a prompt may see nothing of the image that stands in front of it."""
    windows = sizes.of_kind(config, "window")
    return {
        path: 2 * value for path, value in windows.items() if "sliding" in words(path[-1]) and isinstance(value, int)
    }


def _said(error: Exception) -> str:
    """What an error says, and of what: two fields that are None fail in the same words."""
    return f"{error}\n{error.code}" if isinstance(error, Failed) else str(error)


def _errors(found: Found) -> frozenset[str]:
    """What upstream said on all sets of inputs."""
    return frozenset(str(one) for one in (found.why, *found.why.others)) if found.why else frozenset()


def _depths(node: Any) -> list[int]:
    """How many layers `node` counts, in each of its stacks."""
    own = own_fields(node)
    return [n for name, n in own.items() if sizes.kind(name) == "depth" and isinstance(n, int) and n > 2]


def _stages(config: Any, most: int) -> Changes:
    """Names of stages, of which each is a layer: the last of those that stay, where there are as many."""
    return {
        (*path, name): [f"stage{most - len(value) + place}" for place in range(1, len(value) + 1)]
        for path, node in nodes(config)
        for name, value in own_fields(node).items()
        if name == "out_features" and isinstance(value, list) and len(value) <= most
        and all(re.fullmatch(r"stage\d+", stage) for stage in value)
        and int(value[-1].removeprefix("stage")) in _depths(node)
    }  # fmt: skip


def _says_a_layer(name: str) -> bool:
    """Whether it is the number of one layer, by its words."""
    said = words(name)
    return said[-1] in ("index", "idx", "id") and sizes.kind(name) == "other" and bool({"layer", "merge"} & set(said))


KNOWN = {
    "mend": Search.mended,
    "shallow": Search.shallower,
    "widen": Search.widened,
}  # single steps, which start at the instance that is known


def search(model_type: str, say: Callable[[str], None] = lambda text: None, step: str = "") -> Outcome:
    """
    Args:
        step: of `KNOWN`; "" for the whole search.
    """
    torch.set_num_threads(1)
    if why := without_a_forward(architecture(model_type)):
        raise Failed(TypeError(why))
    if step:
        return KNOWN[step](Search(model_type, say, needs(model_type)))
    asked = libraries_asked_for(Search(model_type).unbuilt(Draft(model_type, {})))
    for optional in choices_of_parts(model_type) if not asked else ():
        with contextlib.suppress(
            Exception
        ):  # whatever upstream raises: there are fewer, or none, without which it runs
            outcome = Search(model_type, say, optional=optional).outcome()
            if not outcome.idle:
                return outcome
            say(f"with {', '.join(optional)}, inputs do not reach {', '.join(sorted(outcome.idle))}")
    if not asked:
        return Search(model_type, say).outcome()
    with contextlib.suppress(Failed):  # parts of upstream's own may take the place of the library's
        outcome = Search(model_type, say, seconds=SECONDS / 3).outcome()
        if not outcome.idle:
            return outcome
    if why := libraries.missing(asked):
        raise Failed(ImportError(why))
    return Search(model_type, say, asked).outcome()


def with_declared(draft: Draft) -> Draft:
    """`draft`, with parts of the types that its class declares, where it makes others of nothing (PP-OCR v6)."""
    try:
        config = draft.seen
    except Exception:  # its defaults do not fit each other
        return draft
    changes: Changes = {}
    for name, declared in type(config).sub_configs_defaults.items():
        part = getattr(config, name, None)
        if isinstance(part, PreTrainedConfig) and name not in draft.given and part.model_type != declared.model_type:
            changes[name,] = {"model_type": declared.model_type, **copy.deepcopy(declared.init_kwargs)}
    return draft.changed(changes)


def choices_of_parts(model_type: str) -> list[tuple[str, ...]]:
    """Parts of declared types that the default config has none of, as the towers of Gemma 4: all of them together, then fewer."""
    try:
        config = Draft(model_type, {}).seen
    except Exception:
        return []
    absent = [name for name in declared_parts(type(config)) if getattr(config, name, None) is None]
    counts = range(len(absent), 0, -1)
    return [chosen for count in counts for chosen in itertools.combinations(absent, count)]


def declared_parts(cls: type[PreTrainedConfig]) -> dict[str, dict[str, Any]]:
    """Fields of a config that hold another whose model type is declared, with what that one is made of: by its class, or beside `AutoConfig`."""
    found: dict[str, dict[str, Any]] = {}
    for name, part in cls.sub_configs.items():
        declared = cls.sub_configs_defaults.get(name)
        model_type = getattr(declared, "model_type", None) or getattr(part, "model_type", None)
        if model_type in CONFIG_MAPPING:
            found[name] = {"model_type": model_type, **copy.deepcopy(getattr(declared, "init_kwargs", None) or {})}
    return found


def with_optional(draft: Draft, names: tuple[str, ...]) -> Draft:
    """`draft`, with the parts of these names, of the types that its class declares."""
    declared = declared_parts(CONFIG_MAPPING[draft.model_type])
    return draft.changed({(name,): declared[name] for name in names})


def without_a_forward(name: str) -> str:
    """Why upstream's class `name` has no forward that adapters could be trained with; "" where it has one, or is not exported."""
    forward = getattr(getattr(transformers, name, None), "forward", None)
    if forward is nn.Module.forward:
        return f"{name} has no forward: upstream calls other methods of it"
    if forward is not None and _decorated(forward, "inference_mode"):
        return f"{name}.forward runs under torch.inference_mode, in which nothing can be trained"
    return ""


def _decorated(function: Callable[..., Any], name: str) -> bool:
    """Whether a decorator of `function`, as it is written, is called `name`."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(function))).body
    decorators = tree.decorator_list if isinstance(tree, ast.FunctionDef) else ()
    return any(name in ast.unparse(one) for one in decorators)


def libraries_asked_for(text: str) -> tuple[str, ...]:
    """Those whose absence upstream reports."""
    return tuple(re.findall(r"requires the (\w+) library", text))
