"""The small checkpoint and its model, made once for all tests of the standalone host."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    from tests.small_models import write_checkpoint  # here: tests without a model need not wait for these imports

    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="session")
def model(checkpoint):
    from lib_masactrl.host.standalone.checkpoint import load_checkpoint

    return load_checkpoint(checkpoint, "cpu")
