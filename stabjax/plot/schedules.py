"""Plots of schedules in figures and in the terminal."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes

from stabjax._arguments import as_integer
from stabjax._schedules import schedule_bound
from stabjax._types import Schedule
from stabjax.plot.axes import legend_below, panels, styles

_POINTS = 2000  # points per curve, more than the resolution of a plot
_BARS = " ▁▂▃▄▅▆▇█"


def schedules(
    named: Mapping[str, Schedule],
    steps: int,
    *,
    bound: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """Plots schedules and their theoretical bounds.

    The legend shows the bound of `stabjax.schedule_bound` at the best learning rate, in
    units of `D G / sqrt(T)`. The bound depends only on the shape of a schedule. For the
    best schedules, it is 2 or slightly less, regardless of the number of steps.

    Args:
      named: a dict of schedules, keyed by name.
      steps: number of updates, >= 1. **Static.**
      bound: whether to show the bound. **Static.**
      ax: Matplotlib Axes to draw on. Defaults to a new figure.

    Returns:
      The Matplotlib Axes.

    Raises:
      ValueError: If `steps` is not positive.

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
        ax.set_ylim(-0.04 * high, 1.04 * high)  # includes zero so heights compare
    ax.set_xlabel("step")
    ax.set_ylabel("value")
    title = r"bound at the best rate / ($DG/\sqrt{T}$)" if bound else None
    legend_below(ax, columns=2, title=title, title_fontsize="small")
    return ax


def schedule_text(
    schedule: Schedule, steps: int, *, width: int = 64, height: int = 10
) -> str:
    """Plots a schedule with block characters, for display in a terminal.

    Args:
      schedule: a function of the step count.
      steps: number of updates, >= 1. **Static.**
      width: number of columns, >= 1. **Static.**
      height: number of rows, >= 1. **Static.**

    Returns:
      A string with several lines. The vertical axis ranges from the smallest value or 0
      to the largest value. Each column shows the mean over its steps. The bottom line
      labels the steps.

    Raises:
      ValueError: If `steps`, `width` or `height` is not positive.

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
    # A single vectorized call for 2,000 counts takes 0.06 s. Separate calls take 33 s
    # (jax 0.10.2, CPU).
    curve: Schedule = jax.vmap(lambda count: jnp.asarray(schedule(count), jnp.float32))
    return np.asarray(curve(jnp.asarray(counts)))
