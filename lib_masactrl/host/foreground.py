"""From settings to the masks of one sampling, the same on every host."""

from __future__ import annotations

from torch import Tensor

from lib_masactrl.branches import Branch
from lib_masactrl.errors import SettingsError
from lib_masactrl.masks import ForegroundMasks, WordPositions
from lib_masactrl.prompt_words import ForegroundWords, phrases_in
from lib_masactrl.settings import MasaCtrlSettings


def foreground_words(settings: MasaCtrlSettings) -> ForegroundWords:
    """The words that ``settings`` name.

    Raises:
        SettingsError: they name none.
    """
    return ForegroundWords(phrases_in(settings.source_words), phrases_in(settings.target_words))


def branches_by_words(settings: MasaCtrlSettings, branches: tuple[Branch, ...]) -> tuple[Branch, ...]:
    """The branches whose foreground is found by words: with a painted mask, targets that have words of their own."""
    if settings.mask == "words":
        return branches
    if settings.finds_words:
        return tuple(branch for branch in branches if not branch.is_source)
    return ()


def masks_for(
    settings: MasaCtrlSettings, branches: tuple[Branch, ...], painted: Tensor | None, words: WordPositions | None
) -> ForegroundMasks | None:
    """The masks that ``settings`` ask for; ``None`` if they ask for none.

    Args:
        painted: the source's foreground, (height, width) in 0..1 in any size.
        words: see :class:`ForegroundMasks`; needed for :func:`branches_by_words`.

    Raises:
        SettingsError: a painted mask is asked for and not there.
    """
    if settings.mask == "none":
        return None
    by_words = branches_by_words(settings, branches)
    if settings.mask != "painted":
        return ForegroundMasks({}, words, settings.mask_threshold, settings.average_masks)
    if painted is None:
        raise SettingsError(
            "mask is 'painted', but no mask was painted; paint the source's foreground (in img2img's Inpaint "
            "tab, or with --mask-image), or give mask 'words' or 'none'."
        )
    given = {branch: painted for branch in branches if branch not in by_words}
    return ForegroundMasks(given, words if by_words else None, settings.mask_threshold, settings.average_masks)


def found(masks: ForegroundMasks, branches: tuple[Branch, ...]) -> str:
    """How much of each branch was foreground in the end, for the infotext: ``target 1 31%, source 24%``."""
    shares = []
    for branch in branches:
        name = "source" if branch.target is None else f"target {branch.target + 1}"
        mask = masks.of_result(branch)
        shares.append(f"{name} {'none' if mask is None else format(mask.float().mean().item(), '.0%')}")
    return ", ".join(shares)
