# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The studies folder, from which no name and no link leads out, and in which no study is replaced."""

from __future__ import annotations

import os
from typing import Any

from fastapi import HTTPException
from monailabel.datastore.local import LocalDatastore

from monai_dpmm_ad.label.names import UPLOAD_SUFFIXES, check_name, check_tag

__all__ = ["StudyFolder"]


class StudyFolder(LocalDatastore):
    """MONAI Label's folder of studies, confined.

    Args:
        path: the folder.
        links: whether links in it may lead out of it.
        options: of MONAI Label's class.
    """

    def __init__(self, path: str, links: bool = False, **options: Any) -> None:
        self.root = os.path.realpath(path)
        self.links = links
        super().__init__(path, **options)

    def get_image_uri(self, image_id: str) -> str:
        """Path of a study."""
        return self._inside(super().get_image_uri(image_id))

    def get_label_uri(self, label_id: str, label_tag: str) -> str:
        """Path of a label."""
        return self._inside(super().get_label_uri(label_id, label_tag))

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        """Add a study under a new name; one that is there is never replaced."""
        check_name("image", image_id)
        _, own = self._to_id(os.path.basename(image_filename))
        names = [f"{image_id}{suffix}".lower() for suffix in ("", own, *UPLOAD_SUFFIXES)]
        if image_id in self.list_images() or any(name.lower() in names for name in os.listdir(self.root)):
            raise HTTPException(409, f"`image` must be a new name, got '{image_id}'. The server replaces no study.")
        added: str = super().add_image(image_id, image_filename, image_info)
        return added

    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]) -> str:
        """Save a label of a study; a later one takes an earlier one's place."""
        check_name("image", image_id)
        check_tag(label_tag)
        _, suffix = self._to_id(os.path.basename(label_filename))
        self._inside(os.path.realpath(os.path.join(self.root, "labels", label_tag, image_id + suffix)), write=True)
        saved: str = super().save_label(image_id, label_filename, label_tag, label_info)
        return saved

    def remove_image(self, image_id: str) -> None:
        """Remove a study and its labels; what a link out of the folder leads to stays."""
        self._inside(super().get_image_uri(image_id), write=True)
        super().remove_image(image_id)

    def remove_label(self, label_id: str, label_tag: str) -> None:
        """Remove a label; what a link out of the folder leads to stays."""
        check_tag(label_tag)
        self._inside(super().get_label_uri(label_id, label_tag), write=True)
        super().remove_label(label_id, label_tag)

    def _inside(self, path: str, write: bool = False) -> str:
        """The resolved path, refused where it lies elsewhere."""
        if path and not path.startswith(self.root + os.sep) and (write or not self.links):
            raise HTTPException(
                403,
                f"{os.path.basename(path)}: a link leads out of the studies folder. "
                "Put the file there, or start the server with --conf links true.",
            )
        return path
