"""Pictures of a sweep over a grid, of a dataset that is made by hand, and of what fails or ends at other times."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import xarray as xr

import dlnjax as dln
from dlnjax._saved import coded

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


ONE = DATA.isel(depth=0, std=0)
OWN_TIMES = ONE.drop_vars("time").assign(ts=(("seed", "time"), np.arange(4.0)[:, None] * TS))


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
    (lambda: dln.plot.heat_map(DATA, "depth", "std", of="result"), ValueError, "result is no number, and has no mean"),
    (lambda: dln.plot.heat_map(coded(DATA), "depth", "std", of="result"), ValueError, "result is no number"),
    (lambda: dln.plot.heat_map(DATA, "depth", "std", time=np.nan), ValueError, "time must be a finite number, got nan"),
    (lambda: dln.plot.effective_rank(ONE.expand_dims("beta")), ValueError, "the data have the axis beta: choose one"),
    (lambda: dln.plot.singular_values(DATA.isel(std=0, seed=0)), ValueError, "the data have the axis depth: choose"),
    (lambda: dln.plot.effective_rank(ONE.isel(time=-1)), ValueError, "a single state, and a curve needs two"),
    (lambda: dln.plot.singular_values(ONE.isel(seed=slice(0, 0))), ValueError, "there are 0 seeds"),
    (lambda: dln.plot.effective_rank(OWN_TIMES), ValueError, "these 4 solutions have times of their own"),
    (lambda: dln.plot.effective_rank_violins({1: OWN_TIMES}, time=1.0), ValueError, "have times of their own"),
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


def test_failures_are_said_of_a_sweep_in_a_folder_and_over_a_grid():
    """A folder holds the codes as numbers, which are names in memory."""
    names = np.full((2, 3, SEEDS), "steady", "<U20")
    names[1, 0, 2:] = "rank_lost", "non_finite"
    data = DATA.assign(result=(DATA["result"].dims, names))
    for form in (data, coded(data)):
        one = form.isel(depth=1, std=0)
        for ax in (
            dln.plot.effective_rank(one),
            dln.plot.singular_values(one),
            dln.plot.effective_rank_violins({1: one}),
        ):
            assert ax.get_title(loc="right") == "2 of 4 failed: non_finite 1, rank_lost 1"
        assert dln.plot.effective_rank(form.isel(depth=0, std=0)).get_title(loc="right") == ""
        by = dln.plot.effective_rank(form.isel(std=0), by="depth")
        assert by.get_title(loc="right") == "2 of 8 failed: non_finite 1, rank_lost 1"
        lost = form.assign(lost=data["result"] == "rank_lost")
        table = dln.plot.heat_map(lost, "std", "depth", of="lost")
        assert texts(table.texts) == ["0", "0", "0", "0.25", "0", "0"]
        assert table.get_title(loc="right") == "2 of 24 failed: non_finite 1, rank_lost 1"


def test_axes_of_a_dataset_may_come_in_any_order_and_without_the_seeds():
    square = DATA.isel(std=0, seed=slice(3))
    for draw in (dln.plot.effective_rank, dln.plot.singular_values):
        for turned in (square.transpose("time", "mode", ...), square.transpose("mode", "seed", ...)):
            lines = zip(draw(square.isel(depth=1)).lines, draw(turned.isel(depth=1)).lines, strict=True)
            assert all(np.array_equal(a.get_ydata(), b.get_ydata()) for a, b in lines)
    ax = dln.plot.effective_rank(square.isel(seed=1), by="depth")
    np.testing.assert_array_equal([line.get_ydata() for line in ax.lines], RANK[:, 0, 1])


def test_values_of_an_axis_that_agree_in_six_digits_are_told_apart():
    data = DATA.isel(depth=0).assign_coords(std=[0.1, 0.1000000001, 1.0])
    frames = {"final_u": (("row", "mode"), np.ones((5, 4))), "final_v": (("column", "mode"), np.ones((4, 4)))}
    left, right = dln.plot.sweep(data.assign(frames)).axes
    assert texts(right.get_xticklabels()) == ["0.1", "0.1000000001", "1.0"]
    assert texts(left.get_legend().get_texts()) == ["std 0.1", "std 0.1000000001", "std 1.0"]


def test_a_seed_of_flows_with_times_of_their_own_is_drawn_at_its_times():
    assert dln.plot.singular_values(OWN_TIMES.isel(seed=2)).get_xlim() == (0.0, 20.0)
    assert dln.plot.effective_rank_violins({1: OWN_TIMES}).get_title(loc="right") == ""


def test_axes_of_the_caller_keep_their_scale_and_places_without_a_number_are_empty():
    ax = dln.plot.new_axes(None)
    ax.set_xscale("log")
    assert dln.plot.effective_rank(ONE, ax=ax).get_xlim() == (1.0, 10.0)
    # NumPy would warn of a mean of nothing, and warnings are errors here.
    nothing = ONE.assign(effective_rank=ONE["effective_rank"] * np.nan)
    assert texts(dln.plot.effective_rank_violins({"none": nothing, "all": ONE}).get_xticklabels()) == ["none", "all"]
    even = np.linspace(0.0, 60.0, 31, dtype=np.float32)
    data = xr.Dataset({"sigma": (("time", "mode"), np.ones((31, 1)))}, coords={"time": even})
    assert dln.plot.singular_values(data).get_xscale() == "linear"


def test_a_geodesic_that_did_not_arrive_is_not_drawn():
    a, b = jnp.eye(2), jnp.diag(jnp.array([1.0, 2.0]))
    lost = dln.geodesic(a, b, 2, throw=False)
    lost = eqx.tree_at(lambda line: line.result, lost, dln.RESULTS.shot_too_long)
    for draw in (dln.plot.ellipses, dln.plot.singular_value_curves):
        with pytest.raises(ValueError, match="a geodesic that did not arrive is no curve"):
            draw(lost)
    zero = dln.plot.singular_value_curves(np.stack([np.eye(2), np.diag([1.0, 0.0])])).lines[1].get_ydata()
    assert zero[0] == 1 and np.isnan(zero[1])
    assert texts(dln.plot.ellipses(np.eye(2)[None], count=1).get_xticklabels()) == ["0"]
    flow = dln.gradient_flow(dln.MatrixCompletion.diagonal(2), b, ts=[0.0, 1.0], observe=lambda point: point.sigma)
    with pytest.raises(ValueError, match="a flow with observe keeps none"):
        dln.plot.animate(flow)
