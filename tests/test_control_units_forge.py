"""Units of the ControlNet that the Forge family ships (stand-in): weights per image of the batch.

That a real one's signals are met is proved by ``tests/e2e/test_control_branches.py``.
"""

from __future__ import annotations

import importlib
from types import SimpleNamespace

import pytest
import torch

from lib_masactrl.branches import BatchLayout, branches_in_batch
from lib_masactrl.errors import UnsupportedCombinationError
from lib_masactrl.settings import MasaCtrlSettings
from tests.webui_requests import NAMED
from tests.webui_standin import Request

UNIT = {"enabled": True, "module": "canny"}


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


class LinkedAdapter(Linked):
    """A T2I-Adapter: it answers once, and keeps its answer."""

    control_input: list[torch.Tensor | None] | None = None

    def get_control(self, x_noisy: torch.Tensor) -> int:
        if self.control_input is None:
            self.control_input = [None, torch.zeros(len(x_noisy), 1)]
        return len(self.control_input[1])


@pytest.mark.parametrize("guides", ["target", "both"])
def test_an_adapter_answers_for_the_rows_of_each_call(host, guides):
    """Those of the first may be fewer: Forge Classic's first step has no negative prompt."""
    adapter = LinkedAdapter()
    for rows in (2, 4, 4, 2):
        on_forge(host, MasaCtrlSettings(control_guides=guides), (UNIT,), runs(1), [adapter])
        kept = adapter.control_input
        assert adapter.get_control(torch.zeros(rows, 1)) == rows
        assert (adapter.control_input is kept) == (kept is not None and len(kept[1]) == rows)


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


def test_a_webui_that_neither_reads_nor_merges_is_refused(host):
    stranger = type("Stranger", (), {"__module__": "types", "advanced_frame_weighting": None})
    with pytest.raises(
        UnsupportedCombinationError, match="belongs to a WebUI whose ControlNet has no weight per image"
    ):
        on_forge(host, MasaCtrlSettings(), (UNIT,), runs(1), [stranger()])


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
