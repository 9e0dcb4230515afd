"""What a page is given: the settings, the store, the catalog, the job desk, and who is asking.

A page gets everything it may use from here and reaches for nothing else.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic.fields import FieldInfo

from lab import house
from lab.core.spec import JobSpec

if TYPE_CHECKING:
    from lab.core.settings import Settings
    from lab.core.store import Store
    from lab.jobs import Desk
    from lab.models.catalog import Catalog


@dataclass(frozen=True)
class Who:
    """One person at the page.

    Attributes:
        name: the owner's name in the store.
        is_local: sits at the machine that runs the lab.
        is_visitor: an anonymous guest of a hosted demo: small budgets, no paths, no imports.
    """

    name: str
    is_local: bool = True
    is_visitor: bool = False

    @property
    def is_operator(self) -> bool:
        """Whether this person may pause the queue and change the order of everybody's jobs."""
        return self.is_local

    @property
    def words(self) -> str:
        """The person in words, for the top bar and the lists."""
        return person_words(self.name)


NO_COOKIE = "nocookie"
"""Stands for the visitor's name until their browser brings the cookie."""

LOCAL = Who("local")
"""The one person of a lab that listens on 127.0.0.1."""


def person_words(owner: str) -> str:
    """Say an owner's name as people read it."""
    if owner == LOCAL.name:
        return "you (local)"
    if not owner.startswith("visitor-"):
        return owner
    name = owner.removeprefix("visitor-").split("-")[0]
    return "visitor" if name == NO_COOKIE else f"visitor {name[:6]}"


def always_local(request: Any) -> Who:  # noqa: ARG001  the same for every request
    """Know everyone as the local person: right while the page listens on 127.0.0.1 only."""
    return LOCAL


@dataclass(frozen=True)
class Services:
    """What `build(services)` of a page gets.

    Attributes:
        settings: where the lab lives; `space` means demo mode.
        store: the database.
        catalog: models by name, with their folders and facts.
        desk: submit, cancel, stop, retry.
        who: tells from a request (a gradio.Request) who is asking.
    """

    settings: "Settings"
    store: "Store"
    catalog: "Catalog"
    desk: "Desk"
    who: Callable[[Any], Who] = always_local

    @property
    def is_demo(self) -> bool:
        """Whether this is a hosted demo: no paths, no imports, small budgets."""
        return self.settings.space

    def fields(self, spec: type[JobSpec]) -> dict[str, FieldInfo]:
        """Return a spec's fields as a form here has them: in a demo with the house's limits."""
        return house.fields_of(spec) if self.is_demo else spec.model_fields
