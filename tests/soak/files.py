# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Random mixtures of the kinds of file that users have: none ends in a traceback, a hang, or a map off its grid.

    python tests/soak/files.py --examples 200 --seed 0

Each example is a folder with a few volumes, pictures and DICOM series, each with some of the faults that were met. Its
scans are found, loaded and brought to slices and back. Prints how many scans were read, refused and left out.
"""

from __future__ import annotations

import argparse
import gzip
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Invertd
from numpy.random import Generator

sys.path.insert(0, str(Path(__file__).parents[1]))

from helpers.scans import make_head, write_slices

from monai_dpmm_ad.data import find_scans
from monai_dpmm_ad.errors import find_scan_error
from monai_dpmm_ad.transforms import SaveScand, preprocess_scan

Array = Any


def _standardise(data: Array, generator: Generator) -> Array:
    inside = data > 100
    return np.where(inside, (data - data[inside].mean()) / data[inside].std(), 0)


VALUES: dict[str, Callable[[Array, Generator], Array]] = {
    "plain": lambda data, generator: data,
    "stripped": lambda data, generator: np.where(data > 100, data, 0),
    "nan outside": lambda data, generator: np.where(data > 100, data, np.nan).astype(np.float32),
    "nan anywhere": lambda data, generator: np.where(generator.random(data.shape) < 0.001, np.nan, data),
    "standardised": _standardise,
    "label": lambda data, generator: (data > 300).astype(np.uint8),
    "ct": lambda data, generator: np.where(data > 100, data / 10, -1000).astype(np.int16),
    "huge": lambda data, generator: data * 1e300,
    "constant": lambda data, generator: np.full(data.shape, 7.0),
    "noise": lambda data, generator: generator.normal(0, 1, data.shape),
}
FIELDS: list[dict[str, Any]] = [
    {},
    {"sform_code": 0, "qform_code": 0},
    {"xyzt_units": 1},
    {"scl_slope": 2, "scl_inter": np.nan},
    {"pixdim": [1, 0, 0, 0, 0, 0, 0, 0], "sform_code": 0},
    {"sform_code": 0, "qform_code": 1, "quatern_b": 0.9, "quatern_c": 0.9},
    {"intent_code": 1002},
]
NAMES = ["a.nii.gz", "a.nii", "sub-01_T1w.nii.gz", "a_seg.nii.gz", "ä b.nii.gz", "A.NII.GZ"]
TAGS: list[dict[str, Any]] = [
    {},
    {"PhotometricInterpretation": "MONOCHROME1"},
    {"PhotometricInterpretation": "PALETTE COLOR"},
    {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]},
    {"ImageType": ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]},
    {"PixelPaddingValue": 0},
    {"RescaleSlope": "", "RescaleIntercept": ""},
    {"SeriesInstanceUID": None},
    {"PixelSpacing": [0.5, 4.0]},
    {"ImagePositionPatient": None},
    {"Modality": "CT", "RescaleIntercept": -1024},
]


def write_example(folder: Path, generator: Generator) -> None:
    """Write one folder of a random mixture."""
    for number in range(int(generator.integers(1, 4))):
        shape = tuple(int(size) for size in generator.choice([1, 2, 3, 6, 9, 20, 33], 3))
        head = make_head(tuple(max(size, 2) for size in shape), seed=number)  # type: ignore[arg-type]
        data = VALUES[str(generator.choice(list(VALUES)))](head, generator)[tuple(slice(size) for size in shape)]
        if generator.random() < 0.35:
            data = np.nan_to_num(np.clip(data, 0, 30000)).astype(np.int16)
            tags = TAGS[int(generator.integers(len(TAGS)))]
            write_slices(folder / f"series {number}", data, series=f"{50 + number}", **tags)
            continue
        path = folder / f"d{number}" / NAMES[int(generator.integers(len(NAMES)))]
        path.parent.mkdir(parents=True, exist_ok=True)
        spacing = generator.choice([0.5, 1.0, 4.0], 3)
        affine = nib.affines.from_matvec(nib.eulerangles.euler2mat(*generator.normal(0, 0.3, 3)) @ np.diag(spacing))
        raw = bytearray(
            nib.Nifti1Image(data, affine, dtype=data.dtype if data.dtype != np.int64 else np.int32).to_bytes()
        )
        header = np.frombuffer(raw, nib.Nifti1Header.template_dtype, count=1)
        for name, value in FIELDS[int(generator.integers(len(FIELDS)))].items():
            header[name][0] = value
        path.write_bytes(gzip.compress(bytes(raw)) if generator.random() < 0.6 else bytes(raw))


def try_example(folder: Path) -> Counter[str]:
    """Find, load, invert and save all scans of a folder; whatever is no error that names its scan is raised."""
    found, counts = find_scans(folder), Counter[str]()
    counts["left out"] = len(found.left_out)
    counts["refused"] = len(found.failures)
    chain = preprocess_scan()
    for item in found.items:
        try:
            scan = chain(dict(item))
        except Exception as error:
            named = find_scan_error(error)
            if named is None or not named.reason or "\n" in named.reason or "Traceback" in named.reason:
                raise
            counts["refused"] += 1
            continue
        image = scan["image"]
        values = image.as_subclass(torch.Tensor)
        assert torch.isfinite(values).all()
        assert 0 <= float(values.min()) <= float(values.max()) <= 1
        scan["pred"] = MetaTensor(values.clone(), meta=dict(image.meta), applied_operations=image.applied_operations)
        back = Invertd("pred", chain, "image", nearest_interp=False)(scan)["pred"]
        back.meta = {**image.meta, **back.meta}
        SaveScand("pred", folder / "out", "anomaly")({"pred": back})
        saved = nib.load(folder / "out" / f"{item['name']}_anomaly.nii.gz")
        assert np.isfinite(np.asarray(saved.dataobj)).all()
        assert int(np.prod(saved.shape)) == int(np.prod(image.meta["spatial_shape"]))
        counts["read"] += 1
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    total: Counter[str] = Counter()
    for number in range(arguments.examples):
        with tempfile.TemporaryDirectory() as folder:
            write_example(Path(folder), np.random.default_rng([arguments.seed, number]))
            total += try_example(Path(folder))
    print(f"{arguments.examples} folders: " + ", ".join(f"{count} {word}" for word, count in sorted(total.items())))


if __name__ == "__main__":
    main()
