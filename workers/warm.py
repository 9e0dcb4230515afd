"""What the fork server imports once, so that every child has it from its first moment.

Importing this module is its work. Nothing here may touch CUDA: children could not use it after a fork.
"""

# ruff: noqa: E402  one library must be told to be quiet before it is imported

import gc
import logging

# Its hint to install a faster kernel is for developers; it would appear where the lab is started.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

import peft
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer

import lab.jobs
import workers.child

__all__ = [
    "AutoModelForCausalLM",
    "AutoTokenizer",
    "Trainer",
    "lab",
    "peft",
    "torch",
    "transformers",
    "workers",
]

gc.collect()
gc.freeze()  # children share these objects' pages: their collectors leave them alone
