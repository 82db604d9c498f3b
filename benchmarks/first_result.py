"""How long the first sweep of a process takes, with and without a compilation cache.

python benchmarks/first_result.py [--rounds 5]

Each number is from a fresh process that has imported stabjax and initialized its
devices, one for each core. The toy is that of toy.py with 65,536 runs, and the digits
MLP that of networks.py with 512 runs, of which the training takes 0.5 s. The cache is
JAX's and stores what takes 0.1 s to compile, as in the command `stabjax sweep`: JAX
itself only stores what takes a second. Medians, in seconds of wall and CPU time, and
the attribute `compile_seconds`, which includes tracing.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time

import networks
import toy

import stabjax

RUNS = 512


def measured(name):
    """Returns the wall and CPU time of a sweep, and of its compilation."""
    if name == "toy":
        norms, rates = toy.points(2**16)
        space = stabjax.grid(max_norm=norms, peak_value=rates, seed=range(toy.SEEDS))
        given = toy.PROBLEM, toy.make_optimizer, space
        steps = toy.STEPS
    else:
        given = networks.arguments(stabjax.problems.digits_mlp(), RUNS)
        steps = networks.STEPS
    sweep, _ = stabjax.sweep, given[1](1.0, 0.1)  # imports both
    wall, cpu = time.perf_counter(), time.process_time()
    runs = sweep(*given, steps=steps, progress=False)
    end = time.perf_counter() - wall, time.process_time() - cpu
    return *end, runs.attrs["compile_seconds"]


def in_fresh_process(name, cache):
    cached = {
        "JAX_COMPILATION_CACHE_DIR": cache,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
    }
    environment = os.environ | (cached if cache else {})
    command = [sys.executable, __file__, "--measure", name]
    printed = subprocess.run(command, env=environment, check=True, capture_output=True)
    return [*map(float, printed.stdout.split())]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--measure", choices=["toy", "MLP"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(*measured(options.measure))
        return
    with tempfile.TemporaryDirectory() as cache:
        cases = [(name, where) for name in ("toy", "MLP") for where in ("", cache)]
        times = {case: [] for case in cases}
        for number in range(options.rounds + 1):
            for name, where in cases:
                found = in_fresh_process(name, where)
                if number:  # the first round fills the cache
                    times[name, where].append(found)
    for (name, where), found in times.items():
        wall, cpu, compiling = map(statistics.median, zip(*found, strict=True))
        print(
            f"{name}, {'cached' if where else 'cold':6s}  {wall:.2f} s, "
            f"{cpu:.2f} s of CPU time; before training {compiling:.2f} s"
        )


if __name__ == "__main__":
    main()
