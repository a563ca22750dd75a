# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Training-free hierarchical matching of a slice with its most similar normal references."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from monai_dpmm_ad.detectors.base import Detector
from monai_dpmm_ad.detectors.himatch.matching import (
    cluster_patches,
    compare_locally,
    compute_uncertainty,
    fuse_maps,
    score_left_out,
)
from monai_dpmm_ad.detectors.himatch.references import ReferenceCollector, split_slices
from monai_dpmm_ad.detectors.search import LazySearch
from monai_dpmm_ad.embedding.types import EncodedSlices
from monai_dpmm_ad.errors import NotFittedError, unknown_option
from monai_dpmm_ad.ops.patches import normalize_embeddings
from monai_dpmm_ad.utils.distributed import get_rank, get_world_size

__all__ = ["FUSIONS", "HiMatchDetector"]

FUSIONS = ("uncertainty", "mean")
#: slices of a scan on which the criterion is computed: one pass has nothing to choose between
CRITERION_SLICES = 8


class HiMatchDetector(Detector):
    """Retrieve the K normal slices most like the query, cluster their patches per stage, score by the best centroid.

    The references are a uniform draw of at most ``max_references`` slices of the fit, in half precision:
    about R · patches · S · D · 2 bytes. Without standardisation a stage's score is ``1 − max cos``; standardised
    scores are fused and mapped through softplus, since a score must be positive. DINO-AD is ``num_support=1`` with one
    stage.

    Args:
        embed_dim: D, size of one stage's embedding.
        num_stages: S, number of stages of the embedder.
        location_weight: must be 0: matching compares embeddings only.
        num_support: K, support images of a query.
        num_clusters: centroids per stage; 0 compares with all patches of the support images.
        local_weight: β of the local branch against the global one; 0 is CLS alone, 1 patches alone.
        shortlist_factor: the local branch ranks this many times K references, the best by CLS.
        retrieve: False takes the same K references for every query, evenly spread over all.
        stages: which of the embedder's stages are used, by number from 0; None takes all.
        fusion: "uncertainty", or "mean" of the stages.
        standardize: put each stage's map on the scale of the support images' own leave-one-out scores; with a single
            support image there is none to be left out, and maps stay as they are.
        similarity_temperature: of the softmax whose entropy is the uncertainty.
        fusion_temperature: T of the weights of the stages.
        max_references: largest number of reference slices.
        patches_per_reference: largest number of patches of each.
        index: "flat" or "ivf" for the search among CLS embeddings, see
            :class:`~monai_dpmm_ad.detectors.search.NearestNeighbours`.
        use_faiss: as there; a flat search has the same result either way.
        seed: of the draw of references.

    Reference:
        Huo et al. 2026, arXiv 2606.22556 (HiMatch-AD), from abstract and figures, and arXiv 2602.03870 (DINO-AD). What
        they leave open is ours: β, the shortlist, the entropy and its temperatures, standardisation, softplus.
    """

    reference_cls: Tensor
    reference_patches: Tensor
    reference_counts: Tensor
    max_epochs = 1
    batch_unit = "scans"
    export_blocker = "himatch chooses and clusters support images for each slice, in numbers of patches that differ"
    variable_buffers = ("reference_cls", "reference_patches", "reference_counts")

    def __init__(
        self,
        embed_dim: int,
        num_stages: int = 1,
        location_weight: float = 0.0,
        num_support: int = 4,
        num_clusters: int = 32,
        local_weight: float = 0.5,
        shortlist_factor: int = 4,
        retrieve: bool = True,
        stages: Sequence[int] | None = None,
        fusion: str = "uncertainty",
        standardize: bool = True,
        similarity_temperature: float = 0.1,
        fusion_temperature: float = 0.1,
        max_references: int = 500,
        patches_per_reference: int = 128,
        index: str = "flat",
        use_faiss: bool | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(embed_dim, num_stages, location_weight)
        if location_weight:
            raise ValueError(f"`location_weight` must be 0 for himatch, got {location_weight}.")
        _check_at_least(1, num_support=num_support, shortlist_factor=shortlist_factor, max_references=max_references)
        _check_at_least(1, patches_per_reference=patches_per_reference)
        _check_at_least(0, num_clusters=num_clusters)
        if not 0 <= local_weight <= 1:
            raise ValueError(f"`local_weight` must lie in [0, 1], got {local_weight}.")
        temperatures = {"similarity_temperature": similarity_temperature, "fusion_temperature": fusion_temperature}
        for name, value in temperatures.items():
            if not value > 0:
                raise ValueError(f"`{name}` must be positive, got {value}.")
        if fusion not in FUSIONS:
            raise unknown_option("fusion", fusion, FUSIONS)
        self.num_support = num_support
        self.num_clusters = num_clusters
        self.local_weight = local_weight
        self.shortlist_factor = shortlist_factor
        self.retrieve = retrieve
        self.stages = _check_stages(stages, num_stages)
        self.fusion = fusion
        self.standardize = standardize
        self.similarity_temperature = similarity_temperature
        self.fusion_temperature = fusion_temperature
        self.max_references = max_references
        self.patches_per_reference = patches_per_reference
        self.seed = seed
        self._search = LazySearch(index, use_faiss=use_faiss)
        self._collector: ReferenceCollector | None = None
        self._steps = 0
        self.register_buffer("reference_cls", torch.zeros(0, embed_dim, dtype=torch.float16))
        self.register_buffer("reference_patches", torch.zeros(0, len(self.stages), embed_dim, dtype=torch.float16))
        self.register_buffer("reference_counts", torch.zeros(0, dtype=torch.long))

    @property
    def fitted(self) -> bool:
        """Whether there are references."""
        return len(self.reference_counts) > 0

    # Fitting ---------------------------------------------------------------------------------------------------------

    def fit_batch(self, rows: Mapping[str, Tensor], num_data: int) -> Tensor:
        """Offer the slices of one scan as references."""
        if self._collector is None:
            self._collector, self._steps = self._begin(), 0
        scan = self._steps * get_world_size() + get_rank()
        self._steps += 1
        for number, (cls, patches) in enumerate(split_slices(rows)):
            self._collector.add(scan, number, cls[-1], patches[:, self.stages])
        return torch.zeros((), device=self.reference_cls.device)

    def _begin(self) -> ReferenceCollector:
        """An empty collector, or one that the first process begins with what a checkpoint held."""
        collector = ReferenceCollector(self.max_references, self.patches_per_reference, self.seed)
        if self.fitted and get_rank() == 0:
            parts = self.reference_patches.split(self.reference_counts.tolist())
            for number, (cls, patches) in enumerate(zip(self.reference_cls, parts, strict=True)):
                collector.add(-1, number, cls, patches)
        return collector

    def finish_epoch(self, draw_sample: Callable[[], Mapping[str, Tensor]]) -> None:
        """Take over the references that were drawn.

        Raises:
            ValueError: fewer references than ``num_support``.
        """
        if self._collector is None:
            raise NotFittedError("No slice has been offered as a reference. Call `fit_batch` first.")
        device = self.reference_cls.device
        found = [part.to(device) for part in self._collector.finish(self.embed_dim, len(self.stages))]
        self.reference_cls, self.reference_patches, self.reference_counts = found
        self._collector = None
        self._check_support()

    def _check_support(self) -> None:
        if len(self.reference_counts) < self.num_support:
            raise ValueError(
                f"`num_support` must not exceed the {len(self.reference_counts)} reference slices that have foreground "
                f"patches, got {self.num_support}. Ask for fewer support images or give more normal scans."
            )

    def criterion(self, rows: Mapping[str, Tensor]) -> Tensor:
        """Minus the scores of some slices of a held-out scan, ``(n,)``."""
        slices = split_slices(rows)
        chosen = slices[:: max(1, -(-len(slices) // CRITERION_SLICES))]
        return -torch.cat([rows["patches"].new_zeros(0), *(self.score_slice(patches, cls) for cls, patches in chosen)])

    # Scoring ---------------------------------------------------------------------------------------------------------

    def score(self, features: Tensor) -> Tensor:
        """Refuse: a patch without its slice has no support images.

        Raises:
            TypeError: always.
        """
        raise TypeError("himatch scores whole slices, since support images are chosen by slice. Call `score_slices`.")

    def score_slices(self, encoded: EncodedSlices, valid: Tensor) -> Tensor:
        """Score the valid patches of each slice; a slice without any has no anomaly."""
        patches = encoded.rows()["patches"]
        scores = patches.new_zeros(valid.shape)
        for number, inside in enumerate(valid):
            scores[number, inside] = self.score_slice(patches[number][inside], encoded.embeddings.cls[number])
        return scores

    def score_rows(self, rows: Mapping[str, Tensor]) -> Tensor:
        """Score the rows of one scan, slice by slice."""
        scores = rows["patches"].new_zeros(len(rows["patches"]))
        numbers = rows["slice_index"].long()
        for number in numbers.unique().tolist():
            inside = numbers == number
            scores[inside] = self.score_slice(rows["patches"][inside], rows["cls"][number])
        return scores

    def score_slice(self, patches: Tensor, cls: Tensor) -> Tensor:
        """Score the foreground patches of one slice.

        Args:
            patches: ``(n, S, D)``, raw.
            cls: ``(S, D)``.

        Returns:
            ``(n,)``, not negative.

        Raises:
            NotFittedError: before a fit.
            ValueError: embeddings of other sizes than the references', or fewer references than ``num_support``.
        """
        if not self.fitted:
            raise NotFittedError("There are no references. Fit the detector, or load a state dict.")
        if patches.shape[1:] != (self.num_stages, self.embed_dim):
            raise ValueError(
                f"`patches` must have (S, D) = {(self.num_stages, self.embed_dim)} as the references, got "
                f"{tuple(patches.shape[1:])}. Use the embedder that the references were made with."
            )
        if not len(patches):
            return patches.new_zeros(0, dtype=torch.float32)
        query = normalize_embeddings(patches[:, self.stages].float())
        supports = self._choose_supports(query[:, -1], normalize_embeddings(cls[-1].float()))
        maps, uncertainty = [], []
        for stage in range(len(self.stages)):
            stage_map, stage_uncertainty = self._match(query[:, stage], [part[:, stage] for part in supports])
            maps.append(stage_map)
            uncertainty.append(stage_uncertainty)
        weights = torch.stack(uncertainty) if self.fusion == "uncertainty" else None
        fused = fuse_maps(torch.stack(maps), weights, self.fusion_temperature)
        return F.softplus(fused) if self._standardizes else fused.clamp_min(0)

    @property
    def _standardizes(self) -> bool:
        return self.standardize and self.num_support > 1

    def _choose_supports(self, query: Tensor, cls: Tensor) -> list[Tensor]:
        """The K support images' patches, each ``(m, S, D)`` float32; only the shortlist's are read and cast."""
        self._check_support()
        total = len(self.reference_counts)
        ends = self.reference_counts.cumsum(0)
        starts = ends - self.reference_counts

        def read(number: int) -> Tensor:
            return self.reference_patches[int(starts[number]) : int(ends[number])].float()

        if not self.retrieve:
            return [read(number * total // self.num_support) for number in range(self.num_support)]
        length = min(total, self.shortlist_factor * self.num_support if self.local_weight else self.num_support)
        distances, shortlist = self._search.among(self.reference_cls)(cls[None], length)
        found = [read(number) for number in shortlist[0].tolist()]
        similarity = (1 - self.local_weight) * (1 - distances[0] / 2)
        if self.local_weight:
            local = compare_locally(query, [patches[:, -1] for patches in found])
            similarity = similarity + self.local_weight * local
        order = similarity.argsort(descending=True, stable=True)[: self.num_support]
        return [found[place] for place in order.tolist()]

    def _match(self, query: Tensor, supports: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Map and uncertainty ``(n,)`` of one stage: query ``(n, D)``, support patches ``(m, D)``."""
        similarities = query @ cluster_patches(torch.cat(list(supports)), self.num_clusters).T
        scores = 1 - similarities.amax(1)
        if self._standardizes:
            left_out = score_left_out(supports, self.num_clusters)
            scores = (scores - left_out.mean()) / left_out.std(correction=0).clamp_min(1e-6)
        return scores, compute_uncertainty(similarities, self.similarity_temperature)


def _check_at_least(least: int, **values: int) -> None:
    for name, value in values.items():
        if value < least:
            raise ValueError(f"`{name}` must be at least {least}, got {value}.")


def _check_stages(stages: Sequence[int] | None, num_stages: int) -> list[int]:
    chosen = list(range(num_stages)) if stages is None else list(stages)
    if not chosen or any(not isinstance(stage, int) or not 0 <= stage < num_stages for stage in chosen):
        raise ValueError(
            f"`stages` must be numbers from 0 to {num_stages - 1}, the embedder's stages, got {stages}. "
            "Ask the embedder for more with --stages."
        )
    return chosen
