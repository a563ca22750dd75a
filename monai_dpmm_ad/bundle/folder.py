# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The bundle on disk: copy the template, write a fitted model into it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser

from monai_dpmm_ad.bundle.card import describe_machine, write_card
from monai_dpmm_ad.bundle.formats import EVALUATE, INFERENCE, place_settings, read_settings
from monai_dpmm_ad.bundle.integrity import check_digest, describe_digest
from monai_dpmm_ad.bundle.provenance import METADATA
from monai_dpmm_ad.bundle.settings import complete_settings, pick_settings
from monai_dpmm_ad.errors import CheckpointError
from monai_dpmm_ad.network import AnomalyNet
from monai_dpmm_ad.utils.files import LOCK, PARTIAL, replace_file, save_state, write_json
from monai_dpmm_ad.utils.integrity import check_archive
from monai_dpmm_ad.utils.leftovers import remove_leftovers

__all__ = [
    "MODEL",
    "check_unfinished",
    "create_bundle",
    "is_fitted",
    "read_state",
    "save_model",
    "template",
    "write_recipe",
    "write_settings",
]

MODEL = Path("models") / "model.pt"
TRAIN = Path("configs") / "train.json"
#: Ids that ``train.json`` and ``inference.json`` have alike, and MONAI's own: what lies over them leaves them.
_OF_EVERY_CONFIG = ("imports", "format_version", "bundle_root", "dataset_dir", "device", "settings", "_meta_")


def create_bundle(path: str | os.PathLike[str]) -> Path:
    """Copy the package's bundle template into a new folder, or take up an unfinished one.

    Args:
        path: folder of the bundle; made if needed.

    Raises:
        CheckpointError: when the folder holds a fitted bundle, or files that are no bundle.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     bundle = create_bundle(Path(folder) / "new")
        ...     is_fitted(bundle), sorted(path.name for path in bundle.iterdir())
        (False, ['LICENSE', 'configs', 'docs'])
    """
    path = Path(path)
    check_unfinished(path)
    _copy_template(path)
    return path


def check_unfinished(path: Path) -> None:
    """Check that a folder is new, empty or an unfinished bundle.

    Raises:
        CheckpointError: when it is not.
    """
    if is_fitted(path):
        raise CheckpointError(f"{path}: holds a fitted bundle already. Name another folder with --out.")
    if path.exists() and not path.is_dir():
        raise CheckpointError(f"{path}: is a file. Name a folder with --out.")
    if not (path / INFERENCE).is_file() and any(_is_foreign(item) for item in path.rglob("*")):
        raise CheckpointError(f"{path}: is not empty and no bundle. Name another folder with --out.")


def _is_foreign(item: Path) -> bool:
    return not item.is_dir() and not item.name.startswith(PARTIAL) and item.name != LOCK


def _copy_template(path: Path) -> None:
    """Copy file by file, each in one step, and first the one by which an unfinished bundle is known."""
    source = template()
    files = sorted(file.relative_to(source) for file in source.rglob("*") if file.is_file())
    files = [file for file in files if file != MODEL and "__pycache__" not in file.parts]
    remove_leftovers(path / MODEL.parent, path / "fit", *{path / file.parent for file in files})
    for file in sorted(files, key=lambda file: file != INFERENCE):
        if file == EVALUATE:
            write_json(path / file, _complete_evaluation(source))
        else:
            replace_file(path / file, partial(shutil.copyfile, source / file))


def _complete_evaluation(source: Path) -> dict[str, Any]:
    """What a bundle's evaluation is with its inference below it: so it lies over ``train.json`` as well.

    That is the zoo's way of evaluation. In the template it holds only what it adds, so that nothing is said twice.
    """
    parser = ConfigParser()
    parser.read_config([str(source / INFERENCE), str(source / EVALUATE)])
    content: dict[str, Any] = parser.get()
    return {name: value for name, value in content.items() if name not in _OF_EVERY_CONFIG}


def template() -> Path:
    """The bundle inside the installed package, or beside the package in a checkout."""
    package = Path(__file__).parents[1]
    installed = package / "bundles" / "dpmm_ad"
    return installed if installed.is_dir() else package.parent / "bundles" / "dpmm_ad"


def is_fitted(path: str | os.PathLike[str]) -> bool:
    """Whether a folder holds a bundle with a fitted model.

    Example:
        >>> is_fitted("no/such/folder")
        False
    """
    return (Path(path) / MODEL).is_file()


def save_model(
    bundle_root: str | os.PathLike[str],
    network: AnomalyNet,
    settings: Mapping[str, Any],
    device: torch.device | str = "cpu",
    seconds: float | None = None,
    update: str | os.PathLike[str] | None = None,
) -> None:
    """Complete a bundle: configs, metadata and README take over what was fitted, then the model is written.

    ``inference.json`` and ``train.json`` get the settings of the fit, ``metadata.json`` under ``fitted`` what the
    detector says of itself. Whether and how scans are judged by place, and intensities without it, is what the network
    has, since the data may decide it.

    Args:
        bundle_root: folder of the bundle.
        network: its state dict holds tensors only.
        settings: of the fit.
        device: where it was fitted.
        seconds: that the fit took, None if that is not known.
        update: folder of the bundle that was updated.

    Example:
        >>> from monai_dpmm_ad.commands.example import make_example
        >>> folder = make_example()  # `scans`, and `bundle`, fitted on them
        >>> from monai_dpmm_ad import AnomalyModel, create_bundle
        >>> model = AnomalyModel.load(folder / "bundle")
        >>> again = create_bundle(folder / "again")
        >>> save_model(again, model.network, model.settings)
        >>> is_fitted(again)
        True
    """
    root = Path(bundle_root)
    normative = network.normative
    sites = None if network.design is None else list(network.design.sites) or None
    asymmetry = "off" if normative is None or normative.asymmetry is None else "on"
    decided: dict[str, Any] = {"sites": sites, "asymmetry": asymmetry}
    if network.intensity_tail is not None:
        decided["intensity_tail"] = network.intensity_tail.tail
    decided |= {"normative": "off"} if normative is None else {"frame": normative.frame}
    model = {**pick_settings(settings, "model"), **decided}
    if (root / EVALUATE).is_file():  # a copy of the template that MONAI fits has what evaluation adds alone
        write_json(root / EVALUATE, _complete_evaluation(root))
    write_settings(root, model)
    write_recipe(root, {**model, **pick_settings(settings, "recipe")}, network.detector.num_components)
    state = {name: tensor.detach().cpu() for name, tensor in network.state_dict().items()}
    fitted = {**network.describe(), **describe_digest(state)}
    if settings.get("augment"):
        fitted["augment"] = settings["augment"]
    write_card(root, network, read_settings(root), fitted, describe_machine(device, seconds), update)
    save_state(root / MODEL, state)


def write_recipe(bundle_root: str | os.PathLike[str], settings: Mapping[str, Any], num_components: int) -> None:
    """Write the settings of a fit into a bundle's ``configs/train.json``.

    MONAI loads a bundle's weights into the network of this config, so that the components must be as many as were
    found; what is a path or a choice of files is not part of the recipe.

    Args:
        bundle_root: folder of the bundle.
        settings: of the model and of the fit.
        num_components: of the fitted mixture; 0 where there is none.
    """
    path = Path(bundle_root) / TRAIN
    settings = {**settings, **({"num_components": num_components} if num_components else {})}
    write_json(path, {**json.loads(path.read_text(encoding="utf-8")), "settings": settings})


def write_settings(bundle_root: str | os.PathLike[str], settings: Mapping[str, Any]) -> None:
    """Write settings into a bundle's ``inference.json`` and ``evaluate.json``; those not given stay as they are.

    Args:
        bundle_root: folder of a bundle of the present format.
        settings: setting → value.

    Raises:
        CheckpointError: see :func:`~monai_dpmm_ad.bundle.formats.read_settings`.
        ValueError: an unknown setting, or a value that it cannot have.
    """
    settings = complete_settings({**read_settings(bundle_root), **settings}, "run")
    for path in (Path(bundle_root) / EVALUATE, Path(bundle_root) / INFERENCE):
        if path.is_file():
            write_json(path, place_settings(json.loads(path.read_text(encoding="utf-8")), settings))


def read_state(path: str | os.PathLike[str]) -> dict[str, torch.Tensor]:
    """Read a checkpoint's tensors, and check that they are those that were written; nothing else is read from it.

    Args:
        path: the checkpoint.

    Returns:
        Name to tensor.

    Raises:
        CheckpointError: a damaged file, or none.

    Example:
        >>> read_state("no/such/model.pt")
        Traceback (most recent call last):
        monai_dpmm_ad.errors.CheckpointError: no/such/model.pt: is missing, since the bundle has not been fitted. ...
    """
    if not os.path.isfile(path):
        raise CheckpointError(f"{path}: is missing, since the bundle has not been fitted. Make one with fit.")
    try:
        check_archive(path)
        state: dict[str, torch.Tensor] = torch.load(path, map_location="cpu", weights_only=True)
        if Path(path).parts[-2:] == MODEL.parts:
            check_digest(Path(path).parents[1] / METADATA, state)
    except Exception as error:  # whatever unpickling a damaged file raises
        raise CheckpointError(f"{path}: is damaged or no model. Copy the bundle again, or fit again.") from error
    return state
