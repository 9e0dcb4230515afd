"""Text that a page proposes for a field: the browser takes it only while nobody has written there.

Free is a field that is empty, or that still has the proposal taken last.

What a handler returns for a field was decided when it was asked; on a slow browser somebody has typed
meanwhile. So a proposal goes to a component that nobody sees, and the browser itself decides.
"""

from typing import Any

import gradio as gr

_TAKE = """(offer, now) => {
  const taken = (window.labOffersTaken ??= {}), stands = (now ?? "").trim();
  const isFree = offer && (stands === "" || now === taken[FIELD] || offer.over.includes(now));
  if (!isFree) return {__type__: "update"};
  taken[FIELD] = offer.text;
  return offer.text !== now ? offer.text : {__type__: "update"};
}"""


class Offer:
    """Proposes text for one field.

    Args:
        field: a gr.Textbox.
    """

    def __init__(self, field: Any) -> None:
        self.field = field
        self.component = gr.JSON(visible=False)

    def after(self, event: Any) -> Any:
        """Let the browser decide when an event that returned a proposal has ended; return what follows on."""
        return event.then(
            None, [self.component, self.field], [self.field],
            js=_TAKE.replace("FIELD", str(self.field._id)), show_progress="hidden", queue=False,
        )  # fmt: skip


def offered(text: str | None, *over: str) -> dict[str, Any] | None:
    """Return what a handler sends to an offer's component.

    Args:
        text: the proposal; None for none, which must be sent too: a skip would repeat the last one.
        over: what else it may replace, such as the text that it was made from.
    """
    return None if text is None else {"text": text, "over": list(over)}
