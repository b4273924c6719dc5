"""The decompositions of LAPACK: against those of JAX, with their derivatives, and never a large stack in one call."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dlnjax as dln
from dlnjax import _lapack, _svd

D, MANY = 6, 40
PAIRS = {
    "eigenvalues": (_lapack.eigenvalues, jnp.linalg.eigvalsh),
    "eigh": (lambda x: _lapack.eigh(x + x.mT), lambda x: tuple(jnp.linalg.eigh(x + x.mT))),
    "qr": (_lapack.qr, lambda x: tuple(jnp.linalg.qr(x))),
    "solve": (lambda x: _lapack.solve_linear(x, jnp.cos(x)), lambda x: jnp.linalg.solve(x, jnp.cos(x))),
    "vector": (lambda x: _lapack.solve_linear(x, jnp.cos(x[0])), lambda x: jnp.linalg.solve(x, jnp.cos(x[0]))),
    "upper": (
        lambda x: _lapack.solve_triangular(jnp.triu(x + 3), jnp.cos(x)),
        lambda x: jax.scipy.linalg.solve_triangular(jnp.triu(x + 3), jnp.cos(x)),
    ),
    "transposed": (
        lambda x: _lapack.solve_triangular(jnp.triu(x + 3), jnp.cos(x), transposed=True),
        lambda x: jax.scipy.linalg.solve_triangular(jnp.triu(x + 3), jnp.cos(x), trans=1),
    ),
    "cholesky": (
        lambda x: _lapack.cholesky_solve(_lapack.cholesky(x @ x.mT), x),
        lambda x: jax.scipy.linalg.cho_solve((jnp.linalg.cholesky(x @ x.mT), True), x),
    ),
    "sign": (_lapack.sign_of_determinant, lambda x: jnp.linalg.slogdet(x)[0]),
    "svd": (_svd._in_turn, lambda x: (lambda u, s, vt: (u, s, vt.mT))(*jnp.linalg.svd(x, full_matrices=False))),
    "values": (_svd._values_in_turn, lambda x: jnp.linalg.svd(x, compute_uv=False)),
}
CONSTANT = {"eigenvalues", "cholesky", "sign", "svd", "values"}


def loop(f, x):
    return jnp.sum(jax.lax.scan(lambda x, _: (jnp.sin(f(x)), None), x, None, length=2)[0])


def scaled(x, p):
    """A loop whose derivative in `x` leaves the singular values of `p` alone."""
    step = lambda c, _: ((jnp.sin(_svd.singular_values(c[1])[0] * c[0]), jnp.sin(c[1])), None)
    return jnp.sum(jax.lax.scan(step, (x, p), None, length=2)[0][0])


LARGE, SEEDS = 20, 1000
DEPTH, TS = 3, [0.0, 1.0]


@pytest.fixture
def x(key):
    return jax.random.normal(key, (2, MANY, D, D))


def of_stack(f):
    return jax.jit(jax.vmap(jax.vmap(f)))


def slope(f):
    return jax.grad(lambda x: sum(jnp.sum(jnp.sin(z)) for z in jax.tree.leaves(f(x))))


def close(a, b):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-8 * np.max(np.abs(b))), a, b)


@pytest.mark.parametrize("name", PAIRS)
def test_stack_of_stacks_gives_what_jax_finds_of_each(name, x):
    ours, jaxs = PAIRS[name]
    close(of_stack(ours)(x), of_stack(jaxs)(x))


@pytest.mark.parametrize("name", sorted(set(PAIRS) - CONSTANT))
def test_first_and_second_derivatives_are_those_of_jax(name, x):
    ours, jaxs = map(slope, PAIRS[name])
    close(of_stack(ours)(x), of_stack(jaxs)(x))
    second = lambda f: jax.jit(lambda x: jax.jvp(f, (x,), (jnp.cos(x),))[1])(x[0, 0])
    close(second(ours), second(jaxs))


TWICE = {name: PAIRS[name][0] for name in sorted(set(PAIRS) - CONSTANT)} | {
    "svd": lambda x: dln.svd(x).sigma,
    "values": _svd.singular_values,
}


@pytest.mark.parametrize("name", TWICE)
@pytest.mark.parametrize("second", [jax.hessian, lambda f: jax.grad(jax.grad(f))], ids=["hessian", "reverse"])
def test_second_derivative_of_a_loop_is_the_forward_one(name, second, x):
    # JAX drops the rules of `jax.custom_jvp` in a loop for the second derivative.
    step = lambda c: 0.1 * sum(jnp.sum(jnp.sin(z)) for z in jax.tree.leaves(TWICE[name](c * x[0, 0])))
    loop = lambda c: jax.lax.scan(lambda c, _: (step(c), None), c, None, length=2)[0]
    close(jax.jit(second(loop))(1.0), jax.jit(jax.jacfwd(jax.jacfwd(loop)))(1.0))


def test_second_derivative_of_a_loop_in_another_matrix_is_the_forward_one(x):
    x, p = x[0, :2]
    reverse = lambda p: jax.grad(scaled)(x, p)
    forward = lambda p: jax.jacfwd(scaled)(x, p)
    close(jax.jit(jax.jacrev(reverse))(p), jax.jit(jax.jacfwd(forward))(p))


def test_sign_is_a_constant(x):
    assert not np.any(slope(_lapack.sign_of_determinant)(x[0]))


FUNCTIONS = {
    "inner": lambda x, p: dln.inner(x, p, p, DEPTH) + dln.norm(x, p, 2) + dln.hamiltonian(x, p, jnp.inf),
    "gradient": lambda x, p: dln.riemannian_gradient(lambda x: jnp.sum(x**4), x, DEPTH),
    "exponential": lambda x, p: dln.exponential(x, p, DEPTH, throw=False).x,
    "derivative": jax.grad(lambda x, p: jnp.sum(dln.exponential(x, p, DEPTH, throw=False).x)),
    "thin": lambda x, p: dln.exponential(x[:, :4], p[:, :4], DEPTH, throw=False).x,
    "geodesic": lambda x, p: dln.geodesic(x, p, DEPTH, throw=False).length,
    "bounds": lambda x, p: dln.distance_bounds(x, p, DEPTH),
    "boundary": lambda x, p: dln.boundary_distance(x, DEPTH),
    "line": lambda x, p: dln.closed_form.printed_line(x @ x.T, p @ p.T, DEPTH)(0.3),
    "factors": lambda x, p: dln.balancedness(dln.balanced_factors(x, DEPTH)),
    "twice": jax.grad(lambda x, p: jnp.vdot(jax.grad(lambda x: loop(lambda x: dln.svd(x).matrix, x))(x), p)),
    "values": lambda x, p: jax.grad(lambda p: jnp.sum(jax.grad(scaled)(x, p)))(p),
    "entropy": jax.grad(lambda x, p: dln.entropy(dln.svd(x).sigma, DEPTH) + dln.Schatten(1.0)(x)),
    "flow": lambda x, p: dln.gradient_flow(dln.MatrixCompletion.diagonal(LARGE), x, ts=TS, throw=False).x,
    "matrix": lambda x, p: (
        dln.gradient_flow(dln.MatrixCompletion.diagonal(LARGE), x, ts=TS, coordinates="matrix", throw=False).x
    ),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_no_call_of_lapack_shares_its_matrices_among_threads(name):
    # A call that does waits for the threads of JAX, and two of them in one program can wait for each other for ever.
    x = jax.ShapeDtypeStruct((SEEDS, LARGE, LARGE), float)
    # Of a CPU also where there is a GPU, beside which a sweep may use it.
    text = jax.jit(jax.vmap(FUNCTIONS[name])).trace(x, x).lower(lowering_platforms=("cpu",)).as_text()
    calls = re.findall(r"custom_call @lapack_.*: \(tensor<([\dx]*)xf64>", text)
    assert calls
    # The two saved times of a thin geodesic are decomposed together, which is far too little for threads.
    few = {"2x4x4"} if name == "thin" else set()
    assert {call for call in calls if call.count("x") > 1} == few
