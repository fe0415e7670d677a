"""The trajectories of inverted pictures, kept from one request to the next."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from modules import paths, shared
from torch import Tensor

from lib_masactrl.trajectory_cache import TrajectoryCache, cache_key

#: One for the whole process, so that a second edit of a picture starts at once. Sized by the user's settings.
CACHE = TrajectoryCache(limit=0)
#: Its options on the host's settings page (``options.py``), and how large it is until they are set.
CACHE_MIB, CACHE_ON_DISK, DEFAULT_CACHE_MIB = "masactrl_cache_mib", "masactrl_cache_on_disk", 512


def configure_cache() -> None:
    """Size the cache as the user's settings say now."""
    mebibytes = int(getattr(shared.opts, CACHE_MIB, DEFAULT_CACHE_MIB))
    on_disk = bool(getattr(shared.opts, CACHE_ON_DISK, False))
    CACHE.configure(mebibytes * 2**20, Path(paths.data_path) / "cache" / "masactrl" if on_disk else None)


def trajectory_key(p: Any, picture: Tensor, path: tuple[float, ...], refinements: int, asked: list[Any]) -> str:
    """The key of everything that a trajectory depends on.

    Args:
        p: the request, its init images encoded.
        picture: its pixels, as they were encoded; they stand for the latent, because the host draws noise when it
            encodes.
        path: the noise levels to invert through.
        refinements: of each step.
        asked: what the inversion asks: the patched network and the conditionings.
    """
    file = Path(getattr(getattr(shared.sd_model, "sd_checkpoint_info", None), "filename", ""))
    written = file.stat().st_mtime_ns if file.is_file() else 0
    networks = {
        kind: [getattr(network, "items", network) for network in used]
        for kind, used in (getattr(p, "extra_network_data", None) or {}).items()
    }
    option = shared.opts.data.get
    return cache_key(
        [
            *(picture, tuple(p.init_latent.shape[1:]), getattr(p, "resize_mode", None), path),
            *(str(file), written, getattr(p, "sd_vae_name", None), getattr(p, "sd_vae_hash", None)),
            *(option("sd_vae"), option("sd_vae_encode_method"), p.tiling),
            # Forge main: the chosen VAE and text encoders, and how the U-Net's weights are stored.
            *(option("forge_additional_modules"), option("forge_unet_storage_dtype")),
            *(sorted(networks.items()), p.get_token_merging_ratio(), refinements),
            *(option("sd_hypernetwork"), option("enable_quantization"), *asked),
        ]
    )
