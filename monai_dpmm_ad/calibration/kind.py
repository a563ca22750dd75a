# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""What kind of scan a model was fitted on: dimensions, modality, voxel sizes, intensities, size of the head.

None of these is seen in the patches, which are scaled and cropped: a child's head looks like an adult's, a scan of
thick slices like one of thin slices.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor, nn

from monai_dpmm_ad.calibration.drift import MAX_SCANS, choose_scans

__all__ = ["FACTS", "FittedKind"]

#: What is kept of each scan, in this order; 0 is unknown.
FACTS = ("spatial_dims", "modality", "size_p", "size_l", "size_i", "low", "median", "high", "volume")
MODALITIES = ("", "MR", "CT", "PT", "NM", "US", "CR", "DX", "MG", "XA", "OT")

#: Voxels may be so many times as large or small as the largest or smallest that were fitted.
_SIZE_FACTOR = 1.6
#: The range of intensities of MR differs by a factor of ten between scanners.
_RANGE_FACTOR = 30.0
#: Colour that a grey picture's compression may leave, and what is added to a share before its logarithm is taken.
_LEAST_COLOUR, _LEAST_RIM = 0.03, 0.02
#: Of a hundred healthy scans so many may be called too large or too small.
_LEVEL = 0.005
#: Standard deviation of the logarithm of healthy adults' head volumes, and how many scans that prior counts for.
_VOLUME_SPREAD, _PRIOR_SCANS = 0.12, 4.0


class FittedKind(nn.Module):
    """The calibration's scans as rows of plain numbers, as buffers of fixed shape.

    Example:
        >>> kind = FittedKind()
        >>> adult = {"spatial_dims": 3, "modality": "MR", "sizes": [1, 1, 1], "range": [0, 50, 100], "volume": 3000}
        >>> kind.fit([adult, {**adult, "volume": 3200}])
        >>> kind.spatial_dims
        3
        >>> kind.compare({**adult, "modality": "CT"})
        ['its modality is CT, where MR was fitted']
    """

    rows: Tensor
    pictures: Tensor
    num_scans: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("rows", torch.zeros(MAX_SCANS, len(FACTS)))
        #: of pictures 1 + the share of the rim that is foreground and 1 + colour; 0 is unknown
        self.register_buffer("pictures", torch.zeros(MAX_SCANS, 2))
        self.register_buffer("num_scans", torch.zeros((), dtype=torch.int64))

    @property
    def spatial_dims(self) -> int | None:
        """2 or 3 where all fitted scans were pictures or volumes, None where both were, or none is known."""
        found = set(self._column("spatial_dims").tolist())
        return int(found.pop()) if len(found) == 1 else None

    def fit(self, scans: Sequence[Mapping[str, Any]]) -> None:
        """Take the facts of scans, see :func:`~monai_dpmm_ad.transforms.facts.describe_scan`."""
        rows = torch.tensor([_to_row(scan) for scan in scans]).reshape(len(scans), len(FACTS))
        chosen = choose_scans(len(rows), MAX_SCANS)
        pictures = torch.tensor([_to_picture(scan) for scan in scans]).reshape(len(scans), 2)
        for buffer, values in ((self.rows, rows), (self.pictures, pictures)):
            buffer.zero_()
            buffer[: len(chosen)] = values[chosen].to(buffer)
        self.num_scans.fill_(len(chosen))

    def describe(self) -> list[str]:
        """Say in a few words what was fitted; nothing where nothing is known.

        Example:
            >>> kind = FittedKind()
            >>> kind.fit([{"spatial_dims": 2, "modality": "", "sizes": [1, 1], "range": [0, 50, 255], "volume": 0}])
            >>> kind.describe()
            ['2D images', 'highest intensities of 255']
        """
        if not int(self.num_scans):
            return []
        dims = sorted(set(self._column("spatial_dims").astype(int).tolist()))
        clauses = [" and ".join({2: "2D images", 3: "3D scans"}[number] for number in dims)]
        if codes := sorted(set(self._column("modality").astype(int).tolist())):
            clauses.append(f"modality {', '.join(MODALITIES[code] for code in codes)}")
        if sizes := [_span(known) for name in FACTS[2:5] if len(known := self._column(name))]:
            clauses.append(f"voxels of {' × '.join(sizes)} mm")
        if len(highs := self._column("high")):
            clauses.append(f"highest intensities of {_span(highs, '.4g')}")
        if len(volumes := self._column("volume")):
            clauses.append(f"{_span(volumes, '.0f')} mL of foreground")
        return clauses

    def compare(self, scan: Mapping[str, Any]) -> list[str]:
        """Say in what a scan is of another kind than those that were fitted.

        Args:
            scan: its facts.

        Returns:
            Clauses without a full stop; none where it is alike, or nothing is known.
        """
        if not int(self.num_scans):
            return []
        row = dict(zip(FACTS, _to_row(scan), strict=True))
        found = (
            self._dims(row),
            self._slices(row),
            self._modality(row),
            self._sizes(row),
            self._range(row),
            self._volume(row),
        )
        rim, colour = (value - 1 for value in _to_picture(scan))
        return [clause for clause in (*found, self._colour(colour), self._rim(rim)) if clause]

    def _column(self, name: str) -> np.ndarray:
        """The known values of one fact."""
        values = self.rows[: int(self.num_scans), FACTS.index(name)].detach().cpu().double().numpy()
        return values[values != 0]

    def _known_pictures(self, column: int) -> np.ndarray:
        values = self.pictures[: int(self.num_scans), column].detach().cpu().double().numpy()
        return values[values != 0] - 1

    def _colour(self, colour: float) -> str | None:
        known = self._known_pictures(1)
        if colour < 0 or not len(known) or colour <= max(_LEAST_COLOUR, 2 * known.max()):
            return None
        return "it is in colour, where grey pictures were fitted"

    def _rim(self, rim: float) -> str | None:
        known = self._known_pictures(0)
        if rim < 0 or not len(known):
            return None
        logs, freedom = np.log(known + _LEAST_RIM), len(known) - 1 + _PRIOR_SCANS
        spread = math.sqrt((((logs - logs.mean()) ** 2).sum() + _PRIOR_SCANS) / freedom)  # a prior of a factor of e
        limit = float(stats.t.isf(_LEVEL, freedom)) * spread * math.sqrt(1 + 1 / len(known))
        if math.log(rim + _LEAST_RIM) - logs.mean() <= limit:
            return None
        return (
            f"{rim:.0%} of its rim is foreground, where {_span(100 * known, '.0f')} % were fitted "
            "(no scan, inverted, or a part of one)"
        )

    def _dims(self, row: Mapping[str, float]) -> str | None:
        known = self._column("spatial_dims")
        if not len(known) or row["spatial_dims"] in known:
            return None
        return f"it is {int(row['spatial_dims'])}D, where {int(known[0])}D scans were fitted"

    def _slices(self, row: Mapping[str, float]) -> str | None:
        """Whether it is a single slice among volumes, or the other way round; neither shows how large a head is."""
        if row["spatial_dims"] != 3 or 3 not in self._column("spatial_dims"):
            return None
        several, fitted = row["volume"] > 0, len(self._column("volume")) > 0
        if several == fitted:
            return None
        own, others = ("volume", "single slices") if several else ("single slice", "volumes")
        return f"it is a {own}, where {others} were fitted"

    def _modality(self, row: Mapping[str, float]) -> str | None:
        known = self._column("modality")
        if not row["modality"] or row["modality"] in known:
            return None
        if not len(known):
            is_ct = MODALITIES[int(row["modality"])] == "CT"
            return "its modality is CT, where no CT was fitted" if is_ct else None
        names = ", ".join(sorted({MODALITIES[int(code)] for code in known}))
        return f"its modality is {MODALITIES[int(row['modality'])]}, where {names} was fitted"

    def _sizes(self, row: Mapping[str, float]) -> str | None:
        names = ("size_p", "size_l", "size_i")
        for name in names:
            known, size = self._column(name), row[name]
            if size and len(known) and not known.min() / _SIZE_FACTOR <= size <= known.max() * _SIZE_FACTOR:
                own = " × ".join(f"{row[each]:.3g}" for each in names if row[each])
                fitted = " × ".join(_span(self._column(each)) for each in names if len(self._column(each)))
                return f"its voxels measure {own} mm, where {fitted} mm were fitted"
        return None

    def _range(self, row: Mapping[str, float]) -> str | None:
        lows, medians, highs = (self._column(name) for name in ("low", "median", "high"))
        if not len(highs):
            return None
        spans = self.rows[: int(self.num_scans), [FACTS.index("low"), FACTS.index("high")]].double().cpu().numpy()
        spans, span = spans[:, 1] - spans[:, 0], row["high"] - row["low"]
        signs = {bool(value < 0) for value in lows if abs(value) > 0.05 * spans.max()} or {False}
        negative = row["low"] < -0.05 * span
        unlike = span > 0 and (span > spans.max() * _RANGE_FACTOR or span < spans.min() / _RANGE_FACTOR)
        if not unlike and (negative in signs or not span > 0):
            return None
        fitted = f"{min([*lows, *medians, 0.0]):.4g} to {highs.max():.4g}"
        return f"its intensities run from {row['low']:.4g} to {row['high']:.4g}, where {fitted} were fitted"

    def _volume(self, row: Mapping[str, float]) -> str | None:
        known = self._column("volume")
        if not len(known) or row["volume"] <= 0:
            return None
        logs = np.log(known)
        freedom = len(logs) - 1 + _PRIOR_SCANS
        spread = math.sqrt((((logs - logs.mean()) ** 2).sum() + _PRIOR_SCANS * _VOLUME_SPREAD**2) / freedom)
        limit = float(stats.t.isf(_LEVEL / 2, freedom)) * spread * math.sqrt(1 + 1 / len(logs))
        if abs(math.log(row["volume"]) - logs.mean()) <= limit:
            return None
        word = "small" if math.log(row["volume"]) < logs.mean() else "large"
        return (
            f"what it shows is {word}, {row['volume']:.0f} mL, where {_span(known, '.0f')} mL were fitted "
            "(another age, or a part of the head)"
        )

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        for name, buffer in self.named_buffers():  # a model that was fitted before this was kept has none
            state_dict.setdefault(prefix + name, torch.zeros_like(buffer))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def _to_picture(scan: Mapping[str, Any]) -> list[float]:
    return [1.0 + float(scan[name]) if name in scan else 0.0 for name in ("rim", "colour")]


def _span(values: np.ndarray, form: str = ".3g") -> str:
    low, high = format(values.min(), form), format(values.max(), form)
    return low if low == high else f"{low} to {high}"


def _to_row(scan: Mapping[str, Any]) -> list[float]:
    modality = str(scan.get("modality") or "")
    code = MODALITIES.index(modality) if modality in MODALITIES else MODALITIES.index("OT")
    sizes = [float(size) for size in scan["sizes"]]
    volume = float(scan["volume"]) if int(scan["spatial_dims"]) == 3 else 0.0
    padded = [*sizes, 0.0][:3] if int(scan["spatial_dims"]) == 3 else [0.0, 0.0, 0.0]
    return [float(scan["spatial_dims"]), float(code), *padded, *map(float, scan["range"]), volume]
