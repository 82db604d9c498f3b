"""The learning-rate range test: one short run through all rates."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from stabjax._arguments import as_integer, check_choice
from stabjax._train.problem import Problem
from stabjax._train.trial import train
from stabjax._types import Number

_LOW, _HIGH = 1e-7, 10.0
_DECAY = 0.98  # of the running mean of the loss
_STOP = 4.0  # times the smallest loss so far, at which a run stops
_SLIDE, _SLIDE_SLOPE = 15, 0.005

_Array = np.ndarray[Any, Any]


class RangeTest(NamedTuple):
    """The result of `range_test`.

    Attributes:
      rates: the learning rate of each step.
      loss: the loss of each step before its update, +inf once it was not finite.
      smoothed: its running mean, NaN after the step at which a run was stopped.
    """

    rates: jax.Array
    loss: jax.Array
    smoothed: jax.Array


def range_test(
    problem: Problem,
    optimizer_from_schedule: Callable[[optax.Schedule], optax.GradientTransformation],
    keys: jax.Array,
    *,
    steps: int = 100,
    schedule: optax.Schedule | None = None,
) -> RangeTest:
    """Runs a learning-rate range test: the rate grows from far too small to too large.

    The rate of step t is `1e-7 * 10**(8 * t / steps)` unless a schedule is given. The
    losses l_t are smoothed by an unbiased exponential mean:

        m_t = 0.98 m_{t-1} + 0.02 l_t
        smoothed_t = m_t / (1 - 0.98^(t + 1))

    A run stops once that exceeds four times its smallest value so far. The runs of all
    keys are one program, and their spread shows how reliable a suggestion is.

    Args:
      problem: as in `train`.
      optimizer_from_schedule: function of a schedule that returns an optimizer, such as
        `optax.sgd`.
      keys: a key, or an array of keys, one for each run.
      steps: number of updates, >= 1. Static.
      schedule: the learning rate by step, instead of the above. Smith's test is
        `linear_schedule(0.0, high, steps)`.

    Returns:
      A `RangeTest`: `rates` of shape (steps,), `loss` and `smoothed` of shape (steps,)
      or (runs, steps).

    Raises:
      ValueError: `steps` is not positive.

    Example:
      >>> import jax, optax, stabjax
      >>> problem = stabjax.problems.digits_mlp()
      >>> keys = jax.random.split(jax.random.key(0), 4)
      >>> test = stabjax.range_test(problem, optax.sgd, keys)
      >>> rates = stabjax.suggest_rate(test.rates, test.smoothed, "steep")
      >>> bool((rates > 1e-3).all() and (rates < 3).all())
      True

    References:
      L. N. Smith, "Cyclical learning rates for training neural networks", 2017,
      https://arxiv.org/abs/1506.01186. The exponential form, the mean and the stop are
      those of fastai's `lr_find`.
    """
    steps = as_integer("steps", steps)
    if not jnp.issubdtype(keys.dtype, jax.dtypes.prng_key):
        keys = jax.random.wrap_key_data(keys)
    if schedule is None:
        schedule = optax.exponential_decay(_LOW, steps, _HIGH / _LOW)

    def trial(key: jax.Array) -> jax.Array:
        result = train(
            problem,
            optimizer_from_schedule(schedule),
            key,
            steps=steps,
            record_every=1,
            divergence_factor=np.inf,
        )
        return jnp.asarray(result.loss)

    loss = jax.jit(jax.vmap(trial) if jnp.ndim(keys) else trial)(keys)
    rates = jax.vmap(lambda count: jnp.asarray(schedule(count)))(jnp.arange(steps))
    smoothed = _until_over(_running_mean(jnp.moveaxis(loss, -1, 0)))
    return RangeTest(rates, loss, jnp.moveaxis(smoothed, 0, -1))


def _running_mean(loss: jax.Array) -> jax.Array:
    def step(
        carry: tuple[jax.Array, jax.Array], value: jax.Array
    ) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
        mean, weight = carry
        mean = _DECAY * mean + (1 - _DECAY) * value
        weight = _DECAY * weight + (1 - _DECAY)
        return (mean, weight), mean / weight

    start = jnp.zeros_like(loss[0]), jnp.zeros((), loss.dtype)
    return lax.scan(step, start, loss)[1]


def _until_over(smoothed: jax.Array) -> jax.Array:
    """NaN after the first step above the bound."""
    over = smoothed > _STOP * lax.cummin(smoothed)
    earlier = jnp.cumsum(over, axis=0) - over.astype(jnp.int32)
    return jnp.where(earlier > 0, jnp.nan, smoothed)


def suggest_rate(
    rates: Number,
    losses: Number | Sequence[Number],
    rule: Literal["valley", "slide", "minimum", "steep"] = "valley",
) -> _Array:
    """Returns a learning rate from a range test, by one of fastai's rules.

    The rules consider the steps up to the first NaN, without the first tenth of all and
    without the last five.

    - `"valley"`: the middle of the longest decreasing subsequence of the losses,
      counted in steps.
    - `"slide"`: from the right, 15 steps before the first step where the slope of the
      loss differs from the slope 15 steps before by at most 0.005.
    - `"minimum"`: a tenth of the rate with the smallest loss.
    - `"steep"`: the rate at which the loss falls fastest, per logarithm of the rate.

    Args:
      rates: the rate of each step, shape (steps,). Static.
      losses: smoothed losses, shape (..., steps), such as `RangeTest.smoothed`. Static.
      rule: one of the above.

    Returns:
      A NumPy array of shape (...): a rate for each run, NaN for one that stopped too
      early for the rule.

    Raises:
      ValueError: an unknown rule, or shapes that do not fit.

    Example:
      >>> import numpy as np, stabjax
      >>> rates = 10.0 ** np.linspace(-7, 1, 101)
      >>> losses = 1 + (np.log10(rates) + 1) ** 2
      >>> print(stabjax.suggest_rate(rates, losses, "minimum").round(4))
      0.01

    References:
      fastai, `Learner.lr_find`, https://docs.fast.ai/callback.schedule.html.
    """
    check_choice("rule", rule, [*_RULES])
    rates, losses = np.asarray(rates, float), np.asarray(losses, float)
    if rates.ndim != 1 or losses.shape[-1:] != rates.shape:
        raise ValueError(
            "losses must have as many steps as rates, got shapes "
            f"{losses.shape} and {rates.shape}."
        )
    trials = losses.reshape(-1, rates.size)
    found = [_suggestion(rates, trial, rule) for trial in trials]
    return np.reshape(found, losses.shape[:-1])


def _suggestion(rates: _Array, losses: _Array, rule: str) -> float:
    end = np.append(np.flatnonzero(np.isnan(losses)), losses.size)[0]
    kept = slice(losses.size // 10, max(end - 5, 0))
    rates, losses = rates[kept], losses[kept]
    needed = _SLIDE + 2 if rule == "slide" else 2
    return _RULES[rule](rates, losses) if losses.size >= needed else np.nan


def _valley(rates: _Array, losses: _Array) -> float:
    lengths = np.ones(losses.size, int)
    for i in range(1, losses.size):
        higher = losses[:i] > losses[i]
        lengths[i] = 1 + lengths[:i].max(initial=0, where=higher)
    last, length = int(lengths.argmax()), int(lengths.max())
    return float(rates[max(last - length + int(length / 3) + int(length / 6), 0)])


def _slide(rates: _Array, losses: _Array) -> float:
    slope = np.gradient(losses)
    right, left = -1, -1 - _SLIDE
    best = rates[left]
    while left >= -losses.size and abs(slope[right] - slope[left]) > _SLIDE_SLOPE:
        best = rates[left]
        right, left = right - 1, left - 1
    return float(best)


def _minimum(rates: _Array, losses: _Array) -> float:
    return float(rates[losses.argmin()] / 10)


def _steep(rates: _Array, losses: _Array) -> float:
    slope = np.diff(losses) / np.diff(np.log(rates))
    return float(rates[slope.argmin()])


_RULES = {"valley": _valley, "slide": _slide, "minimum": _minimum, "steep": _steep}
