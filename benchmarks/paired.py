"""Paired comparisons of tuned arms of a sweep, for the scripts beside this one."""

import argparse
import pathlib
import signal
import threading
from typing import NamedTuple

import numpy as np
import xarray as xr

import stabjax

LEVEL = 0.001  # of a claim
_LIMITS = (0.09, 11.0)  # of the loss ratios in a picture


class Effect(NamedTuple):
    """The ratio of two losses, each arm at its own best settings, as a paired mean."""

    ratio: float
    low: float
    high: float
    p: float
    seeds: int

    def __str__(self):
        """Returns the ratio and its 95% interval, bold if it is a claim."""
        if not np.isfinite(self.p):
            return "diverges" if self.ratio else "the other diverges"
        digits = 3 if 0.95 < self.ratio < 1.05 else 2
        value, low, high = (_shown(x, digits) for x in self[:3])
        text = f"{value} [{low}, {high}]"
        return f"**{text}**" if self.p < LEVEL else text


def _shown(ratio, digits):
    if 0.01 <= ratio < 10:
        return f"{ratio:.{digits}f}"
    return f"{ratio:.0f}" if 10 <= ratio < 1e4 else f"{ratio:.1g}"


def with_log_loss(runs, problem, variable):
    """Adds `log_loss`, the logarithm of the loss above its minimum, +inf if diverged.

    A loss below a hundredth of the problem's target counts as that: the problem is
    solved, and a ratio of two smaller losses has no meaning.
    """
    optimum = problem.metadata.get("optimum", 0.0)
    least = (problem.metadata["target_loss"] - optimum) / 100
    losses = np.log(np.maximum(runs[variable] - optimum, least))
    return runs.assign(log_loss=losses.where(runs.status != 1, np.inf))


def scores(runs, selection):
    """Returns the log losses as an array of shape (seeds, settings)."""
    losses = runs.log_loss.sel(selection).transpose("seed", ...).values
    return losses.reshape(len(losses), -1)


def tuned(runs, selection):
    """Returns the log loss of each seed at settings that other seeds choose.

    The even seeds choose settings for the odd seeds and the other way around, so no
    seed is compared at settings that it helped to choose. Only settings where no seed
    diverges are eligible.
    """
    losses = scores(runs, selection)
    losses = losses[:, np.isfinite(losses).all(axis=0)]
    if not losses.size:
        return np.full(len(losses), np.inf)
    found = np.empty(len(losses))
    for half in (0, 1):
        best = losses[1 - half :: 2].mean(axis=0).argmin()
        found[half::2] = losses[half::2, best]
    return found


def at_edges(runs, selection, *axes):
    """Returns the axes on whose edge the best settings are, with their values."""
    losses = runs.log_loss.sel(selection).mean("seed")
    best = losses.argmin(...)
    found = {axis: (int(best[axis]), losses[axis].values) for axis in axes}
    return {
        axis: values[index]
        for axis, (index, values) in found.items()
        if index in (0, len(values) - 1)
    }


def effect(runs, one, other):
    """Returns the effect of the selection `one` instead of `other`."""
    losses = np.stack([tuned(runs, selection) for selection in (one, other)])
    status = np.isinf(losses).astype(int)
    dims = ("arm", "seed")
    table = xr.Dataset(
        {"log_loss": (dims, losses), "status": (dims, status)},
        {"arm": ["one", "other"], "seed": runs.seed.values},
    )
    found = stabjax.runs.compare(
        table, "arm", baseline="other", variable="log_loss", maximize=False
    )
    (difference,) = found.differences
    change = difference.difference
    ratios = np.exp([change.value, change.low, change.high])
    return Effect(*ratios, difference.p_value, found.seeds)


def corrected(effects):
    """Returns a dict of effects with p-values adjusted by Holm's method."""
    known = [key for key in effects if np.isfinite(effects[key].p)]
    known.sort(key=lambda key: effects[key].p)
    adjusted, largest = dict(effects), 0.0
    for rank, key in enumerate(known):
        largest = min(1.0, max(largest, (len(known) - rank) * effects[key].p))
        adjusted[key] = effects[key]._replace(p=largest)
    return adjusted


def verdict(effect):
    """Returns "better", "worse" or "" for a claim at p < 0.001."""
    if np.isfinite(effect.p):
        claimed = effect.p < LEVEL
    else:
        claimed = effect.ratio in (0.0, np.inf)
    if not claimed:
        return ""
    return "better" if effect.ratio < 1 else "worse"


def print_claim(effects):
    """Prints what the bold values of the tables mean."""
    seeds = max(found.seeds for found in effects.values())
    print(f"n = {seeds} seeds, {len(effects)} comparisons; bold: p < {LEVEL} by Holm's")
    print("method over all comparisons\n")


def markdown(header, rows):
    """Returns a table."""
    lines = [f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def write_table(page, name, table):
    """Prints a table, and puts it between the marks of that name if the page exists."""
    print(f"{name}\n\n{table}\n")
    if page.exists():
        above, rest = page.read_text().split(f"<!-- {name} -->")
        below = rest.split("<!-- end -->", 1)[1]
        marked = f"<!-- {name} -->\n{table}\n<!-- end -->"
        page.write_text(above + marked + below)


def forest(path, panels, names):
    """Draws effects with their 95% intervals, for panels {title: {label: {name: _}}}.

    Claims are blue if better and red if worse. Effects outside of the axis are
    triangles.
    """
    # Training does not need Matplotlib and Pillow.
    import matplotlib.pyplot as plt  # noqa: PLC0415, TID251
    from PIL import Image  # noqa: PLC0415

    figure, axes = plt.subplots(
        1,
        len(panels),
        figsize=(2 + 2 * len(panels), 1 + 0.22 * len(names)),
        sharey=True,
        squeeze=False,
    )
    axes = axes[0]
    for ax, (title, rows) in zip(axes, panels.items(), strict=True):
        ax.axvline(1, color="0.5", linewidth=0.8)
        for number, (label, effects) in enumerate(rows.items()):
            shift = 0.32 * (number - (len(rows) - 1) / 2)
            fill = "full" if number == len(rows) - 1 else "none"
            for y, name in enumerate(names):
                _draw_effect(ax, y + shift, effects.get(name), fill)
            ax.plot([], [], "o", color="0.4", markersize=4, fillstyle=fill, label=label)
        ax.set(xscale="log", xlim=_LIMITS)
        ax.set_xticks([0.1, 0.3, 1, 3, 10], ["0.1", "0.3", "1", "3", "10"], fontsize=7)
        ax.minorticks_off()
        ax.set_title(title, fontsize=9)
        ax.set_yticks(range(len(names)), names, fontsize=8)
        if len(rows) > 1:
            ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.05), fontsize=7)
    axes[0].invert_yaxis()
    figure.savefig(path, dpi=100, bbox_inches="tight")
    plt.close(figure)
    with Image.open(path) as picture:
        few_colors = picture.convert("RGB").quantize(64, Image.Quantize.MAXCOVERAGE)
    few_colors.save(path, optimize=True)  # a third of the size


def _draw_effect(ax, y, found, fill):
    if found is None or not np.isfinite(found.p):
        return
    color = {"better": "tab:blue", "worse": "tab:red", "": "0.6"}[verdict(found)]
    low, ratio, high = np.clip([found.low, found.ratio, found.high], *_LIMITS)
    marker = {_LIMITS[0]: "<", _LIMITS[1]: ">"}.get(ratio, "o")
    style = {"color": color, "fillstyle": fill, "markersize": 4, "clip_on": False}
    ax.plot([low, high], [y, y], color=color, linewidth=1.2)
    ax.plot(ratio, y, marker, **style)


def run_script(description, names, train, report):
    """Parses the arguments, and trains the runs or reports on those in the store."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--store", type=pathlib.Path, required=True)
    parser.add_argument("--problems", nargs="+", default=names)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--report", type=pathlib.Path)
    options = parser.parse_args()
    if options.report:
        report(options.store, options.report)
        return
    if options.seconds:
        _stop_after(options.seconds)
    for name in options.problems:
        try:
            runs = train(name, options.store, options.quick)
        except KeyboardInterrupt:
            print(f"{name}: stopped", flush=True)
            return
        print(
            f"{name}: {runs.attrs['seconds']:.0f} s, compilation "
            f"{runs.attrs['compile_seconds']:.0f} s",
            flush=True,
        )


def _stop_after(seconds):
    """Interrupts the process as Ctrl-C does, which keeps all finished chunks."""
    timer = threading.Timer(seconds, signal.raise_signal, (signal.SIGINT,))
    timer.daemon = True
    timer.start()
