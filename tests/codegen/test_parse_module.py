"""Facts of a module: what its text says, also in the ways of saying it that upstream uses."""

from __future__ import annotations

from collections.abc import Callable
from textwrap import dedent

import libcst as cst
import pytest

from adapter_codegen.diagnostics.errors import CodegenError
from adapter_codegen.parse import ModuleFacts, Submodule, parse_module

HEAD = """\
import copy
from functools import partial
import torch
from torch import nn
from ...activations import ACT2FN, get_activation
from ...cache_utils import Cache as KeyValueCache
from ..auto import AutoModel
from .configuration_tiny import TinyConfig

class A(nn.Module): ...
class B(nn.Module): ...

MAP = {"eager": A, "sdpa": B}

def build_norm(config):
    if config.rms:
        return nn.RMSNorm(config.size)
    return nn.LayerNorm(config.size)

"""
PATH = "models/tiny/modeling_tiny.py"


def facts_of(text: str) -> ModuleFacts:
    return parse_module(HEAD + dedent(text), PATH)


def submodules(init: str) -> dict[str, Submodule]:
    """Submodules of a class with this body of ``__init__``."""
    body = "\n".join(f"        {line}" for line in dedent(init).strip().splitlines())
    text = f"class M(nn.Module):\n    def __init__(self, config, cls=A):\n        super().__init__()\n{body}\n"
    return dict(facts_of(text).classes["M"].submodules)


@pytest.mark.parametrize(
    "init",
    [
        pytest.param("self.config = config", id="a value that is handed in"),
        pytest.param("self.size = int(config.size)", id="a number"),
        pytest.param("self.scale = nn.Parameter(torch.ones(2))", id="a parameter is no module"),
        pytest.param("self.mask = torch.Tensor(2)", id="a tensor"),
        pytest.param("self.ids = torch.arange(2)", id="what a function of torch returns"),
        pytest.param("x = A()", id="a local name"),
        pytest.param("self.a = None", id="nothing"),
        pytest.param("self.a = A()\ndel self.a", id="a module that is taken away again"),
        pytest.param("self.a = A()\nself.a = 3", id="a module that a number replaces"),
        pytest.param("self.a.b = A()", id="an attribute of an attribute"),
        pytest.param('setattr(self, f"a{config.n}", A())', id="a name that is computed"),
        pytest.param("self.a = MAP", id="a dict of classes that nothing is built from"),
        pytest.param("self.layers = nn.ModuleList()", id="a list that stays empty"),
        pytest.param("if config.a:\n    self.a = A()\n    raise ValueError", id="a branch that raises"),
    ],
)
def test_what_is_no_submodule(init: str) -> None:
    assert submodules(init) == {}


@pytest.mark.parametrize(
    ("parameter", "classes", "conditional"),
    [
        ("x: A", ("A",), False),
        ("x: nn.Linear", ("nn.Linear",), False),
        ("x: A = None", ("A",), True),
        ("x: nn.Module", (), False),
        ("x: TinyConfig", (), False),
        ("x: torch.Tensor", (), False),
        ("x: nn.Parameter", (), False),
        ("x: int", (), False),
        ("x", (), False),
    ],
)
def test_a_module_that_is_handed_in_is_of_the_class_that_its_annotation_names(
    parameter: str, classes: tuple[str, ...], conditional: bool
) -> None:
    text = f"class M(nn.Module):\n    def __init__(self, config, {parameter}):\n        self.x = x\n"
    found = facts_of(text).classes["M"].submodules.get("x")
    assert (found.classes if found else ()) == classes
    assert found is None or found.conditional is conditional


@pytest.mark.parametrize(
    ("init", "classes", "container", "conditional"),
    [
        pytest.param("self.x = A(config)", ("A",), "", False, id="direct"),
        pytest.param("self.x: nn.Module = A(config)", ("A",), "", False, id="annotated"),
        pytest.param("self.x = nn.Linear(2, 3, bias=False)", ("nn.Linear",), "", False, id="of torch"),
        pytest.param("self.y, self.x = B(), A()", ("A",), "", False, id="in a tuple"),
        pytest.param("self.x = A() if config.a else B()", ("A", "B"), "", False, id="one of two"),
        pytest.param("self.x = A() if config.a else None", ("A",), "", True, id="or nothing"),
        pytest.param("self.x = None\nif config.a:\n    self.x = A()", ("A",), "", True, id="under an if"),
        pytest.param("if config.a:\n    self.x = A()", ("A",), "", True, id="under an if without an else"),
        pytest.param("if config.a:\n    self.x = A()\nelse:\n    self.x = B()", ("A", "B"), "", False, id="both"),
        pytest.param(
            "if config.a:\n    self.x = A()\nelif config.b:\n    self.x = B()\nelse:\n    raise ValueError",
            ("A", "B"),
            "",
            False,
            id="in every branch that does not raise",
        ),
        pytest.param("c = A if config.a else B\nself.x = c(config)", ("A", "B"), "", False, id="class in a name"),
        pytest.param("self.x = (A if config.a else B)(config)", ("A", "B"), "", False, id="class in place"),
        pytest.param("self.x = MAP[config.kind](config)", ("A", "B"), "", False, id="class from a dict"),
        pytest.param("c = MAP[config.kind]\nself.x = c(config)", ("A", "B"), "", False, id="dict, then name"),
        pytest.param("self.x = MAP.get(config.kind, A)()", ("A", "B"), "", False, id="class got from a dict"),
        pytest.param("self.x = cls(config)", ("A",), "", False, id="class as a default"),
        pytest.param("self.x = partial(A, config)()", ("A",), "", False, id="class with some arguments"),
        pytest.param("self.x = nn.ModuleList([A() for _ in range(3)])", ("A",), "ModuleList", False, id="list"),
        pytest.param("self.x = nn.ModuleList(A() for _ in range(3))", ("A",), "ModuleList", False, id="generator"),
        pytest.param("self.x = nn.ModuleList([A()] + [B()])", ("A", "B"), "ModuleList", False, id="sum of lists"),
        pytest.param(
            "self.x = nn.ModuleList([A() if i % 2 else B() for i in range(3)])",
            ("A", "B"),
            "ModuleList",
            False,
            id="list of two kinds",
        ),
        pytest.param(
            "self.x = nn.ModuleList()\nfor i in range(3):\n    self.x.append(A())",
            ("A",),
            "ModuleList",
            False,
            id="appended in a loop",
        ),
        pytest.param(
            "l = []\nfor i in range(3):\n    l.append(A())\nself.x = nn.ModuleList(l)",
            ("A",),
            "ModuleList",
            False,
            id="local list, appended in a loop",
        ),
        pytest.param(
            "one = A()\nself.x = nn.ModuleList([copy.deepcopy(one) for _ in range(3)])",
            ("A",),
            "ModuleList",
            False,
            id="copies",
        ),
        pytest.param("self.x = nn.Sequential(A(), B())", ("A", "B"), "Sequential", False, id="sequence"),
        pytest.param("self.x = nn.Sequential(*[A(), B()])", ("A", "B"), "Sequential", False, id="starred"),
        pytest.param('self.x = nn.ModuleDict({"a": A(), "b": B()})', ("A", "B"), "ModuleDict", False, id="dict"),
        pytest.param('setattr(self, "x", A())', ("A",), "", False, id="setattr"),
        pytest.param('self.add_module("x", A())', ("A",), "", False, id="add_module"),
        pytest.param("self.x = ACT2FN[config.act]", ("ACT2FN",), "", False, id="activation of the table"),
        pytest.param('self.x = get_activation("gelu")', ("ACT2FN",), "", False, id="activation by the function"),
        pytest.param("self.x = build_norm(config)", ("nn.LayerNorm", "nn.RMSNorm"), "", False, id="by a function"),
        pytest.param(
            "self.x = AutoModel.from_config(config)", ("AutoModel.from_config",), "", False, id="by an auto class"
        ),
        pytest.param("self.x = A._from_config(config)", ("A",), "", False, id="by a class of the file"),
        pytest.param("self.x = nn.utils.weight_norm(A())", ("A",), "", False, id="wrapped by torch"),
    ],
)
def test_how_a_submodule_is_built(init: str, classes: tuple[str, ...], container: str, conditional: bool) -> None:
    found = submodules(init)["x"]
    assert sorted(found.classes) == sorted(classes)
    assert (found.container, found.in_list, found.conditional) == (container, bool(container), conditional)


def test_a_submodule_keeps_its_arguments() -> None:
    found = submodules("self.x = nn.Linear(2, 3, bias=False)")["x"]
    assert [argument.keyword.value for argument in found.arguments if argument.keyword] == ["bias"]


def test_helpers_that_init_calls_are_followed() -> None:
    facts = facts_of("""
        class M(nn.Module):
            def __init__(self, config):
                super().__init__()
                self._build(config)
                self.b = self._make(config)
            def _build(self, config):
                self.a = A(config)
            def _make(self, config):
                return B(config)
        """)
    assert {name: s.classes for name, s in facts.classes["M"].submodules.items()} == {"a": ("A",), "b": ("B",)}


INHERITANCE = """
class Parent(nn.Module):
    prefix = "parent"
    def __init__(self, config):
        super().__init__()
        self.a = A()
        self.b = A()
    def forward(self, x): ...
class Same(Parent):
    def forward(self, x, y=None, *rest, flag=True, **kwargs): ...
class Changed(Parent):
    prefix = "changed"
    def __init__(self, config):
        super().__init__(config)
        self.b = B()
        del self.a
class Apart(Parent):
    def __init__(self, config):
        nn.Module.__init__(self)
        self.c = B()
class Skips(Same):
    def __init__(self, config):
        super(Parent, self).__init__()
class Both(Changed, Same): ...
"""


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        pytest.param("Apart", {"c": ("B",)}, id="an init that does not call its parent's inherits nothing"),
        pytest.param("Skips", {}, id="nor does one that calls its grandparent's"),
        pytest.param("Same", {"a": ("A",), "b": ("A",)}, id="no init of its own"),
        pytest.param("Changed", {"b": ("B",)}, id="replaces one and removes one"),
        pytest.param("Both", {"b": ("B",)}, id="two parents"),
    ],
)
def test_submodules_are_inherited_as_init_runs(name: str, expected: dict[str, tuple[str, ...]]) -> None:
    known = facts_of(INHERITANCE).classes[name]
    assert {name: submodule.classes for name, submodule in known.submodules.items()} == expected


def test_functions_and_attributes_are_resolved_like_python_does() -> None:
    classes = facts_of(INHERITANCE).classes
    assert classes["Both"].lineage == ("Both", "Changed", "Same", "Parent", "nn.Module")
    assert classes["Both"].functions["forward"].owner == "Same"
    assert classes["Both"].functions["forward"].parameters == ("x", "y", "rest", "flag", "kwargs")
    prefix = classes["Both"].attributes["prefix"]
    assert isinstance(prefix, cst.SimpleString)
    assert prefix.evaluated_value == "changed"


@pytest.mark.parametrize(
    ("name", "origin"),
    [
        ("A", "A"),
        ("nn.Linear", "torch.nn.Linear"),
        ("KeyValueCache", "transformers.cache_utils.Cache"),
        ("AutoModel", "transformers.models.auto.AutoModel"),
        ("TinyConfig", "transformers.models.tiny.configuration_tiny.TinyConfig"),
    ],
)
def test_a_name_has_an_origin(name: str, origin: str) -> None:
    assert facts_of("").origin(name) == origin


def test_what_is_defined_under_a_condition_counts() -> None:
    facts = facts_of("""
        try:
            from ...kernels import fast
        except ImportError:
            fast = None
        if fast is not None:
            class C(A): ...
        """)
    assert facts.origin("fast") == "transformers.kernels.fast"
    assert "C" in facts.classes


def test_a_location_is_where_an_editor_finds_it() -> None:
    facts = parse_module("import os\n\nclass C:\n    x = 1\n", PATH)
    assert str(facts.location(facts.classes["C"].node)) == f"{PATH}:3:1"


def test_text_that_does_not_parse_is_an_error_with_a_place() -> None:
    with pytest.raises(CodegenError) as error:
        parse_module("class C:\n    def f(:\n", PATH)
    (diagnostic,) = error.value.diagnostics
    assert diagnostic.code == "S101"
    assert diagnostic.location is not None
    assert diagnostic.location.line == 2


@pytest.mark.parametrize(
    ("model_type", "class_name", "expected"),
    [
        ("llama", "LlamaModel", {"layers": ("LlamaDecoderLayer",), "norm": ("LlamaRMSNorm",)}),
        (
            "bert",
            "BertAttention",
            {"self": ("BertCrossAttention", "BertSelfAttention"), "output": ("BertSelfOutput",)},
        ),
        ("gpt2", "GPT2Attention", {"c_attn": ("Conv1D",), "c_proj": ("Conv1D",)}),
        ("t5", "T5Block", {"layer": ("T5LayerSelfAttention", "T5LayerCrossAttention", "T5LayerFF")}),
        ("albert", "AlbertLayerGroup", {"albert_layers": ("AlbertLayer",)}),
        ("bart", "BartEncoder", {"layers": ("BartEncoderLayer",)}),
        ("vit", "ViTForImageClassification", {"classifier": ("nn.Linear", "nn.Identity")}),
        ("whisper", "WhisperDecoder", {"embed_positions": ("WhisperPositionalEmbedding",)}),
    ],
)
def test_upstream_classes_hold_what_their_init_says(
    upstream_facts: Callable[[str], ModuleFacts],
    model_type: str,
    class_name: str,
    expected: dict[str, tuple[str, ...]],
) -> None:
    submodules = upstream_facts(model_type).classes[class_name].submodules
    assert {name: submodules[name].classes for name in expected} == expected


@pytest.mark.parametrize(
    "body",
    [
        pytest.param("self.x = nn.ModuleList([A() for _ in range(3)])", id="a comprehension has any number"),
        pytest.param("self.x = nn.ModuleList([A()] * 3)", id="a product has any number"),
        pytest.param("self.x = nn.ModuleList()\nfor i in range(3):\n    self.x.append(A())", id="a loop appends"),
        pytest.param("self.x = nn.ModuleList([A()])\nself.x.insert(0, B())", id="an insertion moves the others"),
        pytest.param("self.x = nn.ModuleList([A(), nn.Sequential(A(), B())])", id="a list in a list"),
        pytest.param("self.x = nn.ModuleDict({'a': A(), 'b': B()})", id="a dict has names, and no places"),
        pytest.param("self.x = nn.Sequential(OrderedDict([('a', A()), ('b', B())]))", id="a sequence with names"),
        pytest.param("self.x = nn.ModuleList(make(config))\nself.x.append(A())", id="a list from elsewhere"),
        pytest.param(
            "if config.a:\n    self.x = nn.ModuleList([A(), B()])\nelse:\n    self.x = nn.ModuleList([B()])",
            id="two lists of which none begins as the other",
        ),
    ],
)
def test_a_list_that_is_not_written_out_has_no_places(body: str) -> None:
    assert submodules(body)["x"].places == ()


@pytest.mark.parametrize(
    ("body", "places"),
    [
        pytest.param("self.x = nn.Sequential(A(), B(), A())", (("A",), ("B",), ("A",)), id="a class twice"),
        pytest.param(
            "self.x = nn.Sequential(A(), ACT2FN[config.act], B())", (("A",), ("ACT2FN",), ("B",)), id="an activation"
        ),
        pytest.param("self.x = nn.Sequential(A(), make(config), B())", (("A",), (), ("B",)), id="an unknown module"),
        pytest.param("l = [A()]\nl += [B()]\nself.x = nn.ModuleList(l)", (("A",), ("B",)), id="sum of lists"),
        pytest.param(
            "self.x = nn.ModuleList()\nself.x.append(A() if config.a else B())\nself.x.append(B())",
            (("A", "B"), ("B",)),
            id="one of two at one place",
        ),
        pytest.param(
            "self.x = nn.ModuleList()\nself.x.append(A())\nif config.b:\n    self.x.append(B())\nself.x.append(A())",
            (("A",), ("B",), ("A",)),
            id="one under a condition keeps its place, as the ends count from theirs",
        ),
    ],
)
def test_a_list_that_is_written_out_has_its_classes_in_places(body: str, places: object) -> None:
    assert submodules(body)["x"].places == places


def test_a_list_that_is_put_on_self_before_it_becomes_one_of_modules_holds_the_same() -> None:
    body = "self.x = []\nfor _ in range(config.n):\n    self.x.append(A())\nself.x.append(B())\nself.x = nn.ModuleList(self.x)"
    found = submodules(body)["x"]
    assert (found.classes, found.container) == (("A", "B"), "ModuleList")


@pytest.mark.parametrize(
    "body",
    [
        pytest.param("self.a = A()\nself.x = nn.ModuleList(self.a)", id="one module"),
        pytest.param("self.x = nn.ModuleList(self.a)", id="nothing that is known"),
        pytest.param("self.a = [A()]\nself.a = config.a\nself.x = nn.ModuleList(self.a)", id="what took its place"),
        pytest.param("self.a = nn.ModuleList([A()])\nself.x = nn.ModuleList(self.a)", id="a list of modules already"),
    ],
)
def test_what_else_is_put_on_self_before_is_no_list(body: str) -> None:
    assert "x" not in submodules(body)
