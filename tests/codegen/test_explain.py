"""``explain``: what is said about a plan, as a tree, as JSON and as a page."""

from __future__ import annotations

import html.parser
import io
import json
from dataclasses import replace

import pytest

from adapter_codegen.inspect.explain.html import page
from adapter_codegen.inspect.explain.outline import Mark, Node, outline, record
from adapter_codegen.inspect.explain.text import tree
from adapter_codegen.model import (
    Absence,
    AttentionKind,
    AttentionRoles,
    BasePlan,
    BottleneckRole,
    ClassPlan,
    Diagnostic,
    Expression,
    HolderPlan,
    LayerPlan,
    Level,
    Location,
    Method,
    MethodSupport,
    MLPRoles,
    ModelPlan,
    OutputOrder,
    Placement,
    PrefixSite,
    Refusal,
    ResidualSite,
    Role,
    StackPlan,
    StaticHead,
)

PATH = "models/tiny/modeling_tiny.py"
SOURCE = """\
class TinyAttention:
    def forward(self, x):
        a = attend(
            self, q, k, v, mask
        )
class TinyLayer:
    def forward(self, x):
        h = x + self.attn(x)
        h = self.norm(h)
"""


def at(line: int, column: int = 8, end_line: int | None = None) -> Location:
    return Location(PATH, line, column, end_line or line, 30)


def code(text: str) -> Expression:
    return Expression(text, at(3))


PREFIX = PrefixSite(
    "TinyAttention",
    "forward",
    "attention interface",
    at(3),
    at(3, end_line=5),
    code("q"),
    code("k"),
    code("v"),
    None,
    code("x"),
)
RESIDUAL = ResidualSite(
    "TinyLayer",
    "forward",
    Placement.NORM_IN_NEXT_STATEMENT,
    at(8),
    at(8),
    code("self.attn(x)"),
    code("x"),
    code("self.norm"),
    at(9),
    "attention_adapters",
    Role.ATTENTION,
)
EMITTED: dict[PrefixSite | ResidualSite, tuple[str, ...]] = {
    PREFIX: ("k, v, _ = self.prepend_prefix(q, k, v, None, x)",),
    RESIDUAL: ("h = self.attention_adapters(...)",),
}
WARNING = Diagnostic(
    "P203", Level.WARNING, "A <mask> that no rule claims.", "Add a rule.", at(3), (Method.PREFIX_TUNING,)
)
PLAN = ModelPlan(
    model_type="tiny",
    version="5.23.0",
    path=PATH,
    module="transformers.models.tiny.modeling_tiny",
    config_class="TinyConfig",
    config_module="transformers.models.tiny.configuration_tiny",
    licence="",
    base=BasePlan("TinyModel", at(1), "TinyPreTrainedModel", "model", (StackPlan("layers", ("TinyLayer",)),), ()),
    classes=(
        ClassPlan("TinyAttention", at(1), ("forward",), prefix_sites=(PREFIX,)),
        ClassPlan("TinyLayer", at(6), ("forward",), residual_sites=(RESIDUAL,)),
    ),
    layers=(
        LayerPlan(
            "TinyLayer",
            at(6),
            (AttentionRoles("attn", AttentionKind.SELF, query="attn.q", output="attn.o"),),
            (BottleneckRole("attention_adapters", Role.ATTENTION),),
            MLPRoles(first=("fc1",), last=("fc2",)),
        ),
    ),
    static_heads=(
        StaticHead("TinyForMaskedLM", "model", "masked_lm", ("lm.dense", None), (("layers", 2),)),
        StaticHead("TinyForPuzzles", "model", "", reason="It puzzles.", location=at(6)),
    ),
    flexible_heads=("classification", "tagging"),
    config_keys=(("hidden_size", "d_model"),),
    methods=(
        MethodSupport(Method.BOTTLENECK, True, ""),
        MethodSupport(Method.PREFIX_TUNING, False, "The mask is of no known kind.", at(3)),
    ),
    diagnostics=(WARNING,),
    text_digest="0",
    meaning_digest="1",
)


def sources(path: str) -> str | None:
    return SOURCE if path == PATH else None


def drawn(root: Node, width: int) -> str:
    from rich.console import Console

    stream = io.StringIO()
    Console(file=stream, width=width).print(tree(root))
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines())


def test_a_tree_says_everything_that_was_planned() -> None:
    assert drawn(outline(PLAN, EMITTED, sources), 100) == """\
tiny  transformers 5.23.0, TinyConfig, models/tiny/modeling_tiny.py
├── methods
│   ├── ✓ bottleneck
│   └── ✗ prefix_tuning: The mask is of no known kind.  modeling_tiny.py:3
├── base model: TinyModel (TinyPreTrainedModel, prefix 'model')  modeling_tiny.py:1
│   └── ✓ stack: layers of TinyLayer
├── layer: TinyLayer → TinyLayerAdaptersMixin  modeling_tiny.py:6
│   ├── self-attention: attn
│   │   ├── query: attn.q
│   │   └── output: attn.o
│   ├── bottleneck after attention: attention_adapters
│   └── mlp
│       ├── first projection: fc1
│       └── last projection: fc2
├── class: TinyAttention → TinyAttentionWithAdapters  modeling_tiny.py:1
│   └── prefix: attention interface in forward  modeling_tiny.py:3
│       + k, v, _ = self.prepend_prefix(q, k, v, None, x)
│         a = attend(
├── class: TinyLayer → TinyLayerWithAdapters  modeling_tiny.py:6
│   └── bottleneck: norm in the next statement after attention in forward, adapters in
│       attention_adapters  modeling_tiny.py:8
│       - h = x + self.attn(x)
│       - h = self.norm(h)
│       + h = self.attention_adapters(...)
├── heads
│   ├── flexible heads: classification, tagging
│   ├── ✓ TinyForMaskedLM → masked_lm
│   │   ├── layers: lm.dense, –
│   │   └── options: layers=2
│   └── ✗ TinyForPuzzles: no flexible counterpart: It puzzles.  modeling_tiny.py:6
├── config keys
│   └── hidden_size: d_model
└── diagnostics
    └── warning P203: A <mask> that no rule claims.  modeling_tiny.py:3
        └── help: Add a rule."""


def test_the_order_of_a_fused_projection_is_said() -> None:
    orders = (
        OutputOrder("qkv", ("width", "width", "width"), "3 * width", where=("new",)),
        OutputOrder("kv", ("a", "b")),
    )
    fused = AttentionRoles("attn", AttentionKind.SELF, fused="attn.qkv", orders=orders)
    holder = HolderPlan(
        replace(PLAN.base, class_name="TinyEncoder"), ("score",), ((Method.LORA, "It has no weights."),)
    )
    plan = replace(PLAN, layers=(replace(PLAN.layers[0], attentions=(fused,)),), holders=(holder,))
    text = drawn(outline(plan), 200)
    assert "orders: q k v of width, width, width in each 3 * width where new, k v of a, b" in text
    assert "holds layers too: TinyEncoder" in text and "lora: It has no weights." in text


def test_a_plan_without_flexible_heads_says_why() -> None:
    text = drawn(outline(replace(PLAN, flexible_heads=(), headless="It puzzles only.")), 200)
    assert "✗ flexible heads: none: It puzzles only." in text


def test_a_narrow_terminal_is_never_overrun() -> None:
    lines = drawn(outline(PLAN, EMITTED, sources), 50).splitlines()
    assert max(map(len, lines)) <= 50


def test_a_section_without_content_is_left_out() -> None:
    labels = [node.label for node in outline(PLAN).children]
    assert "overrides" not in labels and "config keys" in labels


def test_without_upstreams_text_the_tree_goes_without_code() -> None:
    assert "attend(" not in drawn(outline(PLAN), 100)


def test_a_refusal_shows_its_diagnostics_only() -> None:
    error = Diagnostic("P101", Level.ERROR, "No layer list.", "Write a rule.")
    root = outline(Refusal("odd", (error,)))
    assert (root.label, root.value, root.mark) == ("odd", "refused", Mark.NO)
    assert [child.label for child in root.children] == ["P101"]


def test_the_record_is_json_and_carries_the_emitted_lines() -> None:
    data = json.loads(json.dumps(record(PLAN, EMITTED)))
    assert data["supported"] is True
    assert data["methods"][1]["location"] == {"path": PATH, "line": 3, "column": 9, "end_line": 3, "end_column": 31}
    assert data["classes"][0]["prefix_sites"][0]["emitted"] == list(EMITTED[PREFIX])
    assert data["classes"][1]["residual_sites"][0]["role"] == "attention"
    assert data["diagnostics"][0]["code"] == "P203"


def test_a_refusal_is_recorded_as_unsupported() -> None:
    assert record(Refusal("odd")) == {"supported": False, "model_type": "odd", "diagnostics": [], "base": None}


GAP = Diagnostic("P234", Level.WARNING, "The stream is not followed.", "Teach it.", at(8), (Method.BOTTLENECK,))
SECOND = Diagnostic("P236", Level.NOTE, "`other` attends on a second stream.", "Teach it.", at(9))


def test_a_stack_says_what_its_layers_lack() -> None:
    (layer,) = PLAN.layers
    lone = replace(layer, without=((Role.OUTPUT, Absence.ONE_SUBLAYER),))
    stack = StackPlan("layers", ("TinyLayer",), is_main=True, gaps=(GAP,), second=(SECOND,))
    base = replace(PLAN.base, stacks=(stack,))
    shown = outline(replace(PLAN, base=base, layers=(lone,)))
    of_base = next(node for node in shown.children if node.label == "base model")
    (found,) = of_base.children
    assert (found.mark, found.value) == (Mark.NO, "layers of TinyLayer (main)")
    assert [(node.label, node.mark, node.location) for node in found.children] == [
        ("not complete", Mark.NO, at(8)),
        ("second stream", Mark.NO, at(9)),
        ("TinyLayer without output", Mark.NONE, None),
    ]
    refused = outline(Refusal("tiny", (GAP,), base))
    assert [node.label for node in refused.children] == ["P234", "base model"]


class _Balance(html.parser.HTMLParser):
    """Notes tags that are closed in the wrong order, and every reference to something outside the page."""

    VOID = {"meta"}

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.references: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.references += [name for name, _ in attrs if name in {"src", "href"}]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)


@pytest.mark.parametrize("result", [PLAN, Refusal("odd", (WARNING,))], ids=["a plan", "a refusal"])
def test_the_page_is_well_formed_and_needs_no_other_file(result: ModelPlan | Refusal) -> None:
    parser = _Balance()
    parser.feed(page(outline(result, EMITTED, sources)))
    assert (parser.open, parser.wrong, parser.references) == ([], [], [])


def test_the_page_escapes_what_upstream_wrote() -> None:
    text = page(outline(PLAN, EMITTED, sources))
    assert "&lt;mask&gt;" in text and "<mask>" not in text
