"""Laws 14 and 17 over meshes: the same losses and gradients on any, shrinking state, collectives as theory has them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P
from problem import equal

from configs import digits
from experiment import abstract_batch, build
from tools import hlo
from training import flops, optim, sharding
from training.checkpoint import Checkpoints

MESHES = {
    "one device": {"data": 1, "fsdp": 1, "tensor": 1},
    "data": {"data": 8, "fsdp": 1, "tensor": 1},
    "fsdp": {"data": 2, "fsdp": 4, "tensor": 1},
    "tensor": {"data": 2, "fsdp": 2, "tensor": 2},
}


def config(**mesh):
    made = digits.get_config("tiny")
    made.model.update(channels=32, multipliers=(1,), blocks=1, attention=(), groups=4, num_heads=2)
    made.train.batch_size = 16
    made.mesh.update(mesh)
    return made


class Run:
    """The real train step, compiled once for a mesh, and one step of it from the same state."""

    def __init__(self, name, start=None):
        sizes = MESHES[name]
        devices = jax.devices()[: np.prod(list(sizes.values()))]
        self.experiment = build(config(**sizes), sharding.make_mesh(sizes, devices))
        self.start = self.experiment.init() if start is None else self.put(start)
        batch = next(self.experiment.batches(0))
        self.program = self.experiment.train_step.lower(self.start, None, batch).compile()
        self.state, self.sums = self.program(self.put(self.start), None, batch)  # a copy: the step donates its state
        self.gradient = self.state.opt_state[1][0].mu  # 0.1 times the clipped gradient: Adam's first step

    def put(self, state):
        shardings = jax.tree.map(lambda x: x.sharding, self.experiment.abstract)
        return jax.tree.map(jnp.copy, jax.device_put(jax.device_get(state), shardings))


@pytest.fixture(scope="module")
def runs():
    first = Run("fsdp")
    return {"fsdp": first} | {name: Run(name, first.start) for name in MESHES if name != "fsdp"}


@pytest.mark.parametrize("name", ["data", "fsdp", "tensor"])
def test_losses_and_gradients_are_those_of_one_device_to_rounding(runs, name):
    one, many = runs["one device"], runs[name]
    assert many.experiment.mesh.size == 8
    for metric in ("loss", "trivial_loss", "gradient_norm"):
        np.testing.assert_allclose(many.sums[metric][0], one.sums[metric][0], rtol=2e-6)
    largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(one.gradient))
    for own, other in zip(*map(jax.tree.leaves, (one.gradient, many.gradient)), strict=True):
        np.testing.assert_allclose(own, other, atol=2e-6 * largest)


def test_the_first_state_is_made_in_parts_and_is_the_same_on_every_mesh(runs):
    run = runs["fsdp"]
    for leaf, planned in zip(jax.tree.leaves(run.start), jax.tree.leaves(run.experiment.abstract), strict=True):
        assert leaf.sharding == planned.sharding
    assert equal(run.start, runs["one device"].experiment.init())
    assert len({shard.data.shape for shard in run.start.params["up_8_0"]["conv_1"]["kernel"].addressable_shards}) == 1


def test_what_a_step_leaves_lies_where_it_lay(runs):
    for run in runs.values():
        for leaf, planned in zip(jax.tree.leaves(run.state), jax.tree.leaves(run.experiment.abstract), strict=True):
            assert leaf.sharding.is_equivalent_to(planned.sharding, leaf.ndim)


def test_fsdp_moves_what_theory_says(runs):
    """Split parameters are gathered forward and backward, gradients summed once over all devices, and nothing else."""
    run = runs["fsdp"]
    size = {name: leaf.nbytes for name, leaf in sharding.named_leaves(run.start.params).items()}
    split = {name for name, leaf in sharding.named_leaves(run.experiment.abstract.params).items()
             if "fsdp" in leaf.sharding.spec}  # fmt: skip
    parts = sum(size[name] for name in split)
    whole = sum(size.values()) - parts
    assert parts > 10 * whole
    # The sinusoid before time_1 has no parameters: no gradient goes there, so its kernel is not needed backward.
    moved = hlo.collective_bytes(hlo.parse(run.program.as_text()))
    assert moved.keys() == {"all-gather", "all-reduce"}
    assert moved["all-gather"]["bytes"] == 2 * parts - size["time_1/kernel"]
    # A CPU has no reduce-scatter: whole gradients are summed over fsdp, and their quarters over data.
    metrics = sum(np.asarray(x).nbytes for x in jax.tree.leaves(run.sums))
    assert parts + parts / 4 + whole <= moved["all-reduce"]["bytes"] <= parts + parts / 4 + whole + 4 * metrics
    alone = hlo.collective_bytes(hlo.parse(runs["data"].program.as_text()))
    assert alone.keys() == {"all-reduce"}
    assert parts + whole <= alone["all-reduce"]["bytes"] <= parts + whole + 4 * metrics


@pytest.mark.parametrize("remat", ["none", "dots", "blocks"])
def test_what_remat_repeats_is_the_same_under_fsdp(remat):
    def operations(fsdp):
        made = config(data=1, fsdp=fsdp)
        made.model.remat = remat
        built = build(made, sharding.abstract_mesh(made.mesh.to_dict(), fsdp))
        batch = abstract_batch(made, built.mesh, 16)
        return flops.count(jax.make_jaxpr(built.train_step)(built.abstract, None, batch))

    assert operations(4) == operations(1)


def test_what_fsdp_keeps_for_the_backward_pass_is_of_the_networks_type():
    """A float32 copy of a bfloat16 network's images, as a norm makes, would be twice the convolution's result."""
    made = config(data=1, fsdp=4)
    made.model.dtype = "bfloat16"
    built = build(made, sharding.abstract_mesh(made.mesh.to_dict(), 4))
    jaxpr = jax.make_jaxpr(built.train_step)(built.abstract, None, abstract_batch(made, built.mesh, 16))
    (backward,) = (e for e in equations(jaxpr.jaxpr) if e.primitive.name == "remat2" and e.params["differentiated"])
    images = [v.aval for v in backward.invars if v.aval.ndim == 4 and v.aval.shape[0] == 16 and v.aval.shape[-1] > 2]
    assert len(images) > 5 and {str(image.dtype) for image in images} == {"bfloat16"}


def equations(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for inside in flops.programs(equation.params.values()):
            yield from equations(getattr(inside, "jaxpr", inside))


@pytest.mark.parametrize("name", ["adam", "adafactor"])
@pytest.mark.parametrize("fsdp", [2, 4, 8])
def test_what_a_chip_holds_shrinks_with_the_chips(name, fsdp):
    made = config()
    made.optim.name = name
    state = build(made, sharding.abstract_mesh(made.mesh.to_dict(), 1)).abstract
    mesh = sharding.abstract_mesh({"data": 1, "fsdp": fsdp, "tensor": 1}, fsdp)
    many = sharding.laid_out(state, sharding.layout(mesh, state, state.params))
    split = [leaf for leaf in jax.tree.leaves(many) if "fsdp" in leaf.sharding.spec]
    total, parts = sharding.bytes_per_device(state), sum(leaf.size * leaf.dtype.itemsize for leaf in split)
    assert parts > 0.9 * total and sharding.bytes_per_device(many) == total - parts + parts // fsdp


SHAPES = {"down/conv_1/kernel": (3, 3, 128, 256), "mid/query/kernel": (256, 128), "mid/query/bias": (128,)}
LIES = {"down/conv_1/kernel": P(None, None, "fsdp", "tensor"), "mid/query/kernel": P("fsdp", "tensor"),
        "mid/query/bias": P("tensor")}  # fmt: skip


def test_averages_and_optimiser_state_lie_as_their_parameters_do():
    mesh = sharding.abstract_mesh({"data": 1, "fsdp": 2, "tensor": 2}, 4)
    params = tree({name: jax.ShapeDtypeStruct(shape, np.float32) for name, shape in SHAPES.items()})

    def placed(name):
        state = jax.eval_shape(optim.OPTIMISERS[name](1e-3, 0.9, 0.999, 1e-8, 0.0).init, params)
        found = sharding.named_leaves(sharding.layout(mesh, {"opt_state": state, "ema": {"0.9": params}}, params))
        return {key: leaf.spec for key, leaf in found.items()}

    adam, factored = placed("adam"), placed("adafactor")
    for name, spec in LIES.items():
        assert [spec] * 3 == [adam[f"{place}/{name}"] for place in ("opt_state/0/mu", "opt_state/0/nu", "ema/0.9")]
    assert adam["opt_state/0/count"] == P()
    rows, columns, full = (f"opt_state/0/{part}/" for part in ("v_row", "v_col", "v"))
    # (3, 3, 128, 256): rows lack the 256 (tensor), columns the 128 (fsdp). (256, 128): rows the 256, columns the 128.
    assert factored[rows + "down/conv_1/kernel"] == P(None, None, "fsdp")
    assert factored[columns + "down/conv_1/kernel"] == P(None, None, "tensor")
    assert factored[rows + "mid/query/kernel"] == P("tensor") and factored[columns + "mid/query/kernel"] == P("fsdp")
    assert factored[full + "mid/query/bias"] == P("tensor")  # not factored: as its parameter
    assert factored[full + "mid/query/kernel"] == factored[rows + "mid/query/bias"] == P()  # placeholders of one


def tree(flat):
    """{'a/b': x} -> {'a': {'b': x}}"""
    nested = {}
    for name, leaf in flat.items():
        *parents, last = name.split("/")
        place = nested
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = leaf
    return nested


def test_adafactor_over_a_mesh_is_adafactor():
    mesh = sharding.make_mesh({"data": 2, "fsdp": 2, "tensor": 2})
    draw = np.random.default_rng(0).normal
    params = tree({name: draw(size=shape).astype(np.float32) for name, shape in SHAPES.items()})
    gradient = tree({name: draw(size=shape).astype(np.float32) for name, shape in SHAPES.items()})
    optimiser = optim.adafactor(1e-2, 0.9, 0.999, 1e-8, 0.0)

    def step(params, state, gradient):
        updates, state = optimiser.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    alone = jax.jit(step)(params, optimiser.init(params), gradient)
    where = sharding.layout(mesh, (params, optimiser.init(params)), params)
    put = jax.device_put((params, optimiser.init(params)), where)
    many = jax.jit(step, out_shardings=where)(*put, jax.device_put(gradient, where[0]))
    for own, other in zip(*map(jax.tree.leaves, (alone, many)), strict=True):
        np.testing.assert_allclose(own, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("before, after", [("fsdp", "one device"), ("one device", "fsdp"), ("fsdp", "tensor")])
def test_a_checkpoint_of_one_mesh_restores_on_another_position_included(tmp_path, runs, before, after):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, runs[before].state)
    checkpoints.wait()
    there = runs[after].experiment
    restored = Checkpoints(tmp_path).restore(1, there.abstract)
    assert equal(restored, runs[before].state)
    for leaf, planned in zip(jax.tree.leaves(restored), jax.tree.leaves(there.abstract), strict=True):
        assert leaf.sharding == planned.sharding
    batches = [next(runs[name].experiment.batches(int(restored.step))) for name in (before, after)]
    assert equal(*batches)


BAD = {
    r"mesh.data=3, mesh.fsdp=1, mesh.tensor=1 multiply to 3, which does not equal the 8 devices": (3, 1, 1),
    r"mesh.data=-1, mesh.fsdp=3, mesh.tensor=1 multiply to 3, which does not divide the 8": (-1, 3, 1),
    "at most once": (-1, -1, 1),
    "sizes of 1 or more": (-1, 0, 1),
}


@pytest.mark.parametrize("message", BAD)
def test_a_mesh_that_does_not_multiply_to_the_devices_is_refused(message):
    with pytest.raises(ValueError, match=message):
        build(config(**dict(zip(sharding.AXES, BAD[message]))))


def test_a_mesh_that_no_layer_divides_into_is_refused():
    with pytest.raises(ValueError, match="mesh.tensor=5 divides no layer of this network"):
        build(config(tensor=5), sharding.abstract_mesh({"data": 1, "fsdp": 1, "tensor": 5}, 5))


def test_an_abstract_batch_is_a_batch(runs):
    run = runs["fsdp"].experiment
    batch, planned = next(run.batches(0)), abstract_batch(config(), run.mesh, 16)
    facts = [jax.tree.map(lambda x: (x.shape, x.dtype, x.sharding), tree) for tree in (batch, planned)]
    assert facts[0] == facts[1]
