"""Draws the fractal boundary between converging and diverging runs.

Each pixel is a run of the network of Sohl-Dickstein (2024), trained with full-batch
gradient descent. The color shows the convergence score. Converged runs are green to
blue, with darker colors for slower convergence. Diverged runs are orange to red, with
darker colors for later divergence. There are three pictures:

  rates      learning rates of the input and output layers, without clipping
  clipped    the same learning rates, with clipping at --max-norm
  threshold  clipping threshold and a common learning rate for both layers

    python examples/trainability_boundary.py                      # all three
    python examples/trainability_boundary.py --picture rates --x 3 4 --y 1 1.6
    python examples/trainability_boundary.py --width 16 --steps 1000   # as in the paper

Finished chunks are saved in --store. To resume, run the same command again. Use a
different folder if you change other options.
"""

import argparse
import os
import pathlib

import jax
import numpy as np
import optax

import stabjax

# log10 of the axis limits of each picture.
WINDOWS = {
    "rates": ((1.0, 5.0), (0.5, 3.5)),
    "clipped": ((1.0, 5.0), (0.5, 3.5)),
    "threshold": ((-4.0, 0.5), (0.5, 5.0)),
}
NAMES = {
    "input_rate": "learning rate of the first layer",
    "output_rate": "learning rate of the second layer",
    "max_norm": "clipping threshold",
    "rate": "learning rate of both layers",
}


def layers_sgd(input_rate, output_rate):
    """Returns gradient descent with a separate learning rate for each layer."""
    return optax.multi_transform(
        {"input": optax.sgd(input_rate), "output": optax.sgd(output_rate)},
        lambda params: jax.tree.map_with_path(lambda path, _: path[0].key, params),
    )


def optimizer_of(picture, max_norm):
    """Returns a function that maps the coordinates of a pixel to an optimizer."""
    if picture == "rates":
        return layers_sgd

    def clipped(input_rate, output_rate):
        clip = stabjax.clip_by_global_norm(max_norm)
        return optax.chain(clip, layers_sgd(input_rate, output_rate))

    def threshold(max_norm, rate):
        return optax.chain(stabjax.clip_by_global_norm(max_norm), optax.sgd(rate))

    return {"clipped": clipped, "threshold": threshold}[picture]


def score_map(picture, options):
    """Returns the convergence score of each pixel, with y along axis 0."""
    x_window, y_window = WINDOWS[picture]
    x = np.logspace(*(options.x or x_window), options.resolution)
    y = np.logspace(*(options.y or y_window), options.resolution)
    names = ("max_norm", "rate") if picture == "threshold" else (*NAMES,)[:2]
    runs = stabjax.sweep(
        stabjax.problems.boundary_mlp(width=options.width),
        optimizer_of(picture, options.max_norm),
        stabjax.grid(**{names[1]: y, names[0]: x}),
        steps=options.steps,
        divergence_factor=np.inf,  # the score distinguishes diverged runs
        summaries=["convergence_score"],
        store=options.store and options.store / picture,
    )
    print(f"{picture}: {runs.trials:,} runs, {runs.seconds:.0f} s")
    for name in names:
        runs[name].attrs["long_name"] = NAMES[name]
    return runs


def dimension(converged):
    """Estimates the box-counting dimension of the boundary.

    A block of 2 x 2 pixels belongs to the boundary if it contains both converged and
    diverged runs. The number of boxes of size s that intersect the boundary scales as
    s^(-dimension). The dimension is fitted by least squares to the logarithms, for box
    sizes from one pixel to one eighth of the picture.
    """
    if len(converged) < 16:
        return np.nan  # only one box size
    blocks = np.lib.stride_tricks.sliding_window_view(converged, (2, 2))
    border = blocks.any(axis=(2, 3)) & ~blocks.all(axis=(2, 3))
    sizes = 2 ** np.arange(int(np.log2(len(converged))) - 2)
    counts = []
    for size in sizes:
        padded = np.pad(border, (0, -len(border) % size))
        side = len(padded) // size
        boxes = padded.reshape(side, size, side, size)
        counts.append(boxes.any(axis=(1, 3)).sum())
    if not all(counts):
        return np.nan  # no boundary
    return -np.polyfit(np.log(sizes), np.log(counts), 1)[0]


def draw(runs, title, path):
    """Saves the picture as a PNG file with one pixel per run."""
    (ax,) = stabjax.plot.panels(1)
    ax.figure.set_size_inches(7.6, 6.9)
    y, x = runs.convergence_score.dims
    stabjax.plot.trainability_map(runs, x=x, y=y, ax=ax)
    ax.set_title(title, fontsize=10)
    ax.figure.savefig(path, dpi=140)


def main(arguments=None):
    """Draws the pictures and returns the dimension of each boundary."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--picture", choices=[*WINDOWS], help="default: all")
    parser.add_argument(
        "--resolution", type=int, default=512, help="pixels in each direction"
    )
    parser.add_argument("--width", type=int, default=8, help="width of the network")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--max-norm", type=float, default=0.01)
    parser.add_argument("--x", type=float, nargs=2, help="log10 of left and right")
    parser.add_argument("--y", type=float, nargs=2, help="log10 of bottom and top")
    parser.add_argument("--x64", action="store_true", help="float64, for deep zooms")
    parser.add_argument("--store", type=pathlib.Path, help="folder to resume from")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("pictures"))
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    if options.x64:
        jax.config.update("jax_enable_x64", True)

    found = {}
    for picture in [options.picture] if options.picture else WINDOWS:
        runs = score_map(picture, options)
        converged = (runs.convergence_score < 0).to_numpy()
        found[picture] = dimension(converged)
        title = {
            "rates": "Without clipping",
            "clipped": f"Gradients clipped at {options.max_norm:g}",
            "threshold": "Clipping threshold and learning rate",
        }[picture]
        about = (
            f"{converged.mean():.0%} of {converged.size:,} runs converge (green to"
            f" blue), boundary of dimension {found[picture]:.2f}"
        )
        draw(runs, f"{title}\n{about}", options.out / f"trainability_{picture}.png")
        print(f"{title}: {about}")
    return found


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", os.cpu_count())  # one device per core
    main()
