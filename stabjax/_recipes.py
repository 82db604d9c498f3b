"""What the words of a command line stand for: problems, optimizers, axes."""

import difflib
import inspect
import re
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import optax

from stabjax import problems
from stabjax._clipping import clip_by_global_norm
from stabjax._metrics import with_metrics
from stabjax._schedules import (
    constant_schedule,
    cosine_decay_schedule,
    join_schedules,
    linear_schedule,
)
from stabjax._sweep import grid, static
from stabjax._sweep.space import Space

_WORDS = {"none": None, "true": True, "false": False}
_NUMBER = r"[^:,]+"


# What `stabjax.problems` has that is no problem: types, texts, and a maker of others.
_OTHERS = ("Problem", "supervised", "bracket_text", "copy_text", "markov_text")
PROBLEM_NAMES = tuple(name for name in problems.__all__ if name not in _OTHERS)


def problem_named(name: str) -> Callable[..., problems.Problem]:
    """The function of `stabjax.problems` that makes this problem."""
    if name not in PROBLEM_NAMES:
        raise unknown("problem", name, PROBLEM_NAMES)
    make: Callable[..., problems.Problem] = getattr(problems, name)
    return make


def unknown(what: str, name: str, known: Iterable[str]) -> ValueError:
    """The error that says what names there are, and which may be meant."""
    names = list(known)
    alike = [one for one in names if name and name in one]
    alike = alike or difflib.get_close_matches(name, names)
    meant = f"; did you mean {' or '.join(alike)}?" if 0 < len(alike) < 4 else ""
    return ValueError(f"unknown {what} {name!r}; known are {', '.join(names)}{meant}")


def optax_optimizer(name: str) -> Callable[..., optax.GradientTransformation]:
    """The function of Optax that makes this optimizer of a learning rate."""
    make: Any = getattr(optax, name, None)
    own = inspect.signature(make).parameters if callable(make) else {}
    if "learning_rate" not in own:
        raise ValueError(f"unknown optimizer {name!r}: it must be one of Optax's")
    return make  # type: ignore[no-any-return]


def optimizer_named(
    name: str, steps: int, *, watched: bool
) -> Callable[..., optax.GradientTransformation]:
    """A function for `sweep` that clips, and gives an optimizer of Optax a schedule.

    Its parameters are `max_norm`, `peak_value`, `schedule` (constant, linear or
    cosine, after a warm-up of `warmup_steps`), and those of the optimizer itself.
    """
    make = optax_optimizer(name)
    own = inspect.signature(make).parameters

    def make_optimizer(
        peak_value: Any,
        max_norm: Any = np.inf,
        schedule: str = "constant",
        warmup_steps: Any = 0,
        **others: Any,
    ) -> optax.GradientTransformation:
        clip = clip_by_global_norm(max_norm)
        rate = _schedule(schedule, peak_value, warmup_steps, steps)
        return optax.chain(
            with_metrics(clip, name="clip") if watched else clip,
            make(learning_rate=rate, **others),
        )

    mine = [*inspect.signature(make_optimizer).parameters.values()][:-1]
    theirs = [
        parameter.replace(kind=parameter.KEYWORD_ONLY)
        for parameter in own.values()
        if parameter.name != "learning_rate"
        and parameter.default is not parameter.empty
    ]
    made: Any = make_optimizer
    made.__signature__ = inspect.Signature([*mine, *theirs])
    made.__name__ = name
    return make_optimizer


def space_of(texts: Iterable[str]) -> Space:
    """The grid of axes such as `rate=log:1e-3:1:16`, `kind=a,b` and `seed=0:8`."""
    axes: dict[str, Any] = {}
    for text in texts:
        name, separator, values = text.partition("=")
        if not separator or not name.isidentifier():
            raise ValueError(f"an axis must be NAME=VALUES, got {text!r}")
        if name in axes:
            raise ValueError(f"axis {name!r} is given twice")
        try:
            axes[name] = _values(values)
        except ValueError as error:
            raise ValueError(
                f"axis {name!r} must be log:LOW:HIGH:N, lin:LOW:HIGH:N, FIRST:END, or "
                f"values with commas, perhaps behind static:, got {values!r}"
            ) from error
    return grid(**axes)


def _values(text: str) -> Any:
    if spaced := re.fullmatch(rf"(log|lin):({_NUMBER}):({_NUMBER}):(\d+)", text):
        low, high = float(spaced[2]), float(spaced[3])
        number = int(spaced[4])
        if spaced[1] == "lin":
            return np.linspace(low, high, number)
        if not (low > 0 and high > 0):
            raise ValueError("a logarithmic axis is positive")
        return np.geomspace(low, high, number)
    if span := re.fullmatch(r"(\d+):(\d+)", text):
        return range(int(span[1]), int(span[2]))
    if text.startswith("static:"):
        return static(_words(text.removeprefix("static:")))
    return _words(text)


def _words(text: str) -> list[Any]:
    words = text.split(",")
    if ":" in text or "" in words:
        raise ValueError("not a list of values")
    for kind in (int, float):
        try:
            return [kind(word) for word in words]
        except ValueError:
            continue
    return [_WORDS.get(word.lower(), word) for word in words]


def _schedule(name: str, peak: Any, warmup: Any, steps: int) -> optax.Schedule:
    after = {
        "constant": lambda: constant_schedule(peak),
        "linear": lambda: linear_schedule(peak, 0.0, steps - warmup),
        "cosine": lambda: cosine_decay_schedule(peak, steps - warmup),
    }
    if name not in after:
        raise ValueError(f"schedule must be one of {', '.join(after)}, got {name!r}")
    rise = linear_schedule(0.0, peak, warmup)
    return join_schedules([rise, after[name]()], [warmup])
