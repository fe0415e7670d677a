"""What the two routes tell (stand-in); `tests/e2e/test_documentation.py` asks a real WebUI."""

from __future__ import annotations

import json
import types

import pytest

from lib_masactrl.settings import SETTINGS
from lib_masactrl.version import VERSION


@pytest.fixture
def http_api(host, monkeypatch):
    from lib_masactrl.host import http_api

    monkeypatch.setattr(http_api, "shared", host.shared)
    vars(host.shared.opts).update({http_api.CACHE_MIB: 256, http_api.CACHE_ON_DISK: False})
    return http_api


def test_routes(http_api):
    asked = []
    app = types.SimpleNamespace(add_api_route=lambda path, route, methods: asked.append((path, methods)))
    http_api.add_routes(None, app)
    assert asked == [("/masactrl/version", ["GET"]), ("/masactrl/status", ["GET"])]


def test_version_names_every_setting(http_api):
    told = http_api.version()
    assert told["version"] == VERSION
    assert told["settings"] == {setting.key: setting.default for setting in SETTINGS}


def test_status_without_a_model(http_api, monkeypatch):
    monkeypatch.setattr(http_api, "chosen_model", lambda: None)
    told = http_api.status()
    assert told["model"] is None
    assert told["cache"] == {"limit_mib": 256, "on_disk": False, "kept": 0, "mib": 0.0}


def test_status_of_a_model(http_api, monkeypatch):
    model = types.SimpleNamespace(family="SD 1", layers=16, refusal="", loaded=True)
    monkeypatch.setattr(http_api, "chosen_model", lambda: model)
    told = json.loads(json.dumps(http_api.status()))
    told_of_model = {"family": "SD 1", "self_attention_layers": 16, "automatic_start_layer": 10}
    assert told["model"] == {**told_of_model, "refusal": "", "loaded": True}
    assert told["host"] in ("AUTOMATIC1111", "Forge")
