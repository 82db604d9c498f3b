"""Compares a sweep of a convolutional network with a Python loop over jitted steps.

python benchmarks/own_model.py [--rounds 5] [--channels 16 32]

The model has convolutions of 3 x 3 pixels, batch normalization, pooling and dropout. It
is trained on 8 x 8 digits with random shifts and minibatches of 48 images. A sweep
trains 64 runs at once on all CPU devices. The loop trains single runs with `jax.jit` of
one step, as in a training script, and XLA's own convolutions. Rounds are interleaved,
and the script prints medians of the wall time and of the CPU time, without compilation.
"""

import argparse
import itertools
import os
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from sklearn.datasets import load_digits

import stabjax

jax.config.update("jax_num_cpu_devices", os.cpu_count())

RUNS, STEPS, LOOPED = 64, 37, 4
SPACE = stabjax.grid(rate=np.logspace(-4, -1, 16), max_norm=[0.3, 1.0, 3.0, np.inf])


class CNN(nnx.Module):
    def __init__(self, rngs, channels):
        pairs = itertools.pairwise([1, *channels])
        self.convs = nnx.List([nnx.Conv(i, o, (3, 3), rngs=rngs) for i, o in pairs])
        norms = [nnx.BatchNorm(o, momentum=0.9, rngs=rngs) for o in channels]
        self.norms = nnx.List(norms)
        self.drop = nnx.Dropout(0.2, rngs=rngs)
        pixels = (8 // 2 ** len(channels)) ** 2
        self.out = nnx.Linear(pixels * channels[-1], 10, rngs=rngs)

    def __call__(self, x):
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = nnx.avg_pool(nnx.relu(norm(conv(x))), (2, 2), (2, 2))
        return self.out(self.drop(x.reshape(len(x), -1)))


def shifted(batch, key):
    images, labels = batch
    return jnp.roll(images, jax.random.randint(key, (2,), -1, 2), axis=(1, 2)), labels


def make_problem(channels):
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32).reshape(-1, 8, 8, 1)
    problem = stabjax.problems.supervised(
        lambda rngs: CNN(rngs, channels),
        images,
        labels,
        optax.softmax_cross_entropy_with_integer_labels,
        batch_size=48,
        augment=shifted,
    )
    # Without the evaluation of all images, which the loop does not have either.
    return stabjax.problems.Problem(problem.init, problem.loss, batch=problem.batch)


def make_optimizer(rate, max_norm):
    return optax.chain(stabjax.clip_by_global_norm(max_norm), optax.adam(rate))


def sweep_of(problem):
    def run():
        stabjax.sweep(problem, make_optimizer, SPACE, steps=STEPS, progress=False)
        return RUNS * STEPS

    return run


def loop_of(problem):
    """Trains single runs with a Python loop over a jitted step."""
    optimizer = make_optimizer(1e-3, 1.0)

    @jax.jit
    def step(params, state, opt_state, key, count):
        batch = problem.batch(count, key)
        own = jax.random.fold_in(key, count)
        grad = jax.value_and_grad(problem.loss, has_aux=True)
        (loss, state), grads = grad(params, state, own, batch)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), state, opt_state, loss

    start = jax.jit(problem.init)

    def run():
        for seed in range(LOOPED):
            key = jax.random.key(seed)
            params, state = start(key)
            opt_state = optimizer.init(params)
            for count in range(STEPS):
                params, state, opt_state, loss = step(
                    params, state, opt_state, key, np.int32(count)
                )
            jax.block_until_ready(loss)
        return LOOPED * STEPS

    return run


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--channels", type=int, nargs="+", default=[16, 32])
    given = parser.parse_args()
    problem = make_problem(given.channels)
    contestants = {"sweep": sweep_of(problem), "loop": loop_of(problem)}
    for run in contestants.values():  # compiles
        run()
    wall, cpu = ({name: [] for name in contestants} for _ in range(2))
    for _ in range(given.rounds):
        for name, run in contestants.items():
            start = time.perf_counter(), time.process_time()
            steps = run()
            wall[name].append((time.perf_counter() - start[0]) / steps)
            cpu[name].append((time.process_time() - start[1]) / steps)
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    for what, found in (("wall", wall), ("CPU", cpu)):
        medians = {name: 1e3 * statistics.median(v) for name, v in found.items()}
        shown = ", ".join(f"{name} {value:.3f} ms" for name, value in medians.items())
        ratio = medians["loop"] / medians["sweep"]
        print(f"{what} time per run and step: {shown}, ratio {ratio:.2f}")


if __name__ == "__main__":
    main()
