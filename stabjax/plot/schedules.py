"""Schedules as curves, with their theoretical bounds, and as text."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes

from stabjax._arguments import as_integer
from stabjax._schedules import schedule_bound
from stabjax._types import Schedule
from stabjax.plot.axes import legend_below, panels, styles

_POINTS = 2000  # of a curve, more than a plot can show
_BARS = " ▁▂▃▄▅▆▇█"


def schedules(
    named: Mapping[str, Schedule],
    steps: int,
    *,
    bound: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """Schedules in one plot, from the first update to the last.

    The legend has the bound of `stabjax.schedule_bound` at the best learning rate, in
    units of `D G / sqrt(T)`. The best schedules have 2 or slightly less for any number
    of steps. The bound depends on the shape of a schedule, not on its height.

    Args:
      named: schedules by name.
      steps: number of updates, >= 1. **Static.**
      bound: whether to show the bound. **Static.**
      ax: where to draw; None makes a new figure.

    Returns:
      The axes.

    Raises:
      ValueError: `steps` is out of range.

    Example:
      >>> import stabjax
      >>> named = {
      ...     "linear": stabjax.linear_schedule(1.0, 0.0, 400),
      ...     "constant": stabjax.constant_schedule(1.0),
      ... }
      >>> ax = stabjax.plot.schedules(named, 400)
      >>> [line.get_label() for line in ax.get_lines()]
      ['linear: 2.01', 'constant: 2.75']
    """
    ax = ax or panels(1)[0]
    counts = _counts(steps)
    for (name, schedule), style in zip(named.items(), styles(), strict=False):
        label = name
        if bound:
            best = schedule_bound(schedule, steps).best_value * steps**0.5
            label = f"{name}: {best:.3g}"
        marker = "." if steps == 1 else ""
        ax.plot(counts, _values(schedule, counts), label=label, marker=marker, **style)
    low, high = ax.dataLim.intervaly
    if 0 <= low < high or low == high > 0:
        ax.set_ylim(-0.04 * high, 1.04 * high)  # heights compare only from zero
    ax.set_xlabel("step")
    ax.set_ylabel("value")
    title = r"bound at the best rate, by $DG/\sqrt{T}$" if bound else None
    legend_below(ax, columns=2, title=title, title_fontsize="small")
    return ax


def schedule_text(
    schedule: Schedule, steps: int, *, width: int = 64, height: int = 10
) -> str:
    """Schedule drawn with block characters, for the terminal.

    Args:
      schedule: a function of the count.
      steps: number of updates, >= 1. **Static.**
      width: columns of the curve, >= 1. **Static.**
      height: rows of the curve, >= 1. **Static.**

    Returns:
      Lines of text. The curve spans its smallest value (or 0) to its largest, each
      column is the mean of its steps, and the last line has the steps.

    Raises:
      ValueError: `steps` is out of range.

    Example:
      >>> import stabjax
      >>> ramp = stabjax.linear_schedule(0.0, 1.0, 8)
      >>> print(stabjax.plot.schedule_text(ramp, 9, width=9, height=2))
             1 |      ▂▄▆█
             0 | ▂▄▆█████
               0         9
    """
    values = _values(schedule, _counts(steps))
    columns = np.array(
        [part.mean() for part in np.array_split(values, width) if part.size]
    )
    low, high = min(0.0, float(values.min())), float(values.max())
    span = high - low if high > low else 1.0
    eighths = np.round((columns - low) / span * 8 * height).astype(int)
    lines = []
    for row in reversed(range(height)):
        filled = np.clip(eighths - 8 * row, 0, 8)
        label = f"{high:.4g}" if row == height - 1 else f"{low:.4g}" if row == 0 else ""
        bars = "".join(_BARS[eighth] for eighth in filled)
        lines.append(f"{label:>12} |{bars}".rstrip())
    ends = f"0{steps:>{len(columns)}}"
    return "\n".join([*lines, " " * 13 + " " + ends])


def _counts(steps: int) -> np.ndarray:
    steps = as_integer("steps", steps)
    even = np.linspace(0, steps - 1, min(steps, _POINTS))
    return np.unique(np.round(even).astype(np.int32))


def _values(schedule: Schedule, counts: np.ndarray) -> np.ndarray:
    # One call: 2,000 counts take 0.06 s, and one by one 33 s (jax 0.10.2, CPU).
    curve: Schedule = jax.vmap(lambda count: jnp.asarray(schedule(count), jnp.float32))
    return np.asarray(curve(jnp.asarray(counts)))
