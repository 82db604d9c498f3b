"""Collection of metrics from nested optimizer states under unique names."""

import itertools
import re
from collections import Counter, defaultdict
from typing import NamedTuple, TypeAlias
from urllib.parse import quote, unquote

import jax
import optax

from stabjax._paths import leaf_paths

_Place: TypeAlias = tuple[str, ...]  # path from the root to a state


def metrics(opt_state: optax.OptState) -> dict[str, jax.Array]:
    """Collects metrics of the last update from an optimizer state.

    Metrics are the elements of all fields named `metrics`. These are included in the
    states of `stabjax.with_metrics` and all stateful stabjax transformations.
    Hyperparameters of `optax.inject_hyperparams` are collected under their own names.
    States may be nested in `optax.chain`, `masked`, `partition`, `MultiSteps` or Flax
    NNX variables.

    Metric names combine the names of transformation and metric, such as
    `zclip/grad_norm`. If several transformations have the same name, the parts of their
    paths that differ are added as a prefix: the index in `optax.chain`, the name in
    `optax.named_chain`, the label in `optax.partition`, or the field of a wrapper's
    state. For example, two `zclip` in a chain are called `0/zclip/grad_norm` and
    `2/zclip/grad_norm`. In two nested guards of the same kind, the outer guard keeps
    its name and the inner guard gets the prefix `inner_state`.

    To add metrics to your own state, give it a field `metrics` that is a dict with keys
    of the form `name:metric`. Avoid slashes in keys, which break flattened checkpoints.

    Args:
      opt_state: any optimizer state, with concrete or traced arrays.

    Returns:
      A flat dict of scalars, sorted by name. If the state is batched by `vmap`, values
      have its batch shape. A state without metrics gives an empty dict.

    Raises:
      TypeError: If `opt_state` is not an optimizer state, but an optimizer or a model.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import stabjax
      >>> optimizer = optax.chain(
      ...     stabjax.with_metrics(stabjax.clip(1.0), name="clip"),
      ...     optax.inject_hyperparams(optax.sgd)(learning_rate=0.1),
      ... )
      >>> state = optimizer.init(jnp.zeros(3))
      >>> sorted(stabjax.metrics(state))
      ['clip/clip_fraction', 'clip/clipped', 'clip/grad_norm', 'clip/update_norm',
       'learning_rate']
    """
    found = _found(opt_state)
    if not found:
        _check_state(opt_state)
    places: dict[str, set[_Place]] = defaultdict(set)
    for metric in found:
        places[metric.owner].add(metric.place)
    shown = [_difference(metric.place, places[metric.owner]) for metric in found]
    names = [
        "/".join((*place, *map(unquote, metric.parts)))
        for place, metric in zip(shown, found, strict=True)
    ]
    # Names may coincide, for example for a leaf "a/b" and a leaf "b" in "a".
    for longer in (shown, [metric.place for metric in found]):
        count = Counter(names)
        names = [
            name if count[name] == 1 else "/".join((*place, *metric.parts))
            for name, place, metric in zip(names, longer, found, strict=True)
        ]
    collected = {name: metric.value for name, metric in zip(names, found, strict=True)}
    return dict(sorted(collected.items()))


def metric_key(*parts: str) -> str:
    """Returns the state key of a metric: its quoted parts, joined by colons.

    Checkpoint libraries that flatten states interpret slashes as nesting. The colon
    distinguishes metrics from model parameters in a module named `metrics`.
    """
    return ":".join(quote(part, safe="") for part in parts)


def _check_state(opt_state: optax.OptState) -> None:
    """Raises an error for optimizers and modules, which contain or are functions."""
    if any(
        callable(x) or isinstance(x, str)
        for x in [opt_state, *jax.tree.leaves(opt_state)]
    ):
        raise TypeError(
            "opt_state must be an optimizer state such as optimizer.init(params), got "
            f"{type(opt_state).__name__}."
        )


class _Metric(NamedTuple):
    """A metric found in a state."""

    place: _Place  # path of the containing state
    parts: tuple[str, ...]  # quoted
    value: jax.Array

    @property
    def owner(self) -> str:
        """Returns the name of the transformation or injected hyperparameter."""
        return unquote(self.parts[0])


def _found(opt_state: optax.OptState) -> list[_Metric]:
    """Finds all metrics of a state and the paths of their containing states."""
    leaves = list(zip(leaf_paths(opt_state), jax.tree.leaves(opt_state), strict=True))
    counts = {keys for keys, _ in leaves if keys and keys[-1] == "count"}
    found = []
    for keys, leaf in leaves:
        for depth, (field, key) in enumerate(itertools.pairwise(keys)):
            if field not in ("metrics", "hyperparams"):
                continue
            place, parts = keys[:depth], re.split("[:/]", key)
            if field == "metrics" and len(parts) > 1:
                parts += [quote(part, safe="") for part in keys[depth + 2 :]]
                found.append(_Metric(place, tuple(parts), leaf))
                break
            # Model modules may also be called `hyperparams` but have no count.
            if field == "hyperparams" and (*place, "count") in counts:
                found.append(_Metric(place, (quote(key, safe=""),), leaf))
                break
    return found


def _difference(place: _Place, places: set[_Place]) -> list[str]:
    """Returns the keys of a path at which another path differs or ends."""
    return [
        key
        for depth, key in enumerate(place)
        if any(
            other[:depth] == place[:depth] and other[: depth + 1] != place[: depth + 1]
            for other in places
        )
    ]
