"""What a recogniser could not claim, before it becomes a `Diagnostic`: a place, a sentence, a way out."""

from __future__ import annotations

from dataclasses import dataclass

import libcst as cst

from adapter_codegen.model import Diagnostic, Level, Method
from adapter_codegen.parse.facts import ModuleFacts

REMEDIES = {
    "P201": "State the class under [prefix] in overrides.toml only after proving the layout by hand; else leave prefix tuning out.",
    "P202": "Teach `plan/attention/prefix.py` what the argument means for longer keys.",
    "P203": "Prefix tuning needs scores that are products plus additive masks; no way around it for this core.",
    "P204": "Upstream would have to pass a mask instead of `is_causal`; nothing to do here.",
    "P205": "Teach `plan/attention/prefix.py` where this core has its hidden states.",
    "P206": "Teach `plan/attention/prefix.py` to edit the function that holds the core.",
    "P207": "Packed sequences share one row, so a prefix per sequence has no place in the keys; nothing to do here.",
    "P208": "Windows attend among themselves, so a prefix per sequence has no place in the keys; nothing to do here.",
    "P209": "Read the eager function beside it: everything with a key dimension must be an argument of the call.",
    "P210": "Every core of a class must take the prefix, or none does; mend the other one first.",
    "P211": "Teach `plan/attention/projections.py` where the width is stated.",
    "P220": "Teach `plan/attention/projections.py` the step between the core and its projection.",
    "P222": "Give LoRA other places, with the options attn_matrices, intermediate_lora and output_lora.",
    "P221": "LoRA needs nn.Linear or Conv1D modules; nothing to do while upstream keeps these weights as bare parameters.",
    "P230": "Teach `plan/stream/residuals.py` the form of this addition, if adapters belong here.",
    "P231": "Nothing to do, if no adapter belongs here.",
    "P232": "Both terms get one adapter together; nothing to do.",
    "P240": "Rename or split the class in overrides.toml; two roles cannot share adapters that are held by name.",
    "P241": "Teach `rewrite/super_call.py` to reach the copy of the base class, if adapters belong here.",
    "P251": "Teach `plan/flow/dataflow.py` the loop that it does not leave, or leave the model out.",
    "P250": "Nothing to do for a model without attention layers.",
}


@dataclass(frozen=True, eq=False)
class Finding:
    code: str
    message: str
    node: cst.CSTNode | None
    methods: tuple[Method, ...] = ()
    level: Level = Level.WARNING


def as_diagnostic(finding: Finding, facts: ModuleFacts) -> Diagnostic:
    location = None if finding.node is None else facts.location(finding.node)
    return Diagnostic(finding.code, finding.level, finding.message, REMEDIES[finding.code], location, finding.methods)
