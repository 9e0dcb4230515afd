"""The settings, read once from the environment. No other module reads the environment."""

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from lab.core.errors import BadInput

LOOPBACK = ("127.0.0.1", "localhost", "::1")


class Settings(BaseSettings):
    """Where the lab lives and what it may use.

    Attributes:
        data: the data folder: lab.db, queue.db, models/, datasets/, jobs/.
        host, port: where the page listens; port 0 takes 7860 or the next free one.
        database_url: `postgresql://...` for several hosts; empty means SQLite in the data folder.
        queue_url: `redis://...` of the bell between web and workers; empty means the queue follows the
            database.
        queue_key: signs the messages of a queue that other machines reach; the same text on every host.
        store_url: `s3://...` (or any URL of fsspec) of the object store for models and datasets, for hosts
            that share no folder; empty keeps them in the data folder.
        cache_gb: how many gigabytes of models a host keeps of the object store; 0 keeps all.
        disk_reserve_mb: how many megabytes of disk no job may plan with: they keep the database writable.
        most_waiting, most_running: how many jobs one person may have waiting, and running in a lane at a
            time; 0 sets no limit. Further running ones wait, further waiting ones are refused.
        most_disk_gb: how many gigabytes one person's models and datasets may take; 0 sets no limit.
        queue_size: how many jobs may wait in all; 0 sets no limit.
        workers: whether app.py starts the workers beside the page.
        devices: devices to use, comma separated; empty means all.
        threads: CPU threads a job may use; 0 shares the cores among running jobs.
        space: whether we run inside a hosted Space (its environment says so).
        failpoint: for fault tests, `name[:nth]:deed` (workers/failpoints); from LABFAIL.
    """

    model_config = SettingsConfigDict(env_prefix="LAB_", extra="ignore", populate_by_name=True)

    data: Path = Path("~/.crucible")
    host: str = "127.0.0.1"
    port: int = Field(default=0, ge=0, le=65535)
    database_url: str = ""
    queue_url: str = ""
    queue_key: str = ""
    store_url: str = ""
    cache_gb: float = Field(default=50.0, ge=0)
    disk_reserve_mb: int = Field(default=512, ge=0)
    most_waiting: int = Field(default=0, ge=0)
    most_running: int = Field(default=0, ge=0)
    most_disk_gb: float = Field(default=0.0, ge=0)
    queue_size: int = Field(default=10_000, ge=0)
    workers: bool = True
    devices: str = ""
    threads: int = Field(default=0, ge=0, le=1024)
    space: bool = False
    failpoint: str = Field(default="", validation_alias="LABFAIL")

    @field_validator("data")
    @classmethod
    def _home_is_expanded(cls, data: Path) -> Path:
        return data.expanduser().resolve()

    @property
    def models(self) -> Path:
        """The folder of published models."""
        return self.data / "models"

    @property
    def datasets(self) -> Path:
        """The folder of imported datasets."""
        return self.data / "datasets"

    @property
    def jobs(self) -> Path:
        """The folder of jobs' work folders and logs."""
        return self.data / "jobs"

    @property
    def database(self) -> str:
        """The database's URL as SQLAlchemy reads it, SQLite in the data folder unless told otherwise."""
        if not self.database_url:
            return f"sqlite:///{self.data / 'lab.db'}"
        scheme, separator, rest = self.database_url.partition("://")
        driver = "postgresql+psycopg" if scheme in ("postgres", "postgresql") else scheme
        return f"{driver}{separator}{rest}"

    @property
    def postgres(self) -> str:
        """The database's URL as Postgres's own library reads it; empty on SQLite."""
        scheme, _, rest = self.database.partition("://")
        return f"postgresql://{rest}" if scheme.startswith("postgresql") else ""

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the page."""
        return self.host in LOOPBACK

    def make_folders(self) -> None:
        """Create the data folder and its rooms.

        Raises:
            BadInput: the folder can't be made or written.
        """
        try:
            for folder in (self.models, self.datasets, self.jobs):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BadInput(
                f"The data folder {self.data} can't be written: {error.strerror}.",
                "The lab keeps its models and jobs there.",
                "Set LAB_DATA to a folder that you may write.",
                field="LAB_DATA",
            ) from error


def read_settings() -> Settings:
    """Read the environment once and return the settings.

    Inside a hosted Space the page listens where the Space expects it and keeps its data on the
    persistent disk, or else in the temporary folder.

    Raises:
        BadInput: another interface than loopback was asked for, and there is no login to guard it; or
            a server's address is none, or it is open to whoever reaches it.
    """
    in_space = bool(os.environ.get("SPACE_ID"))
    if not in_space:
        settings = Settings()
        _check_servers(settings)
        if not settings.is_loopback:
            raise BadInput(
                f"LAB_HOST is {settings.host}, which other machines can reach.",
                "Without a login the lab listens on 127.0.0.1 only.",
                "Unset LAB_HOST, and reach a remote lab through ssh -L 7860:127.0.0.1:7860.",
                field="LAB_HOST",
            )
        return settings
    disk = Path("/data") if os.access("/data", os.W_OK) else Path(tempfile.gettempdir())
    data = Path(os.environ.get("LAB_DATA", disk / "crucible"))
    port = int(os.environ.get("GRADIO_SERVER_PORT", "7860"))
    queue_size = int(os.environ.get("LAB_QUEUE_SIZE", "30"))
    everyone = "0.0.0.0"  # noqa: S104  a hosted Space reaches its container from outside; demo mode guards it
    return Settings(data=data, host=everyone, port=port, space=True, queue_size=queue_size)


def _check_servers(settings: Settings) -> None:
    """Refuse addresses that can't work, and a Redis that anybody who reaches it may write to."""
    if not settings.database.startswith(("sqlite:///", "postgresql+psycopg://")):
        raise BadInput(
            f"LAB_DATABASE_URL begins with {settings.database.partition(':')[0]!r}.",
            "The lab's database is SQLite or Postgres.",
            "Set it to postgresql://user:password@host/name, or unset it for SQLite.",
            field="LAB_DATABASE_URL",
        )
    if not settings.queue_url:
        return
    address = urlsplit(settings.queue_url)
    if address.scheme not in ("redis", "rediss", "unix"):
        raise BadInput(
            f"LAB_QUEUE_URL begins with {address.scheme!r}.",
            "The queue is a Redis, or follows the database.",
            "Set it to redis://:password@host:6379/0, or unset it.",
            field="LAB_QUEUE_URL",
        )
    is_near = address.scheme == "unix" or address.hostname in LOOPBACK
    if not is_near and not (address.password and settings.queue_key):
        raise BadInput(
            f"The Redis at {address.hostname} can be reached from other machines.",
            "It needs a password in LAB_QUEUE_URL, and LAB_QUEUE_KEY to sign what is put into it.",
            "Set both, the key to the same long random text on every host, or use a Redis on 127.0.0.1.",
            field="LAB_QUEUE_KEY" if address.password else "LAB_QUEUE_URL",
        )


def enter_child_environment() -> None:
    """Give this process, before it imports a model library, the environment of processes that run jobs."""
    os.environ.update(child_environment())


def child_environment() -> dict[str, str]:
    """Return the environment for processes that run jobs: no hub, no telemetry, quiet progress bars."""
    quiet = {
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "TRANSFORMERS_VERBOSITY": "error",
        # Whether there is a GPU is asked of the driver's library: asking CUDA itself would settle which
        # GPUs a process sees before `show_one_gpu`, and spoil a fork server.
        "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
    }
    return {**os.environ, **quiet}


@contextmanager
def lent_environment(values: Mapping[str, str]) -> Iterator[None]:
    """Give this process some variables that a library reads, as long as the context lasts."""
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def show_one_gpu(index: int | None) -> None:
    """Let this process, before it touches CUDA, see one GPU of those that it sees now, and none on None."""
    os.environ.update(environment_for_gpu(index))


def environment_for_gpu(index: int | None) -> dict[str, str]:
    """Return what lets a process see one GPU of those that we see now, and none on None."""
    seen = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    if index is None:
        return {"CUDA_VISIBLE_DEVICES": ""}
    return {"CUDA_VISIBLE_DEVICES": seen[index] if seen else str(index)}
