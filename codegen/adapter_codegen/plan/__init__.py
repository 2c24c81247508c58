"""Facts -> plan: which classes, which sites, which roles; or a diagnostic with its place and the way out.

    model        one model type -> `ModelPlan` or `Refusal`
    module       one modeling file: its layer classes and their sites
    stream/      a layer class, the residual additions in it, the model around the layers
    attention/   attention cores, what can be put in front of one, the projections around it
    flow/        the data flow that all of these ask
    heads/       upstream's classes with a head, and the flexible heads of a model
    config_keys  names of configs that differ from ours
    methods      which adapter methods hold in the end, and why not the others
    findings     diagnostics about sites
    told/        what a person (``overrides.toml``) or the conformance checks (``verdicts.json``) had to say, and what
                 nothing reaches then
    pool         the same work for many models, in processes

Where do I add a new rule? In the recogniser whose question it answers, with its near-misses in ``tests/codegen`` first.
"""

from adapter_codegen.plan.heads.adapter_model import plan_adapter_model
from adapter_codegen.plan.model import plan_model
from adapter_codegen.plan.module import LayerEntry, ModulePlan, plan_module

__all__ = ["LayerEntry", "ModulePlan", "plan_adapter_model", "plan_model", "plan_module"]
