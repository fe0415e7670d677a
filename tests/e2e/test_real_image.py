"""A real image as the source, in img2img: inverted once, kept on its trajectory, edited many times."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
from PIL import Image

from .client import (
    Client,
    HttpError,
    Pixels,
    Result,
    controlled,
    encoded,
    fault,
    largest_difference,
    request,
    same,
)
from .host import HostPaths, is_forge
from .test_xyz import plot

SAMPLERS = ["DDIM", "Euler", "DPM++ 2M", "DPM++ SDE", "Heun", "UniPC"]
OTHERS = ["Euler a", "LMS", "DPM2", "DPM++ 3M SDE", "DPM fast", "DPM adaptive", "Restart", "LCM", "PLMS"]
SIZES = [(512, 512), (512, 768), (320, 448)]
TARGET = "a cat jumping on the right"
KEPT = "kept from an earlier request"


@pytest.fixture(scope="module")
def photograph(client: Client) -> Pixels:
    """A picture that the model can paint: of its own world."""
    return client.txt2img(request("a cat sitting on the left", steps=20, seed=5)).images[0]


@pytest.fixture(scope="module")
def paints(host_paths: HostPaths) -> bool:
    """Whether the autoencoder gives pictures back: one of random weights does not."""
    return not is_forge(host_paths.checkout)


@pytest.fixture(scope="module")
def another(client: Client) -> Pixels:
    return client.txt2img(request("a dog lying on the right", steps=20, seed=9)).images[0]


def asked(image: Pixels | str, **changes: Any) -> dict[str, Any]:
    picture = image if isinstance(image, str) else encoded(image)
    base = {"denoising_strength": 1.0, "steps": 8, "sampler_name": "Euler", **changes}
    return fault(request(TARGET, init_images=[picture], **base), count=True, encoder_seed=0)


def edit(client: Client, base: dict[str, Any], **settings: Any) -> Result:
    client.get("/fault/rows")  # forget what was counted before
    return client.img2img(controlled(base, source_prompt=settings.pop("source_prompt", ""), **settings))


def said(result: Result, entry: str) -> str:
    found = re.search(rf"MasaCtrl {entry}: ([^,\n]*)", result.infotexts[0])
    assert found, result.infotexts[0]
    return found[1]


def decibels(result: Result) -> float:
    return float(said(result, "PSNR").removesuffix(" dB"))


def inversion_calls(client: Client) -> int:
    """U-Net calls of the last edit that held a single row: only inversion makes those."""
    return sum(rows == 1 for rows in client.get("/fault/rows"))


@pytest.mark.parametrize("sampler", [*SAMPLERS, *OTHERS])
def test_the_source_is_the_picture_and_the_second_edit_inverts_nothing(
    client: Client, paints: bool, photograph: Pixels, sampler: str
) -> None:
    if sampler not in [known["name"] for known in client.get("/sdapi/v1/samplers")]:
        pytest.skip(f"this WebUI has no {sampler}")
    base = asked(photograph, sampler_name=sampler, steps=9)
    first = edit(client, base, source_prompt=f"a cat, {sampler}")
    calls = inversion_calls(client)
    assert said(first, "inversion") == f"{calls} U-Net calls" and calls >= 7
    second = edit(client, {**base, "prompt": "a cat lying on the left"}, source_prompt=f"a cat, {sampler}")
    assert said(second, "inversion") == KEPT and inversion_calls(client) == 0
    assert same(first.images[1:], second.images[1:])
    assert decibels(first) == decibels(second)
    if paints:
        assert decibels(first) > 30
        assert abs(first.images[1] - photograph).mean() < 3
        assert abs(first.images[0] - photograph).mean() > 10
    assert not same(first.images[:1], second.images[:1])
    assert re.fullmatch(
        r"([1-9]\d*) of \d+ steps; 12 of 16 layers", re.search(r"result: ([^,]*)", first.infotexts[0])[1]
    )


@pytest.fixture
def quick_attention(client: Client) -> Iterator[None]:
    """The CPU's default optimisation takes minutes for the large sizes."""
    name = "cross_attention_optimization"
    before = client.get("/sdapi/v1/options").get(name)
    if before is not None:  # the Forge family takes it from the command line
        client.post("/sdapi/v1/options", {name: "sdp-no-mem - scaled dot product without memory efficient attention"})
    yield
    if before is not None:
        client.post("/sdapi/v1/options", {name: before})


@pytest.mark.usefixtures("quick_attention")
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_every_size(client: Client, photograph: Pixels, sampler: str, width: int, height: int) -> None:
    """In as few steps as UniPC takes. Each has its own prompt: samplers of the same levels would share inversions."""
    base = asked(photograph, sampler_name=sampler, width=width, height=height, steps=4)
    own = {"source_prompt": f"a cat, {sampler}", "start_step": 1}
    first = edit(client, base, **own)
    assert [image.shape for image in first.images] == [(height, width, 3)] * 2
    assert inversion_calls(client) in (2, 3, 4)
    second = edit(client, {**base, "prompt": "a cat lying on the left"}, **own)
    assert inversion_calls(client) == 0
    assert same(first.images[1:], second.images[1:]) and not same(first.images[:1], second.images[:1])


def test_the_picture_comes_back_when_nothing_is_changed(client: Client, photograph: Pixels) -> None:
    """Law 8: inversion, then sampling freely under the same prompt, is the picture again; every row is."""
    base = {**asked(photograph, steps=20, cfg_scale=1), "prompt": "a cat sitting on the left"}
    free = edit(client, base, source_prompt="a cat sitting on the left", rectify=False)
    assert decibels(free) > 30
    assert largest_difference(*free.images) <= 1  # law 5
    guided = edit(client, {**base, "cfg_scale": 7}, source_prompt="a cat sitting on the left", rectify=False)
    assert decibels(guided) > 30  # the source has guidance 1 of its own
    other = edit(client, asked(photograph, steps=20), source_prompt="a cat sitting on the left")
    assert largest_difference(other.images[0], photograph) > 50


def test_strength_says_how_far_up_the_picture_is_inverted(client: Client, photograph: Pixels) -> None:
    distances = []
    for strength, calls in ((0.25, 3), (0.5, 6), (1.0, 10)):
        result = edit(client, asked(photograph, denoising_strength=strength, steps=10), start_step=0)
        assert inversion_calls(client) == calls
        distances.append(abs(result.images[0] - photograph).mean())
    assert distances[0] < min(distances[1:])


@pytest.mark.parametrize(("settings", "calls"), [({"inversion_steps": 20}, 24), ({"inversion_refinements": 2}, 24)])
def test_a_more_exact_inversion(client: Client, photograph: Pixels, settings: dict[str, int], calls: int) -> None:
    """Of 8 steps: 20 asked for are three to each of the sampler's; two refinements are three evaluations each."""
    edit(client, asked(photograph), source_prompt="exact", **settings)
    assert inversion_calls(client) == calls


def test_an_inversion_is_checked_once(client: Client, photograph: Pixels) -> None:
    """Eight steps take eight evaluations more, and none in later edits, whether or not the inversion was kept."""
    base, prompt = asked(photograph), "checked"
    plain = edit(client, base, source_prompt=prompt)
    assert inversion_calls(client) == 8 and "unrectified" not in plain.infotexts[0]
    later = edit(client, base, source_prompt=prompt, check_inversion=True)
    assert inversion_calls(client) == 8 and said(later, "inversion") == "8 U-Net calls"
    assert same(later.images, plain.images)
    first = edit(client, base, source_prompt=f"{prompt} at once", check_inversion=True, inversion_refinements=1)
    assert inversion_calls(client) == 24 and said(first, "inversion") == "24 U-Net calls"
    second = edit(client, {**base, "prompt": "a dog"}, source_prompt=prompt, check_inversion=True)
    assert said(second, "inversion") == KEPT and set(client.get("/fault/rows")) == {4}
    assert said(second, "PSNR unrectified") == said(later, "PSNR unrectified")
    edit(client, base, source_prompt=prompt, check_inversion=False)
    assert inversion_calls(client) == 0


@pytest.mark.parametrize("sampler", ["Euler", "DDIM"])
def test_a_check_tells_what_a_free_source_keeps(client: Client, photograph: Pixels, sampler: str) -> None:
    """Both take DDIM's steps from the same noise; the free source by the host's sampler."""
    base, prompt = asked(photograph, steps=5, sampler_name=sampler), "a dog lying on the left"
    checked = edit(client, base, source_prompt=prompt, check_inversion=True)
    free = edit(client, base, source_prompt=prompt, rectify=False)
    assert inversion_calls(client) == 0
    unrectified = float(said(checked, "PSNR unrectified").removesuffix(" dB"))
    assert abs(unrectified - decibels(free)) <= 0.1 and decibels(checked) > unrectified + 0.3


def test_groups_targets_and_batches_share_one_inversion(client: Client, photograph: Pixels) -> None:
    base = asked(photograph, batch_size=2, n_iter=2)
    result = edit(client, base, source_prompt="groups", more_targets="a dog sitting on the left")
    assert len(result.images) == 12
    assert inversion_calls(client) == 8
    sources = [result.images[index] for index in (4, 5, 10, 11)]
    assert all(same([sources[0]], [source]) for source in sources)
    hidden = edit(client, base, source_prompt="groups", more_targets="a dog sitting on the left", show_source=False)
    assert same(hidden.images[:4], result.images[:4])


def test_every_group_has_its_own_picture(client: Client, photograph: Pixels, another: Pixels) -> None:
    base = {**asked(photograph, batch_size=2), "init_images": [encoded(photograph), encoded(another)]}
    result = edit(client, base, source_prompt="two")
    first, second = result.images[-2:]
    assert abs(first - photograph).mean() < 3 and abs(second - another).mean() < 3
    alone = edit(client, asked(another), source_prompt="two")
    assert said(alone, "inversion") == KEPT
    assert largest_difference(alone.images[-1], second) <= 1


@pytest.mark.parametrize("mode", [0, 1, 2, 3])
def test_resize_modes(client: Client, photograph: Pixels, mode: int) -> None:
    """The tiny VAE knows 64x64 pictures with a frame, and does badly on others; 8 dB are those of any two pictures."""
    result = edit(client, asked(photograph, width=96, height=64, resize_mode=mode))
    assert [image.shape for image in result.images] == [(64, 96, 3)] * 2
    assert decibels(result) > 14


@pytest.mark.parametrize("whole", [True, False])
def test_inpainting_limits_the_edit(client: Client, photograph: Pixels, whole: bool) -> None:
    mask = numpy.zeros((64, 64, 3), numpy.uint8)
    mask[:, 32:] = 255
    base = asked(photograph, mask=encoded(mask), mask_blur=0, inpainting_fill=1, inpaint_full_res=not whole)
    result = edit(client, base, source_prompt="inpaint")
    assert largest_difference(result.images[0][:, :30], photograph[:, :30]) <= 1
    assert abs(result.images[0][:, 34:] - photograph[:, 34:]).mean() > 5
    assert abs(result.images[1] - photograph).mean() < 3
    with pytest.raises(HttpError, match="masked content is not 'original'"):
        edit(client, {**base, "inpainting_fill": 0})


def test_color_correction_and_hidden_sources(client: Client, photograph: Pixels) -> None:
    base = asked(photograph, override_settings={"img2img_color_correction": True})
    shown, hidden = edit(client, base), edit(client, base, show_source=False)
    assert len(hidden.images) == 1 and same(hidden.images, shown.images[:1])


def test_a_lora_belongs_to_the_trajectory(client: Client, photograph: Pixels) -> None:
    plain = edit(client, asked(photograph), source_prompt="lora")
    base = {**asked(photograph), "prompt": f"{TARGET} <lora:nudge:1>"}
    nudged = edit(client, base, source_prompt="lora")
    assert inversion_calls(client) == 8
    assert not same(plain.images[:1], nudged.images[:1])
    edit(client, base, source_prompt="lora")
    assert inversion_calls(client) == 0


def test_churn_goes_above_the_start(client: Client, photograph: Pixels) -> None:
    result = edit(client, asked(photograph, s_churn=4, s_tmax=1000), source_prompt="churn")
    assert decibels(result) > 30


def test_a_sweep_inverts_once(client: Client, photograph: Pixels) -> None:
    base = asked(photograph)
    client.get("/fault/rows")
    cells = plot(client, controlled(base, source_prompt="sweep"), "img2img", X=("Start step", "1, 3, 8"))
    assert inversion_calls(client) == 8
    direct = [edit(client, base, source_prompt="sweep", start_step=step).images[0] for step in (1, 3, 8)]
    assert same(cells, direct) and not same(cells[:1], cells[1:2])


def test_loopback_takes_each_result_as_the_next_picture(client: Client, photograph: Pixels) -> None:
    base = controlled(asked(photograph), source_prompt="loop")
    client.get("/fault/rows")
    result = client.img2img({**base, "script_name": "loopback", "script_args": [2, 0.9, "Linear", "None"]})
    assert len(result.images) >= 2
    assert inversion_calls(client) > 8  # the second loop's picture is another one


def test_batch_mode_edits_each_file_from_itself(
    client: Client, photograph: Pixels, another: Pixels, tmp_path: Path
) -> None:
    folder, output = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for name, picture in (("a", photograph), ("b", another)):
        Image.fromarray(picture.astype(numpy.uint8)).save(folder / f"{name}.png")
    wanted = {
        "request": {"prompt": TARGET, "steps": 8, "width": 64, "height": 64, "denoising_strength": 1.0, "seed": 1},
        "settings": {"enabled": True, "source_prompt": "batch", "start_step": 2},
        "input": str(folder),
        "output": str(output),
    }
    wanted["request"]["sampler_name"] = "Euler"
    answer = client.post("/fault/batch", wanted)
    assert answer["batch_size"] == 1
    found = {path.name: numpy.asarray(Image.open(path)).astype(int) for path in output.rglob("*.png")}
    assert len(found) == 4, sorted(found)
    for name, picture in (("a", photograph), ("b", another)):
        distances = [abs(image - picture).mean() for path, image in found.items() if path.endswith(f"-{name}.png")]
        assert len(distances) == 2 and min(distances) < 3, (sorted(found), distances)


def test_the_disk_is_used_if_asked_for_and_not_trusted(client: Client, photograph: Pixels, data: Path) -> None:
    base, prompt = asked(photograph), "kept on disk"
    folder = data / "cache" / "masactrl"
    try:
        client.post("/sdapi/v1/options", {"masactrl_cache_on_disk": True})
        first = edit(client, base, source_prompt=prompt)
        (file,) = folder.glob("*.safetensors")
        _forget_memory(client, base)
        assert same(edit(client, base, source_prompt=prompt).images, first.images)
        assert inversion_calls(client) == 0
        _forget_memory(client, base)
        file.write_bytes(file.read_bytes()[:-100])
        edit(client, base, source_prompt=prompt)
        assert inversion_calls(client) == 8
        assert "is damaged" in (data / "server.log").read_text(encoding="utf-8", errors="replace")
    finally:
        client.post("/sdapi/v1/options", {"masactrl_cache_on_disk": False, "masactrl_cache_mib": 512})


def _forget_memory(client: Client, base: dict[str, Any]) -> None:
    """A limit of 0 keeps nothing in memory; what is on disk stays until the next file is written."""
    client.post("/sdapi/v1/options", {"masactrl_cache_mib": 0})
    edit(client, base, source_prompt="forgetting")
    client.post("/sdapi/v1/options", {"masactrl_cache_mib": 512})


def test_interrupted_inversion_leaves_nothing(client: Client, photograph: Pixels) -> None:
    import threading

    plain = request(steps=8)
    before = client.txt2img(plain).images
    base = asked(photograph, steps=100, width=128, height=128)
    answers: list[Result] = []
    worker = threading.Thread(target=lambda: answers.append(edit(client, base, source_prompt="interrupted")))
    worker.start()
    client.wait_for(lambda state: state["sampling_steps"] == 100 and state["sampling_step"] >= 3)
    client.post("/sdapi/v1/interrupt", {})
    worker.join(60)
    assert answers and "MasaCtrl inversion" not in answers[0].infotexts[0]
    assert same(client.txt2img(plain).images, before)
    edit(client, base, source_prompt="interrupted")
    assert inversion_calls(client) == 100


def test_exception_in_inversion_leaves_nothing(client: Client, photograph: Pixels) -> None:
    plain = request(steps=8)
    before = client.txt2img(plain).images
    base = asked(photograph)
    with pytest.raises(HttpError):
        edit(client, fault(base, count=False, raise_at_call=3), source_prompt="broken")
    assert same(client.txt2img(plain).images, before)
    edit(client, base, source_prompt="broken")
    assert inversion_calls(client) == 8


def test_a_source_from_a_prompt_is_still_there(client: Client, photograph: Pixels) -> None:
    edit(client, asked(photograph, denoising_strength=0.6), source="prompt", source_prompt="a cat sitting")
    assert inversion_calls(client) == 0


def picture_file(mode: str, kind: str = "PNG", **options: Any) -> str:
    """The base64 of a 64x64 picture in some mode and format."""
    ramp = numpy.linspace(0, 255, 64 * 64).reshape(64, 64)
    if mode == "I;16":
        image = Image.fromarray((ramp * 257).astype(numpy.uint16))
    else:
        image = Image.fromarray(ramp.astype(numpy.uint8)).convert("RGB").convert(mode)
    file = io.BytesIO()
    image.save(file, kind, **options)
    return base64.b64encode(file.getvalue()).decode("ascii")


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "I;16"])
def test_every_kind_of_picture(client: Client, mode: str) -> None:
    result = edit(client, asked(picture_file(mode)))
    assert len(result.images) == 2 and decibels(result) > 5


def test_an_animation_gives_its_first_frame(client: Client) -> None:
    frames = [Image.new("RGB", (64, 64), colour) for colour in ("red", "blue")]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    source = edit(client, asked(base64.b64encode(file.getvalue()).decode())).images[-1]
    assert source[..., 0].mean() > source[..., 2].mean() + 50


def test_one_pixel(client: Client) -> None:
    pixel = numpy.full((1, 1, 3), 200, numpy.uint8)
    assert len(edit(client, asked(pixel)).images) == 2


@pytest.mark.parametrize("text", ["", "no picture", None], ids=["empty", "text", "none"])
def test_what_is_no_picture(client: Client, text: str | None) -> None:
    with pytest.raises(HttpError) as refusal:
        edit(client, {**asked(""), "init_images": [text]})
    assert 400 <= refusal.value.status < 600


def test_a_truncated_file(client: Client, photograph: Pixels) -> None:
    broken = base64.b64encode(base64.b64decode(encoded(photograph))[:200]).decode()
    with pytest.raises(HttpError):
        edit(client, asked(broken))


@pytest.mark.parametrize(
    ("changes", "settings", "message"),
    [
        ({"denoising_strength": 0}, {}, "denoising strength is 0"),
        ({"denoising_strength": 0.05, "sampler_name": "DDIM"}, {}, "takes no step"),
        ({"steps": 20}, {"inversion_steps": 10}, "fewer than the 20 sampling steps"),
        ({"override_settings": {"img2img_extra_noise": 0.1}}, {}, "Extra noise"),
    ],
    ids=["strength-0", "no-step", "inversion-steps", "extra-noise"],
)
def test_what_cannot_be_edited(
    client: Client, photograph: Pixels, changes: dict[str, Any], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(HttpError, match=re.escape(message)):
        edit(client, {**asked(photograph), **changes}, **settings)


def test_txt2img_has_no_picture(client: Client) -> None:
    with pytest.raises(HttpError, match="there is no picture here"):
        client.txt2img(controlled(request(), source="image"))


def test_an_inpainting_checkpoint_is_refused(client: Client, photograph: Pixels) -> None:
    other = {"override_settings": {"sd_model_checkpoint": "inpainting.safetensors"}}
    with pytest.raises(HttpError, match="reads a picture besides its latents"):
        edit(client, asked(photograph, **other))
    assert len(client.img2img(asked(photograph, **other)).images) == 1
