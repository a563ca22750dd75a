# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""OCSVM-guided autoencoders: a latent that a one-class SVM shapes while it is learned."""
