"""LoRA adapters on the runner: kept in AQUA tensors, brought to a few slots, mixed freely within a batch.

layout = LoraLayout(config, rank=16)
slots = LoraSlots(layout, count=4)
home = PeerHome(pool, layout, torch.float32)          # or HostHome, FileHome
home.add(read_adapter("my-adapter", config))
executor = Executor(scheduler, Runner(config, weights, kv, loras=slots))
executor.loras = LoraCache(slots, home, home.kept)
executor.submit(1, prompt, max_tokens=64, adapter="my-adapter")
"""

from aquasim.runtime.lora.adapter import Adapter, pack, random_adapter, read_adapter
from aquasim.runtime.lora.cache import Loaded, LoraCache
from aquasim.runtime.lora.homes import FileHome, Home, HostHome, PeerHome
from aquasim.runtime.lora.layout import TARGETS, LoraLayout
from aquasim.runtime.lora.slots import LoraSlots

__all__ = [
    "TARGETS",
    "Adapter",
    "FileHome",
    "Home",
    "HostHome",
    "Loaded",
    "LoraCache",
    "LoraLayout",
    "LoraSlots",
    "PeerHome",
    "pack",
    "random_adapter",
    "read_adapter",
]
