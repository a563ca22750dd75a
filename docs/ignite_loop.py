"""Evaluate a bundle inside a plain Ignite engine: python docs/ignite_loop.py BUNDLE DATA"""

import sys

import torch
from ignite.engine import Engine
from monai.data import decollate_batch

from monai_dpmm_ad import ScanMetrics, load_workflow

workflow = load_workflow(sys.argv[1], ["inference"], "inference", dataset_dir=sys.argv[2:], save_maps=False)
workflow.initialize()


@torch.no_grad()
def step(engine, batch):
    if "failure" in batch:  # the scan cannot be read; the others still can
        print(batch["failure"], file=sys.stderr)
        return []
    pred = workflow.inferer(batch["image"], workflow.network)
    return [workflow.postprocessing(decollate_batch({**batch, "pred": pred})[0])]


engine = Engine(step)
ScanMetrics(workflow.network).attach(engine, "val_score")  # with the thresholds of the bundle's calibration
print(engine.run(workflow.parser.get_parsed_content("dataloader")).metrics)
