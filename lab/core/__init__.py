"""What every other room stands on: errors, settings, registry, specs, events and the store.

Imports no torch, no gradio and no huey.
"""
