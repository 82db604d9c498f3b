"""Planning a sweep, which traces the programs without compiling them."""

import contextlib
import functools
import hashlib
import inspect
import math
import os
import tokenize
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import jax
import numpy as np
import optax

import stabjax
from stabjax._sweep.axes import OF_WHAT_WAS_TRAINED
from stabjax._sweep.chunk_width import auto_width, lanes_width
from stabjax._sweep.compiler import jax_config, no_mesh
from stabjax._sweep.factories import name_of, route
from stabjax._sweep.place import Place, place_of
from stabjax._sweep.plan import Group, Plan, check_trials_fit, widths
from stabjax._sweep.program import STATE, Program
from stabjax._sweep.program_cache import Memory
from stabjax._sweep.sanity import random_state_watched
from stabjax._sweep.settings import Settings
from stabjax._sweep.space import Space
from stabjax._sweep.spec_json import (
    differences,
    group_like,
    ordered,
    to_text,
    versions,
    with_accepted,
)
from stabjax._sweep.tracing import explained
from stabjax._train.problem import is_problem

_version = functools.cache(version)  # reads a file, which takes 1 ms


def planned(
    problem: Any,
    make_optimizer: Callable[..., optax.GradientTransformation],
    space: Space,
    settings: Settings,
    chunk_size: int | None,
    place: Place,
) -> tuple[Plan, list[Program]]:
    """Traces a trial of each program and returns the plan and the programs.

    Raises:
      ValueError: If the store contains another sweep.
    """
    check_trials_fit(space)
    factories = route(problem, make_optimizer, [axis.name for axis in space.axes])
    store = place.store
    held = store.plan() if store else None
    try:
        kept, sizes, order = ordered(space, held)
    except LookupError as error:
        raise (store.refused([str(error)]) if store else error) from error
    numbers = kept.numbers()
    dtypes = {name: values.dtype for name, values in numbers.items()}
    programs, groups = [], []
    memory = Memory([*factories.functions(), *settings.functions()])
    for statics, trials in kept.groups():
        program = Program(factories, statics, dtypes, settings, memory)
        # A function that returns the problem may draw its data at random.
        watched = is_problem(problem)
        try:
            draws = random_state_watched(memory.generators)
            with draws if watched else contextlib.nullcontext():
                program.shapes()
        except Exception as error:
            raise explained(error, program, numbers) from error.__cause__ or error
        programs.append(program)
        groups.append(_group(program, kept, trials, held, chunk_size, place))
    _check_names(space, groups, settings)
    about = {
        **_about(problem, make_optimizer, place),
        "optimizer_takes": ", ".join(factories.optimizer_axes),
    }
    if maximized := sorted({name for p in programs for name in p.maximize()}):
        about["maximize"] = ", ".join(maximized)
    numerics = _numerics(place.devices[0])
    plan = Plan(kept, sizes, order, settings, tuple(groups), numerics, about)
    if store and held:
        plan = _like_the_stored(plan, held, place)
    return plan, programs


def _like_the_stored(plan: Plan, held: Plan, place: Place) -> Plan:
    """Checks that a plan matches the stored one, and accepts the stored results."""
    if place.store and (found := list(differences(held, plan, place.accept_versions))):
        hint = "Pass accept_versions=True to keep the stored results alongside new "
        hint += "ones (the last bits may differ). "
        upgraded = versions(held) != versions(plan)
        raise place.store.refused(found, hint if upgraded else "")
    groups = [
        with_accepted(group, known) if known else group
        for group in plan.groups
        for known in [group_like(held, group.labels)]
    ]
    about = dict(plan.about)
    if earlier := held.about.get("earlier_versions"):
        about["earlier_versions"] = earlier
    if any(group.accepted for group in groups) and versions(held) != versions(plan):
        shown = ", ".join(f"{n} {v}" for n, v in versions(held).items())
        known = [shown, *filter(None, [about.get("earlier_versions")])]
        about["earlier_versions"] = "; ".join(dict.fromkeys(known))
    return replace(plan, groups=tuple(groups), about=about)


def fingerprint(
    problem: Any,
    make_optimizer: Callable[..., optax.GradientTransformation],
    space: Space,
    *,
    steps: int,
    record_every: int | None = None,
) -> str:
    """Returns a SHA-256 hash of everything that the results depend on."""
    here = place_of(None, None, None, (0, 1), False)
    settings = Settings(int(steps), record_every)
    with no_mesh():
        plan, programs = planned(problem, make_optimizer, space, settings, None, here)
        groups = tuple(
            group._replace(program=program.fingerprint(*group.chunk))
            for program, group in zip(programs, plan.groups, strict=True)
        )
    text = to_text(replace(plan, groups=groups, about={}))
    return hashlib.sha256(text.encode()).hexdigest()


def labels_of(space: Space, trial: int) -> dict[str, str]:
    """Returns the labels of the static values of a trial, keyed by axis."""
    return {
        axis.name: str(axis.labels[space.rows[axis.name][trial]])
        for axis in space.axes
        if axis.is_static
    }


def _group(
    program: Program,
    space: Space,
    trials: np.ndarray[Any, Any],
    held: Plan | None,
    chunk_size: int | None,
    place: Place,
) -> Group:
    """Returns the group of a program, with the chunk width of the store if present.

    The chunk width must not change because it affects rounding.
    """
    labels, variables = labels_of(space, int(trials[0])), program.shapes()[2]
    # Other settings may need another engine, and the store rejects them anyway.
    settings = program.settings
    same = held is not None and held.settings.as_data() == settings.as_data()
    known = group_like(held, labels) if held and same else None
    if known and place.store and chunk_size not in (None, known.width):
        reason = f"chunk_size is {known.width} in the store and {chunk_size} here"
        raise place.store.refused([reason])
    if known:
        width, shared_seed, engine = known.width, known.shared_seed, known.engine
    else:
        width, shared_seed, engine = _width(program, space, trials, chunk_size, place)
    group = Group(labels, width, shared_seed, variables, engine=engine)
    if place.store or place.executor:
        group = group._replace(program=program.fingerprint(*group.chunk))
    return group


def _width(
    program: Program,
    space: Space,
    trials: np.ndarray[Any, Any],
    chunk_size: int | None,
    place: Place,
) -> tuple[int, bool, str]:
    """Returns the chunk width, whether trials share a seed in a chunk, and the engine.

    Lanes are wide, so a chunk contains several seeds if possible.
    """
    device, devices = place.devices[0], len(place.devices)
    parameters, memory, _ = program.shapes()
    auto = auto_width(parameters, device, memory)
    settings = program.settings
    width = chunk_size or lanes_width(len(trials), settings.steps, device, devices)
    if program.engine(width, False, device) == "lanes":
        return width, False, "lanes"
    if settings.rungs:
        # Small enough that the points that survive all rungs still fill a chunk.
        reduction = (settings.eta or 1.0) ** (len(settings.rungs) - 1)
        width = chunk_size or min(auto, math.ceil(len(trials) / reduction))
        return width, False, "vmap"
    width, shared = widths(space, trials, chunk_size, auto)
    return width, shared, program.engine(width, shared, device)


def _check_names(space: Space, groups: Sequence[Group], settings: Settings) -> None:
    axes = {
        "step",
        "evaluated_at",
        "trial",
        "seed",
        *(axis.name for axis in space.axes),
    }
    given = {n for g in groups for n in g.variables if not n.startswith(STATE)}
    for name in given & axes:
        raise ValueError(
            f"{name!r} is the name of both an axis or dimension and a metric or entry "
            f"of problem.evaluate. Rename one of them."
        )
    known = sorted(given - {*OF_WHAT_WAS_TRAINED})
    if settings.rungs and settings.compared_by not in known:
        raise ValueError(
            f"variable must be one of {', '.join(known)}, got {settings.compared_by!r}."
        )


def _numerics(device: jax.Device) -> dict[str, Any]:
    """Returns the versions and settings that affect rounding."""
    versions = {"jax": jax.__version__, "jaxlib": _version("jaxlib")}
    config = {n: v for n, v in jax_config().items() if "promotion" not in n}
    harmless = ("--xla_force_host_platform_device_count", "--xla_dump")
    flags = os.environ.get("XLA_FLAGS", "").split()
    config["XLA_FLAGS"] = " ".join(f for f in flags if not f.startswith(harmless))
    return {**versions, "platform": device.platform, **config}


def _about(problem: Any, make_optimizer: Any, place: Place) -> dict[str, Any]:
    about: dict[str, Any] = {
        "problem": name_of(problem),
        "optimizer": name_of(make_optimizer),
        "device": place.devices[0].device_kind,
        "stabjax": stabjax.__version__,
        "optax": optax.__version__,
    }
    if place.store:
        sources = {"make_optimizer": make_optimizer, "problem": problem}
        if is_problem(problem):
            sources["problem"] = problem.loss
        about["source"] = {role: _source(made) for role, made in sources.items()}
    return about


def _source(function: Any) -> str | None:
    try:
        return inspect.getsource(getattr(function, "func", function))
    # The function was typed interactively, is not written in Python, or its file has
    # changed since it was imported.
    except (OSError, TypeError, SyntaxError, tokenize.TokenError):
        return None
