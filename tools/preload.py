"""What a process of `tools.execute` has imported before it is forked."""

import importlib

from instruct_course.model.quantize import bitsandbytes

bitsandbytes()  # before peft imports it: lesson 06 says why

IMPORTED = (
    "IPython.core.interactiveshell",
    "datasets",
    "fastapi",
    "instruct_course.recipe",
    "ipywidgets",
    "matplotlib.pyplot",
    "matplotlib_inline.backend_inline",
    "openai",
    "peft",
    "sacrebleu",
    "scipy.stats",
    "torch.utils.flop_counter",
    "transformers.models.llama.modeling_llama",
)
for name in IMPORTED:
    importlib.import_module(name)
