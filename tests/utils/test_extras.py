# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import logging
import math
import warnings

import pytest

from monai_dpmm_ad.utils.extras import import_extra
from monai_dpmm_ad.utils.quiet import quiet


def test_what_is_installed_is_imported_and_what_is_not_says_how() -> None:
    assert import_extra("math", "any") is math
    with pytest.raises(ImportError, match=r"no_such_package is needed .* pip install 'monai-dpmm-ad\[report\]'"):
        import_extra("no_such_package", "report")


def test_quiet_silences_warnings_and_loggers_but_no_exception(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("talker.part")

    def talk() -> None:
        with quiet("talker"):
            warnings.warn("loud", stacklevel=1)
            logger.critical("loud")
            raise KeyError("heard")

    with pytest.raises(KeyError, match="heard"):
        talk()
    assert not caplog.records
    logger.critical("heard again")
    assert [record.message for record in caplog.records] == ["heard again"]
