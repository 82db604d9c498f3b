"""Two-dimensional test functions with curved valleys or walls."""

import math

import jax
import jax.numpy as jnp

from stabjax._arguments import as_integer, as_scalar
from stabjax._train.problem import Init, Problem
from stabjax._types import Number
from stabjax.problems.formulas import formula_problem, like, sweep_ranges


def rosenbrock(
    steepness: Number = 100.0, noise: Number = 0.0, init_spread: Number = 0.1
) -> Problem:
    """Rosenbrock's function, a curved valley with steep sides and a flat floor.

        L(w) = (1 - w_1)^2 + b (w_2 - w_1^2)^2

    The initial weights are `(-1.2, 1) + r U(-1, 1)^2`. The minimum is 0 at `(1, 1)`,
    where the largest curvature is `lambda = 1 + 5 b + sqrt((1 + 5 b)^2 - 4 b)`.
    Gradient descent converges to the minimum only if its learning rate is below
    `2 / lambda`.

    Args:
      steepness: steepness `b` of the valley walls, > 0. **Traceable.**
      noise: standard deviation of the Gaussian noise added to each element of the
        gradient (not to the loss), >= 0. **Traceable.**
      init_spread: spread `r` of the initial weights, >= 0. **Traceable.**

    Returns:
      A `Problem` whose parameters are an array of shape `(2,)`.

    Raises:
      TypeError: If an argument is not a scalar.
      ValueError: If an argument is out of range. Traced values yield NaN instead.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import stabjax
      >>> problem = stabjax.problems.rosenbrock()
      >>> round(float(problem.loss(jnp.array([-1.2, 1.0]), jax.random.key(0))), 3)
      24.2

    References:
      Rosenbrock, *An automatic method for finding the greatest or least value of a
      function*, 1960, https://doi.org/10.1093/comjnl/3.3.175
    """
    steepness = as_scalar("steepness", steepness, "> 0")

    def loss(w: jax.Array) -> jax.Array:
        side = w[1] - jnp.square(w[0])
        return jnp.square(1 - w[0]) + like(w, steepness) * jnp.square(side)

    half_trace = 1 + 5 * steepness
    sharpness = half_trace + (half_trace**2 - 4 * steepness) ** 0.5
    # The initial gradient is approximately (-2.16 b, -0.88 b).
    metadata = sweep_ranges(2 / sharpness, 2.33 * steepness) | {
        "name": "rosenbrock",
        "minimizer": jnp.ones(2),
        "steps": 2000,
        "target_loss": 0.1,
    }
    return formula_problem(_around(-1.2, 1.0, init_spread), loss, noise, metadata)


def beale(noise: Number = 0.0, init_spread: Number = 0.1) -> Problem:
    """Beale's function, a flat floor between walls that grow with the sixth power.

        L(w) = sum_i (t_i - w_1 (1 - w_2^i))^2,  t = (1.5, 2.25, 2.625),  i = 1, 2, 3

    The initial weights are `(1, 1.5) + r U(-1, 1)^2`. The minimum is 0 at `(3, 0.5)`.

    Args:
      noise: standard deviation of the Gaussian noise added to each element of the
        gradient (not to the loss), >= 0. **Traceable.**
      init_spread: spread `r` of the initial weights, >= 0. **Traceable.**

    Returns:
      A `Problem` whose parameters are an array of shape `(2,)`.

    Raises:
      TypeError: If an argument is not a scalar.
      ValueError: If an argument is out of range. Traced values yield NaN instead.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import stabjax
      >>> problem = stabjax.problems.beale()
      >>> round(float(problem.loss(jnp.array([1.0, 1.5]), jax.random.key(0))), 2)
      41.25

    References:
      Beale, *On an iterative method for finding a local minimum of a function of more
      than one variable*, Technical Report 25, Princeton University, 1958
    """

    def loss(w: jax.Array) -> jax.Array:
        powers = zip((1.5, 2.25, 2.625), (1, 2, 3), strict=True)
        return sum(
            (jnp.square(t - w[0] * (1 - w[1] ** i)) for t, i in powers),
            start=jnp.zeros((), w.dtype),
        )

    # At the minimum, the Hessian is 2 J'J, where J is the Jacobian of the three terms.
    metadata = sweep_ranges(2 / 48.97979, 90.0) | {
        "name": "beale",
        "minimizer": jnp.array([3.0, 0.5]),
        "steps": 2000,
        "target_loss": 0.01,
    }
    return formula_problem(_around(1.0, 1.5, init_spread), loss, noise, metadata)


def branin(noise: Number = 0.0, init_spread: Number = 0.1) -> Problem:
    """Branin's function, a curved valley with three equal minima.

        L(w) = (w_2 - 5.1 / (4 pi^2) w_1^2 + 5 / pi w_1 - 6)^2
               + 10 (1 - 1 / (8 pi)) cos(w_1) + 10

    The initial weights are `(2.5, 12.5) + r U(-1, 1)^2`. The minimum is `5 / (4 pi)`,
    about 0.398, at `(pi, 2.275)` and two other points.

    Args:
      noise: standard deviation of the Gaussian noise added to each element of the
        gradient (not to the loss), >= 0. **Traceable.**
      init_spread: spread `r` of the initial weights, >= 0. **Traceable.**

    Returns:
      A `Problem` whose parameters are an array of shape `(2,)`.

    Raises:
      TypeError: If an argument is not a scalar.
      ValueError: If an argument is out of range. Traced values yield NaN instead.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import stabjax
      >>> problem = stabjax.problems.branin()
      >>> loss = problem.loss(jnp.array([jnp.pi, 2.275]), jax.random.key(0))
      >>> round(float(loss), 3)
      0.398

    References:
      Branin, *Widely convergent method for finding multiple solutions of simultaneous
      nonlinear equations*, 1972, https://doi.org/10.1147/rd.165.0504
    """
    wave = 10 * (1 - 1 / (8 * math.pi))

    def loss(w: jax.Array) -> jax.Array:
        x, y = w
        valley = y - 5.1 / (4 * math.pi**2) * jnp.square(x) + 5 / math.pi * x - 6
        return jnp.square(valley) + wave * jnp.cos(x) + 10

    # At (pi, 2.275) the squared term is 0, so its Hessian depends only on its slope.
    slope = 5 / math.pi - 5.1 / (2 * math.pi)
    along, across = 2 * slope**2 + wave, 2.0
    spread = ((along - across) ** 2 + 16 * slope**2) ** 0.5
    metadata = sweep_ranges(4 / (along + across + spread), 20.0) | {
        "name": "branin",
        "optimum": 1.25 / math.pi,
        "minimizer": jnp.array([math.pi, 2.275]),
        "steps": 200,
        "target_loss": 0.41,
    }
    return formula_problem(_around(2.5, 12.5, init_spread), loss, noise, metadata)


def cliff(
    steepness: Number = 1000.0,
    width: Number = 0.01,
    noise: Number = 0.0,
    init_scale: Number = 4.0,
) -> Problem:
    """A gentle slope that ends at a steep wall, with the minimum at its foot.

        L(x, y) = r_d(x) + S r_d(max(x, 0)) + r_1(y),  r_d(x) = sqrt(x^2 + d^2) - d

    The slope along each axis is at most 1 for `x < 0`, and the wall at `x > 0` has the
    slope `S + 1`. The initial weights are `(-s u_1, s u_2)`, where `u_i ~ U(0.5, 1)`.
    In the gentle region, each step of gradient descent along `x` is at most as long as
    the learning rate `eta`. If `eta <= d`, gradient descent converges at the foot of
    the wall. If `eta` is larger, it eventually steps onto the wall, and the next step
    overshoots by up to `eta (S + 1)`. The recovery takes up to `S` steps. Clipping
    limits the overshoot to `eta max_norm`.

    Args:
      steepness: slope `S` of the wall, >= 0. **Traceable.**
      width: width `d` of the transition to the wall, > 0. **Traceable.**
      noise: standard deviation of the Gaussian noise added to each element of the
        gradient (not to the loss), >= 0. **Traceable.**
      init_scale: scale `s` of the initial weights, > 0. **Traceable.**

    Returns:
      A `Problem` whose parameters are an array of shape `(2,)`.

    Raises:
      TypeError: If an argument is not a scalar.
      ValueError: If an argument is out of range. Traced values yield NaN instead.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import stabjax
      >>> problem = stabjax.problems.cliff()
      >>> slope = jax.grad(problem.loss)
      >>> at = [slope(jnp.array([x, 0.0]), jax.random.key(0)) for x in (-1.0, 0.1)]
      >>> [round(float(g[0]), -3) for g in at]
      [-0.0, 1000.0]

    References:
      Goodfellow, Bengio and Courville, *Deep Learning*, 2016, figure 8.3 (the function
      reproduces its shape), https://www.deeplearningbook.org

      Pascanu, Mikolov and Bengio, *On the difficulty of training recurrent neural
      networks*, 2013, https://arxiv.org/abs/1211.5063
    """
    steepness = as_scalar("steepness", steepness, ">= 0")
    width = as_scalar("width", width, "> 0")
    init_scale = as_scalar("init_scale", init_scale, "> 0")

    def init(key: jax.Array) -> jax.Array:
        distance = jax.random.uniform(key, (2,), minval=0.5, maxval=1.0)
        return init_scale * jnp.array([-1.0, 1.0]) * distance

    def loss(w: jax.Array) -> jax.Array:
        bend = like(w, width)
        wall = like(w, steepness) * _rounded(jnp.maximum(w[0], 0), bend)
        return _rounded(w[0], bend) + wall + _rounded(w[1], jnp.ones_like(bend))

    metadata = sweep_ranges(width, 10.0) | {
        "name": "cliff",
        "minimizer": jnp.zeros(2),
        "steps": 200,
        "target_loss": 0.1,
    }
    return formula_problem(init, loss, noise, metadata)


def single_unit_rnn(
    noise: Number = 0.0, init_spread: Number = 0.5, *, length: int = 50
) -> Problem:
    """Recurrent network with one unit, whose loss has a steep wall.

        x_(t+1) = w sigmoid(x_t) + b,  x_0 = 0.5
        L(w, b) = (sigmoid(x_T) - 0.7)^2

    The initial weights are `(5.5, -2.3) + r U(-1, 1)^2`. The wall separates two regions
    whose states converge to different fixed points. The gradient norm is 229 at the
    wall, near `(4.6, -2.4)`, and 0.01 in the flat region. Gradient descent approaches
    the foot of the wall, where the loss is 0. A single step onto the wall then moves
    the weights far away.

    Args:
      noise: standard deviation of the Gaussian noise added to each element of the
        gradient (not to the loss), >= 0. **Traceable.**
      init_spread: spread `r` of the initial weights, >= 0. **Traceable.**
      length: number `T` of time steps, >= 1. **Static.**

    Returns:
      A `Problem` whose parameters are an array of shape `(2,)`: `w` and `b`.

    Raises:
      TypeError: If an argument is not a scalar or `length` is not an integer.
      ValueError: If an argument is out of range. Traced values yield NaN instead.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import stabjax
      >>> slope = jax.grad(stabjax.problems.single_unit_rnn().loss)
      >>> at = jnp.array([[3.0, -3.0], [4.625, -2.38]])
      >>> norms = [jnp.linalg.norm(slope(w, jax.random.key(0))) for w in at]
      >>> bool(norms[1] > 1000 * norms[0])
      True

    References:
      Pascanu, Mikolov and Bengio, *On the difficulty of training recurrent neural
      networks*, 2013, https://arxiv.org/abs/1211.5063. Their error surface shows the
      same network with a different target and initial state.
    """
    length = as_integer("length", length)

    def loss(w: jax.Array) -> jax.Array:
        def step(x: jax.Array, _: None) -> tuple[jax.Array, None]:
            return w[0] * jax.nn.sigmoid(x) + w[1], None

        x, _ = jax.lax.scan(step, like(w, 0.5), length=length)
        return jnp.square(jax.nn.sigmoid(x) - 0.7)

    metadata = {
        "name": "single_unit_rnn",
        # The minima form a line. This one does not depend on the length, because w is
        # 0 and sigmoid(b) is 0.7.
        "minimizer": jnp.array([0.0, math.log(0.7 / 0.3)]),
        "steps": 500,
        "target_loss": 1e-4,
        "peak_value": (0.01, 100.0),
        "max_norm": (0.001, 1000.0),
    }
    return formula_problem(_around(5.5, -2.3, init_spread), loss, noise, metadata)


def _around(x: float, y: float, spread: Number) -> Init:
    """Returns an init function that draws two weights around a point."""
    spread = as_scalar("init_spread", spread, ">= 0")

    def init(key: jax.Array) -> jax.Array:
        offset = jax.random.uniform(key, (2,), minval=-1.0, maxval=1.0)
        return jnp.array([x, y]) + spread * offset

    return init


def _rounded(x: jax.Array, width: jax.Array) -> jax.Array:
    """Returns a smooth approximation of the absolute value, rounded near zero."""
    return jnp.sqrt(jnp.square(x) + jnp.square(width)) - width
