"""The clipping method, schedule and optimizer of a study."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

import stabjax
from stabjax._arguments import lookup
from stabjax._catalogue import (
    CLIPPINGS,
    SCHEDULES,
    Clipping,
    MakeClipping,
    MakeOptimizer,
    MakeSchedule,
    Range,
    optimizer_named,
    unless_infinite,
)
from stabjax._types import Number
from stabjax.problems import Problem

_OTHER_RATES = (1e-5, 10.0)  # for optimizers other than the problem's own


class Methods(NamedTuple):
    """The clipping method, the schedule and the optimizer to study.

    Attributes:
      clipping: a name from `stabjax.study.CLIPPINGS`, or a function that takes a
        threshold and returns a gradient transformation.
      schedule: a name from `stabjax.study.SCHEDULES`, or a function that takes the peak
        learning rate and the number of steps and returns a schedule.
      optimizer: the name of an Optax optimizer, or a function that takes a learning
        rate and returns an optimizer. Defaults to the optimizer of the problem, which
        is usually SGD.
      threshold_range: a (low, high) range of thresholds. Defaults to the range of the
        problem, or to the range of the method if the threshold is not a gradient norm.
      rate_range: a (low, high) range of learning rates. Defaults to the range of the
        problem, or to (1e-5, 10) if the optimizer differs from that of the problem.

    Example:
      >>> import stabjax
      >>> methods = stabjax.study.Methods(clipping="zclip", optimizer="adam")
      >>> [plan] = stabjax.study.plans(["cliff"], methods=[methods])
      >>> plan.label
      'cliff, adam, zclip'
    """

    clipping: str | MakeClipping = "clip_by_global_norm"
    schedule: str | MakeSchedule = "warmup_cosine_decay_schedule"
    optimizer: str | MakeOptimizer | None = None
    threshold_range: Range | None = None
    rate_range: Range | None = None


class ResolvedMethods(NamedTuple):
    """The functions, names and ranges of the methods for one problem."""

    clipping: Clipping
    schedule: MakeSchedule
    optimizer: MakeOptimizer
    names: tuple[str, str, str]  # clipping, schedule, optimizer
    threshold_range: Range
    rate_range: Range


def resolve(methods: Methods, problem: Problem) -> ResolvedMethods:
    """Looks up the functions and ranges of the methods for a problem.

    Raises:
      ValueError: If a name is unknown.
    """
    own = problem.metadata.get("optimizer", optax.sgd)
    clipping, schedule, optimizer = methods[:2] + (methods.optimizer or own,)
    names = _name(clipping), _name(schedule), _name(optimizer)
    if isinstance(clipping, str):
        clip = lookup("clipping", clipping, CLIPPINGS)
    else:
        clip = Clipping(clipping, "threshold")
    if isinstance(schedule, str):
        named: MakeSchedule = lookup("schedule", schedule, SCHEDULES)
    else:
        named = schedule
    if isinstance(optimizer, str):
        optimizer = optimizer_named(optimizer)
    rates = problem.metadata["peak_value"] if optimizer is own else _OTHER_RATES
    return ResolvedMethods(
        clip,
        named,
        optimizer,
        names,
        methods.threshold_range or clip.range or problem.metadata["max_norm"],
        methods.rate_range or rates,
    )


def make_optimizer_from(
    methods: ResolvedMethods, steps: int
) -> Callable[..., optax.GradientTransformation]:
    """Returns a `make_optimizer` function whose arguments select the treatment.

    An infinite threshold disables clipping, and `scheduled=0` disables the schedule.
    The baseline and all treatments therefore share one program.
    """

    def make_optimizer(
        threshold: Number, scheduled: Number, peak_value: Number
    ) -> optax.GradientTransformation:
        schedule = methods.schedule(peak_value, steps)

        def rate(count: Number) -> jax.Array:
            return jnp.where(scheduled > 0, schedule(count), peak_value)

        clipping = unless_infinite(methods.clipping.make(threshold), threshold)
        optimizer = methods.optimizer(rate)
        if methods.clipping.after:
            recorded = stabjax.with_metrics(optax.identity(), name="clip")
            return optax.chain(recorded, optimizer, clipping)
        return optax.chain(stabjax.with_metrics(clipping, name="clip"), optimizer)

    return make_optimizer


def check_methods(methods: Methods) -> None:
    """Checks that the methods exist and can be combined.

    Raises:
      ValueError: If a name is unknown, a range is empty, or a step cannot be traced.
    """
    for field in ("threshold_range", "rate_range"):
        ends = getattr(methods, field)
        if ends is not None and not 0 < ends[0] < ends[1] < float("inf"):
            raise ValueError(f"{field} must be 0 < low < high, got {ends!r}.")
    metadata = {"peak_value": _OTHER_RATES, "max_norm": _OTHER_RATES}
    problem = Problem(
        lambda key: jnp.ones(2), lambda w, key: jnp.sum(w**2), metadata=metadata
    )
    resolved = resolve(methods, problem)
    make = make_optimizer_from(resolved, 10)
    try:
        jax.eval_shape(
            lambda *numbers: stabjax.train(
                problem, make(*numbers), jax.random.key(0), steps=10
            ),
            *[jnp.float32(1.0)] * 3,
        )
    except Exception as error:  # the type depends on the optimizer
        clipping, schedule, optimizer = resolved.names
        raise ValueError(
            f"{optimizer} cannot be combined with {clipping} and {schedule}: {error}"
        ) from error


def _name(method: object) -> str:
    if isinstance(method, str):
        return method
    name: str = getattr(method, "__name__", "")  # "<lambda>" for a lambda
    return name if name.isidentifier() else "custom"
