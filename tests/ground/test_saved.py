"""Every solution is indexed, written and read back alike. They are made by hand, which compiles nothing."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray
from support.kernels import PowerLaw

import dlnjax as dln
from dlnjax import _loaded, _saved
from dlnjax._geometry.depth import as_kernel

T, D, N = 4, 3, 5
RNG = np.random.default_rng(3)
TS = jnp.linspace(0.0, 1.0, T)


def numbers(*shape):
    return jnp.asarray(RNG.standard_normal(shape))


def counts(*shape):
    return jnp.asarray(RNG.integers(0, 9, shape))


def codes(*shape):
    return dln.RESULTS(jnp.asarray(RNG.integers(0, 8, shape), jnp.int32))


def svd(*shape):
    return dln.SVD(numbers(*shape, D, D), numbers(*shape, D), numbers(*shape, D, D))


def flow(*n, observed=None, depth=3.0):
    seen = svd(*n, T) if observed is None else None
    return dln.FlowSolution(
        ts=TS,
        sigma=numbers(*n, T, D) if seen is None else seen.sigma,
        final=svd(*n),
        t_end=numbers(*n),
        result=codes(*n),
        stats={name: counts(*n) for name in ("steps", "rejected", "evaluations")},
        observed=observed,
        depth=depth if isinstance(depth, dln.Kernel) else dln.Balanced(depth),
        rtol=jnp.asarray(1e-6),
        atol=jnp.asarray(1e-8),
        energy_name="MatrixCompletion",
        _svd=seen,
        _energy=None if seen is None else numbers(*n, T),
    )


def geodesic(*n):
    matrices = [numbers(*n, D, D) for _ in range(4)]
    depth = dln.Balanced(jnp.broadcast_to(jnp.asarray(7.0), n))
    stats = {name: counts(*n) for name in ("shots", "steps", "guess")}
    values = [numbers(*n) for _ in range(3)]
    return dln.GeodesicSolution(*matrices[:2], depth, *matrices[2:], *values, codes(*n), stats)


def exponential(*n):
    ts = jnp.broadcast_to(TS, (*n, T))
    states = numbers(*n, T, D, D), numbers(*n, T, D, D)
    return dln.ExponentialSolution(ts, *states, numbers(*n), numbers(*n), codes(*n), {"steps": counts(*n)})


def mean(*n):
    stats = {name: counts(*n) for name in ("steps", "searches")}
    depth = dln.Balanced(jnp.broadcast_to(jnp.asarray(2.0), n))
    points = numbers(*n, D, D), numbers(*n, 4, D, D), numbers(*n, 4)
    return dln.MeanSolution(
        *points, depth, numbers(*n, 4, D, D), numbers(*n, 4), numbers(*n), numbers(*n), codes(*n), stats
    )


def network(*n):
    ts = jnp.broadcast_to(TS, (*n, T))
    return dln.NetworkSolution(ts, numbers(*n, T, 2, D, D), numbers(*n), codes(*n), {"steps": counts(*n)})


def training(*saved):
    return dln.Training(numbers(*saved, 2, D, D), counts(*saved), codes())


def layers(*lead):
    return tuple(numbers(*lead, m, n) for n, m in ((3, 4), (4, 2), (2, 5)))


def network_of_widths(*n):
    ts = jnp.broadcast_to(TS, (*n, T))
    return dln.NetworkSolution(ts, layers(*n, T), numbers(*n), codes(*n), {"steps": counts(*n)})


def training_of_widths(*saved):
    return dln.Training(layers(*saved), counts(*saved), codes())


MADE = {make.__name__: make for make in (flow, geodesic, exponential, mean, network, training)}
MADE |= {make.__name__: make for make in (network_of_widths, training_of_widths)}
SETTINGS = {
    "observed": lambda *n: flow(*n, observed=numbers(*n, T, 2)),
    "observed integers": lambda *n: flow(*n, observed=jnp.asarray(RNG.integers(0, 9, (*n, T)), jnp.int32)),
    "depths": lambda *n: flow(*n, depth=jnp.asarray(RNG.uniform(1, 9, n))),
    "infinite depth": lambda *n: flow(*n, depth=jnp.inf),
}
ALL = MADE | SETTINGS


def assert_same(actual, expected):
    assert type(actual) is type(expected) and jax.tree.structure(actual) == jax.tree.structure(expected)
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(x, y, err_msg=jax.tree_util.keystr(path))
        assert x.dtype == y.dtype and x.shape == y.shape, jax.tree_util.keystr(path)


@pytest.mark.parametrize("shape", [(), (N,)], ids=["one", "many"])
@pytest.mark.parametrize("name", ["a.nc", "a.zarr"])
@pytest.mark.parametrize("kind", ALL)
def test_what_is_saved_comes_back_bit_for_bit(kind, name, shape, tmp_path):
    sol = ALL[kind](*shape)
    sol.save(tmp_path / name)
    assert_same(dln.load(tmp_path / name), sol)


def test_solutions_of_nested_vmap_come_back(tmp_path):
    sol = geodesic(2, N)
    assert sol.to_xarray()["a"].dims == ("pair_0", "pair_1", "row", "column")
    sol.save(tmp_path / "a.nc")
    assert_same(dln.load(tmp_path / "a.nc"), sol)


def test_a_flow_under_vmap_keeps_its_times(tmp_path):
    sol = eqx.tree_at(lambda s: s.ts, flow(N), numbers(N, T))
    assert sol.to_xarray()["ts"].dims == ("seed", "time") and sol[2].ts.shape == (T,)
    sol.save(tmp_path / "a.nc")
    assert_same(dln.load(tmp_path / "a.nc"), sol)


@pytest.mark.parametrize("kind", ALL)
def test_seeds_are_indexed(kind):
    sol = ALL[kind](N)
    assert len(sol) == N and len(list(sol)) == N
    for index in (slice(1, 3), [0, 4], jnp.array([2, 2]), -1):
        some = sol[index]
        for name in dataclasses.fields(sol):
            value, part = getattr(sol, name.name), getattr(some, name.name)
            for x, y in zip(jax.tree.leaves(value), jax.tree.leaves(part), strict=True):
                if not isinstance(x, str):
                    expected = x[jnp.asarray(index) if isinstance(index, list) else index] if x.shape[:1] == (N,) else x
                    np.testing.assert_array_equal(y, expected)
    assert_same(type(sol).joined(iter([sol[:2], sol[2:]]), len(sol)), sol)
    for index in (N, -N - 1):
        with pytest.raises(IndexError, match=rf"there is no \w+ {index} among {N}"):
            sol[index]


def test_jax_takes_over_the_memory_in_which_parts_are_joined():
    rooms = [_saved._aligned((n, D), np.dtype(float)) for n in (1, 2, 10, 1000, 100_000)]
    cpu = jax.devices("cpu")[0]
    assert all(np.shares_memory(np.asarray(jax.device_put(room, cpu)), room) for room in rooms)


OUTSIDE = ([N], [-N - 1], np.asarray(N), jnp.array(N), jnp.array([0, N]), np.ones(N + 1, bool))


@pytest.mark.parametrize("index", [*OUTSIDE, True, np.asarray(True)], ids=repr)
def test_an_index_that_finds_no_seed_is_refused(index):
    sol = flow(N)
    for part in (sol, sol.result):
        with pytest.raises(IndexError, match=r"there is no \w+ .* among 5|found by whole numbers"):
            part[index]
    for other in (None, [0.5]):
        with pytest.raises(IndexError, match=r"there is no result .* among 5|found by whole numbers"):
            sol.result[other]


def test_indices_of_every_kind_find_the_same_seeds():
    sol = flow(200)
    for index in ([-1], np.int8([-1]), jnp.int8([-1]), np.uint8([199]), np.arange(200) == 199):
        assert_same(sol[index], sol[199:])
        assert_same(sol.result[index], sol.result[199:])
    assert_same(sol[[]], sol[:0])
    assert len(sol.result[[]]) == 0 and jax.jit(lambda s, i: s[i])(sol, 3).t_end == sol.t_end[3]


@pytest.mark.parametrize("kind", MADE)
def test_one_matrix_has_no_seeds(kind):
    sol = MADE[kind]()
    for call in (lambda: sol[0], lambda: len(sol), lambda: list(sol)):
        with pytest.raises(TypeError, match=rf"{type(sol).__name__} is of one matrix and has no axis of \w+s"):
            call()


def test_as_many_times_or_modes_as_seeds_are_no_seeds():
    sol = flow(D, depth=2.0)
    assert sol[0].final.sigma.shape == (D,) and sol[0].sigma.shape == (T, D) and flow(T)[0].ts.shape == (T,)


def test_a_file_says_what_it_is():
    data = flow(N, depth=3.0).to_xarray()
    said = {"kernel": "Balanced", "depth": 3.0, "rtol": 1e-6, "atol": 1e-8, "energy_name": "MatrixCompletion"}
    assert said.items() <= data.attrs.items()
    assert data.attrs["written_by"].startswith("dlnjax") and "thesis time" in data.attrs["convention"]
    many = flow(N, depth=jnp.arange(1.0, 1 + N)).to_xarray()
    assert many.coords["depth"].dims == ("seed",) and "depth" not in many.attrs
    np.testing.assert_allclose(many.isel(seed=3)["depth"], 4.0)
    assert all("long_name" in geodesic().to_xarray()[name].attrs for name in ("a", "momentum", "length", "result"))


class Power(dln.Kernel):
    """A kernel of one's own, with a number."""

    power: jax.Array
    log_eigenvalue = lambda self, log_s, log_t: self.power * (log_s + log_t)
    leaving = lambda self, sigma: (sigma, sigma)
    straighten = lambda self, sigma: sigma
    unstraighten = lambda self, y: y


def test_a_kernel_of_ones_own_comes_back_if_its_class_is_there(tmp_path):
    sol = flow(N, depth=as_kernel(Power(jnp.asarray(0.3)), float))
    sol.save(tmp_path / "a.nc")
    assert_same(dln.load(tmp_path / "a.nc"), sol)
    with pytest.raises(ValueError, match=r"kernel 'Root', which is defined nowhere here\. Import its class"):
        _loaded.solution_of(sol.to_xarray().assign_attrs(kernel="Root"), "a")


def test_results_are_read_by_name(tmp_path):
    sol = flow(N)
    sol.save(tmp_path / "a.zarr")
    data = _saved.coded(sol.to_xarray())
    names = data["result"].attrs["flag_meanings"].split()
    # As another version might number them.
    data["result"] = data["result"].copy(data=len(names) - 1 - data["result"].values)
    data["result"].attrs["flag_meanings"] = " ".join(reversed(names))
    assert_same(_loaded.solution_of(data, "a"), sol)
    data["result"] = data["result"].copy(data=np.full(N, -1))
    with pytest.raises(ValueError, match="no codes of RESULTS: -1"):
        _loaded.solution_of(data, "a")


def test_what_netcdf_cannot_hold_is_told_and_nothing_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr(_saved, "_LARGEST", 8 * N * T * D - 1)
    path = tmp_path / "a.nc"
    path.write_text("what was there before")
    with pytest.raises(ValueError, match=r"netCDF 3 holds 2 GiB of each array: save it as '.*a\.zarr'"):
        flow(N).save(path)
    monkeypatch.undo()
    for observed in (numbers(N, T) + 1j, jnp.full((N, T), 2**40)):
        with pytest.raises(ValueError, match=r"netCDF 3 cannot hold this: .*Save it as '.*a\.zarr'"):
            flow(N, observed=observed).save(path)
        sol = flow(N, observed=observed)
        sol.save(tmp_path / "a.zarr")
        assert_same(dln.load(tmp_path / "a.zarr"), sol)
    assert path.read_text() == "what was there before" and {p.name for p in tmp_path.iterdir()} == {"a.nc", "a.zarr"}


def test_what_no_file_holds_is_told_before_anything_is_written(tmp_path):
    for name in ("a.nc", "a.zarr"):
        with pytest.raises(ValueError, match=r"cannot hold the types of \{'observed': 'bfloat16'\}: convert them"):
            flow(N, observed=jnp.ones((N, T), jnp.bfloat16)).save(tmp_path / name)
    nothing = flow(N, observed=jnp.ones((N, T, 0)))
    with pytest.raises(ValueError, match=r"observed has the shape \(5, 4, 0\), .*save it as '.*a\.zarr'"):
        nothing.save(tmp_path / "a.nc")
    assert not list(tmp_path.iterdir())
    nothing.save(tmp_path / "a.zarr")
    assert_same(dln.load(tmp_path / "a.zarr"), nothing)
    for name in ("b.nc", "b.zarr"):
        flow(N)[:0].save(tmp_path / name)
        assert_same(dln.load(tmp_path / name), flow(N)[:0])


def test_a_folder_that_is_no_group_is_not_overwritten(tmp_path):
    (tmp_path / "a.zarr").mkdir()
    (tmp_path / "a.zarr" / "letter.txt").write_text("Dear reader")
    with pytest.raises(ValueError, match="something else than a zarr group"):
        flow().save(tmp_path / "a.zarr")


def test_float64_loaded_as_float32_is_told(tmp_path):
    flow(N).save(tmp_path / "a.nc")
    with jax.enable_x64(False), pytest.warns(UserWarning, match="float64 and is loaded as float32.*jax_enable_x64"):
        assert dln.load(tmp_path / "a.nc").sigma.dtype == jnp.float32


def test_the_home_folder_may_be_written_as_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    sol = flow(N)
    sol.save("~/a.nc")
    assert (tmp_path / "a.nc").is_file()
    assert_same(dln.load("~/a.nc"), sol)


def test_files_of_other_kinds_are_refused(tmp_path):
    flow().to_xarray().assign_attrs(format="dlnjax.FlowSolution/2").to_netcdf(tmp_path / "a.nc", engine="scipy")
    with pytest.raises(ValueError, match=r"format is 'dlnjax\.FlowSolution/2', and not one of .*dlnjax\.Training/1"):
        dln.load(tmp_path / "a.nc")
    xarray.Dataset({"a": ("x", [1.0])}).to_netcdf(tmp_path / "b.nc", engine="scipy")
    with pytest.raises(ValueError, match="no saved solution of this version: its format is None"):
        dln.load(tmp_path / "b.nc")


class OfAnyNumbers(PowerLaw):
    """A kernel whose fields may be numbers of Python, and arrays of any type."""

    a: Any
    flag: Any

    @property
    def degree(self):
        return jnp.where(jnp.sum(self.flag) > 0, 1.0, 2.0) * self.a


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize(
    "flag", [True, 2, jnp.array(True), jnp.array(3), jnp.arange(3), jnp.array([True, False])], ids=str
)
@pytest.mark.parametrize("name", ["a.nc", "a.zarr"])
def test_fields_of_a_kernel_keep_their_types(name, flag, dtype, tmp_path):
    for a in (0.25, jnp.asarray(0.3, dtype)):
        kernel = as_kernel(OfAnyNumbers(a, flag), dtype)
        sol = jax.tree.map(lambda x: x.astype(dtype) if x.dtype == jnp.float64 else x, flow())
        # An array of another type than the matrices, as of an energy whose labels have it.
        sol = eqx.tree_at(lambda s: (s.depth, s._energy), sol, (kernel, numbers(T)))
        path = tmp_path / f"{type(a).__name__} {name}"
        sol.save(path)
        back = dln.load(path)
        assert back.depth._record == kernel._record and back.rtol.dtype == dtype
        for x, y in zip(jax.tree.leaves(back.depth), jax.tree.leaves(kernel), strict=True):
            assert (
                type(x) is type(y) and getattr(x, "dtype", None) == getattr(y, "dtype", None) and np.array_equal(x, y)
            )
