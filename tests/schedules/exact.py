"""Schedules of the battery, written again with fractions and float64, one formula each.

Each takes the row's numbers and a count; numbers come as fractions of their decimals.
"""

import math
from fractions import Fraction


def linear(init_value, end_value, transition_steps, transition_begin, t):
    q = min(max(t - transition_begin, 0), transition_steps) / transition_steps
    return end_value + (init_value - end_value) * (1 - q)


def polynomial(init_value, end_value, power, transition_steps, transition_begin, t):
    q = min(max(t - transition_begin, 0), transition_steps) / transition_steps
    return end_value + float(init_value - end_value) * float(1 - q) ** float(power)


def half_cosine(q):
    return math.cos(math.pi / 2 * float(q)) ** 2 if q < 1 else 0.0


def cosine(init_value, decay_steps, alpha, exponent, t):
    height = half_cosine(min(t, decay_steps) / decay_steps) ** float(exponent)
    return init_value * ((1 - alpha) * height + alpha)


def exponential(
    init_value, transition_steps, decay_rate, transition_begin, t, end_value=None
):
    q = max(t - transition_begin, 0) / transition_steps
    value = float(init_value) * float(decay_rate) ** float(q)
    return value if end_value is None else max(value, float(end_value))


def staircase(init_value, transition_steps, decay_rate, transition_begin, t):
    q = max(t - transition_begin, 0) // transition_steps
    return init_value * decay_rate**q


def piecewise_constant(init_value, boundaries, scales, t):
    passed = [s for b, s in zip(boundaries, scales, strict=True) if t >= b]
    return init_value * math.prod(passed)


def piecewise(blend, knots, t):
    for (x, v), (next_x, next_v) in zip(knots, knots[1:], strict=False):
        if x <= t < next_x:
            return v + (next_v - v) * blend((t - x) / (next_x - x))
    return knots[-1][1]


def knots_of(init_value, boundaries, scales):
    knots = [(0, init_value)]
    for boundary, scale in zip(boundaries, scales, strict=True):
        knots.append((boundary, knots[-1][1] * scale))
    return knots


def piecewise_linear(init_value, boundaries, scales, t):
    return piecewise(lambda q: q, knots_of(init_value, boundaries, scales), t)


def sine_squared(q):
    return 1 - half_cosine(q)


def piecewise_cosine(init_value, boundaries, scales, t):
    knots = knots_of(init_value, boundaries, scales)
    return piecewise(lambda q: Fraction(sine_squared(q)), knots, t)


def linear_onecycle(
    transition_steps, peak_value, pct_start, pct_final, div_factor, final_div_factor, t
):
    rise = int(pct_start * transition_steps)
    fall = int(pct_final * transition_steps)
    low = peak_value / div_factor
    knots = [(0, low), (rise, peak_value), (fall, low)]
    knots.append((transition_steps, low / final_div_factor))
    return piecewise(lambda q: q, knots, t)


def cosine_onecycle(
    transition_steps, peak_value, pct_start, div_factor, final_div_factor, t
):
    low = peak_value / div_factor
    knots = [(0, low), (int(pct_start * transition_steps), peak_value)]
    knots.append((transition_steps, low / final_div_factor))
    return piecewise(lambda q: Fraction(sine_squared(q)), knots, t)


def warmup_constant(init_value, peak_value, warmup_steps, t):
    return init_value + (peak_value - init_value) * min(t, warmup_steps) / warmup_steps


def warmup_cosine(
    init_value, peak_value, warmup_steps, decay_steps, end_value, exponent, t
):
    if t < warmup_steps:
        return warmup_constant(init_value, peak_value, warmup_steps, t)
    q = min((t - warmup_steps) / (decay_steps - warmup_steps), 1)
    height = half_cosine(q) ** float(exponent)
    return end_value + (peak_value - end_value) * height


def warmup_exponential(
    init_value,
    peak_value,
    warmup_steps,
    transition_steps,
    decay_rate,
    transition_begin,
    end_value,
    t,
):
    if t < warmup_steps:
        return warmup_constant(init_value, peak_value, warmup_steps, t)
    return exponential(
        peak_value,
        transition_steps,
        decay_rate,
        transition_begin,
        t - warmup_steps,
        end_value,
    )


def sgdr(first, second, t):
    if t < first[3]:
        return warmup_cosine(*first, 1, t)
    return warmup_cosine(*second, 1, t - first[3])


def inverse_sqrt(init_value, timescale, transition_begin, t):
    elapsed = max(t - transition_begin, 0)
    return float(init_value) * math.sqrt(timescale / (timescale + elapsed))


def noam(model_size, warmup_steps, factor, t):
    s = float(t + 1)
    height = min(s**-0.5, s * float(warmup_steps) ** -1.5)
    return float(factor) * float(model_size) ** -0.5 * height


def rex(init_value, transition_steps, end_value, beta, t):
    q = min(t / transition_steps, 1)
    return end_value + (init_value - end_value) * (1 - q) / (1 - beta * q)


def power(max_value, scale, power, warmup_steps, t):
    def unwarmed(s):
        return min(float(max_value), float(scale) * float(s) ** float(power))

    if t < warmup_steps:
        return unwarmed(warmup_steps) * float(t / warmup_steps)
    return unwarmed(t)


def infinite(peak_value, constant_value, warmup_steps, cooldown_steps, t):
    if t < warmup_steps:
        return peak_value * t / warmup_steps
    height = half_cosine(min((t - warmup_steps) / cooldown_steps, 1))
    return constant_value + (peak_value - constant_value) * height


def cyclic(init_value, peak_value, up_steps, down_steps, cycle_factor, decay_rate, t):
    cycle, c = divmod(t, up_steps + down_steps)
    height = c / up_steps if c <= up_steps else (up_steps + down_steps - c) / down_steps
    height *= cycle_factor**cycle * decay_rate**t
    return init_value + (peak_value - init_value) * height


def cosine_restarts(peak_value, period, period_factor, peak_factor, end_value, t):
    while t >= period:
        t, period, peak_value = (
            t - period,
            period * period_factor,
            peak_value * peak_factor,
        )
    return end_value + (peak_value - end_value) * half_cosine(t / period)


def exponential_warmup(peak_value, timescale, t):
    return -float(peak_value) * math.expm1(-(t + 1) / timescale)


def untuned_linear(b2, t):
    return min(1, (t + 1) * (1 - b2) / 2)


def untuned_exponential(b2, t):
    return -math.expm1(-(t + 1) * (1 - b2))


MODELS = {
    "constant_schedule": lambda value, t: value,
    "linear_schedule": linear,
    "polynomial_schedule": polynomial,
    "cosine_decay_schedule": cosine,
    "exponential_decay": exponential,
    "exponential_decay-staircase": staircase,
    "piecewise_constant_schedule": piecewise_constant,
    "piecewise_interpolate_schedule-linear": piecewise_linear,
    "piecewise_interpolate_schedule-cosine": piecewise_cosine,
    "linear_onecycle_schedule": linear_onecycle,
    "cosine_onecycle_schedule": cosine_onecycle,
    "warmup_constant_schedule": warmup_constant,
    "warmup_cosine_decay_schedule": warmup_cosine,
    "warmup_exponential_decay_schedule": warmup_exponential,
    "sgdr_schedule": sgdr,
    "inverse_sqrt_schedule": inverse_sqrt,
    "noam_schedule": noam,
    "rex_schedule": rex,
    "power_schedule": power,
    "infinite_schedule-cosine": infinite,
    "cyclic_schedule": cyclic,
    "cosine_restarts_schedule": cosine_restarts,
    "exponential_warmup_schedule": exponential_warmup,
    "untuned_linear_warmup_schedule": untuned_linear,
    "untuned_exponential_warmup_schedule": untuned_exponential,
}
