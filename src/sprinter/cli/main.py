"""The `sprinter` program: commands, and errors turned into one line and an exit code."""

from __future__ import annotations

import errno
import os
import sys
from contextlib import suppress
from typing import Any, Final

import typer

from sprinter import __version__
from sprinter.cli.bench import bench_app
from sprinter.cli.calibrate import calibrate
from sprinter.cli.chat import chat
from sprinter.cli.collect import collect
from sprinter.cli.distill import distill
from sprinter.cli.doctor import doctor
from sprinter.cli.frontier import frontier
from sprinter.cli.generate import generate
from sprinter.cli.plan import plan
from sprinter.cli.serve import serve
from sprinter.cli.train import train
from sprinter.errors import SprinterError

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130
# What an OSError means when it is the machine's state, not our mistake.
_MACHINE_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EPERM, errno.EISDIR, errno.ENOTDIR}

_HELP: Final[dict[str, Any]] = {"max_content_width": 100, "help_option_names": ["-h", "--help"]}

app = typer.Typer(
    name="sprinter",
    add_completion=False,
    rich_markup_mode="rich",  # only so are options shown in groups
    context_settings=_HELP,
    pretty_exceptions_enable=False,
    help="Write with a large language model at nearly a small one's speed, and know what it costs in quality.",
    epilog="Start with: sprinter generate --color 'A compiler is'",
)
for command in (generate, distill, collect, train, frontier, calibrate, plan, serve, chat, doctor):
    app.command(context_settings=_HELP)(command)
app.add_typer(bench_app, name="bench", context_settings=_HELP)


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: bool = typer.Option(False, "--version", help="Print the version and exit."),
) -> None:
    if version:
        typer.echo(f"sprinter {__version__}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main() -> None:
    """Run the command line; a user's mistake ends in one line on stderr and exit code 2."""
    try:
        # Not by calling the app: that would turn an interrupt and a broken pipe into exit codes of its own.
        command = typer.main.get_command(app)
        with command.make_context("sprinter", sys.argv[1:]) as context:
            command.invoke(context)
    except SprinterError as error:
        _fail(str(error), EXIT_USER_ERROR)
    except BrokenPipeError:
        _close_stdout()  # the reader went away (`| head`): nothing is left to say
        raise SystemExit(0) from None
    except OSError as error:
        if error.errno not in _MACHINE_ERRORS:
            raise
        place = f" {error.filename}" if error.filename else ""
        _close_stdout()
        _fail(f"cannot write{place}: {error.strerror}; nothing was left half-written", EXIT_USER_ERROR)
    except KeyboardInterrupt:
        _fail("interrupted", EXIT_INTERRUPTED)
    except Exception as error:
        # Typer brings its parser along in some versions and not in others, so its errors are known by what they can.
        if hasattr(error, "exit_code") and not hasattr(error, "format_message"):
            raise SystemExit(error.exit_code) from None
        if not hasattr(error, "format_message"):
            raise
        where = getattr(error, "ctx", None)
        path = where.command_path if where is not None else "sprinter"
        _fail(f"{error.format_message()} (see {path} --help)", EXIT_USER_ERROR)
    raise SystemExit(0)


def _close_stdout() -> None:
    """What is still buffered goes nowhere: the interpreter would try to write it at exit and fail once more."""
    with suppress(OSError, ValueError):  # a caller may have put something without a descriptor in its place
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(message: str, code: int) -> None:
    # A path or a library's message may hold line breaks or escape sequences; an error is one printable line.
    line = "".join(c if c.isprintable() else " " for c in " ".join(message.split()))
    typer.echo(f"sprinter: {line}", err=True)
    raise SystemExit(code)


if __name__ == "__main__":
    main()
