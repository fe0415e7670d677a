"""The AlwaysVisible script: hands each of the host's callbacks to ``lib_masactrl``."""

from __future__ import annotations

from lib_masactrl.host.capabilities import check_webui

check_webui()  # first, because the imports that follow fail elsewhere, and do not say why

from modules import script_callbacks, scripts  # noqa: E402

from lib_masactrl import ui  # noqa: E402
from lib_masactrl.host import controlnet, http_api, options, recipes, request, xyz  # noqa: E402


class MasaCtrlScript(scripts.Script):
    def __init__(self):
        self.recipes = recipes.ControlNetRecipes()

    def title(self):
        return "MasaCtrl"

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    prompt = None

    def after_component(self, component, **kwargs):
        self.recipes.notice(component)
        if kwargs.get("elem_id") in ("txt2img_prompt", "img2img_prompt"):
            self.prompt = component

    def ui(self, is_img2img):
        tab = "img2img" if is_img2img else "txt2img"
        fields = ui.build(tab, self.recipes, hidden=controlnet.hidden_settings(), prompt=self.prompt)
        self.infotext_fields = [(component, ui.PasteTarget(setting)) for setting, component in fields]
        self.paste_field_names = [setting.infotext_key for setting, _ in fields]
        return [component for _, component in fields]

    @request.refusing
    def before_process(self, p, *args):
        request.begin(p, args)

    @request.refusing
    def process(self, p, *args):
        request.prepare(p)

    def postprocess_batch_list(self, p, pp, *args, batch_number=0, **kwargs):
        request.drop_sources(p, pp, batch_number)

    def postprocess(self, p, processed, *args):
        request.finish(p, processed)


script_callbacks.on_before_ui(xyz.register_axes)
script_callbacks.on_ui_settings(options.add_page)
script_callbacks.on_app_started(http_api.add_routes)
