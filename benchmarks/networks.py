"""Sweeps of small networks on CPU, next to one run at a time and a matrix product.

python benchmarks/networks.py [--rounds 3] [--only "digits MLP"]

The digits MLP, an RNN on the adding problem and a character transformer are trained
with clipped SGD, with one CPU device for each core. "One at a time" is `stabjax.train`
under `jit`, called for each run. The best product is that of two float32 matrices of
2,048 x 2,048, in JAX or NumPy. It is the limit for the MLP, whose steps consist of
647,168 operations in matrix products for a batch of 64. Medians of interleaved rounds.
"""

import argparse
import os
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

import stabjax

jax.config.update("jax_num_cpu_devices", os.cpu_count())

STEPS, SIZE, ALONE = 100, 2048, 8
MLP_STEP = 647_168  # floating-point operations in matrix products
PROBLEMS = {
    "digits MLP": (stabjax.problems.digits_mlp, 512),
    "RNN, adding problem": (stabjax.problems.adding, 64),
    "character transformer": (stabjax.problems.char_transformer, 32),
}


def make_optimizer(max_norm, peak_value):
    schedule = stabjax.warmup_cosine_decay_schedule(0.0, peak_value, 10, STEPS)
    return optax.chain(stabjax.clip_by_global_norm(max_norm), optax.sgd(schedule))


def arguments(problem, runs):
    """The first arguments of a sweep."""
    space = stabjax.grid(
        max_norm=np.logspace(-1, 1, 4),
        peak_value=np.logspace(-3, -1, runs // 8),
        seed=range(2),
    )
    return problem, make_optimizer, space


def swept(problem, runs):
    given = arguments(problem, runs)

    def run():
        found = stabjax.sweep(*given, steps=STEPS, progress=False)
        return found.status.size

    return run


def one_at_a_time(problem):
    @jax.jit
    def train(max_norm, peak_value, seed):
        optimizer = make_optimizer(max_norm, peak_value)
        run = stabjax.train(problem, optimizer, jax.random.key(seed), steps=STEPS)
        return run.final_loss, run.best_loss, run.status, run.diverged_at

    def run():
        for seed in range(ALONE):
            jax.block_until_ready(train(1.0, 0.01, seed))
        return ALONE

    return run


def products():
    """Functions that multiply two matrices and return the number of operations."""
    given = np.random.default_rng(0).standard_normal((2, SIZE, SIZE), np.float32)
    on_device, multiply = jnp.asarray(given), jax.jit(jnp.matmul)

    def by_jax():
        jax.block_until_ready(multiply(*on_device))
        return 2 * SIZE**3

    def by_numpy():
        given[0] @ given[1]
        return 2 * SIZE**3

    return {"product in JAX": by_jax, "product in NumPy": by_numpy}


def speeds(contestants, rounds):
    """Returns the median units per second of each function, in wall and CPU time."""
    found = {name: [] for name in contestants}
    for number in range(rounds + 1):
        for name, run in contestants.items():
            time.sleep(0.2)  # the threads of NumPy's BLAS spin for a while
            start = np.array([time.perf_counter(), time.process_time()])
            done = run()
            end = np.array([time.perf_counter(), time.process_time()])
            if number:  # the first round compiles
                found[name].append(done / (end - start))
    return {name: np.median(values, axis=0) for name, values in found.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=PROBLEMS, default=None)
    options = parser.parse_args()
    for name, (make, runs) in PROBLEMS.items():
        if options.only not in (None, name):
            continue
        problem = make()
        contestants = {"sweep": swept(problem, runs), "alone": one_at_a_time(problem)}
        if name == "digits MLP":
            contestants |= products()
        found = speeds(contestants, options.rounds)
        wall, cpu = found["sweep"] / found["alone"]
        print(f"{name}: {found['sweep'][0] * STEPS:,.0f} model-steps/s")
        print(f"  {wall:.1f} times one at a time ({cpu:.1f} by CPU time)", flush=True)
        if name == "digits MLP":
            best = np.maximum(found["product in JAX"], found["product in NumPy"])
            wall, cpu = found["sweep"] * STEPS * MLP_STEP / best
            print(f"  {wall:.2f} of the best product ({cpu:.2f} by CPU time)")


if __name__ == "__main__":
    main()
