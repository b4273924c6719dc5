"""float64, run-time checks of every annotation of the library, and keys."""

import jax
import pytest
from jaxtyping import install_import_hook

jax.config.update("jax_enable_x64", True)
# The cache is on where JAX_COMPILATION_CACHE_DIR names a folder.
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)

with install_import_hook("dlnjax", "beartype.beartype"):
    import dlnjax  # noqa: F401


@pytest.fixture
def key(request):
    """A key of its own for every test."""
    seed = sum(i * ord(c) for i, c in enumerate(request.node.nodeid.rpartition("/")[2], 1))
    return jax.random.key(seed % 2**31)


@pytest.fixture(scope="module")
def module_key(request):
    """A key for what the tests of a module share."""
    return jax.random.key(sum(map(ord, request.module.__name__)))
