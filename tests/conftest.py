"""float64, run-time checks of every annotation, keys, a browser, and an end to garbage, programs and figures."""

import gc
import shutil
import sys
from pathlib import Path

import jax
import pytest
from jaxtyping import install_import_hook

jax.config.update("jax_enable_x64", True)
# The cache is on where JAX_COMPILATION_CACHE_DIR names a folder.
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
# For each error JAX would look at the file of every frame. The tests of wrong input raise thousands.
jax.config.update("jax_traceback_filtering", "off")

with install_import_hook("dlnjax", "beartype.beartype"):
    import dlnjax  # noqa: F401
    from dlnjax._compile import SELDOM


def pytest_collection_finish():
    """Let Python look for garbage seldom, and not among what the imports have made.

    JAX makes so many small objects while it traces that this search takes a quarter of the time of tracing.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*SELDOM)


# A compiled program takes up to some hundred maps of memory, and Linux gives 65,530 to a process. Beyond them JAX ends
# the process by a segmentation fault. A process that runs a thousand tests comes so far.
MAPS, MOST_MAPS = Path("/proc/self/maps"), 40_000
# What JAX keeps of the programs of all tests takes more than eight gigabytes. Pages of memory, of 4 kB each.
STATM, MOST_PAGES = Path("/proc/self/statm"), 750_000


def pages() -> int:
    return int(STATM.read_text().split()[1]) if STATM.exists() else 0


@pytest.fixture(scope="session")
def kept():
    """The pages in use after programs were forgotten last."""
    return [pages()]


@pytest.fixture(autouse=True)
def few_programs(kept):
    """Forget the compiled programs before there are too many for one process, or for the memory."""
    yield
    too_many = MAPS.exists() and MAPS.read_bytes().count(b"\n") > MOST_MAPS
    if too_many or pages() > kept[0] + MOST_PAGES:
        jax.clear_caches()
        gc.collect()
        kept[0] = pages()


UNOPTIMISED = jax.config.values["jax_disable_most_optimizations"]


@pytest.fixture(autouse=True)
def optimised(request):
    """Let XLA optimise the programs of the tests with this mark, where `make` has told JAX to optimise little.

    These tests run longer than they compile. JAX keeps a compiled program without asking by which options it was made.
    """
    wanted = request.node.get_closest_marker("optimised") is not None
    if UNOPTIMISED and wanted == jax.config.values["jax_disable_most_optimizations"]:
        jax.config.update("jax_disable_most_optimizations", not wanted)
        if wanted:
            jax.clear_caches()


@pytest.fixture(autouse=True)
def no_figures():
    """Close the figures that a test leaves open: Matplotlib warns at twenty-one, in whichever test opens that one."""
    yield
    if pyplot := sys.modules.get("matplotlib.pyplot"):
        pyplot.close("all")


@pytest.fixture
def key(request):
    """A key of its own for every test."""
    seed = sum(i * ord(c) for i, c in enumerate(request.node.nodeid.rpartition("/")[2], 1))
    return jax.random.key(seed % 2**31)


@pytest.fixture(scope="module")
def module_key(request):
    """A key for what the tests of a module share."""
    return jax.random.key(sum(map(ord, request.module.__name__)))


@pytest.fixture(scope="module")
def browser():
    """Chromium without a window, and without a name server or proxy that could answer it."""
    programs = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
    missing = [name for name, path in programs.items() if path is None]
    if missing:
        pytest.skip(f"needs {' and '.join(missing)}: apt-get install chromium chromium-driver")
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium: pip install selenium")
    options = webdriver.ChromeOptions()
    options.binary_location = programs["chromium"]
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.ChromeService(executable_path=programs["chromedriver"])
    driver = webdriver.Chrome(options=options, service=service)
    yield driver
    driver.quit()
