"""What follows from the measurements: sentences that the numbers choose."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import xarray as xr

from stabjax.study.claims import CLAIMS, Verdict, judge
from stabjax.study.experiment import FOUR
from stabjax.study.text import (
    as_loss,
    as_percent,
    as_steps,
    count_of,
    listed,
    mean_of,
    median_of,
    table,
    value_of,
    values_of,
)

_ORDER = "neither < clipping < schedule < both"
_SAME_SHARE = 0.01  # shares closer than this have the same rank

_ANSWER = """\
{trainings:,} trainings on {problems}: stochastic gradient descent with neither remedy,
with the gradient clipped, with a learning-rate schedule, and with both; at the same
learning rates, from the same starts and with the same noise. Means over the problems:

{table}

- {widest}
- The document ranks stability **{order}**. Ranked by the runs that do not diverge, it
  is measured as **{held}**: {held_agrees}. Not to diverge is not to train, though;
  ranked by the runs that end at the target: **{reached}**: {reached_agrees}.
- {costs}
- Of {tested} comparisons with the document, {yes} came out as it says, {no} the other
  way round, and {same} showed no difference.{worst}"""

_CONTRADICTIONS = """\
**no**: measured the other way round; =: no difference, either below 5 % or no more
than chance by a sign test over the seeds (at 5 %, so a few in a hundred may be wrong);
empty: does not apply.

{table}
{sentences}"""

_COSTS = """\
The price of a remedy where a good rate is known, the best one for neither, in times as
  many steps to the target, on {problems}: {costs}."""

_UNTESTED = """\
Not tested here: what the document says of large models and Transformers, and of
optimizers other than SGD."""

_UNANIMOUS = {
    frozenset({"yes"}): "As the document says, wherever it applies",
    frozenset({"same"}): "Nowhere a difference",
}

_NORM_CLAIMS = """\
- *Without clipping the gradient norm is above 10.* On its two weights it starts at
  {first} and is above 10 for {above} of the starts.
- *With clipping it is 1.* It is the threshold, {threshold:.2g}, in {at} of the steps to
  the target, and smaller in the others: the threshold is a bound, not the value."""


def answer(measured: Sequence[xr.Dataset]) -> str:
    """What came out, before anything else."""
    held = _ranking({r: mean_of(measured, "hold", r) for r in FOUR})
    reached = _ranking({r: mean_of(measured, "reach", r) for r in FOUR})
    verdicts = [judge(claim, m) for claim in CLAIMS for m in measured]
    count = Counter(verdict.answer for verdict in verdicts)
    header = ["", "runs that do not diverge", "runs that end at the target"]
    header += ["decades of rates that train", "untuned run ends at the target"]
    return _ANSWER.format(
        trainings=sum(int(m.attrs["trials"]) for m in measured),
        problems=count_of(len(measured), "problem"),
        table=table(header, [_overall(remedy, measured) for remedy in FOUR]),
        widest=_widest(measured),
        held=held,
        order=_ORDER,
        held_agrees=_agreement(held),
        reached=reached,
        reached_agrees=_agreement(reached),
        costs=_costs(measured),
        tested=count["yes"] + count["no"] + count["same"],
        yes=count["yes"],
        no=count["no"],
        same=count["same"],
        worst=_most_contradicted(verdicts),
    )


def contradictions(measured: Sequence[xr.Dataset]) -> str:
    """Every claim against every problem, and those that fail, with their numbers."""
    names = [str(m.attrs["problem"]) for m in measured]
    verdicts = [[judge(claim, m) for m in measured] for claim in CLAIMS]
    signs = {"yes": "yes", "no": "**no**", "same": "=", "-": ""}
    rows = [[row[0].claim.text, *(signs[v.answer] for v in row)] for row in verdicts]
    sentences = [_norm_claims(m) for m in measured if m.attrs["problem"] == "quadratic"]
    sentences += [f"- {text}" for row in verdicts if (text := _contradiction(row))]
    sentences += [""]
    for answers, text in _UNANIMOUS.items():
        claims = [row[0].claim.text for row in verdicts if _answers(row) == answers]
        sentences += [f"{text}: {'; '.join(claims)}.", ""] if claims else []
    sentences += [_UNTESTED]
    return _CONTRADICTIONS.format(
        table=table(["the document's claim", *names], rows),
        sentences="\n".join(["", *sentences]),
    )


def _overall(remedy: str, measured: Sequence[xr.Dataset]) -> list[str]:
    target_met = [
        median_of(m, "untuned", remedy) <= float(m.attrs["target_loss"])
        for m in measured
    ]
    return [
        remedy,
        as_percent(mean_of(measured, "hold", remedy)),
        as_percent(mean_of(measured, "reach", remedy)),
        f"{_width(measured, remedy):.1f}",
        f"on {sum(target_met)} of {len(measured)}",
    ]


def _widest(measured: Sequence[xr.Dataset]) -> str:
    """Which remedy leaves most room for a learning rate."""
    widths = {remedy: _width(measured, remedy) for remedy in FOUR}
    most = max(widths.values())
    best = [remedy for remedy, width in widths.items() if width == most]
    if most == 0:
        return "At none of the learning rates does any of the four train."
    others = [f"{w:.1f} for {r}" for r, w in widths.items() if r not in best]
    against = f", against {listed(others)}" if others else ""
    return (
        f"Most learning rates train with **{listed(best)}**: {most:.1f} decades on"
        f" average{against}."
    )


def _width(measured: Sequence[xr.Dataset], remedy: str) -> float:
    return float(np.mean([value_of(m, "width", remedy) for m in measured]))


def _costs(measured: Sequence[xr.Dataset]) -> str:
    """What a remedy costs where plain SGD has its best rate already."""
    base = np.array([median_of(m, "common_steps", "neither") for m in measured])
    trained = np.isfinite(base)
    if not trained.any():
        return "At no rate does neither train here, so that no remedy has a price."
    costs = []
    for remedy in ("clipping", "schedule", "both"):
        steps = np.array([median_of(m, "common_steps", remedy) for m in measured])
        ratios = np.maximum(steps[trained], 1) / np.maximum(base[trained], 1)
        costs.append(f"{remedy} {_span(ratios)}")
    return _COSTS.format(
        problems=count_of(int(trained.sum()), "problem"), costs="; ".join(costs)
    )


def _span(ratios: np.ndarray[Any, Any]) -> str:
    """From the smallest to the largest, and how many are infinite."""
    reached = ratios[np.isfinite(ratios)]
    if not reached.size:
        return "misses it"
    span = " to ".join(dict.fromkeys(f"{r:.1f}" for r in np.sort(reached)[[0, -1]]))
    missed = len(ratios) - len(reached)
    return span + (f" (misses it on {missed})" if missed else "")


def _most_contradicted(verdicts: Sequence[Verdict]) -> str:
    failed = Counter(v.claim.text for v in verdicts if v.answer == "no")
    if not failed:
        return ""
    text, times = failed.most_common(1)[0]
    return f" Most often contradicted: *{text}*, on {count_of(times, 'problem')}."


def _norm_claims(measures: xr.Dataset) -> str:
    """The two numbers that the document gives for the norm."""
    first = values_of(measures, "first_norm", "neither")
    return _NORM_CLAIMS.format(
        first=as_loss(float(first.median())),
        above=as_percent(float((first > 10).mean())),
        threshold=measures.attrs["max_norm"],
        at=as_percent(median_of(measures, "at_threshold", "clipping")),
    )


def _contradiction(row: Sequence[Verdict]) -> str:
    """A sentence for a claim that some problem contradicts, or an empty one."""
    opposite = [v for v in row if v.answer == "no"]
    same = [v for v in row if v.answer == "same"]
    agreeing = [v.problem for v in row if v.answer == "yes"]
    if not opposite:
        return ""
    claim = opposite[0].claim
    pair = f"{claim.first} against {claim.second}"
    parts = ["the other way round on " + listed(map(_evidence, opposite))]
    if same:
        parts.append("no difference on " + listed(v.problem for v in same))
    if agreeing:
        parts.append("as claimed on " + listed(agreeing))
    quantity = _QUANTITIES[claim.quantity][0]
    return f"*{claim.text}* ({quantity}, {pair}): {'; '.join(parts)}."


def _evidence(verdict: Verdict) -> str:
    form = _QUANTITIES[verdict.claim.quantity][1]
    return f"{verdict.problem} ({form(verdict.first)} against {form(verdict.second)})"


def _answers(row: Sequence[Verdict]) -> frozenset[str]:
    return frozenset(verdict.answer for verdict in row) - {"-"}


def _ranking(values: dict[str, float]) -> str:
    """The remedies from the smallest to the largest, equals joined by `=`."""
    names = sorted(values, key=lambda name: values[name])
    text = names[0]
    for before, name in zip(names, names[1:], strict=False):
        equal = values[name] - values[before] < _SAME_SHARE
        text += f" {'=' if equal else '<'} {name}"
    return text


def _agreement(ranking: str) -> str:
    return "the same" if ranking == _ORDER else "not the same"


_QUANTITIES: dict[str, tuple[str, Callable[[float], str]]] = {
    "hold": ("runs that do not diverge", as_percent),
    "reach": ("runs that end at the target", as_percent),
    "steps": ("steps to the target, tuned", as_steps),
    "common_steps": ("steps to the target at one rate", as_steps),
    "final": ("final loss, tuned", as_loss),
    "untuned": ("final loss, untuned", as_loss),
    "roughness": ("roughness at one rate", as_loss),
    "swing": ("late swing at one rate", as_loss),
    "gap": ("test loss - training loss", as_loss),
}
