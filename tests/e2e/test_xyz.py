"""X/Y/Z plot over the API: its cells are the pictures that direct requests make."""

from __future__ import annotations

import pytest

from lib_masactrl.setting_kinds import ChoiceSetting, Setting
from lib_masactrl.settings import SETTINGS

from .client import Client, HttpError, controlled, encoded, fault, request, same
from .plots import plot

TARGET, SOURCE = "a cat, standing", "a cat, sitting"


def test_axes_are_registered_once(client: Client) -> None:
    """All settings in the order of the table; that of ControlNet's units only where ControlNet is."""
    for axes in client.get("/fault/axes").values():
        mine = [label for label in axes if label.startswith("[MasaCtrl]")]
        expected = [f"[MasaCtrl] {setting.label}" for setting in SETTINGS]
        assert mine == [label for label in expected if label in mine]
        assert set(expected) - set(mine) <= {"[MasaCtrl] ControlNet guides"}


#: Two values for each axis that has no choices.
VALUES = {
    "source_prompt": [SOURCE, "a cat, running"],
    "more_targets": [SOURCE, "a cat, running"],
    "start_step": ["2", "5"],
    "end_step": ["4", "auto"],
    "start_layer": ["4", "auto"],
    "source_words": ["cat", "sitting"],
    "target_words": ["cat", "standing"],
    "mask_threshold": ["0.5", "auto"],
    "inversion_steps": ["0", "25"],
    "inversion_refinements": ["0", "2"],
    "control_guides": ["target", "target, source"],
}
#: What has no say in the first target, which a cell shows. (No ControlNet unit is enabled here.)
WITHOUT_EFFECT = ["more_targets", "check_inversion", "show_source", "control_guides", "show_masks", "allow_plain"]


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.key)
def test_every_axis_makes_the_pictures_of_direct_requests(client: Client, setting: Setting) -> None:
    """Text, number, choice or switch. In the place of a cell that fails the host draws a blank one."""
    if f"[MasaCtrl] {setting.label}" not in client.get("/fault/axes")["img2img"]:
        pytest.skip("this axis needs ControlNet")
    values: list[str] = VALUES.get(setting.key, ["True", "False"])
    if isinstance(setting, ChoiceSetting):
        values = list(setting.choices[:2])
    picture = encoded(client.txt2img(request(SOURCE)).images[0])
    base = fault(request(TARGET, init_images=[picture], denoising_strength=0.9), encoder_seed=0)
    given = {"mask": "words", "source_words": "cat", "target_words": "cat"}
    asked = [controlled(base, **{**given, setting.key: setting.parse(value)}) for value in values]
    direct = [client.img2img(one).images[0] for one in asked]
    typed = ",".join(f'"{value}"' for value in values)
    axis = setting.label, typed if setting.key in VALUES else values
    cells = plot(client, controlled(base, **given), "img2img", X=axis)
    assert same(cells, direct)
    assert same(direct[:1], direct[1:]) == (setting.key in WITHOUT_EFFECT)


def test_ranges(client: Client) -> None:
    """Also where a value may be "auto"."""
    base = request(TARGET)
    cells = plot(client, controlled(base), X=("Start layer", "auto, 4-12 (+4)"))
    direct = [client.txt2img(controlled(base, start_layer=layer)).images[0] for layer in ("auto", 4, 8, 12)]
    assert same(cells, direct)
    assert same(plot(client, controlled(base), X=("Start step", "2-4 (+2)"))[:1], cells[1:2])
    assert len(plot(client, controlled(base), X=("Mask threshold", "auto, 0.1-0.5 [3]"))) == 4


def test_start_step(client: Client) -> None:
    base = request(TARGET)
    cells = plot(client, controlled(base), X=("Start step", "0, 3, 8"))
    direct = [client.txt2img(controlled(base, start_step=step)).images[0] for step in (0, 3, 8)]
    assert same(cells, direct)
    assert not same(cells[:1], cells[1:2])
    assert same(cells[2:], client.txt2img({**base, "batch_size": 2}).images[:1])


def test_choices_and_texts(client: Client) -> None:
    """Method is picked from its choices, the source prompt is quoted text; two axes together."""
    base = request(TARGET)
    cells = plot(
        client,
        controlled(base),
        X=("Method", ["mutual", "union"]),
        Y=("Source prompt", f'"{SOURCE}","a dog, running"'),
    )
    direct = [
        client.txt2img(controlled(base, method=method, source_prompt=source)).images[0]
        for source in (SOURCE, "a dog, running")
        for method in ("mutual", "union")
    ]
    assert same(cells, direct)
    assert len({cell.tobytes() for cell in cells}) == 4


@pytest.mark.parametrize("values", [["True", "False"], ["False", "True"]])
def test_enabled(client: Client, values: list[str]) -> None:
    """Control on and off in one plot: the cell without it is the plain image, in either order."""
    base = request(TARGET)
    cells = plot(client, controlled(base), X=("Enabled", values))
    images = {
        "True": client.txt2img(controlled(base)).images[0],
        "False": client.txt2img(base).images[0],
    }
    assert same(cells, [images[value] for value in values])


def test_hidden_source_and_layers(client: Client, layers: int) -> None:
    base = request(TARGET)
    cells = plot(client, controlled(base, show_source=False), X=("Start layer", f"auto,4,{layers}"))
    direct = [client.txt2img(controlled(base, start_layer=layer)).images[0] for layer in ("auto", 4, layers)]
    assert same(cells, direct)


def test_img2img(client: Client) -> None:
    picture = encoded(client.txt2img(request(SOURCE)).images[0])
    base = request(TARGET, init_images=[picture], denoising_strength=0.6)
    cells = plot(client, controlled(base), "img2img", X=("Start step", "1,3"))
    direct = [client.img2img(controlled(base, start_step=step)).images[0] for step in (1, 3)]
    assert same(cells, direct)
    assert not same(cells[:1], cells[1:])


def test_bad_value_is_refused_before_anything_is_made(client: Client) -> None:
    """Law 11."""
    with pytest.raises(HttpError, match="start_layer"):
        plot(client, controlled(request(TARGET)), X=("Start layer", "4,deep"))


def test_plot_leaves_no_setting_behind(client: Client) -> None:
    base = request(TARGET)
    before = client.txt2img(controlled(base)).images
    plot(client, controlled(base), X=("Start step", "0,1"))
    assert same(client.txt2img(controlled(base)).images, before)
    assert len(client.txt2img(base).images) == 1
