# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Integer atlases: which region each voxel of a scan belongs to."""

from __future__ import annotations

import csv
import os
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import MapTransform
from nibabel.processing import resample_from_to
from torch import Tensor

from monai_dpmm_ad.errors import ScanError
from monai_dpmm_ad.transforms.grids import check_affine, share_grid
from monai_dpmm_ad.transforms.load import LoadScan

__all__ = ["LoadRegionsd", "count_regions", "find_names", "read_region_names", "read_regions"]


class LoadRegionsd(MapTransform):
    """Load the atlas of an item, where it has one, on the grid of its image.

    An atlas on another grid is taken to the image's: each voxel gets the label of the atlas's nearest voxel in scanner
    space. It must therefore lie in the image's space: for an atlas of a template, images registered to that template.

    Args:
        keys: the atlas's key.
        image_key: key of the image, already loaded and still on its own grid.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import nibabel as nib
        >>> from monai_dpmm_ad import LoadScand
        >>> folder = Path(tempfile.mkdtemp())
        >>> values = np.random.default_rng(0).random((6, 5, 4), dtype=np.float32)
        >>> nib.save(nib.Nifti1Image(values, np.eye(4)), folder / "a.nii")
        >>> nib.save(nib.Nifti1Image(np.full((6, 5, 4), 7, np.int16), np.eye(4)), folder / "atlas.nii")
        >>> item = LoadScand()({"image": str(folder / "a.nii"), "name": "a", "regions": str(folder / "atlas.nii")})
        >>> LoadRegionsd()(item)["regions"].unique().tolist()
        [7]
    """

    def __init__(self, keys: str = "regions", image_key: str = "image") -> None:
        super().__init__(keys, allow_missing_keys=True)
        self.image_key = image_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Load an item's atlas.

        Args:
            data: an item whose image is loaded.

        Returns:
            A copy with labels ``(1, *spatial)``, int32, of the image's shape, 0 where no region is.

        Raises:
            ScanError: naming the image, when the atlas cannot be read or lies elsewhere.
        """
        item = dict(data)
        for key in self.key_iterator(item):
            image, path = item[self.image_key], item[key]
            try:
                atlas = read_regions(path)
                item[key] = MetaTensor(_place(atlas, image), meta=dict(atlas.meta))
            except ScanError as error:
                raise ScanError(image.meta["filename_or_obj"], f"regions {error.path} {error.reason}") from error
        return item


def read_regions(path: str | os.PathLike[str]) -> MetaTensor:
    """Read an atlas on its own grid.

    Args:
        path: a volume or picture whose voxels are labels: 1, 2, … for the regions, 0 for nowhere.

    Returns:
        int32, ``(1, *spatial)``.

    Raises:
        ScanError: when the file cannot be read, has voxels without a place, or holds other numbers.
    """
    regions = LoadScan().read(path, is_label=True)
    check_affine(str(path), regions)
    values = regions.as_tensor()
    if not torch.equal(values, values.round()) or float(values.min()) < 0:
        raise ScanError(path, "is no atlas: its voxels must be the whole numbers 0, 1, 2, …")
    if not values.any():
        raise ScanError(path, "is no atlas: every label is 0")
    return MetaTensor(values.to(torch.int32), meta=dict(regions.meta))


def count_regions(atlas: str | os.PathLike[str] | None) -> int:
    """Return the highest label of an atlas; 0 without one."""
    return 0 if atlas is None else int(read_regions(atlas).max())


def read_region_names(path: str | os.PathLike[str]) -> dict[int, str]:
    """Read the names of an atlas's labels from the table beside it.

    Args:
        path: of the atlas, ``NAME.nii.gz``. The table is ``NAME.tsv`` (as BIDS has it) or ``NAME.csv``: a column
            ``index`` or ``label`` with the numbers, a column ``name``.

    Returns:
        Label → name; empty where there is no table.

    Raises:
        ScanError: naming the table, when it is none.
    """
    if (found := find_names(path)) is None:
        return {}
    table = Path(found)
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t" if table.suffix == ".tsv" else ","))
        return {int(row["index" if "index" in row else "label"]): str(row["name"]) for row in rows}
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        raise ScanError(table, "is no table of regions: it needs the columns `index` and `name`") from error


def find_names(path: str | os.PathLike[str]) -> str | None:
    """The table of the names of an atlas's labels, beside it; None where there is none.

    Args:
        path: of the atlas.
    """
    atlas = Path(path)
    stem = atlas.name.removesuffix(".gz").rpartition(".")[0]
    tables = (atlas.with_name(stem + suffix) for suffix in (".tsv", ".csv"))
    return next((str(table) for table in tables if table.is_file()), None)


def _place(regions: MetaTensor, image: MetaTensor) -> Tensor:
    path = regions.meta["filename_or_obj"]
    if share_grid(regions, image[:1]):
        return regions.as_tensor()
    if regions.ndim != 4 or image.ndim != 4:
        shapes = f"{tuple(regions.shape[1:])} but the image has {tuple(image.shape[1:])}"
        raise ScanError(path, f"has shape {shapes}")
    atlas = nib.Nifti1Image(regions.as_tensor()[0].numpy(), np.asarray(regions.affine, dtype=float))
    grid = tuple(image.shape[1:]), np.asarray(image.affine, dtype=float)
    values = torch.from_numpy(np.asarray(resample_from_to(atlas, grid, order=0).dataobj).astype(np.int32))
    if not values.any():
        raise ScanError(path, "does not overlap the image: it must lie in the image's space")
    return values[None]
