"""The command line: one file a command group; heavy libraries load only where they are used."""

from importlib.metadata import EntryPoint, entry_points
from typing import Any

import typer
from typer.core import TyperGroup

from medmim import __version__, hints
from medmim.cli import ask, base, bench, data, doctor, finetune, gc, nightly, recipe, registry, run, runs, submit, zoo

SERVICES = "medmim.commands"  # entry points of the distributions in services/, each of which adds a command


class Passed(BaseException):
    """An exception of a command that typer itself would turn into exit code 1, or hide; `error` is the exception."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(error)
        self.error = error


class Commands(TyperGroup):
    """The commands, those of installed services too; their exceptions reach `main` as they were raised."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Names in the order of the help."""
        return [*super().list_commands(ctx), *sorted(entry_points(group=SERVICES).names)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of a name."""
        found = super().get_command(ctx, cmd_name)
        services = entry_points(group=SERVICES, name=cmd_name) if found is None else ()
        return next(map(_of_service, services), found)

    def invoke(self, ctx: Any) -> Any:
        """Run a command.

        Raises:
            Passed: It was interrupted, or an operating-system error or the end of input came through.
        """
        try:
            return super().invoke(ctx)
        except (KeyboardInterrupt, OSError, EOFError) as error:
            raise Passed(error) from error


def _of_service(point: EntryPoint) -> Any:  # a command of the click that typer has within it
    own = typer.Typer(add_completion=False, rich_markup_mode="markdown")
    own.command(point.name)(point.load())
    return typer.main.get_command(own)


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
