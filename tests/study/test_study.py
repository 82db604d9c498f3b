"""The study, end to end: runs against closed forms, tables on runs."""

import re

import jax
import numpy as np
import optax
import pytest
import xarray as xr

import stabjax
from stabjax import study
from stabjax.study.experiment import FOUR, TREATMENTS, observe, steps_to
from stabjax.study.measure import measure
from stabjax.study.methods import make_optimizer_from, resolve
from stabjax.study.tables import both_tables, curve_tables
from stabjax.study.text import as_loss

INF = np.inf


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("study")


@pytest.fixture(scope="module")
def logged():
    return []


@pytest.fixture(scope="module")
def done(folder, logged):
    """A small study of the tutorial's problem."""
    sizes = study.Sizes(rates=5, thresholds=3, seeds=8)
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        plans = study.plans(["quadratic"], sizes)
        return study.run(
            plans, folder=folder, command="stabjax study", log=logged.append
        )


@pytest.fixture(scope="module")
def runs(done):
    return done.runs["quadratic"]


class TestExperiment:
    """On L = w1^2 + w2^2 a step is w -> (1 - 2 rate) w, so all is known."""

    @pytest.mark.slow
    def test_axes(self, runs):
        np.testing.assert_allclose(runs.peak_value, [0.01, 0.1, 1.0, 10.0, 100.0])
        np.testing.assert_allclose(runs.threshold, [0.01, 1.0, 100.0, INF])
        assert runs.attrs["threshold"] == pytest.approx(1.0)
        assert runs.attrs["programs"] == 1
        assert runs.attrs["trials"] == 5 * 4 * 2 * 8

    def test_plain_descent_diverges_above_its_largest_rate(self, runs):
        plain = runs.sel(threshold=INF, scheduled=0.0)
        assert (plain.status.sum("seed") == [0, 0, 0, 8, 8]).all()
        assert np.isinf(plain.final_loss.isel(peak_value=[3, 4])).all()

    def test_plain_descent_follows_the_closed_form(self, runs):
        curve = runs.sel(treatment="baseline", rate="common")
        rate = float(curve.chosen_rate)
        assert rate == pytest.approx(0.1)
        exact = curve.loss.isel(step=0) * (1 - 2 * rate) ** (2 * curve.step)
        np.testing.assert_allclose(curve.loss[:, :20], exact[:, :20], rtol=1e-4)

    def test_gradient_norm_is_twice_the_root_of_the_loss(self, runs):
        curve = runs.sel(treatment="baseline", rate="common").isel(step=slice(0, 50))
        np.testing.assert_allclose(curve.grad_norm, 2 * np.sqrt(curve.loss), rtol=1e-5)
        np.testing.assert_array_equal(curve.grad_norm, curve.update_norm)

    def test_clipped_norm_is_the_norm_or_the_threshold(self, runs):
        curve = runs.sel(treatment="clipping", rate="common").isel(step=slice(0, 50))
        np.testing.assert_allclose(
            curve.update_norm, np.minimum(curve.grad_norm, 1.0), rtol=1e-6
        )

    def test_treatments_are_paired(self, runs):
        first = runs.loss.sel(rate="common").isel(step=0)
        assert (first == first.isel(treatment=0)).all()

    def test_curves_are_those_of_the_sweep(self, runs):
        for treatment in TREATMENTS:
            curve = runs.sel(treatment=treatment, rate="tuned")
            swept = runs.steps_to_target.sel(
                threshold=float(curve.chosen_threshold),
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
        make = make_optimizer_from(resolve(study.Methods(), problem), steps)
        losses = [
            stabjax.train(
                problem, o, jax.random.key(0), steps=steps, record_every=1
            ).loss
            for o in (make(max_norm, scheduled, rate), optimizer)
        ]
        np.testing.assert_allclose(*losses, rtol=1e-4, atol=1e-12)

    def test_training_loss_stands_for_the_final_loss(self):
        [plan] = study.plans(
            ["digits_mlp"], study.Sizes(rates=1, thresholds=1, seeds=2, steps=10)
        )
        runs = observe(plan)
        np.testing.assert_array_equal(runs.final_loss, runs.train_loss)
        assert {"gap", "accuracy"} <= set(measure(runs).data_vars)
        assert "Overfitting on digits_mlp" in curve_tables([measure(runs)])


class TestReport:
    def test_table_rows_are_the_datasets_numbers(self, done, runs):
        plain = runs.sel(threshold=INF, scheduled=0.0)
        held = float((plain.status == 0).mean())
        target = runs.attrs["target_loss"]
        reached = float((plain.final_loss <= target).mean())
        tuned = plain.sel(peak_value=0.1, method="nearest")
        steps = float(tuned.steps_to_target.median())
        loss = float(tuned.final_loss.median())
        cells = [
            f"baseline (rate {float(tuned.peak_value):.2g})",
            '"low, poor, average"',
        ]
        cells += [
            f"{100 * s:.0f}% [{100 * s:.0f}, {100 * s:.0f}]" for s in (held, reached)
        ]
        cells += [f"{steps:.0f}", "2.0", as_loss(loss)]
        assert f"| {' | '.join(cells)} |" in done.summary

    def test_all_treatments_and_both_states_have_rows(self, done):
        for name in ("no clipping", "clipping", *TREATMENTS):
            assert re.search(rf"^\| {name}[ |(]", done.summary, re.MULTILINE)

    def test_report_opens_with_the_answer(self, done, folder):
        assert done.report == folder / "report.html"
        text = (folder / "report.md").read_text(encoding="utf-8")
        headings = re.findall(r"^##? (.*)$", text, re.MULTILINE)
        assert headings[1] == "Main result"
        assert headings[-1] == "Experimental setup"
        assert all(part in text for part in done.summary.split("\n\n"))
        assert "inf" not in re.findall(r"[\w.]+", text)
        assert "nan" not in re.findall(r"[\w.]+", text)

    def test_pictures_are_there_and_shown(self, done, folder):
        text = (folder / "report.md").read_text(encoding="utf-8")
        shown = set(re.findall(r"\]\(([\w-]+\.png)\)", text))
        assert shown == {path.name for path in folder.glob("*.png")}
        assert len(shown) == 5

    def test_dataset_is_read_back_as_it_was(self, runs, folder):
        saved = xr.open_dataset(folder / "quadratic.nc", engine="scipy").load()
        xr.testing.assert_equal(saved, runs)
        assert saved.attrs == runs.attrs
        xr.testing.assert_equal(measure(saved), measure(runs))
        assert both_tables(measure(saved)) == both_tables(measure(runs))

    def test_logs_what_it_does_and_for_how_long(self, done, logged):
        assert logged[0].startswith("320 runs; results in ")
        expected = r"about \d+ s, estimated from one chunk of each problem"
        assert re.fullmatch(expected, logged[1])
        assert logged[2].startswith("[1/1] quadratic: 320 runs of 200 steps, about")
        assert re.fullmatch(r"\d+ s in total", logged[-1])


def test_the_four_treatments_are_the_tutorials():
    assert FOUR == ("baseline", "clipping", "schedule", "both")
