"""Rates that follow a metric: PyTorch's rule, and what is built on it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stabjax.compat import torch as compat
from stabjax.compat.huggingface import get_scheduler

METRICS = (1.0, 0.8, 0.8, 0.8, 0.8, 0.79, 0.9, 0.5, 0.6, 0.6, 0.6, 0.6)


def rates(transformation, metrics, base_lr=1.0):
    """The rate after each metric, in one program."""

    def step(state, metric):
        updates, state = transformation.update(
            jnp.float32(base_lr), state, value=metric
        )
        return state, updates

    state = transformation.init(jnp.float32(0))
    return jax.lax.scan(step, state, jnp.asarray(metrics, jnp.float32))[1]


@pytest.mark.parametrize(
    "arguments, metrics, expected",
    [
        ({"patience": 2}, METRICS, [1] * 4 + [0.5] * 6 + [0.25] * 2),
        ({"patience": 1}, METRICS, [1] * 3 + [0.5] * 6 + [0.25] * 2 + [0.125]),
        (
            {"patience": 2, "cooldown": 2, "min_lr": 0.3},
            METRICS,
            [1] * 4 + [0.5] * 6 + [0.3] * 2,
        ),
        (
            {"patience": 1, "threshold": 0.05, "threshold_mode": "abs"},
            METRICS,
            [1] * 3 + [0.5] * 2 + [0.25] * 4 + [0.125] * 2 + [0.0625],
        ),
        (
            {"patience": 1, "mode": "max"},
            (0.1, 0.2, 0.2, 0.2, 0.2, 0.3, 0.3, 0.3),
            [1] * 3 + [0.5] * 4 + [0.25],
        ),
        (
            {"patience": 2, "cooldown": 3},
            [1.0] * 12,
            [1] * 3 + [0.5] * 6 + [0.25] * 3,
        ),
    ],
)
def test_rates_are_those_of_the_reference(arguments, metrics, expected):
    plateau = compat.reduce_lr_on_plateau(1.0, factor=0.5, **arguments)
    np.testing.assert_allclose(rates(plateau, metrics), expected, 1e-6)


def test_the_least_reduction_is_one_of_the_rate():
    plateau = compat.reduce_lr_on_plateau(3e-8, factor=0.5, patience=0)
    found = rates(plateau, [1.0] * 4, base_lr=3e-8)
    np.testing.assert_allclose(found, [3e-8, 1.5e-8, 1.5e-8, 1.5e-8], 1e-6)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"base_lr": 0.0}, "base_lr must be > 0, got 0"),
        ({"mode": "mean"}, "mode must be 'min' or 'max', got 'mean'"),
        (
            {"threshold_mode": "none"},
            "threshold_mode must be 'rel' or 'abs', got 'none'",
        ),
        ({"factor": 1.0}, "factor must be .*1.*, got 1.0"),
    ],
)
def test_a_bad_value_is_refused_by_name(arguments, message):
    with pytest.raises(ValueError, match=message):
        compat.reduce_lr_on_plateau(**({"base_lr": 0.1} | arguments))


@pytest.mark.slow
def test_rates_are_those_of_pytorch():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    for i in range(25):
        numbers = dict(
            factor=rng.uniform(0.1, 0.9),
            patience=int(rng.integers(0, 4)),
            threshold=rng.choice([0.0, 1e-4, 0.045]),
            cooldown=int(rng.integers(0, 4)),
            min_lr=rng.choice([0.0, 0.05]),
        )
        modes = dict(
            mode=["min", "max"][i % 2], threshold_mode=["rel", "abs"][i // 2 % 2]
        )
        metrics = np.round(rng.uniform(0.5, 1.5, 60), 2)
        base_lr = rng.uniform(0.1, 1.0)
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], base_lr)
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimizer, **numbers, **modes
        )
        expected = []
        for metric in metrics.astype(np.float32):
            scheduler.step(float(metric))
            expected.append(optimizer.param_groups[0]["lr"])
        plateau = compat.reduce_lr_on_plateau(base_lr, **numbers, **modes)
        found = rates(plateau, metrics, base_lr)
        np.testing.assert_allclose(found, expected, 1e-5, err_msg=str(numbers | modes))


FALLING = (5.0, 4.0, 3.0, 2.0, 1.0, 1.0, 1.0, 1.0, 0.5, 0.4, 0.3, 0.2, 0.2, 0.2)
GREEDY = {"factor": 0.5, "patience": 1, "min_lr": 0.02, "max_lr": 0.5}


@pytest.mark.parametrize(
    "arguments, metrics, expected",
    [
        (
            {},
            FALLING,
            [0.1, 0.2, 0.2, 0.4, 0.4, 0.4, 0.2, 0.2, 0.2, 0.4, 0.4, 0.5, 0.5, 0.25],
        ),
        (
            {"cooldown": 1, "warmup": 1},
            FALLING,
            [0.1, 0.2, 0.2, 0.2, 0.4, 0.4, 0.4, 0.2, 0.2, 0.2, 0.4, 0.4, 0.4, 0.4],
        ),
        (
            {"patience": 0, "min_lr": 0.04, "reset_start": 2},
            [1.0] * 10,
            [0.2, 0.1, 0.05, 0.04, 0.1, 0.2, 0.1, 0.05, 0.04, 0.1],
        ),
        (
            {"smooth": True, "window_size": 2},
            (1.0, 2.0, 0.5, 0.6, 0.4, 0.3, 0.2, 0.1),
            [0.1, 0.1, 0.05, 0.05, 0.1, 0.1, 0.2, 0.2],
        ),
    ],
)
def test_greedy_rates_are_those_of_the_reference(arguments, metrics, expected):
    rule = get_scheduler("greedy", 0.1, scheduler_specific_kwargs=GREEDY | arguments)
    np.testing.assert_allclose(rates(rule, metrics, 0.1), expected, 1e-6)


def test_greedy_has_all_numbers_traceable():
    names = [*GREEDY, "threshold", "cooldown", "warmup", "eps", "reset_start"]

    @jax.jit
    @jax.vmap
    def found(numbers):
        kwargs = dict(zip(names, numbers, strict=True))
        rule = get_scheduler("greedy", 0.1, scheduler_specific_kwargs=kwargs)
        return rates(rule, FALLING, 0.1)

    one = jnp.array([0.5, 1, 0.02, 0.5, 1e-6, 0, 0, 1e-8, 500])
    other = jnp.array([0.5, 1, 0.02, 0.5, 1e-6, 1, 1, 1e-8, 500])
    first, second = found(jnp.stack([one, other]))
    assert first[-1] == pytest.approx(0.25) and second[-1] == pytest.approx(0.4)


def test_a_plateau_by_its_name_in_transformers():
    kwargs = {"factor": 0.5, "patience": 1}
    rule = get_scheduler("reduce_lr_on_plateau", 1.0, scheduler_specific_kwargs=kwargs)
    expected = [1] * 3 + [0.5] * 6 + [0.25] * 2 + [0.125]
    np.testing.assert_allclose(rates(rule, METRICS), expected, 1e-6)


@pytest.mark.slow
def test_greedy_rates_are_those_of_transformers():
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    rng = np.random.default_rng(1)
    for i in range(25):
        kwargs = dict(
            mode=["min", "max"][i % 2],
            threshold_mode=["abs", "rel"][i // 2 % 2],
            factor=rng.uniform(0.4, 0.9),
            patience=int(rng.integers(0, 3)),
            threshold=rng.choice([1e-6, 0.025]),
            cooldown=int(rng.integers(0, 3)),
            warmup=int(rng.integers(0, 3)),
            min_lr=rng.choice([1e-3, 0.05]),
            reset_start=int(rng.integers(1, 4)),
            smooth=bool(i % 3 == 0),
            window_size=4,
        )
        metrics = np.round(rng.uniform(0.5, 1.5, 80), 2)
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 0.1)
        scheduler = transformers.get_scheduler(
            "greedy", optimizer, scheduler_specific_kwargs=kwargs
        )
        expected = []
        for metric in metrics:
            scheduler.step(metric)
            expected.append(optimizer.param_groups[0]["lr"])
        rule = get_scheduler("greedy", 0.1, scheduler_specific_kwargs=kwargs)
        found = rates(rule, metrics, 0.1)
        np.testing.assert_allclose(found, expected, 1e-5, err_msg=str(kwargs))


@pytest.mark.parametrize("name", ["reduce_lr_on_plateau", "greedy"])
def test_a_bad_traced_rate_gives_nan(name):
    def update(learning_rate):
        rule = get_scheduler(name, learning_rate)
        return rule.update(jnp.ones(2), rule.init(jnp.ones(2)), value=1.0)[0]

    assert np.isnan(jax.jit(update)(-1.0)).all()
    assert np.isfinite(jax.jit(update)(1.0)).all()


@pytest.mark.parametrize("name", ["reduce_lr_on_plateau", "greedy"])
def test_a_wrong_kind_is_refused_by_name(name):
    numbers = ["factor", "patience", "threshold", "cooldown", "min_lr", "eps"]
    for argument in numbers:
        for bad in (None, "1", True):
            with pytest.raises(TypeError, match=f"{argument} must be a number, got"):
                get_scheduler(name, 0.1, scheduler_specific_kwargs={argument: bad})
    with pytest.raises(ValueError, match="value must be a scalar"):
        rule = get_scheduler(name, 0.1)
        rule.update(jnp.ones(2), rule.init(jnp.ones(2)), value=jnp.ones(3))
