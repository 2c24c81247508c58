"""Do the tests notice a wrong line?  python tests/mutations.py [--table] [words of titles ...]

Each mutation changes one place of ``adapter_runtime``, in a copy in a temporary folder, and names the tests that must fail
then. It survives if none does; exit code 1. A mutation whose text is not found exactly once is out of date; exit code 1 too.
The same tests run on the unchanged copy first and must pass. Not part of the normal run: it takes some minutes.

Where do I add a mutation?  A line in `MUTATIONS` (how code could be wrong) or in `DEFECTS` (how `adapters` was wrong, see
``docs/design/0010-defects-of-adapters.md``). ``--table`` prints the tables of ``docs/design/0011-mutation-check.md``.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "codegen"
PACKAGE = "adapter_runtime"
WORKERS = 2


class Mutation(NamedTuple):
    """One wrong line."""

    title: str
    path: str  # below the package
    old: str
    new: str
    tests: str  # below tests/runtime, separated by blanks


class Result(NamedTuple):
    """What came of one."""

    mutation: Mutation
    failed: str  # the first test that failed; "" = it survived
    seconds: float
    output: str


MUTATIONS = (
    Mutation(
        "compositions: the rest of an average is not the identity",
        "programs/nodes.py",
        "terms.append(self.identity(value, *rest) * self.rest)",
        "terms.append(self.identity(value, *rest))",
        "test_program.py::test_a_mean_leaves_the_rest_to_what_came_in",
    ),
    Mutation(
        "compositions: rows without an adapter get those of the next child",
        "programs/layer.py",
        "filled = [self.without_adapter if program is None else program for program in programs]",
        "filled = [program for program in programs if program is not None]",
        "test_program.py test_lora_composition.py",
    ),
    Mutation(
        "repeating: copies of a row lie side by side",
        "call/repeating.py",
        "return value.repeat(*(copies if at == dimension else 1 for at in range(value.dim())))",
        "return value.repeat_interleave(copies, dim=dimension)",
        "test_repeating.py::test_repeated",
    ),
    Mutation(
        "calls: an input that the caller repeated is repeated again",
        "model/calls.py",
        'if plan.copies > 1 and not context.is_repeated and not asked.get("adapter_input_parallelized"):',
        "if plan.copies > 1 and not context.is_repeated:",
        "test_calls.py::test_an_input_that_the_caller_repeated_is_not_repeated_again",
    ),
    Mutation(
        "calls: a context stays when a layer fails",
        "model/calls.py",
        "            thread.context = outer\n",
        "            pass\n",
        "test_calls.py::test_an_error_in_a_layer_leaves_no_context",
    ),
    Mutation(
        "rows: results of tasks come back in the order of the tasks",
        "call/rows.py",
        "self.inverse = torch.argsort(self.order)",
        "self.inverse = self.order",
        "test_program.py::test_each_row_goes_to_its_task test_calls.py::test_rows_go_to_their_tasks",
    ),
    Mutation(
        "rows: the first real token is counted without the prompt",
        "call/rows.py",
        "first = real.argmax(dim=-1) + shift",
        "first = real.argmax(dim=-1)",
        "test_reft.py::test_positions_are_those_of_tokens_where_a_prompt_stands_in_front",
    ),
    Mutation(
        "masks: a mask grows at its end",
        "methods/prefix_tuning/masks.py",
        "return pad(mask, (prefix, 0), value=0.0 if mask.dtype.is_floating_point else 1)",
        "return pad(mask, (0, prefix), value=0.0 if mask.dtype.is_floating_point else 1)",
        "test_places.py::test_a_mask_grows_by_visible_columns",
    ),
    Mutation(
        "prefix program: a shorter prefix is filled up at its end",
        "methods/prefix_tuning/program.py",
        "missing = (0, 0, self.length - program.length, 0)",
        "missing = (0, 0, 0, self.length - program.length)",
        "test_prefix_tuning.py::test_rows_see_the_prefix_of_their_adapter_alone",
    ),
    Mutation(
        "prompt call: positions after a cache are those of tokens",
        "methods/prompt_tuning/call.py",
        "return call.insertion.into_positions(given) if call.is_first else given + prompt",
        "return call.insertion.into_positions(given) if call.is_first else given",
        "test_prompt_tuning.py::test_positions_of_the_caller_are_those_of_the_tokens_after_a_cache_too",
    ),
    Mutation(
        "prompt call: the prompt stands before the first real token",
        "methods/prompt_tuning/call.py",
        "at = first if leads else first + 1",
        "at = first",
        "test_prompt_tuning.py::test_a_prompt_is_put_in_front_of_the_tokens",
    ),
    Mutation(
        "LoRA: the merged update is not scaled",
        "methods/lora/modules/base.py",
        "return [exact(matrix) * self.scaling for matrix in self.matrices()]",
        "return [exact(matrix) for matrix in self.matrices()]",
        "test_lora_family.py::test_active_and_merged_outputs_are_those_of_the_formula",
    ),
    Mutation(
        "DoRA: the bias is rescaled",
        "methods/lora/modules/dora.py",
        "return torch.lerp(bias.to(adapted.dtype), adapted, scale)",
        "return adapted * scale",
        "test_lora_family.py::test_lora_and_dora_are_those_of_peft",
    ),
    Mutation(
        "VeRA: a narrow projection takes the last columns",
        "methods/lora/modules/vera.py",
        "down = down[:, : self.in_features]",
        "down = down[:, -self.in_features :]",
        "test_lora_family.py::test_vera_takes_the_first_rows_and_columns_where_projections_differ_in_width",
    ),
    Mutation(
        "merging: a bias is not restored",
        "methods/lora/layer.py",
        "                self.bias.copy_(bias)\n        self.merged_adapter = self.unmerged = None",
        "                pass\n        self.merged_adapter = self.unmerged = None",
        "test_lora_family.py::test_defect_10_merging_ia3_scales_the_bias",
    ),
    Mutation(
        "bottlenecks: the layer's norm follows whatever the option says",
        "methods/bottleneck/program.py",
        "return bool(adapter.config.original_ln_after)",
        "return True",
        "test_places.py::test_order_of_norm_and_residuals",
    ),
    Mutation(
        "PHM: rows and columns of rule and factor are exchanged",
        "methods/bottleneck/phm.py",
        "return entries.permute(1, 3, 0, 2).reshape(parts * columns, parts * rows)",
        "return entries.permute(0, 3, 1, 2).reshape(parts * columns, parts * rows)",
        "test_compacter.py::test_the_weight_is_the_sum_of_kronecker_products",
    ),
    Mutation(
        "fusion: the residual is added twice",
        "methods/fusion/module.py",
        "return mixture if self.config.residual_before else mixture + residual",
        "return mixture + residual",
        "test_fusion.py::test_every_combination_of_options",
    ),
    Mutation(
        "ReFT: the last tokens are those after the last",
        "methods/reft/positions.py",
        "to_end = end + torch.arange(-shape.suffix, 0, device=hidden.device)",
        "to_end = end + torch.arange(-shape.suffix + 1, 1, device=hidden.device)",
        "test_reft.py::test_equals_upstream_with_hooks_in_plain_torch",
    ),
    Mutation(
        "orthonormal: an average is the plain sum",
        "methods/reft/orthonormal.py",
        "nearest: torch.Tensor = left @ right",
        "nearest: torch.Tensor = total",
        "test_reft.py::test_average_of_orthonormal_projections_is_the_nearest_orthonormal_one",
    ),
    Mutation(
        "invertible: NICE adds where it should subtract",
        "methods/invertible/module.py",
        "second = second - self.G(first)",
        "second = second + self.G(first)",
        "test_invertible.py::test_defect_21_backwards_undoes_forwards",
    ),
    Mutation(
        "heads: parallel heads get the rows of the next copy",
        "heads/parts.py",
        "return [Part(slice(i * size, (i + 1) * size), total, True) for i in range(copies)]",
        "return [Part(slice(i * size, (i + 1) * size), total, True) for i in reversed(range(copies))]",
        "test_heads_several.py::test_parallel_adapters_give_each_head_its_copy_and_the_same_labels",
    ),
    Mutation(
        "heads: a causal head is asked for the token that it reads",
        "heads/kinds/losses.py",
        "logits, labels = logits[:, :-1], labels[:, 1:]",
        "logits, labels = logits[:, :-1], labels[:, :-1]",
        "test_heads_parts.py::test_a_causal_head_predicts_the_next_token",
    ),
    Mutation(
        "loading: without strict, tensors of another shape pass",
        "files/loading/fit.py",
        "if strict or mismatch.shapes:",
        "if strict:",
        "test_files.py::test_without_strict_a_different_shape_is_still_refused",
    ),
    Mutation(
        "transaction: tensors are copied although a later part failed",
        "files/loading/commit.py",
        "        if kind is None:\n",
        "        if True:\n",
        "test_files_parts.py::test_a_failed_transaction_copies_nothing",
    ),
    Mutation(
        "transaction: hooks and children stay as a failed method left them",
        "contract/snapshot.py",
        "    def refill() -> None:\n        held.__dict__.clear()\n",
        "    def refill() -> None:\n        return\n",
        "test_model_methods.py::test_a_refused_adapter_leaves_no_trace",
    ),
    Mutation(
        "transaction: a merged adapter is lost when a method fails",
        "contract/snapshot.py",
        "                tensor.copy_(values)\n",
        "                pass\n",
        "test_unchanged_on_error.py",
    ),
    Mutation(
        "training: biases decay",
        "training/decay.py",
        ' and leaf != "bias"',
        "",
        "test_trainer.py::test_weight_decay_spares_biases_norms_and_factors",
    ),
    Mutation(
        "training: the penalty of a fusion counts for each accumulated batch",
        "training/trainer.py",
        "loss = loss + penalty / self._steps_that_are_summed(num_items_in_batch)",
        "loss = loss + penalty",
        "test_trainer.py::test_the_regularisation_of_a_fusion_acts_in_its_own_step",
    ),
    Mutation(
        "PEFT: rank-stabilised scaling is read as plain",
        "methods/lora/peft/low_rank.py",
        'return float(alpha / math.sqrt(rank) if document.get("use_rslora") else alpha / rank)',
        "return float(alpha / rank)",
        "test_peft_format.py::test_an_adapter_of_peft_gives_the_same_outputs_here_and_when_it_is_back",
    ),
    Mutation(
        "PEFT: parts of a fused projection all read the first A",
        "methods/lora/peft/low_rank.py",
        "whole[first:last, index * rank : (index + 1) * rank] = up[start:stop]",
        "whole[first:last, :rank] = up[start:stop]",
        "test_peft_format.py::test_parts_of_a_fused_projection_are_joined_exactly",
    ),
)

DEFECTS = (
    Mutation(
        "2: a fused projection without a bias gets one",
        "methods/lora/layer.py",
        "        module.merged_adapter = module.unmerged = None\n",
        "        module.merged_adapter = module.unmerged = None\n"
        "        if fused and module.bias is None:\n"
        "            module.bias = nn.Parameter(torch.randn(module.weight.shape[0]))\n",
        "test_lora_family.py::test_defect_2_no_bias_is_invented",
    ),
    Mutation(
        "3: sdpa makes a causal mask that counts the prefix",
        "methods/prefix_tuning/masks.py",
        'return is_causal and queries > 1 and _backend(core) != "eager"',
        "return False",
        "test_prefix_tuning.py::test_defect_3_a_prefix_has_the_same_effect_under_sdpa",
    ),
    Mutation(
        "6: identities of configs leave out options that are true or false",
        "contract/config.py",
        "return json.dumps(self.to_dict(), sort_keys=True)",
        "return json.dumps({k: v for k, v in self.to_dict().items() if not isinstance(v, bool)}, sort_keys=True)",
        "test_defects.py::test_defect_6_a_second_adapter_leaves_the_config_of_the_first_alone",
    ),
    Mutation(
        "7: how DiReFT differs from NoReFT is not written",
        "contract/config.py",
        "return {name: options[name] for name in self._items()}",
        'return {name: options[name] for name in self._items() if name != "subtract_projection"}',
        "test_reft.py::test_defect_7_files_tell_direft_from_noreft",
    ),
    Mutation(
        "8: shared parameters of a bare base model are not written",
        "files/keys.py",
        "if owner(key) == name and not is_alias(key)}",
        'if owner(key) == name and not is_alias(key) and not key.startswith("shared_parameters")}',
        "test_files_defects.py::test_defect_8_parameters_that_layers_share_are_saved_from_bare_models_too",
    ),
    Mutation(
        "9: Average divides twice",
        "programs/nodes.py",
        "terms = [program(value, *rest) * weight for program, weight in zip(self.programs, self.weights, strict=True)]",
        "terms = [program(value, *rest) * weight / 2 for program, weight in zip(self.programs, self.weights, strict=True)]",
        "test_bottleneck.py::test_defect_9_the_average_of_an_adapter_with_itself_is_the_adapter"
        " test_lora_composition.py::test_defect_9_an_average_is_the_weighted_sum",
    ),
    Mutation(
        "10: merging IA3 leaves the bias alone",
        "methods/lora/modules/scale.py",
        "None if bias is None else (exact(bias) * scale).to(bias.dtype)",
        "bias",
        "test_lora_family.py::test_defect_10_merging_ia3_scales_the_bias",
    ),
    Mutation(
        "10: resetting DoRA computes the weight and does not assign it",
        "methods/lora/layer.py",
        "            self.weight.copy_(weight)\n",
        "            self.weight.clone().copy_(weight)\n",
        "test_lora_family.py::test_defect_10_merging_dora_heeds_alpha_and_resetting_restores",
    ),
    Mutation(
        "11: the diagonal of LoReFT is cut off to an integer",
        "methods/reft/orthonormal.py",
        "(self.original.detach().diagonal() > 0.5).to(self.original.dtype) * 2 - 1",
        "self.original.detach().diagonal().int().to(self.original.dtype)",
        "test_reft.py::test_defect_11_weight_decay_leaves_the_projection_orthonormal",
    ),
    Mutation(
        "13: places in the feed-forward block are exchanged",
        "methods/common/projections.py",
        'yield Projection(path, "intermediate_lora", "", None)',
        'yield Projection(path, "output_lora", "", None)',
        "test_lora_models.py::test_defect_13_places_in_the_feed_forward_block_are_what_their_names_say",
    ),
    Mutation(
        "14: with a cache, each new token is the first",
        "methods/reft/positions.py",
        "index = from_start - spans.past",
        "index = from_start",
        "test_reft.py::test_defect_14_generation_with_a_cache_equals_that_without"
        " test_reft.py::test_a_loop_with_a_cache_equals_one_forward_where_first_tokens_are_edited",
    ),
    Mutation(
        "16: the value matrix of a fusion decays",
        "methods/fusion/module.py",
        'undecayed = ("value.weight",)',
        "undecayed = ()",
        "test_trainer.py::test_weight_decay_spares_the_value_matrices_of_fusions",
    ),
    Mutation(
        "17: shared matrices of a deleted adapter stay",
        "programs/layer.py",
        "            del self[name]\n",
        "            pass\n",
        "test_lora_models.py::test_defect_17_shared_matrices_have_the_shapes_of_the_adapter_that_is_there",
    ),
    Mutation(
        "18: blocks have no hash",
        "composition.py",
        "        return hash(repr(self))\n",
        '        raise TypeError("unhashable")\n',
        "test_composition.py::test_blocks_are_equal_only_as_a_whole",
    ),
    Mutation(
        "22: weights that sum up to zero are divided by it",
        "model/averaging.py",
        "if normalize and total == 0:",
        "if False:",
        "test_averaging.py::test_defect_22_weights_that_sum_up_to_zero_are_refused",
    ),
    Mutation(
        "24: what a refused adapter left is not taken back",
        "contract/snapshot.py",
        "        for refill in refills:\n",
        "        for refill in refills[:0]:\n",
        "test_model_methods.py::test_a_refused_adapter_leaves_no_trace"
        " test_fusion.py::test_defect_24_an_error_while_modules_are_made_leaves_no_ghost",
    ),
    Mutation(
        "25: a block equals its beginning",
        "composition.py",
        "(self.children, self.options()) == (other.children, other.options())",
        "all(a == b for a, b in zip(self.children, other.children))",
        "test_composition.py::test_blocks_are_equal_only_as_a_whole",
    ),
    Mutation(
        "27: a seed of zero is none",
        "methods/common/initialisation.py",
        "    if seed is None:\n",
        "    if not seed:\n",
        "test_bottleneck.py::test_defect_27_seeds_count_from_zero_and_leave_the_global_generator_alone",
    ),
    Mutation(
        "29: an adapter that is there already is not activated",
        "files/loading/adapter.py",
        "        if set_active:\n            model.set_active_adapters(name)\n",
        "        if set_active and model.active_adapters is None:\n            pass\n",
        "test_files_defects.py::test_defect_29_an_adapter_that_is_there_already_is_activated_too",
    ),
    Mutation(
        "31: the architecture of a file is not compared",
        "files/loading/fit.py",
        "    if written_from in (None, own):\n",
        "    if True:\n",
        "test_files.py::test_another_architecture_of_equal_shapes_is_refused_unless_asked_for",
    ),
    Mutation(
        "32: prompts are not renamed",
        "files/keys.py",
        "segments[position - 1] in containers:",
        'segments[position - 1] in containers and segments[position - 1] != "prompt_tunings":',
        "test_prompt_tuning.py::test_defect_32_a_prompt_is_loaded_under_another_name",
    ),
    Mutation(
        "36: weights are unpickled with whatever is in them",
        "files/tensors.py",
        "weights_only=True",
        "weights_only=False",
        "test_files_parts.py::test_a_pickle_that_would_run_code_is_refused",
    ),
)


def copied(folder: Path, mutation: Mutation | None) -> None:
    """Copy the package into `folder`, with a mutation.

    Raises:
        LookupError: its text is not there exactly once.
    """
    target = folder / PACKAGE
    shutil.copytree(SOURCE / PACKAGE, target, ignore=shutil.ignore_patterns("__pycache__"))
    if mutation is not None:
        path = target / mutation.path
        text = path.read_text(encoding="utf-8")
        if text.count(mutation.old) != 1:
            raise LookupError(f"found {text.count(mutation.old)} times in {mutation.path}: {mutation.old!r}")
        path.write_text(text.replace(mutation.old, mutation.new), encoding="utf-8")


def run_tests(folder: Path, tests: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run tests with the package in `folder` in front of the installed one, until one fails."""
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    settings = {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    where = f"import {PACKAGE}; assert {PACKAGE}.__file__.startswith({str(folder)!r}), {PACKAGE}.__file__"
    command = f"{where}; import sys, pytest; sys.exit(pytest.main(sys.argv[1:]))"
    options = ["-x", "-q", "-rfE", "--tb=no", "-p", "no:cacheprovider", "-W", "ignore"]
    return subprocess.run(
        [sys.executable, "-c", command, *options, *(f"tests/runtime/{test}" for test in tests)],
        cwd=ROOT,
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        check=False,
    )


def tried(mutation: Mutation) -> Result:
    """Apply a mutation to a copy, and run its tests."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        try:
            copied(folder, mutation)
        except LookupError as error:
            return Result(mutation, "", 0.0, str(error))
        done = run_tests(folder, mutation.tests.split())
    output = done.stdout + done.stderr
    # A test that fails, not one that cannot be collected: the wrong line must be one that still runs.
    found = re.search(r"^FAILED tests/runtime/(\S+?::\w+)", output, re.MULTILINE)
    failed = found[1] if done.returncode == 1 and found else ""
    return Result(mutation, failed, time.monotonic() - started, output)


def passes_unchanged(mutations: Sequence[Mutation]) -> bool:
    """Whether all these tests pass on an unchanged copy."""
    tests = list(dict.fromkeys(test for mutation in mutations for test in mutation.tests.split()))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        copied(folder, None)
        with ThreadPoolExecutor(WORKERS) as pool:
            done = list(pool.map(lambda part: run_tests(folder, part), (tests[0::2], tests[1::2])))
    for result in done:
        if result.returncode not in (0, 5):  # 5: there was nothing to run
            print(result.stdout[-2000:] + result.stderr[-2000:])
    return all(result.returncode in (0, 5) for result in done)


def show(results: Sequence[Result], as_table: bool) -> None:
    """Print what came of the mutations."""
    for result in results:
        title, path = result.mutation.title, result.mutation.path
        if as_table:
            print(f"| {title} | `{path}` | `{result.failed}` |")
        elif result.failed:
            print(f"{result.seconds:5.1f} s  {title}  ->  {result.failed}")
        else:
            print(f"{result.seconds:5.1f} s  {title}  SURVIVED\n{result.output[-1500:]}")


def main(arguments: Sequence[str]) -> int:
    """Run the mutations whose titles hold one of the words given, or all."""
    as_table = "--table" in arguments
    words = [word for word in arguments if word != "--table"]
    groups = [
        [mutation for mutation in group if not words or any(word in mutation.title for word in words)]
        for group in (MUTATIONS, DEFECTS)
    ]
    every = [mutation for group in groups for mutation in group]
    if not passes_unchanged(every):
        print("The tests fail without a mutation.")
        return 1
    with ThreadPoolExecutor(WORKERS) as pool:
        results = dict(zip(every, pool.map(tried, every), strict=True))
    for group in groups:
        show([results[mutation] for mutation in group], as_table)
        print()
    survivors = sum(not result.failed for result in results.values())
    print(f"{len(every)} mutations, {survivors} survived.")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
