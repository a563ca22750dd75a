# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The drift check: same-population cohorts are rarely flagged, cohorts of another scanner are."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import FAST

from monai_dpmm_ad.calibration.drift import (
    DriftReference,
    choose_patches_to_summarise,
    compute_profile,
    describe_drift,
)
from monai_dpmm_ad.calibration.permutation import permutation_test, smallest_p_value
from monai_dpmm_ad.commands import fit, infer
from monai_dpmm_ad.commands.cli import main
from monai_dpmm_ad.data.phantoms import write_cohort
from monai_dpmm_ad.errors import NotFittedError


def draw(num_scans: int, seed: int, lesions: float = 0.0, shift: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Profiles (n, 3) and usage (n, 6) of scans of 400 patches; scans differ among themselves, as people do.

    Args:
        num_scans: n.
        seed: of the draw.
        lesions: share of patches that are far less likely, and of one component more.
        shift: of all log densities, nats.
    """
    generator = np.random.default_rng(seed)
    profiles, usage = [], []
    for _ in range(num_scans):
        density = generator.normal(generator.normal(10, 1) + shift, 3, 400)
        weights = generator.dirichlet(np.array([40.0, 30, 20, 10, 5, 1]))
        sick = int(lesions * 400)
        density[:sick] -= 40
        counts = generator.multinomial(400 - sick, weights) / 400
        counts[5] += sick / 400
        profiles.append(compute_profile(torch.from_numpy(density)))
        usage.append(torch.from_numpy(counts))
    return torch.stack(profiles), torch.stack(usage)


def reference_of(num_scans: int, seed: int) -> DriftReference:
    reference = DriftReference(6)
    reference.fit(*draw(num_scans, seed))
    return reference


def test_the_rate_holds_for_cohorts_of_the_same_population() -> None:
    p_values = np.array([reference_of(20, 2 * seed).compare(*draw(8, 2 * seed + 1))["p_value"] for seed in range(120)])
    for rate in (0.05, 0.2):
        expected = rate * len(p_values)
        assert (p_values <= rate).sum() <= expected + 3 * np.sqrt(expected)


def test_the_permutation_test_is_uniform_where_samples_are_alike() -> None:
    generator = np.random.default_rng(0)
    p_values = [
        permutation_test(generator.normal(size=(9, 2)), generator.normal(size=(6, 2)), seed, permutations=199)
        for seed in range(300)
    ]
    assert 0.4 < np.mean(p_values) < 0.6
    assert np.mean(np.array(p_values) <= 0.1) < 0.16


def test_small_lesions_are_no_drift_but_a_scanner_is() -> None:
    reference = reference_of(40, 0)
    assert not reference.compare(*draw(10, 1, lesions=0.01))["drifted"]
    result = reference.compare(*draw(10, 1, shift=-4.0))
    assert result["drifted"]
    assert result["shift"]["q50"] < -2
    assert "another scanner" in str(describe_drift(result)).lower()
    assert describe_drift({**result, "drifted": False}) is None


def test_a_change_of_components_alone_is_drift() -> None:
    profiles, usage = draw(10, 1)
    result = reference_of(40, 0).compare(profiles, usage.flip(1))
    assert result["drifted"]
    assert result["p_log_density"] > result["p_component_usage"]
    assert {entry["component"] for entry in result["components"]} <= set(range(6))


def test_so_few_scans_cannot_be_called_drifted() -> None:
    result = reference_of(3, 0).compare(*draw(2, 1, shift=-50.0))
    assert not result["drifted"]
    assert result["smallest_p_value"] == pytest.approx(2 / 10)  # one of ten ways to choose two of five, for two tests
    assert result["p_value"] >= result["smallest_p_value"]


@pytest.mark.parametrize(("old", "new"), [(1, 1), (2, 3), (3, 3), (5, 4), (6, 6)])
def test_the_smallest_p_value_is_the_one_that_samples_far_apart_reach(old: int, new: int) -> None:
    one, two = np.arange(old, dtype=float)[:, None], 1e3 + np.arange(new, dtype=float)[:, None] ** 2
    assert permutation_test(one, two) == pytest.approx(smallest_p_value(old, new))


def test_the_result_is_plain_json_and_the_same_each_time() -> None:
    reference, cohort = reference_of(20, 0), draw(5, 1)
    assert json.dumps(reference.compare(*cohort)) == json.dumps(reference.compare(*cohort))


def test_a_reference_survives_saving_and_old_models_have_none() -> None:
    reference, other = reference_of(300, 0), DriftReference(6)  # more scans than are kept
    other.load_state_dict(reference.state_dict())
    cohort = draw(5, 1)
    assert other.compare(*cohort) == reference.compare(*cohort)
    other.load_state_dict({})
    with pytest.raises(NotFittedError, match="calibration's scans"):
        other.compare(*cohort)
    with pytest.raises(ValueError, match="at least one scan"):
        reference.compare(cohort[0][:0], cohort[1][:0])


def test_a_detector_without_components_is_compared_by_density() -> None:
    reference = DriftReference(0)
    profiles, _ = draw(20, 0)
    reference.fit(profiles, torch.zeros(20, 0))
    result = reference.compare(profiles[:5] - 30, torch.zeros(5, 0))
    assert result["drifted"]
    assert "p_component_usage" not in result
    assert result["components"] == []


# The pipeline -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def population(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("population")
    sizes = {"num_train": 3, "num_valid": 16, "num_test_healthy": 8, "num_test_abnormal": 0}
    return write_cohort(folder, spacing=4.0, size="small", **sizes)


@pytest.fixture(scope="module")
def calibrated(population: Path, tiny_vit: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("calibrated") / "bundle"
    fit([population], folder, embedder_name=str(tiny_vit), **FAST)
    return folder


def change(population: Path, folder: Path, how: Callable[[np.ndarray, np.random.Generator], np.ndarray]) -> Path:
    """Write the test scans as another scanner would have seen them."""
    folder.mkdir()
    for number, path in enumerate(sorted((population.parent / "imagesTs").glob("*.nii.gz"))):
        image = nib.load(path)
        data = np.asarray(image.dataobj, dtype=np.float32)
        new = np.where(data > 0, how(data / data.max(), np.random.default_rng(number)), 0) * data.max()
        nib.save(nib.Nifti1Image(new.astype(np.float32), image.affine), folder / path.name)
    return folder


def ramp(shape: tuple[int, ...]) -> np.ndarray:
    return np.linspace(0.3, 1.7, shape[0], dtype=np.float32)[:, None, None]


SCANNERS: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "gamma": lambda x, _: x**2.5,
    "bias": lambda x, _: x * ramp(x.shape),
    "noise": lambda x, generator: np.clip(x + generator.normal(0, 0.25, x.shape), 0.02, None),
}


@pytest.mark.slow
def test_healthy_scans_of_the_same_scanner_are_not_flagged(calibrated: Path, population: Path, tmp_path: Path) -> None:
    outcome = infer(calibrated, [population], tmp_path / "out")
    assert outcome.drift is not None
    assert not outcome.drift["drifted"]
    assert outcome.drift["num_scans"] == 8
    assert outcome.drift["num_reference_scans"] == 16
    assert json.loads((tmp_path / "out" / "drift.json").read_text()) == outcome.drift
    assert "Another scanner" not in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("scanner", SCANNERS)
def test_another_scanner_is_flagged(
    scanner: str, calibrated: Path, population: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = change(population, tmp_path / "images", SCANNERS[scanner])
    command = ["infer", "--bundle", str(calibrated), "--images", str(images), "--out", str(tmp_path / "out")]
    assert main(command) == 0
    assert json.loads((tmp_path / "out" / "drift.json").read_text())["drifted"]
    assert "warning: these scans differ" in capsys.readouterr().err
    assert "Another scanner" in (tmp_path / "out" / "report.html").read_text()


def test_the_result_does_not_depend_on_the_batch_size(bundle: Path, cohort: Path, tmp_path: Path) -> None:
    results = []
    for batch_size in (1, 5, 64):
        out = tmp_path / str(batch_size)
        assert not infer(bundle, [cohort], out, report=False, batch_size=batch_size).failures
        results.append(json.loads((out / "drift.json").read_text()))
    for result in results[1:]:
        assert result["shift"] == pytest.approx(results[0]["shift"], rel=1e-3, abs=1e-4)
        assert result["p_value"] == results[0]["p_value"]
        for one, two in zip(result["components"], results[0]["components"], strict=True):
            assert one == pytest.approx(two, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("count", [0, 1, 63, 64, 127, 128, 400])
def test_every_slice_gives_its_own_patches(count: int) -> None:
    valid = torch.zeros(3, 20, 20, dtype=torch.bool)
    valid.view(3, -1)[1, torch.randperm(400, generator=torch.Generator().manual_seed(count))[:count]] = True
    valid[2] = True
    chosen = choose_patches_to_summarise(valid)
    assert not (chosen & ~valid).any()
    assert chosen.sum((1, 2)).tolist()[0] == 0
    assert min(count, 64) <= int(chosen[1].sum()) < 128
    assert torch.equal(chosen[1], choose_patches_to_summarise(valid[1:2])[0])
