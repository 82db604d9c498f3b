"""An optimizer that publishes its learning rate."""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from stabjax._arguments import as_number, is_schedule
from stabjax._norms import norm_dtype
from stabjax._types import Number, Schedule


class LearningRateState(NamedTuple):
    """State of `with_learning_rate`; its names are those of `inject_hyperparams`.

    Attributes:
      count: int32: number of updates.
      hyperparams: the learning rate of the last update.
      inner_state: the state of the wrapped transformation.
    """

    count: jax.Array  # type: ignore[assignment]  # tuples have a method `count`
    hyperparams: dict[str, jax.Array]
    inner_state: optax.OptState


def with_learning_rate(
    optimizer: Callable[..., optax.GradientTransformation],
    learning_rate: Number | Schedule,
    **kwargs: object,
) -> optax.GradientTransformationExtraArgs:
    """Makes an optimizer whose learning rate is a metric.

    The updates are those of `optimizer(learning_rate=learning_rate, **kwargs)`, and
    `stabjax.metrics` shows the rate that the last one used as `learning_rate`. All
    other arguments reach the optimizer as they are, in their own precision:
    `optax.inject_hyperparams(optax.adamw)` casts every one of them to the dtype of the
    parameters, in which `b2=0.999` is 1.0 for bfloat16 and the loss becomes NaN.

    A parameter `learning_rate` that is annotated as a schedule, as in most of Optax,
    receives a schedule; another receives a number, such as that of a function of your
    own.

    Args:
      optimizer: a function with a parameter `learning_rate` that returns an Optax
        transformation: `optax.adamw`, or your own.
      learning_rate: a number or a schedule of it, given the number of updates so far.
        A number can be changed in the state: `state.hyperparams["learning_rate"]`.
        **Traceable.**
      **kwargs: the other arguments of `optimizer`.

    Returns:
      A transformation with a `LearningRateState`. The rate is float32, or float64 if a
      parameter is.

    Raises:
      TypeError: `optimizer` has no parameter `learning_rate`, or `learning_rate` is
        neither a number nor a schedule.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import stabjax
      >>> rate = stabjax.linear_schedule(0.1, 0.0, 10)
      >>> tx = stabjax.with_learning_rate(optax.adamw, rate, weight_decay=1e-4)
      >>> params = jnp.ones(2, jnp.bfloat16)
      >>> state = tx.init(params)
      >>> for _ in range(3):
      ...     updates, state = tx.update(params, state, params)
      ...     print(round(float(stabjax.metrics(state)["learning_rate"]), 4))
      0.1
      0.09
      0.08
    """
    parameter = _learning_rate_parameter(optimizer)
    if not is_schedule(learning_rate):
        as_number("learning_rate", learning_rate)
    takes_schedule = any(
        word in str(parameter.annotation) for word in ("Schedule", "Callable")
    )

    def made(rate: jax.Array) -> optax.GradientTransformationExtraArgs:
        given = (lambda count: rate) if takes_schedule else rate
        return optax.with_extra_args_support(optimizer(learning_rate=given, **kwargs))

    def rate_at(count: jax.Array, known: Any, dtype: Any) -> jax.Array:
        rate = learning_rate(count) if is_schedule(learning_rate) else known
        # A copy, so that a donated state does not take the caller's array with it.
        return jnp.array(rate, dtype)

    def init_fn(params: optax.Params) -> LearningRateState:
        count = jnp.zeros((), jnp.int32)
        rate = rate_at(count, learning_rate, norm_dtype(params))
        inner_state = made(rate).init(params)
        return LearningRateState(count, {"learning_rate": rate}, inner_state)

    def update_fn(
        updates: optax.Updates,
        state: LearningRateState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, LearningRateState]:
        known = state.hyperparams["learning_rate"]
        rate = rate_at(state.count, known, known.dtype)
        updates, inner_state = made(rate).update(
            updates, state.inner_state, params, **extra_args
        )
        count = optax.safe_increment(state.count)
        return updates, LearningRateState(count, {"learning_rate": rate}, inner_state)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _learning_rate_parameter(optimizer: object) -> inspect.Parameter:
    parameters = inspect.signature(optimizer).parameters if callable(optimizer) else {}
    if "learning_rate" not in parameters:
        raise TypeError(
            "optimizer must be a function with a parameter 'learning_rate', such as "
            f"optax.adamw, got {optimizer!r}."
        )
    return parameters["learning_rate"]
