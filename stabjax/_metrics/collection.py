"""Collects the metrics of a nested state under distinct names."""

import itertools
import re
from collections import Counter, defaultdict
from typing import NamedTuple, TypeAlias
from urllib.parse import quote, unquote

import jax
import optax

from stabjax._paths import leaf_paths

_Place: TypeAlias = tuple[str, ...]  # keys from the root of a state


def metrics(opt_state: optax.OptState) -> dict[str, jax.Array]:
    """Collects the metrics that an optimizer's state holds about the last update.

    These are the elements of every field `metrics`, which `stabjax.with_metrics` and
    all transformations of this library with a state have, and the current values of
    `optax.inject_hyperparams` under their own names. States may be nested: in
    `optax.chain`, `masked`, `partition`, `MultiSteps`, or in the forms that Flax NNX
    gives them.

    A name is that of the transformation and of the metric: `zclip/grad_norm`. Where
    several transformations have one name, their places stand in front, as far as they
    differ: the position in `optax.chain`, the name in `optax.named_chain`, the label in
    `optax.partition`, or the field of a state that wraps another. Two `zclip` in a
    chain are `0/zclip/grad_norm` and `2/zclip/grad_norm`; around another guard of its
    kind, a guard keeps its name, and the inner one has `inner_state` in front.

    A state of your own takes part with a field `metrics` that is a dict with keys
    `name:metric`. No key has a slash, so that flat checkpoints restore.

    Args:
      opt_state: the state of any optimizer; arrays or tracers.

    Returns:
      A flat dict, sorted by name; the values are scalars (arrays of the batch's shape
      if the state was batched by `vmap`).

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
    places: dict[str, set[_Place]] = defaultdict(set)
    for metric in found:
        places[metric.owner].add(metric.place)
    shown = [_difference(metric.place, places[metric.owner]) for metric in found]
    names = [
        "/".join((*place, *map(unquote, metric.parts)))
        for place, metric in zip(shown, found, strict=True)
    ]
    # Two leaves, "a/b" and "b" in "a", or a name that reads like another's place.
    for longer in (shown, [metric.place for metric in found]):
        count = Counter(names)
        names = [
            name if count[name] == 1 else "/".join((*place, *metric.parts))
            for name, place, metric in zip(names, longer, found, strict=True)
        ]
    collected = {name: metric.value for name, metric in zip(names, found, strict=True)}
    return dict(sorted(collected.items()))


def metric_key(*parts: str) -> str:
    """The key of a metric in a state: its parts, quoted, between colons.

    Checkpoint libraries that flatten a state take a slash for a level. The colon marks
    the key of a metric, since a model may have a module called `metrics`.
    """
    return ":".join(quote(part, safe="") for part in parts)


class _Metric(NamedTuple):
    """A metric as it was found in a state."""

    place: _Place  # of the state that holds it
    parts: tuple[str, ...]  # quoted
    value: jax.Array

    @property
    def owner(self) -> str:
        """The name of the transformation, or of an injected hyperparameter."""
        return unquote(self.parts[0])


def _found(opt_state: optax.OptState) -> list[_Metric]:
    """All metrics of a state, with the places of the states that hold them."""
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
            # A module of a model may have that name too, but has no count beside it.
            if field == "hyperparams" and (*place, "count") in counts:
                found.append(_Metric(place, (quote(key, safe=""),), leaf))
                break
    return found


def _difference(place: _Place, places: set[_Place]) -> list[str]:
    """The keys of a place at which another one takes a different way, or ends."""
    return [
        key
        for depth, key in enumerate(place)
        if any(
            other[:depth] == place[:depth] and other[: depth + 1] != place[: depth + 1]
            for other in places
        )
    ]
