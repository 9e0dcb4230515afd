"""Tiny models for the tests of merging."""

from pathlib import Path

import pytest
import torch
from tiny_merge import TinyJob, TinyShelf, tensors_of


@pytest.fixture(autouse=True)
def one_thread():
    """Small tensors: more threads only fight."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def shelf(tmp_path: Path) -> TinyShelf:
    room = tmp_path / "models"
    room.mkdir()
    return TinyShelf(room)


@pytest.fixture
def family(shelf: TinyShelf) -> TinyShelf:
    """A base and three light fine-tunes of it: base, a, b, c; two layers, tied, bfloat16."""
    base = tensors_of(2, seed=0)
    shelf.add("base", base)
    for seed, name in enumerate(("a", "b", "c"), 1):
        change = tensors_of(2, seed=seed, scale=0.1)
        shelf.add(name, {key: value + change[key] for key, value in base.items()}, shards=seed)
    return shelf


@pytest.fixture
def job(shelf: TinyShelf, tmp_path: Path) -> TinyJob:
    folder = tmp_path / "job"
    folder.mkdir()
    return TinyJob(shelf.room, folder=folder)
