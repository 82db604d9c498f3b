"""Schedules of papers on transformers: inverse roots, and what needs no known end."""

import jax.numpy as jnp
import optax

from stabjax._schedules.arguments import (
    ArrayLike,
    builder,
    check,
    check_positive,
    later,
    nan_unless,
    select,
    since,
)
from stabjax._schedules.core import constant_schedule
from stabjax._schedules.shapes import between, share, share_ahead
from stabjax._schedules.wrappers import with_cooldown, with_warmup


@builder
def inverse_sqrt_schedule(
    init_value: ArrayLike, timescale: ArrayLike, transition_begin: ArrayLike = 0
) -> optax.Schedule:
    r"""A decay with the square root of the steps, which needs no known end.

    .. math:: f(t) = I \sqrt{\frac{\tau}{\tau + \max(t - B, 0)}}

    T5's :math:`1 / \sqrt{\max(t, k)}` is `inverse_sqrt_schedule(k**-0.5, k, k)`; with
    a warm-up of W steps it is `with_warmup(inverse_sqrt_schedule(peak, W), W)`.

    Args:
      init_value: :math:`I`, the value up to step B. Traceable.
      timescale: :math:`\tau` in steps, positive; three of them halve the value.
        Traceable.
      transition_begin: :math:`B` in steps; a negative one counts as 0. Traceable.

    Returns:
      A function of the count, of any shape, that returns the value, and NaN if
      `timescale` was traced and is not positive.

    Raises:
      ValueError: a concrete `timescale` is not positive.

    Example:
      >>> import stabjax
      >>> schedule = stabjax.inverse_sqrt_schedule(0.8, timescale=4)
      >>> [round(float(schedule(count)), 4) for count in (0, 1, 12, 60)]
      [0.8, 0.7155, 0.4, 0.2]

    Source: Raffel et al., Exploring the Limits of Transfer Learning with a Unified
    Text-to-Text Transformer, 2019 (arXiv 1910.10683).
    """
    good = check_positive(timescale=timescale)
    timescale = select(good, timescale, 1)
    begin = select(transition_begin < 0, 0, transition_begin)

    def schedule(count: ArrayLike) -> ArrayLike:
        elapsed = jnp.maximum(since(count, begin), 0)
        value = init_value / jnp.sqrt(1 + elapsed / timescale)
        return nan_unless(good, value)

    return schedule


@builder
def noam_schedule(
    model_size: ArrayLike, warmup_steps: ArrayLike, factor: ArrayLike = 1.0
) -> optax.Schedule:
    r"""The Transformer's schedule: up in a straight line, down with the square root.

    .. math::
        f(t) = c\, d^{-1/2} \min\left(s^{-1/2}, s\, W^{-3/2}\right), \qquad s = t + 1

    with its peak :math:`c / \sqrt{d W}` at t = W - 1.

    Args:
      model_size: :math:`d`, the width of the model, positive. Traceable.
      warmup_steps: :math:`W` in steps, positive. Traceable.
      factor: :math:`c`. Traceable.

    Returns:
      A function of the count, of any shape, that returns the value, and NaN if a
      traced argument is not positive.

    Raises:
      ValueError: a concrete `model_size` or `warmup_steps` is not positive.

    Example:
      >>> import stabjax
      >>> schedule = stabjax.noam_schedule(64, warmup_steps=4)
      >>> [round(float(schedule(count)), 4) for count in (0, 1, 3, 15, 63)]
      [0.0156, 0.0312, 0.0625, 0.0312, 0.0156]

    Source: Vaswani et al., Attention Is All You Need, 2017 (arXiv 1706.03762).
    """
    good = check_positive(model_size=model_size, warmup_steps=warmup_steps)
    size, warmup = select(good, model_size, 1), select(good, warmup_steps, 1)

    def schedule(count: ArrayLike) -> ArrayLike:
        number = jnp.maximum(later(count, 1), 1)
        root = jnp.sqrt(warmup / number)
        # By the peak: s ** -0.5 * W ** 0.5, or s / W.
        height = jnp.where(number < warmup, number / warmup, root)
        peak = factor / jnp.sqrt(size) / jnp.sqrt(warmup)
        return nan_unless(good, peak * height)

    return schedule


@builder
def rex_schedule(
    init_value: ArrayLike,
    transition_steps: ArrayLike,
    end_value: ArrayLike = 0.0,
    beta: ArrayLike = 0.5,
) -> optax.Schedule:
    r"""Reflected exponential: a decay that is slow first and steep at the end.

    .. math::
        f(t) = E + (I - E) \frac{1 - q}{1 - \beta q}, \qquad q = \min(t / T, 1)

    Args:
      init_value: :math:`I`, the value at step 0. Traceable.
      transition_steps: :math:`T` in steps, positive. Traceable.
      end_value: :math:`E`, the value from step T on. Traceable.
      beta: :math:`\beta`, at least 0 and less than 1; 0 is a straight line, 1/2 the
        paper's, 0.9 that of some implementations. Traceable.

    Returns:
      A function of the count, of any shape, that returns the value, and NaN if an
      argument was traced and is none of those allowed.

    Raises:
      ValueError: a concrete `transition_steps` is not positive; a concrete `beta` is
        negative, or not less than 1.

    Example:
      >>> import stabjax
      >>> schedule = stabjax.rex_schedule(1.0, 10)
      >>> [round(float(schedule(count)), 4) for count in (0, 5, 8, 10, 50)]
      [1.0, 0.6667, 0.3333, 0.0, 0.0]

    Source: Chen, Wolfe and Kyrillidis, REX: Revisiting Budgeted Training with an
    Improved Schedule, 2021 (arXiv 2107.04197).
    """
    good = check_positive(transition_steps=transition_steps)
    good &= check("beta", beta, lambda x: (x >= 0) & (x < 1), "from 0 to below 1")
    steps, bend = select(good, transition_steps, 1), select(good, beta, 0)

    def schedule(count: ArrayLike) -> ArrayLike:
        left = share_ahead(count, 0, steps)
        # 1 - beta * q, without the rounding of 1 - left.
        height = left / (1 - bend + bend * left)
        return nan_unless(good, end_value + (init_value - end_value) * height)

    return schedule


@builder
def power_schedule(
    max_value: ArrayLike,
    scale: ArrayLike,
    power: ArrayLike = -0.51,
    warmup_steps: ArrayLike = 0,
) -> optax.Schedule:
    r"""A power of the steps below a maximum, which needs no known end.

    .. math::
        p(t) = \min(M, a\,t^b), \qquad f(t) = \begin{cases} p(W)\,t / W & t < W \\
        p(t) & t \ge W \end{cases}

    In the paper the power is one of the tokens seen: for batches of n sequences of l
    tokens, :math:`a = n\,a_0\,(n\,l)^b` with :math:`a_0` about 4. It ends with a decay
    to zero: `with_cooldown(schedule, start, steps)`.

    Args:
      max_value: :math:`M`. Traceable.
      scale: :math:`a`, zero or greater. Traceable.
      power: :math:`b`, negative. Traceable.
      warmup_steps: :math:`W` in steps; zero or less is no warm-up. Traceable.

    Returns:
      A function of the count, of any shape, that returns the value, and NaN if an
      argument was traced and is none of those allowed.

    Raises:
      ValueError: a concrete `scale` is negative, or a `power` is not.

    Example:
      >>> import stabjax
      >>> schedule = stabjax.power_schedule(0.3, 1.0, -0.5, warmup_steps=4)
      >>> [round(float(schedule(count)), 4) for count in (0, 2, 4, 16, 100)]
      [0.0, 0.15, 0.3, 0.25, 0.1]

    Source: Shen et al., Power Scheduler: A Batch Size and Token Number Agnostic
    Learning Rate Scheduler, 2024 (arXiv 2408.13359).
    """
    good = check("scale", scale, lambda x: x >= 0, "zero or greater")
    good &= check("power", power, lambda x: x < 0, "negative")
    warmup = select(warmup_steps < 0, 0, warmup_steps)

    def schedule(count: ArrayLike) -> ArrayLike:
        at = jnp.maximum(count, warmup)
        begun = at > 0
        value = jnp.minimum(max_value, scale * jnp.where(begun, at, 1.0) ** power)
        value = jnp.where(begun, value, max_value)
        rising = jnp.where(count < warmup, share(count, 0, warmup), 1)
        return nan_unless(good, value * rising)

    return schedule


@builder
def wsd_schedule(
    peak_value: ArrayLike,
    warmup_steps: ArrayLike,
    stable_steps: ArrayLike,
    decay_steps: ArrayLike,
    end_value: ArrayLike = 0.0,
    shape: str = "linear",
) -> optax.Schedule:
    r"""Warm-up, stable, decay: the trapezoid.

    .. math::
        f(t) = \begin{cases} P\,t / W & t < W \\ P & W \le t \le W + S \\
        E + (P - E)\, g(q) & t > W + S \end{cases} \qquad
        q = \min\left(\frac{t - W - S}{D}, 1\right)

    with :math:`g` the shape of the decay, as in :func:`with_cooldown`. For other
    warm-ups, for other plateaus, and to decay from any checkpoint of the plateau on,
    take :func:`with_warmup` and :func:`with_cooldown`, of which it is made.

    Args:
      peak_value: :math:`P`. Traceable.
      warmup_steps: :math:`W` in steps; 0 starts at the peak. Traceable.
      stable_steps: :math:`S` in steps. Traceable.
      decay_steps: :math:`D` in steps; 0 goes to `end_value` at once. Traceable.
      end_value: :math:`E`, the value from step W + S + D on. Traceable.
      shape: of the decay: `"linear"`, `"1-sqrt"`, `"cosine"`, `"square"`,
        `"mirror-cosine"` or `"exponential"`. Static.

    Returns:
      A function of the count, of any shape, that returns the value, and NaN if steps
      were traced and are negative.

    Raises:
      ValueError: an unknown shape; concrete steps are negative; a concrete `end_value`
        of an exponential decay is not positive.

    Example:
      >>> import stabjax
      >>> schedule = stabjax.wsd_schedule(1.0, 4, 12, 8, shape="1-sqrt")
      >>> [round(float(schedule(count)), 4) for count in (0, 2, 4, 16, 18, 24)]
      [0.0, 0.5, 1.0, 1.0, 0.5, 0.0]

    Source: Hu et al., MiniCPM: Unveiling the Potential of Small Language Models with
    Scalable Training Strategies, 2024 (arXiv 2404.06395); the shapes: Haegele et al.,
    2024 (arXiv 2405.18392).
    """
    good = check("stable_steps", stable_steps, lambda x: x >= 0, "zero or greater")
    good &= check("decay_steps", decay_steps, lambda x: x >= 0, "zero or greater")
    plateau = constant_schedule(nan_unless(good, peak_value))
    rising = with_warmup(plateau, warmup_steps)
    start = warmup_steps + stable_steps
    return with_cooldown(rising, start, decay_steps, shape, end_value)


@builder
def infinite_schedule(
    peak_value: ArrayLike,
    constant_value: ArrayLike,
    warmup_steps: ArrayLike,
    cooldown_steps: ArrayLike,
    timescale: ArrayLike | None = None,
) -> optax.Schedule:
    r"""Warm up, cool down to a value, and keep it for ever: training without an end.

    .. math::
        f(t) = \begin{cases} P\,t / W & t < W \\
        C + (P - C) \cos^2(\pi x / 2) & t \ge W \end{cases} \qquad
        x = \min\left(\frac{t - W}{D}, 1\right)

    or, with a time scale :math:`\alpha`, an inverse square root instead of the cosine:
    :math:`P + (C - P)\,h(x) / h(1)` with :math:`h(x) = 1 / \sqrt{1 + \alpha x} - 1`.

    A model is annealed from any checkpoint on the constant value by
    `with_cooldown(schedule, start, steps, "exponential", end_value)`, and the training
    itself goes on from the checkpoint as if nothing had happened.

    Args:
      peak_value: :math:`P`. Traceable.
      constant_value: :math:`C`. Traceable.
      warmup_steps: :math:`W` in steps; 0 starts at the peak. Traceable.
      cooldown_steps: :math:`D` in steps; 0 has no peak. Traceable.
      timescale: :math:`\alpha`, positive, or None for the cosine. Traceable.

    Returns:
      A function of the count, of any shape, that returns the value, and NaN if an
      argument was traced and is none of those allowed.

    Raises:
      ValueError: concrete steps are negative, or a `timescale` is not positive.

    Example:
      >>> import stabjax
      >>> forever = stabjax.infinite_schedule(1.0, 0.25, 4, 8)
      >>> annealed = stabjax.with_cooldown(forever, 20, 2, "exponential", 0.01)
      >>> [round(float(forever(count)), 4) for count in (0, 2, 4, 8, 12, 1000)]
      [0.0, 0.5, 1.0, 0.625, 0.25, 0.25]
      >>> [round(float(annealed(count)), 4) for count in (20, 21, 22, 1000)]
      [0.25, 0.05, 0.01, 0.01]

    Source: Ibrahim et al., Simple and Scalable Strategies to Continually Pre-train
    Large Language Models, 2024 (arXiv 2403.08763).
    """
    good = check("cooldown_steps", cooldown_steps, lambda x: x >= 0, "zero or greater")
    if timescale is not None:
        good &= check_positive(timescale=timescale)
    bend = select(good, 0 if timescale is None else timescale, 1)

    def cooling(count: ArrayLike) -> ArrayLike:
        x = share(count, 0, cooldown_steps)
        left = share_ahead(count, 0, cooldown_steps)
        if timescale is None:
            value = between("cosine", peak_value, constant_value, x, left)
        else:
            gone = _inverse_root(bend * x) / _inverse_root(bend)
            value = peak_value + (constant_value - peak_value) * gone
            value = jnp.where(left <= 0, constant_value, value)
        return nan_unless(good, value)

    return with_warmup(cooling, warmup_steps)


def _inverse_root(x: ArrayLike) -> ArrayLike:
    """`1 / sqrt(1 + x) - 1`, accurate for a small x."""
    root = jnp.sqrt(1 + x)
    return -x / (root * (1 + root))
