"""Anomaly maps for medical images: a Dirichlet process mixture on frozen DINO features, as a MONAI bundle."""

__version__ = "0.1.0"
