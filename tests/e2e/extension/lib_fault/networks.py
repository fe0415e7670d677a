"""The network inside a loaded checkpoint, and others to put in its place."""

import importlib
import importlib.util
from pathlib import Path

import torch
from modules import paths_internal, sd_unet, sd_vae_taesd

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
    "no attention": (__name__, "ConvolutionAlone", {}),
}


def holder_of(model):
    """What has the U-Net of a loaded checkpoint; ``None`` in Forge before the first request, when none is loaded."""
    return getattr(model.forge_objects.unet if hasattr(model, "forge_objects") else model, "model", None)


def unet_of(model):
    return getattr(holder_of(model), "diffusion_model", None)


def make_network(name):
    module, kind, arguments = NETWORKS[name]
    return getattr(importlib.import_module(module), kind)(**arguments)


class ConvolutionAlone(torch.nn.Module):
    """Called as a U-Net is, so that the host can sample with it."""

    def __init__(self):
        super().__init__()
        self.convolution = torch.nn.Conv2d(4, 4, 3, padding=1)
        torch.nn.init.constant_(self.convolution.weight, 0.01)
        torch.nn.init.zeros_(self.convolution.bias)
        self.dtype = torch.float32  # which reForge and Forge Classic ask for

    def forward(self, x, timesteps=None, context=None, **rest):
        return self.convolution(x.to(self.convolution.weight.dtype)).to(x.dtype)


def write_taesd():
    """A TAESD encoder of random weights where the host looks for one before it downloads it."""
    file = Path(paths_internal.models_path) / "VAE-taesd" / "taesd_encoder.pth"
    file.parent.mkdir(parents=True, exist_ok=True)
    # The older format: AUTOMATIC1111 1.6 takes a name that newer archives hold for unsafe.
    torch.save(sd_vae_taesd.encoder().state_dict(), file, _use_new_zipfile_serialization=False)


def preprocessor(wanted: dict):
    """The network of a ControlNet preprocessor, of random weights, where its package looks before it downloads it.

    Returns the name of the module that the package lacks, if any.
    """
    try:
        package = importlib.import_module(f"annotator.{wanted['package']}")
    except ModuleNotFoundError as error:
        return error.name
    file = Path(package.modeldir) / package.remote_model_path.rpartition("/")[2]
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save(getattr(package, wanted["network"])().state_dict(), file)
    return ""


def networks():
    return [name for name, (module, *_) in NETWORKS.items() if has_module(module)]


def has_module(name):
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # not even its package
        return False


class CompiledOption(sd_unet.SdUnetOption):
    """Stands for a compiled U-Net (TensorRT, ONNX): the host then calls it instead of the checkpoint's modules."""

    model_name, label = "no checkpoint's name", "[Fault] compiled"

    def create_unet(self):
        return Compiled()


class Compiled(sd_unet.SdUnet):
    def forward(self, x, timesteps, context, *args, **kwargs):
        return torch.zeros_like(x)
