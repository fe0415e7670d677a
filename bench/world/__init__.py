"""A procedural world: one creature in a scene, its identity outside the caption, its layout inside."""

from bench.world.identity import Identity, random_identity
from bench.world.layout import PLACES, POSES, SPECIES, Layout, all_captions, all_layouts, random_caption
from bench.world.render import Scene, random_scene, render

__all__ = [
    "PLACES",
    "POSES",
    "SPECIES",
    "Identity",
    "Layout",
    "Scene",
    "all_captions",
    "all_layouts",
    "random_caption",
    "random_identity",
    "random_scene",
    "render",
]
