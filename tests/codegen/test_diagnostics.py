"""The table of diagnostics: what a remedy names exists, and every problem is told with exactly its details."""

from __future__ import annotations

import ast
import re
import string
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import click
import pytest

from adapter_codegen.cli import cli
from adapter_codegen.diagnostics.faults import crash, is_bug
from adapter_codegen.diagnostics.table import Fault, Problem
from adapter_codegen.plan.told.overrides import KEYS
from adapter_runtime import LoRAConfig

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / "codegen" / "adapter_codegen"
PIP = {"install", "index", "download"}
PLACES = (TOOL, ROOT, ROOT / "generated" / "adapter_models")  # where the files that a remedy names may lie


def options_of(command: click.Command) -> set[str]:
    return {name for parameter in command.params for name in parameter.opts}


def is_known_command(text: str) -> bool:
    """``adapter-codegen list --plan``: the command exists, and has the options."""
    words = text.split()[1:]
    command = cli.commands.get(words[0]) if words else None
    return command is not None and {word for word in words if word.startswith("-")} <= options_of(command)


def is_known_file(text: str) -> bool:
    import transformers

    places = (*PLACES, Path(transformers.__file__).parent)
    found = [place / text for place in places if (place / text).exists()]
    return any(path.is_dir() == text.endswith("/") for path in found)


def exists(named: str) -> bool:
    """Whether what stands between backquotes is a command, an option, a file or folder, or a key that exists."""
    if named.startswith("adapter-codegen "):
        return is_known_command(named)
    if named.startswith("python -m "):  # a package of the tests, which can be run
        return (ROOT / "tests" / named.split()[2] / "__main__.py").is_file()
    if named.startswith("pip "):
        return named.split()[1] in PIP
    if named.startswith("--"):
        return any(named.split()[0] in options_of(command) for command in cli.commands.values())
    if "/" in named or "." in named:
        return is_known_file(named)
    return named in KEYS or named in {field.name for field in fields(LoRAConfig)}


def named_in(remedy: str) -> list[str]:
    return re.findall(r"`([^`]+)`", remedy)


@pytest.mark.parametrize("problem", Problem, ids=lambda problem: f"{problem.code} {problem.name}")
def test_a_remedy_names_what_helps_and_all_that_it_names_exists(problem: Problem) -> None:
    named = named_in(re.sub(r"\{model_type\}|\{other\}", "MODEL_TYPE", problem.remedy))
    assert named, "the remedy names no command, option, key or file"
    assert [text for text in named if not exists(text)] == []


@pytest.mark.parametrize(
    "named",
    [
        pytest.param("adapter-codegen mend", id="a command that does not exist"),
        pytest.param("adapter-codegen list --everything", id="an option that the command lacks"),
        pytest.param("adapter-codegen explain --plan", id="an option of another command"),
        pytest.param("--mend", id="an option of no command"),
        pytest.param("python -m conforming", id="a module that cannot be run"),
        pytest.param("[prefix]", id="a table that overrides.toml does not take"),
        pytest.param("layers", id="a key that overrides.toml does not take"),
        pytest.param("plan/prefix.py", id="a file that has moved"),
        pytest.param("plan/attention", id="a folder that is not written as one"),
    ],
)
def test_a_remedy_that_names_nothing_real_is_found(named: str) -> None:
    assert not exists(named)


def details_of(problem: Problem) -> set[str]:
    texts = (problem.message, problem.remedy)
    return {name for text in texts for _, name, _, _ in string.Formatter().parse(text) if name}


def problem_named(node: ast.expr) -> Problem | None:
    """``Problem.X`` -> the problem."""
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "Problem":
        return Problem.__members__.get(node.attr)
    return None


def told() -> Iterator[tuple[str, Problem, set[str] | None]]:
    """Every use of a problem in the tool, with the names of the details that it is given; None where a variable has them."""
    for path in sorted(TOOL.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            place = f"{path.relative_to(TOOL)}:{node.lineno}"
            if isinstance(node.func, ast.Attribute) and node.func.attr in ("diagnostic", "error"):
                problem = problem_named(node.func.value)
                if problem is not None:
                    given = {keyword.arg or "**" for keyword in node.keywords} - {"location", "methods", "level"}
                    yield place, problem, given
            for argument in node.args:
                problem = problem_named(argument)
                if problem is not None:
                    yield place, problem, details_given(node)


def details_given(call: ast.Call) -> set[str] | None:
    """Keys of the mapping that ``Finding(problem, node, methods, {...})`` has; none where it has no mapping."""
    given = call.args[3] if len(call.args) > 3 else None
    if given is None:
        return set()
    if isinstance(given, ast.Dict):
        return {key.value for key in given.keys if isinstance(key, ast.Constant) and isinstance(key.value, str)}
    return None


def test_every_problem_is_told_somewhere_and_with_exactly_its_details() -> None:
    uses = list(told())
    assert {problem for _, problem, _ in uses} == set(Problem)
    wrong = [
        f"{place}: {problem.name} takes {sorted(details_of(problem))}, not {sorted(given)}"
        for place, problem, given in uses
        if given is not None and given != details_of(problem)
    ]
    assert not wrong, "\n".join(wrong)


def test_no_code_of_the_tool_reads_messages_or_the_beginnings_of_codes() -> None:
    """Decisions are made by members of `Problem` and by `Fault`."""
    pattern = re.compile(r"\.code\.startswith|\bin \w+\.message\b|\.message\.(startswith|find|count)")
    wrong = [path.name for path in TOOL.rglob("*.py") if pattern.search(path.read_text(encoding="utf-8"))]
    assert not wrong


def test_problems_with_one_code_have_one_fault() -> None:
    faults: dict[str, set[Fault]] = {}
    for problem in Problem:
        assert re.fullmatch(r"[A-Z]\d{3}", problem.code)
        faults.setdefault(problem.code, set()).add(problem.fault)
    assert {code for code, found in faults.items() if len(found) > 1} == set()


def test_a_message_is_one_line_whatever_it_quotes() -> None:
    code = "self.bias(\n    size,\n    width=states.shape[1]\n)"
    found = Problem.TERM_NOT_KNOWN_BEFORE.diagnostic(code=code)
    assert found.message.startswith("`self.bias(size, width=states.shape[1])` is added to the scores")


def test_a_problem_becomes_a_diagnostic_with_its_details_filled_in() -> None:
    found = Problem.OVERRIDE_IDLE.diagnostic(model_type="bert", what="lora")
    assert found.code == "P304"
    assert found.message == "[bert] in overrides.toml changes nothing (lora)."
    assert not is_bug(found) and is_bug(crash(ValueError("x")))
