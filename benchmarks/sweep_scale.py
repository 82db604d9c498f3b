"""Measures the time and memory of sweeps with a thousand to a million runs.

python benchmarks/sweep_scale.py [--rounds 3]

Each sweep runs in a separate process with one CPU device per core. The runs train two
weights, L = w1^2 + w2^2, for 200 steps with clipped SGD and a cosine schedule with
warm-up. Another sweep trains 16,384 networks on handwritten digits for 100 steps. The
script prints the median time without compilation and the peak memory of the process.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys

SIZES = {
    "quadratic": ((10, 10, 10), (100, 100, 10), (100, 100, 100)),
    "digits_mlp": ((16, 8, 8), (64, 32, 8)),
}
STEPS = {"quadratic": 200, "digits_mlp": 100}


def sweep(name, thresholds, rates, seeds):
    """Runs a sweep in this process and prints its attributes."""
    import jax

    jax.config.update("jax_num_cpu_devices", os.cpu_count())
    import jax.numpy as jnp
    import optax

    import stabjax

    steps = STEPS[name]

    def make_optimizer(max_norm, peak_value):
        schedule = stabjax.warmup_cosine_decay_schedule(0.0, peak_value, 10, steps)
        clip = stabjax.clip_by_global_norm(max_norm)
        return optax.chain(clip, optax.sgd(schedule))

    space = stabjax.grid(
        max_norm=jnp.logspace(-2, 2, thresholds),
        peak_value=jnp.logspace(-3, 1, rates),
        seed=range(seeds),
    )
    problem = getattr(stabjax.problems, name)()
    runs = stabjax.sweep(problem, make_optimizer, space, steps=steps, progress=False)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    diverged = float((runs.status == 1).mean())
    print(json.dumps({**runs.attrs, "megabytes": peak, "diverged": diverged}))


def measured(*arguments):
    command = [sys.executable, __file__, "--one", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        name, *sizes = options.one
        sweep(name, *map(int, sizes))
        return

    print("| problem | runs | width | compilation s | s | runs/s | MB |")
    print("|---|---|---|---|---|---|---|")
    cases = [(name, *shape) for name, shapes in SIZES.items() for shape in shapes]
    rounds = [[measured(*case) for case in cases] for _ in range(options.rounds)]
    for case, found in zip(cases, zip(*rounds, strict=True), strict=True):
        median = {
            key: statistics.median(run[key] for run in found)
            for key in ("compile_seconds", "seconds", "runs_per_second")
        }
        megabytes = max(run["megabytes"] for run in found)
        print(
            f"| {case[0]} | {found[0]['trials']:,} | {found[0]['chunk_size']} "
            f"| {median['compile_seconds']:.2f} | {median['seconds']:.3f} "
            f"| {median['runs_per_second']:,.0f} | {megabytes:.0f} |"
        )


if __name__ == "__main__":
    main()
