"""Where the servers are: what is understood, and what is refused before anything starts."""

import pytest

from lab.core.errors import BadInput
from lab.core.settings import Settings, read_settings


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg"])
def test_a_postgres_is_named_in_any_of_its_spellings(scheme: str) -> None:
    settings = Settings(database_url=f"{scheme}://ada:pw@db:5432/lab?sslmode=require")
    assert settings.database == "postgresql+psycopg://ada:pw@db:5432/lab?sslmode=require"
    assert settings.postgres == "postgresql://ada:pw@db:5432/lab?sslmode=require"


def test_without_an_address_the_database_is_a_file() -> None:
    settings = Settings()
    assert settings.database.startswith("sqlite:///")
    assert settings.postgres == ""


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"LAB_DATABASE_URL": "mysql://db/lab"}, "SQLite or Postgres"),
        ({"LAB_DATABASE_URL": "nonsense"}, "SQLite or Postgres"),
        ({"LAB_QUEUE_URL": "amqp://rabbit"}, "begins with 'amqp'"),
        ({"LAB_QUEUE_URL": "localhost:6379"}, "The queue is a Redis"),
        ({"LAB_QUEUE_URL": "redis://10.0.0.5:6379/0"}, "needs a password"),
        ({"LAB_QUEUE_URL": "redis://:pw@10.0.0.5:6379/0"}, "LAB_QUEUE_KEY"),
        ({"LAB_QUEUE_URL": "redis://10.0.0.5:6379/0", "LAB_QUEUE_KEY": "k"}, "needs a password"),
    ],
)
def test_an_address_that_cannot_work_or_is_open_to_all_is_refused(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], words: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(BadInput, match=words):
        read_settings()


@pytest.mark.parametrize(
    "variables",
    [
        {"LAB_QUEUE_URL": "redis://127.0.0.1:6379/0"},
        {"LAB_QUEUE_URL": "redis://localhost/1"},
        {"LAB_QUEUE_URL": "unix:///run/redis.sock"},
        {"LAB_QUEUE_URL": "rediss://:pw@queue.lan:6379/0", "LAB_QUEUE_KEY": "long random text"},
    ],
)
def test_a_redis_on_this_machine_or_one_with_password_and_key_is_taken(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert read_settings().queue_url == variables["LAB_QUEUE_URL"]
