# make reproduce [PROFILE=quick] [DATA=DIR] [DATASET=NAME]   the whole chain: train, measure, draw, report
# make test                                                  everything that is checked
# make lab                                                   JupyterLab with the notebooks
# make findings                                              the README's table, from the ledger of the set that it names
# VENV=DIR reuses an environment, PYTHON=python3.12 chooses the interpreter for a new one, ARGS='...' goes to acgan reproduce,
# CORES=N is how many tests run side by side.

PYTHON  ?= python3
VENV    ?= .venv
PROFILE ?= quick
DATA    ?=
DATASET ?=
ARGS    ?=
CORES   ?= $(shell getconf _NPROCESSORS_ONLN)

# One thread a process; a library that starts more all the same does not spin while it waits.
ONE := ACGAN_HEADLESS=1 OMP_NUM_THREADS=1 GOMP_SPINCOUNT=0

HERE := $(shell printf %s '$(CURDIR)' | cksum | cut -d' ' -f1)
RUN  := $(VENV)/bin/python
export ACGAN_HOME := $(CURDIR)

.PHONY: reproduce test lab findings clean

reproduce: $(VENV)/.acgan-$(HERE)-chain
	@$(RUN) -m acgan.cli reproduce --profile '$(PROFILE)' $(if $(DATA),--data-root '$(DATA)') $(if $(DATASET),--dataset '$(DATASET)') $(ARGS)

test: $(VENV)/.acgan-$(HERE)-test
	$(ONE) $(VENV)/bin/nbdev_test --path nbs --n_workers $(CORES) --timing
	$(ONE) $(RUN) -m pytest -q -n $(CORES) --dist loadfile --no-loadscope-reorder

lab: $(VENV)/.acgan-$(HERE)-lab
	$(RUN) -m jupyterlab --notebook-dir='$(CURDIR)/nbs'

findings: $(VENV)/.acgan-$(HERE)-chain
	$(RUN) -c 'from acgan.findings import write_findings; write_findings("README.md")'

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache figures/quick figures/quick-* data/quick data/quick-*
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

# One stamp for each extra and checkout: an environment may serve several checkouts, and a repeated run installs nothing.
$(VENV)/.acgan-$(HERE)-%: pyproject.toml | $(VENV)/bin/python
	$(RUN) -m pip install --quiet --disable-pip-version-check --editable '.[$*]'
	@touch '$@'

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "acgan needs Python 3.10 or newer: set PYTHON=")'
	$(PYTHON) -m venv '$(VENV)'
