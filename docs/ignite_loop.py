"""Evaluate a bundle inside a plain Ignite engine: python docs/ignite_loop.py BUNDLE DATA"""

import sys

import torch
from ignite.engine import Engine
from monai.data import decollate_batch

from monai_dpmm_ad import AnomalyMetricsHandler, load_workflow

workflow = load_workflow(sys.argv[1], ["inference"], "inference", dataset_dir=sys.argv[2:], save_maps=False)
workflow.initialize()


@torch.no_grad()
def step(engine, batch):
    pred = workflow.inferer(batch["image"], workflow.network)
    return workflow.postprocessing(decollate_batch({**batch, "pred": pred})[0])


def to_metric(scan):
    about = {"names": [scan["pred"].meta["name"]], "foreground": [scan["pred"] > 0], "image_scores": [scan["score"]]}
    return [scan["pred"]], [scan.get("label")], about


engine = Engine(step)
AnomalyMetricsHandler(output_transform=to_metric).attach(engine, "val_score")
print(engine.run(workflow.parser.get_parsed_content("dataloader")).metrics)
