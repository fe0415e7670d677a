"""The small checkpoint and its model, made once for all tests of the standalone host; a WebUI's stand-in for each."""

from __future__ import annotations

import importlib

import pytest


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    from tests.small_models import write_checkpoint  # here: tests without a model need not wait for these imports

    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="session")
def model(checkpoint):
    from lib_masactrl.host.standalone.checkpoint import load_checkpoint

    return load_checkpoint(checkpoint, "cpu")


@pytest.fixture
def host():
    from tests.webui_requests import Script
    from tests.webui_standin import installed

    with installed() as host:
        host.script = Script(importlib.import_module("lib_masactrl.host.request"))
        yield host
        assert host.errors == []
