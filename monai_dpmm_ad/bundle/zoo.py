# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""What MONAI's model zoo asks of a bundle, as far as that can be checked without a network."""

from __future__ import annotations

import os
import shutil
import tempfile
from importlib import resources
from pathlib import Path
from typing import Any

from monai.bundle import verify_metadata, verify_net_in_out

from monai_dpmm_ad.bundle.card import README
from monai_dpmm_ad.bundle.folder import MODEL, TRAIN
from monai_dpmm_ad.bundle.formats import EVALUATE, INFERENCE
from monai_dpmm_ad.bundle.provenance import METADATA
from monai_dpmm_ad.errors import CheckpointError
from monai_dpmm_ad.utils.files import read_json
from monai_dpmm_ad.utils.quiet import quiet

__all__ = ["check_zoo_rules"]

SCHEMA = "meta_schema_20240725.json"
_NOISY_LOGGERS = ("monai.bundle.scripts", "monai.bundle.workflows", "monai.apps.utils")
_NEEDED = (Path("LICENSE"), METADATA, INFERENCE, TRAIN, EVALUATE, README, MODEL)


def check_zoo_rules(bundle_root: str | os.PathLike[str]) -> None:
    """Check a bundle as the zoo's own script does: files, version, metadata, the network's input and output.

    The configs of the bundle are run: they must be this package's own, or trusted.

    Args:
        bundle_root: folder of a fitted bundle.

    Raises:
        CheckpointError: naming the rule that is broken.
    """
    root = Path(bundle_root)
    for name in _NEEDED:
        if not (root / name).is_file():
            raise CheckpointError(f"{root / name}: is missing, and MONAI's model zoo asks for it. Fit again.")
    content: dict[str, Any] = read_json(root / METADATA)
    version = content.get("version")
    if version not in (content.get("changelog") or {}):
        raise CheckpointError(f"{root / METADATA}: `changelog` must have an entry for version {version}. Add one.")
    with (
        tempfile.TemporaryDirectory() as folder,
        quiet(*_NOISY_LOGGERS),
    ):
        schema = Path(folder) / SCHEMA  # found in place, so nothing is downloaded
        with resources.as_file(resources.files(__package__).joinpath(SCHEMA)) as ours:
            shutil.copyfile(ours, schema)
        try:
            verify_metadata(meta_file=str(root / METADATA), filepath=str(schema))
        except ValueError as error:
            raise CheckpointError(f"{root / METADATA}: does not follow MONAI's schema: {_first_line(error)}") from error
        try:
            verify_net_in_out(
                net_id="network_def",
                device="cpu",
                meta_file=str(root / METADATA),
                config_file=str(root / INFERENCE),
                bundle_root=str(root),
            )
        except CheckpointError:
            raise
        except (ValueError, KeyError, RuntimeError) as error:
            raise CheckpointError(f"{root}: the network is not as its metadata say: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    return (str(cause).strip().splitlines() or [type(cause).__name__])[0]
