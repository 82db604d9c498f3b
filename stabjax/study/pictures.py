"""The pictures of a problem: dataset in, PNG files out."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from stabjax import plot
from stabjax.study.experiment import FOUR, SOLVED

_SHOWN_ABOVE = 100.0  # times the first loss: what lies above has one colour


def draw(runs: xr.Dataset, folder: Path) -> dict[str, str]:
    """Draws all pictures of a problem into a folder.

    Returns:
      For each file its name and what it shows.
    """
    captions = {}
    for name, (picture, caption) in _PICTURES.items():
        file = f"{runs.attrs['problem']}-{name}.png"
        figure = picture(runs)
        figure.suptitle(runs.attrs["label"])
        figure.savefig(folder / file)
        captions[file] = caption
    return captions


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
    target = runs.attrs["target_loss"]
    plot.stable_share(runs_of_four, x="peak_value", hue="remedy", ax=left)
    plot.stable_share(
        runs_of_four, x="peak_value", hue="remedy", target_loss=target, ax=right
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
    return f"{text[rate]}, {value:.2g}"


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
        "Share of the seeds whose run holds, and that ends at the target, at each"
        " learning rate, with Wilson's 95 % intervals.",
    ),
    "norms": (
        _norms,
        "Norm of what the optimizer got, with and without clipping, at a constant rate;"
        " dotted: the threshold, where it is one for norms.",
    ),
}
