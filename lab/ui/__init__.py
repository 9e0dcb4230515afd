"""The ui room."""

import lab.ui.quickstart  # noqa: F401  before anything here imports Gradio
