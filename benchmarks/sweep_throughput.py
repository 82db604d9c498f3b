"""Compares the throughput of a sweep with alternative implementations.

python benchmarks/sweep_throughput.py [--rounds 5]

Each run trains two weights, L = w1^2 + w2^2, for 200 steps with clipped SGD and a
cosine schedule with warmup. A sweep, a single `jax.vmap` and a single
`torch.func.vmap` train 64 thresholds x 64 rates x 16 seeds. The loops train a few of
these runs one after another. There is one CPU device per core, but only the sweep uses
all of them. Rounds are interleaved, and the script prints medians. PyTorch is included
if it is installed (pip install '.[compare]').
"""

import argparse
import math
import os
import statistics
import time

import jax
import jax.numpy as jnp
import optax

import stabjax

jax.config.update("jax_num_cpu_devices", os.cpu_count())

STEPS, WARMUP, LOOPED = 200, 10, 10
THRESHOLDS, RATES, SEEDS = jnp.logspace(-2, 2, 64), jnp.logspace(-3, 1, 64), 16
PROBLEM = stabjax.problems.quadratic()
traces = 0


def make_optimizer(max_norm, peak_value):
    global traces
    traces += 1
    schedule = stabjax.warmup_cosine_decay_schedule(0.0, peak_value, WARMUP, STEPS)
    return optax.chain(stabjax.clip_by_global_norm(max_norm), optax.sgd(schedule))


def run_sweep():
    space = stabjax.grid(max_norm=THRESHOLDS, peak_value=RATES, seed=range(SEEDS))
    start = time.perf_counter()
    runs = stabjax.sweep(PROBLEM, make_optimizer, space, steps=STEPS, progress=False)
    return runs.final_loss.size / (time.perf_counter() - start)


def every_point():
    """Returns the thresholds, rates and seeds of all runs as flat arrays."""
    grids = jnp.meshgrid(THRESHOLDS, RATES, jnp.arange(SEEDS), indexing="ij")
    return [grid.ravel() for grid in grids]


def giant_vmap():
    """Trains all runs in one program without chunks, on a single device."""

    def train(max_norm, peak_value, seed):
        optimizer = make_optimizer(max_norm, peak_value)
        key = jax.random.key(seed)
        return stabjax.train(PROBLEM, optimizer, key, steps=STEPS).final_loss

    points = every_point()
    program = jax.jit(jax.vmap(train)).lower(*points).compile()

    def run():
        start = time.perf_counter()
        jax.device_get(program(*points))
        return points[0].size / (time.perf_counter() - start)

    return run


def optax_optimizer():
    schedule = optax.warmup_cosine_decay_schedule(0.0, 0.1, WARMUP, STEPS)
    return optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(schedule))


def optax_scan():
    """Trains each run with a call to a jitted scan over the steps."""
    optimizer = optax_optimizer()

    @jax.jit
    def train(seed):
        key = jax.random.key(seed)
        params = PROBLEM.init(key)

        def step(carry, _):
            params, state = carry
            grads = jax.grad(PROBLEM.loss)(params, key)
            updates, state = optimizer.update(grads, state)
            return (optax.apply_updates(params, updates), state), None

        carry = params, optimizer.init(params)
        return jax.lax.scan(step, carry, length=STEPS)[0][0]

    jax.block_until_ready(train(0))
    return lambda: rate_of(lambda seed: jax.block_until_ready(train(seed)), 10 * LOOPED)


def optax_loop():
    """Trains each run with a Python loop over a jitted step."""
    optimizer = optax_optimizer()

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


def factor(count):
    """Returns the schedule divided by its peak value."""
    if count < WARMUP:
        return count / WARMUP
    return 0.5 * (1 + math.cos(math.pi * (count - WARMUP) / (STEPS - WARMUP)))


def torch_vmap():
    """Trains all runs in PyTorch with `torch.func.vmap` over a hand-written step."""
    import numpy as np
    import torch

    thresholds, rates, _ = (torch.from_numpy(np.array(p)) for p in every_point())

    def loss(weights):
        return weights.square().sum()

    def step(weights, threshold, rate):
        grads = torch.func.grad(loss)(weights)
        scale = (threshold / (grads.norm() + 1e-6)).clamp(max=1.0)
        return weights - rate * scale * grads

    steps = torch.func.vmap(step)

    def run():
        start = time.perf_counter()
        weights = torch.rand(len(rates), 2) * torch.tensor([5.0, -5.0])
        for count in range(STEPS):
            weights = steps(weights, thresholds, rates * factor(count))
        return len(rates) / (time.perf_counter() - start)

    run()
    return run


def torch_loop():
    """Trains each run in eager PyTorch on one thread, which is fastest here."""
    import torch

    torch.set_num_threads(1)

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


def rate_of(train, number=LOOPED):
    start = time.perf_counter()
    for seed in range(number):
        train(seed)
    return number / (time.perf_counter() - start)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds

    start = time.perf_counter()
    run_sweep()
    print(f"first sweep, including compilation: {time.perf_counter() - start:.2f} s")
    swept = traces
    contestants = {
        "stabjax.sweep": run_sweep,
        "one giant vmap": giant_vmap(),
        "jitted Optax scan": optax_scan(),
        "jitted Optax step": optax_loop(),
    }
    try:
        contestants["torch.func.vmap"] = torch_vmap()
        contestants["PyTorch eager"] = torch_loop()
    except ModuleNotFoundError:
        print("PyTorch is not installed: skipped")

    after = traces
    rates = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, run in contestants.items():
            rates[name].append(run())
    medians = {name: statistics.median(values) for name, values in rates.items()}
    for name, median in medians.items():
        ratio = medians["stabjax.sweep"] / median
        print(f"{name:20s} {median:12,.0f} runs/s   1/{ratio:,.0f}")
    again = traces - after
    print(f"make_optimizer was traced {swept + again} time(s) in {rounds + 1} sweeps")


if __name__ == "__main__":
    main()
