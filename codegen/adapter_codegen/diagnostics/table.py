"""Every problem that the tool knows: its code, whose fault it is, its level, what is said and what to do about it.

Code never asks what a message says: it compares members of `Problem`, or asks whose fault a diagnostic is (`faults`).
``{words in braces}`` are details that the place of the problem gives. Several problems may share a code: the code is what
people look up, the problem is what exactly was found.

Where do I add a diagnostic? An entry here, beside its neighbours. Its remedy names in backquotes what helps: a command, an
option, a key of ``overrides.toml``, a file of the tool. A test looks each of them up.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum, unique

from adapter_codegen.diagnostics.errors import CodegenError
from adapter_codegen.model import Diagnostic, Level, Location, Method


class Fault(Enum):
    """Where a problem has to be mended."""

    REQUEST = "what the user asked for, or the user's files"
    RELEASE = "the release of transformers as a whole"
    UPSTREAM = "the text of one model, or a rule that it needs"
    OVERRIDES = "overrides.toml"
    CONFORMANCE = "what was generated: a conformance check fails, or none could be made"
    TOOL = "the tool: a bug"


_ERROR, _WARNING, _NOTE = Level.ERROR, Level.WARNING, Level.NOTE
_REQUEST, _RELEASE, _UPSTREAM, _OVERRIDES, _CONFORMANCE, _TOOL = Fault

_NAME_WHEEL = (
    "Name a wheel of transformers with `--from`, or a version such as transformers==5.23.0 to have it fetched."
)
_OTHER_METHOD = "use another method: `adapter-codegen explain MODEL_TYPE` shows which ones hold."
_NO_ATTENTION = (
    "Choose a model type that `adapter-codegen list --plan` shows as available; "
    "if these layers do attend, add their kind of core to `plan/attention/table.py`."
)
_REPORT = (
    "This is a bug of adapter-codegen: please report it, with this message and what "
    "`adapter-codegen explain MODEL_TYPE` prints."
)


def _one_line(message: str) -> str:
    """A message is one sentence, although what it quotes from upstream may stand on several lines."""
    return re.sub(r"\(\n\s*|\n\s*\)|\s*\n\s*", lambda found: found[0].strip() or " ", message)


@unique
class Problem(Enum):
    """code, fault, level, message, remedy."""

    def __init__(self, code: str, fault: Fault, level: Level, message: str, remedy: str) -> None:
        self.code = code  # stable; its letter is the stage, as in the comments between the entries
        self.fault = fault
        self.level = level
        self.message = message
        self.remedy = remedy

    def diagnostic(
        self,
        location: Location | None = None,
        methods: tuple[Method, ...] = (),
        level: Level | None = None,
        **details: object,
    ) -> Diagnostic:
        """The problem at a place.

        Args:
            location: None where no text is at fault.
            methods: those that it makes unavailable.
            level: in place of the usual one, where the place makes it milder.
            details: what the words in braces stand for.
        """
        return self._filled(details, location, methods, level or self.level)

    def error(self, location: Location | None = None, **details: object) -> CodegenError:
        """The problem as the error that ends a command, or the work on one model."""
        return CodegenError(self._filled(details, location, (), self.level))

    def _filled(
        self, details: Mapping[str, object], location: Location | None, methods: tuple[Method, ...], level: Level
    ) -> Diagnostic:
        said, help_ = _one_line(self.message.format_map(details)), self.remedy.format_map(details)
        return Diagnostic(self.code, level, said, help_, location, methods)

    # U: which release is read, and what it holds ----------------------------------------------------------------------

    NOT_INSTALLED = (
        "U101",
        _REQUEST,
        _ERROR,
        "transformers is not installed in this environment.",
        "Install it (`pip install transformers`), or name a directory, a wheel or a version with `--from`.",
    )
    NO_PACKAGE_IN_FOLDER = (
        "U102",
        _REQUEST,
        _ERROR,
        "{path} holds no transformers package: no __init__.py beside a folder models/auto.",
        "Name the package folder itself with `--from`, or the folder that contains it (src/ in a checkout of transformers).",
    )
    NO_SUCH_WHEEL = ("U103", _REQUEST, _ERROR, "There is no wheel {path}.", _NAME_WHEEL)
    BROKEN_WHEEL = ("U103", _REQUEST, _ERROR, "{path} cannot be read as a wheel: {error}.", _NAME_WHEEL)
    FOREIGN_WHEEL = (
        "U103",
        _REQUEST,
        _ERROR,
        "{path} is a zip archive, but not a wheel of transformers.",
        _NAME_WHEEL,
    )
    NO_VERSION = (
        "U104",
        _REQUEST,
        _ERROR,
        "The __init__.py of {origin} does not state a __version__.",
        "Check that what `--from` names is a complete copy of transformers.",
    )
    PIP_FAILED = (
        "U105",
        _REQUEST,
        _ERROR,
        "pip could not fetch transformers {version}: {reason}",
        "Check the connection and the index that pip uses, or fetch the wheel yourself and name it with `--from`.",
    )
    NO_SUCH_VERSION = (
        "U106",
        _REQUEST,
        _ERROR,
        "The package index has no transformers {version}.",
        "See the versions with `pip index versions transformers`.",
    )
    NO_SUCH_FILE = (
        "U107",
        _RELEASE,
        _ERROR,
        "transformers {version} ({origin}) has no file {path}.",
        "Check the path against the release that `--from` names; the model may have been moved, renamed or removed there.",
    )
    PATH_OUTSIDE_RELEASE = (
        "U108",
        _REQUEST,
        _ERROR,
        "The path {path!r} leads out of the transformers package.",
        'Paths are relative to the package and written with "/": `models/llama/modeling_llama.py`.',
    )
    NO_RELEASE = (
        "U109",
        _REQUEST,
        _ERROR,
        "{spec!r} is neither a directory, nor a wheel, nor a version of transformers.",
        "Name an existing folder or .whl file with `--from`, or a version such as transformers==5.23.0.",
    )
    MISSPELT_MODEL_TYPE = (
        "U110",
        _REQUEST,
        _ERROR,
        "transformers {version} has {known} {model_type!r}.",
        "Did you mean {near}? `adapter-codegen list` shows all model types.",
    )
    UNKNOWN_MODEL_TYPE = (
        "U110",
        _REQUEST,
        _ERROR,
        "transformers {version} has {known} {model_type!r}.",
        "`adapter-codegen list` shows the model types.",
    )
    UNREADABLE_TABLE = (
        "U111",
        _RELEASE,
        _ERROR,
        "{name} of transformers {version} {what}.",
        "Name another release with `--from`, or teach `parse/automappings.py` how this one keeps its auto mappings.",
    )
    NO_MODELING_FILE = (
        "U112",
        _RELEASE,
        _ERROR,
        "No modeling file of transformers {version} defines {base}, the base model of {model_type}.",
        "Name another release with `--from`, or teach `parse/automappings.py` where this one keeps the class.",
    )

    # S: text -> facts -------------------------------------------------------------------------------------------------

    NOT_PYTHON = (
        "S101",
        _UPSTREAM,
        _ERROR,
        "This is not Python that libcst can parse: {error}",
        "Check that the file is complete; if Python itself accepts it, `pip install --upgrade libcst`.",
    )

    # P1: the base model -----------------------------------------------------------------------------------------------

    BASE_ELSEWHERE = (
        "P101",
        _UPSTREAM,
        _ERROR,
        "The base model {base} of {model_type} {what}.",
        "Its model is borrowed from another file; add the model type that it is borrowed from instead "
        "(`adapter-codegen list` shows them).",
    )
    NO_LAYERS = (
        "P102",
        _UPSTREAM,
        _ERROR,
        "{base} holds no module list whose elements hold attention, and no other model that could{others}.",
        _NO_ATTENTION,
    )
    LAYERS_DEFINED_TWICE = (
        "P102",
        _UPSTREAM,
        _ERROR,
        "{base} holds layers of a class {name} that is defined twice: what else is installed decides which one runs.",
        "Adapters in the one would be missing in the other; choose a model type of `adapter-codegen list`.",
    )
    NOT_FOLLOWED_TO_LAYERS = (
        "P103",
        _UPSTREAM,
        _WARNING,
        "The forward of {base} could not be followed to the layers in {path}.",
        "Name the module as `embedding_output` in `plan/overrides.toml` if there is one.",
    )
    MIXED_ENTRANCE = (
        "P103",
        _UPSTREAM,
        _WARNING,
        "What enters the first layer is mixed here from several values; no single module gives it.",
        "Name the module as `embedding_output` in `plan/overrides.toml` if there is one.",
    )
    SEVERAL_MODELS = (
        "P103",
        _UPSTREAM,
        _WARNING,
        "{base} holds several models, each with a first layer of its own.",
        "Name the module as `embedding_output` in `plan/overrides.toml` if there is one.",
    )
    NO_SINGLE_ENTRANCE = (
        "P103",
        _UPSTREAM,
        _WARNING,
        "No single module of {base} gives what enters the first layer in {path}.",
        "Name the module as `embedding_output` in `plan/overrides.toml` if there is one.",
    )
    ENTERED_BY_OTHERS = (
        "P103",
        _UPSTREAM,
        _WARNING,
        "What {path} gives to the first layer is made of {fed}, not of the tokens that {table} embeds.",
        f"An invertible adapter is undone where hidden states are compared with those; {_OTHER_METHOD}",
    )
    NOT_AT_TABLE = (
        "P103",
        _UPSTREAM,
        _WARNING,
        "What enters the first layer is made here in a way that does not let an invertible adapter stand at {table}.",
        "It changes the embeddings of tokens there. So what is added to them must not be made of their values, and given embeddings"
        f" must be treated like them. {_OTHER_METHOD}",
    )
    FEATURES_OF_TOKENS = (
        "P103",
        _UPSTREAM,
        _WARNING,
        "Features are looked up in {table} here: an invertible adapter at it would change them in a forward, and not where generation asks"
        " for them first.",
        f"What features are must not depend on who asks for them; {_OTHER_METHOD}",
    )
    NO_EMBEDDINGS_TAKEN = (
        "P105",
        _UPSTREAM,
        _WARNING,
        "{reader} takes no inputs_embeds, by which a prompt would go in.",
        f"A prompt stands among the embeddings of tokens; {_OTHER_METHOD}",
    )
    WEIGHTS_RESCALED = (
        "P106",
        _UPSTREAM,
        _ERROR,
        "{base} itself multiplies weights of its layers here, for evaluation or for training, and not what an adapter would add to them.",
        "With adapters it would compute otherwise in evaluation than in training; choose a model type of `adapter-codegen list`.",
    )
    MADE_OF_TOKENS = (
        "P105",
        _UPSTREAM,
        _WARNING,
        "What is made of tokens here is not made of inputs_embeds, by which a prompt would go in.",
        f"A prompt has no token ids; {_OTHER_METHOD}",
    )
    TOKENS_IN_LAYERS = (
        "P105",
        _UPSTREAM,
        _WARNING,
        "The layers in {path} read input_ids themselves, and these are not there where a prompt goes in as inputs_embeds.",
        f"A prompt has no token ids; {_OTHER_METHOD}",
    )
    BESIDE_STREAM = (
        "P105",
        _UPSTREAM,
        _WARNING,
        "The layers in {path} also read what is made of each token here, and of a prompt nothing is.",
        f"A prompt has no token ids and no boxes; {_OTHER_METHOD}",
    )
    PICKED_BY_TOKENS = (
        "P105",
        _UPSTREAM,
        _WARNING,
        "The tokens say which positions of the layers' output are read here, and a prompt moves these.",
        f"A prompt makes the stream longer; {_OTHER_METHOD}",
    )
    PICKED_BY_WHOLE = (
        "P105",
        _UPSTREAM,
        _WARNING,
        "The whole reads a single position of what its text model returns here, where a prompt would stand.",
        f"A prompt makes the stream longer; {_OTHER_METHOD}",
    )
    ADDED_BY_WHOLE = (
        "P105",
        _UPSTREAM,
        _WARNING,
        "The whole adds something to the embeddings of its text model here that has a place for each token, and none for a prompt.",
        f"A prompt makes the stream longer; {_OTHER_METHOD}",
    )
    BETWEEN_LAYERS = (
        "P105",
        _UPSTREAM,
        _WARNING,
        "What is added to the stream here, behind a layer, has an entry for each position, and none for those of a prompt.",
        f"A prompt makes the stream longer; {_OTHER_METHOD}",
    )
    NO_CLASS_OF_ITS_OWN = (
        "P107",
        _UPSTREAM,
        _NOTE,
        "{name} holds layers ({paths}), and gets no adapter class of its own: {reason}.",
        "Turn the model that holds it; where it should have one itself, teach `plan/parts/towers.py` what it is.",
    )
    OTHER_NAME = (
        "P104",
        _UPSTREAM,
        _ERROR,
        "{model_type} is only another name: models of this type have the config class {config}, whose type is {other}.",
        "Add it under its own name: `adapter-codegen add-model {other}`.",
    )

    # P2: sites in layers ----------------------------------------------------------------------------------------------

    OTHER_LAYOUT = (
        "P201",
        _UPSTREAM,
        _WARNING,
        "The layout of the {name} is {found}; prefix tuning needs (batch, heads, length, width).",
        f"Teach `plan/flow/layout.py` the steps that give this layout; until then, {_OTHER_METHOD}",
    )
    KEY_NOT_TRANSPOSED = (
        "P201",
        _UPSTREAM,
        _WARNING,
        "The key is not transposed in the product itself.",
        f"Teach `plan/attention/kinds/softmax.py` this form of the product; until then, {_OTHER_METHOD}",
    )
    UNKNOWN_ARGUMENT = (
        "P202",
        _UPSTREAM,
        _WARNING,
        "The argument `{name}` of the attention core may have a key dimension.",
        "Teach `plan/attention/kinds/calls.py` what the argument means for longer keys.",
    )
    USED_AGAIN = (
        "P202",
        _UPSTREAM,
        _WARNING,
        "The {name} is used again after the core.",
        "Teach `plan/attention/prefix.py` what this use means for longer keys.",
    )
    MASK_OF_KEYS = (
        "P202",
        _UPSTREAM,
        _WARNING,
        "The mask is computed from the {name}, which decide what is seen.",
        f"A prefix would be seen whatever upstream makes of it; {_OTHER_METHOD}",
    )
    SCORES_NOT_ADDITIVE = (
        "P203",
        _UPSTREAM,
        _WARNING,
        "Between the products {what}.",
        f"Prefix tuning needs scores that are products plus additive masks; {_OTHER_METHOD}",
    )
    TERM_NOT_KNOWN_BEFORE = (
        "P203",
        _UPSTREAM,
        _WARNING,
        "`{code}` is added to the scores, but not known before the keys grow.",
        f"Prefix tuning needs scores that are products plus additive masks; {_OTHER_METHOD}",
    )
    KERNEL_CALLED_DIRECTLY = (
        "P203",
        _UPSTREAM,
        _WARNING,
        "Here {what}.",
        f"The kernel knows no mask with a prefix; {_OTHER_METHOD}",
    )
    CAUSAL_BY_FLAG = (
        "P204",
        _UPSTREAM,
        _WARNING,
        "`is_causal` is decided before the keys grow, and torch aligns it with the first key.",
        f"Upstream would have to pass a mask instead of the flag; {_OTHER_METHOD}",
    )
    NO_GATE_INPUT = (
        "P205",
        _UPSTREAM,
        _WARNING,
        "The hidden states that the queries were projected from have no name where the core is called.",
        "Teach `plan/attention/gate.py` where this core has its hidden states.",
    )
    CORE_WITHOUT_CLASS = (
        "P206",
        _UPSTREAM,
        _WARNING,
        "The attention core stands in a function that no class owns.",
        "Teach `plan/attention/lift.py` to edit the call of the function that holds the core.",
    )
    CORE_NO_STATEMENT = (
        "P206",
        _UPSTREAM,
        _WARNING,
        "The attention core is no statement of its own.",
        "Teach `plan/attention/lift.py` to edit the call of the function that holds the core.",
    )
    PACKED = (
        "P207",
        _UPSTREAM,
        _WARNING,
        "Sequences are packed into one row.",
        f"A prefix per sequence has no place in the keys of a packed row; {_OTHER_METHOD}",
    )
    WINDOWS = (
        "P208",
        _UPSTREAM,
        _WARNING,
        "The hidden states are cut into windows, or reshaped, on their way into the attention.",
        f"A prefix per sequence has no place in the keys of a window; {_OTHER_METHOD}",
    )
    EAGER_DIFFERS = (
        "P209",
        _UPSTREAM,
        _WARNING,
        "In `{function}`, {what}.",
        "Read that function: everything with a key dimension must be an argument of the call. "
        "If it is, teach `plan/attention/eager.py`.",
    )
    KEY_IS_VALUE = (
        "P210",
        _UPSTREAM,
        _WARNING,
        "One tensor is key and value of this core, and what comes out is treated accordingly.",
        f"A prefix has keys and values of its own; {_OTHER_METHOD}",
    )
    KEYS_ARE_VALUES = (
        "P211",
        _UPSTREAM,
        _WARNING,
        "`{key}` gives keys and values together, so the width of either does not show.",
        "Teach `plan/attention/projections.py` where the width is stated.",
    )
    NO_HEAD_WIDTH = (
        "P211",
        _UPSTREAM,
        _WARNING,
        "The width of a key head of `{core}` is not stated by an attribute.",
        "Teach `plan/attention/projections.py` where the width is stated.",
    )
    NO_PROJECTIONS = (
        "P220",
        _UPSTREAM,
        _WARNING,
        "No linear modules were found that give queries, keys and values to `{core}`.",
        "Teach `plan/attention/projections.py` the step between the core and its projection.",
    )
    TORCH_ATTENTION = (
        "P221",
        _UPSTREAM,
        _WARNING,
        "nn.MultiheadAttention keeps its projections in one parameter and its keys to itself.",
        f"LoRA needs nn.Linear or Conv1D modules, and a prefix the keys; {_OTHER_METHOD}",
    )
    PROJECTS_ITSELF = (
        "P221",
        _UPSTREAM,
        _WARNING,
        "torch's function for attention in `{core}` reads the weights of the projections, which never run, and keeps its keys to itself.",
        f"LoRA has its places in the feed-forward block (`intermediate_lora`, `output_lora`); a prefix needs the keys: {_OTHER_METHOD}",
    )
    FUSED_ORDER_UNKNOWN = (
        "P222",
        _UPSTREAM,
        _NOTE,
        "The order in which `{fused}` gives queries, keys and values is not shown, so LoRA cannot adapt one.",
        "Give LoRA other places, with the options `attn_matrices`, `intermediate_lora` and `output_lora`.",
    )
    FUSED_KEYS_AND_VALUES = (
        "P222",
        _UPSTREAM,
        _NOTE,
        "`{key}` gives keys and values together, so LoRA cannot adapt one of them.",
        "Give LoRA other places, with the options `attn_matrices`, `intermediate_lora` and `output_lora`.",
    )
    NO_EARLIER_OPERAND = (
        "P230",
        _UPSTREAM,
        _WARNING,
        "No operand of this addition is an earlier value of the stream.",
        "Teach `plan/stream/additions/residuals.py` the form of this addition, if adapters belong here.",
    )
    ADDED_IN_PART = (
        "P230",
        _UPSTREAM,
        _WARNING,
        "Here something is added to some positions of the stream only.",
        "Teach `plan/stream/additions/residuals.py` the form of this addition, if adapters belong here.",
    )
    ADDED_BY_WIDTH = (
        "P230",
        _UPSTREAM,
        _WARNING,
        "Here something is added only in layers that are given as many features as they give.",
        f"Teach the runtime to ask a layer for its widths, if adapters belong here; until then, {_OTHER_METHOD}",
    )
    NO_WORK_ADDED = (
        "P230",
        _UPSTREAM,
        _WARNING,
        "What is added to the stream did not come out of a submodule.",
        "Teach `plan/stream/additions/work.py` the form of this addition, if adapters belong here.",
    )
    ADDED_ELSEWHERE = (
        "P230",
        _UPSTREAM,
        _WARNING,
        "What is added here is added by a function or module of upstream's elsewhere, and one host cannot stand in front of both.",
        "Teach `plan/stream/placing.py` the form of this addition, if adapters belong here.",
    )
    ADDITION_WITHOUT_CLASS = (
        "P230",
        _UPSTREAM,
        _WARNING,
        "The addition stands in a function that no class owns.",
        "Teach `plan/stream/additions/residuals.py` the form of this addition, if adapters belong here.",
    )
    SUM_HANDED_ON = (
        "P230",
        _UPSTREAM,
        _WARNING,
        "What this call adds to the stream is a sum of sublayers in some models, and of one sublayer in others.",
        "Teach `plan/stream/additions/handed_on.py` this form of the sum, if adapters belong here.",
    )
    STREAM_NOT_FOLLOWED = (
        "P234",
        _UPSTREAM,
        _WARNING,
        "The stream is not followed behind this, so what is added to it there has no site.",
        "Teach `plan/stream/additions/residuals.py` this step of the stream.",
    )
    ATTENTION_WITHOUT_SITE = (
        "P235",
        _UPSTREAM,
        _WARNING,
        "What `{core}` attends to reaches the stream by no addition that a rule claims.",
        "Teach `plan/stream/additions/residuals.py` the form of this addition.",
    )
    SECOND_STREAM = (
        "P236",
        _UPSTREAM,
        _NOTE,
        "`{core}` attends on a second stream, which the layer returns behind the first; that stream has no sites.",
        "Nothing is lost on the first stream; teach `plan/stream/additions/residuals.py` to follow a second one, if adapters belong there.",
    )
    ADDED_TO_SECOND = (
        "P238",
        _UPSTREAM,
        _NOTE,
        "What `{work}` gives is added to a second stream, which the layer returns behind the first; that stream has no sites.",
        "Nothing is lost on the first stream; teach `plan/stream/additions/residuals.py` to follow a second one, if adapters belong there.",
    )
    LAYER_NOT_PLANNED = (
        "P237",
        _UPSTREAM,
        _WARNING,
        "{path} may hold `{name}`, of which no layer was planned.",
        "Teach `plan/stream/lists/candidates.py` what makes this class a layer.",
    )
    MIXES_POSITIONS = (
        "P231",
        _UPSTREAM,
        _NOTE,
        "What is added here mixes positions without attention; it gets no adapter.",
        "Nothing is lost if no adapter belongs here; else teach `plan/stream/roles.py` this sublayer.",
    )
    SUBLAYER_NOT_KNOWN = (
        "P242",
        _UPSTREAM,
        _WARNING,
        "The sublayer is a feed-forward block in some layers, and where it is a {name}, what it does is not known.",
        "Teach `plan/stream/roles.py` what shows this sublayer to be an attention, a mixer or a feed-forward block.",
    )
    EXTRA_OUTPUT = (
        "P233",
        _UPSTREAM,
        _NOTE,
        "What is added here, behind the feed-forward block, comes out of a module that only some configs ask for; it gets no adapter.",
        "Nothing is lost: adapters stand after the feed-forward block. Where some belong here, teach `plan/stream/roles.py` the case.",
    )
    JOINT_ADDITION = (
        "P232",
        _UPSTREAM,
        _NOTE,
        "Attention and feed-forward are added in one sum.",
        "Nothing is lost: `adapter-codegen explain MODEL_TYPE` shows the two sites, one in the other.",
    )
    TWO_ROLES = (
        "P240",
        _UPSTREAM,
        _WARNING,
        "`{name}` is used in two roles, {one} and {other}.",
        f"Two roles cannot share adapters that are held by name; {_OTHER_METHOD}",
    )
    BEHIND_SUPER = (
        "P241",
        _UPSTREAM,
        _WARNING,
        "This runs by `super().{function}` of `{name}`, where no edit of it would be met.",
        "Teach `rewrite/super_call.py` to reach the copy of the base class, if adapters belong here.",
    )
    NO_ATTENTION_IN_FILE = (
        "P250",
        _UPSTREAM,
        _WARNING,
        "No layers with attention were found in this file.",
        _NO_ATTENTION,
    )
    TOO_LARGE = (
        "P251",
        _UPSTREAM,
        _WARNING,
        "`{name}` calls more than can be followed.",
        "Teach `plan/flow/tracer.py` the loop that it does not leave, or leave the model out.",
    )
    NOTHING_RECOGNISED = (
        "P252",
        _UPSTREAM,
        _ERROR,
        "Nothing was recognised in the layers of {base}: {classes}{made_of}.",
        "A layer must hold attention and residual additions in this file: see the other diagnostics of "
        "`adapter-codegen explain MODEL_TYPE`.",
    )
    SOFTMAX_UNCLAIMED = (
        "P253",
        _UPSTREAM,
        _NOTE,
        "Here {name} takes a softmax that no kind of attention core claims{why}.",
        "Add its kind of core to `plan/attention/table.py`, if adapters belong here.",
    )
    UNKNOWN_LICENCE = (
        "P260",
        _UPSTREAM,
        _ERROR,
        "The licence of {path} is not on the list of those that allow a changed copy: {words!r}.",
        "Leave the model out; or add the licence, with the reason why it allows one, to `parse/licences.py`.",
    )

    # P3: overrides.toml -----------------------------------------------------------------------------------------------

    OVERRIDES_NO_TOML = (
        "P300",
        _OVERRIDES,
        _ERROR,
        "overrides.toml is not TOML: {error}",
        "Mend the line of `plan/overrides.toml` that the message names.",
    )
    OVERRIDE_UNKNOWN_KEYS = (
        "P301",
        _OVERRIDES,
        _ERROR,
        "[{model_type}] in overrides.toml has unknown keys: {unknown}.",
        "Keys that `plan/overrides.toml` may have: {known}.",
    )
    OVERRIDE_WITHOUT_REASON = (
        "P302",
        _OVERRIDES,
        _ERROR,
        "[{model_type}] in overrides.toml gives no reason.",
        "Say as its `reason` why upstream's text cannot tell.",
    )
    OVERRIDE_NO_TABLE = (
        "P303",
        _OVERRIDES,
        _ERROR,
        "[{model_type}] in overrides.toml is no table.",
        "Write one table per model type into `plan/overrides.toml`.",
    )
    OVERRIDE_UNKNOWN_METHOD = (
        "P303",
        _OVERRIDES,
        _ERROR,
        "[{model_type}] in overrides.toml names no method: {name!r}.",
        "Methods that `unsupported` may name: {known}.",
    )
    OVERRIDE_IDLE = (
        "P304",
        _OVERRIDES,
        _ERROR,
        "[{model_type}] in overrides.toml changes nothing ({what}).",
        "Remove it from `plan/overrides.toml`: the plan says the same without it.",
    )

    # C: what the conformance checks say of models that were generated -------------------------------------------------

    BROKEN_VERDICTS = (
        "C100",
        _CONFORMANCE,
        _ERROR,
        "verdicts.json is not what the conformance checks write: {error}.",
        "Restore `plan/verdicts.json` from version control, or have it written again: `python -m conformance --help`.",
    )
    FAILED_CHECK = (
        "C101",
        _CONFORMANCE,
        _ERROR,
        "{model_type} is understood, and what is generated fails the conformance check `{check}`: {reason}",
        "In a checkout, `python -m conformance {model_type}` shows the failure; "
        "`adapter-codegen explain {model_type} --without-verdicts` shows the plan.",
    )
    UNTRIED = (
        "C102",
        _CONFORMANCE,
        _WARNING,
        "No conformance check has tried {model_type}: {reason}.",
        "Compare its outputs with upstream's before you rely on it; in a checkout, `python -m conformance {model_type}` "
        "says what a check would need.",
    )

    # R: plan -> edited classes ----------------------------------------------------------------------------------------

    NO_SUCH_FUNCTION = (
        "R101",
        _TOOL,
        _ERROR,
        "The plan copies {name}, which is not in the text.",
        _REPORT,
    )
    NO_SUCH_EXPRESSION = (
        "R102",
        _TOOL,
        _ERROR,
        "The plan names an expression that is not at its place in the text.",
        _REPORT,
    )
    NO_SUCH_STATEMENT = (
        "R103",
        _TOOL,
        _ERROR,
        "The plan names a statement that is not a member of a block in the text.",
        _REPORT,
    )
    DEPENDS_ON_CLASS = (
        "R104",
        _TOOL,
        _ERROR,
        "{name} means something else in a copy of {function}.",
        _REPORT,
    )
    SAME_NAMES = (
        "R201",
        _TOOL,
        _ERROR,
        "Key, value and mask of an attention core are not three different names.",
        _REPORT,
    )
    NORM_DOES_NOT_FOLLOW = (
        "R301",
        _TOOL,
        _ERROR,
        "The statement that an edit takes out does not follow the one that takes its place.",
        _REPORT,
    )
    UNBOUND_NAME = (
        "R401",
        _TOOL,
        _ERROR,
        "A copied function of {path} uses {name}, which its module binds nowhere.",
        "Check that the copy of transformers that `--from` names is complete; if it is, report this as a bug of "
        "adapter-codegen.",
    )

    # V: what must be true before anything is written ------------------------------------------------------------------

    EMITTED_NO_PYTHON = ("V101", _TOOL, _ERROR, "{path} is not Python: {error}.", _REPORT)
    NOT_STABLE = ("V102", _TOOL, _ERROR, "{path} changes when it is formatted again.", _REPORT)
    IMPORTS_UNBOUND = ("V103", _TOOL, _ERROR, "{path} imports {name}, which {module} does not bind.", _REPORT)
    UNDEFINED_NAMES = ("V104", _TOOL, _ERROR, "{path} uses names that nothing defines: {names}.", _REPORT)
    OTHER_FUNCTIONS = (
        "V105",
        _TOOL,
        _ERROR,
        "{path} does not hold exactly the planned functions of {name}.",
        _REPORT,
    )
    UNPAIRED_MARKERS = ("V105", _TOOL, _ERROR, "The marker comments of {path} are not in pairs.", _REPORT)
    NO_EDIT = ("V105", _TOOL, _ERROR, "{path}, {name}: {error}.", _REPORT)
    UNMARKED = ("V105", _TOOL, _ERROR, "{path}, {name}: {stray} stands outside of marker comments.", _REPORT)
    COPY_DIFFERS = (
        "V106",
        _TOOL,
        _ERROR,
        "{path}, {name}: without its edits the copy reads {found!r} where upstream has {wanted!r}.",
        _REPORT,
    )

    # M, E: the tree that is written -----------------------------------------------------------------------------------

    BROKEN_MANIFEST = (
        "M101",
        _REQUEST,
        _ERROR,
        "{path} is not a manifest of this tool: {error}.",
        "Restore the file from version control, or delete it and add the models again with `adapter-codegen add-model`.",
    )
    NOT_GENERATED = (
        "M102",
        _REQUEST,
        _ERROR,
        "{models}: not generated here.",
        "Models that `adapter-codegen remove-model` can remove: {there}.",
    )
    PATH_OUTSIDE_TREE = (
        "E101",
        _REQUEST,
        _ERROR,
        "The path {path!r} leads out of {root}.",
        "If it stands in `manifest.json`, restore that file from version control.",
    )
    HAND_EDITED = (
        "E102",
        _REQUEST,
        _ERROR,
        "{path} is not as adapter-codegen wrote it: it was edited by hand, or another tool made it.",
        "Restore it from version control and change its source (plan, template or `plan/overrides.toml`); "
        "or write over it with `--overwrite`.",
    )
    INSTALLED_FOLDER = (
        "E103",
        _REQUEST,
        _ERROR,
        "{root} is in a folder of installed packages; generated files never go there.",
        "Work in a checkout (`--root`), or name a package folder of your own with `--output`.",
    )
    NO_CHECKOUT = (
        "E104",
        _REQUEST,
        _ERROR,
        "{root} is no checkout of adapter-codegen: it has no pyproject.toml of that name.",
        "Name the folder that holds `pyproject.toml` with `--root`, or write a package of your own with `--output`.",
    )
    TWO_TARGETS = (
        "E105",
        _REQUEST,
        _ERROR,
        "--root and --output were both given.",
        "Give one of them: a checkout with `--root`, or a package folder with `--output`.",
    )
    NO_TARGET = (
        "E106",
        _REQUEST,
        _ERROR,
        "{here} belongs to no checkout of adapter-codegen.",
        "Go to a checkout or name it with `--root`; or write a package of your own with `--output FOLDER`.",
    )

    # X: what nobody foresaw -------------------------------------------------------------------------------------------

    CRASH = ("X001", _TOOL, _ERROR, "Internal error: {kind}: {error}{place}", _REPORT)
