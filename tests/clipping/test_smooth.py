"""Norms of other orders, groups, smooth clipping and normalised gradients."""

import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import models
import numpy as np
import optax
import pytest
from models import updates_of as update

import stabjax

VECTORS = json.loads(
    (pathlib.Path(__file__).parents[1] / "vectors" / "clipping.json").read_text()
)
TREE = {"a": jnp.array([3.0, 4.0]), "b": jnp.array([12.0])}
ORDERS = (1, 1.5, 3, np.inf)


@functools.cache
def all_updates():
    """One program: every rule here of a tree, with its number traced."""
    smooth = stabjax.smooth_clip_by_global_norm
    makers = {
        **{
            str(ord): functools.partial(stabjax.clip_by_global_norm, ord=ord)
            for ord in (None, 2, *ORDERS)
        },
        "smooth": smooth,
        "sqrt": functools.partial(smooth, kind="sqrt"),
        "ngd": lambda c: stabjax.normalize_by_update_norm(c, eps=1e-6),
        "optax": lambda c: optax.normalize_by_update_norm(c, eps=1e-6),
    }
    return jax.jit(
        lambda tree, c: {name: update(make(c), tree) for name, make in makers.items()}
    )


def flat(tree):
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])


def test_vectors_of_the_global_norm():
    """PyTorch adds 1e-6 to the norm; these differ from it by less than a millionth."""
    for key, ord, limit in (
        ("optax_6.5", None, 6.5),
        ("torch_6.5", 2, 6.5),
        ("torch_p1_9.5", 1, 9.5),
        ("torch_inf_6", np.inf, 6),
    ):
        got = flat(all_updates()(TREE, limit)[str(ord)])
        np.testing.assert_allclose(got, VECTORS["global_norm"][key], rtol=1e-6)
    got = flat(all_updates()(TREE, 13)["2"]) / flat(TREE)
    np.testing.assert_allclose(got, VECTORS["global_norm"]["torch_13"], rtol=1e-6)


def test_vectors_of_smooth_clipping():
    for i, norm in enumerate(VECTORS["smooth"]["norms"]):
        tree = jax.tree.map(lambda x: x * (norm / 13), TREE)  # noqa: B023
        got = all_updates()(tree, 1.0)
        for name, key in (("2", "hard"), *((n, n) for n in ("smooth", "sqrt", "ngd"))):
            scale = flat(got[name]) / flat(tree)
            np.testing.assert_allclose(scale, VECTORS["smooth"][key][i], rtol=1e-6)


def test_every_order_at_every_magnitude():
    for magnitude in (1, 1e25, 3e38, 1e-30, 0):
        tree = models.random_tree("float32", magnitude)
        for limit in (0.0, 0.3 * magnitude, 1.0, np.inf):
            got = all_updates()(tree, np.float32(limit))
            for ord in ORDERS:
                norm = models.norm(tree, ord)
                expected = jax.tree.map(
                    lambda x: models.rescaled(x, norm, limit),  # noqa: B023
                    tree,
                )
                models.assert_close(got[str(ord)], expected, factor=4)
            models.assert_close(got["2"], got["None"])


def test_smooth_formulas_at_every_magnitude():
    for magnitude in (1, 1e25, 3e38, 1e-30, 0):
        tree = models.random_tree("float32", magnitude)
        norm = models.norm(tree)
        for limit in (0.0, 0.3 * magnitude, 1.0, 1e38, np.inf):
            got = all_updates()(tree, np.float32(limit))
            with np.errstate(divide="ignore", invalid="ignore"):
                share = np.nan_to_num(np.float64(norm) / limit, nan=0.0)
                scales = {"smooth": 1 / (1 + share), "sqrt": 1 / np.hypot(1, share)}
            for name, scale in scales.items():
                expected = jax.tree.map(lambda x: models.exact(x) * scale, tree)  # noqa: B023
                models.assert_close(got[name], expected, factor=4)
        got = all_updates()(tree, np.float32(2.0))
        expected = jax.tree.map(
            lambda x: models.exact(x) * 2 / (norm + 1e-6),  # noqa: B023
            tree,
        )
        models.assert_close(got["ngd"], expected, factor=4)
        if magnitude == 1:
            models.assert_close(got["ngd"], got["optax"], factor=4)


def test_the_zero_gradient_stays_zero_even_without_eps():
    zero = jnp.zeros(3)
    tx = stabjax.normalize_by_update_norm(1.0, 0.0)
    assert update(tx, zero).tolist() == [0, 0, 0]
    slope = jax.grad(lambda g: jnp.sum(update(tx, g)))
    assert np.isfinite(slope(zero)).all()


# Thresholds of groups.

GROUPED = {
    "body": {"w": jnp.array([3.0, 4.0]), "v": jnp.array([12.0])},
    "head": jnp.array([6.0, 8.0]),
}


def test_each_group_is_clipped_by_itself():
    limits = {"body": 6.5, "head": jnp.array(20.0)}
    clipped = functools.partial(update, params=GROUPED)

    @jax.jit
    def both(limits):
        makers = [getattr(stabjax, name) for name in models.RULES]
        return [
            (
                clipped(make(limits), GROUPED),
                {
                    key: update(make(limits[key]), GROUPED[key], GROUPED[key])
                    for key in limits
                },
            )
            for make in makers
        ]

    for grouped, one_by_one in both(limits):
        jax.tree.map(np.testing.assert_array_equal, grouped, one_by_one)
    body, head = (both(limits)[1][0][key] for key in ("body", "head"))
    np.testing.assert_allclose(flat(body), [6.0, 1.5, 2.0], rtol=1e-6)
    assert head.tolist() == [6, 8]


def test_groups_compose():
    make = stabjax.clip_by_global_norm
    batched = jax.vmap(lambda c: update(make({"body": c, "head": 1.0}), GROUPED))
    got = batched(jnp.array([1.0, 6.5]))
    np.testing.assert_allclose(got["body"]["v"][:, 0], [12 / 13, 6.0], rtol=1e-6)
    masked = optax.masked(
        make({"body": 6.5, "head": 1.0}), {"body": True, "head": False}
    )
    got = update(masked, GROUPED)
    assert got["head"].tolist() == [6, 8] and float(got["body"]["v"][0]) == 6
    injected = optax.inject_hyperparams(make)(max_norm={"body": 6.5, "head": 1.0})
    assert float(update(injected, GROUPED)["body"]["v"][0]) == 6


def test_injected_hyperparameters_need_no_list_of_static_ones():
    """As before there were other orders: the default of `ord` is no number."""
    injected = optax.inject_hyperparams(stabjax.clip_by_global_norm)(max_norm=6.5)
    assert list(injected.init(TREE).hyperparams) == ["max_norm"]
    np.testing.assert_allclose(update(injected, TREE)["a"], [1.5, 2.0], rtol=1e-6)
    injected = optax.inject_hyperparams(
        stabjax.clip_by_global_norm, static_args=("ord",)
    )(max_norm=9.5, ord=1)
    np.testing.assert_allclose(update(injected, TREE)["a"], [1.5, 2.0], rtol=1e-6)


def test_bad_arguments_raise():
    make = stabjax.clip_by_global_norm
    for bad, kind, match in (
        (lambda: make(1.0, ord=0.5), ValueError, r"ord must be a number in \[1, inf\]"),
        (lambda: make({"a": 1.0, "b": -1.0}), ValueError, "max_norm must be >= 0"),
        (lambda: make({"a": "1"}), TypeError, "max_norm must be a number, got"),
        (
            lambda: update(make({"a": 1.0}), TREE),
            ValueError,
            "max_norm must have a value for every",
        ),
        (
            lambda: stabjax.smooth_clip_by_global_norm(1.0, kind="soft"),
            ValueError,
            "kind must be 'rational' or 'sqrt', got 'soft'",
        ),
        (
            lambda: stabjax.normalize_by_update_norm(eps=-1.0),
            ValueError,
            "eps must be >= 0",
        ),
        (
            lambda: stabjax.normalize_by_update_norm("1"),
            TypeError,
            "scale_factor must be a number, got",
        ),
    ):
        with pytest.raises(kind, match=match):
            bad()
