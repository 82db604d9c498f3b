"""The verdict on every claim of the tutorial, in a table and in sentences."""

from collections import Counter
from collections.abc import Callable, Sequence

import xarray as xr

from stabjax.study.claims import CLAIMS, Verdict, judge
from stabjax.study.text import (
    as_loss,
    as_number,
    as_percent,
    as_steps,
    listed,
    median_of,
    table,
    values_of,
)

_COLUMNS = 8  # problems that fit into a table

_VERDICTS = """\
The number of problems on which a claim holds (yes), is contradicted (no), or makes no
difference (=: below 5 %, or not significant by a sign test over the seeds at 5 %, so a
few in a hundred can be wrong). Empty: does not apply.

{table}

{sentences}"""

_NORMS = """\
- *"Without clipping the gradient norm is above 10."* On the tutorial's two weights it
  starts at {first} and is above 10 for {above} of the starts.
- *"With clipping it is 1."* It equals the threshold, {threshold}, at {at} of the steps
  to the target, and is smaller at the others: the threshold is an upper bound."""

# The quantities that claims compare, and how they are printed.
_QUANTITIES: dict[str, tuple[str, Callable[[float], str]]] = {
    "stable": ("runs that do not diverge", as_percent),
    "reached": ("runs that end at the target", as_percent),
    "steps": ("steps to the target, tuned", as_steps),
    "common_steps": ("steps to the target at one rate", as_steps),
    "final": ("final loss, tuned", as_loss),
    "untuned": ("final loss, untuned", as_loss),
    "roughness": ("roughness at one rate", as_loss),
    "swing": ("late swing at one rate", as_loss),
    "gap": ("test loss - training loss", as_loss),
}


def verdicts(measured: Sequence[xr.Dataset]) -> str:
    """Every claim on every problem, and the contradicted ones with their numbers."""
    rows = [[judge(claim, m) for m in measured] for claim in CLAIMS]
    bullets = [_norms(m) for m in measured if m.attrs["label"] == "quadratic"]
    bullets += [f"- {text}" for row in rows if (text := _contradiction(row))]
    parts = ["\n".join(bullets)] if bullets else []
    for answer, text in (
        ("yes", "Confirmed wherever they apply"),
        ("same", "No difference on any problem"),
    ):
        answers = [{verdict.answer for verdict in row} - {"-"} for row in rows]
        pairs = zip(CLAIMS, answers, strict=True)
        claims = [claim.text for claim, found in pairs if found == {answer}]
        parts += [f"{text}: {'; '.join(claims)}."] if claims else []
    parts += [_untested(measured)]
    return _VERDICTS.format(table=_table(rows), sentences="\n\n".join(parts))


def _table(rows: Sequence[Sequence[Verdict]]) -> str:
    """The counts of each claim, and its answer on each problem if there are few."""
    names = [verdict.problem for verdict in rows[0]]
    shown = names if len(names) <= _COLUMNS else []
    signs = {"yes": "yes", "no": "**no**", "same": "=", "-": ""}
    lines = []
    for row in rows:
        count = Counter(verdict.answer for verdict in row)
        counts = [str(count[answer]) for answer in ("yes", "no", "same")]
        answers = [signs[verdict.answer] for verdict in row if shown]
        lines.append([row[0].claim.text, *counts, *answers])
    return table(["the tutorial's claim", "yes", "no", "=", *shown], lines)


def _norms(measures: xr.Dataset) -> str:
    """The tutorial's two numbers for the gradient norm."""
    first = values_of(measures, "first_norm", "baseline")
    return _NORMS.format(
        first=as_loss(float(first.median())),
        above=as_percent(float((first > 10).mean())),
        threshold=as_number(measures.attrs["threshold"]),
        at=as_percent(median_of(measures, "at_threshold", "clipping")),
    )


def _contradiction(row: Sequence[Verdict]) -> str:
    """A sentence on a claim that a problem contradicts, else an empty one."""
    opposite, same, agreeing = (
        [v for v in row if v.answer == answer] for answer in ("no", "same", "yes")
    )
    if not opposite:
        return ""
    claim = opposite[0].claim
    quantity, form = _QUANTITIES[claim.quantity]
    evidence = [
        f"{v.problem} ({form(v.first)} against {form(v.second)})" for v in opposite
    ]
    parts = ["contradicted on " + listed(evidence)]
    if same:
        parts.append("no difference on " + listed(v.problem for v in same))
    if agreeing:
        parts.append("confirmed on " + listed(v.problem for v in agreeing))
    return (
        f'*"{claim.text}"* ({quantity}, {claim.first} against {claim.second}): '
        f"{'; '.join(parts)}."
    )


def _untested(measured: Sequence[xr.Dataset]) -> str:
    """The subjects of the tutorial that no problem here covers."""
    subjects = ["large models"]
    if "char_transformer" not in {m.attrs["problem"] for m in measured}:
        subjects.append("Transformers")
    if {m.attrs["optimizer"] for m in measured} == {"sgd"}:
        subjects.append("optimizers other than SGD")
    return f"Not tested here: the tutorial's claims about {listed(subjects)}."
