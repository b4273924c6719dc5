"""Pictures of a sweep over a grid, of a dataset that is made by hand, and of what fails or ends at other times."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import xarray as xr

import dlnjax as dln

DEPTHS, STDS, SEEDS, TS = [2.0, np.inf], [0.1, 0.3, 1.0], 4, [0.0, 1.0, 10.0]
RANK = np.random.default_rng(0).uniform(1, 4, (2, 3, SEEDS, 3))
RANK[0, 1, 2, 2] = np.nan
SIGMA = np.ones((2, 3, SEEDS, 3, 4))
DATA = xr.Dataset(
    {
        "effective_rank": (("depth", "std", "seed", "time"), RANK),
        "sigma": (("depth", "std", "seed", "time", "mode"), SIGMA),
        "steps": (("depth", "std", "seed"), np.arange(24).reshape(2, 3, 4)),
        "result": (("depth", "std", "seed"), np.full((2, 3, 4), "steady")),
    },
    coords={"depth": DEPTHS, "std": STDS, "seed": np.arange(SEEDS), "time": TS},
)


def texts(labels):
    return [label.get_text() for label in labels]


def test_curves_by_an_axis_are_the_means_over_the_seeds():
    ax = dln.plot.effective_rank(DATA.sel(std=0.1), by="depth")
    assert texts(ax.get_legend().get_texts()) == ["depth 2", "depth ∞"]
    for line, rank in zip(ax.get_lines(), RANK[:, 0], strict=True):
        np.testing.assert_allclose(line.get_ydata(), rank.mean(0))


def test_heat_map_has_the_mean_of_each_point_as_colour_and_as_number():
    ax = dln.plot.heat_map(DATA, "depth", "std")
    expected = np.nanmean(RANK[..., -1], axis=2).T
    np.testing.assert_allclose(ax.collections[0].get_array(), expected)
    assert texts(ax.texts) == [f"{value:.3g}" for value in expected.ravel()]
    assert texts(ax.get_xticklabels()) == ["2", "∞"] and texts(ax.get_yticklabels()) == ["0.1", "0.3", "1"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("depth", "std")
    early = dln.plot.heat_map(DATA, "std", "depth", time=0.9)
    np.testing.assert_allclose(early.collections[0].get_array(), RANK[..., 1].mean(2))
    counted = dln.plot.heat_map(DATA, "depth", "std", of="steps")
    np.testing.assert_allclose(counted.collections[0].get_array(), DATA["steps"].mean("seed").values.T)


def test_a_point_without_finite_numbers_is_left_empty():
    ax = dln.plot.heat_map(DATA.where(DATA["std"] != 0.3), "depth", "std")
    assert np.ma.getmaskarray(ax.collections[0].get_array())[1].all()
    assert len(ax.texts) == 4


def test_a_whole_sweep_is_curves_and_violins_over_one_axis_and_a_heat_map_over_two():
    frames = {"final_u": (("row", "mode"), np.ones((5, 4))), "final_v": (("column", "mode"), np.ones((4, 4)))}
    data = DATA.assign(frames).assign_attrs(energy_name="Schatten")
    figure = dln.plot.sweep(data.sel(std=0.1))
    left, right = figure.axes
    assert figure.get_suptitle() == "Schatten, 5 x 4, 4 seeds"
    assert texts(left.get_legend().get_texts()) == ["depth 2", "depth ∞"]
    assert texts(right.get_xticklabels()) == ["2", "∞"] and right.get_xlabel() == "depth, at time 10"
    assert texts(dln.plot.sweep(data).axes[0].get_xticklabels()) == ["0.1", "0.3", "1"]
    with pytest.raises(ValueError, match=r"over a grid of at most two axes, got the dimensions beta, depth, std, seed"):
        dln.plot.sweep(data.expand_dims("beta"))


def test_singular_values_of_a_sweep_are_medians_in_colours_of_their_own():
    sigma = np.random.default_rng(1).uniform(1, 2, (SEEDS, 3, 4))
    data = DATA.isel(depth=0, std=0).assign(sigma=(("seed", "time", "mode"), sigma))
    ax = dln.plot.singular_values(data)
    for k, line in enumerate(ax.get_lines()):
        np.testing.assert_allclose(line.get_ydata(), np.median(sigma[:, :, k], axis=0))
    assert len({tuple(line.get_color()) for line in ax.get_lines()}) == 4


def test_labels_of_a_logarithmic_time_stand_apart_from_that_of_zero():
    times = np.array([0.0, *np.geomspace(0.05, 1e9, 30)])
    data = xr.Dataset({"sigma": (("time", "mode"), np.ones((31, 1)))}, coords={"time": times})
    ticks = dln.plot.singular_values(data).get_xticks()
    assert ticks[0] == 0 and ticks[1] > 0.05 and len(ticks) < 10


BAD = [
    (lambda: dln.plot.effective_rank(DATA), ValueError, "the data have the axis depth, std: choose one value"),
    (lambda: dln.plot.singular_values(DATA), ValueError, r"such as data.sel\(depth=2\)"),
    (lambda: dln.plot.effective_rank_violins({1: DATA}), ValueError, "the data have the axis depth, std"),
    (lambda: dln.plot.effective_rank(DATA, by="depth"), ValueError, r"also have the axis std: .* data.sel\(std=0.1\)"),
    (lambda: dln.plot.effective_rank(DATA, by="beta"), ValueError, "'beta' is no axis of this grid, which has depth"),
    (lambda: dln.plot.heat_map(DATA, "depth", "depth"), ValueError, "must be two axes, got 'depth' twice"),
    (lambda: dln.plot.heat_map(DATA, "depth", "seed"), ValueError, "'seed' is no axis of this grid"),
    (lambda: dln.plot.heat_map(DATA, "depth", "std", of="sigma"), ValueError, "is not one number for each seed"),
    (lambda: dln.plot.heat_map(DATA, "depth", "std", of="result"), ValueError, "is not one number for each seed"),
    (lambda: dln.plot.heat_map(DATA, "depth", "std", of="rank"), ValueError, "of must be an array of the dataset"),
    (lambda: dln.plot.heat_map(3, "depth", "std"), TypeError, "must be the xarray.Dataset of a sweep over a grid"),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD)
def test_bad_input_is_refused_by_one_sentence(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_what_was_drawn_before_stays_in_sight_and_failures_are_said():
    energy, x0 = dln.MatrixCompletion.diagonal(2), jnp.array([[0.2, 0.1], [-0.1, 0.3]])
    starts = jnp.stack([x0, jnp.nan * x0, 2 * x0])
    long, short = (dln.sweep(energy, starts, ts=jnp.linspace(0.0, t, 3), progress=False) for t in (8.0, 1.0))
    ax = dln.plot.effective_rank(long)
    dln.plot.effective_rank(short, ax=ax, line="red")
    assert ax.get_xlim() == (0.0, 8.0)
    assert ax.get_title(loc="right") == "1 of 3 failed: non_finite 1"
    # NumPy would warn of a mean of nothing, and warnings are errors here.
    for draw in (dln.plot.effective_rank, dln.plot.singular_values):
        assert draw(long[1:2]).get_title(loc="right") == "non_finite"
        assert draw(long[1:2].to_xarray()).get_title(loc="right") == "non_finite"
    assert dln.plot.singular_values(long[0]).get_title(loc="right") == ""


def test_solutions_with_times_of_their_own_have_no_common_axis():
    energy, x0 = dln.MatrixCompletion.diagonal(2), jnp.array([[0.2, 0.1], [-0.1, 0.3]])
    flows = jax.vmap(lambda t: dln.gradient_flow(energy, x0, depth=3, ts=jnp.linspace(0.0, t, 3)))
    with pytest.raises(ValueError, match="these 2 solutions have times of their own"):
        flows(jnp.array([1.0, 8.0])).plot()
    assert flows(jnp.array([1.0, 1.0])).plot().get_title() == "depth 3"
    weights = jnp.stack([dln.balanced_factors(c * x0, 2) for c in (1.0, 3.0)])
    steps = jnp.arange(0, 40, 4)
    trained = jax.vmap(lambda w: dln.train(energy, w, optax.sgd(0.2), steps, stop=0.05))(weights)
    last = np.asarray(trained.steps[:, -1])
    assert last[0] != last[1] and trained.plot().get_xlim() == (0.0, last.max())


def test_single_states_are_refused_and_zeros_are_left_out():
    energy, weights = dln.MatrixCompletion.diagonal(2), dln.balanced_factors(jnp.eye(2) / 2, 2)
    with pytest.raises(ValueError, match="a single state, and a curve needs two"):
        dln.train(energy, weights, optax.sgd(0.1), [10]).plot()
    start = jnp.diag(jnp.array([0.5, 0.0]))
    sol = dln.gradient_flow(energy, start, depth=1, ts=[0.0, 5.0, 10.0], coordinates="matrix")
    curve = dln.plot.singular_values(sol).lines[1].get_ydata()
    assert np.isnan(curve[0]) and np.all(curve[1:] > 0)
    # NumPy would warn of a division by 0.
    assert len(dln.plot.ellipses(np.zeros((2, 2, 2))).lines) > 0
