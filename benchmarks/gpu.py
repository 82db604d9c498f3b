"""Compares sweeps on one GPU with a hand-written kernel, and chunk widths.

python benchmarks/gpu.py [toy host agreement toy_widths mlp cnn]

Takes about 85 seconds. The toy trains L = w1^2 + w2^2 for 1,000 steps of clipped SGD
with warmup and cosine decay. The hand-written kernel computes only the final loss, with
the simple factor c / max(norm, c), and one thread per run. Model-steps are updates of
one model. `benchmarks/README.md` has the results.
"""

import collections
import functools
import sys
import time
import traceback

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

import stabjax
from stabjax._sweep import devices, gathering, plan
from stabjax._sweep import engine as sweeping
from stabjax._sweep import lanes as engine
from stabjax._sweep.lanes import gpu
from stabjax._sweep.program import variables_of
from stabjax._train.state import Rules
from stabjax._train.trial import training

BEGIN, LIMIT = time.perf_counter(), 170  # seconds
STEPS, WARMUP = 1000, 50
TOY = stabjax.problems.quadratic()


def make_optimizer(max_norm, peak_value, steps=STEPS):
    schedule = stabjax.warmup_cosine_decay_schedule(0.0, peak_value, WARMUP, steps)
    return optax.chain(stabjax.clip_by_global_norm(max_norm), optax.sgd(schedule))


def space(runs, seeds=16):
    side = int((runs // seeds) ** 0.5)
    return stabjax.grid(
        max_norm=jnp.logspace(-2, 2, runs // seeds // side),
        peak_value=jnp.logspace(-3, 1, side),
        seed=range(seeds),
    )


def say(*words):
    print(f"{time.perf_counter() - BEGIN:6.1f} s ", *words, flush=True)


def part(function):
    """Runs a part of the benchmark and prints any error."""
    if time.perf_counter() - BEGIN > LIMIT:
        say(function.__name__, "skipped: no time left")
        return None
    try:
        return function()
    except Exception:
        say(function.__name__, "FAILED:", traceback.format_exc()[-3000:])
        return None


def seconds(run, repeats=5):
    jax.block_until_ready(run())
    found = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(run())
        found.append(time.perf_counter() - start)
    return min(found)


def by_hand(runs, block):
    """Measures the model-steps/s of a hand-written kernel for the toy problem."""

    def program(c_ref, peak_ref, a_ref, b_ref, table_ref, out_ref):
        c, peak = c_ref[...], peak_ref[...]

        def step(t, weights):
            a, b = weights
            ga, gb = 2 * a, 2 * b
            norm = jnp.sqrt(ga * ga + gb * gb)
            rate = table_ref[t] * peak * (c / jnp.maximum(norm, c))
            return a - rate * ga, b - rate * gb

        a, b = jax.lax.fori_loop(0, STEPS, step, (a_ref[...], b_ref[...]))
        out_ref[...] = a * a + b * b

    vector = pl.BlockSpec((block,), lambda i: (i,))
    call = pl.pallas_call(
        program,
        out_shape=jax.ShapeDtypeStruct((runs,), jnp.float32),
        grid=(runs // block,),
        in_specs=[vector] * 4 + [pl.BlockSpec()],
        out_specs=vector,
        compiler_params=triton.CompilerParams(num_warps=4),
    )
    rates = jax.vmap(stabjax.warmup_cosine_decay_schedule(0.0, 1.0, WARMUP, STEPS))(
        jnp.arange(STEPS)
    )
    given = [jnp.linspace(low, high, runs) for low, high in ((0.1, 9), (0.01, 2))]
    given += [jnp.full(runs, 2.0), jnp.full(runs, -3.0)]
    compiled = jax.jit(call).lower(*given, rates).compile()
    return runs * STEPS / seconds(lambda: compiled(*given, rates))


def plain(runs):
    """Measures the model-steps/s of `train` under a single `vmap`."""

    def train(max_norm, peak_value, seed):
        run = stabjax.train(
            TOY, make_optimizer(max_norm, peak_value), jax.random.key(seed), steps=STEPS
        )
        return run.final_loss, run.best_loss, run.status, run.diverged_at

    given = jnp.linspace(0.1, 9, runs), jnp.linspace(0.01, 2, runs), jnp.arange(runs)
    compiled = jax.jit(jax.vmap(train)).lower(*given).compile()
    return runs * STEPS / seconds(lambda: compiled(*given), 3)


def swept(problem, optimizer, points, steps, width="auto", repeats=3):
    """Measures the model-steps/s of a sweep with and without host overhead."""
    best, inside = 0.0, 0.0
    for _ in range(repeats):
        start = time.perf_counter()
        runs = stabjax.sweep(
            problem, optimizer, points, steps=steps, chunk_size=width, progress=False
        )
        total = runs.status.size * steps
        best = max(best, total / (time.perf_counter() - start))
        inside = max(inside, total / max(runs.attrs["seconds"], 1e-9))
    return best, inside, runs


def lanes(runs, block, warps):
    """Measures the model-steps/s of the generated kernel for a given block size."""
    before = gpu._BLOCK, gpu._WARPS
    gpu._BLOCK, gpu._WARPS = block, warps
    try:
        values = {
            "max_norm": jax.ShapeDtypeStruct((), jnp.float32),
            "peak_value": jax.ShapeDtypeStruct((), jnp.float32),
            "seed": jax.ShapeDtypeStruct((), jnp.int32),
        }

        def trial(v):
            optimizer = make_optimizer(v["max_norm"], v["peak_value"])
            parts = training(TOY, optimizer, jax.random.key(v["seed"]), Rules())
            found, begun, held = engine.trained(parts, variables_of, STEPS)
            programs.append(held)
            return found, begun

        programs = []
        traced = jax.jit(trial).trace(values)
        run = engine.run_of(values, traced, programs[0])
        chunk = engine.chunk_of(run, values, STEPS, "gpu")
        given = {
            "max_norm": jnp.linspace(0.1, 9, runs),
            "peak_value": jnp.linspace(0.01, 2, runs),
            "seed": jnp.arange(runs),
        }
        compiled = jax.jit(chunk).lower({}, given).compile()
        return runs * STEPS / seconds(lambda: compiled({}, given))
    finally:
        gpu._BLOCK, gpu._WARPS = before


def toy():
    for runs in (2**16, 2**20):
        hand = max(by_hand(runs, block) for block in (128, 1024))
        say(f"toy {runs:,}: by hand {hand / 1e9:.1f} G model-steps/s")
        slow = plain(runs)
        say(f"toy {runs:,}: one vmap {slow / 1e9:.1f} G ({slow / hand:.3f})")
        for block, warps in ((128, 4), (256, 4), (512, 4)):
            fast = lanes(runs, block, warps)
            say(
                f"toy {runs:,}: lanes, block {block}, {warps} warps {fast / 1e9:.1f} G "
                f"({fast / hand:.3f})"
            )
        whole, inside, found = swept(TOY, make_optimizer, space(runs), STEPS, repeats=8)
        say(
            f"toy {runs:,}: sweep, engine {found.attrs['engine']}, width "
            f"{found.attrs['chunk_size']}: {whole / 1e9:.1f} G ({whole / hand:.3f}), "
            f"without the host's start {inside / 1e9:.1f} G ({inside / hand:.3f}); "
            f"compilation {found.attrs['compile_seconds']}"
        )


def agreement():
    """Compares the results of lanes on the GPU with `train` under `vmap`."""
    points = space(2**12)
    found = stabjax.sweep(TOY, make_optimizer, points, steps=STEPS, progress=False)
    grids = np.meshgrid(*(found[name] for name in found.dims), indexing="ij")

    def train(max_norm, peak_value, seed):
        optimizer = make_optimizer(max_norm, peak_value)
        return stabjax.train(TOY, optimizer, jax.random.key(seed), steps=STEPS)

    c, p, s = (jnp.asarray(g.ravel()) for g in grids)
    wanted = jax.jit(jax.vmap(train))(c, p, s)
    for name in ("final_loss", "best_loss", "status", "diverged_at"):
        a = np.asarray(found[name]).ravel().astype(float)
        b = np.asarray(getattr(wanted, name)).astype(float)
        with np.errstate(invalid="ignore"):  # inf - inf
            same = (a == b) | (np.abs(a - b) <= 1e-4 * np.abs(b) + 1e-30)
        say(f"agreement of {name}: {same.mean():.5f} within 1e-4")


def host():
    """Measures where the host spends its time in a sweep of the toy, in milliseconds.

    The inputs, the kernels and the results of several chunks overlap.
    """
    parts = (
        (sweeping, "_planned"),
        (sweeping, "labelled"),
        (plan.Plan, "inputs"),
        (devices, "start"),
        (jax, "device_get"),
        (gathering, "fill"),
    )
    spent = collections.Counter()

    def timed(name, function):
        def call(*arguments, **named):
            start = time.perf_counter()
            try:
                return function(*arguments, **named)
            finally:
                spent[name] += 1000 * (time.perf_counter() - start)

        return call

    before = [(owner, name, getattr(owner, name)) for owner, name in parts]
    try:
        for owner, name, function in before:
            setattr(owner, name, timed(name, function))
        points = space(2**20)
        for width in ("auto", 2**20):
            for _ in range(4):
                spent.clear()
                start = time.perf_counter()
                stabjax.sweep(
                    TOY,
                    make_optimizer,
                    points,
                    steps=STEPS,
                    chunk_size=width,
                    progress=False,
                )
                total = 1000 * (time.perf_counter() - start)
            shown = ", ".join(f"{name} {ms:.1f}" for name, ms in spent.items())
            say(f"host, width {width}: {total:.1f} ms; {shown}")
    finally:
        for owner, name, function in before:
            setattr(owner, name, function)


def widths(name, problem, optimizer, runs, steps, choices, repeats=3):
    points = space(runs, 8)
    rates = {}
    for width in ("auto", *choices):
        if time.perf_counter() - BEGIN > LIMIT:
            say(name, width, "skipped: no time is left")
            break
        try:
            whole, inside, found = swept(
                problem, optimizer, points, steps, width, repeats
            )
        except Exception as error:
            say(name, width, "FAILED:", repr(error)[:500])
            continue
        rates[width] = inside
        say(
            f"{name}: width {width} ({found.attrs['chunk_size']}, "
            f"{found.attrs['engine']}) {inside / 1e6:.2f} M model-steps/s, compilation "
            f"{found.attrs['compile_seconds']} s"
        )
    if "auto" in rates:
        say(f"{name}: auto is {rates['auto'] / max(rates.values()):.2f} of the best")


def mlp():
    optimizer = functools.partial(make_optimizer, steps=200)
    problem = stabjax.problems.digits_mlp()
    widths("digits MLP", problem, optimizer, 2**14, 200, (1024, 4096, 8192))


def cnn():
    optimizer = functools.partial(make_optimizer, steps=100)
    problem = stabjax.problems.digits_cnn()
    widths("digits CNN", problem, optimizer, 2**12, 100, (128, 256, 512, 2048), 4)


def toy_widths():
    choices = (2**16, 2**17, 2**19, 2**20)
    widths("toy", TOY, make_optimizer, 2**20, STEPS, choices, 8)


def main():
    (device, *_) = jax.devices()
    say(device.device_kind, jax.__version__, device.memory_stats())
    for function in (toy, host, agreement, toy_widths, mlp, cnn):
        if not sys.argv[1:] or function.__name__ in sys.argv[1:]:
            part(function)


if __name__ == "__main__":
    main()
