# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Dinov2Model

from monai_dpmm_ad.errors import CheckpointError
from monai_dpmm_ad.pretraining import average_backbones, pretrain
from monai_dpmm_ad.pretraining.checkpoints import (
    export_backbone,
    latest_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from monai_dpmm_ad.pretraining.renderer import Renderer
from monai_dpmm_ad.pretraining.trainer import Trainer

CPU = torch.device("cpu")


@pytest.fixture
def folder(pool, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for index, pixels in enumerate(pool.pixels):
        Image.fromarray(pixels).save(images / f"{index:02d}.png")
    return images


def flat(module):
    return torch.cat([p.detach().flatten() for p in module.parameters()])


@pytest.mark.parametrize(
    "objectives",
    [
        {"contrast": 1.0, "lesions": 1.0},
        {"contrast": 1.0, "lesions": 0.0, "projection_dim": 0},
        {"contrast": 0.0, "lesions": 1.0, "distillation": 1.0},
        {"contrast": 1.0, "lesions": 1.0, "distillation": 1.0, "precision": "bf16"},
    ],
)
def test_interrupted_and_resumed_equals_uninterrupted(pool, make_recipe, tmp_path, objectives):
    recipe = make_recipe(**objectives)
    whole = Trainer(pool, recipe, CPU)
    whole.run(tmp_path / "whole", 2, 1, None)

    class Interrupted(Exception):
        pass

    def stop(step, measured):
        if step == 3:
            raise Interrupted

    with pytest.raises(Interrupted):
        Trainer(pool, recipe, CPU).run(tmp_path / "parts", 2, 1, stop)
    resumed = Trainer(pool, recipe, CPU)
    resumed.run(tmp_path / "parts", 2, 1, None)
    assert torch.equal(flat(resumed.student), flat(whole.student))
    assert torch.equal(flat(resumed.teacher), flat(whole.teacher))
    assert torch.equal(resumed.centre, whole.centre)
    assert resumed.history == whole.history


def test_rendered_and_whole_slices_are_resumed_too(pool, make_recipe, tmp_path):
    labels = np.zeros((90, 70, 80), dtype=np.uint8)
    labels[5:-5, 5:-5, 5:-5], labels[30:60, 20:50, 30:50] = 2, 1
    renderer = Renderer([labels], 64)
    recipe = make_recipe(synthetic_share=0.5, whole_share=0.5, steps=6)
    whole = Trainer(pool, recipe, CPU, renderer=renderer)
    whole.run(tmp_path / "whole", 3, 1, None)
    for steps in (3, 6):
        parts = Trainer(pool, make_recipe(synthetic_share=0.5, whole_share=0.5, steps=6), CPU, renderer=renderer)
        last = latest_checkpoint(tmp_path / "parts")
        if last is not None:
            parts.load_state_dict(load_checkpoint(last))
        while parts.step < steps:
            parts.train_step()
        save_checkpoint(tmp_path / "parts", parts.state_dict())
    assert torch.equal(flat(parts.student), flat(whole.student))


def test_pretrain_writes_what_from_pretrained_loads(folder, make_recipe, tmp_path):
    seen = []
    out = pretrain(
        folder, tmp_path / "out", make_recipe(), report_every=2, report=lambda s, m: seen.append((s, dict(m)))
    )
    model = Dinov2Model.from_pretrained(out)
    assert model(pixel_values=torch.zeros(1, 3, 64, 64)).last_hidden_state.shape == (1, 65, 32)
    settings = json.loads((out / "preprocessor_config.json").read_text())
    assert settings["image_mean"] == [0.3] * 3
    history = json.loads((out / "pretraining.json").read_text())["history"]
    assert history[-1]["step"] == 4
    assert {"probe_rank", "probe_similarity", "probe_places"} <= set(history[-1])
    assert [step for step, values in seen if "loss" in values] == [2, 4]


def test_exported_backbone_embeds_whole_slices_as_training_did(pool, make_recipe, tmp_path, generator):
    from monai_dpmm_ad.pretraining.model import encode_views
    from monai_dpmm_ad.pretraining.views import Views

    trainer = Trainer(pool, make_recipe(), CPU)
    images = pool.draw(2, generator).images
    axis = (torch.arange(8) + 0.5) / 8
    positions = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).expand(2, 8, 8, 2)
    unused = torch.zeros(2, 2, 2)
    tokens, cls = encode_views(trainer.teacher.backbone, Views(images, positions, positions, unused, unused[0]))
    export_backbone(trainer.teacher.backbone, tmp_path)
    model = Dinov2Model.from_pretrained(tmp_path, dtype=torch.float32)
    hidden = model(pixel_values=((images - 0.3) / 0.2).expand(-1, 3, -1, -1)).last_hidden_state
    torch.testing.assert_close(hidden[:, 1:], tokens, atol=0.02, rtol=0)  # float16 weights
    torch.testing.assert_close(hidden[:, 0], cls, atol=0.02, rtol=0)


def test_another_recipe_does_not_continue(pool, make_recipe, tmp_path):
    Trainer(pool, make_recipe(), CPU).run(tmp_path, 2, 1, None)
    with pytest.raises(CheckpointError, match=r"trained with another recipe: embed_dim 32 \(now 64\)"):
        Trainer(pool, make_recipe(embed_dim=64), CPU).run(tmp_path, 2, 1, None)


def test_damaged_checkpoint_is_named(pool, make_recipe, tmp_path):
    (tmp_path / "step_0000002.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(CheckpointError, match=r"step_0000002\.pt: is no readable checkpoint"):
        Trainer(pool, make_recipe(), CPU).run(tmp_path, 2, 1, None)
    torch.save({"step": 2}, tmp_path / "step_0000002.pt")
    with pytest.raises(CheckpointError, match="lacks centre, generators"):
        Trainer(pool, make_recipe(), CPU).run(tmp_path, 2, 1, None)


def test_full_disk_keeps_the_last_good_checkpoint(pool, make_recipe, tmp_path, monkeypatch):
    write = torch.save

    def fail_later(state, file):
        if state["step"] > 2:
            file.write(b"half")
            raise OSError(28, "No space left on device")
        write(state, file)

    monkeypatch.setattr(torch, "save", fail_later)
    with pytest.raises(
        CheckpointError, match=r"No space left.*Free disk space.*last good checkpoint is .*step_0000002"
    ):
        Trainer(pool, make_recipe(), CPU).run(tmp_path, 2, 1, None)
    assert [path.name for path in tmp_path.iterdir()] == ["step_0000002.pt"]
    monkeypatch.undo()
    resumed = Trainer(pool, make_recipe(), CPU)
    resumed.run(tmp_path, 2, 1, None)
    assert resumed.step == 4


def test_only_two_checkpoints_are_kept(pool, make_recipe, tmp_path):
    Trainer(pool, make_recipe(), CPU).run(tmp_path, 1, 1, None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_0000003.pt", "step_0000004.pt"]


def test_collapsed_features_are_not_finished(folder, make_recipe, tmp_path, monkeypatch):
    monkeypatch.setattr("monai_dpmm_ad.pretraining.probe.LEAST_RANK", 1000.0)
    with pytest.raises(RuntimeError, match="not finished: the features have collapsed, the effective rank"):
        pretrain(folder, tmp_path / "out", make_recipe())
    assert not (tmp_path / "out" / "model.safetensors").exists()


@pytest.mark.slow
def test_two_processes_end_with_one_network_and_resume(folder, make_recipe, tmp_path):
    from dataclasses import asdict

    script = tmp_path / "run.py"
    script.write_text(
        "import json, sys\n"
        "from monai_dpmm_ad.pretraining import Recipe, pretrain\n"
        "pretrain(sys.argv[1], sys.argv[2], Recipe(**json.loads(sys.argv[3])), checkpoint_every=2)\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    arguments = [str(folder), str(tmp_path / "out"), json.dumps(asdict(make_recipe(batch_size=3)))]
    done = subprocess.run(command + arguments, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    checkpoint = torch.load(tmp_path / "out" / "checkpoints" / "step_0000004.pt", weights_only=True)
    states = checkpoint["generators"]
    assert len(states) == 2
    assert not torch.equal(states[0], states[1])


@pytest.mark.slow
def test_loss_falls_and_features_do_not_collapse(pool, make_recipe, tmp_path):
    trainer = Trainer(
        pool, make_recipe(steps=150, batch_size=8, embed_dim=48, learning_rate=2e-3, position_shift=0.02), CPU
    )
    losses: list[float] = []
    trainer.run(tmp_path, 150, 10, lambda step, values: losses.append(values["loss"]) if "loss" in values else None)
    assert np.mean(losses[-3:]) < 0.8 * np.mean(losses[:3])
    measured = trainer.history[-1]
    assert measured["probe_rank"] > 4
    assert measured["probe_similarity"] < 0.9
    assert measured["probe_places"] > 0.4


def test_initial_weights_are_where_the_training_begins(pool, make_recipe, tmp_path):
    recipe = make_recipe()
    other = Trainer(pool, make_recipe(seed=5), CPU)
    export_backbone(other.student.backbone, tmp_path / "given")
    trainer = Trainer(pool, recipe, CPU, tmp_path / "given")
    assert torch.allclose(flat(trainer.student.backbone), flat(other.student.backbone), atol=1e-3)  # float16 on disk
    assert torch.equal(flat(trainer.teacher.backbone), flat(trainer.student.backbone))


def test_initial_weights_of_another_architecture_are_refused(pool, make_recipe, tmp_path):
    export_backbone(Trainer(pool, make_recipe(embed_dim=16), CPU).student.backbone, tmp_path / "given")
    with pytest.raises(CheckpointError, match=r"model\.safetensors: cannot be the initial weights"):
        Trainer(pool, make_recipe(), CPU, tmp_path / "given")
    with pytest.raises(CheckpointError, match="cannot be the initial weights"):
        Trainer(pool, make_recipe(), CPU, tmp_path / "absent")


def test_averaged_weights_lie_between_the_two(pool, make_recipe, tmp_path):
    ends = [Trainer(pool, make_recipe(seed=seed), CPU).student.backbone for seed in (1, 2)]
    for name, backbone in zip("ab", ends, strict=True):
        export_backbone(backbone, tmp_path / name)
    average_backbones(tmp_path / "a", tmp_path / "b", tmp_path / "out", share=0.25)
    found = Dinov2Model.from_pretrained(tmp_path / "out", dtype=torch.float32)
    assert torch.allclose(flat(found), 0.75 * flat(ends[0]) + 0.25 * flat(ends[1]), atol=2e-3)


def test_averaging_refuses_what_does_not_fit(pool, make_recipe, tmp_path):
    for name, dim in (("a", 32), ("b", 16)):
        export_backbone(Trainer(pool, make_recipe(embed_dim=dim), CPU).student.backbone, tmp_path / name)
    with pytest.raises(CheckpointError, match="another architecture"):
        average_backbones(tmp_path / "a", tmp_path / "b", tmp_path / "out")
    with pytest.raises(CheckpointError, match="holds no backbone"):
        average_backbones(tmp_path / "a", tmp_path / "absent", tmp_path / "out")
    with pytest.raises(ValueError, match=r"`share` must lie in \[0, 1\]"):
        average_backbones(tmp_path / "a", tmp_path / "b", tmp_path / "out", share=1.5)
