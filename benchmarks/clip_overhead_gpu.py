"""Measures the cost of clipping before AdamW on an accelerator.

python benchmarks/clip_overhead_gpu.py [--rounds 9] [--steps 50] [--all] [--small]

The script uses the same 148 arrays as clip_overhead.py. To exclude dispatch overhead,
each program runs a loop of steps on the device. The variants alternate in random order.
The script prints the median of (time with clipping - time without) / (time of one
global norm). The time of a global norm is measured in a loop in which the gradients
depend on the previous norm. All programs are compiled concurrently. Methods that do not
compile within `--compile` seconds are skipped, and measurements stop after `--seconds`.
Use `--small` to test it on a CPU.

On an H200 with jax 0.11 (29.9 M parameters), a norm takes 435 us, most of which is the
launch of 148 reductions, and AdamW alone takes 1.35 norms. Added norms:

    optax.clip_by_global_norm  1.03    adaptive_grad_clip       3.74
    clip_by_global_norm        1.12    clip_by_relative_update  2.72
    with_metrics               1.13    clip_by_second_moment    4.20
    clip_by_block_norm         0.79    scale_by_stable_adam     3.15
    adagc                      0.87    skip_if_nonfinite        1.19
"""

import argparse
import random
import statistics
import time
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial

import jax
import jax.numpy as jnp
import optax
from clip_overhead import optimizers, seconds, transformer_shapes
from jax import lax

METHODS = (
    "clip_by_global_norm",
    "optax.clip_by_global_norm",
    "with_metrics",
    "clip_by_block_norm",
    "adaptive_grad_clip",
    "adagc",
    "clip_by_second_moment",
    "clip_by_relative_update",
    "scale_by_stable_adam",
    "skip_if_nonfinite",
)


def looped(optimizer, steps):
    """Returns a program that runs many steps and reads the gradients in each one."""

    @partial(jax.jit, donate_argnums=(0, 1))
    def run(params, state, grads):
        def step(_, carry):
            params, state = carry
            # Gradients change at every step, which keeps XLA from hoisting the norm.
            moved = jax.tree.map(lambda g, p: g + 1e-9 * p, grads, params)
            updates, state = optimizer.update(moved, state, params)
            return optax.apply_updates(params, updates), state

        return lax.fori_loop(0, steps, step, (params, state))

    return run


def norm_passes(steps):
    @jax.jit
    def run(grads):
        def norm(_, scale):
            total = sum(jnp.sum((scale * g) ** 2) for g in grads)
            return 1 + 1e-12 * jnp.sqrt(total)

        return lax.fori_loop(0, steps, norm, jnp.ones(()))

    return run


def compiled(programs, arguments, limit):
    """Compiles programs concurrently and returns those that finish within a limit."""
    pool = ThreadPoolExecutor(8)
    began = time.perf_counter()
    futures = {
        name: pool.submit(run.lower(*arguments[name]).compile)
        for name, run in programs.items()
    }
    wait(futures.values(), limit)
    late = [name for name, future in futures.items() if not future.done()]
    if late:
        print(f"not compiled in {limit:.0f} s: {', '.join(late)}")
    pool.shutdown(wait=False, cancel_futures=True)
    print(f"compiled in {time.perf_counter() - began:.0f} s", flush=True)
    return {name: futures[name].result() for name in programs if name not in late}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=50, help="steps per program")
    parser.add_argument("--seconds", type=float, default=40, help="measurement time")
    parser.add_argument("--compile", type=float, default=90, help="compilation time")
    parser.add_argument("--all", action="store_true", help="every method")
    parser.add_argument("--small", action="store_true", help="use width 32 for a test")
    options = parser.parse_args()

    shapes = transformer_shapes(width=32 if options.small else 432)
    key = jax.random.key(0)

    @jax.jit
    def random_tree(key):
        keys = jax.random.split(key, len(shapes))
        return [jax.random.normal(k, s) for k, s in zip(keys, shapes, strict=True)]

    grads = random_tree(key)
    found = optimizers(None if options.all else METHODS)
    # The baseline comes first because all others are compared with it.
    programs = {"norm pass": norm_passes(options.steps)}
    programs |= {name: looped(tx, options.steps) for name, tx in found.items()}
    held, arguments = {}, {"norm pass": (grads,)}
    for name, tx in found.items():
        # `jit` returns a separate buffer for each array, as required for donation.
        held[name] = jax.jit(lambda p, tx=tx: (p, tx.init(p)))(random_tree(key))
        arguments[name] = *held[name], grads
    programs = compiled(programs, arguments, options.compile)
    times = {name: [] for name in programs}
    unit_program = programs.pop("norm pass")
    shuffled, began, rounds = random.Random(0), time.perf_counter(), 0
    while rounds < options.rounds:
        for name, run in shuffled.sample([*programs.items()], len(programs)):
            took, held[name] = seconds(lambda: run(*held[name], grads))  # noqa: B023
            times[name].append(took)
        took, _ = seconds(lambda: unit_program(grads))
        times["norm pass"].append(took)
        rounds += 1
        if rounds > 2 and time.perf_counter() - began > options.seconds:
            break

    # The initial round is a warm-up.
    medians = {
        name: statistics.median(t[1:] or t) / options.steps for name, t in times.items()
    }
    unit, base = medians.pop("norm pass"), medians["no clipping"]
    elements = sum(g.size for g in grads)
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}, {rounds} rounds")
    print(f"{elements / 1e6:.1f} M parameters in {len(grads)} arrays")
    print(f"one norm pass {unit * 1e6:.0f} us; AdamW alone {base / unit:.2f} passes")
    for name, median in medians.items():
        print(f"{name:28s} adds {(median - base) / unit:6.2f} norm passes")


if __name__ == "__main__":
    main()
