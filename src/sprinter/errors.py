"""Every error a user can cause or meet, each one line that says what, why and what to do."""

from __future__ import annotations

from collections.abc import Mapping


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


class BatchError(SprinterError):
    """Some texts of a list could not be written; the others were."""

    def __init__(self, failed: Mapping[int, SprinterError], done: Mapping[int, object]) -> None:
        """`failed`: error by place in the list; `done`: what there is at each place, generation or error."""
        first = min(failed)
        rest = "" if len(failed) == 1 else f" ({len(failed)} failed in all)"
        super().__init__(f"text {first} of {len(done)}: {failed[first]}{rest}; the others are in `results`")
        self.errors = dict(failed)
        self.results = [done[place] for place in sorted(done)]


class CertificateWarning(UserWarning):
    """A text goes beyond what its certificate speaks of."""
