"""The learning-rate range test."""

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
_DECAY = 0.98  # for smoothing the loss
_STOP = 4.0  # a run stops above this multiple of its smallest smoothed loss
_SLIDE, _SLIDE_SLOPE = 15, 0.005

_Array = np.ndarray[Any, Any]


class RangeTest(NamedTuple):
    """The result of `range_test`.

    Attributes:
      rates: the learning rate at each step.
      loss: the loss at each step before the update, +inf from the first non-finite loss
        onwards.
      smoothed: the smoothed loss, NaN after the run has stopped.
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
    """Runs a learning-rate range test.

    The learning rate grows from a value that is far too small to one that is too large.
    By default it is `1e-7 * 10**(8 * t / steps)` at step t. The losses l_t are smoothed
    by a bias-corrected exponential moving average:

        m_t = 0.98 m_{t-1} + 0.02 l_t
        smoothed_t = m_t / (1 - 0.98^(t + 1))

    A run stops once the smoothed loss exceeds four times its smallest value so far.
    All runs execute in a single program. The spread between runs with different keys
    shows how reliable a suggested rate is.

    Args:
      problem: the problem to train on, as in `train`.
      optimizer_from_schedule: a function that takes a learning-rate schedule and
        returns an optimizer, such as `optax.sgd`.
      keys: a single key, or an array with one key for each run.
      steps: number of updates, >= 1. **Static.**
      schedule: the learning-rate schedule. Defaults to the formula above. For Smith's
        original test, pass `linear_schedule(0.0, high, steps)`.

    Returns:
      A `RangeTest`. `rates` has shape (steps,). `loss` and `smoothed` have shape
      (steps,) for a single key and (runs, steps) for an array of keys.

    Raises:
      ValueError: If `steps` is not positive.

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
      https://arxiv.org/abs/1506.01186. The exponential growth, the smoothing and the
      stopping rule follow fastai's `lr_find`.
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
    """Replaces everything after the first loss above the bound with NaN."""
    over = smoothed > _STOP * lax.cummin(smoothed)
    earlier = jnp.cumsum(over, axis=0) - over.astype(jnp.int32)
    return jnp.where(earlier > 0, jnp.nan, smoothed)


def suggest_rate(
    rates: Number,
    losses: Number | Sequence[Number],
    rule: Literal["valley", "slide", "minimum", "steep"] = "valley",
) -> _Array:
    """Suggests a learning rate from a range test, using one of fastai's rules.

    The rules ignore the first tenth of all steps, the last five steps before a run
    stopped, and everything after that.

    - `"valley"`: the middle of the longest decreasing subsequence of the losses,
      counted in steps.
    - `"slide"`: scans from the right for the first step whose slope differs by at most
      0.005 from the slope 15 steps earlier, and returns the rate at the earlier step.
    - `"minimum"`: one tenth of the rate with the smallest loss.
    - `"steep"`: the rate at which the loss decreases fastest with the logarithm of the
      rate.

    Args:
      rates: learning rate at each step, of shape (steps,). **Static.**
      losses: smoothed losses of shape (..., steps), such as `RangeTest.smoothed`.
        **Static.**
      rule: name of the rule. Defaults to fastai's default, `"valley"`.

    Returns:
      A NumPy array of shape (...) with a rate for each run, or NaN if a run stopped too
      early for the rule.

    Raises:
      ValueError: If `rule` is unknown or the shapes of `rates` and `losses` differ.

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
