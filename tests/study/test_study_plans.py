"""Plans of a study: problems, methods and sizes; resuming."""

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import xarray as xr

import stabjax
from stabjax import study
from stabjax._sweep import program
from stabjax.cli import main
from stabjax.problems import Problem
from stabjax.study import experiment, pictures
from stabjax.study.methods import make_optimizer_from, resolve

INF = np.inf
SMALL = study.Sizes(rates=3, thresholds=1, seeds=2, steps=20)


def mine(**metadata):
    metadata = {
        "name": "mine",
        "steps": 30,
        "target_loss": 0.1,
        "peak_value": (0.01, 1.0),
        "max_norm": (0.1, 10.0),
        **metadata,
    }
    known = {name: value for name, value in metadata.items() if value is not None}
    return Problem(
        lambda key: jnp.ones(3), lambda w, key: jnp.sum(w**2), metadata=known
    )


@pytest.fixture(scope="module")
def every():
    return {plan.name: plan for plan in study.plans("all")}


class TestPlans:
    def test_sizes_given_are_kept_and_others_filled_in(self):
        [plan] = study.plans(["cliff"], study.Sizes(seeds=3))
        assert plan.sizes == (33, 13, 3, 200)
        assert plan.sizes.runs == 33 * 14 * 2 * 3

    def test_the_founding_problems_or_a_quick_few_or_all(self):
        assert [plan.name for plan in study.plans()] == list(study.DEFAULT_PROBLEMS)
        quick = study.plans(quick=True)
        assert 1 < len(quick) < len(study.DEFAULT_PROBLEMS)
        assert sum(p.seconds for p in quick) < 15

    def test_all_problems_in_a_quarter_of_an_hour(self, every):
        known = {"noisy_quadratic", *stabjax.problems.__all__}
        no_problems = {"Problem", "supervised", "bracket_text", "copy_text"}
        assert {*every} == {*study.PROBLEMS} == known - no_problems - {"markov_text"}
        assert sum(plan.seconds for plan in every.values()) < 900
        # A sign test of fewer could not tell anything apart.
        assert min(plan.sizes.seeds for plan in every.values()) >= 6

    def test_large_networks_are_trained_less(self, every):
        names = ("cliff", "digits_mlp", "char_transformer")
        cliff, digits, text = (every[name] for name in names)
        counts = [plan.sizes.runs for plan in (cliff, digits, text)]
        assert counts == sorted(counts, reverse=True)
        assert cliff.seconds < digits.seconds < text.seconds
        [quick] = study.plans(["char_transformer"], quick=True)
        assert quick.seconds < text.seconds / 4

    def test_a_custom_problem(self):
        [plan] = study.plans([mine()])
        assert (plan.name, plan.sizes.steps) == ("mine", 30)
        with pytest.raises(
            ValueError,
            match="metadata of mine must contain .*, got no steps",
        ):
            study.plans([mine(steps=None)])
        spoilt = replace(mine(), evaluate=lambda w, key: {"grad_norm": w[0]})
        with pytest.raises(
            ValueError, match="evaluate must not return .*, got grad_norm"
        ):
            study.plans([spoilt])

    @pytest.mark.usefixtures("standard_promotion")
    def test_each_problem_with_each_of_the_methods(self):
        methods = [
            study.Methods(clipping=clipping, optimizer=optimizer)
            for clipping in ("clip_by_global_norm", "zclip")
            for optimizer in (None, "adam")
        ]
        labels = [p.label for p in study.plans(["cliff", "quadratic"], methods=methods)]
        assert labels[:4] == [
            "cliff",
            "cliff, adam",
            "cliff, zclip",
            "cliff, adam, zclip",
        ]
        assert len(labels) == len(set(labels)) == 8

    @pytest.mark.usefixtures("standard_promotion")
    def test_ranges_are_the_problems_the_methods_or_those_given(self):
        def ranges(**methods):
            [plan] = study.plans([mine()], methods=[study.Methods(**methods)])
            return plan.methods.rate_range, plan.methods.threshold_range

        assert ranges() == ((0.01, 1.0), (0.1, 10.0))
        assert ranges(clipping="zclip", optimizer="adam") == ((1e-5, 10.0), (0.3, 30.0))
        given = {"rate_range": (0.1, 0.2), "threshold_range": (3.0, 4.0)}
        assert ranges(clipping="zclip", **given) == ((0.1, 0.2), (3.0, 4.0))

    @pytest.mark.parametrize(
        "names, methods, message",
        [
            (["nope"], {}, "problem must be one of quadratic, .*, got 'nope'\\."),
            ("nope", {}, "problem must be one of quadratic"),
            (
                ["cliff"],
                {"clipping": "no"},
                "clipping must be one of adagc, .*, got 'no'\\.",
            ),
            (
                ["cliff"],
                {"schedule": "no"},
                "schedule must be one of cosine, linear, .*, got 'no'",
            ),
            (["cliff"], {"optimizer": "no"}, "optimizer must be one of .*, got 'no'"),
            (["cliff"], {"optimizer": "lbfgs"}, "from gradients alone, got 'lbfgs'"),
            (["cliff"], {"rate_range": (1, 0.1)}, "rate_range must be 0 < low < high"),
            ([mine(), mine()], {}, "names must be unique, got 'mine' twice"),
            (
                [mine(name="a b"), mine(name="a-b")],
                {},
                "names must be unique, got 'a b' twice",
            ),
        ],
    )
    def test_invalid_plans(self, names, methods, message):
        with pytest.raises(ValueError, match=message):
            study.plans(names, methods=[study.Methods(**methods)])

    @pytest.mark.parametrize("sizes", [{"seeds": 0}, {"rates": -1}, {"steps": 9}])
    def test_sizes_too_small(self, sizes):
        with pytest.raises(
            ValueError, match=f"{next(iter(sizes))} must be an integer >= "
        ):
            study.plans(["cliff"], study.Sizes(**sizes))


class TestMethods:
    steps = 40

    def made(self, **methods):
        return make_optimizer_from(
            resolve(study.Methods(**methods), mine()), self.steps
        )

    @pytest.mark.slow
    def test_every_clipping_is_one_and_none_at_an_infinite_threshold(self):
        params = {"w": jnp.array([1.0, -2.0]), "b": jnp.array(0.5)}
        grads = jax.tree.map(lambda w: 1000.0 * (w + 1), params)

        sizes = jnp.array([1e-3] * 22 + [1.0])  # what learns from history has some

        @jax.jit
        def updates(threshold):
            found = {}
            for name in study.CLIPPINGS:
                tx = self.made(clipping=name)(threshold, 0.0, 1.0)

                def step(state, size, tx=tx):
                    given = jax.tree.map(lambda g: size * g, grads)
                    return tx.update(given, state, params)[::-1]

                _, given = jax.lax.scan(step, tx.init(params), sizes)
                found[name] = jax.tree.map(lambda g: g[-1], given)
            return found

        off, strict = updates(INF), updates(jnp.float32(0.9))
        plain = jax.tree.map(jnp.negative, grads)
        for name in study.CLIPPINGS:
            assert jax.tree.all(jax.tree.map(np.array_equal, off[name], plain)), name
            size = stabjax.global_norm(strict[name])
            assert size < stabjax.global_norm(grads), name

    def test_every_schedule_reaches_its_peak_and_goes_above_it_nowhere(self):
        @jax.jit
        def curves(peak):
            made = {n: s(peak, self.steps) for n, s in study.SCHEDULES.items()}
            counts = jnp.arange(self.steps)
            return {name: jax.vmap(s)(counts) for name, s in made.items()}

        for name, curve in curves(jnp.float32(0.3)).items():
            assert (curve >= 0).all(), name
            assert curve.max() == pytest.approx(0.3, rel=0.02), name
            assert curve.min() < 0.29, name

    def test_a_schedule_that_is_switched_off_is_the_peak_rate(self):
        tx = self.made(schedule="linear_schedule", clipping="clip")(INF, 0.0, 0.25)
        state = tx.init(jnp.ones(2))
        for _ in range(3):
            out, state = tx.update(jnp.ones(2), state)
        np.testing.assert_array_equal(out, [-0.25, -0.25])

    def test_functions_stand_for_names(self):
        def halved(threshold):
            return optax.scale(jnp.float32(0.5) * jnp.minimum(threshold, 1.0))

        def falling(peak_value, steps):
            return lambda count: peak_value / (1.0 + jnp.float32(count))

        methods = study.Methods(halved, falling, optax.sgd)
        [plan] = study.plans([mine()], methods=[methods])
        assert plan.label == "mine, sgd, halved, falling"
        tx = make_optimizer_from(plan.methods, 30)(1.0, 1.0, 0.5)
        state = tx.init(jnp.ones(2))
        for count in range(2):
            out, state = tx.update(jnp.ones(2), state)
            np.testing.assert_allclose(out, [-0.25 / (1 + count)] * 2)

    def test_functions_without_a_name_are_custom(self):
        methods = study.Methods(
            optimizer=lambda learning_rate: optax.sgd(learning_rate)
        )
        [plan] = study.plans([mine()], methods=[methods])
        assert plan.label == "mine, custom"


def untraced(plan, folder):
    return experiment.Prepared(plan, None, folder, "")


class TestForecast:
    @pytest.mark.slow
    def test_it_is_timed_with_one_chunk_and_compiled_once(self, tmp_path, monkeypatch):
        compiled, compile_one = [], program.compiled_for
        monkeypatch.setattr(
            program, "compiled_for", lambda *a: compiled.append(a) or compile_one(*a)
        )
        [plan] = study.plans(["quadratic"], SMALL)
        prepared = experiment.prepare(plan, tmp_path)
        seconds = experiment.forecast(prepared)
        assert 0 < seconds < 60
        assert not list(tmp_path.iterdir())
        experiment.observed(prepared, seconds)
        assert len(compiled) == 1
        assert experiment.forecast(prepared) == 0  # it is finished

    def test_too_few_seeds_are_said_at_once(self, tmp_path, monkeypatch):
        monkeypatch.setattr(study, "_chapters", lambda *_: 1 / 0)
        for seeds, warned in ((5, True), (6, False)):
            logged, plans = [], study.plans(["cliff"], study.Sizes(seeds=seeds))
            with pytest.raises(ZeroDivisionError):
                study.run(plans, folder=tmp_path, log=logged.append)
            said = "with 5 seeds no difference can be significant" in "".join(logged)
            assert said == warned


class TestResuming:
    @pytest.mark.slow
    def test_finished_problems_are_read_if_training_would_give_the_same(self, tmp_path):
        [plan] = study.plans(["quadratic"], SMALL)
        path, logged = tmp_path / "quadratic.nc", []
        first = experiment.observe(plan, tmp_path, logged.append)
        assert logged == []
        again = experiment.observe(plan, tmp_path, logged.append)
        assert logged == [f"      read from {path}"]
        xr.testing.assert_identical(first, again)
        methods = study.Methods(threshold_range=(0.5, 4.0))
        [plan] = study.plans(["quadratic"], SMALL, [methods])
        other = experiment.observe(plan, tmp_path, logged.append)
        assert other.attrs["fingerprint"] != first.attrs["fingerprint"]
        metadata = {**plan.problem.metadata, "target_loss": 0.5}
        moved = plan._replace(problem=replace(plan.problem, metadata=metadata))
        assert experiment.observe(moved, tmp_path).attrs["target_loss"] == 0.5
        path.write_bytes(path.read_bytes()[:1000])  # damaged
        anew = experiment.observe(plan, tmp_path, logged.append)
        assert len(logged) == 1
        xr.testing.assert_equal(other, anew)
        xr.testing.assert_equal(xr.load_dataset(path, engine="scipy"), anew)

    def test_chunks_of_a_call_that_failed_are_not_trained_again(
        self, tmp_path, monkeypatch
    ):
        [plan] = study.plans(["quadratic"], SMALL)
        with monkeypatch.context() as broken:
            broken.setattr(experiment, "_observed", lambda runs, plan: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                experiment.observe(plan, tmp_path)
        [store] = (tmp_path / experiment.UNFINISHED).iterdir()
        kept = stabjax.runs.load(store)
        assert (kept.status >= 0).all()
        runs = experiment.observe(plan, tmp_path)
        [rate] = [v for k, v in runs.attrs.items() if k.endswith("_per_second")]
        assert rate == 0  # nothing was trained
        np.testing.assert_array_equal(runs.status, kept.status)
        assert not store.exists()

    def test_chunks_of_other_studies_stay(self, tmp_path, monkeypatch):
        others = tmp_path / experiment.UNFINISHED / "cliff-0123456789ab"
        others.mkdir(parents=True)
        nothing = {"threshold": [0], "trials": 1}
        monkeypatch.setattr(study, "prepare", untraced)
        monkeypatch.setattr(study, "forecast", lambda prepared: 0.0)
        monkeypatch.setattr(study, "observed", lambda *_: xr.Dataset(attrs=nothing))
        monkeypatch.setattr(study, "measure", lambda runs: runs)
        monkeypatch.setattr(study, "draw", lambda runs, folder: {})
        plans = study.plans(["quadratic"], SMALL)
        assert len(study._chapters(plans, tmp_path, print)) == 1
        assert others.exists()
        others.rmdir()
        study._chapters(plans, tmp_path, print)
        assert not others.parent.exists()

    def test_nothing_is_drawn_for_a_study_that_was_stopped(self, tmp_path, monkeypatch):
        begun, stopped, drawn = threading.Event(), threading.Event(), []

        def observed(prepared, seconds, say):
            if prepared.plan.name == "cliff":
                begun.wait(10)
                threading.Timer(0.1, stopped.set).start()
                raise KeyboardInterrupt
            return xr.Dataset(attrs={"label": prepared.plan.label})

        def draw(runs, folder):
            drawn.append(runs.label)
            begun.set()
            stopped.wait(10)

        monkeypatch.setattr(study, "prepare", untraced)
        monkeypatch.setattr(study, "forecast", lambda prepared: 0.0)
        monkeypatch.setattr(study, "observed", observed)
        monkeypatch.setattr(study, "draw", draw)
        plans = study.plans(["quadratic", "rosenbrock", "cliff"], SMALL)
        with pytest.raises(KeyboardInterrupt):
            study.run(plans, folder=tmp_path)
        assert drawn == ["quadratic"]

    @pytest.mark.slow
    def test_a_killed_study_resumes(self, tmp_path):
        """Killed while the second problem trains, it keeps the first."""
        arguments = ["--problems", "quadratic,adding", "--rates", "3", "--seeds", "8"]
        command = [
            sys.executable,
            "-c",
            "import sys; from stabjax.cli import main; sys.exit(main())",
            "study",
            *arguments,
            "--thresholds",
            "1",
            "--steps",
            "200",
            "--out",
            str(tmp_path),
        ]
        process = subprocess.Popen(command)
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob("unfinished/adding-*/chunks/*.npz")):
            assert process.poll() is None, "it ended before it was killed"
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert (tmp_path / "quadratic.nc").exists()
        assert not (tmp_path / "adding.nc").exists()
        stamp = os.stat(tmp_path / "quadratic.nc").st_mtime_ns
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert f"read from {tmp_path / 'quadratic.nc'}" in done.stderr
        assert "on 2 problems" in done.stdout
        assert os.stat(tmp_path / "quadratic.nc").st_mtime_ns == stamp
        assert not (tmp_path / "unfinished").exists()


def test_pictures_of_two_methods_have_two_names(tmp_path, monkeypatch):
    def picture(runs):
        return stabjax.plot.panels(1)[0].figure

    monkeypatch.setattr(pictures, "_PICTURES", {"map": (picture, "")})
    for label in ("cliff", "cliff, adam"):
        runs = xr.Dataset(attrs={"problem": "cliff", "label": label})
        [file] = pictures.draw(runs, tmp_path)
        assert (tmp_path / file).exists()
    assert len(list(tmp_path.iterdir())) == 2


class TestCommand:
    arguments = ("study", "--rates", "3", "--thresholds", "1", "--seeds", "2")
    arguments += ("--steps", "20", "--problems", "quadratic")

    @pytest.mark.usefixtures("standard_promotion")
    def test_names_with_commas_are_all_combinations(self, tmp_path, monkeypatch):
        def planned(plans, **others):
            assert others["folder"] == str(tmp_path)
            labels.extend(plan.label for plan in plans)
            ranges.update(plan.methods.threshold_range for plan in plans)
            raise OSError("enough")

        labels, ranges = [], set()
        monkeypatch.setattr(study, "run", planned)
        more = ["--clipping", "zclip, adagc", "--schedule", "wsd_schedule"]
        more += ["--optimizer", "sgd,adam", "--threshold-range", "1.5:4"]
        with pytest.raises(SystemExit):
            main([*self.arguments, *more, "--out", str(tmp_path)])
        methods = ["sgd, zclip", "adam, zclip", "sgd, adagc", "adam, adagc"]
        assert labels == [f"quadratic, {some}, wsd_schedule" for some in methods]
        assert ranges == {(1.5, 4.0)}

    def test_interrupted(self, tmp_path, capsys, monkeypatch):
        def stopped(*args, **kwargs):
            raise KeyboardInterrupt

        monkeypatch.setattr(study, "run", stopped)
        with pytest.raises(SystemExit) as code:
            main([*self.arguments, "--out", str(tmp_path)])
        assert code.value.code == 130
        assert (
            capsys.readouterr().err
            == "stopped\nRun the same command again to resume.\n"
        )

    def test_defects_show_their_traceback(self, tmp_path, monkeypatch):
        def broken(*args, **kwargs):
            raise ValueError("not the user's fault")

        monkeypatch.setattr(study, "run", broken)
        with pytest.raises(ValueError, match="not the user's"):
            main([*self.arguments, "--out", str(tmp_path)])

    @pytest.mark.parametrize("text", ["3", "a:b", "1:", "1:2:3"])
    def test_invalid_ranges(self, text, capsys):
        with pytest.raises(SystemExit):
            main([*self.arguments, "--rate-range", text])
        assert f"must be LOW:HIGH, got {text!r}." in capsys.readouterr().err

    def test_ranges_are_from_low_to_high(self, capsys):
        with pytest.raises(SystemExit):
            main([*self.arguments, "--rate-range", "2:1"])
        assert "--rate-range must be 0 < low < high" in capsys.readouterr().err
