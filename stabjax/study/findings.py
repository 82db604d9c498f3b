"""What follows from the measurements: sentences that the numbers choose."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from stabjax.study.claims import CLAIMS, Verdict, judge
from stabjax.study.experiment import FOUR
from stabjax.study.measure import LEAST_SEEDS, ratio
from stabjax.study.text import (
    as_loss,
    as_number,
    as_percent,
    as_steps,
    count_of,
    listed,
    mean_of,
    median_of,
    paired,
    table,
    value_of,
    values_of,
)

_ORDER = "neither < clipping < schedule < both"
_WORDS = {"sgd": "stochastic gradient descent"}
_COLUMNS = 8  # of problems that fit into a table
_SAME_SHARE = 0.01  # shares closer than this have the same rank

_ANSWER = """\
{trainings:,} trainings on {problems}: {optimizers} with neither remedy, with the
gradient clipped ({clippings}), with a learning-rate schedule ({schedules}), and with
both; at the same learning rates, from the same starts and with the same noise. *The
document* is the article that the project was founded on; its claims are held against
what came out.

{table}

{sentences}
- Of {tested} comparisons with the document, {yes} came out as it says, {no} the other
  way round, and {same} showed no difference.{worst}{few}"""

_FEW = f"""
- With fewer than {LEAST_SEEDS} seeds no difference can be told from chance, however
  large: take more of them (`--seeds`)."""

_AVERAGES = """\
Means over the problems:

{table}"""

_SIDE_BY_SIDE = """\
Runs that end at the target, and decades of rates that train{more}:

{table}"""
_ALONE = ", and the final loss at the tuned rate"
_MEANS = "; means over the problems"

_RANKING = """\
- The document ranks stability **{order}**. Ranked by the runs that do not diverge, it
  is measured as **{held}**: {held_agrees}. Not to diverge is not to train, though;
  ranked by the runs that end at the target: **{reached}**: {reached_agrees}."""

_CONTRADICTIONS = """\
On how many problems it is as the document says (yes), the other way round (no), or no
different (=): by less than 5 %, or by no more than chance by a sign test over the seeds
(at 5 %, so a few in a hundred may be wrong). Empty: does not apply.

{table}
{sentences}"""

_PRICE = """\
- The price of a remedy where it is not needed: at the best rate for neither, in times
  as many steps to the target{prices}"""

_UNANIMOUS = {
    frozenset({"yes"}): "As the document says, wherever it applies",
    frozenset({"same"}): "Nowhere a difference",
}

_NORM_CLAIMS = """\
- *Without clipping the gradient norm is above 10.* On its two weights it starts at
  {first} and is above 10 for {above} of the starts.
- *With clipping it is 1.* It is the threshold, {threshold}, in {at} of the steps to
  the target, and smaller in the others: the threshold is a bound, not the value."""


def answer(measured: Sequence[xr.Dataset]) -> str:
    """What came out, before anything else."""
    verdicts = [judge(claim, m) for claim in CLAIMS for m in measured]
    count = Counter(verdict.answer for verdict in verdicts)
    groups = by_methods(measured)
    rankings = [_rankings(measured)] if len(groups) == 1 else []
    return _ANSWER.format(
        trainings=sum(int(m.attrs["trials"]) for m in measured),
        problems=count_of(len({m.attrs["problem"] for m in measured}), "problem"),
        optimizers=_named(measured, "optimizer"),
        clippings=_named(measured, "clipping"),
        schedules=_named(measured, "schedule"),
        table=_averages(groups),
        sentences="\n".join([_widest(groups), *rankings, _prices(groups)]),
        tested=count["yes"] + count["no"] + count["same"],
        yes=count["yes"],
        no=count["no"],
        same=count["same"],
        worst=_most_contradicted(verdicts),
        few=_FEW if min(m.sizes["seed"] for m in measured) < LEAST_SEEDS else "",
    )


def by_methods(measured: Sequence[xr.Dataset]) -> dict[str, list[xr.Dataset]]:
    """The problems of each of the methods, by what the methods are called."""
    groups: dict[str, list[xr.Dataset]] = {}
    for name, one in zip(methods_of(measured), measured, strict=True):
        groups.setdefault(name, []).append(one)
    return groups


def methods_of(measured: Sequence[xr.Dataset]) -> list[str]:
    """What the methods of each are called: by what not all of them have."""
    parts = [str(one.attrs["methods"]).split(", ") for one in measured]
    common = set.intersection(*map(set, parts))
    return [", ".join(p for p in methods if p not in common) for methods in parts]


def contradictions(measured: Sequence[xr.Dataset]) -> str:
    """Every claim against every problem, and those that fail, with their numbers."""
    verdicts = [[judge(claim, m) for m in measured] for claim in CLAIMS]
    sentences = [_norm_claims(m) for m in measured if m.attrs["label"] == "quadratic"]
    sentences += [f"- {text}" for row in verdicts if (text := _contradiction(row))]
    sentences += [""]
    for answers, text in _UNANIMOUS.items():
        claims = [row[0].claim.text for row in verdicts if _answers(row) == answers]
        sentences += [f"{text}: {'; '.join(claims)}.", ""] if claims else []
    sentences += [_untested(measured)]
    return _CONTRADICTIONS.format(
        table=_claim_table(verdicts), sentences="\n".join(["", *sentences])
    )


def _claim_table(verdicts: list[list[Verdict]]) -> str:
    """How often each claim holds, and on what problems where they fit beside it."""
    names = [verdict.problem for verdict in verdicts[0]]
    shown = names if len(names) <= _COLUMNS else []
    signs = {"yes": "yes", "no": "**no**", "same": "=", "-": ""}
    rows = []
    for row in verdicts:
        count = Counter(verdict.answer for verdict in row)
        counts = [count["yes"], count["no"], count["same"]]
        rows.append([row[0].claim.text, *counts])
        rows[-1] += [signs[verdict.answer] for verdict in row if shown]
    return table(["the document's claim", "yes", "no", "=", *shown], rows)


def _rankings(measured: Sequence[xr.Dataset]) -> str:
    """The document's order of the remedies beside the measured ones."""
    held = _ranking({r: mean_of(measured, "hold", r) for r in FOUR})
    reached = _ranking({r: mean_of(measured, "reach", r) for r in FOUR})
    return _RANKING.format(
        order=_ORDER,
        held=held,
        held_agrees=_agreement(held),
        reached=reached,
        reached_agrees=_agreement(reached),
    )


def _untested(measured: Sequence[xr.Dataset]) -> str:
    """What the document speaks of and no problem here is."""
    said = ["large models"]
    if "char_transformer" not in {m.attrs["problem"] for m in measured}:
        said.append("Transformers")
    if {m.attrs["optimizer"] for m in measured} == {"sgd"}:
        said.append("optimizers other than SGD")
    return f"Not tested here: what the document says of {listed(said)}."


def _named(measured: Sequence[xr.Dataset], what: str) -> str:
    """The names of the methods, each once."""
    names = dict.fromkeys(str(m.attrs[what]) for m in measured)
    return listed(_WORDS.get(name, f"`{name}`") for name in names)


def _averages(groups: Mapping[str, Sequence[xr.Dataset]]) -> str:
    """What the remedies do on average; one row for each of the methods if several."""
    if len(groups) > 1:
        alone = all(len(group) == 1 for group in groups.values())
        rows = [[name, *_cells(group, alone)] for name, group in groups.items()]
        more = _ALONE if alone else _MEANS
        return _SIDE_BY_SIDE.format(table=table(["", *FOUR], rows), more=more)
    [measured] = groups.values()
    header = ["", "runs that do not diverge", "runs that end at the target"]
    header += ["decades of rates that train"]
    header += ["a rate about ten times too large ends at the target"]
    rows = [_overall(remedy, measured) for remedy in FOUR]
    return _AVERAGES.format(table=table(header, rows))


def _cells(measured: Sequence[xr.Dataset], alone: bool) -> list[str]:
    """For each remedy two numbers, and a loss where no problems mix."""
    cells = []
    for remedy in FOUR:
        reached = as_percent(mean_of(measured, "reach", remedy))
        parts = [reached, f"{_width(measured, remedy):.1f}"]
        if alone:
            parts.append(as_loss(median_of(measured[0], "final", remedy)))
        cells.append(", ".join(parts))
    return cells


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


def _widest(groups: Mapping[str, Sequence[xr.Dataset]]) -> str:
    """Which remedy leaves most room for a learning rate."""
    several = len(groups) > 1
    widths = {
        f"{remedy} ({name})" if several else remedy: _width(group, remedy)
        for name, group in groups.items()
        for remedy in FOUR
    }
    most = max(widths.values())
    best = [remedy for remedy, width in widths.items() if width == most]
    if most == 0:
        return "- With none of the four does a range of learning rates train."
    others = [f"{w:.1f} for {r}" for r, w in widths.items() if r not in best]
    against = f", against {listed(others)}" if others and not several else ""
    return (
        f"- Most learning rates train with **{listed(best)}**: {most:.1f} decades on"
        f" average{against}."
    )


def _width(measured: Sequence[xr.Dataset], remedy: str) -> float:
    return float(np.mean([value_of(m, "width", remedy) for m in measured]))


def _prices(groups: Mapping[str, Sequence[xr.Dataset]]) -> str:
    """What a remedy costs where the optimizer has its best rate already."""
    prices = [_price(group) for group in groups.values()]
    if len(groups) == 1:
        return _PRICE.format(prices=f", {prices[0]}")
    rows = [f"\n    - {name}: {p}" for name, p in zip(groups, prices, strict=True)]
    return _PRICE.format(prices=":" + "".join(rows))


def _price(measured: Sequence[xr.Dataset]) -> str:
    trained = [
        m for m in measured if np.isfinite(median_of(m, "common_steps", "neither"))
    ]
    if not trained:
        return "unknown, as neither trains at any rate."
    costs = [
        f"{remedy} {_span(np.array([_times_as_many(m, remedy) for m in trained]))}"
        for remedy in ("clipping", "schedule", "both")
    ]
    problems = count_of(len(measured), "problem")
    if len(trained) < len(measured):
        problems = f"the {len(trained)} of {problems} where neither gets there"
    return f"on {problems}: {'; '.join(costs)}."


def _times_as_many(measures: xr.Dataset, remedy: str) -> float:
    """Steps to the target at the best rate for neither: the ratio in the table."""
    found = ratio(*paired(measures, "common_steps", remedy))
    return np.nan if found is None else found.value


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
    return f" Most often contradicted: *{text}*, {count_of(times, 'time')}."


def _norm_claims(measures: xr.Dataset) -> str:
    """The two numbers that the document gives for the norm."""
    first = values_of(measures, "first_norm", "neither")
    return _NORM_CLAIMS.format(
        first=as_loss(float(first.median())),
        above=as_percent(float((first > 10).mean())),
        threshold=as_number(measures.attrs["threshold"]),
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
