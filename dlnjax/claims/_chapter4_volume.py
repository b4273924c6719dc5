"""Section 4.3: the volume of the orbit upstairs, the volume of the metric downstairs, and their values at low rank."""

from typing import NamedTuple

import numpy as np

from dlnjax.claims._chapter4_frame import Point, point
from dlnjax.claims._claim import Claim, NO_DEPTH
from dlnjax.claims._spectra import as_matrix, eigenvalues, generator, log_volume, off


class Minimiser(NamedTuple):
    """The minimiser [[1, alpha], [beta, 1]] of (4.21). It has full rank off the hyperbola alpha beta = 1."""

    alpha: float
    beta: float


def minimiser(key, depth) -> Minimiser:
    alpha, beta = np.exp(generator(key).uniform(-1, 1, 2))
    return Minimiser(float(alpha), float(-beta))


def sigma_of(alpha, beta):
    return np.linalg.svd([[1.0, alpha], [beta, 1.0]], compute_uv=False)


def towards_hyperbola(at: Minimiser, log_size) -> float:
    """The logarithm of the volume at the minimiser minus that next to the hyperbola."""
    near = sigma_of(at.alpha, (1 - 1e-9) / at.alpha)
    return float(log_size(sigma_of(at.alpha, at.beta)) - log_size(near))


def downstairs(sigma):
    """log sqrt(det g) at infinite depth, where the eigenvalues of the metric g are the 1/lambda_kl."""
    return -np.sum(np.log(eigenvalues(sigma, np.inf))) / 2


HIGH_VOLUME = Claim(
    name="Section 4.3, high volume",
    statement="the hyperbolas of rank one are the regions of high volume, that is of large S",
    where="Section 4.3",
    expected="fails",
    note="On the minimisers of (4.21), S_inf -> -inf there; what blows up is the volume of the metric, sqrt(det g).",
    draw=minimiser,
    printed=lambda at: towards_hyperbola(at, lambda sigma: log_volume(sigma, np.inf)),
    instead=lambda at: towards_hyperbola(at, downstairs),
    tampered=(("1/sqrt(det g)", lambda at: towards_hyperbola(at, lambda sigma: -downstairs(sigma))),),
    examples=(Minimiser(1.0, -1.0),),
    depths=NO_DEPTH,
)


def metric_volume(at: Point, factor=2.0, sign=-1.0) -> float:
    """The error of log sqrt(det g^N) = -1/2 sum log lambda_kk - 2 S_N, against the determinant of the matrix of A_X."""
    diagonal = np.sum(np.log(np.diag(eigenvalues(at.sigma, at.depth))))
    expected = sign * diagonal / 2 - factor * log_volume(at.sigma, at.depth)
    return off(-np.linalg.slogdet(as_matrix(at.x, at.depth))[1] / 2, expected)


METRIC_VOLUME = Claim(
    name="Section 4.3, the two volumes",
    statement="log sqrt(det g^N) = -1/2 sum log lambda_kk - 2 S_N: large where S_N is small",
    where="Section 4.3, beyond it",
    expected="holds",
    note="The volume below and that of the fibre above are opposed; S_N is the sum in (4.27).",
    draw=point,
    printed=metric_volume,
    tampered=(
        ("S_N once", lambda at: metric_volume(at, factor=1.0)),
        ("S_N added", lambda at: metric_volume(at, factor=-2.0)),
        ("the diagonal added", lambda at: metric_volume(at, sign=1.0)),
    ),
)

CLAIMS: tuple[Claim, ...] = (
    HIGH_VOLUME,
    METRIC_VOLUME,
)
