"""The document's two tables, and the sentence between them, as measured."""

from collections.abc import Callable, Sequence

import numpy as np
import xarray as xr

from stabjax.study.experiment import DECADES_UNTUNED, FOUR, REMEDIES, SOLVED
from stabjax.study.measure import ratio, share, share_of_seeds
from stabjax.study.text import (
    as_interval,
    as_loss,
    as_number,
    as_percent,
    as_points,
    as_steps,
    as_times,
    median_of,
    paired,
    table,
    value_of,
    values_of,
)

# How the founding document grades stability, convergence and effectiveness.
_GRADES = {
    "neither": "low, poor, average",
    "clipping": "average, average, good",
    "schedule": "good, good, good",
    "both": "very good, high, very good",
}
_STATES = {
    "neither": ("no clipping", "norm > 10; fast but unstable"),
    "clipping": ("clipping", "norm = 1; slow, stable"),
}

_TABLES = """\
Gradient norm and speed at one learning rate, {common}, the best one for neither;
clipped at {threshold}. Medians over the seeds:

{norms}

The remedies over all learning rates, and at two of them: the remedy's own best,
*tuned*, and {untuned}, *untuned*, {factor} times the best one for neither:

{remedies}

Against neither, seed by seed:

{pairs}"""

_BETWEEN = """\
At the best learning rate for neither, without clipping, from a constant rate to a
schedule; medians over the seeds:

{table}"""

_OVERFITTING = """\
Over-fitting on {name}, each at its tuned rate; a small difference may also mean that
the training data are fitted less well, so see both losses:

{table}"""

DEFINITIONS = f"""\
- *Diverged*: a loss that is not finite, or above 1,000 times the first.
- *Ends at the target*: the final loss is the problem's target or less.
- *Runs*: all learning rates and all seeds of a remedy at one threshold, the middle one
  of the sweep, fixed before anything ran. Rows marked *tuned* have the best of all
  thresholds instead, and so many more trainings to choose from.
- Intervals are 95 %. For shares over all rates they come from drawing the seeds again,
  since runs of one seed are not independent; where the seeds agree, both ends are the
  share itself. For shares of seeds at one rate they are Wilson's.
- *Tuned*: the learning rate with the smallest median final loss, and among equals
  (below {SOLVED:g} of the target all are) the fewest steps to the target, then the
  smallest threshold, then the smallest rate. It is judged on the seeds it was chosen
  by, a little flattering for all remedies alike.
- *Untuned*: the rate of the sweep that is nearest to {10**DECADES_UNTUNED} times the
  tuned rate of neither, for all remedies: what someone gets who takes too large a rate.
- *Points*: percentage points, remedy less neither; *times*: the remedy's steps over
  those of neither, the median of the seeds at which neither gets there. Empty: at none.
- *Steps to the target*: until the recorded loss is at or below it and stays there
  (where a loss is that of a minibatch: the mean of those of the last 5 % of the steps);
  the norms of the first table are those of these steps (all, where it does not).
- *Decades of rates that train*: the number of rates at which at least half the seeds
  end at the target, times the distance of two rates in decades.
- *Rises*: from one recorded step to the next. *Roughness*: mean absolute second
  difference of the recorded log10 loss. *Late*: the last tenth of the steps. *Swing*:
  largest less smallest loss.
- Remedies share seeds, and a seed fixes start, minibatches and noise; so they are
  compared seed by seed."""


def both_tables(measures: xr.Dataset, *, graded: bool = False) -> str:
    """The two tables measured on one problem, beside the document's if `graded`."""
    common = value_of(measures, "chosen_rate", "neither", rate="common")
    untuned = value_of(measures, "chosen_rate", "neither", rate="untuned")
    return _TABLES.format(
        common=as_number(common),
        threshold=as_number(measures.attrs["threshold"]),
        norms=_norm_table(measures, untuned, graded),
        untuned=as_number(untuned),
        factor=as_number(untuned / common),
        remedies=_remedy_table(measures, graded),
        pairs=_pair_table(measures),
    )


def between_the_tables(measured: Sequence[xr.Dataset]) -> str:
    """Smoother curves, less oscillation late, less over-fitting, as measured."""
    header = ["problem", "steps in which the loss rises", "roughness"]
    header += ["late swing", "late swing / level"]
    forms: dict[str, Callable[[float], str]] = {
        "rises": as_percent,
        "roughness": as_loss,
        "swing": as_loss,
        "wobble": as_loss,
    }
    rows = [
        [m.attrs["label"], *(_change(m, name, form) for name, form in forms.items())]
        for m in measured
    ]
    parts = [_BETWEEN.format(table=table(header, rows))]
    return "\n\n".join(parts + [_overfitting(m) for m in measured if "gap" in m])


def _norm_table(measures: xr.Dataset, untuned: float, graded: bool) -> str:
    header = ["state", "the document", "first norm the optimizer got", "median norm"]
    header += ["largest norm", f"largest norm at rate {as_number(untuned)}"]
    header += ["steps to the target"]
    header += ["runs that do not diverge, all rates"]
    norms = ("first_norm", "median_norm", "largest_norm", "untuned_norm")
    rows = [
        [
            *words,
            *(as_loss(median_of(measures, name, remedy)) for name in norms),
            as_steps(median_of(measures, "common_steps", remedy)),
            as_interval(share(values_of(measures, "hold", remedy))),
        ]
        for remedy, words in _STATES.items()
    ]
    return _beside_the_document(header, rows, graded)


def _remedy_table(measures: xr.Dataset, graded: bool) -> str:
    header = ["method", "the document: stability, convergence, effectiveness"]
    header += ["runs that do not diverge", "runs that end at the target"]
    header += ["steps to the target, tuned", "decades of rates that train"]
    header += [f"final loss, {which}" for which in ("tuned", "all runs", "untuned")]
    header += ["untuned runs that do not diverge"]
    rows = [_remedy_row(measures, remedy) for remedy in REMEDIES]
    return _beside_the_document(header, rows, graded)


def _remedy_row(measures: xr.Dataset, remedy: str) -> list[str]:
    threshold = value_of(measures, "chosen_threshold", remedy)
    rate = value_of(measures, "chosen_rate", remedy, rate="tuned")
    clipped = f", threshold {as_number(threshold)}" if np.isfinite(threshold) else ""
    return [
        f"{remedy} (rate {as_number(rate)}{clipped})",
        _GRADES.get(remedy, ""),
        as_interval(share(values_of(measures, "hold", remedy))),
        as_interval(share(values_of(measures, "reach", remedy))),
        as_steps(median_of(measures, "steps", remedy)),
        f"{value_of(measures, 'width', remedy):.1f}",
        as_loss(median_of(measures, "final", remedy)),
        as_loss(value_of(measures, "median", remedy)),
        as_loss(median_of(measures, "untuned", remedy)),
        as_interval(share_of_seeds(values_of(measures, "untuned_held", remedy))),
    ]


def _pair_table(measures: xr.Dataset) -> str:
    """What a remedy changes, as differences and ratios of the same seed's runs."""
    header = ["method", "runs that do not diverge, points"]
    header += ["runs that end at the target, points", "decades of rates that train"]
    header += ["steps to the target, tuned, times"]
    header += ["where it is not needed: at the best rate for neither, times"]
    rows = [_pair_row(measures, remedy) for remedy in REMEDIES if remedy != "neither"]
    return table(header, rows)


def _pair_row(measures: xr.Dataset, remedy: str) -> list[str]:
    width = value_of(measures, "width", remedy) - value_of(measures, "width", "neither")
    shares = [paired(measures, name, remedy) for name in ("hold", "reach")]
    steps = [paired(measures, name, remedy) for name in ("steps", "common_steps")]
    return [
        remedy,
        *(as_points(share(first - second)) for first, second in shares),
        f"{width:+.1f}",
        *(as_times(ratio(first, second)) for first, second in steps),
    ]


def _beside_the_document(header: list[str], rows: list[list[str]], graded: bool) -> str:
    """The table; without its second column, the document's words, unless graded."""
    columns = range(len(header)) if graded else [0, *range(2, len(header))]
    return table(
        [header[c] for c in columns], [[row[c] for c in columns] for row in rows]
    )


def _overfitting(measures: xr.Dataset) -> str:
    header = ["", "training loss", "test loss - training loss", "test accuracy"]
    rows = [
        [
            remedy,
            as_loss(median_of(measures, "final", remedy)),
            as_loss(median_of(measures, "gap", remedy)),
            as_percent(median_of(measures, "accuracy", remedy), digits=1),
        ]
        for remedy in FOUR
    ]
    name = measures.attrs["label"]
    return _OVERFITTING.format(name=name, table=table(header, rows))


def _change(measures: xr.Dataset, name: str, form: Callable[[float], str]) -> str:
    pair = (median_of(measures, name, remedy) for remedy in ("neither", "schedule"))
    return " → ".join(map(form, pair))
