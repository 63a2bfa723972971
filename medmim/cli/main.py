"""medmim: the command line. One file a command group; heavy libraries load only where they are used."""

import sys

import typer

from medmim import __version__, errors
from medmim.cli import ask, base, bench, data, doctor, finetune, gc, nightly, recipe, registry, run, runs, submit
from medmim.run.stage import share_cores

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Build, fine-tune, bench, register and promote multi-image medical vision-language models.",
    epilog="Start with `medmim doctor`, then `medmim run demo`. Exit codes: 0 done, 1 a gate or audit said no, "
    "2 bad input, 75 try again.",
)


@app.callback(invoke_without_command=True)
def root(version: bool = typer.Option(False, "--version", help="Print the version.")) -> None:
    """Options of the program itself."""
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


def main() -> None:
    """Run a command; a UserError becomes one message and its exit code, an interrupt 130."""
    share_cores()
    try:
        app()
    except errors.UserError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(error.exit_code)
    except OSError as error:
        problem = errors.from_os_error(error, "running this command")
        sys.stderr.write(f"error: {problem}\n")
        sys.exit(problem.exit_code)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; run the same command again to resume\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
