"""Checkpoints of the models in modeling_listed.py, saved with their code."""

import sys

import torch
from transformers import dynamic_module_utils

from moemui.models import synthetic

from .configuration_listed import ListedConfig
from .modeling_listed import ListedForCausalLM


def save(folder, **changes):
    """A folder with configuration, code, weights and tokenizer; returns it. changes: of the configuration."""
    torch.manual_seed(3)
    ListedConfig.register_for_auto_class()
    ListedForCausalLM.register_for_auto_class("AutoModelForCausalLM")
    ListedForCausalLM(ListedConfig(**changes)).save_pretrained(folder)
    synthetic.build_tokenizer().save_pretrained(folder)
    return folder


def keep_code_in(cache, patch):
    """Until `patch` is undone, code that checkpoints bring is copied to the folder `cache`, not to the user's cache."""
    patch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(cache))
    patch.setattr(sys, "path", list(sys.path))
    for name in [name for name in sys.modules if name.split(".")[0] == "transformers_modules"]:
        patch.delitem(sys.modules, name)
