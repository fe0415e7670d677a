"""Units of Mikubill's ControlNet (stand-in) in the script's life cycle: their rows, and that nothing stays on them.

That a real extension's signals are met is proved by ``tests/e2e/test_control_branches.py``.
"""

from __future__ import annotations

import importlib
from types import SimpleNamespace

import pytest
import torch

from lib_masactrl.errors import SettingsError, UnsupportedCombinationError
from tests.webui_requests import NAMED
from tests.webui_standin import Request

METHOD = "apply_effective_region_mask"


class Model:
    """A control model; that of an IP-Adapter passes its signal through a method of its own."""

    def apply_effective_region_mask(self, out: torch.Tensor) -> torch.Tensor:
        return out * 2


class Masked(Model):
    """``ControlParams``: passes the control signal of its model through a method of its own, but for an IP-Adapter."""

    def __init__(self, kind: str = "ControlNet", supported: bool = True, model: Model | None = None) -> None:
        self.control_model_type = SimpleNamespace(name=kind, supports_effective_region_mask=supported)
        self.control_model = model or Model()


class ControlNetScript:
    """Adds its control signals, each with an own value, to what the U-Net's first block passes on."""

    args_from, args_to = 0, 9
    ui_batch_option_state = ("All ControlNet units for all images in a batch", False)

    def __init__(self, *params: Masked) -> None:
        self.latest_network = SimpleNamespace(control_params=list(params))
        self.rows: list[list[float]] = []

    def title(self) -> str:
        return "ControlNet"

    def hook(self, module, inputs, output):
        ones = torch.ones(len(output), 1, 1, 1)
        signals = [holder.apply_effective_region_mask(ones) for holder in self.holders]
        self.rows.append(sum(signals)[:, 0, 0, 0].tolist())

    @property
    def holders(self) -> list[Model]:
        params = self.latest_network.control_params
        return [p.control_model if p.control_model_type.name == "IPAdapter" else p for p in params]


def run(host, script, units, **settings):
    block = host.shared.sd_model.model.diffusion_model.input_blocks[0]
    hook = block.register_forward_hook(script.hook)
    p = Request(host, scripts=SimpleNamespace(alwayson_scripts=[script]), script_args=tuple(units))
    try:
        host.process_images(p, host.script, {**NAMED, **settings})
    finally:
        hook.remove()
        assert not any(METHOD in vars(holder) for holder in script.holders)
    return script.rows


UNIT = {"enabled": True, "module": "canny"}
#: Rows of a U-Net call: target and source, cond; then both again, uncond.
ROWS = {"target": [2, 0, 2, 0], "source": [0, 2, 0, 2], "both": [2, 2, 2, 2], "target 0.5 + source 1.5": [1, 3, 1, 3]}


@pytest.mark.parametrize("guides", ROWS)
@pytest.mark.parametrize("kind", ["ControlNet", "T2I_Adapter", "IPAdapter"])
def test_the_rows_of_a_unit(host, guides, kind):
    assert run(host, ControlNetScript(Masked(kind)), [UNIT], control_guides=guides) == [ROWS[guides]] * 4


def test_units_have_the_numbers_of_the_accordion(host):
    off, other_object = {**UNIT, "enabled": False}, SimpleNamespace(enabled=True, module="none")
    no_units = [SimpleNamespace(enabled=True), SimpleNamespace(module="none")]
    units = ["text", *no_units, off, other_object]
    rows = run(host, ControlNetScript(Masked()), units, control_guides="target, source")
    assert rows == [ROWS["source"]] * 4


def test_a_picture_per_target(host):
    several = {**UNIT, "input_mode": "merge", "image": [{}, {}]}
    script = ControlNetScript(Masked(), Masked())
    assert run(host, script, [several], control_guides="each", more_targets="a dog")[0] == [4, 4, 0] * 2


def test_a_unit_per_target(host):
    """Units with one picture each, in order; others between them count for nothing."""
    guides = {"control_guides": "each, source, each", "more_targets": "a dog"}
    script = ControlNetScript(Masked(), Masked(), Masked())
    weights = []
    script.hook = lambda module, inputs, output: weights.append(
        [
            holder.apply_effective_region_mask(torch.ones(len(output), 1, 1, 1)).flatten().tolist()
            for holder in script.holders
        ]
    )
    run(host, script, [UNIT, UNIT, UNIT], **guides)
    assert weights[0] == [[2, 0, 0] * 2, [0, 0, 2] * 2, [0, 2, 0] * 2]


REFUSED = [
    ([{**UNIT, "module": "tile_colorfix"}], [Masked()], {}, "unit 0 .tile_colorfix. works on the whole batch"),
    ([UNIT], [Masked("Controlllite", False)], {}, "kind .Controlllite."),
    ([UNIT, UNIT], [Masked()], {}, "1 control signals of 2 enabled units"),
    ([{**UNIT, "enabled": False}, UNIT], [], {"control_guides": "both"}, "nothing of unit 1 .canny., and said why in"),
    ([UNIT], [Masked()], {"control_guides": "each", "more_targets": "a dog"}, "1 control pictures for 2 targets"),
    ([UNIT] * 3, [Masked()] * 3, {"control_guides": "each", "more_targets": "a dog"}, "3 control pictures for 2 targe"),
]


@pytest.mark.parametrize(("units", "params", "settings", "message"), REFUSED)
def test_what_cannot_be_kept_to_a_branch_is_refused(host, units, params, settings, message):
    with pytest.raises((UnsupportedCombinationError, SettingsError), match=message):
        run(host, ControlNetScript(*params), units, **settings)


def test_a_unit_for_both_passes_whatever_it_is(host):
    rows = run(host, ControlNetScript(Masked("Controlllite", False)), [UNIT], control_guides="both")
    assert rows == [ROWS["both"]] * 4


@pytest.mark.parametrize("option", [("Each ControlNet unit for each image in a batch", False), ("All", True)])
def test_batch_options_are_refused(host, option):
    script = ControlNetScript(Masked())
    script.ui_batch_option_state = option
    with pytest.raises(UnsupportedCombinationError, match="batch option"):
        run(host, script, [UNIT])


def test_an_error_leaves_nothing_on_the_units(host):
    host.raise_at = 2
    with pytest.raises(RuntimeError, match="out of memory"):
        run(host, ControlNetScript(Masked("IPAdapter")), [UNIT])


def test_units_that_share_an_object_are_refused(host):
    """ControlNet copies an IP-Adapter's object for a second unit; a version that does not would mix up the weights."""
    params = [Masked("IPAdapter", model=model) for model in [Model()] * 2]
    with pytest.raises(UnsupportedCombinationError, match="shares the object"):
        run(host, ControlNetScript(*params), [UNIT, UNIT], control_guides="both 0.5, target")


def test_units_of_one_adapter_get_an_object_each_while_they_act(host):
    """T2I-Adapters keep their output on the model, so that every unit would guide by the first one's picture."""
    shared = Model()
    script = ControlNetScript(*[Masked("T2I_Adapter", model=shared) for _ in range(2)], Masked(model=shared))
    params, models = script.latest_network.control_params, []
    script.hook = lambda *_: models.append([param.control_model for param in params])
    run(host, script, [UNIT] * 3, control_guides="target, source, target")
    first, second, of_controlnet = models[0]
    assert first is not second and shared not in (first, second) and of_controlnet is shared
    assert all(param.control_model is shared for param in params)


@pytest.mark.parametrize("network", [None, SimpleNamespace(), SimpleNamespace(control_params=None)], ids=str)
def test_a_request_without_units_is_let_pass(host, network):
    script = ControlNetScript()
    script.latest_network, script.hook = network, lambda *_: None
    p = Request(host, scripts=SimpleNamespace(alwayson_scripts=[script]))
    assert len(host.process_images(p, host.script, NAMED).images) == 2


def test_a_version_without_a_weight_per_image_is_refused(host):
    param = Masked()
    param = SimpleNamespace(control_model_type=param.control_model_type, control_model=None)
    p = Request(host, scripts=SimpleNamespace(alwayson_scripts=[ControlNetScript(param)]), script_args=(UNIT,))
    with pytest.raises(UnsupportedCombinationError, match="no weight per image"):
        host.process_images(p, host.script, NAMED)


def test_a_version_without_batch_options_has_none_to_refuse(host, monkeypatch):
    monkeypatch.delattr(ControlNetScript, "ui_batch_option_state")
    assert run(host, ControlNetScript(Masked()), [UNIT]) == [ROWS["target"]] * 4


def test_control_guides_without_controlnet_is_refused(host):
    p = Request(host)
    with pytest.raises(SettingsError, match="no ControlNet extension is active"):
        host.process_images(p, host.script, {**NAMED, "control_guides": "source"})


def test_units_are_silent_during_inversion_and_speak_again(host):
    silenced = importlib.import_module("lib_masactrl.host.controlnet").silenced
    script = ControlNetScript(Masked())
    (unit,), unet = script.latest_network.control_params, SimpleNamespace(current_sampling_percent=0.25)
    unit.guidance_stopped, script.latest_network.model = False, unet
    p = Request(host, scripts=SimpleNamespace(alwayson_scripts=[script]))
    with pytest.raises(RuntimeError, match="stop"), silenced(p):
        assert (unit.guidance_stopped, unet.current_sampling_percent) == (True, 2.0)
        raise RuntimeError("stop")
    assert (unit.guidance_stopped, unet.current_sampling_percent) == (False, 0.25)
    with silenced(Request(host)):
        pass


def test_the_field_is_shown_beside_controlnet_alone(host):
    hidden = importlib.import_module("lib_masactrl.host.controlnet").hidden_settings
    assert hidden() == {"control_guides"}
    script = type("Script", (), {"__module__": "controlnet.py"})
    host.scripts.scripts_data = [SimpleNamespace(script_class=script)]
    assert hidden() == set()


def test_an_lllite_beside_other_tokens_is_refused(host):
    """It adds to each token by its place, so that it fits a plain call alone."""
    script = ControlNetScript(Masked("Controlllite", supported=False))
    with pytest.raises(UnsupportedCombinationError, match=r"unit 0 \(canny\) is an LLLite.*give method 'mutual'"):
        run(host, script, [UNIT], control_guides="both", method="union")
    assert run(host, script, [UNIT], control_guides="both")
