"""Many flows at once: the same numbers as one by one, and nothing lost."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.flows import ended
from support.tolerances import ALGEBRA, assert_close, INTEGRATION

import dlnjax as dln

# Two compilations round differently, and the length of a step amplifies it: they agree to INTEGRATION only.
N, D, TS = 5, 3, [0.0, 0.5, 2.0]
DEPTHS = jnp.array([2.0, jnp.inf, 1.0, 3.5, jnp.inf])
FIELDS = ["sigma", "x", "energy", "t_end"]


def draw(key):
    return jnp.eye(D) + dln.gaussian(key, D, 0.4)


def sweep(energy, starts, **options):
    return dln.sweep(energy, starts, **{"ts": TS, "depth": DEPTHS, "progress": False} | options)


@pytest.fixture(scope="module")
def starts(module_key):
    return jax.vmap(draw)(jax.random.split(module_key, N))


@pytest.fixture(scope="module")
def arrays(module_key):
    """Labels and a mask for each seed."""
    ka, kb = jax.random.split(jax.random.fold_in(module_key, 1))
    return jax.random.normal(ka, (N, D, D)), jax.random.bernoulli(kb, 0.6, (N, D, D))


@pytest.fixture(scope="module")
def solution(arrays, starts):
    return sweep(dln.MatrixCompletion(*arrays), starts)


def equal(a, b, keep=slice(None)):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        if x.shape[:1] == (N,):
            np.testing.assert_array_equal(x[keep], y[keep])


def test_sweep_is_the_loop_over_gradient_flow(solution, arrays, starts):
    for i in range(N):
        energy = dln.MatrixCompletion(arrays[0][i], arrays[1][i])
        alone = dln.gradient_flow(energy, starts[i], depth=DEPTHS[i], ts=TS)
        for name in FIELDS:
            assert_close(getattr(solution, name)[i], getattr(alone, name), INTEGRATION)
        assert ended(solution)[i] == ended(alone) == "successful"
        assert solution.stats["steps"][i] == alone.stats["steps"]


@pytest.mark.parametrize("chunk", [2, 50])
def test_chunks_do_not_change_the_results(solution, arrays, starts, chunk):
    chunked = sweep(dln.MatrixCompletion(*arrays), starts, chunk=chunk)
    for name in FIELDS:
        assert_close(getattr(chunked, name), getattr(solution, name), INTEGRATION)
    np.testing.assert_array_equal(chunked.ts, TS)


def test_workers_leave_the_filters_of_warnings_alone(arrays, starts):
    many = lambda x: jnp.tile(x, (20, *[1] * (x.ndim - 1)))
    before = list(warnings.filters)
    for _ in range(5):
        sweep(dln.MatrixCompletion(*map(many, arrays)), many(starts), depth=many(DEPTHS), chunk=2)
    assert warnings.filters == before


def test_shared_energy_and_depth_serve_every_seed(arrays, starts):
    shared = sweep(dln.MatrixCompletion(arrays[0][0], arrays[1][0]), starts, depth=2)
    each = sweep(dln.MatrixCompletion(*(jnp.tile(a[:1], (N, 1, 1)) for a in arrays)), starts, depth=jnp.full(N, 2.0))
    for name in FIELDS:
        assert_close(getattr(shared, name), getattr(each, name), ALGEBRA)


def test_numbers_of_a_free_energy_may_belong_to_the_seeds(starts):
    beta = jnp.linspace(1.0, 3.0, N)
    energy = dln.FreeEnergy(dln.Schatten(2.0), beta, DEPTHS)
    many = sweep(energy, starts)
    assert_close(
        many.energy[:, 0],
        [dln.FreeEnergy(dln.Schatten(2.0), b, n)(x) for b, n, x in zip(beta, DEPTHS, starts, strict=True)],
        ALGEBRA,
    )
    assert np.all(np.diff(many.energy, axis=1) < 0)


def test_seeds_of_an_ensemble_depend_on_their_number_alone(module_key, arrays):
    ensemble = dln.Ensemble(draw, module_key, N)
    starts = ensemble.take(jnp.arange(N))
    # Compiled together, the draws may round differently.
    assert_close(starts, [draw(jax.random.fold_in(module_key, i)) for i in range(N)], ALGEBRA)
    energy = dln.MatrixCompletion(*arrays)
    for chunk in (None, 2):
        lazy = sweep(energy, ensemble, chunk=chunk)
        assert_close(lazy.x, sweep(energy, starts, chunk=chunk).x, ALGEBRA)
    assert len(ensemble) == N


def test_seeds_are_found_by_integers_of_any_width(module_key):
    for n, index in ((300, np.uint8([50])), (200, np.int8([50])), (2**32, np.int32([50])), (300, jnp.uint8([50]))):
        ensemble = dln.Ensemble(draw, module_key, n)
        np.testing.assert_array_equal(ensemble.take(index), ensemble.take(jnp.array([50])))
    with pytest.raises(ValueError, match="from 0 to 199"):
        dln.Ensemble(draw, module_key, 200).take(np.uint64([2**64 - 1]))


def test_start_that_is_nan_is_its_own_affair(solution, arrays, starts):
    broken = sweep(dln.MatrixCompletion(*arrays), starts.at[2, 0, 1].set(jnp.nan))
    assert ended(broken) == ["successful"] * 2 + ["non_finite"] + ["successful"] * 2
    equal(broken, solution, np.array([0, 1, 3, 4]))
    assert broken.t_end[2] == 0 and np.all(np.isnan(broken.sigma[2]))
    assert np.isnan(broken.to_numpy()["effective_rank"][2]).all()
    assert np.isfinite(broken.effective_rank).all(axis=1).tolist() == [True, True, False, True, True]
    assert "non_finite 1" in str(broken)


def test_observed_quantities_replace_the_states(solution, arrays, starts):
    observe = lambda point: {"corner": point.matrix[0, 0], "rank": dln.effective_rank(point.sigma)}
    observed = sweep(dln.MatrixCompletion(*arrays), starts, observe=observe)
    assert_close(observed.observed["corner"], solution.x[:, :, 0, 0], ALGEBRA)
    assert_close(observed.observed["rank"], solution.effective_rank, ALGEBRA)
    assert_close(observed.final.matrix, solution.x[:, -1], ALGEBRA)
    for name in ("x", "svd", "energy"):
        with pytest.raises(AttributeError, match="observe was given"):
            getattr(observed, name)
    assert set(observed.to_xarray()) >= {"observed['corner']", "observed['rank']", "sigma"}
    with pytest.raises(ValueError, match="one array"):
        observed.save("nowhere.nc")


def test_solution_prints_what_happened(solution):
    text = str(solution)
    for words in ("5 seeds", "d = 3", "3 times from 0 to 2", "energy", "effective rank", "successful 5", "steps"):
        assert words in text
    rest = sweep(dln.Schatten(2.0), jnp.full((N, 1, 1), 1e-3), depth=1.0, stop=dln.Steady(1e-2))
    assert "steady 5" in str(rest)
    jax.jit(lambda s: (str(s), s.ts)[1])(solution)


def test_progress_is_silent_off_a_terminal_and_when_told_so(arrays, starts, capfd):
    for progress in (False, True):
        sweep(dln.MatrixCompletion(*arrays), starts, progress=progress)
    assert capfd.readouterr() == ("", "")


def test_numpy_and_xarray_have_every_field_by_name(solution):
    arrays, dataset = solution.to_numpy(), solution.to_xarray()
    assert all(isinstance(value, np.ndarray) for value in arrays.values())
    assert dataset.sigma.dims == ("seed", "time", "mode") and dataset.energy.dims == ("seed", "time")
    assert dataset.u.dims == ("seed", "time", "row", "mode") and dataset.v.dims == ("seed", "time", "column", "mode")
    assert "thesis time" in dataset.attrs["convention"] and "thesis time" in dataset.time.attrs["convention"]
    assert "4.23" in dataset.effective_rank.attrs["long_name"]
    np.testing.assert_array_equal(dataset.time, TS)
    product = (dataset.u * dataset.sigma).dot(dataset.v, dim="mode").transpose("seed", "time", "row", "column")
    assert_close(product, solution.x, ALGEBRA)
    for name, value in arrays.items():
        if name != "ts":
            # What all seeds share is an attribute.
            np.testing.assert_array_equal(dataset[name] if name in dataset else dataset.attrs[name], value)
    assert "start" in dataset.attrs["absolute tolerance"]


@pytest.mark.parametrize("seed", [slice(None), 0])
def test_saved_solution_comes_back_bit_for_bit(solution, arrays, starts, tmp_path, seed):
    if seed == 0:
        energy = dln.MatrixCompletion(arrays[0][0], arrays[1][0])
        solution = dln.gradient_flow(energy, starts[0], depth=DEPTHS[0], ts=TS)
    solution.save(tmp_path / "run.nc")
    back = dln.load(tmp_path / "run.nc")
    assert str(back) == str(solution)
    for name, value in solution.to_numpy().items():
        np.testing.assert_array_equal(back.to_numpy()[name], value)
    assert_close(back.x, solution.x, ALGEBRA)


def test_save_names_the_folder_that_is_missing(solution, tmp_path):
    with pytest.raises(ValueError, match="folder that exists"):
        solution.save(tmp_path / "missing" / "run.nc")


SQUARE = {
    "free energy": lambda n: dln.FreeEnergy(dln.MatrixCompletion.diagonal(D), jnp.array([1.0, 2.0, 4.0])[n], 3.0),
    "depth of the entropy": lambda n: dln.FreeEnergy(dln.Schatten(2.0), 2.0, jnp.array([2.0, 3.0, jnp.inf])[n]),
    "power": lambda n: dln.Schatten(jnp.array([1.5, 2.0, 3.0])[n]),
    "weight": lambda n: dln.MatrixCompletion(jnp.eye(D), jnp.eye(D), weight=jnp.array([0.5, 1.0, 2.0])[n]),
}


@pytest.mark.parametrize("energy", SQUARE.values(), ids=SQUARE)
def test_as_many_seeds_as_rows_are_seeds_and_not_rows(energy, starts):
    many = sweep(energy(slice(None)), starts[:D], depth=2.0)
    expected = [[energy(i)(x) for x in many.x[i]] for i in range(D)]
    assert_close(many.energy, expected, ALGEBRA)


def test_numbers_of_many_seeds_are_refused_by_one_matrix(starts):
    for energy in (SQUARE["depth of the entropy"](slice(None)), SQUARE["power"](slice(None))):
        with pytest.raises(ValueError, match="one number for one matrix"):
            dln.gradient_flow(energy, starts[0], ts=TS)
