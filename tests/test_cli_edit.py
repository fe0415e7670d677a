"""``python -m lib_masactrl edit IMAGE``: any picture in, targets and the kept source out; mistakes in one line."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from PIL import Image

from lib_masactrl.host.cli import main
from lib_masactrl.host.standalone.reading import fitted, to_tensor
from lib_masactrl.settings import MasaCtrlSettings
from tests.test_cli import entries


@pytest.fixture
def edit(checkpoint, tmp_path, capsys, caplog):
    """Runs ``edit`` on a picture of 100x70 pixels; returns exit status, output and error output with the log."""
    caplog.set_level("INFO")
    noise = np.random.default_rng(1).integers(0, 256, (7, 10, 3), dtype=np.uint8)
    picture = Image.fromarray(noise).resize((100, 70), Image.Resampling.BICUBIC)
    picture.save(tmp_path / "photo.png")

    def call(*arguments, image=tmp_path / "photo.png", **changed):
        given = {
            "checkpoint": checkpoint,
            "prompt": "a cat lying",
            "steps": 3,
            "start-step": 1,
            "device": "cpu",
            "output": tmp_path / "out",
            **{name.replace("_", "-"): value for name, value in changed.items()},
        }
        flags = [text for name, value in given.items() if value is not None for text in (f"--{name}", str(value))]
        status = main(["edit", *([] if image is None else [str(image)]), *flags, *arguments])
        out, error = capsys.readouterr()
        return status, out, error + caplog.text

    return call


def decibels(text):
    return [float(number) for number in re.findall(r"([\d.]+) dB", text)]


def test_an_edit_writes_targets_and_the_kept_source(edit, model, tmp_path):
    status, out, said = edit("--more-targets", "a red bird")
    assert status == 0
    first, second, source = sorted((tmp_path / "out").iterdir())
    assert out.splitlines() == [str(first), str(second), str(source)]
    assert [path.name for path in (first, source)] == ["00001-target-1-edit.png", "00003-source-edit.png"]
    assert "picture of 100x70 pixels is scaled and cropped to 128x64" in said
    prompts, given = entries(first)
    assert prompts == ["a cat lying"] and entries(second)[0] == ["a red bird"] and entries(source)[0] == [""]
    assert given["Size"] == "128x64" and "Seed" not in given and given["MasaCtrl rectify"] == "True"
    assert given["MasaCtrl result"] == "2 of 3 steps; 6 of 16 layers" and given["MasaCtrl start step"] == "1"
    assert not MasaCtrlSettings.from_infotext(given).enabled  # in a WebUI there would be no picture
    kept, possible = decibels(given["MasaCtrl PSNR"])
    assert kept == possible and f"PSNR {kept} dB; VAE round trip: {possible} dB" in said
    with Image.open(tmp_path / "photo.png") as photo, Image.open(source) as written:
        decoded = model.decode(model.encode(to_tensor(fitted(photo, 128, 64))))
        torch.testing.assert_close(to_tensor(written), decoded, rtol=0, atol=0.51 / 255 + 1e-4)


def test_a_check_tells_what_an_unrectified_source_would_keep(edit, tmp_path):
    """By Euler steps, which an unrectified source of the same inversion takes."""
    told = []
    for name, flags in (("checked", ["--check-inversion"]), ("free", ["--no-rectify"])):
        status, _, said = edit(*flags, sampler="Euler", output=tmp_path / name)
        given = entries(min((tmp_path / name).iterdir()))[1]
        assert status == 0 and "Sampled back" in said and ("MasaCtrl PSNR unrectified" in given) == (name == "checked")
        told.append(decibels(given.get("MasaCtrl PSNR unrectified", given["MasaCtrl PSNR"]))[0])
    kept, possible = decibels(entries(min((tmp_path / "checked").iterdir()))[1]["MasaCtrl PSNR"])
    assert told[0] == told[1] and kept == possible != told[0]


def test_without_rectification_the_source_drifts_and_advice_is_given(edit, tmp_path):
    status, _, said = edit("--no-rectify", "--inversion-refinements", "1", "--source-prompt", "a cat", sampler="Euler")
    assert status == 0
    target, _ = sorted((tmp_path / "out").iterdir())
    given = entries(target)[1]
    assert (given["MasaCtrl rectify"], given["MasaCtrl inversion refinements"], given["Sampler"]) == (
        "False",
        "1",
        "Euler",
    )
    assert given["MasaCtrl source prompt"] == "a cat"
    kept, possible = decibels(given["MasaCtrl PSNR"])
    assert ("leave out --no-rectify" in said) == (kept < possible - 1) and kept != possible


def test_without_control_the_target_is_another(edit, tmp_path):
    for number, flags in enumerate([(), ("--without-control",)]):
        assert edit("--no-show-source", *flags, output=tmp_path / str(number), start_layer=4)[0] == 0
    (controlled,), (plain,) = (sorted((tmp_path / name).iterdir()) for name in "01")
    assert "MasaCtrl result" in entries(controlled)[1] and "MasaCtrl result" not in entries(plain)[1]
    assert "MasaCtrl PSNR" in entries(plain)[1]
    assert controlled.read_bytes() != plain.read_bytes()


def test_a_size_can_be_asked_for(edit, tmp_path):
    assert edit(width=64, height=128)[0] == 0
    assert entries(sorted((tmp_path / "out").iterdir())[0])[1]["Size"] == "64x128"


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("image", None, "IMAGE"),
        ("image", "nowhere.png", "There is no picture nowhere.png"),
        ("image", __file__, "cannot be read"),
        ("checkpoint", "nowhere.safetensors", "nowhere.safetensors"),
        ("prompt", None, "--prompt"),
        ("sampler", "Euler a", "sampler is 'Euler a', but a real image needs"),
        ("sampler", "Euler b", "'Euler b'"),
        ("inversion_refinements", -1, "inversion_refinements is '-1'"),
        ("inversion_refinements", 101, "a whole number from 0 to 100"),
        ("target_words", "cat", "--target-words does nothing with mask 'none'"),
        ("mask_image", "anything.png", "--mask-image does nothing with mask 'none'"),
        ("steps", 0, "steps is 0"),
        ("cfg_scale", "nan", "cfg_scale is nan"),
        ("start_step", 4, "start_step is 4"),
        ("start_layer", 17, "start_layer is 17"),
        ("width", 72, "width is 72"),
        ("height", 0, "height is 0"),
        ("seed", 3, "--seed"),
    ],
)
def test_every_mistake_is_told_in_one_line(edit, tmp_path, name, value, said):
    status, out, error = edit(**{name: value})
    assert status == 2 and out == ""
    assert said in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()
