# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The embedding store: what is written is what is read, in any order, whatever is damaged."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from monai_dpmm_ad.embedding import EmbeddingStore, StoreWriter
from monai_dpmm_ad.embedding.store.rows import choose_patches, equal_quotas
from monai_dpmm_ad.errors import EmbeddingStoreError

FINGERPRINT = {"embedder": {"name": "tiny", "weights_sha256": "00", "stages": [3]}, "preprocessing": {"size": 448}}
untimed = settings(deadline=None, max_examples=25)


def make_source(number: int, rows: int, slices: int = 3, stages: int = 2, dim: int = 5) -> dict[str, Tensor]:
    """Rows that float16 holds exactly and that name their source and row."""
    patches = torch.zeros(rows, stages, dim)
    patches[:, 0, 0] = number
    patches[:, 0, 1] = torch.arange(rows)
    patches[:, 1:] = torch.randint(-8, 8, (rows, stages - 1, dim), generator=torch.Generator().manual_seed(number))
    index = torch.arange(rows) * slices // max(rows, 1)
    location = torch.rand(rows, 3, generator=torch.Generator().manual_seed(number))
    return {
        "patches": patches,
        "location": location,
        "slice_index": index,
        "cls": torch.full((slices, stages, dim), float(number)),
    }


def write(folder: Path, sizes: list[int], **options: object) -> EmbeddingStore:
    with StoreWriter(folder, FINGERPRINT, **{"rows_per_shard": 50, **options}) as writer:  # type: ignore[arg-type]
        for number, rows in enumerate(sizes):
            writer.write(f"scan{number}", **make_source(number, rows))
    return EmbeddingStore(folder)


def identities(rows: dict[str, Tensor]) -> list[tuple[int, int]]:
    return [(int(a), int(b)) for a, b in rows["patches"][:, 0, :2]]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EmbeddingStore:
    return write(tmp_path_factory.mktemp("store"), [40, 3, 0, 75, 21, 1])


@untimed
@given(
    sizes=st.lists(st.integers(0, 40), max_size=6),
    rows_per_shard=st.integers(1, 60),
    dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32]),
)
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], rows_per_shard: int, dtype: torch.dtype
) -> None:
    store = write(tmp_path_factory.mktemp("store"), sizes, rows_per_shard=rows_per_shard, dtype=dtype)
    assert store.complete
    assert store.num_rows == len(store) == sum(sizes)
    assert store.fingerprint == FINGERPRINT
    assert store.sources == [f"scan{number}" for number in range(len(sizes))]
    if sizes:
        assert (store.num_stages, store.embed_dim) == (2, 5)
    for number, rows in enumerate(sizes):
        found, expected = store.source_rows(f"scan{number}"), make_source(number, rows)
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            assert torch.equal(found[key], value.to(found[key].dtype)), key
    store.verify()


def test_shards_are_closed_by_the_source_that_fills_them(tmp_path: Path) -> None:
    write(tmp_path, [20, 20, 20, 100, 1])
    manifest = json.loads((tmp_path / "manifest.json").read_text(encoding="utf-8"))
    assert [shard["rows"] for shard in manifest["shards"]] == [60, 100, 1]
    assert sorted(path.suffix for path in tmp_path.iterdir()) == ["", ".json", *[".safetensors"] * 3]


def test_half_precision_is_what_is_lost(tmp_path: Path) -> None:
    patches = torch.randn(10, 1, 8)
    with StoreWriter(tmp_path, {}) as writer:
        writer.write("a", patches, torch.rand(10, 3), torch.zeros(10, dtype=torch.long))
    assert torch.equal(EmbeddingStore(tmp_path).source_rows("a")["patches"], patches.half().float())
    assert "cls" not in EmbeddingStore(tmp_path).source_rows("a")


@untimed
@given(
    batch_size=st.integers(1, 200),
    seed=st.integers(-3, 3),
    epoch=st.integers(0, 3),
    shuffle=st.booleans(),
    world_size=st.integers(1, 3),
)
def test_batches_hold_each_row_once(
    store: EmbeddingStore, batch_size: int, seed: int, epoch: int, shuffle: bool, world_size: int
) -> None:
    ranks = [store.batches(batch_size, seed, epoch, None, rank, world_size, shuffle) for rank in range(world_size)]
    whole = store.batches(batch_size, seed, epoch, shuffle=shuffle)
    seen = []
    for one, *shares in zip(whole, *ranks, strict=True):
        together = sorted(row for share in shares for row in identities(share))
        assert together == sorted(identities(one))
        assert one["patches"].dtype == one["location"].dtype == torch.float32
        seen += identities(one)
    assert len(whole) == len(list(whole)) == -(-store.num_rows // batch_size)
    expected = [(number, row) for number, rows in enumerate([40, 3, 0, 75, 21, 1]) for row in range(rows)]
    assert sorted(seen) == expected
    if not shuffle:
        assert seen == expected


def test_batches_are_full_but_for_the_last(store: EmbeddingStore) -> None:
    assert [len(batch["patches"]) for batch in store.batches(33)] == [33, 33, 33, 33, 8]
    batch = next(iter(store.batches(33)))
    assert (batch["patches"].shape, batch["location"].shape) == ((33, 2, 5), (33, 3))


def test_order_depends_on_seed_and_epoch_alone(store: EmbeddingStore) -> None:
    def order(**options: int) -> list[tuple[int, int]]:
        return [row for batch in store.batches(17, **options) for row in identities(batch)]

    batches = store.batches(17, seed=1)
    assert [identities(batch) for batch in batches] == [identities(batch) for batch in batches]
    assert order(seed=1) == order(seed=1)
    assert order(seed=1) != order(seed=2) != order(seed=1, epoch=1)
    assert order(seed=1) != sorted(order(seed=1))


def test_rows_keep_their_location(store: EmbeddingStore) -> None:
    locations = {number: make_source(number, rows)["location"] for number, rows in enumerate([40, 3, 0, 75, 21, 1])}
    for rows in (*store.batches(31), store.sample(50)):
        for (number, row), location in zip(identities(rows), rows["location"], strict=True):
            assert torch.equal(location, locations[number][row])


def test_batches_of_some_sources(store: EmbeddingStore) -> None:
    batches = store.batches(10, sources=["scan4", "scan1"])
    rows = [row for batch in batches for row in identities(batch)]
    assert len(batches) == 3
    assert sorted(rows) == [(1, row) for row in range(3)] + [(4, row) for row in range(21)]
    assert list(store.batches(10, sources=[])) == list(store.batches(10, sources=["scan2"])) == []


def test_blocks_and_windows_hold_each_row_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("monai_dpmm_ad.embedding.store.batches._BLOCK_ROWS", 7)
    monkeypatch.setattr("monai_dpmm_ad.embedding.store.batches._WINDOW_BLOCKS", 3)
    monkeypatch.setattr("monai_dpmm_ad.embedding.store.reader._OPEN_SHARDS", 2)
    store = write(tmp_path, [30] * 12)
    rows = [row for batch in store.batches(16, seed=3) for row in identities(batch)]
    assert sorted(rows) == [(number, row) for number in range(12) for row in range(30)]
    assert len({number for number, _ in rows[:21]}) > 1
    assert len(store._shards) == 2


@given(sizes=st.lists(st.integers(0, 30), min_size=1, max_size=8), total=st.integers(1, 200))
@untimed
def test_quotas_are_as_equal_as_the_sizes_allow(sizes: list[int], total: int) -> None:
    quotas = equal_quotas(np.array(sizes), total)
    assert quotas.sum() == min(total, sum(sizes))
    assert (quotas <= sizes).all()
    short = [quota for quota, size in zip(quotas, sizes, strict=True) if quota < size]
    assert not short or max(quotas) - min(short) <= 1


def test_sample_is_spread_over_all_sources(store: EmbeddingStore) -> None:
    rows = identities(store.sample(44, seed=0))
    counts = [sum(number == source for number, _ in rows) for source in range(6)]
    assert len(set(rows)) == 44
    assert counts[1] == 3
    assert counts[5] == 1
    assert all(count in (13, 14) for count in (counts[0], counts[3], counts[4]))
    assert rows == identities(store.sample(44, seed=0)) != identities(store.sample(44, seed=1))
    assert {number for number, _ in identities(store.sample(20, sources=["scan0", "scan4"]))} == {0, 4}
    assert len(store.sample(10_000)["patches"]) == store.num_rows


def test_an_empty_store_has_no_rows(tmp_path: Path) -> None:
    store = write(tmp_path, [])
    assert (store.num_rows, store.sources, list(store.batches(3))) == (0, [], [])
    assert len(store.sample(3)["patches"]) == 0


@untimed
@given(
    counts=st.lists(st.integers(1, 60), min_size=1, max_size=5),
    fraction=st.floats(0.01, 1),
    seed=st.integers(-(10**6), 10**6),
)
def test_a_share_of_each_slice_is_kept(counts: list[int], fraction: float, seed: int) -> None:
    slices = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    shuffled = slices[torch.randperm(len(slices))]
    kept = choose_patches(shuffled, fraction, seed, "scan")
    assert torch.equal(kept, kept.unique())
    for number, count in enumerate(counts):
        assert (shuffled[kept] == number).sum() == max(1, round(fraction * count))
    assert torch.equal(kept, choose_patches(shuffled, fraction, seed, "scan"))
    assert set(choose_patches(shuffled, fraction / 2, seed, "scan").tolist()) <= set(kept.tolist())


def test_the_share_depends_on_seed_and_source(tmp_path: Path) -> None:
    slices = torch.zeros(100, dtype=torch.long)
    chosen = {tuple(choose_patches(slices, 0.2, *key).tolist()) for key in ((0, "a"), (1, "a"), (0, "b"))}
    assert len(chosen) == 3
    assert len(choose_patches(slices[:0], 0.2, 0, "a")) == 0
    counts = torch.bincount(torch.cat([choose_patches(slices, 0.2, seed, "a") for seed in range(500)]), minlength=100)
    assert 60 < counts.min() <= counts.max() < 145  # 100 expected, standard deviation 9


def test_the_share_does_not_depend_on_the_order(tmp_path: Path) -> None:
    for folder, order in (("a", [0, 1, 2]), ("b", [2, 0, 1])):
        with StoreWriter(tmp_path / folder, {}, patch_fraction=0.3, seed=5) as writer:
            for number in order:
                writer.write(f"scan{number}", **make_source(number, 60))
    first, second = EmbeddingStore(tmp_path / "a"), EmbeddingStore(tmp_path / "b")
    assert first.num_rows == 54
    for name in first.sources:
        for key, value in first.source_rows(name).items():
            assert torch.equal(value, second.source_rows(name)[key])


def test_another_fingerprint_is_refused_with_both(tmp_path: Path) -> None:
    write(tmp_path, [5])
    changed = {**FINGERPRINT, "preprocessing": {"size": 224}}
    message = r'preprocessing\.size differ.*Stored: .*"size": 448.*Now: .*"size": 224'
    with pytest.raises(EmbeddingStoreError, match=message):
        StoreWriter(tmp_path, changed)
    with pytest.raises(EmbeddingStoreError, match=message):
        EmbeddingStore(tmp_path, changed)
    with pytest.raises(EmbeddingStoreError, match=r"setting; patch_fraction, seed differ"):
        StoreWriter(tmp_path, FINGERPRINT, patch_fraction=0.5, seed=1, rows_per_shard=50)
    renamed = {**FINGERPRINT, "embedder": {**FINGERPRINT["embedder"], "name": "/elsewhere/tiny"}}
    assert EmbeddingStore(tmp_path, renamed).num_rows == 5
    assert EmbeddingStore(tmp_path).num_rows == 5


def damage(path: Path, how: str) -> None:
    data = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "truncated":
        path.write_bytes(data[: len(data) // 2])
    elif how == "longer":
        path.write_bytes(data + b"\0")
    elif how == "header":
        path.write_bytes(b"\xff" * 16 + data[16:])
    elif how == "value":
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


@pytest.mark.parametrize("how", ["missing", "truncated", "longer", "header", "value"])
def test_damaged_shards_are_refused(store: EmbeddingStore, tmp_path: Path, how: str) -> None:
    folder = Path(shutil.copytree(store.path, tmp_path / "store"))
    shard = next(folder.glob("shard-00001-*"))
    damage(shard, how)
    with pytest.raises(EmbeddingStoreError, match=shard.name):  # noqa: PT012 - each damage shows at another step
        opened = EmbeddingStore(folder)
        if how != "value":
            opened.source_rows("scan3")
        opened.verify()


def resign(folder: Path, **changes: object) -> None:
    """Edit a manifest and make its checksum fit, as one with bad intentions would."""
    from monai_dpmm_ad.embedding.store.format import _checksum

    content = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    content.pop("checksum")
    for path, value in changes.items():
        *keys, last = [int(key) if key.isdigit() else key for key in path.split("__")]
        target = content
        for key in keys:
            target = target[key]
        target[last] = value
    (folder / "manifest.json").write_text(json.dumps({**content, "checksum": _checksum(content)}), encoding="utf-8")


def test_an_edited_manifest_is_refused(store: EmbeddingStore, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(store.path, tmp_path / "store"))
    path = folder / "manifest.json"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace('"rows": 40', '"rows": 41'), encoding="utf-8")
    with pytest.raises(EmbeddingStoreError, match="its checksum does not fit"):
        EmbeddingStore(folder)
    for broken in ("", "[]", "{}", text[:-20], "[" * 100_000, "\x00"):
        path.write_text(broken, encoding="utf-8")
        with pytest.raises(EmbeddingStoreError, match=r"manifest\.json"):
            EmbeddingStore(folder)
        with pytest.raises(EmbeddingStoreError, match=r"manifest\.json"):
            StoreWriter(folder, FINGERPRINT)
    path.unlink()
    with pytest.raises(EmbeddingStoreError, match=r"manifest\.json is missing"):
        EmbeddingStore(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"shards__0__file": "../../etc/passwd"},
        {"shards__0__file": "shard-00000-0000000000000000.safetensors/../x"},
        {"shards__0__rows": 10**12},
        {"shards__0__rows": -1},
        {"shards__0__bytes": 1.5},
        {"sources__0__rows": 10**9},
        {"sources__0__shard": 99},
        {"sources__0__start": True},
        {"sources__1__name": "scan0"},
        {"embed_dim": 10**9},
        {"num_stages": None},
        {"settings__dtype": "object"},
        {"version": 2},
        {"format": "other"},
        {"surplus": 1},
        {"shards": {}},
        {"fingerprint": []},
    ],
)
def test_a_hostile_manifest_is_refused(store: EmbeddingStore, tmp_path: Path, changes: dict[str, object]) -> None:
    folder = Path(shutil.copytree(store.path, tmp_path / "store"))
    resign(folder, **changes)
    with pytest.raises(EmbeddingStoreError, match=r"store"):
        list(EmbeddingStore(folder).batches(10))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patches": torch.rand(4, 5)}, r"`patches` must have shape \(n, S, D\)"),
        ({"patches": torch.rand(4, 2, 6), "cls": torch.rand(3, 2, 6)}, r"must have \(S, D\) = \(2, 5\)"),
        ({"cls": None}, "without"),
        ({"patches": torch.full((4, 2, 5), float("nan"))}, "must be finite"),
        ({"patches": torch.full((4, 2, 5), 1e5)}, r"must be finite as torch\.float16"),
        ({"cls": torch.full((3, 2, 5), torch.inf)}, "must be finite"),
        ({"location": torch.rand(4, 2)}, "`location` must have shape"),
        ({"location": torch.full((4, 3), 1.5)}, r"lie in \[0, 1\]"),
        ({"location": torch.full((4, 3), torch.nan)}, r"lie in \[0, 1\]"),
        ({"slice_index": torch.zeros(4)}, "`slice_index` must be 4 integers"),
        ({"slice_index": torch.full((4,), -1)}, "`slice_index` must be 4 integers"),
        ({"slice_index": torch.full((4,), 3)}, "index into the 3 rows of `cls`"),
        ({"cls": torch.rand(3, 5)}, "`cls` must have shape"),
        ({"source_name": ""}, "`source_name` must be a text"),
    ],
)
def test_bad_rows_are_refused_and_not_written(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with StoreWriter(tmp_path, {}) as writer:
        writer.write("good", **make_source(0, 4))
        with pytest.raises(ValueError, match=message):
            writer.write(**{"source_name": "bad", **make_source(1, 4), **changes})  # type: ignore[arg-type]
        assert not writer.done("bad")
    assert EmbeddingStore(tmp_path).sources == ["good"]


def test_bad_options_are_refused(store: EmbeddingStore, tmp_path: Path) -> None:
    for options, message in (
        ({"patch_fraction": 0.0}, "`patch_fraction` must lie"),
        ({"patch_fraction": float("nan")}, "`patch_fraction` must lie"),
        ({"rows_per_shard": 0}, "`rows_per_shard` must be"),
        ({"dtype": torch.int8}, "`dtype` must be one of"),
    ):
        with pytest.raises(ValueError, match=message):
            StoreWriter(tmp_path, {}, **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="Did you mean 'scan3'"):
        store.source_rows("scan33")
    with pytest.raises(ValueError, match="`source` must be one of"):
        store.batches(3, sources=["nothing"])
    with pytest.raises(ValueError, match="name each source once"):
        store.batches(3, sources=["scan0", "scan0"])
    with pytest.raises(ValueError, match="`batch_size` must be"):
        store.batches(0)
    with pytest.raises(ValueError, match="`rank` must lie"):
        store.batches(3, rank=2, world_size=2)
    with pytest.raises(ValueError, match="`n` must be"):
        store.sample(0)
