"""The tutorial's two tables, and the curves between them, as measured."""

from collections.abc import Callable, Sequence

import xarray as xr

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
Gradient norm and speed at one learning rate, {common}, the best one for the baseline;
clipped at {threshold}. Medians over the seeds:

{norms}

The treatments over all learning rates, and at two of them: each treatment's best,
*tuned*, and {untuned}, *untuned*, {factor} times the best one for the baseline:

{treatments}

Against the baseline, paired by seed:

{pairs}"""

_CURVES = """\
At the best learning rate for the baseline, without clipping, from a constant rate to a
schedule; medians over the seeds:

{table}"""

_OVERFITTING = """\
Over-fitting on {name}, each treatment at its tuned rate. A small difference can also
mean that the training data are fitted less well, so compare both losses:

{table}"""


def both_tables(measures: xr.Dataset, *, claims: bool = False) -> str:
    """The two tables measured on one problem, beside the tutorial's if `claims`."""
    common = value_of(measures, "chosen_rate", "baseline", rate="common")
    untuned = value_of(measures, "chosen_rate", "baseline", rate="untuned")
    return _TABLES.format(
        common=as_number(common),
        threshold=as_number(measures.attrs["threshold"]),
        norms=_norm_table(measures, untuned, claims),
        untuned=as_number(untuned),
        factor=as_number(untuned / common),
        treatments=_treatment_table(measures, claims),
        pairs=_pair_table(measures),
    )


def curve_tables(measured: Sequence[xr.Dataset]) -> str:
    """Smoothness, late oscillation and over-fitting, as measured."""
    forms: dict[str, Callable[[float], str]] = {
        "rises": as_percent,
        "roughness": as_loss,
        "swing": as_loss,
        "wobble": as_loss,
    }
    header = ["problem", "steps at which the loss rises", "roughness"]
    header += ["late swing", "late swing / level"]
    rows = [
        [m.attrs["label"], *(_change(m, name, form) for name, form in forms.items())]
        for m in measured
    ]
    parts = [_CURVES.format(table=table(header, rows))]
    return "\n\n".join(parts + [_overfitting(m) for m in measured if "gap" in m])


def _norm_table(measures: xr.Dataset, untuned: float, claims: bool) -> str:
    header = ["state", "the tutorial claims", "first norm of the optimizer's input"]
    header += ["median norm", "largest norm"]
    header += [f"largest norm at rate {as_number(untuned)}", "steps to the target"]
    header += ["runs that do not diverge, all rates"]
    norms = ("first_norm", "median_norm", "largest_norm", "untuned_norm")
    rows = [
        [
            *words,
            *(as_loss(median_of(measures, name, treatment)) for name in norms),
            as_steps(median_of(measures, "common_steps", treatment)),
            as_interval(mean_of_seeds(values_of(measures, "stable", treatment))),
        ]
        for treatment, words in _STATES.items()
    ]
    return _with_claims(header, rows, claims)


def _treatment_table(measures: xr.Dataset, claims: bool) -> str:
    header = ["treatment"]
    header += ["the tutorial claims: stability, convergence, effectiveness"]
    header += ["runs that do not diverge", "runs that end at the target"]
    header += ["steps to the target, tuned", "decades of rates that train"]
    header += [f"final loss, {which}" for which in ("tuned", "all runs", "untuned")]
    header += ["untuned runs that do not diverge"]
    rows = [_treatment_row(measures, treatment) for treatment in TREATMENTS]
    return _with_claims(header, rows, claims)


def _treatment_row(measures: xr.Dataset, treatment: str) -> list[str]:
    rate = as_number(value_of(measures, "chosen_rate", treatment, rate="tuned"))
    threshold = value_of(measures, "chosen_threshold", treatment)
    clipped = f", threshold {as_number(threshold)}" if threshold < float("inf") else ""
    return [
        f"{treatment} (rate {rate}{clipped})",
        _GRADES.get(treatment, ""),
        as_interval(mean_of_seeds(values_of(measures, "stable", treatment))),
        as_interval(mean_of_seeds(values_of(measures, "reached", treatment))),
        as_steps(median_of(measures, "steps", treatment)),
        f"{value_of(measures, 'width', treatment):.1f}",
        as_loss(median_of(measures, "final", treatment)),
        as_loss(value_of(measures, "median", treatment)),
        as_loss(median_of(measures, "untuned", treatment)),
        as_interval(
            fraction_of_seeds(values_of(measures, "untuned_stable", treatment))
        ),
    ]


def _with_claims(header: list[str], rows: list[list[str]], claims: bool) -> str:
    """The table; its second column, the tutorial's claims, only if asked for."""
    lines = [header, *rows]
    shown = lines if claims else [[line[0], *line[2:]] for line in lines]
    return table(shown[0], shown[1:])


def _pair_table(measures: xr.Dataset) -> str:
    """The effect of each treatment, as differences and ratios paired by seed."""
    header = ["treatment", "runs that do not diverge, points"]
    header += ["runs that end at the target, points", "decades of rates that train"]
    header += ["steps to the target, tuned, times"]
    header += ["steps at the best rate for the baseline, times"]
    treated = [name for name in TREATMENTS if name != "baseline"]
    return table(header, [_pair_row(measures, name) for name in treated])


def _pair_row(measures: xr.Dataset, treatment: str) -> list[str]:
    width, baseline = map(float, paired(measures, "width", treatment))
    fractions = [paired(measures, name, treatment) for name in ("stable", "reached")]
    steps = [paired(measures, name, treatment) for name in ("steps", "common_steps")]
    return [
        treatment,
        *(as_points(mean_of_seeds(first - second)) for first, second in fractions),
        f"{width - baseline:+.1f}",
        *(as_times(ratio(first, second)) for first, second in steps),
    ]


def _overfitting(measures: xr.Dataset) -> str:
    header = ["", "training loss", "test loss - training loss", "test accuracy"]
    rows = [
        [
            treatment,
            as_loss(median_of(measures, "final", treatment)),
            as_loss(median_of(measures, "gap", treatment)),
            as_percent(median_of(measures, "accuracy", treatment), digits=1),
        ]
        for treatment in FOUR
    ]
    name = measures.attrs["label"]
    return _OVERFITTING.format(name=name, table=table(header, rows))


def _change(measures: xr.Dataset, name: str, form: Callable[[float], str]) -> str:
    pair = (median_of(measures, name, t) for t in ("baseline", "schedule"))
    return " → ".join(map(form, pair))
