"""Errors of MasaCtrl. Each message states what was given, what is allowed and what to do."""

from __future__ import annotations


def told(message: str) -> str:
    """``message`` as users read it, who see those of the host and of other extensions beside it."""
    return f"MasaCtrl: {message}"


class MasaCtrlError(Exception):
    """Base of every error raised by this package, whose text is ``message`` as :func:`told`.

    ``status_code`` and ``detail`` are *instance* attributes because the WebUI's API error handler builds its HTTP
    answer from ``vars(error)`` (A1111 ``modules/api/api.py``, ``handle_exception``): a refusal is then answered with
    422 and its own sentence in ``detail`` instead of a bare 500.
    """

    def __init__(self, message: str) -> None:
        super().__init__(told(message))
        self.message = message
        self.status_code = 422
        self.detail = str(self)


class SettingsError(MasaCtrlError, ValueError):
    """A setting has a value that is not allowed, or a name that does not exist."""


class UnsupportedHostError(MasaCtrlError):
    """The WebUI is none in which control can work."""


class UnsupportedModelError(MasaCtrlError):
    """The loaded model offers no U-Net self-attention that could be controlled."""


class UnsupportedCombinationError(MasaCtrlError):
    """Another feature of the host is active with which control would be silently wrong."""


class BatchLayoutError(MasaCtrlError):
    """A U-Net call holds other rows than the branches that were announced for it."""


class InversionError(MasaCtrlError):
    """An image cannot be inverted, or its trajectory does not hold what sampling asks for."""
