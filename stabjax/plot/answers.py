"""Pictures of the answers of `stabjax.runs`."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedFormatter, FixedLocator

from stabjax._arguments import lookup
from stabjax.plot.axes import STAR, legend_below, panels
from stabjax.plot.cells import text_of

_COLOR, _PALE = "#0072B2", "#C5DDEE"
_DOT: dict[str, Any] = {"fmt": "o", "ms": 4, "lw": 1.2, "capsize": 2, "color": _COLOR}
_LOG_RATIO = 10.0  # of the largest to the smallest value of a logarithmic axis


class HasData(Protocol):
    """An answer of `stabjax.runs`."""

    def to_dict(self) -> dict[str, Any]:
        """Returns plain data."""
        ...


def answer(found: HasData, *, ax: Axes | None = None) -> Axes:
    """Plots an answer of `stabjax.runs`.

    - `optimum`: means with standard errors, the fitted curve, and the interval of the
      best value as a band.
    - `compare`: paired differences with their intervals.
    - `sensitivity`: the mean loss at each rate, bounded by the initial loss.
    - `scaling`: the optima with their intervals, against the law.
    - `importance`: shares of the variance, as bars. `marginal` plots a single axis.

    Args:
      found: the result of one of these functions.
      ax: Matplotlib Axes to draw on. Defaults to a new figure.

    Returns:
      The Matplotlib Axes.

    Raises:
      ValueError: If `found` is not the result of one of these functions.

    Example:
      >>> import numpy as np, optax, stabjax
      >>> space = stabjax.grid(rate=np.logspace(-2, 0, 9), seed=range(4))
      >>> problem = stabjax.problems.quadratic(noise=1.0)
      >>> runs = stabjax.sweep(problem, lambda rate: optax.sgd(rate), space, steps=20)
      >>> ax = stabjax.plot.answer(stabjax.runs.optimum(runs, "rate"))
      >>> ax.get_xlabel()
      'rate'
    """
    draw = lookup("found", type(found).__name__, _DRAW)
    ax = ax or panels(1)[0]
    draw(found.to_dict(), ax)
    return ax


def marginal(found: HasData, axis: str, *, ax: Axes | None = None) -> Axes:
    """Plots the mean of a variable against one hyperparameter, pooled over all others.

    Args:
      found: the result of `stabjax.runs.importance`.
      axis: the name of the hyperparameter.
      ax: Matplotlib Axes to draw on. Defaults to a new figure.

    Returns:
      The Matplotlib Axes.

    Raises:
      ValueError: If the result has no axis of this name.

    Example:
      >>> import numpy as np, optax, stabjax
      >>> space = stabjax.grid(rate=np.logspace(-2, 0, 9), seed=range(4))
      >>> problem = stabjax.problems.quadratic(noise=1.0)
      >>> runs = stabjax.sweep(problem, lambda rate: optax.sgd(rate), space, steps=20)
      >>> ax = stabjax.plot.marginal(stabjax.runs.importance(runs), "rate")
      >>> ax.get_ylabel()
      'mean final_loss'
    """
    data = found.to_dict()
    values, means = lookup("axis", axis, data.get("marginals", {})).values()
    ax = ax or panels(1)[0]
    at = _positions(ax, "x", values)
    ax.plot(at, means, "o-", ms=4, lw=1.5, color=_COLOR)
    ax.set(xlabel=axis, ylabel=f"mean {data['variable']}")
    return ax


def _optimum(data: Mapping[str, Any], ax: Axes) -> None:
    values, means = np.array(data["values"]), np.array(data["means"])
    value, low, high = data["value"].values()
    _log(ax, "x", values)
    ends = values.min(), values.max()
    if not np.isnan(low):
        ax.axvspan(*np.clip([low, high], *ends), color=_PALE, lw=0, label="interval")
    curve = np.array(data["curve"])
    ax.plot(*curve, color=_COLOR, lw=1.2, label="fit")
    ax.errorbar(values, means, np.nan_to_num(data["errors"]), **_DOT, zorder=3)
    ax.plot(value, data["mean"]["value"], **STAR)
    # Far values are not fitted, and would flatten the valley.
    spread = np.ptp(curve[1])
    if spread:
        middle = np.sort(np.concatenate([curve[1], means]))
        ax.set_ylim(*_limits(middle, curve[1].min() - spread, curve[1].max() + spread))
    ax.set(xlabel=data["axis"], ylabel=f"mean {data['variable']}")
    legend_below(ax)


def _limits(values: np.ndarray, low: float, high: float) -> tuple[float, float]:
    margin = 0.05 * (high - low)
    return max(values.min(), low) - margin, min(values.max(), high) + margin


def _comparison(data: Mapping[str, Any], ax: Axes) -> None:
    pairs = data["differences"]
    rows = np.arange(len(pairs))[::-1]
    for row, pair in zip(rows, pairs, strict=True):
        value, low, high = pair["difference"].values()
        if np.isfinite(value):
            ends = np.abs(np.nan_to_num([[value - low], [high - value]]))
            ax.errorbar(value, row, xerr=ends, **_DOT)
    ax.axvline(0.0, color="0.6", lw=0.8, zorder=0)
    names = [f"{text_of(p['treatment'])} - {text_of(p['baseline'])}" for p in pairs]
    _name_rows(ax, rows, names)
    ax.set_xlabel(f"difference of mean {data['variable']}")


def _sensitivity(data: Mapping[str, Any], ax: Axes) -> None:
    rates, losses = data["rates"], data["losses"]
    _log(ax, "x", np.array(rates))
    low, high = data["trains"]
    if not np.isnan(low):
        ax.axvspan(low, high, color=_PALE, lw=0, label="trains")
    ax.plot(rates, losses, "o-", ms=4, lw=1.5, color=_COLOR)
    ax.axhline(data["initial_loss"], color="0.6", lw=0.8, ls="--", label="initial loss")
    ax.set(xlabel=data["axis"], ylabel=f"mean {data['variable']}, bounded")
    legend_below(ax)


def _scaling(data: Mapping[str, Any], ax: Axes) -> None:
    optima = np.array([list(optimum.values()) for optimum in data["optima"]])
    law = np.full(len(optima), data["factor"])
    for name, exponent in data["exponents"].items():
        sizes = np.array([size[name] for size in data["sizes"]])
        law = law * sizes ** exponent["value"]
    ends = np.nan_to_num(np.abs(optima[:, 1:].T - optima[:, 0]))
    ax.set(xscale="log", yscale="log")
    if len(data["exponents"]) == 1:
        ax.errorbar(sizes, optima[:, 0], ends, **_DOT)
        ax.plot(sizes, law, color="0.4", lw=1.2)
        ax.set(xlabel=name, ylabel=f"best {data['axis']}")
        return
    ax.errorbar(law, optima[:, 0], ends, **_DOT)
    line = np.array([law.min(), law.max()])
    ax.plot(line, line, color="0.4", lw=1.2)
    ax.set(xlabel=f"best {data['axis']} by the law", ylabel=f"best {data['axis']}")


def _importance(data: Mapping[str, Any], ax: Axes) -> None:
    effects = data["effects"]
    rows = np.arange(len(effects))[::-1]
    shares = np.array([list(effect["share"].values()) for effect in effects])
    ends = np.nan_to_num(np.abs(shares[:, 1:].T - shares[:, 0]))
    ax.barh(rows, shares[:, 0], xerr=ends, color=_COLOR, height=0.7, capsize=2)
    _name_rows(ax, rows, [" x ".join(effect["axes"]) for effect in effects])
    ax.set(xlim=(0, None), xlabel=f"share of the variance of {data['variable']}")


def _name_rows(ax: Axes, rows: np.ndarray, names: list[str]) -> None:
    ax.yaxis.set_major_locator(FixedLocator(list(rows)))
    ax.yaxis.set_major_formatter(FixedFormatter(names))
    ax.set_ylim(-0.6, len(names) - 0.4)


def _positions(ax: Axes, which: str, values: Sequence[Any]) -> np.ndarray:
    """Returns where values are on an axis, one by one if one is not a finite number."""
    if all(type(value) in (int, float) and np.isfinite(value) for value in values):
        numbers = np.array(values, float)
        _log(ax, which, numbers)
        return numbers
    at = np.arange(len(values), dtype=float)
    axis = getattr(ax, f"{which}axis")
    axis.set_major_locator(FixedLocator(list(at)))
    axis.set_major_formatter(FixedFormatter(list(map(text_of, values))))
    return at


def _log(ax: Axes, which: str, values: np.ndarray) -> None:
    if values.min() > 0 and values.max() >= _LOG_RATIO * values.min():
        ax.set(**{f"{which}scale": "log"})


_DRAW: Mapping[str, Callable[[Mapping[str, Any], Axes], None]] = {
    "Comparison": _comparison,
    "Importance": _importance,
    "Optimum": _optimum,
    "Scaling": _scaling,
    "Sensitivity": _sensitivity,
}
