# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Helpers that know nothing of images; empty, so that the command line starts without torch."""
