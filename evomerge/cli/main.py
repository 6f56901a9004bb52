"""Entry point of the `evomerge` command: finds commands and turns errors into one line each."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from typing import NoReturn

import click

import evomerge
from evomerge.cli.stopping import Stopping
from evomerge.errors import EvomergeError

COMMANDS = {
    "inspect": "inspect",
    "search": "search",
    "resume": "search",
    "refine": "refine",
    "leaderboard": "leaderboard",
    "show": "show",
    "importance": "importance",
    "front": "front",
    "export": "export",
    "merge": "merge",
    "calibrate": "calibrate",
    "check": "check",
    "operators": "operators",
    "schema": "schema",
}
"""Commands in the order of a user's work, and the module of this package each is in."""

BROKEN_PIPE = 141


class _Commands(click.Group):
    """Imports a command only when it is used, or its one-line help is shown."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 (click's signature)
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"evomerge.cli.{COMMANDS[cmd_name]}")
        command: click.Command = getattr(module, cmd_name)
        return command


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show the full trace of an error.")
@click.version_option(evomerge.__version__, prog_name="evomerge")
@click.pass_context
def commands(ctx: click.Context, *, debug: bool) -> None:
    """Search for the best merge of fine-tuned language models.

    Exit codes: 0 done, 1 failed, 2 recipe or usage wrong, 3 no valid candidate, 4 run folder in
    use, 5 package missing or too old, 75 disk full, 128 and more stopped by that signal.
    """
    ctx.obj = debug


def main() -> NoReturn:
    """Run the command line and exit."""
    stopping = Stopping()
    # Third parties write to the error stream as they like; ours is for progress and errors.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # Where others work too, torch's threads would wait for each other by turning in circles.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    try:
        stopping.install()
        code = commands.main(standalone_mode=False) or 0
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (KeyboardInterrupt, click.exceptions.Abort):
        code = stopping.finish()
    except BrokenPipeError:
        # Whoever read our output has gone; nothing may be written to it at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = BROKEN_PIPE
    except EvomergeError as error:
        code = _complain(error)
    except Exception as error:  # noqa: BLE001 (a mistake of ours, or of a library, is one line too)
        # Libraries that are interrupted where they did not expect it fail in ways of their own.
        code = stopping.finish() if stopping.signal else _complain(_unexpected(error))
    sys.exit(code)


def _unexpected(error: Exception) -> EvomergeError:
    found = " ".join(f"{type(error).__name__}: {error}".split())
    return EvomergeError(f"unexpected {found}; please report it with --debug's trace")


def _complain(error: EvomergeError) -> int:
    if "--debug" in sys.argv:
        traceback.print_exc()
    for line in str(error).splitlines():
        print(f"error: {line}", file=sys.stderr)
    return error.exit_code
