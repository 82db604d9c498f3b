"""What the founding document claims, each held against the runs of each problem."""

from typing import NamedTuple

import numpy as np
import xarray as xr

from stabjax.study.experiment import SOLVED
from stabjax.study.measure import compare, compare_numbers


class Claim(NamedTuple):
    """That one remedy's number is smaller (-1) or larger (1) than another's."""

    text: str
    quantity: str
    first: str
    sign: int
    second: str


class Verdict(NamedTuple):
    """What a problem says of a claim."""

    claim: Claim
    problem: str
    answer: str  # "yes", "no", "same" or "-" if there is nothing to compare
    first: float  # what was compared, over all seeds
    second: float


# Its tables grade stability low < average < good < very good, convergence poor <
# average < good < high, effectiveness average < good = good < very good.
CLAIMS = (
    Claim("clipping: slower than neither", "common_steps", "clipping", 1, "neither"),
    Claim("clipping: more stable than neither", "hold", "clipping", 1, "neither"),
    Claim("a schedule: more stable than neither", "hold", "schedule", 1, "neither"),
    Claim("a schedule: more stable than clipping", "hold", "schedule", 1, "clipping"),
    Claim("both: more stable than clipping", "hold", "both", 1, "clipping"),
    Claim("both: more stable than a schedule", "hold", "both", 1, "schedule"),
    Claim("clipping: more rates train than neither", "reach", "clipping", 1, "neither"),
    Claim(
        "a schedule: more rates train than clipping", "reach", "schedule", 1, "clipping"
    ),
    Claim("both: more rates train than a schedule", "reach", "both", 1, "schedule"),
    Claim(
        "clipping: converges sooner than neither", "steps", "clipping", -1, "neither"
    ),
    Claim(
        "a schedule: converges sooner than clipping",
        "steps",
        "schedule",
        -1,
        "clipping",
    ),
    Claim("both: converge sooner than a schedule", "steps", "both", -1, "schedule"),
    Claim(
        "clipping: better tuned loss than neither", "final", "clipping", -1, "neither"
    ),
    Claim(
        "a schedule: better tuned loss than neither", "final", "schedule", -1, "neither"
    ),
    Claim("both: better tuned loss than a schedule", "final", "both", -1, "schedule"),
    Claim(
        "clipping: better untuned loss than neither",
        "untuned",
        "clipping",
        -1,
        "neither",
    ),
    Claim(
        "a schedule: better untuned loss than neither",
        "untuned",
        "schedule",
        -1,
        "neither",
    ),
    Claim(
        "both: better untuned loss than a schedule", "untuned", "both", -1, "schedule"
    ),
    Claim("a schedule: smoother curves", "roughness", "schedule", -1, "neither"),
    Claim("a schedule: less oscillation late", "swing", "schedule", -1, "neither"),
    Claim("a schedule: less over-fitting", "gap", "schedule", -1, "neither"),
)


def judge(claim: Claim, measures: xr.Dataset) -> Verdict:
    """Compares two remedies, seed by seed and in the whole; both must agree."""
    problem = str(measures.attrs["label"])
    if claim.quantity not in measures:
        return Verdict(claim, problem, "-", np.nan, np.nan)
    values = measures[claim.quantity]
    first, second = (values.sel({"remedy": r}) for r in (claim.first, claim.second))
    is_loss = claim.quantity in ("final", "untuned", "swing")
    floor = SOLVED * float(measures.attrs["target_loss"]) if is_loss else 0.0
    middle = np.mean if claim.quantity in ("hold", "reach") else np.median
    a, b = (float(middle(v)) for v in (first, second))
    sign = compare(first, second, floor).sign
    if sign != compare_numbers(a, b, floor):
        sign = 0
    answer = "same" if sign == 0 else "yes" if sign == claim.sign else "no"
    return Verdict(claim, problem, answer, a, b)
