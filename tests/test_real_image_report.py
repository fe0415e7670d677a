"""What is said of a real image after sampling in a WebUI (stand-in): its PSNR, and advice where that is poor."""

from __future__ import annotations

import importlib
import types

import pytest
import torch

from lib_masactrl.branches import branches_in_batch
from lib_masactrl.settings import MasaCtrlSettings
from tests.webui_standin import Request

PICTURE = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))
PICTURES = PICTURE.repeat(2, 1, 1, 1)


def real_image(host, pictures=PICTURES, **settings):
    kind = importlib.import_module("lib_masactrl.host.real_image").RealImage
    p = Request(host)
    return p, kind(p, branches_in_batch(1, 1), MasaCtrlSettings(**settings), pictures)


@pytest.mark.parametrize(
    ("decibels", "rectify", "sampled_back", "advice"),
    [
        (40, True, None, None),
        (40, True, 40, None),
        (20, True, 40, "try a larger size or another VAE"),
        (20, False, None, "Switch Rectify on"),
        (40, True, 20, "Raise Inversion steps"),
    ],
)
def test_one_line_of_advice_when_the_source_is_not_its_picture(host, decibels, rectify, sampled_back, advice):
    _, image = real_image(host, rectify=rectify)
    said = image.advice(decibels, sampled_back)
    assert said is None if advice is None else advice in said and "\n" not in said


@pytest.mark.parametrize(("noise", "advised"), [(0.001, 0), (0.5, 1)])
def test_the_infotext_tells_the_psnr_and_the_page_the_advice(host, noise, advised):
    p, image = real_image(host)
    image.evaluations = 8
    host.script.callbacks._report_reconstruction(p, image, [PICTURE, PICTURE + noise])
    assert p.extra_generation_params["MasaCtrl PSNR"] == {0.001: "60.0 dB", 0.5: "6.0 dB"}[noise]
    assert len(p.comments) == advised


@pytest.mark.parametrize("check", [True, False])
def test_what_the_host_never_encoded_as_a_whole_is_not_checked_and_that_is_said(host, check):
    """TAESD, and a VAE that works in tiles."""
    p, image = real_image(host, pictures=None, check_inversion=check)
    assert not image.is_checked and image.sampled_back() is None
    image.evaluations = 8
    host.script.callbacks._report_reconstruction(p, image, [PICTURE, PICTURE])
    assert p.extra_generation_params["MasaCtrl PSNR"] == "unknown"
    assert "MasaCtrl PSNR unrectified" not in p.extra_generation_params
    assert [said.split(":")[1] for said in p.comments] == [
        " the inversion was not checked, as there is nothing to compare with"
    ] * check


@pytest.mark.parametrize(("evaluations", "comments"), [(None, 1), (8, 0)])
@pytest.mark.parametrize("stop", ["interrupted", "skipped"])
def test_what_was_stopped_has_no_psnr_and_needs_no_advice(host, stop, evaluations, comments):
    p, image = real_image(host)
    p.extra_generation_params["MasaCtrl PSNR"] = "40.0 dB"  # of the batch before
    image.evaluations = evaluations
    host.shared.state = types.SimpleNamespace(**{"interrupted": False, "skipped": False, stop: True})
    host.script.callbacks._report_reconstruction(p, image, [PICTURE, PICTURE + 0.5])
    assert "MasaCtrl PSNR" not in p.extra_generation_params
    assert len(p.comments) == comments
