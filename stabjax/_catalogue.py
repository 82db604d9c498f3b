"""Problems, clipping methods, schedules and optimizers, looked up by name."""

import functools
import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import optax

from stabjax import _clipping as c
from stabjax import _schedules as s
from stabjax import problems
from stabjax._types import Number, Schedule

WARMUP_FRACTION = 0.1  # fraction of steps, for schedules with a warmup
_COOLDOWN_FRACTION = 0.2  # fraction of steps, for schedules with a cooldown
_WINDOW = 32  # norms; many default windows are longer than short runs

Range = tuple[float, float]
MakeClipping = Callable[[Number], optax.GradientTransformation]
MakeSchedule = Callable[[Number, int], Schedule]
MakeOptimizer = Callable[..., optax.GradientTransformation]

# Public names in `stabjax.problems` that are not problems.
_NOT_PROBLEMS = ("Problem", "supervised", "bracket_text", "copy_text", "markov_text")
PROBLEMS: Mapping[str, Callable[..., problems.Problem]] = MappingProxyType(
    {
        name: getattr(problems, name)
        for name in problems.__all__
        if name not in _NOT_PROBLEMS
    }
)


class Clipping(NamedTuple):
    """A clipping transformation with one hyperparameter.

    Attributes:
      make: function that maps the hyperparameter to a transformation.
      number: name of the hyperparameter.
      range: recommended range, from strict to permissive; None if the hyperparameter is
        a gradient norm, whose range depends on the problem.
      after: whether to clip the optimizer's update instead of the gradient.
    """

    make: MakeClipping
    number: str
    range: Range | None = None
    after: bool = False


# Name -> (hyperparameter, recommended range); the range of gradient norms is None.
_NUMBERS: dict[str, tuple[str, Range | None]] = {
    "adagc": ("relative_clip", (1.0, 10.0)),
    "adaptive_grad_clip": ("clipping", (1e-3, 10.0)),
    "adopt_clip": ("exponent", (0.1, 1.0)),
    "clip": ("max_delta", None),
    "clip_by_block_norm": ("max_norm", None),
    "clip_by_block_rms": ("threshold", None),
    "clip_by_global_norm": ("max_norm", None),
    "clip_by_norm_ratio": ("max_norm_ratio", (1.0, 10.0)),
    "clip_by_percentile": ("percentile", (1.0, 100.0)),
    "clip_by_relative_update": ("relative", (0.01, 10.0)),
    "clip_by_second_moment": ("threshold", (1.0, 1e4)),
    "clip_by_tracked_max": ("decay", (0.5, 0.999)),
    "clip_update_norm": ("z_threshold", (0.3, 30.0)),
    "limit_norm_growth": ("max_growth", (1.001, 10.0)),
    "normalize_by_tracked_norm": ("b1", (0.1, 0.99)),
    "normalize_by_update_norm": ("scale_factor", None),
    "smooth_clip_by_global_norm": ("max_norm", None),
    "zclip": ("z_threshold", (0.3, 30.0)),
}
_AFTER = ("clip_by_relative_update", "clip_update_norm")
_WITH_WINDOW = ("clip_by_percentile", "clip_update_norm")


def _clipping(name: str) -> Clipping:
    number, bounds = _NUMBERS[name]
    fixed = {"window": _WINDOW} if name in _WITH_WINDOW else {}

    def make(value: Number) -> optax.GradientTransformation:
        built: optax.GradientTransformation = getattr(c, name)(
            **{number: value}, **fixed
        )
        return built

    return Clipping(make, number, bounds, name in _AFTER)


CLIPPINGS: Mapping[str, Clipping] = MappingProxyType(
    {name: _clipping(name) for name in _NUMBERS}
)


def _warmup(steps: int) -> int:
    return round(WARMUP_FRACTION * steps)


def _rest(steps: int) -> int:
    return steps - _warmup(steps)


def _cooldown(steps: int) -> int:
    return round(_COOLDOWN_FRACTION * steps)


# Functions of the peak value p and the number of steps n.
SCHEDULES: Mapping[str, MakeSchedule] = MappingProxyType(
    {
        "cosine_decay_schedule": s.cosine_decay_schedule,
        "cosine_onecycle_schedule": lambda p, n: s.cosine_onecycle_schedule(n, p),
        "cosine_restarts_schedule": lambda p, n: s.cosine_restarts_schedule(
            p, -(-n // 4)
        ),
        "cyclic_schedule": lambda p, n: s.cyclic_schedule(
            0.1 * p, p, -(-n // 8), -(-n // 8)
        ),
        "exponential_decay": lambda p, n: s.exponential_decay(p, n, 0.01),
        "exponential_warmup_schedule": lambda p, n: s.exponential_warmup_schedule(
            p, _warmup(n)
        ),
        "infinite_schedule": lambda p, n: s.infinite_schedule(
            p, 0.5 * p, _warmup(n), _rest(n)
        ),
        "inverse_sqrt_schedule": lambda p, n: s.inverse_sqrt_schedule(p, _warmup(n)),
        "linear_onecycle_schedule": lambda p, n: s.linear_onecycle_schedule(n, p),
        "linear_schedule": lambda p, n: s.linear_schedule(p, 0.0, n),
        "polynomial_schedule": lambda p, n: s.polynomial_schedule(p, 0.0, 2, n),
        "rex_schedule": s.rex_schedule,
        "warmup_constant_schedule": lambda p, n: s.warmup_constant_schedule(
            0.0, p, _warmup(n)
        ),
        "warmup_cosine_decay_schedule": lambda p, n: s.warmup_cosine_decay_schedule(
            0.0, p, _warmup(n), n
        ),
        "warmup_exponential_decay_schedule": (
            lambda p, n: s.warmup_exponential_decay_schedule(
                0.0, p, _warmup(n), _rest(n), 0.01
            )
        ),
        "wsd_schedule": lambda p, n: s.wsd_schedule(
            p, _warmup(n), _rest(n) - _cooldown(n), _cooldown(n)
        ),
    }
)


@functools.cache
def optimizers() -> Mapping[str, MakeOptimizer]:
    """Returns Optax's optimizers that take a learning rate, by name."""
    return {
        name: make
        for name, make in vars(optax).items()
        if inspect.isfunction(make)
        and not name.startswith(("_", "scale_by_"))
        and "learning_rate" in inspect.signature(make).parameters
    }
