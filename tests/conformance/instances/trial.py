"""One try: does the model build with these fields, and does it run on these inputs?"""

from __future__ import annotations

import ast
import contextlib
import functools
import inspect
import linecache
import re
import tempfile
import textwrap
import traceback
import types
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import transformers
from torch.nn.modules.module import register_module_forward_hook
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights

from conformance.outputs import flatten

MOST_PARAMETERS = 30_000_000  # more is never put into memory


class Failed(Exception):
    """Why a try did not work; `error` is what upstream raised, after as many modules and functions of torch ran as were `reached`."""

    others: tuple[Failed, ...] = ()  # on other inputs
    on: tuple[Callable[..., Any], Callable[[PreTrainedConfig], Any]] | None = (
        None  # what was called, and the recipes for a config
    )

    def __init__(self, error: BaseException, reached: tuple[int, int] = (0, 0)) -> None:
        super().__init__(" ".join(f"{type(error).__name__}: {error}".split()))
        self.error = error
        self.reached = reached

    @functools.cached_property
    def code(self) -> str:
        """The statements that raised it, the innermost first."""
        return "\n".join(text for _, text in statements(self.error))

    @functools.cached_property
    def absent(self) -> tuple[str, ...]:
        """Names of None in the statements that raised it, the innermost first."""
        return tuple(missing(self.error))

    def light(self) -> Failed:
        """Itself, with what it says, but without the tensors that were there when it was raised."""
        _ = self.code, self.absent
        traceback.clear_frames(self.error.__traceback__)
        return self


def statements(error: BaseException, within: str = "transformers") -> list[tuple[types.FrameType, str]]:
    """The frames of files `within` that `error` passed, with the text of what ran in them; the innermost first."""
    passed = []
    trace = error.__traceback__
    while trace is not None:
        code, first, last = trace.tb_frame.f_code, trace.tb_lineno, trace.tb_lineno
        if hasattr(code, "co_positions"):  # from Python 3.11 on
            start, end, _, _ = list(code.co_positions())[trace.tb_lasti // 2]
            first, last = start or first, end or last
        if within in code.co_filename:
            lines = (linecache.getline(code.co_filename, line) for line in range(first, last + 1))
            passed.append((trace.tb_frame, "".join(lines)))
        trace = trace.tb_next
    return passed[::-1]


def missing(error: BaseException, within: str = "transformers") -> Iterator[str]:
    """Names of None in the statements that raised `error`, the innermost first; of a variable that was never set, in what it waits for."""
    passed = statements(error, within)
    if isinstance(error, UnboundLocalError) and passed:
        frame, _ = passed[0]
        passed = [(frame, test) for test in _waiting_for(frame, str(error).partition("'")[2].partition("'")[0])]
    elif "None" not in str(error) and "'bool' object" not in str(error):
        return  # None is no number: to compare with it gives no tensor
    for frame, text in passed:
        for name in re.findall(r"\b[a-z]\w+", text):
            if frame.f_locals.get(name, "") is None:
                yield name


def _waiting_for(frame: types.FrameType, name: str) -> Iterator[str]:
    """The conditions under which the function of `frame` sets its variable `name`."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(frame.f_code))).body
    for condition in ast.walk(tree):
        stored = (
            node for node in ast.walk(condition) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
        )
        if isinstance(condition, ast.If) and any(node.id == name for node in stored):
            yield ast.unparse(condition.test)


def model_class(name: str) -> type[PreTrainedModel]:
    return getattr(transformers, name)


def built(name: str, config: PreTrainedConfig, device: str) -> PreTrainedModel:
    with _quiet(), torch.device(device):
        try:
            if device == "meta":
                with no_init_weights():
                    return model_class(name)._from_config(config, attn_implementation="eager")
            _seed()
            return model_class(name)._from_config(config, attn_implementation="eager", dtype=torch.float32).eval()
        except Exception as error:
            raise Failed(error) from error


def _seed() -> None:
    torch.default_generator.manual_seed(
        0
    )  # `torch.manual_seed` keeps a stack for each seed of a device that is not there


def small_enough(model: PreTrainedModel) -> bool:
    return parameters(model) <= MOST_PARAMETERS


def parameters(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def ran(model: Callable[..., Any], inputs: Mapping[str, Any]) -> Any:
    done = []
    counting = register_module_forward_hook(lambda *_: done.append(None))
    functions = _Counting()
    with _quiet(), torch.no_grad():
        try:
            _seed()
            with functions:
                return model(**inputs)
        except Exception as error:
            raise Failed(error, (len(done), functions.called)) from error
        finally:
            counting.remove()


def gives_no_number(outputs: Any) -> bool:
    """Whether a forward gives a tensor of nothing but NaN, so that no check could tell anything (masks that hide all there is)."""
    tensors = [tensor for tensor in flatten(outputs).values() if tensor.is_floating_point() and tensor.numel()]
    return any(bool(tensor.isnan().all()) for tensor in tensors)


def reads_what_it_writes(model: PreTrainedModel) -> bool:
    """Whether upstream's class reads the checkpoint that it writes of `model`."""
    with _quiet(), tempfile.TemporaryDirectory() as folder:
        try:
            model.save_pretrained(folder)
            type(model).from_pretrained(folder)
        except Exception:  # whatever upstream raises: its own conversion of the weights does not take them
            return False
    return True


class _Counting(TorchFunctionMode):
    called = 0

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        self.called += 1
        return func(*args, **(kwargs or {}))


def further(one: Failed | None, other: Failed) -> Failed:
    """The try that got further says more; of two alike, the first."""
    return other if one is None or other.reached > one.reached else one


def takes(model: PreTrainedModel) -> dict[str, inspect.Parameter]:
    """The named parameters of its forward; then those of a part that it hands its own further ones to."""
    own = _named(model.forward)
    if not _open(model.forward):
        return own
    handed: dict[str, inspect.Parameter] = {}
    for name, given in re.findall(r"self\.(\w+)\(([^()]*)\*\*kwargs", inspect.getsource(type(model).forward)):
        if isinstance(part := getattr(model, name, None), PreTrainedModel):
            every = _named(part.forward)
            placed = [one for one in given.split(",") if one.strip() and "=" not in one]
            known = {*list(every)[: len(placed)], *re.findall(r"\w+(?==)", given)}
            handed |= {name: entry for name, entry in every.items() if name not in known}
    return {**handed, **own}


def _named(call: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    return {
        name: entry
        for name, entry in inspect.signature(call).parameters.items()
        if entry.kind in (entry.POSITIONAL_OR_KEYWORD, entry.KEYWORD_ONLY)
    }


def _open(call: Callable[..., Any]) -> bool:
    return any(entry.kind is entry.VAR_KEYWORD for entry in inspect.signature(call).parameters.values())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
