"""dlnjax: the deep linear network as a Riemannian geometry on matrices, differentiable, in JAX."""

from importlib import import_module
from typing import Any, TYPE_CHECKING

from dlnjax import _versions, closed_form as closed_form
from dlnjax._compile import cache as cache
from dlnjax._energies.completion import MatrixCompletion as MatrixCompletion
from dlnjax._energies.regression import LeastSquares as LeastSquares
from dlnjax._energies.sensing import MatrixSensing as MatrixSensing
from dlnjax._energies.spectral import FreeEnergy as FreeEnergy, Schatten as Schatten, SpectralEnergy as SpectralEnergy
from dlnjax._flows.chebyshev import RungeKuttaChebyshev as RungeKuttaChebyshev
from dlnjax._flows.gradient_flow import gradient_flow as gradient_flow
from dlnjax._flows.problem import Steady as Steady
from dlnjax._flows.solution import FlowSolution as FlowSolution
from dlnjax._geodesics.exponential import exponential as exponential, ExponentialSolution as ExponentialSolution
from dlnjax._geodesics.geodesic import (
    distance as distance,
    distance_bounds as distance_bounds,
    geodesic as geodesic,
    geodesics as geodesics,
    GeodesicSolution as GeodesicSolution,
    logarithm as logarithm,
)
from dlnjax._geodesics.mean import frechet_mean as frechet_mean, MeanSolution as MeanSolution
from dlnjax._geodesics.transport import transport as transport
from dlnjax._geometry.curvature import (
    christoffel as christoffel,
    covariant_derivative as covariant_derivative,
    curvature as curvature,
    ricci as ricci,
    scalar_curvature as scalar_curvature,
    sectional_curvature as sectional_curvature,
)
from dlnjax._geometry.imbalanced import Imbalanced as Imbalanced
from dlnjax._geometry.kernel import Balanced as Balanced, Kernel as Kernel
from dlnjax._geometry.metric import (
    boundary_distance as boundary_distance,
    hamiltonian as hamiltonian,
    inner as inner,
    metric_eigenvalues as metric_eigenvalues,
    metric_operator as metric_operator,
    metric_operator_inverse as metric_operator_inverse,
    norm as norm,
    riemannian_gradient as riemannian_gradient,
)
from dlnjax._geometry.spectrum import (
    effective_rank as effective_rank,
    entropy as entropy,
    entropy_gradient as entropy_gradient,
    nuclear_norm as nuclear_norm,
    schatten_norm as schatten_norm,
    stable_rank as stable_rank,
)
from dlnjax._networks.balance import balance as balance
from dlnjax._networks.factors import (
    balanced_factors as balanced_factors,
    balancedness as balancedness,
    imbalanced_factors as imbalanced_factors,
    product as product,
)
from dlnjax._networks.flow import network_flow as network_flow, NetworkSolution as NetworkSolution
from dlnjax._networks.sharpness import sharpness as sharpness
from dlnjax._networks.submersion import (
    horizontal_lift as horizontal_lift,
    horizontal_projection as horizontal_projection,
    tangent_kernel as tangent_kernel,
    vertical_projection as vertical_projection,
)
from dlnjax._networks.training import train as train, Training as Training
from dlnjax._noise import Noise as Noise
from dlnjax._results import RESULTS as RESULTS
from dlnjax._svd import SVD as SVD, svd as svd
from dlnjax._sweeps.folder import load as load
from dlnjax._sweeps.grid import Family as Family
from dlnjax._sweeps.pairs import distances as distances
from dlnjax._sweeps.seeds import PerSeed as PerSeed
from dlnjax._sweeps.starts import Ensemble as Ensemble, gaussian as gaussian
from dlnjax._sweeps.sweep import sweep as sweep
from dlnjax.claims import check as check, thesis as thesis

__version__ = _versions.version_of("dlnjax")

if TYPE_CHECKING:
    from dlnjax import plot as plot
else:
    # matplotlib takes as long to import as all else together, so `dlnjax.plot` is imported at its first use.
    def __getattr__(name: str) -> Any:
        if name == "plot":
            return import_module("dlnjax.plot")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), "plot"})
