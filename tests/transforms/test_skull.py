# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""A scan with its skull is preprocessed and judged as its twin whose brain was cut out, where brains were fitted."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import nibabel as nib
import numpy as np
import pytest
import torch
from helpers.heads import AFFINE, FINE, SPACING, make_head, make_twins
from ignite.engine import Engine
from monai.data import MetaTensor
from numpy.typing import NDArray

from monai_dpmm_ad import AnomalyNet, create_detector, create_embedder
from monai_dpmm_ad.engines import PATCH_SUMMARY
from monai_dpmm_ad.handlers.drift import DriftHandler
from monai_dpmm_ad.normative import NormativeMap, resample
from monai_dpmm_ad.transforms import ScaleIntensityForegroundd, preprocess_scan
from monai_dpmm_ad.transforms.place import JudgeByPlaced
from monai_dpmm_ad.transforms.skull import SKULL

NAMES = ("head", "brain")


@pytest.fixture(scope="module")
def network() -> SimpleNamespace:
    """Fitted on three brains, to be matched."""
    normative, scans = NormativeMap("affine"), [make_head(FINE, noise=0.1, seed=seed) for seed in range(3)]
    normative.set_reference([resample(scans[0], AFFINE, SPACING)])
    frames = [normative.find_frame(scan, AFFINE) for scan in scans]
    rounds = (
        (normative.observe_intensity, normative.finish_intensity),
        (normative.observe_deviation, normative.finish_deviation),
    )
    for observe, finish in rounds:
        for name, (scan, frame) in enumerate(zip(scans, frames, strict=True)):
            observe(str(name), scan, AFFINE, frame)
        finish()
    for name, (scan, frame) in enumerate(zip(scans, frames, strict=True)):
        index = np.argwhere(scan > 0)
        scores = 1 + np.random.default_rng(name).random(len(index), dtype=np.float32)
        normative.observe_scores(str(name), index @ AFFINE[:3, :3].T + AFFINE[:3, 3], scores, frame)
    normative.finish_scores()
    normative.matching.fill_(True)
    return SimpleNamespace(normative=normative)


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A head with a lesion, and its brain alone, as files of one grid."""
    folder = tmp_path_factory.mktemp("twins")
    for name, image in make_twins().items():
        nib.save(image, folder / f"{name}.nii.gz")
    return {name: {"image": str(folder / f"{name}.nii.gz"), "name": name} for name in ("head", "brain")}


def on_file_grid(image: MetaTensor, path: str) -> NDArray[np.float32]:
    """A preprocessed scan at the voxels of its file."""
    file = nib.load(path)
    index = np.indices(image.shape[1:]).reshape(3, -1).T
    to_file = np.linalg.inv(file.affine) @ np.asarray(image.affine)
    found = np.rint(index @ to_file[:3, :3].T + to_file[:3, 3]).astype(int)
    values = np.zeros(file.shape, np.float32)
    values[tuple(found.T)] = image.as_subclass(torch.Tensor)[0].numpy().ravel()
    return values


def test_a_head_is_judged_as_its_brain(network: SimpleNamespace, twins: dict[str, Any]) -> None:
    images = {name: preprocess_scan(network=network)(item)["image"] for name, item in twins.items()}
    assert images["head"].meta[SKULL].startswith("its skull was taken away by the frame, ")
    assert SKULL not in images["brain"].meta
    facts = {name: json.loads(image.meta["facts"]) for name, image in images.items()}
    assert facts["head"]["volume"] == pytest.approx(facts["brain"]["volume"], rel=0.06)
    np.testing.assert_allclose(facts["head"]["range"][1:], facts["brain"]["range"][1:], rtol=0.03)
    head, brain = (on_file_grid(images[name], twins[name]["image"]) for name in ("head", "brain"))
    both = (head > 0) & (brain > 0)
    assert 2 * both.sum() / ((head > 0).sum() + (brain > 0).sum()) > 0.96
    assert np.abs(head - brain)[both].mean() < 0.01  # the median is a third
    judge = JudgeByPlaced(network)
    judged = {
        n: judge({"image": image, "pred": MetaTensor((image > 0) * 1.5, meta=image.meta)})
        for n, image in images.items()
    }
    maps = {name: on_file_grid(out["pred"], twins[name]["image"]) for name, out in judged.items()}
    assert {out["frame"].kind for out in judged.values()} == {"affine"}
    assert np.corrcoef(maps["head"][both], maps["brain"][both])[0, 1] > 0.95
    assert not maps["head"][head == 0].any()


def test_nothing_is_done_unless_scans_are_matched(network: SimpleNamespace, twins: dict[str, Any]) -> None:
    plain = preprocess_scan()(twins["head"])["image"]
    unmatched = NormativeMap("affine")
    for other in (SimpleNamespace(normative=None), SimpleNamespace(normative=unmatched)):
        image = preprocess_scan(network=other)(twins["head"])["image"]
        assert torch.equal(image.as_tensor(), plain.as_tensor())
        assert SKULL not in image.meta


def test_a_head_whose_brain_is_not_found_is_mapped_whole_and_told(
    network: SimpleNamespace, twins: dict[str, Any], tmp_path: Path
) -> None:
    head = nib.load(twins["head"]["image"])
    noise = np.random.default_rng(0).uniform(0.2, 1, head.shape) * head.get_fdata()
    nib.save(nib.Nifti1Image(noise.astype(np.float32), head.affine), tmp_path / "noise.nii.gz")
    item = {"image": str(tmp_path / "noise.nii.gz"), "name": "noise"}
    image, plain = (preprocess_scan(network=one)(item)["image"] for one in (network, None))
    assert image.shape == plain.shape
    assert "which were not found in it: all of it is mapped" in image.meta[SKULL]
    assert f"it shows {json.loads(plain.meta['facts'])['volume']:.0f} mL" in image.meta[SKULL]


def test_of_several_sequences_each_loses_the_skull_that_it_has(network: SimpleNamespace, twins: dict[str, Any]) -> None:
    """The brain is found in the second, since the first is nothing but noise; the third has no skull."""
    head, brain = (torch.from_numpy(nib.load(twins[name]["image"]).get_fdata(dtype=np.float32)) for name in NAMES)
    noise = torch.rand(head.shape, generator=torch.Generator().manual_seed(0)) * head
    affine = nib.load(twins["head"]["image"]).affine
    image = MetaTensor(torch.stack([noise, head, brain]), meta={"affine": affine})
    scaled = ScaleIntensityForegroundd(network=cast(Any, [network] * 3))({"image": image})["image"]
    plain = ScaleIntensityForegroundd()({"image": image})["image"]
    inside = scaled[1] > 0
    assert 2 * (inside & (brain > 0)).sum() / (inside.sum() + (brain > 0).sum()) > 0.96
    assert not ((scaled[0] > 0) & ~inside).any()
    assert torch.equal(scaled[2].as_tensor(), plain[2].as_tensor())
    assert scaled.meta[SKULL].startswith("its skull was taken away by the frame, ")


def test_held_out_heads_are_named(caplog: pytest.LogCaptureFixture) -> None:
    embedder = create_embedder("pixels-8")
    net = AnomalyNet(embedder, create_detector("dpmm", embedder.embed_dim), image_size=64, normative="off")
    scans = [
        {"pred": MetaTensor(torch.ones(1, 4, 4, 4), meta={"name": name, **meta}), PATCH_SUMMARY: None}
        for name, meta in (("two", {SKULL: "told"}), ("brain", {}), ("one", {SKULL: "told"}))
    ]
    engine = Engine(lambda engine, batch: [batch])
    DriftHandler(net).attach(cast(Any, engine))
    engine.run(scans)
    (said,) = caplog.messages
    assert said.startswith("one, two: whole heads where brains were fitted")


def test_a_scan_whose_skull_was_taken_away_is_marked(tmp_path: Path) -> None:
    """Its rim was found otherwise than that of every healthy scan, so nothing is promised of it."""
    embedder = create_embedder("pixels-8")
    net = AnomalyNet(embedder, create_detector("dpmm", embedder.embed_dim), image_size=64, normative="off")
    net.kind.num_scans.fill_(5)
    marked = {}
    for name, meta in {
        "brain": {},
        "head": {SKULL: "its skull was taken away by the frame, 5 of 9 mL are kept"},
    }.items():
        scan = {"pred": MetaTensor(torch.ones(1, 4, 4, 4), meta={"name": name, **meta}), PATCH_SUMMARY: {}}
        engine = Engine(lambda engine, batch, scan=scan: [scan])
        DriftHandler(net, tmp_path).attach(cast(Any, engine))
        engine.run([0])
        marked[name] = (scan["in_range"], scan["warning"])
    assert marked["brain"] == (True, None)
    assert marked["head"][0] is False
    assert "its skull was taken away" in str(marked["head"][1])
