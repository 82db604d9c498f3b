"""Optuna: its samplers choose the trials of sweeps, and datasets become studies.

`ask` and `tell` let any sampler choose many trials at once:

    for _ in range(10):
        space = stabjax.search.ask(study, 64, rate=FloatDistribution(1e-3, 1, log=True))
        runs = stabjax.sweep(problem, make_optimizer, space, steps=200)
        stabjax.search.tell(study, runs)

`to_study` shows Optuna's importances, plots and dashboard what a sweep has found.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import optuna
import xarray as xr
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial, TrialState

from stabjax._arguments import as_integer
from stabjax._sweep.axes import static
from stabjax._sweep.space import Space, zipped
from stabjax.runs.points import NO_HYPERPARAMETERS, mean_of, values_of

__all__ = ["ask", "tell", "to_study"]

_STORE = "store"  # the attribute of a trial that was asked for the store of its sweep
_LOG_RATIO = 100.0  # of the largest to the smallest value of a logarithmic axis


def ask(
    study: optuna.Study,
    n: int,
    store: str | os.PathLike[str] | None = None,
    /,
    **axes: BaseDistribution,
) -> Space:
    """Asks a study for `n` trials, as a space for `sweep`.

    With `store`, the folder of the sweep that will train them, a search resumes: the
    same script asks for the same trials, trains only those that the store lacks, and
    reports only those that the study lacks.

    Args:
      study: any study; its sampler chooses. To resume, it needs a sampler with a seed,
        or a storage such as `sqlite:///study.db`.
      n: number of trials, >= 1; the same in each batch, so that `sweep` compiles once.
      store: a folder for each batch, as in `sweep`; kept as an attribute of its trials.
        Trials of the study that were asked for it before are returned again.
      **axes: a distribution of `optuna.distributions` for each axis. Numbers are
        traced; each combination of other choices is one compilation.

    Returns:
      A space with one dimension `trial`, whose coordinate is the number of each trial
      in the study; `ask(...) * grid(seed=range(8))` trains each with eight seeds.

    Raises:
      ValueError: `n` is not positive or there is no axis.

    Example:
      >>> import optuna, stabjax
      >>> from optuna.distributions import CategoricalDistribution, FloatDistribution
      >>> optuna.logging.set_verbosity(optuna.logging.WARNING)
      >>> study = optuna.create_study()
      >>> rate = FloatDistribution(1e-3, 1.0, log=True)
      >>> decay = CategoricalDistribution([0.0, 0.9])
      >>> stabjax.search.ask(study, 16, rate=rate, decay=decay)
      Space(trial: 16; 16 trials)

      A search that resumes when the script is called again:

      >>> study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0))
      >>> for store in ("search/0", "search/1"):  # doctest: +SKIP
      ...     space = stabjax.search.ask(study, 16, store, rate=rate, decay=decay)
      ...     runs = stabjax.sweep(problem, make_optimizer, space, steps=9, store=store)
      ...     stabjax.search.tell(study, runs)
    """
    n = as_integer("n", n)
    if not axes:
        raise ValueError("ask needs at least one axis and its distribution.")
    asked = _asked_before(study, store, n, axes) if store is not None else []
    while len(asked) < n:
        trial = study.ask(axes)
        if store is not None:
            trial.set_user_attr(_STORE, os.fspath(store))
        asked.append(trial)
    columns = {name: [trial.params[name] for trial in asked] for name in axes}
    space = zipped(
        **{
            name: static(values) if _is_static(axes[name]) else values
            for name, values in columns.items()
        }
    )
    numbers = tuple(trial.number for trial in asked)
    (dimension,) = space.dimensions
    return Space((replace(dimension, numbers=numbers),))


def tell(
    study: optuna.Study,
    runs: xr.Dataset,
    variable: str = "final_loss",
    *,
    over: str | Sequence[str] = "seed",
) -> bool:
    """Reports the results of trials from `ask` to their study.

    The value of a trial is the mean of a variable over the seeds; one diverged run
    makes it infinitely bad. A trial that was not run is reported as failed. Trials are
    known by their numbers, so several processes can share a study, and several batches
    can be open at once. Trials that were asked for a store may be reported again, which
    changes nothing.

    Args:
      study: the study of the trials.
      runs: the dataset of `sweep` for the space that `ask` returned.
      variable: a variable with one value for each run.
      over: the dimension or dimensions to average over.

    Returns:
      Whether the sampler has more to suggest: False once `GridSampler` or
      `BruteForceSampler` has tried everything.

    Raises:
      ValueError: these are not open trials of the study, or the dataset lacks the
        variable or a dimension.

    Example:
      >>> import optax, optuna, stabjax
      >>> from optuna.distributions import FloatDistribution
      >>> optuna.logging.set_verbosity(optuna.logging.WARNING)
      >>> study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0))
      >>> problem = stabjax.problems.quadratic()
      >>> def make_optimizer(rate):
      ...     return optax.sgd(rate)
      >>> for _ in range(3):
      ...     rate = FloatDistribution(1e-3, 1.5, log=True)
      ...     space = stabjax.search.ask(study, 8, rate=rate)
      ...     runs = stabjax.sweep(problem, make_optimizer, space, steps=20)
      ...     more = stabjax.search.tell(study, runs)
      >>> 0.3 < study.best_params["rate"] < 0.7
      True
    """
    maximize = study.direction == optuna.study.StudyDirection.MAXIMIZE
    mean = mean_of(runs, variable, over, maximize)
    if mean.dims != ("trial",):
        raise ValueError(
            f"runs must be those of a space from ask, with no other dimension than "
            f"trial and those of over, got {', '.join(map(str, mean.dims))}."
        )
    numbers = runs["trial"].values.tolist()
    _check_open(study, numbers, _columns(runs, mean))
    more = True
    reported = {
        t.number for t in study.get_trials(deepcopy=False) if t.state.is_finished()
    }
    for number, value in zip(numbers, mean.values.tolist(), strict=True):
        if number in reported:
            continue
        failed = bool(np.isnan(value))
        try:
            study.tell(
                number,
                None if failed else -value if maximize else value,
                TrialState.FAIL if failed else TrialState.COMPLETE,
            )
        except RuntimeError as error:
            # A sampler that has tried everything stops `Study.optimize`, which is not
            # running; the value is stored before that is found out (Optuna 4 and 5).
            if "Study.stop" not in str(error):
                raise
            more = False
    return more


def _asked_before(
    study: optuna.Study,
    store: str | os.PathLike[str],
    n: int,
    axes: Mapping[str, BaseDistribution],
) -> list[FrozenTrial | optuna.Trial]:
    """The trials that this study was asked for a store, in an earlier process."""
    found: list[FrozenTrial | optuna.Trial] = [
        trial
        for trial in study.get_trials(deepcopy=False)
        if trial.user_attrs.get(_STORE) == os.fspath(store)
    ]
    if len(found) > n or any(trial.distributions != axes for trial in found):
        raise ValueError(
            f"the study has {len(found)} trials for the store {os.fspath(store)!r}, "
            f"with other axes or more than n={n}: name another store, or call ask as "
            f"it was called."
        )
    return found


def _check_open(
    study: optuna.Study, numbers: list[int], columns: dict[str, list[Any]]
) -> None:
    """Raises unless these are trials that the study waits for, with these values."""
    known = {
        trial.number: trial.params
        for trial in study.get_trials(deepcopy=False)
        if trial.state == TrialState.RUNNING or _STORE in trial.user_attrs
    }
    if len({*numbers}) < len(numbers) or any(
        number not in known
        or any(
            name not in columns or columns[name][row] != value
            for name, value in known[number].items()
        )
        for row, number in enumerate(numbers)
    ):
        raise ValueError(
            "runs must be of trials that the study was asked for and that are still "
            "open, each once: these are not."
        )


def to_study(
    runs: xr.Dataset,
    variable: str = "final_loss",
    *,
    over: str | Sequence[str] = "seed",
    maximize: bool = False,
    study: optuna.Study | None = None,
) -> optuna.Study:
    """Returns an Optuna study of a dataset: one complete trial for each point.

    The value of a trial is the mean of a variable over the seeds; one diverged run
    makes it infinitely bad. The fraction of stable seeds is its user attribute
    `stable_fraction`, and the mean of a recorded loss is its intermediate values.
    Points that did not run are left out.

    Args:
      runs: the dataset of `sweep`, or a part of it.
      variable: a variable with one value for each run.
      over: the dimension or dimensions to average over.
      maximize: whether larger values are better; makes a study that maximizes.
      study: a study to add the trials to, such as one in a database, instead of a new
        one in memory. Its direction must agree with `maximize`.

    Returns:
      The study. Axes of numbers have a Float- or IntDistribution, logarithmic if the
      largest value is at least 100 times the smallest. All other axes, and those with
      an infinite value, are categorical.

    Raises:
      ValueError: the dataset lacks the variable or a dimension, or the study has the
        other direction.

    Example:
      >>> import optax, optuna, stabjax
      >>> optuna.logging.set_verbosity(optuna.logging.WARNING)
      >>> def make_optimizer(rate, decay):
      ...     return optax.sgd(rate, momentum=decay)
      >>> space = stabjax.grid(rate=[0.01, 0.1, 0.4], decay=[0.0, 0.5], seed=range(4))
      >>> problem = stabjax.problems.quadratic()
      >>> runs = stabjax.sweep(problem, make_optimizer, space, steps=20)
      >>> study = stabjax.search.to_study(runs)
      >>> len(study.trials), study.best_params
      (6, {'rate': 0.4, 'decay': 0.0})
    """
    directions = optuna.study.StudyDirection
    direction = directions.MAXIMIZE if maximize else directions.MINIMIZE
    study = study or optuna.create_study(direction=direction)
    if study.direction != direction:
        raise ValueError(
            f"study must {direction.name.lower()} as maximize={maximize} does, but its "
            f"direction is {study.direction.name}."
        )
    mean = mean_of(runs, variable, over, maximize)
    columns = _columns(runs, mean)
    distributions = {name: _distribution(values) for name, values in columns.items()}
    fractions = (runs["status"] == 0).mean(set(runs["status"].dims) - set(mean.dims))
    stable = fractions.transpose(*mean.dims).values.ravel()
    curves = _curves(runs, mean)
    study.add_trials(
        [
            optuna.create_trial(
                params={name: values[row] for name, values in columns.items()},
                distributions=distributions,
                value=-value if maximize else value,
                user_attrs={"stable_fraction": float(stable[row])},
                intermediate_values=curves(row),
            )
            for row, value in enumerate(mean.values.ravel().tolist())
            if not np.isnan(value)
        ]
    )
    return study


def _columns(runs: xr.Dataset, mean: xr.DataArray) -> dict[str, list[Any]]:
    """For each axis, its value at every point as Optuna stores it."""
    rows = np.unravel_index(np.arange(mean.size), mean.shape)
    positions = dict(zip(mean.dims, rows, strict=True))
    columns = {}
    for name, coordinate in runs.coords.items():
        if name in NO_HYPERPARAMETERS or not set(coordinate.dims) <= set(mean.dims):
            continue
        values = [_plain(value) for value in values_of(coordinate)]
        row = positions[coordinate.dims[0]] if coordinate.dims else np.zeros(mean.size)
        columns[str(name)] = [values[int(position)] for position in row]
    return columns


def _curves(runs: xr.Dataset, mean: xr.DataArray) -> Callable[[int], dict[int, float]]:
    """Returns a function of a point that returns its recorded losses by step."""
    if "step" not in runs.dims or "loss" not in runs:
        return lambda row: {}
    loss = runs["loss"]
    pooled = loss.mean(set(loss.dims) - {*mean.dims, "step"})
    curves = pooled.transpose(*mean.dims, "step").values.reshape(mean.size, -1)
    steps = runs["step"].values.tolist()
    return lambda row: dict(zip(steps, curves[row].tolist(), strict=True))


def _distribution(values: list[Any]) -> BaseDistribution:
    distinct = list(dict.fromkeys(values))
    numbers = all(type(value) in (int, float) for value in distinct)
    if not numbers or not np.isfinite(distinct).all():
        return CategoricalDistribution(distinct)
    low, high = min(distinct), max(distinct)
    log = low > 0 and high / low >= _LOG_RATIO
    if all(type(value) is int for value in distinct):
        return IntDistribution(low, high, log=log)
    return FloatDistribution(low, high, log=log)


def _plain(value: Any) -> Any:
    plain = value is None or isinstance(value, (bool, int, float, str))
    return value if plain else str(getattr(value, "__name__", value))


def _is_static(distribution: BaseDistribution) -> bool:
    if not isinstance(distribution, CategoricalDistribution):
        return False
    return any(type(choice) not in (int, float) for choice in distribution.choices)
