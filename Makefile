# Needs Python 3.11 or later with venv, git and make; everything else is fetched into .venv.
# PYTHON chooses another interpreter, TESTS what is tested: make test TESTS=tests/lib/test_cli.py

PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& { echo $$python; break; }; done)
TESTS ?= tests
# three at a time for each processor: the tests mostly wait for the tools that they run
workers = $$(w=$$((3 * $$(nproc))); [ $$w -le 16 ] || w=16; echo $$w)
PYTEST = .venv/bin/python -m pytest -n $(workers) --dist loadgroup

stamp = .venv/.installed-$(subst /,-,$(PYTHON))
dev_stamp = .venv/.installed-dev-$(subst /,-,$(PYTHON))
pip_install = -m pip install --quiet --disable-pip-version-check
pip_failed = { echo "make: pip failed, see above; it needs the network or a mirror" >&2; exit 1; }

.PHONY: help demo demo-indi test test-slow test-all test-installed lint bench install-dev clean distclean

help: ## say what there is to make
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 18

demo: $(stamp) ## run a whole acquisition with simulated sources and show what came out
	@demo/run

demo-indi: $(stamp) ## the same with the simulated camera and telescope of Debian's indi-bin
	@demo/indi

test: $(dev_stamp) ## run the tests but the slow ones
	@tests/setup-system
	@$(PYTEST) -m "not slow" $(TESTS)

test-slow: $(dev_stamp) ## run the slow tests: torture, installations
	@tests/setup-system
	@$(PYTEST) -m slow $(TESTS)

test-all: $(dev_stamp) ## run all tests
	@tests/setup-system
	@$(PYTEST) $(TESTS)

test-installed: $(dev_stamp) ## run the black-box tests again with the scripts of an installation
	@tests/setup-system
	@rm -rf build/installed
	@.venv/bin/python -m venv build/installed
	@build/installed/bin/python $(pip_install) '.[epics]' || $(pip_failed)
	@$(PYTEST) --daq-bin build/installed/bin -m "installed and not slow" $(TESTS)

lint: $(dev_stamp) ## check style, types and shell scripts
	@.venv/bin/python -m ruff check .
	@.venv/bin/python -m mypy
	@if command -v shellcheck >/dev/null; then shellcheck -x $(shell_scripts); \
	elif [ "$(CI)" = true ]; then echo "make: shellcheck is missing" >&2; exit 1; \
	else echo "make: shell scripts not checked: apt-get install shellcheck" >&2; fi

shell_scripts = $$(find bin .ci bench config demo tests tools -type f -print 2>/dev/null | sort \
	| xargs awk 'FNR == 1 { if (/^\#! ?\/(usr\/)?bin\/(env )?(ba)?sh/) print FILENAME; nextfile }')

bench: $(dev_stamp) ## measure
	@bench/run

install-dev: $(dev_stamp) ## make .venv with the project, its tests and linters

clean: ## remove what was built, and caches
	@rm -rf build dist .mypy_cache .pytest_cache .ruff_cache
	@find . -name .venv -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## the same and .venv
	@rm -rf .venv lib/daqlib/*.so

# what an editable installation is made from; all else it takes from here as it is
installed = pyproject.toml hatch_build.py lib/daqlib/__init__.py lib/daqlib/_native.c

$(stamp): $(installed)
	@$(make_venv)
	@.venv/bin/python $(pip_install) -e . || $(pip_failed)
	@$(say_native)
	@touch $@

$(dev_stamp): $(installed)
	@$(make_venv)
	@.venv/bin/python $(pip_install) -e '.[dev]' || $(pip_failed)
	@$(say_native)
	@touch $@ $(stamp)

# pip keeps to itself what hatch_build.py says
say_native = [ -n "$$DAQ_NO_NATIVE" ] || .venv/bin/python -c 'import daqlib._native' 2>/dev/null \
	|| echo "make: no C extension, checksums take longer; for it install a C compiler and" \
	"Python.h (apt-get install gcc python3-dev), then make -B install-dev" >&2

# one of another interpreter, or of one that is gone, is made anew
define make_venv
python='$(PYTHON)'; die() { echo "make: $$1" >&2; exit 1; }; \
[ -n "$$python" ] || die "Python 3.11 or later is missing: apt-get install python3 python3-venv"; \
"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	|| die "$$python is not there or older than 3.11: apt-get install python3 python3-venv"; \
"$$python" -c 'import ensurepip, venv' 2>/dev/null \
	|| die "$$python has no venv: apt-get install $$(basename "$$python")-venv"; \
version='import sys; print(sys.version_info[:2])'; \
if [ "$$(.venv/bin/python -c "$$version" 2>/dev/null)" != "$$("$$python" -c "$$version")" ]; then \
	echo "make: making .venv, this takes a minute" >&2; \
	"$$python" -m venv --clear .venv || die "making .venv failed, see above"; \
fi
endef
