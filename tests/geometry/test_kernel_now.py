"""A kernel of one's own is what it computes now: numbers that change, arrays of its own, and many seeds."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.kernels import AsBalanced, Flat
from support.programs import lowered
from support.tolerances import ALGEBRA, assert_close, INTEGRATION

import dlnjax as dln

A, B = jnp.array([[2.0, 0.3], [0.1, 1.0]]), jnp.array([[1.0, 0.2], [-0.4, 1.5]])
ENERGY = dln.MatrixCompletion.diagonal(2)
TS = jnp.linspace(0.0, 0.5, 6)
STARTS = 0.5 * jax.random.normal(jax.random.key(0), (3, 2, 2))
# As many entries as there are seeds.
WEIGHTS = jnp.array([0.5, 1.0, 1.5])


class Frozen(eqx.Module):
    """A function of a class, with a number of the class."""

    factor = 1.0

    def __call__(self, s):
        return self.factor * s**2


# f of the kernel, and what a weight w makes of its value at weight 1: lambda is multiplied by w.
CALLS = {
    "metric_operator": (lambda k: dln.metric_operator(A, B, k), lambda y, w: w * y),
    "inner": (lambda k: dln.inner(A, B, B, k), lambda y, w: y / w),
    "entropy": (lambda k: dln.entropy(jnp.array([2.0, 1.0]), k), lambda y, w: y + jnp.log(w) / 2),
    "distance": (lambda k: dln.distance(A, B, k), lambda y, w: y / jnp.sqrt(w)),
    "exponential": (lambda k: dln.exponential(A, B, k).x - A, lambda y, w: w * y),
    "derivative of a distance": (
        lambda k: jax.grad(lambda a: dln.distance(a, B, k))(A),
        lambda y, w: y / jnp.sqrt(w),
    ),
    "free energy": (lambda k: dln.FreeEnergy(ENERGY, 0.5, k)(A), lambda y, w: y - jnp.log(w)),
}


@pytest.mark.parametrize("name", CALLS)
def test_number_of_the_class_is_the_current_one(name, monkeypatch):
    call, weighted = CALLS[name]
    kernel = Flat(jnp.ones(1))
    first = call(kernel)
    monkeypatch.setattr(Flat, "scale", 2.0)
    assert_close(call(kernel), weighted(first, 2.0), INTEGRATION)
    # What has not changed is not compiled again.
    with lowered() as programs:
        call(kernel)
    assert programs == []


def test_flow_sees_a_number_that_changes(monkeypatch):
    # The flow of twice the metric operator is twice as fast.
    kernel = Flat(jnp.ones(1))
    slow = dln.gradient_flow(ENERGY, A, depth=kernel, ts=TS, rtol=1e-9)
    monkeypatch.setattr(Flat, "scale", 2.0)
    fast = dln.gradient_flow(ENERGY, A, depth=kernel, ts=TS / 2, rtol=1e-9)
    assert_close(fast.x, slow.x, INTEGRATION)


# An energy that reads a number of a class, and the same energy without it where that number is 2.
READERS = {
    "kernel of an entropy": (
        lambda: dln.FreeEnergy(ENERGY, 0.5, Flat(jnp.ones(1))),
        lambda: dln.FreeEnergy(ENERGY, 0.5, Flat(jnp.full(1, 2.0))),
    ),
    "function of a spectral energy": (
        lambda: dln.SpectralEnergy(Frozen()),
        lambda: dln.SpectralEnergy(lambda s: 2 * s**2),
    ),
    "energy in another": (
        lambda: dln.FreeEnergy(dln.SpectralEnergy(Frozen()), 0.5, 2.0),
        lambda: dln.FreeEnergy(dln.SpectralEnergy(lambda s: 2 * s**2), 0.5, 2.0),
    ),
}
SOLVERS = {
    "flow": lambda energy: dln.gradient_flow(energy, A, ts=TS).energy,
    "sweep": lambda energy: dln.sweep(energy, STARTS, ts=TS, progress=False).energy,
    "derivative": lambda energy: jax.grad(lambda x: dln.gradient_flow(energy, x, ts=TS).energy[-1])(A),
}


@pytest.mark.parametrize(
    ("inside", "solver"),
    [("kernel of an entropy", "flow"), ("energy in another", "sweep"), ("function of a spectral energy", "derivative")],
)
def test_flow_sees_a_number_inside_of_an_energy_of_the_library(inside, solver, monkeypatch):
    reader, plain = READERS[inside]
    solve, energy = SOLVERS[solver], reader()
    solve(energy)
    monkeypatch.setattr(Frozen, "factor", 2.0)
    expected = solve(plain())
    monkeypatch.setattr(Flat, "scale", 2.0 if "kernel" in inside else 1.0)
    assert_close(jnp.asarray(solve(energy)), jnp.asarray(expected), INTEGRATION)


def test_solution_of_a_kernel_that_has_changed_is_refused(monkeypatch):
    kernel = Flat(jnp.ones(1))
    line, flow = dln.geodesic(A, B, kernel), dln.gradient_flow(ENERGY, A, depth=kernel, ts=TS)
    before = line.evaluate(0.5), flow.path_length
    monkeypatch.setattr(Flat, "scale", 2.0)
    for ask in (lambda: line.evaluate(0.5), lambda: dln.transport(line, B), lambda: flow.path_length):
        with pytest.raises(ValueError, match="Flat has changed since this solution was computed"):
            ask()
    monkeypatch.undo()
    jax.tree.map(np.testing.assert_array_equal, before, (line.evaluate(0.5), flow.path_length))


def test_seeds_share_the_arrays_of_a_kernel():
    kernel = Flat(WEIGHTS)
    many = dln.sweep(ENERGY, STARTS, depth=kernel, ts=TS, progress=False)
    for i, start in enumerate(STARTS):
        one = dln.gradient_flow(ENERGY, start, depth=kernel, ts=TS)
        assert_close(many.x[i], one.x, INTEGRATION)
        np.testing.assert_array_equal(many[i].depth.c, WEIGHTS)
        assert_close(many.path_length[i], one.path_length, INTEGRATION)
    spectra = jnp.array([[3.0, 1.0], [2.0, 0.5], [4.0, 1.0]])
    assert_close(dln.entropy(spectra, kernel), jnp.full(3, np.log(3.0) / 2), ALGEBRA)
    free = dln.FreeEnergy(ENERGY, 0.5, kernel)
    of_free = dln.sweep(free, STARTS, ts=TS, progress=False)
    assert_close(of_free.energy[1], dln.gradient_flow(free, STARTS[1], ts=TS).energy, INTEGRATION)


@pytest.mark.parametrize("file", ["one.nc", "one.zarr"])
def test_arrays_of_a_kernel_are_read_as_they_were_written(file, tmp_path):
    many = dln.sweep(ENERGY, STARTS, depth=Flat(WEIGHTS), ts=TS, progress=False)
    many.save(tmp_path / file)
    again = dln.load(tmp_path / file)
    np.testing.assert_array_equal(again[1].depth.c, WEIGHTS)
    np.testing.assert_array_equal(again.path_length, many.path_length)


def test_class_of_a_loaded_kernel_is_the_one_that_computed_it(tmp_path):
    def define(factor):
        class Cell(Flat):
            scale = factor

        return Cell

    class Cell(Flat):
        """As the cell was at first, with a field more."""

        more: jax.Array

    sols = [dln.gradient_flow(ENERGY, A, depth=define(c)(jnp.ones(1)), ts=TS) for c in (1.0, 2.0)]
    for i, sol in enumerate(sols):
        sol.save(tmp_path / f"{i}.nc")
    assert [dln.load(tmp_path / f"{i}.nc").depth.scale for i in range(2)] == [1.0, 2.0]
    for sol in sols:
        type(sol.depth).scale = 3.0
    with pytest.raises(ValueError, match="another kernel of the name 'Cell'"):
        dln.load(tmp_path / "0.nc")


def test_kernel_inside_of_a_kernel_is_read_as_it_was_written(tmp_path):
    sol = dln.gradient_flow(ENERGY, STARTS[0], depth=AsBalanced(dln.Balanced(3.0)), ts=TS)
    sol.save(tmp_path / "one.nc")
    assert repr(dln.load(tmp_path / "one.nc").depth.balanced) == "Balanced(depth=3)"


def test_kernel_that_holds_a_function(tmp_path):
    class Holding(Flat):
        f: Callable

        @property
        def weight(self):
            return self.f(super().weight)

    many = dln.sweep(ENERGY, STARTS, depth=Holding(WEIGHTS, lambda w: 2 * w), ts=TS, progress=False)
    assert_close(many.x, dln.sweep(ENERGY, STARTS, depth=Flat(2 * WEIGHTS), ts=TS, progress=False).x, INTEGRATION)
    with pytest.raises(ValueError, match="a file holds arrays, and Holding has other fields: use to_xarray"):
        many.save(tmp_path / "one.nc")
    np.testing.assert_array_equal(many.to_xarray()["kernel_c"], WEIGHTS)


def test_batch_of_flows_has_a_kernel_for_each():
    weights = jnp.stack([WEIGHTS, 2 * WEIGHTS])
    many = jax.vmap(lambda x, c: dln.gradient_flow(ENERGY, x, depth=Flat(c), ts=TS))(STARTS[:2], weights)
    one = dln.gradient_flow(ENERGY, STARTS[1], depth=Flat(weights[1]), ts=TS)
    assert_close(many.path_length[1], one.path_length, INTEGRATION)
    np.testing.assert_array_equal(many[1].depth.c, weights[1])
    assert_close(dln.entropy(many.sigma[:, -1], many.depth), jnp.log(jnp.array([3.0, 6.0])) / 2, ALGEBRA)


class PerSeed(Flat):
    per_seed = True


def test_numbers_of_a_kernel_for_each_seed():
    many = dln.sweep(ENERGY, STARTS, depth=PerSeed(WEIGHTS), ts=TS, progress=False)
    one = dln.gradient_flow(ENERGY, STARTS[2], depth=PerSeed(WEIGHTS[2]), ts=TS)
    assert_close(many.x[2], one.x, INTEGRATION)
    assert float(many[2].depth.c) == float(WEIGHTS[2])
    with pytest.raises(ValueError, match="one for each of the 3 starts"):
        dln.sweep(ENERGY, STARTS, depth=PerSeed(WEIGHTS[:2]), ts=TS)


def test_method_that_is_not_elementwise_is_refused():
    class Wrong(Flat):
        def straighten(self, sigma):
            return jnp.sum(sigma)

    with pytest.raises(ValueError, match=r"Wrong\.straighten must be elementwise: for arguments of shape \(5,\)"):
        dln.distance(A, B, Wrong(jnp.ones(1)))


def test_numbers_for_each_seed_need_a_class_that_says_so():
    class OfOne(Flat):
        weight = property(lambda self: self.c)

    with pytest.raises(TypeError, match=r"OfOne\.leaving does not take .* incompatible shapes .* per_seed = True"):
        dln.sweep(ENERGY, STARTS, depth=OfOne(WEIGHTS), ts=TS)


def test_folder_of_a_sweep_is_not_that_of_another_kernel_of_the_same_name(tmp_path, monkeypatch):
    run = lambda: dln.sweep(ENERGY, STARTS, depth=Flat(WEIGHTS), ts=TS, folder=tmp_path / "all", progress=False)
    run()
    run()
    monkeypatch.setattr(Flat, "scale", 2.0)
    with pytest.raises(ValueError, match="belongs to another call: depth, the program of kernel differ"):
        run()
