# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""``python -m monai_dpmm_ad`` is ``monai-dpmm-ad``."""

import sys

from monai_dpmm_ad.commands.cli import main

if __name__ == "__main__":
    sys.exit(main())
