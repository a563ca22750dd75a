# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Mutate files of every kind that the package reads, and see each accepted or refused with a reason.

    python tests/soak/hostile.py --files 20000

A mutant may be read or refused by one of the package's own errors. Anything else is a finding: another exception, a
hang, a crash, memory beyond the bound, code that runs, a name that leads out of the output folder. Each mutant follows
from its kind and number alone, so that ``--kind nifti --only 17`` shows a finding again.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import signal
import struct
import sys
import tempfile
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from helpers.tiny_vit import write_tiny_vit

from monai_dpmm_ad.bundle import create_bundle, load_workflow, write_settings
from monai_dpmm_ad.bundle.provenance import load_provenance
from monai_dpmm_ad.data import resolve_datalist
from monai_dpmm_ad.data.dataset import ScanFailure, read_failures, write_failures
from monai_dpmm_ad.embedding import EmbeddingStore, StoreWriter
from monai_dpmm_ad.embedding.store.format import _checksum
from monai_dpmm_ad.errors import CheckpointError, EmbeddingStoreError, ScanError
from monai_dpmm_ad.transforms import LoadScan, output_path

__all__ = ["KINDS", "LIMIT", "Workshop", "try_mutant"]

#: bytes that a scan may take as float32 in this soak, and what the process may take beyond its start
LIMIT = 32 * 2**20
MEMORY = 768 * 2**20
SECONDS = 60
REFUSALS = (ScanError, CheckpointError, EmbeddingStoreError)
CANARY = "code-was-run"
NUMBERS = (0, 1, 2, 7, 127, 255, 2**15 - 1, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1)


class Workshop:
    """Good files of every kind in a folder, from which mutants are made.

    Args:
        folder: empty.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.canary = folder / CANARY
        self.out = folder / "mutant"
        self.good = _make_good(folder / "good")

    def clear(self) -> None:
        """Remove the last mutant."""
        shutil.rmtree(self.out, ignore_errors=True)
        self.out.mkdir()


def _make_good(folder: Path) -> dict[str, list[Path]]:
    folder.mkdir()
    generator = np.random.default_rng(0)
    volume = generator.integers(1, 900, (6, 7, 5)).astype(np.int16)
    for name, data in {
        "a.nii": volume,
        "b.nii.gz": volume.astype(np.float32),
        "c.nii": volume.astype(np.uint8),
    }.items():
        nib.save(nib.Nifti1Image(data, np.diag([1.0, 2, 3, 1])), folder / name)
    nib.save(nib.Nifti2Image(volume, np.eye(4)), folder / "d.nii.gz")
    pixels = generator.integers(0, 255, (24, 20), dtype=np.uint8)
    for name in ("a.png", "b.jpg", "c.bmp"):
        Image.fromarray(pixels).save(folder / name)
    Image.fromarray(np.stack([pixels] * 3, -1)).save(folder / "d.png")
    Image.fromarray(pixels.astype(np.uint16) * 200).save(folder / "e.png")
    _write_dicom(folder / "a.dcm", pixels)
    _write_dicom(folder / "b.dcm", pixels, "another")
    with StoreWriter(folder / "store", {"backbone": "none"}, rows_per_shard=20) as writer:
        for name in ("one", "two", "three"):
            rows = torch.randn(12, 1, 4, generator=torch.Generator().manual_seed(0))
            writer.write(name, rows, torch.full((12, 3), 0.5), torch.zeros(12, dtype=torch.long))
    (folder / "list.json").write_text(
        json.dumps(
            {"training": [{"image": "a.nii", "name": "x", "subject": 3}], "test": ["b.nii.gz", {"image": "c.nii"}]}
        )
    )
    _write_bundle(folder)
    return {
        "nifti": sorted([*folder.glob("*.nii"), *folder.glob("*.nii.gz")]),
        "picture": sorted([*folder.glob("*.png"), *folder.glob("*.jpg"), *folder.glob("*.bmp")]),
        "dicom": [folder / "a.dcm"],
        "another": [folder / "b.dcm"],
        "store": [folder / "store"],
        "datalist": [folder / "list.json"],
        "bundle": [folder / "bundle"],
    }


def _write_dicom(path: Path, pixels: np.ndarray, who: str = "soak") -> None:
    import pydicom
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = MRImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[who])
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = MRImageStorage, meta.MediaStorageSOPInstanceUID
    data.SeriesInstanceUID = generate_uid(entropy_srcs=[who, "series"])
    data.Modality, data.PhotometricInterpretation = "MR", "MONOCHROME2"
    data.Rows, data.Columns = pixels.shape
    data.SamplesPerPixel, data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 1, 16, 16, 15, 0
    data.PixelSpacing, data.ImageOrientationPatient = [1, 1], [1, 0, 0, 0, 1, 0]
    data.ImagePositionPatient, data.SliceThickness = [0, 0, 0], 1
    data.PixelData = (pixels.astype(np.uint16) * 3).tobytes()
    pydicom.dcmwrite(path, data, enforce_file_format=True)


def _write_bundle(folder: Path) -> None:
    """A bundle whose model is a small dictionary of tensors: what is attacked is the reading, not the network."""
    write_tiny_vit(folder / "tiny")
    bundle = create_bundle(folder / "bundle")
    write_settings(bundle, {"embedder_name": str(folder / "tiny"), "image_size": 56})
    (bundle / "models").mkdir(exist_ok=True)
    torch.save(torch.nn.Linear(3, 2).state_dict(), bundle / "models" / "model.pt")
    scan = {"name": "a", "image": "a.nii", "sha256": "0" * 64, "role": "fitted", "fit": 0, "calibrates": False}
    (bundle / "provenance.json").write_text(json.dumps({"version": "0", "recipe": {}, "scans": [scan]}))


# Mutations ------------------------------------------------------------------------------------------------------------


def mutate_bytes(data: bytes, generator: random.Random, head: int) -> bytes:
    """Change bytes, most often in the first ``head``; cut, repeat or insert; write numbers that stand for extremes."""
    out = bytearray(data)
    for _ in range(generator.choice((1, 1, 2, 4, 16))):
        if not out:
            break
        end = min(len(out), head) if generator.random() < 0.8 else len(out)
        place = generator.randrange(end)
        how = generator.randrange(7)
        if how == 0:
            out[place] ^= 1 << generator.randrange(8)
        elif how == 1:
            out[place] = generator.randrange(256)
        elif how in (2, 3):
            number, form = generator.choice(NUMBERS), generator.choice(("<H", ">H", "<I", ">I", "<q", "<f", "<d"))
            packed = struct.pack(form, number & (0xFFFF if form[1] == "H" else 0xFFFFFFFF))
            out[place : place + len(packed)] = packed
        elif how == 4:
            out = out[: generator.randrange(len(out))]
        elif how == 5:
            out[place:place] = generator.randbytes(generator.choice((1, 2, 8, 300)))
        else:
            out[place : place + 4] = out[generator.randrange(len(out)) :][:4]
    return bytes(out)


def mutate_file(source: Path, target: Path, generator: random.Random, head: int) -> None:
    """Mutate a file; half of the compressed ones inside their compression."""
    data = source.read_bytes()
    if source.name.endswith(".gz") and generator.random() < 0.8:
        import gzip

        data = gzip.compress(mutate_bytes(gzip.decompress(data), generator, head), 1)
        if generator.random() < 0.05:  # a bomb: a megabyte that unpacks to hundreds
            data += gzip.compress(bytes(2**28), 1)
    else:
        data = mutate_bytes(data, generator, head)
    if source.suffix == ".png" and generator.random() < 0.7:
        data = _repair_png(data)
    target.write_bytes(data)


def _repair_png(data: bytes) -> bytes:
    """Give each chunk the checksum that its content has now, so that the mutation is not all that is looked at."""
    out, place = bytearray(data[:8]), 8
    while place + 12 <= len(data):
        (length,) = struct.unpack(">I", data[place : place + 4])
        if place + 12 + length > len(data):
            break
        body = data[place + 4 : place + 8 + length]
        out += data[place : place + 4] + body + struct.pack(">I", zlib.crc32(body))
        place += 12 + length
    return bytes(out) + data[place:]


def mutate_json(value: object, generator: random.Random, canary: Path) -> object:
    """Replace one value, or key, at a random depth by something hostile."""
    code = f"$__import__('pathlib').Path({str(canary)!r}).touch()"
    target = {"_target_": "os.mkdir", "path": str(canary)}
    hostile: list[object] = [
        None,
        True,
        -1,
        0,
        1e308,
        2**70,
        "",
        "../../../etc/passwd",
        "/etc/passwd",
        "a\0b",
        code,
        target,
    ]
    hostile += [
        "@network",
        "%/etc/passwd",
        [],
        {},
        [[[[]]]],
        "x" * 5000,
        "\ud800",
        "~root/x",
        float("nan"),
        [code],
        "CON",
    ]
    if isinstance(value, dict) and value and generator.random() < 0.85:
        key = generator.choice(list(value))
        if generator.random() < 0.1:
            return {k: v for k, v in value.items() if k != key}
        if generator.random() < 0.1:
            return {**value, str(generator.choice(hostile)): generator.choice(hostile)}
        return {**value, key: mutate_json(value[key], generator, canary)}
    if isinstance(value, list) and value and generator.random() < 0.85:
        place = generator.randrange(len(value))
        return [*value[:place], mutate_json(value[place], generator, canary), *value[place + 1 :]]
    return generator.choice(hostile)


def _write_json(path: Path, content: object, generator: random.Random) -> None:
    text = json.dumps(content)
    if generator.random() < 0.05:
        text = "[" * 100_000
    data = text.encode("utf-8", "surrogatepass")
    path.write_bytes(mutate_bytes(data, generator, len(data)) if generator.random() < 0.2 else data)


# Trials ---------------------------------------------------------------------------------------------------------------


def try_image(shop: Workshop, kind: str, generator: random.Random) -> None:
    source = generator.choice(shop.good[kind])
    target = shop.out / source.name
    mutate_file(source, target, generator, head={"nifti": 352, "picture": 64, "dicom": 900}[kind])
    try:
        image = LoadScan(max_bytes=LIMIT)(target)
    except ScanError as error:
        if "does not fit into memory" in error.reason:
            raise MemoryError("the memory was asked for before the header was refused") from error
        raise
    assert image.numel() * 4 <= LIMIT


def try_store(shop: Workshop, generator: random.Random) -> None:
    folder = shop.out / "store"
    shutil.copytree(shop.good["store"][0], folder)
    if generator.random() < 0.4:
        shard = generator.choice(sorted(folder.glob("shard-*")))
        size = shard.stat().st_size
        data = mutate_bytes(shard.read_bytes(), generator, 300)
        shard.write_bytes(data[:size].ljust(size, b"\0"))  # of the right size, so that its content is looked at
    else:
        path = folder / "manifest.json"
        content = mutate_json(json.loads(path.read_text()), generator, shop.canary)
        if isinstance(content, dict) and generator.random() < 0.8:
            body = {key: value for key, value in content.items() if key != "checksum"}
            content["checksum"] = _checksum(body)
        _write_json(path, content, generator)
    store = EmbeddingStore(folder)
    store.verify()
    store.sample(5)
    for batch in store.batches(8):
        assert torch.isfinite(batch["patches"]).all()


def try_series(shop: Workshop, generator: random.Random) -> None:
    """A damaged DICOM beside a whole one: the search ends, and the whole one is found and read."""
    good = shop.good["dicom"][0]
    for name in ("whole", "damaged"):
        (shop.out / name).mkdir()
    shutil.copy(shop.good["another"][0], shop.out / "whole" / "a.dcm")
    target = shop.out / "damaged" / generator.choice(("a.dcm", "a", "=\x1b[2J\r\n"))
    if generator.random() < 0.05:
        target.write_bytes(nest(good.read_bytes(), generator.choice((10, 300, 5000))))
    else:
        mutate_file(good, target, generator, head=900)
    refusal = None
    found = set()
    for item in resolve_datalist([shop.out]):
        try:
            LoadScan(max_bytes=LIMIT)(item["image"])
            found.add(Path(item["image"]).name)
        except ScanError as error:
            refusal = error
    assert found & {"whole", "a.dcm"}, "the whole one was not read"
    if refusal is not None:
        raise refusal


def nest(data: bytes, depth: int) -> bytes:
    """Put sequences in sequences before the rest of a DICOM file's data set."""
    begin = b"\x08\x00\x15\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
    end = b"\xfe\xff\x0d\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0"
    place = data.index(b"\x08\x00\x16\x00UI")  # the SOP class, the first of the data set
    return data[:place] + begin * depth + end * depth + data[place:]


def try_name(shop: Workshop, generator: random.Random) -> None:
    """A good scan under a name that no one would give: it is mapped under another, and shown safely."""
    letters = b"\x01\x07\x08\t\n\r\x1b[2J =+-@.,;\"'<>&$`%\\|*?~:\x7f\x80\xc3\xa4\xe2\x80\xae\xff\xfea0"
    for _ in range(generator.choice((1, 2, 5))):
        length = generator.choice((1, 3, 20, 200))
        name = bytes(generator.choice(letters) for _ in range(length)).strip(b".") or b"x"
        suffix = generator.choice((b".nii", b".NII", b".nii"))
        shutil.copy(shop.good["nifti"][0], os.path.join(os.fsencode(shop.out), name + suffix))
    items = resolve_datalist([shop.out])
    results = shop.out / "results"
    results.mkdir()
    for item in items:
        assert output_path(results, item["name"], "mask", item["image"]).parent == results
        assert LoadScan(max_bytes=LIMIT)(item["image"]).meta["name"]
    assert len({item["name"].lower() for item in items}) == len(items)
    write_failures(results, [ScanFailure(item["name"], item["image"], item["image"]) for item in items])
    for failure in read_failures(results):
        for cell in (failure.name, failure.path, failure.reason):
            assert cell.isprintable(), cell
            assert not cell.startswith(("=", "+", "-", "@")), cell


def try_datalist(shop: Workshop, generator: random.Random) -> None:
    path = shop.out / "list.json"
    content: object = json.loads(shop.good["datalist"][0].read_text())
    for _ in range(generator.choice((1, 1, 2, 3))):
        content = mutate_json(content, generator, shop.canary)
    _write_json(path, content, generator)
    for item in resolve_datalist([path], section=generator.choice((None, "test", "training"))):
        name = item["name"]
        for postfix in ("anomaly", "mask"):
            inside = output_path(shop.out / "results", name, postfix, "a.nii")
            assert inside.parent == shop.out / "results", name
            assert inside.resolve().parent == (shop.out / "results").resolve(), name
        assert len(os.fsencode(name)) < 200, name


def try_bundle(shop: Workshop, generator: random.Random) -> None:
    bundle = shop.out / "bundle"
    shutil.copytree(shop.good["bundle"][0], bundle)
    files = ["inference.json"] * 4 + ["metadata.json", "logging.conf", "model.pt", "model.pt", "provenance.json"]
    name = generator.choice(files)
    if name == "model.pt":
        mutate_file(bundle / "models" / name, bundle / "models" / name, generator, 400)
    elif name == "provenance.json":
        _write_json(
            bundle / name, mutate_json(json.loads((bundle / name).read_text()), generator, shop.canary), generator
        )
    elif name.endswith(".json"):
        path = bundle / "configs" / name
        content = json.loads(path.read_text())
        if name == "inference.json" and generator.random() < 0.7:  # what is read of it
            content["settings"] = mutate_json(content["settings"], generator, shop.canary)
        else:
            content = mutate_json(content, generator, shop.canary)
        _write_json(path, content, generator)
    else:
        path = bundle / "configs" / name
        text = path.read_text()
        code = f"args=(__import__('pathlib').Path({str(shop.canary)!r}).touch(),)"
        path.write_text(
            text + f"\n[handler_x]\nclass=StreamHandler\n{code}\n" if generator.random() < 0.5 else text[:-40]
        )
    load_provenance(bundle)
    workflow = load_workflow(bundle, ["inference"], "inference", dataset_dir="/nowhere", output_dir=str(shop.out / "o"))
    if generator.random() < 0.1:
        workflow.initialize()


TRIALS: dict[str, Callable[[Workshop, random.Random], None]] = {
    "nifti": lambda shop, generator: try_image(shop, "nifti", generator),
    "picture": lambda shop, generator: try_image(shop, "picture", generator),
    "dicom": lambda shop, generator: try_image(shop, "dicom", generator),
    "series": try_series,
    "name": try_name,
    "store": try_store,
    "datalist": try_datalist,
    "bundle": try_bundle,
}
KINDS = tuple(TRIALS)


def try_mutant(shop: Workshop, kind: str, number: int) -> str:
    """Make one mutant and read it.

    Returns:
        "read", "refused", or a finding.
    """
    shop.clear()
    generator = random.Random(f"{kind}-{number}")
    try:
        TRIALS[kind](shop, generator)
    except REFUSALS as error:
        result = "refused" if str(error).strip() else "a finding: refused without a reason"
    except Exception as error:  # everything else is what this script is for
        lines = str(error).splitlines() or [""]
        result = f"a finding: {type(error).__name__}: {lines[0][:200]}"
    else:
        result = "read"
    if shop.canary.exists():
        shop.canary.rmdir() if shop.canary.is_dir() else shop.canary.unlink()
        return "a finding: code was run"
    return result


def _work(shop: Workshop, kind: str, numbers: range, report: int) -> None:
    """Try mutants in a fork, in bounded memory; tell the parent of each."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    for number in numbers:
        os.write(report, f"{number} start\n".encode())
        os.write(report, f"{number} {try_mutant(shop, kind, number)}\n".encode())


def soak(shop: Workshop, kind: str, count: int) -> tuple[Counter[str], list[str]]:
    """Try mutants 0 … count − 1 of a kind; a fork that dies or hangs is a finding and the next goes on."""
    results: Counter[str] = Counter()
    findings: list[str] = []
    number = 0
    while number < count:
        receive, send = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(receive)
            quiet = os.open(os.devnull, os.O_WRONLY)
            os.dup2(quiet, 1)
            os.dup2(quiet, 2)
            _work(shop, kind, range(number, count), send)
            os._exit(0)
        os.close(send)
        number, why = _follow(receive, child, number, results, findings, kind)
        os.waitpid(child, 0)
        os.close(receive)
        if number < count:
            findings.append(f"{kind} {number}: {why}")
            results["finding"] += 1
            number += 1
    return results, findings


def _follow(
    receive: int, child: int, number: int, results: Counter[str], findings: list[str], kind: str
) -> tuple[int, str]:
    import select

    pending = b""
    while True:
        ready, _, _ = select.select([receive], [], [], SECONDS)
        if not ready:
            os.kill(child, signal.SIGKILL)
            return number, f"hung for more than {SECONDS} s"
        data = os.read(receive, 65536)
        if not data:
            return number, "the process died"
        *lines, pending = (pending + data).split(b"\n")
        for line in lines:
            text = line.decode()
            place, _, result = text.partition(" ")
            if result == "start":
                number = int(place)
                continue
            number = int(place) + 1
            if result in ("read", "refused"):
                results[result] += 1
            else:
                results["finding"] += 1
                findings.append(f"{kind} {place}: {result}")


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--files", type=int, default=20_000, help="mutants of all kinds together")
    parser.add_argument("--kind", choices=KINDS)
    parser.add_argument("--only", type=int, help="number of one mutant, whose traceback is shown")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="hostile-") as name:
        shop = Workshop(Path(name))
        if options.only is not None:
            shop.clear()
            TRIALS[options.kind](shop, random.Random(f"{options.kind}-{options.only}"))
            return
        kinds = [options.kind] if options.kind else KINDS
        # Bundles take longest to read; images are what comes from outside.
        weights = {"nifti": 6, "picture": 6, "dicom": 4, "series": 4, "name": 2, "store": 3, "datalist": 4, "bundle": 2}
        total = sum(weights[kind] for kind in kinds)
        found = 0
        for kind in kinds:
            results, findings = soak(shop, kind, -(-options.files * weights[kind] // total))
            found += len(findings)
            print(json.dumps({"kind": kind, "files": sum(results.values()), **results}), flush=True)
            for finding in findings[:20]:
                print(f"  {finding}", flush=True)
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        print(json.dumps({"findings": found, "peak_mib": round(peak)}))
        sys.exit(1 if found else 0)


if __name__ == "__main__":
    _main()
