# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The package's preprocessing: one chain for fitting, inference, evaluation and serving."""

from __future__ import annotations

from collections.abc import Sequence

from monai.transforms import Compose, CropForegroundd, DeleteItemsd, Orientationd, Transform

from monai_dpmm_ad.errors import unknown_option
from monai_dpmm_ad.transforms.acquire import AcquireScand
from monai_dpmm_ad.transforms.intensity import ScaleIntensityForegroundd
from monai_dpmm_ad.transforms.load import LoadScand
from monai_dpmm_ad.transforms.place import HasNormative, MatchIntensityd, TakeThumbnaild
from monai_dpmm_ad.transforms.regions import LoadRegionsd
from monai_dpmm_ad.transforms.slices import SampleSlicesd

__all__ = ["preprocess_scan", "preprocess_slices"]

EXCLUDES = ("none", "patches", "slices")


def preprocess_scan(
    intensity: str = "median", spatial_dims: int | None = None, network: HasNormative | None = None
) -> Compose:
    """Make the chain for inference: load, turn, scale, mask the background, crop to the head, match the intensities.

    Only the image is turned and cropped; a ``label`` and ``regions`` stay on the scan's own grid, as the map will.
    ``Invertd`` with this chain brings a map back to that grid, exactly: nothing is resampled.

    Args:
        intensity: method of :class:`~monai_dpmm_ad.transforms.ScaleIntensityForeground`.
        spatial_dims: 3 or 2 refuses the other kind, None takes both.
        network: whose scans the intensities are matched to, see
            :class:`~monai_dpmm_ad.transforms.place.MatchIntensityd`; where those are brains, a whole head's skull is
            taken away. None leaves scans as they are.

    Example:
        >>> preprocess_scan("ct_window")({"image": "no/such/scan.nii.gz"})
        Traceback (most recent call last):
        RuntimeError: applying transform ...
    """
    match = [] if network is None else [MatchIntensityd(network)]
    return Compose(
        [LoadScand(spatial_dims=spatial_dims), LoadRegionsd(), *_normalize(["image"], intensity, network), *match]
    )


def preprocess_slices(
    intensity: str = "median",
    axes: Sequence[str] = ("axial",),
    channels: int = 1,
    selection: str = "all",
    num_slices: int | None = None,
    min_foreground: float = 0.0,
    exclude: str = "patches",
    spatial_dims: int | None = None,
    thumbnails: bool = False,
    seed: int = 0,
) -> Compose:
    """Make the chain for fitting: as :func:`preprocess_scan`, with the label alongside, then slices.

    A copy of a scan, see :func:`~monai_dpmm_ad.data.acquisitions.add_acquisitions`, is acquired otherwise before that.

    Args:
        intensity: as above.
        axes: see :class:`~monai_dpmm_ad.transforms.SampleSlices`, as for the next four.
        channels: 1, or 3 for neighbouring slices.
        selection: which slices.
        num_slices: how many.
        min_foreground: least foreground of a slice.
        exclude: what a label leaves out: the ``patches`` it touches, the ``slices`` it touches, or ``none``.
        spatial_dims: as above.
        thumbnails: whether each slice knows its scan's :class:`~monai_dpmm_ad.transforms.place.Thumbnail`.
        seed: of the acquisitions of copies.

    Example:
        >>> preprocess_slices(exclude="lesions")
        Traceback (most recent call last):
        ValueError: `exclude` must be one of none, patches, slices, got 'lesions'.
    """
    if exclude not in EXCLUDES:
        raise unknown_option("exclude", exclude, EXCLUDES)
    sampler = SampleSlicesd(
        axes=axes,
        selection=selection,
        num_slices=num_slices,
        min_foreground=min_foreground,
        exclude="slices" if exclude == "slices" else "none",
        channels=channels,
    )
    drop_label = [DeleteItemsd(keys="label")] if exclude == "none" else []
    small = [TakeThumbnaild()] if thumbnails else []
    normalize = [*_normalize(["image", "label"], intensity), AcquireScand(intensity, seed)]
    return Compose([LoadScand(spatial_dims=spatial_dims), *drop_label, *normalize, *small, sampler])


def _normalize(keys: Sequence[str], intensity: str, network: HasNormative | None = None) -> list[Transform]:
    return [
        Orientationd(keys=keys, axcodes="PLI", labels=None, allow_missing_keys=True),
        ScaleIntensityForegroundd(keys="image", method=intensity, network=network),
        CropForegroundd(keys=keys, source_key="image", allow_smaller=True, allow_missing_keys=True),
    ]
