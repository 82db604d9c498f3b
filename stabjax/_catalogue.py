"""Problems, clippings, schedules and optimizers by name, for command line and study."""

import functools
import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import optax

from stabjax import _clipping as clippings
from stabjax import _schedules as schedules
from stabjax import problems
from stabjax._types import Number, Schedule

WARMUP_FRACTION = 0.1  # of the steps, in schedules that warm up
_COOLDOWN_FRACTION = 0.2  # of the steps, in schedules that end with a cool-down
_WINDOW = 32  # norms in a history; the defaults exceed the length of a short run

Range = tuple[float, float]
MakeClipping = Callable[[Number], optax.GradientTransformation]
MakeSchedule = Callable[[Number, int], Schedule]
MakeOptimizer = Callable[..., optax.GradientTransformation]

# Members of `stabjax.problems` that are not problems.
_NOT_PROBLEMS = ("Problem", "supervised", "bracket_text", "copy_text", "markov_text")
PROBLEMS: Mapping[str, Callable[..., problems.Problem]] = MappingProxyType(
    {
        name: getattr(problems, name)
        for name in problems.__all__
        if name not in _NOT_PROBLEMS
    }
)


class Clipping(NamedTuple):
    """A transformation that clips, as a function of one number.

    Attributes:
      make: from that number to the transformation.
      number: the name of its argument.
      range: sensible values, from strict to lax; None where the number is a gradient
        norm, whose range depends on the problem.
      after: whether it clips the optimizer's update instead of the gradient.
    """

    make: MakeClipping
    number: str
    range: Range | None = None
    after: bool = False


CLIPPINGS: Mapping[str, Clipping] = MappingProxyType(
    {
        "adagc": Clipping(clippings.adagc, "relative_clip", (1.0, 10.0)),
        "adaptive_grad_clip": Clipping(
            clippings.adaptive_grad_clip, "clipping", (1e-3, 10.0)
        ),
        "adopt_clip": Clipping(clippings.adopt_clip, "exponent", (0.1, 1.0)),
        "clip": Clipping(clippings.clip, "max_delta"),
        "clip_by_block_norm": Clipping(clippings.clip_by_block_norm, "max_norm"),
        "clip_by_block_rms": Clipping(clippings.clip_by_block_rms, "threshold"),
        "clip_by_global_norm": Clipping(clippings.clip_by_global_norm, "max_norm"),
        "clip_by_norm_ratio": Clipping(
            clippings.clip_by_norm_ratio, "max_norm_ratio", (1.0, 10.0)
        ),
        "clip_by_percentile": Clipping(
            lambda percentile: clippings.clip_by_percentile(percentile, window=_WINDOW),
            "percentile",
            (1.0, 100.0),
        ),
        "clip_by_relative_update": Clipping(
            clippings.clip_by_relative_update, "relative", (0.01, 10.0), after=True
        ),
        "clip_by_second_moment": Clipping(
            clippings.clip_by_second_moment, "threshold", (1.0, 1e4)
        ),
        "clip_by_tracked_max": Clipping(
            clippings.clip_by_tracked_max, "decay", (0.5, 0.999)
        ),
        "clip_update_norm": Clipping(
            lambda z_threshold: clippings.clip_update_norm(z_threshold, window=_WINDOW),
            "z_threshold",
            (0.3, 30.0),
            after=True,
        ),
        "limit_norm_growth": Clipping(
            clippings.limit_norm_growth, "max_growth", (1.001, 10.0)
        ),
        "normalize_by_tracked_norm": Clipping(
            clippings.normalize_by_tracked_norm, "b1", (0.1, 0.99)
        ),
        "normalize_by_update_norm": Clipping(
            clippings.normalize_by_update_norm, "scale_factor"
        ),
        "smooth_clip_by_global_norm": Clipping(
            clippings.smooth_clip_by_global_norm, "max_norm"
        ),
        "zclip": Clipping(
            lambda z_threshold: clippings.zclip(z_threshold=z_threshold),
            "z_threshold",
            (0.3, 30.0),
        ),
    }
)


def _warmup(steps: int) -> int:
    return round(WARMUP_FRACTION * steps)


def _rest(steps: int) -> int:
    return steps - _warmup(steps)


def _cooldown(steps: int) -> int:
    return round(_COOLDOWN_FRACTION * steps)


# Functions of the peak p and the number of steps n.
SCHEDULES: Mapping[str, MakeSchedule] = MappingProxyType(
    {
        "cosine_decay_schedule": schedules.cosine_decay_schedule,
        "cosine_onecycle_schedule": lambda p, n: schedules.cosine_onecycle_schedule(
            n, p
        ),
        "cosine_restarts_schedule": lambda p, n: schedules.cosine_restarts_schedule(
            p, -(-n // 4)
        ),
        "cyclic_schedule": lambda p, n: schedules.cyclic_schedule(
            0.1 * p, p, -(-n // 8), -(-n // 8)
        ),
        "exponential_decay": lambda p, n: schedules.exponential_decay(p, n, 0.01),
        "exponential_warmup_schedule": (
            lambda p, n: schedules.exponential_warmup_schedule(p, _warmup(n))
        ),
        "infinite_schedule": lambda p, n: schedules.infinite_schedule(
            p, 0.5 * p, _warmup(n), _rest(n)
        ),
        "inverse_sqrt_schedule": lambda p, n: schedules.inverse_sqrt_schedule(
            p, _warmup(n)
        ),
        "linear_onecycle_schedule": lambda p, n: schedules.linear_onecycle_schedule(
            n, p
        ),
        "linear_schedule": lambda p, n: schedules.linear_schedule(p, 0.0, n),
        "polynomial_schedule": lambda p, n: schedules.polynomial_schedule(p, 0.0, 2, n),
        "rex_schedule": schedules.rex_schedule,
        "warmup_constant_schedule": lambda p, n: schedules.warmup_constant_schedule(
            0.0, p, _warmup(n)
        ),
        "warmup_cosine_decay_schedule": (
            lambda p, n: schedules.warmup_cosine_decay_schedule(0.0, p, _warmup(n), n)
        ),
        "warmup_exponential_decay_schedule": (
            lambda p, n: schedules.warmup_exponential_decay_schedule(
                0.0, p, _warmup(n), _rest(n), 0.01
            )
        ),
        "wsd_schedule": lambda p, n: schedules.wsd_schedule(
            p, _warmup(n), _rest(n) - _cooldown(n), _cooldown(n)
        ),
    }
)


@functools.cache
def optimizers() -> Mapping[str, MakeOptimizer]:
    """Returns the functions of Optax that take a learning rate, by name."""
    return {
        name: make
        for name, make in vars(optax).items()
        if inspect.isfunction(make)
        and not name.startswith(("_", "scale_by_"))
        and "learning_rate" in inspect.signature(make).parameters
    }
