"""The proving ground: a procedural world, a tiny checkpoint trained on it, and measures."""
