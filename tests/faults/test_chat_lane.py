"""The warm engine with real comparisons on tiny models."""

import psutil
import pytest
from worked_lab import Lab

from lab.compare.spec import CompareSpec
from lab.data.spec import PreviewSpec

pytestmark = [pytest.mark.fault, pytest.mark.server, pytest.mark.timeout(180)]


def question(tokens: int) -> CompareSpec:
    return CompareSpec(models=("base", "pirate"), prompt="Hello?", max_new_tokens=tokens, temperature=0.0)


def test_a_preview_does_not_wait_behind_a_long_answer_and_models_stay_in_memory(stocked: Lab) -> None:
    stocked.start_real("chat")
    answer = stocked.submit_spec("compare", question(400), "chat")

    def deltas() -> int:
        return sum(event.kind == "delta" for event in stocked.store.events.after(answer, 0))

    stocked.wait("text in a column", lambda: deltas() > 0, seconds=90)
    preview = stocked.submit_spec("preview", PreviewSpec(model="base", dataset="squares"), "chat")
    assert stocked.wait_for_end(preview).state == "succeeded"
    assert stocked.row(answer).state == "running"
    stocked.store.jobs.request_cancel(answer)
    assert stocked.wait_for_end(answer, seconds=5).state == "cancelled"
    stocked.check_events(answer)

    short = stocked.wait_for_end(stocked.submit_spec("compare", question(4), "chat"))
    assert short.state == "succeeded", short.error_text
    assert [column["tokens"] for column in short.result["columns"]] == [4, 4]
    stocked.wait(
        "the worker to tell what it holds",
        lambda: set(stocked.store.workers.list()[0].models_loaded) == {"base", "pirate"},
    )


def test_a_killed_engine_keeps_the_text_said_so_far_and_comes_back(stocked: Lab) -> None:
    consumer = stocked.start_real("chat")
    job = stocked.submit_spec("compare", question(400), "chat")

    def text() -> str:
        events = stocked.store.events.after(job, 0)
        return "".join(event.payload["text"] for event in events if event.kind == "delta")

    stocked.wait("text in a column", lambda: bool(text()), seconds=90)
    for process in consumer.children(recursive=True):
        if process.ppid() != consumer.pid:
            psutil.Process(process.pid).kill()
    row = stocked.wait_for_end(job, seconds=10)
    assert (row.state, row.error_code) == ("failed", "interrupted")
    assert text()
    again = stocked.wait_for_end(stocked.submit_spec("compare", question(4), "chat"), seconds=30)
    assert again.state == "succeeded", again.error_text
