"""The metric at matrices that are not square, balanced and imbalanced, against the factors of the network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.tolerances import ALGEBRA, assert_close, FINITE_DIFFERENCE

import dlnjax as dln
from dlnjax._geometry.depth import as_kernel
from dlnjax._geometry.operator import operator_at
from dlnjax._svd import truncated

# (m, n, depth or imbalance): hidden layers have the width min(m, n).
CASES = [
    (5, 3, 2),
    (3, 5, 3),
    (4, 2, 5),
    (5, 3, dln.Imbalanced(0.7)),
    (5, 3, dln.Imbalanced(-0.7)),
    (3, 5, dln.Imbalanced(40.0)),
    (2, 4, dln.Imbalanced(-1.5)),
    (4, 4, dln.Imbalanced(1.1)),
    (4, 3, dln.Imbalanced((0.5, -0.2))),
    (3, 4, dln.Imbalanced((-0.3, -0.4))),
    (5, 2, dln.Imbalanced((0.0, 1.0, -2.0))),
    (3, 3, dln.Imbalanced((0.4, 0.0, 0.3))),
]
NAMES = [f"{m}x{n}, {k}" for m, n, k in CASES]


def layers_of(sigma, kernel):
    """The singular values of the layers `N r`, by bisection: s_p^2 = a + c_p with prod_p s_p = sigma."""
    gaps = [float(g) for g in kernel.imbalance] if isinstance(kernel, dln.Imbalanced) else [0.0] * (kernel - 1)
    c = -np.cumsum([0.0, *gaps])
    c -= c.min()
    low, high = np.zeros_like(sigma), sigma ** (2 / len(c))
    for _ in range(200):
        a = (low + high) / 2
        above = np.prod(a[None] + c[:, None], 0) > sigma**2
        low, high = np.where(above, low, a), np.where(above, a, high)
    # The least layer follows from the product: bisection leaves it an absolute error.
    layers = high[None] + c[:, None]
    least = np.argmin(c)
    layers[least] = sigma**2 / np.prod(np.delete(layers, least, 0), 0)
    return np.sqrt(layers)


def factors_of(x, kernel, rng, rank=None):
    """W_1, ..., W_N of hidden widths r with W_p W_p^T - W_{p+1}^T W_{p+1} = g_p I and W_N ... W_1 = X, of that rank."""
    u, sigma, vt = np.linalg.svd(x, full_matrices=False)
    u, sigma, vt = u[:, :rank], sigma[:rank], vt[:rank]
    s = layers_of(sigma, kernel)
    turns = [np.linalg.qr(rng.normal(size=(len(sigma), len(sigma))))[0] for _ in s[1:]]
    frames = [vt.T, *turns, u]
    return [frames[p + 1] @ np.diag(s[p]) @ frames[p].T for p in range(len(s))]


def through_factors(weights, z):
    """(1/N) dphi dphi^T Z: the sum over the layers p of (W_N ... W_{p+1})(...)^T Z (W_{p-1} ... W_1)^T (...)."""
    total = 0
    for p in range(len(weights)):
        above, below = np.eye(z.shape[0]), np.eye(z.shape[1])
        for w in weights[p + 1 :][::-1]:
            above = above @ w
        for w in weights[:p]:
            below = w @ below
        total = total + above @ (above.T @ z @ below.T) @ below
    return total / len(weights)


def draw(m, n, seed=0):
    rng = np.random.default_rng([m, n, seed])
    return rng, *(jnp.asarray(rng.normal(size=(m, n))) for _ in range(3))


@pytest.mark.parametrize(("m", "n", "kernel"), CASES, ids=NAMES)
def test_operator_is_that_of_the_factors(m, n, kernel):
    rng, x, z, _ = draw(m, n)
    weights = factors_of(np.asarray(x), kernel, rng)
    gaps = kernel.imbalance if isinstance(kernel, dln.Imbalanced) else [0.0] * (kernel - 1)
    for g, w, v in zip(gaps, weights, weights[1:], strict=False):
        assert_close(w @ w.T - v.T @ v, float(g) * np.eye(len(w)), ALGEBRA)
    expected = jnp.asarray(through_factors(weights, np.asarray(z)))
    assert_close(dln.metric_operator(x, z, kernel), expected, ALGEBRA)
    assert_close(dln.metric_operator_inverse(x, expected, kernel), z, ALGEBRA)


@pytest.mark.parametrize("kernel", [3, dln.Imbalanced(-0.7), dln.Imbalanced((0.5, -0.2))], ids=str)
def test_operator_at_a_thin_point_is_that_of_the_factors(kernel):
    rng, x, z, _ = draw(5, 4)
    point = truncated(dln.svd(x), 2)
    weights = factors_of(np.asarray(point.matrix), kernel, rng, rank=2)
    found = operator_at(point, z, as_kernel(kernel, float))
    assert_close(found, through_factors(weights, np.asarray(z)), ALGEBRA)


@pytest.mark.parametrize(("m", "n", "kernel"), CASES[4:6], ids=NAMES[4:6])
def test_forms_are_those_of_the_factors(m, n, kernel):
    rng, x, z, p = draw(m, n)
    expected = jnp.asarray(through_factors(factors_of(np.asarray(x), kernel, rng), np.asarray(z)))
    assert_close(dln.hamiltonian(x, z, kernel), np.sum(z * expected) / 2, ALGEBRA)
    assert_close(dln.inner(x, p, expected, kernel), jnp.sum(p * z), ALGEBRA)
    assert_close(dln.norm(x, expected, kernel), np.sqrt(np.sum(z * expected)), ALGEBRA)


@pytest.mark.parametrize(("m", "n", "kernel"), CASES[:6], ids=NAMES[:6])
def test_transposing_exchanges_the_sides(m, n, kernel):
    _, x, z, _ = draw(m, n)
    turned = dln.Imbalanced(tuple(-g for g in kernel.imbalance[::-1])) if isinstance(kernel, dln.Kernel) else kernel
    assert_close(dln.metric_operator(x.T, z.T, turned), dln.metric_operator(x, z, kernel).T, ALGEBRA)


@pytest.mark.parametrize("depth", [1.0, 2.0, 3.5, jnp.inf])
def test_padding_with_zeros_changes_nothing(depth):
    for m, n in ((5, 3), (3, 5)):
        _, x, z, _ = draw(m, n)
        padded = lambda a, m=m, n=n: jnp.zeros((5, 5)).at[:m, :n].set(a)
        square = dln.metric_operator(padded(x), padded(z), depth)
        assert_close(square, padded(dln.metric_operator(x, z, depth)), ALGEBRA)
        # The metric of depth 1 is that of Euclid.
        if depth == 1:
            assert_close(dln.inner(x, z, x, depth), jnp.sum(z * x), ALGEBRA)


DIFFERENTIATED = {
    "tall, imbalanced": (4, 2, lambda t: dln.Imbalanced(-0.7 + t)),
    "wide, depth 2": (2, 4, lambda t: 2.0 + t),
    "tall, depth 3": (4, 2, lambda t: 3.0 + t),
    "wide, three layers": (2, 4, lambda t: dln.Imbalanced((0.5 + t, -0.2 + 2 * t))),
}
# Distinct, equal and nearly equal singular values.
SPECTRA = jnp.array([[1.5, 0.6], [1.1, 1.1], [1.0, 1.0 - 1e-7]])


def check_derivative(f, m, n):
    """The derivative of f(X, P, Q, t) along one direction, at each spectrum, is that of central differences."""
    rng, _, p, q = draw(m, n, seed=1)
    _, *change = draw(m, n, seed=2)
    u, v = (jnp.asarray(np.linalg.qr(rng.normal(size=(k, 2)))[0]) for k in (m, n))

    def moved(spectrum, s):
        return f(*((z + s * dz) for z, dz in zip(((u * spectrum) @ v.T, p, q), change, strict=True)), 0.3 * s)

    # One program gives values and derivatives, at all spectra.
    both = jax.jit(jax.vmap(lambda sigma, s: jax.jvp(lambda s: moved(sigma, s), (s,), (1.0,)), (0, None)))
    h = 1e-5
    found, (ahead, _), (behind, _) = both(SPECTRA, 0.0)[1], both(SPECTRA, h), both(SPECTRA, -h)
    for a, b, c in zip(*map(jax.tree.leaves, (found, ahead, behind)), strict=True):
        assert_close(a, (b - c) / (2 * h), FINITE_DIFFERENCE)


@pytest.mark.parametrize("name", list(DIFFERENTIATED)[:2])
def test_derivative_of_the_operator_is_that_of_central_differences(name):
    m, n, kernel = DIFFERENTIATED[name]
    check_derivative(lambda x, p, q, t: dln.metric_operator(x, p, kernel(t)), m, n)


@pytest.mark.long
@pytest.mark.parametrize(("name", "power"), list(zip(DIFFERENTIATED, [-1, 1, -1, 1], strict=True)))
def test_first_and_second_derivatives_of_forms_are_those_of_central_differences(name, power):
    m, n, kernel = DIFFERENTIATED[name]
    form = (lambda x, p, q, t: dln.hamiltonian(x, p, kernel(t)), lambda x, p, q, t: dln.inner(x, p, q, kernel(t)))[
        power < 0
    ]
    check_derivative(jax.value_and_grad(form, (0, 1, 2, 3)), m, n)


def test_derivative_of_the_form_in_reverse_is_that_forwards():
    _, x, p, q = draw(4, 2)
    gradient = jax.grad(dln.hamiltonian)
    forwards = jax.jvp(lambda x: gradient(x, p, 3.0), (x,), (q,))[1]
    assert_close(jax.grad(lambda x: jnp.sum(q * gradient(x, p, 3.0)))(x), forwards, ALGEBRA)


def test_gradient_of_an_energy_is_that_of_its_derivative_through_the_factors():
    rng, x, target, z = draw(5, 3)
    kernel, energy = dln.Imbalanced((0.5, -0.2)), lambda x: jnp.sum((x - target) ** 2) / 2
    weights = factors_of(np.asarray(x), kernel, rng)
    gradient = dln.riemannian_gradient(energy, x, kernel)
    assert_close(gradient, through_factors(weights, np.asarray(x - target)), ALGEBRA)
    assert_close(dln.inner(x, gradient, z, kernel), jnp.sum((x - target) * z), ALGEBRA)


def test_batch_of_many_is_a_loop():
    _, x, p, _ = draw(4, 2)
    gs = jnp.array([-1.0, 0.0, 0.5])
    f = jax.grad(lambda g: dln.hamiltonian(x, p, dln.Imbalanced((g, 0.3))))
    assert_close(jax.vmap(f)(gs), [f(g) for g in gs], ALGEBRA)


def test_scale_of_a_balanced_metric_is_its_degree():
    _, x, z, _ = draw(4, 2)
    for scale in (2.0**-490, 2.0**490):
        # A and its inverse are homogeneous of degree 2 - 2/N, which is 1 at two layers.
        assert_close(dln.metric_operator(scale * x, z, 2) / scale, dln.metric_operator(x, z, 2), ALGEBRA)
        assert_close(dln.inner(scale * x, z, z, 2) * scale, dln.inner(x, z, z, 2), ALGEBRA)
        change = jax.grad(dln.hamiltonian)(scale * x, z, 2)
        assert_close(change, jax.grad(dln.hamiltonian)(x, z, 2), ALGEBRA)


def refused(f, *words):
    with pytest.raises((ValueError, RuntimeError)) as error:
        jax.block_until_ready(f())
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize("traced", [False, True])
def test_what_has_no_metric_is_refused(traced):
    _, x, z, _ = draw(4, 2)
    call = lambda f: (lambda: jax.jit(f)(x)) if traced else (lambda: f(x))
    words = () if traced else ("(4, 2)", "column space", "infinite depth")
    refused(call(lambda x: dln.inner(x, z, z, jnp.inf)), *words)
    refused(call(lambda x: dln.metric_operator_inverse(x.T, z.T, jnp.inf)), *words and ("(2, 4)", "row space"))
    thin = lambda x: x @ jnp.ones((2, 2))
    lower = lambda x: thin(x) - thin(x) + jnp.eye(4, 2) @ jnp.diag(jnp.array([1.0, 0.0]))
    refused(call(lambda x: dln.norm(lower(x), z, 2)), *words and ("full rank",))
    refused(call(lambda x: dln.metric_operator(lower(x), z, dln.Imbalanced(1.0))), *words and ("full rank", "factors"))
    # The operator itself has a value at infinite depth, and balanced at lower rank.
    assert np.all(np.isfinite(dln.metric_operator(x, z, jnp.inf)))
    assert np.all(np.isfinite(dln.metric_operator(lower(x), z, 2)))
