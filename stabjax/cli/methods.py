"""Optimizers for `stabjax sweep`, built from names and axes."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import optax

import stabjax
from stabjax._arguments import lookup

_KEYWORD = inspect.Parameter.KEYWORD_ONLY
_DEFAULTS = {
    "clip": "clip_by_global_norm",
    "schedule": "constant",
    "optimizer": "sgd",
    "guard": "none",
}
ROLES = tuple(_DEFAULTS)


class Part(NamedTuple):
    """A clipping method, a schedule, an optimizer or a guard.

    Attributes:
      function: builds the part.
      parameters: arguments that can be an axis, with their defaults.
    """

    function: Callable[..., Any]
    parameters: Mapping[str, inspect.Parameter]


# For each role, the parts used in a sweep, keyed by name.
Parts = Mapping[str, Mapping[str, Part]]


def parts_of(
    options: Mapping[str, str | None], axes: Mapping[str, Iterable[object]]
) -> Parts:
    """Returns the parts named by options or axes.

    Raises:
      ValueError: If a name is unknown, or both an option and an axis give a role.
    """
    found = {}
    for role, default in _DEFAULTS.items():
        option = options.get(role)
        if role in axes and option is not None:
            raise ValueError(
                f"{role} must be given once, got --{role} and the axis {role}=."
            )
        names = axes.get(role, [default if option is None else option])
        for name in names:
            if isinstance(name, int | float):
                hint = " Use max_norm for a threshold." if role == "clip" else ""
                raise ValueError(f"{role} must be names, got {name!r}.{hint}")
        found[role] = {name: _part(role, name) for name in map(_word, names)}
    return found


def make_optimizer_from(
    parts: Parts, steps: int, *, record: bool
) -> Callable[..., optax.GradientTransformation]:
    """Returns a `make_optimizer` function that combines the parts.

    Its parameters are `peak_value`, the roles (whose values are names) and the
    arguments of all parts.
    """
    first = {role: next(iter(named)) for role, named in parts.items()}

    def make_optimizer(**values: Any) -> optax.GradientTransformation:
        names = {role: _word(values.get(role, first[role])) for role in ROLES}

        def arguments(role: str) -> dict[str, Any]:
            known = parts[role][names[role]].parameters
            return {name: values[name] for name in known if name in values}

        def made(role: str, *given: Any, **others: Any) -> Any:
            function = parts[role][names[role]].function
            return function(*given, **others, **arguments(role))

        rate = made("schedule", values["peak_value"], steps)
        optimizer = made("optimizer", learning_rate=rate)
        clip = _clip(names["clip"], made("clip"), arguments("clip"))
        guarded: optax.GradientTransformation = made(
            "guard", _chain(names["clip"], clip, optimizer, record)
        )
        return guarded

    found = {"peak_value": inspect.Parameter("peak_value", _KEYWORD)}
    for role, named in parts.items():
        found[role] = inspect.Parameter(role, _KEYWORD, default=first[role])
        for part in named.values():
            found = {**part.parameters, **found}
    made: Any = make_optimizer
    made.__signature__ = inspect.Signature([*found.values()])
    made.__name__ = first["optimizer"]
    return make_optimizer


def thresholds_of(parts: Parts) -> list[str]:
    """Returns the threshold argument of each clipping method."""
    from stabjax._catalogue import CLIPPINGS

    return [
        CLIPPINGS[name].number for name in parts.get("clip", ()) if name in CLIPPINGS
    ]


def _word(name: object) -> str:
    return "none" if name is None else str(name)


def _part(role: str, name: str) -> Part:
    from stabjax import _catalogue

    function: Any
    optional: dict[str, Any] = {}
    if role == "optimizer":
        function = _catalogue.optimizer_named(name)
    elif role == "schedule":
        function = lookup(role, name, _catalogue.ALL_SCHEDULES)
        optional = {**dict.fromkeys(function.defaults, 0.0), function.peak: None}
    elif role == "guard":
        function = lookup(role, name, {"none": _unguarded, **_catalogue.GUARDS})
    else:
        function = lookup(role, name, {"none": optax.identity, **_catalogue.CLIPS})
        if name == "clip_by_global_norm":  # no clipping without a threshold
            optional = {"max_norm": np.inf}
            function = _global_norm
    plain = function.function if role == "schedule" else function
    parameters = {
        argument: parameter.replace(
            kind=_KEYWORD, default=optional.get(argument, parameter.default)
        )
        for argument, parameter in _catalogue.arguments_of(plain).items()
        if role != "schedule" or argument != function.peak
    }
    return Part(function, parameters)


def _global_norm(
    max_norm: float = np.inf, *, ord: float | None = None
) -> optax.GradientTransformation:
    return stabjax.clip_by_global_norm(max_norm, ord=ord)


def _unguarded(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    return inner


def _clip(
    name: str, clip: optax.GradientTransformation, given: Mapping[str, Any]
) -> optax.GradientTransformation:
    """Returns the clipping, disabled where the threshold is infinite."""
    from stabjax._catalogue import CLIPPINGS, unless_infinite

    if name in ("none", "clip_by_global_norm") or CLIPPINGS[name].number not in given:
        return clip
    return unless_infinite(clip, given[CLIPPINGS[name].number])


def _chain(
    name: str,
    clip: optax.GradientTransformation,
    optimizer: optax.GradientTransformation,
    record: bool,
) -> optax.GradientTransformation:
    """Chains clipping and optimizer. Some methods clip the optimizer's update."""
    from stabjax._catalogue import CLIPPINGS

    if name != "none" and CLIPPINGS[name].after:
        return optax.chain(_recorded(optax.identity(), record), optimizer, clip)
    return optax.chain(_recorded(clip, record), optimizer)


def _recorded(
    clip: optax.GradientTransformation, record: bool
) -> optax.GradientTransformation:
    return stabjax.with_metrics(clip, name="clip") if record else clip
