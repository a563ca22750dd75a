# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The plain pipeline that `benchmarks/inference.py` compares with, and the stopwatch for both."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModel

from monai_dpmm_ad.network import AnomalyNet

BATCH = 8
Seconds = dict[str, float]


@contextmanager
def stopwatch() -> Iterator[Seconds]:
    """Wall and CPU seconds, once the block has ended."""
    spent: Seconds = {}
    wall, cpu = time.perf_counter(), time.process_time()
    yield spent
    spent.update(wall=time.perf_counter() - wall, cpu=time.process_time() - cpu)


class PlainPipeline:
    """The paper's pipeline as its text describes it: 448×448, float32, cosine, bilinear; none of our code.

    Args:
        network: gives the folder of the backbone, its input's mean and deviation, and the mixture's means.
    """

    def __init__(self, network: AnomalyNet) -> None:
        self.means = F.normalize(network.detector.mixture.posterior.means.float(), dim=1)
        self.model = AutoModel.from_pretrained(network.embedder.fingerprint()["name"], dtype=torch.float32).eval()
        self.mean, self.std = network.embedder._mean, network.embedder._std

    @torch.no_grad()
    def embed(self, images: Tensor) -> Tensor:
        """Unit embeddings ``(B, h, w, D)`` of grey images ``(B, 1, h·14, w·14)``."""
        pixels = (images.expand(-1, 3, -1, -1) - self.mean) / self.std
        tokens = self.model(pixel_values=pixels, interpolate_pos_encoding=True).last_hidden_state[:, 1:]
        return F.normalize(tokens, dim=-1).unflatten(1, (images.shape[-2] // 14, images.shape[-1] // 14))

    def score(self, embeddings: Tensor) -> Tensor:
        """Scores ``(…)`` of embeddings ``(…, D)``."""
        return 1 - (embeddings @ self.means.T).amax(-1)

    def time(self, scan: Path, out: Path, stride: int) -> Seconds:
        """Map every so many slices: the seconds that all would take, with reading and writing."""
        with stopwatch() as whole:
            image = nib.as_closest_canonical(nib.load(scan))
            volume = torch.from_numpy(np.ascontiguousarray(image.dataobj, dtype=np.float32))
            slices = ((volume - volume.min()) / (volume.max() - volume.min())).permute(2, 0, 1)[:, None]
            maps = torch.zeros_like(slices)
            chosen = torch.arange(stride // 2, len(slices), stride)
            with stopwatch() as passes:
                for index in chosen.split(BATCH):
                    grid = self.score(self.embed(F.interpolate(slices[index], (448, 448), mode="bilinear")))
                    maps[index] = F.interpolate(grid[:, None], slices.shape[-2:], mode="bilinear")
            nib.save(nib.Nifti1Image(maps[:, 0].permute(1, 2, 0).numpy(), image.affine), out)
        return {unit: whole[unit] + (len(slices) / len(chosen) - 1) * passes[unit] for unit in whole}
