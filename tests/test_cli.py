"""The command line of the standalone host: pictures with their settings, one line for every mistake."""

from __future__ import annotations

import re
import shutil
import sys

import pytest
import torch
from PIL import Image

from lib_masactrl.host.cli import main
from lib_masactrl.host.standalone.pictures import infotext, to_pictures, write_numbered
from lib_masactrl.settings import MasaCtrlSettings


@pytest.fixture
def generate(checkpoint, tmp_path, capsys):
    """Runs ``generate`` on the small checkpoint; returns exit status, output and error output."""

    def call(*arguments, **changed):
        given = {
            "checkpoint": checkpoint,
            "prompt": "a cat lying",
            "source-prompt": "a cat: standing, in snow",
            "steps": 3,
            "start-step": 1,
            "seed": 7,
            "width": 64,
            "height": 64,
            "device": "cpu",
            "output": tmp_path / "out",
            **{name.replace("_", "-"): value for name, value in changed.items()},
        }
        flags = [text for name, value in given.items() if value is not None for text in (f"--{name}", str(value))]
        status = main(["generate", *flags, *arguments])
        return status, *capsys.readouterr()

    return call


def entries(path):
    """Prompt lines and entries of a picture, read with A1111's own pattern (``infotext_utils.re_param_code``)."""
    with Image.open(path) as picture:
        *prompts, last = picture.text["parameters"].split("\n")
    found = re.findall(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)', last)
    return prompts, {key: value.strip('"') for key, value in found}


def test_pictures_carry_their_settings(generate, tmp_path):
    status, out, _ = generate("--more-targets", "a cat jumping", "--negative-prompt", "blurred", start_layer=4)
    assert status == 0
    first, second, source = (tmp_path / "out" / name for name in sorted(p.name for p in (tmp_path / "out").iterdir()))
    assert out.splitlines() == [str(first), str(second), str(source)]
    prompts, given = entries(first)
    assert prompts == ["a cat lying", "Negative prompt: blurred"]
    assert given["Size"] == "64x64" and given["Seed"] == "7" and given["Sampler"] == "DDIM" and given["Steps"] == "3"
    assert given["MasaCtrl result"] == "2 of 3 steps; 12 of 16 layers"
    assert MasaCtrlSettings.from_infotext(given) == MasaCtrlSettings(
        enabled=True,
        source="prompt",
        source_prompt="a cat: standing, in snow",
        more_targets="a cat jumping",
        start_step=1,
        start_layer=4,
    )
    assert entries(second)[0][0] == "a cat jumping"
    assert entries(source)[0][0] == "a cat: standing, in snow"
    assert entries(source)[1]["MasaCtrl branch"] == "source"


def test_an_existing_file_is_never_overwritten(generate, tmp_path):
    generate()
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    status, out, _ = generate()
    after = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert status == 0 and len(after) == 4 == len(out.splitlines()) + len(before)
    assert before.items() <= after.items()
    assert sorted(before.values()) == sorted(
        after[name] for name in after.keys() - before.keys()
    )  # one seed, one result


def test_a_file_that_appears_in_between_is_not_overwritten(tmp_path, monkeypatch):
    taken = tmp_path / "00001-a.png"
    taken.write_bytes(b"someone else's")
    monkeypatch.setattr("lib_masactrl.host.standalone.pictures._next_number", lambda folder: 1)
    (picture,) = to_pictures(torch.zeros(1, 3, 8, 8))
    assert write_numbered(tmp_path, "a", picture, "text").name == "00002-a.png"
    assert taken.read_bytes() == b"someone else's"


def test_pixels_are_the_decoded_values():
    decoded = torch.stack([torch.full((2, 3), value) for value in (0.0, 0.5, 1.0)])[None]
    (picture,) = to_pictures(decoded)
    assert picture.size == (3, 2) and picture.getpixel((0, 0)) == (0, 128, 255)


def test_infotexts_quote_what_would_break_them():
    assert infotext("p", "", {"Plain": 1, "Odd": 'a, "b": c'}) == 'p\nPlain: 1, Odd: "a, \\"b\\": c"'


def test_without_control_says_nothing_of_control_and_makes_the_same_source(generate, tmp_path):
    assert generate()[0] == 0
    assert generate("--without-control", output=tmp_path / "plain")[0] == 0
    target, source = sorted((tmp_path / "plain").iterdir())
    _, controlled_source = sorted((tmp_path / "out").iterdir())
    assert not [key for key in entries(target)[1] if key.startswith("MasaCtrl")]
    with Image.open(source) as plain, Image.open(controlled_source) as controlled:
        assert plain.tobytes() == controlled.tobytes()


def test_count_takes_seed_after_seed_and_the_source_can_be_left_out(generate, tmp_path):
    assert generate("--no-show-source", count=2)[0] == 0
    first, second = sorted((tmp_path / "out").iterdir())
    assert (entries(first)[1]["Seed"], entries(second)[1]["Seed"]) == ("7", "8")
    assert "target" in first.name and "target" in second.name


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("checkpoint", "nowhere.safetensors", "nowhere.safetensors"),
        ("checkpoint", None, "--checkpoint"),
        ("source_prompt", "", "source_prompt is empty"),
        ("method", "mutal", "method is 'mutal'"),
        ("start_step", "four", "start_step is 'four'"),
        ("start_step", 4, "start_step is 4"),
        ("end_step", 0, "end_step is 0"),
        ("start_layer", -1, "start_layer is '-1'"),
        ("start_layer", 17, "start_layer is 17"),
        ("sampler", "Euler b", "'Euler b'"),
        ("steps", 0, "steps is 0"),
        ("steps", "many", "--steps"),
        ("cfg_scale", "nan", "cfg_scale is nan"),
        ("seed", -2, "seed is -2"),
        ("seed", 2**32, "seed is 4294967296"),
        ("count", 0, "count is 0"),
        ("width", 72, "width is 72"),
        ("height", -64, "height is -64"),
        ("device", "gpu", "device is 'gpu'"),
    ],
)
def test_every_mistake_is_told_in_one_line(generate, tmp_path, name, value, said):
    status, out, error = generate(**{name: value})
    assert status == 2 and out == ""
    assert said in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--show-masks"], "--show-masks does nothing with mask 'none'"),
        (["--source-words", "cat", "--mask-threshold", "0.1"], "or leave out --source-words, --mask-threshold"),
        (["--mask-image", "mask.png"], "--mask-image does nothing with mask 'none'"),
        (["--mask", "words", "--source-words", "cat", "--mask-image", "mask.png"], "nothing with mask 'words'"),
        (["--mask", "painted", "--source-words", "cat"], "--source-words does nothing with mask 'painted'"),
        (["--mask", "painted", "--average-masks"], "nothing with mask 'painted' and no target words"),
        (["--rectify"], "--rectify"),
    ],
)
def test_a_flag_that_can_do_nothing_is_refused(generate, tmp_path, flags, said):
    status, _, error = generate(*flags)
    assert status == 2 and said in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("arguments", [[], ["paint"], ["generate", "--nonsense"]])
def test_a_wrong_command_line_is_told_in_one_line(arguments, capsys):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert "--help" in error and error.count("\n") == 1


def test_an_output_that_is_no_folder_is_told(generate, tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    status, _, error = generate(output=tmp_path / "file")
    assert status == 2 and "output is" in error and "Traceback" not in error


def test_a_checkpoint_of_another_layout_is_told(generate, checkpoint, tmp_path):
    other = tmp_path / "other.safetensors"
    shutil.copy(checkpoint, other)
    text = (
        checkpoint.with_suffix(".yaml")
        .read_text(encoding="utf-8")
        .replace("version: tokenizer", f"version: {checkpoint.parent / 'tokenizer'}")
    )
    other.with_suffix(".yaml").write_text(text.replace("model_channels: 32", "model_channels: 64"), encoding="utf-8")
    status, _, error = generate(checkpoint=other)
    assert status == 2 and "of another shape" in error and error.count("\n") == 1


def test_an_interrupt_ends_without_a_traceback(generate, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("lib_masactrl.host.standalone.sampling.sample_latents", interrupted)
    status, _, error = generate()
    assert (status, error) == (130, "Interrupted.\n")


def test_a_package_that_is_not_installed_is_named(generate, monkeypatch):
    for module in [name for name in sys.modules if name.startswith("lib_masactrl.host.standalone")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "safetensors", None)
    status, _, error = generate()
    assert status == 2 and "safetensors" in error and "requirements/demo.txt" in error and error.count("\n") == 1
