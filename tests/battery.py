"""Every public transformation and schedule, one row each: a row is all a new one needs.

`test_transformations.py` and `test_schedule_battery.py` check every row, and that every
public name has one.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import stabjax


class Transformation(NamedTuple):
    """A transformation as a function of its numbers."""

    name: str  # the public name that this row stands for
    make: Callable[..., optax.GradientTransformation]
    # Argument -> a value at which gradients of norm 5 or so are changed.
    numbers: Mapping[str, float]
    variant: str = ""
    # Static arguments, as `optax.inject_hyperparams` must know them.
    static: tuple[str, ...] = ()
    # How far a non-finite entry must show: "tree", "leaf", "unit", "entry"; or "none",
    # for a guard, which makes zeros of such a step.
    spoils: str = "leaf"
    # Sizes of the gradients that it sees before its numbers tell.
    before: tuple[float, ...] = ()
    # Numbers that decide and are no factor: the derivative by them is zero.
    decides: tuple[str, ...] = ()
    # Its code is that of a quicker row, or of one that does more.
    slow: bool = False
    # Extra arguments of its updates, such as the loss.
    extra: Mapping[str, float] = {}

    def __str__(self) -> str:
        return "-".join(filter(None, (self.name, self.variant)))


# Decays that stay below 1 when they are four times as large.
ADAM = {"b1": 0.2, "b2": 0.15, "eps": 0.1}
RESETS = {"reset_every": 2.0, "warmup_steps": 4.0}


def falling(start):
    """A threshold that falls to zero in ten updates."""
    return stabjax.linear_schedule(start, 0.0, transition_steps=10)


def of_examples(transformation):
    """With a batch of three equal examples in the place of each gradient."""

    def update_fn(updates, state, params=None):
        examples = jax.tree.map(lambda g: jnp.stack([g, g, g]), updates)
        return transformation.update(examples, state, params)

    return optax.GradientTransformation(transformation.init, update_fn)


# The number of updates that a plateau or a cooldown lasts varies around one.
PLATEAU = {
    "factor": 0.995,
    "patience": 0.3,
    "rtol": 0.01,
    "atol": 0.01,
    "cooldown": 0.3,
    "accumulation_size": 1.0,
    "min_scale": 0.1,
    "eps": 0.001,
}


TRANSFORMATIONS = [
    Transformation("clip", stabjax.clip, {"max_delta": 0.5}, spoils="entry"),
    Transformation(
        "clip",
        lambda start: stabjax.clip(falling(start)),
        {"start": 0.5},
        variant="scheduled",
        spoils="entry",
    ),
    Transformation(
        "clip_by_global_norm",
        stabjax.clip_by_global_norm,
        {"max_norm": 1.0},
        static=("axis_name",),
        spoils="tree",
    ),
    Transformation(
        "clip_by_global_norm",
        functools.partial(stabjax.clip_by_global_norm, ord=3),
        {"max_norm": 1.0},
        variant="3-norm",
        static=("axis_name", "ord"),
        spoils="tree",
    ),
    Transformation(
        "clip_by_global_norm",
        lambda start: stabjax.clip_by_global_norm(falling(start)),
        {"start": 1.0},
        variant="scheduled",
        spoils="tree",
    ),
    Transformation("clip_by_block_norm", stabjax.clip_by_block_norm, {"max_norm": 0.5}),
    Transformation(
        "clip_by_block_norm",
        lambda start: stabjax.clip_by_block_norm(falling(start)),
        {"start": 0.5},
        variant="scheduled",
    ),
    Transformation("clip_by_block_rms", stabjax.clip_by_block_rms, {"threshold": 0.3}),
    Transformation(
        "clip_by_block_rms",
        lambda start: stabjax.clip_by_block_rms(falling(start)),
        {"start": 0.3},
        variant="scheduled",
    ),
    Transformation(
        "adaptive_grad_clip",
        stabjax.adaptive_grad_clip,
        {"clipping": 0.1, "eps": 2.0},
        static=("axis",),
        spoils="unit",
    ),
    Transformation(
        "adaptive_grad_clip",
        lambda start, eps: stabjax.adaptive_grad_clip(falling(start), eps),
        {"start": 0.1, "eps": 2.0},
        variant="scheduled",
        spoils="unit",
    ),
    Transformation(
        "smooth_clip_by_global_norm",
        stabjax.smooth_clip_by_global_norm,
        {"max_norm": 1.0},
        spoils="tree",
    ),
    Transformation(
        "normalize_by_update_norm",
        stabjax.normalize_by_update_norm,
        {"scale_factor": 0.5, "eps": 0.01},
        spoils="tree",
    ),
    Transformation(
        "clip_by_percentile",
        functools.partial(stabjax.clip_by_percentile, window=3),
        {"percentile": 10.0},
        static=("window",),
        spoils="tree",
        before=(0.1,),
    ),
    Transformation(
        "clip_update_norm",
        functools.partial(stabjax.clip_update_norm, window=3),
        {"z_threshold": 0.1},
        static=("window",),
        spoils="tree",
        before=(0.1, 0.3),
    ),
    Transformation(
        "zclip",
        stabjax.zclip,
        {
            "decay": 0.2,
            "z_threshold": 0.5,
            "max_norm": 0.8,
            "warmup_steps": 1.0,
            "clip_factor": 1.5,
            "patience": 2.0,
        },
        spoils="tree",
        before=(0.1, 0.3, 0.6),
        decides=("warmup_steps", "patience"),
    ),
    Transformation(
        "adagc",
        stabjax.adagc,
        {
            "relative_clip": 1.04,
            "decay": 0.2,
            "max_norm": 1.0,
            "warmup_steps": 1.0,
            "patience": 2.0,
        },
        spoils="tree",  # while it warms up
        before=(1.0, 0.8),
        decides=("warmup_steps", "patience"),
    ),
    Transformation(
        "clip_by_norm_ratio",
        stabjax.clip_by_norm_ratio,
        {"max_norm_ratio": 1.1, "decay": 0.2, "patience": 2.0},
        before=(0.1, 0.3),
        decides=("patience",),
    ),
    Transformation(
        "limit_norm_growth",
        stabjax.limit_norm_growth,
        {"max_growth": 1.01, "min_norm": 0.1},
        before=(0.1,),
    ),
    Transformation(
        "with_metrics",
        lambda max_norm: stabjax.with_metrics(
            stabjax.clip_by_global_norm(max_norm), name="clip"
        ),
        {"max_norm": 1.0},
        spoils="tree",
    ),
    Transformation(
        "clip_by_second_moment",
        stabjax.clip_by_second_moment,
        {"threshold": 2.0, "decay": 0.2, "clip_delay": 2.0},
        spoils="tree",
        before=(0.1,),
        decides=("clip_delay",),
        slow=True,
    ),
    Transformation(
        "scale_by_spam",
        stabjax.scale_by_spam,
        ADAM | RESETS | {"threshold": 2.0, "reset_every": 4.0, "clip_delay": 1.0},
        static=("reference",),
        spoils="tree",
        before=(0.1,),
        decides=("reset_every", "warmup_steps", "clip_delay"),
    ),
    Transformation(
        "clip_by_tracked_max",
        stabjax.clip_by_tracked_max,
        {"decay": 0.2},
        spoils="tree",
        before=(0.1,),
        slow=True,
    ),
    Transformation(
        "normalize_by_tracked_norm",
        stabjax.normalize_by_tracked_norm,
        ADAM,
        spoils="tree",
        before=(0.1,),
        slow=True,
    ),
    Transformation(
        "scale_by_stable_spam",
        stabjax.scale_by_stable_spam,
        ADAM | {"gamma1": 0.2, "gamma2": 0.15, "gamma3": 0.1, "reset_every": 4.0},
        static=("reference",),
        spoils="tree",
        before=(0.1,),
        decides=("reset_every",),
    ),
    Transformation(
        "scale_by_stable_adam",
        stabjax.scale_by_stable_adam,
        ADAM | {"threshold": 0.5},
        spoils="tree",
        before=(0.1,),
    ),
    Transformation(
        "reset_moments",
        lambda reset_every, warmup_steps: stabjax.reset_moments(
            stabjax.scale_by_stable_adam(), reset_every, warmup_steps
        ),
        RESETS,
        spoils="tree",
        before=(0.1, 0.1),
        decides=("reset_every",),
        slow=True,
    ),
    Transformation(
        "clip_by_relative_update",
        stabjax.clip_by_relative_update,
        {"relative": 0.1, "absolute": 0.01},
    ),
    Transformation(
        "adopt_clip", stabjax.adopt_clip, {"exponent": 0.2}, spoils="entry", before=(1,)
    ),
    Transformation(
        "differentially_private_aggregate",
        lambda l2_norm_clip: of_examples(
            stabjax.differentially_private_aggregate(l2_norm_clip, 0.0, key=0)
        ),
        {"l2_norm_clip": 1.0},
        spoils="tree",
        slow=True,
    ),
    Transformation(
        "adaptive_quantile_clip",
        lambda init_norm, target_quantile, learning_rate: of_examples(
            stabjax.adaptive_quantile_clip(init_norm, target_quantile, learning_rate)
        ),
        {"init_norm": 1.0, "target_quantile": 0.2, "learning_rate": 0.2},
        spoils="tree",
        before=(1.0,),
    ),
    Transformation(
        "with_learning_rate",
        lambda learning_rate: stabjax.with_learning_rate(
            optax.scale_by_learning_rate, learning_rate, flip_sign=False
        ),
        {"learning_rate": 0.985},
        spoils="entry",
    ),
    Transformation(
        "by_group",
        lambda max_norm: stabjax.by_group(
            {"all": stabjax.clip_by_global_norm(max_norm)}, {"*": "all"}
        ),
        {"max_norm": 1.0},
        spoils="tree",
    ),
    Transformation(
        "skip_if_nonfinite",
        lambda max_norm, max_consecutive: stabjax.skip_if_nonfinite(
            stabjax.clip_by_global_norm(max_norm), max_consecutive=max_consecutive
        ),
        {"max_norm": 1.0, "max_consecutive": 8.0},
        spoils="none",
        decides=("max_consecutive",),
    ),
    Transformation(
        "skip_above_norm",
        lambda max_norm, drop_norm, max_consecutive: stabjax.skip_above_norm(
            stabjax.clip_by_global_norm(max_norm),
            drop_norm,
            max_consecutive=max_consecutive,
        ),
        {"max_norm": 1.0, "drop_norm": 10.0, "max_consecutive": 8.0},
        spoils="none",
        decides=("drop_norm", "max_consecutive"),
        slow=True,
    ),
    Transformation(
        "skip_on_spike",
        lambda max_norm, z_threshold, min_count, max_consecutive: stabjax.skip_on_spike(
            stabjax.clip_by_global_norm(max_norm),
            window=8,
            z_threshold=z_threshold,
            min_count=min_count,
            max_consecutive=max_consecutive,
        ),
        {"max_norm": 1.0, "z_threshold": 2.0, "min_count": 2.0, "max_consecutive": 8.0},
        spoils="none",
        extra={"value": 1.0},
        decides=("z_threshold", "min_count", "max_consecutive"),
    ),
    Transformation(
        "reduce_on_plateau",
        functools.partial(stabjax.reduce_on_plateau, semantics="torch"),
        PLATEAU,
        static=("mode", "semantics"),
        spoils="entry",
        extra={"value": float("nan")},  # no improvement, from the first update on
        decides=tuple(number for number in PLATEAU if number != "factor"),
    ),
]

# Public names that are not transformations.
FUNCTIONS = {
    "best_cooldown_fraction",
    "check_guards",
    "clipping_effect",
    "global_norm",
    "leaf_norms",
    "metrics",
    "per_example_global_norm_clip",
    "per_example_layer_norm_clip",
    "qk_clip",
    "range_test",
    "schedule_bound",
    "suggest_max_norm",
    "suggest_rate",
    "train",
    "transfer_to_horizon",
    "unitwise_clip",
    "unitwise_norm",
    "unless_skipped",
    "weights_for",
}


class Schedule(NamedTuple):
    """A schedule as a function of its numbers; those that are traceable."""

    name: str
    make: Callable[..., optax.Schedule]
    numbers: Mapping[str, Any]  # floats, or tuples of floats that become arrays
    variant: str = ""

    def __str__(self) -> str:
        return "-".join(filter(None, (self.name, self.variant)))


def piecewise(make):
    """Boundaries and scales as two arguments instead of a pair."""
    return lambda init_value, boundaries, scales: make(init_value, (boundaries, scales))


def restarting(first, second):
    """Two cycles of the cosine whose numbers are arguments."""
    names = ("init_value", "peak_value", "warmup_steps", "decay_steps", "end_value")
    cycles = [dict(zip(names, cycle, strict=True)) for cycle in (first, second)]
    return stabjax.sgdr_schedule(cycles)


def joined(peak, rate, boundary):
    up = stabjax.linear_schedule(0.0, peak, 6)
    down = stabjax.exponential_decay(peak, 5, rate)
    return stabjax.join_schedules([up, down], [boundary])


SHAPES = (
    "linear",
    "1-sqrt",
    "cosine",
    "square",
    "mirror-cosine",
    "exponential",
    "harmonic",
)


def of_all_shapes(make):
    """The mean over the shapes: one program for all of them."""

    def averaged(**numbers):
        schedules = [make(**numbers, shape=shape) for shape in SHAPES]
        return lambda count: sum(s(count) for s in schedules) / len(SHAPES)

    return averaged


def repeated(init_value, period):
    decay = stabjax.linear_schedule(init_value, 0.1, 5)
    return stabjax.repeat_schedule(decay, period, period_factor=1.5)


def warmed_up(peak_value, warmup_steps, init_value, shape):
    decay = stabjax.inverse_sqrt_schedule(peak_value, 5)
    return stabjax.with_warmup(decay, warmup_steps, shape=shape, init_value=init_value)


def cooled_down(init_value, start, steps, end_value):
    decay = stabjax.inverse_sqrt_schedule(init_value, 5)
    return stabjax.with_cooldown(
        decay, start, steps, shape="1-sqrt", end_value=end_value
    )


def cooled_by_a_power(init_value, power):
    constant = stabjax.constant_schedule(init_value)
    return stabjax.with_cooldown(constant, 3, 12, shape=power)


def adamc_decay(weight_decay, peak_learning_rate):
    """Weight decay proportional to the rate, as in AdamC."""
    rate = stabjax.cosine_decay_schedule(0.1, 12)
    scale = stabjax.constant_schedule(weight_decay / peak_learning_rate)
    return stabjax.multiply_schedules([rate, scale])


def in_tokens(batch_size, boundaries, scales):
    decay = stabjax.linear_schedule(1.0, 0.0, 200.0)
    return stabjax.token_schedule(decay, batch_size, (boundaries, scales))


def seesaw(output):
    def make(peak_value, tokens, batch_size, warmup_tokens, factor):
        decay = stabjax.linear_schedule(peak_value, 0.0, 100.0)
        return stabjax.seesaw_schedules(
            decay, tokens, batch_size, warmup_tokens=warmup_tokens, factor=factor
        )[output]

    return make


SEESAW = {
    "peak_value": 0.8,
    "tokens": 100.0,
    "batch_size": 4.5,
    "warmup_tokens": 10.0,
    "factor": 2.0,
}


def multiplied(init_value, rate):
    wave = stabjax.cosine_decay_schedule(init_value, 12)
    return stabjax.multiply_schedules([wave, stabjax.exponential_decay(1.0, 6, rate)])


def refined(first_norms, **numbers):
    """Of all norms only the first is an argument: scaling all changes nothing."""
    norms = jnp.array([0.0, 1.0, 2.0, 4.0, 1.5, 2.5, 3.5, 2.2]).at[0].set(first_norms)
    return stabjax.refine_schedule(norms, **numbers, smoothing=0.4)


def shifted(init_value, steps):
    decay = stabjax.inverse_sqrt_schedule(init_value, 5)
    return stabjax.shift_schedule(decay, steps)


def clipped(min_value, max_value):
    return stabjax.with_bounds(
        stabjax.linear_schedule(1.0, 0.0, 10), min_value, max_value
    )


INFINITE = {
    "peak_value": 0.8,
    "constant_value": 0.2,
    "warmup_steps": 4.0,
    "cooldown_steps": 6.0,
}
WARM = {"init_value": 0.1, "peak_value": 0.9, "warmup_steps": 4.0}
DECAY = {"transition_steps": 5.0, "decay_rate": 0.5, "transition_begin": 2.0}
KNOTS = {"init_value": 0.8, "boundaries": (4.0, 9.0), "scales": (0.5, 2.0)}

SCHEDULES = [
    Schedule("constant_schedule", stabjax.constant_schedule, {"value": 0.3}),
    Schedule(
        "linear_schedule",
        stabjax.linear_schedule,
        {
            "init_value": 0.1,
            "end_value": 1.0,
            "transition_steps": 7.0,
            "transition_begin": 3.0,
        },
    ),
    Schedule(
        "polynomial_schedule",
        stabjax.polynomial_schedule,
        {
            "init_value": 1.0,
            "end_value": 0.1,
            "power": 2.5,
            "transition_steps": 8.0,
            "transition_begin": 2.0,
        },
    ),
    Schedule(
        "cosine_decay_schedule",
        stabjax.cosine_decay_schedule,
        {"init_value": 0.8, "decay_steps": 10.0, "alpha": 0.1, "exponent": 1.5},
    ),
    Schedule(
        "exponential_decay",
        stabjax.exponential_decay,
        {"init_value": 0.5, **DECAY, "end_value": 0.05},
    ),
    Schedule(
        "exponential_decay",
        lambda **numbers: stabjax.exponential_decay(**numbers, staircase=True),
        {"init_value": 0.5, **DECAY},
        variant="staircase",
    ),
    Schedule(
        "piecewise_constant_schedule",
        piecewise(stabjax.piecewise_constant_schedule),
        KNOTS,
    ),
    Schedule(
        "piecewise_interpolate_schedule",
        piecewise(lambda *a: stabjax.piecewise_interpolate_schedule("linear", *a)),
        KNOTS,
        variant="linear",
    ),
    Schedule(
        "piecewise_interpolate_schedule",
        piecewise(lambda *a: stabjax.piecewise_interpolate_schedule("cosine", *a)),
        KNOTS,
        variant="cosine",
    ),
    Schedule(
        "linear_onecycle_schedule",
        stabjax.linear_onecycle_schedule,
        {
            "transition_steps": 11.0,
            "peak_value": 2.0,
            "pct_start": 0.3,
            "pct_final": 0.8,
            "div_factor": 10.0,
            "final_div_factor": 100.0,
        },
    ),
    Schedule(
        "cosine_onecycle_schedule",
        stabjax.cosine_onecycle_schedule,
        {
            "transition_steps": 11.0,
            "peak_value": 2.0,
            "pct_start": 0.3,
            "div_factor": 10.0,
            "final_div_factor": 100.0,
        },
    ),
    Schedule("warmup_constant_schedule", stabjax.warmup_constant_schedule, WARM),
    Schedule(
        "warmup_cosine_decay_schedule",
        stabjax.warmup_cosine_decay_schedule,
        {**WARM, "decay_steps": 12.0, "end_value": 0.05, "exponent": 1.3},
    ),
    Schedule(
        "warmup_exponential_decay_schedule",
        stabjax.warmup_exponential_decay_schedule,
        {**WARM, **DECAY, "end_value": 0.2},
    ),
    Schedule(
        "sgdr_schedule",
        restarting,
        {"first": (0.1, 1.0, 2.0, 6.0, 0.05), "second": (0.05, 0.5, 3.0, 8.0, 0.01)},
    ),
    Schedule("join_schedules", joined, {"peak": 0.7, "rate": 0.5, "boundary": 6.0}),
    Schedule(
        "inverse_sqrt_schedule",
        stabjax.inverse_sqrt_schedule,
        {"init_value": 0.5, "timescale": 4.0, "transition_begin": 3.0},
    ),
    Schedule(
        "noam_schedule",
        stabjax.noam_schedule,
        {"model_size": 64.0, "warmup_steps": 6.0, "factor": 2.0},
    ),
    Schedule(
        "rex_schedule",
        stabjax.rex_schedule,
        {"init_value": 0.8, "transition_steps": 9.0, "end_value": 0.1, "beta": 0.5},
    ),
    Schedule(
        "power_schedule",
        stabjax.power_schedule,
        {"max_value": 0.4, "scale": 1.0, "power": -0.5, "warmup_steps": 4.0},
    ),
    Schedule(
        "wsd_schedule",
        of_all_shapes(stabjax.wsd_schedule),
        {
            "peak_value": 0.8,
            "warmup_steps": 4.0,
            "stable_steps": 6.0,
            "decay_steps": 7.0,
            "end_value": 0.05,
        },
    ),
    Schedule(
        "infinite_schedule",
        stabjax.infinite_schedule,
        INFINITE,
        variant="cosine",
    ),
    Schedule(
        "infinite_schedule",
        stabjax.infinite_schedule,
        INFINITE | {"timescale": 10.0},
        variant="inverse-sqrt",
    ),
    Schedule(
        "cyclic_schedule",
        stabjax.cyclic_schedule,
        {
            "init_value": 0.1,
            "peak_value": 1.0,
            "up_steps": 3.0,
            "down_steps": 4.0,
            "cycle_factor": 0.5,
            "decay_rate": 0.97,
        },
    ),
    Schedule(
        "cosine_restarts_schedule",
        stabjax.cosine_restarts_schedule,
        {
            "peak_value": 0.9,
            "period": 3.0,
            "period_factor": 2.0,
            "peak_factor": 0.5,
            "end_value": 0.05,
        },
    ),
    Schedule("repeat_schedule", repeated, {"init_value": 0.7, "period": 7.0}),
    Schedule(
        "with_warmup",
        of_all_shapes(warmed_up),
        {"peak_value": 0.8, "warmup_steps": 6.0, "init_value": 0.1},
    ),
    Schedule(
        "with_cooldown",
        cooled_down,
        {"init_value": 0.8, "start": 4.0, "steps": 6.0, "end_value": 0.1},
    ),
    Schedule(
        "with_cooldown",
        cooled_by_a_power,
        {"init_value": 0.8, "power": 1.5},
        variant="power",
    ),
    Schedule(
        "wsd_s_schedule",
        stabjax.wsd_s_schedule,
        {
            "peak_value": 0.8,
            "warmup_steps": 2.0,
            "boundaries": (8.0, 16.0),
            "decay_steps": (3.0, 5.0),
            "end_value": 0.1,
        },
    ),
    Schedule(
        "token_schedule",
        in_tokens,
        {"batch_size": 4.0, "boundaries": (4.0, 9.0), "scales": (2.0, 3.0)},
    ),
    Schedule("seesaw_schedules", seesaw(0), SEESAW, variant="rate"),
    Schedule(
        "multiply_schedules",
        adamc_decay,
        {"weight_decay": 0.1, "peak_learning_rate": 0.1},
        variant="adamc",
    ),
    Schedule(
        "exponential_warmup_schedule",
        stabjax.exponential_warmup_schedule,
        {"peak_value": 0.8, "timescale": 4.0},
    ),
    Schedule(
        "untuned_linear_warmup_schedule",
        # 2 / (1 - b2) is 8, in float64 and in float32.
        stabjax.untuned_linear_warmup_schedule,
        {"b2": 0.75},
    ),
    Schedule(
        "untuned_exponential_warmup_schedule",
        stabjax.untuned_exponential_warmup_schedule,
        {"b2": 0.75},
    ),
    Schedule("radam_warmup_schedule", stabjax.radam_warmup_schedule, {"b2": 0.7}),
    Schedule(
        "chebyshev_schedule",
        lambda **numbers: stabjax.chebyshev_schedule(**numbers, steps=8),
        {"strong_convexity": 0.1, "smoothness": 1.0},
    ),
    Schedule("silver_schedule", stabjax.silver_schedule, {"smoothness": 2.0}),
    Schedule(
        "strongly_convex_silver_schedule",
        lambda **numbers: stabjax.strongly_convex_silver_schedule(**numbers, steps=8),
        {"strong_convexity": 0.1, "smoothness": 1.0},
    ),
    Schedule(
        "refine_schedule",
        refined,
        {"first_norms": 3.0, "peak_value": 0.5, "power": 2.0, "steps": 15.0},
    ),
    Schedule("multiply_schedules", multiplied, {"init_value": 0.8, "rate": 0.5}),
    Schedule("shift_schedule", shifted, {"init_value": 0.8, "steps": 3.0}),
    Schedule("with_bounds", clipped, {"min_value": 0.3, "max_value": 0.7}),
]
