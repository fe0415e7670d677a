"""The version of this extension, as infotexts carry it. ``pyproject.toml`` says the same; a test compares them."""

VERSION = "0.2.0.dev0"
