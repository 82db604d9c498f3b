"""Schedules from papers on transformers, including schedules without a fixed length."""

import jax.numpy as jnp

from stabjax._arguments import check, nan_unless, select
from stabjax._schedules.counts import builder, later, since
from stabjax._schedules.decays import constant_schedule
from stabjax._schedules.shapes import (
    Shape,
    between,
    fraction_gone,
    fraction_left,
    with_ends,
)
from stabjax._schedules.wrappers import with_cooldown, with_warmup
from stabjax._types import Number, Schedule


@builder
def inverse_sqrt_schedule(
    init_value: Number, timescale: Number, transition_begin: Number = 0
) -> Schedule:
    """Returns an inverse square root decay, which does not require a known length.

        f(t) = I sqrt(tau / (tau + max(t - B, 0)))

    T5's schedule 1 / sqrt(max(t, k)) is `inverse_sqrt_schedule(k**-0.5, k, k)`. For a
    version with W warmup steps, use `with_warmup(inverse_sqrt_schedule(peak, W), W)`.

    Args:
      init_value: I, the value until step B. **Traceable.**
      timescale: tau in steps, > 0. The value halves in 3 tau steps. **Traceable.**
      transition_begin: B in steps. Negative values count as 0. **Traceable.**

    Returns:
      A function of the count (a scalar or an array) that returns the value, or NaN if a
      traced `timescale` is not > 0.

    Raises:
      ValueError: If a concrete `timescale` is not > 0.
      TypeError: If an argument is not a number.

    Example:
      >>> import stabjax
      >>> schedule = stabjax.inverse_sqrt_schedule(0.8, timescale=4)
      >>> [round(float(schedule(count)), 4) for count in (0, 1, 12, 60)]
      [0.8, 0.7155, 0.4, 0.2]

    References:
      Raffel et al., Exploring the Limits of Transfer Learning with a Unified
      Text-to-Text Transformer, 2019. https://arxiv.org/abs/1910.10683
    """
    good = check("timescale", timescale, "> 0")
    timescale = select(good, timescale, 1)
    begin = select(transition_begin < 0, 0, transition_begin)

    def schedule(count: Number) -> Number:
        elapsed = jnp.maximum(since(count, begin), 0)
        value = init_value / jnp.sqrt(1 + elapsed / timescale)
        return nan_unless(good, value)

    return schedule


@builder
def noam_schedule(
    model_size: Number, warmup_steps: Number, factor: Number = 1.0
) -> Schedule:
    """Returns the original Transformer schedule: linear warmup, inverse square root.

        f(t) = c d^(-1/2) min(s^(-1/2), s W^(-3/2)),    s = t + 1

    The peak is c / sqrt(d W) at t = W - 1.

    Args:
      model_size: d, the width of the model, > 0. **Traceable.**
      warmup_steps: W in steps, > 0. **Traceable.**
      factor: c. **Traceable.**

    Returns:
      A function of the count (a scalar or an array) that returns the value, or NaN if a
      traced `model_size` or `warmup_steps` is not > 0.

    Raises:
      ValueError: If a concrete `model_size` or `warmup_steps` is not > 0.
      TypeError: If an argument is not a number.

    Example:
      >>> import stabjax
      >>> schedule = stabjax.noam_schedule(64, warmup_steps=4)
      >>> [round(float(schedule(count)), 4) for count in (0, 1, 3, 15, 63)]
      [0.0156, 0.0312, 0.0625, 0.0312, 0.0156]

    References:
      Vaswani et al., Attention Is All You Need, 2017. https://arxiv.org/abs/1706.03762
    """
    good = check("model_size", model_size, "> 0")
    good &= check("warmup_steps", warmup_steps, "> 0")
    size, warmup = select(good, model_size, 1), select(good, warmup_steps, 1)
    peak = factor / jnp.sqrt(size) / jnp.sqrt(warmup)

    def schedule(count: Number) -> Number:
        number = jnp.maximum(later(count, 1), 1)
        root = jnp.sqrt(warmup / number)
        # Heights are relative to the peak: s^(-1/2) W^(1/2), or s / W.
        rising = since(number, warmup) < 0
        height = jnp.where(rising, number / warmup, jnp.minimum(root, 1))
        return nan_unless(good, peak * height)

    return schedule


@builder
def rex_schedule(
    init_value: Number,
    transition_steps: Number,
    end_value: Number = 0.0,
    beta: Number = 0.5,
) -> Schedule:
    """Returns the REX schedule, a decay that becomes steeper towards the end.

        f(t) = E + (I - E) (1 - q) / (1 - beta q),    q = min(t / T, 1)

    Args:
      init_value: I, the value at step 0. **Traceable.**
      transition_steps: T in steps, > 0. **Traceable.**
      end_value: E, the exact value from step T onwards. **Traceable.**
      beta: curvature, in [0, 1). With 0, the decay is linear. The paper uses 1/2, and
        some implementations use 0.9. **Traceable.**

    Returns:
      A function of the count (a scalar or an array) that returns the value, or NaN if a
      traced argument is out of range.

    Raises:
      ValueError: If a concrete `transition_steps` is not > 0, or `beta` is not in [0,
        1).
      TypeError: If an argument is not a number.

    Example:
      >>> import stabjax
      >>> schedule = stabjax.rex_schedule(1.0, 10)
      >>> [round(float(schedule(count)), 4) for count in (0, 5, 8, 10, 50)]
      [1.0, 0.6667, 0.3333, 0.0, 0.0]

    References:
      Chen, Wolfe and Kyrillidis, REX: Revisiting Budgeted Training with an Improved
      Schedule, 2021. https://arxiv.org/abs/2107.04197
    """
    good = check("transition_steps", transition_steps, "> 0")
    good &= check("beta", beta, "in [0, 1)")
    steps, bend = select(good, transition_steps, 1), select(good, beta, 0)

    def schedule(count: Number) -> Number:
        left = fraction_left(count, 0, steps)
        # Computes 1 - beta q without rounding 1 - left.
        height = left / (1 - bend + bend * left)
        value = end_value + (init_value - end_value) * height
        value = with_ends(value, init_value, left == 1, end_value, left == 0)
        return nan_unless(good, value)

    return schedule


@builder
def power_schedule(
    max_value: Number,
    scale: Number,
    power: Number = -0.51,
    warmup_steps: Number = 0,
) -> Schedule:
    """Returns a power-law decay with a maximum, which does not require a known length.

        p(t) = min(M, a t^b)
        f(t) = p(W) t / W    for t < W,    p(t) for t >= W

    The paper defines the power law for tokens. For batches of n sequences with l tokens
    each, this corresponds to a = n a_0 (n l)^b with a_0 of about 4. The paper's
    schedule ends with a decay to zero: `with_cooldown(schedule, start, decay_steps)`.

    Args:
      max_value: M. **Traceable.**
      scale: a, >= 0. **Traceable.**
      power: b, < 0. **Traceable.**
      warmup_steps: W in steps. If <= 0, there is no warmup. **Traceable.**

    Returns:
      A function of the count (a scalar or an array) that returns the value, or NaN if a
      traced argument is out of range.

    Raises:
      ValueError: If a concrete `scale` is not >= 0, or `power` is not < 0.
      TypeError: If an argument is not a number.

    Example:
      >>> import stabjax
      >>> schedule = stabjax.power_schedule(0.3, 1.0, -0.5, warmup_steps=4)
      >>> [round(float(schedule(count)), 4) for count in (0, 2, 4, 16, 100)]
      [0.0, 0.15, 0.3, 0.25, 0.1]

    References:
      Shen et al., Power Scheduler: A Batch Size and Token Number Agnostic Learning Rate
      Scheduler, 2024. https://arxiv.org/abs/2408.13359
    """
    good = check("scale", scale, ">= 0") & check("power", power, "< 0")
    warmup = select(warmup_steps < 0, 0, warmup_steps)

    def schedule(count: Number) -> Number:
        at = jnp.maximum(count, warmup)
        begun = ~(at <= 0)  # true for NaN, which then propagates
        value = jnp.minimum(max_value, scale * jnp.where(begun, at, 1.0) ** power)
        value = jnp.where(begun, value, max_value)
        warming = since(count, warmup) < 0
        rising = jnp.where(warming, fraction_gone(count, 0, warmup), 1)
        return nan_unless(good, value * rising)

    return schedule


@builder
def wsd_schedule(
    peak_value: Number,
    warmup_steps: Number,
    stable_steps: Number,
    decay_steps: Number,
    *,
    end_value: Number = 0.0,
    shape: Shape = "linear",
) -> Schedule:
    """Returns a warmup-stable-decay (trapezoidal) schedule.

        f(t) = P t / W               for t < W
        f(t) = P                     for W <= t <= W + S
        f(t) = E + (P - E) g(q)      afterwards,  q = min((t - W - S) / D, 1)

    Here g is the shape of the decay (see `with_cooldown`). For other warmups and
    plateaus, or to start a decay from any checkpoint of the plateau, combine
    `with_warmup` and `with_cooldown`.

    Args:
      peak_value: P. **Traceable.**
      warmup_steps: W in steps, >= 0. Use 0 to start at the peak. **Traceable.**
      stable_steps: S in steps, >= 0. **Traceable.**
      decay_steps: D in steps, >= 0. With 0, the value drops to `end_value` immediately.
        **Traceable.**
      end_value: E, the exact value from step W + S + D onwards. **Traceable.**
      shape: shape of the decay, as listed in `with_cooldown`. A name is **static**, a
        power > 0 is **traceable**.

    Returns:
      A function of the count (a scalar or an array) that returns the value, or NaN if
      traced steps are not >= 0.

    Raises:
      ValueError: If `shape` is unknown or not > 0, concrete steps are not >= 0, or a
        concrete `end_value` of an exponential or harmonic decay is not > 0.
      TypeError: If an argument is not a number.

    Example:
      >>> import stabjax
      >>> schedule = stabjax.wsd_schedule(1.0, 4, 12, 8, shape="1-sqrt")
      >>> [round(float(schedule(count)), 4) for count in (0, 2, 4, 16, 18, 24)]
      [0.0, 0.5, 1.0, 1.0, 0.5, 0.0]

    References:
      Hu et al., MiniCPM: Unveiling the Potential of Small Language Models with Scalable
      Training Strategies, 2024. https://arxiv.org/abs/2404.06395
      The shapes: Haegele et al., 2024. https://arxiv.org/abs/2405.18392
    """
    good = check("stable_steps", stable_steps, ">= 0")
    good &= check("decay_steps", decay_steps, ">= 0")
    plateau = constant_schedule(nan_unless(good, peak_value))
    rising = with_warmup(plateau, warmup_steps)
    start = warmup_steps + stable_steps
    return with_cooldown(rising, start, decay_steps, end_value=end_value, shape=shape)


@builder
def infinite_schedule(
    peak_value: Number,
    constant_value: Number,
    warmup_steps: Number,
    cooldown_steps: Number,
    *,
    timescale: Number | None = None,
) -> Schedule:
    """Returns a schedule for open-ended training: warmup, cooldown, then constant.

        f(t) = P t / W                           for t < W
        f(t) = C + (P - C) cos(pi x / 2)^2       for t >= W,    x = min((t - W) / D, 1)

    With a `timescale` alpha, an inverse square root replaces the cosine: P + (C - P)
    h(x) / h(1) with h(x) = 1 / sqrt(1 + alpha x) - 1.

    To anneal a model from any checkpoint of the constant phase, use
    `with_cooldown(schedule, start, decay_steps, end_value=..., shape="exponential")`.
    Training can later continue from the same checkpoint.

    Args:
      peak_value: P. **Traceable.**
      constant_value: C. **Traceable.**
      warmup_steps: W in steps, >= 0. Use 0 to start at the peak. **Traceable.**
      cooldown_steps: D in steps, >= 0. With 0, the value never reaches the peak.
        **Traceable.**
      timescale: alpha, > 0, or None for the cosine. **Traceable.**

    Returns:
      A function of the count (a scalar or an array) that returns the value, or NaN if a
      traced argument is out of range.

    Raises:
      ValueError: If concrete steps are not >= 0, or `timescale` is not > 0.
      TypeError: If an argument is not a number.

    Example:
      >>> import stabjax
      >>> forever = stabjax.infinite_schedule(1.0, 0.25, 4, 8)
      >>> annealed = stabjax.with_cooldown(
      ...     forever, 20, 2, end_value=0.01, shape="exponential"
      ... )
      >>> [round(float(forever(count)), 4) for count in (0, 2, 4, 8, 12, 1000)]
      [0.0, 0.5, 1.0, 0.625, 0.25, 0.25]
      >>> [round(float(annealed(count)), 4) for count in (20, 21, 22, 1000)]
      [0.25, 0.05, 0.01, 0.01]

    References:
      Ibrahim et al., Simple and Scalable Strategies to Continually Pre-train Large
      Language Models, 2024. https://arxiv.org/abs/2403.08763
    """
    good = check("cooldown_steps", cooldown_steps, ">= 0")
    if timescale is not None:
        good &= check("timescale", timescale, "> 0")
    bend = select(good, 0 if timescale is None else timescale, 1)

    def cooling(count: Number) -> Number:
        x = fraction_gone(count, 0, cooldown_steps)
        left = fraction_left(count, 0, cooldown_steps)
        if timescale is None:
            value = between("cosine", peak_value, constant_value, x, left)
        else:
            gone = _inverse_root(bend * x) / _inverse_root(bend)
            value = peak_value + (constant_value - peak_value) * gone
            value = with_ends(value, peak_value, x <= 0, constant_value, left <= 0)
        return nan_unless(good, value)

    return with_warmup(cooling, warmup_steps)


def _inverse_root(x: Number) -> Number:
    """Computes `1 / sqrt(1 + x) - 1`, accurate for small x."""
    root = jnp.sqrt(1 + x)
    return -x / (root * (1 + root))
