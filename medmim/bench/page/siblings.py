"""Which models of a benchmark stand beside each other: a medical one and its general sibling of the zoo."""

from collections.abc import Mapping

from medmim.bench import roles
from medmim.lvlm.zoo import entry as zoo
from medmim.lvlm.zoo import stored


def entries(models: Mapping[str, str]) -> dict[str, zoo.Entry]:
    """Role -> the model of the zoo that it is, where that can be told.

    By its name, or by what its reference ends in: the zoo's name of a model, or its repository's on the Hub. Never by
    the class of a checkpoint: what somebody tuned further is of the class that it was tuned from. A stand-in, `tiny-`
    and a name of the zoo, stands where its model would.

    Args:
        models: Role -> reference; empty where it is not known.
    """
    named = {name.casefold(): one for one in zoo.entries() for name in (one.name, one.hub.rpartition("/")[2])}
    found = {
        role: named.get(role.casefold().removeprefix(stored.STAND_IN)) or named.get(roles.short(ref).casefold())
        for role, ref in models.items()
    }
    return {role: one for role, one in found.items() if one is not None}


def pairs(known: Mapping[str, zoo.Entry]) -> list[tuple[str, str]]:
    """(medical role, general role) of the models whose siblings were asked, too, in the order of the roles."""
    return [
        (role, other)
        for role, one in known.items()
        for other, beside in known.items()
        if one.medical and not beside.medical and beside.name == one.sibling
    ]
