"""What sampling does while a request is watched, and how it is made to fail."""

import base64
import io
import sys

import numpy
import torch
from modules import processing, shared
from torch.nn.modules.module import register_module_forward_pre_hook

from lib_fault.networks import holder_of, make_network, unet_of, write_taesd


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
        self.round_trips: numpy.ndarray | None = None

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
        if wanted.get("taesd"):
            write_taesd()
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


def keep_denoised(params):
    if watch.traces is not None:
        watch.traces.append(params.x.detach().float().cpu().numpy().copy())


def keep_round_trips(p):
    """Of the init images, as they were encoded, by the steps that the host takes for its results."""
    decoded = processing.decode_latent_batch(p.sd_model, p.init_latent, target_device=torch.device("cpu"))
    pictures = [255.0 * torch.clamp((one.float() + 1) / 2, 0, 1).permute(1, 2, 0).numpy() for one in decoded]
    watch.round_trips = numpy.stack(pictures).astype(numpy.uint8)


def round_trips():
    file = io.BytesIO()
    numpy.savez(file, pictures=watch.round_trips)
    return {"npz": base64.b64encode(file.getvalue()).decode("ascii")}


def trace():
    file = io.BytesIO()
    numpy.savez(file, *(watch.traces or []))
    return {"npz": base64.b64encode(file.getvalue()).decode("ascii")}


def calls():
    file = io.BytesIO()
    numpy.savez(file, **{f"{n}/{name}": value for n, call in enumerate(watch.calls) for name, value in call.items()})
    return {"npz": base64.b64encode(file.getvalue()).decode("ascii")}


def rows():
    counted, watch.rows = watch.rows, []
    return counted
