"""Problems, clipping methods, schedules and optimizers, looked up by name."""

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from stabjax import _clipping as c
from stabjax import _guards as g
from stabjax import _schedules as s
from stabjax import problems
from stabjax._arguments import lookup
from stabjax._types import Number, Schedule

WARMUP_FRACTION = 0.1  # fraction of steps, for schedules with a warmup
_COOLDOWN_FRACTION = 0.2  # fraction of steps, for schedules with a cooldown
_WINDOW = 32  # norms; many default windows are longer than short runs

Range = tuple[float, float]
MakeClipping = Callable[[Number], optax.GradientTransformation]
MakeSchedule = Callable[..., Schedule]  # of the peak and the number of steps
MakeOptimizer = Callable[..., optax.GradientTransformation]

# Public names in `stabjax.problems` that are not problems.
_NOT_PROBLEMS = ("Problem", "supervised", "bracket_text", "copy_text", "markov_text")
PROBLEMS: Mapping[str, Callable[..., problems.Problem]] = MappingProxyType(
    {
        name: functools.partial(problems.quadratic, noise=1.0)
        if name == "noisy_quadratic"
        else getattr(problems, name)
        for name in sorted([*problems.__all__, "noisy_quadratic"])
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


# Clipping methods with all their arguments.
CLIPS: Mapping[str, Callable[..., optax.GradientTransformation]] = MappingProxyType(
    {
        name: functools.partial(getattr(c, name), window=_WINDOW)
        if name in _WITH_WINDOW
        else getattr(c, name)
        for name in _NUMBERS
    }
)

# Wrappers that skip bad steps.
GUARDS: Mapping[str, Callable[..., optax.GradientTransformation]] = MappingProxyType(
    {name: getattr(g, name) for name in g.__all__ if name.startswith("skip_")}
)


def _clipping(name: str) -> Clipping:
    number, bounds = _NUMBERS[name]

    def make(value: Number) -> optax.GradientTransformation:
        return CLIPS[name](**{number: value})

    return Clipping(make, number, bounds, name in _AFTER)


def unless_infinite(
    clipping: optax.GradientTransformation, threshold: Number
) -> optax.GradientTransformation:
    """Applies a transformation, or the identity if the threshold is infinite."""

    def update(
        updates: optax.Updates,
        state: optax.OptState,
        params: optax.Params | None = None,
    ) -> tuple[optax.Updates, optax.OptState]:
        clipped, state = clipping.update(updates, state, params)
        on = threshold < jnp.inf
        kept = jax.tree.map(lambda c, u: jnp.where(on, c, u), clipped, updates)
        return kept, state

    return optax.GradientTransformation(clipping.init, update)


CLIPPINGS: Mapping[str, Clipping] = MappingProxyType(
    {name: _clipping(name) for name in _NUMBERS}
)


def _warmup(steps: int) -> int:
    return round(WARMUP_FRACTION * steps)


def _cooldown(steps: int) -> int:
    return round(_COOLDOWN_FRACTION * steps)


Arguments = Mapping[str, Number]
Default = Callable[[Arguments, int], Number]


@dataclass(frozen=True)
class Scheduling:
    """A schedule as a function of its peak value and the number of steps.

    Attributes:
      function: builds the schedule from all arguments.
      peak: name of the argument for the peak value.
      defaults: default value of each argument, as a function of the preceding arguments
        and the number of steps.
    """

    function: Callable[..., Schedule]
    peak: str
    defaults: Mapping[str, Default]

    def __call__(self, peak: Number, steps: int, **given: Any) -> Schedule:
        """Returns the schedule."""
        return self.function(**self.arguments(steps, {self.peak: peak, **given}))

    def arguments(self, steps: int, given: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the given arguments with defaults for the others."""
        found = dict(given)
        for name, default in self.defaults.items():
            if name not in found:
                found[name] = default(found, steps)
        return found


def constant(peak_value: Number, warmup_steps: Number = 0) -> Schedule:
    """Constant value after a linear warmup."""
    return _warmed(peak_value, warmup_steps, s.constant_schedule(peak_value))


def linear(
    peak_value: Number, decay_steps: Number, warmup_steps: Number = 0
) -> Schedule:
    """Linear decay to 0 after a linear warmup."""
    decay = s.linear_schedule(peak_value, 0.0, decay_steps)
    return _warmed(peak_value, warmup_steps, decay)


def cosine(
    peak_value: Number, decay_steps: Number, warmup_steps: Number = 0
) -> Schedule:
    """Cosine decay to 0 after a linear warmup."""
    decay = s.cosine_decay_schedule(peak_value, decay_steps)
    return _warmed(peak_value, warmup_steps, decay)


def _warmed(peak: Number, warmup: Number, decay: Schedule) -> Schedule:
    rise = s.linear_schedule(0.0, peak, warmup)
    schedule: Schedule = s.join_schedules([rise, decay], [warmup])
    return schedule


def _all(arguments: Arguments, n: int) -> Number:
    del arguments
    return n


def _tenth(arguments: Arguments, n: int) -> Number:
    del arguments
    return _warmup(n)


def _after_warmup(arguments: Arguments, n: int) -> Number:
    return n - arguments.get("warmup_steps", 0)


def _always(value: float) -> Default:
    return lambda arguments, n: value


def _part(number: int) -> Default:
    return lambda arguments, n: -(-n // number)


_ZERO = _always(0.0)
_RISE = {"init_value": _ZERO, "warmup_steps": _tenth}

SCHEDULES: Mapping[str, Scheduling] = MappingProxyType(
    {
        "cosine": Scheduling(cosine, "peak_value", {"decay_steps": _after_warmup}),
        "linear": Scheduling(linear, "peak_value", {"decay_steps": _after_warmup}),
        "cosine_decay_schedule": Scheduling(
            s.cosine_decay_schedule, "init_value", {"decay_steps": _all}
        ),
        "cosine_onecycle_schedule": Scheduling(
            s.cosine_onecycle_schedule, "peak_value", {"transition_steps": _all}
        ),
        "cosine_restarts_schedule": Scheduling(
            s.cosine_restarts_schedule, "peak_value", {"period": _part(4)}
        ),
        "cyclic_schedule": Scheduling(
            s.cyclic_schedule,
            "peak_value",
            {
                "init_value": lambda a, n: 0.1 * a["peak_value"],
                "up_steps": _part(8),
                "down_steps": _part(8),
            },
        ),
        "exponential_decay": Scheduling(
            s.exponential_decay,
            "init_value",
            {"transition_steps": _all, "decay_rate": _always(0.01)},
        ),
        "exponential_warmup_schedule": Scheduling(
            s.exponential_warmup_schedule, "peak_value", {"timescale": _tenth}
        ),
        "infinite_schedule": Scheduling(
            s.infinite_schedule,
            "peak_value",
            {
                "constant_value": lambda a, n: 0.5 * a["peak_value"],
                "warmup_steps": _tenth,
                "cooldown_steps": _after_warmup,
            },
        ),
        "inverse_sqrt_schedule": Scheduling(
            s.inverse_sqrt_schedule, "init_value", {"timescale": _tenth}
        ),
        "linear_onecycle_schedule": Scheduling(
            s.linear_onecycle_schedule, "peak_value", {"transition_steps": _all}
        ),
        "linear_schedule": Scheduling(
            s.linear_schedule,
            "init_value",
            {"end_value": _ZERO, "transition_steps": _all},
        ),
        "polynomial_schedule": Scheduling(
            s.polynomial_schedule,
            "init_value",
            {"end_value": _ZERO, "power": _always(2), "transition_steps": _all},
        ),
        "rex_schedule": Scheduling(
            s.rex_schedule, "init_value", {"transition_steps": _all}
        ),
        "warmup_constant_schedule": Scheduling(
            s.warmup_constant_schedule, "peak_value", _RISE
        ),
        "warmup_cosine_decay_schedule": Scheduling(
            s.warmup_cosine_decay_schedule, "peak_value", {**_RISE, "decay_steps": _all}
        ),
        "warmup_exponential_decay_schedule": Scheduling(
            s.warmup_exponential_decay_schedule,
            "peak_value",
            {
                **_RISE,
                "transition_steps": _after_warmup,
                "decay_rate": _always(0.01),
            },
        ),
        "wsd_schedule": Scheduling(
            s.wsd_schedule,
            "peak_value",
            {
                "warmup_steps": _tenth,
                "decay_steps": lambda a, n: _cooldown(n),
                "stable_steps": lambda a, n: n - a["warmup_steps"] - a["decay_steps"],
            },
        ),
    }
)


# Including the baseline of a study.
ALL_SCHEDULES: Mapping[str, Scheduling] = MappingProxyType(
    {"constant": Scheduling(constant, "peak_value", {}), **SCHEDULES}
)


def optimizer_named(name: str) -> MakeOptimizer:
    """Returns an Optax optimizer that takes a learning rate.

    Raises:
      ValueError: If the name is unknown, or it is L-BFGS.
    """
    if name == "lbfgs":
        raise ValueError(
            "optimizer must work from gradients alone, got 'lbfgs', whose line search "
            "calls the loss function."
        )
    return lookup("optimizer", name, optimizers())


@functools.cache
def optimizers() -> Mapping[str, MakeOptimizer]:
    """Returns the functions of Optax that take a learning rate, by name.

    L-BFGS is not among them: its line search calls the loss function.
    """
    return {
        name: make
        for name, make in vars(optax).items()
        if inspect.isfunction(make)
        and name != "lbfgs"
        and not name.startswith(("_", "scale_by_"))
        and "learning_rate" in inspect.signature(make).parameters
    }


_NOT_VALUES = ("axis_name", "inner", "key", "learning_rate", "text")


def arguments_of(function: Callable[..., object]) -> dict[str, inspect.Parameter]:
    """Returns the parameters of a function that are numbers, booleans or strings."""
    return {
        name: parameter
        for name, parameter in inspect.signature(function).parameters.items()
        if name not in _NOT_VALUES
        and not name.endswith("mask")
        and (
            isinstance(parameter.default, int | float | str)
            or parameter.default is parameter.empty
            or (parameter.default is None and "Number" in str(parameter.annotation))
            or (parameter.default is None and "float" in str(parameter.annotation))
        )
    }
