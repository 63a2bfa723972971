"""Commands that a message gives the reader to type: quoted for a shell, with the options given to this process."""

import json
import os
import shlex
from pathlib import Path

_GIVEN = "MEDMIM_GIVEN"  # JSON: option -> value; in the environment, so that the steps of a run print the same commands
# Commands that take no --home, nor an address of a cluster.
_NEITHER = ("recipe", "base check", "data init", "data lookalike")
_CLUSTER = ("runs", "submit", "registry pipeline", "doctor --cluster")
_NO_HOST = ("runs sweep", "doctor --cluster")
_resumes = True  # whether this command, given again, goes on where it ended


def remember(option: str, value: object) -> None:
    """Keep the value that an option was given on the command line; None forgets it.

    Args:
        option: `--home`, `--host` or `--namespace`.
        value: Its value.
    """
    others = {name: kept for name, kept in _given().items() if name != option}
    os.environ[_GIVEN] = json.dumps(others if value is None else {**others, option: str(value)})


def forget() -> None:
    """Forget all options: a new command begins."""
    global _resumes
    _resumes = True
    os.environ.pop(_GIVEN, None)


def nothing_to_resume() -> None:
    """From now on this process is a server, and when it ends there is nothing to resume."""
    global _resumes
    _resumes = False


def ended(how: str) -> str:
    """The last line of a command that a signal ended: `interrupted; run the same command again to resume`."""
    return f"{how}; run the same command again to resume" if _resumes else how


def command(*words: str) -> str:
    """A medmim command as the reader can type it in this folder: quoted, with the --home that this process was given.

    Args:
        words: Command and arguments, such as `bench`, `show`, a run's name. `NAME` and `...` stay as they are.

    Returns:
        `medmim bench show 'a run' --home '/my home'`
    """
    return shlex.join(["medmim", *words, *_options(" ".join(words))])


def home() -> Path:
    """The home of this process: --home, MEDMIM_HOME, or `.medmim` in this folder."""
    return expanded(_given().get("--home") or os.environ.get("MEDMIM_HOME") or ".medmim").absolute()


def expanded(path: str | Path) -> Path:
    """A path whose `~` or `~name` at the beginning is a user's home; one of nobody stays, as in a shell."""
    return Path(os.path.expanduser(path))


def _options(typed: str) -> list[str]:
    def begins(commands: tuple[str, ...]) -> bool:
        return any(f"{typed} ".startswith(f"{name} ") for name in commands)

    if begins(_NEITHER):
        names: tuple[str, ...] = ()
    elif begins(_CLUSTER):
        names = ("--namespace",) if begins(_NO_HOST) else ("--host", "--namespace")
    else:
        names = ("--home",)
    given = _given()
    return [word for name in names if name in given for word in (name, given[name]) if f" {name} " not in f" {typed} "]


def _given() -> dict[str, str]:
    return dict(json.loads(os.environ.get(_GIVEN) or "{}"))
