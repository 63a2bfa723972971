"""A benchmark and two untrained models of the real make, made once."""

import pytest
from bench_world import World, picture, samples

from medmim import shards


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """The data set and the models, made once."""
    from medmim.lvlm import tiny, zoo
    from medmim.lvlm.mantis import MANTIS

    root = tmp_path_factory.mktemp("world")
    asked = samples()
    names = sorted({name for sample in asked for name in sample.images})
    shards.write(root / "data", asked, [(name, name, picture(i)) for i, name in enumerate(names)])
    (root / "data" / "quarantine.jsonl").touch()
    tokenizer = tiny.train_tokenizer([f"{s.prompt}\n{s.target}" for s in asked], MANTIS, 400)
    models = []
    for seed in (0, 1):
        model = zoo.Lvlm(tiny.build(MANTIS, tokenizer, seed), tokenizer, tiny.image_processor(MANTIS), MANTIS, root, "")
        models.append(zoo.save(model, root / f"model{seed}").path)
    return World(root / "data", (models[0], models[1]))
