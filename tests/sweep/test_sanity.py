"""What is allowed and hardly meant: a warning at the line of the user."""

import random
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import stabjax
from stabjax.problems import Problem

PROBLEM = stabjax.problems.quadratic()


def sweep(problem=PROBLEM, make=lambda rate: optax.sgd(rate), **axes):
    space = stabjax.grid(**{"rate": [0.1], **axes})
    return stabjax.sweep(problem, make, space, steps=5)


def halve(**axes):
    space = stabjax.grid(**axes)
    make = lambda rate: optax.sgd(rate)  # noqa: E731
    return stabjax.successive_halving(PROBLEM, make, space, steps=5)


def warmed(rate, warmup_steps):
    return optax.sgd(stabjax.warmup_constant_schedule(0.0, rate, warmup_steps))


def drawing(draw):
    """A problem whose loss draws once, when it is traced."""
    init, loss = PROBLEM.init, PROBLEM.loss
    return Problem(init, lambda w, key: loss(w, key) + 0.0 * draw())


WARNED = {
    "a range": (
        lambda: stabjax.sample(8, 0, rate=(1e-3, 1)),
        r"rate=\(0.001, 1\) are two choices, not a range: write scipy.stats.loguniform",
    ),
    "a value twice": (
        lambda: sweep(rate=[0.1, 0.2, 0.1]),
        "axis 'rate' contains 0.1 2 times: each copy is trained",
    ),
    "a negative rate": (
        lambda: sweep(rate=[-0.1, 0.1]),
        "axis 'rate' contains -0.1: a negative learning rate maximizes the loss",
    ),
    "a negative rate, halved": (
        lambda: halve(rate=[-0.1, 0.1]),
        "axis 'rate' contains -0.1: a negative learning rate",
    ),
    "a long warm-up": (
        lambda: sweep(make=warmed, warmup_steps=[2, 9]),
        "axis 'warmup_steps' contains 9, which exceeds steps=5",
    ),
    "NumPy's numbers": (
        lambda: sweep(drawing(np.random.rand)),
        "draws random numbers from Python or NumPy. They are drawn once",
    ),
    "a generator's numbers": (
        lambda: sweep(drawing(np.random.default_rng(0).random)),
        "draws random numbers from Python or NumPy. They are drawn once",
    ),
    "a generator of Python": (
        lambda: sweep(drawing(random.Random(0).random)),
        "draws random numbers from Python or NumPy. They are drawn once",
    ),
    "Python's numbers": (
        lambda: sweep(drawing(random.random)),
        "draws random numbers from Python or NumPy. They are drawn once",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", WARNED)
def test_what_is_hardly_meant(name):
    call, message = WARNED[name]
    with pytest.warns(UserWarning, match=message) as caught:
        call()
    assert [warning.filename for warning in caught] == [__file__]


def a_drawn_problem(size=1.0):
    data = jnp.asarray(np.random.rand(2))  # noqa: NPY002
    return Problem(lambda key: data * size, lambda w, key: jnp.sum(w * w))


def a_generator():
    generator = np.random.default_rng(0)
    data = generator.random(2).astype(np.float32)
    return Problem(lambda key: jnp.asarray(data), lambda w, key: jnp.sum(w * w))


SILENT = {
    "choices": lambda: stabjax.sample(
        8, 0, rate=[1e-3, 1.0], flag=(0, 1), a=(2.0, 1.0)
    ),
    "zipped repetition": lambda: stabjax.sweep(
        PROBLEM,
        lambda rate: optax.sgd(rate),
        stabjax.zipped(rate=[0.1, 0.1], seed=[0, 1]),
        steps=5,
    ),
    "a warm-up of all steps": lambda: sweep(make=warmed, warmup_steps=[0, 5]),
    "a negative shift": lambda: sweep(
        make=lambda rate, shift: optax.sgd(rate + 0.0 * shift), shift=[-1.0, 1.0]
    ),
    "a problem that draws its data": lambda: sweep(a_drawn_problem),
    "data of a generator": lambda: sweep(a_generator()),
    "keys": lambda: sweep(
        Problem(
            lambda key: jax.random.normal(key, (2,)),
            lambda w, key: jnp.sum((w - jax.random.normal(key, (2,))) ** 2),
        )
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SILENT)
def test_no_false_alarm(name, standard_promotion):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SILENT[name]()
