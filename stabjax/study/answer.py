"""The opening sections of the report, with the main result and recommendations."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from stabjax.study.claims import CLAIMS, INTRODUCTION, judge
from stabjax.study.experiment import FOUR
from stabjax.study.measure import MIN_SEEDS, ratio
from stabjax.study.text import (
    as_loss,
    as_percent,
    count_of,
    listed,
    mean_of,
    median_of,
    paired,
    table,
)

Groups = Mapping[str, Sequence[xr.Dataset]]

# The names of the four treatments in running text.
_WORDS = ("neither", "clipping alone", "a schedule alone", "clipping and a schedule")
_ORDER = "baseline < clipping < schedule < both"
_EQUAL = 0.01  # fractions that differ by less have the same rank

_HEADLINE = """\
Training is least sensitive to the learning rate with **{best}**: the largest learning
rate that works is {factor} times the smallest{against}."""
_NO_RANGE = "No treatment trains over a range of learning rates on {problems}."

_NUMBERS = """\
The study consists of {runs:,} runs on {problems}. Each problem is trained with
{optimizers} alone (the baseline), with clipping ({clippings}), with a schedule
({schedules}) and with both. All four use the same learning rates, initial weights and
noise.

{table}

{introduction}

{rankings}- Of {tested} tests of the tutorial's claims, {yes} confirm the claim, {no}
  contradict it, and {same} show no difference.{worst}{few}"""

_FEW = f"""
- With fewer than {MIN_SEEDS} seeds, no difference can be significant. Use more seeds
  (`--seeds`)."""

_MEANS = """\
Means over all problems:

{table}"""
_SIDE_BY_SIDE = """\
Runs that reach the target and usable learning rates in decades{more}:

{table}"""

_RANKINGS = """\
- The tutorial ranks stability **{order}**. The measured ranking by stable runs is
  **{stable}**, which {stable_agrees}. A stable run does not necessarily learn anything.
  The ranking by runs that reach the target is **{reached}**, which {reached_agrees}.
"""


def headline(measured: Sequence[xr.Dataset]) -> str:
    """States which treatment has the widest range of usable learning rates."""
    groups = by_methods(measured)
    widths = {
        f"{words} ({name})" if len(groups) > 1 else words: mean_of(
            group, "width", treatment
        )
        for name, group in groups.items()
        for treatment, words in zip(FOUR, _WORDS, strict=True)
    }
    if (widest := max(widths.values())) == 0:
        return _NO_RANGE.format(problems=_problems(measured))
    best = [name for name, width in widths.items() if width == widest]
    others = [
        f"{_factor(width)} times with {name}"
        for name, width in widths.items()
        if name not in best
    ]
    against = f", compared with {listed(others)}" if others and len(groups) == 1 else ""
    return _HEADLINE.format(best=listed(best), factor=_factor(widest), against=against)


def _factor(decades: float) -> str:
    return f"{float(f'{10**decades:.2g}'):,.0f}"


def advice(measured: Sequence[xr.Dataset]) -> str:
    """Recommends treatments for three common situations."""
    total = count_of(len(measured), "problem")
    rescued = {t: sum(_reaches_untuned(m, t) for m in measured) for t in FOUR}
    stable = {t: mean_of(measured, "stable", t) for t in FOUR}
    lines = [
        f"- *The learning rate is not tuned.* {_best(rescued, 0)} Even if the learning "
        f"rate is ten times too large, training reaches the target on "
        f"{_per_treatment(rescued, str)} of {total}.",
        f"- *Some runs diverge.* {_best(stable, _EQUAL)} The share of stable runs is "
        f"{_per_treatment(stable, as_percent)}.",
        "- *The learning rate is tuned and runs are stable.* Clipping and schedules "
        "can slow down training. At the best learning rate for the baseline, they "
        "multiply the number of steps to the target by" + _prices(by_methods(measured)),
    ]
    return "\n".join(lines)


def numbers(measured: Sequence[xr.Dataset]) -> str:
    """Summarizes the runs, the means over problems and the tests of all claims."""
    verdicts = [judge(claim, m) for claim in CLAIMS for m in measured]
    count = Counter(verdict.answer for verdict in verdicts)
    failed = Counter(v.claim.text for v in verdicts if v.answer == "no")
    groups = by_methods(measured)
    return _NUMBERS.format(
        runs=sum(int(m.attrs["trials"]) for m in measured),
        problems=_problems(measured),
        optimizers=_names(measured, "optimizer"),
        clippings=_names(measured, "clipping"),
        schedules=_names(measured, "schedule"),
        table=_averages(groups),
        introduction=INTRODUCTION,
        rankings=_rankings(measured) if len(groups) == 1 else "",
        tested=count["yes"] + count["no"] + count["same"],
        yes=count["yes"],
        no=count["no"],
        same=count["same"],
        worst="".join(
            f' Most contradictions: *"{text}"* ({count_of(times, "time")}).'
            for text, times in failed.most_common(1)
        ),
        few=_FEW if min(m.sizes["seed"] for m in measured) < MIN_SEEDS else "",
    )


def by_methods(measured: Sequence[xr.Dataset]) -> dict[str, list[xr.Dataset]]:
    """Groups the problems by the methods in which they differ."""
    groups: dict[str, list[xr.Dataset]] = {}
    for name, one in zip(methods_of(measured), measured, strict=True):
        groups.setdefault(name, []).append(one)
    return groups


def methods_of(measured: Sequence[xr.Dataset]) -> list[str]:
    """Returns the methods of each dataset, omitting those that all share."""
    parts = [str(one.attrs["methods"]).split(", ") for one in measured]
    common = set.intersection(*map(set, parts))
    return [", ".join(p for p in methods if p not in common) for methods in parts]


def _problems(measured: Sequence[xr.Dataset]) -> str:
    return count_of(len({m.attrs["problem"] for m in measured}), "problem")


def _names(measured: Sequence[xr.Dataset], what: str) -> str:
    names = dict.fromkeys(str(m.attrs[what]) for m in measured)
    return listed(f"`{name}`" for name in names)


def _reaches_untuned(measures: xr.Dataset, treatment: str) -> bool:
    target = float(measures.attrs["target_loss"])
    return median_of(measures, "untuned", treatment) <= target


def _best(values: Mapping[str, float], tolerance: float) -> str:
    """Recommends the treatments with the largest value."""
    most = max(values.values())
    best = [name for name, value in values.items() if value >= most - tolerance]
    if "baseline" in best:
        return "No treatment improves on the baseline."
    return f"Use **{' or '.join(best)}**."


def _per_treatment(values: Mapping[str, float], form: Callable[[Any], str]) -> str:
    return listed(f"{form(value)} ({name})" for name, value in values.items())


def _averages(groups: Groups) -> str:
    """Returns a table of means, with a row per treatment or combination of methods."""
    if len(groups) > 1:
        single = all(len(group) == 1 for group in groups.values())
        more = ", with the final loss at the tuned rate" if single else " (means over"
        more = more if single else f"{more} the problems)"
        rows = [[name, *_cells(group, single)] for name, group in groups.items()]
        return _SIDE_BY_SIDE.format(table=table(["", *FOUR], rows), more=more)
    [measured] = groups.values()
    header = ["", "stable runs", "runs that reach the target"]
    header += ["usable learning rates (decades)"]
    header += ["reaches the target at ten times the best rate"]
    rows = [_row(treatment, measured) for treatment in FOUR]
    return _MEANS.format(table=table(header, rows))


def _cells(measured: Sequence[xr.Dataset], single: bool) -> list[str]:
    """Returns two numbers per treatment, and the loss if there is a single problem."""
    cells = []
    for treatment in FOUR:
        reached = as_percent(mean_of(measured, "reached", treatment))
        parts = [reached, f"{mean_of(measured, 'width', treatment):.1f}"]
        if single:
            parts.append(as_loss(median_of(measured[0], "final", treatment)))
        cells.append(", ".join(parts))
    return cells


def _row(treatment: str, measured: Sequence[xr.Dataset]) -> list[str]:
    rescued = sum(_reaches_untuned(m, treatment) for m in measured)
    return [
        treatment,
        as_percent(mean_of(measured, "stable", treatment)),
        as_percent(mean_of(measured, "reached", treatment)),
        f"{mean_of(measured, 'width', treatment):.1f}",
        f"on {rescued} of {len(measured)}",
    ]


def _rankings(measured: Sequence[xr.Dataset]) -> str:
    """Compares the tutorial's ranking of the treatments with the measured rankings."""
    stable, reached = (
        _ranking({t: mean_of(measured, name, t) for t in FOUR})
        for name in ("stable", "reached")
    )
    return _RANKINGS.format(
        order=_ORDER,
        stable=stable,
        stable_agrees=_agreement(stable),
        reached=reached,
        reached_agrees=_agreement(reached),
    )


def _ranking(values: Mapping[str, float]) -> str:
    """Formats the treatments in increasing order, with `=` between equal ones."""
    names = sorted(values, key=lambda name: values[name])
    text = names[0]
    for before, name in zip(names, names[1:], strict=False):
        equal = values[name] - values[before] < _EQUAL
        text += f" {'=' if equal else '<'} {name}"
    return text


def _agreement(ranking: str) -> str:
    return "agrees" if ranking == _ORDER else "does not agree"


def _prices(groups: Groups) -> str:
    """Formats the cost of the treatments at the best rate for the baseline."""
    prices = [_price(group) for group in groups.values()]
    if len(groups) == 1:
        return f" {prices[0]}"
    rows = [f"\n    - {name}: {p}" for name, p in zip(groups, prices, strict=True)]
    return ":" + "".join(rows)


def _price(measured: Sequence[xr.Dataset]) -> str:
    trained = [
        m for m in measured if np.isfinite(median_of(m, "common_steps", "baseline"))
    ]
    if not trained:
        return "an unknown factor, because the baseline never reaches the target."
    costs = [
        _span(np.array([_multiple(m, treatment) for m in trained]), treatment)
        for treatment in FOUR[1:]
    ]
    problems = count_of(len(measured), "problem")
    if len(trained) < len(measured):
        problems = f"the {len(trained)} of {problems} where the baseline succeeds"
    return f"{listed(costs)}, on {problems}."


def _multiple(measures: xr.Dataset, treatment: str) -> float:
    """Returns the ratio of the steps to the target to those of the baseline."""
    found = ratio(*paired(measures, "common_steps", treatment))
    return np.nan if found is None else found.value


def _span(ratios: np.ndarray, treatment: str) -> str:
    """Formats the range of the finite ratios and the number of infinite ones."""
    finite = np.sort(ratios[np.isfinite(ratios)])
    missed = len(ratios) - len(finite)
    note = f"; target not reached on {missed}" if missed else ""
    ends = [f"{r:.1f}" for r in (*finite[:1], *finite[-1:])]
    span = " to ".join(dict.fromkeys(ends)) or "infinity"
    return f"{span} ({treatment}{note})"
