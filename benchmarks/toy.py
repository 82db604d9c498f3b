"""Clipped SGD on two weights: a sweep next to a vector kernel written in C.

python benchmarks/toy.py [--rounds 5]

L = w1^2 + w2^2, 1,000 steps with a warm-up and a cosine, 65,536 and 1,048,576 runs, one
CPU device for each core. The kernel is compiled here, with `cc -O3 -march=native
-ffast-math`, keeps each run in registers, and returns the final loss alone; the second
one also computes best loss and divergence, as a sweep does. Each runs in one thread for
each core. The bare scan is the same step in `jax.numpy` under `vmap`, without any
bookkeeping. Interleaved rounds in units of the first kernel: medians, and then the
fastest rounds, which other programs on the machine disturb less.
"""

import argparse
import ctypes
import os
import statistics
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import stabjax

CORES = os.cpu_count() or 1
jax.config.update("jax_num_cpu_devices", CORES)

STEPS, WARMUP, SEEDS, BLOCK = 1000, 50, 16, 64
PROBLEM = stabjax.problems.quadratic()
SOURCE = """
#include <math.h>
#define B 64
void toy(long n, int steps, const float *max_norm, const float *peak, const float *a0,
         const float *b0, const float *rate, float *loss) {
  for (long first = 0; first < n; first += B) {
    float a[B], b[B];
#ifdef BOOKKEEPING
    float best[B], bound[B], good[B];
#endif
    for (int i = 0; i < B; i++) {
      a[i] = a0[first + i];
      b[i] = b0[first + i];
#ifdef BOOKKEEPING
      best[i] = bound[i] = a[i] * a[i] + b[i] * b[i];
      bound[i] *= 1000;
      good[i] = 0;
#endif
    }
    for (int t = 0; t < steps; t++) {
      float r = rate[t];
      for (int i = 0; i < B; i++) {
        float ga = 2 * a[i], gb = 2 * b[i], c = max_norm[first + i];
        float norm = sqrtf(ga * ga + gb * gb);
        float f = c / (norm > c ? norm : c) * peak[first + i] * r;
#ifdef BOOKKEEPING
        float l = a[i] * a[i] + b[i] * b[i];
        best[i] = l < best[i] ? l : best[i];
        good[i] += (l <= bound[i]) & (good[i] == t);
#endif
        a[i] -= f * ga;
        b[i] -= f * gb;
      }
    }
    for (int i = 0; i < B; i++) {
      loss[first + i] = a[i] * a[i] + b[i] * b[i];
#ifdef BOOKKEEPING
      loss[first + i] += 1e-30f * best[i] + (good[i] < steps);
#endif
    }
  }
}
"""


def make_optimizer(max_norm, peak_value):
    schedule = stabjax.warmup_cosine_decay_schedule(0.0, peak_value, WARMUP, STEPS)
    return optax.chain(stabjax.clip_by_global_norm(max_norm), optax.sgd(schedule))


def points(runs):
    """Thresholds and peak rates of a grid, with the seeds."""
    side = int((runs // SEEDS) ** 0.5)
    return np.logspace(-2, 2, side), np.logspace(-3, 1, side)


def rates():
    schedule = stabjax.warmup_cosine_decay_schedule(0.0, 1.0, WARMUP, STEPS)
    return np.asarray(jax.vmap(schedule)(jnp.arange(STEPS)), np.float32)


def flat(runs):
    grids = np.meshgrid(*points(runs), np.arange(SEEDS), indexing="ij")
    c, peak, _ = (np.ascontiguousarray(g.ravel(), np.float32) for g in grids)
    return c, peak, np.full(runs, 2.0, np.float32), np.full(runs, -3.0, np.float32)


def kernel(runs, *flags):
    """A function that runs the kernel in C, or None without a compiler."""
    folder = Path(tempfile.mkdtemp())
    source, library = folder / "toy.c", folder / "toy.so"
    source.write_text(SOURCE)
    options = "-O3 -march=native -ffast-math -mprefer-vector-width=512 -shared -fPIC"
    command = ["cc", *options.split(), *flags, str(source), "-o", str(library), "-lm"]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"no yardstick: {error}")
        return None
    toy = ctypes.CDLL(str(library)).toy
    given, table, loss = flat(runs), rates(), np.empty(runs, np.float32)
    share = runs // CORES // BLOCK * BLOCK
    pool = ThreadPoolExecutor(CORES)

    def part(core):
        first = core * share
        size = runs - first if core == CORES - 1 else share
        address = [ctypes.c_void_p(x[first:].ctypes.data) for x in (*given, loss)]
        rate = ctypes.c_void_p(table.ctypes.data)
        toy(ctypes.c_long(size), STEPS, *address[:4], rate, address[4])

    return lambda: [*pool.map(part, range(CORES))]


def bare_scan(runs):
    table = rates()

    def train(c, peak, a, b):
        def step(w, rate):
            grads = 2 * w
            norm = jnp.sqrt(jnp.sum(grads * grads))
            return w - peak * rate * (c / jnp.maximum(norm, c)) * grads, None

        return jnp.sum(jax.lax.scan(step, jnp.stack([a, b]), table)[0] ** 2)

    given = [jnp.asarray(x) for x in flat(runs)]
    program = jax.jit(jax.vmap(train)).lower(*given).compile()
    return lambda: jax.block_until_ready(program(*given))


def plain_train(runs):
    def train(max_norm, peak_value, seed):
        optimizer = make_optimizer(max_norm, peak_value)
        run = stabjax.train(PROBLEM, optimizer, jax.random.key(seed), steps=STEPS)
        return run.final_loss, run.best_loss, run.status, run.diverged_at

    c, peak, *_ = flat(runs)
    given = jnp.asarray(c), jnp.asarray(peak), jnp.arange(runs) % SEEDS
    program = jax.jit(jax.vmap(train)).lower(*given).compile()
    return lambda: jax.block_until_ready(program(*given))


def sweep(runs):
    c, peak = points(runs)
    space = stabjax.grid(max_norm=c, peak_value=peak, seed=range(SEEDS))

    def run():
        return stabjax.sweep(
            PROBLEM, make_optimizer, space, steps=STEPS, progress=False
        )

    start = time.perf_counter()
    found = run()
    print(
        f"{runs:,} runs: engine {found.engine}, width {found.chunk_size}, first result "
        f"after {time.perf_counter() - start:.2f} s"
    )
    return run


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    for runs in (2**16, 2**20):
        contestants = {
            "kernel in C": kernel(runs),
            "kernel in C, with bookkeeping": kernel(runs, "-DBOOKKEEPING"),
            "bare scan under vmap": bare_scan(runs),
            "train under vmap": plain_train(runs),
            "stabjax.sweep": sweep(runs),
        }
        contestants = {name: run for name, run in contestants.items() if run}
        times = {name: [] for name in contestants}
        for number in range(rounds + 1):
            for name, run in contestants.items():
                start = time.perf_counter()
                run()
                if number:  # after one to warm up
                    times[name].append(time.perf_counter() - start)
        medians = {name: statistics.median(found) for name, found in times.items()}
        unit = "kernel in C" if "kernel in C" in medians else "stabjax.sweep"
        for name, median in medians.items():
            speed = runs * STEPS / median / 1e9
            ratio, best = medians[unit] / median, min(times[unit]) / min(times[name])
            print(f"{name:30s} {speed:6.2f} G model-steps/s   {ratio:.2f}   {best:.2f}")


if __name__ == "__main__":
    main()
