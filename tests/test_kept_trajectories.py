"""The key of a kept trajectory names everything that it depends on, as a WebUI (stand-in) tells it."""

from __future__ import annotations

import importlib
import os
import types
from pathlib import Path

import pytest
import torch

from tests.webui_standin import Request

GIVEN = {
    "picture": torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0)),
    "path": (0.0, 1.0, 14.6),
    "refinements": 0,
    "asked": [None, torch.ones(2)],
}
REQUEST = {
    "init_latent": torch.zeros(1, 4, 8, 8),
    "resize_mode": 0,
    "tiling": False,
    "sd_vae_name": "a",
    "sd_vae_hash": "b",
    "extra_network_data": {},
    "get_token_merging_ratio": lambda: 0,
}
OPTIONS = ("sd_vae", "sd_vae_encode_method", "forge_additional_modules", "sd_hypernetwork", "enable_quantization")


@pytest.fixture
def kept(host, tmp_path):
    host.shared.opts = types.SimpleNamespace(data={})
    checkpoint = tmp_path / "model.safetensors"
    checkpoint.write_bytes(b"weights")
    host.shared.sd_model.sd_checkpoint_info = types.SimpleNamespace(filename=str(checkpoint))
    return importlib.import_module("lib_masactrl.host.kept_trajectories")


def key(host, kept, **changes):
    given = {name: changes.pop(name, value) for name, value in GIVEN.items()}
    return kept.trajectory_key(Request(host, **{**REQUEST, **changes}), *given.values())


@pytest.mark.parametrize(
    "changes",
    [
        {"picture": GIVEN["picture"] + 1 / 255},
        {"path": (0.0, 1.5, 14.6)},
        {"refinements": 1},
        {"asked": [["FreeU"], torch.ones(2)]},
        {"asked": [None, torch.ones(3)]},
        {"init_latent": torch.zeros(1, 4, 8, 16)},
        {"resize_mode": 1},
        {"tiling": True},
        {"sd_vae_name": "c"},
        {"sd_vae_hash": "c"},
        {"extra_network_data": {"lora": [types.SimpleNamespace(items=["nudge", "1"])]}},
        {"get_token_merging_ratio": lambda: 0.5},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_what_the_request_decides(host, kept, changes):
    assert key(host, kept) == key(host, kept)
    assert key(host, kept, **changes) != key(host, kept)


@pytest.mark.parametrize("option", OPTIONS)
def test_what_the_settings_decide(host, kept, option):
    before = key(host, kept)
    host.shared.opts.data[option] = "another"
    assert key(host, kept) != before


def test_the_prompt_and_the_seed_of_the_target_change_nothing(host, kept):
    assert key(host, kept, prompt="a dog", seed=99, iteration=1) == key(host, kept)


def test_a_checkpoint_written_anew_under_its_name_is_another(host, kept):
    before = key(host, kept)
    os.utime(host.shared.sd_model.sd_checkpoint_info.filename, ns=(1, 1))
    assert key(host, kept) != before


def test_the_cache_is_as_large_as_the_settings_say_now(host, kept, tmp_path):
    host.shared.opts.masactrl_cache_mib, host.shared.opts.masactrl_cache_on_disk = 3, True
    kept.paths.data_path = str(tmp_path)
    kept.configure_cache()
    assert (kept.CACHE._limit, kept.CACHE._folder) == (3 * 2**20, Path(tmp_path) / "cache" / "masactrl")
    del host.shared.opts.masactrl_cache_mib
    host.shared.opts.masactrl_cache_on_disk = False
    kept.configure_cache()
    assert (kept.CACHE._limit, kept.CACHE._folder) == (kept.DEFAULT_CACHE_MIB * 2**20, None)
