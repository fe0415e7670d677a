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


@pytest.fixture
def files(tmp_path):
    """``adapter.safetensors`` for the small checkpoint, and two pictures, ``1.png`` and ``2.png``."""
    import torch
    from PIL import Image
    from safetensors.torch import save_file

    from lib_masactrl.host.standalone.t2i_adapter import original_state
    from tests.standalone_requests import random_adapter

    save_file(original_state(random_adapter()), tmp_path / "adapter.safetensors")
    for number in (1, 2):
        noise = torch.randint(256, (64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(number))
        Image.fromarray(noise.numpy()).save(tmp_path / f"{number}.png")
    return tmp_path
