"""Successive halving: all points train a little, the better ones train on."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
import xarray as xr
from jax import lax

from stabjax._sweep.chunks import Points, padded, points
from stabjax._sweep.factories import Factories, name_of, route
from stabjax._sweep.program import auto_width, compiled_for, variables_of
from stabjax._sweep.space import Space
from stabjax._train.arguments import check_lengths, positive_int
from stabjax._train.trial import (
    DIVERGENCE_FACTOR,
    Problem,
    Rules,
    State,
    Training,
    training,
)

# What is said of dropped trials too.
_OF_WHAT_WAS_TRAINED = (
    "rung_loss",
    "trained_steps",
    "status",
    "diverged_at",
    "best_loss",
)

_Array = np.ndarray[Any, Any]


def successive_halving(
    problem: Problem | Callable[..., Problem],
    make_optimizer: Callable[..., optax.GradientTransformation],
    space: Space,
    *,
    steps: int,
    rungs: int = 4,
    eta: float = 2.0,
    variable: str = "final_loss",
) -> xr.Dataset:
    """Trains every point a little, and only the better ones on, up to all the steps.

    With R rungs, the points are compared after steps / eta^(R - 1), ..., steps / eta
    and `steps` updates, by a variable that is small for good ones, averaged over the
    seeds; the best 1 / eta of them train on from where they stood, and those with a
    diverged training never do. The defaults cost about 0.31 of the steps
    of training all to the end. A schedule spans all the steps from the start, so the
    survivors are those that `sweep` would have trained; beware of rates that are slow
    at first and win late.

    Args:
      problem: as in `sweep`.
      make_optimizer: as in `sweep`.
      space: as in `sweep`; a dimension `seed` is averaged over, all else are points.
      steps: number of updates of the trainings that survive to the end.
      rungs: how often points are compared; 1 trains all to the end.
      eta: one in this many goes on at each rung.
      variable: what points are compared by: "final_loss", the loss on the evaluation
        key, or an entry of `problem.evaluate` that is a loss.

    Returns:
      A dataset over the dimensions of the space. `rung_loss` is that variable at each
      rung, along a dimension `rung` whose coordinate is the number of updates; NaN
      after a point was dropped. `trained_steps` says when that was. `final_loss` and
      what `problem.evaluate` gives are NaN for what was dropped (a final loss is +inf
      where it diverged); `status`, `diverged_at` and `best_loss` speak of the steps
      trained.
      The attribute `share_of_steps` is the cost, in units of training all to the end.

    Raises:
      ValueError, TypeError: as `sweep`, or if `rungs` or `eta` is out of range or
        there is no such variable.

    Example:
      >>> import numpy as np, optax, stabjax
      >>> def make_optimizer(rate):
      ...     return optax.sgd(rate)
      >>> space = stabjax.grid(rate=np.logspace(-4, 0.5, 10), seed=range(4))
      >>> problem = stabjax.problems.quadratic()
      >>> runs = stabjax.successive_halving(problem, make_optimizer, space, steps=80)
      >>> print(runs.trained_steps.sel(seed=0).values)
      [10 10 10 20 20 40 80 80 10 10]
      >>> round(stabjax.runs.best(runs)["rate"], 2)
      0.32

    Source: K. Jamieson and A. Talwalkar, "Non-stochastic best arm identification and
    hyperparameter optimization", 2016; L. Li et al., "Hyperband", 2018.
    """
    check_lengths(steps, None)
    _check(space, rungs, eta)
    factories = route(problem, make_optimizer, [axis.name for axis in space.axes])
    begin = time.perf_counter()
    given = points(space)
    groups = [
        _group(factories, statics, given, trials, eta ** (rungs - 1))
        for statics, trials in space.groups()
    ]
    compiled = time.perf_counter()
    stops = sorted({math.ceil(steps / eta**k) for k in range(rungs)})
    found = _climb(space, groups, stops, _Rule(eta, variable))
    done = time.perf_counter()
    trained = int(found["trained_steps"].sum())
    attributes = {
        "problem": name_of(problem),
        "optimizer": name_of(make_optimizer),
        "optimizer_takes": ", ".join(factories.make_optimizer.takes),
        "steps": int(steps),
        "divergence_factor": DIVERGENCE_FACTOR,
        "eta": float(eta),
        "compared_by": variable,
        "trials": len(space),
        "programs": len(groups),
        "chunk_size": ", ".join(map(str, sorted({g.width for g in groups}))),
        "share_of_steps": round(trained / (len(space) * steps), 4),
        "compile_seconds": round(compiled - begin, 3),
        "seconds": round(done - compiled, 3),
    }
    return _dataset(space, found, stops, attributes)


class _Rule(NamedTuple):
    """Who goes on from a rung."""

    eta: float
    variable: str

    def of(self, results: dict[str, _Array]) -> _Array:
        """What the points are compared by."""
        known = sorted({*results} - {*_OF_WHAT_WAS_TRAINED})
        if self.variable not in known:
            raise ValueError(
                f"variable must be one of {', '.join(known)}, got {self.variable!r}."
            )
        return results[self.variable]


@dataclass
class _Group:
    """The trials of one program, and where each of them stands."""

    trials: _Array
    width: int
    states: State
    advance: jax.stages.Compiled
    given: Points

    def train(self, alive: _Array, first: int, until: int) -> dict[str, _Array]:
        """Trains those of its trials that are alive on; gives their variables."""
        rows = np.flatnonzero(alive[self.trials])
        found = []
        for part in np.split(rows, range(self.width, len(rows), self.width)):
            if not len(part):
                continue
            lanes = padded(part, self.width)
            trials = self.trials[lanes]
            inputs = self.given.seeds[trials], self.given.at(trials)
            self.states, variables = self.advance(
                self.states, lanes, inputs, np.int32(first), np.int32(until)
            )
            found.append((len(part), variables))
        fetched = [(size, jax.device_get(variables)) for size, variables in found]
        names = fetched[0][1] if fetched else {}
        return {n: np.concatenate([v[n][:s] for s, v in fetched]) for n in names}


def _group(
    factories: Factories,
    statics: dict[str, Any],
    given: Points,
    trials: _Array,
    reduction: float,
) -> _Group:
    """Starts the trials that share their static values, and compiles what they need.

    Their width is such that those that are left in the end still fill a chunk.
    """

    def one(seed: jax.Array, numbers: dict[str, jax.Array]) -> Training:
        problem, optimizer = factories({**statics, **numbers})
        return training(problem, optimizer, jax.random.key(seed), Rules())

    start = jax.jit(jax.vmap(lambda seed, numbers: one(seed, numbers).start))
    states = start(given.seeds[trials], given.at(trials))
    (device,) = states.step.devices()
    parameters = sum(leaf[0].size for leaf in jax.tree.leaves(states.params))
    last = math.ceil(len(trials) / reduction)
    width = min(auto_width(parameters, device), last)
    lanes = np.zeros(width, np.int64)
    inputs = given.seeds[trials[lanes]], given.at(trials[lanes])
    advance = jax.jit(partial(_advance, one), donate_argnums=0).trace(
        states, lanes, inputs, np.int32(0), np.int32(1)
    )
    return _Group(trials, width, states, compiled_for(advance, device), given)


def _advance(
    one: Callable[..., Training],
    states: State,
    rows: jax.Array,
    inputs: tuple[jax.Array, dict[str, jax.Array]],
    first: jax.Array,
    until: jax.Array,
) -> tuple[State, dict[str, jax.Array]]:
    """Trains the states in these rows on, and puts them back."""

    def lane(state: State, inputs: Any) -> tuple[State, dict[str, jax.Array]]:
        _, step, result = one(*inputs)
        state = lax.fori_loop(
            first, until, lambda _, s: step(s)[0], state._replace(step=first)
        )
        return state, variables_of(result(state, until))

    picked = jax.tree.map(lambda leaf: leaf[rows], states)
    trained, variables = jax.vmap(lane)(picked, inputs)
    put = jax.tree.map(lambda leaf, new: leaf.at[rows].set(new), states, trained)
    return put, variables


def _climb(
    space: Space, groups: list[_Group], stops: list[int], rule: _Rule
) -> dict[str, _Array]:
    """Trains from rung to rung; gives the variables of all trials."""
    size = len(space)
    alive = np.ones(size, bool)
    results: dict[str, _Array] = {
        "rung_loss": np.full((size, len(stops)), np.nan, np.float32),
        "trained_steps": np.zeros(size, np.int32),
    }
    for rung, (first, until) in enumerate(zip([0, *stops], stops, strict=False)):
        for group in groups:
            trials = group.trials[alive[group.trials]]
            for name, values in group.train(alive, first, until).items():
                missing = np.nan if values.dtype.kind == "f" else 0
                whole = np.full(size, missing, values.dtype)
                results.setdefault(name, whole)[trials] = values
        results["trained_steps"][alive] = until
        losses = np.where(alive & (results["status"] == 0), rule.of(results), np.inf)
        results["rung_loss"][alive, rung] = losses[alive]
        if until < stops[-1]:
            alive = _survivors(space, losses, rule.eta ** (rung + 1))
    diverged = results["status"] == 1
    for name in {*results} - {*_OF_WHAT_WAS_TRAINED}:
        results[name][~alive] = np.nan
    results["final_loss"][diverged] = np.inf
    return results


def _survivors(space: Space, losses: _Array, reduction: float) -> _Array:
    """For each trial whether it is among the best points, one in `reduction`."""
    names = [dimension.name for dimension in space.dimensions]
    seed = (names.index("seed"),) if "seed" in names else ()
    scores = losses.reshape(space.shape).mean(axis=seed, keepdims=True)
    order = np.argsort(scores, axis=None, kind="stable")
    kept = np.zeros(scores.size, bool)
    kept[order[: math.ceil(scores.size / reduction)]] = True
    alive = kept.reshape(scores.shape) & np.isfinite(scores)
    return np.broadcast_to(alive, space.shape).ravel()


def _dataset(
    space: Space,
    found: dict[str, _Array],
    stops: list[int],
    attributes: dict[str, Any],
) -> xr.Dataset:
    dims = [dimension.name for dimension in space.dimensions]
    coords = {**space.coordinates(), "rung": ("rung", np.array(stops), {})}
    variables = {
        name: (
            [*dims, "rung"] if values.ndim > 1 else dims,
            values.reshape(*space.shape, *values.shape[1:]),
        )
        for name, values in found.items()
    }
    return xr.Dataset(variables, coords, attributes)


def _check(space: Any, rungs: Any, eta: Any) -> None:
    if not isinstance(space, Space):
        raise TypeError(
            f"space must be a space such as grid(max_norm=[0.1, 1.0]), "
            f"got {type(space).__name__}."
        )
    if not positive_int(rungs):
        raise ValueError(f"rungs must be a positive integer, got {rungs!r}.")
    if isinstance(eta, (str, bool)) or not 1 < eta < math.inf:
        raise ValueError(f"eta must be a number above 1, got {eta!r}.")
