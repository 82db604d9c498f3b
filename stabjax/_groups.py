"""A transformation for each group of parameters, by their paths."""

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
    """Applies a transformation of its own to each group of parameters.

    A thin layer over `optax.partition`, which labels parameters by their paths, such as
    `encoder/dense/kernel` or `layers/0/bias`, in any tree: nested dicts, Linen's trees,
    Flax NNX states, Equinox modules. So thresholds, schedules, and multipliers of the
    learning rate or the weight decay can differ by layer.

    Args:
      transformations: by the name of the group. In a chain, `optax.identity()` leaves a
        group as it is, and `optax.scale(0.1)` multiplies its learning rate.
      group_of: the name of the group by a pattern of the path, where the first pattern
        that matches decides (`*` stands for any text, slashes included), or a function
        from the path to the name. **Static.**

    Returns:
      A transformation with the state of `optax.partition`. Where groups have metrics of
      one name, `stabjax.metrics` puts the name of the group in front.

    Raises:
      TypeError: `transformations` holds something else, or `group_of` is neither a dict
        nor a function.
      ValueError: a parameter has no group or an unknown one, or a pattern matches no
        parameter; on `init` and `update`.

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
                    f"group_of must give one of {sorted(transformations)}, got "
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
                f"group_of must have patterns that match a parameter, got {pattern!r}; "
                f"the parameters are {', '.join(paths)}."
            )
    return groups
