"""One sentence that names the argument, for every argument of a method with a state."""

import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import stabjax

pytestmark = pytest.mark.slow  # a program for every argument of every method

IDENTITY = optax.identity()
# Method -> its required arguments; values out of range; and the ranges.
DECAY, SHARE = ([-0.1, 1.0, 2, np.nan], "in [0, 1)"), ([-0.1, 1.5, np.nan], "in [0, 1]")
POSITIVE = [-1, -1e-8, np.nan, np.float32(-1)], ">= 0"
METHODS = {
    "adagc": ({}, {"decay": SHARE}),
    "clip_by_norm_ratio": ({"max_norm_ratio": 2.0}, {"decay": SHARE}),
    "limit_norm_growth": ({}, {}),
    "clip_by_percentile": (
        {},
        {"percentile": ([-1, 101, np.nan], "in [0, 100]"), "window": ([0, -1], ">= 1")},
    ),
    "clip_update_norm": ({}, {"window": ([1, 0], ">= 2")}),
    "zclip": ({}, {"decay": SHARE}),
    "clip_by_second_moment": ({}, {"decay": DECAY}),
    "scale_by_spam": ({}, {"b1": DECAY, "b2": DECAY}),
    "clip_by_tracked_max": ({}, {"decay": DECAY}),
    "normalize_by_tracked_norm": ({}, {"b1": DECAY, "b2": DECAY}),
    "scale_by_stable_spam": (
        {},
        dict.fromkeys(("b1", "b2", "gamma1", "gamma2", "gamma3"), DECAY),
    ),
    "scale_by_stable_adam": ({}, {"b1": DECAY, "b2": DECAY}),
    "reset_moments": ({"inner": IDENTITY}, {}),
}
NOT_NUMBERS = {"inner", "axis_name", "reference", "variant", "mode", "per_leaf"}
NOT_NUMBERS |= {"skip_update_on_spike"}
methods = pytest.mark.parametrize("name", METHODS)


def parameters_of(name):
    return inspect.signature(getattr(stabjax, name)).parameters


def numbers_of(name):
    return [number for number in parameters_of(name) if number not in NOT_NUMBERS]


@methods
def test_a_number_of_the_wrong_kind(name):
    for number in numbers_of(name):
        for bad in (None, "1", "1.0", True, np.bool_(True), 1j, object()):
            if (number, bad) == ("weight_decay", None):  # no decay
                continue
            arguments = METHODS[name][0] | {number: bad}
            message = f"^{number} must be (a number|an integer .*), got .*\\.$"
            with pytest.raises(TypeError, match=message) as error:
                getattr(stabjax, name)(**arguments)
            assert "\n" not in str(error.value)


@methods
def test_a_number_out_of_range(name):
    for number in numbers_of(name):
        values, allowed = METHODS[name][1].get(number, POSITIVE)
        for bad in values:
            arguments = METHODS[name][0] | {number: bad}
            message = rf"^{number} must be (an integer )?{re.escape(allowed)}, got "
            with pytest.raises(ValueError, match=message):
                getattr(stabjax, name)(**arguments)


@methods
def test_a_mode_that_does_not_exist(name):
    modes = NOT_NUMBERS - {"inner", "axis_name"}
    for mode in set(parameters_of(name)) & modes:
        for bad in ("paddel", None, 2):
            arguments = METHODS[name][0] | {mode: bad}
            message = rf"^{mode} must be .* or .*, got {bad!r}\.( Did you mean \w+\?)?$"
            with pytest.raises(ValueError, match=message):
                getattr(stabjax, name)(**arguments)


@methods
def test_what_follows_the_third_default_is_given_by_keyword(name):
    positional = [
        parameter
        for parameter in parameters_of(name).values()
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    ]
    assert 1 <= len(positional) <= 3
    for word in ("axis_name", "reference", "variant", "per_leaf"):
        if word in parameters_of(name):
            assert parameters_of(name)[word].kind is inspect.Parameter.KEYWORD_ONLY


def test_what_is_wrapped_must_be_a_transformation():
    for bad in (None, optax.adam, stabjax.zclip):
        with pytest.raises(TypeError, match="^inner must be an optax.GradientTransf"):
            stabjax.reset_moments(bad)


@methods
def test_a_static_integer_says_how_to_inject_it(name):
    if "window" in parameters_of(name):
        make = optax.inject_hyperparams(getattr(stabjax, name))
        with pytest.raises(TypeError, match=r"static_args=\('window',\)"):
            jax.eval_shape(make(window=4).init, np.zeros(2))


@methods
def test_more_than_one_number(name):
    for number in set(numbers_of(name)) - {"window"}:
        with pytest.raises(ValueError, match=rf"^{number} must be a scalar, got shape"):
            getattr(stabjax, name)(**METHODS[name][0] | {number: np.ones(2) / 2})


@methods
def test_a_traced_number_out_of_range_shows_as_nan(name):
    """Except where it is a count, whose dtype has no NaN."""
    counts = {"patience", "warmup_steps", "clip_delay", "reset_every", "every"}
    early = {"warmup_steps": 1, "clip_delay": 1, "window": 2}
    early = {number: early[number] for number in set(parameters_of(name)) & set(early)}
    for number in set(numbers_of(name)) - counts - {"window", "weight_decay"}:
        others = METHODS[name][0] | early
        if (name, number) == ("adagc", "max_norm"):  # which acts in the warm-up alone
            others["warmup_steps"] = 10

        @jax.jit
        def run(value):
            tx = getattr(stabjax, name)(**others | {number: value})  # noqa: B023
            grads = jnp.array([1.0, -2.0])
            state = tx.init(grads)
            for size in (1, 2, 3, 100):
                updates, state = tx.update(size * grads, state)
            return updates

        assert np.isnan(run(jnp.float32(-1))).all(), number
