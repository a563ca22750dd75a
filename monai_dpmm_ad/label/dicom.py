# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Studies on a DICOM server: MONAI Label's datastore, with labels that may be empty and without a tool to download."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from dicomweb_client import DICOMwebClient
from dicomweb_client.session_utils import create_session_from_user_pass
from fastapi import HTTPException
from filelock import FileLock
from monailabel.config import settings
from monailabel.datastore.dicom import DICOMwebClientX, DICOMWebDatastore
from monailabel.datastore.local import LocalDatastore
from monailabel.datastore.utils.convert import dicom_to_nifti
from monailabel.datastore.utils.dicom import dicom_web_download_series
from monailabel.interfaces.datastore import DefaultLabelTag
from pydicom.dataset import Dataset

from monai_dpmm_ad.label.names import check_name, check_tag
from monai_dpmm_ad.label.segmentation import make_label_segmentation, read_segmentation, write_label

__all__ = ["DicomStudies", "open_dicom_studies"]

FINAL = DefaultLabelTag.FINAL.value


def open_dicom_studies(url: str) -> DicomStudies:
    """Open a DICOM server as MONAI Label does with its settings, without the tool that it would download.

    Args:
        url: of the server's DICOMweb root.
    """
    user, password = settings.MONAI_LABEL_DICOMWEB_USERNAME, settings.MONAI_LABEL_DICOMWEB_PASSWORD
    if "googleapis.com" in url:
        from dicomweb_client.ext.gcp.session_utils import create_session_from_gcp_credentials

        client = DICOMwebClient(url=url, session=create_session_from_gcp_credentials())
    else:
        client = DICOMwebClientX(
            url=url,
            session=create_session_from_user_pass(user, password) if user and password else None,
            qido_url_prefix=settings.MONAI_LABEL_QIDO_PREFIX,
            wado_url_prefix=settings.MONAI_LABEL_WADO_PREFIX,
            stow_url_prefix=settings.MONAI_LABEL_STOW_PREFIX,
        )
    return DicomStudies(
        client,
        settings.MONAI_LABEL_DICOMWEB_SEARCH_FILTER,
        settings.MONAI_LABEL_DICOMWEB_CACHE_PATH.strip() or None,
        settings.MONAI_LABEL_DICOMWEB_FETCH_BY_FRAME,
    )


class DicomStudies(DICOMWebDatastore):
    """Series of a DICOM server, with a cache on disk; final labels are DICOM Segmentations on that server.

    The arguments are those of MONAI Label's class; see :func:`open_dicom_studies`.
    """

    def series_folder(self, image_id: str) -> str:
        """Folder of the series' files, downloaded where it is not in the cache."""
        return self.get_image_uri(image_id).removesuffix(".nii.gz")

    def get_image_uri(self, image_id: str) -> str:
        """Path of the series as NIfTI, downloaded and converted where it is not in the cache."""
        check_name("image", image_id)
        folder = Path(os.path.realpath(self._datastore.image_path())) / image_id
        path = f"{folder}.nii.gz"
        # Requests, and the processes that score and train, may want one series at once; it appears whole or not at all.
        with FileLock(folder.with_name(f".{image_id}.lock")):
            if not folder.exists():
                with tempfile.TemporaryDirectory(prefix=".download-", dir=folder.parent) as work:
                    part = Path(work) / "series"
                    dicom_web_download_series(None, image_id, str(part), self._client, self._fetch_by_frame)
                    os.rename(part, folder)
            if not os.path.exists(path):
                converted = dicom_to_nifti(str(folder))
                try:
                    LocalDatastore.add_image(self, image_id, converted, self._dicom_info(image_id))
                finally:
                    os.unlink(converted)
        return path

    def get_label_uri(self, label_id: str, label_tag: str, image_id: str = "") -> str:
        """Path of a label in the cache; MONAI Label's own takes a final label's study for its series."""
        check_tag(label_tag)
        uri: str = LocalDatastore.get_label_uri(self, label_id, label_tag)
        return uri

    def get_labeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        """Series with a Segmentation on the server (asked for now and then), or submitted here (known at once)."""
        remote = super().get_labeled_images(label_tag, labels)
        return sorted({*remote, *LocalDatastore.get_labeled_images(self)})

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        """Refuse: studies are sent to the DICOM server."""
        raise HTTPException(400, "Studies come from the DICOM server. Send the image there.")

    def remove_image(self, image_id: str) -> None:
        """Refuse: studies are deleted on the DICOM server."""
        raise HTTPException(403, "Studies are on the DICOM server. Delete the image there.")

    def remove_label(self, label_id: str, label_tag: str) -> None:
        """Refuse: final labels are deleted on the DICOM server."""
        raise HTTPException(403, "Labels are on the DICOM server. Delete the Segmentation there.")

    def save_label(
        self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any], label_id: str = ""
    ) -> str:
        """Keep a label; a final one goes to the DICOM server as a Segmentation, an empty one too."""
        check_tag(label_tag)
        if image_id not in self.list_images():
            raise HTTPException(404, f"`image` must be a series of the DICOM server, got '{image_id}'.")
        if label_tag == FINAL:
            segments = label_info.get("label_info") or []
            names = {int(segment["idx"]): str(segment["name"]) for segment in segments if "idx" in segment}
            dataset = make_label_segmentation(label_filename, self.series_folder(image_id), names)
            self._client.store_instances([dataset])
            label_info = {**label_info, "SeriesInstanceUID": str(dataset.SeriesInstanceUID), "Modality": "SEG"}
        else:
            self.get_image_uri(image_id)
        saved: str = LocalDatastore.save_label(self, image_id, label_filename, label_tag, label_info)
        return saved

    def fetch_labels(self) -> None:
        """Bring final labels that others sent to the DICOM server into the cache."""
        known = set(LocalDatastore.get_labeled_images(self))
        for found in self._client.search_for_series(search_filters={"Modality": "SEG"}):
            series = Dataset.from_json(found)
            for dataset in self._client.retrieve_series(str(series.StudyInstanceUID), str(series.SeriesInstanceUID)):
                referenced = dataset.get("ReferencedSeriesSequence")
                image_id = str(referenced[0].SeriesInstanceUID) if referenced else ""
                if image_id in self.list_images() and image_id not in known:
                    self._keep(image_id, dataset)
                    known.add(image_id)

    def _keep(self, image_id: str, dataset: Dataset) -> None:
        like = self.get_image_uri(image_id)
        values, names = read_segmentation(dataset, like)
        info = {
            "label_info": [{"idx": number, "name": name} for number, name in names.items()],
            "SeriesInstanceUID": str(dataset.SeriesInstanceUID),
        }
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "label.nii.gz"
            write_label(path, values, like)
            LocalDatastore.save_label(self, image_id, str(path), FINAL, info)
