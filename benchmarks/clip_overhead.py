"""Measures the cost of clipping before AdamW in units of one global norm.

python benchmarks/clip_overhead.py [--rounds 15] [--all] [--only NAME ...]

The parameters are about 31 million float32 numbers in 148 arrays, shaped like a small
transformer. Update and apply run in a single jitted function with donated parameters
and state. The variants alternate in random order after three warmup steps. The script
prints the median of (time with clipping - time without) / (time of one global norm).

CPU time is shown beside wall time because other processes disturb it less.

Methods above two passes are limited by memory. On two busy cores with jaxlib 0.10, one
run gave these CPU times in passes, where AdamW alone takes 3.3:

- 0.1 for clip_by_global_norm and 0.9 for normalize_by_tracked_norm.
- 2.5 for adaptive_grad_clip, which reads gradients and parameters.
- 3.1 for scale_by_stable_adam, which sums quotients after the norm, and 3.2 for
  scale_by_spam.
- 6.7 for clip_by_global_norm with ord=1, which writes the magnitudes to memory.
- 8.0 for clip_by_second_moment, which copies the old moments because several loops read
  them, and 7.3 for scale_by_stable_spam, which writes the clipped gradients to memory
  before it sums them.
- 13.2 for clip_by_relative_update, which writes the update of AdamW because XLA does
  not repeat divisions, and reduces quotients.

A tree that is written to memory for this is expensive: XLA:CPU processes independent
arrays together, so all of it exists at once, in pages that are new in every step.
"""

import argparse
import random
import statistics
import time
from functools import partial

import jax
import jax.numpy as jnp
import optax

import stabjax

ADAMW = optax.adamw(1e-3)


def transformer_shapes(width=432, layers=13):
    """Returns the shapes of 148 arrays, with 11 per layer and 5 additional ones."""
    layer = [(width, width)] * 4 + [(width, 4 * width), (4 * width, width)]
    layer += [(4 * width,), (width,), (width,), (width,), (width,)]
    return layer * layers + [(1536, width), (256, width), (width,), (width,), (width,)]


def make_step(optimizer):
    @partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state, grads):
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return step


def global_clips():
    """Returns the methods that compute a single global norm."""
    clip = stabjax.clip_by_global_norm(1.0)
    return {
        "optax.clip_by_global_norm": optax.clip_by_global_norm(1.0),
        "clip_by_global_norm": clip,
        "with_metrics": stabjax.with_metrics(clip, name="clip"),
        "clip_by_global_norm, ord=1": stabjax.clip_by_global_norm(1.0, ord=1),
        "smooth_clip_by_global_norm": stabjax.smooth_clip_by_global_norm(1.0),
        "normalize_by_update_norm": stabjax.normalize_by_update_norm(),
        "clip_by_percentile": stabjax.clip_by_percentile(),
        "clip_update_norm": stabjax.clip_update_norm(),
        "zclip": stabjax.zclip(),
    }


def leaf_clips():
    """Returns the methods that compute a statistic of each leaf, unit or element."""
    return {
        "clip": stabjax.clip(1.0),
        "adopt_clip": stabjax.adopt_clip(),
        "clip_by_block_norm": stabjax.clip_by_block_norm(1.0),
        "clip_by_block_rms": stabjax.clip_by_block_rms(1.0),
        "adaptive_grad_clip": stabjax.adaptive_grad_clip(0.01),
        "adagc": stabjax.adagc(),
        "clip_by_norm_ratio": stabjax.clip_by_norm_ratio(1.5),
        "limit_norm_growth": stabjax.limit_norm_growth(),
        "clip_by_percentile, leaves": stabjax.clip_by_percentile(per_leaf=True),
        "normalize_by_tracked_norm": stabjax.normalize_by_tracked_norm(),
        "clip_by_tracked_max": stabjax.clip_by_tracked_max(),
        "clip_by_second_moment": stabjax.clip_by_second_moment(),
    }


def optimizers(names=None):
    """Returns AdamW combined with each method, or with Adam replaced by the method."""
    before = global_clips() | leaf_clips()
    instead = {
        "scale_by_spam": stabjax.scale_by_spam(),
        "scale_by_stable_adam": stabjax.scale_by_stable_adam(),
        "scale_by_stable_spam": stabjax.scale_by_stable_spam(),
        "reset_moments, Adam": stabjax.reset_moments(optax.scale_by_adam()),
    }
    decay_and_rate = optax.add_decayed_weights(1e-4), optax.scale(-1e-3)
    found = {
        "no clipping": ADAMW,
        **{name: optax.chain(clip, ADAMW) for name, clip in before.items()},
        "clip_by_relative_update": optax.chain(
            ADAMW, stabjax.clip_by_relative_update()
        ),
        **{name: optax.chain(tx, *decay_and_rate) for name, tx in instead.items()},
        "skip_if_nonfinite": stabjax.skip_if_nonfinite(ADAMW),
    }
    wanted = found if names is None else {"no clipping", *names}
    return {name: tx for name, tx in found.items() if name in wanted}


def seconds(call):
    start = time.perf_counter()
    result = jax.block_until_ready(call())
    return time.perf_counter() - start, result


def timed(call):
    """Wall and CPU seconds, and the result."""
    start, busy = time.perf_counter(), time.process_time()
    result = jax.block_until_ready(call())
    return time.perf_counter() - start, time.process_time() - busy, result


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--all", action="store_true", help="every method")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these methods")
    options = parser.parse_args()
    rounds = options.rounds

    keys = jax.random.split(jax.random.key(0), 148)
    shapes = transformer_shapes()
    grads = [jax.random.normal(k, s) for k, s in zip(keys, shapes, strict=True)]
    elements = sum(g.size for g in grads)

    few = ["optax.clip_by_global_norm", "clip_by_global_norm", "with_metrics"]
    variants = optimizers(None if options.all else options.only or few)
    steps = {name: make_step(tx) for name, tx in variants.items()}
    held = {}
    for name, tx in variants.items():
        params = jax.tree.map(jnp.ones_like, grads)
        held[name] = params, jax.tree.map(jnp.copy, tx.init(params))  # for donation
    passes = {
        "norm pass": jax.jit(lambda tree: jnp.sqrt(sum(jnp.sum(g * g) for g in tree))),
        "maximum": jax.jit(lambda tree: [jnp.max(jnp.abs(g)) for g in tree]),
        "copy": jax.jit(lambda tree: [2 * g for g in tree]),
    }

    times = {name: [] for name in [*variants, *passes]}
    shuffled = random.Random(0)  # a variant affects the time of the next one
    for round_ in range(rounds + 3):
        for name, step in shuffled.sample([*steps.items()], len(steps)):
            *took, held[name] = timed(lambda: step(*held[name], grads))  # noqa: B023
            if round_ >= 3:
                times[name].append(took)
        for name, read in passes.items():
            *took, _ = timed(lambda: read(grads))  # noqa: B023
            if round_ >= 3:
                times[name].append(took)

    medians = {
        name: [statistics.median(values) for values in zip(*found, strict=True)]
        for name, found in times.items()
    }
    unit, base = medians["norm pass"], medians["no clipping"]
    print(f"{elements / 1e6:.1f} M parameters in {len(grads)} arrays, {rounds} rounds")
    print(f"one norm pass {unit[0] * 1e3:.2f} ms, {unit[1] * 1e3:.2f} ms of CPU time")
    print("in norm passes: wall time, CPU time")
    for name in ("maximum", "copy", "no clipping"):
        wall, busy = (a / b for a, b in zip(medians[name], unit, strict=True))
        print(f"{name:28s} takes {wall:6.2f} {busy:6.2f}")
    for name in list(variants)[1:]:
        three = zip(medians[name], base, unit, strict=True)
        wall, busy = ((clipped - plain) / one for clipped, plain, one in three)
        print(f"{name:28s} adds  {wall:6.2f} {busy:6.2f}")


if __name__ == "__main__":
    main()
