"""What the Models page asks the lab, on a family of tiny models."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest
from family_of_models import family

from lab.core.errors import BadInput, NotFound
from lab.core.settings import Settings
from lab.jobs import Desk
from lab.models.catalog import Catalog
from lab.ui.pages.household import Household
from lab.ui.services import LOCAL, Services, Who

VISITOR = Who("visitor-ada", is_local=False, is_visitor=True)


@dataclass
class QuietBell:
    rung: list[str] = field(default_factory=list)

    def ring(self, job_id: str) -> None:
        self.rung.append(job_id)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Household:
    data: Path = tmp_path_factory.mktemp("family")
    store, settings = family(data), Settings(data=data)
    catalog = Catalog(store, settings)
    desk = Desk(store, catalog, {"batch": QuietBell(), "chat": QuietBell()})
    return Household(Services(settings, store, catalog, desk))


def test_a_family_knows_its_roles_from_the_stored_recipes(house: Household) -> None:
    one = house.family("both", house.seen_by(LOCAL), [])
    assert {(edge.parent, edge.child, edge.words) for edge in one.edges} >= {
        ("left", "both", "input, weight 1"),
        ("right", "both", "input, weight 1"),
        ("both", "child", "input, weight 1"),
    }
    assert {node.name for node in one.nodes} == {"left", "right", "both", "child", "lost"}


def test_a_card_carries_licence_folder_and_next_name(house: Household) -> None:
    entries = house.seen_by(LOCAL)
    card = house.card(house.services.catalog.get("both"), entries, LOCAL)
    assert card.licence == "Apache-2.0 (from left and right)"
    assert card.folder == str(house.services.settings.models / "both")
    assert card.again == "both-2"
    assert "model.safetensors" in dict(card.files)


def test_a_visitor_sees_neither_others_models_nor_folders(house: Household) -> None:
    assert house.seen_by(VISITOR) == []
    card = house.card(house.services.catalog.get("both"), [], VISITOR)
    assert (card.folder, card.again, card.may_delete) == ("", "", False)
    with pytest.raises(NotFound):
        house.run_again("both", VISITOR)


def test_a_recipe_runs_again_under_the_next_free_name(house: Household) -> None:
    old = house.services.catalog.get("both").row.job_id
    first = house.run_again("both", LOCAL)
    assert (first.spec["name"], first.parent_id) == ("both-2", old)
    assert house.run_again("both", LOCAL).spec["name"] == "both-3"
    assert [job.spec["name"] for job in house.making(LOCAL)] == ["both-3", "both-2"]


def test_a_recipe_whose_parent_was_deleted_says_so(house: Household) -> None:
    house.services.catalog.delete("right")
    with pytest.raises(BadInput, match="right"):
        house.run_again("both", LOCAL)
    gone = [node for node in house.family("both", house.seen_by(LOCAL), []).nodes if node.is_gone]
    assert [node.name for node in gone] == ["right"]


def test_a_model_whose_recipe_is_not_known_can_not_be_run_again(house: Household) -> None:
    assert house.card(house.services.catalog.get("left"), [], LOCAL).again == ""
    with pytest.raises(BadInput, match="can't be read"):
        house.run_again("left", LOCAL)
