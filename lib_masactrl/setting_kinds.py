"""The kinds of settings: what each takes from the UI, the API, an infotext or an X/Y/Z axis, and what it refuses."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from lib_masactrl.branch_guidance import parse_guidance
from lib_masactrl.errors import SettingsError

#: ``mask_threshold`` that is chosen by each map itself.
AUTOMATIC = "auto"

#: Longer texts are refused: no prompt needs them, and the host would tokenise them chunk by chunk for minutes.
MAXIMUM_TEXT_LENGTH = 10_000


@dataclass(frozen=True)
class Setting:
    """What the surfaces need to know about one setting.

    Attributes:
        key: name in the API object and in :class:`MasaCtrlSettings`.
        default: the value of a missing key.
        label: caption in the accordion; ``MasaCtrl <label in lower case>`` is the infotext key.
        help: one sentence for tooltip and documentation.
        picture_only: means something only where there is a picture: in img2img.
        acts_with: another setting, and those of its values with which this one means something; nothing: with all.
    """

    key: str
    default: Any
    label: str
    help: str
    picture_only: bool = False
    acts_with: tuple[str, tuple[str, ...]] | None = None

    #: Said in messages: what this kind of setting takes.
    allowed: ClassVar[str] = ""

    @property
    def infotext_key(self) -> str:
        return f"MasaCtrl {self.label.lower()}"

    def applies(self, others: Mapping[str, Any]) -> bool:
        """Whether this setting can mean something beside ``others``: values by key, of as many as are known."""
        other, values = self.acts_with or ("", ())
        return other not in others or others[other] in values

    def without_picture(self) -> Setting:
        """This setting as it is where there is no picture: in txt2img."""
        return self

    def parse(self, value: Any) -> Any:
        """The value as this setting's type, from what the UI, the API, an infotext or an X/Y/Z axis gives.

        Raises:
            SettingsError: naming the key, what was given and what is allowed.
        """
        raise NotImplementedError

    def refuse(self, value: Any) -> SettingsError:
        shown = repr(value)
        shown = shown if len(shown) <= 60 else f"{shown[:60]}... ({type(value).__name__})"
        return SettingsError(f"{self.key} is {shown}, but it takes {self.allowed}; correct {self.key}.")


class FlagSetting(Setting):
    """True or false. Infotexts give the words."""

    allowed = "true or false"

    def parse(self, value: Any) -> bool:
        if isinstance(value, bool):
            return value
        if isinstance(value, str) and value.strip().lower() in ("true", "false"):
            return value.strip().lower() == "true"
        raise self.refuse(value)


@dataclass(frozen=True)
class ChoiceSetting(Setting):
    """One of a few names.

    Attributes:
        picture_choices: those that need a picture, as in img2img.
    """

    choices: tuple[str, ...] = ()
    picture_choices: tuple[str, ...] = ()

    @property
    def allowed(self) -> str:  # type: ignore[override]  # a class-wide sentence elsewhere; here it lists the choices
        return "one of " + ", ".join(repr(choice) for choice in self.choices)

    def without_picture(self) -> ChoiceSetting:
        offered = tuple(choice for choice in self.choices if choice not in self.picture_choices)
        return dataclasses.replace(self, choices=offered)

    def parse(self, value: Any) -> str:
        if isinstance(value, str) and value in self.choices:
            return value
        raise self.refuse(value)


class TextSetting(Setting):
    """A text of at most :data:`MAXIMUM_TEXT_LENGTH` characters."""

    allowed = f"a text of at most {MAXIMUM_TEXT_LENGTH} characters"

    def parse(self, value: Any) -> str:
        if isinstance(value, str) and len(value) <= MAXIMUM_TEXT_LENGTH:
            return value
        raise self.refuse(value)


class GuidanceSetting(TextSetting):
    """Which branch each ControlNet unit guides (:mod:`lib_masactrl.branch_guidance`)."""

    #: For the UI to offer; any other text of the same words will do.
    suggestions = ("target", "source", "both", "target, source", "target, both", "each")

    def parse(self, value: Any) -> str:
        text = super().parse(value).strip() or "target"
        parse_guidance(text)
        return text


class WordsSetting(TextSetting):
    """Words or phrases of a prompt, separated by commas (:mod:`lib_masactrl.prompt_words`)."""


class ThresholdSetting(Setting):
    """A number from 0 to 1, or ``auto``."""

    allowed = f"a number from 0 to 1, or {AUTOMATIC!r}"

    def parse(self, value: Any) -> float | str:
        text = value.strip().lower() if isinstance(value, str) else value
        if text == AUTOMATIC:
            return AUTOMATIC
        try:
            number = float(text)
        except (TypeError, ValueError) as error:
            raise self.refuse(value) from error
        if isinstance(value, bool) or not 0 <= number <= 1:
            raise self.refuse(value)
        return number


@dataclass(frozen=True)
class CountSetting(Setting):
    """A zero-based step or layer, or a number of steps.

    Attributes:
        maximum: more is refused, if this is given.
        usual: where a slider ends if it is not; the host's own sliders of steps end there.
    """

    maximum: int | None = None
    usual: int = 150

    @property
    def allowed(self) -> str:  # type: ignore[override]  # see ChoiceSetting
        return "a whole number from 0" + ("" if self.maximum is None else f" to {self.maximum}")

    def parse(self, value: Any) -> int:
        number = _whole_number(value)
        if number is None or number < 0 or (self.maximum is not None and number > self.maximum):
            raise self.refuse(value)
        return number


class OptionalCountSetting(CountSetting):
    """A zero-based step or layer, or nothing (``None``, an empty text or ``auto``) for the automatic value."""

    allowed = "a whole number from 0, or nothing for the automatic value"

    def parse(self, value: Any) -> int | None:  # type: ignore[override]  # an optional count also admits None
        if value is None or (isinstance(value, str) and value.strip().lower() in ("", "auto", "none")):
            return None
        return super().parse(value)


def _whole_number(value: Any) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        text = value.strip()
        return int(text) if text.isascii() and text.lstrip("-").isdigit() and len(text) < 10 else None
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    return value if isinstance(value, int) else None
