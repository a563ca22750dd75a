# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import pickle

import pytest

from monai_dpmm_ad.errors import ScanError, telling_user, unknown_option


def test_unknown_option_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="Did you mean 'diagonal'"):
        raise unknown_option("covariance", "diagnal", ["full", "diagonal"])


def test_unknown_option_without_a_near_one_lists_all() -> None:
    assert str(unknown_option("x", "zzz", ["b", "a"])) == "`x` must be one of a, b, got 'zzz'."


def test_scan_error_survives_a_worker_process() -> None:
    error = pickle.loads(pickle.dumps(ScanError("a.nii", "is empty")))
    assert (str(error), error.path, error.reason) == ("a.nii: is empty", "a.nii", "is empty")


def test_a_signal_is_not_told_as_the_users_mistake() -> None:
    @telling_user()
    def write() -> None:
        try:
            try:
                raise KeyboardInterrupt
            finally:
                raise OSError("cannot be written, is the disk full?")
        except OSError as error:
            raise RuntimeError("Failed to evaluate ConfigExpression") from error

    with pytest.raises(KeyboardInterrupt):
        write()
