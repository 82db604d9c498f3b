"""Optuna integration: samplers for sweeps, and studies of their results.

Use `ask` and `tell` to run batches of trials from any sampler:

    for _ in range(10):
        space = stabjax.search.ask(study, 64, rate=FloatDistribution(1e-3, 1, log=True))
        runs = stabjax.sweep(problem, make_optimizer, space, steps=200)
        stabjax.search.tell(study, runs)

Use `to_study` to analyze a sweep with Optuna's importances, plots and dashboard.
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

_STORE = "store"  # trial attribute with the store of the sweep that trains it
_LOG_RATIO = 100.0  # minimum ratio of largest to smallest value for a logarithmic axis


def ask(
    study: optuna.Study,
    n: int,
    store: str | os.PathLike[str] | None = None,
    /,
    **axes: BaseDistribution,
) -> Space:
    """Asks a study for `n` trials, and returns them as a space for `sweep`.

    To make a search resumable, pass `store`, the folder of the sweep that will train
    the trials. If the script is run again, it gets the same trials, trains only those
    that are missing from the store, and reports only those that are missing from the
    study.

    Args:
      study: any Optuna study. Its sampler chooses the trials. To resume a search, use a
        storage such as `sqlite:///study.db`, or a sampler with a seed.
      n: number of trials, >= 1. Use the same number for each batch to compile only
        once.
      store: the folder of the sweep that trains the batch, a different one for each
        batch. If the study already has trials for the folder, those trials are
        returned.
      **axes: a distribution from `optuna.distributions` for each axis. Numbers are
        traced. Each combination of other values requires a separate compilation.

    Returns:
      A space with a single dimension `trial`, whose coordinate is the trial number in
      the study. To train each trial with eight seeds, use
      `ask(...) * grid(seed=range(8))`.

    Raises:
      ValueError: If `n` is not positive, or there are no axes.
      TypeError: If an axis is not a distribution.

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
        raise ValueError("ask requires at least one axis with a distribution.")
    for name, axis in axes.items():
        if not isinstance(axis, BaseDistribution):
            raise TypeError(
                f"{name} must be a distribution of Optuna, such as "
                f"optuna.distributions.FloatDistribution(1e-3, 1.0, log=True), got "
                f"{type(axis).__name__}."
            )
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
    """Reports the results of trials from `ask` to a study.

    The value of a trial is the mean of a variable over seeds. If any run of the trial
    diverged, the value is infinitely bad. Trials without runs are reported as failed.
    Trials are identified by number, so several processes can share a study and several
    batches can be in progress at the same time. Reporting a trial of a store again has
    no effect.

    Args:
      study: the study that the trials belong to.
      runs: the dataset of `sweep` for the space from `ask`.
      variable: a variable with one value for each run.
      over: dimension or dimensions to average over.

    Returns:
      Whether the sampler has more trials to suggest. It is False after `GridSampler` or
      `BruteForceSampler` has tried all combinations.

    Raises:
      ValueError: If the runs are not open trials of the study, or the dataset does not
        have the variable or a dimension.

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
            "runs must be from a space returned by ask, with no dimensions except "
            f"trial and those in over, got {', '.join(map(str, mean.dims))}."
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
            # An exhausted sampler calls `Study.stop`, which raises outside of
            # `optimize` after the value has been stored (Optuna 4 and 5).
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
    """Returns the trials that an earlier process has requested for the store."""
    found: list[FrozenTrial | optuna.Trial] = [
        trial
        for trial in study.get_trials(deepcopy=False)
        if trial.user_attrs.get(_STORE) == os.fspath(store)
    ]
    if len(found) > n or any(trial.distributions != axes for trial in found):
        raise ValueError(
            f"the study has {len(found)} trials for the store {os.fspath(store)!r}, "
            f"with other axes or more than n={n}. Use another store, or call ask with "
            f"the same arguments as before."
        )
    return found


def _check_open(
    study: optuna.Study, numbers: list[int], columns: dict[str, list[Any]]
) -> None:
    """Raises a ValueError unless these are open trials of the study."""
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
            "runs must contain open trials that were returned by ask for this study, "
            "without duplicates."
        )


def to_study(
    runs: xr.Dataset,
    variable: str = "final_loss",
    *,
    over: str | Sequence[str] = "seed",
    maximize: bool = False,
    study: optuna.Study | None = None,
) -> optuna.Study:
    """Converts a dataset to an Optuna study with one completed trial per point.

    The value of a trial is the mean of a variable over seeds. If any run of a point
    diverged, the value is infinitely bad. The user attribute `stable_fraction` is the
    fraction of stable seeds. If the loss was recorded, its mean over seeds provides the
    intermediate values. Points without runs are omitted.

    Args:
      runs: a dataset from `sweep`, or part of one.
      variable: a variable with one value for each run.
      over: dimension or dimensions to average over.
      maximize: whether larger values are better, which sets the direction of the study.
      study: an existing study to add the trials to, for example one in a database. Its
        direction must match `maximize`. By default, creates a new study in memory.

    Returns:
      The study. Numeric axes have a `FloatDistribution` or `IntDistribution`, on a
      logarithmic scale if the largest value is at least 100 times the smallest. All
      other axes, and axes with an infinite value, are categorical.

    Raises:
      ValueError: If the dataset does not have the variable or a dimension, or the
        direction of the study does not match.

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
            f"study must {direction.name.lower()} because maximize={maximize}, but its "
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
    """Returns each axis as a list of values at every point, as Optuna stores them."""
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
    """Returns a function that maps a point to its recorded losses by step."""
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
