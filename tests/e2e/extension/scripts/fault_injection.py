"""Runs inside the WebUI under test: watches sampling and, when a request asks for it, makes it fail.

Idle (no argument) it touches no request. Over the API its one argument is an object with any of

* ``raise_at_call``: raise inside the U-Net at its n-th call of the request, counted from 1;
* ``prompts``: the prompt of each image of the request, to make a plain batch of several prompts, and
  ``hr_prompts`` for the second pass (else the same);
* ``seeds_of``: for each image, which of the host's own seeds it gets, counted from 0;
* ``encoder_seed``: seed torch's global generator, from which the host draws when it encodes init images. (Left alone,
  an img2img result depends on the request before it, without MasaCtrl too; visible with an untrained encoder.)
* ``network``: the loaded checkpoint gets a small network of another family, by its name in :data:`NETWORKS`, in the
  place of its U-Net, until the next request;
* ``low_memory``: let the Forge family believe that no more rows than these fit into one U-Net call, so that it
  evaluates cond and uncond apart (AUTOMATIC1111 has an option for that);
* ``trace``: keep the denoised latents of every denoiser evaluation, for ``GET /fault/trace``;
* ``count``: keep the number of rows of every U-Net call since the last ``GET /fault/rows``;
* ``calls``: keep what every U-Net call gets and gives, for ``GET /fault/calls``;
* ``units_of_the_page``: ControlNet units from the API have their input mode as Forge's page gives it: an object, which
  no JSON holds, and without which that ControlNet takes no unit of several pictures.

``POST /fault/batch`` runs the img2img tab's Batch mode, which the host's API does not offer.
"""

import base64
import gc
import importlib.util
import io
import sys

import gradio as gr
import numpy
import torch
from modules import img2img, processing, script_callbacks, scripts, sd_models, sd_unet, shared
from PIL import Image
from torch.nn.modules.module import register_module_forward_pre_hook

_FLUX = {
    **{"in_channels": 4, "vec_in_dim": 8, "context_in_dim": 8, "hidden_size": 32, "mlp_ratio": 1.0, "num_heads": 2},
    **{"depth": 1, "depth_single_blocks": 1, "axes_dim": [4, 6, 6], "theta": 100, "qkv_bias": True},
}
_MMDITX = {"depth": 1, "pos_embed_max_size": 8, "num_patches": 64, "adm_in_channels": 8}
_CHROMA = {**_FLUX, "guidance_out_dim": 32, "guidance_hidden_dim": 8, "guidance_n_layers": 1}
#: Networks without U-Net self-attention as the hosts themselves have them: module, class, arguments.
NETWORKS = {
    "Flux": ("backend.nn.flux", "IntegratedFluxTransformer2DModel", {**_FLUX, "guidance_embed": False}),
    "Chroma": ("backend.nn.chroma", "IntegratedChromaTransformer2DModel", _CHROMA),
    "SD 3 in Forge": ("backend.nn.mmditx", "MMDiTX", _MMDITX),
    "SD 3 in A1111": ("modules.models.sd3.mmdit", "MMDiT", {"depth": 1}),
}


class Fault(Exception):
    """The failure that a request asked for."""


class Watch:
    """What is kept between a request and the questions about it."""

    traces: list[numpy.ndarray] | None = None
    hook = None
    short_of_memory = None
    replaced = None

    def __init__(self):
        self.rows: list[int] = []
        self.calls: list[dict[str, numpy.ndarray]] = []

    def clear(self):
        self.traces = None
        self.calls = []
        if self.replaced is not None:
            model, unet = self.replaced
            model.diffusion_model = unet
            self.replaced = None
        if self.short_of_memory is not None:
            del self.short_of_memory.memory_required
            self.short_of_memory = None
        self.unhook()

    def unhook(self):
        if self.hook is not None:
            self.hook.remove()
            self.hook = None

    def start(self, wanted):
        if wanted.get("trace"):
            self.traces = []
        if "network" in wanted:
            self.replace_network(wanted["network"])
        if "low_memory" in wanted:
            self.run_short_of_memory(wanted["low_memory"])
        if wanted.get("count"):
            self.count()
        if wanted.get("calls"):
            self.keep_calls()
        if "raise_at_call" in wanted:
            self.raise_at(int(wanted["raise_at_call"]))

    def count(self):
        def note(module, args):
            if module is unet_of(shared.sd_model).middle_block[0]:
                self.rows.append(len(args[0]))

        self.hook = register_module_forward_pre_hook(note)

    def keep_calls(self):
        """By the names that the U-Net's ``forward`` gives them in AUTOMATIC1111's two families of models."""

        def keep(module, args, kwargs, output):
            given = {**dict(zip(("x", "timesteps", "context", "y"), args)), **kwargs, "output": output}
            tensors = {name: value for name, value in given.items() if isinstance(value, torch.Tensor)}
            self.calls.append({name: value.detach().float().cpu().numpy() for name, value in tensors.items()})

        self.hook = unet_of(shared.sd_model).register_forward_hook(keep, with_kwargs=True)

    def raise_at(self, call):
        """In the middle of whichever model is the host's by then: a refiner may bring another.

        In its first layer there, because reForge and Forge Classic call layers and never the block that holds them.
        """
        calls = 0

        def fail(module, args):
            nonlocal calls
            calls += module is unet_of(shared.sd_model).middle_block[0]
            if calls == call:
                self.clear()
                raise Fault(f"asked for at U-Net call {call}")

        self.hook = register_module_forward_pre_hook(fail)

    def replace_network(self, name):
        model = holder_of(shared.sd_model)
        self.replaced = model, model.diffusion_model
        model.diffusion_model = make_network(name)

    def run_short_of_memory(self, rows):
        """Where rows are put into calls, not where weights are loaded, which would offload them."""

        def required(input_shape, **more):
            batching = "cond" in sys._getframe(1).f_code.co_name  # calc_cond_uncond_batch and the like
            return 2**40 if batching and input_shape[0] > rows else 0

        self.short_of_memory = shared.sd_model.forge_objects.unet.model
        self.short_of_memory.memory_required = required


watch = Watch()


class FaultScript(scripts.Script):
    def title(self):
        return "Fault injection"

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def ui(self, is_img2img):
        return [gr.Textbox(value="", visible=False, label="Fault")]

    def before_process(self, p, wanted=None):
        if isinstance(wanted, dict) and wanted.get("units_of_the_page") and "lib_controlnet.enums" in sys.modules:
            modes = sys.modules["lib_controlnet.enums"].InputMode
            for unit in p.script_args:
                if isinstance(unit, dict) and "input_mode" in unit:
                    unit["input_mode"] = modes(unit["input_mode"])

    def postprocess(self, p, processed, wanted=None):
        watch.unhook()

    def process(self, p, wanted=None):
        watch.clear()
        if not isinstance(wanted, dict):
            return
        if "prompts" in wanted:
            p.all_prompts = list(wanted["prompts"])
            if getattr(p, "all_hr_prompts", None):
                p.all_hr_prompts = list(wanted.get("hr_prompts", wanted["prompts"]))
        for name in ("all_seeds", "all_subseeds"):
            if "seeds_of" in wanted:
                setattr(p, name, [getattr(p, name)[index] for index in wanted["seeds_of"]])
        if "encoder_seed" in wanted:
            torch.manual_seed(wanted["encoder_seed"])
        watch.start(wanted)


def keep_denoised(params):
    if watch.traces is not None:
        watch.traces.append(params.x.detach().float().cpu().numpy().copy())


def make_network(name):
    module, kind, arguments = NETWORKS[name]
    return getattr(importlib.import_module(module), kind)(**arguments)


def holder_of(model):
    """What has the U-Net of a loaded checkpoint; ``None`` in Forge before the first request, when none is loaded."""
    return getattr(model.forge_objects.unet if hasattr(model, "forge_objects") else model, "model", None)


def unet_of(model):
    return getattr(holder_of(model), "diffusion_model", None)


def hooks():
    """What is hooked into the U-Nets in memory, but for the wrappers of its own that Hypertile leaves and marks."""
    models = [shared.sd_model, *getattr(sd_models.model_data, "loaded_sd_models", [])]
    modules = {module for unet in map(unet_of, models) if unet is not None for module in unet.modules()}
    forwards = [m for m in modules if "forward" in vars(m) and "__webui_hypertile_params" not in vars(m)]
    ours = [m for m in modules if hasattr(vars(m).get("forward"), "is_masactrl_hook")]
    return {
        "control_signals": sum("apply_effective_region_mask" in vars(holder) for holder in control_objects()),
        "forwards": len({*forwards, *ours}),
        "ours": len(ours),
        "callbacks": len(script_callbacks.callback_map["callbacks_cfg_denoiser"]),
        "pre_hooks": sum(len(module._forward_pre_hooks) for module in modules),
    }


def control_objects():
    """What a ControlNet extension keeps of its last request, and of the models in its cache."""
    for runner in (scripts.scripts_txt2img, scripts.scripts_img2img):
        for script in runner.alwayson_scripts:
            if script.title().lower() == "controlnet":
                yield from getattr(getattr(script, "latest_network", None), "control_params", None) or ()
                yield from (entry[0] for entry in getattr(type(script), "model_cache", {}).values())


def networks():
    return [name for name, (module, *_) in NETWORKS.items() if has_module(module)]


def has_module(name):
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # not even its package
        return False


def memory():
    gc.collect()
    with open("/proc/self/statm", encoding="ascii") as statm:
        pages = int(statm.read().split()[1])
    return {"rss_mib": pages * 4096 / 2**20, "objects": len(gc.get_objects())}


def axes():
    grids = [data.module for data in scripts.scripts_data if data.script_class.__module__.endswith("xyz_grid.py")]
    return {
        tab: [o.label for o in grids[0].axis_options if type(o) is grids[0].AxisOption or o.is_img2img == is_img2img]
        for tab, is_img2img in (("txt2img", False), ("img2img", True))
    }


def rows():
    counted, watch.rows = watch.rows, []
    return counted


def batch(wanted: dict):
    """Batch mode over a folder, with MasaCtrl's settings; returns the batch size it left."""
    runner, ours = masactrl("img2img")
    script_args = [getattr(component, "value", None) for component in runner.inputs]
    script_args[ours.args_from] = wanted["settings"]
    p = processing.StableDiffusionProcessingImg2Img(
        sd_model=shared.sd_model, outpath_samples=wanted["output"], init_images=[], **wanted["request"]
    )
    p.scripts, p.script_args = runner, tuple(script_args)
    shared.state.begin("batch")
    try:
        img2img.process_batch(p, wanted["input"], wanted["output"], "", (0,))
    finally:
        shared.state.end()
    return {"batch_size": p.batch_size}


def trace():
    file = io.BytesIO()
    numpy.savez(file, *(watch.traces or []))
    return {"npz": base64.b64encode(file.getvalue()).decode("ascii")}


def calls():
    file = io.BytesIO()
    numpy.savez(file, **{f"{n}/{name}": value for n, call in enumerate(watch.calls) for name, value in call.items()})
    return {"npz": base64.b64encode(file.getvalue()).decode("ascii")}


def masactrl(tab):
    runner = scripts.scripts_img2img if tab == "img2img" else scripts.scripts_txt2img
    return runner, next(script for script in runner.alwayson_scripts if script.title() == "MasaCtrl")


def infotext(wanted: dict):
    """The infotext of the first image that ``prompt`` and MasaCtrl's ``args`` would make; nothing is sampled."""
    given = {name: wanted[name] for name in ("prompt", "negative_prompt")}
    given |= {"sd_model": shared.sd_model, "steps": 1}  # one, because an inversion may not take fewer
    if wanted["tab"] == "img2img":
        picture = Image.new("RGB", (64, 64))
        given |= {"mask": Image.new("L", (64, 64), 255) if wanted["painted"] else None, "inpainting_fill": 1}
        p = processing.StableDiffusionProcessingImg2Img(init_images=[picture], denoising_strength=0.8, **given)
        p.sampler_name = "DDIM"
    else:
        p = processing.StableDiffusionProcessingTxt2Img(**given)
    _, script = masactrl(wanted["tab"])
    script.before_process(p, *wanted["args"])
    p.setup_prompts()
    count = len(p.all_prompts)
    p.iteration, p.all_seeds, p.all_subseeds = 0, [1] * count, [2] * count
    script.process(p, *wanted["args"])
    if not hasattr(p, "masactrl_batch"):  # refused: the request's own `init` would say why
        p.init(p.all_prompts, p.all_seeds, p.all_subseeds)
    return processing.create_infotext(
        p, p.all_prompts, p.all_seeds, p.all_subseeds, all_negative_prompts=p.all_negative_prompts
    )


def paste(wanted: dict):
    """What the host's own paste button puts into MasaCtrl's fields of ``tab``, by infotext key; None: left alone."""
    runner, _ = masactrl(wanted["tab"])
    fields = {component._id: str(key) for component, key in runner.infotext_fields if str(key).startswith("MasaCtrl")}
    for dependency, function in zip(shared.demo.dependencies, shared.demo.fns):
        if getattr(function.fn, "__name__", "") == "paste_func" and set(fields) <= set(dependency["outputs"]):
            updates = dict(zip(dependency["outputs"], function.fn(wanted["infotext"])))
            return {key: updates[number].get("value") for number, key in fields.items()}
    raise LookupError("no paste button fills MasaCtrl's fields")


def script_args(wanted: dict):
    """The arguments that the host's API hands to MasaCtrl for a request of this ``infotext`` alone."""
    runner, script = masactrl(wanted["tab"])
    given = [component.value for component in runner.inputs[script.args_from : script.args_to]]
    mentioned = {}
    kinds = {"txt2img": "StableDiffusionTxt2ImgProcessingAPI", "img2img": "StableDiffusionImg2ImgProcessingAPI"}
    # Not at the top: the host's models hold the options that are known when they are imported, no extension's.
    from modules.api import models

    request = getattr(models, kinds[wanted["tab"]])(infotext=wanted["infotext"])
    host_api.apply_infotext(request, wanted["tab"], script_runner=runner, mentioned_script_args=mentioned)
    for index, value in mentioned.items():
        if script.args_from <= index < script.args_to:
            given[index - script.args_from] = value
    return given


def reload_ui():
    """What the button "Apply and restart UI" does in the end."""
    shared.state.request_restart()


class CompiledOption(sd_unet.SdUnetOption):
    """Stands for a compiled U-Net (TensorRT, ONNX): the host then calls it instead of the checkpoint's modules."""

    model_name, label = "no checkpoint's name", "[Fault] compiled"

    def create_unet(self):
        return Compiled()


class Compiled(sd_unet.SdUnet):
    def forward(self, x, timesteps, context, *args, **kwargs):
        return torch.zeros_like(x)


def words(body: dict):
    """Where MasaCtrl finds words in a prompt, and what the host's own token chunks have there, piece by piece."""
    from lib_masactrl.host.words import HostTokenizer, texts_of
    from lib_masactrl.prompt_words import phrases_in, positions_of, words_of

    tokenizer = HostTokenizer(shared.sd_model)
    engine = tokenizer._engine
    positions, spelt = [], []
    for _, text in texts_of(body["prompt"], 8):
        found = words_of(text, tokenizer)
        places = [n for phrase in phrases_in(body["words"]) for n in positions_of(phrase, found, tokenizer)]
        chunks, _ = engine.tokenize_line(text)
        positions.append(places)
        spelt.append([_piece(tokenizer._tokenizer(), chunks[n // 77], n % 77) for n in places])
    return {"positions": positions, "spelt": spelt}


def _piece(vocabulary, chunk, place):
    for fix in chunk.fixes:
        if fix.offset + 1 <= place < fix.offset + 1 + fix.embedding.vectors:
            return fix.embedding.name + "</w>" if place == fix.offset + fix.embedding.vectors else ""
    number = chunk.tokens[place]
    if hasattr(vocabulary, "convert_ids_to_tokens"):
        return vocabulary.convert_ids_to_tokens(number)
    return vocabulary.decoder[number]  # open_clip's


def add_routes(_, app):
    app.add_api_route("/fault/words", words, methods=["POST"])
    global host_api
    host_api = next(r.endpoint.__self__ for r in app.routes if getattr(r, "path", "") == "/sdapi/v1/txt2img")
    for route in (hooks, memory, axes, trace, calls, rows, networks):
        app.add_api_route(f"/fault/{route.__name__}", route, methods=["GET"])
    for route in (infotext, paste, script_args, batch, reload_ui):
        app.add_api_route(f"/fault/{route.__name__}", route, methods=["POST"])


script_callbacks.on_cfg_after_cfg(keep_denoised)
script_callbacks.on_app_started(add_routes)
script_callbacks.on_list_unets(lambda options: options.append(CompiledOption()))
