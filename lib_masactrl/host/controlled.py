"""One sampling of a WebUI request under control: from the host's U-Net calls to rows, steps and layers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

from modules import script_callbacks, shared
from torch import nn

from lib_masactrl.branches import BatchLayout
from lib_masactrl.control import METHODS, MutualSelfAttentionControl
from lib_masactrl.errors import MasaCtrlError, SettingsError, UnsupportedCombinationError
from lib_masactrl.host import infotext
from lib_masactrl.host.batch import BranchBatch
from lib_masactrl.host.controlnet import BranchGuidance
from lib_masactrl.host.foreground import found
from lib_masactrl.host.real_image import RealImage
from lib_masactrl.host.refusals import replacing_attention, unet_of
from lib_masactrl.host.words import RequestMasks
from lib_masactrl.patching import attached
from lib_masactrl.schedule import ControlWindow, default_start_layer
from lib_masactrl.settings import SETTINGS


@contextmanager
def controlled(p: Any, batch: BranchBatch) -> Iterator[None]:
    """Control every U-Net call of the request ``p`` inside the ``with`` block, then report what was done.

    Raises:
        MasaCtrlError: the network cannot be controlled, or control was asked for and did not happen.
    """
    sampling = ControlledSampling(p, batch)
    with ExitStack() as stack:
        sampling.attach(stack)
        if batch.settings.source == "image":
            stack.enter_context(sampling.start_from_image())
        stack.callback(script_callbacks.remove_callbacks_for_function, sampling.follow_model)
        script_callbacks.on_cfg_denoiser(sampling.follow_model)
        yield
    sampling.report()


class ControlledSampling:
    """One call of the request's ``sample``: both passes of hires fix, every model that a refiner brings in."""

    def __init__(self, p: Any, batch: BranchBatch) -> None:
        self._p = p
        self._batch = batch
        self._settings = batch.settings
        self._branches = batch.branches(p.iteration)
        self._request = RequestMasks(p, batch.settings, self._branches)
        self._masks = batch.masks = self._request.masks
        method = METHODS[batch.settings.method]
        self._control = MutualSelfAttentionControl(ControlWindow(0, None, 0), method, self._masks)
        self._layout = BatchLayout(self._branches)
        self._units = BranchGuidance(p, batch.settings, self._branches, lambda: self._layout)
        self._steps_run: set[tuple[bool, int]] = set()
        self._steps_controlled: set[tuple[bool, int]] = set()
        self._failure: MasaCtrlError | None = None
        self._attached_to: nn.Module | None = None
        self._layers = 0
        self._models = ExitStack()
        self._image: RealImage | None = None
        self._inverting = False
        self._sampled_size: tuple[int, int] | None = None

    def attach(self, stack: ExitStack) -> None:
        """Attach to the request's model and ControlNet units until ``stack`` is closed."""
        stack.callback(self._models.close)
        self._attach_to(unet_of(self._p.sd_model))
        self._units.attach(stack)

    def start_from_image(self) -> AbstractContextManager[None]:
        """Invert the request's picture and let the sampler start from there, inside the ``with`` block."""
        self._image = self._batch.image = RealImage(self._p, self._branches, self._settings, self._batch.pictures())
        return self._image.sampled(self._inversion)

    @contextmanager
    def _inversion(self) -> Iterator[None]:
        self._inverting, self._control.window = True, ControlWindow(0, 0, 0)
        try:
            yield
        finally:
            self._inverting = False

    def follow_model(self, params: Any) -> None:
        """``on_cfg_denoiser``: before each evaluation, and after a refiner may have swapped the model."""
        self._request.begin_evaluation()
        self._sampled_size = (params.x.shape[2], params.x.shape[3])
        try:
            unet = unet_of(self._p.sd_model)
            if unet is not self._attached_to:
                self._attach_to(unet)
            self._units.refresh()
        except MasaCtrlError as error:  # the host would swallow it here; raised in the U-Net call that follows
            self._failure = error

    def report(self) -> None:
        """Write what was really controlled into the infotext.

        Raises:
            UnsupportedCombinationError: control was asked for and did not happen.
        """
        if self._failure is not None:
            raise self._failure
        stopped = shared.state.interrupted or shared.state.skipped
        if self._image is not None and self._image.evaluations is not None:
            infotext.write_inversion(self._p, self._image.evaluations)
        elif self._image is not None and stopped:
            infotext.write_interruption(self._p, self._image.doing)
        infotext.write_result(self._p, len(self._steps_controlled), len(self._steps_run), self._layer_range())
        idle = {*self._settings.without_effect(), *self._units.without_effect()}
        infotext.write_without_effect(self._p, [setting for setting in SETTINGS if setting in idle])
        if self._masks is not None:
            infotext.write_foreground(self._p, found(self._masks, self._branches))
        if self._image is not None and self._image.evaluations is None and not stopped:
            raise UnsupportedCombinationError(
                "the request's own sampler never ran, so the picture was not inverted. A script samples by "
                "itself (img2img alternative test); disable it or give source 'prompt'."
            )

    def _attach_to(self, unet: nn.Module) -> None:
        self._models.close()
        layers = self._models.enter_context(attached(unet, self._control))
        hook = unet.register_forward_pre_hook(self._announce, with_kwargs=True)
        self._models.callback(hook.remove)
        self._models.callback(unet.register_forward_hook(self._check_completeness, with_kwargs=True).remove)
        self._attached_to, self._layers = unet, len(layers)

    def _announce(self, unet: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Before each U-Net call: tell the control where it is, and put a real image's source rows on their trajectory.

        Hosts pass the latents first and the timesteps second or by name.
        """
        if self._inverting:
            return None
        if self._failure is not None:
            raise self._failure
        x = args[0] if args else kwargs["x"]
        rows, size = x.shape[0], (x.shape[2], x.shape[3])
        if size != self._sampled_size and (self._masks is not None or self._image is not None):
            raise UnsupportedCombinationError(
                f"another extension (Tiled Diffusion, MultiDiffusion) samples tiles of {size[1]}x{size[0]} latents; "
                "masks and real images are of the whole picture. Disable it, or give mask 'none' and source 'prompt'."
            )
        hires, step = bool(getattr(self._p, "is_hr_pass", False)), self._step()
        self._control.window = self._window(hires)
        self._layout = BatchLayout.of_call(self._branches, rows, self._request.cond_pass(rows, kwargs))
        self._control.begin_call(self._layout, step, size)
        self._steps_run.add((hires, step))
        if self._control.window.covers_step(step) and self._control.window.layer_count(self._layers):
            self._steps_controlled.add((hires, step))
        if self._image is None:
            return None
        x = self._image.rectified(x, args[1] if len(args) > 1 else kwargs["timesteps"])
        return ((x, *args[1:]), kwargs) if args else (args, {**kwargs, "x": x})

    def _check_completeness(self, unet: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        missed = self._control.missed_layers(self._layers)
        if missed:
            raise UnsupportedCombinationError(
                f"self-attention layer {missed[0]} of {self._layers} is replaced by "
                f"{replacing_attention(kwargs)}, and so are {len(missed) - 1} more of those to be controlled; "
                "disable that, or disable MasaCtrl."
            )

    def _step(self) -> int:
        """The zero-based sampling step, from the host's own count of denoiser evaluations (prompt editing uses it).

        ``total_steps`` is twice ``steps`` for second-order samplers (``sd_samplers_common.SamplerData.total_steps``).
        PLMS spends one evaluation more on its first step, hence the cap.
        """
        denoiser = self._p.sampler.model_wrap_cfg
        steps = int(denoiser.steps)
        if not getattr(self._p, "is_hr_pass", False) and self._settings.start_step > steps:
            raise SettingsError(
                f"start_step is {self._settings.start_step}, but only {steps} steps are sampled; "
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
