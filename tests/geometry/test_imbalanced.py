"""The kernel of imbalanced networks: its layers, limits, derivatives, fibres, flows and geodesics."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.special import hyp2f1
from support.tolerances import ALGEBRA, assert_close, FINITE_DIFFERENCE, INTEGRATION

import dlnjax as dln
from dlnjax._geometry.imbalanced import log_layers

TWO = [(0.7,), (-3.0,), (0.0,), (1e100,), (-1e-100,)]
MORE = [(0.5, -0.2), (0.0, 0.0), (-1e50, 1e50), (0.0, 1.0, 0.0), (1e-3, 1e3, -1e6)]
SIGMA = jnp.array([2.0, 1.3, 1.3, 0.4])


def exact_layers(sigma, gaps):
    """The squared singular values of the layers with 50 digits, by bisection in the logarithm of a."""
    c = [mpmath.mpf(0)]
    for g in gaps:
        c.append(c[-1] - mpmath.mpf(float(g)))
    c = [z - min(c) for z in c]
    target, low, high = 2 * mpmath.log(mpmath.mpf(float(sigma))), mpmath.mpf(-3000), mpmath.mpf(1000)
    for _ in range(180):
        middle = (low + high) / 2
        above = mpmath.fsum(mpmath.log(mpmath.exp(middle) + z) for z in c) > target
        low, high = (low, middle) if above else (middle, high)
    return [mpmath.exp(low) + z for z in c]


answers = jax.jit(lambda k, s, t: (k.log_eigenvalue(s, t), k.log_eigenvalue(t, s), log_layers(s, k._c)))
at_values = jax.jit(lambda k, s: (jnp.log(k.eigenvalues(s)), jnp.log(jnp.stack(k.leaving(s)))))


@pytest.mark.parametrize("gaps", TWO + MORE, ids=str)
def test_kernel_is_that_of_the_layers_at_every_scale(gaps):
    kernel, n = dln.Imbalanced(gaps), len(gaps) + 1
    with mpmath.workdps(50):
        layers = {s: exact_layers(s, gaps) for s in (1e-150, 3e-8, 1.0, 2.0, 1e150)}
        for s, t in ((1.0, 1.0), (2.0, 3e-8), (1e-150, 1e-150), (1e150, 1e-150), (1e150, 1e150)):
            w, v = layers[s], layers[t]
            terms = [mpmath.fprod(w[p + 1 :]) * mpmath.fprod(v[:p]) for p in range(n)]
            expected = float(mpmath.log(mpmath.fsum(terms) / n))
            one, other, log_w = answers(kernel, *jnp.log(jnp.array([s, t])))
            assert_close(jnp.stack([one, other]), [expected] * 2, ALGEBRA)
            assert_close(log_w, [float(mpmath.log(z)) for z in w], ALGEBRA)
            log_eigenvalues, sides = at_values(kernel, jnp.array([s, t]))
            assert_close(log_eigenvalues[0, 1], expected, ALGEBRA)
            exact_sides = [float(mpmath.log(mpmath.fprod(z) / n)) for z in (w[:-1], w[1:])]
            if max(map(abs, exact_sides)) < 600:
                assert_close(sides[:, 0], exact_sides, ALGEBRA)


FAR = np.array([1e20, 7.0, 1.0, 1.0, 0.3, 1e-5, 1e-100, 0.0, 0.0])


@jax.jit
def said(kernel):
    """All that a kernel says of FAR, its straightened values, its entropy and the gradient, and a derivative at zeros.

    One program has it all.
    """
    sigma = jnp.asarray(FAR)
    rates = kernel.log_rates(sigma), kernel.rotation_weights(sigma)
    all_of_it = kernel.eigenvalues(sigma), kernel.leaving(sigma), kernel.speed(sigma), rates, kernel.order
    entropy = dln.entropy(sigma[:7], kernel), dln.entropy_gradient(SIGMA, kernel)
    slope = jax.jacfwd(dln.metric_eigenvalues)(jnp.array([1.0, 0.0, 0.0]), kernel)
    return all_of_it, kernel.straighten(sigma), entropy, slope


@pytest.mark.parametrize("n", [2, 3, 5])
def test_no_imbalance_is_the_balanced_network(n):
    found, straight, entropy, slope = said(dln.Imbalanced((0.0,) * (n - 1)))
    expected, _, expected_entropy, expected_slope = said(dln.Balanced(n))
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=ALGEBRA, atol=0)
    jax.tree.map(close, found, expected)
    close(straight, n * FAR ** (1 / n))
    for one, other in zip(entropy, expected_entropy, strict=True):
        assert_close(one, other, ALGEBRA)
    np.testing.assert_array_equal(np.isinf(slope), np.isinf(expected_slope))
    finite = np.isfinite(expected_slope)
    assert_close(slope[finite], expected_slope[finite], ALGEBRA)


@pytest.mark.parametrize("gaps", [(1e30,), (-1e30,), (1e30, -1e30), (0.0, 1e30), (0.0, -1e30)], ids=str)
def test_large_imbalance_leaves_the_network_of_the_smallest_layers(gaps):
    eigenvalues = dln.Imbalanced(gaps).eigenvalues(SIGMA)
    # Of the last network two layers are smallest, of the others one.
    expected = dln.Balanced(2 if gaps == (0.0, -1e30) else 1).eigenvalues(SIGMA)
    assert_close(eigenvalues / eigenvalues[0, 0], expected / expected[0, 0], ALGEBRA)


def test_number_of_smallest_layers_decides_whether_zero_is_crossed():
    orders = {(0.5,): 0, (0.0,): 1, (0.5, 0.0): 1, (0.0, 0.5): 0, (0.0, 0.0): 4 / 3, (0.0, 0.0, 1.0): 0}
    for gaps, expected in orders.items():
        kernel = dln.Imbalanced(gaps)
        assert_close(kernel.order, expected, ALGEBRA)
        at_zero = kernel.eigenvalues(jnp.zeros(2))
        assert bool(jnp.all(at_zero > 0)) == (expected == 0)
        # lambda(s, s) ~ s^order.
        small = jnp.array([1e-40, 1e-42])
        assert_close(jnp.diff(jnp.log(kernel.speed(small)))[0] / np.log(1e-2), expected, 1e-8)
    np.testing.assert_array_equal(dln.Imbalanced(0.5).eigenvalues(jnp.array([0.0])), [[0.25]])


long = lambda gaps: pytest.param(gaps, marks=pytest.mark.long)


@pytest.mark.parametrize("gaps", [(0.3,), (0.0,), *map(long, [(0.5, -0.2), (0.0, 0.0), (0.0, 1.0, 0.0)])], ids=str)
def test_derivatives_in_the_imbalance_and_the_values_are_those_of_central_differences(gaps):
    weights, count = jnp.cos(jnp.arange(16.0)).reshape(4, 4), len(gaps)

    def f(z):
        return jnp.sum(weights * dln.metric_eigenvalues(z[count:], dln.Imbalanced(tuple(z[:count]))))

    z, h = jnp.concatenate([jnp.array(gaps), SIGMA]), 1e-5
    moves = jnp.concatenate([jnp.cos(jnp.arange(count + 4.0))[None], jnp.eye(count + 4)[:count]])
    gradient = jax.grad(f)
    both = jax.jit(jax.vmap(lambda z, dz: (f(z), gradient(z), jax.jvp(gradient, (z,), (dz,))[1]), (0, 0)))
    at = jnp.broadcast_to(z, moves.shape)
    _, slopes, bends = both(at, moves)
    (ahead, slopes_ahead, _), (behind, slopes_behind, _) = both(at + h * moves, moves), both(at - h * moves, moves)
    assert_close(jnp.sum(slopes * moves, 1), (ahead - behind) / (2 * h), FINITE_DIFFERENCE)
    assert_close(bends, (slopes_ahead - slopes_behind) / (2 * h), FINITE_DIFFERENCE)
    if not any(gaps):
        # Near a balanced network the kernel is even in small imbalances.
        assert_close(slopes[0, :count], np.zeros(count), ALGEBRA)


def test_derivative_between_two_zeros_is_that_from_above():
    # Of the offsets 0, 0 and 4 two are smallest: a(s) = s/2, and lambda(s, t) = 4 (s/2 + t/2)/3 near zero.
    found = jax.jacfwd(dln.metric_eigenvalues)(jnp.zeros(2), dln.Imbalanced((0.0, -4.0)))
    assert_close(found[0, 0], [4 / 3, 0.0], ALGEBRA)
    assert_close(found[0, 1], [2 / 3, 2 / 3], ALGEBRA)


def test_coordinate_of_commuting_geodesics_at_two_layers_is_the_arc_of_a_hyperbola():
    sigma, g = np.array([1e-150, 1e-8, 0.5, 1.0, 3.0, 1e3, 1e8]), np.array([1e-4, 0.3, 5.0, 1e100])
    found = jax.vmap(lambda g: dln.Imbalanced(g).straighten(jnp.asarray(sigma)))(jnp.asarray(g))
    half = g[:, None] / 2
    expected = sigma / np.sqrt(half) * hyp2f1(0.25, 0.5, 1.5, -((sigma / half) ** 2))
    np.testing.assert_allclose(found, expected, rtol=3 * ALGEBRA)


@pytest.mark.parametrize("gaps", [(0.7,), *map(long, [(0.5, -0.2), (0.0, 1.0, 0.0), (1e-3, 1e3, -1e6)])], ids=str)
def test_coordinate_of_commuting_geodesics_has_the_slope_and_the_inverse_that_it_says(gaps):
    sigma = jnp.array([-2.0, 0.0, 1e-100, 1e-5, 0.3, 1.0, 7.0, 1e20])

    @jax.jit
    def of(kernel, sigma):
        y = kernel.straighten(sigma)
        slopes, back = (jax.vmap(jax.grad(f))(z) for f, z in ((kernel.straighten, sigma), (kernel.unstraighten, y)))
        return kernel.unstraighten(y), slopes**2 * kernel.speed(sigma), back * slopes

    for found, expected in zip(of(dln.Imbalanced(gaps), sigma), (sigma, 1.0, 1.0), strict=True):
        np.testing.assert_allclose(found[sigma != 0], np.broadcast_to(expected, 8)[sigma != 0], rtol=ALGEBRA)
    np.testing.assert_array_equal(of(dln.Imbalanced(gaps), sigma)[0][1], 0.0)
    if gaps[0] != 0 and max(map(abs, gaps)) < 10:
        # The derivative of the inverse in the imbalance, at one y.
        inverse = jax.jit(jax.value_and_grad(lambda g: dln.Imbalanced((g, *gaps[1:])).unstraighten(jnp.asarray(0.8))))
        h = 1e-6 * abs(gaps[0])
        central = (inverse(gaps[0] + h)[0] - inverse(gaps[0] - h)[0]) / (2 * h)
        assert_close(inverse(gaps[0])[1], central, FINITE_DIFFERENCE)


@pytest.mark.parametrize("gaps", [(0.8,), (-0.8,), *map(long, [(0.5, -0.2), (-1.0, 0.3, 0.4)])], ids=str)
def test_entropy_is_the_log_volume_of_the_fibre(gaps):
    """The fibre is an orbit of O_r^(N-1): (Q_p) takes W_p to Q_p W_p Q_{p-1}^T."""
    sigma, n = np.array([1.7, 1.1, 0.4]), len(gaps) + 1
    s = np.exp(np.asarray(log_layers(jnp.log(jnp.asarray(sigma)), dln.Imbalanced(gaps)._c)) / 2)
    weights = [np.diag(row) for row in s]
    vectors = []
    for p in range(n - 1):
        for k, l in ((0, 1), (0, 2), (1, 2)):
            a = np.zeros((3, 3))
            a[k, l], a[l, k] = 1.0, -1.0
            moves = [np.zeros((3, 3)) for _ in range(n)]
            moves[p], moves[p + 1] = a @ weights[p], -weights[p + 1] @ a
            vectors.append(np.concatenate([m.ravel() for m in moves]))
    volume = np.linalg.slogdet(np.array(vectors) @ np.array(vectors).T)[1] / 2
    entropy = dln.entropy(jnp.asarray(sigma), dln.Imbalanced(gaps))
    # Each of the three pairs adds a constant.
    assert_close(entropy + 1.5 * np.log(2 ** (n - 1) * n), volume, ALGEBRA)


def test_entropy_is_finite_at_zero():
    kernel, sigma = dln.Imbalanced(0.8), jnp.array([1.0, 0.0, 0.0])
    assert_close(dln.entropy(sigma, kernel), 0.5 * (2 * np.log((np.sqrt(1.16) + 0.4) / 2) + np.log(0.4)), ALGEBRA)
    assert_close(jax.grad(dln.entropy)(sigma, kernel)[1:], np.zeros(2), ALGEBRA)


@pytest.mark.long
def test_free_energy_takes_the_kernel():
    free = dln.FreeEnergy(dln.Schatten(2), 0.5, dln.Imbalanced((0.5, -0.2)))
    x = jnp.array([[2.0, 0.3], [0.1, 1.0]])
    assert_close(free.gradient(x), jax.grad(free)(x), ALGEBRA)


def test_batch_over_the_imbalance_is_a_loop():
    gs = jnp.array([-2.0, 0.0, 1e-3, 0.7])
    f = jax.jit(jax.value_and_grad(lambda g: dln.entropy(SIGMA, dln.Imbalanced(g))))
    found = jax.vmap(f)(gs)
    for one, other in zip(found, zip(*map(f, gs), strict=True), strict=True):
        assert_close(one, other, ALGEBRA)
    # The seeds are one axis of a number.
    assert_close(dln.entropy(jnp.stack([SIGMA] * 4), dln.Imbalanced(gs)), found[0], ALGEBRA)


def test_repr_says_the_numbers():
    assert repr(dln.Imbalanced(0.5)) == "Imbalanced(imbalance=0.5)"
    assert repr(dln.Imbalanced((0.5, -0.2))) == "Imbalanced(imbalance=(0.5, -0.2))"
    assert repr(dln.Imbalanced(jnp.ones(3))) == "Imbalanced(3 imbalances)"
    assert str(dln.Imbalanced([1, 2])) == "imbalance (1, 2)"
    seen = []
    jax.jit(lambda g: seen.append(repr(dln.Imbalanced(g))))(1.0)
    assert seen == ["Imbalanced(traced)"]


WRONG = [
    (lambda: dln.Imbalanced(np.nan), ValueError, ["imbalance", "finite", "nan"]),
    (lambda: dln.Imbalanced((1.0, np.inf)), ValueError, ["imbalance", "finite", "inf"]),
    (lambda: dln.Imbalanced((1e308, 1e308)), ValueError, ["imbalance", "sums"]),
    (lambda: dln.Imbalanced(()), ValueError, ["imbalance", "N - 1", "depth=1"]),
    (lambda: dln.Imbalanced("rich"), TypeError, ["imbalance", "number", "'rich'"]),
    (lambda: dln.Imbalanced(None), TypeError, ["imbalance", "number", "None"]),
    (lambda: dln.Imbalanced((0.1, (0.2,))), TypeError, ["imbalance", "(0.2,)"]),
    (lambda: dln.Imbalanced(1j), TypeError, ["imbalance", "real"]),
    (lambda: type("Mine", (dln.Imbalanced,), {}), TypeError, ["final", "dlnjax.Kernel"]),
    (lambda: dln.metric_operator(*(jnp.eye(2),) * 2, dln.Imbalanced(jnp.ones(2))), ValueError, ["(2,)", "jax.vmap"]),
    (lambda: dln.metric_operator(*(jnp.eye(2),) * 2, dln.Balanced(jnp.ones(2))), ValueError, ["(2,)", "jax.vmap"]),
]


@pytest.mark.parametrize(("f", "kind", "words"), WRONG)
def test_wrong_input_is_refused(f, kind, words):
    with pytest.raises(kind) as error:
        f()
    for word in words:
        assert word in str(error.value)


def test_wrong_numbers_are_refused_inside_of_jit():
    with pytest.raises(Exception, match="imbalance must be finite"):
        jax.block_until_ready(jax.jit(lambda g: dln.entropy(SIGMA, dln.Imbalanced(g)))(jnp.nan))


@pytest.mark.long
def test_flow_crosses_the_singular_matrices_as_the_factors_do():
    ts = np.array([0.0, 0.3, 1.0, 3.0])
    x0 = jnp.array([[0.6, 0.2, -0.1], [0.1, 0.5, 0.3], [-0.2, 0.1, 0.1]])
    target = jnp.array([[1.2, -0.3, 0.4], [0.2, 0.9, -0.5], [0.1, -0.4, 1.5]])
    energy = lambda x: jnp.sum((x - target) ** 2) / 2
    # Factors with W1 W1^T - W2^T W2 = g I.
    g = 0.7
    point = dln.svd(x0)
    u, sigma, v = point.u, point.sigma, point.v
    f = jnp.sqrt(sigma**2 + g * g / 4)
    w1, w2 = jnp.sqrt(f + g / 2)[:, None] * v.T, u * jnp.sqrt(f - g / 2)

    def velocity(t, y):
        w1, w2 = y.reshape(2, 3, 3)
        slope = w2 @ w1 - target
        return -np.stack([w2.T @ slope, slope @ w1.T]).ravel() / 2

    found = solve_ivp(velocity, (0.0, 3.0), np.stack([w1, w2]).ravel(), t_eval=ts, rtol=1e-11, atol=1e-12)
    expected = [w2 @ w1 for w1, w2 in found.y.T.reshape(-1, 2, 3, 3)]
    assert np.linalg.det(expected[0]) * np.linalg.det(expected[-1]) < 0
    for coordinates in ("svd", "matrix"):
        options = {"depth": dln.Imbalanced(g), "ts": ts, "rtol": 1e-10, "coordinates": coordinates}
        assert_close(dln.gradient_flow(energy, x0, **options).x, expected, INTEGRATION)


@pytest.mark.long
def test_sweep_over_the_imbalance_is_a_loop_and_is_kept_in_a_file(tmp_path):
    x0, energy, gs = jnp.array([[0.6, 0.2], [-0.1, 0.4]]), dln.MatrixCompletion.diagonal(2), jnp.array([0.0, 0.5, 4.0])
    kernel = dln.Imbalanced((gs, 0.1))
    sweep = dln.sweep(energy, jnp.stack([x0] * 3), depth=kernel, ts=[0.0, 1.0], progress=False)
    for i, g in enumerate(gs):
        one = dln.gradient_flow(energy, x0, depth=dln.Imbalanced((g, 0.1)), ts=[0.0, 1.0])
        assert_close(sweep.x[i], one.x, ALGEBRA)
        assert repr(sweep[i].depth) == repr(one.depth)
    sweep.save(tmp_path / "sweep.nc")
    loaded = dln.load(tmp_path / "sweep.nc").depth
    assert_close(loaded.imbalance[0], gs, ALGEBRA)
    assert_close(loaded.imbalance[1], 0.1, ALGEBRA)


A = jnp.array([[2.0, 0.3, -0.5], [0.1, 1.0, 0.7], [0.4, -0.2, 0.6]])
B = jnp.array([[1.2, -0.8, 0.1], [0.9, 1.5, 0.2], [-0.3, 0.4, 0.9]])


def by_roots(x, p, g):
    """H = Tr(P^T (R(X X^T) P + P R(X^T X)))/4 with R(S) the root of S + g^2/4: no singular value occurs."""

    def root(s):
        values, vectors = jnp.linalg.eigh(s)
        return (vectors * jnp.sqrt(values + g * g / 4)) @ vectors.T

    return jnp.sum(p * (root(x @ x.T) @ p + p @ root(x.T @ x))) / 4


def follow(x, p, g):
    """The flow of `by_roots` to time 1, by SciPy."""
    slopes = jax.jit(jax.grad(by_roots, (0, 1)))

    def velocity(t, y):
        by_x, by_p = slopes(*jnp.asarray(y).reshape(2, 3, 3), g)
        return np.stack([by_p, -by_x]).ravel()

    return solve_ivp(velocity, (0.0, 1.0), np.stack([x, p]).ravel(), rtol=1e-11, atol=1e-12).y[:9, -1].reshape(3, 3)


@pytest.mark.long
def test_geodesics_at_two_layers_are_those_of_roots_of_matrices(key):
    g = 0.8
    kernel = dln.Imbalanced(g)
    line = dln.geodesic(A, B, kernel)
    assert_close(follow(A, line.momentum, g), B, INTEGRATION)
    assert_close(line.length, jnp.sqrt(2 * by_roots(A, line.momentum, g)), INTEGRATION)
    lower, upper = dln.distance_bounds(A, B, kernel)
    assert lower < line.length < upper
    # A geodesic crosses the singular matrices.
    p = 1.5 * jax.random.normal(key, (3, 3))
    far = follow(A, p, g)
    assert_close(dln.exponential(A, p, kernel).x[-1], far, INTEGRATION)
    # No imbalance, and much of it.
    assert_close(dln.distance(A, B, dln.Imbalanced(0.0)), dln.distance(A, B, 2), INTEGRATION)
    assert_close(dln.distance(A, B, dln.Imbalanced(-1e9)) * 5e8**0.5, jnp.linalg.norm(A - B), INTEGRATION)
    distance = lambda g: dln.distance(A, B, dln.Imbalanced(g))
    h = 1e-4
    assert_close(jax.grad(distance)(g), (distance(g + h) - distance(g - h)) / (2 * h), 1e-7)
    assert_close(jax.grad(distance)(0.0), 0.0, INTEGRATION)
    gs = jnp.array([0.2, 0.8])
    assert_close(jax.vmap(distance)(gs), list(map(distance, gs)), INTEGRATION)


@pytest.mark.long
def test_geodesic_at_three_layers_is_as_long_as_its_lift():
    """The length of the shortest motion of the factors along the geodesic, from points of it, by Richardson."""
    gaps = (0.5, -0.2)
    kernel = dln.Imbalanced(gaps)
    line = dln.geodesic(A, B, kernel)
    nodes, weights = np.polynomial.legendre.leggauss(12)
    ts, h = (nodes + 1) / 2, 1e-4
    at, ahead, behind = (line.evaluate(ts + s * h) for s in (0, 1, -1))
    speeds = []
    for x, dx in zip(at, (ahead - behind) / (2 * h), strict=True):
        point = dln.svd(x)
        s = np.exp(np.asarray(log_layers(jnp.log(point.sigma), kernel._c)) / 2)
        frames = [np.asarray(point.v), np.eye(3), np.eye(3), np.asarray(point.u)]
        w = [frames[p + 1] @ np.diag(s[p]) @ frames[p].T for p in range(3)]
        # The motions of the factors that keep the imbalance and move X by dX: the shortest of them, by least squares.
        rows, basis = [], np.eye(27).reshape(27, 3, 3, 3)
        for z in basis:
            moved = z[2] @ w[1] @ w[0] + w[2] @ z[1] @ w[0] + w[2] @ w[1] @ z[0]
            pairs = zip(pairwise(z), pairwise(w), strict=True)
            kept = [a @ b.T + b @ a.T - c.T @ d - d.T @ c for (a, c), (b, d) in pairs]
            rows.append(np.concatenate([m.ravel() for m in (moved, *kept)]))
        target = np.concatenate([np.asarray(dx).ravel(), np.zeros(18)])
        motion = np.linalg.lstsq(np.array(rows).T, target, rcond=None)[0]
        speeds.append(np.linalg.norm(motion))
    # The metric of dlnjax is 3 times that of the thesis.
    assert_close(line.length, 3**0.5 * np.dot(weights / 2, speeds), 1e-7)
    assert_close(dln.distance(A, B, dln.Imbalanced((0.0, 0.0))), dln.distance(A, B, 3), INTEGRATION)
