"""Which pictures of a request the host writes to files, beyond what its own settings say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from modules import images, shared
from PIL import Image

from lib_masactrl.branches import Branch

#: Options of the host's settings page (``options.py``).
SAVE_SOURCES, SAVE_MASKS = "masactrl_save_sources", "masactrl_save_masks"


class SavesTargets:
    """The host's answer to "are pictures saved?", true while it works at a target.

    It asks once for a whole batch, ``save_samples = p.save_samples()``, but tests the answer for each picture, whose
    number in the batch is ``p.batch_index`` by then (``process_images_inner``).
    """

    def __init__(self, p: Any, answer: bool, branches: Sequence[Branch]) -> None:
        self._p, self._answer, self._branches = p, answer, branches

    def __bool__(self) -> bool:
        return bool(self._answer) and not self._branches[self._p.batch_index].is_source


def without_sources(p: Any, branches: Sequence[Branch]) -> Callable[[], Any] | None:
    """What ``p.save_samples`` is to be for a batch of ``branches``; ``None`` where sources are saved like any picture.

    What the host saves of a batch before it has finished pictures ("before highres fix") is not asked for one by one,
    so it stays the host's.
    """
    if getattr(shared.opts, SAVE_SOURCES, True):
        return None
    original = p.save_samples
    return lambda: SavesTargets(p, original(), branches)


def save_masks(p: Any, shown: Sequence[Image.Image]) -> None:
    """Save the pictures that show masks where the request's own go, if the user wants them and files at all."""
    if getattr(shared.opts, SAVE_MASKS, False) and p.save_samples():
        for picture in shown:
            arguments = (p.outpath_samples, "", p.seed, "", shared.opts.samples_format)
            images.save_image(picture, *arguments, p=p, suffix="-masactrl-mask")
