"""Units of a ControlNet extension (stand-in) in the script's life cycle: their rows, and that nothing stays on them.

That a real extension's signals are met is proved by ``tests/e2e/test_control_branches.py``.
"""

from __future__ import annotations

import importlib
from types import SimpleNamespace

import pytest
import torch

from lib_masactrl.branches import BatchLayout, branches_in_batch
from lib_masactrl.errors import SettingsError, UnsupportedCombinationError
from lib_masactrl.settings import MasaCtrlSettings
from tests.webui_requests import NAMED, Script
from tests.webui_standin import Request, installed

METHOD = "apply_effective_region_mask"


class Masked:
    """``ControlParams``, or the model of an IP-Adapter: passes a control signal through a method of its own."""

    def __init__(self, kind: str = "ControlNet", supported: bool = True) -> None:
        self.control_model_type = SimpleNamespace(name=kind, supports_effective_region_mask=supported)
        self.control_model = self

    def apply_effective_region_mask(self, out: torch.Tensor) -> torch.Tensor:
        return out * 2


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
    def holders(self) -> list[Masked]:
        params = self.latest_network.control_params
        return [p.control_model if p.control_model_type.name == "IPAdapter" else p for p in params]


@pytest.fixture
def host():
    with installed() as host:
        host.script = Script(importlib.import_module("lib_masactrl.host.request"))
        yield host


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
    rows = run(host, ControlNetScript(Masked()), ["text", off, other_object], control_guides="target, source")
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
    model = Masked("IPAdapter")
    with pytest.raises(UnsupportedCombinationError, match="shares the object"):
        run(host, ControlNetScript(model, model), [UNIT, UNIT], control_guides="both 0.5, target")


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


class Linked:
    """Forge's ``ControlBase``, linked to the U-Net for one pass."""

    advanced_frame_weighting: list[float] | None = None

    def get_control(self) -> None: ...


MODEL = SimpleNamespace(model_patcher=Linked())


def runs(count: int) -> dict[int, SimpleNamespace]:
    """So many runs of units, all of one model."""
    return dict.fromkeys(range(count), MODEL)


def compute_controlnet_weighting() -> None:
    """Stands in the module of Forge's class, and is how a ControlNet that reads these weights is known."""


def on_forge(host, settings, units, runs, linked=None, **request):
    """What units of Forge's ControlNet are linked with before an evaluation of targets and source.

    Args:
        runs: what ControlNet made of the enabled units, by number: its model for each.
        linked: the nets that are linked in this pass, in order; one per run unless given.
    """
    controlnet = importlib.import_module("lib_masactrl.host.controlnet")
    runs = {number: SimpleNamespace(model=model) for number, model in runs.items()}
    nets = [Linked() for _ in runs] if linked is None else linked
    objects = SimpleNamespace(forge_objects=SimpleNamespace(unet=SimpleNamespace(list_controlnets=lambda: nets[::-1])))
    script = SimpleNamespace(title=lambda: "ControlNet", args_from=0, args_to=9, current_params=runs)
    runner = SimpleNamespace(alwayson_scripts=[script])
    p = SimpleNamespace(scripts=runner, script_args=units, sd_model=objects, **request)
    branches = branches_in_batch(1, settings.targets)
    controlnet.BranchGuidance(p, settings, branches, lambda: BatchLayout(branches)).refresh()
    return [net.advanced_frame_weighting for net in nets]


def test_forge_gets_a_weight_per_image(host):
    settings = MasaCtrlSettings(more_targets="a dog", control_guides="target 0.5 + source 2, both")
    units = ({"module": "canny"}, {"module": "canny"})  # in Forge a unit is enabled unless it says otherwise
    assert on_forge(host, settings, units, runs(2)) == [[0.5, 0.5, 2.0], None]


#: Of two targets and a source: what each run of units is linked with.
OF_EACH = {
    "Forge's Multi-Inputs": ([{"input_mode": "merge", "batch_input_gallery": ["1", "2"]}], [[0.5, 0.5, 0.3]]),
    "reForge's": ([{"input_mode": "merge", "multi_inputs_gallery": ["1", "2"]}], [[1, 0, 0.3], [0, 1, 0.3]]),
    "a unit per target": ([{}, {}], [[0.5, 0, 0.3], [0, 0.5, 0.3]]),
}


@pytest.mark.parametrize("case", OF_EACH)
def test_forge_gives_each_target_its_picture(host, case):
    """Forge deals the pictures of one unit out to the batch itself; reForge makes them units of half the weight."""
    units, expected = OF_EACH[case]
    settings = MasaCtrlSettings(more_targets="a dog", control_guides="each 0.5 + source 0.3")
    assert (
        on_forge(host, settings, tuple({"module": "none", **unit} for unit in units), runs(len(expected))) == expected
    )


def test_several_pictures_of_one_unit_on_reforge_spare_the_source(host):
    unit = {"module": "none", "input_mode": "merge", "multi_inputs_gallery": ["1", "2", "3"]}
    settings = MasaCtrlSettings(control_guides="target, both")
    assert on_forge(host, settings, (unit, {"module": "none"}), runs(4)) == [[1, 0]] * 3 + [None]


BOTH, FIRST, SECOND = (True, True), (True, False), (False, True)
HIRES = [
    ("Both", BOTH),
    ("Low res only", FIRST),
    ("HiResFixOption.HIGH_RES_ONLY", SECOND),
    (1, FIRST),
    (2, SECOND),
    (SimpleNamespace(value="High res only"), SECOND),
]


@pytest.mark.parametrize(("option", "acts"), HIRES, ids=str)
def test_a_unit_may_sit_out_a_pass_of_hires_fix(host, option, acts):
    """Then the net that is linked is the other unit's."""
    settings, units = MasaCtrlSettings(control_guides="target, source"), ({"hr_option": option}, {})
    for hires_pass in (False, True):
        expected = [[1, 0], [0, 1]] if acts[hires_pass] else [[0, 1]]
        nets = [Linked() for _ in expected]
        assert on_forge(host, settings, units, runs(2), nets, enable_hr=True, is_hr_pass=hires_pass) == expected
    without_hires = on_forge(host, settings, units, runs(2), enable_hr=False)
    assert without_hires == [[1, 0], [0, 1]]


@pytest.mark.parametrize("request_", [{}, {"enable_hr": True, "is_hr_pass": True}])
def test_nets_that_cannot_be_told_apart_are_refused(host, request_):
    """One too many, as another extension would link."""
    with pytest.raises(UnsupportedCombinationError, match="2 control models are linked for 1 ControlNet units"):
        on_forge(host, MasaCtrlSettings(), (UNIT,), runs(1), [Linked(), Linked()], **request_)
    asked = MasaCtrlSettings(control_guides="both")
    assert on_forge(host, asked, (UNIT,), runs(1), [Linked(), Linked()], **request_) == [None, None]


def test_a_model_to_which_nothing_is_linked_is_let_pass(host):
    """A refiner's: the host links units to the checkpoint that sampling began with."""
    assert on_forge(host, MasaCtrlSettings(), (UNIT,), runs(1), []) == []


class Merging:
    """reForge's ``ControlBase``: reads no weights per image, and applies its strength to a shared signal once."""

    __module__ = "types"  # in which no function reads the weights
    advanced_frame_weighting: list[float] | None = None

    def control_merge(self, control, previous, output_dtype):
        for signal in {id(signal): signal for signals in control.values() for signal in signals}.values():
            if signal is not None:
                signal *= 3
        return control, previous


def test_reforge_weights_each_image_where_signals_are_merged(host):
    """Row r of a call is image r % 3; once, however often the unit is looked at; the unit's own signals stay."""
    controlnet = importlib.import_module("lib_masactrl.host.controlnet")
    net, shared, alone = Merging(), torch.ones(6, 1, 1, 1), torch.ones(3, 2)
    net.advanced_frame_weighting = [0.5, 0.0, 2.0]
    for _ in range(2):
        controlnet._weight_where_merged(None, net)
    merged, previous = net.control_merge({"input": [shared, None, shared], "middle": [alone]}, "before", None)
    assert previous == "before" and merged["input"][1] is None
    assert merged["input"][0].flatten().tolist() == [1.5, 0.0, 6.0] * 2
    assert merged["input"][2] is merged["input"][0]
    assert merged["middle"][0].tolist() == [[1.5, 1.5], [0.0, 0.0], [6.0, 6.0]]
    assert shared.eq(1).all() and "control_merge" not in vars(Merging())


def test_forge_refuses_a_unit_that_failed(host):
    """Its ControlNet stops at the first unit that fails, and the host goes on without that one and all after it."""
    units = ({"module": "none"}, {"module": "canny", "enabled": False}, {"module": "depth_midas"})
    with pytest.raises(UnsupportedCombinationError, match=r"nothing of unit 2 .depth_midas."):
        on_forge(host, MasaCtrlSettings(), units, runs(1))


def test_forge_is_stopped_before_the_first_u_net_call(host):
    """A unit's fault is known once the host has linked it, in the first evaluation; no time goes into the others."""
    blocks_run = []
    block = host.shared.sd_model.model.diffusion_model.input_blocks[0]
    hook = block.register_forward_hook(lambda *_: blocks_run.append(block))
    script = SimpleNamespace(title=lambda: "ControlNet", args_from=0, args_to=9, current_params={})
    p = Request(host, scripts=SimpleNamespace(alwayson_scripts=[script]), script_args=(UNIT,))
    with hook, pytest.raises(UnsupportedCombinationError, match="nothing of unit 0"):
        host.process_images(p, host.script, NAMED)
    assert not blocks_run


def test_forge_refuses_what_has_no_weight_per_image(host):
    ip_adapter = SimpleNamespace(model_patcher=None)
    with pytest.raises(UnsupportedCombinationError, match="no weight per image"):
        on_forge(host, MasaCtrlSettings(), ({"module": "CLIP-ViT-H (IPAdapter)"},), {0: ip_adapter})


def test_the_field_is_shown_beside_controlnet_alone(host):
    hidden = importlib.import_module("lib_masactrl.host.controlnet").hidden_settings
    assert hidden() == {"control_guides"}
    script = type("Script", (), {"__module__": "controlnet.py"})
    host.scripts.scripts_data = [SimpleNamespace(script_class=script)]
    assert hidden() == set()
