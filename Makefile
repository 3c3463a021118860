# `make rehearse` deploys a simulated node on this computer; `make test` runs all the tests.
# Needs make and Python 3.11 to 3.13; everything else goes into .venv.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

ROOT := $(CURDIR)
VENV := $(ROOT)/.venv
BIN := $(VENV)/bin
REHEARSAL ?= $(ROOT)/.rehearsal
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	"$$p" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && { command -v "$$p"; break; }; done)

export PATH := $(BIN):$(PATH)
export ANSIBLE_CONFIG := $(ROOT)/ansible.cfg
# Ansible's own caches and temporary files stay in the checkout, too.
export ANSIBLE_HOME := $(ROOT)/.ansible
# Some machines set them; output is buffered and byte code written as on an operator's computer.
unexport PYTHONUNBUFFERED PYTHONDONTWRITEBYTECODE

.PHONY: help rehearse simulate lint unit integration test sanity molecule aarch64 matrix docs release-check build clean
help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

# A virtual environment that was made halfway is made again: the stamp is written last.
$(VENV)/.stamp-%: requirements-%.txt requirements.txt
	@test -n "$(PYTHON)" || { echo "No Python 3.11 to 3.13 found; name one: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV)
	@echo "Installing $< into .venv (once)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

$(VENV)/.stamp-run: requirements.txt
	@test -n "$(PYTHON)" || { echo "No Python 3.11 to 3.13 found; name one: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV)
	@echo "Installing requirements.txt into .venv (once)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

# Tools that want other versions than the tests do have an environment of their own, kept between runs; `make clean` removes it.
.cache/venv-%/.stamp: requirements-%.txt requirements.txt
	@test -n "$(PYTHON)" || { echo "No Python 3.11 to 3.13 found; name one: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@rm -rf $(@D) && "$(PYTHON)" -m venv $(@D)
	@echo "Installing $< into $(@D) (once)"
	@$(@D)/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

simulate: $(VENV)/.stamp-rehearsal ## Build the simulated media and node
	@$(BIN)/python tests/simulator/build.py --root $(REHEARSAL)

rehearse: simulate ## Deploy the simulated node on this computer
	@$(BIN)/ansible-playbook site.yml -i inventories/rehearsal -e rehearsal_root=$(REHEARSAL) $(ARGS)

lint: $(VENV)/.stamp-test ## Style of YAML, Python and Ansible
	@$(BIN)/yamllint --strict .
	@$(BIN)/ruff check --quiet plugins tests
	@$(BIN)/mypy
	@ANSIBLE_COLLECTIONS_PATH=$(ROOT)/collections $(BIN)/ansible-lint --offline --profile production
	@$(BIN)/antsibull-changelog lint

unit: $(VENV)/.stamp-test ## Pure logic, modules, roles' options
	@$(BIN)/python -m pytest tests/unit -n 2 $(ARGS)

# One node for each file; files in their order: those of integration, which take longest, come first.
PARALLEL := -n 2 --dist loadfile --no-loadscope-reorder

integration: $(VENV)/.stamp-test ## The rehearsal and what happens when things are wrong
	@$(BIN)/python -m pytest tests/integration $(PARALLEL) $(ARGS)

test: lint $(VENV)/.stamp-test ## All the tests that need neither root nor containers
	@$(BIN)/python -m pytest $(PARALLEL) $(ARGS)
	@$(MAKE) --no-print-directory sanity

sanity: $(VENV)/.stamp-test ## ansible-test sanity on what is built
	@tests/sanity.sh .cache/sanity --venv --python $$($(BIN)/python -c 'import sys; print(*sys.version_info[:2], sep=".")')

# The others are "faults fleet" and those of `make aarch64`; CI plays them last.
# Two at a time; each one's whole output is in .cache/molecule. Where one fails its end is shown, and last of all the tasks that failed.
SCENARIOS ?= default airgap roles

# Podman runs the nodes, or docker where only that is there; NPUOPS_ENGINE=docker takes it in any case.
# Exit 77 of engine.sh: this machine cannot run containers, and the last line says why. `make molecule SKIP=ok` lives with that.
# $(1): calls of engine.sh that have to pass; $(2): the scenarios that are played then.
define play
	@{ $(1); } || { rc=$$?; [ $$rc -eq 77 ] && [ "$(SKIP)" = ok ] && exit 0; exit $$rc; }; \
	$(MAKE) --no-print-directory --jobs=2 --keep-going --output-sync=target $(2:%=molecule-%) || \
	{ for scenario in $(2); do log=.cache/molecule/$$scenario.log.failed; [ ! -e $$log ] || { echo "$$scenario:"; cat $$log; }; done; \
	df -h . | tail -n 1; free -m | sed -n 2p; cat /proc/loadavg; exit 1; }
endef

molecule: $(VENV)/.stamp-molecule ## Root, systemd, packages, several nodes: nodes as containers
	$(call play,tests/containers/engine.sh .cache/containers,$(SCENARIOS))

molecule-%:
	@mkdir -p .cache/molecule; log=.cache/molecule/$*.log; rm -f $$log.failed; SECONDS=0; \
	NO_COLOR=1 $(BIN)/molecule test --scenario-name $* >$$log 2>&1 || \
	{ $(BIN)/python tests/containers/failed.py $$log >$$log.failed; tail -n 150 $$log; echo "Scenario $* failed after $$SECONDS s, see $$log"; exit 1; }; \
	echo "Scenario $* passed in $$SECONDS s"

# Slow: every command of these nodes is emulated. Needs root; fetches 200 MB of wheels once.
aarch64: $(VENV)/.stamp-molecule ## A whole emulated Arm node, and the published wheels of Arm on another one
	$(call play,tests/containers/engine.sh .cache/containers aarch64 python && tests/containers/engine.sh .cache/containers aarch64,wheels aarch64)

matrix: $(VENV)/.stamp-test ## Pythons of nodes, oldest and newest ansible-core
	@tests/matrix.sh .cache/matrix $(CELLS)

docs: .cache/venv-docs/.stamp ## The documentation as a site, in .cache/docs/html
	@PATH=$(ROOT)/.cache/venv-docs/bin:$$PATH; antsibull-docs lint-collection-docs --plugin-docs --check-extra-docs-refs --validate-collection-refs self .
	@PATH=$(ROOT)/.cache/venv-docs/bin:$$PATH tests/docs/build.sh .cache/docs

# FINAL=1 on the day of the release: the changelog has to have its entry (docs/releasing.md).
release-check: $(VENV)/.stamp-test .cache/venv-release/.stamp ## The tarball as it would be published
	@FINAL=$(FINAL) $(BIN)/python -m pytest tests/release -v --no-header $(ARGS)
	@echo "The importer's log is in .cache/release; the environment .cache/venv-release is kept for the next run"

build: $(VENV)/.stamp-run ## The collection as a tarball, in dist/
	@mkdir -p dist && $(BIN)/ansible-galaxy collection build --force --output-path dist

clean: ## Remove the rehearsal, the caches and the virtual environment
	@chmod -R u+rwX $(REHEARSAL) 2>/dev/null || true
	@rm -rf $(REHEARSAL) .cache .ansible dist $(VENV)
