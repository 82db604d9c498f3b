"""The plateau rule: against vectors, a model in NumPy, Optax and PyTorch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import stabjax

NAN, INF = np.nan, np.inf
VALUES = [1.0, 0.8, 0.8, 0.8, 0.8, 0.79, 0.9, 0.5, 0.6, 0.6, 0.6, 0.6]
RISING = [0.1, 0.2, 0.2, 0.2, 0.2, 0.3, 0.3, 0.3]
# Semantics, arguments beside the factor of a half, values, and their scales.
VECTORS = [
    ("optax", {"patience": 2}, VALUES, "1 1 1 .5 .5 .5 .5 .5 .5 .25 .25 .125"),
    (
        "optax",
        {"patience": 2, "cooldown": 2, "min_scale": 0.3},
        VALUES,
        "1 1 1 .5 .5 .5 .5 .5 .5 .3 .3 .3",
    ),
    (
        "optax",
        {"patience": 1, "accumulation_size": 2, "rtol": 0.1},
        VALUES,
        "1 1 1 1 1 .5 .5 .5 .5 .5 .5 .25",
    ),
    (
        "optax",
        {"patience": 0},
        VALUES,
        ".5 .25 .25 .25 .25 .125 .125 .0625 .0625 .0625 .0625 .0625",
    ),
    (
        "optax",
        {"patience": 2, "cooldown": 3},
        [1.0] * 12,
        "1 1 .5 .5 .5 .5 .5 .25 .25 .25 .25 .25",
    ),
    ("optax", {"patience": 2}, [1.0, NAN, NAN, NAN, 0.5], "1 1 .5 .5 .5"),
    ("torch", {"patience": 2}, VALUES, "1 1 1 1 .5 .5 .5 .5 .5 .5 .25 .25"),
    ("torch", {"patience": 1}, VALUES, "1 1 1 .5 .5 .5 .5 .5 .5 .25 .25 .125"),
    (
        "torch",
        {"patience": 0},
        VALUES,
        "1 1 .5 .25 .125 .125 .0625 .0625 .03125 .015625 .0078125 .00390625",
    ),
    (
        "torch",
        {"patience": 2, "cooldown": 2, "min_scale": 0.3},
        VALUES,
        "1 1 1 1 .5 .5 .5 .5 .5 .5 .3 .3",
    ),
    (
        "torch",
        {"patience": 1, "rtol": 0.0, "atol": 0.05},
        VALUES,
        "1 1 1 .5 .5 .25 .25 .25 .25 .125 .125 .0625",
    ),
    (
        "torch",
        {"patience": 1, "mode": "max"},
        RISING,
        "1 1 1 .5 .5 .5 .5 .25",
    ),
    (
        "torch",
        {"patience": 2, "cooldown": 3},
        [1.0] * 12,
        "1 1 1 .5 .5 .5 .5 .5 .5 .25 .25 .25",
    ),
    # A rate of 3e-8 in PyTorch, whose eps of 1e-8 blocks the second reduction.
    ("torch", {"patience": 0, "eps": 1 / 3}, [1.0] * 5, "1 .5 .5 .5 .5"),
]


def scales(make, numbers, values):
    """The scale that each value meets, and the last state."""
    tx = make(**numbers)

    def step(state, value):
        updates, state = tx.update(jnp.ones(()), state, value=value)
        return state, updates

    state, found = jax.lax.scan(step, tx.init(jnp.ones(())), values)
    return found, state


@functools.partial(jax.jit, static_argnames=("mode", "semantics", "make"))
def many(sets, values, mode="min", semantics="optax", make=None):
    """The scales of many sets of numbers, each with its own values."""
    make = make or functools.partial(
        stabjax.reduce_on_plateau, mode=mode, semantics=semantics
    )
    return jax.vmap(lambda *a: scales(make, *a)[0])(sets, values)


def stacked(sets):
    return {
        name: jnp.asarray([one[name] for one in sets], jnp.float32) for name in sets[0]
    }


@pytest.mark.parametrize("semantics", ("optax", "torch"))
def test_vectors(semantics):
    default = {"rtol": 1e-4, "atol": 0.0, "cooldown": 0.0, "accumulation_size": 1.0}
    default |= {"factor": 0.5, "min_scale": 0.0, "eps": 0.0}
    for mode in ("min", "max"):
        rows = [
            (default | {k: v for k, v in arguments.items() if k != "mode"}, values, s)
            for kind, arguments, values, s in VECTORS
            if kind == semantics and arguments.get("mode", "min") == mode
        ]
        if not rows:
            continue
        padded = [values + [values[-1]] * (12 - len(values)) for _, values, _ in rows]
        found = many(
            stacked([row[0] for row in rows]),
            jnp.asarray(padded, jnp.float32),
            mode,
            semantics,
        )
        for row, (_, values, expected) in zip(found, rows, strict=True):
            expected = [float(scale) for scale in expected.split()]
            np.testing.assert_allclose(row[: len(values)], expected, rtol=1e-6)


def model(values, *, factor, patience, rtol, atol, cooldown, size, floor, eps, mode):
    """The rule in Python, with PyTorch's patience, for metrics of any sign."""
    scale, best, bad, cooling, window, found = 1.0, None, 0, 0, [], []
    for value in values:
        window.append(value if mode == "min" else -value)
        if len(window) == size:
            mean, window = np.mean(window), []
            needed = 0.0 if best is None else rtol * abs(best) + atol
            if np.isfinite(mean) and (best is None or mean < best - needed):
                best, bad = mean, 0
            else:
                bad += 1
            if cooling:
                cooling, bad = cooling - 1, 0
            elif bad > patience:
                lower = max(scale * factor, min(floor, 1.0))
                scale = lower if scale - lower > eps else scale
                cooling, bad = cooldown, 0
        found.append(scale)
    return found


def random_sets(number, seed):
    rng = np.random.default_rng(seed)
    return [
        {
            "factor": rng.uniform(0.1, 0.9),
            "patience": float(rng.integers(0, 4)),
            "rtol": rng.choice([0.0, rng.uniform(0, 0.2)]),
            "atol": rng.choice([0.0, rng.uniform(0, 0.1)]),
            "cooldown": float(rng.integers(0, 4)),
            "accumulation_size": float(rng.integers(1, 4)),
            "min_scale": rng.choice([0.0, rng.uniform(0, 1.5)]),
            "eps": rng.choice([0.0, rng.uniform(0, 0.1)]),
        }
        for _ in range(number)
    ]


def random_values(number, seed, steps=200):
    """Values of both signs that wander; with spikes, zeros and what is not finite."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(number, steps)).cumsum(axis=1) / 4
    values = np.round(values * 8) / 8  # equal values, too
    for odd in (0.0, 1e3, -1e3, NAN, INF, -INF):
        values = np.where(rng.uniform(size=values.shape) < 0.01, odd, values)
    return values


@pytest.mark.parametrize("mode", ("min", "max"))
def test_equals_the_model_over_random_steps(mode):
    sets, values = random_sets(24, seed=1), random_values(24, seed=2)
    found = many(stacked(sets), jnp.asarray(values, jnp.float32), mode, "torch")
    short = {"accumulation_size": "size", "min_scale": "floor"}
    for one, row, scale in zip(sets, values, found, strict=True):
        whole = {
            short.get(k, k): int(v) if k in ("cooldown", "accumulation_size") else v
            for k, v in one.items()
        }
        np.testing.assert_allclose(scale, model(row, **whole, mode=mode), rtol=2e-6)


def test_patience_differs_by_one_and_fractions_are_rounded():
    """Optax reduces at the patience-th failure, PyTorch at the one after it."""
    sets = [dict(one, min_scale=0.1) for one in random_sets(8, seed=3)]
    values = jnp.asarray(random_values(8, seed=4, steps=50), jnp.float32)
    torch = many(stacked(sets), values, "min", "torch")
    for shift in (1.0, 0.5):
        later = [dict(one, patience=one["patience"] + shift) for one in sets]
        np.testing.assert_array_equal(many(stacked(later), values), torch)


def test_equals_optax(standard_promotion):
    """For positive metrics, which is where Optax's rule works."""
    sets = [dict(one, rtol=one["rtol"] or 1e-4, eps=0) for one in random_sets(6, 5)]
    values = np.abs(random_values(6, seed=6, steps=80)) + 0.1
    found = many(stacked(sets), jnp.asarray(values, jnp.float32))

    @jax.jit
    def theirs(values):
        made = [
            {name: number for name, number in one.items() if name != "eps"}
            for one in sets
        ]
        return [
            scales(optax.contrib.reduce_on_plateau, one, row)[0]
            for one, row in zip(made, values, strict=True)
        ]

    expected = theirs(jnp.asarray(values, jnp.float32))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.slow
def test_equals_pytorch():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(7)
    for mode in ("min", "max"):
        sets, values, expected = [], [], []
        for seed in range(25):
            (one,) = random_sets(1, seed=100 + seed)
            relative = bool(rng.integers(2))
            threshold, rate = one["rtol"], 10 ** rng.uniform(-3, 0)
            walk = random_values(1, seed=200 + seed, steps=80)[0]
            # PyTorch's relative rule is wrong below zero, and -inf would stay best.
            walk = np.abs(walk) + 0.1 if relative else walk
            walk = np.where(np.isinf(walk), NAN, walk)
            weight = torch.nn.Parameter(torch.zeros(1))
            optimizer = torch.optim.SGD([weight], lr=rate)
            scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
                optimizer,
                mode,
                one["factor"],
                int(one["patience"]),
                threshold,
                "rel" if relative else "abs",
                int(one["cooldown"]),
                one["min_scale"] * rate,
                one["eps"] * rate,
            )
            rates = []
            for value in walk:
                scheduler.step(value)
                rates.append(optimizer.param_groups[0]["lr"] / rate)
            expected.append(rates)
            values.append(walk)
            sets.append(
                one
                | {"rtol": threshold * relative, "atol": threshold * (not relative)}
                | {"accumulation_size": 1.0}
            )
        found = many(stacked(sets), jnp.asarray(values, jnp.float32), mode, "torch")
        np.testing.assert_allclose(found, expected, rtol=2e-6)


def test_a_negative_metric_that_stands_still_is_a_plateau():
    values = jnp.full(5, -3.0)
    ours, _ = scales(stabjax.reduce_on_plateau, {"factor": 0.5, "patience": 2}, values)
    assert ours.tolist() == [1, 1, 0.5, 0.5, 0.25]


def test_state_and_metrics_show_the_scale():
    tx = stabjax.reduce_on_plateau(0.5, patience=1, mode="max")
    params = {"w": jnp.ones(3, jnp.bfloat16), "c": jnp.ones((), jnp.complex64)}
    state = tx.init(params)
    assert stabjax.metrics(state)["reduce_on_plateau/best_value"] == -INF
    for value in (2, 1.0, np.float32(1)):
        updates, state = tx.update(params, state, params, value=value, other="ignored")
    seen = stabjax.metrics(state)
    assert seen == {
        "reduce_on_plateau/best_value": 2.0,
        "reduce_on_plateau/scale": 0.25,
    }
    assert optax.tree.get(state, "scale") == 0.25
    assert updates["w"].dtype == jnp.bfloat16
    assert updates["w"].tolist() == [0.25] * 3 and updates["c"] == 0.25
    assert all(leaf.dtype != jnp.bfloat16 for leaf in jax.tree.leaves(state))


def test_derivative_by_the_factor():
    """After k reductions the scale is f^k."""

    def last(factor):
        numbers = {"factor": factor, "patience": 1}
        return scales(stabjax.reduce_on_plateau, numbers, jnp.ones(4))[0][-1]

    np.testing.assert_allclose(jax.grad(last)(0.5), 3 * 0.5**2, rtol=1e-6)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"factor": 1.0}, r"factor must be in \(0, 1\), got 1.0."),
        ({"factor": 0.0}, r"factor must be in \(0, 1\), got 0.0."),
        ({"patience": -1}, "patience must be >= 0, got -1."),
        ({"rtol": -0.1}, r"rtol must be in \[0, 1\], got -0.1."),
        ({"rtol": 1.1}, r"rtol must be in \[0, 1\], got 1.1."),
        ({"atol": -1.0}, "atol must be >= 0, got -1.0."),
        ({"cooldown": -1}, "cooldown must be >= 0, got -1."),
        ({"accumulation_size": 0}, "accumulation_size must be >= 1, got 0."),
        ({"min_scale": -1.0}, "min_scale must be >= 0, got -1.0."),
        ({"eps": -1.0}, "eps must be >= 0, got -1.0."),
        ({"mode": "maximum"}, "mode must be 'min' or 'max', got 'maximum'"),
        ({"semantics": "keras"}, "semantics must be 'optax' or 'torch', got 'keras'"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        stabjax.reduce_on_plateau(**arguments)


def test_the_value_must_be_there_and_be_one_number():
    tx = stabjax.reduce_on_plateau()
    state = tx.init(jnp.ones(2))
    chain = optax.chain(optax.sgd(0.1), tx)
    for made in (tx, chain):
        with pytest.raises(TypeError, match=r"value must be the loss .*value=loss\)\."):
            made.update(jnp.ones(2), made.init(jnp.ones(2)))
    with pytest.raises(ValueError, match=r"value must be a scalar, .* shape \(3,\)."):
        tx.update(jnp.ones(2), state, value=jnp.ones(3))


def test_the_mean_of_huge_losses_is_finite():
    tx = stabjax.reduce_on_plateau(0.5, 1, accumulation_size=3)
    state = tx.init(jnp.zeros(1))
    for value in (3e38, 2e38, 1e38):
        _, state = tx.update(jnp.ones(1), state, value=jnp.float32(value))
    np.testing.assert_allclose(state.best_value, 2e38, rtol=1e-6)
