"""The schedules of transformers and timm against vectors, by hand, and bad input."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from curves import curve

import stabjax
from stabjax.compat import timm
from stabjax.compat.huggingface import get_scheduler

VECTORS = json.loads(
    (
        pathlib.Path(__file__).parents[1] / "vectors" / "huggingface_schedules.json"
    ).read_text()
)
PHASES = ("linear", "cosine", "1-sqrt")


def named(name, *steps, **kwargs):
    return get_scheduler(name, 0.5, *steps, scheduler_specific_kwargs=kwargs)


def transformers():
    yield "h_cw", named("constant_with_warmup", 4)
    yield "h_lin", named("linear", 4, 14)
    yield "h_cos", named("cosine", 4, 14)
    yield "h_cos1", named("cosine", 4, 14, num_cycles=1.0)
    yield "h_res2", named("cosine_with_restarts", 4, 14, num_cycles=2)
    yield "h_res3", named("cosine_with_restarts", 4, 14, num_cycles=3)
    yield "h_min", named("cosine_with_min_lr", 4, 14, min_lr=0.05)
    late = dict(min_lr_rate=0.1)
    yield "h_wmin", named("cosine_warmup_with_min_lr", 4, 14, **late)
    late |= dict(warmup_lr_rate=0.1)
    yield "h_wmin2", named("cosine_warmup_with_min_lr", 4, 14, **late)
    yield "h_poly", named("polynomial", 4, 14, lr_end=0.02, power=2)
    yield "h_inv", named("inverse_sqrt", 4)
    yield "h_inv10", named("inverse_sqrt", 4, timescale=10)
    wsd = dict(num_decay_steps=6, min_lr_ratio=0.1)
    for phase in PHASES:
        warmup, decay = dict(warmup_type=phase), dict(decay_type=phase)
        yield f"h_wsdw_{phase}", named("warmup_stable_decay", 4, 16, **wsd, **warmup)
        yield f"h_wsdd_{phase}", named("warmup_stable_decay", 4, 16, **wsd, **decay)


def timms():
    warm = dict(lr_min=0.05, warmup_t=3, warmup_lr_init=0.1)
    cosine = timm.cosine_lr_scheduler
    yield "m_cos1", cosine(0.8, 10, **warm)
    yield "m_cos2", cosine(0.8, 10, **warm, warmup_prefix=True)
    yield "m_cos3", cosine(0.8, 4, 0.05, 2.0, 0.5, 3)
    yield "m_cos4", cosine(0.8, 10, 0.05, k_decay=2.0)
    step = dict(warmup_t=3, warmup_lr_init=0.1)
    yield "m_step", timm.step_lr_scheduler(0.8, 4, 0.5, **step)
    yield "m_stepn", timm.step_lr_scheduler(0.8, 4, 0.5, **step, warmup_prefix=False)
    yield "m_multi", timm.multi_step_lr_scheduler(0.8, [4, 10], 0.5)


def written_out():
    """timm's rarer schedulers, as docs/coming-from.md writes them."""

    def over_10_steps(height):
        """From 0.8 to 0.05 with a height that is a function of the fraction gone."""
        return lambda t: 0.05 + 0.75 * jnp.where(t < 10, height(t / 10), 0)

    def tanh(low, high):
        return over_10_steps(lambda q: (1 - jnp.tanh(low * (1 - q) + high * q)) / 2)

    yield "m_tanh", tanh(-6, 4)
    rest = stabjax.shift_schedule(tanh(-7, 3), 3)
    yield "m_tanhw", stabjax.with_warmup(rest, 3, init_value=0.1)
    poly = over_10_steps(lambda q: (1 - jnp.minimum(q, 1) ** 2) ** 1.5)
    warmup, rest = stabjax.linear_schedule(0.0, 0.8, 2), stabjax.shift_schedule(poly, 2)
    yield "m_poly", stabjax.join_schedules([warmup, rest], [2])

    steady = stabjax.constant_schedule(0.8)
    for shape in ("linear", "1-sqrt", "cosine"):
        decay = stabjax.with_cooldown(steady, 6, 6, end_value=0.05, shape=shape)
        yield f"m_wsd_{shape}", stabjax.with_warmup(decay, 4, init_value=0.1)

    def wsd(stable, height):
        def schedule(t):
            q = jnp.clip((t - 6) / 6, 0, 1)
            return 0.05 + (jnp.maximum(stable(t), 0.05) - 0.05) * height(q)

        return stabjax.with_warmup(schedule, 4, init_value=0.1)

    yield "m_rs", wsd(stabjax.inverse_sqrt_schedule(0.8, 4), lambda q: 1 - q)
    yield "m_wsd_power", wsd(steady, lambda q: 1 - q**2)
    yield "m_wsd_exp", wsd(steady, lambda q: (0.1**q - 0.1) / 0.9)


def test_vectors():
    counts = {
        name: np.array(vector["t"], np.float64) for name, vector in VECTORS.items()
    }

    @jax.jit
    def all_of_them(counts):
        schedules = dict([*transformers(), *timms(), *written_out()])
        assert schedules.keys() == counts.keys()
        return {name: curve(f, counts[name]) for name, f in schedules.items()}

    with jax.enable_x64(True):
        found = all_of_them(counts)
    for name, vector in VECTORS.items():
        assert found[name].dtype == np.float64
        np.testing.assert_allclose(
            found[name], vector["v"], rtol=1e-12, atol=1e-16, err_msg=name
        )


def of(name, *steps, **kwargs):
    return lambda: named(name, *steps, **kwargs)


@pytest.mark.parametrize(
    "make, message",
    [
        (of("cosin", 4, 14), "name must be 'linear', .*, got 'cosin'"),
        (of("linear"), "num_warmup_steps must be given for 'linear', got None"),
        (of("linear", 4), "num_training_steps must be given for 'linear', got None"),
        (of("inverse_sqrt"), "num_warmup_steps must be given for 'inverse_sqrt'"),
        (of("inverse_sqrt", 4, timescale=0), "timescale must be > 0, got 0"),
        (of("cosine_with_min_lr", 4, 14), "min_lr or min_lr_rate must be given"),
        (
            of("cosine_warmup_with_min_lr", 4, 14, min_lr=0.1, min_lr_rate=0.1),
            "only one of min_lr and min_lr_rate may be given, got min_lr=0.1 and",
        ),
        (
            of("polynomial", 4, 14, lr_end=0.5),
            "lr_end must be < learning_rate, which is 0.5, got 0.5",
        ),
        (
            of("warmup_stable_decay", 4, num_decay_steps=5),
            "num_training_steps or num_stable_steps must be given",
        ),
        (
            of("warmup_stable_decay", 4, 14, num_decay_steps=5, decay_type="square"),
            "decay_type must be 'linear', 'cosine' or '1-sqrt', got 'square'",
        ),
        (lambda: timm.cosine_lr_scheduler(0.1, 0), "t_initial must be > 0, got 0"),
        (lambda: timm.cosine_lr_scheduler(0.1, 5, -1), "lr_min must be >= 0, got -1"),
        (lambda: timm.step_lr_scheduler(0.1, 0), "decay_t must be > 0, got 0"),
    ],
)
def test_a_bad_value_is_refused_by_name(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_an_argument_of_another_schedule_is_refused():
    message = "scheduler_specific_kwargs do not match 'cosine': .*'power'"
    with pytest.raises(TypeError, match=message):
        named("cosine", 4, 14, power=2)
    with pytest.raises(TypeError, match="'warmup_stable_decay': .*'num_decay_steps'"):
        named("warmup_stable_decay", 4, 14)


def test_a_constant_looks_at_no_arguments_as_in_transformers():
    assert named("constant", 4, 14, power=2)(3) == 0.5
