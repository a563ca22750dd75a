# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""A bundle that is handed on: nothing of whose scans, the same bits, and nothing else is taken in."""

from __future__ import annotations

import json
import os
import shutil
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import monai.bundle
import nibabel as nib
import numpy as np
import pytest
import torch
from monai.apps.utils import extractall

from monai_dpmm_ad.bundle import load_workflow, pack_bundle, push_bundle, read_settings, unpack_bundle, write_settings
from monai_dpmm_ad.bundle.provenance import count_fitted, load_provenance
from monai_dpmm_ad.commands import fit, infer
from monai_dpmm_ad.commands.cli import main
from monai_dpmm_ad.commands.run import FITTED_ALREADY
from monai_dpmm_ad.errors import CheckpointError
from monai_dpmm_ad.utils.integrity import check_sums

pytestmark = pytest.mark.filterwarnings("default")  # MONAI warns of every config that it parses


@pytest.fixture(scope="module")
def packed(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack_bundle(bundle, tmp_path_factory.mktemp("packed") / "heads_v0.1.0.zip")


@pytest.fixture(scope="module")
def unpacked(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpack_bundle(packed, tmp_path_factory.mktemp("unpacked") / "here")


def test_it_holds_a_bundle_and_nothing_of_the_scans(packed: Path, bundle: Path, tiny_vit: Path) -> None:
    with zipfile.ZipFile(packed) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    names = {name.removeprefix("heads/") for name in contents}
    assert {"LICENSE", "SHA256SUMS", "docs/README.md", "models/model.pt", "models/embedder/model.safetensors"} < names
    assert all(name.split("/")[0] in ("LICENSE", "SHA256SUMS", "configs", "docs", "models") for name in names)
    scans = load_provenance(bundle)["scans"]
    secrets = [scan["name"] for scan in scans] + [str(Path(scan["image"]).parent) for scan in scans]
    for content in contents.values():
        assert not any(secret.encode() in content for secret in [*secrets, str(bundle), str(tiny_vit)])


def test_the_same_bundle_gives_the_same_bytes(packed: Path, bundle: Path, tmp_path: Path) -> None:
    assert pack_bundle(bundle, tmp_path / "heads_v0.1.0.zip").read_bytes() == packed.read_bytes()


def test_unpacked_elsewhere_it_gives_the_same_bits(bundle: Path, unpacked: Path, cohort: Path, tmp_path: Path) -> None:
    for name, root in (("ours", bundle), ("theirs", unpacked)):
        assert not infer(root, [cohort], tmp_path / name, report=False).failures
    ours, theirs = (sorted(path.name for path in (tmp_path / name).glob("*.nii.gz")) for name in ("ours", "theirs"))
    assert ours == theirs
    assert len(ours) == 12
    for name in ours:
        pair = [nib.load(tmp_path / folder / name) for folder in ("ours", "theirs")]
        assert np.array_equal(*(np.asarray(image.dataobj) for image in pair))
    assert (tmp_path / "ours/scores.csv").read_text() == (tmp_path / "theirs/scores.csv").read_text()


def test_monai_downloads_and_loads_it(
    packed: Path, unpacked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extractall(packed, tmp_path)  # as MONAI's `download` does
    folder = tmp_path / "heads"
    check_sums(folder)
    monkeypatch.chdir(folder)  # where its embedder is; one that has a name needs no folder
    network = load_workflow(unpacked, ["inference"], "inference").parser.get_parsed_content("network_def")
    images = torch.rand(2, 1, 60, 50, generator=torch.Generator().manual_seed(0))
    for kind in ("train", "inference"):
        loaded = monai.bundle.load("heads", bundle_dir=tmp_path, workflow_type=kind, device="cpu").eval()
        assert loaded.state_dict().keys() == network.state_dict().keys()
        assert torch.equal(loaded(images), network(images))


def test_an_embedder_with_a_name_does_not_travel(cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fast = {"image_size": 32, "num_components": 4, "max_epochs": 1, "normative": "off"}
    fit([cohort], tmp_path / "bundle", embedder_name="pixels-8", **fast)
    pack_bundle(tmp_path / "bundle", tmp_path / "pixels.zip")
    root = unpack_bundle(tmp_path / "pixels.zip", tmp_path / "pixels")
    assert read_settings(root)["embedder_name"] == "pixels-8"
    assert not (root / "models" / "embedder").exists()
    monkeypatch.chdir(tmp_path / "bundle")
    loaded = monai.bundle.load("pixels", bundle_dir=tmp_path, device="cpu").eval()  # from whatever folder
    network = load_workflow(root, ["inference"], "inference").parser.get_parsed_content("network_def")
    images = torch.rand(1, 1, 40, 40, generator=torch.Generator().manual_seed(0))
    assert torch.equal(loaded(images), network(images))


def test_what_was_handed_on_can_be_handed_on(unpacked: Path, tmp_path: Path) -> None:
    recipe = json.loads((unpacked / "configs" / "train.json").read_text())["settings"]
    again = unpack_bundle(pack_bundle(unpacked, tmp_path / "heads.zip"), tmp_path / "again")
    assert json.loads((again / "configs" / "train.json").read_text())["settings"] == recipe
    assert {path.relative_to(again) for path in again.rglob("*")} == {
        path.relative_to(unpacked) for path in unpacked.rglob("*")
    }


def test_a_setting_of_the_users_travels(bundle: Path, tmp_path: Path) -> None:
    copy = copy_of(bundle, tmp_path)
    write_settings(copy, {"false_regions": 0.5, "regions": "/home/someone/atlas.nii.gz"})
    settings = read_settings(unpack_bundle(pack_bundle(copy, tmp_path / "own.zip"), tmp_path / "own"))
    assert (settings["false_regions"], settings["regions"]) == (0.5, None)


def test_an_update_of_it_is_refused(unpacked: Path, cohort: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nothing is known of the fitted scans"):
        fit([cohort], tmp_path / "new", update=unpacked)


def test_it_is_brought_to_another_scanner(bundle: Path, unpacked: Path, cohort: Path, tmp_path: Path) -> None:
    scan = min((cohort.parent / "imagesTs").glob("*healthy*.nii.gz"))
    outcomes = [
        fit([scan], tmp_path / name, update=root, site="north")
        for name, root in (("ours", bundle), ("theirs", unpacked))
    ]
    ours, theirs = (torch.load(tmp_path / name / "models" / "model.pt") for name in ("ours", "theirs"))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(theirs[name], value) for name, value in ours.items())
    assert "does not know its fitted scans" in outcomes[1].note
    assert "does not know its fitted scans" not in outcomes[0].note
    counts = ("num_fitted", "num_held_out", "num_updates", "num_calibrating")
    assert [outcomes[1].metrics[name] for name in counts] == [outcomes[0].metrics[name] for name in counts]
    assert [(scan["role"], scan["fit"]) for scan in load_provenance(tmp_path / "theirs")["scans"]] == [("held_out", 1)]
    assert count_fitted(tmp_path / "theirs") == count_fitted(bundle) == 3
    readmes = [(tmp_path / name / "docs" / "README.md").read_text() for name in ("ours", "theirs")]
    assert [text[text.index("Fitted on") :].splitlines()[:2] for text in readmes[1:]] == [
        readmes[0][readmes[0].index("Fitted on") :].splitlines()[:2]
    ]
    assert fit([scan], tmp_path / "theirs", update=unpacked, site="north").note == FITTED_ALREADY


def copy_of(bundle: Path, folder: Path) -> Path:
    return shutil.copytree(bundle, folder / "copy", ignore=shutil.ignore_patterns("fit"))


@pytest.mark.parametrize("where", ["docs/README.md", "docs/data_license.txt", "configs/metadata.json"])
@pytest.mark.parametrize("what", ["name", "image"])
def test_a_text_that_names_a_scan_is_refused(bundle: Path, tmp_path: Path, where: str, what: str) -> None:
    copy = copy_of(bundle, tmp_path)
    secret = load_provenance(copy)["scans"][0][what]
    text = (copy / where).read_text()
    added = text.replace('"authors": "', f'"authors": "{secret}, ') if where.endswith("json") else f"{text}\n{secret}\n"
    (copy / where).write_text(added)
    with pytest.raises(ValueError, match=rf"must not name its scans, but line \d+ of {where} does") as caught:
        pack_bundle(copy, tmp_path / "copy.zip")
    assert secret not in str(caught.value)
    assert not (tmp_path / "copy.zip").exists()


def test_a_setting_that_names_a_scan_is_refused_and_a_word_of_the_template_is_none(
    bundle: Path, tmp_path: Path
) -> None:
    copy = copy_of(bundle, tmp_path)
    provenance = load_provenance(copy)
    for scan, name in zip(provenance["scans"], ("anomaly", "preprocessing", "test", "pred", "7"), strict=True):
        scan["name"] = name
    (copy / "provenance.json").write_text(json.dumps(provenance))
    pack_bundle(copy, tmp_path / "words.zip")
    write_settings(copy, {"pattern": "*anomaly*"})
    with pytest.raises(ValueError, match=r"the setting pattern in configs.inference\.json does"):
        pack_bundle(copy, tmp_path / "copy.zip")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": "9.9.9"}, "`changelog` must have an entry for version 9.9.9"),
        ({"authors": None}, "does not follow MONAI's schema"),
    ],
)
def test_the_zoos_rules_are_kept(bundle: Path, tmp_path: Path, change: dict[str, Any], message: str) -> None:
    copy = copy_of(bundle, tmp_path)
    path = copy / "configs" / "metadata.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(CheckpointError, match=message):
        pack_bundle(copy, tmp_path / "copy.zip")


def test_a_network_that_is_not_as_the_metadata_say_is_refused(bundle: Path, tmp_path: Path) -> None:
    copy = copy_of(bundle, tmp_path)
    path = copy / "configs" / "metadata.json"
    content = json.loads(path.read_text())
    content["network_data_format"]["outputs"]["pred"]["num_channels"] = 2
    path.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="the network is not as its metadata say: output channel number"):
        pack_bundle(copy, tmp_path / "copy.zip")


def test_what_cannot_be_packed_says_why(bundle: Path, packed: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="has no fitted model"):
        pack_bundle(tmp_path, tmp_path / "a.zip")
    for name in ("a.tar", "my bundle.zip", "-.zip"):
        with pytest.raises(ValueError, match=r"`out` must be NAME\.zip"):
            pack_bundle(bundle, tmp_path / name)
    (tmp_path / "there.zip").write_text("thesis")
    with pytest.raises(FileExistsError, match="is there already"):
        pack_bundle(bundle, tmp_path / "there.zip")
    assert (tmp_path / "there.zip").read_text() == "thesis"
    copy = copy_of(bundle, tmp_path)
    write_settings(copy, {"embedder_name": "/no/such/folder"})
    with pytest.raises(CheckpointError, match="embedder is no longer there"):
        pack_bundle(copy, tmp_path / "b.zip")


def rewrite(packed: Path, out: Path, change: Callable[[dict[str, bytes]], object]) -> Path:
    """A zip file with other contents."""
    with zipfile.ZipFile(packed) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    change(contents)
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return out


ATTACKS = {
    "outside": lambda files: files.update({"heads/../../evil.txt": b"x"}),
    "absolute": lambda files: files.update({"/tmp/evil.txt": b"x"}),
    "another folder": lambda files: files.update({"other/docs/README.md": b"x"}),
    "dots": lambda files: files.update({"heads/docs/..md": b"x"}),
    "program": lambda files: files.update({"heads/scripts/run.py": b"x"}),
    "pickle": lambda files: files.update({"heads/models/other.pt": b"x"}),
    "not listed": lambda files: files.update({"heads/docs/more.md": b"x"}),
    "missing": lambda files: files.pop("heads/docs/README.md"),
    "no sums": lambda files: files.pop("heads/SHA256SUMS"),
    "no model": lambda files: files.pop("heads/models/model.pt"),
    "changed": lambda files: files.update({"heads/docs/README.md": b"other"}),
    "nothing": lambda files: files.clear(),
    "backslash": lambda files: files.update({"heads\\..\\evil.txt": b"x"}),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_is_no_packed_bundle_is_not_taken_in(packed: Path, tmp_path: Path, attack: str) -> None:
    bad = rewrite(packed, tmp_path / "bad.zip", ATTACKS[attack])
    with pytest.raises(CheckpointError, match=r"bad\.zip: is no packed bundle"):
        unpack_bundle(bad, tmp_path / "in" / "out")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["bad.zip"]
    assert not (tmp_path / "in" / "out").exists()


def test_links_and_repeated_files_are_not_taken_in(packed: Path, tmp_path: Path) -> None:
    shutil.copy(packed, tmp_path / "link.zip")
    with zipfile.ZipFile(tmp_path / "link.zip", "a") as archive:
        record = zipfile.ZipInfo("heads/docs/link.md")
        record.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(record, "/etc/passwd")
    shutil.copy(packed, tmp_path / "twice.zip")
    with zipfile.ZipFile(tmp_path / "twice.zip", "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("heads/docs/README.md", "other")
    (tmp_path / "text.zip").write_text("hello")
    cut = packed.read_bytes()
    (tmp_path / "cut.zip").write_bytes(cut[: len(cut) // 2])
    for name in ("link", "twice", "text", "cut"):
        with pytest.raises(CheckpointError, match="is no packed bundle"):
            unpack_bundle(tmp_path / f"{name}.zip", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_file_that_claims_more_than_the_disk_has_is_not_begun(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr("monai_dpmm_ad.bundle.unpack.shutil.disk_usage", lambda path: usage)
    with pytest.raises(OSError, match="bytes are needed, 1000 are free"):
        unpack_bundle(packed, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_it_goes_into_a_new_or_empty_folder_only(packed: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    unpack_bundle(packed, tmp_path / "empty")
    before = sorted(os.listdir(tmp_path / "empty"))
    with pytest.raises(FileExistsError, match="is there already"):
        unpack_bundle(packed, tmp_path / "empty")
    assert sorted(os.listdir(tmp_path / "empty")) == before


def test_the_command_line_packs_and_unpacks(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pack", str(bundle), "--out", str(tmp_path / "heads.zip")]) == 0
    assert main(["unpack", str(tmp_path / "heads.zip"), "--out", str(tmp_path / "new")]) == 0
    assert capsys.readouterr().out == f"packed: {tmp_path / 'heads.zip'}\nbundle: {tmp_path / 'new'}\n"
    assert main(["pack", str(bundle), "--out", str(tmp_path / "heads.zip")]) == 1
    assert "is there already; name another --out, or give --overwrite" in capsys.readouterr().err


class Hub:
    """Stands for ``huggingface_hub.HfApi``: the network begins behind it."""

    calls: list[tuple[str, dict[str, Any]]] = []  # noqa: RUF012
    uploaded: dict[str, str] = {}  # noqa: RUF012

    def __init__(self, token: str | None = None) -> None:
        assert token is None  # that of `hf auth login`

    def create_repo(self, **given: Any) -> None:
        self.calls.append(("create_repo", given))

    def upload_folder(self, repo_id: str, folder_path: str) -> str:
        folder = Path(folder_path)
        self.uploaded.update({str(file.relative_to(folder)): "" for file in folder.rglob("*") if file.is_file()})
        self.uploaded["README.md"] = (folder / "README.md").read_text()
        return f"https://huggingface.co/{repo_id}"

    def create_tag(self, **given: Any) -> None:
        self.calls.append(("create_tag", given))


def test_the_hub_gets_what_the_file_would_hold(
    bundle: Path, packed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    assert main(["pack", str(bundle), "--hub", "someone/heads"]) == 0
    assert "pushed: https://huggingface.co/someone/heads" in capsys.readouterr().out
    with zipfile.ZipFile(packed) as archive:
        names = {name.removeprefix("heads/") for name in archive.namelist()}
    assert set(Hub.uploaded) == {*names, "README.md"}
    assert "library_name: monai\nlicense: apache-2.0" in Hub.uploaded["README.md"]
    assert Hub.calls[0] == ("create_repo", {"repo_id": "someone/heads", "private": True, "exist_ok": True})
    assert [given["tag"] for name, given in Hub.calls if name == "create_tag"] == ["0.1.0", "latest_version"]


def test_a_hub_that_cannot_be_reached_is_one_line(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Unreachable(Hub):
        def create_repo(self, **given: Any) -> None:
            raise RuntimeError("no route to host")

    monkeypatch.setattr("huggingface_hub.HfApi", Unreachable)
    with pytest.raises(ConnectionError, match=r"was not pushed \(no route to host\)\. Log in with: hf auth login"):
        push_bundle(bundle, "someone/heads")
    with pytest.raises(ValueError, match="`repo` must be OWNER/NAME"):
        push_bundle(bundle, "heads")
