# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Small copies of the fitted scans beside their embeddings, from which place is learnt without reading scans again."""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from monai_dpmm_ad.data.dataset import ScanDataset
from monai_dpmm_ad.errors import EmbeddingStoreError
from monai_dpmm_ad.normative import Frame, Lattice
from monai_dpmm_ad.ops.slices import AXES
from monai_dpmm_ad.utils.files import replace_file
from monai_dpmm_ad.utils.integrity import digest_tensors

__all__ = ["FittedScan", "FittedScans", "save_thumbnail", "thumbnail_folder"]

_AXES = tuple(AXES)
_DIGEST = "tensors_sha256"
_KEY = 12  # digits that tell for what a frame was found


@dataclass(frozen=True, eq=False)
class FittedScan:
    """What a fit keeps of a scan.

    Args:
        image: ``(x, y, z)``, small, background exactly 0.
        affine: ``(4, 4)``, from its indices to scanner coordinates (mm).
        scan_shape: ``(3,)`` of the scan that was embedded.
        scan_affine: ``(4, 4)`` of that scan.
        axes: ``(s,)``, the axis of each slice, a number in :data:`~monai_dpmm_ad.ops.slices.AXES`.
    """

    image: NDArray[np.float32]
    affine: NDArray[np.float64]
    scan_shape: NDArray[np.int64]
    scan_affine: NDArray[np.float64]
    axes: NDArray[np.int64]

    @property
    def num_planes(self) -> int:
        """In how many planes the network has seen it."""
        return len(np.unique(self.axes))

    def locate_rows(self, location: NDArray[np.float32], slice_index: NDArray[np.int64]) -> NDArray[np.float64]:
        """Where the centres of patches lie in the scanner.

        Args:
            location: ``(n, 3)``, relative row, column and slice position.
            slice_index: ``(n,)``, below s.

        Returns:
            ``(n, 3)``, mm.
        """
        voxels = np.zeros((len(location), 3))
        for number, axis in enumerate(_AXES):
            rows = self.axes[slice_index] == number
            plane, _, row, column = AXES[axis]
            for dim, part in ((row - 1, 0), (column - 1, 1), (plane - 1, 2)):
                voxels[rows, dim] = location[rows, part] * self.scan_shape[dim] - 0.5
        return voxels @ self.scan_affine[:3, :3].T + self.scan_affine[:3, 3]


def thumbnail_folder(store: str | os.PathLike[str]) -> Path:
    """The folder of the small copies that belong to an embedding store."""
    return Path(f"{os.fspath(store)}-scans")


def save_thumbnail(folder: Path, name: str, slices: Sequence[Mapping[str, Any]]) -> None:
    """Write a scan's small copy, in one step; nothing of a picture, and nothing where none was taken.

    Args:
        folder: see `thumbnail_folder`.
        name: of the scan.
        slices: the scan's, as they are embedded at the first angle.
    """
    thumbnail = slices[0].get("thumbnail")
    if thumbnail is None:
        return
    content = {
        "image": torch.from_numpy(thumbnail.image).half(),
        "affine": torch.from_numpy(thumbnail.affine),
        "scan_shape": torch.tensor(thumbnail.scan_shape),
        "scan_affine": torch.from_numpy(thumbnail.scan_affine).clone(),  # may be the same memory
        "axes": torch.tensor([_AXES.index(item["axis"]) for item in slices], dtype=torch.uint8),
    }
    for frame in (folder / "frames").glob(f"{glob.escape(name)}-{'?' * _KEY}.safetensors"):
        frame.unlink(missing_ok=True)  # of another scan that had this name
    _save(folder / f"{name}.safetensors", content)


class FittedScans:
    """The small copies of a data set's scans; one that is missing is made from the scan itself.

    Args:
        folder: see `thumbnail_folder`.
        dataset: of the fit; its transform takes thumbnails.
    """

    def __init__(self, folder: Path, dataset: ScanDataset) -> None:
        self.folder = folder
        self._dataset = dataset
        self._numbers = {item["name"]: number for number, item in enumerate(dataset.data)}

    def has(self, name: str) -> bool:
        """Whether there is a small copy of a scan; there is none of a picture."""
        path = self._path(name)
        if not path.is_file():  # embedded by a fit that had no use for it
            slices = self._dataset[self._numbers[name]]
            if not isinstance(slices, dict):
                save_thumbnail(self.folder, name, slices)
        return path.is_file()

    def read(self, name: str) -> FittedScan:
        """Read a scan's small copy.

        Raises:
            EmbeddingStoreError: when it is missing or damaged.
        """
        content = _load(self._path(name))
        arrays = {key: value.numpy() for key, value in content.items()}
        image = arrays.pop("image").astype(np.float32)
        axes = arrays.pop("axes").astype(np.int64)
        return FittedScan(image=image, axes=axes, **arrays)

    def read_frame(self, name: str, key: str) -> Frame | None:
        """Read what `save_frame` wrote for the same key; None where there is nothing."""
        path = self._frame_path(name, key)
        if not path.is_file():
            return None
        content = _load(path)
        kind, quality = bytes(content["kind"].tolist()).decode(), float(content["quality"])
        if "field" not in content:
            return Frame(kind, content["matrix"].numpy(), quality)
        field = content["field"].numpy()
        spacing, x, y, z = content["lattice"].tolist()
        lattice = Lattice((field.shape[0], field.shape[1], field.shape[2]), spacing, (x, y, z))
        return Frame(kind, content["matrix"].numpy(), quality, field, lattice)

    def save_frame(self, name: str, key: str, frame: Frame) -> None:
        """Write where a scan lies in the reference space that ``key`` stands for."""
        content = {
            "kind": torch.tensor(list(frame.kind.encode()), dtype=torch.uint8),
            "matrix": torch.from_numpy(np.ascontiguousarray(frame.matrix)),
            "quality": torch.tensor(frame.quality, dtype=torch.float64),
        }
        if frame.field is not None and frame.lattice is not None:
            content["field"] = torch.from_numpy(np.ascontiguousarray(frame.field))
            content["lattice"] = torch.tensor([frame.lattice.spacing, *frame.lattice.origin], dtype=torch.float64)
        _save(self._frame_path(name, key), content)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"

    def _frame_path(self, name: str, key: str) -> Path:
        digest = hashlib.sha256(key.encode()).hexdigest()[:_KEY]
        return self.folder / "frames" / f"{name}-{digest}.safetensors"


def _save(path: Path, content: dict[str, Tensor]) -> None:
    try:
        metadata = {_DIGEST: digest_tensors(content)}
        replace_file(path, lambda temporary: save_file(content, temporary, metadata))
    except OSError as error:
        raise EmbeddingStoreError(f"{path}: cannot be written ({error}). Nothing stored is lost.") from error


def _load(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, "pt") as file:
            content = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if file.metadata()[_DIGEST] != digest_tensors(content):
                raise ValueError("its numbers are not those that were written")
        return content
    except Exception as error:  # whatever reading a damaged file raises
        raise EmbeddingStoreError(f"{path}: the small copy of a scan is damaged. Delete it and fit again.") from error
