# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""A fitted bundle in memory: one scan in, its map and what follows from it out, as the command line gives them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import threading
import weakref
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ignite.engine import Events
from numpy.typing import ArrayLike

from monai_dpmm_ad.bundle import INFERENCE, MODEL, AnomalyWorkflow, load_workflow, names_of
from monai_dpmm_ad.bundle.promises import warn_of_settings
from monai_dpmm_ad.commands.checks import PathLike, check_device, make_absolute
from monai_dpmm_ad.commands.images import (
    WRITTEN,
    find_scan,
    is_path,
    naming_memory,
    place_image,
    rename_source,
    write_images,
)
from monai_dpmm_ad.commands.result import AnomalyResult
from monai_dpmm_ad.commands.run import Outcome, fit
from monai_dpmm_ad.data.covariates import add_covariates
from monai_dpmm_ad.data.sequences import list_entry, make_scan
from monai_dpmm_ad.engines import ScanEvaluator
from monai_dpmm_ad.errors import CheckpointError, ScanError, unknown_option
from monai_dpmm_ad.handlers.tables import join_scans
from monai_dpmm_ad.network import AnomalyNet
from monai_dpmm_ad.utils.files import PARTIAL
from monai_dpmm_ad.utils.progress import showing_progress

if TYPE_CHECKING:
    from monai_dpmm_ad.commands.compare import ComparedPair

__all__ = ["AnomalyModel", "AnomalyResult"]

#: Python's parser, which reads configs, and torch's defaults are the same for all threads, whatever model they use.
_TURN = threading.RLock()


class AnomalyModel:
    """A fitted bundle whose network stays in memory between scans.

    It gives the same bits as the command line, and prints nothing. One scan is processed at a time: calls from several
    threads wait for each other. Who unpickles or copies it loads its folder again.

    Args:
        workflow: an initialised inference workflow.
        root: folder of its bundle.

    Attributes:
        outcome: of the fit, where :meth:`fit` made the model: which scans failed, what was fitted.

    Example:
        >>> import numpy as np
        >>> from monai_dpmm_ad import AnomalyModel
        >>> rng = np.random.default_rng(0)
        >>> heads = [np.pad(rng.uniform(100, 110, (16, 16, 16)), 4) for _ in range(4)]
        >>> few = {"image_size": 56, "num_components": 4, "max_epochs": 1, "normative": "off"}
        >>> model = AnomalyModel.fit(heads[:3], affine=np.eye(4), **few)  # or paths, or nibabel images
        >>> again = AnomalyModel.load(model.save(f"{model.root.parent}/my_bundle"))
        >>> np.array_equal(again.predict(heads[3], np.eye(4)).map, model.predict(heads[3], np.eye(4)).map)
        True
    """

    def __init__(self, workflow: AnomalyWorkflow, root: Path) -> None:
        self.root = root
        self.settings: dict[str, Any] = workflow.settings
        self.network: AnomalyNet = workflow.network
        self.outcome: Outcome | None = None
        self._workflow = workflow
        self._loaded: dict[str, Any] = {}

    @classmethod
    def load(cls, bundle: PathLike, trust_bundle: bool = False, **overrides: Any) -> AnomalyModel:
        """Load a bundle.

        Args:
            bundle: folder of a fitted bundle.
            trust_bundle: run the bundle's own configs, which are code, see `load_workflow`.
            overrides: settings by name, and ``device``. Where one of the model is not the bundle's, thresholds and
                p-values do not hold, and a warning says so.

        Raises:
            CheckpointError: when the folder holds no fitted bundle, or one without calibration.
        """
        check_device(overrides)
        make_absolute(overrides, "regions", "covariates")
        root = Path(bundle).absolute()
        with _TURN:
            workflow = load_workflow(root, ["inference"], "inference", trust_bundle, judge_settings=False, **overrides)
            workflow.initialize()
            model = cls(workflow, root)
        model._loaded = {"trust_bundle": trust_bundle, **overrides}
        if not model.network.calibration.fitted:
            raise CheckpointError(f"{root}: has no calibration, so there are no thresholds. Make a bundle with fit.")
        warn_of_settings(root, model.settings)
        return model

    @classmethod
    def fit(
        cls,
        images: Any,
        held_out: Any = None,
        affine: ArrayLike | None = None,
        progress: bool = False,
        **overrides: Any,
    ) -> AnomalyModel:
        """Fit normal scans, see :func:`~monai_dpmm_ad.commands.fit`.

        Args:
            images: a path, or several paths and images as :meth:`predict` takes them.
            held_out: likewise, healthy scans to validate and calibrate on; None splits off subjects.
            affine: of all that are plain arrays.
            progress: whether to show a progress bar.
            overrides: settings by name, and ``device``.

        Returns:
            The model; :meth:`save` keeps it, else it is gone with the process.
        """
        folder = Path(tempfile.mkdtemp(prefix="dpmm-ad-"))
        try:
            paths = write_images(images, folder / "images", affine)
            others = None if held_out is None else write_images(held_out, folder / "held_out", affine)
            with showing_progress(progress):
                outcome = fit(paths, folder / "bundle", others, **overrides)
            again = {name: overrides[name] for name in ("device", *names_of("both")) if name in overrides}
            model = cls.load(folder / "bundle", **again)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        model.outcome = outcome
        weakref.finalize(model, shutil.rmtree, folder, ignore_errors=True)
        return model

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle how it was loaded: what a backbone hangs into its modules cannot be pickled."""
        if self.outcome is not None:
            raise TypeError("A model that `fit` made lives in this process alone. Use `save`, and load what it saved.")
        return partial(type(self).load, self.root, **self._loaded), ()

    @cached_property
    def digest(self) -> str:
        """Of model and config, 16 hexadecimal digits: a score belongs to the digest that gave it."""
        content = (self.root / MODEL).read_bytes() + (self.root / INFERENCE).read_bytes()
        return hashlib.sha256(content).hexdigest()[:16]

    def predict(
        self,
        image: Any,
        affine: ArrayLike | None = None,
        progress: bool = False,
        name: str | None = None,
        **overrides: Any,
    ) -> AnomalyResult:
        """Process one scan as ``monai-dpmm-ad infer`` does.

        Args:
            image: path of a file or of the folder of a DICOM series; a nibabel image; a ``MetaTensor``; or an array
                (X, Y, Z) or (X, Y) with its affine. For a bundle of several sequences ``{"T1": image, "FLAIR": …}``,
                where None is one that is missing.
            affine: (4, 4), voxels to mm in scanner space (RAS), of an array.
            progress: whether to show a progress bar.
            name: of the scan, and of its person in a table of covariates; None takes the file's.
            overrides: settings by name, for this scan only; those of the network must be the loaded model's.

        Raises:
            ScanError: when the scan cannot be processed.
            ValueError: a setting that is unknown, cannot have its value or is not the loaded model's, or a table for an
                image in memory without ``name``.
        """
        several = isinstance(image, Mapping)
        images = [one for one in image.values() if one is not None] if several else [image]
        table = overrides.get("covariates", self.settings["covariates"])
        if name is None and table is not None and not all(map(is_path, images)):
            raise ValueError(f"`name` must be given for an image in memory, got None. Name its row in {table}.")
        with tempfile.TemporaryDirectory(prefix="dpmm-ad-") as folder, naming_memory(folder) as call:
            if several:
                item = self._place_sequences(image, folder, affine)
            else:
                path = place_image(image, Path(folder) / f"{WRITTEN}.nii", affine)
                item = find_scan(path, self.network.kind.spatial_dims, self.settings["sequences"])
            if name is not None:
                item |= self._tell(name, table, overrides)
            with showing_progress(progress):
                named = several or name is not None
                result = self.predict_item(item, **overrides) if named else self._run(path, folder, overrides)
            return rename_source(result, call)

    def predict_item(self, item: Mapping[str, Any], **overrides: Any) -> AnomalyResult:
        """Process one scan of a datalist, whose image may be the files of a DICOM series; else as :meth:`predict`."""
        with tempfile.TemporaryDirectory(prefix="dpmm-ad-") as folder:
            listed = Path(folder) / "scan.json"
            kept = {key: item[key] for key in ("name", "regions", "covariates") if key in item}
            entry = {**list_entry(item), **kept}
            for key in {"image", "regions"} & set(entry):  # a list's own folder is what its paths are relative to
                entry[key] = _make_absolute(entry[key])
            listed.write_text(json.dumps({"test": [entry]}), encoding="utf-8")
            return self._run(str(listed), folder, {"section": "test", **overrides})

    def _place_sequences(self, images: Mapping[str, Any], folder: str, affine: ArrayLike | None) -> dict[str, Any]:
        """A scan of several sequences, each as :meth:`predict` takes an image."""
        known = self.settings["sequences"]
        if known is None:
            raise ValueError(f"`image` must be a single image for this bundle, got the sequences {', '.join(images)}.")
        for name in images:
            if name not in known:
                raise unknown_option("image", name, known)
        there = {name: image for name, image in images.items() if image is not None}
        if not there:
            raise ValueError(f"`image` must have one of {', '.join(known)} at least, got none. Give what there is.")
        paths = {name: place_image(image, Path(folder) / f"{name}.nii", affine) for name, image in there.items()}
        return make_scan({}, list(paths.values()), list(paths))

    def _tell(self, name: str, table: PathLike | None, overrides: dict[str, Any]) -> dict[str, Any]:
        """A scan's name and, in place of the table, what its row says."""
        if table is None:
            return {"name": name}
        overrides["covariates"] = None
        participants = overrides.get("participants", self.settings["participants"])
        (told,) = add_covariates([{"image": f"{name}.nii", "name": name}], table, participants, self.network.covariates)
        return {"name": name, "covariates": told["covariates"]}

    def compare(
        self,
        before: Any,
        after: Any,
        healthy: Sequence[PathLike] | None = None,
        name: str | None = None,
        **overrides: Any,
    ) -> ComparedPair:
        """Find what changed between two visits of one person.

        Args:
            before: the first visit, as :meth:`predict` takes it.
            after: the second.
            healthy: healthy scans for p-values, see :func:`~monai_dpmm_ad.commands.compare.compare`.
            name: of the person, as :meth:`predict` takes it; None takes the files'.
            overrides: settings by name, for these scans only.

        Raises:
            ScanError: when a scan cannot be processed, or the two do not show the same.
        """
        from monai_dpmm_ad.commands.compare import compare_results
        from monai_dpmm_ad.commands.healthy_pairs import find_healthy, observe_healthy

        calibration = None
        if healthy:
            tables = (overrides.get("covariates"), overrides.get("participants", False))
            found, missing = find_healthy(healthy, self.root, {"suffix": self.settings["sequences"]})
            if missing:
                raise ScanError(missing[0].path, missing[0].reason)
            known = add_covariates(found, *tables, self.network.covariates)
            calibration = observe_healthy(self, known)[0]
        first, second = (self.predict(image, name=name, keep_images=True, **overrides) for image in (before, after))
        allowed = float(overrides.get("false_regions", self.settings["false_regions"]))
        return compare_results(first.row.name, first, second, calibration, allowed)

    def _run(self, path: str, folder: str, overrides: dict[str, Any]) -> AnomalyResult:
        """Draw the map; everything but the network is made anew, so that no call sees another's state."""
        check_device(overrides)
        make_absolute(overrides, "regions", "covariates")
        found: list[dict[str, Any]] = []
        usual = {"output_dir": folder, "save_maps": False, "dicom": False}
        with _TURN, self._workflow.renewed(dataset_dir=path, **{**usual, **overrides}) as workflow:
            evaluator: ScanEvaluator = workflow.evaluator
            evaluator.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: found.extend(join_scans(engine)))
            workflow.run()
        if workflow.failures:
            raise ScanError(workflow.failures[0].path, workflow.failures[0].reason)
        table = workflow.table
        row = table.rows[0]
        regions, anatomy = table.regions.get(row.name, []), table.anatomy.get(row.name, [])
        return AnomalyResult(found[0], row, regions, workflow.drift.result, anatomy)

    def save(self, path: PathLike) -> Path:
        """Copy the bundle into a new folder; it is whole as soon as it is there.

        Args:
            path: of the folder; must not exist, or be empty.

        Raises:
            CheckpointError: when something is there, or it would lie inside the bundle itself.
        """
        target = Path(path).absolute()
        if target.resolve().is_relative_to(self.root.resolve()):
            raise CheckpointError(f"{target}: lies inside the bundle that is copied. Name another folder.")
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise CheckpointError(f"{target}: is there already. Name another folder.")
        target.parent.mkdir(parents=True, exist_ok=True)
        copy = target.with_name(f"{PARTIAL}{target.name}")
        shutil.rmtree(copy, ignore_errors=True)
        try:
            shutil.copytree(self.root, copy)
            os.replace(copy, target)
        except BaseException:
            shutil.rmtree(copy, ignore_errors=True)
            raise
        return target


def _make_absolute(value: Any) -> Any:
    """A path, or paths, of a datalist, wherever the list itself will lie."""
    if isinstance(value, list):
        return [_make_absolute(part) for part in value]
    return os.path.abspath(value) if isinstance(value, str) else value
