"""Planning and evaluating programs in other orders of axes."""

import math
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import lax
from jax.extend import core

from stabjax._sweep.layouts.products import product
from stabjax._sweep.layouts.rules import RULES, Rule
from stabjax._sweep.layouts.steps import (
    Cost,
    Kind,
    Loop,
    Order,
    Step,
    distance,
    plain,
    rank_of,
    shape_of,
    unchanged,
)
from stabjax._train.jaxprs import programs

# Largest ratio of transposed elements to those that XLA transposes. It is 0.3 for the
# digits MLP, and 0.8 to 2.7 for recurrent, convolutional and attention networks.
_WORTH = 0.5
_ROUNDS = 4  # of searching for the orders of a loop's state, which takes 2 or 3
_TRIPS = 10  # assumed number of iterations of a `while`


class _Plan(NamedTuple):
    """How a program is evaluated, with its cost and main loop as in `Step`."""

    jaxpr: Any
    constants: Sequence[Any]
    kinds: dict[Any, Kind]  # of the variables
    steps: list[Step]
    cost: Cost
    loop: Loop

    @property
    def outputs(self) -> list[Kind]:
        """Returns the kinds of the outputs."""
        return [_kind(self.kinds, atom) for atom in self.jaxpr.outvars]


def over_trials(
    function: Callable[[dict[str, Any]], Any], on_cpu: bool
) -> Callable[[dict[str, Any], dict[str, Any]], Any]:
    """Applies `vmap` to a function of a trial.

    The result takes the values that all trials share and those of each trial.
    """

    def chunk(shared: dict[str, Any], own: dict[str, Any]) -> Any:
        trial = with_layouts(function, own) if on_cpu else function
        return jax.vmap(lambda s, o: trial({**s, **o}), (None, 0))(shared, own)

    return chunk


def with_layouts(
    function: Callable[[dict[str, Any]], Any], own: Collection[str]
) -> Callable[[dict[str, Any]], Any]:
    """Returns a function of a trial that is faster under `vmap` on CPUs.

    Args:
      function: a function of a dict of arrays.
      own: the names of the arrays that differ between trials.
    """

    def changed(values: dict[str, Any]) -> Any:
        closed, shapes = jax.make_jaxpr(function, return_shape=True)(values)
        try:
            found = _worthwhile(closed, values, own)
        except Exception:  # the parameters of operations depend on the version of JAX
            found = None
        if found is None:
            return function(values)
        return jax.tree.unflatten(jax.tree.structure(shapes), found)

    return changed


def _worthwhile(
    program: Any, values: dict[str, Any], own: Collection[str]
) -> list[Any] | None:
    """Evaluates a program in other orders of axes, or returns None if it is slower."""
    named = sorted(values.items())
    kinds = [Kind(plain(np.ndim(value)), name in own) for name, value in named]
    plan = _planned(program, kinds)
    # The number of steps, of records or of evaluations must not change the decision, so
    # that a rerun has the same bits.
    cost = plan.loop.cost if any(plan.loop.cost) else plan.cost
    if cost.moved >= _WORTH * cost.plain:
        return None
    orders = [plain(rank_of(atom)) for atom in plan.jaxpr.outvars]
    return _evaluated(plan, [value for _, value in named], orders)


def _planned(program: Any, kinds: Sequence[Kind]) -> _Plan:
    """Chooses the orders of all values of a program, given those of its inputs."""
    jaxpr = getattr(program, "jaxpr", program)
    constants = getattr(program, "consts", ())
    known = {v: Kind(plain(rank_of(v)), False) for v in jaxpr.constvars}
    known.update(zip(jaxpr.invars, kinds, strict=True))
    steps, cost, loop = list[Step](), Cost(), Loop()
    for equation in jaxpr.eqns:
        given = [_kind(known, atom) for atom in equation.invars]
        step = _step(equation, given)
        steps.append(step)
        known.update(zip(equation.outvars, step.outputs, strict=True))
        moved = distance(equation.invars, given, step.inputs)
        cost, loop = cost.plus(step.cost).plus(Cost(0, moved)), max(loop, step.loop)
    return _Plan(jaxpr, constants, known, steps, cost, loop)


def _kind(known: dict[Any, Kind], atom: Any) -> Kind:
    if isinstance(atom, core.Literal):
        return Kind(plain(rank_of(atom)), False)
    return known[atom]


def _step(equation: Any, kinds: list[Kind]) -> Step:
    rule = _RULES.get(equation.primitive.name)
    needed = not all(kind.is_plain for kind in kinds) or _reorders(equation)
    found = rule(equation, kinds) if rule and needed else None
    return unchanged(equation, kinds) if found is None else found


def _reorders(equation: Any) -> bool:
    if equation.primitive in (lax.dot_general_p, lax.transpose_p):
        return True
    inner = programs(equation.params)
    return any(_reorders(part) for jaxpr in inner for part in jaxpr.eqns)


def _evaluated(
    plan: _Plan, arrays: Sequence[Any], orders: Sequence[Order]
) -> list[Any]:
    """Evaluates a program and returns its outputs in the given orders."""
    known = dict(zip(plan.jaxpr.constvars, plan.constants, strict=True))
    known.update(zip(plan.jaxpr.invars, arrays, strict=True))

    def read(atom: Any, order: Order) -> Any:
        if isinstance(atom, core.Literal):
            aval: Any = atom.aval
            return np.asarray(atom.val, aval.dtype)
        old = plan.kinds[atom].order
        if old == order:
            return known[atom]
        return lax.transpose(known[atom], [old.index(axis) for axis in order])

    for equation, step in zip(plan.jaxpr.eqns, plan.steps, strict=True):
        values = [*map(read, equation.invars, step.inputs)]
        with equation.ctx.manager:  # such as the implementation of random bits
            found = step.apply(values)
        known.update(zip(equation.outvars, found, strict=True))
    return [*map(read, plan.jaxpr.outvars, orders)]


def _called(equation: Any, kinds: list[Kind]) -> Step | None:
    found = [equation.params.get(name) for name in ("jaxpr", "call_jaxpr")]
    (program,) = (part for part in found if part is not None)
    plan = _planned(program, kinds)
    orders = [kind.order for kind in plan.outputs]
    return Step(
        [kind.order for kind in kinds],
        plan.outputs,
        lambda values: _evaluated(plan, values, orders),
        plan.cost,
        plan.loop,
    )


def _settled(
    program: Any, fixed: list[Kind], start: list[Kind], slices: list[Kind]
) -> tuple[_Plan, list[Kind]] | None:
    """Plans the body of a loop, such that the state has the same kinds after it.

    The body takes constants, the state and slices of arrays, and returns the state
    first. If no kinds are found, the result is None.
    """
    state = start
    for _ in range(_ROUNDS):
        plan = _planned(program, [*fixed, *state, *slices])
        outputs = plan.outputs[: len(state)]
        new = [
            Kind(after.order, after.own or before.own)
            for after, before in zip(outputs, state, strict=True)
        ]
        if new == state:
            return plan, state
        state = new
    return None


def _loop(body: _Plan, state: Sequence[Any]) -> Loop:
    """Returns the loop, or the one in its body that iterates the same state.

    Training steps are in such an inner loop if they are recorded or evaluated.
    """
    shapes = tuple(map(shape_of, state))
    own = Loop(sum(map(math.prod, shapes)), body.cost, shapes)
    if any(body.loop.cost) and own.holds_state_of(body.loop):
        return body.loop
    return own if any(body.cost) else Loop()


def _scanned(equation: Any, kinds: list[Kind]) -> Step | None:
    params, sizes = equation.params, _sizes(equation.params)
    if sizes is None:
        return None
    begin, count = sizes
    end = begin + count
    slices = [Kind(_inner(kind.order), kind.own) for kind in kinds[end:]]
    found = _settled(params["jaxpr"], kinds[:begin], kinds[begin:end], slices)
    if found is None:
        return None
    plan, state = found
    orders = [kind.order for kind in plan.outputs]

    def apply(values: list[Any]) -> Sequence[Any]:
        def body(state: list[Any], elements: list[Any]) -> tuple[list[Any], list[Any]]:
            inputs = [*values[:begin], *state, *elements]
            outputs = _evaluated(plan, inputs, orders)
            return outputs[:count], outputs[count:]

        given = {name: params[name] for name in ("length", "reverse", "unroll")}
        last, stacked = lax.scan(body, values[begin:end], values[end:], **given)
        return [*last, *stacked]

    arrays = [_outer(kind.order) for kind in slices]
    stacked = [Kind(_outer(kind.order), kind.own) for kind in plan.outputs[count:]]
    return Step(
        [*(kind.order for kind in (*kinds[:begin], *state)), *arrays],
        [*state, *stacked],
        apply,
        plan.cost.times(params["length"]),
        _loop(plan, equation.invars[begin:end]),
    )


def _sizes(params: dict[str, Any]) -> tuple[int, int] | None:
    """Returns the number of constants and the number of arrays in a scan's state."""
    if "num_carry" in params:
        return params["num_consts"], params["num_carry"]
    if "ft_in" in params:  # JAX 0.11 and later
        constants, state, _ = params["ft_in"].unpack()
        return len(constants), len(state)
    return None


def _inner(order: Order) -> Order:
    """Returns the order without the first original axis."""
    return tuple(axis - 1 for axis in order if axis > 0)


def _outer(order: Order) -> Order:
    """Returns the order with a new first axis."""
    return (0, *(axis + 1 for axis in order))


def _repeated(equation: Any, kinds: list[Kind]) -> Step | None:
    params = equation.params
    begin = params["cond_nconsts"]
    end = begin + params["body_nconsts"]
    found = _settled(params["body_jaxpr"], kinds[begin:end], kinds[end:], [])
    if found is None:
        return None
    plan, state = found
    condition = _planned(params["cond_jaxpr"], [*kinds[:begin], *state])
    orders = [kind.order for kind in state]

    def apply(values: list[Any]) -> Sequence[Any]:
        def goes_on(state: list[Any]) -> Any:
            return _evaluated(condition, [*values[:begin], *state], [()])[0]

        def body(state: list[Any]) -> list[Any]:
            return _evaluated(plan, [*values[begin:end], *state], orders)

        final: list[Any] = lax.while_loop(goes_on, body, values[end:])
        return final

    return Step(
        [*(kind.order for kind in kinds[:end]), *orders],
        state,
        apply,
        plan.cost.times(_TRIPS),
        _loop(plan, equation.invars[end:]),
    )


def _branched(equation: Any, kinds: list[Kind]) -> Step | None:
    if [*equation.params] != ["branches"]:  # such as a choice of the platform
        return None
    plans = [_planned(branch, kinds[1:]) for branch in equation.params["branches"]]
    outputs = [
        Kind(found[0].order, kinds[0].own or any(kind.own for kind in found))
        for found in zip(*(plan.outputs for plan in plans), strict=True)
    ]
    orders = [kind.order for kind in outputs]

    def apply(values: list[Any]) -> Sequence[Any]:
        def branch(plan: _Plan) -> Callable[..., list[Any]]:
            return lambda *inputs: _evaluated(plan, inputs, orders)

        chosen: list[Any] = lax.switch(values[0], [*map(branch, plans)], *values[1:])
        return chosen

    return Step(
        [kind.order for kind in kinds],
        outputs,
        apply,
        max(plan.cost for plan in plans),
        max(plan.loop for plan in plans),
    )


_RULES: dict[str, Rule] = {
    **RULES,
    **dict.fromkeys(("closed_call", "custom_jvp_call", "jit", "pjit"), _called),
    "cond": _branched,
    "dot_general": product,
    "scan": _scanned,
    "while": _repeated,
}
