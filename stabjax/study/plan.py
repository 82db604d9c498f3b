"""Planning a study, which combines problems, methods and sweep sizes."""

import re
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax

from stabjax import _catalogue
from stabjax._arguments import as_integer, lookup
from stabjax.problems import Problem
from stabjax.study.methods import Methods, ResolvedMethods, check_methods, resolve

_DEFAULTS = (
    "quadratic",
    "noisy_quadratic",
    "ill_conditioned_quadratic",
    "rosenbrock",
    "cliff",
    "deep_linear_chain",
    "digits_mlp",
)
DEFAULT_PROBLEMS: Mapping[str, Callable[[], Problem]] = MappingProxyType(
    {name: _catalogue.PROBLEMS[name] for name in _DEFAULTS}
)
PROBLEMS: Mapping[str, Callable[[], Problem]] = MappingProxyType(
    {**DEFAULT_PROBLEMS, **_catalogue.PROBLEMS}
)
_QUICK_PROBLEMS = ("quadratic", "noisy_quadratic")
_OWN_OPTIMIZER = "the problem's own optimizer"

# Reserved variable names, which `evaluate` must not return.
_RESERVED = frozenset({"grad_norm", "median_loss", "steps_to_target", "update_norm"})
_REQUIRED = ("max_norm", "peak_value", "steps", "target_loss")  # metadata keys
_MIN_STEPS = 10  # smaller numbers leave no steps for the warmup and the last 10%
_OVERHEAD = 3.0  # seconds per problem for compilation and plots


class Sizes(NamedTuple):
    """The size of the sweep for one problem. None stands for the default.

    Attributes:
      rates: number of learning rates.
      thresholds: number of thresholds in addition to no clipping.
      seeds: number of seeds.
      steps: number of training steps in each run.
    """

    rates: int | None = None
    thresholds: int | None = None
    seeds: int | None = None
    steps: int | None = None

    def filled(self, default: "Sizes") -> "Sizes":
        """Returns a copy with missing sizes replaced by those of `default`."""
        pairs = zip(self, default, strict=True)
        return Sizes(*(own if own is not None else other for own, other in pairs))

    @property
    def runs(self) -> int:
        """The number of runs, including those with and without a schedule."""
        return (self.rates or 1) * ((self.thresholds or 1) + 1) * 2 * (self.seeds or 1)


_FULL = Sizes(rates=33, thresholds=13, seeds=32)
_QUICK = Sizes(rates=17, thresholds=7, seeds=16)
_NETWORK = Sizes(rates=13, thresholds=5, seeds=8)
# A sign test at the 5% level needs six seeds. The number of thresholds is odd because
# the fixed threshold is the middle one.
_LARGE = Sizes(rates=7, thresholds=3, seeds=6)
_LARGE_QUICK = Sizes(rates=5, thresholds=1, seeds=2)

# Seconds per update and parameter on two cores, and sizes that give a duration of one
# to two minutes. Problems that are not listed take a few nanoseconds per update and use
# the default sizes.
_COSTS: Mapping[str, tuple[float, Sizes]] = MappingProxyType(
    {
        "adding": (2.0e-7, _LARGE),
        "boundary_mlp": (1.5e-8, _QUICK),
        "char_transformer": (6.5e-8, _LARGE),
        "deep_linear": (5.7e-8, _QUICK),
        "digits_cnn": (1.3e-7, _LARGE),
        "digits_mlp": (5.0e-9, _NETWORK),
        "heavy_tailed_quadratic": (6.4e-8, _QUICK),
        "quadratic_deep": (1.3e-8, _QUICK),
        "temporal_order": (6.3e-8, _LARGE),
    }
)
_COST = 5.0e-9


class Plan(NamedTuple):
    """The plan for one problem of a study.

    Attributes:
      name: name of the problem.
      label: name of the problem, followed by the names of non-default methods.
      problem: the problem.
      requested: requested names of the optimizer, the clipping and the schedule.
      methods: the corresponding functions.
      sizes: sizes of the sweep, without missing values.
    """

    name: str
    label: str
    problem: Problem
    requested: str
    methods: ResolvedMethods
    sizes: Sizes

    @property
    def file(self) -> str:
        """The base name for files, without an extension."""
        return slug(self.label)

    @property
    def seconds(self) -> float:
        """The estimated duration on two cores, in seconds."""
        shapes = jax.eval_shape(self.problem.init, jax.random.key(0))
        parameters = sum(int(leaf.size) for leaf in jax.tree.leaves(shapes))
        each, _ = _COSTS.get(self.name, (_COST, None))
        updates = self.sizes.runs * (self.sizes.steps or 1)
        return _OVERHEAD + each * updates * max(parameters, 4)


def plans(
    names: Sequence[str | Problem] | str | None = None,
    sizes: Sizes = Sizes(),  # noqa: B008 - immutable
    methods: Sequence[Methods] = (Methods(),),
    *,
    quick: bool = False,
) -> list[Plan]:
    """Plans a study of every combination of problems and methods.

    Args:
      names: names from `stabjax.study.PROBLEMS`, or custom problems whose metadata
        contain `max_norm`, `peak_value`, `steps` and `target_loss`. "all" selects all
        of `PROBLEMS`. Defaults to `DEFAULT_PROBLEMS`, or to two of them if `quick` is
        True.
      sizes: numbers of rates, thresholds and seeds, >= 1, and steps, >= 10. If a size
        is None, the default for the problem is used.
      methods: combinations of a clipping method, a schedule and an optimizer.
      quick: if True, uses two problems and few runs, which takes a few seconds.

    Returns:
      A list of plans for `stabjax.study.run`, one for each combination.

    Raises:
      ValueError: If a name is unknown, a size is too small, the methods cannot be
        combined, or a custom problem lacks metadata.

    Example:
      >>> import stabjax
      >>> [plan] = stabjax.study.plans(["cliff"], stabjax.study.Sizes(seeds=4))
      >>> plan.sizes
      Sizes(rates=33, thresholds=13, seeds=4, steps=200)
    """
    given = [names] if isinstance(names, str) else names
    given = given or (_QUICK_PROBLEMS if quick else tuple(DEFAULT_PROBLEMS))
    every = [n for name in given for n in (PROBLEMS if name == "all" else [name])]
    made = [_problem(name) for name in dict.fromkeys(every)]
    for field, value in sizes._asdict().items():
        if value is not None:
            minimum = _MIN_STEPS if field == "steps" else 1
            as_integer(field, value, f">= {minimum}")
    methods = tuple(dict.fromkeys(methods))
    for one in methods:
        if one != Methods():
            check_methods(one)
    found = [_plan(*problem, sizes, one, quick) for problem in made for one in methods]
    files = [plan.file for plan in found]
    for plan in found:
        if files.count(plan.file) > 1:
            raise ValueError(f"names must be unique, got {plan.label!r} twice.")
    return found


def _plan(
    name: str, problem: Problem, sizes: Sizes, methods: Methods, quick: bool
) -> Plan:
    _, default = _COSTS.get(name, (_COST, _QUICK if quick else _FULL))
    default = _LARGE_QUICK if quick and default == _LARGE else default
    known: Mapping[str, Any] = problem.metadata
    default = default._replace(steps=known["steps"])
    resolved = resolve(methods, problem)
    requested = _requested(methods, resolved)
    usual = _requested(Methods(), resolve(Methods(), problem))
    changed = [new for old, new in zip(usual, requested, strict=True) if new != old]
    return Plan(
        name,
        ", ".join([name, *changed]),
        problem,
        ", ".join(requested),
        resolved,
        sizes.filled(default),
    )


def _requested(methods: Methods, resolved: ResolvedMethods) -> list[str]:
    """Returns the names of the optimizer, the clipping and the schedule."""
    clipping, schedule, optimizer = resolved.names
    return [optimizer if methods.optimizer else _OWN_OPTIMIZER, clipping, schedule]


def _problem(given: str | Problem) -> tuple[str, Problem]:
    if isinstance(given, str):
        return given, lookup("problem", given, PROBLEMS)()
    name = str(given.metadata.get("name", "problem"))
    if missing := [key for key in _REQUIRED if key not in given.metadata]:
        raise ValueError(
            f"metadata of {name} must contain {', '.join(_REQUIRED)}, got no "
            f"{', '.join(missing)}."
        )
    if reserved := _evaluated(given) & _RESERVED:
        raise ValueError(
            f"evaluate must not return reserved names, got "
            f"{', '.join(sorted(reserved))}."
        )
    return name, given


def _evaluated(problem: Problem) -> set[str]:
    """Returns the names of the values returned by `evaluate`."""
    if problem.evaluate is None:
        return set()
    key = jax.random.key(0)
    evaluate = problem.evaluate
    return set(jax.eval_shape(lambda k: dict(evaluate(problem.init(k), k)), key))


def slug(label: str) -> str:
    """Converts a label to a form that is safe for file names and URLs."""
    return re.sub(r"\W+", "-", label).strip("-")


def definition(name: str) -> str:
    """Returns the summary line of a problem's docstring and its changed arguments."""
    make = PROBLEMS.get(name)
    if make is None:
        return ""
    changed = getattr(make, "keywords", {})
    line = (getattr(make, "func", make).__doc__ or "").strip().splitlines()[0]
    if changed:
        line += f" With {', '.join(f'{k}={v}' for k, v in changed.items())}."
    return line
