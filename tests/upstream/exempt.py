"""Tests of upstream's that do not run on AdapterModels, or cannot hold, each with its reason.

An entry names tests and what a model must be for the entry to speak of it. Where it does, the test must be skipped by upstream, or
fail, with the words that the entry expects: an entry that no longer holds fails.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    PrefixChange,
    WeightRenaming,
    process_target_pattern,
    revert_weight_conversion,
)
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

from conformance import heads
from conformance.checks.checkpointing import (
    MOST_RECOMPUTED,
    InBackward,
    upstreams_gradients,
)
from conformance.outputs import run
from conformance.subjects import BATCH, Subject, head_subjects, model_class, upstream_is_built
from conformance.tiny import configs_of
from upstream.model_tester import (
    ModelTester,
    attentions_of,
    hidden_states_of,
    lengths,
    masks_inputs,
    needed,
    outputs_of,
    part_of_head,
    patches,
    without_dropped_layers,
    without_long_masks,
)


@dataclass(frozen=True)
class Facts:
    """What entries ask about a model."""

    subject: Subject  # upstream's base class and its instance
    config: PreTrainedConfig
    upstream: type[PreTrainedModel]
    tested: type[PreTrainedModel]
    head: str  # the type of the AdapterModel's head; "" = it can have none
    attentions: bool  # the model gives its attention weights out
    own: Callable[[str], str] = (
        lambda name: ""
    )  # what a test says of upstream's own class with the instance; "" = it passes

    @functools.cached_property
    def on_meta(self) -> PreTrainedModel:
        """The AdapterModel without memory. To be read only."""
        with torch.device("meta"):
            return self.tested(self.subject.config())

    @functools.cached_property
    def with_head(self) -> PreTrainedModel:
        """The same with the head that upstream's tests run on."""
        with torch.device("meta"):
            return self.tested(ModelTester(self.subject.model_type).get_config())

    @property
    def embeddings(self) -> torch.nn.Module | None:
        """What upstream takes for the embeddings of the inputs."""
        with contextlib.suppress(NotImplementedError):
            return self.on_meta.get_input_embeddings()
        return None

    @property
    def sdpa(self) -> bool:
        return self.tested._supports_sdpa

    @property
    def vocabulary(self) -> bool:
        """The head scores the tokens of a vocabulary, with weights that may be those of the embeddings."""
        return self.head.endswith("_lm")

    @property
    def always_tied(self) -> bool:
        """The configuration says tied, whatever it is told."""
        config = self.subject.config()
        with contextlib.suppress(Exception):
            config.get_text_config().tie_word_embeddings = False
        config.tie_word_embeddings = False  # as upstream's test does, also of a config that holds it in a part alone
        return bool(config.tie_word_embeddings)


@dataclass(frozen=True)
class Exempt:
    """Tests with a reason."""

    tests: str  # patterns of names, without test_, with spaces between
    reason: str
    says: str  # a regular expression that what upstream says must hold
    when: Callable[[Facts], bool] = lambda facts: True
    of_upstream: bool = False  # it says so of upstream's own class with the same instance, too
    word_for_word: bool = False  # and nothing else than of that, but for the name of the class

    def covers(self, name: str, facts: Facts) -> bool:
        if not any(fnmatchcase(name, f"test_{pattern}") for pattern in self.tests.split()):
            return False
        if self.of_upstream and not re.search(self.says, facts.own(name)):  # first: conditions may run models
            return False
        return self.when(facts)

    def check(self, name: str, said: str, facts: Facts | None = None) -> None:
        """Raise where a test was skipped or failed in another way.

        Raises:
            AssertionError: it was.
        """
        if self.word_for_word and facts is not None:
            renamed = said.replace(facts.tested.__name__, facts.upstream.__name__)
            theirs, ours = facts.own(name), renamed.replace("WithAdapters", "")  # of classes of layers
            if _words(theirs) != _words(ours):
                raise AssertionError(f"{name} says of upstream's own class {theirs}, but of ours {ours}")
        if not re.search(self.says, said):
            raise AssertionError(
                f"{name} should be skipped or fail with /{self.says}/ ({self.reason}). What it says is: {said}"
            )


def _words(said: str) -> list[str]:
    """In one order: what names several things may name them in any. What was measured depends on the weights, which are others."""
    return sorted(re.findall(r"[\w.]+", re.sub(r"\d\.\d+e[-+]\d+", "", said)))


def exempt(name: str, facts: Facts) -> Exempt | None:
    """The first entry for the test of this name."""
    return next((entry for entry in EXEMPT if entry.covers(name, facts)), None)


def _without(package: str) -> Callable[[Facts], bool]:
    return lambda facts: importlib.util.find_spec(package) is None


@functools.cache
def _on_the_way_back(subject: Subject) -> str:
    """What upstream's own class says on the way back through reentrant checkpoints, from states; "" = it comes to an end. (The test
    itself leaves upstream's classes without heads out.)"""
    config = without_long_masks(subject.config(), lengths(subject)[0])
    config.use_cache = False
    upstream = model_class(subject.architecture)(without_dropped_layers(config))
    found = upstreams_gradients(upstream, subject.padded_inputs(), reentrant=True)
    return str(found) if isinstance(found, InBackward) else ""


def _goes_back_with(said: str) -> Callable[[Facts], bool]:
    return lambda facts: bool(facts.head) and said in _on_the_way_back(facts.subject)


def _without_device(facts: Facts) -> bool:
    from transformers.testing_utils import torch_device  # importing it takes seconds

    return torch_device == "cpu"


def _without_experts(facts: Facts) -> bool:
    return not facts.upstream._can_set_experts_implementation()


def _without_fp32_modules(facts: Facts) -> bool:
    """Upstream keeps no module in float32, not of a part either."""
    return not (facts.on_meta._keep_in_fp32_modules or facts.on_meta._keep_in_fp32_modules_strict)


def _without_plan(facts: Facts) -> bool:
    """Upstream has no plan for tensor parallelism, not for a part either."""
    return all(getattr(config, "base_model_tp_plan", None) is None for config in configs_of(facts.config))


def _experts(facts: Facts) -> list[torch.nn.Module]:
    """Those that one of several functions can compute."""
    return [module for module in facts.on_meta.modules() if hasattr(module, "is_concatenated")]  # upstream's decorator


def _has_narrow_experts(facts: Facts) -> bool:
    """Rows of the weights of experts are no whole 16 bytes, at two bytes a number."""
    weights = (
        weight for module in _experts(facts) for weight in module.parameters(recurse=False) if weight.dim() == 3
    )
    return any(2 * weight.shape[-1] % 16 for weight in weights)


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


def _embeds_for_none(facts: Facts) -> bool:
    """Upstream trains on a loss with gradient checkpointing, and watches what reaches the embeddings: they have no matrix, or
    one that upstream freezes (Idefics), or what comes first out of a model without heads is
    that of a part (InstructBLIP for videos), or always sums to the same (VideoPrism's shares of each text), or they are of a part that does
    not run under the head."""
    weight = getattr(facts.embeddings, "weight", None)
    if not facts.upstream.supports_gradient_checkpointing or weight is None or not weight.requires_grad:
        return True
    first = next(iter(outputs_of(facts.subject).values()), None)
    if not facts.head and (not isinstance(first, (torch.Tensor, tuple)) or _is_of_shares(first)):
        return True
    return not _is_read(facts, lambda module: module is facts.embeddings)


def _is_of_shares(output: Any) -> bool:
    """Its rows or its columns each sum to one."""
    if not isinstance(output, torch.Tensor) or not output.is_floating_point() or output.dim() != 2:
        return False
    return any(torch.allclose(sums, torch.ones_like(sums)) for sums in (output.sum(0), output.sum(1)))


def _has_no_loss(facts: Facts) -> bool:
    """Nothing computes a loss: there is no head, and the model itself is given no labels (CSM's are of the instance)."""
    return not facts.head and "labels" not in facts.subject.padded_inputs()


def _checkpoints_unread_first(facts: Facts) -> bool:
    """The first layer that can be checkpointed is of a part that does not run under the head."""
    return not _is_read(facts, lambda module: isinstance(module, GradientCheckpointingLayer))


def _is_read(facts: Facts, sought: Callable[[torch.nn.Module], bool]) -> bool:
    """The first module that is `sought` is of what runs under the head; True where there is none."""
    read = facts.on_meta.base_model.get_submodule(part_of_head(facts.subject.model_type))
    first = next((module for module in facts.on_meta.modules() if sought(module)), read)
    return any(module is first for module in read.modules())


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
    return bool(sources) and all(source.startswith("^") for source in sources)


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


def _checkpoints_nowhere(facts: Facts) -> bool:
    """Upstream says that the model supports gradient checkpointing, and no module of it has the switch."""
    switches = any(hasattr(module, "gradient_checkpointing") for module in facts.on_meta.modules())
    return facts.tested.supports_gradient_checkpointing and not switches


def _models(facts: Facts) -> Iterator[PreTrainedModel]:
    """The model and those inside."""
    return (module for module in facts.on_meta.modules() if isinstance(module, PreTrainedModel))


def _has_part_without_choice(facts: Facts) -> bool:
    """Upstream's file of a model inside has attention of one kind only."""
    return not all(model._can_set_attn_implementation() for model in _models(facts))


def _draws_at_random(facts: Facts) -> bool:
    """Upstream's model draws numbers in evaluation too: two seeds give different things, if only attention weights (Informer). What a
    head does not hand on is not looked at (VibeVoice ASR's states of sounds)."""
    differing = _differing_by_seed(facts.subject, facts.attentions)
    return bool(differing) and bool(differing - _left_out(facts))


@functools.cache
def _differing_by_seed(subject: Subject, attentions: bool) -> frozenset[str]:
    """Names of outputs, as of the first of nested ones."""
    inputs = subject.padded_inputs() | ({"output_attentions": True} if attentions else {})
    one, other = (run(subject.upstream(), inputs, seed=seed) for seed in (1, 2))
    differing = (name for name in one if name not in other or not torch.equal(one[name], other[name]))
    return frozenset(name.partition(".")[0] for name in differing)


def _left_out(facts: Facts) -> frozenset[str]:
    """Outputs of upstream's model that no output class of the AdapterModel's head holds, and that it does not compute from."""
    return _left_out_by_head(facts.subject.model_type) if facts.head else frozenset()


@functools.cache
def _left_out_by_head(model_type: str) -> frozenset[str]:
    config, inputs = ModelTester(model_type).prepare_config_and_inputs_for_common()
    model = heads.adapter_model_class(model_type)(config).eval()
    read = {"last_hidden_state", "pooler_output"}
    given = {
        name
        for name, value in outputs_of(heads.base_subject(model_type)).items()
        if not isinstance(value, tuple) or value
    }
    return frozenset(given - read - set(_outputs(model, inputs)))


def _outputs(model: PreTrainedModel, inputs: dict[str, Any]) -> dict[str, Any]:
    """With states and attention weights."""
    with torch.no_grad():
        outputs: dict[str, Any] = model(**inputs, output_hidden_states=True, output_attentions=True, return_dict=True)
        return outputs


def _holds_no_difference(facts: Facts) -> bool:
    """Of a tensor of the model the largest difference from itself is no number: it is empty, or holds infinities."""
    tensors = facts.subject.upstream().state_dict().values()
    return any(not tensor.numel() or bool(tensor.isinf().any()) for tensor in tensors)


def _captured(facts: Facts) -> dict[str, Any]:
    """What upstream records with hooks: name -> where."""
    return {name: where for model in _models(facts) for name, where in (model._can_record_outputs or {}).items()}


def _captures_layers(facts: Facts) -> bool:
    """Some model inside records its hidden states at one class of layers."""
    return any(
        not isinstance((model._can_record_outputs or {}).get("hidden_states", []), list) for model in _models(facts)
    )


def _has_several_that_record(facts: Facts) -> bool:
    """More than one model inside records its hidden states, or one gives more of them than its layers do."""
    if len(hidden_states_of(facts.subject)) > len(attentions_of(facts.subject)) + 1:
        return True
    recording = [model for model in _models(facts) if "hidden_states" in (model._can_record_outputs or {})]
    return len([model for model in recording if model is not facts.on_meta]) > 1


def _runs_layers_again(facts: Facts) -> bool:
    """There are more hidden states than layers that they are recorded at: these run again, for each frame of a video (VideoMT)."""
    recorded = tuple(where for where in _captured_states(facts) if isinstance(where, type))
    layers = [module for module in facts.on_meta.modules() if recorded and isinstance(module, recorded)]
    return bool(layers) and len(hidden_states_of(facts.subject)) > len(layers) + 1


def _counts_other_layers(facts: Facts) -> bool:
    """The configuration counts more layers than record hidden states: some are of another kind."""
    (recorded,) = _captured_states(facts) if len(_captured_states(facts)) == 1 else (None,)
    if not isinstance(recorded, type):
        return False
    layers = sum(isinstance(module, recorded) for module in facts.on_meta.modules())
    return layers < int(getattr(facts.config, "num_hidden_layers", 0))


def _gives_a_tensor(facts: Facts) -> bool:
    """Upstream's model gives a tensor alone."""
    return not outputs_of(facts.subject)


def _captured_states(facts: Facts) -> list[Any]:
    """Where upstream records hidden states."""
    found = [(model._can_record_outputs or {}).get("hidden_states") for model in _models(facts)]
    return [getattr(where, "target_class", where) for where in found if where is not None]


def _gives_states_of_several(facts: Facts) -> bool:
    """As an encoder and a decoder do, and BLIP-2, whose outputs hold those of its parts."""
    return "hidden_states" not in outputs_of(facts.subject)


def _gives_no_states_of_texts(facts: Facts) -> bool:
    """There is neither one stack nor one for texts. (The name is that of upstream's test.)"""
    outputs = outputs_of(facts.subject)
    return _gives_states_of_several(facts) and "hidden_states" not in (outputs.get("text_model_output") or {})


def _first_is_chosen(facts: Facts) -> bool:
    """What upstream's model gives first has no gradient: it is chosen, as which points match."""
    return next(iter(_in_training(facts.subject).values())).grad_fn is None


def _in_training(subject: Subject) -> dict[str, Any]:
    outputs: dict[str, Any] = subject.upstream()(**subject.padded_inputs(), return_dict=True)
    return outputs


def _gives_weights_with_states_only(facts: Facts) -> bool:
    """Upstream's model fails where attention weights are asked for without hidden states, and not with these."""
    inputs = facts.subject.padded_inputs()
    try:
        facts.subject.upstream()(**inputs, output_attentions=True)
    except TypeError:
        return bool(facts.attentions)
    return False


def _agrees_in_double(facts: Facts) -> bool:
    """In double precision upstream's eager attention gives what its sdpa attention gives, so that only rounding makes a difference."""
    return _agree_in_double(facts.subject)


@functools.cache
def _agree_in_double(subject: Subject) -> bool:
    kinds = ("eager", "sdpa")
    models = [
        model_class(subject.architecture)._from_config(subject.config(), attn_implementation=kind) for kind in kinds
    ]
    models[1].load_state_dict(models[0].state_dict())
    inputs = {name: _doubled(value) for name, value in subject.padded_inputs().items()}
    try:
        eager, sdpa = (run(model.double().eval(), inputs) for model in models)
    except RuntimeError:  # weights that are made in single precision
        return False
    floats = [name for name, value in eager.items() if value.is_floating_point()]
    return all(torch.allclose(eager[name], sdpa[name], atol=1e-9, rtol=1e-9) for name in floats)


def _rows_agree_in_double(facts: Facts) -> bool:
    """In double precision upstream's model gives for the first row what it gives for that alone."""
    inputs = {name: _doubled(value) for name, value in facts.subject.padded_inputs().items()}
    model = facts.subject.upstream().double().eval()
    try:
        rows, alone = (run(model, {name: value[:end] for name, value in inputs.items()}) for end in (None, 1))
    except (
        RuntimeError,
        ValueError,
        IndexError,
        TypeError,
    ):  # an input of no rows, or weights that are made in single precision
        return False
    floats = [name for name, value in alone.items() if value.is_floating_point() and value.dim()]
    return all(
        rows[name][:1].shape == alone[name].shape and torch.allclose(rows[name][:1], alone[name], atol=1e-9, rtol=1e-9)
        for name in floats
    )


def _doubled(value: torch.Tensor) -> torch.Tensor:
    return value.double() if value.is_floating_point() else value


def _holds_configs_of_one_class(facts: Facts) -> bool:
    """A model inside a part has a configuration of the class of another part's (VibeVoice's two encoders of sounds)."""
    config = facts.on_meta.config
    parts = [getattr(config, name) for name in config.sub_configs]
    inside = [model.config for model in _models(facts) if not any(model.config is part for part in (config, *parts))]
    return any(type(one) is type(part) for one in inside for part in parts)


def _has_part_without_sdpa(facts: Facts) -> bool:
    return not all(model._supports_sdpa for model in _models(facts))


def _takes_no_tokens(facts: Facts) -> bool:
    return "input_ids" not in facts.subject.padded_inputs()


def _refuses_masks(facts: Facts) -> bool:
    """The forward has an argument for masked patches, and upstream's model in this configuration fails with it. (Upstream's test
    sets the option for it where the configuration has one. A head that paints masked patches brings the token along.)
    """
    takes = "bool_masked_pos" in inspect.signature(facts.upstream.forward).parameters
    brings = facts.head in heads.HEADS and heads.HEADS[facts.head].masks is not None
    if not takes or brings or hasattr(facts.config, "use_mask_token"):
        return False
    inputs = facts.subject.padded_inputs()
    try:
        facts.subject.upstream()(**inputs, bool_masked_pos=torch.zeros(BATCH, patches(facts.config)).bool())
    except AttributeError:
        return True
    return False


def _reads_fewer(facts: Facts) -> bool:
    """The cross attention is over other positions than that of the encoder: an adapter of upstream's made fewer of them (SeamlessM4T
    v2), or the encoder's is local (LED)."""
    outputs = outputs_of(facts.subject)
    cross, own = outputs.get("cross_attentions"), attentions_of(facts.subject)
    return bool(cross) and bool(own) and facts.config.is_encoder_decoder and cross[0].shape[-1] != own[0].shape[-1]


def _has_unlike_stacks(facts: Facts) -> bool:
    """The hidden states of the decoder are of another number than those of the encoder, or of another width."""
    encoder, decoder = (outputs_of(facts.subject).get(f"{name}_hidden_states") for name in ("encoder", "decoder"))
    if not encoder or not decoder:
        return False
    return len(encoder) != len(decoder) or encoder[0].shape[-1] != decoder[0].shape[-1]


def _crosses_from_streams(facts: Facts) -> bool:
    """The cross attention is of more queries than the decoder has states, as of several streams behind one another (ProphetNet)."""
    outputs = outputs_of(facts.subject)
    cross, states = outputs.get("cross_attentions"), outputs.get("decoder_hidden_states")
    return bool(cross) and bool(states) and cross[0].shape[-2] > states[0].shape[-2]


def _has_parallel_streams(facts: Facts) -> bool:
    """Each token has states of several residual streams."""
    states = hidden_states_of(facts.subject)
    return not _takes_no_tokens(facts) and bool(states) and states[0].dim() > 3


def _counts_in_inputs(facts: Facts) -> bool:
    """An input beside the first says in whole numbers what that consists of, as how many patches an image has (Qwen)."""
    inputs = facts.subject.padded_inputs()
    counts = any(not inputs[name].is_floating_point() for name in needed(facts.subject))
    return counts and not masks_inputs(facts.subject)  # the tester gives enough rows of a mask


def _takes_codes(facts: Facts) -> bool:
    """Tokens of several codebooks at each position."""
    inputs = facts.subject.padded_inputs()
    return any(name in inputs and inputs[name].dim() > 2 for name in ("input_ids", "decoder_input_ids"))


def _masks_too_few(facts: Facts) -> bool:
    """A sound that has fewer features per frame than frames: a mask of so many leaves out the rest."""
    sound = facts.subject.padded_inputs().get("input_features")
    return sound is not None and sound.dim() == 3 and sound.shape[2] < sound.shape[1]


def _gives_no_states_of_encoder(facts: Facts) -> bool:
    """The configuration says that there is an encoder, and the outputs have no states by its name."""
    return facts.config.is_encoder_decoder and "encoder_hidden_states" not in outputs_of(facts.subject)


def _records_nothing(facts: Facts) -> bool:
    """Hidden states can be asked for, and there are none."""
    return outputs_of(facts.subject).get("hidden_states") == ()


def _streams_come_first(facts: Facts) -> bool:
    """The first dimension of hidden states is no row."""
    states = hidden_states_of(facts.subject)
    return bool(states) and states[0].dim() > 3 and states[0].shape[0] != BATCH


def _nests_states(facts: Facts) -> bool:
    """Hidden states are lists of lists, one of each tower (BridgeTower)."""
    states = outputs_of(facts.subject).get("hidden_states")
    return bool(states) and not all(isinstance(state, torch.Tensor) for state in states)


def _works_lengths_out(facts: Facts) -> bool:
    """A decoder that is given no tokens, and makes as many states of them as its weights say."""
    inputs = facts.subject.padded_inputs()
    return facts.config.is_encoder_decoder and "input_ids" in inputs and "decoder_input_ids" not in inputs


def _attends_in_pieces(facts: Facts) -> bool:
    """An attention is over other positions than all hidden states, as over those of one frame (TimeSformer)."""
    weights, tester = attentions_of(facts.subject), ModelTester(facts.subject.model_type)
    if hasattr(tester, "chunk_length"):  # upstream's test knows those that are cut like this
        return False
    return bool(weights) and weights[0].shape[-2] != getattr(tester, "encoder_seq_length", tester.seq_length)


def _has_more_layers(facts: Facts) -> bool:
    """More than upstream allows the instances of its own tests. (Its number.)"""
    layers: object = ModelTester(facts.subject.model_type).num_hidden_layers
    return (
        isinstance(layers, int) and layers > 2
    )  # LXMERT's configuration counts them by kinds, which upstream leaves out


def _has_more_rows(facts: Facts) -> bool:
    """The embeddings are of more than the tokens that the head predicts."""
    rows = getattr(facts.embeddings, "num_embeddings", 0)
    return facts.vocabulary and rows > getattr(facts.config.get_text_config(), "vocab_size", rows)


def _before_2023(facts: Facts) -> bool:
    years = re.findall(
        r"^# Copyright (\d{4})", inspect.getsource(sys.modules[type(facts.config).__module__]), re.MULTILINE
    )
    return not years or int(years[0]) < 2023


def _without_known_parts(facts: Facts) -> bool:
    """The names are those of upstream's test."""
    base = facts.on_meta.base_model
    towers = ("visual", "image_tower", "vision_tower", "vision_model", "audio_tower", "audio_model")
    has_tower = any(getattr(base, name, None) is not None for name in towers)
    return not (has_tower and any(hasattr(base, name) for name in ("language_model", "model", "text_model")))


def _without_window(facts: Facts) -> bool:
    return not (hasattr(facts.config, "sliding_window") and hasattr(facts.config, "use_sliding_window"))


EXEMPT: tuple[Exempt, ...] = (
    # The machine
    Exempt(
        "can_load_with_device_context_manager can_load_with_global_device_set cpu_offload disk_offload_* "
        "flex_attention_with_grads sdpa_can_compile_dynamic sdpa_can_dispatch_on_flash",
        "it needs an accelerator",
        "test requires accelerator",
        _without_device,
    ),
    Exempt("model_parallelism", "it needs several accelerators", "requires multiple accelerators", _without_device),
    Exempt("flash_attn_kernels_mps_*", "it needs an Apple device", "requires MPS"),
    Exempt("*_with_deepspeed*", "it needs deepspeed", "requires deepspeed", _without("deepspeed")),
    Exempt(
        "flash_attn_kernels_inference_equivalence kernels_can_load_without_crashing",
        "it needs the package kernels",
        "requires the kernels library",
        _without("kernels"),
    ),
    Exempt("flash_attn_[234]_*", "it needs Flash Attention", "requires Flash Attention", _without("flash_attn")),
    Exempt("torch_compile_for_training", "upstream runs it only with RUN_SLOW", "is slow"),
    # What the model is
    Exempt(
        "eager_matches_batched_and_grouped_inference_* moe_models_record_router_logits",
        "the model has no experts",
        "does not support grouped_mm|no sparse experts",
        _without_experts,
    ),
    Exempt(
        "moe_models_record_router_logits",
        "upstream looks for experts in the text of the module of the class, and an AdapterModel's holds none",
        "no sparse experts",
    ),
    Exempt(
        "output_router_logits_from_config",
        "the configuration cannot ask for the choices of routers",
        "no `output_router_logits`",
        lambda facts: not hasattr(facts.config.get_text_config(decoder=True), "output_router_logits"),
    ),
    Exempt(
        "keep_in_fp32_modules keep_in_fp32_modules_exist",
        "upstream keeps no module of the model in float32",
        "_keep_in_fp32_modules",
        _without_fp32_modules,
    ),
    Exempt(
        "can_set_attention_dynamically*",
        "upstream's modeling file has attention of one kind only",
        "does not support setting its attention",
        lambda facts: not facts.upstream._can_set_attn_implementation(),
    ),
    Exempt(
        "can_set_attention_dynamically can_set_attention_dynamically_composite_model",
        "upstream's modeling file of a model inside has attention of one kind only",
        "Parts of this model cannot set attention dynamically",
        _has_part_without_choice,
    ),
    Exempt(
        "can_set_attention_dynamically",
        "upstream has no sdpa for the model, or for one inside of it",
        "don't support sdpa",
        _has_part_without_sdpa,
    ),
    Exempt(
        "attn_implementation_composite_models sdpa_can_dispatch_composite_models can_set_attention_dynamically_composite_model "
        "internal_model_config_and_subconfig_are_same",
        "the configuration has no parts",
        "not (a )?composite|does not support SDPA|No subconfigs|does not support attentions",
        lambda facts: not facts.config.sub_configs,
    ),
    Exempt(
        "attention_outputs attn_implementation_composite_models eager_matches_sdpa_inference_* sdpa_can_dispatch_*_models "
        "sliding_window_mask",
        "the model gives no attention weights",
        "not (output|support) (output_)?attentions",
        lambda facts: not facts.attentions,
    ),
    Exempt(
        "attention_outputs model_outputs_equivalence",
        "upstream's model reads its attention weights out of its hidden states, and fails where these are not asked for",
        "'NoneType' object is not subscriptable",
        _gives_weights_with_states_only,
        of_upstream=True,
        word_for_word=True,
    ),
    Exempt(
        "attention_outputs",
        "upstream's decoder attends to the encoder from several streams at once, which the test counts as one",
        "Lists differ",
        lambda facts: _crosses_from_streams(facts) and bool(_left_out(facts)),
    ),
    Exempt(
        "attention_outputs",
        "upstream looks for as many queries as there are hidden states, and attention is over pieces of these",
        "Lists differ",
        _attends_in_pieces,
    ),
    Exempt(
        "attention_outputs",
        "what upstream hands out as attention weights is what its attention gives, of all rows behind one another",
        "Lists differ",
        lambda facts: facts.attentions and attentions_of(facts.subject)[0].dim() < 3,
        of_upstream=True,
        word_for_word=True,
    ),
    Exempt(
        "attention_outputs",
        "upstream's decoder reads other positions than the attention of its encoder",
        "Lists differ",
        _reads_fewer,
        of_upstream=True,
        word_for_word=True,
    ),
    Exempt(
        "attention_outputs",
        "upstream's model of an encoder and a decoder gives more than the outputs that the test counts",
        r"^AssertionError: \d+ != \d+$",
        lambda facts: facts.config.is_encoder_decoder and not _left_out(facts),
        of_upstream=True,
        word_for_word=True,
    ),
    Exempt(
        "num_layers_is_small",
        "it holds upstream's own instances to two layers; ours has more, as one of every stage (Swin) or kind of layer",
        r"^AssertionError: (assert \d+ <= 2\n|$)",
        _has_more_layers,
    ),
    Exempt(
        "eager_matches_sdpa_inference_*",
        "upstream's test narrows the window of all layers at once, and the configuration has one for each",
        "'sliding_window' is a per-layer attribute",
        lambda facts: facts.config.is_heterogeneous,
        of_upstream=True,
        word_for_word=True,
    ),
    Exempt(
        "eager_matches_sdpa_inference_*_output_attentions",
        "upstream has no argument of that name in the forward: attention weights are captured",
        "does not support output_attentions|does not support SDPA",
        lambda facts: not facts.sdpa or "output_attentions" not in inspect.signature(facts.tested.forward).parameters,
    ),
    Exempt(
        "eager_matches_sdpa_inference_* sdpa_can_dispatch_non_composite_models",
        "upstream has no sdpa for the model",
        "does not support SDPA",
        lambda facts: not facts.sdpa,
    ),
    Exempt(
        "eager_matches_sdpa_inference_*",
        "the test masks patches, for which upstream's model has no token in this configuration",
        "NoneType",
        _refuses_masks,
    ),
    Exempt(
        "eager_matches_sdpa_inference_*_[fb]*16_* eager_matches_batched_and_grouped_inference_*_[fb]*16",
        "torch's grouped product takes rows of whole 16 bytes, which experts of the instance do not have in half precision",
        "strides should be multiple of 16 bytes",
        _has_narrow_experts,
        of_upstream=True,
        word_for_word=True,
    ),
    Exempt(
        "sdpa_can_dispatch_non_composite_models",
        "the configuration has parts, for which upstream has another test",
        "does not support SDPA",
        lambda facts: bool(facts.config.sub_configs),
    ),
    Exempt(
        "sdpa_can_dispatch_composite_models",
        "upstream looks for a tower and a language model by a few names, which its model does not call them by",
        "does not have both a non-text modality tower and a language sub-model",
        _without_known_parts,
    ),
    Exempt("sliding_window_mask", "no option switches a sliding window", "sliding window mask", _without_window),
    Exempt(
        "resize_position_vector_embeddings",
        "upstream runs it only for models that state a method for it",
        "does not have position embeddings",
    ),
    Exempt(
        "resize_tokens_embeddings resize_embeddings_untied resize_embeddings_untied_no_reinit_on_post_init",
        "the model has no token embeddings",
        "test_resize_embeddings",
        lambda facts: not facts.subject.text,
    ),
    Exempt(
        "resize_embeddings_untied resize_embeddings_untied_no_reinit_on_post_init",
        "the configuration cannot untie the embeddings",
        "cannot untie",
        lambda facts: facts.always_tied,
    ),
    Exempt(
        "resize_embeddings_untied",
        "upstream's model has tokens of its own behind the vocabulary, which it does not resize",
        "index out of range in self",
        _has_more_rows,
    ),
    Exempt(
        "inputs_embeds",
        "the model takes no embeddings",
        "doesn't use `inputs_embeds`",
        lambda facts: "inputs_embeds" not in inspect.signature(facts.tested.forward).parameters,
    ),
    Exempt(
        "model_get_set_embeddings",
        "upstream's own test classes replace it for models without token embeddings",
        "is not an instance of .*Embedding|NotImplementedError",
        lambda facts: not isinstance(facts.embeddings, torch.nn.Embedding),
    ),
    Exempt(
        "enable_input_require_grads_with_gradient_checkpointing",
        "the model has no gradient checkpointing, or its embeddings have no matrix that a gradient could reach",
        "No model with a differentiable loss",
        _embeds_for_none,
    ),
    Exempt(
        "training_gradient_checkpointing*",
        "upstream watches the first layer that can be checkpointed, which is of a tower that does not run under the head",
        "0 not greater than 1",
        _checkpoints_unread_first,
    ),
    Exempt(
        "training_gradient_checkpointing_use_reentrant_true",
        "a layer of upstream's leaves what it computed beside its output, through which torch goes back twice",
        "Trying to backward through the graph a second time",
        _goes_back_with("a second time"),
    ),
    Exempt(
        "training_gradient_checkpointing_use_reentrant_true",
        "a layer of upstream's hands the next one more than its hidden states, and torch computes it again for each later one",
        f"more than {MOST_RECOMPUTED} layers were recomputed",
        _goes_back_with("layers were recomputed"),
    ),
    Exempt(
        "capture_outputs_decorator",
        "upstream's forward collects the outputs itself",
        "No usage of the `capture_outputs`",
        lambda facts: not _captured(facts),
    ),
    Exempt(
        "can_capture_specific_layers_hidden_states",
        "upstream's forward collects the hidden states itself, or records them at several classes",
        "Cannot capture hidden states",
        lambda facts: not _captures_layers(facts),
    ),
    Exempt(
        "can_capture_specific_layers_hidden_states",
        "upstream looks for hidden states of one stack, and the outputs hold those of several",
        "does not propagate hidden states",
        lambda facts: _gives_no_states_of_texts(facts) and not _gives_a_tensor(facts),
    ),
    Exempt(
        "hidden_states_output retain_grad_hidden_states_attentions model_outputs_equivalence capture_outputs_decorator",
        "timm's model inside gives no hidden states, or no attention weights, and upstream's says so where they are asked for",
        "'output_hidden_states' option cannot be set for this timm model|Cannot set `output_attentions` for timm models",
        of_upstream=True,
        word_for_word=True,
    ),
    Exempt(
        "hidden_states_output retain_grad_hidden_states_attentions",
        "upstream looks for hidden states of one stack, and the outputs hold those of several, or none",
        "has no attribute 'hidden_states'|'?NoneType'? (object is not subscriptable|has no len)",
        lambda facts: not facts.config.is_encoder_decoder and _gives_states_of_several(facts),
    ),
    Exempt(
        "can_init_all_missing_weights", "upstream runs it for models since 2023", "Not a prioritized", _before_2023
    ),
    Exempt("tp_plan_matches_params", "upstream has no plan for tensor parallelism", "have a TP plan", _without_plan),
    Exempt(
        "tied_head_has_a_tp_plan_entry", "upstream has no plan for tensor parallelism", "have a TP plan", _without_plan
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
    # What upstream's own class does with the instance
    Exempt(
        "gradient_checkpointing_backward_compatibility gradient_checkpointing_enable_disable "
        "peft_gradient_checkpointing_enable_disable",
        "upstream says that the model supports gradient checkpointing, and no module of it does",
        r"is not compatible with gradient checkpointing|\[\] is not true",
        _checkpoints_nowhere,
        of_upstream=True,
        word_for_word=True,
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
        "model_is_small",
        "the least instance that runs everything is larger than upstream allows: it has a size that no field decides",
        "is too big for the common tests",
        of_upstream=True,
    ),
    Exempt(
        "determinism save_load batching_equivalence model_outputs_equivalence",
        "upstream's model draws numbers in evaluation too",
        "could not be broadcast|yields different results|outputs? are not equal|must match the size of tensor|not less than or equal",
        _draws_at_random,
        of_upstream=True,
    ),
    Exempt(
        "resize_tokens_embeddings",
        "upstream's model has tables by tokens, or tokens of its own behind the vocabulary, which it does not resize",
        "out of bounds for dimension 0|index out of range in self",
        of_upstream=True,
    ),
    Exempt(
        "batching_equivalence",
        "rounding grows in upstream's model beyond what its test allows: in double precision it gives for a row what it gives for that alone",
        "outputs are not equal",
        _rows_agree_in_double,
        of_upstream=True,
        word_for_word=True,
    ),
    Exempt(
        "batching_equivalence",
        "what upstream's model gives for a row is not that of the row alone: it depends on the others, or on which is longest",
        "outputs are not equal|Batched output has `inf`|must match the size of tensor b",
        lambda facts: not _differing_by_seed(facts.subject, facts.attentions) and not _rows_agree_in_double(facts),
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
        "inputs_embeds",
        "what upstream calls the embeddings of the inputs has fewer rows than there are tokens",
        "index out of range in self",
        of_upstream=True,
        word_for_word=True,
    ),
    Exempt(
        "resize_tokens_embeddings",
        "upstream's model of any two resizes embeddings in these two",
        "Resizing the embedding layers via|`set_input_embeddings` not auto",
        lambda facts: facts.config.is_encoder_decoder,
        of_upstream=True,
    ),
    Exempt(
        "eager_matches_batched_and_grouped_inference_*",
        "upstream looks for experts in the text of the module of the class, and those there are of another model",
        "Expected 'mock' to have been called",
        lambda facts: not _experts(facts),
        of_upstream=True,
        word_for_word=True,
    ),
    Exempt(
        "eager_matches_batched_and_grouped_inference_*_[fb]*16 eager_matches_sdpa_inference_*_[fb]*16_*",
        "upstream's model computes something in float32, which meets weights in half precision",
        "same dtype",
        of_upstream=True,
        word_for_word=True,
    ),
    Exempt(
        "hidden_states_output",
        "upstream looks for as many states in the decoder as in the encoder, and as wide ones",
        r"^AssertionError: (\d+ != \d+$|Lists differ)",
        _has_unlike_stacks,
        of_upstream=True,
        word_for_word=True,
    ),
    Exempt(
        "hidden_states_output",
        "upstream's decoder gives its last states alone where the configuration asks, and not the call",
        r"^AssertionError: 1 != \d+$",
        lambda facts: facts.config.is_encoder_decoder,
        of_upstream=True,
        word_for_word=True,
    ),
    Exempt(
        "hidden_states_output",
        "upstream's model makes as many states for its decoder as its weights say, which are others in each test",
        "Lists differ",
        _works_lengths_out,
        of_upstream=True,
    ),
    Exempt(
        "hidden_states_output retain_grad_hidden_states_attentions attention_outputs",
        "upstream looks for what an encoder gives, which the configuration speaks of and the outputs have by other names",
        "has no attribute 'encoder_(hidden_states|attentions)'",
        _gives_no_states_of_encoder,
        of_upstream=True,
        word_for_word=True,
    ),
    Exempt(
        "capture_outputs_decorator",
        "a forward of upstream's that captures outputs runs a tower that captures them, too, which upstream's test forbids",
        "capture_outputs` several time in a chain",
        of_upstream=True,
        word_for_word=True,
    ),
    Exempt(
        "hidden_states_output retain_grad_hidden_states_attentions",
        "upstream looks for one list of hidden states, and each tower has its own",
        "'tuple' object has no attribute '(shape|retain_grad)'",
        _nests_states,
        of_upstream=True,
        word_for_word=True,
    ),
    Exempt(
        "can_capture_specific_layers_hidden_states",
        "upstream looks for one list of hidden states, and each tower has its own",
        "is not None",
        _nests_states,
        of_upstream=True,
    ),
    Exempt(
        "can_capture_specific_layers_hidden_states hidden_states_output retain_grad_hidden_states_attentions",
        "upstream's model records the outputs of layers that it does not have, and so none",
        "^AssertionError: 0 != 1$|tuple index out of range|has no attribute 'text_model_output'",
        _records_nothing,
        of_upstream=True,
        word_for_word=True,
    ),
    Exempt(
        "can_capture_specific_layers_hidden_states",
        "upstream's model puts states of several stacks together, or gives others than those of the one that is told to keep a few",
        "is not None|^AssertionError: None mismatch",
        _has_several_that_record,
        of_upstream=True,
    ),
    Exempt(
        "can_capture_specific_layers_hidden_states model_outputs_equivalence",
        "upstream's model gives a tensor alone, of which the test reads outputs by name, or asks for a tuple of outputs",
        r"Tensor\.__contains__ only supports|'(Tensor|tuple)' object has no attribute '(to_tuple|last_hidden_state)'",
        _gives_a_tensor,
        of_upstream=True,
    ),
    Exempt(
        "can_capture_specific_layers_hidden_states",
        "upstream's configuration counts layers of another kind, which record no states, where the test asks for the last one",
        "^AssertionError: None mismatch",
        _counts_other_layers,
        of_upstream=True,
    ),
    Exempt(
        "can_capture_specific_layers_hidden_states",
        "upstream's layers run several times, and those that are not kept are counted in the first time alone",
        "^AssertionError: None mismatch",
        _runs_layers_again,
        of_upstream=True,
    ),
    Exempt(
        "retain_grad_hidden_states_attentions",
        "what upstream's model gives first is chosen, as which points match, and has no gradient",
        "element 0 of tensors does not require grad",
        _first_is_chosen,
        of_upstream=True,
        word_for_word=True,
    ),
    Exempt(
        "retain_grad_hidden_states_attentions",
        "the first states or weights that upstream hands out are copies, or of no part that the first output is computed from",
        "^AssertionError: unexpectedly None",
        of_upstream=True,
        word_for_word=True,
    ),
    Exempt(
        "retain_grad_hidden_states_attentions",
        "upstream's model gives several maps where the test looks for one tensor",
        "'tuple' object has no attribute 'flatten'",
        of_upstream=True,
        word_for_word=True,
    ),
    Exempt(
        "retain_grad_hidden_states_attentions",
        "upstream's model does not train without targets, which the test does not give",
        "labels must be provided",
        of_upstream=True,
        word_for_word=True,
    ),
    Exempt(
        "model_outputs_equivalence",
        "upstream's tower for images keeps no states for its model once that has recorded some itself",
        "'NoneType' object has no attribute 'size'",
        lambda facts: bool(facts.config.sub_configs),
        of_upstream=True,
        word_for_word=True,
    ),
    Exempt(
        "model_outputs_equivalence",
        "upstream's test subtracts truth values from one another, which a mask among the outputs has",
        "with two bool tensors is not supported",
        lambda facts: any(getattr(value, "dtype", None) == torch.bool for value in outputs_of(facts.subject).values()),
        of_upstream=True,
        word_for_word=True,
    ),
    Exempt(
        "eager_matches_sdpa_inference_*",
        "upstream's test lengthens inputs by any whole numbers, and here these say what the other inputs consist of",
        "is invalid for input of size|split_with_sizes expects|must match the size of tensor|ZeroDivisionError",
        _counts_in_inputs,
        of_upstream=True,
        word_for_word=True,
    ),
    Exempt(
        "eager_matches_sdpa_inference_*",
        "upstream's test masks as many frames as each has features, so that nothing of a sound is left, or nothing that is made of it",
        "^ValueError: mean relative difference",
        _masks_too_few,
        of_upstream=True,
        word_for_word=True,
    ),
    Exempt(
        "eager_matches_sdpa_inference_*",
        "upstream's test leaves padded places out by the first dimension of states, and that is of several streams",
        "^ValueError: mean relative difference for hidden_states",
        _streams_come_first,
        of_upstream=True,
    ),
    Exempt(
        "eager_matches_sdpa_inference_*",
        "rounding grows in upstream's model beyond what its test allows: in double precision eager and sdpa attention agree",
        "^ValueError: mean relative difference",
        _agrees_in_double,
        of_upstream=True,
        word_for_word=True,
    ),
    Exempt(
        "eager_matches_sdpa_inference_*",
        "upstream's own class gives other states by its eager than by its sdpa attention for these inputs",
        "^ValueError: mean relative difference for hidden_states",
        of_upstream=True,
    ),
    Exempt(
        "eager_matches_sdpa_inference_*",
        "the configuration of a part lacks a field that upstream's forward reads with these inputs",
        "^AttributeError: '.*Config' object has no attribute",
        of_upstream=True,
        word_for_word=True,
    ),
    Exempt(
        "hidden_states_output",
        "upstream looks for one state of each token, and each has several",
        "Lists differ",
        _has_parallel_streams,
        of_upstream=True,
        word_for_word=True,
    ),
    Exempt(
        "sliding_window_mask",
        "upstream's test changes the width of a head, and not the sections that positions turn",
        "split_with_sizes expects",
        of_upstream=True,
        word_for_word=True,
    ),
    Exempt(
        "inputs_embeds",
        "upstream's model reads the ids of the tokens beside their embeddings",
        "'NoneType' object has no attribute '(reshape|device)'|input_ids is required",
        of_upstream=True,
        word_for_word=True,
    ),
    Exempt(
        "attention_outputs",
        "upstream's model fails where the config of a part asks for attention weights, which that reads at a place of a tuple",
        "tuple index out of range",
        lambda facts: bool(facts.config.sub_configs),
        of_upstream=True,
    ),
    Exempt(
        "batching_equivalence",
        "upstream's norm over groups takes no single number, which it has for one row of the instance",
        "Expected more than 1 value per channel",
        of_upstream=True,
    ),
    Exempt(
        "attn_implementation_composite_models",
        "upstream's test writes to the text part of the configuration of an encoder-decoder without one, and that is a copy",
        "False is not true",
        lambda facts: facts.config.is_encoder_decoder,
        of_upstream=True,
    ),
    Exempt(
        "internal_model_config_and_subconfig_are_same",
        "upstream's test takes the configuration of a model inside a part for that of another part of the same class",
        "False is not true",
        _holds_configs_of_one_class,
        of_upstream=True,
    ),
    Exempt(
        "can_set_attention_dynamically_composite_model",
        "upstream has no sdpa for the model, or for one inside of it",
        "does not support an attention implementation through",
        _has_part_without_sdpa,
        of_upstream=True,
    ),
    Exempt(
        "attention_outputs hidden_states_output retain_grad_hidden_states_attentions",
        "upstream's model of any two does not ask these for what its config says",
        "NoneType",
        lambda facts: facts.config.is_encoder_decoder,
        of_upstream=True,
    ),
    Exempt(
        "model_get_set_embeddings",
        "upstream's model says which embeddings are those of its inputs, and does not set them",
        "`set_input_embeddings` not auto.handled",
        of_upstream=True,
    ),
    Exempt(
        "torch_save_load", "upstream runs it for heads on its base models", "not in MODEL_MAPPING", of_upstream=True
    ),
    Exempt(
        "inputs_embeds resize_tokens_embeddings",
        "upstream's model does not say which embeddings are those of its inputs",
        "`get_input_embeddings` not auto.handled",
        of_upstream=True,
    ),
    Exempt(
        "inputs_embeds",
        "upstream's embeddings are several tables, one of each codebook, which the test calls as one",
        r"Module \[ModuleList\] is missing the required \"forward\"",
        lambda facts: isinstance(facts.embeddings, torch.nn.ModuleList),
        of_upstream=True,
        word_for_word=True,
    ),
    Exempt(
        "inputs_embeds",
        "upstream's model gives its decoder the id of a first token where it is given none, beside embeddings",
        "exactly one of decoder_input_ids or decoder_inputs_embeds",
        of_upstream=True,
        word_for_word=True,
    ),
    Exempt(
        "inputs_embeds",
        "the embeddings are not those of tokens, which upstream looks for",
        "KeyError: 'input_ids'",
        _takes_no_tokens,
        of_upstream=True,
    ),
    Exempt(
        "retain_grad_hidden_states_attentions",
        "upstream's first states are inputs, constants (DETR's queries), or computed without a gradient (HRM's cycles)",
        "can't retain_grad on Tensor that has requires_grad=False",
        of_upstream=True,
        word_for_word=True,
    ),
    Exempt(
        "eager_matches_sdpa_inference_*",
        "upstream's test gives a model whose first input is no row of tokens a mask over what the last dimension of that counts",
        "size of tensor",
        lambda facts: facts.tested.main_input_name != "input_ids" or _takes_codes(facts),
        of_upstream=True,
    ),
    Exempt(
        "inputs_embeds",
        "upstream's model does not take images beside embeddings",
        "(?i)cannot specify both (pixel_values|input_features) and inputs_embeds",
        of_upstream=True,
    ),
    Exempt(
        "inputs_embeds",
        "upstream's model has an argument for embeddings, and refuses them",
        "does not use `inputs_embeds`|missing 1 required positional argument: 'input_ids'",
        of_upstream=True,
    ),
    Exempt(
        "enable_input_require_grads_with_gradient_checkpointing",
        "upstream's model reads its cache, which its layers switch off where they are checkpointed",
        "'NoneType' object has no attribute 'get_seq_length'",
        of_upstream=True,
        word_for_word=True,
    ),
    Exempt(
        "tp_plan_matches_params",
        "upstream's plan names modules that its model does not have under these names, or is of another class",
        "entries of the TP-plan are not valid|No TP-plan found for class",
        of_upstream=True,
    ),
    # What an AdapterModel is
    Exempt(
        "tied_head_has_a_tp_plan_entry",
        "heads come and go, and have no plan for tensor parallelism yet",
        "not found in",
        _with_tied_head,
    ),
    Exempt(
        "causal_lm_loss_honors_shift_labels encoder_decoder_loss_no_double_shift",
        "upstream runs it for classes in its own tables; our checks compare the losses of converted heads with upstream's",
        "language modeling head to check",
    ),
    Exempt(
        "model_rope_* vision_axial_rope",
        "it makes upstream's base class alone, and an AdapterModel is none",
        "no `base_model_class`",
    ),
    Exempt(
        "base_model_prefix_loads_base_weights",
        "it makes another object of the class that `init` gave the base model, which only `init` can make",
        "has no attribute 'adapters_config'",
        lambda facts: facts.config.model_type in MODEL_MAPPING_NAMES,
    ),
    Exempt(
        "training",
        "an AdapterModel without heads computes no loss",
        "has no attribute '(loss|backward)'|All labels must be provided",  # or it is None
        _has_no_loss,
    ),
    Exempt(
        "training_gradient_checkpointing*",
        "an AdapterModel without heads computes no loss",
        "has no attribute '(loss|backward)'",
        lambda facts: _has_no_loss(facts) and facts.tested.supports_gradient_checkpointing,
    ),
    Exempt(
        "hidden_states_output attention_outputs",
        "upstream's own class gives outputs of other sizes than its test looks for",
        "^AssertionError: ",
        lambda facts: not _left_out(facts),
        of_upstream=True,
        word_for_word=True,
    ),
)
