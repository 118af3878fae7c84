"""What the commands that people call have in common: how they explain themselves, show that they work, fail and end.

A command is a function `main` with the decorator `ends`, made into a program by `program`. The answer goes to stdout,
everything else to stderr. Colours and moving progress are for terminals only, colours not where NO_COLOR is set.
"""

from __future__ import annotations

import functools
import os
import select
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import typer
from typer.core import TyperCommand

from _study import Study, load
from moemui.progress import Progress

# How every command ends; `program` says more of NO for each.
FINE, NO, WRONG, INTERRUPTED = 0, 1, 2, 130
WRONG_MEANING = "called wrongly, or what it was given can't be read; one line on stderr says what and what to do"
USAGE_ERROR: Any = typer.BadParameter.__base__  # Typer has no public name for it
WIDEST = 100  # columns of a help text


class Stop(Exception):
    """The command ends here, with one sentence on stderr and an exit code."""

    def __init__(self, sentence: object, code: int = WRONG):
        super().__init__(str(sentence))
        self.code = code


def ends(name: str, interrupted: str = "nothing was changed") -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A decorator of `main`: whatever its user can cause becomes one line on stderr and an exit code.

    Stop ends with its own code, OSError and ValueError with WRONG. interrupted: what holds after Ctrl-C.
    """

    def decorate(main: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(main)
        def guarded(*args: Any, **kwargs: Any) -> None:
            try:
                with answering(FINE):
                    main(*args, **kwargs)
            except Stop as stop:
                _end(name, str(stop), stop.code)
            except OSError as error:
                found = f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)
                _end(name, found, WRONG)
            except ValueError as error:
                _end(name, str(error), WRONG)
            except KeyboardInterrupt:
                _end(name, f"interrupted; {interrupted}", INTERRUPTED)

        return guarded

    return decorate


@contextmanager
def answering(code: int) -> Iterator[None]:
    """Print the answer in here where the exit code is known before: `| head`, which leaves early, changes no code."""
    out = _stdout()
    try:
        try:
            yield
        except typer.Exit as end:
            code = end.exit_code
            sys.stdout.flush()
            raise
        sys.stdout.flush()
    except (BrokenPipeError, SystemExit):  # rich makes the first into the second, and both may mean something else
        if not _reader_left(out):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(code) from None
    finally:
        if out is not None:
            os.close(out)


def program(main: Callable[..., None], *, no: str, examples: Sequence[str]) -> typer.Typer:
    """The program of a command. no: what exit code 1 means. examples: calls, for the help text."""
    codes = {FINE: "all is well", NO: no, WRONG: WRONG_MEANING, INTERRUPTED: "interrupted (Ctrl-C)"}
    parts = ["Exit codes:", *(_hanging(str(code), text) for code, text in codes.items())]
    epilog = "\n\n".join(["\b\n" + "\n".join(parts), "\b\n" + "\n".join(["Examples:", *(f"  {e}" for e in examples)])])
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    settings = {"max_content_width": WIDEST, "help_option_names": ["-h", "--help"]}
    app.command(cls=_OneLine, epilog=epilog, context_settings=settings)(main)
    return app


def study_of(config: Path) -> Study:
    """The study of a config file. Raises Stop where no file with text is there, StudyError for a mistake in it."""
    try:
        return load(config)
    except FileNotFoundError:
        raise Stop(
            f"there is no {config} here; name a study's YAML file, or call this in the project's folder"
        ) from None
    except UnicodeDecodeError:
        raise Stop(f"{config} is no text; a study is a YAML file in UTF-8, see config/README.md") from None


def say(sentence: str, style: str = "") -> None:
    """One line for people, on stderr, where it is not mistaken for the answer."""
    from rich.console import Console

    Console(stderr=True).print(sentence, style=style, soft_wrap=True, highlight=False, markup=False)


@contextmanager
def working(what: str) -> Iterator[Progress]:
    """Show on a terminal that work goes on, and how far it is once it reports. Nothing of it stays or is piped on."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    waiting = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    counting = (*waiting[:2], BarColumn(), MofNCompleteColumn(), waiting[2])
    console = Console(stderr=True)
    with Bars(*waiting, console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task(what, total=None)

        def report(done: int, total: int, note: str = "") -> None:
            if total:
                bars.columns = counting
            bars.update(task, completed=done, total=total or None, description=f"{what} {note}".strip())

        yield report


class _OneLine(TyperCommand):
    """A command that says what is wrong with a call in one line, as everything else."""

    def main(self, args: Any = None, prog_name: str | None = None, *ignored: Any, **more: Any) -> NoReturn:
        more |= {"standalone_mode": False}
        try:
            code = super().main(args, prog_name, **more)
        except USAGE_ERROR as error:
            script = error.ctx.command_path if error.ctx else prog_name or sys.argv[0]
            sentence = " ".join(error.format_message().split()).rstrip(".")
            say(f"{script.rpartition('/')[2].removesuffix('.py')}: {sentence}; see --help", "red")
            code = WRONG
        except typer.Abort:
            code = INTERRUPTED
        sys.exit(code or FINE)


def _stdout() -> int | None:
    """A descriptor of its own, since rich closes the one in use; None where stdout is no file, as in tests."""
    try:
        return os.dup(sys.stdout.fileno())
    except (AttributeError, OSError, ValueError):
        return None


def _reader_left(out: int | None) -> bool:
    if out is None:
        return False
    poll = select.poll()
    poll.register(out, 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def _end(name: str, sentence: str, code: int) -> NoReturn:
    say(f"{name}: {' '.join(sentence.split())}", "red")
    raise typer.Exit(code) from None


def _hanging(head: str, text: str) -> str:
    """A line of a list; a long one goes on below its text."""
    return textwrap.fill(text, 78, initial_indent=f"  {head:<5}", subsequent_indent=" " * 7)
