"""Compares clipping methods and guards, each at its own best learning rate and level.

python benchmarks/methods.py --store DIR [--problems NAME ...] [--seconds S] [--quick]
python benchmarks/methods.py --store DIR --report DIR

The upper command trains the runs: for each problem and method, 13 learning rates, 7
levels of the threshold and 16 seeds. It resumes an interrupted store, and `--seconds`
stops it early. The lower one prints tables and draws pictures without training.
"""

import argparse
import pathlib
import signal
import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax

import stabjax
from stabjax import problems

SEEDS = 16
LEVELS = np.logspace(-2, 1, 7)


def momentum(rate):
    return optax.sgd(rate, momentum=0.9)


def spiked_digits(share=0.02, size=1000.0):
    """Returns the digits problem with 2% of the gradients scaled by 1000."""
    problem = problems.digits_mlp()

    def loss(params, key):
        value = problem.loss(params, key)
        spike = jax.random.bernoulli(jax.random.fold_in(key, 1), share)
        # Zero, with the same derivative as `value`.
        extra = value - jax.lax.stop_gradient(value)
        return value + jnp.where(spike, size, 0.0) * extra

    return problems.Problem(problem.init, loss, problem.evaluate, problem.metadata)


# Name -> (problem, optimizer, learning rates, typical norm, steps, variable, baseline).
# The baseline is the loss of the best constant prediction, and the initial loss of the
# quadratic.
PROBLEMS = {
    "transformer": (
        problems.char_transformer,
        optax.adamw,
        np.logspace(-4, 0, 13),
        1.0,
        300,
        "test_loss",
        1.97,
    ),
    "digits CNN": (
        problems.digits_cnn,
        momentum,
        np.logspace(-3, 1, 13),
        1.0,
        300,
        "test_loss",
        2.30,
    ),
    "adding": (
        lambda: problems.adding(1.5, length=10, hidden=32, batch_size=32),
        momentum,
        np.logspace(-3, 1, 13),
        1.0,
        500,
        "test_loss",
        1 / 6,
    ),
    "heavy tails": (
        lambda: problems.heavy_tailed_quadratic(tail=1.2),
        optax.sgd,
        np.logspace(-3, 1, 13),
        10.0,
        500,
        "final_loss",
        46.0,
    ),
    "bad batches": (
        spiked_digits,
        optax.adam,
        np.logspace(-4, 0, 13),
        1.0,
        300,
        "test_loss",
        2.30,
    ),
}


def before(make):
    """Returns an optimizer maker: the transformation, followed by the optimizer."""
    return lambda level, norm, base, rate: optax.chain(make(level, norm), base(rate))


def instead(make):
    return lambda level, norm, base, rate: optax.chain(
        make(level), optax.scale_by_learning_rate(rate)
    )


# In the order of training. Levels span three decades around the usual threshold, which
# depends on the typical norm of the problem's gradient.
METHODS = {
    "none": lambda level, norm, base, rate: base(rate),
    "clip_by_global_norm": before(lambda x, n: stabjax.clip_by_global_norm(x * n)),
    "skip_above_norm": lambda level, norm, base, rate: stabjax.skip_above_norm(
        base(rate), 30 * level * norm
    ),
    "clip": before(lambda x, n: stabjax.clip(x * n / 30)),
    "zclip": before(lambda x, n: stabjax.zclip(max_norm=x * n)),
    "adaptive_grad_clip": before(lambda x, n: stabjax.adaptive_grad_clip(x / 10)),
    "clip_by_percentile": before(
        lambda x, n: stabjax.clip_by_percentile(100 * x / (1 + x), window=100)
    ),
    "smooth_clip_by_global_norm": before(
        lambda x, n: stabjax.smooth_clip_by_global_norm(x * n)
    ),
    "clip_by_block_norm": before(lambda x, n: stabjax.clip_by_block_norm(x * n / 3)),
    "adagc": before(lambda x, n: stabjax.adagc(1 + x, max_norm=n, warmup_steps=30)),
    "skip_on_spike": lambda level, norm, base, rate: stabjax.skip_on_spike(
        base(rate), z_threshold=10 * level, window=32
    ),
    "clip_by_relative_update": lambda level, norm, base, rate: optax.chain(
        base(rate), stabjax.clip_by_relative_update(level / 10)
    ),
    "Adam": lambda level, norm, base, rate: optax.adam(rate),
    "scale_by_stable_adam": instead(
        lambda x: stabjax.scale_by_stable_adam(threshold=x)
    ),
    "scale_by_spam": instead(lambda x: stabjax.scale_by_spam(threshold=500 * x)),
}


def train(name, store, quick):
    """Trains the runs of a problem, with a linear decay of the learning rate to 0."""
    problem, base, rates, norm, steps, _, _ = PROBLEMS[name]
    methods, levels, seeds = list(METHODS), LEVELS, SEEDS
    if quick:
        methods, rates, levels, seeds = methods[:3], rates[3::3], levels[::3], 4

    def make_optimizer(method, rate, level):
        schedule = stabjax.linear_schedule(rate, 0.0, steps)
        return METHODS[method](level, norm, base, schedule)

    space = stabjax.grid(method=methods, rate=rates, level=levels, seed=range(seeds))
    on_cpu = jax.default_backend() == "cpu"
    return stabjax.sweep(
        problem(),
        make_optimizer,
        space,
        steps=steps,
        # One chunk for each method: a wider one is not faster on an H200.
        chunk_size="auto" if on_cpu else len(rates) * len(levels) * seeds,
        store=store / name.replace(" ", "_"),
        progress=False,
    )


def stop_after(seconds):
    """Interrupts the process as Ctrl-C does, which keeps all finished chunks."""
    timer = threading.Timer(seconds, signal.raise_signal, (signal.SIGINT,))
    timer.daemon = True
    timer.start()


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", type=pathlib.Path, required=True)
    parser.add_argument("--problems", nargs="+", default=list(PROBLEMS))
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--report", type=pathlib.Path)
    options = parser.parse_args(arguments)
    if options.seconds:
        stop_after(options.seconds)
    for name in options.problems:
        try:
            runs = train(name, options.store, options.quick)
        except KeyboardInterrupt:
            print(f"{name}: stopped")
            return
        attributes = runs.attrs
        print(
            f"{name}: {attributes['seconds']:.0f} s, compilation "
            f"{attributes['compile_seconds']:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
