"""Writes `conformance.md` from the results of `make test slow`."""

import pathlib
import sys
from xml.etree import ElementTree

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = [ROOT / ".venv" / name for name in ("test.xml", "slow.xml")]
sys.path.insert(0, str(ROOT / "tests"))

import battery
import battery_compat

# Columns: the heading, and the test that every row of the battery must pass.
TRANSFORMATIONS = {
    "jit": "test_jit_equals_eager",
    "vmap": "test_vmap_over_each_number_equals_the_loop",
    "grad": "test_gradients_through_it_are_finite",
    "one trace": "test_one_trace_for_all_numbers",
    "float16, bfloat16": "test_dtypes_shapes_and_structure_stay",
    "non-finite": "test_non_finite_gradients_show",
    "chain, MultiSteps": "test_it_composes",
    "sharded": "test_sharded_over_devices_equals_one",
    "explicit mesh": "test_explicit_mesh",
    "FSDP": "test_fsdp",
    "shard_map": "test_shard_map",
    "containers": "test_containers_give_what_a_dict_gives",
    "checkpoints": "test_states_restore_from_every_form",
    "pickle": "test_pickled_transformations_give_the_same",
    "CUDA, TPU": "test_it_lowers_for_cuda_and_tpu",
}
SCHEDULES = {
    "jit": "test_jit_equals_eager",
    "vmap": "test_vmap_over_each_number_equals_the_loop",
    "grad": "test_derivatives_are_finite_at_every_count",
    "one trace": "test_one_trace_for_all_numbers",
    "float64": "test_float32_is_close_to_float64",
    "integer counts": "test_every_type_of_count_gives_the_same_bits",
    "Optax": "test_it_sets_the_rate_of_an_optimizer",
    "pickle": "test_every_schedule_can_be_pickled",
    "CUDA, TPU": "test_it_lowers_for_cuda_and_tpu",
}
_INTRODUCTION = """# Conformance

Every transformation and schedule passes the same tests in every context: ✓ passed,
✗ failed, – does not apply. The rows are those of `tests/battery.py`. Run
`make test slow conformance` to reproduce this page.

- **vmap, grad, one trace**: over every numeric argument, equal to a loop over its
  values; finite derivatives; a single trace for all values.
- **non-finite**: NaN and infinite gradients are visible in the update.
- **sharded, explicit mesh, FSDP, shard_map**: equal to one device, on eight devices.
- **containers**: dicts, tuples, lists, dataclasses, `nnx.State` and other pytrees.
- **checkpoints, pickle**: the state is restored from every common format.
- **CUDA, TPU**: lowers for these platforms.
"""


def outcomes(path):
    """Test and parameters (`test_fsdp[zclip]`) of a run, and whether they passed."""
    cases = ElementTree.parse(path).iter("testcase")
    return {
        (case.get("classname").split(".")[1], case.get("name")): not any(
            child.tag in ("failure", "error") for child in case
        )
        for case in cases
        if not any(child.tag == "skipped" for child in case)
    }


def cell(found, folder, test, row):
    """One cell: all results of a test for a row, over its other parameters."""
    names = (f"[{row}]", f"-{row}]", f"[{row}-float32]", f"[{row}-float64]")
    own = [
        passed
        for (where, name), passed in found.items()
        if where == folder and name.startswith(f"{test}[") and name.endswith(names)
    ]
    return ("✓" if all(own) else "✗") if own else "–"


def table(found, folders, columns, rows):
    """A Markdown table of rows of the battery by contexts."""
    lines = [f"| | {' | '.join(columns)} |", "|---" * (1 + len(columns)) + "|"]
    for row in map(str, rows):
        cells = []
        for test in columns.values():
            marks = {cell(found, folder, test, row) for folder in folders}
            cells.append(min(marks, key="✗✓–".index))
        lines.append(f"| `{row}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def page(paths=RESULTS):
    """The page, from the results of several test runs."""
    found = {}
    for path in paths:
        found |= outcomes(path)
    transformations = table(
        found, ("clipping", "guards"), TRANSFORMATIONS, battery.TRANSFORMATIONS
    )
    schedules = table(
        found,
        ("schedules",),
        SCHEDULES,
        [*battery.SCHEDULES, *battery_compat.SCHEDULES],
    )
    return "\n".join(
        [_INTRODUCTION, "## Transformations", "", transformations]
        + ["", "## Schedules", "", schedules, ""]
    )


if __name__ == "__main__":
    pathlib.Path(__file__).with_name("conformance.md").write_text(page())
