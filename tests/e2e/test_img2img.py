"""Laws 1 and 2 in img2img with a source from a prompt: init images, masks and groups stay together."""

from __future__ import annotations

from typing import Any

import numpy
import pytest

from . import client as client_module
from .client import Client, HttpError, Pixels, encoded, fault, largest_difference, request, same

TARGET, SOURCE = "a cat, standing", "a cat, sitting"
MOVED = 1e-3


@pytest.fixture(scope="module")
def pictures(client: Client) -> list[Pixels]:
    """Two pictures that nobody can mix up: a red one and a blue one."""
    image = client.txt2img(request(SOURCE, seed=3)).images[0]
    red = numpy.stack([128 + image[..., 0] // 2, image[..., 1], image[..., 2] // 2], axis=-1)
    return [red, red[..., ::-1]]


def is_red(image: Pixels) -> bool:
    return bool(image[..., 0].mean() > image[..., 2].mean() + 20)


def is_blue(image: Pixels) -> bool:
    return is_red(image[..., ::-1])


@pytest.fixture(scope="module")
def mask() -> Pixels:
    """Paint the left half anew."""
    mask = numpy.zeros((64, 64, 3), numpy.uint8)
    mask[:, :32] = 255
    return mask


def asked(images: list[Pixels], **changes: Any) -> dict[str, Any]:
    pictures = [encoded(image) for image in images]
    base = request(TARGET, init_images=pictures, denoising_strength=0.6, steps=10, **changes)
    return fault(base, encoder_seed=0)


def controlled(base: dict[str, Any], **settings: Any) -> dict[str, Any]:
    return client_module.controlled(base, source="prompt", **settings)


@pytest.mark.parametrize("sampler", ["DDIM", "Euler a", "DPM++ SDE"])
def test_one_picture(client: Client, pictures: list[Pixels], sampler: str) -> None:
    base = asked(pictures[:1], sampler_name=sampler)
    result = client.img2img(fault(controlled(base), trace=True))
    trace = client.trace()
    plain = client.img2img(fault({**base, "batch_size": 2}, prompts=[TARGET, SOURCE], seeds_of=[0, 0], trace=True))
    expected = client.trace()
    assert same([x[1] for x in trace], [x[1] for x in expected])
    assert same([trace[0][0], trace[1][0]], [expected[0][0], expected[1][0]])
    assert largest_difference(trace[-1][0], expected[-1][0]) > MOVED
    assert same(result.images[1:], plain.images[1:])
    assert result.info["all_prompts"] == [TARGET, SOURCE]


@pytest.mark.parametrize("settings", [{"start_step": 20}, {"start_step": 1, "start_layer": 99}])
def test_window_past_the_end_is_refused(client: Client, pictures: list[Pixels], settings: dict[str, int]) -> None:
    """Law 11: of 10 steps at strength 0.6 the host samples about 6."""
    with pytest.raises(HttpError) as refusal:
        client.img2img(controlled(asked(pictures[:1]), **settings))
    assert refusal.value.status == 422
    assert list(settings)[-1] in refusal.value.message


@pytest.mark.parametrize("n_iter", [1, 2])
def test_two_pictures_keep_to_their_groups(client: Client, layers: int, pictures: list[Pixels], n_iter: int) -> None:
    """Each target is made from its group's picture and follows that group's source."""
    base = asked(pictures, batch_size=2, n_iter=n_iter)
    result = client.img2img(controlled(base))
    seeds = [i for n in range(n_iter) for i in [2 * n, 2 * n + 1] * 2]
    fourfold = asked([*pictures, *pictures], batch_size=4, n_iter=n_iter)
    plain = client.img2img(fault(fourfold, prompts=[TARGET, TARGET, SOURCE, SOURCE] * n_iter, seeds_of=seeds))
    assert result.info["all_seeds"] == plain.info["all_seeds"]
    for index, (mine, host) in enumerate(zip(result.images, plain.images)):
        assert same([mine], [host]) == (index % 4 >= 2), index
    assert same(client.img2img(controlled(base, start_layer=layers)).images, plain.images)


def test_one_picture_for_two_groups(client: Client, pictures: list[Pixels]) -> None:
    base = asked(pictures[:1], batch_size=2)
    result = client.img2img(controlled(base))
    plain = fault({**base, "batch_size": 4}, prompts=[TARGET, TARGET, SOURCE, SOURCE], seeds_of=[0, 1, 0, 1])
    assert same(result.images[2:], client.img2img(plain).images[2:])


@pytest.mark.parametrize("images", [1, 2])
@pytest.mark.parametrize("inpaint", [{"inpaint_full_res": False}, {"inpaint_full_res": True}], ids=["whole", "masked"])
@pytest.mark.parametrize("show_source", [True, False])
def test_inpainting(
    client: Client, pictures: list[Pixels], mask: Pixels, images: int, inpaint: dict[str, Any], show_source: bool
) -> None:
    """The unmasked half of every result is its own group's picture."""
    base = asked(pictures[:images], batch_size=images, mask=encoded(mask), mask_blur=0, inpainting_fill=1, **inpaint)
    result = client.img2img(controlled(base, start_step=1, show_source=show_source))
    assert len(result.images) == images * (2 if show_source else 1) == len(result.infotexts)
    for index, image in enumerate(result.images):
        assert largest_difference(image[:, 40:], pictures[index % images][:, 40:]) <= 1
    if show_source:
        repeated = {**base, "init_images": base["init_images"] * 2, "batch_size": 2 * images}
        prompts, seeds = [TARGET] * images + [SOURCE] * images, [*range(images)] * 2
        plain = client.img2img(fault(repeated, prompts=prompts, seeds_of=seeds)).images
        assert same(result.images[images:], plain[images:])
        assert not same(result.images[:images], plain[:images])


def test_color_correction_keeps_to_its_picture(client: Client, pictures: list[Pixels]) -> None:
    """The host indexes these by position, so the order of the batch must not upset them."""
    corrected = {"override_settings": {"img2img_color_correction": True}}
    shown = client.img2img(controlled(asked(pictures, batch_size=2, **corrected))).images
    hidden = client.img2img(controlled(asked(pictures, batch_size=2, **corrected), show_source=False)).images
    fourfold = asked([*pictures, *pictures], batch_size=4, **corrected)
    plain = fault(fourfold, prompts=[TARGET, TARGET, SOURCE, SOURCE], seeds_of=[0, 1, 0, 1])
    assert same(shown[2:], client.img2img(plain).images[2:])
    assert same(hidden, shown[:2])
    assert is_red(hidden[0]) and is_blue(hidden[1])


def test_more_pictures_than_groups_is_refused(client: Client, pictures: list[Pixels]) -> None:
    with pytest.raises(HttpError) as refusal:
        client.img2img(controlled(asked([*pictures, pictures[0]], batch_size=2)))
    assert refusal.value.status == 422
    assert "3 init images for a batch size of 2" in refusal.value.message
