"""One table of settings, from which UI, argument parsing, API, infotext and X/Y/Z axes are all derived."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lib_masactrl.branch_guidance import Guidance, first_targets, parse_guidance
from lib_masactrl.errors import SettingsError
from lib_masactrl.setting_kinds import (
    ChoiceSetting,
    CountSetting,
    FlagSetting,
    GuidanceSetting,
    OptionalCountSetting,
    Setting,
    TextSetting,
    ThresholdSetting,
    WordsSetting,
)

#: The ways to let targets see the source; ``lib_masactrl.control.METHODS`` implements each.
METHOD_NAMES = ("mutual", "union")

#: Where the source comes from; ``auto`` is settled by :meth:`MasaCtrlSettings.with_source_settled`.
SOURCE_NAMES = ("auto", "prompt", "image")

#: Where the foreground is known from; ``none``: targets see the whole source.
MASK_NAMES = ("none", "words", "painted")

#: What the kinds of settings that belong to masks, to words and to images have in common.
_OF_MASKS: Any = {"acts_with": ("mask", ("words", "painted"))}
_OF_WORDS: Any = {"acts_with": ("mask", ("words",))}
_OF_IMAGES: Any = {"acts_with": ("source", ("auto", "image")), "picture_only": True}

#: More rows than this in one batch fit no graphics card; a stray paste into "more targets" should say so at once.
MAXIMUM_TARGETS = 32


def _setting(kind: type[Setting], default: Any, label: str, help: str, **more: Any) -> Any:
    return dataclasses.field(default=default, metadata={"of": (kind, label, help, more)})


@dataclass(frozen=True)
class MasaCtrlSettings:
    """The settings of one request, in the order in which the accordion shows them (the caller's contract)."""

    enabled: bool = _setting(FlagSetting, False, "Enabled", "Make a source image too and let the target follow it.")
    source: str = _setting(
        ChoiceSetting,
        "auto",
        "Source",
        "Whose identity is kept. prompt: a picture made from the source prompt. image: the picture of img2img. "
        "auto: that picture where there is one, else the prompt.",
        choices=SOURCE_NAMES,
        picture_choices=("image",),
        picture_only=True,
    )
    source_prompt: str = _setting(
        TextSetting,
        "",
        "Source prompt",
        "Describes the picture whose identity is kept; may stay empty for an image. The tab's own prompt describes the "
        "new pose, view or action.",
    )
    more_targets: str = _setting(
        TextSetting, "", "More targets", "Further target prompts, one per line; all share the one source."
    )
    method: str = _setting(
        ChoiceSetting,
        "mutual",
        "Method",
        "mutual: targets see only the source's content. union: they see the source's and their own.",
        choices=METHOD_NAMES,
    )
    start_step: int = _setting(
        CountSetting,
        4,
        "Start step",
        "S: control begins at this sampling step, counted from 0. Later leaves more of the new layout, "
        "earlier keeps more of the source.",
    )
    end_step: int | None = _setting(
        OptionalCountSetting, None, "End step", "Control ends before this sampling step; empty: it stays to the last."
    )
    start_layer: int | None = _setting(
        OptionalCountSetting,
        None,
        "Start layer",
        "L: control begins at this self-attention layer, counted from 0; empty: 10 of 16 in SD 1 and 2, 44 of 70 in "
        "SDXL. Lower layers keep more of the source's layout.",
    )
    mask: str = _setting(
        ChoiceSetting,
        "none",
        "Mask",
        "Keeps foreground and background apart: a target's foreground sees the source's foreground only, its "
        "background the background. words: found by words of the prompts. painted: the inpaint mask is the source's.",
        choices=MASK_NAMES,
        picture_choices=("painted",),
    )
    source_words: str = _setting(
        WordsSetting,
        "",
        "Source words",
        "Foreground words of the source prompt, separated by commas: corgi, red hat. Empty: the target words in it.",
        **_OF_WORDS,
    )
    target_words: str = _setting(
        WordsSetting,
        "",
        "Target words",
        "Foreground words of the target prompts. Empty: the source words in them; with a painted mask, the same mask.",
        **_OF_MASKS,
    )
    mask_threshold: float | str = _setting(
        ThresholdSetting,
        0.1,
        "Mask threshold",
        "How much of the words' strongest attention is foreground, 0 to 1; auto: chosen by each map (Otsu).",
        **_OF_MASKS,
    )
    average_masks: bool = _setting(
        FlagSetting,
        False,
        "Average masks",
        "Find masks by the attention of all steps so far, not of each step alone.",
        **_OF_MASKS,
    )
    inversion_steps: int = _setting(
        CountSetting,
        0,
        "Inversion steps",
        "For an image: DDIM inversion takes at least so many steps over the whole schedule; 0: as many as sampling.",
        maximum=1000,  # as many noise levels as models are trained on
        **_OF_IMAGES,
    )
    inversion_refinements: int = _setting(
        CountSetting,
        0,
        "Inversion refinements",
        "For an image: fixed-point iterations per inversion step. Each makes the inversion more exact, and takes as "
        "long as the inversion itself.",
        maximum=100,  # float32 does not resolve what more would change
        **_OF_IMAGES,
    )
    rectify: bool = _setting(
        FlagSetting,
        True,
        "Rectify",
        "For an image: put the source back on its inversion's trajectory at every step, so that it stays the image.",
        **_OF_IMAGES,
    )
    check_inversion: bool = _setting(
        FlagSetting,
        False,
        "Check inversion",
        "For an image: also sample it back from its inverted noise alone, once, and tell the PSNR. Takes as long as an "
        "inversion without refinements.",
        **_OF_IMAGES,
    )
    show_source: bool = _setting(
        FlagSetting, True, "Show source", "Keep the source image among the results, after the targets."
    )
    control_guides: str = _setting(
        GuidanceSetting,
        "target",
        "ControlNet guides",
        "Whom each ControlNet unit guides, in the order of the units: target, source, both, or each (a control picture "
        "per target, in order); a weight may follow. target 0.8, source: unit 0 the target, the others the source.",
    )
    show_masks: bool = _setting(
        FlagSetting,
        False,
        "Show masks",
        "Add every picture with its background dimmed to the results.",
        **_OF_MASKS,
    )
    allow_plain: bool = _setting(
        FlagSetting,
        False,
        "Allow plain",
        "Where the model, the prompt or an option rules control out (Flux, SD 3, AND, Hypertile), make the picture "
        "without it and say so, instead of an error.",
    )

    @property
    def target_prompts(self) -> tuple[str, ...]:
        """The further target prompts; the tab's own prompt is the first target and not among them."""
        return tuple(line.strip() for line in self.more_targets.splitlines() if line.strip())

    @property
    def finds_words(self) -> bool:
        """Whether some foreground is found by words: with a painted mask, that of targets with words of their own."""
        named = any(word.strip() for word in self.target_words.replace("\n", ",").split(","))
        return self.mask == "words" or (self.mask == "painted" and named)

    def acts(self, setting: Setting) -> bool:
        """Whether ``setting`` means something beside the others; those of masks do nothing without a mask.

        A request is not refused for a setting that does nothing: the accordion keeps what stands in its fields, and an
        X/Y/Z plot may have ``Mask`` as an axis. Its infotext says so. On a command line each flag is there on purpose,
        and is refused.
        """
        return self.finds_words if setting.key in ("mask_threshold", "average_masks") else setting.applies(vars(self))

    def without_effect(self) -> tuple[Setting, ...]:
        """The settings that differ from their default and do nothing all the same (:meth:`acts`)."""
        return tuple(s for s in SETTINGS if getattr(self, s.key) != s.default and not self.acts(s))

    def guidance_of_unit(self, number: int) -> Guidance:
        """Whom ControlNet unit ``number`` guides; the last one named stands for all further units."""
        units = parse_guidance(self.control_guides)
        return units[min(number, len(units) - 1)]

    def first_targets(self, pictures: Mapping[int, int]) -> dict[int, int]:
        """For each unit that guides ``each`` target by its own picture, the target that its first picture is for.

        Args:
            pictures: how many control pictures each unit has, by its number.

        Raises:
            SettingsError: targets have not one control picture each.
        """
        each = {number: count for number, count in pictures.items() if self.guidance_of_unit(number).each}
        return first_targets(each, self.targets)

    @property
    def targets(self) -> int:
        """How many target branches share the source (k)."""
        return 1 + len(self.target_prompts)

    def __post_init__(self) -> None:
        for setting in SETTINGS:
            object.__setattr__(self, setting.key, setting.parse(getattr(self, setting.key)))
        if self.targets > MAXIMUM_TARGETS:
            raise SettingsError(
                f"more_targets has {self.targets - 1} lines, but at most {MAXIMUM_TARGETS - 1} further "
                "targets share a batch; shorten more_targets or make several requests."
            )
        if self.end_step is not None and self.end_step < self.start_step:
            raise SettingsError(
                f"end_step is {self.end_step}, before start_step {self.start_step}; "
                f"give an end_step of {self.start_step} or more, or leave it empty for the last step."
            )
        if self.enabled and self.source == "prompt" and not self.source_prompt.strip():
            raise SettingsError(
                "source_prompt is empty, but it has to describe the picture whose identity is kept; "
                "fill in source_prompt or disable MasaCtrl."
            )

    def with_source_settled(self, image_given: bool) -> MasaCtrlSettings:
        """These settings with ``source`` either ``prompt`` or ``image``.

        Args:
            image_given: whether the request has a picture (img2img).

        Raises:
            SettingsError: the source is an image and there is none, or it is a prompt and that is empty.
        """
        if self.source == "image" and not image_given:
            raise SettingsError(
                "source is 'image', but there is no picture here; edit it in img2img, "
                "or give source 'prompt' and a source_prompt."
            )
        return self.replace(source="image" if image_given else "prompt") if self.source == "auto" else self

    @classmethod
    def from_mapping(cls, given: Mapping[str, Any]) -> MasaCtrlSettings:
        """Settings from named values; a missing key means its default.

        Raises:
            SettingsError: an unknown key or a value that is not allowed.
        """
        unknown = [key for key in given if key not in _KEYS]
        if unknown:
            raise SettingsError(f"unknown setting {_shortened(unknown[0])}; allowed are {', '.join(_KEYS)}.")
        return cls(**given)

    @classmethod
    def from_args(cls, args: Sequence[Any], overrides: Mapping[str, Any] | None = None) -> MasaCtrlSettings:
        """Settings from script arguments: one mapping of named values, or values in the order of this table.

        A mapping comes from the API; the host fills up the places behind it with the UI's defaults, which are
        ignored (A1111 ``modules/api/api.py``, ``init_script_args``). Values from the UI are not checked while the
        accordion is switched off: whatever stands in its fields must not stop a plain picture.

        Args:
            args: what the host passes to the script.
            overrides: named values that win over ``args`` (X/Y/Z axes).

        Raises:
            SettingsError: as :meth:`from_mapping`, or more values than settings.
        """
        named = bool(args) and isinstance(args[0], Mapping)
        if not named and len(args) > len(_KEYS):
            raise SettingsError(
                f"{len(args)} arguments given, but there are {len(_KEYS)} settings: {', '.join(_KEYS)}."
            )
        values = {**(args[0] if named else dict(zip(_KEYS, args))), **(overrides or {})}
        if not named and values.get("enabled") is False:
            return cls()
        return cls.from_mapping(values)

    def replace(self, **changes: Any) -> MasaCtrlSettings:
        """These settings with some changed, checked anew."""
        return dataclasses.replace(self, **changes)

    def to_infotext(self) -> dict[str, str]:
        """Infotext entries of every setting that differs from its default; nothing when disabled."""
        return self.changes() if self.enabled else {}

    def changes(self) -> dict[str, str]:
        """Infotext entries of every setting that differs from its default, ``enabled`` like any other."""
        return {
            setting.infotext_key: str(getattr(self, setting.key))
            for setting in SETTINGS
            if getattr(self, setting.key) != setting.default
        }

    @classmethod
    def from_infotext(cls, entries: Mapping[str, str]) -> MasaCtrlSettings:
        """The settings that :meth:`to_infotext` wrote, among whatever else an infotext holds."""
        return cls.from_mapping({s.key: entries[s.infotext_key] for s in SETTINGS if s.infotext_key in entries})


def _shortened(name: Any) -> str:
    text = repr(name)
    return text if len(text) <= 60 else text[:60] + "..."


def _table() -> tuple[Setting, ...]:
    settings = []
    for entry in dataclasses.fields(MasaCtrlSettings):
        kind, label, help, more = entry.metadata["of"]
        settings.append(kind(entry.name, entry.default, label, help, **more))
    return tuple(settings)


#: The table itself, in UI order.
SETTINGS: tuple[Setting, ...] = _table()

_KEYS: tuple[str, ...] = tuple(setting.key for setting in SETTINGS)
