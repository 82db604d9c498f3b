"""Asks whether clipping replaces a warmup, and which schedule wins with and without it.

python benchmarks/warmup.py --store DIR [--problems NAME ...] [--seconds S] [--quick]
python benchmarks/warmup.py --store DIR --report DIR

The upper command trains the runs: for each problem, 5 schedule shapes, 4 warmup
lengths, 5 thresholds of `clip_by_global_norm` with one of them infinite, the learning
rates and 32 seeds. All are traced, so each problem is a single program. It resumes an
interrupted store, and `--seconds` stops it early. The lower one prints tables and draws
pictures without training.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from paired import (
    LEVEL,
    at_edges,
    corrected,
    effect,
    forest,
    markdown,
    print_claim,
    run_script,
    verdict,
    with_log_loss,
    write_table,
)

import stabjax
from stabjax import problems

SEEDS = 32
WARMUPS = (0.0, 0.02, 0.1, 0.3)  # fractions of the steps
LEVELS = (0.01, 0.1, 1.0, 10.0, np.inf)  # of the typical norm
BASELINE = "linear"
CLIPPINGS = {
    "without clipping": lambda levels: levels[np.isinf(levels)],
    "with clipping": lambda levels: levels[levels < np.inf],
}
ARMS = ("baseline", "warmup", "clipping", "both")
SHAPES = ("constant", "linear", "cosine", "wsd", "inverse sqrt")
OTHERS = [shape for shape in SHAPES if shape != BASELINE]


def momentum(rate):
    return optax.sgd(rate, momentum=0.9)


# Name -> (problem, optimizer, smallest and largest log10 of the rate, typical norm,
# steps, variable).
NETWORKS = {
    "char_transformer, AdamW": (
        problems.char_transformer,
        optax.adamw,
        (-3.5, -0.5),
        1.0,
        300,
        "test_loss",
    ),
    "digits_mlp, Adam": (
        problems.digits_mlp,
        optax.adam,
        (-4, 0),
        1.0,
        300,
        "test_loss",
    ),
    "digits_mlp, SGD": (
        problems.digits_mlp,
        momentum,
        (-3, 2),
        1.0,
        300,
        "test_loss",
    ),
    "digits_cnn, SGD": (
        problems.digits_cnn,
        momentum,
        (-3, 2),
        1.0,
        200,
        "test_loss",
    ),
    "adding, SGD": (
        lambda: problems.adding(1.5, length=10, hidden=32, batch_size=32),
        momentum,
        (-3, 2),
        1.0,
        300,
        "test_loss",
    ),
    "adding, Adam": (
        lambda: problems.adding(1.5, length=10, hidden=32, batch_size=32),
        optax.adam,
        (-4, 0),
        1.0,
        300,
        "test_loss",
    ),
    "temporal_order, Adam": (
        lambda: problems.temporal_order(length=10, hidden=32),
        optax.adam,
        (-4, 0),
        1.0,
        300,
        "test_loss",
    ),
}
ANALYTIC = {
    "quadratic": (
        lambda: problems.quadratic(noise=1.0),
        (-3, 1),
        10.0,
    ),
    "ill_conditioned_quadratic": (
        lambda: problems.ill_conditioned_quadratic(noise=0.3),
        (-3, 1),
        10.0,
    ),
    "heavy_tailed_quadratic": (problems.heavy_tailed_quadratic, (-3, 1), 10.0),
    "quadratic_deep": (problems.quadratic_deep, (-3, 1), 10.0),
    "random_quadratic": (
        lambda: problems.random_quadratic(noise=0.1),
        (-3, 1),
        10.0,
    ),
    "quartic": (lambda: problems.quartic(noise=1.0), (-6, 1), 100.0),
    "cosh": (lambda: problems.cosh(noise=0.3), (-5, 1), 100.0),
    "rosenbrock": (lambda: problems.rosenbrock(noise=1.0), (-5, 0), 100.0),
    "beale": (lambda: problems.beale(noise=0.3), (-5, 0), 10.0),
    "branin": (lambda: problems.branin(noise=1.0), (-4, 1), 10.0),
    "cliff": (lambda: problems.cliff(noise=0.3), (-5, 1), 10.0),
    "single_unit_rnn": (lambda: problems.single_unit_rnn(noise=0.1), (-4, 1), 1.0),
    "tied_product": (lambda: problems.tied_product(noise=0.1), (-5, 0), 10.0),
    "deep_linear": (lambda: problems.deep_linear(noise=0.1), (-3, 1), 1.0),
    "deep_linear_chain": (
        lambda: problems.deep_linear_chain(noise=0.1),
        (-5, 0),
        10.0,
    ),
}
PROBLEMS = NETWORKS | {
    name: (problem, optax.sgd, rates, norm, 500, "final_loss")
    for name, (problem, rates, norm) in ANALYTIC.items()
}


def schedule_of(shape, rate, warmup, steps):
    """Returns the shape of that index as a schedule, after a linear warmup.

    A traced index makes all shapes one program.
    """
    warmup_steps = warmup * steps
    rest = steps - warmup_steps
    shapes = (
        stabjax.constant_schedule(rate),
        stabjax.linear_schedule(rate, 0.0, rest),
        stabjax.cosine_decay_schedule(rate, rest),
        stabjax.wsd_schedule(rate, 0, 0.8 * rest, 0.2 * rest),
        stabjax.inverse_sqrt_schedule(rate, 0.1 * rest),
    )

    def schedule(count):
        after = jnp.maximum(count - warmup_steps, 0)
        value = jnp.stack([one(after) for one in shapes])[shape]
        # The rate of update number 0 is rate / (warmup_steps + 1), not 0.
        return value * jnp.minimum(1.0, (count + 1) / (warmup_steps + 1))

    return schedule


def train(name, store, quick):
    problem, base, (low, high), norm, steps, _ = PROBLEMS[name]
    rates = np.logspace(low, high, int(3 * (high - low)) + 1)
    seeds, warmups = SEEDS, WARMUPS
    if quick:
        rates, seeds, warmups = rates[::2], 4, WARMUPS[::2]

    def make_optimizer(shape, warmup, level, rate):
        schedule = schedule_of(shape, rate, warmup, steps)
        clipping = stabjax.clip_by_global_norm(level * norm)
        return optax.chain(clipping, base(schedule))

    space = stabjax.grid(
        shape=np.arange(len(SHAPES)),
        warmup=warmups,
        level=LEVELS,
        rate=rates,
        seed=range(seeds),
    )
    on_cpu = jax.default_backend() == "cpu"
    return stabjax.sweep(
        problem(),
        make_optimizer,
        space,
        steps=steps,
        chunk_size="auto" if on_cpu or name not in NETWORKS else 2080,
        store=store / name.replace(", ", "_"),
        progress=False,
    )


def contrasts(levels, warmups):
    """Returns pairs of arms by title; each arm is at its own best settings."""
    none, clip = {"level": levels[np.isinf(levels)]}, {"level": levels[levels < np.inf]}
    zero, some = {"warmup": warmups[warmups == 0]}, {"warmup": warmups[warmups > 0]}
    return {
        "warmup, without clipping": (none | some, none | zero),
        "warmup, with clipping": (clip | some, clip | zero),
        "clipping, without warmup": (clip | zero, none | zero),
        "clipping, with warmup": (clip | some, none | some),
        "clipping instead of warmup": (clip | zero, none | some),
    }


def effects_of(runs, name):
    """Returns the effects that a problem shows, before Holm's correction."""
    pairs = contrasts(runs.level.values, runs.warmup.values)
    found = {(title, name): effect(runs, *pair) for title, pair in pairs.items()}
    for key, level in CLIPPINGS.items():
        some = runs.sel({"level": level(runs.level.values)})
        for shape in OTHERS:
            arms = {"shape": [shape]}, {"shape": [BASELINE]}
            found[key, shape, name] = effect(some, *arms)
    return found


def notes_of(runs, name):
    """Yields a note for each best learning rate at the edge of its grid."""
    for key, level in CLIPPINGS.items():
        for value in at_edges(
            runs, {"level": level(runs.level.values)}, "rate"
        ).values():
            yield f"{name}, {key}: best at the edge rate {value:.3g}."


def report(store, folder):
    """Prints the tables of a store and draws `warmup.png` and `shapes.png`."""
    effects, names, notes, ranges = {}, [], [], []
    for name in PROBLEMS:
        path = store / name.replace(", ", "_")
        if not path.exists():
            continue
        problem, variable = PROBLEMS[name][0](), PROBLEMS[name][5]
        runs = with_log_loss(stabjax.runs.load(path), problem, variable)
        runs = runs.assign_coords({"shape": np.array(SHAPES)[runs["shape"].values]})
        names.append(name)
        ranges.append([name, *(f"{width:.1f}" for width in widths(runs))])
        notes += notes_of(runs, name)
        effects |= effects_of(runs, name)
    effects = corrected(effects)
    print_claim(effects)
    page = folder / "warmup.md"
    titles = [key[0] for key in effects if key[1] == names[0]]
    write_table(page, "warmup", table_of(effects, names, titles, titles))
    for key in CLIPPINGS:
        columns = [(key, shape) for shape in OTHERS]
        write_table(page, key, table_of(effects, names, columns, OTHERS))
    write_table(page, "ranges", markdown(["problem", *ARMS], ranges))
    print("\n".join(notes))
    draw(effects, names, folder)
    return effects


def draw(effects, names, folder):
    def row(*key):
        return {name: effects[*key, name] for name in names}

    panels = {
        f"{what} / none": {label: row(f"{what}, {label}") for label in labels}
        for what, labels in (
            ("warmup", ("without clipping", "with clipping")),
            ("clipping", ("without warmup", "with warmup")),
        )
    } | {"clipping / warmup": {"": row("clipping instead of warmup")}}
    forest(folder / "warmup.png", panels, names)
    panels = {
        f"{shape} / {BASELINE}": {key: row(key, shape) for key in CLIPPINGS}
        for shape in OTHERS
    }
    forest(folder / "shapes.png", panels, names)


def widths(runs):
    """Returns the decades of rates within 1.5 times the best loss, for each of `ARMS`.

    The other settings of an arm are those with the widest range.
    """
    losses = runs.log_loss.mean("seed")
    near = losses <= losses.min() + np.log(1.5)
    per_decade = (runs.rate.size - 1) / np.log10(runs.rate[-1] / runs.rate[0]).item()
    clipped, warmed = np.isfinite(runs.level), runs.warmup > 0
    for with_clipping, with_warmup in ((0, 0), (0, 1), (1, 0), (1, 1)):
        here = (clipped == with_clipping) & (warmed == with_warmup)
        yield float((near & here).sum("rate").max()) / per_decade


def table_of(effects, names, keys, header):
    """Returns a table of problems, with the numbers of claims in its last rows."""
    keys = [key if isinstance(key, tuple) else (key,) for key in keys]
    rows = [[name, *(str(effects[*key, name]) for key in keys)] for name in names]
    found = [[verdict(effects[*key, name]) for name in names] for key in keys]
    rows += [
        [f"{word} at p < {LEVEL}", *(f"{c.count(word)} of {len(c)}" for c in found)]
        for word in ("better", "worse")
    ]
    return markdown(["problem", *header], rows)


if __name__ == "__main__":
    run_script(__doc__.splitlines()[0], list(PROBLEMS), train, report)
