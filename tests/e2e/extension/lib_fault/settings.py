"""MasaCtrl's settings as the host carries them: arguments, infotext, paste, axes of its X/Y/Z plot, Batch mode."""

import warnings

import gradio as gr
from modules import img2img, processing, scripts, shared
from PIL import Image


def masactrl(tab):
    runner = scripts.scripts_img2img if tab == "img2img" else scripts.scripts_txt2img
    return runner, next(script for script in runner.alwayson_scripts if script.title() == "MasaCtrl")


def axes():
    grids = [data.module for data in scripts.scripts_data if data.script_class.__module__.endswith("xyz_grid.py")]
    return {
        tab: [o.label for o in grids[0].axis_options if type(o) is grids[0].AxisOption or o.is_img2img == is_img2img]
        for tab, is_img2img in (("txt2img", False), ("img2img", True))
    }


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


def find_api(app):
    """Note the host's API for :func:`script_args`, once it has its routes."""
    global host_api
    host_api = next(r.endpoint.__self__ for r in app.routes if getattr(r, "path", "") == "/sdapi/v1/txt2img")


def page_warnings():
    """What Python warns of while both tabs' accordions are built again, beside the page."""
    with gr.Blocks(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for tab in ("txt2img", "img2img"):
            type(masactrl(tab)[1])().ui(tab == "img2img")
    return [str(warning.message) for warning in caught]
