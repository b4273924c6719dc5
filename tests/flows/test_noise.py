"""The Riemannian Langevin equation: exact laws, stationary laws, means, limits, derivatives and bad input."""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from scipy import stats
from scipy.linalg import expm
from support.noise import gaussian_spectrum, many, p_values, straight
from support.tolerances import ALGEBRA, assert_close, FINITE_DIFFERENCE

import dlnjax as dln
from dlnjax._flows import langevin, rotations
from dlnjax._geometry.levi_civita import bracket
from dlnjax._noise import Free, standard_normal
from dlnjax._sweeps.folder import Store

X0 = jnp.array([[1.0, 0.3], [-0.2, 0.5]])
ENERGY = dln.MatrixCompletion.diagonal(2)
TS = [0.0, 0.5, 1.0]
DEPTHS = [1.0, 2.0, 3.0, 8.0, 24.0, jnp.inf]
STARTS = {
    "generic": np.array([[1.0, 0.3, -0.4], [-0.2, 0.5, 0.1], [0.3, 0.8, -0.9]]),
    "repeated": np.eye(3),
    "ill-conditioned": np.diag([2.0, 1.0, 1e-6]),
}
# A test of Kolmogorov and Smirnov with a smaller p-value has failed. All draws are fixed by their keys.
LEAST = 0.01
PATHS = 20_000


def noise(key, beta=5.0, dt=0.1, **options):
    return dln.Noise(key, beta, dt, **options)


def test_a_path_does_not_depend_on_which_times_are_saved_nor_on_the_batch(key):
    all_times = dln.gradient_flow(ENERGY, X0, depth=2, ts=TS, noise=noise(key))
    ends = dln.gradient_flow(ENERGY, X0, depth=2, ts=[0.0, 1.0], noise=noise(key))
    np.testing.assert_array_equal(all_times.x[-1], ends.x[-1])
    assert int(ends.stats["steps"]) == 10 and ends.dt == 0.1 and ends.beta == 5.0


@pytest.mark.long
def test_seeds_of_a_sweep_are_those_of_a_smaller_sweep_and_of_single_paths(key):
    starts = jnp.stack([X0] * 10)
    run = lambda starts, **options: dln.sweep(
        ENERGY, starts, depth=2, ts=TS, noise=noise(key), progress=False, **options
    )
    ten, three, chunks = run(starts), run(starts[:3]), run(starts, chunk=4)
    alone = dln.gradient_flow(ENERGY, X0, depth=2, ts=TS, noise=noise(jax.random.fold_in(key, 7)))
    assert_close(three.x, ten.x[:3], ALGEBRA)
    assert_close(chunks.x, ten.x, ALGEBRA)
    assert_close(alone.x, ten.x[7], ALGEBRA)
    assert len({float(x) for x in ten.x[:, -1, 0, 0]}) == 10


def test_a_sweep_into_a_folder_goes_on_with_the_same_bits(key, tmp_path, monkeypatch):
    starts = jnp.stack([X0] * 4)
    run = lambda name, beta=5.0: dln.sweep(
        ENERGY, starts, depth=2, ts=TS, noise=noise(key, beta), progress=False, chunk=2, folder=tmp_path / name
    )
    whole = run("whole").load()
    write, written = Store.write, []

    def killed(self, *args):
        if written:
            raise KeyboardInterrupt
        written.append(write(self, *args))

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Store, "write", killed)
        run("resumed")
    xr_equal = run("resumed").load().identical(whole)
    assert xr_equal and np.unique(whole.sigma.values[:, -1, 0]).size == 4
    with pytest.raises(ValueError, match="noise differ"):
        run("whole", beta=6.0)
    alone = dln.gradient_flow(ENERGY, X0, depth=2, ts=TS, noise=noise(jax.random.fold_in(key, 3)))
    assert_close(alone.sigma, whole.sigma.values[3], ALGEBRA)


def test_at_depth_one_without_energy_the_noise_is_added(key):
    sol = dln.gradient_flow(None, X0, depth=1, ts=[0.0, 0.2], noise=noise(key))
    draws = [jax.random.normal(jax.random.fold_in(key, j), (5, 2, 2))[0] for j in range(2)]
    assert_close(sol.x[-1], X0 + np.sqrt(2 * 0.1 / 5) * (draws[0] + draws[1]), ALGEBRA)
    assert sol.energy_name == "none" and np.all(sol.energy == 0)


def test_rates_and_force_are_those_of_the_kernel(key):
    sigma = jnp.array([3.0, 1.1, 1.1, 1e-3])
    g = jax.random.normal(key, (4, 4))
    energy = lambda x: jnp.sum(g * x)
    eye = jnp.eye(4)
    for depth in (2.0, 3.5, 11.0, 1e9):
        kernel, deep = dln.Balanced(depth), depth > 10
        equation = langevin.Langevin(energy, kernel, jnp.asarray(2.0), False, deep)
        state = equation.enter(dln.SVD(eye, sigma, eye))
        assert_close(equation.point(state).sigma, sigma, 1e-11)
        lam, y = dln.metric_eigenvalues(sigma, kernel), straight(sigma, depth)
        plus, minus = sigma[:, None] + sigma, sigma[:, None] - sigma
        common, relative = equation.rates(state.y)
        off = np.abs(minus) > 0
        gap = y[:, None] - y
        expected = lam / jnp.where(off, minus, 1) ** 2 - 1 / np.where(off, gap, 1) ** 2
        np.testing.assert_allclose(common[off], expected[off], rtol=1e-5)
        np.testing.assert_allclose(relative, lam / plus**2 - 1 / (y[:, None] + y) ** 2, rtol=1e-7)
        force = equation.force(state)
        force, turns = force.inside, force.left
        sym, anti = (g + g.T) / 2, (g - g.T) / 2
        np.testing.assert_allclose(force[off] + force.T[off], -2 * (lam / minus * gap * sym)[off], rtol=1e-5)
        moved = turns if deep else (force - force.T) / 2 / (y[:, None] + y)
        np.testing.assert_allclose(moved, -lam / plus * anti, rtol=1e-7, atol=1e-12)
        np.testing.assert_allclose(jnp.diagonal(force), -jnp.sqrt(jnp.diagonal(lam)) * jnp.diagonal(g), rtol=1e-9)


@pytest.mark.long
@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("depth", DEPTHS)
def test_values_without_energy_have_the_exact_law_in_two_steps(depth, start, key):
    x0, beta, t = STARTS[start], 2.0, 0.2
    sol = many(None, jnp.asarray(x0), depth, [0.0, t], PATHS, noise(key, beta, 0.1))
    assert np.all(sol.result == "successful")
    y0 = straight(np.linalg.svd(x0, compute_uv=False), depth)
    exact = gaussian_spectrum(np.random.default_rng(1), y0, np.sqrt(2 * t / beta), depth, PATHS)
    assert min(p_values(straight(sol.sigma[:, -1], depth), exact)) > LEAST / (3 * len(DEPTHS) * len(STARTS))
    if np.isinf(depth):
        # The mean of X depends on the frames too: E X_t = e^(t/beta) X_0.
        x = np.asarray(sol.x[:, -1])
        z = (x.mean(0) - np.exp(t / beta) * x0) / (x.std(0) / np.sqrt(PATHS))
        assert np.max(np.abs(z)) < 4
    else:
        # E sum y^2 grows by 2 t D/beta.
        total = np.sum(straight(sol.sigma[:, -1], depth) ** 2, axis=1)
        z = (total.mean() - np.sum(y0**2) - 2 * t * 9 / beta) / (total.std() / np.sqrt(PATHS))
        assert abs(z) < 4


def stationary(depth, energy, key, t=5.0, dt=0.05, beta=2.0, **options):
    sol = many(energy, X0, depth, [0.0, t], PATHS, noise(key, beta, dt, **options))
    assert np.mean(sol.result == "successful") > 0.999
    return straight(sol.sigma[sol.result == "successful", -1], depth)


@pytest.mark.long
@pytest.mark.optimised
@pytest.mark.parametrize("depth", [2.0, 3.0, jnp.inf])
def test_weight_decay_has_a_gaussian_matrix_for_its_stationary_law(depth, key):
    power = (lambda s: jnp.log(s) ** 2 / 2) if np.isinf(depth) else (lambda s: depth**2 * s ** (2 / depth) / 2)
    y = stationary(depth, dln.SpectralEnergy(power), key)
    exact = gaussian_spectrum(np.random.default_rng(2), np.zeros(2), np.sqrt(1 / 2.0), depth, PATHS)
    assert min(p_values(y, exact)) > LEAST / 6


@pytest.mark.long
@pytest.mark.optimised
@pytest.mark.parametrize(("depth", "gauge"), [(2.0, False), (3.0, True), (jnp.inf, True)])
def test_stationary_law_of_a_spectral_energy_is_that_of_quadrature(depth, gauge, key):
    """The density is exp(-beta E) V in y, and with gauge noise V times the root of prod lambda_kl, which is e^S."""
    beta = 2.0
    y_of = jnp.log if np.isinf(depth) else lambda s: depth * s ** (1 / depth)
    well = lambda s: y_of(s) ** 2 / 2 + 2 * s / (1 + s)
    y = stationary(depth, dln.SpectralEnergy(well), key, gauge=gauge, beta=beta)
    grid = np.linspace(-6.0 if np.isinf(depth) else 0.0, 6.0, 1202)[1:-1]
    sigma = np.exp(grid) if np.isinf(depth) else (grid / depth) ** depth
    a, b = np.meshgrid(grid, grid, indexing="ij")
    volume = (a - b) if np.isinf(depth) else (a**2 - b**2)
    energy = np.asarray(well(jnp.asarray(sigma)))
    density = np.where(a > b, volume, 0.0) * np.exp(-beta * (energy[:, None] + energy))
    if gauge:
        pairs = np.stack(np.meshgrid(sigma, sigma, indexing="ij"), axis=-1)
        density = density * np.exp(np.asarray(dln.entropy(jnp.asarray(pairs), depth)))
    for k in range(2):
        marginal = np.cumsum(density.sum(axis=1 - k))
        law = lambda x, marginal=marginal: np.interp(x, grid, marginal / marginal[-1])
        assert stats.ks_1samp(y[:, k], law).pvalue > LEAST / 6


@pytest.mark.long
@pytest.mark.parametrize("depth", [2.0, jnp.inf])
def test_without_noise_the_path_is_the_gradient_flow_to_second_order(depth, key):
    exact = dln.gradient_flow(ENERGY, X0, depth=depth, ts=[0.0, 2.0], rtol=1e-12).x[-1]
    errors = []
    for dt in (0.2, 0.1, 0.05):
        path = dln.gradient_flow(ENERGY, X0, depth=depth, ts=[0.0, 2.0], noise=noise(key, 1e30, dt))
        errors.append(float(jnp.linalg.norm(path.x[-1] - exact)))
    rates = np.log2(np.array(errors[:-1]) / errors[1:])
    assert errors[-1] < 1e-3 and np.all(np.abs(rates - 2) < 0.3)
    # The distance from the flow is of the order of beta^(-1/2).
    near = [
        dln.gradient_flow(ENERGY, X0, depth=depth, ts=[0.0, 2.0], noise=noise(key, b, 0.05)).x[-1] for b in (1e6, 1e8)
    ]
    far = [float(jnp.linalg.norm(x - path.x[-1])) for x in near]
    assert 9 < far[0] / far[1] < 11


BROKEN = {
    # The drift of Ito is what makes values repel each other.
    "no repulsion": ("decompose", lambda self, z: (jnp.eye(3), jnp.diagonal(z), jnp.eye(3)), "law"),
    "half the temperature": ("move", None, "law"),
    "no rotation of the frame": ("turn", lambda self, state, h, draw, other: state, "mean"),
}


@pytest.mark.long
@pytest.mark.parametrize("name", BROKEN)
def test_broken_integrators_are_seen(name, key, monkeypatch):
    method, broken, seen = BROKEN[name]
    if broken is None:
        move = langevin.Langevin.move
        broken = lambda self, state, h, draw, more: move(self, state, h / 2, draw, more)
    monkeypatch.setattr(langevin.Langevin, method, broken)
    x0, beta, t = np.diag([1.2, 1.0, 0.8]), 2.0, 0.2
    # A program of another test, whole or broken otherwise, is not taken, and this one is not left to others.
    jax.clear_caches()
    sol = many(None, jnp.asarray(x0), jnp.inf, [0.0, 0.1, t], PATHS, noise(key, beta, 0.1))
    jax.clear_caches()
    exact = gaussian_spectrum(np.random.default_rng(1), np.log(np.diagonal(x0)), np.sqrt(2 * t / beta), np.inf, PATHS)
    if seen == "law":
        assert min(p_values(np.log(np.sort(sol.sigma[:, -1])[:, ::-1]), exact)) < 1e-6
    else:
        x = np.asarray(sol.x[:, -1])
        z = (x.mean(0) - np.exp(t / beta) * x0) / (x.std(0) / np.sqrt(PATHS))
        assert np.max(np.abs(z)) > 6


@pytest.mark.long
@pytest.mark.parametrize("depth", [1.0, 2.0, 20.0, jnp.inf])
def test_derivatives_for_a_fixed_key_are_those_of_differences(depth, key):
    def end(x0, beta, width, n):
        energy = lambda x: width * jnp.sum((x - jnp.eye(2)) ** 2) / 2
        sol = dln.gradient_flow(energy, x0, depth=n, ts=[0.0, 0.3, 1.0], noise=noise(key, beta, 0.1))
        return jnp.sum(jnp.cos(sol.x[-1])) + sol.energy[1]

    args, move = (X0, 5.0, 1.0, depth), (jnp.array([[0.3, -0.2], [0.5, 0.1]]), 1.0, 1.0, 1.0)
    smooth = 1 < depth < np.inf
    some = range(4 if smooth else 3)
    slopes = jax.grad(end, tuple(some))(*args)
    for k, slope in zip(some, slopes, strict=True):
        at = lambda e, k=k: end(*(a + e * b if i == k else a for i, (a, b) in enumerate(zip(args, move, strict=True))))
        assert_close(jnp.sum(slope * move[k]), (at(1e-5) - at(-1e-5)) / 2e-5, FINITE_DIFFERENCE)
    assert_close(jax.jvp(lambda x: end(x, *args[1:]), (X0,), move[:1])[1], jnp.sum(slopes[0] * move[0]), ALGEBRA)


def test_a_step_too_long_for_the_energy_is_said(key):
    stiff = lambda x: 30.0 * jnp.sum(x**2)
    sol = dln.gradient_flow(stiff, X0, depth=2, ts=TS, noise=noise(key), throw=False)
    assert sol.result == "dt_too_long" and sol.t_end == 0 and np.all(np.isfinite(sol.x))
    with pytest.raises(RuntimeError, match="lower `dt`"):
        dln.gradient_flow(stiff, X0, depth=2, ts=TS, noise=noise(key))


@pytest.mark.long
def test_a_fitting_step_ends_no_path(key):
    """The force after a step is compared with that before in one frame, and with the usual size of the noise."""
    x0 = jnp.array([[1.0, 0.02], [-0.02, 1.0]])
    sol = many(ENERGY, x0, jnp.inf, [0.0, 4.0], 400, noise(key, 50.0, 0.2))
    assert np.mean(sol.result == "successful") > 0.99


def test_the_determinant_changes_its_sign_as_often_as_is_counted(key):
    sol = dln.gradient_flow(None, X0 / 5, depth=2, ts=np.linspace(0.0, 3.0, 31), noise=noise(key, 1.0))
    signs = np.sign(np.linalg.det(np.asarray(sol.x)))
    assert np.sum(signs[1:] != signs[:-1]) == int(sol.stats["crossings"]) > 0


def test_saving_keeps_what_noise_adds(key, tmp_path):
    sol = dln.gradient_flow(ENERGY, X0, depth=2, ts=TS, noise=noise(key))
    sol.save(tmp_path / "path.nc")
    back = dln.load(tmp_path / "path.nc")
    assert back.beta == 5.0 and back.dt == 0.1 and "crossings" in back.stats
    np.testing.assert_array_equal(back.x, sol.x)


def test_observe_sees_the_path(key):
    sol = dln.gradient_flow(ENERGY, X0, depth=2, ts=TS, noise=noise(key), observe=lambda p: p.matrix[0, 0])
    full = dln.gradient_flow(ENERGY, X0, depth=2, ts=TS, noise=noise(key))
    assert_close(sol.observed, full.x[:, 0, 0], ALGEBRA)
    assert_close(sol.effective_rank, full.effective_rank, ALGEBRA)


KEY = jax.random.key(0)
DOOR = [
    (lambda: dln.Noise(KEY, 0.0, 0.1), ValueError, "beta must be a finite number above 0"),
    (lambda: dln.Noise(KEY, jnp.inf, 0.1), ValueError, "beta must be a finite number above 0"),
    (lambda: dln.Noise(KEY, jnp.nan, 0.1), ValueError, "beta must be a finite number above 0"),
    (lambda: dln.Noise(KEY, 1.0, -0.1), ValueError, "dt must be a finite number above 0"),
    (lambda: dln.Noise(None, 1.0, 0.1), TypeError, "key must be a key"),
    (lambda: dln.Noise(3, 1.0, 0.1), TypeError, "key must be a key"),
    (lambda: dln.Noise(jax.random.split(KEY), 1.0, 0.1), ValueError, "array of keys of shape"),
    (lambda: dln.Noise(KEY, 1.0, 0.1, gauge="yes"), TypeError, "gauge must be True or False"),
    (lambda: dln.gradient_flow(None, X0, ts=TS), TypeError, "Brownian motion needs noise"),
    (lambda: dln.sweep(None, X0[None], ts=TS), TypeError, "Brownian motion needs noise"),
    (lambda: dln.gradient_flow(None, X0, ts=TS, noise=0.1), TypeError, "noise must be dlnjax.Noise"),
    (lambda: flow(rtol=1e-8), ValueError, "rtol has no meaning beside noise"),
    (lambda: flow(atol=1e-8, coordinates="matrix"), ValueError, "atol, coordinates has no meaning beside noise"),
    (lambda: flow(stop=dln.Steady(1e-6)), ValueError, "stop has no meaning beside noise"),
    (lambda: flow(depth=dln.Imbalanced(0.5)), ValueError, "noise is there for balanced networks"),
    (
        lambda: flow(x0=jnp.ones((2, 2))),
        ValueError,
        "x0 has rank 1 < 2: noise of depth > 1 needs singular values above 0",
    ),
    (lambda: flow(max_steps=5), ValueError, "more steps of length dt than max_steps, about 10"),
]


def flow(x0=X0, **options):
    return dln.gradient_flow(ENERGY, x0, ts=TS, noise=noise(KEY), **options)


@pytest.mark.parametrize("call", DOOR, ids=[message for _, _, message in DOOR])
def test_bad_input_is_refused_by_one_sentence(call, monkeypatch):
    f, error, message = call
    # The checks of annotations, which users do not have, would refuse some of these first.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(error, match=message):
        f()


def test_derivatives_that_are_not_there_are_refused():
    end = lambda x, depth: dln.gradient_flow(ENERGY, x, depth=depth, ts=TS, noise=noise(KEY)).x[-1, 0, 0]
    with pytest.raises(ValueError, match="repeated singular values"):
        jax.grad(end)(jnp.eye(2), 2.0)
    with pytest.raises(ValueError, match="at depth 1"):
        jax.grad(end, 1)(X0, 1.0)


@pytest.mark.parametrize("d", [2, 64])
def test_rotations_of_many_wide_angles_are_the_exponential(d):
    entries = 0.5 * np.random.default_rng(d).normal(size=(d, d))
    angles = entries - entries.T
    assert_close(rotations.rotation(jnp.asarray(angles)), expm(angles), 1e-13)


def test_one_product_makes_the_commutator_of_antisymmetric_matrices():
    x, y = (jnp.asarray(z - z.T) for z in np.random.default_rng(0).normal(size=(2, 4, 4)))
    assert_close(rotations._antisymmetric_bracket(x, y), bracket(x, y), ALGEBRA)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_draws_are_those_of_jax_to_the_bit(dtype):
    keys, shape = jax.random.split(KEY, 3), (5, 3, 3)
    drawn, expected = (jax.vmap(lambda k, f=f: f(k, shape, dtype))(keys) for f in (standard_normal, jax.random.normal))
    assert drawn.dtype == dtype and np.array_equal(drawn, expected)


def test_step_that_turns_the_frame_out_of_itself_is_too_long(monkeypatch):
    equation = langevin.Langevin(Free(), dln.Balanced(7.0), jnp.asarray(1.0), gauge=False, deep=False)
    state, step = equation.enter(dln.svd(jnp.diag(jnp.array([2.0, 1.0])))), (jnp.asarray(0.125), jax.random.key(0))
    assert not equation.step(state, *step)[2]
    monkeypatch.setattr(rotations, "rotation", lambda c: 1.1 * jnp.eye(len(c)))
    assert equation.step(state, *step)[2]
