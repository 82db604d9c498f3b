"""The founding experiment: runs against closed forms, numbers against their runs."""

import re

import jax
import numpy as np
import optax
import pytest
import xarray as xr

import stabjax
from stabjax import study
from stabjax.study.claims import CLAIMS, Claim, judge
from stabjax.study.experiment import (
    FOUR,
    RATES,
    REMEDIES,
    choose,
    optimizer_of,
    steps_to,
)
from stabjax.study.findings import answer, contradictions
from stabjax.study.measure import compare, measure, share, share_of_seeds
from stabjax.study.tables import between_the_tables, both_tables
from stabjax.study.text import as_loss, as_steps, listed, table

INF = np.inf


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("study")


@pytest.fixture(scope="module")
def said():
    return []


@pytest.fixture(scope="module")
def done(folder, said):
    """A small study of the document's problem."""
    sizes = study.Sizes(rates=5, thresholds=3, seeds=8)
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        plans = study.plans(["quadratic"], sizes)
        return study.run(plans, folder=folder, command="stabjax study", say=said.append)


@pytest.fixture(scope="module")
def runs(done):
    return done.runs["quadratic"]


class TestExperiment:
    """On L = w1^2 + w2^2 a step is w -> (1 - 2 rate) w, so all is known."""

    def test_axes(self, runs):
        np.testing.assert_allclose(runs.peak_value, [0.01, 0.1, 1.0, 10.0, 100.0])
        np.testing.assert_allclose(runs.max_norm, [0.01, 1.0, 100.0, INF])
        assert runs.attrs["max_norm"] == pytest.approx(1.0)
        assert runs.attrs["programs"] == 1
        assert runs.attrs["trials"] == 5 * 4 * 2 * 8

    def test_plain_descent_diverges_above_its_largest_rate(self, runs):
        plain = runs.sel(max_norm=INF, scheduled=0.0)
        assert (plain.status.sum("seed") == [0, 0, 0, 8, 8]).all()
        assert np.isinf(plain.final_loss.isel(peak_value=[3, 4])).all()

    def test_plain_descent_follows_the_closed_form(self, runs):
        curve = runs.sel(remedy="neither", rate="common")
        rate = float(curve.chosen_rate)
        assert rate == pytest.approx(0.1)
        exact = curve.loss.isel(step=0) * (1 - 2 * rate) ** (2 * curve.step)
        np.testing.assert_allclose(curve.loss[:, :20], exact[:, :20], rtol=1e-4)

    def test_gradient_norm_is_twice_the_root_of_the_loss(self, runs):
        curve = runs.sel(remedy="neither", rate="common").isel(step=slice(0, 50))
        np.testing.assert_allclose(curve.grad_norm, 2 * np.sqrt(curve.loss), rtol=1e-5)
        np.testing.assert_array_equal(curve.grad_norm, curve.update_norm)

    def test_clipped_norm_is_the_norm_or_the_threshold(self, runs):
        curve = runs.sel(remedy="clipping", rate="common").isel(step=slice(0, 50))
        np.testing.assert_allclose(
            curve.update_norm, np.minimum(curve.grad_norm, 1.0), rtol=1e-6
        )

    def test_remedies_are_paired(self, runs):
        first = runs.loss.sel(rate="common").isel(step=0)
        assert (first == first.isel(remedy=0)).all()

    def test_curves_are_those_of_the_sweep(self, runs):
        for remedy in REMEDIES:
            curve = runs.sel(remedy=remedy, rate="tuned")
            swept = runs.steps_to_target.sel(
                max_norm=float(curve.chosen_max_norm),
                scheduled=float(curve.chosen_scheduled),
                peak_value=float(curve.chosen_rate),
            )
            reached = steps_to(curve.loss, runs.attrs["target_loss"])
            np.testing.assert_array_equal(swept, reached)

    @pytest.mark.parametrize("scheduled", [0.0, 1.0])
    @pytest.mark.parametrize("max_norm", [INF, 1.0])
    def test_the_four_methods_are_what_optax_makes_of_them(
        self, max_norm, scheduled, standard_promotion
    ):
        rate, steps, warmup = 0.3, 20, 2
        schedule = optax.warmup_cosine_decay_schedule(0.0, rate, warmup, steps)
        optimizer = optax.sgd(schedule if scheduled else rate)
        if np.isfinite(max_norm):
            clip = optax.clip_by_global_norm(max_norm)
            optimizer = optax.chain(clip, optimizer)
        problem = stabjax.problems.quadratic()
        losses = [
            stabjax.train(
                problem, o, jax.random.key(0), steps=steps, record_every=1
            ).loss
            for o in (optimizer_of(steps)(max_norm, scheduled, rate), optimizer)
        ]
        np.testing.assert_allclose(*losses, rtol=1e-4, atol=1e-12)

    def test_training_loss_stands_for_the_final_loss(self):
        [plan] = study.plans(
            ["digits_mlp"], study.Sizes(rates=1, thresholds=1, seeds=2, steps=10)
        )
        runs = study.observe(plan)
        np.testing.assert_array_equal(runs.final_loss, runs.train_loss)
        assert {"gap", "accuracy"} <= set(measure(runs).data_vars)
        assert "Over-fitting on digits_mlp" in between_the_tables([measure(runs)])


def test_steps_to_the_target_are_those_after_which_the_loss_stays():
    loss = [[3, 1, 1, 1], [1, 3, 1, 1], [1, 1, 1, 3], [1, 1, 1, 1], [3, 3, 3, INF]]
    data = xr.DataArray(np.float32(loss), {"step": [0, 3, 6, 9]}, ["seed", "step"])
    assert steps_to(data, 1.0).values.tolist() == [3, 6, INF, 0, INF]


class TestChoice:
    def swept(self, losses, steps):
        """Runs of two thresholds and none, both schedules, three rates, one seed."""
        coords = {
            "max_norm": [1.0, 10.0, INF],
            "scheduled": [0.0, 1.0],
            "peak_value": [0.1, 1.0, 10.0],
            "seed": [0],
        }
        shape = (3, 2, 3, 1)
        variables = {
            "final_loss": (list(coords), np.reshape(losses, shape)),
            "steps_to_target": (list(coords), np.reshape(steps, shape)),
        }
        return xr.Dataset(variables, coords, {"target_loss": 1.0, "max_norm": 1.0})

    def test_smallest_loss_then_fewest_steps(self):
        losses = np.full((3, 2, 3), INF)
        steps = np.full((3, 2, 3), INF)
        losses[2, 0] = [3.0, 2.0, INF]  # neither: the second rate
        losses[0, 0] = [1e-4, 0.0, 1e-9]  # clipping at 1: equal, so by steps
        steps[0, 0] = [50, 30, 40]
        losses[1, 0] = [0.0, INF, INF]  # clipping at 10: faster still
        steps[1, 0] = [20, INF, INF]
        chosen = choose(self.swept(losses, steps))
        tuned = chosen.sel(rate="tuned")
        picked = dict(zip(tuned.remedy.values, tuned.chosen_rate.values, strict=True))
        assert (picked["neither"], picked["clipping"]) == (1.0, 1.0)
        assert picked["clipping, tuned"] == 0.1
        thresholds = chosen.chosen_max_norm.sel(
            {"remedy": ["clipping", "clipping, tuned"]}
        )
        assert thresholds.values.tolist() == [1.0, 10.0]

    def test_all_have_the_same_common_and_untuned_rate(self):
        losses = np.ones((3, 2, 3))
        losses[2, 0] = [1.0, 0.5, 1.0]
        chosen = choose(self.swept(losses, losses)).chosen_rate
        assert (chosen.sel(rate="common") == 1.0).all()
        assert (chosen.sel(rate="untuned") == 10.0).all()


def observed(curves, **changes):
    """What `observe` gives of a problem with two rates, 1 and 10, and known numbers.

    At 1 all remedies end at 0.5 after 4 steps; at 10 they diverge without clipping,
    and stop at 7 with it.
    """
    seeds = len(next(iter(curves.values())))
    coords = {
        "max_norm": [2.0, INF],
        "scheduled": [0.0, 1.0],
        "peak_value": [1.0, 10.0],
        "seed": np.arange(seeds),
    }
    final = np.full((2, 2, 2, seeds), 0.5)
    final[0, :, 1] = 7.0
    final[1, :, 1] = INF
    dims = list(coords)
    remedies = [
        (2.0 if clipped else INF, float(s)) for clipped, s, _ in REMEDIES.values()
    ]
    loss = np.stack([curves.get(r, curves["neither"]) for r in REMEDIES]).astype(float)
    loss = np.repeat(loss[:, None], len(RATES), axis=1)
    along = ["remedy", "rate", "seed", "step"]
    variables = {
        "final_loss": (dims, final),
        "status": (dims, np.isinf(final).astype(np.int8)),
        "steps_to_target": (dims, np.where(final <= 1, 4.0, INF)),
        "chosen_max_norm": ("remedy", [c for c, _ in remedies]),
        "chosen_scheduled": ("remedy", [s for _, s in remedies]),
        "chosen_rate": (["remedy", "rate"], [[1.0, 1.0, 10.0]] * len(REMEDIES)),
        "loss": (along, loss),
        "update_norm": (along, np.broadcast_to(2.0, loss.shape)),
    }
    coords |= {"remedy": list(REMEDIES), "rate": list(RATES)}
    coords["step"] = np.arange(loss.shape[-1])
    attrs = {"problem": "quadratic", "target_loss": 1.0, "max_norm": 2.0, "trials": 16}
    return xr.Dataset(variables, coords, attrs).assign(changes)


SMOOTH = [[100.0, 10.0, 1.0, 0.1, 0.01, 0.01, 0.01, 0.01, 0.01, 0.01]] * 8
ROUGH = [[100.0, 1.0, 100.0, 1.0, 100.0, 1.0, 100.0, 1.0, 4.0, 2.0]] * 8


class TestMeasures:
    measures = measure(observed({"neither": ROUGH, "schedule": SMOOTH}))

    def of(self, name, remedy):
        return self.measures[name].sel({"remedy": remedy}).values

    def test_shares_over_all_rates(self):
        assert (self.of("hold", "neither") == 0.5).all()
        assert (self.of("hold", "both") == 1.0).all()
        assert (self.of("reach", "both") == 0.5).all()

    def test_width_is_in_decades(self):
        assert self.of("width", "neither") == 1.0  # one of two rates a decade apart

    def test_losses(self):
        assert (self.of("final", "neither") == 0.5).all()
        assert np.isinf(self.of("untuned", "schedule")).all()
        assert (self.of("untuned", "clipping") == 7.0).all()
        assert not self.of("untuned_held", "schedule").any()
        assert np.isinf(self.of("median", "neither"))
        assert self.of("median", "clipping") == 3.75

    def test_steps(self):
        assert (self.of("steps", "both") == 4.0).all()

    def test_shape_of_the_curve(self):
        assert (self.of("rises", "neither") == 4 / 9).all()
        assert (self.of("rises", "schedule") == 0).all()
        # Logs fall by one until 0.01, then stay: one bend of 1 in 8 second differences.
        np.testing.assert_allclose(self.of("roughness", "schedule"), 1 / 8)
        # The last tenth are at least two steps: 4 and 2.
        assert (self.of("swing", "neither") == 2).all()
        np.testing.assert_allclose(self.of("wobble", "neither"), 2 / 3)

    def test_norms(self):
        for name in ("first_norm", "median_norm", "largest_norm"):
            assert (self.of(name, "clipping") == 2.0).all()
        assert (self.of("at_threshold", "clipping") == 1.0).all()
        assert (self.of("at_threshold", "neither") == 0.0).all()

    def test_norms_are_those_on_the_way_to_the_target(self):
        norms = observed({"neither": SMOOTH}).update_norm.copy()
        norms[..., 4:] = 100.0
        changed = measure(observed({"neither": SMOOTH}, update_norm=norms))
        assert (changed.largest_norm == 2.0).all()

    def test_diverged_curves_have_no_shape(self):
        lost = [[1.0, 2.0, *[INF] * 8]] * 8
        measures = measure(observed({"neither": lost}))
        for name in ("rises", "roughness", "swing", "wobble"):
            assert np.isinf(measures[name]).all()

    def test_overfitting(self):
        runs = observed({"neither": SMOOTH})
        sets = {
            "train_loss": runs.final_loss,
            "test_loss": runs.final_loss + 0.25,
            "test_accuracy": runs.final_loss * 0 + 0.75,
        }
        measures = measure(runs.assign(sets))
        assert (measures.gap == 0.25).all()
        assert (measures.accuracy == 0.75).all()
        assert "| both | 0.5 | 0.25 | 75.0 % |" in between_the_tables([measures])


def seeds(*values):
    return xr.DataArray(np.array(values, float), dims="seed")


class TestStatistics:
    def test_share_is_the_mean_of_the_seeds(self):
        found = share(seeds(0.2, 0.4, 0.6, 0.8))
        assert found.share == pytest.approx(0.5)
        assert 0.2 <= found.low < 0.5 < found.high <= 0.8

    def test_interval_is_that_of_the_mean(self):
        values = np.linspace(0, 1, 101)
        found = share(seeds(*values))
        error = values.std() / np.sqrt(len(values))
        assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.05)

    def test_seeds_that_agree_leave_no_interval(self):
        assert share(seeds(0.5, 0.5, 0.5)) == (0.5, 0.5, 0.5)

    def test_share_of_seeds_has_wilsons_interval(self):
        none, half = share_of_seeds(seeds(*[0] * 32)), share_of_seeds(seeds(0, 1))
        square = 1.959964**2
        assert none == pytest.approx((0, 0, square / (32 + square)), abs=1e-6)
        assert half.low + half.high == pytest.approx(1.0)

    def test_compare_needs_more_than_chance(self):
        # Two-sided: 2 / 2^6 is below 5 %, 2 / 2^5 is not.
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
        "a schedule: smoother curves", "roughness", "schedule", -1, "neither"
    )

    @pytest.mark.parametrize(
        "neither, schedule, verdict",
        [(ROUGH, SMOOTH, "yes"), (SMOOTH, ROUGH, "no"), (SMOOTH, SMOOTH, "same")],
    )
    def test_verdict(self, neither, schedule, verdict):
        measures = measure(observed({"neither": neither, "schedule": schedule}))
        assert judge(self.smoother, measures).answer == verdict

    def test_a_contradiction_is_told_with_its_numbers(self):
        text = contradictions(
            [measure(observed({"neither": SMOOTH, "schedule": ROUGH}))]
        )
        [line] = [
            x for x in text.splitlines() if x.startswith("- *a schedule: smoother")
        ]
        assert re.search(
            r"the other way round on quadratic \(3\.4 against 0\.12\)", line
        )

    def test_what_agrees_is_not_called_a_contradiction(self):
        text = contradictions(
            [measure(observed({"neither": ROUGH, "schedule": SMOOTH}))]
        )
        assert "- *a schedule: smoother" not in text
        assert "a schedule: smoother curves" in text.split("As the document says")[1]

    def test_claims_without_numbers_are_left_empty(self):
        measures = measure(observed({"neither": SMOOTH}))
        gap = next(claim for claim in CLAIMS if claim.quantity == "gap")
        assert judge(gap, measures).answer == "-"

    def test_answer_ranks_the_remedies(self):
        text = answer([measure(observed({"neither": SMOOTH}))])
        # Clipping holds at both rates; all reach the target at one of the two.
        assert "**neither = schedule < clipping = both**: not the same" in text
        assert "**neither = clipping = schedule = both**" in text
        assert "| neither | 50 % | 50 % | 1.0 | on 0 of 1 |" in text

    def test_norms_are_held_against_the_documents_numbers(self):
        text = contradictions([measure(observed({"neither": SMOOTH}))])
        assert "starts at\n  2 and is above 10 for 0 % of the starts" in text


class TestReport:
    def test_table_rows_are_the_datasets_numbers(self, done, runs):
        plain = runs.sel(max_norm=INF, scheduled=0.0)
        held = float((plain.status == 0).mean())
        target = runs.attrs["target_loss"]
        reached = float((plain.final_loss <= target).mean())
        tuned = plain.sel(peak_value=0.1, method="nearest")
        steps = float(tuned.steps_to_target.median())
        loss = float(tuned.final_loss.median())
        cells = [f"neither (rate {float(tuned.peak_value):.2g})", "low, poor, average"]
        cells += [
            f"{100 * s:.0f} % [{100 * s:.0f}, {100 * s:.0f}]" for s in (held, reached)
        ]
        cells += [f"{steps:.0f}", "2.0", as_loss(loss)]
        assert f"| {' | '.join(cells)} |" in done.summary

    def test_all_remedies_and_both_states_have_rows(self, done):
        for name in ("no clipping", "clipping", *REMEDIES):
            assert re.search(rf"^\| {name}[ |(]", done.summary, re.MULTILINE)

    def test_report_opens_with_the_answer(self, done, folder):
        assert done.report == folder / "report.md"
        text = done.report.read_text(encoding="utf-8")
        headings = re.findall(r"^##? (.*)$", text, re.MULTILINE)
        assert headings[1] == "The answer"
        assert headings[-1] == "What was run"
        assert done.summary in text
        assert "inf" not in re.findall(r"[\w.]+", text)
        assert "nan" not in re.findall(r"[\w.]+", text)

    def test_pictures_are_there_and_shown(self, done, folder):
        text = done.report.read_text(encoding="utf-8")
        shown = set(re.findall(r"\]\(([\w-]+\.png)\)", text))
        assert shown == {path.name for path in folder.glob("*.png")}
        assert len(shown) == 4

    def test_dataset_is_read_back_as_it_was(self, runs, folder):
        saved = xr.open_dataset(folder / "quadratic.nc", engine="scipy").load()
        xr.testing.assert_equal(saved, runs)
        assert saved.attrs == runs.attrs
        xr.testing.assert_equal(measure(saved), measure(runs))
        assert both_tables(measure(saved)) == both_tables(measure(runs))

    def test_tells_what_it_does_and_for_how_long(self, done, said):
        assert re.match(
            r"320 trainings, about \d+ s on two cores; results in ", said[0]
        )
        assert said[1].startswith("[1/1] quadratic: 320 trainings of 200 steps, about")
        assert re.fullmatch(r"\d+ s in all", said[-1])


class TestPlans:
    def test_sizes_given_are_kept_and_others_filled_in(self):
        [plan] = study.plans(["cliff"], study.Sizes(seeds=3))
        assert plan.sizes == (33, 13, 3, 200)
        assert plan.sizes.trainings == 33 * 14 * 2 * 3

    def test_all_problems_or_a_quick_few(self):
        assert [plan.name for plan in study.plans()] == list(study.PROBLEMS)
        quick = study.plans(quick=True)
        assert 1 < len(quick) < len(study.PROBLEMS)
        assert sum(p.seconds for p in quick) < 15

    def test_network_costs_more(self):
        digits, cliff = study.plans(["digits_mlp", "cliff"])
        assert digits.sizes.trainings < cliff.sizes.trainings
        assert digits.seconds > cliff.seconds

    def test_unknown_problem(self):
        with pytest.raises(ValueError, match="unknown problem 'nope'; known are quadr"):
            study.plans(["nope"])

    @pytest.mark.parametrize("sizes", [{"seeds": 0}, {"rates": -1}, {"steps": 9}])
    def test_sizes_too_small(self, sizes):
        with pytest.raises(ValueError, match=f"{next(iter(sizes))} must be at least"):
            study.plans(["cliff"], study.Sizes(**sizes))


def test_numbers_as_they_are_printed():
    assert as_loss(INF) == "diverged"
    assert as_loss(0.012345) == "0.012"
    assert as_loss(453.2) == "453"
    assert as_steps(INF) == "never"
    assert as_steps(41.5) == "42"
    assert listed(["a", "b", "c"]) == "a, b and c"
    assert table(["a", "b"], [[1, "x"]]) == "| a | b |\n| --- | --- |\n| 1 | x |"


def test_the_four_methods_are_the_documents():
    assert FOUR == ("neither", "clipping", "schedule", "both")
