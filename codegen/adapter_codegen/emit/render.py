"""Plans and records -> files, through the templates of ``adapter_templates``.

Where do I add a file? A template, and its line in `MODEL_FILES` (one file per model) or `SHARED_FILES` (one for all models).
Templates print; whatever has to be decided is decided in the plan, the record or here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from adapter_codegen.emit.adapter_model import adapter_model_file
from adapter_codegen.emit.formatting import LINE_LENGTH
from adapter_codegen.emit.headers import licence_expression, licence_of, model_header, shared_header
from adapter_codegen.emit.layout import CHECKOUT, Layout
from adapter_codegen.emit.manifest import ModelRecord, canonical
from adapter_codegen.emit.mixin import literal, mixin_file
from adapter_codegen.emit.parts import classes_of, mark_of, parts_of_record, usual_types_of
from adapter_codegen.emit.public_names import read_public_names
from adapter_codegen.model import AdapterModelPlan, LayerPlan, Method, MethodSupport, ModelPlan, StaticHead
from adapter_codegen.rewrite import naming

if TYPE_CHECKING:
    from jinja2 import Environment, Template

# Paths start at the root of a `Layout`; {code} is the folder of the generated package.
MODEL_FILES: Mapping[str, str] = {
    "mixin.py.jinja": "{code}/{package}/mixin_{package}.py",
    "modeling.py.jinja": "{code}/{package}/modeling_{package}.py",
    "adapter_model.py.jinja": "{code}/{package}/adapter_model.py",
    "model_init.py.jinja": "{code}/{package}/__init__.py",
    "tests/test_model.py.jinja": "tests/generated/test_{package}.py",
    "tests/models/test_model.py.jinja": "tests/generated/models/test_{package}.py",
    "docs/model.rst.jinja": "docs/classes/models/{model_type}.rst",
}
SHARED_FILES: Mapping[str, str] = {
    "package_init.py.jinja": "{code}/__init__.py",
    "registry.py.jinja": "{code}/registry.py",
    "py.typed.jinja": "{code}/py.typed",
    "docs/index.rst.jinja": "docs/classes/models/index.rst",
    "docs/overview.rst.jinja": "docs/classes/models/overview.rst",
    "notice.jinja": "NOTICE",
}
PARTS = (
    "docs/parts.rst.jinja",
    "docs/classes/models/parts/{model_type}.rst",
)  # one file for each model made of several
MODELING = "modeling.py.jinja"
PUBLIC_MODULE = "public_module.py.jinja"  # one file for each submodule of the tables of public names


@dataclass(frozen=True)
class Names:
    """The names of one model's generated code, for templates."""

    title: str  # "Llama"
    adapter_model: str  # "LlamaAdapterModel"
    modeling: str  # "modeling_llama"
    mixin: str  # "mixin_llama"
    layers: tuple[LayerPlan, ...]  # that get a mixin; a layer with the same roles as another one shares its mixin
    mixins: Mapping[str, str]  # upstream class -> mixin
    with_adapters: Mapping[str, str]  # upstream class -> class with edited forwards


def names_of(plan: ModelPlan) -> Names:
    mixins = naming.mixins(plan)
    return Names(
        title=naming.title(plan),
        adapter_model=naming.adapter_model(plan),
        modeling=f"modeling_{plan.package}",
        mixin=f"mixin_{plan.package}",
        layers=naming.written_layers(plan),
        mixins=mixins,
        with_adapters={entry.name: naming.with_adapters(entry.name) for entry in plan.classes},
    )


def record_of(plan: ModelPlan, inputs: Mapping[str, str]) -> ModelRecord:
    """What shared files need to know about a model. `inputs`: upstream file -> digest. Its files are not known yet."""
    names, notice = names_of(plan), licence_of(plan)
    record = ModelRecord(
        model_type=plan.model_type,
        package=plan.package,
        title=names.title,
        adapter_model=names.adapter_model,
        path=plan.path,
        module=plan.module,
        config_class=plan.config_class,
        base_class=plan.base.class_name,
        licence=notice.spdx,
        notices=(*notice.copyright, *notice.text),
        text_digest=plan.text_digest,
        meaning_digest=plan.meaning_digest,
        inputs=inputs,
        mixins=_mixin_mapping(plan, names),
        with_adapters={
            f"{plan.module}.{name}": f"{naming.modeling_module(plan)}.{ours}"
            for name, ours in names.with_adapters.items()
        },
        config_keys=dict(plan.config_keys),
        static_heads={head.class_name: _static_head(head) for head in plan.static_heads if head.head_type},
        flexible_heads=plan.flexible_heads,
        methods=_reasons(plan.methods),
        restrictions={entry.method.value: entry.reason for entry in plan.methods if entry.supported and entry.reason},
        stacks=plan.base.streams,
        parts=classes_of(plan),
        usual_parts=usual_types_of(plan),
        towers={f"{plan.module}.{tower.base.class_name}": _reasons(tower.methods) for tower in plan.towers},
    )
    return canonical(record)


def _reasons(methods: Sequence[MethodSupport]) -> dict[str, str]:
    """Method -> "" if supported, else the reason why not."""
    return {entry.method.value: "" if entry.supported else entry.reason for entry in methods}


def _mixin_mapping(plan: ModelPlan, names: Names) -> dict[str, str]:
    """Classes with a mixin and no copied forward: where one is copied, the generated class has the mixin already."""
    module = naming.mixin_module(plan)
    mixed = {name: mixin for name, mixin in names.mixins.items() if name not in names.with_adapters}
    return {f"{plan.module}.{name}": f"{module}.{mixin}" for name, mixin in mixed.items()}


def _static_head(head: StaticHead) -> dict[str, Any]:
    tensors = {"tensors": dict(head.tensors)} if head.tensors else {}
    return {"config": {"head_type": head.head_type, **dict(head.config)}, "layers": list(head.layers), **tensors}


def render_model(
    plan: ModelPlan, adapter_model: AdapterModelPlan, body: str, record: ModelRecord, layout: Layout = CHECKOUT
) -> dict[str, str]:
    """The files of one model, not yet formatted. A file that would be empty is left out.

    Args:
        body: what `rewrite_module` gave; "" where no class is copied.
    """
    paths = layout.paths(MODEL_FILES, package=plan.package, model_type=plan.model_type)
    if not body:
        del paths[MODELING]
    names = names_of(plan)
    variables = {
        "plan": plan,
        "record": record,
        "names": names,
        "header": model_header(plan),
        "licence_text": licence_of(plan).text,
        "body": body,
        "title": names.title,
        "model": adapter_model,
        "file": adapter_model_file(plan, adapter_model),
        "mixins": mixin_file(plan),
        "class_diagram": _class_diagram(names),
        "suite": "AdapterModelTests" if adapter_model.head_types else "HeadlessModelTests",
    }
    return {path: _template(name).render(variables) for name, path in paths.items()}


def render_shared(records: Sequence[ModelRecord], layout: Layout = CHECKOUT) -> dict[str, str]:
    """The files that speak about all models: registries, the package, the index and the table of the docs, the notice."""
    ordered = sorted(records, key=lambda record: record.model_type)
    public = read_public_names()
    exported = {name for _, names in public.root for name in names} | {record.adapter_model for record in ordered}
    by_type = {record.model_type: record for record in ordered}
    parts = {record.model_type: parts_of_record(record, by_type) for record in ordered}
    variables = {
        "records": ordered,
        "models": ordered,
        "parts": parts,
        "methods": tuple(Method),
        "mark_of": mark_of,
        "public": public,
        "exported": sorted(exported),
        "expression": licence_expression(ordered),
        "header": shared_header(),
        "gives_way": layout == CHECKOUT,
    }
    files = {path: _template(name).render(variables) for name, path in layout.paths(SHARED_FILES).items()}
    for record in ordered if layout.extras else ():
        if record.parts:
            path = layout.path(PARTS[1], model_type=record.model_type)
            files[path] = _template(PARTS[0]).render(variables, parts=parts[record.model_type])
    modules = {module: layout.path("{code}/" + module.path) for module in public.modules}
    return files | {
        path: _template(PUBLIC_MODULE).render(variables, module=module) for module, path in modules.items()
    }


def _class_diagram(names: Names) -> tuple[tuple[str, str], ...]:
    return tuple({**names.mixins, **names.with_adapters}.items())


def _template(name: str) -> Template:
    return _environment().get_template(name)


@lru_cache(maxsize=1)
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined  # here: a check by digests renders nothing

    environment = Environment(
        loader=PackageLoader("adapter_templates", ""),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # Python and reStructuredText, no HTML
    )
    environment.filters |= {"literal": literal, "sentence": sentence}
    environment.globals |= {"imports": import_statement, "offer": offer_statement}
    return environment


def import_statement(module: str, names: Sequence[str], indent: int = 0) -> str:
    """The statement as black leaves it: a text that is final is formatted only once, to see that it is. Some files have hundreds."""
    statement = f"from {module} import {', '.join(names)}"
    if len(statement) + indent <= LINE_LENGTH:
        return statement
    return f"from {module} import (\n" + "".join(f"    {name},\n" for name in names) + ")"


def sentence(text: str) -> str:
    """Plain text with `code` in it, as reStructuredText: what has a meaning there stands for itself, outside of the code."""
    parts = text.split("`")
    if len(parts) % 2 == 0:  # a backquote too many is a character like others
        return re.sub(r"([\\*_|`])", r"\\\1", text)
    return "`".join(part if index % 2 else re.sub(r"([\\*_|])", r"\\\1", part) for index, part in enumerate(parts))


def offer_statement(names: Sequence[str]) -> str:
    """``__all__`` as black leaves it."""
    quoted = [f'"{name}"' for name in names]
    statement = f"__all__ = [{', '.join(quoted)}]"
    if len(statement) <= LINE_LENGTH:
        return statement
    return "__all__ = [\n" + "".join(f"    {name},\n" for name in quoted) + "]"
