"""AUTOMATIC1111 v1.6 to v1.10: from script callbacks to control.

The host swallows every exception of a script callback and goes on generating (``scripts.py``, ``report``). So a
callback that cannot do its work *refuses*: it lets the request's own ``init``, which is not guarded, raise.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from modules import script_callbacks, shared
from torch import nn

from lib_masactrl.branches import BatchLayout
from lib_masactrl.control import METHODS, MutualSelfAttentionControl
from lib_masactrl.errors import MasaCtrlError, SettingsError, UnsupportedCombinationError
from lib_masactrl.host import infotext
from lib_masactrl.host.batch import BranchBatch
from lib_masactrl.host.refusals import check_model, check_network, check_prompts, check_reference_units, unet_of
from lib_masactrl.patching import attached
from lib_masactrl.schedule import ControlWindow, default_start_layer
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
    end(p)
    infotext.clear(p)
    settings = MasaCtrlSettings.from_args(args, getattr(p, OVERRIDES, None))
    if not settings.enabled:
        return
    batch = BranchBatch(settings)
    setattr(p, BATCH, batch)
    batch.enlarge(p)


def prepare(p: Any) -> None:
    """``process``: write the branches into the host's lists and hook the request's ``sample``.

    Raises:
        MasaCtrlError: the loaded model or something in the request cannot be combined with control.
    """
    batch = getattr(p, BATCH, None)
    if batch is None:
        return
    check_model(batch.settings)
    batch.write_branches(p, lambda prompt: shared.prompt_styles.apply_styles_to_prompt(prompt, p.styles))
    check_prompts([*p.all_prompts, *(getattr(p, "all_hr_prompts", None) or [])])
    check_reference_units(p)
    infotext.write(p, batch)
    _wrap_sample(p, batch)


def drop_sources(p: Any, results: Any, iteration: int) -> None:
    """``postprocess_batch_list``: take the sources out of the results, as ``show_source`` asks.

    The host obliges whoever changes the number of images to shorten the request's lists as well
    (A1111 ``scripts.py``, ``postprocess_batch_list``).
    """
    batch = getattr(p, BATCH, None)
    if batch is None or batch.settings.show_source:
        return
    kept = len(results.images) - batch.sources(iteration)
    for values in (results.images, p.prompts, p.negative_prompts, p.seeds, p.subseeds):
        del values[kept:]


def finish(p: Any, processed: Any) -> None:
    """``postprocess``: shorten the lists of the API's answer to the images in it, and restore the request."""
    batch = getattr(p, BATCH, None)
    if batch is None:
        return
    if not batch.settings.show_source:
        for name in ("all_prompts", "all_negative_prompts", "all_seeds", "all_subseeds"):
            values = getattr(processed, name)
            setattr(processed, name, [value for value, kept in zip(values, batch.is_target()) if kept])
    end(p)


def end(p: Any) -> None:
    """Give the request back as it came. Safe to call at any time; also heals what an earlier failure left."""
    batch = p.__dict__.pop(BATCH, None)
    if batch is not None:
        batch.restore(p)
    for name in ("init", "sample"):
        _unwrap(p, name)


def _refuse(p: Any, error: Exception) -> None:
    end(p)

    def init(*args: Any, **kwargs: Any) -> None:
        _unwrap(p, "init")
        raise error

    _wrap(p, "init", init)


def _wrap_sample(p: Any, batch: BranchBatch) -> None:
    original = p.sample

    def sample(*args: Any, **kwargs: Any) -> Any:
        if getattr(p, BATCH, None) is not batch:  # an extension that wrapped this wrapper kept it for a later request
            return original(*args, **kwargs)
        try:
            check_network(p)
            with _controlled(p, batch):
                return original(*args, **kwargs)
        except BaseException:
            # The host calls `postprocess` only after success, so this is the last chance to restore the request.
            end(p)
            raise

    _wrap(p, "sample", sample)


@contextmanager
def _controlled(p: Any, batch: BranchBatch) -> Iterator[None]:
    sampling = _ControlledSampling(p, batch)
    with ExitStack() as stack:
        sampling.attach(stack)
        stack.callback(script_callbacks.remove_callbacks_for_function, sampling.follow_model)
        script_callbacks.on_cfg_denoiser(sampling.follow_model)
        yield
    sampling.report()


class _ControlledSampling:
    """One call of the request's ``sample``: both passes of hires fix, every model that a refiner brings in."""

    def __init__(self, p: Any, batch: BranchBatch) -> None:
        self._p = p
        self._settings = batch.settings
        self._branches = batch.branches(p.iteration)
        self._control = MutualSelfAttentionControl(ControlWindow(0, None, 0), METHODS[batch.settings.method])
        self._steps_run: set[tuple[bool, int]] = set()
        self._steps_controlled: set[tuple[bool, int]] = set()
        self._failure: MasaCtrlError | None = None
        self._layers = 0

    def attach(self, stack: ExitStack) -> None:
        self._models = ExitStack()
        stack.callback(lambda: self._models.close())
        self._attach_to(unet_of(self._p.sd_model))

    def follow_model(self, params: Any) -> None:
        """``on_cfg_denoiser``: before each evaluation, and after a refiner may have swapped the model."""
        try:
            unet = unet_of(self._p.sd_model)
            if unet is not self._attached_to:
                self._attach_to(unet)
        except MasaCtrlError as error:  # the host would swallow it here; raised when sampling is over
            self._failure = error

    def report(self) -> None:
        """Write what was really controlled into the infotext.

        Raises:
            UnsupportedCombinationError: control was asked for and did not happen.
        """
        if self._failure is not None:
            raise self._failure
        infotext.write_result(self._p, len(self._steps_controlled), len(self._steps_run), self._layer_range())
        ended_early = shared.state.interrupted or shared.state.skipped
        wanted = any(self._window(hires).covers_step(step) for hires, step in self._steps_run)
        if wanted and self._window(False).layer_count(self._layers) and not self._control.record and not ended_early:
            raise UnsupportedCombinationError(
                "MasaCtrl: the attention layers were never called under control, so the images are not controlled. "
                "Another extension replaces the U-Net's attention; disable it or disable MasaCtrl."
            )

    def _attach_to(self, unet: nn.Module) -> None:
        self._models.close()
        layers = self._models.enter_context(attached(unet, self._control)).layers
        hook = unet.register_forward_pre_hook(self._announce, with_kwargs=True)
        self._models.callback(hook.remove)
        self._attached_to, self._layers = unet, len(layers)

    def _announce(self, unet: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        rows = (args[0] if args else kwargs["x"]).shape[0]
        hires, step = bool(getattr(self._p, "is_hr_pass", False)), self._step()
        self._control.window = self._window(hires)
        self._control.begin_call(BatchLayout.of_call(self._branches, rows), step)
        self._steps_run.add((hires, step))
        if self._control.window.covers_step(step) and self._control.window.layer_count(self._layers):
            self._steps_controlled.add((hires, step))

    def _step(self) -> int:
        """The zero-based sampling step, from the host's own count of denoiser evaluations (prompt editing uses it).

        ``total_steps`` is twice ``steps`` for second-order samplers (``sd_samplers_common.SamplerData.total_steps``).
        PLMS spends one evaluation more on its first step, hence the cap.
        """
        denoiser = self._p.sampler.model_wrap_cfg
        steps = int(denoiser.steps)
        if not getattr(self._p, "is_hr_pass", False) and self._settings.start_step > steps:
            raise SettingsError(
                f"MasaCtrl: start_step is {self._settings.start_step}, but only {steps} steps are sampled; "
                f"give 0 to {steps} ({steps} controls none) or more sampling steps."
            )
        per_step = max(1, int(denoiser.total_steps) // steps)
        return min(int(denoiser.step) // per_step, steps - 1)

    def _window(self, hires: bool) -> ControlWindow:
        layer = self._settings.start_layer
        window = ControlWindow(
            self._settings.start_step,
            self._settings.end_step,
            default_start_layer(self._layers) if layer is None else layer,
        )
        return window.continued(int(self._p.steps)) if hires else window

    def _layer_range(self) -> tuple[int, int]:
        return len(self._control.record.layers), self._layers


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
