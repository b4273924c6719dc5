"""The phenomenon that each figure of rectangular and imbalanced networks shows, on few seeds and small tables."""

import jax
import numpy as np
import pytest
from support.tolerances import assert_close, INTEGRATION
from test_figures import assert_draws, numbers

from dlnjax.figures import _lazy, _ratings, _teacher, FIGURES

pytestmark = [pytest.mark.slow, pytest.mark.long]
KEY = jax.random.key(11)


def test_teacher_is_learnt_mode_by_mode_as_the_exact_solutions_say():
    data = FIGURES["5.4"].compute(KEY, 2)
    rows = FIGURES["5.4"].numbers(data)
    assert {row.verdict for row in rows} == {"agrees", "measured"}
    # One layer forgets the size of the start, and learns all modes at one rate.
    exact = data["exact_time"].sel(level=0.5)
    assert np.ptp(exact.sel(depth=1.0).values) < 0.05 < np.ptp(exact.sel(depth=2.0).values)
    assert np.all(exact.diff("depth").sel(mode=0.5) > 0)
    assert_close(_teacher.time_to(1.0, 2.0, 2.0), np.log(2.0 / _teacher.SIGMA - 1) / 2, INTEGRATION)
    slower = data.assign(aligned=data["aligned"].shift(time=1, fill_value=0.0))
    assert "disagrees" in {row.verdict for row in FIGURES["5.4"].numbers(slower)}
    # The random column space at infinite depth holds a part of each mode only.
    end = data["random"].isel(time=-1)
    assert np.all(end.sel(depth=2.0) > 0.99 * end["mode"]) and np.all(end.sel(depth=np.inf, mode=4.0) < 3.9)
    assert_draws("5.4", data)


def test_imbalance_leads_from_rich_to_lazy(monkeypatch):
    monkeypatch.setattr(_lazy, "IMBALANCES", (0.0, 0.1, 1e3))
    data = FIGURES["5.5"].compute(KEY, 3)
    rows = numbers("5.5", data)
    assert {row.verdict for row in rows.values()} == {"agrees", "measured"}
    for of_cell in (data["kernel_change"].sel(task="all"), data["moved"].sel(task="some")):
        assert np.all(of_cell.diff("imbalance") < 0)
    assert np.all(data["rank_at_half"].diff("imbalance") > 0)
    assert np.all(data["moved"].sel(imbalance=1e3) < 1.001) and data["converged"].all()
    wrong = data.assign(kernel_change=2 * data["kernel_change"], deviation=data["deviation"] + 1)
    assert "disagrees" in {row.verdict for row in FIGURES["5.5"].numbers(wrong)}
    assert_draws("5.5", data)


def test_change_of_the_kernel_is_that_of_the_operator():
    rng = np.random.default_rng(0)
    before, after = rng.normal(size=(2, 4, 3))
    for g in (0.0, 0.7, -1.3):
        kernels = []
        for x in (before, after):
            u, sigma, vt = np.linalg.svd(x, full_matrices=False)
            f = np.sqrt(sigma**2 + g**2 / 4)
            w1, w2 = np.sqrt(f + g / 2)[:, None] * vt, u * np.sqrt(f - g / 2)
            assert_close(w2 @ w1, x, INTEGRATION)
            kernels.append(np.kron(w2 @ w2.T, np.eye(3)) + np.kron(np.eye(4), w1.T @ w1))
        expected = np.linalg.norm(kernels[1] - kernels[0]) / np.linalg.norm(kernels[0])
        assert_close(_lazy.kernel_change(before, after, g), expected, INTEGRATION)


def test_completion_stops_at_the_noise_where_the_rank_is_known_and_learns_nothing_in_random_frames(monkeypatch):
    monkeypatch.setattr(_ratings, "RANK", 2)
    monkeypatch.setattr(_ratings, "CARRIED", (2, 8))
    data = FIGURES["5.6"].compute(KEY, 40)
    rows = numbers("5.6", data)
    assert {row.verdict for row in rows.values()} == {"agrees", "measured"}
    assert data.attrs["shape"] == "40 x 71"
    wrong = data.assign(error=1.5 * data["error"])
    assert "disagrees" in {row.verdict for row in FIGURES["5.6"].numbers(wrong)}
    assert_draws("5.6", data)


def test_nuclear_norm_found_by_soft_impute_has_its_certificate(monkeypatch):
    rng = np.random.default_rng(3)
    seen, held = _ratings.ratings(rng, 30)
    assert not set(zip(*seen[:2], strict=True)) & set(zip(*held[:2], strict=True))
    monkeypatch.setattr(_ratings, "PENALTIES", (8.0, 4.0))
    monkeypatch.setattr(_ratings, "STEPS", 300)
    *_, (u, sigma, v) = _ratings.least_nuclear_norm(seen, rng)
    noise = _ratings.NOISE * sum(np.sqrt(len(seen.rows) / np.array(seen.shape)))
    slope = seen.matrix(seen.values - seen.at(u, sigma, v)).toarray() / (4.0 * noise)
    # The gradient over the penalty is a subgradient of the norm: U V^T on the support, and at most 1 beyond.
    kept = sigma > 0
    assert kept.any() and np.linalg.norm(slope, 2) < 1 + 1e-6
    assert_close(u[:, kept].T @ slope @ v[:, kept], np.eye(kept.sum()), 1e-6)


def test_alternating_least_squares_fits_a_table_of_its_rank(monkeypatch):
    monkeypatch.setattr(_ratings, "NOISE", 0.0)
    monkeypatch.setattr(_ratings, "RANK", 2)
    monkeypatch.setattr(_ratings, "RIDGES", (1.0, 1e-9))
    monkeypatch.setattr(_ratings, "SWEEPS", 30)
    rng = np.random.default_rng(4)
    seen, held = _ratings.ratings(rng, 40)
    *_, point = _ratings.alternating_least_squares(seen, 2, rng)
    assert held.error(point) < 1e-6
