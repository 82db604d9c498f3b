"""The answer of a study: one sentence, what to do, and the numbers behind it."""

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

# The four treatments in a sentence.
_WORDS = ("neither", "clipping alone", "a schedule alone", "clipping and a schedule")
_ORDER = "baseline < clipping < schedule < both"
_EQUAL = 0.01  # fractions closer than this have the same rank

_HEADLINE = """\
With **{best}**, training succeeds over the widest range of learning rates: the largest
is {factor} times the smallest{against}."""
_NO_RANGE = "No treatment trains over a range of learning rates on {problems}."

_NUMBERS = """\
{runs:,} runs on {problems}: {optimizers} as it is (the baseline), with clipping
({clippings}), with a schedule ({schedules}), and with both, at the same learning rates,
from the same starts and with the same noise.

{table}

{introduction}

{rankings}- Of {tested} comparisons with the tutorial, {yes} agree, {no}
  contradict it, and {same} show no difference.{worst}{few}"""

_FEW = f"""
- With fewer than {MIN_SEEDS} seeds no difference is significant, however large. Use
  more (`--seeds`)."""

_MEANS = """\
Means over the problems:

{table}"""
_SIDE_BY_SIDE = """\
Runs that end at the target, and decades of learning rates that train{more}:

{table}"""

_RANKINGS = """\
- The tutorial ranks stability **{order}**. Ranked by the runs that do not diverge:
  **{stable}**, which {stable_agrees}. Ranked by the runs that end at the target, since
  a run can stay finite and learn nothing: **{reached}**, which {reached_agrees}.
"""


def headline(measured: Sequence[xr.Dataset]) -> str:
    """The treatment with the widest range of learning rates, in one sentence."""
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
        f"{_factor(width)} with {name}"
        for name, width in widths.items()
        if name not in best
    ]
    against = f", against {listed(others)}" if others and len(groups) == 1 else ""
    return _HEADLINE.format(best=listed(best), factor=_factor(widest), against=against)


def _factor(decades: float) -> str:
    return f"{float(f'{10**decades:.2g}'):,.0f}"


def advice(measured: Sequence[xr.Dataset]) -> str:
    """What to do about unstable training, as the measures have it."""
    total = count_of(len(measured), "problem")
    rescued = {t: sum(_reaches_untuned(m, t) for m in measured) for t in FOUR}
    stable = {t: mean_of(measured, "stable", t) for t in FOUR}
    lines = [
        f"- *The learning rate is a guess.* {_best(rescued, 0)} A rate about ten times "
        f"too large ends at the target on {_per_treatment(rescued, str)} of {total}.",
        f"- *Runs diverge.* {_best(stable, _EQUAL)} "
        f"{_per_treatment(stable, as_percent)} of the runs do not diverge.",
        "- *A good rate is known and runs are stable.* Each treatment has a price: at "
        "the best rate for the baseline, the steps to the target are multiplied by"
        + _prices(by_methods(measured)),
    ]
    return "\n".join(lines)


def numbers(measured: Sequence[xr.Dataset]) -> str:
    """The runs, the means over problems, and the comparisons with the tutorial."""
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
            f' Most often contradicted: *"{text}"*, {count_of(times, "time")}.'
            for text, times in failed.most_common(1)
        ),
        few=_FEW if min(m.sizes["seed"] for m in measured) < MIN_SEEDS else "",
    )


def by_methods(measured: Sequence[xr.Dataset]) -> dict[str, list[xr.Dataset]]:
    """Groups the problems by their methods, named by what distinguishes them."""
    groups: dict[str, list[xr.Dataset]] = {}
    for name, one in zip(methods_of(measured), measured, strict=True):
        groups.setdefault(name, []).append(one)
    return groups


def methods_of(measured: Sequence[xr.Dataset]) -> list[str]:
    """Returns the methods of each dataset, without those that all share."""
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
    """An instruction: the treatments with the largest value."""
    most = max(values.values())
    best = [name for name, value in values.items() if value >= most - tolerance]
    if "baseline" in best:
        return "No treatment helps here."
    return f"Use **{' or '.join(best)}**."


def _per_treatment(values: Mapping[str, float], form: Callable[[Any], str]) -> str:
    return listed(f"{form(value)} ({name})" for name, value in values.items())


def _averages(groups: Groups) -> str:
    """The means of each treatment; one row for each of several methods."""
    if len(groups) > 1:
        single = all(len(group) == 1 for group in groups.values())
        more = ", and the final loss at the tuned rate" if single else "; means over"
        more = more if single else f"{more} the problems"
        rows = [[name, *_cells(group, single)] for name, group in groups.items()]
        return _SIDE_BY_SIDE.format(table=table(["", *FOUR], rows), more=more)
    [measured] = groups.values()
    header = ["", "runs that do not diverge", "runs that end at the target"]
    header += ["decades of learning rates that train"]
    header += ["a rate about ten times too large ends at the target"]
    rows = [_row(treatment, measured) for treatment in FOUR]
    return _MEANS.format(table=table(header, rows))


def _cells(measured: Sequence[xr.Dataset], single: bool) -> list[str]:
    """Two numbers for each treatment, and a loss if there is a single problem."""
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
    """The tutorial's order of the treatments beside the measured ones."""
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
    """The treatments in increasing order, equal ones joined by `=`."""
    names = sorted(values, key=lambda name: values[name])
    text = names[0]
    for before, name in zip(names, names[1:], strict=False):
        equal = values[name] - values[before] < _EQUAL
        text += f" {'=' if equal else '<'} {name}"
    return text


def _agreement(ranking: str) -> str:
    return "agrees" if ranking == _ORDER else "does not agree"


def _prices(groups: Groups) -> str:
    """The cost of the treatments where the baseline has its best rate."""
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
        return "an unknown factor, as the baseline trains at no rate."
    costs = [
        _span(np.array([_multiple(m, treatment) for m in trained]), treatment)
        for treatment in FOUR[1:]
    ]
    problems = count_of(len(measured), "problem")
    if len(trained) < len(measured):
        problems = f"the {len(trained)} of {problems} on which the baseline trains"
    return f"{listed(costs)}, on {problems}."


def _multiple(measures: xr.Dataset, treatment: str) -> float:
    """Steps to the target over those of the baseline: the ratio in the table."""
    found = ratio(*paired(measures, "common_steps", treatment))
    return np.nan if found is None else found.value


def _span(ratios: np.ndarray, treatment: str) -> str:
    """The smallest and the largest ratio, and the number of infinite ones."""
    finite = np.sort(ratios[np.isfinite(ratios)])
    missed = len(ratios) - len(finite)
    note = f"; target never reached on {missed}" if missed else ""
    ends = [f"{r:.1f}" for r in (*finite[:1], *finite[-1:])]
    span = " to ".join(dict.fromkeys(ends)) or "infinity"
    return f"{span} ({treatment}{note})"
