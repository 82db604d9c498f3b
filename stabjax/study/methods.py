"""What stands for the remedies: a clipping and a schedule, and their optimizer."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import stabjax
from stabjax._recipes import optax_optimizer, unknown
from stabjax.problems import Problem

WARMUP_SHARE = 0.1  # of the steps, where a schedule warms up
_COOLDOWN_SHARE = 0.2  # of the steps, where one falls at the end alone
_OTHER_RATES = (1e-5, 10.0)  # of an optimizer that is not the problem's usual one

Range = tuple[float, float]
MakeClipping = Callable[[Any], optax.GradientTransformation]
MakeSchedule = Callable[[Any, int], optax.Schedule]
MakeOptimizer = Callable[..., optax.GradientTransformation]


class Methods(NamedTuple):
    """What a study switches on and off, and what it is put before.

    Attributes:
      clipping: the name of one of our transformations that clip (`CLIPPINGS`), or a
        function of a threshold that makes one.
      schedule: the name of one of our schedules (`SCHEDULES`), or a function of the
        peak rate and the number of steps that makes one.
      optimizer: the name of one of Optax's, or a function of the learning rate that
        makes one; None for the usual one of each problem, which is SGD as a rule.
      threshold_range: (low, high) of the thresholds. None for what suits: the problem's
        where the threshold is one for gradients, else the method's.
      rate_range: (low, high) of the learning rates. None for the problem's, or, where
        another optimizer than the problem's usual one is chosen, from 1e-5 to 10.

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


class Clipping(NamedTuple):
    """How a clipping is made of one number, and what that number is."""

    make: MakeClipping
    number: str
    range: Range | None = None  # from strict to lax; None: it is a size of gradients
    after: bool = False  # bounds what the optimizer gives, not what it gets


_WINDOW = 32  # norms that are remembered, as the trainings are short
# Each with its defaults but for one number, and that window.
CLIPPINGS: Mapping[str, Clipping] = MappingProxyType(
    {
        "adagc": Clipping(stabjax.adagc, "relative_clip", (1.0, 10.0)),
        "adaptive_grad_clip": Clipping(
            stabjax.adaptive_grad_clip, "clipping", (1e-3, 10.0)
        ),
        "adopt_clip": Clipping(stabjax.adopt_clip, "exponent", (0.1, 1.0)),
        "clip": Clipping(stabjax.clip, "max_delta"),
        "clip_by_block_norm": Clipping(stabjax.clip_by_block_norm, "max_norm"),
        "clip_by_block_rms": Clipping(stabjax.clip_by_block_rms, "threshold"),
        "clip_by_global_norm": Clipping(stabjax.clip_by_global_norm, "max_norm"),
        "clip_by_norm_ratio": Clipping(
            stabjax.clip_by_norm_ratio, "max_norm_ratio", (1.0, 10.0)
        ),
        "clip_by_percentile": Clipping(
            lambda percentile: stabjax.clip_by_percentile(percentile, window=_WINDOW),
            "percentile",
            (1.0, 100.0),
        ),
        "clip_by_relative_update": Clipping(
            stabjax.clip_by_relative_update, "relative", (0.01, 10.0), after=True
        ),
        "clip_by_second_moment": Clipping(
            stabjax.clip_by_second_moment, "threshold", (1.0, 1e4)
        ),
        "clip_by_tracked_max": Clipping(
            stabjax.clip_by_tracked_max, "decay", (0.5, 0.999)
        ),
        "clip_update_norm": Clipping(
            lambda sigma: stabjax.clip_update_norm(sigma, window=_WINDOW),
            "sigma",
            (0.3, 30.0),
            after=True,
        ),
        "limit_norm_growth": Clipping(
            stabjax.limit_norm_growth, "max_growth", (1.001, 10.0)
        ),
        "normalize_by_tracked_norm": Clipping(
            stabjax.normalize_by_tracked_norm, "b1", (0.1, 0.99)
        ),
        "normalize_by_update_norm": Clipping(
            stabjax.normalize_by_update_norm, "scale_factor"
        ),
        "smooth_clip_by_global_norm": Clipping(
            stabjax.smooth_clip_by_global_norm, "max_norm"
        ),
        "zclip": Clipping(
            lambda z_threshold: stabjax.zclip(z_threshold=z_threshold),
            "z_threshold",
            (0.3, 30.0),
        ),
    }
)


def _warmup(steps: int) -> int:
    """How long a schedule warms up."""
    return round(WARMUP_SHARE * steps)


def _rest(steps: int) -> int:
    return steps - _warmup(steps)


def _cooldown(steps: int) -> int:
    return round(_COOLDOWN_SHARE * steps)


# Functions of the peak p and the number of steps n.
SCHEDULES: Mapping[str, MakeSchedule] = MappingProxyType(
    {
        "cosine_decay_schedule": stabjax.cosine_decay_schedule,
        "cosine_onecycle_schedule": lambda p, n: stabjax.cosine_onecycle_schedule(n, p),
        "cosine_restarts_schedule": lambda p, n: stabjax.cosine_restarts_schedule(
            p, -(-n // 4)
        ),
        "cyclic_schedule": lambda p, n: stabjax.cyclic_schedule(
            0.1 * p, p, -(-n // 8), -(-n // 8)
        ),
        "exponential_decay": lambda p, n: stabjax.exponential_decay(p, n, 0.01),
        "exponential_warmup_schedule": lambda p, n: stabjax.exponential_warmup_schedule(
            p, _warmup(n)
        ),
        "infinite_schedule": lambda p, n: stabjax.infinite_schedule(
            p, 0.5 * p, _warmup(n), _rest(n)
        ),
        "inverse_sqrt_schedule": lambda p, n: stabjax.inverse_sqrt_schedule(
            p, _warmup(n)
        ),
        "linear_onecycle_schedule": lambda p, n: stabjax.linear_onecycle_schedule(n, p),
        "linear_schedule": lambda p, n: stabjax.linear_schedule(p, 0.0, n),
        "polynomial_schedule": lambda p, n: stabjax.polynomial_schedule(p, 0.0, 2, n),
        "rex_schedule": stabjax.rex_schedule,
        "warmup_constant_schedule": lambda p, n: stabjax.warmup_constant_schedule(
            0.0, p, _warmup(n)
        ),
        "warmup_cosine_decay_schedule": lambda p, n: (
            stabjax.warmup_cosine_decay_schedule(0.0, p, _warmup(n), n)
        ),
        "warmup_exponential_decay_schedule": lambda p, n: (
            stabjax.warmup_exponential_decay_schedule(
                0.0, p, _warmup(n), _rest(n), 0.01
            )
        ),
        "wsd_schedule": lambda p, n: stabjax.wsd_schedule(
            p, _warmup(n), _rest(n) - _cooldown(n), _cooldown(n)
        ),
    }
)


class Chosen(NamedTuple):
    """The methods for one problem: functions, their names, and ranges of numbers."""

    clipping: Clipping
    schedule: MakeSchedule
    optimizer: MakeOptimizer
    names: tuple[str, ...]  # of the three
    threshold_range: Range
    rate_range: Range


def chosen(methods: Methods, problem: Problem) -> Chosen:
    """What the methods are on a problem.

    Raises:
      ValueError: if a name is unknown.
    """
    usual = problem.metadata.get("optimizer", optax.sgd)
    given = (methods.clipping, methods.schedule, methods.optimizer or usual)
    clipping, schedule, optimizer = given
    if isinstance(clipping, str):
        clip = _known("clipping", clipping, CLIPPINGS)
    else:
        clip = Clipping(clipping, "threshold")
    if isinstance(schedule, str):
        schedule = _known("schedule", schedule, SCHEDULES)
    if isinstance(optimizer, str):
        optimizer = optax_optimizer(optimizer)
    rates = problem.metadata["peak_value"] if optimizer is usual else _OTHER_RATES
    return Chosen(
        clip,
        schedule,
        optimizer,
        tuple(map(_name, given)),
        methods.threshold_range or clip.range or problem.metadata["max_norm"],
        methods.rate_range or rates,
    )


def optimizer_of(
    chosen: Chosen, steps: int
) -> Callable[..., optax.GradientTransformation]:
    """An optimizer whose remedies are numbers: no clipping at inf, no schedule at 0."""

    def make_optimizer(
        threshold: jax.Array, scheduled: jax.Array, peak_value: jax.Array
    ) -> optax.GradientTransformation:
        schedule = chosen.schedule(peak_value, steps)

        def rate(count: Any) -> jax.Array:
            return jnp.where(scheduled > 0, schedule(count), peak_value)

        clipping = _unless_infinite(chosen.clipping.make(threshold), threshold)
        if chosen.clipping.after:
            watched = stabjax.with_metrics(optax.identity(), name="clip")
            return optax.chain(watched, chosen.optimizer(rate), clipping)
        watched = stabjax.with_metrics(clipping, name="clip")
        return optax.chain(watched, chosen.optimizer(rate))

    return make_optimizer


def check(methods: Methods) -> None:
    """Finds out whether the parts are known and fit together.

    Raises:
      ValueError: that says what is wrong.
    """
    for field in ("threshold_range", "rate_range"):
        ends = getattr(methods, field)
        if ends is not None and not 0 < ends[0] < ends[1] < float("inf"):
            raise ValueError(f"{field} must be 0 < low < high, got {ends}")
    metadata = {"peak_value": _OTHER_RATES, "max_norm": _OTHER_RATES}
    problem = Problem(
        lambda key: jnp.ones(2), lambda w, key: jnp.sum(w**2), metadata=metadata
    )
    found = chosen(methods, problem)
    make = optimizer_of(found, 10)
    try:
        jax.eval_shape(
            lambda *numbers: stabjax.train(
                problem, make(*numbers), jax.random.key(0), steps=10
            ),
            *[jnp.float32(1.0)] * 3,
        )
    except Exception as error:  # whatever an optimizer says of what it lacks
        clipping, schedule, optimizer = found.names
        raise ValueError(
            f"{optimizer} cannot be trained behind {clipping} at the rates of "
            f"{schedule}: {error}"
        ) from error


def _unless_infinite(
    clipping: optax.GradientTransformation, threshold: jax.Array
) -> optax.GradientTransformation:
    """The transformation, or nothing at an infinite threshold: one program for both."""

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        clipped, state = clipping.update(updates, state, params)
        on = threshold < jnp.inf
        kept = jax.tree.map(lambda c, u: jnp.where(on, c, u), clipped, updates)
        return kept, state

    return optax.GradientTransformation(clipping.init, update)


def _known(what: str, name: str, table: Mapping[str, Any]) -> Any:
    if name not in table:
        raise unknown(what, name, table)
    return table[name]


def _name(method: Any) -> str:
    if isinstance(method, str):
        return method
    name: str = getattr(method, "__name__", "")  # that of a lambda is no name
    return name if name.isidentifier() else "custom"
