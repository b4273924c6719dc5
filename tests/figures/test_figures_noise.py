"""The laws that each figure of the noise shows, on fewer paths and smaller matrices."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad
from support.tolerances import ALGEBRA, assert_close, INTEGRATION
from test_figures import assert_draws, numbers

from dlnjax import effective_rank, entropy, Noise
from dlnjax.figures import _brownian, _temperature, _thermal, _upstairs, FIGURES

pytestmark = [pytest.mark.slow, pytest.mark.long]
KEY = jax.random.key(13)


def verdicts(name, data):
    return {row.verdict for row in FIGURES[name].numbers(data)}


def test_brownian_motion_has_its_exact_laws_at_every_depth(monkeypatch):
    data = FIGURES["5.7"].compute(KEY, 600)
    rows = numbers("5.7", data)
    assert {row.verdict for row in rows.values()} == {"agrees"}
    # What is expected is exact, but for a share of very many draws.
    assert all(row.expected_error <= 0.1 * row.standard_error for row in rows.values() if row.standard_error)
    # The law depends on the depth.
    shallower = numbers("5.7", data.assign(y=data["y"].roll(depth=1, roll_coords=False)))
    assert all(row.verdict == "disagrees" for name, row in shallower.items() if "p-value" in name and "y_1" in name)
    for wrong in (
        data.assign(square=1.3 * data["square"]),
        data.assign(flipped=~data["flipped"].astype(bool)),
        data.assign(growth=1.1 * data["growth"]),
        data.assign(finished=data["finished"] & (data["path"] > 0)),
    ):
        assert "disagrees" in verdicts("5.7", wrong)
    assert_draws("5.7", data)
    # Some authors write sqrt(1/beta) for the size of the noise, which is half the temperature.
    monkeypatch.setattr(_brownian, "Noise", lambda key, beta, dt: Noise(key, 2 * beta, dt))
    colder = numbers("5.7", FIGURES["5.7"].compute(KEY, 600))
    assert all(row.verdict == "disagrees" for name, row in colder.items() if "y_1" in name or "growth" in name)


def test_exact_law_of_brownian_motion_starts_where_the_paths_do_and_has_its_second_moment():
    rng = np.random.default_rng(0)
    for depth in _brownian.DEPTHS:
        y0 = _brownian.coordinate(_brownian.SIGMA, depth)
        y, flipped = _brownian.exact(rng, depth, 0.0, 2)
        assert_close(y, np.broadcast_to(y0, (2, 3)), INTEGRATION)
        assert_close(_brownian.sigma_at(y0, depth), _brownian.SIGMA, INTEGRATION)
        assert not flipped.any()
        grown = np.sum(_brownian.exact(rng, depth, 0.3, 20_000)[0] ** 2, axis=1) - np.sum(y0**2)
        assert abs(grown.mean() - 0.3 * _brownian.rate(depth)) < 4 * grown.std() / np.sqrt(20_000)


def test_thermal_state_is_kept_and_reached_and_has_the_rank_of_its_law(monkeypatch):
    monkeypatch.setattr(_thermal, "SIZES", (4, 8, 16))
    monkeypatch.setattr(_thermal, "LARGE", 4)
    monkeypatch.setattr(_thermal, "RELAXED", 4)
    monkeypatch.setattr(_thermal, "DEPTHS", (1.0, 2.0, 3.0))
    data = FIGURES["5.10"].compute(KEY, 60)
    rows = numbers("5.10", data)
    assert all(row.expected_error < row.standard_error for row in rows.values() if row.standard_error)
    # Far from the limit of large d the line in 1/d does not reach it. All else is as at any size.
    assert {row.verdict for name, row in rows.items() if "as d grows" not in name} == {"agrees"}
    assert all(abs(row.here - row.expected) < 0.05 for name, row in rows.items() if "as d grows" in name)
    later = data["time"] > 0
    for wrong in (
        data.assign(rank=data["rank"].where(~later, 1.1 * data["rank"])),
        data.assign(exact=1.1 * data["exact"]),
        data.assign(relaxing=1.1 * data["relaxing"]),
        data.assign(finished=data["finished"] & (data["any_path"] > 0)),
    ):
        assert "disagrees" in verdicts("5.10", wrong)
    start = data["relaxing"].isel(trace=0)
    assert_close(start.sel(start="isotropic"), np.full((3, 30), 4.0), INTEGRATION)
    assert np.all(start.sel(start="near rank one", depth=3.0) < 1.1)
    assert_draws("5.10", data)
    # The effective rank in equilibrium is the same at any temperature. The way into it is not.
    monkeypatch.setattr(_thermal, "Noise", lambda key, beta, dt: Noise(key, 2 * beta, dt))
    colder = numbers("5.10", FIGURES["5.10"].compute(KEY, 60))
    assert all(row.verdict == "disagrees" for name, row in colder.items() if name.startswith("into equilibrium"))


def test_limit_of_the_rank_is_that_of_a_quarter_circle():
    circle = lambda y: np.sqrt(4 - y**2) / np.pi
    for depth, printed in zip(_thermal.DEPTHS, re.findall(r"0\.\d{4}", FIGURES["5.10"].text), strict=True):
        moment = quad(lambda y, N=depth: y**N * circle(y), 0, 2, epsabs=1e-12)[0]
        surprise = quad(lambda y, N=depth: y**N * N * np.log(y) * circle(y), 0, 2, epsabs=1e-12)[0]
        assert_close(_thermal.limit(depth), moment * np.exp(-surprise / moment), INTEGRATION)
        assert f"{_thermal.limit(depth):.4f}" == printed
        y = np.array([[3.0, 1.0, 0.5], [1.0, 1.0, 0.0]])
        assert_close(_thermal.rank_of(y, depth), effective_rank(jnp.asarray((y / depth) ** depth)), INTEGRATION)


def test_noise_on_the_factors_has_the_law_with_the_entropy(monkeypatch):
    monkeypatch.setattr(_upstairs, "DT", {"upstairs": 0.05, "downstairs": 0.1})
    data = FIGURES["5.8"].compute(KEY, 600)
    rows = numbers("5.8", data)
    assert {row.verdict for row in rows.values()} == {"agrees"} and not any(row.expected_error for row in rows.values())
    # Neither the law without the entropy nor that of the other depth passes.
    without = numbers("5.8", data.assign(law=data["law"].roll(entropic=1, roll_coords=False)))
    other = numbers("5.8", data.assign(law=data["law"].roll(depth=1, roll_coords=False)))
    for wrong in (without, other):
        assert all(row.verdict == "disagrees" for name, row in wrong.items() if "p-value of y_1" in name)
    assert "disagrees" in verdicts("5.8", data.assign(finished=data["finished"] & (data["path"] > 0)))
    assert_draws("5.8", data)
    monkeypatch.setattr(_upstairs, "Noise", lambda key, beta, dt, gauge=False: Noise(key, 2 * beta, dt, gauge))
    colder = numbers("5.8", FIGURES["5.8"].compute(KEY, 600))
    assert all(row.verdict == "disagrees" for name, row in colder.items() if "p-value" in name)


def test_density_with_the_entropy_is_that_of_the_library_and_without_it_that_of_a_gaussian_matrix():
    rng = np.random.default_rng(0)
    ends = np.linspace(0, _upstairs.FARTHEST, _upstairs.CELLS + 1)
    middle = (ends[:-1] + ends[1:]) / 2
    law = _upstairs.density(2, False)
    y = np.linalg.svd(rng.standard_normal((20_000, 2, 2)) / np.sqrt(_upstairs.BETA), compute_uv=False)
    for k in (0, 1):
        assert _upstairs.kolmogorov_smirnov(y[:, k], ends, np.append(0, np.cumsum(law.sum(1 - k))))[1] > 0.01
    i, j = np.array([900, 500, 300]), np.array([200, 499, 10])
    sigma = (np.stack([middle[i], middle[j]], 1) / 3) ** 3
    ratio = _upstairs.density(3, True)[i, j] / law[i, j] / np.exp(np.asarray(entropy(jnp.asarray(sigma), 3.0)))
    assert_close(ratio / ratio[0], np.ones(3), INTEGRATION)


@pytest.mark.optimised
def test_completion_keeps_its_equilibrium_and_drifts_without_one(monkeypatch):
    data = FIGURES["5.9"].compute(KEY, 40)
    rows = numbers("5.9", data)
    still = {name: row for name, row in rows.items() if "equilibrium" in name}
    assert len(still) == 20 and {row.verdict for row in still.values()} == {"agrees"}
    assert rows["paths that ended before the last time"].verdict == "agrees"
    for name, row in rows.items():
        if "rate of growth" in name:
            assert row.here > 3 * row.standard_error and row.verdict in ("agrees", "explained")
    # Noise lowers the rank, the deeper the more, and gauge noise raises it in part.
    exact = data["exact"]
    assert np.all(exact.diff("beta") > 0) and np.all(exact.diff("depth") < 0) and np.all(exact.diff("gauge") > 0)
    for wrong in (
        data.assign(rank=data["rank"] - 0.15),
        data.assign(exact=data["exact"].roll(depth=1, roll_coords=False)),
        data.assign(finished=data["finished"] & (data["any_path"] > 0)),
    ):
        assert "disagrees" in verdicts("5.9", wrong)
    assert_draws("5.9", data)
    monkeypatch.setattr(_temperature, "BETAS", (30.0,))
    monkeypatch.setattr(_temperature, "TRACE", np.array([0.0, 0.1]))
    monkeypatch.setattr(_temperature, "Noise", lambda key, beta, dt, gauge: Noise(key, beta / 4, dt, gauge))
    warmer = numbers("5.9", FIGURES["5.9"].compute(KEY, 40))
    assert all(row.verdict == "disagrees" for name, row in warmer.items() if "equilibrium" in name)


@pytest.mark.parametrize(("depth", "gauge"), [(2.0, False), (3.0, True)])
def test_equilibrium_of_completion_is_that_of_a_grid_over_the_four_entries(depth, gauge):
    """The density is exp(-beta E) in the volume of the metric, prod lambda_kl^(-1/2), in the entries of X."""
    beta, points = 10.0, 40
    width = 4.5 / np.sqrt(beta * _temperature.RIDGE)
    cells = (np.arange(points) + 0.5) * 2 / points - 1
    # The grid has no matrix of determinant 0, where the density is infinite and integrable.
    on, off = 0.8 + width * cells, width * (cells + 0.01)
    a, b, c, e = np.meshgrid(on, off, off, on, indexing="ij", sparse=True)
    square, det = a**2 + b**2 + c**2 + e**2, abs(a * e - b * c)
    first = np.sqrt((square + np.sqrt(np.maximum(square**2 - 4 * det**2, 0))) / 2)
    second = det / first
    mixed = (first**2 - second**2) / (first ** (2 / depth) - second ** (2 / depth))
    volume = (first * second) ** (1 / depth - 1) / mixed * (np.sqrt(mixed) if gauge else 1)
    energy = (a - 1) ** 2 + (e - 1) ** 2 + _temperature.RIDGE / 2 * square
    assert_close(_temperature.energy()(jnp.array([[on[3], off[5]], [off[7], on[9]]])), energy[3, 5, 7, 9], ALGEBRA)
    weight = np.exp(-beta * energy) * volume
    by_entries = np.sum(weight * _temperature.rank_of(first, second)) / weight.sum()
    grid = _temperature.Grid.at(depth, beta, gauge)
    assert abs(grid.mean_rank() - by_entries) < 5e-3
    n = 800
    draws = grid.draws(np.random.default_rng(1), n)
    ranks = effective_rank(jnp.linalg.svd(jnp.asarray(draws), compute_uv=False))
    assert abs(ranks.mean() - by_entries) < 4 * ranks.std() / np.sqrt(n)
    sigma, finished = _temperature.followed(draws, np.repeat(depth, n), beta, gauge, KEY, (0.0, 4.0, 8.0))
    later = _temperature.rank_of(*np.moveaxis(sigma[:, 1:], -1, 0)).mean(1)
    assert finished.all() and abs(later.mean() - by_entries) < 3 * later.std() / np.sqrt(n)
