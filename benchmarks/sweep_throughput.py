"""Trainings a second: one sweep, a jitted Optax step in a loop, a PyTorch loop.

python benchmarks/sweep_throughput.py [--rounds 5]

PyTorch takes part where it is installed: pip install '.[compare]'.
The founding document's two weights, 200 steps of clipped SGD with a warm-up and a
cosine: 64 thresholds x 64 rates x 16 seeds in one sweep; the loops train a few of them,
one after the other. Rounds are interleaved; medians.
"""

import argparse
import math
import statistics
import time

import jax
import jax.numpy as jnp
import optax

import stabjax

STEPS, WARMUP, LOOPED = 200, 10, 10
THRESHOLDS, RATES = jnp.logspace(-2, 2, 64), jnp.logspace(-3, 1, 64)
PROBLEM = stabjax.problems.quadratic()
traces = 0


def make_optimizer(max_norm, peak_value):
    global traces
    traces += 1
    schedule = stabjax.warmup_cosine_decay_schedule(0.0, peak_value, WARMUP, STEPS)
    return optax.chain(stabjax.clip_by_global_norm(max_norm), optax.sgd(schedule))


def run_sweep():
    space = stabjax.grid(max_norm=THRESHOLDS, peak_value=RATES, seed=range(16))
    start = time.perf_counter()
    runs = stabjax.sweep(PROBLEM, make_optimizer, space, steps=STEPS, progress=False)
    return runs.final_loss.size / (time.perf_counter() - start)


def optax_loop():
    """A training as it is usually written: one jitted step, called 200 times."""
    schedule = optax.warmup_cosine_decay_schedule(0.0, 0.1, WARMUP, STEPS)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(schedule))

    @jax.jit
    def step(params, state, key):
        grads = jax.grad(PROBLEM.loss)(params, key)
        updates, state = optimizer.update(grads, state)
        return optax.apply_updates(params, updates), state

    def train(seed):
        key = jax.random.key(seed)
        params = PROBLEM.init(key)
        state = optimizer.init(params)
        for _ in range(STEPS):
            params, state = step(params, state, key)
        return jax.block_until_ready(params)

    train(0)
    return lambda: rate_of(train)


def torch_loop():
    """The same training in PyTorch, eager, on one thread, which is its fastest here."""
    import torch

    torch.set_num_threads(1)

    def factor(count):
        if count < WARMUP:
            return count / WARMUP
        return 0.5 * (1 + math.cos(math.pi * (count - WARMUP) / (STEPS - WARMUP)))

    def train(seed):
        generator = torch.Generator().manual_seed(seed)
        scale = torch.rand(2, generator=generator)
        weights = (torch.tensor([5.0, -5.0]) * scale).requires_grad_()
        optimizer = torch.optim.SGD([weights], lr=0.1)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        for _ in range(STEPS):
            optimizer.zero_grad()
            weights.square().sum().backward()
            torch.nn.utils.clip_grad_norm_([weights], 1.0)
            optimizer.step()
            scheduler.step()

    train(0)
    return lambda: rate_of(train)


def rate_of(train):
    start = time.perf_counter()
    for seed in range(LOOPED):
        train(seed)
    return LOOPED / (time.perf_counter() - start)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds

    start = time.perf_counter()
    run_sweep()
    print(f"first sweep, compilation and all: {time.perf_counter() - start:.2f} s")
    contestants = {"stabjax.sweep": run_sweep, "jitted Optax step": optax_loop()}
    try:
        contestants["PyTorch eager"] = torch_loop()
    except ModuleNotFoundError:
        print("PyTorch is not installed: left out")

    rates = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, run in contestants.items():
            rates[name].append(run())
    medians = {name: statistics.median(values) for name, values in rates.items()}
    for name, median in medians.items():
        ratio = medians["stabjax.sweep"] / median
        print(f"{name:20s} {median:12,.0f} trainings/s   1/{ratio:,.0f}")
    print(f"make_optimizer was traced {traces} time(s) in {rounds + 1} sweeps")


if __name__ == "__main__":
    main()
