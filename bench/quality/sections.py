"""The sections of the page, and their rows. To add a method, add a :class:`Row`; its name is what it is kept under."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from PIL import Image

from bench.quality import page
from bench.quality.chart import line_chart
from bench.quality.duets import duet_table
from bench.quality.hints import vague
from bench.quality.masked import by_subjects_words, by_truth, by_words
from bench.quality.painting import (
    DUET_PLAN,
    PLAN,
    controlled,
    from_own_noise,
    plain,
    sdedit,
    without_self_attention,
)
from bench.quality.pairs import Lot, random_pairs, repeated_pairs, swapped_pairs
from bench.quality.photographs import edited, reconstructed, unedited
from bench.quality.photographs import img2img as img2img_of_photograph
from bench.quality.rows import Pictures, Row
from bench.quality.stances import apart, stance_table
from lib_masactrl.host.standalone.samplers import SAMPLERS

Table = Callable[[Sequence[Any], Mapping[Row, Pictures]], list[str]]

NO_CONTROL = Row("no control", plain)


@dataclass(frozen=True)
class Section:
    """One table with its contact sheet.

    Attributes:
        name: what it is called on the command line; the sheet is `proving-ground-{name}.png`.
        rows: the first one is what the others are compared with.
        shown: the rows on the contact sheet; empty for no sheet.
        pairs: the pairs that all rows paint, from their number.
        table: the section's table in Markdown.
        chart: a chart below it, `proving-ground-{name}-chart.png`.
        checkpoint: the file's name, of those of `demo/checkpoint`.
    """

    name: str
    title: str
    text: str
    rows: tuple[Row, ...]
    shown: tuple[Row, ...] = ()
    pairs: Callable[[int], Lot] = random_pairs
    table: Table = page.edit_table
    chart: Callable[[Sequence[Any], Mapping[Row, Pictures]], Image.Image] | None = None
    checkpoint: str = "creatures"


def mutual(start_step: int, start_layer: int) -> Row:
    """Mutual self-attention from step S and layer L on."""
    window = {"start_step": start_step, "start_layer": start_layer}
    return Row(f"mutual, S={start_step}, L={start_layer}", partial(controlled, method="mutual", **window))


UNION = Row("union, S=4, L=10", partial(controlled, method="union", start_step=4, start_layer=10))


def img2img(strength: float) -> Row:
    """SDEdit: the source's picture with noise added, painted on under the target's caption."""
    return Row(f"SDEdit, strength {strength}", partial(sdedit, strength=strength))


STRENGTHS = (0.4, 0.6, 0.8)
SDEDIT = tuple(map(img2img, STRENGTHS))


def reconstruction(sampler: str, steps: int, rectify: bool) -> Row:
    """The source branch alone under `sampler`."""
    name = f"{sampler}, {steps} steps, {'rectified' if rectify else 'not rectified'}"
    return Row(name, partial(reconstructed, sampler=sampler, steps=steps, rectify=rectify))


UNEDITED = Row("real image, autoencoder's round trip", unedited)

SYNTHESIS = Section(
    "synthesis",
    "Consistent synthesis",
    "Source and target are both painted from captions, from the same noise.",
    (NO_CONTROL, *SDEDIT, mutual(25, 10), mutual(10, 10), mutual(4, 10), mutual(0, 0), UNION),
    (NO_CONTROL, *SDEDIT, mutual(25, 10), mutual(4, 10), mutual(0, 0), UNION),
)

TRUE_MASKS = Row("mutual, true masks", by_truth)
MASKS = Section(
    "masks",
    "Masks",
    "Foreground sees foreground, background sees background; S=4, L=10. Masks are found by the species' word, or are "
    "the silhouettes that the captions name. The latents of these pictures have 8x8 cells, so a quarter of them, where "
    "words are looked for, is 2x2. The second table says why masks do not lower the background distance here: where "
    "only the source has a creature, the target shows its own background, masked or not. Nothing leaks there that "
    "masks could stop.",
    (
        NO_CONTROL,
        mutual(4, 10),
        *(Row(f"mutual, words, threshold {cut}", partial(by_words, threshold=cut)) for cut in (0.1, "auto")),
        TRUE_MASKS,
        UNION,
        Row("union, true masks", partial(by_truth, method="union")),
    ),
    (mutual(4, 10), TRUE_MASKS),
    table=page.ghost_table,
)

UNMASKED_DUETS = Row("mutual, S=4, L=10", partial(controlled, plan=DUET_PLAN, start_step=4, start_layer=10))
DUETS_BY_WORD = Row("mutual, words, threshold auto", partial(by_subjects_words, threshold="auto"))
DUETS_BY_TRUTH = Row("mutual, true masks", partial(by_truth, plan=DUET_PLAN))
DUETS = Section(
    "duets",
    "Masks: two creatures change places",
    "These are pictures of 128x64, by `demo/checkpoint/duets.safetensors`; the subject is the creature on the source's "
    "left, its companion the one on the right, and each keeps its pose. Unmasked, either also takes colours of the one "
    "that the source shows in its place. Under masks the subject sees the subject alone, and everything else sees "
    "everything else: the companion is background there, and both keep more of their own. The latents have 16x8 cells, "
    "so words are looked for on 4x2, which is too coarse: their masks are poor and do not help. The silhouettes that "
    "the captions name show what masks do where they are right.",
    (
        Row("no control", partial(plain, plan=DUET_PLAN)),
        UNMASKED_DUETS,
        Row("mutual, words, threshold 0.1", partial(by_subjects_words, threshold=0.1)),
        DUETS_BY_WORD,
        DUETS_BY_TRUTH,
    ),
    (UNMASKED_DUETS, DUETS_BY_WORD, DUETS_BY_TRUTH),
    pairs=swapped_pairs,
    table=duet_table,
    checkpoint="duets",
)

GRID_STEPS, GRID_LAYERS = (0, 4, 10, 25), (0, 5, 10, 13)


def trend(pairs: Sequence[Any], painted: Mapping[Row, Pictures]) -> Image.Image:
    """Identity over the start step, a line per start layer."""
    steps = [*GRID_STEPS, PLAN.steps]
    lines = {f"L = {layer}": [page.identity_of(pairs, painted, _at(s, layer)) for s in steps] for layer in GRID_LAYERS}
    return line_chart("identity distance to the source over the start step S", [f"S = {s}" for s in steps], lines)


def _at(step: int, layer: int) -> Row:
    return mutual(step, layer) if step < PLAN.steps else PAST_THE_END


PAST_THE_END = mutual(PLAN.steps, 0)
GRID = Section(
    "grid",
    "Start step and start layer",
    "The same on a grid of start step S and start layer L. The start step decides here; the start layer changes "
    "little, as most of this model's layers before 10 have one to sixteen tokens.",
    (NO_CONTROL, PAST_THE_END, *(mutual(step, layer) for step in GRID_STEPS for layer in GRID_LAYERS)),
    pairs=lambda count: random_pairs(min(count, 40)),
    chart=trend,
)


def own_noise(start_step: int, start_layer: int) -> Row:
    """Mutual self-attention from step S and layer L on, where source and target do not share their noise."""
    window = {"start_step": start_step, "start_layer": start_layer}
    return Row(f"own noise, S={start_step}, L={start_layer}", partial(from_own_noise, **window))


OWN_STEPS, OWN_LAYERS = (0, 4, 10, 25), (0, 10)
OWN_PAST_THE_END = own_noise(PLAN.steps, 0)


def stance_trend(pairs: Sequence[Any], painted: Mapping[Row, Pictures]) -> Image.Image:
    """Place and size against the source's over the start step, a line per measure and start layer."""
    lines = {}
    for layer in OWN_LAYERS:
        rows = [*(own_noise(step, layer) for step in OWN_STEPS), OWN_PAST_THE_END]
        measured = [apart(pairs, painted[row]) for row in rows]
        for name in ("left to right", "size"):
            lines[f"{name}, L = {layer}"] = [each[name] for each in measured]
    ticks = [f"S = {step}" for step in (*OWN_STEPS, PLAN.steps)]
    return line_chart("pixels apart from the source over the start step S", ticks, lines, 0.2)


STANCE = Section(
    "stance",
    "S=0, L=0 pulls the source's layout in, where the prompt leaves it open",
    "Source and target have one caption and each its own noise, so that all they can have in common is the caption and "
    "what control brings over. The caption says pose and side; it leaves open where exactly the creature stands (the "
    "renders vary by 1.2 pixels either way) and how large it is (by 4%). These are read off the silhouettes: their "
    "centres, and the square roots of their areas, less the mean of renders of the caption. S=50 controls nothing, and "
    "source and target are strangers there. The earlier control begins, the nearer is each target to its own source, "
    "down to S=4. The last two lines show that it is place and size that is measured, not the coat that control "
    "brings over too.",
    (OWN_PAST_THE_END, *(own_noise(step, layer) for layer in OWN_LAYERS for step in reversed(OWN_STEPS))),
    pairs=repeated_pairs,
    table=stance_table,
    chart=stance_trend,
)

VAGUE = Row("no control, vague prompt", vague)
LAYOUT = Section(
    "layout",
    "What S=0, L=0 does not pull in here: pose and side",
    "The paper finds, on Stable Diffusion, that control of all steps and layers copies the source's layout. Here "
    'that goes as far as the last table says, and no further. With a prompt that says "a cat" and no more, control '
    "from S=0, L=0 has nothing to overrule, and still the target's silhouette is no nearer to the source's than to any "
    "other. With every self-attention layer's output left out, pose and side are right all the same. So in this model, "
    "whose captions name them and whose latents have 8x8 cells, they come from cross-attention and convolutions; "
    "self-attention carries colours, patterns, and a part of size and exact place. Control cannot move what "
    "self-attention does not hold. *Layout right* compares with the pair's target, which the vague prompts do not "
    "name: 1 in 6 is chance.",
    (
        NO_CONTROL,
        Row("no self-attention, no control", without_self_attention),
        mutual(0, 0),
        VAGUE,
        Row("MasaCtrl, S=0, L=0, vague prompt", partial(vague, start_step=0, start_layer=0)),
    ),
    pairs=lambda count: random_pairs(min(count, 40)),
)

REAL_ROWS = (
    Row("real image, no control", partial(edited, rectify=True, start_step=PLAN.steps)),
    *(Row(f"real image, SDEdit, strength {s}", partial(img2img_of_photograph, strength=s)) for s in STRENGTHS),
    Row("real image, mutual, S=4, L=10, rectified", partial(edited, rectify=True, start_step=4)),
    Row("real image, mutual, S=4, L=10, not rectified", partial(edited, rectify=False, start_step=4)),
)
REAL = Section(
    "real",
    "Real images",
    "A held-out render stands for the photograph. Everything is measured against the photograph itself, so the "
    "autoencoder's loss is in every figure; the last line shows that loss alone. Inversion is under the empty prompt. "
    "The source branch has guidance 1, at which this model's inversion comes back almost exactly (next table), so "
    "rectifying it gains nothing here.",
    (*REAL_ROWS, UNEDITED),
    REAL_ROWS,
    pairs=lambda count: random_pairs(min(count, 100)),
    table=partial(page.edit_table, painted_sources=False),
)

RECONSTRUCTION = Section(
    "reconstruction",
    "Real images: what inversion gives back",
    "PSNR in dB of the source branch against the photograph, at guidance 1, for every sampler that draws no noise. "
    "A rectified source is put back on its trajectory before every step and so ends at the encoded latent, whatever "
    "the sampler; not rectified, it keeps the errors of inversion.",
    (
        UNEDITED,
        *(reconstruction(name, 20, True) for name, sampler in SAMPLERS.items() if not sampler.draws_noise),
        reconstruction("DDIM", 20, False),
        reconstruction("DDIM", PLAN.steps, False),
    ),
    pairs=lambda count: random_pairs(min(count, 100)),
    table=page.reconstruction_table,
)

SKETCH = Row("sketch", partial(vague, guides=(1, 0)))
MASACTRL = Row("MasaCtrl, vague prompt", partial(vague, start_step=4, start_layer=10))
SKETCH_AND_MASACTRL = Row("MasaCtrl and sketch", partial(vague, guides=(1, 0), start_step=4, start_layer=10))
SKETCH_ON_BOTH = Row("MasaCtrl, sketch on the source too", partial(vague, guides=(1, 1), start_step=4, start_layer=10))
GUIDED = Section(
    "guided",
    "Guided layout",
    "The target's prompt is \"a cat\" and no more; its pose and place are in a sketch, the creature's outline, which a "
    "T2I-Adapter (`demo/checkpoint/creatures-sketch.safetensors`) turns into guidance for the target alone. MasaCtrl "
    "has S=4, L=10. *Layout right* and *silhouette IoU* compare the target with what the sketch shows. The last row "
    "guides the source as well, as an extension does by itself: then the source is not the picture of its own prompt.",
    (VAGUE, SKETCH, MASACTRL, SKETCH_AND_MASACTRL, SKETCH_ON_BOTH),
    (VAGUE, SKETCH, MASACTRL, SKETCH_AND_MASACTRL),
)

SECTIONS = (SYNTHESIS, MASKS, DUETS, GRID, STANCE, LAYOUT, GUIDED, REAL, RECONSTRUCTION)
