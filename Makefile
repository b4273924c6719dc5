# Every target makes its own .venv from constraints.txt: PYTHON=python3.12 make test uses another Python.
PYTHON ?= python3
BIN := .venv/bin
export JAX_COMPILATION_CACHE_DIR ?= $(CURDIR)/.cache/jax

# Nearly all of the time of the tests, and of the pictures of the pages, is compilation. These options more than halve it,
# and change only rounding. The library leaves the options of XLA alone that are named here. JAX sets level 0 and not
# QUICK, as `tests/conftest.py` lets XLA optimise where a test is marked `optimised`.
QUICK := --xla_backend_optimization_level=1 --xla_llvm_disable_expensive_passes=true
QUICK += --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1
test fast long lowest neighbours explore notebooks docs: export JAX_DISABLE_MOST_OPTIMIZATIONS ?= 1
test fast long lowest neighbours explore notebooks docs: export XLA_FLAGS ?= $(QUICK)

.PHONY: help install reproduce test fast long lowest neighbours explore notebooks docs check format bench stress clean

help:
	@echo "make reproduce   every figure, its data, the numbers and a report, into out/; ARGS=--quick for a look"
	@echo "make test        the tests            make fast    without the slow ones"
	@echo "make long        the tests too long for make test; make test LONG=1 runs both at once"
	@echo "make lowest      some of the short ones with the oldest dependencies allowed"
	@echo "make neighbours  the adapters for geomstats and pymanopt"
	@echo "make explore     the explorer in a real browser, from a wheel"
	@echo "make docs        the documentation, into build/site"
	@echo "make notebooks   the notebooks, run from top to bottom"
	@echo "make check       format, lint, types  make format  apply the first two"
	@echo "make bench       the benchmarks       make stress  every seed accounted for, at length"
	@echo "make install     the environment alone, editable"

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

# A rival of benchmarks/geodesic.py, which needs an older NumPy.
.venv-geomstats/installed: benchmarks/geomstats-requirements.txt
	$(PYTHON) -m venv .venv-geomstats
	.venv-geomstats/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	touch $@

reproduce: install
	$(BIN)/dlnjax reproduce --out out $(ARGS)

# In one run with the long ones each file traces its programs once. `worksteal` hands each core a row of whole files, and
# shares the rest out when a core has nothing left.
test: install
	$(BIN)/pytest -n auto --dist worksteal $(if $(LONG),,-m "not long")

fast: install
	$(BIN)/pytest -n auto --dist loadscope -m "not slow and not long"

long: install
	$(BIN)/pytest -n auto --dist worksteal -m long

# Of the short tests those that use most of what the dependencies offer.
LOWEST := $(addprefix tests/,energies/test_energies.py flows/test_flow_derivatives.py project/test_layers.py geometry/test_metric.py project/test_package.py ground/test_security.py ground/test_svd.py)

lowest: .venv-lowest/installed
	.venv-lowest/bin/pytest -n auto --dist loadscope -m "not long" $(LOWEST)

.venv-lowest/installed: pyproject.toml constraints-lowest.txt
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-lowest.txt \
		-e ".[io]" pytest pytest-xdist beartype
	touch $@

# The adapters, with the libraries that they adapt, and what benchmarks/neighbours.py compares them with. The old NumPy of
# geomstats stays out of .venv.
neighbours: .venv-neighbours/installed
	.venv-neighbours/bin/pytest tests/neighbours

.venv-neighbours/installed: pyproject.toml constraints-neighbours.txt
	$(PYTHON) -m venv .venv-neighbours
	.venv-neighbours/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-neighbours.txt \
		-e ".[geomstats,pymanopt]" pytest beartype autograd POT
	touch $@

# The explorer in Chromium, from a wheel in an environment that holds nothing of this folder.
explore: install .venv-explore/installed
	rm -rf dist/explore
	$(BIN)/python -m hatchling build -t wheel -d dist/explore
	.venv-explore/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --force-reinstall dist/explore/*.whl
	.venv-explore/bin/pytest tests/explore/test_browser.py tests/explore/test_command.py

.venv-explore/installed: pyproject.toml constraints-explore.txt
	$(PYTHON) -m venv .venv-explore
	.venv-explore/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-explore.txt \
		".[explore]" pytest beartype selenium
	touch $@

docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

notebooks: install
	$(BIN)/pytest -n auto -W default --nbmake --nbmake-timeout=120 notebooks

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: install .venv-geomstats/installed .venv-neighbours/installed
	$(BIN)/python benchmarks/flow.py
	$(BIN)/python benchmarks/sweep.py
	$(BIN)/python benchmarks/limit.py
	$(BIN)/python benchmarks/noise.py
	$(BIN)/python benchmarks/workers.py
	$(BIN)/python benchmarks/scaling.py
	$(BIN)/python benchmarks/geodesic.py
	.venv-neighbours/bin/python benchmarks/neighbours.py
	$(BIN)/python benchmarks/ratings.py
	$(BIN)/python benchmarks/reproduce.py
	$(BIN)/python benchmarks/first_figure.py
	$(BIN)/python benchmarks/first_call.py
	$(BIN)/python benchmarks/chart.py

stress: install
	$(BIN)/python tests/stress/flows.py
	$(BIN)/python tests/stress/geodesics.py
	$(BIN)/python tests/stress/shapes.py
	$(BIN)/python tests/stress/sweeps.py

clean:
	rm -rf .venv .venv-lowest .venv-geomstats .venv-neighbours .venv-explore .cache out build dist
