"""How a WebUI request comes to hold sources and targets: as images of one batch, with one seed per group.

The host then does everything else: samplers, guidance, hires fix, previews, saving, infotext. ``p`` is the host's
``StableDiffusionProcessing``; nothing here imports the host.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from PIL import Image
from torch import Tensor

from lib_masactrl.bit_depth import in_eight_bits
from lib_masactrl.branches import Branch, branches_in_batch
from lib_masactrl.errors import UnsupportedCombinationError
from lib_masactrl.host.other_extensions import makes_every_variant
from lib_masactrl.masks import ForegroundMasks
from lib_masactrl.settings import MasaCtrlSettings

if TYPE_CHECKING:
    from lib_masactrl.host.real_image import RealImage

_T = TypeVar("_T")

#: The host's own pattern (A1111 ``modules/extra_networks.py``, ``re_extra_net``).
_NETWORK_TAG = re.compile(r"<\w+:[^>]+>")

_RESTORED = ("batch_size", "do_not_save_grid", "init_images")

#: The request's lists with one entry per image, and those of them that hold prompts.
_PROMPTS = ("all_prompts", "all_hr_prompts")
_PER_IMAGE = (*_PROMPTS, "all_negative_prompts", "all_hr_negative_prompts", "all_seeds", "all_subseeds")


class BranchBatch:
    """The batches of one request. A *group* is one image the user asked for, with its source and all its targets.

    Life cycle, in the order of the host's script callbacks: :meth:`enlarge` before the host builds its lists
    (``before_process``), :meth:`write_branches` (or :meth:`withdraw`) after that (``process``), :meth:`restore` at the
    end.
    """

    def __init__(self, settings: MasaCtrlSettings) -> None:
        self.settings = settings
        #: The host's object that was enlarged; other scripts may hand in copies of it.
        self.request: Any = None
        self.group_count = 0
        #: The pictures that the host encoded, and the real image of the batch that is sampled now.
        self.noted: list[Tensor] = []
        self.image: RealImage | None = None
        #: The masks of the batch that is sampled now, and the pictures that show those of all batches (``show_masks``).
        self.masks: ForegroundMasks | None = None
        self.shown_masks: list[Image.Image] = []
        self._groups_per_batch = 1
        self._original: dict[str, Any] = {}

    def enlarge(self, p: Any) -> None:
        """Ask the host for room: ``batch_size`` becomes groups times (targets + 1).

        One group gets no grid, as a single image would get none, so that the target is the first picture of the
        results, the one that X/Y/Z plot, loopback and many API clients take.

        Raises:
            UnsupportedCombinationError: more init images than the batch has places.
        """
        self.request = p
        self._original = {name: getattr(p, name) for name in _RESTORED if hasattr(p, name)}
        self._groups_per_batch = int(p.batch_size)
        images = [_read(image) for image in getattr(p, "init_images", None) or []]
        if len(images) > 1:
            # The host shrinks a larger batch to the number of init images (img2img `init`); do so before enlarging.
            if len(images) > self._groups_per_batch:
                raise UnsupportedCombinationError(
                    f"{len(images)} init images for a batch size of {self._groups_per_batch}; "
                    f"give one image, or set the batch size to {len(images)}."
                )
            self._groups_per_batch = len(images)
            p.init_images = [images[branch.group] for branch in self._branches_of(self._groups_per_batch)]
        elif images:
            p.init_images = images
        p.batch_size = self._groups_per_batch * (self.settings.targets + 1)
        if self._groups_per_batch * p.n_iter == 1:
            p.do_not_save_grid = True

    def write_branches(self, p: Any, style: Callable[[str], str]) -> None:
        """Give every image of the host's lists its branch's prompt and its group's seed.

        Network tags (``<lora:...>``) act on the whole batch, and the host reads them from its first prompt alone
        (A1111 ``extra_networks.parse_prompts``); so those of other branches are put before the first prompt. Behind it
        they could be part of a comment, which the host takes out later.

        Args:
            p: after the host's ``setup_prompts``.
            style: applies the request's styles to a prompt, as the host has done to the prompts in its lists.
        """
        source = style(self.settings.source_prompt)
        more = [style(prompt) for prompt in self.settings.target_prompts]
        for name, mine in self._per_group(p):
            if name in _PROMPTS:
                prompts = self._spread([[first, *more, source] for first in mine], _of_branch)
                setattr(p, name, self._with_shared_tags(prompts))
            else:
                setattr(p, name, self._spread(mine, lambda value, _: value))
        if self.settings.source == "image" and not self.settings.rectify:
            # A source that runs freely has guidance 1, as its inversion had: cond and uncond are the same prompt. Hosts
            # take tags out of prompts only, and replace an empty negative prompt of SDXL by zeros.
            uncond = _NETWORK_TAG.sub("", source) or " "
            images = enumerate(self.is_target())
            p.all_negative_prompts = [p.all_negative_prompts[n] if target else uncond for n, target in images]

    def withdraw(self, p: Any) -> None:
        """In the place of :meth:`write_branches`: the request becomes the one that it would have been without us.

        Args:
            p: after the host's ``setup_prompts``, which has filled its lists for the enlarged batch.
        """
        for name, mine in self._per_group(p):
            setattr(p, name, mine)
        self.restore(p)

    def branches(self, iteration: int) -> tuple[Branch, ...]:
        """The branches of the host's batch number ``iteration``; the last one may be smaller."""
        left = self.group_count - iteration * self._groups_per_batch
        return self._branches_of(min(self._groups_per_batch, left))

    def pictures(self) -> Tensor | None:
        """The encoded pictures (images, 3, height, width) in 0..1, one per image; ``None`` if the host told none.

        Nor if it encoded tile by tile.
        """
        if len({noted.shape[1:] for noted in self.noted}) != 1:
            return None
        pictures = torch.cat(self.noted)
        images = self._groups_per_batch * (self.settings.targets + 1)
        return pictures if len(pictures) == images else None

    def sources(self, iteration: int) -> int:
        """How many source images close batch number ``iteration``."""
        return sum(branch.is_source for branch in self.branches(iteration))

    def is_target(self) -> list[bool]:
        """For each image of the whole request, whether it is a target."""
        batches = range(-(-self.group_count // self._groups_per_batch))
        return [not branch.is_source for n in batches for branch in self.branches(n)]

    def restore(self, p: Any) -> None:
        """Give the request, or a copy of it, its own values back: hosts reuse request objects (Batch tab, X/Y/Z)."""
        for name, value in self._original.items():
            setattr(p, name, value)

    def _branches_of(self, groups: int) -> tuple[Branch, ...]:
        return branches_in_batch(groups, self.settings.targets)

    def _count_groups(self, p: Any) -> int:
        """The host's list holds one entry per image, unless a script gave its own list."""
        if makes_every_variant(p):  # and reads the number of batches off the enlarged batch
            p.n_iter = -(-len(p.all_prompts) // self._groups_per_batch)
            p.do_not_save_grid = len(p.all_prompts) == 1 or self._original["do_not_save_grid"]
            return len(p.all_prompts)
        if isinstance(p.prompt, list) or isinstance(p.negative_prompt, list):  # Prompt matrix
            return len(p.all_prompts)
        return self._groups_per_batch * int(p.n_iter)

    def _per_group(self, p: Any) -> list[tuple[str, list[Any]]]:
        """The names of the host's lists that are filled, each with one entry per group."""
        self.group_count = self._count_groups(p)
        lists = [(name, list(getattr(p, name, None) or [])) for name in _PER_IMAGE]
        return [(name, values[: self.group_count]) for name, values in lists if values]

    def _spread(self, per_group: Sequence[_T], value_of: Callable[[_T, Branch], Any]) -> list[Any]:
        """One entry per image from one per group, batch after batch."""
        spread = []
        for first in range(0, self.group_count, self._groups_per_batch):
            for branch in self.branches(first // self._groups_per_batch):
                spread.append(value_of(per_group[first + branch.group], branch))
        return spread

    def _with_shared_tags(self, prompts: list[str]) -> list[str]:
        shared = list(prompts)
        images = self._groups_per_batch * (self.settings.targets + 1)
        for first in range(0, len(prompts), images):
            own = _NETWORK_TAG.findall(prompts[first])
            others = [tag for prompt in prompts[first + 1 : first + images] for tag in _NETWORK_TAG.findall(prompt)]
            missing = dict.fromkeys(tag for tag in others if _network(tag) not in map(_network, own))
            shared[first] = "".join(missing) + shared[first]
        return shared


def _of_branch(prompts: list[str], branch: Branch) -> str:
    return prompts[-1] if branch.target is None else prompts[branch.target]


def _read(image: Any) -> Any:
    """An init image as the user sees it: the host would make a grey one of 16 bits white."""
    return in_eight_bits(image) if isinstance(image, Image.Image) else image


def _network(tag: str) -> str:
    """``lora:name`` of ``<lora:name:0.8>``: two weights of one network are one network."""
    return ":".join(tag[1:-1].split(":")[:2])
