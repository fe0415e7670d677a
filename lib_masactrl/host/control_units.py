"""The ControlNet units of a request as the extensions take them: which are enabled, and whom each is asked to guide."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from lib_masactrl.branch_guidance import Guidance
from lib_masactrl.errors import UnsupportedCombinationError
from lib_masactrl.settings import MasaCtrlSettings

#: Preprocessors that change the whole batch past the control signal: its noise, its latents or its finished images.
_WHOLE_BATCH_MODULES = ("inpaint_only", "colorfix", "recolor", "revision", "lama")


@dataclass(frozen=True)
class Unit:
    """An enabled unit.

    Attributes:
        number: its number in the UI, from 0.
        module: its preprocessor.
        guidance: whom it is asked to guide.
        pictures: how many control pictures it holds.
        runs: how many units ControlNet makes of it: Mikubill's and reForge's one per picture, each with its share of
            the unit's weight; Forge's a single one, which gives image i of a batch picture i % pictures.
        first_target: the target that its first picture is for, if its guidance is ``each``.
        in_first_pass: whether it acts in the first pass of hires fix.
        in_hires_pass: whether it acts in the second one.
    """

    number: int
    module: str
    guidance: Guidance
    pictures: int = 1
    runs: int = 1
    first_target: int = 0
    in_first_pass: bool = True
    in_hires_pass: bool = True

    @property
    def is_as_it_came(self) -> bool:
        return self.guidance == Guidance(target=1.0, source=1.0)

    def acts_in(self, hires_pass: bool) -> bool:
        return self.in_hires_pass if hires_pass else self.in_first_pass

    def weight(self, target: int | None, run: int = 0) -> float:
        """The factor on the control signal of its run number ``run`` in the rows of one branch."""
        if self.runs < self.pictures:
            return self.guidance.weight(target, target or 0)
        return self.guidance.weight(target, self.first_target + run, self.runs)

    def refusal(self, why: str) -> UnsupportedCombinationError:
        return UnsupportedCombinationError(
            f"ControlNet unit {self.number} ({self.module}) {why}, so it cannot guide one branch alone; "
            "give it 'both' in control_guides, or disable that unit or MasaCtrl."
        )

    def nothing_made(self) -> UnsupportedCombinationError:
        """The host reports an error of ControlNet's in its console alone, and samples without control."""
        return UnsupportedCombinationError(
            f"ControlNet made nothing of unit {self.number} ({self.module}), and said why in the WebUI's "
            "console (no picture, no model, a download that failed); correct that unit or disable it."
        )

    def check_module(self) -> None:
        """
        Raises:
            UnsupportedCombinationError: its preprocessor reaches past the control signal.
        """
        if any(name in self.module for name in _WHOLE_BATCH_MODULES):
            raise self.refusal("works on the whole batch")


def enabled_units(p: Any, script: Any, settings: MasaCtrlSettings, by_default: bool) -> list[Unit]:
    """The request's enabled units, in the order of the UI.

    Args:
        script: the ControlNet extension's script.
        by_default: whether a unit that does not say is enabled.

    Raises:
        SettingsError: targets have not one control picture each.
    """
    given = {number: unit for number, unit in enumerate(_units(p, script)) if _read(unit, "enabled", by_default)}
    counted = {number: _pictures_and_runs(unit) for number, unit in given.items()}
    first = settings.first_targets({number: pictures for number, (pictures, _) in counted.items()})
    units = []
    for number, unit in given.items():
        pictures, runs = counted[number]
        in_first_pass, in_hires_pass = _passes(unit)
        units.append(
            Unit(
                number=number,
                module=str(_read(unit, "module", "none")),
                guidance=settings.guidance_of_unit(number),
                pictures=pictures,
                runs=runs,
                first_target=first.get(number, 0),
                in_first_pass=in_first_pass,
                in_hires_pass=in_hires_pass,
            )
        )
    return units


def _units(p: Any, script: Any) -> Iterator[Any]:
    """The units in the order of the UI's: objects, or dictionaries from the API."""
    for unit in p.script_args[script.args_from : script.args_to]:
        if isinstance(unit, dict) or (hasattr(unit, "module") and hasattr(unit, "enabled")):
            yield unit


def _read(unit: Any, name: str, default: Any) -> Any:
    return unit.get(name, default) if isinstance(unit, dict) else getattr(unit, name, default)


def _pictures_and_runs(unit: Any) -> tuple[int, int]:
    """More than one picture only in the mode Multi-Inputs, and not where the unit takes several at once (IP-Adapter).

    Each extension keeps them in a field of its own: Mikubill's in ``image``, reForge's in ``multi_inputs_gallery``,
    Forge's in ``batch_input_gallery``.
    """
    mode = _read(unit, "input_mode", "simple")
    if str(getattr(mode, "value", mode)) != "merge" or str(_read(unit, "module", "")).startswith("ip-adapter"):
        return 1, 1
    for name in ("multi_inputs_gallery", "image"):
        pictures = _read(unit, name, None)
        if isinstance(pictures, list):
            return len(pictures), len(pictures)
    return len(_read(unit, "batch_input_gallery", None) or ()), 1


def _passes(unit: Any) -> tuple[bool, bool]:
    """Whether it acts in the first and in the second pass of hires fix.

    By the Forge family's ``HiResFixOption``: an object, or from the API its text, its name or its number.
    """
    option = _read(unit, "hr_option", "Both")
    text = str(getattr(option, "value", option)).lower().replace("_", " ")
    first_alone, second_alone = (
        text == number or text.endswith(name) for number, name in (("1", "low res only"), ("2", "high res only"))
    )
    return not second_alone, not first_alone
