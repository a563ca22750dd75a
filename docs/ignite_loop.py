"""Evaluate a bundle inside a plain Ignite engine: python docs/ignite_loop.py BUNDLE DATA"""

import sys

import torch
from ignite.engine import Engine
from monai.data import decollate_batch

from monai_dpmm_ad.bundle import load_network, load_workflow
from monai_dpmm_ad.handlers import AnomalyMetricsHandler

workflow = load_workflow(sys.argv[1], ["inference"], "inference", dataset_dir=sys.argv[2:], save_maps=False)
workflow.initialize()
network, parts = load_network(workflow, sys.argv[1]), workflow.parser.get_parsed_content


@torch.no_grad()
def step(engine, batch):
    pred = parts("inferer")(batch["image"], network)
    return parts("postprocessing")(decollate_batch({**batch, "pred": pred})[0])


def to_metric(scan):
    about = {"names": [scan["pred"].meta["name"]], "foreground": [scan["pred"] > 0], "image_scores": [scan["score"]]}
    return [scan["pred"]], [scan.get("label")], about


engine = Engine(step)
AnomalyMetricsHandler(output_transform=to_metric).attach(engine, "val_score")
print(engine.run(parts("dataloader")).metrics)
