"""Draws the figures in docs/problems.md. Usage: docs/draw_problems.py [name ...]."""

import io
import pathlib
import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from PIL import Image

import stabjax
from stabjax import problems

FOLDER = pathlib.Path(__file__).parent / "problems"
PLAIN, CLIPPED = "crimson", "royalblue"


class Surface(NamedTuple):
    """A surface over two weights, with descents with and without clipping."""

    x: tuple[float, float]
    y: tuple[float, float]
    rate: float
    max_norm: float
    steps: int = 200
    arguments: dict = {}


class Slope(NamedTuple):
    """A function of one weight."""

    x: tuple[float, float]


class Curves(NamedTuple):
    """Learning curves for a small and a large rate, the latter also with clipping."""

    small: float
    large: float
    max_norm: float
    seeds: int = 8
    arguments: dict = {}


FIGURES = {
    "quadratic": Surface((-5, 5), (-5, 5), 0.95, 1.0, 30),
    "ill_conditioned_quadratic": Surface(
        (-5, 5), (-5, 5), 0.95, 1.0, 60, {"dim": 2, "condition_number": 20.0}
    ),
    "heavy_tailed_quadratic": Curves(0.002, 0.03, 0.5),
    "quadratic_deep": Curves(0.003, 0.04, 2.0),
    "random_quadratic": Curves(0.05, 1.0, 0.4),
    "rosenbrock": Surface((-2, 2), (-1, 3), 0.004, 10.0, 2000),
    "beale": Surface((-1, 4), (-1, 2), 0.025, 2.0, 1000),
    "branin": Surface((-5, 10), (0, 15), 0.12, 5.0, 100),
    "cliff": Surface((-12, 2), (-2, 5), 0.1, 1.0, 60, {"steepness": 100.0}),
    "quartic": Slope((-10, 10)),
    "cosh": Slope((-10, 10)),
    "tied_product": Slope((-2, 2)),
    "deep_linear_chain": Curves(0.001, 0.01, 1.0),
    "deep_linear": Curves(0.02, 0.15, 0.5),
    "single_unit_rnn": Surface((3.5, 6.5), (-3.5, -1.5), 0.1, 1.0, 300),
    "adding": Curves(0.005, 0.1, 1.0, 4),
    "temporal_order": Curves(0.02, 0.5, 1.0, 4),
    "digits_mlp": Curves(0.1, 3.0, 0.3, 4),
    "digits_cnn": Curves(0.1, 2.5, 0.2, 4),
    "char_transformer": Curves(0.001, 0.03, 0.1, 4),
    "boundary_mlp": Curves(1.0, 300.0, 0.01, 4),
}


def make(name):
    return getattr(problems, name)(**getattr(FIGURES[name], "arguments", {}))


def descent(problem, rate, max_norm, steps):
    """Returns the weights at each step of clipped gradient descent."""
    optimizer = optax.chain(stabjax.clip_by_global_norm(max_norm), optax.sgd(rate))
    init_key, key = jax.random.split(jax.random.key(0))
    w = problem.init(init_key)

    def step(carry, t):
        w, state = carry
        slope = jax.grad(problem.loss)(w, jax.random.fold_in(key, t))
        updates, state = optimizer.update(slope, state, w)
        return (optax.apply_updates(w, updates), state), w

    return jax.lax.scan(step, (w, optimizer.init(w)), jnp.arange(steps))[1]


def draw_surface(ax, name, figure):
    problem = make(name)
    grid = np.meshgrid(np.linspace(*figure.x, 200), np.linspace(*figure.y, 200))
    at = jnp.stack(grid, axis=-1).reshape(-1, 2).astype(jnp.float32)
    loss = jax.jit(jax.vmap(problem.loss, (0, None)))(at, jax.random.key(0))
    excess = np.asarray(loss).reshape(200, 200) - problem.metadata["optimum"]
    levels = np.log10(np.maximum(excess, np.quantile(excess, 0.002)) + 1e-12)
    ax.contourf(*grid, levels, 24, cmap="Greys_r")
    for max_norm, color in ((np.inf, PLAIN), (figure.max_norm, CLIPPED)):
        path = descent(problem, figure.rate, max_norm, figure.steps)
        ax.plot(*np.asarray(path).T, "-o", color=color, linewidth=0.8, markersize=1.5)
    ax.plot(*problem.metadata["minimizer"], "*", color="gold", markersize=8)
    ax.set(xlim=figure.x, ylim=figure.y, xlabel="$w_1$", ylabel="$w_2$")


def draw_slope(ax, name, figure):
    problem = make(name)
    w = jnp.linspace(*figure.x, 401)[:, None]
    both = jax.jit(jax.vmap(jax.value_and_grad(problem.loss), (0, None)))
    loss, slope = both(w, jax.random.key(0))
    ax.semilogy(w[:, 0], loss, color="black", label="loss")
    ax.semilogy(w[:, 0], jnp.abs(slope[:, 0]), color="0.6", label="|slope|")
    ax.set(xlabel="$w$", xlim=figure.x)
    ax.set_ylim(bottom=max(1e-6, float(np.quantile(loss, 0.02))))
    ax.legend(fontsize=7)


def draw_curves(ax, name, figure):
    problem = make(name)
    metadata = problem.metadata

    def optimizer(rate, max_norm):
        clip = stabjax.clip_by_global_norm(max_norm)
        return optax.chain(clip, metadata["optimizer"](rate))

    pairs = [
        (figure.small, np.inf, "0.55"),
        (figure.large, np.inf, PLAIN),
        (figure.large, figure.max_norm, CLIPPED),
    ]
    space = stabjax.grid(
        rate=[figure.small, figure.large],
        max_norm=[figure.max_norm, np.inf],
        seed=range(figure.seeds),
    )
    every = max(1, metadata["steps"] // 100)
    runs = stabjax.sweep(
        problem, optimizer, space, steps=metadata["steps"], record_every=every
    )
    finite = runs.loss.where(np.isfinite(runs.loss))
    for rate, max_norm, color in pairs:
        curves = finite.sel(rate=rate, max_norm=max_norm)
        for seed in curves.seed:
            ax.semilogy(curves.step, curves.sel(seed=seed), color=color, linewidth=0.7)
    for name, style in (("baseline", ":"), ("target_loss", "--")):
        if name in metadata:
            ax.axhline(metadata[name], color="black", linewidth=0.7, linestyle=style)
    start = float(runs.loss.isel(step=0).median())
    low = min(float(finite.min()), metadata["target_loss"])
    high = min(1.5 * float(finite.max()), 20 * start)
    ax.set_ylim(max(low, 1e-6 * start) / 2, high)
    ax.set(xlabel="step", ylabel="loss")


def save(fig, path):
    """Saves a PNG file with a color palette, which is a third of the size."""
    drawn = io.BytesIO()
    fig.savefig(drawn, dpi=100)
    plt.close(fig)
    image = Image.open(drawn).convert("RGB").quantize(64)
    image.save(path, optimize=True)


def main(names):
    FOLDER.mkdir(exist_ok=True)
    for name in names or FIGURES:
        figure = FIGURES[name]
        draw = {Surface: draw_surface, Slope: draw_slope, Curves: draw_curves}
        fig, ax = plt.subplots(figsize=(3.4, 2.6), layout="constrained")
        draw[type(figure)](ax, name, figure)
        ax.set_title(name, fontsize=9)
        ax.tick_params(labelsize=7)
        save(fig, FOLDER / f"{name}.png")
        print(name)


if __name__ == "__main__":
    main(sys.argv[1:])
