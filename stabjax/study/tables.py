"""The tutorial's two tables with measured values, and tables of learning curves."""

from collections.abc import Callable, Iterable, Sequence

import xarray as xr

from stabjax._intervals import Estimate
from stabjax.study.experiment import FOUR, TREATMENTS
from stabjax.study.measure import fraction_of_seeds, mean_of_seeds, ratio
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

# A function that returns the text of a table cell for a treatment.
Cell = Callable[[xr.Dataset, str], str]
Columns = dict[str, Cell]

# The tutorial's grades of stability, convergence and effectiveness.
_GRADES = {
    "baseline": '"low, poor, average"',
    "clipping": '"average, average, good"',
    "schedule": '"good, good, good"',
    "both": '"very good, high, very good"',
}
_STATES = {
    "baseline": ("no clipping", '"norm > 10; fast but unstable"'),
    "clipping": ("clipping", '"norm = 1; slow, stable"'),
}

_TABLES = """\
Gradient norm and speed at the best learning rate for the baseline, {common}, and the
threshold {threshold} (medians over the seeds):

{norms}

Results over all learning rates, at the best learning rate of each treatment (*tuned*),
and at {untuned}, which is {factor} times the best one for the baseline (*untuned*):

{treatments}

Comparison with the baseline, paired by seed:

{pairs}"""

_CURVES = """\
Learning curves with a constant learning rate → with a schedule, at the best learning
rate for the baseline and without clipping (medians over the seeds):

{table}"""

_OVERFITTING = """\
Overfitting on {name}, at the tuned rate of each treatment. A small gap can also mean
that the training data are fitted less well, so compare both losses:

{table}"""


def both_tables(measures: xr.Dataset, *, claims: bool = False) -> str:
    """Returns both tables for a problem. `claims` adds the tutorial's entries."""
    common = value_of(measures, "chosen_rate", "baseline", rate="common")
    untuned = value_of(measures, "chosen_rate", "baseline", rate="untuned")
    treated = [name for name in TREATMENTS if name != "baseline"]
    return _TABLES.format(
        common=as_number(common),
        threshold=as_number(measures.attrs["threshold"]),
        norms=_table(measures, _STATES, _norm_columns(untuned, claims)),
        untuned=as_number(untuned),
        factor=as_number(untuned / common),
        treatments=_table(measures, TREATMENTS, _treatment_columns(claims)),
        pairs=_table(measures, treated, _PAIR_COLUMNS),
    )


def curve_tables(measured: Sequence[xr.Dataset]) -> str:
    """Returns tables of smoothness, late oscillation and overfitting."""
    header = ["problem", *(title for title, _ in _CHANGES.values())]
    rows = [
        [
            m.attrs["label"],
            *(_change(m, name, form) for name, (_, form) in _CHANGES.items()),
        ]
        for m in measured
    ]
    parts = [_CURVES.format(table=table(header, rows))]
    for m in measured:
        if "gap" in m:
            fits = _table(m, FOUR, _FIT_COLUMNS)
            parts.append(_OVERFITTING.format(name=m.attrs["label"], table=fits))
    return "\n\n".join(parts)


def _table(measures: xr.Dataset, treatments: Iterable[str], columns: Columns) -> str:
    """Returns a table with a row for each treatment."""
    rows = [[cell(measures, t) for cell in columns.values()] for t in treatments]
    return table(list(columns), rows)


def _median(name: str, form: Callable[[float], str]) -> Cell:
    return lambda measures, treatment: form(median_of(measures, name, treatment))


def _fraction(name: str, interval: Callable[[xr.DataArray], Estimate]) -> Cell:
    return lambda measures, treatment: as_interval(
        interval(values_of(measures, name, treatment))
    )


def _difference(name: str) -> Cell:
    return lambda measures, treatment: as_points(
        mean_of_seeds(_minus_baseline(measures, name, treatment))
    )


def _ratio(name: str) -> Cell:
    return lambda measures, treatment: as_times(
        ratio(*paired(measures, name, treatment))
    )


def _minus_baseline(measures: xr.Dataset, name: str, treatment: str) -> xr.DataArray:
    first, second = paired(measures, name, treatment)
    return first - second


def _with_settings(measures: xr.Dataset, treatment: str) -> str:
    """Returns the name of a treatment with its tuned rate and threshold."""
    rate = as_number(value_of(measures, "chosen_rate", treatment, rate="tuned"))
    threshold = value_of(measures, "chosen_threshold", treatment)
    clipped = f", threshold {as_number(threshold)}" if threshold < float("inf") else ""
    return f"{treatment} (rate {rate}{clipped})"


def _change(measures: xr.Dataset, name: str, form: Callable[[float], str]) -> str:
    pair = (median_of(measures, name, t) for t in ("baseline", "schedule"))
    return " → ".join(map(form, pair))


_STABLE, _REACHED = "stable runs", "runs that reach the target"
_WIDTH = "usable learning rates (decades)"
_STEPS = "steps to the target"
_CHANGES: dict[str, tuple[str, Callable[[float], str]]] = {
    "rises": ("steps at which the loss rises", as_percent),
    "roughness": ("roughness", as_loss),
    "swing": ("late swing", as_loss),
    "wobble": ("late swing / level", as_loss),
}
_PAIR_COLUMNS: Columns = {
    "treatment": lambda _, treatment: treatment,
    f"{_STABLE} (points)": _difference("stable"),
    f"{_REACHED} (points)": _difference("reached"),
    _WIDTH: lambda m, t: f"{float(_minus_baseline(m, 'width', t)):+.1f}",
    f"{_STEPS}, tuned (ratio)": _ratio("steps"),
    f"{_STEPS}, best rate for the baseline (ratio)": _ratio("common_steps"),
}
_FIT_COLUMNS: Columns = {
    "": lambda _, treatment: treatment,
    "training loss": _median("final", as_loss),
    "test loss - training loss": _median("gap", as_loss),
    "test accuracy": _median("accuracy", lambda x: as_percent(x, digits=1)),
}


def _norm_columns(untuned: float, claims: bool) -> Columns:
    columns: Columns = {"state": lambda _, treatment: _STATES[treatment][0]}
    if claims:
        columns["the tutorial claims"] = lambda _, treatment: _STATES[treatment][1]
    return columns | {
        "initial norm of the optimizer's input": _median("first_norm", as_loss),
        "median norm": _median("median_norm", as_loss),
        "largest norm": _median("largest_norm", as_loss),
        f"largest norm at rate {as_number(untuned)}": _median("untuned_norm", as_loss),
        _STEPS: _median("common_steps", as_steps),
        f"{_STABLE}, all rates": _fraction("stable", mean_of_seeds),
    }


def _treatment_columns(claims: bool) -> Columns:
    columns: Columns = {"treatment": _with_settings}
    if claims:
        title = "the tutorial claims: stability, convergence, effectiveness"
        columns[title] = lambda _, treatment: _GRADES.get(treatment, "")
    return columns | {
        _STABLE: _fraction("stable", mean_of_seeds),
        _REACHED: _fraction("reached", mean_of_seeds),
        f"{_STEPS}, tuned": _median("steps", as_steps),
        _WIDTH: lambda m, t: f"{value_of(m, 'width', t):.1f}",
        "final loss, tuned": _median("final", as_loss),
        "final loss, all runs": _median("median", as_loss),
        "final loss, untuned": _median("untuned", as_loss),
        "stable runs, untuned": _fraction("untuned_stable", fraction_of_seeds),
    }
