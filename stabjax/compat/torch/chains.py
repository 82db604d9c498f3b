"""Effects of schedulers on the current learning rate in a chain."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, ParamSpec, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

from stabjax._schedules.counts import standard_promotion
from stabjax._types import Number, Schedule

P = ParamSpec("P")
# (count, current learning rate) -> new learning rate
Step: TypeAlias = Callable[[Number, Number], Number]


class Role(NamedTuple):
    """A schedule's effect in a chain, unless it multiplies by its own ratio."""

    sets_rate: bool = False  # ignores the current learning rate
    floor: Number | None = None  # scales the distance to this value
    lr_lambda: Schedule | None = None  # multiplies by this function of the count


def in_chain(
    role: Callable[P, Role],
) -> Callable[[Callable[P, Schedule]], Callable[P, Schedule]]:
    """Decorator that attaches a role, computed from the arguments of the builder."""

    def decorate(build: Callable[P, Schedule]) -> Callable[P, Schedule]:
        @functools.wraps(build)
        def with_role(*args: P.args, **kwargs: P.kwargs) -> Schedule:
            schedule = build(*args, **kwargs)
            vars(schedule)["role"] = role(*args, **kwargs)
            return schedule

        return with_role

    return decorate


def sets_rate(build: Callable[P, Schedule]) -> Callable[P, Schedule]:
    """Decorator for schedules that ignore the current learning rate."""
    return in_chain(lambda *args, **kwargs: Role(sets_rate=True))(build)


def role_of(schedule: Schedule) -> Role:
    """Returns the role of a schedule. By default, schedules multiply."""
    return getattr(schedule, "role", Role())


def step_of(members: Sequence[Schedule]) -> Step:
    """Returns one step of a chain, which applies all members in sequence."""

    @standard_promotion
    def step(count: Number, rate: Number) -> Number:
        for member in members:
            rate = _step(member, count, rate)
        return rate

    return step


def _step(member: Schedule, count: Number, rate: Number) -> Number:
    role = role_of(member)
    if role.sets_rate:
        return member(count)
    if role.lr_lambda is not None:
        return rate * role.lr_lambda(count)
    floor = 0.0 if role.floor is None else role.floor
    before, distance = member(count - 1) - floor, member(count) - floor
    # At the floor, no factor has an effect; PyTorch adds the distance instead.
    at_floor = before == 0
    factor = distance / jnp.where(at_floor, 1, before)
    return jnp.where(at_floor, rate + distance, floor + (rate - floor) * factor)


def iterated(step: Step, start: Number) -> Schedule:
    """Returns the schedule x_0 = start, x_t = step(t, x_{t-1}), computed in t steps."""
    loop = _Loop(step, start)
    return lambda count: loop(count)


class _Loop:
    """A loop of dynamic length that supports forward- and reverse-mode derivatives.

    JAX does not support reverse-mode differentiation of such loops, so the loop also
    carries the derivatives with respect to all values in the closure of `step`.
    """

    def __init__(self, step: Step, start: Number) -> None:
        self.step = step
        self.start = jnp.asarray(start, jnp.result_type(start, float))
        closed, self.consts = jax.closure_convert(
            self._typed_step, jnp.asarray(1), self.start
        )
        self.compiled = jax.jit(_differentiable(closed))

    def __reduce__(self) -> tuple[type["_Loop"], tuple[Step, Number]]:
        # Functions returned by jax.jit and closure_convert cannot be pickled.
        return _Loop, (self.step, self.start)

    def __call__(self, count: Number) -> Number:
        value = jnp.vectorize(lambda c: self.compiled(c, self.start, self.consts))
        values: jax.Array = value(jnp.asarray(count).astype(int))
        return values

    def _typed_step(self, count: jax.Array, rate: jax.Array) -> jax.Array:
        return jnp.asarray(self.step(count, rate), rate.dtype)


def _differentiable(step: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    @jax.custom_jvp
    def value(count: jax.Array, start: jax.Array, consts: Any) -> jax.Array:
        # Counts from 0 because the count may be the largest int32.
        end: jax.Array = lax.fori_loop(
            0, count, lambda t, x: step(t + 1, x, *consts), start
        )
        return end

    @value.defjvp
    def value_and_slope(primals: Any, tangents: Any) -> Any:
        count, *inputs = primals

        def body(t: jax.Array, carry: Any) -> Any:
            x, (by_start, by_consts) = carry
            x, pull = jax.vjp(lambda x, consts: step(t + 1, x, *consts), x, inputs[1])
            slope, slopes = pull(jnp.ones_like(x))
            by_consts = jax.tree.map(lambda a, b: slope * a + b, by_consts, slopes)
            return x, (slope * by_start, by_consts)

        zeros = jax.tree.map(jnp.zeros_like, inputs[1])
        first = inputs[0], (jnp.ones_like(inputs[0]), zeros)
        x, slopes = lax.fori_loop(0, count, body, first)
        products = jax.tree.map(jnp.vdot, slopes, tuple(tangents[1:]))
        return x, sum(jax.tree.leaves(products))

    return value
