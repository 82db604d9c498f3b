"""Different transformations for different parameter groups, selected by path."""

from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase

import jax
import optax

from stabjax._metrics import check_transformation
from stabjax._paths import leaf_name, leaf_paths


def by_group(
    transformations: Mapping[str, optax.GradientTransformation],
    group_of: Mapping[str, str] | Callable[[str], str],
) -> optax.GradientTransformationExtraArgs:
    """Applies a different transformation to each parameter group.

    A thin wrapper around `optax.partition` that labels parameters by path, such as
    `encoder/dense/kernel` or `layers/0/bias`. It supports nested dicts, Linen
    variables, Flax NNX states and Equinox modules. Use it to vary thresholds,
    schedules, learning-rate multipliers or weight decay across layers.

    Args:
      transformations: dict of group names to transformations. In a chain,
        `optax.identity()` leaves a group unchanged and `optax.scale(0.1)` multiplies
        its learning rate.
      group_of: a dict of path patterns to group names, or a function from path to group
        name. The first matching pattern is used, and `*` matches any text, including
        slashes. **Static.**

    Returns:
      A transformation with the state of `optax.partition`. If several groups report
      metrics with the same name, `stabjax.metrics` prefixes them with the group name.

    Raises:
      TypeError: If `transformations` contains other objects, or `group_of` is neither a
        dict nor a function.
      ValueError: If a parameter has no group or an unknown group, or if a pattern
        matches no parameter. Raised by `init` and `update`.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import stabjax
      >>> clip = stabjax.by_group(
      ...     {
      ...         "head": stabjax.clip_by_global_norm(0.1),
      ...         "body": stabjax.clip_by_global_norm(1.0),
      ...     },
      ...     {"head/*": "head", "*": "body"},
      ... )
      >>> grads = {"head": {"w": jnp.array(5.0)}, "dense": {"w": jnp.array(5.0)}}
      >>> updates, _ = clip.update(grads, clip.init(grads))
      >>> {name: round(float(layer["w"]), 3) for name, layer in updates.items()}
      {'dense': 1.0, 'head': 0.1}
    """
    if not isinstance(transformations, Mapping):
        raise TypeError(f"transformations must be a dict, got {transformations!r}.")
    for name, transformation in transformations.items():
        check_transformation(f"transformations[{name!r}]", transformation)
    if not isinstance(group_of, Mapping) and not callable(group_of):
        raise TypeError(f"group_of must be a dict or a function, got {group_of!r}.")

    def labels(tree: optax.Params) -> optax.Params:
        paths = [leaf_name(path) for path in leaf_paths(tree)]
        if isinstance(group_of, Mapping):
            groups = _by_pattern(group_of, paths)
        else:
            groups = [group_of(path) for path in paths]
        for path, group in zip(paths, groups, strict=True):
            if group not in transformations:
                raise ValueError(
                    f"group_of must return one of {sorted(transformations)}, got "
                    f"{group!r} for {path!r}."
                )
        return jax.tree.unflatten(jax.tree.structure(tree), groups)

    return optax.with_extra_args_support(optax.partition(transformations, labels))


def _by_pattern(patterns: Mapping[str, str], paths: list[str]) -> list[str | None]:
    groups = []
    for path in paths:
        matches = (name for p, name in patterns.items() if fnmatchcase(path, p))
        groups.append(next(matches, None))
    for pattern in patterns:
        if paths and not any(fnmatchcase(path, pattern) for path in paths):
            raise ValueError(
                f"group_of must have patterns that match a parameter, got {pattern!r}. "
                f"The parameters are {', '.join(paths)}."
            )
    return groups
