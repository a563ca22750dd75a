# Each target does its own set-up; `make demo` and `make test` are all a new machine needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
LABEL := .venv-label
LABEL_INSTALLED := $(LABEL)/.installed

.PHONY: demo bundle docs test test-label test-range lint build clean

$(INSTALLED): setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	# torch first and pinned: an unpinned one pulls gigabytes of CUDA where a CPU build would do
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[demo,report,faiss,dicom,nrrd,onnx,mlflow,docs,dev]'
	touch $@

# MONAI Label has an environment of its own, since it needs older releases than the rest.
$(LABEL_INSTALLED): setup.cfg pyproject.toml constraints-label.txt
	$(PYTHON) -m venv $(LABEL)
	$(LABEL)/bin/python -m pip install --quiet --no-deps --requirement constraints-label.txt
	$(LABEL)/bin/python -m pip install --quiet --no-deps --editable .
	touch $@

demo: $(INSTALLED)
	$(BIN)/monai-dpmm-ad demo --out demo

# A small fitted bundle, for a release: that of the demo, checked by the model zoo's rules, without names of scans.
bundle: demo
	mkdir -p dist
	$(BIN)/monai-dpmm-ad pack demo/bundle --out dist/dpmm_ad_phantoms.zip --overwrite

# One thread a process: the tests are small, and rounding must not depend on how many run.
test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist worksteal

# Orthanc is the DICOM server that MONAI Label's DICOMweb is tried on; without it those tests are skipped.
test-label: $(LABEL_INSTALLED)
	@command -v Orthanc >/dev/null || ls /usr/sbin/Orthanc >/dev/null 2>&1 || \
		apt-get install --yes --quiet --no-install-recommends orthanc orthanc-dicomweb || \
		echo "Orthanc could not be installed (Debian, as root): the tests on a DICOM server are skipped"
	$(LABEL)/bin/python -m pytest tests/label tests/ops tests/transforms tests/mixture/test_mixture.py tests/calibration

# The lowest and the newest releases that setup.cfg allows, and newer Pythons; see docs/dependencies.md
test-range:
	$(PYTHON) .ci/dependency_range.py lowest
	$(PYTHON) .ci/dependency_range.py highest
	$(PYTHON) .ci/dependency_range.py 3.12
	$(PYTHON) .ci/dependency_range.py 3.13
	$(PYTHON) .ci/dependency_range.py audit

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/hadolint Dockerfile

# The site lies in site/; a link or a name that leads nowhere fails, and nothing is asked of a network.
docs: $(INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

build: $(INSTALLED)
	$(BIN)/python -m build

clean:
	rm -rf $(VENV) $(LABEL) build dist *.egg-info demo site
