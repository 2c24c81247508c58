"""Facts -> plan: which classes, which sites, which roles; or a diagnostic with its place and the way out.

The way of a layer through this package:

    candidates    which classes are layers
    dataflow      the graph of a layer's forward, with the forwards that it calls (`values`); `walks` and `layout` ask it
    cores         attention cores; `prefix` (with `lift` and `eager`) whether a prefix can be put in front of one
    projections   the linear modules around a core, and of the feed-forward block
    residuals     residual additions on the stream, and their norms
    layers        all of that for one layer class; `module` for a file
    base, heads   the model around the layers; `methods` what holds in the end; `overrides` what a person had to say

Where do I add a new rule? In the recogniser whose question it answers, with its near-misses in ``tests/codegen`` first.
"""

from adapter_codegen.plan.model import plan_model
from adapter_codegen.plan.module import LayerEntry, ModulePlan, plan_module

__all__ = ["LayerEntry", "ModulePlan", "plan_model", "plan_module"]
