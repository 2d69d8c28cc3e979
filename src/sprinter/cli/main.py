"""The `sprinter` program: commands, and errors turned into one line and an exit code."""

from __future__ import annotations

import errno
import os
import sys

import typer

from sprinter import __version__
from sprinter.cli.bench import bench_app
from sprinter.cli.calibrate import calibrate
from sprinter.cli.distill import distill
from sprinter.cli.doctor import doctor
from sprinter.cli.generate import generate
from sprinter.cli.plan import plan
from sprinter.errors import SprinterError

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130
# What an OSError means when it is the machine's state, not our mistake.
_MACHINE_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EPERM, errno.EISDIR, errno.ENOTDIR}

app = typer.Typer(
    name="sprinter",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Write with a large language model at nearly a small one's speed, and know what it costs in quality.",
    epilog="Start with: sprinter generate --color 'A compiler is'",
)
for command in (generate, distill, calibrate, plan, doctor):
    app.command()(command)
app.add_typer(bench_app, name="bench")


@app.callback(invoke_without_command=True)
def root(version: bool = typer.Option(False, "--version", help="Print the version and exit.")) -> None:
    if version:
        typer.echo(f"sprinter {__version__}")
        raise typer.Exit


def main() -> None:
    """Run the command line; a user's mistake ends in one line on stderr and exit code 2."""
    try:
        app()
    except SprinterError as error:
        _fail(str(error), EXIT_USER_ERROR)
    except BrokenPipeError:
        # The reader went away (`| head`): nothing is left to say, and the interpreter must not try at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None
    except OSError as error:
        if error.errno not in _MACHINE_ERRORS:
            raise
        place = f" {error.filename}" if error.filename else ""
        _fail(f"cannot write{place}: {error.strerror}; nothing was left half-written", EXIT_USER_ERROR)
    except KeyboardInterrupt:
        _fail("interrupted", EXIT_INTERRUPTED)


def _fail(message: str, code: int) -> None:
    typer.echo(f"sprinter: {message}", err=True)
    raise SystemExit(code)


if __name__ == "__main__":
    main()
