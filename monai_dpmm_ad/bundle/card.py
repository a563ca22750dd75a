# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""What a bundle says of itself: ``docs/README.md`` and ``configs/metadata.json``, in numbers without names or paths.

``docs/README.md`` is the template's text. What a fit or an evaluation knows stands between two marks, comments of
Markdown; what is not between marks is left as its author wrote it.
"""

from __future__ import annotations

import inspect
import os
import platform
import re
import sys
import warnings
from collections.abc import Mapping
from importlib import metadata, resources
from pathlib import Path
from typing import Any

import jinja2
import torch

from monai_dpmm_ad import __version__
from monai_dpmm_ad.bundle.promises import judge_network
from monai_dpmm_ad.bundle.provenance import METADATA, load_provenance
from monai_dpmm_ad.errors import CheckpointError
from monai_dpmm_ad.handlers import ScanMetrics
from monai_dpmm_ad.network import AnomalyNet
from monai_dpmm_ad.normative.regions import MAX_COUNT
from monai_dpmm_ad.transforms.score import DEFAULT_RATE
from monai_dpmm_ad.utils.distributed import is_first
from monai_dpmm_ad.utils.files import read_json, replace_file, write_json
from monai_dpmm_ad.utils.text import printable

__all__ = ["README", "describe_machine", "record_evaluation", "write_card"]

README = Path("docs") / "README.md"
#: What ``metadata.json`` names beside MONAI, PyTorch and numpy.
_PACKAGES = ("transformers", "pyro-ppl", "nibabel", "pytorch-ignite", "monai-dpmm-ad")
#: Figures of the README's table, in its order.
_FIGURES = {
    "image_auroc": "image AUROC",
    "image_aupr": "image average precision",
    "pixel_auroc_foreground": "pixel AUROC in the foreground",
    "pixel_aupr_foreground": "pixel average precision in the foreground",
    "aupro_foreground": "AUPRO up to 30 % false positives, in the foreground",
    "best_dice_foreground": "best Dice",
    "dice_fpr01_foreground": "Dice at a false-positive rate of 1 %",
    "froc": "FROC, mean sensitivity over false regions in a scan",
}


def write_card(
    bundle_root: str | os.PathLike[str],
    network: AnomalyNet,
    settings: Mapping[str, Any],
    fitted: Mapping[str, Any],
    machine: Mapping[str, Any],
    update: str | os.PathLike[str] | None = None,
) -> None:
    """Let README and metadata say what was fitted.

    Args:
        bundle_root: folder of the bundle; its provenance is written already, if there is one.
        network: fitted and calibrated.
        settings: of a run of the bundle.
        fitted: what the detector says of itself, for the metadata.
        machine: see :func:`describe_machine`.
        update: folder of the bundle that was updated.
    """
    root = Path(bundle_root)
    counts = _count_scans(root)
    embedder = _quote(Path(settings["embedder_name"]).name if _is_folder(settings) else settings["embedder_name"])
    facts = {
        **counts,
        "settings": settings,
        "embedder": embedder,
        "fitted": fitted,
        "kind": network.kind.describe(),
        "machine": machine,
        "packages": ", ".join(f"{name} {version}" for name, version in _versions("python", "torch", "monai").items()),
        **_describe_people(network, settings),
        **_describe_calibration(network, settings),
    }
    blocks = _render(facts, "model", "data", "calibration", "evaluation", "machine", "limits")
    _fill(root / README, blocks)
    content = read_json(root / METADATA)
    content |= _describe_version(counts, update)
    content |= _describe_data(network, settings, counts, embedder)
    write_json(root / METADATA, {**content, "fitted": {**counts, **fitted}})


def record_evaluation(bundle_root: str | os.PathLike[str], metrics: ScanMetrics) -> None:
    """Let README and metadata of a bundle say what an evaluation found; the first process does.

    Where the bundle cannot be written the figures stay with the results, and a warning says so.

    Args:
        bundle_root: folder of the bundle.
        metrics: after the run; without figures nothing is written.

    Example:
        >>> from monai_dpmm_ad.commands.example import make_example
        >>> folder = make_example()  # `scans`, and `bundle`, fitted on them
        >>> from monai_dpmm_ad import evaluate
        >>> _ = evaluate(folder / "bundle", [folder / "scans"], folder / "results", report=False)  # calls it
        >>> sorted(read_json(folder / "bundle" / METADATA)["eval_metrics"])[:2]
        ['aupro', 'aupro_foreground']
    """
    if not is_first() or not metrics.figures:
        return
    root, figures = Path(bundle_root), metrics.figures
    rows = [(label, figures[name], figures.get(f"{name}_ci")) for name, label in _FIGURES.items() if name in figures]
    counts = metrics.metric.gathered.count_scans()
    try:
        content = read_json(root / METADATA)
        numbers = {name: round(value, 4) for name, value in figures.items() if isinstance(value, float)}
        write_json(root / METADATA, {**content, "eval_metrics": {**counts, **numbers}})
        _fill(root / README, _render({"figures": rows, **counts}, "evaluation"))
    except (OSError, ValueError) as error:
        warnings.warn(f"{root}: the bundle's README does not take the figures: {error}", stacklevel=2)


def describe_machine(device: torch.device | str, seconds: float | None = None) -> dict[str, Any]:
    """Describe this machine: ``device``, peak ``memory`` of this process, and ``seconds`` as words.

    Args:
        device: where the network is.
        seconds: of the fit.

    Example:
        >>> describe_machine("cpu", 600)["seconds"]
        '10 minutes'
    """
    device = torch.device(device)
    if device.type == "cuda":
        name, peak = torch.cuda.get_device_name(device), torch.cuda.max_memory_allocated(device)
    else:
        count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        name = f"{count} cores of {_name_processor()}"
        peak = _measure_memory()
    words = None if seconds is None else f"{seconds:.0f} seconds" if seconds < 120 else f"{seconds / 60:.0f} minutes"
    return {"device": name, "memory": f"{peak / 2**30:.1f} GiB", "seconds": words}


def _name_processor() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        found = None
    return printable(found[1].strip() if found else platform.processor() or platform.machine())


def _measure_memory() -> int:
    """Most bytes that this process has held; 0 where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _is_folder(settings: Mapping[str, Any]) -> bool:
    return os.path.isabs(settings["embedder_name"]) or os.path.isdir(settings["embedder_name"])


def _count_scans(root: Path) -> dict[str, Any]:
    """Scans by role, None where there is no provenance."""
    try:
        content = load_provenance(root)
    except CheckpointError:
        return {"num_fitted": None, "num_held_out": None, "num_updates": 0}
    scans, unnamed = content["scans"], content.get("unnamed", {})
    roles = [scan["role"] for scan in scans]
    counts: dict[str, Any] = {
        f"num_{role}": unnamed.get(f"num_{role}", 0) + roles.count(role) for role in ("fitted", "held_out")
    }
    return {**counts, "num_updates": max((scan["fit"] for scan in scans), default=0)}


def _describe_people(network: AnomalyNet, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What is known of people and scanners; site names are a user's, so they are quoted."""
    design = network.design
    return {
        "asymmetry": network.normative is not None and settings["asymmetry"] == "on",
        "follows": () if design is None else design.linear,
        "sites": [f"`{_quote(name)}`" for name in (() if design is None else design.sites)],
        "site": settings["site"] and f"`{_quote(settings['site'])}`",
    }


def _quote(name: str) -> str:
    """A name that can stand between the quotes of Markdown's code, and is none of the README's marks."""
    return printable(name).replace("`", "'").replace("<", "‹")


def _describe_calibration(network: AnomalyNet, settings: Mapping[str, Any]) -> dict[str, Any]:
    calibration = network.calibration
    limits = [judge_network(network, settings), network.note()] if calibration.fitted else []
    return {
        "num_calibrating": int(calibration.num_scans) if calibration.fitted else 0,
        "held_out": bool(calibration.held_out),
        "judged_by_place": network.regions.fitted,
        "most_counted": network.regions.cap if network.regions.fitted else 0,
        "max_counted": MAX_COUNT,
        "rate": settings["false_positive_rate"] or DEFAULT_RATE,
        "limits": [limit[0].upper() + limit[1:] + "." for limit in limits if limit],
        "figures": [],
    }


def _describe_version(counts: Mapping[str, Any], update: str | os.PathLike[str] | None) -> dict[str, Any]:
    """Version and changelog: an update is the next version of what it goes on from."""
    words = f"{counts['num_fitted']} scans fitted, {counts['num_held_out']} held out"
    if update is None:
        return {"version": "0.1.0", "changelog": {"0.1.0": words}}
    old = read_json(Path(update) / METADATA)
    major, minor = [*re.findall(r"\d+", str(old.get("version"))), "0", "0"][:2]
    version = f"{major}.{int(minor) + 1}.0"
    return {"version": version, "changelog": {version: f"update: {words}", **old.get("changelog", {})}}


def _describe_data(
    network: AnomalyNet, settings: Mapping[str, Any], counts: Mapping[str, Any], embedder: str
) -> dict[str, Any]:
    detector = inspect.getdoc(type(network.detector)) or ""
    words = f"{counts['num_fitted']} healthy scans fitted, {counts['num_held_out']} held out"
    shape = [settings["image_size"]] * 2
    image = {"type": "image", "dtype": "float32", "spatial_shape": shape, "is_patch_data": False}
    given = {"format": "magnitude", "modality": "any", "num_channels": settings["channels"], "value_range": [0, 1]}
    made = {"format": "heatmap", "num_channels": 1, "value_range": [], "channel_def": {"0": "anomaly"}}
    channels = {str(number): "image" for number in range(settings["channels"])}
    versions = _versions("monai", "torch", "numpy")
    return {
        "monai_version": versions["monai"],
        "pytorch_version": versions["torch"],
        "numpy_version": versions["numpy"],
        "required_packages_version": _versions(*_PACKAGES),
        "name": "Anomaly maps",
        "description": f"Anomaly maps of patches that the frozen backbone {embedder} embeds. "
        f"{settings['detector_name']}: {' '.join(detector.split(chr(10) * 2)[0].split())}",
        "data_source": "; ".join([words, *network.kind.describe()]),
        "eval_metrics": {},
        "network_data_format": {
            "inputs": {"image": {**image, **given, "channel_def": channels}},
            "outputs": {"pred": {**image, **made}},
        },
    }


def _versions(*names: str) -> dict[str, str]:
    """Releases of packages, without what says how they were built."""
    own = {"python": platform.python_version(), "monai-dpmm-ad": __version__}
    return {name: (own.get(name) or metadata.version(name)).split("+")[0] for name in names}


def _render(facts: Mapping[str, Any], *names: str) -> dict[str, str]:
    text = resources.files(__package__).joinpath("card.md").read_text(encoding="utf-8")
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string(text)
    context = template.new_context(dict(facts))
    return {name: "".join(template.blocks[name](context)).strip() for name in names}


def _fill(path: Path, blocks: Mapping[str, str]) -> None:
    """Put texts between their marks, ``<!-- NAME -->`` and ``<!-- /NAME -->``."""
    text = path.read_text(encoding="utf-8")
    for name, content in blocks.items():
        marks = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        parts = marks.split(text, maxsplit=1)  # before, the first mark, the last one, after
        if len(parts) == 4:
            text = f"{parts[0]}{parts[1]}{content}\n{parts[2]}{parts[3]}"
    replace_file(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
