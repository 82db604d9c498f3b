"""Memory of sweeps of a thousand to ten million trials, and what was said before.

Prints, for each space, the growth of the process over the estimate of a dry run:

    python benchmarks/sweep_memory.py
"""

import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import optax

import stabjax

# Rates, thresholds, seeds and the number of recorded steps.
SPACES = [
    (10, 10, 10, 0),
    (100, 10, 10, 0),
    (100, 10, 10, 20),
    (1000, 10, 10, 0),
    (1000, 10, 10, 20),
    (1000, 100, 3, 0),
    (1000, 100, 10, 0),
    (1000, 100, 10, 20),
    (1000, 1000, 3, 0),
    (1000, 1000, 10, 0),
]


def make_optimizer(
    rate: float, max_norm: float
) -> optax.GradientTransformationExtraArgs:
    """Returns SGD after a clip."""
    return optax.chain(stabjax.clip_by_global_norm(max_norm), optax.sgd(rate))


def measured(rates: int, thresholds: int, seeds: int, recorded: int) -> dict[str, int]:
    """Returns the bytes of a sweep, said and used, in a process of its own."""
    problem = stabjax.problems.quadratic()

    def call(rates: int, thresholds: int, **more: bool) -> dict[str, float]:
        space = stabjax.grid(
            rate=np.linspace(0.01, 1.0, rates),
            max_norm=np.linspace(0.1, 10.0, thresholds),
            seed=range(seeds),
        )
        runs = stabjax.sweep(
            problem,
            make_optimizer,
            space,
            steps=20,
            record_every=1 if recorded else None,
            **more,
        )
        return dict(runs.attrs)

    call(3, 3)  # JAX has started, and XLA has its threads
    said = call(rates, thresholds, dry_run=True)
    jax.clear_caches()
    Path("/proc/self/clear_refs").write_text("5")  # the peak is the present size
    before = _status("VmHWM")
    call(rates, thresholds)
    keys = ("expected_host_bytes", "expected_device_bytes", "expected_result_bytes")
    return {
        **{key: int(said[key]) for key in keys},
        "used": _status("VmHWM") - before,
    }


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return 1024 * int(line.split()[1])
    raise LookupError(name)


def main() -> None:
    """Measures each space in a process of its own."""
    if len(sys.argv) > 1:
        print(json.dumps(measured(*map(int, sys.argv[1:]))))
        return
    print("trials        recorded  said MB  used MB  used / said")
    for space in SPACES:
        command = [sys.executable, __file__, *map(str, space)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
        said = found["expected_host_bytes"] + found["expected_device_bytes"]
        trials = space[0] * space[1] * space[2]
        print(
            f"{trials:10,}  {space[3]:8}  {said / 1e6:8.1f}  {found['used'] / 1e6:7.1f}"
            f"  {found['used'] / said:6.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
