"""Schedules with a plateau and several decays, and averages that replace a decay."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from stabjax._arguments import as_number
from stabjax._schedules.counts import builder, since, standard_promotion
from stabjax._schedules.decays import constant_schedule
from stabjax._schedules.shapes import Shape
from stabjax._schedules.wrappers import with_cooldown, with_warmup
from stabjax._types import Number, Schedule


@builder
def wsd_s_schedule(
    peak_value: Number,
    warmup_steps: Number,
    boundaries: Sequence[Number] | jax.Array | np.ndarray,
    decay_steps: Sequence[Number] | jax.Array | np.ndarray,
    *,
    end_value: Number,
    shape: Shape = "harmonic",
) -> Schedule:
    """Returns a WSD-S schedule: a plateau with a decay before each boundary.

        f(t) = P min(t / W, 1)                    for b_{i-1} <= t <= b_i - D_i
        1 / f(t) = (1 - q) / P + q / E            for b_i - D_i < t < b_i
        q = (t - b_i + D_i) / D_i

    Each decay produces a model. Training then continues from that model at the peak,
    unlike with `with_cooldown`, where it continues from before the decay. After the
    last boundary, the value is E.

    Args:
      peak_value: P. **Traceable.**
      warmup_steps: W in steps, >= 0. Use 0 to start at the peak. **Traceable.**
      boundaries: the steps b_i at which the decays end, in ascending order. Their
        number is **static** and their values are **traceable**.
      decay_steps: the lengths D_i of the decays in steps, >= 0, one for each boundary.
        The paper uses a tenth of the steps. Values are **traceable**.
      end_value: E, > 0 for the default shape. **Traceable.**
      shape: shape of the decays, as listed in `with_cooldown`. A name is **static**, a
        power > 0 is **traceable**.

    Returns:
      A function of the count (a scalar or an array) that returns the value, or NaN if a
      traced argument is out of range.

    Raises:
      ValueError: If `boundaries` is empty or not as long as `decay_steps`, or a
        concrete argument is out of range.
      TypeError: If an argument is not a number.

    Example:
      >>> import stabjax
      >>> schedule = stabjax.wsd_s_schedule(1.0, 2, [10, 20], [2, 4], end_value=0.1)
      >>> [round(float(schedule(count)), 4) for count in (0, 2, 8, 9, 10, 16, 18, 20)]
      [0.0, 1.0, 1.0, 0.1818, 1.0, 1.0, 0.1818, 0.1]

    References:
      Wen et al., Understanding Warmup-Stable-Decay Learning Rates: A River Valley Loss
      Landscape Perspective, 2024. https://arxiv.org/abs/2410.05192
    """
    ends = [as_number("each boundary", b) for b in boundaries]
    lengths = [as_number("each of decay_steps", d) for d in decay_steps]
    if not ends or len(ends) != len(lengths):
        raise ValueError(
            "boundaries and decay_steps must be non-empty and of one length, got "
            f"{len(ends)} and {len(lengths)} numbers."
        )
    rising = with_warmup(constant_schedule(peak_value), warmup_steps)
    cycles = [
        with_cooldown(rising, end - length, length, end_value=end_value, shape=shape)
        for end, length in zip(ends, lengths, strict=True)
    ]

    def schedule(count: Number) -> Number:
        value = cycles[-1](count)
        for end, cycle in reversed(list(zip(ends[:-1], cycles[:-1], strict=True))):
            value = jnp.where(since(count, end) < 0, cycle(count), value)
        return value

    return schedule


@standard_promotion
def weights_for(
    schedule: Schedule, counts: Sequence[int] | np.ndarray, peak_value: Number
) -> jax.Array:
    """Returns weights of checkpoints whose average replaces a learning rate decay.

    Let theta_0, ..., theta_k be checkpoints of a run at a constant rate P, after n_0 <
    ... < n_k updates. With the weights

        c_0 = 1 - w_1,    c_j = w_j - w_{j+1},    c_k = w_k,

    the average sum_j c_j theta_j contains the updates between the checkpoints j - 1 and
    j with the weight w_j, like a run that decays from theta_0. Here, w_j is the mean of
    s(t) / P for n_{j-1} <= t < n_j. The average equals the end of a decayed run if each
    update is proportional to the rate and does not otherwise depend on it, and if
    there is a checkpoint after every update. The weights add up to 1, and are
    nonnegative if the schedule decreases and does not exceed P.

    Args:
      schedule: s, the decay to replace, any function of the count. Its numbers may be
        traced.
      counts: the numbers of updates n_0, ..., n_k before each checkpoint, in ascending
        order. **Static.**
      peak_value: P, the constant rate of the run. **Traceable.**

    Returns:
      An array of k + 1 weights.

    Raises:
      ValueError: If `counts` are not in ascending order, or there are fewer than two.

    Example:
      >>> import stabjax
      >>> linear = stabjax.wsd_schedule(0.1, 0, 100, 4)
      >>> stabjax.weights_for(linear, [100, 101, 102, 103, 104], 0.1).round(4).tolist()
      [0.0, 0.25, 0.25, 0.25, 0.25]

    References:
      Tian et al., WSM: Decay-Free Learning Rate Schedule via Checkpoint Merging for LLM
      Pre-training, 2025. https://arxiv.org/abs/2507.17634
    """
    saved = np.asarray(counts)
    if saved.ndim != 1 or saved.size < 2 or saved[0] < 0 or (np.diff(saved) <= 0).any():
        raise ValueError(
            f"counts must be at least two counts >= 0 in ascending order, got {counts}."
        )
    between = jnp.arange(saved[0], saved[-1], dtype=jnp.int32)
    rates = jax.vmap(lambda count: jnp.asarray(schedule(count), float))(between)
    interval = np.repeat(np.arange(saved.size - 1), np.diff(saved))
    sums = jax.ops.segment_sum(rates / peak_value, interval, saved.size - 1)
    updates = sums / np.diff(saved)
    ends = jnp.ones(1, updates.dtype), jnp.zeros(1, updates.dtype)
    shares = jnp.concatenate([ends[0], updates, ends[1]])
    return shares[:-1] - shares[1:]
