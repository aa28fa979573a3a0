# make help lists what there is.
.DEFAULT_GOAL := help
SHELL := /bin/sh
BIN := .venv/bin
# The lock of the tests includes the other one: whoever has the tests' environment keeps it.
LOCK = $(if $(wildcard .venv/.installed-requirements-dev.lock),requirements-dev.lock,requirements.lock)
INVENTORY ?= inventory/local
PLAYBOOK = $(BIN)/ansible-playbook -i $(INVENTORY)

.PHONY: help up dev down purge status smoke check test test-all lint unit integration integration-models rsync ssh proxy bed bed-down bench bench-hosts lock venv venv-dev

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | awk -F'\t' '{printf "  make %-10s %s\n", $$1, $$2}'

venv:
	@scripts/venv.sh $(LOCK)

venv-dev:
	@scripts/venv.sh requirements-dev.lock

up: venv ## Serve conf.ini on this machine: everything from nothing to an answered request
	$(PLAYBOOK) site.yml $(if $(DEV),-e modelserve_dev=true)

dev: venv ## After `make up DEV=1`: restart the containers with the edited files/modelserve (PART=catalog: one)
	$(PLAYBOOK) playbooks/dev.yml $(if $(PART),-e part=$(PART))

down: venv ## Stop and remove what `make up` started; data stays
	$(PLAYBOOK) playbooks/down.yml

purge: venv ## Remove the data and images too: asks (CONFIRM=local answers)
	$(PLAYBOOK) playbooks/purge.yml $(if $(CONFIRM),-e confirm=$(CONFIRM))

status: venv ## Show what is served
	$(PLAYBOOK) playbooks/status.yml

smoke: venv ## Ask each algorithm one question
	$(PLAYBOOK) playbooks/smoke.yml

check: venv-dev ## Lint and pure tests: a minute
	@$(MAKE) --no-print-directory -j2 --output-sync=target lint unit

lint: venv-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PYTHONPATH=files $(BIN)/lint-imports --no-logo --no-cache
	$(BIN)/yamllint -s .
	$(BIN)/shellcheck scripts/*.sh scripts/modelserve test/run.sh files/image/*.sh roles/docker/files/*.sh roles/nvidia/files/*.sh molecule/shared/*.sh test/bed/*.sh .ci/run
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python scripts/ansible_lint.py -q

unit: venv-dev rsync
	$(BIN)/pytest -q -n 2 --dist worksteal test/unit

integration: venv-dev rsync ssh proxy # what runs Ansible, HAProxy and a store on this machine
	$(BIN)/pytest -q -n 3 --dist loadfile -m "$(if $(MODELSERVE_TESTS),,not long)" test/integration

integration-models: # models from real servers; their clients are in an environment of their own
	@scripts/venv.sh requirements-models-test.lock .venv-models
	.venv-models/bin/python -m pytest -q test/integration/test_model_sources.py

rsync: # some tests run a real rsync daemon; without rsync they would be skipped
	@command -v rsync >/dev/null || { echo "step: installing rsync"; apt-get update -q >/dev/null && \
	    DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends rsync >/dev/null; }

ssh: # some tests run SSH servers of their own. Where services start by themselves, installing one is the user's decision
	@[ -d /run/systemd/system ] || { [ -x /usr/sbin/sshd ] && command -v sudo >/dev/null; } || { \
	    echo "step: installing openssh-server and sudo"; apt-get update -q >/dev/null && RUNLEVEL=1 \
	    DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends openssh-server sudo >/dev/null; }

proxy: # some tests run a real forward proxy in a network without a route; without the two they would be skipped
	@{ command -v tinyproxy && command -v ip; } >/dev/null || { echo "step: installing tinyproxy"; apt-get update -q >/dev/null && \
	    DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends tinyproxy-bin iproute2 >/dev/null; }

test: venv-dev ## Check, and the essential proof on one real machine and on a cluster of real hosts: 15 minutes
	@test/run.sh check integration default cluster

test-all: venv-dev ## Every test there is (PART=cluster: one part): long failures, removal, Debian 12, odd hosts, fuzzing
	@MODELSERVE_TESTS="essential or not essential" test/run.sh $(or $(PART),check integration integration-models default bookworm cluster odd)

bed: venv ## Start a test bed: a head and two workers as fresh hosts, reached over SSH
	docker version >/dev/null 2>&1 || roles/docker/files/start_dockerd.sh
	$(BIN)/python test/bed/bed.py up

bed-down: ## Remove the test bed
	python3 test/bed/bed.py down

bench: venv-dev ## Measure beside FastAPI, LitServe, BentoML, MLServer and stock Ray Serve (30 minutes; ARGS=--quick: 3)
	$(BIN)/python bench/run.py $(ARGS)

bench-hosts: venv-dev ## Measure what a host costs: runs on 3 real and 50 stub hosts (20 minutes)
	$(BIN)/python bench/hosts.py

lock: venv-dev ## Resolve the lock files anew
	scripts/lock.sh
