"""The cost of clipping before AdamW on an accelerator, in units of one norm pass.

python benchmarks/clip_overhead_gpu.py [--rounds 9] [--steps 20] [--small]

The same 148 arrays as in clip_overhead.py. Device time: each program runs a loop of
steps on the device, so that dispatch is not measured; the variants alternate in random
order; medians of (time with clipping - time without) / (time of one norm pass). One
norm pass is measured alike, in a loop whose gradients depend on the norm before. Not
run on a GPU yet; `--small` tries it on a CPU.
"""

import argparse
import random
import statistics
from functools import partial

import jax
import jax.numpy as jnp
import optax
from clip_overhead import seconds, transformer_shapes
from jax import lax

import stabjax

ADAMW = optax.adamw(1e-3)


def variants():
    """Before AdamW, or in place of it."""
    clips = {
        "optax.clip_by_global_norm": optax.clip_by_global_norm(1.0),
        "clip_by_global_norm": stabjax.clip_by_global_norm(1.0),
        "with_metrics": stabjax.with_metrics(
            stabjax.clip_by_global_norm(1.0), name="clip"
        ),
        "clip_by_block_norm": stabjax.clip_by_block_norm(1.0),
        "adaptive_grad_clip": stabjax.adaptive_grad_clip(0.01),
        "zclip": stabjax.zclip(),
        "adagc": stabjax.adagc(),
        "clip_by_second_moment": stabjax.clip_by_second_moment(),
    }
    chained = {name: optax.chain(clip, ADAMW) for name, clip in clips.items()}
    return {
        "no clipping": ADAMW,
        **chained,
        "skip_if_nonfinite": stabjax.skip_if_nonfinite(ADAMW),
    }


def looped(optimizer, steps):
    """A program of many steps, which reads the gradients anew at each."""

    @partial(jax.jit, donate_argnums=(0, 1))
    def run(params, state, grads):
        def step(_, carry):
            params, state = carry
            # Unlike the step before, so that nothing is moved out of the loop.
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


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=20, help="in one program")
    parser.add_argument("--small", action="store_true", help="width 32, for a trial")
    options = parser.parse_args()

    shapes = transformer_shapes(width=32 if options.small else 432)
    keys = jax.random.split(jax.random.key(0), len(shapes))
    grads = [jax.random.normal(k, s) for k, s in zip(keys, shapes, strict=True)]
    found = variants()
    programs = {name: looped(tx, options.steps) for name, tx in found.items()}
    held = {}
    for name, tx in found.items():
        params = jax.tree.map(jnp.ones_like, grads)
        held[name] = params, jax.tree.map(jnp.copy, tx.init(params))
    unit_program = norm_passes(options.steps)

    times = {name: [] for name in [*found, "norm pass"]}
    shuffled = random.Random(0)
    for round_ in range(options.rounds + 2):
        for name, run in shuffled.sample([*programs.items()], len(programs)):
            took, held[name] = seconds(lambda: run(*held[name], grads))  # noqa: B023
            times[name].append(took)
        took, _ = seconds(lambda: unit_program(grads))
        times["norm pass"].append(took)
        if round_ < 2:  # compilation
            times = {name: [] for name in times}

    medians = {name: statistics.median(t) / options.steps for name, t in times.items()}
    unit, base = medians.pop("norm pass"), medians["no clipping"]
    elements = sum(g.size for g in grads)
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}")
    print(f"{elements / 1e6:.1f} M parameters in {len(grads)} arrays")
    print(f"one norm pass {unit * 1e6:.0f} us; AdamW alone {base / unit:.2f} passes")
    for name, median in medians.items():
        print(f"{name:26s} adds {(median - base) / unit:6.2f} norm passes")


if __name__ == "__main__":
    main()
