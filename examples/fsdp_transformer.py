"""Trains a transformer on eight devices with sharded weights and checkpoints.

The mesh is explicit. The batch and the weights are sharded over the axis `fsdp`, and
attention heads and hidden units are sharded over the axis `tensor`. Parameters are
stored in float32 and cast to bfloat16 for computation. Gradients are accumulated over
two microbatches. The optimizer uses clipping, a schedule with warmup, a guard that
skips NaN steps, and metrics. Its state is sharded like the parameters. A run that is
resumed from a checkpoint gives the same losses as an uninterrupted run.

    python examples/fsdp_transformer.py            # eight virtual CPU devices
    python examples/fsdp_transformer.py --devices 1
"""

import argparse
import os
import pathlib
import tempfile

VOCABULARY, WIDTH, HEADS, HIDDEN, LAYERS = 32, 32, 4, 64, 2
BATCH, LENGTH, MICROBATCHES = 16, 24, 2


def parsed(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--devices", type=int, default=8, choices=(1, 8))
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--stop", type=int, default=30, help="stop and resume here")
    return parser.parse_args(arguments)


if __name__ == "__main__":  # must run before JAX is imported
    os.environ.setdefault(
        "XLA_FLAGS", f"--xla_force_host_platform_device_count={parsed().devices}"
    )

import jax
import jax.numpy as jnp
import optax
import orbax.checkpoint as ocp
from flax import nnx
from jax.sharding import AxisType, reshard
from jax.sharding import PartitionSpec as P

import stabjax


def mesh_of(devices):
    shape = (4, 2) if devices == 8 else (1, 1)
    return jax.make_mesh(
        shape,
        ("fsdp", "tensor"),
        axis_types=(AxisType.Explicit,) * 2,
        devices=jax.devices()[:devices],
    )


# The shape of each weight, its stored sharding, and its sharding during computation,
# where it is gathered over `fsdp`.
BLOCK = {
    "qkv": ((WIDTH, 3, HEADS, WIDTH // HEADS), P("fsdp", None, "tensor", None)),
    "out": ((HEADS, WIDTH // HEADS, WIDTH), P("tensor", None, "fsdp")),
    "up": ((WIDTH, HIDDEN), P("fsdp", "tensor")),
    "down": ((HIDDEN, WIDTH), P("tensor", "fsdp")),
}


def gathered(weight, spec):
    """Casts a weight to bfloat16 and replicates it over `fsdp` for computation."""
    used = P(*(None if axis == "fsdp" else axis for axis in spec))
    return reshard(weight[...].astype(jnp.bfloat16), used)


def drawn(rngs, shape, spec, fan_in):
    key = rngs.params()
    noise = jax.random.normal(key, shape, jnp.float32, out_sharding=spec)
    return nnx.Param(noise / fan_in**0.5)


def normalized(x):
    wide = x.astype(jnp.float32)
    scale = jax.lax.rsqrt(jnp.mean(wide**2, axis=-1, keepdims=True) + 1e-6)
    return (wide * scale).astype(x.dtype)


class Block(nnx.Module):
    def __init__(self, rngs):
        for name, (shape, spec) in BLOCK.items():
            fan_in = HIDDEN if name == "down" else WIDTH
            setattr(self, name, drawn(rngs, shape, spec, fan_in))

    def __call__(self, x):
        weights = {n: gathered(getattr(self, n), s) for n, (_, s) in BLOCK.items()}
        activations = P("fsdp", None, None)
        q, k, v = jnp.moveaxis(
            jnp.einsum("btd,dchk->btchk", normalized(x), weights["qkv"]), 2, 0
        )
        scores = jnp.einsum("bthk,bshk->bhts", q, k) / q.shape[-1] ** 0.5
        past = jnp.tril(jnp.ones((LENGTH, LENGTH), bool))
        scores = jnp.where(past, scores.astype(jnp.float32), -jnp.inf)
        mixed = jnp.einsum("bhts,bshk->bthk", nnx.softmax(scores).astype(x.dtype), v)
        x += jnp.einsum(
            "bthk,hkd->btd", mixed, weights["out"], out_sharding=activations
        )
        hidden = nnx.gelu(jnp.einsum("btd,df->btf", normalized(x), weights["up"]))
        return x + jnp.einsum(
            "btf,fd->btd", hidden, weights["down"], out_sharding=activations
        )


class Transformer(nnx.Module):
    def __init__(self, rngs):
        spec = P("fsdp", None)
        self.tokens = drawn(rngs, (VOCABULARY, WIDTH), spec, WIDTH)
        self.places = drawn(rngs, (LENGTH, WIDTH), spec, WIDTH)
        self.blocks = nnx.List([Block(rngs) for _ in range(LAYERS)])

    def __call__(self, tokens):
        table = gathered(self.tokens, P("fsdp", None))
        x = table.at[tokens].get(out_sharding=P("fsdp", None, None))
        x += gathered(self.places, P("fsdp", None))
        for block in self.blocks:
            x = block(x)
        return jnp.einsum("btd,vd->btv", normalized(x), table).astype(jnp.float32)


def make_optimizer(steps):
    rate = stabjax.warmup_cosine_decay_schedule(0.0, 1e-2, 5, steps // MICROBATCHES)
    chain = optax.chain(
        stabjax.with_metrics(stabjax.clip_by_global_norm(1.0), name="clip"),
        stabjax.with_learning_rate(optax.adamw, rate, weight_decay=1e-3),
    )
    # The guard wraps the accumulation. Inside it, a NaN would remain in the accumulated
    # gradient.
    accumulated = optax.MultiSteps(chain, MICROBATCHES).gradient_transformation()
    return stabjax.skip_if_nonfinite(accumulated)


def batch_of(step):
    """Returns sequences that increase by one, two or three from a random token."""
    first, stride = jax.random.split(jax.random.fold_in(jax.random.key(1), step))
    first = jax.random.randint(first, (BATCH, 1), 0, VOCABULARY)
    stride = jax.random.randint(stride, (BATCH, 1), 1, 4)
    tokens = (first + stride * jnp.arange(LENGTH)) % VOCABULARY
    return reshard(tokens, P("fsdp", None))


def build(steps):
    graph, params = nnx.split(Transformer(nnx.Rngs(0)))
    optimizer = make_optimizer(steps)

    def loss(params, tokens):
        logits = nnx.merge(graph, params)(tokens)[:, :-1]
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:])
        return losses.mean()

    @jax.jit
    def train_step(params, opt_state, tokens):
        value, grads = jax.value_and_grad(loss)(params, tokens)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, value

    return params, optimizer, train_step


def train(train_step, params, opt_state, start, stop):
    losses = []
    for step in range(start, stop):
        params, opt_state, value = train_step(params, opt_state, batch_of(step))
        losses.append(float(value))
        if step % 10 == 9:
            seen = stabjax.metrics(opt_state)
            print(
                f"step {step + 1:3}: loss {value:.3f}, "
                f"gradient norm {seen['clip/grad_norm']:.2f}, "
                f"clipped {seen['clip/clip_fraction']:.0%}, "
                f"learning rate {seen['learning_rate']:.4f}"
            )
    return params, opt_state, losses


def main(arguments=None):
    options = parsed(arguments)
    with jax.set_mesh(mesh_of(options.devices)):
        params, optimizer, train_step = build(options.steps)
        types = jax.tree.map(jax.typeof, params)
        opt_state = jax.jit(optimizer.init)(params)
        held = [leaf for leaf in jax.tree.leaves(opt_state) if leaf.ndim]
        share = sum(leaf.addressable_shards[0].data.nbytes for leaf in held)
        total = sum(leaf.nbytes for leaf in held)
        print(f"optimizer state: {share} bytes per device, {total} in total")

        params, opt_state, losses = train(
            train_step, params, opt_state, 0, options.stop
        )
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "checkpoint"
            saved = {"params": nnx.to_pure_dict(params), "opt_state": opt_state}
            with ocp.StandardCheckpointer() as checkpointer:
                checkpointer.save(path, saved)
                checkpointer.wait_until_finished()
                # Passes only shapes and shardings, to avoid a second copy.
                shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, saved)
                restored = checkpointer.restore(path, shapes)
        nnx.replace_by_pure_dict(params, restored["params"])
        assert jax.tree.map(jax.typeof, params) == types  # the sharding is preserved
        more = train(
            train_step, params, restored["opt_state"], options.stop, options.steps
        )[2]
    print(f"initial loss {losses[0]:.3f}, final loss {more[-1]:.3f}")
    return losses + more


if __name__ == "__main__":
    main()
