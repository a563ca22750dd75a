# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Read one DICOM series as a volume."""

from __future__ import annotations

import gzip
import os
from collections.abc import Sequence
from io import BytesIO
from typing import Any

import numpy as np
from monai.data import PydicomReader
from numpy.typing import NDArray

from monai_dpmm_ad.data.dicom_frames import Frame, list_frames, sort_frames, volume_affine
from monai_dpmm_ad.data.dicom_values import check_grey, check_not_mosaic, finish_values
from monai_dpmm_ad.data.limits import DEFAULT_MAX_BYTES, check_size, open_in_memory
from monai_dpmm_ad.data.paths import has_suffix
from monai_dpmm_ad.data.readers import reading_reason
from monai_dpmm_ad.errors import ScanError
from monai_dpmm_ad.utils.extras import import_extra

__all__ = ["DicomSeriesReader"]


class DicomSeriesReader(PydicomReader):
    """Read one DICOM series, its slices in the order of their positions in the patient.

    MONAI's reader orders by instance number, mixes series, takes regular spacing for granted, reads no enhanced files,
    and gives stored numbers for values where the photometric interpretation or padding says otherwise.

    Args:
        max_bytes: the most memory that the voxels may take as float32.
    """

    def __init__(self, max_bytes: int) -> None:
        import_extra("pydicom", "dicom")
        super().__init__()
        self.max_bytes = max_bytes
        #: files of the series that was read last, in the order of the volume's slices
        self.slice_files: list[str] = []
        #: what a user should know of it
        self.notes: list[str] = []
        #: as the files say it: MR, CT, …
        self.modality = ""

    def read(self, data: Sequence[os.PathLike | str] | os.PathLike | str, **kwargs: Any) -> list[Frame]:  # type: ignore
        """Read a folder that holds one series, or the files of one series.

        Args:
            data: the folder, a file or the files.
            kwargs: passed to ``pydicom.dcmread``.

        Returns:
            The slices in spatial order.

        Raises:
            ScanError: when the files are not one regular series of grey images.
        """
        files = [str(data)] if isinstance(data, (str, os.PathLike)) else [str(file) for file in data]
        source = files[0]
        if len(files) == 1 and os.path.isdir(source):
            files = sorted(entry.path for entry in os.scandir(source) if entry.is_file())
        datasets = self._read_datasets(source, files, kwargs)
        self.notes, frames = [], []
        for file, dataset in datasets:
            check_grey(source, dataset, file)
            check_not_mosaic(source, dataset)
            found, notes = list_frames(source, file, dataset)
            frames += found
            self.notes += notes
        first = datasets[0][1]
        stored = sum(max(1, int(dataset.get("NumberOfFrames", 1) or 1)) for _, dataset in datasets)
        check_size(source, (int(first.Rows), int(first.Columns), stored), self.max_bytes)
        if len(frames) > 1:
            frames = sort_frames(source, frames)
        self.slice_files = list(dict.fromkeys(frame.file for frame in frames))
        self.modality = str(first.get("Modality", "") or "")
        return frames

    def get_data(self, data: list[Frame]) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Stack what `read` gave.

        Returns:
            ``(columns, rows, slices)`` or ``(columns, rows)``, float32, and MONAI's metadata with a RAS affine.
        """
        stack = np.stack([_read_frame(frame).T for frame in data], axis=-1)
        volume = finish_values(data[0].dataset, stack)
        if volume.shape[-1] == 1:
            volume = volume[..., 0]
        affine = volume_affine(data)
        meta = {"affine": affine.copy(), "original_affine": affine, "spatial_shape": np.asarray(volume.shape)}
        return np.ascontiguousarray(volume), {**meta, "space": "RAS", "original_channel_dim": float("nan")}

    def _read_datasets(self, source: str, files: list[str], kwargs: dict[str, Any]) -> list[tuple[str, Any]]:
        pydicom = import_extra("pydicom", "dicom")
        datasets: list[tuple[str, Any]] = []
        places: dict[tuple[str, str], int] = {}  # of images, by SOPInstanceUID, which some repeat, and position
        for file in files:
            content = self._open(source, file)
            try:
                dataset = pydicom.dcmread(content, **{**self.kwargs, **kwargs})
            except pydicom.errors.InvalidDicomError:
                dataset = _read_without_preamble(content)  # a folder of DICOM files holds notes and indices too
            uid = str(dataset.get("SOPInstanceUID", "")) if dataset is not None else ""
            if dataset is None or "PixelData" not in dataset:
                continue
            where = str(dataset.get("ImagePositionPatient", ""))
            place = places.setdefault((uid, where), len(datasets)) if uid else len(datasets)
            if place == len(datasets):
                datasets.append((file, dataset))
            elif not _is_whole(datasets[place][1]) and _is_whole(dataset):
                datasets[place] = (file, dataset)
        if not datasets:
            raise ScanError(source, "holds no DICOM image")
        series = {str(dataset.get("SeriesInstanceUID", "")) for _, dataset in datasets}
        if len(series) > 1:
            raise ScanError(source, f"holds {len(series)} DICOM series; give each a folder of its own")
        patients = {str(dataset.get("PatientID", "")).strip() for _, dataset in datasets}
        if len(patients) > 1:
            reason = f"holds images of {len(patients)} patients (PatientID); give each a folder of its own"
            raise ScanError(source, reason)
        return datasets

    def _open(self, source: str, file: str) -> BytesIO:
        content = open_in_memory(file, self.max_bytes)
        if has_suffix(file, (".gz",)):
            with gzip.GzipFile(fileobj=content) as packed:
                content = BytesIO(packed.read(self.max_bytes + 1))
            if content.getbuffer().nbytes > self.max_bytes:
                raise ScanError(source, f"unpacks to more than {self.max_bytes / 2**30:.1f} GiB, the limit")
        _refuse_deflated(source, content)
        return content


def _read_frame(frame: Frame) -> NDArray[np.float32]:
    """The values of a slice; of a series the file that cannot be decoded is named."""
    try:
        return frame.read()
    except (ScanError, ImportError):
        raise
    except Exception as error:  # decoders raise anything on damage
        raise ScanError(frame.file, reading_reason(error)) from error


def _is_whole(dataset: Any) -> bool:
    """Whether all pixels are there; of two copies of an image one may be cut off."""
    try:
        frames = int(dataset.get("NumberOfFrames", 1) or 1)
        check_size("", (int(dataset.Rows), int(dataset.Columns), frames), DEFAULT_MAX_BYTES)
        return dataset.pixel_array.size > 0
    except Exception:  # decoders raise anything on damage
        return False


def _read_without_preamble(content: BytesIO) -> Any:
    """Read a data set that lacks preamble and file meta information; None where it is none."""
    pydicom = import_extra("pydicom", "dicom")
    content.seek(0)
    dataset = pydicom.dcmread(content, force=True)
    if "PixelData" not in dataset or not dataset.get("Rows"):
        return None
    if "TransferSyntaxUID" not in dataset.file_meta:
        is_implicit = getattr(dataset, "original_encoding", (getattr(dataset, "is_implicit_VR", True),))[0]
        known = pydicom.uid.ImplicitVRLittleEndian, pydicom.uid.ExplicitVRLittleEndian
        dataset.file_meta.TransferSyntaxUID = known[0] if is_implicit else known[1]
    return dataset


def _refuse_deflated(source: str, content: BytesIO) -> None:
    """Refuse a data set that is compressed as a whole: pydicom unpacks it before anyone can ask how large it is."""
    from pydicom.errors import InvalidDicomError
    from pydicom.filereader import read_partial
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    try:
        header = read_partial(content, stop_when=lambda *_: True, force=False)
    except InvalidDicomError:
        return
    finally:
        content.seek(0)
    if header.file_meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
        raise ScanError(source, "is a deflated DICOM; decompress it first (dcmconv +te of DCMTK does)")
