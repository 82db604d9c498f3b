"""What a study trains: problems, methods, and how much of them."""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import jax

from stabjax import problems
from stabjax._recipes import PROBLEM_NAMES, unknown
from stabjax.problems import Problem
from stabjax.study.methods import Chosen, Methods, check, chosen

FOUNDING: Mapping[str, Callable[[], Problem]] = MappingProxyType(
    {
        "quadratic": problems.quadratic,
        "noisy_quadratic": partial(problems.quadratic, noise=1.0),
        "ill_conditioned_quadratic": problems.ill_conditioned_quadratic,
        "rosenbrock": problems.rosenbrock,
        "cliff": problems.cliff,
        "deep_linear_chain": problems.deep_linear_chain,
        "digits_mlp": problems.digits_mlp,
    }
)
PROBLEMS: Mapping[str, Callable[[], Problem]] = MappingProxyType(
    {
        **FOUNDING,  # first
        **{name: getattr(problems, name) for name in PROBLEM_NAMES},
    }
)
QUICK = ("quadratic", "noisy_quadratic")
ALL = "all"
USUAL = "the usual optimizer"

_RESERVED = frozenset({"grad_norm", "median_loss", "steps_to_target", "update_norm"})
_NEEDED = ("max_norm", "peak_value", "steps", "target_loss")  # of the metadata
_LEAST_STEPS = 10  # with a warm-up, and a last tenth
_START = 3.0  # seconds to compile and draw a problem


class Sizes(NamedTuple):
    """How many trainings of one problem, and how long; None means the default."""

    rates: int | None = None
    thresholds: int | None = None  # the switched-off one comes on top
    seeds: int | None = None
    steps: int | None = None

    def filled(self, default: "Sizes") -> "Sizes":
        """These numbers, and the default ones where there are none."""
        pairs = zip(self, default, strict=True)
        return Sizes(*(given if given is not None else other for given, other in pairs))

    @property
    def trainings(self) -> int:
        """The number of trainings, two for each threshold: constant and scheduled."""
        return (self.rates or 1) * ((self.thresholds or 1) + 1) * 2 * (self.seeds or 1)


_FULL = Sizes(rates=33, thresholds=13, seeds=32)
_QUICK = Sizes(rates=17, thresholds=7, seeds=16)
_NETWORK = Sizes(rates=13, thresholds=5, seeds=8)
# Six seeds are the fewest that a sign test at 5 % can tell apart; odd numbers of
# thresholds have a middle one.
_LARGE = Sizes(rates=7, thresholds=3, seeds=6)
_LARGE_QUICK = Sizes(rates=5, thresholds=1, seeds=2)

# Seconds for an update of a parameter on two cores, and sizes that take a minute or
# two; problems that are not here cost a few nanoseconds and have the default.
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
    """A problem of the study, its methods, and the sizes of its sweep."""

    name: str
    label: str  # the name, and what methods are not the default
    problem: Problem
    asked: str  # for which methods: optimizer, clipping, schedule
    methods: Chosen
    sizes: Sizes

    @property
    def file(self) -> str:
        """What the files of its results are called, but for their ends."""
        return slug(self.label)

    @property
    def seconds(self) -> float:
        """About how long it takes on two cores."""
        shapes = jax.eval_shape(self.problem.init, jax.random.key(0))
        parameters = sum(int(leaf.size) for leaf in jax.tree.leaves(shapes))
        each, _ = _COSTS.get(self.name, (_COST, None))
        updates = self.sizes.trainings * (self.sizes.steps or 1)
        return _START + each * updates * max(parameters, 4)


def plans(
    names: Sequence[str | Problem] | str | None = None,
    sizes: Sizes = Sizes(),  # noqa: B008 - immutable
    methods: Sequence[Methods] = (Methods(),),
    *,
    quick: bool = False,
) -> list[Plan]:
    """What a study is to train: each problem with each of the methods.

    Args:
      names: of problems, from `PROBLEMS`, or problems of your own with metadata for
        `max_norm`, `peak_value`, `steps` and `target_loss`. "all" takes all of
        `PROBLEMS`; None those of the founding study, or a few of them if `quick`.
      sizes: how many rates, thresholds and seeds, and how many steps; what is None is
        chosen for the problem.
      methods: which clipping, which schedule and which optimizer.
      quick: fewer problems and trainings: for a look, in seconds.

    Returns:
      For each problem and methods a plan, for `run`.

    Raises:
      ValueError: if a name is unknown, a size is too small, methods do not fit
        together, or a problem of your own lacks a fact.

    Example:
      >>> import stabjax
      >>> [plan] = stabjax.study.plans(["cliff"], stabjax.study.Sizes(seeds=4))
      >>> plan.sizes
      Sizes(rates=33, thresholds=13, seeds=4, steps=200)
    """
    given = [names] if isinstance(names, str) else names
    given = given or (QUICK if quick else tuple(FOUNDING))
    every = [n for name in given for n in (PROBLEMS if name == ALL else [name])]
    made = [_problem(name) for name in dict.fromkeys(every)]
    _check_sizes(sizes)
    methods = tuple(dict.fromkeys(methods))
    for one in methods:
        if one != Methods():
            check(one)
    found = [_plan(*problem, sizes, one, quick) for problem in made for one in methods]
    files = [plan.file for plan in found]
    for plan in found:
        if files.count(plan.file) > 1:
            raise ValueError(f"two parts of the study are called {plan.label!r}")
    return found


def _plan(
    name: str, problem: Problem, sizes: Sizes, methods: Methods, quick: bool
) -> Plan:
    _, default = _COSTS.get(name, (_COST, _QUICK if quick else _FULL))
    default = _LARGE_QUICK if quick and default == _LARGE else default
    default = default._replace(steps=problem.metadata["steps"])
    these = chosen(methods, problem)
    asked = _names(methods, these)
    usual = _names(Methods(), chosen(Methods(), problem))
    changed = [new for old, new in zip(usual, asked, strict=True) if new != old]
    return Plan(
        name,
        ", ".join([name, *changed]),
        problem,
        ", ".join(asked),
        these,
        sizes.filled(default),
    )


def _problem(given: str | Problem) -> tuple[str, Problem]:
    if isinstance(given, str):
        if given not in PROBLEMS:
            raise unknown("problem", given, PROBLEMS)
        return given, PROBLEMS[given]()
    lacking = [name for name in _NEEDED if name not in given.metadata]
    if lacking:
        raise ValueError(
            f"a problem of a study needs the metadata {', '.join(_NEEDED)}; "
            f"{given.metadata.get('name', 'this one')} has no {', '.join(lacking)}"
        )
    if taken := _evaluated(given) & _RESERVED:
        raise ValueError(
            f"evaluate must not return {', '.join(sorted(taken))}: the study has "
            f"variables of these names"
        )
    return str(given.metadata.get("name", "problem")), given


def _evaluated(problem: Problem) -> set[str]:
    """What the problem's own evaluation gives, by name."""
    if problem.evaluate is None:
        return set()
    key = jax.random.key(0)
    evaluate = problem.evaluate
    return set(jax.eval_shape(lambda k: dict(evaluate(problem.init(k), k)), key))


def _names(methods: Methods, these: Chosen) -> list[str]:
    """What was asked for: optimizer, clipping, schedule."""
    clipping, schedule, optimizer = these.names
    return [optimizer if methods.optimizer else USUAL, clipping, schedule]


def _check_sizes(sizes: Sizes) -> None:
    for field, value in sizes._asdict().items():
        least = _LEAST_STEPS if field == "steps" else 1
        if value is not None and value < least:
            raise ValueError(f"{field} must be at least {least}, got {value}")


def slug(label: str) -> str:
    """A label as part of a file's name, or of an address."""
    return re.sub(r"\W+", "-", label).strip("-")


def definition(name: str) -> str:
    """The first line of the problem's documentation, and how it departs from that."""
    make: Any = PROBLEMS.get(name)
    if make is None:
        return ""
    changed = getattr(make, "keywords", {})
    line = (getattr(make, "func", make).__doc__ or "").strip().splitlines()[0]
    line = re.sub(r":math:`([^`]*)`", r"$\1$", line)
    if changed:
        line += f" With {', '.join(f'{k}={v}' for k, v in changed.items())}."
    return line
