"""The plan: what the tool knows about one upstream model, as frozen data.

Everything before this file (``upstream``, ``parse``, ``plan``) works out these objects; everything after it (``rewrite``,
``emit``, ``inspect``) only reads them. A plan never holds a syntax tree: a place in upstream's text is a
`Location`, a piece of upstream's code an `Expression`. So a plan can be compared, pickled, printed and stored.

Where do I add ...
  a new kind of edit?      a ``...Site`` here, a recogniser in ``plan/``, a transformer in ``rewrite/``.
  a new role of a module?  a field of `AttentionRoles`, `MLPRoles`, `MixerRoles` or `LayerPlan` here, its twin in
                           ``adapter_runtime/roles.py`` (generated mixins state roles with those classes).
  a new kind of core?      nothing here: a file in ``plan/attention/kinds/`` and its line in ``plan/attention/table.py``.
  a new method?            a member of `Method` and a rule in ``plan/methods.py`` that says where it holds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum


@dataclass(frozen=True, order=True)
class Location:
    """A span of upstream's text. Lines count from 1, columns from 0 (libcst's convention); show columns as ``column + 1``."""

    path: str  # relative to the transformers package, with "/": "models/llama/modeling_llama.py"
    line: int
    column: int
    end_line: int
    end_column: int

    def __str__(self) -> str:
        return f"{self.path}:{self.line}:{self.column + 1}"


@dataclass(frozen=True)
class Expression:
    """A piece of upstream's code and where it stands."""

    code: str
    location: Location


class Method(str, Enum):
    """The adapter methods whose support is planned per model. The values are the names shown to people."""

    BOTTLENECK = "bottleneck"
    PREFIX_TUNING = "prefix_tuning"
    LORA = "lora"
    REFT = "reft"
    PROMPT_TUNING = "prompt_tuning"
    INVERTIBLE = "invertible"


class Level(str, Enum):
    """How bad a diagnostic is. ERROR: the model is refused. WARNING: the methods it names are not supported for
    the model, the rest is. NOTE: nothing is lost; it explains a decision."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True)
class Diagnostic:
    """Something in upstream that no rule claims, and the way out."""

    code: str  # stable, "P203": letter = stage (U upstream, S syntax/parse, P plan, C conformance, R rewrite, V verification), number
    level: Level
    message: str  # what was found and what was expected, one sentence
    remedy: str  # what the user or contributor can do, one sentence
    location: Location | None = None  # None only where no text is at fault (an unknown model type)
    methods: tuple[Method, ...] = ()  # the methods that it makes unavailable


class AttentionKind(str, Enum):
    SELF = "self"
    CROSS = "cross"


class Role(str, Enum):
    """Which sublayer fed a residual addition."""

    ATTENTION = "attention"
    CROSS_ATTENTION = "cross_attention"
    OUTPUT = "output"


class Joining(str, Enum):
    """How what the adapters of a sublayer give joins the stream. The values are what generated mixins state."""

    HOST = ""  # the adapters' host adds it
    UPSTREAM = "upstream"  # upstream's own code does, in a function of its own or with a scale
    STREAMS = "streams"  # upstream mixes it into several streams: none of them is the one before the sublayer


@dataclass(frozen=True)
class PrefixSite:
    """One attention core: the place where prefix keys and values are put in front.

    The edit, before `statement`:  ``key, value, mask = self.prepend_prefix(query, key, value, mask, gate_input, **keywords)``
    and per bias  ``bias = self.extend_bias(bias, key)``. An argument that is a plain name is bound again under that
    name; any other expression gets a new local name, which then stands in the core in its place.
    """

    class_name: str
    function: str  # the method that holds the core, mostly "forward"
    core: str  # name of its kind: how keys and values meet queries. See plan/attention/table.py
    location: Location  # of the core: the interface call, the sdpa call, or the first of the two products
    statement: Location  # the statement that the edit precedes (in the same block)
    query: Expression
    key: Expression  # its layout (batch, key heads, length, width) was proven by data flow
    value: Expression
    mask: Expression | None  # None: the core is called without a mask
    gate_input: Expression  # the hidden states (batch, length, hidden) that the query was projected from
    biases: tuple[Expression, ...] = ()  # further arguments with a key dimension (position_bias); grown with zeros
    # What meets the scores later and is not known before them; grown where it stands: ``self.extend_bias(term, key)``
    late: tuple[Expression, ...] = ()
    # Without a mask: what the softmax is given, where rows that see no prefix are told: ``self.hide_prefixes(scores, key)``
    scores: Expression | None = None
    keywords: tuple[str, ...] = ()  # source of keywords handed on: "is_causal=False", "sliding_window=...", "**kwargs"
    kept: tuple[str, ...] = ()  # plain names that are read again after the core: these get a new local name as well


class Placement(str, Enum):
    """What a bottleneck call takes the place of."""

    ADDITION = "addition"  # r + x  ->  site(x, r, None); x + r  ->  site(x, r, None, branch_first=True)
    NORM_OF_ADDITION = "norm of addition"  # self.norm(r + x)  ->  site(x, r, self.norm)
    NORM_IN_NEXT_STATEMENT = "norm in the next statement"  # h = r + x; h = self.norm(h)  ->  h = site(x, r, self.norm)
    PARALLEL_SUM = (
        "parallel sum"  # a + f + r  ->  site(f, beside(a, r, None), None), while adapters run; else as it is
    )
    BRANCH = "branch"  # add(x, r)  ->  add(site(x, r), r): upstream's own code adds, with a scale, a dropout, a mix of streams


@dataclass(frozen=True)
class Beside:
    """The other sublayer of a parallel sum. Its adapters come first: what they give is the residual of the site's own."""

    branch: Expression
    host: str
    role: Role


@dataclass(frozen=True)
class ResidualSite:
    """One residual addition: the place of a bottleneck adapter."""

    class_name: str
    function: str
    placement: Placement
    location: Location  # the expression that is replaced
    statement: Location  # the statement that holds it
    branch: Expression  # what came out of the sublayer, with its scale and dropout: ``self.dropout(x) * self.scale``
    residual: (
        Expression | None
    )  # the earlier value of the stream; None, with BRANCH only: there are several, and it is none of them
    norm: Expression | None  # the callable, ``self.LayerNorm``; None where the stream is not normalised here
    dropped: Location | None  # NORM_IN_NEXT_STATEMENT: the statement that the edit removes
    host: str  # attribute that holds the adapters ("attention_adapters"); "" = the class is its own site (BertSelfOutput)
    role: (
        Role | None
    )  # None in a module of its own, which may have several: the layer that uses it says (BottleneckRole)
    beside: Beside | None = None  # PARALLEL_SUM: what else is added in this sum
    holder: str = ""  # code of the layer that has the host, where the site stands outside of it; "" = the class itself

    def __post_init__(self) -> None:
        if (self.placement is Placement.PARALLEL_SUM) != (self.beside is not None):
            raise ValueError("beside is given exactly with PARALLEL_SUM")
        if (self.placement is Placement.NORM_IN_NEXT_STATEMENT) != (self.dropped is not None):
            raise ValueError("dropped is given exactly with NORM_IN_NEXT_STATEMENT")
        is_normalised = self.placement in (Placement.NORM_OF_ADDITION, Placement.NORM_IN_NEXT_STATEMENT)
        if is_normalised != (self.norm is not None):
            raise ValueError("norm is given exactly where the addition is normalised")
        if self.residual is None and self.placement is not Placement.BRANCH:
            raise ValueError("what adds needs a residual")

    @property
    def hosts(self) -> tuple[str, ...]:
        """Names of what the edit calls, in the order in which they run."""
        own = self.host or "bottleneck_layer_forward"
        return (own,) if self.beside is None else (self.beside.host, own)

    @property
    def branch_first(self) -> bool:
        """Whether upstream writes ``x + r``: the first operand decides the strides of the sum."""
        return self.residual is not None and self.branch.location < self.residual.location

    @property
    def joins(self) -> Joining:
        if self.placement is not Placement.BRANCH:
            return Joining.HOST
        return Joining.STREAMS if self.residual is None else Joining.UPSTREAM


@dataclass(frozen=True)
class ClassPlan:
    """An upstream class of which forwards are copied and edited: it becomes ``<name>WithAdapters``."""

    name: str
    location: Location
    functions: tuple[str, ...]  # methods that are copied, in upstream's order
    prefix_sites: tuple[PrefixSite, ...] = ()
    residual_sites: tuple[ResidualSite, ...] = ()

    def __post_init__(self) -> None:
        touched = {site.function for site in self.prefix_sites} | {site.function for site in self.residual_sites}
        if touched != set(self.functions):
            raise ValueError(f"{self.name}: copied {sorted(self.functions)} but edits are in {sorted(touched)}")


@dataclass(frozen=True)
class OutputOrder:
    """In which order a projection gives several of queries, keys and values: in each group of outputs, part after part.

    Sizes are expressions of attributes of the core's module, numbers, ``+ - * //`` and `outputs`: how many the projection has.
    """

    parts: str  # "qkv", "qvk", "kv", "qg" (g: gates): as they stand in a group
    sizes: tuple[str, ...]  # how many outputs of a group each of them has
    group: str = ""  # how many outputs a group has; "" = all are one group
    where: tuple[str, ...] = ()  # attributes of the core's module: it is so only where all of these are true
    unless: tuple[str, ...] = ()  # and none of these


@dataclass(frozen=True)
class AttentionRoles:
    """The projections around one attention core. All paths start at the layer ("" = the layer itself)."""

    core: str  # path of the module whose class holds the PrefixSite; where no site was found, of the attention module
    kind: AttentionKind
    query: str = ""  # path of the Linear/Conv1D; "" where there is none of its own (fused)
    query_alternatives: tuple[str, ...] = ()  # of which some instances have one in the place of `query`
    key: str = ""
    value: str = ""  # the same as `key` where one projection gives both
    value_beside: tuple[
        str, ...
    ] = ()  # of further projections, whose outputs stand beside those of `value` in each value
    fused: str = ""  # path of one projection that gives q, k and v together
    orders: tuple[OutputOrder, ...] = ()  # of the outputs of `fused`, or of `key` = `value`; () = not proven
    gate: str = (
        ""  # the same as `query` where that projection also gives gates of what is attended to; "" = it does not
    )
    gate_orders: tuple[OutputOrder, ...] = ()  # of the outputs of `query` = `gate`; () = not proven
    output: str = ""  # path of the projection after the core; "" where there is none
    # Width of a key head: an attribute of the core's module, or "outputs // num_heads" of the projection that gives the keys; "" = not stated
    head_dim: str = ""
    value_head_dim: str = ""  # same for values where it differs
    # Classes that attend, where instances of the layer may have another class at `core`: a linear attention, a state space. () = all do
    core_classes: tuple[str, ...] = ()


@dataclass(frozen=True)
class BottleneckRole:
    host: str  # path from the layer of the module that holds the adapters: "attention.output", "attention_adapters"
    location: Role
    # Attributes of the module around the host, as its constructor set them: the place is only where all of `where` are true
    where: tuple[str, ...] = ()
    unless: tuple[str, ...] = ()  # and none of these
    joins: Joining = Joining.HOST
    # Path of a module, which has another class in other layers; the place is only where it has one of `classes`. "" = it is in all
    sublayer: str = ""
    classes: tuple[str, ...] = ()


@dataclass(frozen=True)
class MLPRoles:
    """Projections into and out of the feed-forward block, as paths from the layer."""

    first: tuple[str, ...] = ()  # up-projections that carry the signal: fc1, intermediate.dense, up_proj
    gate: tuple[str, ...] = ()  # the other factor of a gated block: gate_proj
    last: tuple[str, ...] = ()  # down-projections


@dataclass(frozen=True)
class MixerRoles:
    """Projections into and out of sublayers that mix positions without attention, as paths from the layer."""

    first: tuple[str, ...] = ()  # what reads the stream: in_proj
    last: tuple[str, ...] = ()  # what gives to it: out_proj


class Absence(str, Enum):
    """Why a layer has no site behind an attention, or none as its output, although its whole stream was followed.

    A closed list, of reasons that the structure gives. Where none of them holds, the layer is not complete.
    """

    NO_ATTENTION = "no attention in this layer"
    MIXER = "no attention in this layer: a mixer of positions stands alone in it"
    NO_FEED_FORWARD = "no feed-forward block beside the attention"
    ONE_SUBLAYER = "this layer is one sublayer, which has its site"
    MIXES_POSITIONS = "what stands there mixes positions without attention, and takes no adapter"
    NOTHING_ADDED = "nothing is added to the stream in this layer"


@dataclass(frozen=True)
class LayerPlan:
    """A class that the model holds in its layer list. It becomes ``<name>AdaptersMixin``."""

    class_name: str
    location: Location
    attentions: tuple[AttentionRoles, ...]
    bottlenecks: tuple[BottleneckRole, ...]
    mlp: MLPRoles
    mixer: MixerRoles = MixerRoles()
    optional: tuple[str, ...] = ()  # paths (or their beginnings) that upstream creates only under a condition
    turned: tuple[str, ...] = ()  # of projections that see batch and positions the other way round than the layer
    selected: tuple[str, ...] = ()  # of projections that are given some positions only, those of all rows in one
    without: tuple[tuple[Role, Absence], ...] = ()  # of attention and output, what the structure has none of


class StreamForm(str, Enum):
    """The dimensions of the hidden states that run through a list of layers. The values are what generated mixins state."""

    ROWS = ""  # (batch, length, width), as far as the text shows
    PACKED = "packed"  # (length, width), or with a batch of one: the positions of all examples stand in one row
    LENGTH_FIRST = "length first"  # (length, batch, width)
    JOINED = "joined"  # as for rows, but something else stands in front of the tokens of each row
    FOLLOWED = "followed"  # as for rows, but something else stands behind the tokens: an image, padding
    GATHERED = "gathered"  # as for rows, but a position stands for several tokens
    SPREAD = "spread"  # as for rows, but a token stands at several positions: frames of a sound
    PADDED = "padded"  # as for rows, but the model's forward put positions beside those of its input
    NO_TOKENS = "no tokens"  # as for rows, but of something else than the tokens that the model reads
    SEVERAL = "several"  # tensors beside each other: of the image and of the text
    OTHER = "other"  # more dimensions: a grid, several streams side by side


@dataclass(frozen=True)
class StackPlan:
    """A list of layers that the hidden states run through."""

    path: str  # from the base model: "layers", "encoder.layer"; "*" is every element: "encoder.groups.*.layers"
    layer_classes: tuple[str, ...]
    shared: bool = False  # upstream runs through one physical layer more than once (ALBERT)
    form: StreamForm = StreamForm.ROWS
    shown: Location | None = None  # what shows another form than rows
    is_main: bool = False  # what the model returns comes out of it
    optional: str = ""  # the beginning of the path that some models lack; "" = all have the whole path
    without: tuple[str, ...] = ()  # classes of elements at a "*" that hold no layers, beside others that do
    gaps: tuple[Diagnostic, ...] = ()  # why not every layer has its sites; () = the stack is complete
    second: tuple[
        Diagnostic, ...
    ] = ()  # attention on a second stream of its layers, which has no sites; () = there is none

    @property
    def is_complete(self) -> bool:
        """Whether each kind of layer in it has a site behind its attention and one as its output, or an `Absence`."""
        return not self.gaps


@dataclass(frozen=True)
class Parameter:
    """A parameter of an upstream forward, as rendered into adapter models."""

    name: str
    annotation: str  # "" where upstream has none
    default: str  # "" = required
    kind: str  # "positional", "keyword", "args", "kwargs"


class Making(str, Enum):
    """How a model inside a model is made. The values are the words shown to people."""

    AUTO = "made by an auto class"
    BACKBONE = "made as a backbone"  # of the config's choice, by an auto class or upstream's function for it
    OWN = "a class of this file"
    IMPORTED = "a class of another file"
    GIVEN = "handed in"  # or, where nothing is, made by an auto class


@dataclass(frozen=True)
class PartPlan:
    """A whole model inside another one: a *part*. It has layers, sites and methods of its own class.

    Where `is_stack`, the layers of the part are stacks of the whole model, which has a mixin for them. Where `near_miss` says
    something, it is no part.
    """

    path: str  # from the model around it: "language_model", "projector.qformer"
    making: Making
    location: Location  # where it is made
    class_name: str = ""  # its class; "" = known only when a model is built
    usual_type: str = ""  # where its class is open, the model type that upstream takes if no config says another
    made_by: str = ""  # as upstream writes it: "AutoModel.from_config"
    config_path: str | None = (
        ""  # of its config, from the config of the model around it; "" = that one itself, None = not followed
    )
    is_optional: bool = False  # not every config has it
    reads: tuple[str, ...] = ()  # what its forward takes: "tokens", "images", "audio", "features"; () = not known
    is_main: bool = False  # what the model around it returns comes out of it
    is_stack: bool = False
    near_miss: str = ""  # why it is no part, in one sentence
    unprepared: str = ""  # why it gets no adapters although it is a part, in one sentence

    @property
    def is_part(self) -> bool:
        return not self.near_miss and not self.is_stack


@dataclass(frozen=True)
class BasePlan:
    """The base model class (``MODEL_MAPPING_NAMES`` of upstream)."""

    class_name: str
    location: Location
    pretrained_class: str  # "LlamaPreTrainedModel"
    prefix: str  # base_model_prefix: "model"
    stacks: tuple[StackPlan, ...]
    parameters: tuple[Parameter, ...]  # of its forward, without self
    token_embeddings: str = ""  # path of the nn.Embedding over input_ids; "" = none (vision, audio)
    token_scale: str = (
        ""  # attribute of what reads tokens (that of `token_entry`; an encoder) that multiplies their embeddings, and none given
    )
    embedding_output: str = ""  # path of the module whose output enters the first layer
    token_entry: str = (
        ""  # path of the table of tokens to whose embeddings more is added, where that gives none of them
    )
    makes_mask: bool = (
        False  # that module holds the table, and the forward makes a mask of the tokens where it is given none
    )
    class_token: bool = False  # that module puts a learned position in front (images)
    has_pooler: bool = False  # a module of the base model, which reads that position
    final_norm: str = ""  # path of the norm after the last layer; "" = none
    models: tuple[PartPlan, ...] = ()  # whole models inside, in the order in which they are registered
    inner: tuple[StackPlan, ...] = ()  # lists of layers in parts of the same file: stacks of these, not of this model
    unreached: tuple[tuple[str, str], ...] = ()  # lists in which no layer has sites, where parts have: (path, classes)
    lacks: tuple[tuple[Method, str], ...] = ()  # methods that its own stacks have no place for and its parts may have
    # Of a class that ends in a head: its modules behind all layers and parts. None = it is a base model
    head: tuple[str, ...] | None = None
    gives_states: bool = True  # what it returns may have last hidden states
    continues: bool = False  # its tokens, as one of upstream's classes does, and none that fills in masked ones
    is_encoder_decoder: bool = False

    @property
    def streams(self) -> dict[str, str]:
        """Every residual stream that is known, by its path: "" where it is complete, else why it is not.

        A second stream that layers return behind the first counts as one. Streams of parts are counted under their own types.
        """
        lists = (*self.stacks, *self.inner)
        found = {stack.path: stack.gaps[0].message if stack.gaps else "" for stack in lists}
        found |= {f"{stack.path} (second)": stack.second[0].message for stack in lists if stack.second}
        return found | {path: f"Adapters do not reach these layers: {names}." for path, names in self.unreached}

    @property
    def submodels(self) -> tuple[PartPlan, ...]:
        """The models inside that adapters reach: parts, and those whose layers are stacks of this one."""
        return tuple(model for model in self.models if not model.near_miss)

    @property
    def is_of_parts(self) -> bool:
        """Whether what it returns comes out of its parts, and not of its own layers: they decide which methods it has."""
        return bool(self.parts) and not any(stack.is_main for stack in self.stacks)

    @property
    def parts(self) -> tuple[PartPlan, ...]:
        """The models inside that have adapters of their own."""
        return tuple(model for model in self.models if model.is_part)


@dataclass(frozen=True)
class HolderPlan:
    """A class beside the base model that holds its layers itself: T5ForConditionalGeneration, the wrapper in BartForCausalLM."""

    base: BasePlan  # what the class has of a base model
    head: tuple[str, ...] = ()  # its modules and parameters that the base model does not have; () = it is no head
    lacks: tuple[tuple[Method, str], ...] = ()  # methods of the base model that it has no place for, and why


@dataclass(frozen=True)
class TowerPlan:
    """A whole model inside of others that is a base model by itself: SiglipTextModel, an encoder, a backbone of one stack."""

    base: BasePlan
    methods: tuple[MethodSupport, ...]  # what it supports itself, whatever the model type does


@dataclass(frozen=True)
class StaticHead:
    """An upstream class with a head, and how its head maps onto a flexible one."""

    class_name: str
    base_attribute: str  # where the class keeps the base model: "bert"
    head_type: str  # flexible head type: "classification", "causal_lm", ...; "" = there is no flexible counterpart
    layers: tuple[str | None, ...] = ()  # per position of the flexible head's Sequential: path of the static module
    config: tuple[tuple[str, object], ...] = ()  # keyword arguments of the flexible head
    tensors: tuple[tuple[str, str], ...] = ()  # (key of upstream's, of no module of its own; in the flexible head)
    # What stands for a sequence: the "first" token, "last", "eos", the "mean", that of the "rest" without the first, "both" the first and that,
    # the mean of real "frames"; "" = every token, or a pooler
    reads: str = ""
    frames: str = ""  # upstream's method that counts the frames of so many samples; "" = the head asks for none
    skips: str = (
        ""  # field of the config: how many positions behind the first are none of the "rest" either; "" = they all are
    )
    part: str = ""  # path of the part of the base model whose outputs it reads; "" = those of the base model
    mask_token: str = (
        ""  # path in the base model of the token for masked patches, which is the head's; "" = there is none
    )
    weighs_layers: bool = False  # it may read a sum of all layers, whose weights are the head's
    reason: str = ""  # why there is no flexible counterpart, in one sentence; "" where there is one
    location: Location | None = None  # of what the reason is about
    precludes: tuple[
        str, ...
    ] = ()  # types of flexible heads that cannot stand on the base model either, as the class shows
    borrowed: Borrowed | None = (
        None  # what an adapter model takes over of its generation; None where it has none of its own
    )

    def unconverted(self, reason: str) -> StaticHead:
        """The same class without a flexible counterpart."""
        return StaticHead(self.class_name, self.base_attribute, "", reason=reason)


@dataclass(frozen=True)
class Argument:
    """An argument of a rendered forward."""

    name: str
    annotation: str  # as it is written: "torch.Tensor | None"
    default: str  # as it is written; "" = required


@dataclass(frozen=True)
class HeadArguments:
    """Arguments of the forward of an adapter model that heads read, described together."""

    arguments: tuple[Argument, ...]
    description: str  # what is said about them in the docstring


@dataclass(frozen=True)
class Shift:
    """How upstream turns labels into the inputs of a decoder."""

    expression: str  # of the adapter model, over ``labels``: "self._shift_right(labels)"
    function: str  # of upstream's file, that it calls; "" where it calls a method

    @property
    def is_inherited(self) -> bool:
        """Whether it is a call of the method by which an adapter model says how, which upstream's class has then (T5Gemma 2)."""
        return self.expression == "self.prepare_decoder_input_ids_from_labels(labels)"


@dataclass(frozen=True)
class Borrowed:
    """Methods of one of upstream's classes with a head that an adapter model takes over: what is said of steps of generation."""

    class_name: str
    methods: tuple[str, ...]  # sorted
    # What these ask of their object that is a field of the config: (name, its path in the config), sorted.
    fields: tuple[tuple[str, str], ...] = ()
    # What the class derives from for its generation, of a file of its own: an adapter model derives from it too. "" = from upstream's alone
    generation: str = ""

    def __bool__(self) -> bool:
        return bool(self.methods or self.generation)


@dataclass(frozen=True)
class AdapterModelPlan:
    """The class ``<Model>AdapterModel``: a base model, and heads on it if any fit. Its template only prints this."""

    class_name: str  # "LlamaAdapterModel"
    base_attribute: str  # where it holds the base model: "model"
    states_attribute: bool  # whether the class must name that attribute itself, because upstream's classes do not
    arguments: tuple[Argument, ...]  # handed on to the base model
    imports: tuple[str, ...]  # statements for the names in annotations, sorted
    head_types: tuple[
        str, ...
    ] = ()  # of heads that can be added; () = no head fits, and the class has no methods for heads
    head_config: str = ""  # path, in the config, of that of the part which heads stand on; "" = the config itself
    pooling: str = ""  # what stands for a sequence: see `StaticHead.reads`; "" without heads
    pooling_skips: str = ""  # see `StaticHead.skips`
    frames: str = ""  # the method that counts the frames of so many samples; "" = no head asks for it
    mask_token: str = (
        ""  # path in the base model of the token for masked patches, which a head holds; "" = no head does
    )
    weighs_layers: bool = False  # whether a head may ask for the hidden states of all layers
    part: str = ""  # path of the part whose outputs heads read, which runs alone where one does; "" = the base model
    part_arguments: tuple[str, ...] = ()  # those of the base model that this part takes
    encoder_heads: tuple[str, ...] = ()  # types of heads that read what the encoder gives and not the decoder
    encoder_pooling: str = ""  # what stands for a sequence there; "" where no such head asks for one
    generates: bool = False  # whether a head can predict the next token
    borrowed: Borrowed | None = None  # what upstream's class says of the steps of its generation
    head_arguments: tuple[HeadArguments, ...] = ()  # of the heads; () without heads
    read_by_heads: tuple[str, ...] = ()  # arguments of the base model that heads read too
    stacked: tuple[
        str, ...
    ] = ()  # arguments of the base model that have a row per answer in multiple choice; () = no such head
    shift: Shift | None = None  # of labels, where a head predicts the tokens of a decoder

    def __post_init__(self) -> None:
        of_heads = [argument.name for group in self.head_arguments for argument in group.arguments]
        given = [argument.name for argument in self.arguments]
        facts = (
            self.head_config,
            self.pooling,
            self.pooling_skips,
            self.frames,
            self.mask_token,
            self.weighs_layers,
            self.part,
            self.encoder_heads,
            self.generates,
            self.borrowed,
            self.head_arguments,
            self.read_by_heads,
            self.stacked,
            self.shift,
        )
        if not self.head_types and any(facts):
            raise ValueError(f"{self.class_name} has no heads, but facts about them: {facts}")
        if self.head_types and self.pooling not in ("first", "last", "eos", "mean", "rest", "both", "frames"):
            raise ValueError(f"{self.class_name} has heads and pools {self.pooling!r}")
        if (self.encoder_pooling and not self.encoder_heads) or not {*self.encoder_heads} <= {*self.head_types}:
            raise ValueError(f"{self.class_name} has heads {self.encoder_heads} that pool {self.encoder_pooling!r}")
        if len({*given, *of_heads}) != len([*given, *of_heads]):
            raise ValueError(f"{self.class_name} has an argument twice: {[*given, *of_heads]}")
        if not {*self.read_by_heads, *self.stacked, *self.part_arguments} <= {*given}:
            raise ValueError(f"{self.class_name} reads or stacks arguments that its base model does not take")
        required = [not argument.default for argument in self.arguments]
        if required != sorted(required, reverse=True):
            raise ValueError(f"{self.class_name} has a required argument behind an optional one")
        if not self.base_attribute.isidentifier():
            raise ValueError(f"{self.class_name} holds its base model as {self.base_attribute!r}")

    @property
    def all_arguments(self) -> tuple[Argument, ...]:
        """Of its forward, in their order."""
        return (*self.arguments, *(argument for group in self.head_arguments for argument in group.arguments))

    @property
    def encoded(self) -> str:
        """An expression for what the encoder reads, which has a row for each row of the batch."""
        first, *others = (argument.name for argument in self.arguments)
        by_hand = first == "input_ids" and "inputs_embeds" in others
        return f"{first} if inputs_embeds is None else inputs_embeds" if by_hand else first


@dataclass(frozen=True)
class MethodSupport:
    method: Method
    supported: bool
    reason: str  # why not, in one sentence; where supported, "" or a restriction that users should know
    location: Location | None = None


# The restriction of a method that the whole does not rule out, but that no models which were tried inside of it take.
LEFT_TO_PARTS = "The models inside decide: those that were tried there have no place for it."


@dataclass(frozen=True)
class ModelPlan:
    """All that is needed to write the adapter-enabled version of one model type."""

    model_type: str  # upstream's: "llama", "xlm-roberta"
    version: str  # transformers version: "5.23.0"
    path: str  # of the modeling file, relative to the transformers package
    module: str  # "transformers.models.llama.modeling_llama"
    config_class: str
    config_module: str
    licence: str  # the top of upstream's file as far as it may speak of its licence, verbatim
    base: BasePlan
    classes: tuple[ClassPlan, ...]
    layers: tuple[LayerPlan, ...]
    static_heads: tuple[StaticHead, ...]
    flexible_heads: tuple[str, ...]  # head types whose add_..._head methods make sense
    config_keys: tuple[
        tuple[str, str], ...
    ]  # our name -> the config's own where it differs: ("hidden_size", "d_model")
    methods: tuple[MethodSupport, ...]
    diagnostics: tuple[Diagnostic, ...]
    text_digest: str  # sha256 of the file's bytes
    meaning_digest: str  # sha256 of its code without annotations, docstrings and comments
    holders: tuple[HolderPlan, ...] = ()
    towers: tuple[TowerPlan, ...] = ()
    headless: str = ""  # why it has no flexible heads, in one sentence; "" where it has some
    overrides: tuple[str, ...] = ()  # keys of overrides.toml that took part

    @property
    def package(self) -> str:
        """Name of the generated package: the model type as a Python identifier."""
        return self.model_type.replace("-", "_").replace(".", "_")

    def supports(self, method: Method) -> bool:
        return any(entry.method is method and entry.supported for entry in self.methods)


@dataclass(frozen=True)
class Refusal:
    """A model that the tool does not understand well enough to write. The diagnostics say why and what to do."""

    model_type: str
    diagnostics: tuple[Diagnostic, ...] = field(default=())
    base: BasePlan | None = None  # as far as it was understood


PlanResult = ModelPlan | Refusal
