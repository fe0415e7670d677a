"""Runs inside the WebUI under test: watches sampling and, when a request asks for it, makes it fail.

Idle (no argument) it touches no request. Over the API its one argument is an object with any of

* ``raise_at_call``: raise inside the U-Net at its n-th call of the request, counted from 1;
* ``prompts``: the prompt of each image of the request, to make a plain batch of several prompts, and
  ``hr_prompts`` for the second pass (else the same);
* ``seeds_of``: for each image, which of the host's own seeds it gets, counted from 0;
* ``encoder_seed``: seed torch's global generator, from which the host draws when it encodes init images. (Left alone,
  an img2img result depends on the request before it, without MasaCtrl too; visible with an untrained encoder.)
* ``network``: the loaded checkpoint gets a small network of another family, by its name in ``lib_fault.networks``, in
  the place of its U-Net, until the next request;
* ``round_trips``: keep what the host's autoencoder makes of the init images, for ``GET /fault/round_trips``;
* ``taesd``: give the host an encoder of that kind, of random weights, so that it downloads none;
* ``low_memory``: let the Forge family believe that no more rows than these fit into one U-Net call, so that it
  evaluates cond and uncond apart (AUTOMATIC1111 has an option for that);
* ``trace``: keep the denoised latents of every denoiser evaluation, for ``GET /fault/trace``;
* ``count``: keep the number of rows of every U-Net call since the last ``GET /fault/rows``;
* ``calls``: keep what every U-Net call gets and gives, for ``GET /fault/calls``;
* ``detect``: from now on, ADetailer's ``mediapipe_face_full`` finds a face in the middle of every picture;
* ``units_of_the_page``: ControlNet units from the API have their input mode as Forge's page gives it: an object, which
  no JSON holds, and without which that ControlNet takes no unit of several pictures.

``POST /fault/batch`` runs the img2img tab's Batch mode, which the host's API does not offer.
"""

import sys

import gradio as gr
import torch
from modules import script_callbacks, scripts, shared

from lib_fault import faces, leftovers, networks, prompt_words, settings
from lib_fault.watch import calls, keep_denoised, keep_round_trips, round_trips, rows, trace, watch


class FaultScript(scripts.Script):
    def title(self):
        return "Fault injection"

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def ui(self, is_img2img):
        return [gr.Textbox(value="", visible=False, label="Fault")]

    def before_process(self, p, wanted=None):
        if isinstance(wanted, dict) and wanted.get("detect"):
            faces.find_everywhere()
        if isinstance(wanted, dict) and wanted.get("units_of_the_page") and "lib_controlnet.enums" in sys.modules:
            modes = sys.modules["lib_controlnet.enums"].InputMode
            for unit in p.script_args:
                if isinstance(unit, dict) and "input_mode" in unit:
                    unit["input_mode"] = modes(unit["input_mode"])

    def postprocess(self, p, processed, wanted=None):
        watch.unhook()

    def postprocess_batch(self, p, wanted=None, **kwargs):
        if isinstance(wanted, dict) and wanted.get("round_trips"):
            keep_round_trips(p)

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


def reload_ui():
    """What the button "Apply and restart UI" does in the end."""
    shared.state.request_restart()


def add_routes(_, app):
    settings.find_api(app)
    asked = (leftovers.hooks, leftovers.memory, networks.networks, settings.axes, settings.page_warnings)
    asked += (trace, calls, rows, round_trips)
    told = (settings.infotext, settings.paste, settings.script_args, settings.batch, prompt_words.words, reload_ui)
    told += (networks.preprocessor,)
    for routes, method in ((asked, "GET"), (told, "POST")):
        for route in routes:
            app.add_api_route(f"/fault/{route.__name__}", route, methods=[method])


script_callbacks.on_cfg_after_cfg(keep_denoised)
script_callbacks.on_app_started(add_routes)
script_callbacks.on_list_unets(lambda options: options.append(networks.CompiledOption()))
