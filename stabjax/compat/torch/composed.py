"""PyTorch's schedulers of functions, and of other schedulers."""

import math
from collections.abc import Callable, Sequence

import jax.numpy as jnp
import optax

from stabjax._schedules.arguments import ArrayLike, builder, standard_promotion
from stabjax._schedules.compose import join_schedules
from stabjax._schedules.core import constant_schedule
from stabjax._schedules.wrappers import multiply_schedules
from stabjax.compat.torch.chains import (
    Step,
    chain_step,
    chained_by,
    is_marked,
    iterated,
    sets_rate,
)


@builder
def lambda_lr(base_lr: ArrayLike, lr_lambda: optax.Schedule) -> optax.Schedule:
    r"""The rate times any function of the count: :math:`f(t) = L\,\lambda(t)`.

    Args:
      base_lr: :math:`L`, the learning rate of the optimizer. Traceable.
      lr_lambda: :math:`\lambda`, a function of the count that JAX can trace: with
        `jnp.where` where PyTorch's has `if`. What it closes over is traceable.

    Returns:
      A function of the count, of any shape that `lr_lambda` takes, that returns the
      rate.

    Raises:
      TypeError: `lr_lambda` is no function.

    Example:
      >>> import stabjax
      >>> schedule = stabjax.compat.torch.lambda_lr(0.8, lambda count: 1 / (1 + count))
      >>> [round(float(schedule(count)), 4) for count in (0, 1, 3)]
      [0.8, 0.4, 0.2]

    Source: PyTorch's `LambdaLR`.
    """
    _check_function(lr_lambda)
    product = multiply_schedules([constant_schedule(base_lr), lr_lambda])
    return chained_by(None, product)


@builder
def multiplicative_lr(base_lr: ArrayLike, lr_lambda: optax.Schedule) -> optax.Schedule:
    r"""The rate, multiplied at every step by any function of the count.

    .. math:: f(t) = L \prod_{e=1}^{t} \lambda(e)

    The value at t costs t calls of the function, at every update: for long trainings
    write the product as a formula, with :func:`lambda_lr`.

    Args:
      base_lr: :math:`L`, the learning rate of the optimizer. Traceable.
      lr_lambda: :math:`\lambda`, a function of the count (a scalar) that JAX can trace;
        it is never called with 0. What it closes over is traceable.

    Returns:
      A function of the count, of any shape, that returns the rate.

    Raises:
      TypeError: `lr_lambda` is no function.

    Example:
      >>> import stabjax
      >>> halve = lambda count: 0.5
      >>> schedule = stabjax.compat.torch.multiplicative_lr(0.8, halve)
      >>> [round(float(schedule(count)), 4) for count in (0, 1, 2, 3)]
      [0.8, 0.4, 0.2, 0.1]

    Source: PyTorch's `MultiplicativeLR`.
    """
    _check_function(lr_lambda)

    def step(count: ArrayLike, rate: ArrayLike) -> ArrayLike:
        return rate * lr_lambda(count)

    schedule = chained_by(step, iterated(step, base_lr))
    vars(schedule)["lr_lambda"] = standard_promotion(lr_lambda)
    return schedule


def sequential_lr(
    base_lr: ArrayLike,
    schedulers: Sequence[optax.Schedule],
    milestones: Sequence[ArrayLike] | ArrayLike,
) -> optax.Schedule:
    r"""One scheduler after another, each with a count of its own.

    .. math:: f(t) = s_i(t - b_i) \quad \text{for } b_i \le t < b_{i+1}, \quad b_0 = 0

    But a :func:`multiplicative_lr` goes on from the rate that it finds, as in PyTorch,
    and multiplies it by its :math:`\lambda(0)` at its milestone.

    Args:
      base_lr: the learning rate of the optimizer. Each scheduler has its own, and only
        a :func:`multiplicative_lr` whose milestone is 0 asks for it. Traceable.
      schedulers: schedules of this module or any others.
      milestones: :math:`b_i` in steps, in ascending order, one fewer than schedulers: a
        sequence or an array. How many is static, the steps are traceable.

    Returns:
      A function of the count, of any shape, that returns the rate.

    Raises:
      ValueError: there is no scheduler, or the number of milestones does not fit.
      TypeError: a scheduler is no function of the count (:func:`reduce_lr_on_plateau`
        is none).

    Example:
      >>> from stabjax.compat.torch import cosine_annealing_lr, linear_lr, sequential_lr
      >>> warmup, decay = linear_lr(0.8, 0.25, 1.0, 3), cosine_annealing_lr(0.8, 10)
      >>> schedule = sequential_lr(0.8, [warmup, decay], milestones=[3])
      >>> [round(float(schedule(count)), 4) for count in (0, 1, 3, 8, 13)]
      [0.2, 0.4, 0.8, 0.4, 0.0]

    Source: PyTorch's `SequentialLR`.
    """
    members, starts = _members(schedulers), tuple(milestones)
    if len(starts) != len(members) - 1:
        raise ValueError(
            "milestones must be one fewer than schedulers, got "
            f"{len(starts)} milestones and {len(members)} schedulers."
        )
    pieces = [members[0]]
    for start, member in zip(starts, members[1:], strict=True):
        if hasattr(member, "lr_lambda"):
            earlier = join_schedules(pieces, starts)
            found = _found_rate(base_lr, earlier, start, member.lr_lambda)
            member = multiplicative_lr(found, member.lr_lambda)
        pieces.append(member)
    return join_schedules(pieces, starts)


def _found_rate(
    base_lr: ArrayLike,
    earlier: optax.Schedule,
    start: ArrayLike,
    lr_lambda: Callable[[ArrayLike], ArrayLike],
) -> ArrayLike:
    """The rate with which a multiplicative scheduler begins."""
    found = _product(earlier(jnp.maximum(start - 1, 0.0)), lr_lambda(0))
    return standard_promotion(jnp.where)(start == 0, base_lr, found)


def chained_scheduler(
    base_lr: ArrayLike, schedulers: Sequence[optax.Schedule]
) -> optax.Schedule:
    r"""All schedulers at once, each changing the rate that the one before it left.

    .. math:: f(t) = L \prod_i s_i(t) / L

    as long as all of them multiply the rate: the schedulers of steps, of milestones,
    constant, linear, exponential and polynomial ones do, and any schedule that is not
    of this module. The others do in a chain what PyTorch's do:

    - :func:`lambda_lr`, :func:`cosine_annealing_warm_restarts`, :func:`cyclic_lr` and
      :func:`one_cycle_lr` set the rate, whatever it was. So what stands before them is
      lost, and what stands after them changes it by one step's ratio only.
    - :func:`cosine_annealing_lr` scales the distance to `eta_min`, and
      :func:`multiplicative_lr` multiplies. With one of these, and none of those above
      behind it, the value at t takes t steps to find, at every update.

    Args:
      base_lr: :math:`L`, the learning rate of the optimizer, which is that of all the
        schedulers. Traceable.
      schedulers: :math:`s_i`, schedules of this module or any others.

    Returns:
      A function of the count, of any shape, that returns the rate.

    Raises:
      ValueError: there is no scheduler.
      TypeError: a scheduler is no function of the count (:func:`reduce_lr_on_plateau`
        is none).

    Example:
      >>> from stabjax.compat import torch
      >>> members = [torch.constant_lr(0.8, 0.25, 2), torch.exponential_lr(0.8, 0.5)]
      >>> schedule = torch.chained_scheduler(0.8, members)
      >>> [round(float(schedule(count)), 4) for count in (0, 1, 2, 3)]
      [0.2, 0.1, 0.2, 0.1]

    Source: PyTorch's `ChainedScheduler`.
    """
    members = _members(schedulers)
    setters = [index for index, member in enumerate(members) if sets_rate(member)]
    if setters:
        return _from(base_lr, members[setters[-1] :])
    if any(map(is_marked, members)):
        start = _product(base_lr, _factor(base_lr, members)(0))
        return iterated(_in_turn(members), start)
    factor = _factor(base_lr, members)
    return lambda count: _product(base_lr, factor(count))


def _factor(base_lr: ArrayLike, members: Sequence[optax.Schedule]) -> optax.Schedule:
    """The product of what members that multiply make of the rate."""

    @standard_promotion
    def product(values: Sequence[ArrayLike]) -> ArrayLike:
        whole = jnp.where(jnp.equal(base_lr, 0), 1, base_lr)
        return math.prod(value / whole for value in values)

    return lambda count: product([member(count) for member in members])


def _from(base_lr: ArrayLike, members: Sequence[optax.Schedule]) -> optax.Schedule:
    """The first member sets the rate, and the others take one step from there."""
    first, *rest = members
    if not rest:
        return first
    step = _in_turn(rest)
    where = standard_promotion(jnp.where)
    factor = _factor(base_lr, rest)(0)

    def schedule(count: ArrayLike) -> ArrayLike:
        rate, begun = first(count), jnp.greater(count, 0)
        later = step(where(begun, count, 1), rate)
        return where(begun, later, _product(rate, factor))

    return schedule


def _in_turn(members: Sequence[optax.Schedule]) -> Step:
    """One step of each member after the other."""
    steps = [chain_step(member) for member in members]

    def in_turn(count: ArrayLike, rate: ArrayLike) -> ArrayLike:
        for step in steps:
            rate = step(count, rate)
        return rate

    return in_turn


@standard_promotion
def _product(x: ArrayLike, y: ArrayLike) -> ArrayLike:
    return x * y


def _members(schedulers: Sequence[optax.Schedule]) -> tuple[optax.Schedule, ...]:
    members = tuple(schedulers)
    if not members:
        raise ValueError("schedulers must hold at least one scheduler, got none.")
    for member in members:
        if not callable(member):
            raise TypeError(
                "schedulers must be functions of the count, got a "
                f"{type(member).__name__}."
            )
    return members


def _check_function(lr_lambda: optax.Schedule) -> None:
    if not callable(lr_lambda):
        raise TypeError(
            "lr_lambda must be a function of the count, got "
            f"{type(lr_lambda).__name__}."
        )
