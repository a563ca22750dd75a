# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Serve a bundle to 3D Slicer and other clients of MONAI Label; needs the `label` extra only where a task is made."""
