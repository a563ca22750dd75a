# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The training loop: deterministic, resumable at any checkpoint with the same result, alone or under torchrun."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Generator, nn

from monai_dpmm_ad.errors import CheckpointError
from monai_dpmm_ad.pretraining.anatomy import load_label_maps, load_template_labels
from monai_dpmm_ad.pretraining.checkpoints import (
    export_backbone,
    latest_checkpoint,
    load_backbone,
    load_checkpoint,
    save_checkpoint,
)
from monai_dpmm_ad.pretraining.data import Paths, SlicePool, make_pool
from monai_dpmm_ad.pretraining.model import PretrainModel, build_backbone, update_teacher
from monai_dpmm_ad.pretraining.objectives import StepViews, compute_loss, make_step_views
from monai_dpmm_ad.pretraining.optimizer import compute_schedule, make_optimizer
from monai_dpmm_ad.pretraining.probe import check_collapse, probe_features
from monai_dpmm_ad.pretraining.recipe import Recipe
from monai_dpmm_ad.pretraining.renderer import Renderer
from monai_dpmm_ad.utils.distributed import average, average_gradients, get_rank, get_world_size
from monai_dpmm_ad.utils.files import write_json
from monai_dpmm_ad.utils.outputs import OutputFolder

__all__ = ["Trainer", "pretrain"]

Report = Callable[[int, Mapping[str, float]], None]

_OUTPUTS = ("config.json", "model.safetensors", "preprocessor_config.json", "pretraining.json")
_CLIP = 1.0
_GROUP = 16  # rendered slices of one contrast in a step
_LEAST_WHOLE = 4  # slices in a step of whole ones


def pretrain(
    images: Paths,
    out: str | os.PathLike[str],
    recipe: Recipe | None = None,
    *,
    mixed: Paths = (),
    initial: str | os.PathLike[str] | None = None,
    label_maps: str | os.PathLike[str] | None = None,
    device: str | torch.device | None = None,
    checkpoint_every: int = 100,
    report_every: int = 10,
    report: Report | None = None,
    overwrite: bool = False,
) -> Path:
    """Train a backbone on slices without labels and write it where ``Dinov2Model.from_pretrained`` loads it.

    Checkpoints go to ``out/checkpoints``; the same call continues from the last one and gives the same weights as if it
    had never stopped. Under ``torchrun`` every process draws its own slices and gradients are averaged.

    Args:
        images: scans or pictures taken to show no lesion; synthetic lesions are put into them.
        out: folder of the result.
        recipe: the settings; None for the defaults.
        mixed: scans or pictures that may show lesions: learned from, never taken for clean.
        initial: folder of backbone weights to begin with, of the recipe's architecture; None begins at random.
        label_maps: folder of label maps of heads to render slices from; None renders from nilearn's template.
        device: ``"cpu"`` or ``"cuda"``; None takes CUDA where there is one.
        checkpoint_every: steps between checkpoints, each with a probe of the features.
        report_every: steps between reports.
        report: called with the step and the mean losses since the last report, and with what a probe measured.
        overwrite: replace files in ``out`` that this package did not write.

    Returns:
        ``out``.

    Raises:
        ValueError: when there are fewer slices than a batch or none at all, or `checkpoint_every` is below 1.
        CheckpointError: when a checkpoint belongs to another recipe, ``initial`` to another architecture, or the disk
            is full.
        RuntimeError: when the features have collapsed; nothing is written as finished then.
    """
    recipe = recipe or Recipe()
    if checkpoint_every < 1:
        raise ValueError(f"`checkpoint_every` must be at least 1, got {checkpoint_every}.")
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    with _processes():
        pool = make_pool(images, recipe, mixed)
        renderer = None
        if recipe.synthetic_share:
            maps = load_template_labels() if label_maps is None else load_label_maps(label_maps)
            renderer = Renderer(maps, recipe.image_size, device)
        trainer = Trainer(pool, recipe, device, initial, renderer)
        with _hold(out, overwrite) if trainer.rank == 0 else nullcontext():
            trainer.run(Path(out) / "checkpoints", checkpoint_every, report_every, report)
            if trainer.rank == 0:
                export_backbone(trainer.teacher.backbone, out)
                settings = {"recipe": asdict(recipe), "initial": None if initial is None else os.fspath(initial)}
                write_json(Path(out) / "pretraining.json", {**settings, "history": trainer.history})
    return Path(out)


@contextmanager
def _hold(out: str | os.PathLike[str], overwrite: bool) -> Iterator[None]:
    with OutputFolder(out, overwrite) as folder:
        folder.clean()
        folder.check_all(_OUTPUTS)
        yield


class Trainer:
    """Student, teacher, optimiser and randomness of one pre-training.

    Args:
        pool: the slices.
        recipe: the settings.
        device: where to train.
        initial: folder of backbone weights to begin with; None begins at random.
        renderer: draws healthy slices for the recipe's ``synthetic_share`` of the steps; None for no such steps.
    """

    def __init__(
        self,
        pool: SlicePool,
        recipe: Recipe,
        device: torch.device,
        initial: str | os.PathLike[str] | None = None,
        renderer: Renderer | None = None,
    ) -> None:
        self.pool, self.recipe, self.device, self.renderer = pool, recipe, device, renderer
        self.rank = get_rank()
        self.world = get_world_size()
        self.student = _build(recipe)
        if initial is not None:
            load_backbone(self.student.backbone, initial)
        if device.type == "cuda":
            self.student.backbone.set_attn_implementation("sdpa")
        self.student.to(device)
        self.teacher = self.student.make_teacher()
        self.optimizer = make_optimizer(self.student, recipe)
        self.centre = torch.zeros(recipe.num_prototypes, device=device)
        self.generator = Generator(device).manual_seed(recipe.seed + 1_000_003 * self.rank)
        self.step = 0
        self.history: list[dict[str, float]] = []

    def run(self, folder: Path, checkpoint_every: int, report_every: int, report: Report | None) -> None:
        """Train to the last step, from the last checkpoint in ``folder`` if there is one.

        Raises:
            RuntimeError: when the features have collapsed.
        """
        last = latest_checkpoint(folder)
        if last is not None:
            self.load_state_dict(load_checkpoint(last), last)
        parts: list[dict[str, float]] = []
        while self.step < self.recipe.steps:
            parts.append(self.train_step())
            if report is not None and self.rank == 0 and self.step % report_every == 0:
                report(self.step, _mean(parts))
                parts = []
            if self.step % checkpoint_every == 0 or self.step == self.recipe.steps:
                measured = self._probe()
                if report is not None and self.rank == 0:
                    report(self.step, measured)
                state = self.state_dict()
                if self.rank == 0:
                    save_checkpoint(folder, state)
        problem = check_collapse(self._measure())
        if problem is not None:
            raise RuntimeError(
                f"The training is not finished: the features have collapsed, {problem}. "
                "Lower `learning_rate`, raise `contrast` or `koleo`, or train longer."
            )

    def train_step(self) -> dict[str, float]:
        """Draw a batch, and update student and teacher; returns the step's losses."""
        rate = self.recipe.learning_rate * compute_schedule(self.step, self.recipe.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["rate"]
        views = self._draw_views()
        loss, parts = compute_loss(self.student, self.teacher, self.centre, views, self.recipe, self.generator)
        loss.backward()
        average_gradients(self.student.parameters())
        average([self.centre])
        nn.utils.clip_grad_norm_(self.student.parameters(), _CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=False)
        self.step += 1
        # A young teacher follows at once.
        update_teacher(self.teacher, self.student, min(1 - 1 / (1 + self.step), self.recipe.momentum))
        return parts

    def _draw_views(self) -> StepViews:
        """Draw what kind of step comes next, and its views."""
        recipe = self.recipe
        kind = torch.rand(2, generator=self.generator, device=self.device).tolist()
        whole = kind[0] < recipe.whole_share
        count = recipe.batch_size
        if whole:
            count = max(_LEAST_WHOLE, round(count * (recipe.view_size / recipe.image_size) ** 2))
        if self.renderer is not None and kind[1] < recipe.synthetic_share:
            groups = max(1, count // _GROUP)
            batch = self.renderer.draw(count, self.generator, groups, recipe.cross_share)
        else:
            batch = self.pool.draw(count, self.generator)
        return make_step_views(batch, recipe, self.generator, whole)

    def state_dict(self) -> dict[str, Any]:
        """Everything that the rest of the training depends on. Every process must call it."""
        own = self.generator.get_state()
        states = [own]
        if self.world > 1:
            states = [torch.empty_like(own) for _ in range(self.world)]
            dist.all_gather(states, own)
        return {
            "step": self.step,
            "recipe": asdict(self.recipe),
            "student": self.student.state_dict(),
            "teacher": self.teacher.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "centre": self.centre,
            "generators": states,
            "history": self.history,
        }

    def load_state_dict(self, state: dict[str, Any], source: object = "checkpoint") -> None:
        """Continue from a state.

        Args:
            state: what `state_dict` gave.
            source: named in errors.

        Raises:
            CheckpointError: when it was trained with another recipe (but for ``steps``) or number of processes.
        """
        theirs, ours = state["recipe"], asdict(self.recipe)
        differing = [name for name in ours if name != "steps" and theirs.get(name) != ours[name]]
        if differing:
            details = ", ".join(f"{name} {theirs.get(name)} (now {ours[name]})" for name in differing)
            raise CheckpointError(
                f"{source}: was trained with another recipe: {details}. "
                "Give the same settings to continue, or another `out` to begin anew."
            )
        if len(state["generators"]) != self.world:
            raise CheckpointError(
                f"{source}: was trained with {len(state['generators'])} processes (now {self.world}). "
                "Continue with as many."
            )
        self.student.load_state_dict(state["student"])
        self.teacher.load_state_dict(state["teacher"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.centre.copy_(state["centre"])
        self.generator.set_state(state["generators"][self.rank])
        self.step, self.history = state["step"], list(state["history"])

    def _measure(self) -> dict[str, float]:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.precision == "bf16"):
            return probe_features(self.teacher.backbone, self.pool, self.recipe, self.device)

    def _probe(self) -> dict[str, float]:
        measured = self._measure()
        self.history.append({"step": float(self.step), **measured})
        return measured


class _processes:
    """Join the group of processes that torchrun started, where it did, and leave it at the end."""

    def __enter__(self) -> None:
        self._joined = int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized()
        if self._joined:
            dist.init_process_group("gloo")

    def __exit__(self, *error: object) -> None:
        if self._joined:
            dist.destroy_process_group()


def _build(recipe: Recipe) -> PretrainModel:
    """Make the student from the recipe's seed, without touching the global generators."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        backbone = build_backbone(
            recipe.embed_dim,
            recipe.num_layers,
            recipe.num_heads,
            recipe.patch_size,
            recipe.mlp_ratio,
            recipe.image_size,
        )
        return PretrainModel(backbone, recipe.projection_dim, recipe.num_prototypes if recipe.distillation else 0)


def _mean(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for part in parts for name in part)
    return {n: sum(p[n] for p in parts if n in p) / sum(n in p for p in parts) for n in names}
