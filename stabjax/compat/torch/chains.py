"""What one step of a scheduler does to the rate that it finds, in a chain of them."""

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
import optax
from jax import lax

from stabjax._schedules.arguments import ArrayLike, standard_promotion

# From a count and the rate before it to the rate.
Step: TypeAlias = Callable[[ArrayLike, ArrayLike], ArrayLike]


def chained_by(step: Step | None, schedule: optax.Schedule) -> optax.Schedule:
    """The schedule, marked with its step in a chain; None sets the rate to its value.

    A schedule without a mark multiplies the rate by the ratio of its own two values.
    """
    vars(schedule)["chain_step"] = step and standard_promotion(step)
    return schedule


def chain_step(schedule: optax.Schedule) -> Step:
    """What a schedule does in a chain."""

    @standard_promotion
    def by_ratio(count: ArrayLike, rate: ArrayLike) -> ArrayLike:
        before = jnp.asarray(schedule(count - 1))
        # From 0 nothing leads back: it was multiplied by 0.
        ratio = schedule(count) / jnp.where(before == 0, 1, before)
        return rate * jnp.where(before == 0, 1, ratio)

    if sets_rate(schedule):
        return lambda count, rate: schedule(count)
    step: Step = getattr(schedule, "chain_step", by_ratio)
    return step


def is_marked(schedule: optax.Schedule) -> bool:
    """Whether a schedule does something else in a chain than to multiply."""
    return hasattr(schedule, "chain_step")


def sets_rate(schedule: optax.Schedule) -> bool:
    """Whether the rate that a schedule finds in a chain does not matter."""
    return is_marked(schedule) and vars(schedule)["chain_step"] is None


class _Loop:
    """x_0 = start, x_t = step(t, x_{t-1}), found by t steps and traced once.

    A loop of unknown length has no derivative in reverse; but it can carry along the
    derivatives by everything that `step` closes over.
    """

    def __init__(self, step: Step, start: ArrayLike) -> None:
        self.step = step
        self.start = jnp.asarray(start, jnp.result_type(start, float))
        closed, self.consts = jax.closure_convert(
            self._typed_step, jnp.asarray(1), self.start
        )
        self.compiled = jax.jit(_differentiable_loop(closed))

    def __reduce__(self) -> tuple[type["_Loop"], tuple[Step, ArrayLike]]:
        # What is traced holds tracebacks, which no pickle does.
        return _Loop, (self.step, self.start)

    def __call__(self, count: ArrayLike) -> ArrayLike:
        counts = jnp.asarray(count).astype(int)
        value = jnp.vectorize(
            lambda count: self.compiled(count, self.start, self.consts)
        )
        return value(counts)

    def _typed_step(self, count: jax.Array, rate: jax.Array) -> jax.Array:
        return jnp.asarray(self.step(count, rate), rate.dtype)


def iterated(step: Step, start: ArrayLike) -> optax.Schedule:
    """The values x_0 = start, x_t = step(t, x_{t-1}), found by t steps."""
    loop = _Loop(step, start)
    return lambda count: loop(count)  # a function: decorators copy its attributes


def _differentiable_loop(step):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    @jax.custom_jvp
    def value(count, start, consts):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
        return lax.fori_loop(1, count + 1, lambda t, x: step(t, x, *consts), start)

    @value.defjvp
    def value_and_slope(primals, tangents):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
        count, *inputs = primals

        def body(t, carry):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
            x, (by_start, by_consts) = carry
            x, pull = jax.vjp(lambda x, consts: step(t, x, *consts), x, inputs[1])
            slope, slopes = pull(jnp.ones_like(x))
            by_consts = jax.tree.map(lambda a, b: slope * a + b, by_consts, slopes)
            return x, (slope * by_start, by_consts)

        none = jax.tree.map(jnp.zeros_like, inputs[1])
        x, slopes = lax.fori_loop(
            1, count + 1, body, (inputs[0], (jnp.ones_like(inputs[0]), none))
        )
        products = jax.tree.map(jnp.vdot, slopes, tuple(tangents[1:]))
        return x, sum(jax.tree.leaves(products))

    return value
