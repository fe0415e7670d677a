"""A minimal stand-in for A1111's `modules`: the order of its callbacks, its row layout, its swallowing of errors.

It exists so that the script's life cycle is tested without a WebUI. What a WebUI really does is proved by `tests/e2e`.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from tests.unets import CONTEXT, small_unet


class Request:
    """`StableDiffusionProcessingTxt2Img`, as far as the extension touches it."""

    def __init__(self, host: StandIn, **given: Any) -> None:
        self.host = host
        self.prompt: Any = "a cat running"
        self.negative_prompt: Any = "blurry"
        self.seed, self.subseed, self.subseed_strength = 5, 90, 0.0
        self.batch_size, self.n_iter, self.steps, self.iteration = 1, 1, 4, 0
        self.styles: list[str] = []
        self.scheduler = "Automatic"
        self.script_args: tuple[Any, ...] = ()
        self.extra_generation_params: dict[str, Any] = {}
        self.do_not_save_grid = self.enable_hr = self.is_hr_pass = False
        self.outpath_samples, self.batch_index = "outputs", 0
        self.comments: list[str] = []
        self.sampler = types.SimpleNamespace(model_wrap_cfg=types.SimpleNamespace(steps=0, total_steps=0, step=0))
        vars(self).update(given)

    @property
    def sd_model(self) -> Any:
        return self.host.shared.sd_model

    def comment(self, text: str) -> None:
        self.comments.append(text)

    def get_token_merging_ratio(self, for_hr: bool = False) -> float:
        return 0.0

    def setup_prompts(self) -> None:
        count = self.batch_size * self.n_iter
        self.all_prompts = list(self.prompt) if isinstance(self.prompt, list) else [self.prompt] * count
        self.all_prompts = [
            self.host.shared.prompt_styles.apply_styles_to_prompt(t, self.styles) for t in self.all_prompts
        ]
        self.all_negative_prompts = [self.negative_prompt] * len(self.all_prompts)
        step = 1 if self.subseed_strength == 0 else 0
        self.all_seeds = [self.seed + step * i for i in range(len(self.all_prompts))]
        self.all_subseeds = [self.subseed + i for i in range(len(self.all_prompts))]

    def init(self, prompts: list[str], seeds: list[int], subseeds: list[int]) -> None:
        pass

    def save_samples(self) -> bool:
        return True

    def sample(self) -> torch.Tensor:
        """Latents after one pass of a toy sampler, or after two with `enable_hr`."""
        noise = [torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in self.seeds]
        latents = self._denoise(torch.stack(noise))
        if self.enable_hr:
            self.is_hr_pass = True
            latents = self._denoise(torch.nn.functional.interpolate(latents, scale_factor=2))
            self.is_hr_pass = False
        return latents

    def _denoise(self, x: torch.Tensor) -> torch.Tensor:
        """`steps` steps on the real U-Net, cond and uncond rows in one call."""
        texts = torch.stack([_embedding(text) for text in (*self.prompts, *self.negative_prompts)])
        denoiser = self.sampler.model_wrap_cfg
        denoiser.steps = denoiser.total_steps = self.steps
        for denoiser.step in range(self.steps):
            self.host.script_callbacks.run(types.SimpleNamespace(x=x))
            if self.host.raise_at == denoiser.step:
                raise RuntimeError("out of memory")
            with torch.no_grad():
                cond, uncond = self.evaluate(torch.cat([x, x]), torch.full((2 * len(x),), 500), texts).chunk(2)
            x = x - 0.1 * (uncond + 2 * (cond - uncond))
        return x

    def evaluate(self, x: torch.Tensor, timesteps: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
        evaluated: torch.Tensor = self.sd_model.model.diffusion_model(x, timesteps, context=texts)
        return evaluated


MODULES = ("script_callbacks", "scripts", "shared", "sd_unet", "prompt_parser", "images")


#: Modules of ours that import the host.
OVER_IT = (
    *(
        "host.request",
        "host.controlled",
        "host.controlnet",
        "host.denoising",
        "host.forge_network",
        "host.http_api",
        "host.kept_trajectories",
        "host.model",
    ),
    *("host.options", "host.real_image", "host.recipes", "host.refusals", "host.saving", "host.word_preview"),
    *("host.words", "host.xyz", "ui"),
)


class StandIn:
    """The host: loaded model, options, callbacks, and the loop of `process_images`."""

    def __init__(self) -> None:
        self.raise_at: int | None = None
        self.errors: list[Exception] = []
        self.saved: list[tuple[str, str]] = []
        self.script_callbacks = _Callbacks("modules.script_callbacks")
        self.shared = types.ModuleType("modules.shared")
        self.scripts = types.ModuleType("modules.scripts")
        self.scripts.scripts_data = []  # type: ignore[attr-defined]
        self.sd_unet = types.ModuleType("modules.sd_unet")
        self.prompt_parser = types.ModuleType("modules.prompt_parser")
        self.images = types.ModuleType("modules.images")
        self.use_model(small_unet(levels=2))
        vars(self.shared).update(
            opts=types.SimpleNamespace(samples_format="png"),
            state=types.SimpleNamespace(interrupted=False, skipped=False),
            prompt_styles=types.SimpleNamespace(apply_styles_to_prompt=lambda text, styles: ", ".join([text, *styles])),
        )
        vars(self.sd_unet).update(get_unet_option=lambda: None)
        vars(self.images).update(save_image=self.save_image)
        vars(self.prompt_parser).update(get_multicond_prompt_list=lambda p: ([t.split(" AND ") for t in p], [], {}))

    def use_model(self, unet: Any) -> None:
        vars(self.shared).update(sd_model=types.SimpleNamespace(model=types.SimpleNamespace(diffusion_model=unet)))

    def process_images(self, p: Request, script: Any, *args: Any) -> types.SimpleNamespace:
        """One request, callbacks in A1111's order (host-facts, section 1); errors of callbacks are only logged."""
        self._call(script.before_process, p, *args)
        p.setup_prompts()
        self._call(script.process, p, *args)
        p.init(p.all_prompts, p.all_seeds, p.all_subseeds)
        images: list[torch.Tensor] = []
        infotexts: list[dict[str, Any]] = []
        for iteration in range(p.n_iter):
            p.iteration = iteration
            part = slice(p.iteration * p.batch_size, (p.iteration + 1) * p.batch_size)
            p.prompts, p.negative_prompts = p.all_prompts[part], p.all_negative_prompts[part]
            p.seeds, p.subseeds = p.all_seeds[part], p.all_subseeds[part]
            batch = types.SimpleNamespace(images=list(p.sample()))
            self._call(script.postprocess_batch_list, p, batch, *args, batch_number=p.iteration)
            saves = p.save_samples()  # once, and tested for each image
            for p.batch_index in range(len(batch.images)):
                if saves:
                    self.save_image(None, p.outpath_samples, "", p.seeds[0], p.prompts[p.batch_index], "png", p=p)
            images += batch.images
            infotexts += [create_infotext(p, index) for index in range(len(batch.images))]
        lists = ("all_prompts", "all_negative_prompts", "all_seeds", "all_subseeds")
        processed = types.SimpleNamespace(images=images, infotexts=infotexts, **{n: getattr(p, n) for n in lists})
        self._call(script.postprocess, p, processed, *args)
        return processed

    def save_image(self, image: Any, path: str, _: str, seed: int, prompt: str, *__: Any, suffix: str = "", **___: Any):
        self.saved.append((prompt, suffix))

    def _call(self, callback: Callable[..., None], *args: Any, **kwargs: Any) -> None:
        try:
            callback(*args, **kwargs)
        except Exception as error:
            self.errors.append(error)


class _Callbacks(types.ModuleType):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.registered: list[Callable[[Any], None]] = []

    def on_cfg_denoiser(self, callback: Callable[[Any], None]) -> None:
        self.registered.append(callback)

    def remove_callbacks_for_function(self, callback: Callable[[Any], None]) -> None:
        self.registered = [kept for kept in self.registered if kept != callback]

    def run(self, params: Any) -> None:
        for callback in list(self.registered):
            callback(params)


@contextmanager
def installed() -> Iterator[StandIn]:
    """Put the stand-in in the place of `modules` and drop whatever was imported over it."""
    host = StandIn()
    package = types.ModuleType("modules")
    parts = {name: getattr(host, name) for name in MODULES}
    untouched = ("extra_networks", "paths", "processing", "sd_models", "sd_samplers_common", "ui_components")
    parts |= {name: types.ModuleType(f"modules.{name}") for name in untouched}
    fakes = {"modules": package, **{f"modules.{name}": part for name, part in parts.items()}}
    vars(package).update(parts)
    fakes["gradio"] = types.ModuleType("gradio")
    over_it = tuple(f"lib_masactrl.{name}" for name in OVER_IT)
    before = {name: sys.modules.get(name) for name in (*fakes, *over_it)}
    for name in over_it:
        sys.modules.pop(name, None)
    sys.modules.update(fakes)
    try:
        yield host
    finally:
        for name, module in before.items():
            sys.modules.pop(name, None)
            if module is not None:
                sys.modules[name] = module


def _embedding(text: str) -> torch.Tensor:
    seed = int.from_bytes(text.encode()[:6].ljust(6, b"."), "big") + len(text)
    return torch.randn(7, CONTEXT, generator=torch.Generator().manual_seed(seed))


def create_infotext(p: Request, index: int) -> dict[str, Any]:
    """`create_infotext` of A1111 1.9 and later: callables are called with the image's index in its batch."""
    entries = {"prompt": p.prompts[index], "seed": p.seeds[index], **p.extra_generation_params}
    for key, value in entries.items():
        if callable(value):
            entries[key] = value(p=p, index=index)
    return {key: value for key, value in entries.items() if value is not None}
