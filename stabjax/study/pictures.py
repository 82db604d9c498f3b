"""The pictures of a problem: dataset in, PNG files out."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from stabjax import plot
from stabjax.plot.axes import styles
from stabjax.study.experiment import FOUR, SOLVED
from stabjax.study.plan import slug
from stabjax.study.text import as_number

_OVERVIEW = "overview.png"
_OVERVIEW_CAPTION = (
    "How wide the range of learning rates is that train, on each problem: at which half"
    " of the seeds end at the target."
)
_MARKS = "os^D"
_SHOWN_ABOVE = 100.0  # times the first loss: what lies above has one colour


def draw(runs: xr.Dataset, folder: Path) -> dict[str, str]:
    """Draws all pictures of a problem into a folder.

    Returns:
      For each file its name and what it shows.
    """
    captions = {}
    for name, (picture, caption) in _PICTURES.items():
        file = f"{slug(runs.attrs['label'])}-{name}.png"
        figure = picture(runs)
        figure.suptitle(runs.attrs["label"])
        figure.savefig(folder / file)
        captions[file] = caption
    return captions


def draw_overview(measured: Sequence[xr.Dataset], folder: Path) -> dict[str, str]:
    """Draws how many decades of rates train on each problem, with each remedy."""
    [ax] = plot.panels(1)
    figure: Any = ax.figure
    figure.set_size_inches(7.2, 1.2 + 0.3 * len(measured))
    rows = np.arange(len(measured))[::-1]
    widths = [[float(m.width.sel({"remedy": r})) for m in measured] for r in FOUR]
    ax.hlines(rows, np.min(widths, 0), np.max(widths, 0), color="0.8", zorder=0)
    lines = zip(FOUR, widths, _MARKS, styles(), strict=False)
    for number, (name, width, mark, style) in enumerate(lines):
        look: dict[str, Any] = style | {"marker": mark, "linestyle": "none"}
        ax.plot(width, rows + 0.2 - 0.13 * number, label=name, ms=6, **look)
    ax.set_yticks(rows, [str(m.attrs["label"]) for m in measured])
    ax.set_xlabel("decades of learning rates that train")
    ax.set_xlim(left=-0.1)
    ax.legend(ncols=4, frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    figure.savefig(folder / _OVERVIEW)
    return {_OVERVIEW: _OVERVIEW_CAPTION}


def _curves(runs: xr.Dataset) -> Any:
    left, right = plot.panels(2)
    four = runs.sel(remedy=list(FOUR))
    titles = {"tuned": "each at its tuned rate", "untuned": _at(runs, "untuned")}
    for ax, (rate, title) in zip((left, right), titles.items(), strict=True):
        plot.learning_curves(four.sel(rate=rate), hue="remedy", ax=ax)
        ax.axhline(runs.attrs["target_loss"], color="black", lw=1, ls=":")
        ax.set_title(title)
    return left.figure


def _map(runs: xr.Dataset) -> Any:
    left, right = plot.panels(2)
    floor = SOLVED * runs.attrs["target_loss"]
    shown = runs.assign(final_loss=np.maximum(runs.final_loss, floor))
    shown.final_loss.attrs = runs.final_loss.attrs
    losses = shown.final_loss.reduce(np.median, "seed")
    finite = losses.to_numpy()[np.isfinite(losses)]
    most = _SHOWN_ABOVE * float(runs.loss.isel(step=0).median())
    limits = (finite.min(), min(finite.max(), most)) if finite.size else None
    for ax, scheduled in ((left, 0.0), (right, 1.0)):
        one = shown.sel(scheduled=scheduled)
        plot.heatmap(one, x="peak_value", y="threshold", limits=limits, ax=ax)
        ax.axhline(runs.attrs["threshold"], color="white", lw=1, ls=":")
        ax.set_title("schedule" if scheduled else "constant rate")
    return left.figure


def _stability(runs: xr.Dataset) -> Any:
    left, right = plot.panels(2)
    four = runs.sel(remedy=list(FOUR))
    runs_of_four = runs[["status", "final_loss"]].sel(
        threshold=four.chosen_threshold, scheduled=four.chosen_scheduled
    )
    runs_of_four["remedy"].attrs["long_name"] = " "  # its values say what they are
    target = runs.attrs["target_loss"]
    plot.stable_fraction(runs_of_four, x="peak_value", hue="remedy", ax=left)
    plot.rate_ranges(
        runs_of_four, x="peak_value", y="remedy", target_loss=target, ax=right
    )
    return left.figure


def _norms(runs: xr.Dataset) -> Any:
    left, right = plot.panels(2)
    two = runs.sel(remedy=["neither", "clipping"])
    for ax, rate in ((left, "common"), (right, "untuned")):
        plot.learning_curves(
            two.sel(rate=rate), variable="update_norm", hue="remedy", ax=ax
        )
        if runs.attrs["threshold_is_norm"]:
            ax.axhline(runs.attrs["threshold"], color="black", lw=1, ls=":")
        ax.set_title(_at(runs, rate))
    return left.figure


def _at(runs: xr.Dataset, rate: str) -> str:
    """The learning rate that this is called by, for the title."""
    value = float(runs.chosen_rate.sel(remedy="neither", rate=rate))
    text = {"common": "at the best rate for neither", "untuned": "at an untuned rate"}
    return f"{text[rate]}, {as_number(value)}"


_PICTURES: dict[str, tuple[Callable[[xr.Dataset], Any], str]] = {
    "curves": (
        _curves,
        "Learning curves: the median run, and the middle 80 % of the seeds; a cross is"
        " where the median run diverged, the dotted line the target.",
    ),
    "map": (
        _map,
        "Final loss, the median of the seeds, over learning rate and threshold; the top"
        " strip is without clipping, the dotted line the fixed threshold.",
    ),
    "stability": (
        _stability,
        "Left: share of the seeds whose run does not diverge, at each learning rate,"
        " with Wilson's 95 % intervals. Right: the rates that train, at which half of"
        " the seeds or more end at the target; the height is their share.",
    ),
    "norms": (
        _norms,
        "Norm of what the optimizer got, with and without clipping, at a constant rate;"
        " dotted: the threshold, where it is one for norms.",
    ),
}
