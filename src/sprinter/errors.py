"""Every error a user can cause or meet, each one line that says what, why and what to do."""

from __future__ import annotations


class SprinterError(Exception):
    """Base of all errors raised on purpose; the command line turns one into a line and exit code 2."""


class ConfigError(SprinterError):
    """A setting is out of range, unknown, or contradicts another."""


class CapabilityError(SprinterError):
    """A rule, gate or drafter needs something the chosen backend cannot give."""


class BackendError(SprinterError):
    """A model could not be loaded or computed something unusable."""


class DataError(SprinterError):
    """An input file is missing, malformed, or does not belong to what it is used with."""


class CertificateError(SprinterError):
    """A certificate is malformed, or speaks of another pair, verifier, transform or claim."""


class CertificateWarning(UserWarning):
    """A text goes beyond what its certificate speaks of."""
