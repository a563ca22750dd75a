# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import FAST

from monai_dpmm_ad.bundle import load_workflow
from monai_dpmm_ad.commands import fit, infer
from monai_dpmm_ad.data import resolve_datalist
from monai_dpmm_ad.errors import NotFittedError
from monai_dpmm_ad.network import AnomalyNet
from monai_dpmm_ad.network.intensity_tail import IntensityTail


def make_slices(count: int = 4) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    images = (torch.randn(count, 1, 48, 48, generator=generator) * 0.05 + 0.35).clamp(0.01, 1)
    images[:, :, :6] = 0
    return images


def make_tail(kind: str = "bright", **options: float) -> IntensityTail:
    tail, images = IntensityTail(kind, **options), make_slices()
    smooth = tail.smooth(images)[images > 0]
    tail.fit(torch.linspace(10, 12, len(smooth)), smooth)
    return tail


@pytest.mark.parametrize(("kind", "shift"), [("bright", 0.4), ("dark", -0.3), ("both", 0.4), ("both", -0.3)])
def test_a_spot_in_the_tail_stands_out_of_a_flat_map(kind: str, shift: float) -> None:
    image = make_slices(1)
    image[:, :, 20:24, 30:34] = (image[:, :, 20:24, 30:34] + shift).clamp(0.001, 1)
    out = make_tail(kind)(torch.full_like(image, 11.0), image)
    spot, rest = out[:, :, 21:23, 31:33], out[:, :, 30:, :20]
    assert spot.min() > rest.max()


def test_weight_zero_only_rescales_the_map() -> None:
    images, maps = make_slices(), torch.rand(4, 1, 48, 48)
    tail = make_tail(weight=0.0)
    torch.testing.assert_close(tail(maps, images), maps / tail.score_scale)


def test_state_dict_holds_the_fit() -> None:
    tail, images = make_tail(), make_slices()
    other = IntensityTail("bright")
    other.load_state_dict(tail.state_dict())
    assert torch.equal(other(images, images), tail(images, images))


def test_bad_arguments_and_order_are_refused() -> None:
    with pytest.raises(ValueError, match="bright"):
        IntensityTail("brite")
    with pytest.raises(ValueError, match="`intensity_weight` must be at least 0"):
        IntensityTail("bright", weight=-1.0)
    with pytest.raises(NotFittedError, match="healthy pixels"):
        IntensityTail("bright")(make_slices(), make_slices())
    with pytest.raises(ValueError, match="same shape"):
        IntensityTail("bright").fit(torch.zeros(3), torch.zeros(4))


def test_a_bundle_with_the_tail_sees_a_bright_spot(cohort: Path, tiny_vit: Path, tmp_path: Path) -> None:
    fit([cohort], tmp_path / "bundle", embedder_name=str(tiny_vit), intensity_tail="bright", normative="off", **FAST)
    workflow = load_workflow(tmp_path / "bundle", ["inference"], "inference", dataset_dir=str(cohort))
    workflow.initialize()
    network: AnomalyNet = workflow.network_def
    assert network.intensity_tail is not None
    assert network.intensity_tail.tail == "bright"
    source = Path(str(resolve_datalist(cohort, section="test")[0]["image"]))
    scan = nib.load(source)
    values = np.asarray(scan.dataobj).astype(np.float32)
    middle = tuple(side // 2 for side in values.shape)
    block = tuple(slice(index - 1, index + 2) for index in middle)
    values[block] = values.max() * 1.2
    nib.save(nib.Nifti1Image(values, scan.affine), tmp_path / "spot.nii.gz")
    outcome = infer(tmp_path / "bundle", [tmp_path / "spot.nii.gz"], tmp_path / "out", report=False)
    assert not outcome.failures
    found = np.asarray(nib.load(tmp_path / "out" / "spot_anomaly.nii.gz").dataobj)
    assert found[middle] > np.quantile(found[found > 0], 0.99)
