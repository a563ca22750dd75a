# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""What readers said of the studies: normal, or abnormal and where."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from monai.data import MetaTensor
from monailabel.interfaces.datastore import Datastore, DefaultLabelTag

from monai_dpmm_ad.transforms import LoadScan

__all__ = ["NORMAL", "ReadStudy", "list_read_studies", "load_marked"]

#: Name of the segment that marks a study as normal.
NORMAL = "normal"
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReadStudy:
    """A study with a final label.

    Args:
        name: of the study.
        image: its file.
        label: file of the label map.
        marked: voxels that are marked as anything but normal, boolean ``(1, *spatial)``, with the label's affine.
    """

    name: str
    image: str
    label: str
    marked: MetaTensor

    @property
    def is_normal(self) -> bool:
        """Whether no voxel is marked but as ``normal``."""
        return not bool(self.marked.any())


def list_read_studies(datastore: Datastore) -> list[ReadStudy]:
    """List the studies with a final label that can be read, sorted by name."""
    tag = DefaultLabelTag.FINAL.value
    if hasattr(datastore, "fetch_labels"):  # of a DICOM server
        datastore.fetch_labels()
    studies = []
    for name in sorted(datastore.get_labeled_images()):
        label_id = datastore.get_label_by_image_id(name, tag)
        if not label_id:
            continue
        try:
            label = datastore.get_label_uri(label_id, tag)
            marked = load_marked(label, datastore.get_label_info(label_id, tag))
            studies.append(ReadStudy(name, datastore.get_image_uri(name), label, marked))
        except Exception as error:  # readers raise anything at all on damaged files
            logger.warning("label of %s cannot be read, so it says nothing: %s", name, error)
    return studies


def load_marked(label: str | os.PathLike[str], info: Mapping[str, Any]) -> MetaTensor:
    """Read a final label.

    Args:
        label: file of the label map.
        info: what the client sent with it; 3D Slicer sends ``label_info``, the names of the values.

    Returns:
        Boolean ``(1, *spatial)``: marked, and not as normal.
    """
    segments = info.get("label_info") or []
    unmarked = [0, *(int(segment["idx"]) for segment in segments if str(segment["name"]).lower() == NORMAL)]
    values = LoadScan().read(os.fspath(label), is_label=True)
    marked = ~np.isin(values.numpy(), unmarked)
    return MetaTensor(marked, affine=values.affine)
