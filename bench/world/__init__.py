"""A procedural world: one creature in a scene, or two; identity outside the caption, layout inside."""

from bench.world.duet import Duet, all_duet_captions, all_duets, random_duet_caption, random_halves, render_duet
from bench.world.identity import Identity, random_identity
from bench.world.layout import PLACES, POSES, SPECIES, Layout, all_captions, all_layouts, random_caption
from bench.world.render import Scene, random_scene, render

__all__ = [
    "PLACES",
    "POSES",
    "SPECIES",
    "Duet",
    "Identity",
    "Layout",
    "Scene",
    "all_captions",
    "all_duet_captions",
    "all_duets",
    "all_layouts",
    "random_caption",
    "random_duet_caption",
    "random_halves",
    "random_identity",
    "random_scene",
    "render",
    "render_duet",
]
