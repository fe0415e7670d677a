"""The patched network of a Forge WebUI (stand-in): what an inversion asks, and when two networks are the same."""

from __future__ import annotations

import importlib
import types

import pytest
import torch
from torch import nn

from tests.webui_standin import Request


@pytest.fixture
def network(host):
    return importlib.import_module("lib_masactrl.host.forge_network")


def from_extension(folder, source, file="/webui/extensions-builtin/{}/lib/code.py"):
    """What is defined by ``source`` in a file of an extension."""
    defined: dict[str, object] = {}
    exec(compile(source, file.format(folder), "exec"), defined)
    return defined


ON_WINDOWS = r"C:\web ui\extensions-builtin\{}\lib\code.py"
CLASS = "class {0}:\n    def __call__(self, *args): pass\n    def process_before_every_sampling(self): pass"
ADAPTER = from_extension("sd_forge_ipadapter", CLASS.format("Patch") + "\n" + CLASS.format("Unit"))
TILE = from_extension("forge_preprocessor_tile", CLASS.format("Tile") + "\ndef colour_fix(h): pass", ON_WINDOWS)
FREEU = from_extension(
    "sd_forge_freeu",
    "def patch(scale, more=0):\n    def output_block_patch(h, more=more):\n        return h * scale\n"
    "    return output_block_patch\ndef wrapper(apply_model, given): pass",
)


def loaded(options, **more):
    patcher = types.SimpleNamespace(model_options=options, **more)
    return types.SimpleNamespace(forge_objects=types.SimpleNamespace(unet=patcher))


def beside(host, **units):
    """A request beside Forge's ControlNet, with one unit of these parts, or none."""
    script = types.SimpleNamespace(title=lambda: "ControlNet", current_params={})
    if units:
        script.current_params[0] = types.SimpleNamespace(**units)
    return Request(host, scripts=types.SimpleNamespace(alwayson_scripts=[script]))


def options():
    adapter, freeu = ADAPTER["Patch"](), FREEU["patch"](2.0)
    return {
        "transformer_options": {
            "patches": {"output_block_patch": [freeu], "attn1_patch": [adapter.__call__]},
            "patches_replace": {"attn2": {("input", 1): adapter}, "attn1": {("middle", 0): freeu}},
            "block_modifiers": [TILE["colour_fix"]],
            "rows": [],
        },
        "model_function_wrapper": FREEU["wrapper"],
    }


def test_patches_of_units_are_left_out_and_every_other_stays(host, network):
    given = options()
    unit = beside(host, model=ADAPTER["Unit"](), preprocessor=TILE["Tile"]())
    found = network.network_options(unit, loaded(given))
    freeu = given["transformer_options"]["patches"]["output_block_patch"][0]
    assert found == {
        "transformer_options": {
            "patches": {"output_block_patch": [freeu]},
            "patches_replace": {"attn2": {}, "attn1": {("middle", 0): freeu}},
            "rows": [],
        },
        "model_function_wrapper": FREEU["wrapper"],
    }
    assert len(given["transformer_options"]["patches"]) == 2  # the sampler's own are as they were


@pytest.mark.parametrize("units", [{}, {"model": nn.Identity(), "preprocessor": object()}])
def test_without_units_of_an_extension_everything_stays(host, network, units):
    given = options()
    assert network.network_options(beside(host, **units), loaded(given)) == given


def test_automatic1111_has_no_patcher(host, network):
    assert network.network_options(Request(host), host.shared.sd_model) == {}
    assert network.network_key(host.shared.sd_model, {}) is None


class Held:
    def __init__(self, value):
        self.value = value

    def method(self):
        return self.value


def one_of(count):
    """A one among zeros, where a tensor's text has dots."""
    return torch.nn.functional.one_hot(torch.tensor(count // 2), count).float()


def replacing(value):
    return lambda: value


@pytest.mark.parametrize(
    ("same", "other"),
    [
        (lambda: FREEU["patch"](2.0), lambda: FREEU["patch"](3.0)),
        (lambda: FREEU["patch"](2.0, 1), lambda: FREEU["patch"](2.0, 2)),
        (lambda: Held({"a": [1, torch.zeros(2000)]}), lambda: Held({"a": [1, one_of(2000)]})),
        (lambda: Held(1).method, lambda: Held(2).method),
        (lambda: Held(1), lambda: TILE["Tile"]()),
        (lambda: {"patches": {"a": [replacing(1)]}}, lambda: {"patches": {"a": [replacing(1), replacing(1)]}}),
    ],
    ids=["closure", "default", "object", "method", "class", "one more"],
)
def test_what_computes_the_same_is_described_the_same(network, same, other):
    assert network.described(same()) == network.described(same())
    assert network.described(same()) != network.described(other())


def test_what_cannot_be_compared_is_never_the_same(network):
    module = nn.Linear(2, 2)
    assert network.described(module) != network.described(module)
    assert network.described(replacing(module)) != network.described(replacing(module))
    assert network.described(torch.nn.functional.gelu) != network.described(torch.nn.functional.gelu)


def test_what_holds_itself_is_described_to_its_end(network):
    held = Held(None)
    held.value = [held]
    assert "itself" in str(network.described(held))


def test_the_key_knows_patches_and_replaced_objects(network):
    plain = network.network_key(loaded({}, object_patches={}), {})
    assert plain == network.network_key(loaded({}, object_patches={}), {})
    assert plain != network.network_key(loaded({}, object_patches={"model_sampling": Held(1)}), {})
    assert plain != network.network_key(loaded({}, object_patches={}), options())
    assert plain != network.network_key(loaded({}, object_patches={}), {"model_function_wrapper": FREEU["wrapper"]})
