"""Paired comparisons of tuned arms of a sweep, for the scripts beside this one."""

import argparse
import os
import pathlib
import signal
import threading
from typing import NamedTuple

import numpy as np
import xarray as xr

import stabjax

LEVEL = 0.001  # of a claim


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
        text = f"{self.ratio:.3g} [{self.low:.3g}, {self.high:.3g}]"
        return f"**{text}**" if self.p < LEVEL else text


def log_losses(runs, variable, selection):
    """Returns log losses of shape (seeds, settings), +inf for diverged runs."""
    part = runs.sel(selection)
    losses = np.log(np.maximum(part[variable], 1e-37)).where(part.status != 1, np.inf)
    losses = losses.transpose("seed", ...).values
    return losses.reshape(len(losses), -1)


def tuned(runs, variable, selection):
    """Returns the logarithm of the loss of each seed at settings that others choose.

    The even seeds choose settings for the odd seeds and the other way around, so no
    seed is compared at settings that it helped to choose. Only settings where no seed
    diverges are eligible.
    """
    losses = log_losses(runs, variable, selection)
    losses = losses[:, np.isfinite(losses).all(axis=0)]
    if not losses.size:
        return np.full(len(losses), np.inf)
    found = np.empty(len(losses))
    for half in (0, 1):
        best = losses[1 - half :: 2].mean(axis=0).argmin()
        found[half::2] = losses[half::2, best]
    return found


def effect(runs, variable, one, other):
    """Returns the effect of the selection `one` instead of `other`."""
    losses = np.stack([tuned(runs, variable, s) for s in (one, other)])
    table = xr.Dataset(
        {
            "log_loss": (("arm", "seed"), losses),
            "status": (("arm", "seed"), np.isinf(losses).astype(int)),
        },
        {"arm": ["one", "other"], "seed": runs.seed.values},
    )
    found = stabjax.runs.compare(
        table, "arm", baseline="other", variable="log_loss", maximize=False
    )
    (difference,) = found.differences
    change = difference.difference
    return Effect(
        *np.exp([change.value, change.low, change.high]),
        difference.p_value,
        found.seeds,
    )


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


def markdown(header, rows):
    lines = [f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def forest_row(ax, y, found):
    """Draws an effect and its interval on a logarithmic axis, colored if a claim."""
    ax.set_xscale("log")
    if found is None or not np.isfinite(found.p):
        return
    color = {"better": "tab:blue", "worse": "tab:red", "": "0.6"}[verdict(found)]
    ax.plot([found.low, found.high], [y, y], color=color, linewidth=1.5)
    ax.plot(found.ratio, y, "o", color=color, markersize=4)


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
            # Threads that still compile would crash the exit of the interpreter.
            os._exit(0)
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
