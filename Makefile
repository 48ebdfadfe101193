PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: demo docs test test-slow test-extras test-package check format clean

# what two initialisations do to the signals of 30 layers, within seconds; then the study of the README: trains, draws
demo: $(INSTALLED)
	$(BIN)/initlab compare-inits plain --set depth=30 --set 'widths=[16,24]' --input 1x8x8 --data digits \
		--schemes xavier,he --seeds 2 --out results/demo/figures/start.png
	@echo "its figure: results/demo/figures/start.png; now 18 nets are trained, two to three minutes on two cores"
	$(BIN)/initlab run sweeps/demo.yaml
	$(BIN)/initlab plot results/demo

# lint, format, types, and every test but the slow ones
test: check
	$(BIN)/python -m pytest -n 2 --dist worksteal

# ten seeds of the demo, wide theory bands, gangs of Ray Train: an hour or two on two cores
test-slow: $(INSTALLED)
	$(BIN)/python -m pytest -n 2 --dist worksteal -m slow

# what needs MLflow, Trackio, Lightning, transformers or playwright, which it installs into .venv
test-extras: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --editable '.[mlflow,trackio,lightning,transformers,browser]'
	$(BIN)/python -m pytest tests/store/test_trackers.py tests/launch/test_callbacks.py \
		tests/report/test_report_in_a_browser.py

# the site, in build/site; a broken link is an error
docs: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	rm -rf build/docs build/site
	mkdir -p build/docs/results
	cp README.md CHANGELOG.md CONTRIBUTING.md build/docs
	cp -rL docs notebooks sweeps build/docs
	cp -rL results/README.md results/reference build/docs/results
	$(BIN)/mkdocs build --strict

# sdist and wheel; the wheel works in an environment of its own, from a folder without the sources
test-package:
	rm -rf build/package
	$(PYTHON) -m venv build/package/env
	build/package/env/bin/python -m pip install --quiet build
	build/package/env/bin/python -m build --outdir build/package/dist .
	tar -tzf build/package/dist/*.tar.gz | grep -q sweeps/demo.yaml
	build/package/env/bin/python -m pip install --quiet --constraint constraints.txt build/package/dist/*.whl
	mkdir build/package/away
	cp sweeps/demo.yaml build/package/away
	cd build/package/away && PATH=../env/bin:$$PATH && initlab --version && initlab nets small-30 >nets.txt \
		&& initlab inspect plain --init he && initlab run demo.yaml --set train.epochs=1 --max-trials 1 \
		&& initlab plot results/demo && initlab report results/demo && initlab export results/demo --to tensorboard

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "initlab needs python 3.11 or later (got " + sys.version.split()[0] + "); name another with make PYTHON=python3.12")'
	@echo "installing into .venv, about two minutes"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	@touch $@

clean:
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache
