"""Compares clipping methods and guards, each at its own best learning rate and level.

python benchmarks/methods.py --store DIR [--problems NAME ...] [--seconds S] [--quick]
python benchmarks/methods.py --store DIR --report DIR

The upper command trains the runs: for each problem and method, 13 or 16 learning rates,
7 levels of the threshold and 32 seeds. It resumes an interrupted store, and `--seconds`
stops it early. The lower one prints tables and draws pictures without training.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from paired import (
    at_edges,
    corrected,
    effect,
    forest,
    markdown,
    print_claim,
    run_script,
    scores,
    with_log_loss,
    write_table,
)

import stabjax
from stabjax import problems

BASELINE = "clip_by_global_norm"
WITHOUT_LEVEL = ("none", "Adam")
SEEDS = 32
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
        np.logspace(-3, 2, 16),
        1.0,
        300,
        "test_loss",
        2.30,
    ),
    "adding": (
        lambda: problems.adding(1.5, length=10, hidden=32, batch_size=32),
        momentum,
        np.logspace(-3, 2, 16),
        1.0,
        500,
        "test_loss",
        1 / 6,
    ),
    "heavy tails": (
        lambda: problems.heavy_tailed_quadratic(tail=1.2),
        optax.sgd,
        np.logspace(-3, 2, 16),
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
        # On a GPU, one chunk for each method, which has a program of its own.
        chunk_size="auto" if on_cpu else len(rates) * len(levels) * seeds,
        store=store / name.replace(" ", "_"),
        progress=False,
    )


def report(store, folder):
    """Prints the tables of a store and draws `methods.png`."""
    losses, effects, notes = {}, {}, []
    for name in PROBLEMS:
        path = store / name.replace(" ", "_")
        if not path.exists():
            continue
        problem, variable = PROBLEMS[name][0](), PROBLEMS[name][5]
        runs = with_log_loss(stabjax.runs.load(path), problem, variable)
        for method in runs.method.values:
            # The keyword `method` of `sel` is xarray's own.
            part = runs.sel({"method": method})
            if (part.status == -1).any():
                notes.append(f"{name}: `{method}` has not finished.")
                continue
            key = method, name
            losses[key] = at_best(part, name, notes)
            if method != BASELINE:
                one, other = {"method": [method]}, {"method": [BASELINE]}
                effects[key] = effect(runs, one, other)
    effects = corrected(effects)
    columns = list(dict.fromkeys(name for _, name in losses))
    rows = [m for m in METHODS if any((m, name) in losses for name in columns)]

    def table(cell):
        body = [[f"`{m}`", *(cell(m, name) for name in columns)] for m in rows]
        return markdown(["method", *columns], body)

    print_claim(effects)
    page = folder / "clipping.md"
    write_table(page, "ratios", table(lambda *key: str(effects.get(key, "1"))))
    write_table(page, "losses", table(lambda *key: losses.get(key, "")))
    print("\n".join(notes))
    others = [row for row in rows if row != BASELINE]
    panels = {
        name: {"": {row: effects.get((row, name)) for row in others}}
        for name in columns
    }
    forest(folder / "methods.png", panels, others)
    return effects


def at_best(part, name, notes):
    """Returns the loss and the decades of a method, and notes what is at an edge."""
    variable, baseline = PROBLEMS[name][5:]
    method = part.method.item()
    axes = ("rate",) if method in WITHOUT_LEVEL else ("rate", "level")
    for axis, value in at_edges(part, {}, *axes).items():
        notes.append(f"{name}: `{method}` is best at an edge, {axis} = {value:.3g}.")
    loss = np.exp(scores(part, {}).mean(axis=0).min())
    found = stabjax.runs.sensitivity(
        part, "rate", variable=variable, initial_loss=baseline
    )
    return f"{loss:.3g} / {found.decades:.1f}"


if __name__ == "__main__":
    run_script(__doc__.splitlines()[0], list(PROBLEMS), train, report)
