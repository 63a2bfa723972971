"""The command line: one file a command group; heavy libraries load only where they are used."""

from typing import Any

import typer
from typer.core import TyperGroup

from medmim import __version__, hints
from medmim.cli import ask, base, bench, data, doctor, finetune, gc, nightly, recipe, registry, run, runs, submit, zoo


class Passed(BaseException):
    """An exception of a command that typer itself would turn into exit code 1, or hide; `error` is the exception."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(error)
        self.error = error


class Commands(TyperGroup):
    """The commands, whose exceptions reach `main` as they were raised."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command.

        Raises:
            Passed: It was interrupted, or an operating-system error or the end of input came through.
        """
        try:
            return super().invoke(ctx)
        except (KeyboardInterrupt, OSError, EOFError) as error:
            raise Passed(error) from error


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",  # in rich's own, `[default: 32]` would be a style, and not shown
    help="Build, fine-tune, bench, register and promote multi-image medical vision-language models.",
    epilog="Start with `medmim doctor`, then `medmim run demo`. Exit codes: 0 done, 1 a gate or audit said no, "
    "2 bad input, 70 a fault of medmim itself, 75 try again, 130 interrupted.",
)


@app.callback(invoke_without_command=True)
def root(version: bool = typer.Option(False, "--version", help="Print the version.")) -> None:
    """Options of the program itself."""
    hints.forget()
    if version:
        typer.echo(f"medmim {__version__}")
        raise typer.Exit


app.command("doctor")(doctor.doctor)
app.add_typer(recipe.app, name="recipe")
app.command("run")(run.run)
app.command("submit")(submit.submit)
app.add_typer(runs.app, name="runs")
app.command("nightly")(nightly.nightly)
app.add_typer(data.app, name="data")
app.command("finetune")(finetune.finetune)
app.add_typer(bench.app, name="bench")
app.command("ask")(ask.ask)
app.add_typer(registry.app, name="registry")
app.command("gc")(gc.gc)
app.add_typer(base.app, name="base")
app.add_typer(zoo.app, name="zoo")
