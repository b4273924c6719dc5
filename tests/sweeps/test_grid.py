"""A grid: the product of named axes in one sweep, with the numbers of a sweep at each of its points."""

import json

import diffrax
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
import xarray
from support.tolerances import ALGEBRA, assert_close, INTEGRATION
from test_executor import Inline
from test_store import assert_same_data

import dlnjax as dln

SEEDS, D, TS = 5, 2, [0.0, 0.5, 3.0]
DEPTHS, STDS = [2.0, np.inf, 1.0], [0.1, 0.4]
ENERGY = dln.MatrixCompletion(jnp.array([[1.0, -0.5], [0.3, 0.8]]), jnp.array([[1, 0], [1, 1]]))
ENSEMBLE = dln.Ensemble(lambda key, std: jnp.eye(D) + dln.gaussian(key, D, 1.0) * std, jax.random.key(3), SEEDS)
GRID = {"depth": DEPTHS, "std": STDS}


def sweep(energy=ENERGY, starts=ENSEMBLE, **options):
    how = {"ts": TS, "chunk": 4, "solver": diffrax.Dopri5(), "progress": False}
    return dln.sweep(energy, starts, **how | options)


@pytest.fixture(scope="module")
def data():
    return sweep(grid=GRID)


def alone(depth, std):
    """The starts at one point of the grid, swept without a grid."""
    return sweep(starts=ENSEMBLE.take(jnp.arange(SEEDS), std=np.full(SEEDS, std)), depth=depth)


def test_each_point_of_a_grid_is_a_sweep(data):
    assert data["sigma"].dims == ("depth", "std", "seed", "time", "mode")
    assert data["sigma"].shape == (3, 2, SEEDS, len(TS), D)
    for depth in DEPTHS:
        for std in STDS:
            sol = alone(depth, std).to_xarray()
            at = data.sel(depth=depth, std=std)
            for name in ("sigma", "energy", "effective_rank", "t_end"):
                assert_close(at[name].values, sol[name].values, INTEGRATION)
            assert at["result"].values.tolist() == sol["result"].values.tolist()


def test_a_grid_says_what_it_is_of(data):
    assert {name: data[name].values.tolist() for name in ("depth", "std", "seed", "time")} == {
        "depth": DEPTHS,
        "std": STDS,
        "seed": [*range(SEEDS)],
        "time": TS,
    }
    assert data["depth"].attrs["long_name"] == "number of layers N of the geometry"
    assert data.attrs["energy_name"] == "MatrixCompletion" and data.attrs["rtol"] == 1e-6
    assert data.attrs["written_by"] == f"dlnjax {dln.__version__}" and data.attrs["kernel"] == "Balanced"
    assert data["kernel_inverse_depth"].sel(depth=2.0, std=0.4, seed=1) == 0.5


@pytest.mark.long
@pytest.mark.parametrize("chunk", [2, 7, 30])
def test_a_folder_and_workers_make_the_same_dataset(tmp_path, chunk):
    expected = sweep(grid=GRID, chunk=chunk)
    here = sweep(grid=GRID, chunk=chunk, folder=tmp_path / "here")
    there = sweep(grid=GRID, chunk=chunk, folder=tmp_path / "there", executor=Inline())
    assert_same_data(there, here)
    assert_same_data(here.drop_vars("result"), expected.drop_vars("result"))
    assert here.attrs == expected.attrs
    with xarray.open_zarr(tmp_path / "there" / "data.zarr", consolidated=False, chunks=None) as raw:
        assert raw["sigma"].sel(depth=np.inf, std=0.4, seed=3).shape == (len(TS), D)
    sol = dln.load(tmp_path / "there")
    assert sol.sigma.shape == expected["sigma"].shape and sol.depth.inverse_depth.shape == (3, 2, SEEDS)


@pytest.mark.parametrize("chunk", [2, 7])
def test_a_grid_goes_on_from_any_parts(tmp_path, chunk):
    whole = sweep(grid=GRID, chunk=chunk, folder=tmp_path / "run").load()
    receipts = sorted((tmp_path / "run" / "parts").glob("*.json"), key=lambda path: int(path.stem))
    counts = [json.loads(path.read_text())["count"] for path in receipts]
    # A part is a piece of one point, or some whole points.
    assert counts == ([2, 2, 1] * 6 if chunk == 2 else [5] * 6)
    for path in receipts[1::2]:
        path.unlink()
    with pytest.raises(ValueError, match=rf"has {sum(counts[::2])} of 30 seeds"):
        dln.load(tmp_path / "run")
    assert_same_data(sweep(grid=GRID, chunk=chunk, folder=tmp_path / "run"), whole)
    with pytest.raises(ValueError, match=r"belongs to another call: .*grid differ"):
        sweep(grid={"depth": [2.0, np.inf, 1.0], "std": [0.1, 0.4000001]}, chunk=chunk, folder=tmp_path / "run")


# Energies

TABLE = {"first entry": jnp.array([[1, 0], [0, 0]]), "all": jnp.ones((2, 2))}
FAMILY = dln.Family(
    lambda which, beta: dln.FreeEnergy(dln.MatrixCompletion(jnp.eye(2) * 2 + 1, TABLE[which]), beta, 2.0)
)
STARTS = np.asarray(ENSEMBLE.take(jnp.arange(SEEDS), std=np.full(SEEDS, 0.2)))
ENERGIES = {"which": list(TABLE), "beta": [1.0, 2.0, 8.0]}


@pytest.mark.long
def test_a_family_has_an_energy_at_each_point(tmp_path):
    data = sweep(FAMILY, STARTS, depth=2.0, grid=ENERGIES)
    assert data["energy"].dims == ("which", "beta", "seed", "time") and data.attrs["depth"] == 2.0
    assert data["which"].values.tolist() == list(TABLE)
    for which in TABLE:
        sol = sweep(FAMILY.make(which, 2.0), STARTS, depth=2.0)
        assert_close(data["energy"].sel(which=which, beta=2.0).values, sol.energy, INTEGRATION)
    folder = sweep(FAMILY, STARTS, depth=2.0, grid=ENERGIES, folder=tmp_path / "run", executor=Inline())
    assert_same_data(folder.drop_vars("result"), data.drop_vars("result"))
    assert folder.sel(which="all", beta=8.0)["sigma"].shape == (SEEDS, len(TS), D)


def test_a_family_of_ones_own_energies_and_one_with_the_depth():
    class Fit(dln.MatrixCompletion):
        pass

    labels = lambda shift: Fit(jnp.eye(2) + shift, jnp.ones((2, 2)))
    data = sweep(dln.Family(labels), STARTS, grid={"shift": [0.0, 1.0]}, ts=[0.0, 100.0])
    assert_close(data["energy"].isel(time=-1).values, np.zeros((2, SEEDS)), 1e-6)
    both = sweep(dln.Family(lambda depth: dln.FreeEnergy(ENERGY, 2.0, depth)), STARTS, grid={"depth": [2.0, 3.0]})
    assert_close(
        both["energy"].values[1, :, 0], [dln.FreeEnergy(ENERGY, 2.0, 3.0)(x) for x in jnp.asarray(STARTS)], ALGEBRA
    )


def test_arrays_of_the_seeds_stay_those_of_the_seeds():
    labels = jnp.stack([jnp.eye(2) * (1 + i) for i in range(SEEDS)])
    data = sweep(dln.MatrixCompletion(labels, jnp.ones((2, 2))), STARTS, grid={"depth": [1.0, 2.0]})
    expected = [dln.MatrixCompletion(labels[i], jnp.ones((2, 2)))(jnp.asarray(STARTS[i])) for i in range(SEEDS)]
    assert_close(data["energy"].values[:, :, 0], np.tile(expected, (2, 1)), ALGEBRA)


def test_noise_of_a_seed_is_the_same_at_each_point():
    noise = dln.Noise(jax.random.key(1), beta=4.0, dt=0.1)
    how = {"ts": [0.0, 0.5], "depth": 2.0, "solver": None, "noise": noise}
    starts = dln.Ensemble(lambda key, nothing: jnp.eye(D) + dln.gaussian(key, D, 0.1), jax.random.key(3), SEEDS)
    data = sweep(None, starts, grid={"nothing": [0.0, 1.0]}, **how)
    np.testing.assert_array_equal(data["sigma"].values[0], data["sigma"].values[1])
    assert len(np.unique(data["sigma"].values[0, :, 1, 0])) == SEEDS


# What is refused

REFUSED = {
    "no dict": ({"grid": [2, 3]}, TypeError, "grid must be a dict of axes"),
    "no axis": ({"grid": {}}, TypeError, "grid must be a dict of axes"),
    "a taken name": ({"grid": GRID | {"sigma": [1.0]}}, ValueError, "cannot have an axis 'sigma'"),
    "no list": ({"grid": GRID | {"depth": 2.0}}, ValueError, r"grid\['depth'\] must be a list of numbers or of names"),
    "nothing": ({"grid": GRID | {"depth": []}}, ValueError, "must be a list of numbers"),
    "twice": ({"grid": GRID | {"depth": [2, 2]}}, ValueError, "must be different numbers"),
    "no depth": ({"grid": GRID | {"depth": [0.5]}}, ValueError, "depth must be"),
    "names as depth": ({"grid": GRID | {"depth": ["two"]}}, ValueError, "depth"),
    "an idle axis": ({"grid": GRID | {"beta": [1.0]}}, ValueError, "has the axis beta, which neither init nor"),
    "two depths": ({"grid": GRID, "depth": 3.0}, ValueError, "depth is an axis of the grid, and is given"),
    "a missing axis": ({"grid": {"depth": DEPTHS}}, ValueError, r"init takes std, and the grid has depth"),
    "names in init": ({"grid": {"std": ["small"]}}, ValueError, "init takes an axis of names"),
    "a family without its axis": ({"grid": GRID, "energy": FAMILY}, ValueError, "make takes which, beta, and the grid"),
    "a family without a grid": ({"energy": FAMILY, "starts": STARTS}, ValueError, "the grid has no axis"),
    "other arrays": (
        {"energy": dln.Family(lambda std: dln.Schatten(2.0) if std < 0.2 else ENERGY), "grid": GRID},
        ValueError,
        "differ in their arrays only",
    ),
}


@pytest.fixture
def as_users_have_it():
    """Without the annotation checks, which would refuse some of these before the library does."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.usefixtures("as_users_have_it")
@pytest.mark.parametrize(("options", "error", "message"), REFUSED.values(), ids=REFUSED)
def test_a_grid_that_cannot_be_is_refused(options, error, message):
    with pytest.raises(error, match=message):
        sweep(**options)


@pytest.mark.usefixtures("as_users_have_it")
def test_one_flow_has_no_grid():
    for call in (lambda e: dln.gradient_flow(e, jnp.eye(2), ts=[0.0, 1.0]), lambda e: e(jnp.eye(2))):
        with pytest.raises(ValueError, match=r"only dlnjax\.sweep\(\.\.\., grid=\.\.\.\) takes it"):
            call(FAMILY)
    with pytest.raises(TypeError, match="make must be a callable"):
        dln.Family(3)
