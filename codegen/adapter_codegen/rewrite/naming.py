"""The names of generated packages, classes and files. Nothing else in the tool puts such a name together."""

from __future__ import annotations

from adapter_codegen.model import ClassPlan, LayerPlan, ModelPlan

RUNTIME = "adapter_runtime"
ATTENTION_MIXIN = "AttentionAdaptersMixin"
BOTTLENECK_MIXIN = "BottleneckLayer"


def with_adapters(class_name: str) -> str:
    return f"{class_name}WithAdapters"


def mixin_module(plan: ModelPlan) -> str:
    """Relative to the generated package, which may be written into a folder of any name."""
    return f".{plan.package}.mixin_{plan.package}"


def modeling_module(plan: ModelPlan) -> str:
    """Relative to the generated package."""
    return f".{plan.package}.modeling_{plan.package}"


def title(plan: ModelPlan) -> str:
    """How upstream's classes call the model: "Llama". What borrows the classes of another, or has no base model, has its own config."""
    if plan.base.head is not None:
        return plan.config_class.removesuffix("Config")
    if plan.config_module and plan.config_module.rpartition(".")[0] != plan.module.rpartition(".")[0]:
        return plan.config_class.removesuffix("Config")
    return plan.base.class_name.removesuffix("Model")


def adapter_model(plan: ModelPlan) -> str:
    return f"{title(plan)}AdapterModel"


def written_layers(plan: ModelPlan) -> tuple[LayerPlan, ...]:
    """The layers that get a mixin of their own: of several with the same roles, only the first."""
    seen: list[tuple[object, ...]] = []
    written = []
    for layer in plan.layers:
        if _roles(layer) not in seen:
            seen.append(_roles(layer))
            written.append(layer)
    return tuple(written)


def mixins(plan: ModelPlan) -> dict[str, str]:
    """Upstream class -> name of its mixin, for the layers, the base model, the other classes that hold its layers, and towers."""
    written = {_roles(layer): f"{layer.class_name}AdaptersMixin" for layer in written_layers(plan)}
    names = {layer.class_name: written[_roles(layer)] for layer in plan.layers}
    models = (plan.base, *(holder.base for holder in plan.holders), *(tower.base for tower in plan.towers))
    return names | {base.class_name: f"{base.class_name}AdaptersMixin" for base in models}


def bases_with_adapters(plan: ModelPlan, entry: ClassPlan) -> tuple[str, ...]:
    """The bases of ``<entry>WithAdapters``."""
    bases = []
    if entry.name in mixins(plan):
        bases.append(mixins(plan)[entry.name])
    if entry.prefix_sites:
        bases.append(ATTENTION_MIXIN)
    functions = {site.function for site in entry.residual_sites if not site.host}
    if functions and "forward" not in functions:  # the mixin has a forward too: upstream's calls what is edited
        return (*bases, entry.name, BOTTLENECK_MIXIN)
    if functions:
        bases.append(BOTTLENECK_MIXIN)
    return (*bases, entry.name)


def _roles(layer: LayerPlan) -> tuple[object, ...]:
    return layer.attentions, layer.bottlenecks, layer.mlp, layer.mixer, layer.optional, layer.turned
