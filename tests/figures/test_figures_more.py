"""The phenomenon that each of the other figures shows, on few starts, and what all figures owe their reader."""

import importlib.util

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import pytest
import xarray
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from scipy.optimize import linprog
from support.tolerances import assert_close, INTEGRATION
from test_figures import assert_draws, numbers

from dlnjax import distance, plot
from dlnjax.figures import _balls, _curvature, _descent, _lengths, _lines, _means, _phases, _sensing, _sparsity, FIGURES
from dlnjax.figures._figure import measured, share

pytestmark = pytest.mark.slow
KEY = jax.random.key(7)


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_says_what_it_shows_and_with_what_it_was_made(name):
    figure = FIGURES[name]
    assert figure.text.count(". ") >= 1 and figure.text.endswith(".")
    assert "N = " in figure.parameters and f"{figure.seeds} " in figure.parameters
    assert ("beyond the thesis" in figure.title) != name.startswith("4")


def test_number_is_judged_by_its_error_and_by_that_of_what_was_expected():
    agrees = measured("a", (1.0, 0.1), 1.2, note="because")
    assert agrees.verdict == "agrees" and agrees.note == ""
    other_draws = measured("a", (1.0, 0.1), 1.4)
    assert other_draws.verdict == "agrees" and "sampled" in other_draws.note
    # Nothing is added for an expected value that is exact, and the error of more draws is less.
    assert measured("a", (1.0, 0.1), 1.4, expected_error=0.0).verdict == "disagrees"
    assert measured("a", (1.0, 0.1), 1.29, expected_error=0.0).verdict == "agrees"
    more_draws = [measured("a", (1.0, 0.1), 1.31, expected_error=error) for error in (0.01, 0.1)]
    assert [row.verdict for row in more_draws] == ["disagrees", "agrees"]
    off = measured("a", (1.0, 0.1), 1.9, note="because")
    assert off.verdict == "explained" and off.note == "because"
    assert measured("a", (1.0, 0.0), 1.4).verdict == "disagrees"
    assert measured("a", (np.nan, 0.1), 1.4, note="because").verdict == "disagrees"
    # A text is rounded to its digits, and a number is not rounded.
    assert measured("a", (3.14159, 1e-6), "3.14").verdict == "agrees"
    assert measured("a", (3.14159, 1e-6), 3.14).verdict == "disagrees"
    assert measured("a", (1.04, 0.0), 1.0).verdict == measured("a", (0.04, 0.0), 0.0).verdict == "disagrees"
    assert measured("a", (1.04, 0.0), "1.0").verdict == "agrees"
    assert measured("a", (0.8053, 0.0), "0.8050").verdict == "disagrees"
    assert measured("a", (1.0, 0.1), "nan").verdict == "measured"
    assert measured("a", (1.0, 0.1)).verdict == "measured"
    assert share([True] * 8) == (1.0, pytest.approx((9 / 100 / 8) ** 0.5))


@pytest.mark.long
def test_printed_line_is_longer_than_the_geodesic_at_every_depth():
    data = FIGURES["3.1"].compute(KEY, 4)
    rows = numbers("3.1", data)
    assert rows["length of the geodesic, N = 2, thesis's units"].verdict == "agrees"
    assert rows["length of (3.76), N = 2, thesis's units"].verdict == "agrees"
    assert all(row.verdict == "disagrees" for name, row in rows.items() if "excess" in name)
    unknown = numbers("3.1", data.assign(length=data["length"] + np.nan))
    assert all(row.verdict == "disagrees" for name, row in unknown.items() if "excess" in name)
    lengths = data["length"]
    assert np.all(lengths.sel(curve="printed") > lengths.sel(curve="geodesic") + 1e-9)
    # The drawn curves start and end where they should.
    ends = data["x"].isel(t=[0, -1]).transpose("t", ...).values
    assert_close(ends[0], np.broadcast_to(_lines.DRAWN, ends[0].shape), INTEGRATION)
    assert_close(ends[1], np.broadcast_to(_lines.TURN @ _lines.DRAWN @ _lines.TURN.T, ends[1].shape), INTEGRATION)
    assert_draws("3.1", data)


@pytest.mark.long
def test_balls_are_euclidean_at_depth_one_and_logarithmic_at_infinite_depth():
    data = FIGURES["3.2"].compute(KEY, 4)
    assert data.sizes["x"] == 5
    assert {row.verdict for row in FIGURES["3.2"].numbers(data)} == {"agrees"}
    for off in (data.assign(distance=1.01 * data["distance"]), data.where(data["x"] > -2)):
        assert "disagrees" in {row.verdict for row in FIGURES["3.2"].numbers(off)}
    whole = data["distance"].sel(depth=2.0)
    x, y = (float(data[name][k]) for name, k in (("x", 1), ("y", 3)))
    centre, point = jnp.asarray(_balls._points(np.array([_balls.CENTRE, x]), np.array([0.0, y])))
    mirrored = distance(centre, point, 2.0)
    assert_close(whole.sel(x=x, y=y).values, mirrored, INTEGRATION)
    assert_draws("3.2", data)


@pytest.mark.long
def test_curvature_changes_its_sign_where_the_closed_form_does(monkeypatch):
    monkeypatch.setattr(_curvature, "SIZES", (2, 3))
    data = FIGURES["3.3"].compute(KEY, 200)
    verdicts = lambda data: {row.verdict for row in FIGURES["3.3"].numbers(data)}
    assert verdicts(data) == {"agrees", "measured"}
    assert np.all(data["pair"].sel(depth=2.0) < 0) and float(data["pair"].sel(depth=3.0).max()) > 1e-3
    # The shallower the network, the larger the condition number of the sign change.
    assert np.all(np.diff(data["change"].dropna("inverse_depth")) > 0)
    for wrong in (
        data.assign(pair=data["pair"] * (1 + 1e-8)),
        data.assign(change=data["change"] + 1e-6),
        data.assign(pair=abs(data["pair"])),
        data.assign(plane=data["plane"] + 0.1),
    ):
        assert "disagrees" in verdicts(wrong)
    assert_draws("3.3", data)


@pytest.mark.long
def test_mean_of_networks_keeps_what_averages_of_entries_and_factors_lose(monkeypatch):
    monkeypatch.setattr(_means, "COUNT", 4)
    data = FIGURES["3.4"].compute(KEY, 2)
    verdicts = lambda data: {row.verdict for row in FIGURES["3.4"].numbers(data)}
    assert verdicts(data) == {"agrees", "measured"}
    ratios = np.exp(np.log(_means.kept(data)).mean(("seed", "mode")))
    assert ratios.sel(average="factors") < 0.7 < ratios.sel(average="N = 1") < ratios.sel(average="N = inf")
    assert_close(ratios.sel(average="N = inf"), 1.0, INTEGRATION)
    areas = dict(zip(data["average"].values, np.linalg.det(data["oval_mean"]), strict=True))
    assert areas["N = 1"] > areas["N = 2"] > areas["N = 3"] > 1.01
    for wrong in (
        data.assign(mean=1.001 * data["mean"]),
        data.assign(oval_mean=1.001 * data["oval_mean"]),
        data.assign(converged=data["converged"] & (data["depth"] > 1)),
        data.assign(minimum=data["minimum"] & (data["depth"] > 1)),
    ):
        assert "disagrees" in verdicts(wrong)
    assert_draws("3.4", data)


def test_curves_of_matrices_are_drawn_from_solutions_callables_and_arrays():
    turning = lambda t: np.stack([np.diag([1 + s, 2 - s]) for s in t])
    for curve in (turning, turning(np.linspace(0, 1, 5))):
        ax = plot.ellipses(curve, count=5, row=2.0)
        # An outline and an axis for each; the first is 1 wide and 2 high, and the largest .9 high.
        assert len(ax.lines) == 10
        x, y = ax.lines[0].get_data()
        assert np.ptp(x) == pytest.approx(0.45, abs=1e-3) and np.ptp(y) == pytest.approx(0.9, abs=1e-3)
        assert np.mean([y.min(), y.max()]) == pytest.approx(2.0, abs=1e-3)
        ax = plot.singular_value_curves(curve, label="turning", color="C1")
        assert_close(ax.lines[0].get_ydata()[[0, -1]], [2.0, 2.0], INTEGRATION)
        assert ax.lines[0].get_label() == "turning"
    with pytest.raises(ValueError, match="2 x 2 matrices, got 3 x 3"):
        plot.ellipses(np.ones((4, 3, 3)))
    with pytest.raises(ValueError, match=r"got shape \(3, 3\)"):
        plot.singular_value_curves(np.eye(3))


def test_colours_are_the_projects_own_and_in_given_axes_the_callers():
    turning = np.stack([np.diag([1 + s, 2 - s]) for s in np.linspace(0, 1, 5)])
    flow = xarray.Dataset({"effective_rank": ("time", [2.0, 1.5, 1.0])}, {"time": [0.0, 1.0, 2.0]})
    with plot.style():
        ours = matplotlib.rcParams["axes.prop_cycle"]
    assert ours != matplotlib.rcParams["axes.prop_cycle"]
    for draw, curve in ((plot.effective_rank, flow), (plot.ellipses, turning), (plot.singular_value_curves, turning)):
        for ax, cycle in ((None, ours), (Figure().subplots(), matplotlib.rcParams["axes.prop_cycle"])):
            # "C0" itself would be looked up when the picture is drawn, in the style of that moment.
            own = {"line": "C0"} if draw is plot.effective_rank else {}
            drawn = draw(curve, ax=ax, **own).lines[0].get_color()
            assert drawn == to_hex(cycle.by_key()["color"][0], keep_alpha=True)


@pytest.mark.long
def test_rank_is_a_u_shape_in_the_number_of_entries_seen(monkeypatch):
    monkeypatch.setattr(_sparsity, "EXPECTED", {1: "7.46", 25: "5.15", 75: "5.95", 90: "6.33", 99: "nan"})
    monkeypatch.setattr(_sparsity, "HORIZON", 30.0)
    data = FIGURES["4.4"].compute(KEY, 5)
    rows = numbers("4.4", data)
    limit = [rows[f"mean effective rank in the limit, K = {k}"].here for k in (1, 25, 90)]
    assert limit[0] > limit[1] + 0.5 and limit[2] > limit[1] + 0.5
    assert rows["mean effective rank at the start"].here > limit[0]
    # The fewer entries are seen, the sooner it rests.
    assert np.all(np.diff(data["converged"].mean(("run", "matrix"))) <= 0)
    assert_draws("4.4", data)


def test_entropy_makes_an_isotropic_matrix_at_every_depth_and_power():
    data = FIGURES["4.5a"].compute(KEY, 2)
    limit = data["sigma"].isel(time=-1)
    for p in data["p"].values:
        for depth in data["depth"].values:
            expected = (9 / 2 * (1 - 1 / depth)) ** (1 / p)
            assert_close(limit.sel(p=p, depth=depth), np.full((2, 10), expected), INTEGRATION)
    assert_close(limit.sel(p=2.0, depth=np.inf), np.full((2, 10), 2.1213203436), INTEGRATION)
    verdicts = lambda data: [row.verdict for row in FIGURES["4.5a"].numbers(data)]
    assert verdicts(data) == ["agrees", "agrees", "measured", "agrees", "measured"]
    assert verdicts(data.assign(sigma=0 * data["sigma"] + 1))[:4] == ["disagrees"] * 2 + ["measured", "disagrees"]
    assert_draws("4.5a", data)


@pytest.mark.long
def test_low_rank_needs_both_depth_and_small_starts(monkeypatch):
    monkeypatch.setattr(_phases, "STDS", (1e-3, 0.01, 0.1, 1.0))
    monkeypatch.setattr(_phases, "DEPTHS", (1.0, 2.0, np.inf))
    data = FIGURES["5.1"].compute(KEY, 5)
    limit = data["effective_rank"].isel(time=-1).mean("seed")
    assert limit.sel(std=1e-3, depth=np.inf) < 1.2
    assert limit.sel(std=1e-3, depth=1.0) > 9.9 and limit.sel(std=1.0, depth=np.inf) > 6
    assert np.all(limit.diff("depth") < 0)
    assert data["converged"].all()
    assert {row.verdict for row in FIGURES["5.1"].numbers(data)} == {"agrees", "measured"}
    assert_draws("5.1", data)


@pytest.mark.long
def test_descent_on_the_factors_converges_to_the_flow_and_depth_to_its_limit(monkeypatch):
    monkeypatch.setattr(_descent, "DEPTHS", (2, 3))
    monkeypatch.setattr(_descent, "STEPS", (50, 100, 200))
    monkeypatch.setattr(_descent, "FLOW_DEPTHS", (2.0, 3.0, 50.0, 200.0))
    data = FIGURES["5.2"].compute(KEY, 3)
    ratio = data["error"].isel(steps=1) / data["error"].isel(steps=2)
    assert np.all(abs(ratio - 2) < 0.1)
    distance = data["flow_to_infinity"]
    assert np.all(abs(distance.sel(flow_depth=50.0) / distance.sel(flow_depth=200.0) - 4) < 0.2)
    np.testing.assert_allclose(data["network_to_infinity"], distance[:2], rtol=0.05)
    assert {row.verdict for row in FIGURES["5.2"].numbers(data)} == {"agrees", "measured"}
    assert_draws("5.2", data)


@pytest.mark.long
def test_sensing_reaches_the_least_nuclear_norm_where_measurements_commute_alone(monkeypatch):
    monkeypatch.setattr(_sensing, "STDS", (1e-3, 0.1))
    data = FIGURES["5.3"].compute(KEY, 4)
    gap = _sensing._gap(data).mean("seed")
    assert np.all(gap.sel(case="commuting").diff("std") > 0)
    assert np.all(gap.sel(case="commuting", std=1e-3) < 0.05)
    assert np.all(gap.sel(case="generic", std=1e-3, depth=[3.0, np.inf]) > 0.03)
    rank = data["effective_rank"].sel(case="generic", std=1e-3, depth=np.inf).mean("seed")
    assert rank < data["rank_of_least"].sel(case="generic").mean() - 0.1
    rows = {name: row for name, row in numbers("5.3", data).items() if "gap" in name}
    assert not any(row.note for name, row in rows.items() if name.startswith("commuting"))
    assert all(("depth 2" in row.note) == name.endswith("N = 2") for name, row in rows.items() if row.note)
    # For diagonal measurements the minimiser solves a linear programme.
    for k, key in enumerate(jax.random.split(KEY, 4)):
        measurements, values, _ = _sensing.commuting(key)
        diagonal = np.diagonal(measurements[:3], axis1=1, axis2=2)
        least = linprog(np.ones(5), A_eq=diagonal, b_eq=values[:3]).fun
        assert_close(data["least_nuclear_norm"].sel(case="commuting")[k], least, 1e-6)
    assert_draws("5.3", data)


def test_figure_without_a_convex_solver_says_how_to_get_one(monkeypatch):
    monkeypatch.setattr(_sensing, "STDS", (1e-3, 0.1))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    data = FIGURES["5.3"].compute(KEY, 4)
    assert data["least_nuclear_norm"].isnull().all() and data["nuclear_norm"].notnull().all()
    gaps = [row for name, row in numbers("5.3", data).items() if "gap" in name]
    assert {row.verdict for row in gaps} == {"not measured"}
    assert all("pip install cvxpy" in row.note for row in gaps)
    with plot.style():
        axes = FIGURES["5.3"].draw(data).axes
    assert any("CVXPY" in text.get_text() for text in axes[0].texts)


def test_masks_see_exactly_as_many_entries_as_they_say(monkeypatch):
    seen = {}

    def record(energy, starts, ts, **options):
        seen["energy"] = energy
        raise StopIteration

    monkeypatch.setattr(_sparsity, "completion_flows", record)
    with pytest.raises(StopIteration):
        FIGURES["4.4"].compute(KEY, 15)
    counts = jnp.sum(seen["energy"].mask, axis=(-2, -1)).reshape(8, 3, 15)
    assert np.all(counts == np.array([99, 90, 75, 50, 25, 10, 5, 1])[:, None, None])
    labels = seen["energy"].labels
    assert jnp.max(jnp.abs(labels)) <= 2 and jnp.max(jnp.abs(labels)) > 1.9


def test_paths_are_longer_than_geodesics_and_the_more_so_in_deeper_networks(monkeypatch):
    monkeypatch.setattr(_lengths, "DEPTHS", (1.0, 2.0, np.inf))
    monkeypatch.setattr(_lengths, "EXPECTED", {0.1: ("1.05", "1.27"), 1.0: ("1.02", "1.08")})
    data = FIGURES["5.11"].compute(KEY, 10)
    rows = numbers("5.11", data)
    assert {row.verdict for row in rows.values()} == {"agrees", "measured"}
    assert abs(rows["median of length over distance, N = 1, std 0.1"].here - 1) < 1e-6
    assert rows["share of starts with a larger ratio at depth infinity than 2, std 0.1"].here == 1
    for wrong in (
        # Lengths of the thesis, at depth 2, over distances of dlnjax.
        data.assign(length=data["length"] / np.sqrt(2)),
        data.assign(distance=data["distance"].where(data["seed"] > 0)),
        data.assign(converged=data["converged"] & (data["seed"] > 0)),
    ):
        assert "disagrees" in {row.verdict for row in FIGURES["5.11"].numbers(wrong)}
    assert_draws("5.11", data)
