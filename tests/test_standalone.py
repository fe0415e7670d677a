"""The standalone host on a small checkpoint with random weights, judged on latents: pictures would hide differences."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from lib_masactrl.branches import Branch
from lib_masactrl.control import METHODS, MutualSelfAttentionControl
from lib_masactrl.errors import SettingsError
from lib_masactrl.host.standalone.samplers import SAMPLERS
from lib_masactrl.host.standalone.sampling import BranchPrompts, control_for
from lib_masactrl.schedule import ControlWindow
from tests.standalone_requests import STEPS, batch, plan, sampled, settings

#: Batches of different shapes round differently, and random weights amplify that step after step; latents of different
#: prompts or seeds are about 20 apart.
ROUNDING = 0.2


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_laws_1_and_2_for_every_sampler(model, sampler):
    """A window that covers nothing changes no bit; the source's row is the plain batch's; the target's is not."""
    plain, under_control = sampled(model, sampler, control=None), sampled(model, sampler)
    nothing = MutualSelfAttentionControl(ControlWindow(STEPS, None, 0))
    assert torch.equal(sampled(model, sampler, control=nothing), plain) and not nothing.record
    assert torch.isfinite(plain).all()
    assert torch.equal(under_control[1], plain[1])
    assert (under_control[0] - plain[0]).abs().max() > 0.5


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_law_5_equal_prompts_give_equal_rows_for_every_sampler(model, sampler):
    """Which also proves that a group's branches meet the same noise, that of a stochastic sampler included."""
    rows = sampled(model, sampler, of=batch(prompt="a cat standing"))
    torch.testing.assert_close(rows[0], rows[1], rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("sampler", ["DDIM", "Euler a"])
def test_each_group_has_its_own_seed_and_noise(model, sampler):
    both = sampled(model, sampler, control=None, of=batch((3, 8), prompt="a cat standing"))
    assert not torch.allclose(both[0], both[1], atol=1)
    alone = sampled(model, sampler, control=None, of=batch((8,), prompt="a cat standing"))
    torch.testing.assert_close(both[1], alone[0], rtol=0, atol=ROUNDING)
    assert torch.equal(sampled(model, sampler, of=batch()), sampled(model, sampler, of=batch()))


def test_law_3_an_exception_leaves_no_hook(model, monkeypatch):
    before = sampled(model, control=None)
    calls = []

    def fail_in_third_call(*args):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(*args)

    original = METHODS["mutual"]
    control = MutualSelfAttentionControl(ControlWindow(0, None, 0), fail_in_third_call)
    with pytest.raises(KeyboardInterrupt):
        sampled(model, control=control)
    assert len(calls) == 3
    assert not any("forward" in module.__dict__ for module in model.unet.modules())
    assert torch.equal(sampled(model, control=None), before)


@pytest.mark.parametrize(("width", "height"), [(64, 128), (192, 64)])
def test_law_7_sizes_that_are_not_square(model, width, height):
    plain = sampled(model, control=None, width=width, height=height)
    got = sampled(model, width=width, height=height)
    assert got.shape == (2, 4, height // 8, width // 8)
    assert torch.equal(got[1], plain[1]) and not torch.allclose(got[0], plain[0], atol=1)


@pytest.mark.parametrize("size", [0, 8, 72, 100])
def test_sizes_that_ldms_unet_cannot_do_are_refused(model, size):
    with pytest.raises(SettingsError, match=r"width is \d+, .* multiples of 64"):
        sampled(model, width=size)


def test_ldms_unet_really_cannot_do_them(model):
    with pytest.raises(RuntimeError, match="size"):
        model.unet(torch.zeros(1, 4, 9, 8), torch.tensor([1]), context=torch.zeros(1, 77, 32))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_counts_sampling_steps(model, sampler):
    """Each step is announced, in order, to its end; Heun's two evaluations of a step belong to that step."""
    announced = []

    class Listening(MutualSelfAttentionControl):
        def begin_call(self, layout, step, latent):
            announced.append((layout.passes, layout.branches, step))
            super().begin_call(layout, step, latent)

    sampled(model, sampler, control=Listening(ControlWindow(2, 4, 0)))
    steps = [step for *_, step in announced]
    assert steps == ([0, 0, 1, 1, 2, 2, 3, 3, 4] if sampler == "Heun" else [0, 1, 2, 3, 4])
    assert {(passes, branches) for passes, branches, _ in announced} == {(2, (Branch(0, 0), Branch(0)))}


def test_a_guidance_scale_of_one_needs_no_uncond(model):
    got, plain = sampled(model, cfg_scale=1.0), sampled(model, control=None, cfg_scale=1.0)
    assert torch.equal(got[1], plain[1]) and not torch.equal(got[0], plain[0])
    near = sampled(model, control=None, cfg_scale=1.0 + 1e-6)
    torch.testing.assert_close(plain, near, rtol=0, atol=ROUNDING)


def test_guidance_is_uncond_plus_scale_times_the_difference(model):
    """A prompt equal to the negative prompt leaves nothing to guide: the scale then does not matter."""
    same = BranchPrompts(batch().branches, ("blurred", "blurred"), (3,), "blurred")
    torch.testing.assert_close(
        sampled(model, control=None, of=same),
        sampled(model, control=None, of=same, cfg_scale=2.0),
        rtol=1e-3,
        atol=1e-3,
    )
    assert not torch.allclose(sampled(model, control=None), sampled(model, control=None, cfg_scale=2.0), atol=1)


def test_noise_of_its_own_is_what_a_branch_starts_from(model):
    shape = (2, 4, *sampled(model).shape[2:])
    of_the_seed = torch.randn((1, *shape[1:]), generator=torch.Generator().manual_seed(3)).expand(shape)
    given = dataclasses.replace(batch(), noise=of_the_seed.clone())
    assert torch.equal(sampled(model, of=given), sampled(model))
    given.noise[0] += 1
    got, plain = sampled(model, of=given), sampled(model)
    assert torch.equal(got[1], plain[1]) and not torch.allclose(got[0], plain[0], atol=0.5)


def test_noise_for_other_branches_is_refused(model):
    with pytest.raises(ValueError, match=r"noise has the shape \(1, 4, 8, 8\), but these branches start from \(2, 4, "):
        sampled(model, of=dataclasses.replace(batch(), noise=torch.zeros(1, 4, 8, 8)))


def test_more_targets_share_the_source(model):
    three = batch(more_targets="a cat jumping\na bird")
    assert three.prompts == ("a cat lying", "a cat jumping", "a bird", "a cat standing")
    got = sampled(model, of=three)
    torch.testing.assert_close(got[[0, 3]], sampled(model), rtol=0, atol=ROUNDING)


def test_the_window_is_that_of_the_settings(model):
    control = control_for(model, settings(start_step=2, end_step=4, start_layer=None), STEPS)
    sampled(model, control=control)
    assert control.record.steps == {2, 3} and control.record.layers == set(range(10, 16))


@pytest.mark.parametrize(("name", "value"), [("start_step", STEPS + 1), ("start_layer", 17)])
def test_a_window_past_the_end_is_refused(model, name, value):
    with pytest.raises(SettingsError, match=f"{name} is {value}"):
        control_for(model, settings(**{name: value}), STEPS)
    control_for(model, settings(**{name: value - 1}), STEPS)


@pytest.mark.parametrize(
    ("name", "value"),
    [("sampler", "Euler b"), ("steps", 0), ("steps", 1001), ("cfg_scale", float("nan")), ("cfg_scale", 0.5)],
)
def test_a_plan_that_is_not_allowed_is_refused(name, value):
    with pytest.raises(SettingsError, match=f"{name} is"):
        plan(**{name: value})


def test_a_prompt_that_the_model_cannot_read_to_its_end_is_told(model, caplog):
    model.text_encoder(["a" * 75])
    assert not caplog.records
    model.text_encoder(["a " * 76])
    assert "76 tokens" in caplog.text


def test_a_v_model_is_sampled_as_such(model):
    config = dataclasses.replace(model.config, prediction_type="v_prediction")
    assert not torch.allclose(sampled(dataclasses.replace(model, config=config)), sampled(model), atol=1)
