"""PyTorch's schedulers based on functions or other schedulers."""

import itertools
import math
from collections.abc import Callable, Sequence

import jax.numpy as jnp

from stabjax._arguments import is_concrete, select
from stabjax._branches import explained_branch
from stabjax._schedules.compose import join_schedules
from stabjax._schedules.counts import builder
from stabjax._schedules.decays import constant_schedule
from stabjax._schedules.wrappers import multiply_schedules
from stabjax._types import Number, Schedule
from stabjax.compat.torch.chains import (
    Role,
    in_chain,
    iterated,
    role_of,
    sets_rate,
    step_of,
)
from stabjax.compat.torch.decays import as_steps


@sets_rate
@builder
def lambda_lr(base_lr: Number, lr_lambda: Callable[[Number], Number]) -> Schedule:
    """Returns the schedule of PyTorch's `LambdaLR`.

        f(t) = L lambda(t)

    Args:
      base_lr: L, the learning rate of the optimizer. **Traceable.**
      lr_lambda: a traceable function of the count (with `jnp.where` instead of `if`).
        Values in its closure are **traceable**.

    Returns:
      A function of the count, with any shape that `lr_lambda` accepts, that returns the
      learning rate.

    Raises:
      TypeError: If `lr_lambda` is not a function or uses the count in a Python branch,
        or `base_lr` is not a number.

    Example:
      >>> import stabjax
      >>> schedule = stabjax.compat.torch.lambda_lr(0.8, lambda count: 1 / (1 + count))
      >>> [round(float(schedule(count)), 4) for count in (0, 1, 3)]
      [0.8, 0.4, 0.2]
    """
    factor = _explained("lr_lambda", lr_lambda)
    return multiply_schedules([constant_schedule(base_lr), factor])


@in_chain(lambda base_lr, lr_lambda: Role(lr_lambda=lr_lambda))
@builder
def multiplicative_lr(
    base_lr: Number, lr_lambda: Callable[[Number], Number]
) -> Schedule:
    """Returns the schedule of PyTorch's `MultiplicativeLR`.

        f(t) = L lambda(1) lambda(2) ... lambda(t)

    Each value at step t requires t calls to the function. If the product has a closed
    form, `lambda_lr` is faster.

    Args:
      base_lr: L, the learning rate of the optimizer. **Traceable.**
      lr_lambda: a traceable function of the count, a scalar >= 1. Values in its closure
        are **traceable**.

    Returns:
      A function of the count (a scalar or an array) that returns the learning rate.

    Raises:
      TypeError: If `lr_lambda` is not a function or uses the count in a Python branch,
        or `base_lr` is not a number.

    Example:
      >>> import stabjax
      >>> halve = lambda count: 0.5
      >>> schedule = stabjax.compat.torch.multiplicative_lr(0.8, halve)
      >>> [round(float(schedule(count)), 4) for count in (0, 1, 2, 3)]
      [0.8, 0.4, 0.2, 0.1]
    """
    factor = _explained("lr_lambda", lr_lambda)
    return iterated(lambda count, rate: rate * factor(count), base_lr)


@builder
def sequential_lr(
    base_lr: Number,
    schedulers: Sequence[Schedule],
    milestones: Sequence[Number] | Number,
) -> Schedule:
    """Returns the schedule of PyTorch's `SequentialLR`.

        f(t) = s_i(t - b_i)    for b_i <= t < b_{i+1},  b_0 = 0

    As in PyTorch, `multiplicative_lr` continues from the current learning rate and
    multiplies it by lambda(0) at its milestone.

    Args:
      base_lr: learning rate of the optimizer. It is only used by a `multiplicative_lr`
        with a milestone of 0. All other schedulers have their own. **Traceable.**
      schedulers: schedules from this module or elsewhere.
      milestones: b_i in steps, in ascending order, one fewer than schedulers. Their
        number is **static** and their values are **traceable**.

    Returns:
      A function of the count (a scalar or an array) that returns the learning rate.

    Raises:
      ValueError: If `schedulers` is empty, the number of milestones does not match, or
        concrete milestones are not in ascending order.
      TypeError: If a scheduler is not a function of the count (such as
        `reduce_lr_on_plateau`), or a milestone is not a number.

    Example:
      >>> from stabjax.compat.torch import cosine_annealing_lr, linear_lr, sequential_lr
      >>> warmup, decay = linear_lr(0.8, 0.25, 1.0, 3), cosine_annealing_lr(0.8, 10)
      >>> schedule = sequential_lr(0.8, [warmup, decay], milestones=[3])
      >>> [round(float(schedule(count)), 4) for count in (0, 1, 3, 8, 13)]
      [0.2, 0.4, 0.8, 0.4, 0.0]
    """
    members, starts = _members(schedulers), as_steps("milestones", milestones)
    if len(starts) != len(members) - 1:
        raise ValueError(
            "milestones must have one element fewer than schedulers, got "
            f"{len(starts)} milestones and {len(members)} schedulers."
        )
    if is_concrete(*starts) and any(a > b for a, b in itertools.pairwise(starts)):
        raise ValueError(f"milestones must be in ascending order, got {milestones!r}.")
    pieces = [members[0]]
    for start, member in zip(starts, members[1:], strict=True):
        lr_lambda = role_of(member).lr_lambda
        if lr_lambda is not None:
            before = join_schedules(pieces, starts[: len(pieces) - 1])
            found = before(jnp.maximum(start - 1, 0)) * lr_lambda(0)
            found = select(start == 0, base_lr, found)
            member = multiplicative_lr(found, lr_lambda)
        pieces.append(member)
    return join_schedules(pieces, starts)


@builder
def chained_scheduler(base_lr: Number, schedulers: Sequence[Schedule]) -> Schedule:
    """Returns the schedule of PyTorch's `ChainedScheduler`.

        f(t) = L (s_1(t) / L) (s_2(t) / L) ...

    This formula applies if all schedulers multiply the learning rate, as most do. The
    others behave as in PyTorch:

    - `lambda_lr`, `cosine_annealing_warm_restarts`, `cyclic_lr` and `one_cycle_lr` set
      the learning rate. Schedulers before them have no effect. Schedulers after them
      multiply by the ratio of a single step.
    - `cosine_annealing_lr` scales the distance to `eta_min`. Each value at step t then
      requires t steps, unless one of the above schedulers follows.

    Args:
      base_lr: L, the learning rate of the optimizer and of all schedulers.
        **Traceable.**
      schedulers: s_i, schedules from this module or elsewhere.

    Returns:
      A function of the count (a scalar or an array) that returns the learning rate.

    Raises:
      ValueError: If `schedulers` is empty.
      TypeError: If a scheduler is not a function of the count (such as
        `reduce_lr_on_plateau`).

    Example:
      >>> from stabjax.compat import torch
      >>> members = [torch.constant_lr(0.8, 0.25, 2), torch.exponential_lr(0.8, 0.5)]
      >>> schedule = torch.chained_scheduler(0.8, members)
      >>> [round(float(schedule(count)), 4) for count in (0, 1, 2, 3)]
      [0.2, 0.1, 0.2, 0.1]
    """
    members = _members(schedulers)
    whole = select(base_lr == 0, 1, base_lr)

    def factor(count: Number, factors: Sequence[Schedule]) -> Number:
        return math.prod(member(count) / whole for member in factors)

    setters = [i for i, member in enumerate(members) if role_of(member).sets_rate]
    if setters:
        setter, later = members[setters[-1]], members[setters[-1] + 1 :]
        step, first = step_of(later), factor(0, later)

        def schedule(count: Number) -> Number:
            rate, started = setter(count), count > 0
            return jnp.where(started, step(jnp.maximum(count, 1), rate), rate * first)

        return schedule
    if any(role_of(member).floor is not None for member in members):
        return iterated(step_of(members), base_lr * factor(0, members))
    return lambda count: base_lr * factor(count, members)


def _members(schedulers: Sequence[Schedule]) -> tuple[Schedule, ...]:
    members = tuple(schedulers)
    if not members:
        raise ValueError("schedulers must contain at least one scheduler, got none.")
    for member in members:
        _check_function("schedulers", member)
    return members


def _explained(
    name: str, function: Callable[[Number], Number]
) -> Callable[[Number], Number]:
    """Wraps a function of the count to explain Python branches on it."""
    _check_function(name, function)

    def value_at(count: Number) -> Number:
        with explained_branch(name):
            return function(count)

    return value_at


def _check_function(name: str, value: object) -> None:
    if not callable(value):
        raise TypeError(f"{name} must be a function of the count, got {value!r}.")
