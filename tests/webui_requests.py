"""MasaCtrl's requests to the stand-in of a WebUI, for the tests of its life cycle."""

from __future__ import annotations

import torch

from tests.webui_standin import Request, StandIn

NAMED = {"enabled": True, "source_prompt": "a dog sitting", "start_step": 1, "start_layer": 0}


class Script:
    """`scripts/masactrl.py` without its user interface, which needs Gradio."""

    def __init__(self, callbacks):
        self.callbacks = callbacks
        self.before_process = lambda p, *args: callbacks.refusing(lambda _, p, *a: callbacks.begin(p, a))(
            self, p, *args
        )
        self.process = lambda p, *args: callbacks.refusing(lambda _, p, *a: callbacks.prepare(p))(self, p, *args)

    def postprocess_batch_list(self, p, pp, *args, batch_number=0):
        self.callbacks.drop_sources(p, pp, batch_number)

    def postprocess(self, p, processed, *args):
        self.callbacks.finish(p, processed)


def run(host: StandIn, args=NAMED, **given):
    p = Request(host, **given)
    return p, host.process_images(p, host.script, *([args] if isinstance(args, dict) else args))


def leftovers(host: StandIn, p: Request) -> list[object]:
    unet = host.shared.sd_model.model.diffusion_model
    hooked = [m for m in unet.modules() if "forward" in vars(m) or m._forward_pre_hooks or m._forward_hooks]
    own = [name for name in vars(p) if name.startswith("masactrl") or name in ("init", "sample", "save_samples")]
    return [*hooked, *host.script_callbacks.registered, *own]


def latents(processed) -> torch.Tensor:
    return torch.stack(processed.images)
