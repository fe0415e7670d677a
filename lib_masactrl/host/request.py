"""One request of a WebUI: from the callbacks of its scripts to control.

The host swallows every exception of a script callback and goes on generating (``scripts.py``, ``report``). So a
callback that cannot do its work *refuses*: it lets the request's own ``init``, which is not guarded, raise.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from modules import shared

from lib_masactrl.errors import (
    MasaCtrlError,
    SettingsError,
    UnsupportedCombinationError,
    UnsupportedModelError,
    told,
)
from lib_masactrl.host import infotext
from lib_masactrl.host.batch import BranchBatch
from lib_masactrl.host.capabilities import has_infotext_per_image
from lib_masactrl.host.controlled import controlled
from lib_masactrl.host.other_extensions import is_inner_request
from lib_masactrl.host.real_image import RealImage, noting_pictures
from lib_masactrl.host.refusals import (
    check_count,
    check_model,
    check_options,
    check_prompts,
    check_real_image,
    check_reference_units,
    check_scripts,
)
from lib_masactrl.host.saving import save_masks, without_sources
from lib_masactrl.host.words import check_masks, with_masks
from lib_masactrl.settings import MasaCtrlSettings

#: Where a request object carries its branches, and named values that X/Y/Z axes set on it.
BATCH, OVERRIDES = "masactrl_batch", "masactrl_overrides"


def refusing(callback: Callable[..., None]) -> Callable[..., None]:
    """Decorate a script callback ``(self, p, ...)`` so that its failure stops the request with its message."""

    @functools.wraps(callback)
    def guarded(script: Any, p: Any, *args: Any, **kwargs: Any) -> None:
        try:
            callback(script, p, *args, **kwargs)
        except Exception as error:  # whatever it is, the host would log it and generate an uncontrolled image
            _refuse(p, error)

    return guarded


def begin(p: Any, args: tuple[Any, ...]) -> None:
    """``before_process``: read the settings and enlarge the batch. Does nothing at all when disabled.

    Raises:
        MasaCtrlError: a setting or a combination is not allowed.
    """
    if is_inner_request(p):
        return
    if BATCH in vars(p) and _batch_of(p) is None:  # what this copy says shall not be said of the request it is of
        p.extra_generation_params = dict(p.extra_generation_params)
    end(p)
    infotext.clear(p)
    settings = MasaCtrlSettings.from_args(args, getattr(p, OVERRIDES, None))
    if not settings.enabled:
        return
    image_given = any(getattr(p, "init_images", None) or [])
    if hasattr(p, "init_images") and not image_given:  # the host would fail over it, without a word of what is missing
        raise SettingsError("img2img was given no picture; give one, or use txt2img.")
    settings = settings.with_source_settled(image_given)
    batch = BranchBatch(settings)
    setattr(p, BATCH, batch)
    batch.enlarge(p)


def prepare(p: Any) -> None:
    """``process``: write the branches into the host's lists and hook the request's ``sample``.

    Raises:
        MasaCtrlError: the loaded model or something in the request cannot be combined with control, and a picture
            without control was not asked for (``allow_plain``); or a setting does not fit the request.
    """
    batch = _batch_of(p)
    if batch is None:
        return
    try:
        _check_request(p, batch.settings)
    except (UnsupportedModelError, UnsupportedCombinationError) as error:
        if not batch.settings.allow_plain:
            raise
        _make_plain(p, batch, error)
        return
    if batch.settings.source == "image":
        _wrap_init(p, batch)
    batch.write_branches(p, lambda prompt: shared.prompt_styles.apply_styles_to_prompt(prompt, p.styles))
    check_masks(p, batch)
    infotext.write(p, batch, per_image=has_infotext_per_image(p))
    _wrap_sample(p, batch)


def drop_sources(p: Any, results: Any, iteration: int) -> None:
    """``postprocess_batch_list``: say how well real images were kept; take sources out, as ``show_source`` asks, or
    keep them from being saved, as the settings page does.

    The host obliges whoever changes the number of images to shorten the request's lists as well
    (A1111 ``scripts.py``, ``postprocess_batch_list``).
    """
    batch = _batch_of(p)
    if batch is None:
        return
    if batch.image is not None:
        _report_reconstruction(p, batch.image, results.images)
    if batch.masks is not None and batch.settings.show_masks:
        batch.shown_masks += with_masks(batch.masks, batch.branches(iteration), results.images)
    if batch.settings.show_source:
        saved = without_sources(p, batch.branches(iteration))
        if saved is not None:
            _wrap(p, "save_samples", saved)
        return
    kept = len(results.images) - batch.sources(iteration)
    for values in (results.images, p.prompts, p.negative_prompts, p.seeds, p.subseeds):
        del values[kept:]


def finish(p: Any, processed: Any) -> None:
    """``postprocess``: shorten the lists of the API's answer to its images, add the masks, restore the request."""
    batch = _batch_of(p)
    if batch is None:
        return
    if not batch.settings.show_source:
        for name in ("all_prompts", "all_negative_prompts", "all_seeds", "all_subseeds"):
            values = getattr(processed, name)
            setattr(processed, name, [value for value, kept in zip(values, batch.is_target()) if kept])
    processed.images += batch.shown_masks
    # The buttons that save all results look an infotext up for each (A1111 ``ui_common.save_files``).
    processed.infotexts += processed.infotexts[:1] * len(batch.shown_masks)
    end(p)
    save_masks(p, batch.shown_masks)


def end(p: Any) -> None:
    """Give the request back as it came. Safe to call at any time; also heals what an earlier failure left."""
    batch = p.__dict__.pop(BATCH, None)
    if batch is not None:
        batch.restore(p)
    for name in ("init", "sample", "save_samples"):
        _unwrap(p, name)


def _batch_of(p: Any) -> BranchBatch | None:
    """The request's branches, if they are its own.

    ADetailer calls every script's ``postprocess`` and ``process`` with copies of a request that is under way. Such a
    copy has the request's attributes, and must neither end the request nor save its masks.
    """
    batch = getattr(p, BATCH, None)
    return batch if batch is not None and batch.request is p else None


def _check_request(p: Any, settings: MasaCtrlSettings) -> None:
    check_model(settings)
    # The host has put the request's styles, which source and further targets share, into its own lists.
    own = [*p.all_prompts, *(getattr(p, "all_hr_prompts", None) or [])]
    check_prompts([*own, settings.source_prompt, *settings.target_prompts])
    check_reference_units(p)
    check_scripts(p, settings)
    check_options(p, settings)
    if settings.source == "image":
        check_real_image(p, settings)


def _make_plain(p: Any, batch: BranchBatch, refusal: MasaCtrlError) -> None:
    batch.withdraw(p)
    end(p)
    infotext.write_refusal(p, refusal.message)
    p.comment(f"{refusal} Made without control, as allow_plain asks.")


def _refuse(p: Any, error: Exception) -> None:
    end(p)

    def init(*args: Any, **kwargs: Any) -> None:
        _unwrap(p, "init")
        raise error

    _wrap(p, "init", init)


def _report_reconstruction(p: Any, image: RealImage, decoded: list[Any]) -> None:
    if shared.state.interrupted or shared.state.skipped:  # half-made pictures tell nothing about the inversion
        infotext.clear_reconstruction(p)
        if image.evaluations is None:
            p.comment(told(f"interrupted while {image.doing}, so that batch holds no edit."))
        return
    decibels, unrectified = image.reconstruction(decoded), image.sampled_back()
    infotext.write_reconstruction(p, decibels, unrectified)
    advice = image.advice(decibels, unrectified)
    if advice:
        p.comment(told(advice))


def _wrap_init(p: Any, batch: BranchBatch) -> None:
    """Note the pictures that the request's ``init`` encodes."""
    original = p.init

    def init(*args: Any, **kwargs: Any) -> Any:
        if getattr(p, BATCH, None) is not batch:
            return original(*args, **kwargs)
        with noting_pictures(p.sd_model, batch.noted):
            return original(*args, **kwargs)

    _wrap(p, "init", init)


def _wrap_sample(p: Any, batch: BranchBatch) -> None:
    original = p.sample

    def sample(*args: Any, **kwargs: Any) -> Any:
        if getattr(p, BATCH, None) is not batch:  # an extension that wrapped this wrapper kept it for a later request
            return original(*args, **kwargs)
        _unwrap(p, "save_samples")  # the last batch's
        try:
            check_prompts(p.prompts)  # other scripts may have written AND after our `process`
            with controlled(p, batch):
                samples = original(*args, **kwargs)
            check_count(samples, batch.branches(p.iteration))
            return samples
        except BaseException:
            # The host calls `postprocess` only after success, so this is the last chance to restore the request.
            end(p)
            raise

    _wrap(p, "sample", sample)


def _wrap(p: Any, name: str, wrapper: Callable[..., Any]) -> None:
    wrapper.masactrl_previous = p.__dict__.get(name)  # type: ignore[attr-defined]
    setattr(p, name, wrapper)


def _unwrap(p: Any, name: str) -> None:
    """Take our wrapper off the request; put back the earlier *instance* attribute (ControlNet's), if there was one."""
    wrapper = p.__dict__.get(name)
    if not hasattr(wrapper, "masactrl_previous"):
        return
    delattr(p, name)
    if wrapper.masactrl_previous is not None:
        setattr(p, name, wrapper.masactrl_previous)
