# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""What the command line does, as functions: each runs a workflow of a bundle with overrides."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from monai_dpmm_ad.bundle import create_bundle, describe_fit, is_fitted, load_workflow, pick_settings, read_settings
from monai_dpmm_ad.bundle.parts import fit_settings
from monai_dpmm_ad.bundle.promises import judge_network, judge_people, judge_place, judge_settings
from monai_dpmm_ad.bundle.request import covers_scans, is_same_request, record_request
from monai_dpmm_ad.bundle.sequences import refuse_sequences
from monai_dpmm_ad.bundle.settings import SETTINGS
from monai_dpmm_ad.bundle.update import read_update_settings
from monai_dpmm_ad.commands.bids import write_bids
from monai_dpmm_ad.commands.checks import (
    PathLike,
    absolute_paths,
    check_device,
    check_run,
    check_truth,
    check_writable,
    hold_bundle,
    hold_output,
    make_absolute,
)
from monai_dpmm_ad.commands.outcome import Outcome
from monai_dpmm_ad.data import Split
from monai_dpmm_ad.data.bids import has_derivatives
from monai_dpmm_ad.data.dataset import read_failures
from monai_dpmm_ad.data.fitted_sequences import find_sequences
from monai_dpmm_ad.handlers.metrics import METRICS
from monai_dpmm_ad.utils.distributed import gather_lists, is_first, joined_processes, launched, wait_for_all
from monai_dpmm_ad.utils.extras import import_extra
from monai_dpmm_ad.utils.files import write_json

__all__ = ["Outcome", "demo", "evaluate", "fit", "infer"]

FITTED_ALREADY = "the bundle was fitted by this very command before; nothing was done"
#: Settings that say which files are scans.
CHOICE = ("suffix", "pattern", "participant_label", "session")
#: What is written into a folder of results beside the scans' own files.
TABLES = ("scores.csv", "regions.csv", "regions.json", "anatomy.csv", "failures.csv", "left_out.csv", "drift.json")
REPORT = ("report.html", "overview.png")
ONLY_NAMES = "the atlas names flagged regions only: thresholds for its labels need a bundle fitted with --regions"
NO_REPORT = "no report.html was written, since matplotlib is missing; pip install 'monai-dpmm-ad[report]' brings it"


def fit(
    images: PathLike | Sequence[PathLike],
    out: PathLike,
    held_out: PathLike | Sequence[PathLike] | None = None,
    update: PathLike | None = None,
    **overrides: Any,
) -> Outcome:
    """Fit normal scans into a complete bundle.

    Args:
        images: where the normal scans are: see :func:`~monai_dpmm_ad.data.resolve_datalist`. Scans of several sequences
            give a bundle of several: one detector for each, one map.
        out: folder of the bundle; an interrupted fit continues there, one that is done is not done again.
        held_out: healthy scans to validate and calibrate on; None splits off subjects.
        update: folder of a fitted bundle to go on from: ``images`` are added to what it knows, and ``out`` is the new
            bundle. The old one is not changed, its scans are not needed.
        overrides: settings by name, and values of other ids in ``configs/train.json``, such as ``mlflow``, the address
            of a server that logs the fit; of an update those that describe the data and the model are the old bundle's.

    Returns:
        The scans that could not be used, what was fitted, and what its calibration promises.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from monai_dpmm_ad import fit, write_cohort
        >>> folder = Path(tempfile.mkdtemp())
        >>> sizes = {"num_train": 3, "num_valid": 2, "num_test_healthy": 1, "num_test_abnormal": 1}
        >>> datalist = write_cohort(folder / "scans", spacing=8, size="small", **sizes)
        >>> few = {"image_size": 56, "num_components": 8, "max_epochs": 1, "normative": "off"}
        >>> outcome = fit([datalist], folder / "bundle", **few)
        >>> outcome.failures, outcome.metrics["num_fitted"], outcome.metrics["num_held_out"]
        ([], 3, 2)
    """
    check_device(overrides)
    make_absolute(overrides, "regions", "covariates")
    if overrides.get("mlflow") is not None:
        import_extra("mlflow", "mlflow")
    if update is not None:
        refuse_sequences(update, "an update")
    if overrides.get("site") is not None:
        if update is None:
            raise ValueError("`site` must come with `update`, the fitted bundle that it is learnt for, got none.")
        if held_out:
            raise ValueError("`held_out` must be left out with `site`, whose scans judge one another. Leave it out.")
        from monai_dpmm_ad.commands.site import learn_site

        return learn_site(update, images, out, **overrides)
    bundle = Path(out)
    if update is not None:
        overrides = {**read_update_settings(update, overrides), "update": str(Path(update).absolute())}
    fit_settings({name: value for name, value in overrides.items() if name in SETTINGS})  # refuses before it writes
    overrides["dataset_dir"] = absolute_paths(images)
    overrides["validation_dir"] = absolute_paths(held_out) if held_out else None
    choice = {name: overrides[name] for name in CHOICE if overrides.get(name) is not None}
    sequences = find_sequences(overrides["dataset_dir"], overrides.get("sequences"), **choice)
    if sequences is not None and (update is not None or launched()):
        raise ValueError(
            f"`sequences` must be one for an update or several processes, got {', '.join(sequences)}. Fit them anew "
            "in one process."
        )
    if sequences is not None and overrides.get("max_components"):
        raise ValueError(f"`max_components` must be left out with several sequences, got {', '.join(sequences)}.")
    configs = ["train", "multi_gpu_train"] if launched() else ["train"]
    if sequences is not None:
        overrides["sequences"] = list(sequences)
        configs.append("train_sequences")
    with joined_processes():
        if is_fitted(bundle) and is_same_request(bundle, overrides):
            split = load_workflow(bundle, configs, "train", **overrides).parser.get_parsed_content("split")
            if covers_scans(bundle, [*split.train, *split.held_out]):
                metrics, found = describe_fit(bundle), _summarise_split(split)
                return Outcome(failures=read_failures(bundle), metrics=metrics, note=FITTED_ALREADY, found=found)
        with hold_bundle(bundle):
            if is_first():
                check_writable(create_bundle(bundle))
                record_request(bundle, overrides)
            wait_for_all()
            with load_workflow(bundle, configs, "train", **overrides) as workflow:
                workflow.run()
    split, network = workflow.split, workflow.network
    notes = [judge_network(network, read_settings(bundle)), network.note(), split.note]
    if update is not None or (overrides.get("normative") != "off" and overrides.get("frame") != "none"):
        notes.append(judge_place(network, updated=update is not None))
    return Outcome(
        failures=[*split.found.list_failures(), *workflow.failures],
        metrics=describe_fit(bundle),
        note="; ".join(filter(None, notes)) or None,
        found=_summarise_split(split),
    )


def _summarise_split(split: Split) -> str | None:
    summary = split.found.summary()
    return f"{summary}; {len(split.train)} are fitted" if summary and split.is_held_out else summary


def infer(
    bundle: PathLike,
    images: PathLike | Sequence[PathLike],
    out: PathLike,
    report: bool = True,
    trust_bundle: bool = False,
    overwrite: bool = False,
    bids: bool = False,
    **overrides: Any,
) -> Outcome:
    """Draw the anomaly map and mask of every scan, with tables and a report.

    Args:
        bundle: folder of a fitted bundle.
        images: where the scans are.
        out: folder of the outputs.
        report: whether to write ``report.html``, where the `report` extra is installed.
        trust_bundle: run the bundle's own configs, which are code, see `load_workflow`.
        overwrite: replace files in ``out`` that this package did not write, and other scans' outputs of the same name.
        bids: write the maps of scans with BIDS names as BIDS derivatives as well, in ``out / "bids"``.
        overrides: settings by name, and values of other ids in ``configs/inference.json``.

    Example:
        >>> from monai_dpmm_ad.commands.example import make_example
        >>> folder = make_example()  # `scans`, and `bundle`, fitted on them
        >>> outcome = infer(folder / "bundle", [folder / "scans" / "imagesTs"], folder / "maps", report=False)
        >>> [scan.name for scan in outcome.scans], outcome.failures
        (['test_abnormal_000', 'test_healthy_000'], [])
        >>> (folder / "maps" / "test_abnormal_000_anomaly.nii.gz").is_file()
        True
    """
    overrides["trust_bundle"] = trust_bundle
    return _run_scans(bundle, ["inference"], images, out, report, overwrite, bids, overrides)


def evaluate(
    bundle: PathLike,
    data: PathLike | Sequence[PathLike],
    out: PathLike,
    report: bool = True,
    trust_bundle: bool = False,
    overwrite: bool = False,
    bids: bool = False,
    **overrides: Any,
) -> Outcome:
    """Do what `infer` does and write ``metrics.json`` and ``metrics.csv`` beside it.

    Args:
        bundle: folder of a fitted bundle.
        data: scans with their masks (``label``) or classes.
        out: folder of the outputs.
        report: as for `infer`.
        trust_bundle: as for `infer`.
        overwrite: as for `infer`.
        bids: as for `infer`.
        overrides: settings by name, and values of other ids in the configs.

    Example:
        >>> from monai_dpmm_ad.commands.example import make_example
        >>> folder = make_example()  # `scans`, and `bundle`, fitted on them
        >>> metrics = evaluate(folder / "bundle", [folder / "scans"], folder / "results", report=False).metrics
        >>> 0 <= metrics["pixel_auroc"] <= 1, (folder / "results" / "metrics.json").is_file()
        (True, True)
    """
    overrides["trust_bundle"] = trust_bundle
    return _run_scans(bundle, ["inference", "evaluate"], data, out, report, overwrite, bids, overrides)


def demo(out: PathLike, seed: int = 0, **overrides: Any) -> Outcome:
    """Make a cohort of phantoms with lesions, fit the healthy ones, evaluate the others, write the report.

    Args:
        out: folder for ``cohort/``, ``bundle/`` and ``results/``.
        seed: of the cohort and the fit.
        overrides: ``device``.

    Example:
        >>> demo("demo").report  # doctest: +SKIP
    """
    from monai_dpmm_ad.data.phantoms import write_cohort

    check_device(overrides)
    out = Path(out)
    # Twenty held-out healthy subjects: the smallest p-value is 1 / 21.
    sizes = {"num_train": 12, "num_valid": 20, "num_test_healthy": 4, "num_test_abnormal": 6}
    with hold_output(out / "cohort"):
        datalist = write_cohort(out / "cohort", seed=seed, style="demo", **sizes)  # type: ignore[arg-type]
    fit([datalist], out / "bundle", seed=seed, **overrides)
    return evaluate(out / "bundle", [datalist], out / "results", **overrides)


def _run_scans(
    bundle: PathLike,
    configs: list[str],
    images: PathLike | Sequence[PathLike],
    out: PathLike,
    report: bool,
    overwrite: bool,
    bids: bool,
    overrides: Any,
) -> Outcome:
    check_run(overrides)
    make_absolute(overrides, "regions", "covariates")
    out = Path(out).absolute()
    names = [*TABLES, *(METRICS if "evaluate" in configs else ()), *(REPORT if report else ())]
    with joined_processes(), hold_output(out, overwrite, names) as folder:
        folder.summaries = (*TABLES, *METRICS, *REPORT)
        outcome = _write_results(bundle, configs, images, out, report, bids, overrides)
        wrote, changed = (any(gather_lists([what])) for what in (folder.wrote_scans, folder.changed))
        stale = [*(REPORT if wrote and outcome.report is None else ())]
        stale += METRICS if changed and not outcome.metrics else ()
        for name in stale if is_first() else ():  # they tell of other results
            folder.discard(out / name)
        return outcome


def _write_results(
    bundle: PathLike,
    configs: list[str],
    images: PathLike | Sequence[PathLike],
    out: Path,
    report: bool,
    bids: bool,
    overrides: Any,
) -> Outcome:
    files = [*configs, "multi_gpu_evaluate"] if launched() else configs
    places: dict[str, Any] = {"dataset_dir": absolute_paths(images), "output_dir": str(out)}
    with load_workflow(bundle, files, "inference", judge_settings=False, **places, **overrides) as workflow:
        truth = check_truth(workflow.datalist, bundle) if "evaluate" in configs else None
        workflow.run()
    table, metrics, drift, rows = workflow.table, workflow.metrics, workflow.drift.result, workflow.table.rows
    outcome = Outcome([row for row in rows if row.name not in table.earlier], workflow.failures, drift=drift)
    outcome.regions = {row.name: table.regions[row.name] for row in outcome.scans if row.name in table.regions}
    outcome.found = workflow.found.summary()
    items = [*workflow.datalist, *({**item, "name": name} for name, item in table.earlier.items())]
    if is_first() and (bids or has_derivatives(out / "bids")):
        write_bids(out, rows, workflow.settings, items)
    people = judge_people(row.covariates for row in outcome.scans)
    changed = judge_settings(bundle, workflow.settings)
    notes = [changed, judge_network(workflow.network, workflow.settings), truth, people, table.note]
    if overrides.get("regions") and not workflow.settings["num_regions"]:
        notes.append(ONLY_NAMES)
    outcome.note = "; ".join(filter(None, notes)) or None
    if metrics is not None:
        outcome.metrics = metrics.figures
        if is_first():
            write_json(out / "metrics.json", metrics.figures)
    if report and rows and not find_spec("matplotlib"):
        outcome.note = "; ".join(filter(None, [outcome.note, NO_REPORT]))
    elif report and rows and is_first():
        from monai_dpmm_ad.reporting.cohort import report_scans

        outcome.report = report_scans(
            out,
            rows,
            items,
            workflow.network,
            pick_settings(workflow.settings, "outputs"),
            metrics,
            drift,
            regions=table.regions,
            bundle=bundle,
            note=outcome.note,
            failures=outcome.failures,
        )
    return outcome
