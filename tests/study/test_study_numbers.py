"""The numbers and sentences of a study, from runs made by hand."""

import re

import numpy as np
import pytest
import xarray as xr

from stabjax._intervals import Estimate
from stabjax.study.answer import advice, headline, numbers
from stabjax.study.claims import CLAIMS, Claim, judge
from stabjax.study.experiment import RATES, TREATMENTS, choose, steps_to
from stabjax.study.measure import (
    MIN_SEEDS,
    compare,
    fraction_of_seeds,
    mean_of_seeds,
    measure,
    ratio,
)
from stabjax.study.tables import both_tables, curve_tables
from stabjax.study.text import (
    as_loss,
    as_number,
    as_points,
    as_steps,
    listed,
    table,
)
from stabjax.study.verdicts import verdicts

INF = np.inf


def test_steps_to_the_target_are_those_after_which_the_loss_stays():
    loss = [[3, 1, 1, 1], [1, 3, 1, 1], [1, 1, 1, 3], [1, 1, 1, 1], [3, 3, 3, INF]]
    data = xr.DataArray(np.float32(loss), {"step": [0, 3, 6, 9]}, ["seed", "step"])
    assert steps_to(data, 1.0).values.tolist() == [3, 6, INF, 0, INF]


class TestChoice:
    def swept(self, losses, steps):
        """Runs of two thresholds and none, both schedules, three rates, one seed."""
        coords = {
            "threshold": [1.0, 10.0, INF],
            "scheduled": [0.0, 1.0],
            "peak_value": [0.1, 1.0, 10.0],
            "seed": [0],
        }
        shape = (3, 2, 3, 1)
        variables = {
            "final_loss": (list(coords), np.reshape(losses, shape)),
            "steps_to_target": (list(coords), np.reshape(steps, shape)),
        }
        return xr.Dataset(variables, coords, {"target_loss": 1.0, "threshold": 1.0})

    def test_smallest_loss_then_fewest_steps(self):
        losses = np.full((3, 2, 3), INF)
        steps = np.full((3, 2, 3), INF)
        losses[2, 0] = [3.0, 2.0, INF]  # baseline: the second rate
        losses[0, 0] = [1e-4, 0.0, 1e-9]  # clipping at 1: equal, so by steps
        steps[0, 0] = [50, 30, 40]
        losses[1, 0] = [0.0, INF, INF]  # clipping at 10: faster still
        steps[1, 0] = [20, INF, INF]
        chosen = choose(self.swept(losses, steps))
        tuned = chosen.sel(rate="tuned")
        picked = dict(
            zip(tuned.treatment.values, tuned.chosen_rate.values, strict=True)
        )
        assert (picked["baseline"], picked["clipping"]) == (1.0, 1.0)
        assert picked["clipping, tuned"] == 0.1
        thresholds = chosen.chosen_threshold.sel(
            {"treatment": ["clipping", "clipping, tuned"]}
        )
        assert thresholds.values.tolist() == [1.0, 10.0]

    def test_all_have_the_same_common_and_untuned_rate(self):
        losses = np.ones((3, 2, 3))
        losses[2, 0] = [1.0, 0.5, 1.0]
        chosen = choose(self.swept(losses, losses)).chosen_rate
        assert (chosen.sel(rate="common") == 1.0).all()
        assert (chosen.sel(rate="untuned") == 10.0).all()

    @pytest.mark.parametrize("low", [1e-4, 0.0123, 3.3])
    def test_of_two_rates_that_are_as_near_the_larger_is_untuned(self, low):
        losses = np.full((3, 2, 3), 1.0)
        losses[2, 0] = [0.0, 1.0, 1.0]
        runs = self.swept(losses, losses)
        # A third of a decade below and above ten times the first.
        rates = np.geomspace(low, low * 1e4, 7)[:3]
        chosen = choose(runs.assign_coords(peak_value=rates)).chosen_rate
        assert (chosen.sel(rate="untuned") == rates[2]).all()


NAMES = {
    "problem": "quadratic",
    "label": "quadratic",
    "methods": "the problem's own optimizer, clip_by_global_norm, "
    "warmup_cosine_decay_schedule",
    "optimizer": "sgd",
    "clipping": "clip_by_global_norm",
    "schedule": "warmup_cosine_decay_schedule",
}


def observed(curves, **changes):
    """What `observe` gives of a problem with two rates, 1 and 10, and known numbers.

    At 1 all treatments end at 0.5 after 4 steps; at 10 they diverge without clipping,
    and stop at 7 with it.
    """
    seeds = len(next(iter(curves.values())))
    coords = {
        "threshold": [2.0, INF],
        "scheduled": [0.0, 1.0],
        "peak_value": [1.0, 10.0],
        "seed": np.arange(seeds),
    }
    final = np.full((2, 2, 2, seeds), 0.5)
    final[0, :, 1] = 7.0
    final[1, :, 1] = INF
    dims = list(coords)
    treatments = [
        (2.0 if clipped else INF, float(s)) for clipped, s, _ in TREATMENTS.values()
    ]
    loss = np.stack([curves.get(r, curves["baseline"]) for r in TREATMENTS]).astype(
        float
    )
    loss = np.repeat(loss[:, None], len(RATES), axis=1)
    along = ["treatment", "rate", "seed", "step"]
    variables = {
        "final_loss": (dims, final),
        "status": (dims, np.isinf(final).astype(np.int8)),
        "steps_to_target": (dims, np.where(final <= 1, 4.0, INF)),
        "chosen_threshold": ("treatment", [c for c, _ in treatments]),
        "chosen_scheduled": ("treatment", [s for _, s in treatments]),
        "chosen_rate": (["treatment", "rate"], [[1.0, 1.0, 10.0]] * len(TREATMENTS)),
        "loss": (along, loss),
        "update_norm": (along, np.broadcast_to(2.0, loss.shape)),
    }
    coords |= {"treatment": list(TREATMENTS), "rate": list(RATES)}
    coords["step"] = np.arange(loss.shape[-1])
    attrs = {"target_loss": 1.0, "threshold": 2.0, "trials": 16, **NAMES}
    return xr.Dataset(variables, coords, attrs).assign(changes)


SMOOTH = [[100.0, 10.0, 1.0, 0.1, 0.01, 0.01, 0.01, 0.01, 0.01, 0.01]] * 8
ROUGH = [[100.0, 1.0, 100.0, 1.0, 100.0, 1.0, 100.0, 1.0, 4.0, 2.0]] * 8


class TestMeasures:
    measures = measure(observed({"baseline": ROUGH, "schedule": SMOOTH}))

    def of(self, name, treatment):
        return self.measures[name].sel({"treatment": treatment}).values

    def test_shares_over_all_rates(self):
        assert (self.of("stable", "baseline") == 0.5).all()
        assert (self.of("stable", "both") == 1.0).all()
        assert (self.of("reached", "both") == 0.5).all()

    def test_width_is_in_decades(self):
        assert self.of("width", "baseline") == 1.0  # one of two rates a decade apart

    def test_losses(self):
        assert (self.of("final", "baseline") == 0.5).all()
        assert np.isinf(self.of("untuned", "schedule")).all()
        assert (self.of("untuned", "clipping") == 7.0).all()
        assert not self.of("untuned_stable", "schedule").any()
        assert np.isinf(self.of("median", "baseline"))
        assert self.of("median", "clipping") == 3.75

    def test_steps(self):
        assert (self.of("steps", "both") == 4.0).all()

    def test_shape_of_the_curve(self):
        assert (self.of("rises", "baseline") == 4 / 9).all()
        assert (self.of("rises", "schedule") == 0).all()
        # Logs fall by one until 0.01, then stay: one bend of 1 in 8 second differences.
        np.testing.assert_allclose(self.of("roughness", "schedule"), 1 / 8)
        # The last tenth are at least two steps: 4 and 2.
        assert (self.of("swing", "baseline") == 2).all()
        np.testing.assert_allclose(self.of("wobble", "baseline"), 2 / 3)

    def test_norms(self):
        for name in ("first_norm", "median_norm", "largest_norm"):
            assert (self.of(name, "clipping") == 2.0).all()
        assert (self.of("at_threshold", "clipping") == 1.0).all()
        assert (self.of("at_threshold", "baseline") == 0.0).all()

    def test_norms_are_those_on_the_way_to_the_target(self):
        norms = observed({"baseline": SMOOTH}).update_norm.copy()
        norms[..., 4:] = 100.0
        changed = measure(observed({"baseline": SMOOTH}, update_norm=norms))
        assert (changed.largest_norm == 2.0).all()

    def test_diverged_curves_have_no_shape(self):
        lost = [[1.0, 2.0, *[INF] * 8]] * 8
        measures = measure(observed({"baseline": lost}))
        for name in ("rises", "roughness", "swing", "wobble"):
            assert np.isinf(measures[name]).all()

    def test_overfitting(self):
        runs = observed({"baseline": SMOOTH})
        sets = {
            "train_loss": runs.final_loss,
            "test_loss": runs.final_loss + 0.25,
            "test_accuracy": runs.final_loss * 0 + 0.75,
        }
        measures = measure(runs.assign(sets))
        assert (measures.gap == 0.25).all()
        assert (measures.accuracy == 0.75).all()
        assert "| both | 0.5 | 0.25 | 75.0% |" in curve_tables([measures])


def seeds(*values):
    return xr.DataArray(np.array(values, float), dims="seed")


class TestStatistics:
    def test_share_is_the_mean_of_the_seeds(self):
        found = mean_of_seeds(seeds(0.2, 0.4, 0.6, 0.8))
        assert found.value == pytest.approx(0.5)
        assert 0.2 <= found.low < 0.5 < found.high <= 0.8

    def test_interval_is_that_of_the_mean(self):
        values = np.linspace(0, 1, 101)
        found = mean_of_seeds(seeds(*values))
        error = values.std() / np.sqrt(len(values))
        assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.05)

    def test_seeds_that_agree_leave_no_interval(self):
        assert mean_of_seeds(seeds(0.5, 0.5, 0.5)) == (0.5, 0.5, 0.5)

    def test_ratio_is_the_median_of_the_pairs(self):
        found = ratio(seeds(2, 4, 6, 8, 10), seeds(1, 4, 2, 2, 0))  # 0 counts as 1
        assert found.value == 3.0
        assert 1.0 <= found.low < 3.0 < found.high <= 10.0
        assert ratio(seeds(2, 4, 6), seeds(1, 2, 3)) == (2.0, 2.0, 2.0)

    def test_ratio_where_something_never_arrives(self):
        assert ratio(seeds(1, 2), seeds(INF, INF)) is None
        assert ratio(seeds(1, 2, 3), seeds(INF, 1, INF)) == (2.0, 2.0, 2.0)
        assert ratio(seeds(INF, INF, 3), seeds(1, 1, 1)).value == INF

    def test_fraction_of_seeds_has_wilsons_interval(self):
        none, half = fraction_of_seeds(seeds(*[0] * 32)), fraction_of_seeds(seeds(0, 1))
        square = 1.959964**2
        assert none == pytest.approx((0, 0, square / (32 + square)), abs=1e-6)
        assert half.low + half.high == pytest.approx(1.0)

    def test_compare_needs_more_than_chance(self):
        # Two-sided: 2 / 2^6 is below 5%, 2 / 2^5 is not.
        assert compare(seeds(*[1] * 6), seeds(*[2] * 6)) == (6, 0, -1)
        assert compare(seeds(*[2] * 6), seeds(*[1] * 6)) == (0, 6, 1)
        assert compare(seeds(*[1] * 5), seeds(*[2] * 5)) == (5, 0, 0)
        assert compare(seeds(1, 2, 1, 2, 1, 2), seeds(2, 1, 2, 1, 2, 1)) == (3, 3, 0)

    def test_compare_takes_what_hardly_differs_as_equal(self):
        assert compare(seeds(*[1.0] * 9), seeds(*[1.04] * 9)) == (0, 0, 0)
        assert compare(seeds(*[INF] * 9), seeds(*[INF] * 9)) == (0, 0, 0)
        assert compare(seeds(*[0.0] * 9), seeds(*[1e-9] * 9), floor=1e-3).sign == 0

    def test_infinity_is_larger(self):
        assert compare(seeds(*[1.0] * 9), seeds(*[INF] * 9)) == (9, 0, -1)


class TestFindings:
    """Conclusions come from the numbers: other numbers, other conclusions."""

    smoother = Claim(
        "schedule: smoother curves", "roughness", "schedule", -1, "baseline"
    )

    @pytest.mark.parametrize(
        "baseline, schedule, verdict",
        [(ROUGH, SMOOTH, "yes"), (SMOOTH, ROUGH, "no"), (SMOOTH, SMOOTH, "same")],
    )
    def test_verdict(self, baseline, schedule, verdict):
        measures = measure(observed({"baseline": baseline, "schedule": schedule}))
        assert judge(self.smoother, measures).answer == verdict

    def test_contradictions_give_their_numbers(self):
        text = verdicts([measure(observed({"baseline": SMOOTH, "schedule": ROUGH}))])
        [line] = [
            x for x in text.splitlines() if x.startswith('- *"schedule: smoother')
        ]
        assert re.search(r"contradicted on quadratic \(3\.4 vs\. 0\.12\)", line)

    def test_agreement_is_not_a_contradiction(self):
        text = verdicts([measure(observed({"baseline": ROUGH, "schedule": SMOOTH}))])
        assert '- *"schedule: smoother curves"' not in text
        confirmed = text.split("Claims confirmed on all applicable problems")[1]
        assert "schedule: smoother curves" in confirmed

    def test_claims_without_numbers_are_left_empty(self):
        measures = measure(observed({"baseline": SMOOTH}))
        gap = next(claim for claim in CLAIMS if claim.quantity == "gap")
        assert judge(gap, measures).answer == "-"

    def test_answer_ranks_the_treatments(self):
        measured = [measure(observed({"baseline": SMOOTH}))]
        text = numbers(measured)
        # Clipping holds at both rates; all reach the target at one of the two.
        assert "**baseline = schedule < clipping = both**, which does not agree" in text
        assert "**baseline = clipping = schedule = both**" in text
        assert "| baseline | 50% | 50% | 1.0 | on 0 of 1 |" in text
        first = headline(measured)
        equal = "neither, clipping alone, a schedule alone and clipping and a schedule"
        assert f"learning rate with **{equal}**" in first
        assert first.endswith("is 10 times the smallest.")

    def test_too_few_seeds_are_shown_text(self):
        runs = observed({"baseline": SMOOTH})
        few = runs.isel(seed=np.arange(MIN_SEEDS - 1) % runs.sizes["seed"])
        enough = runs.isel(seed=np.arange(MIN_SEEDS) % runs.sizes["seed"])
        assert "With fewer than 6 seeds, no difference" in numbers([measure(few)])
        assert "With fewer than" not in numbers([measure(enough)])
        most = compare(seeds(*[1.0] * MIN_SEEDS), seeds(*[2.0] * MIN_SEEDS))
        assert most.sign and not compare(seeds(*[1.0] * 5), seeds(*[2.0] * 5)).sign

    def test_norms_are_compared_with_the_tutorials_numbers(self):
        text = verdicts([measure(observed({"baseline": SMOOTH}))])
        assert "initial norm is 2, and 0% of the seeds" in text

    def test_a_single_rate_is_not_a_range(self):
        runs = observed({"baseline": SMOOTH}).isel(peak_value=[0])
        runs["chosen_rate"] = xr.ones_like(runs.chosen_rate)
        measured = [measure(runs)]
        assert "| baseline | 100% | 100% | 0.0 |" in numbers(measured)
        assert headline(measured).startswith("No treatment trains over a range")

    def test_the_price_is_the_ratio_of_the_table(self):
        """The median of 1, 2 and 4 times as many steps, not 12 steps over 4."""
        runs = observed({"baseline": SMOOTH})
        runs = runs.isel(seed=[0, 0, 0]).assign_coords(seed=range(3))
        steps = runs.steps_to_target.transpose("threshold", ..., "seed").copy()
        steps[0], steps[-1] = [4, 12, 16], [4, 6, 4]
        measures = measure(runs.assign(steps_to_target=steps))
        prices = "2.0 (clipping), 1.0 (schedule) and 2.0 (both), on 1 problem."
        assert advice([measures]).endswith(prices)
        assert "| 2.00 [1.00, 4.00] |\n" in both_tables(measures)


class TestSeveralMethods:
    """Two methods on one problem, the second of which trains at every rate."""

    def measured(self):
        runs = observed({"baseline": SMOOTH})
        better = runs.assign(
            final_loss=xr.full_like(runs.final_loss, 0.5),
            status=xr.zeros_like(runs.status),
        )
        better.attrs |= {
            "label": "quadratic, adam, zclip",
            "methods": "adam, zclip, warmup_cosine_decay_schedule",
            "optimizer": "adam",
            "clipping": "zclip",
        }
        return [measure(runs), measure(better)]

    def test_they_stand_side_by_side(self):
        two = self.measured()
        text = numbers(two)
        assert "`sgd` and `adam` alone" in text
        assert "(`clip_by_global_norm` and `zclip`)" in text
        first = "| the problem's own optimizer, clip_by_global_norm | 50%, 1.0, 0.5 |"
        assert first in text
        assert "| adam, zclip | 100%, 2.0, 0.5 | 100%, 2.0, 0.5 |" in text
        assert "clipping alone (adam, zclip)" in headline(two)
        assert "    - adam, zclip: 1.0 (clipping), 1.0 (schedule)" in advice(two)

    def test_claims_have_a_column_for_each_or_counts_alone(self):
        two = self.measured()
        text = verdicts(two)
        assert "| yes | no | = | quadratic | quadratic, adam, zclip |" in text
        stable = "| clipping: more stable than baseline | "
        assert f"{stable}1 | 0 | 1 | yes | = |" in text
        many = verdicts(5 * two)
        assert f"{stable}5 | 0 | 5 |\n" in many
        assert "about large models and Transformers are not tested." in many

    def test_pairs(self):
        table = both_tables(self.measured()[0])
        assert (
            "| clipping | +50 [+50, +50] | +0 [+0, +0] | +0.0 | 1.00 | 1.00 |" in table
        )


def test_numbers_as_they_are_printed():
    assert as_loss(INF) == "diverged"
    assert as_loss(0.012345) == "0.012"
    assert as_loss(453.2) == "453"
    assert [as_number(x) for x in (99.99, 0.00123, 1e-5)] == ["100", "0.0012", "1e-05"]
    assert as_points(Estimate(-0.001, -0.02, 0.004)) == "+0 [-2, +0]"
    assert as_steps(INF) == "never"
    assert as_points(Estimate(-0.001, -0.02, 0.004)) == "+0 [-2, +0]"
    assert as_steps(41.5) == "42"
    assert listed(["a", "b", "c"]) == "a, b and c"
    assert table(["a", "b"], [[1, "x"]]) == "| a | b |\n| --- | --- |\n| 1 | x |"
