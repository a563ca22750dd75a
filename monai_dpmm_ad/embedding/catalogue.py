# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The backbones that are known by name: what they are, what they ask of a user, and what is on this disk."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["KNOWN_EMBEDDERS", "KnownEmbedder", "explain_gate", "format_embedders", "is_on_disk"]

_APACHE, _DINOV3 = "Apache-2.0", "DINOv3 License"


@dataclass(frozen=True)
class KnownEmbedder:
    """A published backbone.

    Args:
        name: what ``--embedder`` takes.
        millions: of parameters.
        patch_size: side of a patch in pixels.
        licence: of the weights.
        gated: whether the hub asks for an accepted licence before it gives the files.
        image_size: longer side that gives a grid of 32 patches, as the literature uses them.
    """

    name: str
    millions: float
    patch_size: int
    licence: str
    gated: bool
    image_size: int


def _dinov2(name: str, millions: float) -> KnownEmbedder:
    return KnownEmbedder(f"facebook/{name}", millions, 14, _APACHE, gated=False, image_size=448)


def _dinov3(name: str, millions: float) -> KnownEmbedder:
    full = f"facebook/dinov3-{name}-pretrain-lvd1689m"
    return KnownEmbedder(full, millions, 16, _DINOV3, gated=True, image_size=512)


#: Published backbones that `HFViTEmbedder` is tested with, smallest first within each family.
KNOWN_EMBEDDERS: tuple[KnownEmbedder, ...] = (
    _dinov2("dinov2-small", 22.1),
    _dinov2("dinov2-base", 86.6),
    _dinov2("dinov2-large", 304.4),
    _dinov2("dinov2-with-registers-small", 22.1),
    _dinov2("dinov2-with-registers-base", 86.6),
    _dinov2("dinov2-with-registers-large", 304.4),
    _dinov3("vits16", 21.6),
    _dinov3("vits16plus", 28.7),
    _dinov3("vitb16", 85.7),
    _dinov3("vitl16", 303.1),
    _dinov3("vith16plus", 840.6),
)


def is_on_disk(name: str) -> bool:
    """Tell whether a Hugging Face id's configuration and weights are in the local cache; asks no network."""
    from huggingface_hub import try_to_load_from_cache

    def cached(file: str) -> bool:
        return isinstance(try_to_load_from_cache(name, file), str)

    return cached("config.json") and (cached("model.safetensors") or cached("model.safetensors.index.json"))


def explain_gate(name: str) -> str:
    """Say how to get the files of a gated id."""
    return (
        f"'{name}' is gated: accept its licence at https://huggingface.co/{name} (access may be refused), run "
        "`hf auth login` with a token of that account, and try again; or give a local folder with its files"
    )


def format_embedders() -> str:
    """Describe what ``--embedder`` takes, one line each, and how to get what is not here."""
    from monai_dpmm_ad.embedding.compact import COMPACT_WEIGHTS, compact_path, count_millions

    rows = [("name", "M params", "patch", "size", "licence", "on this disk")]
    for name, licence in COMPACT_WEIGHTS.items():
        rows.append((name, f"{count_millions(compact_path(name)):.1f}", "8", "224", licence, "yes, ships"))
    for known in KNOWN_EMBEDDERS:
        here = "yes" if is_on_disk(known.name) else "no, gated" if known.gated else "no"
        sizes = (f"{known.millions:.1f}", str(known.patch_size), str(known.image_size))
        rows.append((known.name, *sizes, known.licence, here))
    rows.append(("pixels, pixels-8", "0", "16, 8", "any", "-", "yes, raw patches"))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    notes = (
        "",
        "size: --image-size that the literature uses, a grid of 32 patches. Any other ViT of Hugging Face by its id,",
        "or a local folder with config.json, model.safetensors and preprocessor_config.json, is taken as well.",
        "Gated: accept the licence on the model's page, then `hf auth login`.",
    )
    return "\n".join([*lines, *notes])
