# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Moves that change which components there are: merges, splits, components for new data, and when each is made."""
