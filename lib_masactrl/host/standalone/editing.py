"""Editing a real image: encode, invert, sample with the image as source, and say how well the source was kept."""

from __future__ import annotations

import dataclasses
import logging

from PIL import Image
from torch import Tensor

from lib_masactrl.host.standalone.checkpoint import DiffusionModel
from lib_masactrl.host.standalone.reading import fitted, fitting_size, to_tensor
from lib_masactrl.host.standalone.real_image import InversionPlan, invert_image
from lib_masactrl.host.standalone.results import Run
from lib_masactrl.host.standalone.sampling import SamplingPlan, sample_latents
from lib_masactrl.infotext_entries import PSNR, UNRECTIFIED
from lib_masactrl.inversion import psnr

log = logging.getLogger(__name__)

#: How many dB below the autoencoder's round trip a source may be before advice is given.
_POOR = 1.0


def plan_for(
    model: DiffusionModel, plan: SamplingPlan, picture: Image.Image, width: int | None, height: int | None
) -> SamplingPlan:
    """``plan`` in the size for ``picture``: as asked for, else (``None``) the nearest to its own.

    Raises:
        SettingsError: the model cannot sample the size that is asked for.
    """
    fitting = fitting_size(picture, model.config.size_multiple, width, height)
    sized = dataclasses.replace(plan, width=fitting[0], height=fitting[1])
    sized.check_size(model)
    return sized


def edit_picture(run: Run, picture: Image.Image, inversion: InversionPlan) -> tuple[Tensor, dict[str, str]]:
    """The run's branches as pictures (branches, 3, height, width) in 0..1, and what is to be said in the infotext.

    Args:
        run: the batch, with one source; its seed does not matter.
        picture: RGB; scaled and cropped to the size of the run's plan.

    Raises:
        InversionError: a number that is not finite appeared.
    """
    wanted = to_tensor(fitted(picture, run.plan.width, run.plan.height))
    latent = run.model.encode(wanted)
    image = invert_image(run.model, latent, inversion, progress=True)
    decoded = run.model.decode(sample_latents(run.model, run.batch, run.plan, run.control, progress=True, image=image))
    source = next(row for row, branch in enumerate(run.batch.branches) if branch.is_source)
    kept, possible = psnr(decoded[source : source + 1], wanted), psnr(run.model.decode(latent), wanted)
    entries = {PSNR: f"{kept:.1f} dB; VAE round trip {possible:.1f} dB"}
    if image.returned is not None:
        alone = psnr(run.model.decode(image.returned), wanted)
        log.info("Sampled back from the inverted noise alone: PSNR %.1f dB.", alone)
        entries[UNRECTIFIED] = f"{alone:.1f} dB"
        if alone < possible - _POOR:
            log.info("The inversion is not exact; raise --inversion-refinements, or take more --steps.")
    return decoded, entries | _said(inversion, kept, possible)


def _said(inversion: InversionPlan, kept: float, possible: float) -> dict[str, str]:
    rectified = "rectified" if inversion.rectify else "not rectified"
    log.info("Source (%s) against the picture: PSNR %.1f dB; VAE round trip: %.1f dB.", rectified, kept, possible)
    if kept < possible - _POOR:
        log.info("The source is not kept well; leave out --no-rectify, or take more --steps.")
    return {"MasaCtrl rectify": str(inversion.rectify)}
