"""The results of testing the tutorial's claims, as a table and as text."""

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

_COLUMNS = 8  # maximum number of problems in a table

_VERDICTS = """\
The number of problems on which a claim holds (yes), is contradicted (no), or the
difference is below 5% or not significant (=). Significance is determined by a sign test
over the seeds at the 5% level, so a few percent of the results can be wrong. A cell is
empty if the claim does not apply to the problem.

{table}

{sentences}"""

_NORMS = """\
- *"Without clipping, the gradient norm is above 10."* For the two weights of the
  tutorial, the median initial norm is {first}, and {above} of the seeds have an initial
  norm above 10.
- *"With clipping, the norm is 1."* The norm equals the threshold, {threshold}, at {at}
  of the steps to the target. At all other steps it is smaller, because the threshold is
  an upper bound."""

# The description and the format of the compared quantities.
_QUANTITIES: dict[str, tuple[str, Callable[[float], str]]] = {
    "stable": ("stable runs", as_percent),
    "reached": ("runs that reach the target", as_percent),
    "steps": ("steps to the target, tuned", as_steps),
    "common_steps": ("steps to the target at one rate", as_steps),
    "final": ("final loss, tuned", as_loss),
    "untuned": ("final loss, untuned", as_loss),
    "roughness": ("roughness at one rate", as_loss),
    "swing": ("late swing at one rate", as_loss),
    "gap": ("test loss - training loss", as_loss),
}


def verdicts(measured: Sequence[xr.Dataset]) -> str:
    """Returns a table of all claims and a list of the contradicted ones."""
    rows = [[judge(claim, m) for m in measured] for claim in CLAIMS]
    bullets = [_norms(m) for m in measured if m.attrs["label"] == "quadratic"]
    bullets += [f"- {text}" for row in rows if (text := _contradiction(row))]
    parts = ["\n".join(bullets)] if bullets else []
    for answer, text in (
        ("yes", "Claims confirmed on all applicable problems"),
        ("same", "Claims without a significant difference on any problem"),
    ):
        answers = [{verdict.answer for verdict in row} - {"-"} for row in rows]
        pairs = zip(CLAIMS, answers, strict=True)
        claims = [claim.text for claim, found in pairs if found == {answer}]
        parts += [f"{text}: {'; '.join(claims)}."] if claims else []
    parts += [_untested(measured)]
    return _VERDICTS.format(table=_table(rows), sentences="\n\n".join(parts))


def _table(rows: Sequence[Sequence[Verdict]]) -> str:
    """Returns a table of all claims, with columns for problems if there are few."""
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
    """Tests the tutorial's two claims about the gradient norm."""
    first = values_of(measures, "first_norm", "baseline")
    return _NORMS.format(
        first=as_loss(float(first.median())),
        above=as_percent(float((first > 10).mean())),
        threshold=as_number(measures.attrs["threshold"]),
        at=as_percent(median_of(measures, "at_threshold", "clipping")),
    )


def _contradiction(row: Sequence[Verdict]) -> str:
    """Describes a contradicted claim, or returns an empty string."""
    opposite, same, agreeing = (
        [v for v in row if v.answer == answer] for answer in ("no", "same", "yes")
    )
    if not opposite:
        return ""
    claim = opposite[0].claim
    quantity, form = _QUANTITIES[claim.quantity]
    evidence = [f"{v.problem} ({form(v.first)} vs. {form(v.second)})" for v in opposite]
    parts = ["contradicted on " + listed(evidence)]
    if same:
        parts.append("no difference on " + listed(v.problem for v in same))
    if agreeing:
        parts.append("confirmed on " + listed(v.problem for v in agreeing))
    return (
        f'*"{claim.text}"* ({quantity}, {claim.first} vs. {claim.second}): '
        f"{'; '.join(parts)}."
    )


def _untested(measured: Sequence[xr.Dataset]) -> str:
    """Lists the subjects of the tutorial that the study does not cover."""
    subjects = ["large models"]
    if "char_transformer" not in {m.attrs["problem"] for m in measured}:
        subjects.append("Transformers")
    if {m.attrs["optimizer"] for m in measured} == {"sgd"}:
        subjects.append("optimizers other than SGD")
    return f"The tutorial's claims about {listed(subjects)} are not tested."
