"""The tutorial's claims and their tests."""

from typing import NamedTuple

import numpy as np
import xarray as xr

from stabjax.study.experiment import SOLVED
from stabjax.study.measure import compare, compare_numbers

INTRODUCTION = """\
The study tests a tutorial that claims: "Without clipping, the gradient norm is above
10, and learning is fast but unstable. With clipping, the norm is 1, and learning is
slow but stable. A schedule smooths the learning curve, reduces late oscillation and
avoids overfitting. Stability is low with neither, average with clipping, good with a
schedule, and very good with both.\""""


class Claim(NamedTuple):
    """A claim that a quantity is smaller (-1) or larger (1) with one treatment."""

    text: str
    quantity: str
    first: str
    sign: int
    second: str


class Verdict(NamedTuple):
    """The result of testing a claim on one problem, with the compared values."""

    claim: Claim
    problem: str
    answer: str  # "yes", "no", "same", or "-" if the claim does not apply
    first: float
    second: float


# The tutorial grades stability low < average < good < very good, convergence poor <
# average < good < high, and effectiveness average < good = good < very good.
_ONE = "schedule>baseline"
_EACH = "clipping>baseline schedule>baseline both>schedule"
_CHAIN = "clipping>baseline schedule>clipping both>schedule"
CLAIMS = tuple(
    Claim(f"{first}: {text} than {second}", quantity, first, sign, second)
    for text, quantity, sign, pairs in (
        ("slower", "common_steps", 1, "clipping>baseline"),
        ("more stable", "stable", 1, f"{_EACH} schedule>clipping both>clipping"),
        ("more usable rates", "reached", 1, _CHAIN),
        ("faster convergence", "steps", -1, _CHAIN),
        ("lower tuned loss", "final", -1, _EACH),
        ("lower untuned loss", "untuned", -1, _EACH),
        ("smoother curves", "roughness", -1, _ONE),
        ("less late oscillation", "swing", -1, _ONE),
        ("less overfitting", "gap", -1, _ONE),
    )
    for first, second in (pair.split(">") for pair in pairs.split())
)


def judge(claim: Claim, measures: xr.Dataset) -> Verdict:
    """Tests a claim with a paired test, which must agree with the pooled values."""
    problem = str(measures.attrs["label"])
    if claim.quantity not in measures:
        return Verdict(claim, problem, "-", np.nan, np.nan)
    values = measures[claim.quantity]
    first, second = (values.sel(treatment=t) for t in (claim.first, claim.second))
    is_loss = claim.quantity in ("final", "untuned", "swing")
    floor = SOLVED * float(measures.attrs["target_loss"]) if is_loss else 0.0
    center = np.mean if claim.quantity in ("stable", "reached") else np.median
    a, b = (float(center(v)) for v in (first, second))
    sign = compare(first, second, floor).sign
    if sign != compare_numbers(a, b, floor):
        sign = 0
    answer = "same" if sign == 0 else "yes" if sign == claim.sign else "no"
    return Verdict(claim, problem, answer, a, b)
