"""Plots of a study, saved as PNG files."""

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
    "Usable learning rates of each problem: the width of the range in which at least"
    " half of the seeds reach the target loss. One decade is a factor of ten. The"
    ' baseline uses no clipping and a constant learning rate. "Both" means clipping and'
    " a schedule."
)
_MARKS = "os^D"
_MAX_SHOWN = 100.0  # losses above this multiple of the initial loss have the same color


def draw(runs: xr.Dataset, folder: Path) -> dict[str, str]:
    """Saves all plots of a problem and returns a dict of captions, keyed by file."""
    captions = {}
    for name, (picture, caption) in _PICTURES.items():
        file = f"{slug(runs.attrs['label'])}-{name}.png"
        figure = picture(runs)
        figure.suptitle(runs.attrs["label"])
        figure.savefig(folder / file)
        captions[file] = caption
    return captions


def draw_overview(measured: Sequence[xr.Dataset], folder: Path) -> dict[str, str]:
    """Saves the overview plot and returns a dict with its caption, keyed by file."""
    [ax] = plot.panels(1)
    figure: Any = ax.figure
    figure.set_size_inches(7.2, 1.2 + 0.3 * len(measured))
    rows = np.arange(len(measured))[::-1]
    widths = [[float(m.width.sel(treatment=t)) for m in measured] for t in FOUR]
    ax.hlines(rows, np.min(widths, 0), np.max(widths, 0), color="0.8", zorder=0)
    lines = zip(FOUR, widths, _MARKS, styles(), strict=False)
    for number, (name, width, mark, style) in enumerate(lines):
        look: dict[str, Any] = style | {"marker": mark, "linestyle": "none"}
        ax.plot(width, rows + 0.2 - 0.13 * number, label=name, ms=6, **look)
    ax.set_yticks(rows, [str(m.attrs["label"]) for m in measured])
    ax.set_xlabel("usable learning rates (decades)")
    ax.set_xlim(left=-0.1)
    ax.set_ylim(-0.6, len(measured) - 0.4)
    ax.legend(ncols=4, frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    figure.savefig(folder / _OVERVIEW)
    return {_OVERVIEW: _OVERVIEW_CAPTION}


def _curves(runs: xr.Dataset) -> Any:
    left, right = plot.panels(2)
    four = runs.sel(treatment=list(FOUR))
    titles = {"tuned": "at the tuned rate of each", "untuned": _at(runs, "untuned")}
    for ax, (rate, title) in zip((left, right), titles.items(), strict=True):
        plot.learning_curves(four.sel(rate=rate), hue="treatment", ax=ax)
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
    largest = _MAX_SHOWN * float(runs.loss.isel(step=0).median())
    limits = (finite.min(), min(finite.max(), largest)) if finite.size else None
    for ax, scheduled in ((left, 0.0), (right, 1.0)):
        one = shown.sel(scheduled=scheduled)
        plot.heatmap(one, x="peak_value", y="threshold", limits=limits, ax=ax)
        ax.axhline(runs.attrs["threshold"], color="white", lw=1, ls=":")
        ax.set_title("schedule" if scheduled else "constant rate")
    return left.figure


def _stability(runs: xr.Dataset) -> Any:
    left, right = plot.panels(2)
    four = runs.sel(treatment=list(FOUR))
    runs_of_four = runs[["status", "final_loss"]].sel(
        threshold=four.chosen_threshold, scheduled=four.chosen_scheduled
    )
    runs_of_four["treatment"].attrs["long_name"] = " "  # hides the legend title
    target = runs.attrs["target_loss"]
    plot.stable_fraction(runs_of_four, x="peak_value", hue="treatment", ax=left)
    plot.rate_ranges(
        runs_of_four, x="peak_value", y="treatment", target=target, ax=right
    )
    return left.figure


def _norms(runs: xr.Dataset) -> Any:
    left, right = plot.panels(2)
    two = runs.sel(treatment=["baseline", "clipping"])
    for ax, rate in ((left, "common"), (right, "untuned")):
        plot.learning_curves(
            two.sel(rate=rate), variable="update_norm", hue="treatment", ax=ax
        )
        if runs.attrs["threshold_is_norm"]:
            ax.axhline(runs.attrs["threshold"], color="black", lw=1, ls=":")
        ax.set_title(_at(runs, rate))
    return left.figure


def _at(runs: xr.Dataset, rate: str) -> str:
    """Returns a title that contains the learning rate."""
    value = float(runs.chosen_rate.sel(treatment="baseline", rate=rate))
    text = {
        "common": "at the best rate for the baseline",
        "untuned": "at an untuned rate",
    }
    return f"{text[rate]}, {as_number(value)}"


_PICTURES: dict[str, tuple[Callable[[xr.Dataset], Any], str]] = {
    "curves": (
        _curves,
        "Learning curves. The line is the median over the seeds, and the band covers"
        " the middle 80%. A cross marks the divergence of the median run. The dotted"
        " line is the target loss.",
    ),
    "map": (
        _map,
        "Median final loss against learning rate and threshold. The top row has no"
        " clipping. The dotted line is the fixed threshold.",
    ),
    "stability": (
        _stability,
        "Left: fraction of stable seeds at each learning rate, with 95% Wilson score"
        " intervals. Right: fraction of seeds that reach the target. Dark bars mark"
        " usable rates, at which at least half of the seeds reach the target.",
    ),
    "norms": (
        _norms,
        "Norm of the optimizer's input with and without clipping at a constant learning"
        " rate. The dotted line is the threshold, if it is a norm.",
    ),
}
