"""An MLflow database as an earlier MLflow would have left it: the schema before the newest, with data in it."""

from typing import Any

ALIASES = {"champion": "1"}
KEPT = {"kept": ALIASES}  # models and their aliases after `fill`


def fill(address: str) -> None:
    """An experiment, a run with a metric, a model with a version and an alias, by the server's own API."""
    from mlflow import MlflowClient

    api = MlflowClient(address)
    run = api.create_run(api.create_experiment("kept")).info.run_id
    api.log_metric(run, "loss", 0.5)
    api.create_registered_model("kept")
    api.create_model_version("kept", source=f"runs:/{run}/model", run_id=run)
    for alias, version in ALIASES.items():
        api.set_registered_model_alias("kept", alias, version)


def rewind(uri: str) -> tuple[str, str]:
    """Make a database anew in the schema before the newest, with every row that fits; the two revisions.

    MLflow's migrations do not all go back, so tables are made by those that lead there, and rows are copied.
    """
    from alembic import command
    from alembic.script import ScriptDirectory
    from mlflow.store.db.utils import _get_alembic_config
    from mlflow.store.tracking.dbmodels.initial_models import Base
    from sqlalchemy import create_engine

    config = _get_alembic_config(uri)
    newest, before, *_ = (one.revision for one in ScriptDirectory.from_config(config).walk_revisions())
    engine = create_engine(uri)
    with engine.begin() as connection:
        rows = _rows(connection)
        _tables(connection).drop_all(connection)
    Base.metadata.create_all(engine)
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, before)
    with engine.begin() as connection:
        for table in _tables(connection).sorted_tables:
            if table.name == "alembic_version":
                continue
            connection.execute(table.delete())  # the migrations make a default experiment or workspace
            fitting = [{key: row[key] for key in row if key in table.columns} for row in rows.get(table.name, [])]
            if fitting:
                connection.execute(table.insert(), fitting)
            _count_on(connection, table)
    engine.dispose()
    return before, newest


def _tables(connection: Any) -> Any:
    from sqlalchemy import MetaData

    found = MetaData()
    found.reflect(connection)
    return found


def _rows(connection: Any) -> dict[str, list[dict[str, Any]]]:
    return {
        table.name: [dict(row) for row in connection.execute(table.select()).mappings()]
        for table in _tables(connection).sorted_tables
    }


def _count_on(connection: Any, table: Any) -> None:
    """PostgreSQL's sequences do not see rows that came with their own numbers."""
    from sqlalchemy import Integer, func, select, text

    keys = list(table.primary_key.columns)
    if connection.dialect.name != "postgresql" or len(keys) != 1 or not isinstance(keys[0].type, Integer):
        return
    sequence = connection.execute(select(func.pg_get_serial_sequence(table.name, keys[0].name))).scalar()
    highest = connection.execute(select(func.max(keys[0]))).scalar()
    if sequence and highest:
        connection.execute(text("SELECT setval(:s, :n)"), {"s": sequence, "n": highest})
