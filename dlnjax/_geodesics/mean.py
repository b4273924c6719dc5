"""The Frechet mean: the matrix with the least sum of squared distances to given matrices."""

from typing import Any, ClassVar

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from dlnjax._checks import as_count, as_real, as_square, refuse_tracing
from dlnjax._geodesics.ends import as_stack, require_double, sign_at_the_door
from dlnjax._geodesics.jacobi import jacobians
from dlnjax._geodesics.mean_descent import arithmetic_mean, descend, Descent, inductive_mean, on_device, Task
from dlnjax._geometry.depth import as_kernel, Depth, unchanged
from dlnjax._geometry.kernel import Balanced, Kernel
from dlnjax._results import RESULTS
from dlnjax._saved import Layout, Solution
from dlnjax._show import Curves
from dlnjax._solver import as_tolerance
from dlnjax._terminal import waiting_for
from dlnjax._types import Number, Numbers, Square

# The default of `rtol`, that of `geodesic`.
_RTOL = 1e-11
# An eigenvalue of the Hessian counts as negative below this number. The largest of one point is about 1.
_NEGATIVE = -1e-6
# Weights that sum to 1 in float32 do so to this error.
_SUM_ERROR = 1e-6


class MeanSolution(Solution):
    """The Frechet mean of matrices, or the last matrix of the search for it.

    **Attributes:**

    - `x`: the mean, `d d`; `points`, `weights`: the matrices and their weights; `depth`: the kernel.
    - `momenta`: for each point, the covector at `x` whose geodesic is at the point at time 1, `n d d`. At the mean
      their weighted sum is 0.
    - `lengths`: the distances of the points from `x`, `n`.
    - `spread`: the root of the weighted sum of the squares of `lengths`; `variance` is this sum.
    - `gradient_norm`: the length of the weighted sum of the logarithms, which is half of the gradient of `variance`.
    - `result`: a code of `RESULTS`; `stats`: the `steps` of the descent, and the `searches` for geodesics.

    **Example:**

        >>> a, b = jnp.diag(jnp.array([4.0, 1.0])), jnp.array([[2.5, 1.5], [1.5, 2.5]])
        >>> mean = dln.frechet_mean([a, b], 2)  # of two, the middle of the geodesic between them
        >>> print(f"{mean.variance:.6f} = {dln.distance(a, b, 2)**2 / 4:.6f}, index {mean.index}")
        0.944615 = 0.944615, index 0
    """

    x: Float[Array, "*k d d"]
    points: Float[Array, "*k n d d"]
    weights: Float[Array, "*k n"]
    depth: Kernel
    momenta: Float[Array, "*k n d d"]
    lengths: Float[Array, "*k n"]
    spread: Float[Array, "*k"]
    gradient_norm: Float[Array, "*k"]
    result: RESULTS
    stats: dict[str, Int[Array, "*k"]]

    layout: ClassVar[Layout] = Layout(
        format="dlnjax.MeanSolution/1",
        lead="mean",
        sized="spread",
        axes={
            "x": "row column",
            "points": "point row column",
            "weights": "point",
            "momenta": "point row column",
            "lengths": "point",
        },
        notes={
            "x": "the mean",
            "points": "the matrices whose mean it is",
            "momenta": "covectors at the mean; their geodesics lead to the points",
            "lengths": "distances of the points, of the 1/N-normalised metric",
            "spread": "root of the weighted sum of squared distances",
            "gradient_norm": "length of the weighted sum of the logarithms",
            "searches": "geodesics that were searched for",
        },
    )

    @property
    def variance(self) -> Float[Array, "*k"]:
        """The weighted sum of the squared distances, which the mean minimises."""
        return self.spread**2

    @property
    def hessian(self) -> np.ndarray:
        """The Riemannian Hessian of half of `variance` at the mean, `d^2 d^2`, in an orthonormal frame, by Jacobi
        fields.

        It is the identity where the matrices are flat, as at depth 1. Positive curvature makes it smaller.
        """
        kernel = unchanged(self.depth, self.x.dtype)
        if _is_flat(kernel):
            # The geodesics to the points may cross singular matrices, where rounding hides Jacobi fields.
            return np.eye(self.x.size)
        k = _exponent(np.asarray(self.points), kernel)
        x, momenta, _ = _rescaled(-k, kernel, np.asarray(self.x), np.asarray(self.momenta), np.zeros(0))
        (u, sigma, vt), d = np.linalg.svd(x), len(x)
        frame = np.kron(u, vt.T) * np.sqrt(np.asarray(kernel.eigenvalues(jax.device_put(sigma)))).ravel()
        total, ts, rtol = np.zeros((d * d, d * d)), jax.device_put(np.array([0.0, 1.0])), jax.device_put(_RTOL)
        for weight, p in zip(np.asarray(self.weights), momenta, strict=True):
            moved = np.asarray(jacobians(jax.device_put(x), jax.device_put(p), kernel, ts, rtol)[0])[-1]
            # With the point fixed, the start and the momentum move so that the end does not.
            total += weight * np.linalg.solve(moved[:, d * d : 2 * d * d], moved[:, : d * d])
        total = frame.T @ total @ frame
        return (total + total.T) / 2

    @property
    def index(self) -> int:
        """The number of directions in which `variance` falls from the mean: 0 for a local minimum, else a saddle.

        **Raises:** `ValueError` if a geodesic was not found or cannot be followed.
        """
        hessian = self.hessian
        if self.result != RESULTS.successful or not np.isfinite(hessian).all():
            raise ValueError("the search did not end at a mean, and what is no critical point has no index.")
        return int(np.sum(np.linalg.eigvalsh(hessian) < _NEGATIVE))

    def _curves(self) -> Curves:
        raise ValueError("a mean is one matrix, and no curve. Draw the geodesic to one of its points.")

    def _describe(self) -> str:
        n, d = self.points.shape[-3:-1]
        return (
            f"MeanSolution({n} points, d = {d}, {self.depth}, variance {float(self.variance):.10g}, "
            f"gradient {float(self.gradient_norm):.1e}, {self.result.names})"
        )


def frechet_mean(
    points: Any,
    depth: Depth,
    *,
    weights: Numbers | None = None,
    x0: Square | None = None,
    tol: Number = 1e-10,
    max_steps: int = 100,
    rtol: Number = 1e-11,
    throw: bool = True,
) -> MeanSolution:
    """The Frechet mean, the matrix X with the least sum of w_i d(X, X_i)^2, by Newton's method and gradient descent.

    A step of the descent goes along the exponential of the weighted mean of the logarithms (Karcher 1977), with the
    step length of Barzilai and Borwein (1988) and Armijo's rule. Near the mean, up to d = 5, Newton's method follows
    the geodesics from the points, and at its end all of them are searched for anew. At depth 1 the mean is the
    arithmetic one, in closed form.

    Where the curvature is positive there may be several local minima, and one of them is found. The search starts from
    an inductive mean (Sturm 2003): from one point it goes along the geodesic to the next, by the share of its weight.
    The points are taken in the order of their distances from an average in closed form, so that their given order plays
    no role. From other starts by `x0`, such as each of the points, other minima may be found: the least has the least
    `variance`. If the `index` of the solution is not 0, it is a saddle.

    **Main arguments:** `points`, `n d d`, of full rank, with determinants of one sign; `depth`, N in [1, inf], or a
    kernel.

    **Other arguments:** `weights`, `n`, positive, of sum 1, by default 1/n each; `x0`, where to start; `tol`, the
    gradient at which the search ends, as a share of the `spread`; `max_steps`; `rtol` as in `geodesic`; `throw`, raise
    if the search does not end so: otherwise see `result`.

    **Returns:** a `MeanSolution`, with the mean `x`.

    **Raises:** `ValueError` or `TypeError` for bad input, as `geodesic`, for weights that are not positive or do not
    sum to 1, and inside of `jax.jit`, `jax.grad` and `jax.vmap`; a `RuntimeError` with the sentence of the code in
    `RESULTS` if the search does not converge and `throw`.

    **Example:**

        >>> points = [jnp.diag(jnp.array([4.0, 1.0])), jnp.diag(jnp.array([1.0, 1.0]))]
        >>> for depth in (1, 2, jnp.inf):  # the mean of the entries, of their roots, and of their logarithms
        ...     print(dln.frechet_mean(points, depth).x[0, 0].round(6))
        2.5
        2.25
        2.0
    """
    instead = "dlnjax.distance, the sum of whose squares is least at the mean,"
    refuse_tracing("frechet_mean", (points, depth, weights, x0, tol, rtol), instead)
    points, signs = as_stack("points", points)
    require_double("points", points)
    _require_one_component(signs)
    kernel, weights = as_kernel(depth, points.dtype), _as_weights(weights, len(points))
    tol, most = float(as_tolerance("tol", tol)), as_count("max_steps", max_steps)
    start = None if x0 is None else _as_start(x0, points, int(signs[0]))
    k = _exponent(points, kernel)
    task = Task(np.ldexp(points, -k), weights, kernel, as_tolerance("rtol", rtol).astype(points.dtype))
    # The search calls many programs, each of which may take less than a second.
    with waiting_for("searching for the mean"):
        if _is_flat(kernel):
            end = arithmetic_mean(task)
        else:
            end = descend(task, inductive_mean(task) if start is None else np.ldexp(start, -k), tol, most)
    solution = _solution(task, k, points, end)
    return solution.result.error_if(solution, solution.result != RESULTS.successful) if throw else solution


def _solution(task: Task, k: int, points: np.ndarray, end: Descent) -> MeanSolution:
    place = end.place
    sizes = np.append(place.lengths, [place.spread, place.speed])
    x, momenta, sizes = _rescaled(k, task.kernel, place.x, place.momenta, sizes)
    return MeanSolution(
        x=on_device(x),
        points=on_device(points),
        weights=on_device(task.weights),
        depth=task.kernel,
        momenta=on_device(momenta),
        lengths=on_device(sizes[:-2]),
        spread=on_device(sizes[-2]),
        gradient_norm=on_device(sizes[-1]),
        result=end.code,
        stats={"steps": on_device(end.steps), "searches": on_device(end.searches)},
    )


def _is_flat(kernel: Kernel) -> bool:
    """Whether the depth is 1."""
    return isinstance(kernel, Balanced) and float(kernel.inverse_depth) == 1


def _exponent(points: np.ndarray, kernel: Kernel) -> int:
    """The power of two that scales the points to size one, where X -> cX is an isometry up to a factor, and 0 else."""
    return 0 if kernel.degree is None else int(np.frexp(np.max(np.abs(points)))[1])


def _rescaled(
    k: int, kernel: Kernel, x: np.ndarray, momenta: np.ndarray, lengths: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points, covectors and lengths for matrices that are 2^k times as large."""
    degree = 0.0 if kernel.degree is None else float(kernel.degree)
    factors = (np.exp2(k * (1 - degree)), np.exp2(k * (1 - degree / 2))) if k else (1.0, 1.0)
    return np.ldexp(x, k), momenta * factors[0], lengths * factors[1]


def _require_one_component(signs: np.ndarray) -> None:
    if len(set(signs)) > 1:
        up, down = int(np.argmax(signs)), int(np.argmin(signs))
        raise ValueError(
            f"points[{up}] has a positive determinant and points[{down}] a negative one: they lie on different "
            "components, which no path of full rank joins. Take the mean of each component."
        )


def _as_weights(weights: Any, n: int) -> np.ndarray:
    """The weights, all above 0 and of sum 1."""
    if weights is None:
        return np.full(n, 1 / n)
    weights = np.asarray(as_real("weights", weights, "It is a number for each of the points."), float)
    if weights.shape != (n,):
        raise ValueError(f"weights must have the shape ({n},), a number for each of the points, got {weights.shape}.")
    if not np.all((weights > 0) & (weights < np.inf)):
        i = int(np.argmin((weights > 0) & (weights < np.inf)))
        raise ValueError(
            f"weights must be finite numbers above 0, got {weights[i]:g} for points[{i}]. "
            "Leave out a point that has no weight."
        )
    if abs(weights.sum() - 1) > _SUM_ERROR:
        raise ValueError(f"weights must sum to 1, got {weights.sum():g}. Divide them by their sum.")
    return weights / weights.sum()


def _as_start(x0: Any, points: np.ndarray, sign: int) -> np.ndarray:
    x0 = as_square("x0", x0)
    if x0.shape != points.shape[1:]:
        raise ValueError(f"x0 must have the shape of the points, {points.shape[1:]}, got {x0.shape}.")
    require_double("x0", x0)
    if sign_at_the_door("x0", x0) != sign:
        raise ValueError(
            "x0 and the points have determinants of opposite signs: they lie on different components, which no path of "
            "full rank joins. Start from a matrix on the component of the points, such as one of them."
        )
    return np.asarray(x0)
