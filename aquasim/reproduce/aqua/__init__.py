"""AQUA (ASPLOS 2025; arXiv 2407.21255), claim by claim."""

from aquasim.reproduce.aqua.ablation import Ablation
from aquasim.reproduce.aqua.elastic import ELASTIC
from aquasim.reproduce.aqua.links import Links
from aquasim.reproduce.aqua.longprompt import LONG_PROMPTS
from aquasim.reproduce.aqua.lora import Lora
from aquasim.reproduce.aqua.placement import Placement
from aquasim.reproduce.aqua.producers import Producers, Shared
from aquasim.reproduce.aqua.profiles import Profiles
from aquasim.reproduce.aqua.serving import BURSTS
from aquasim.reproduce.finding import Claim

TITLE = "AQUA: Network-Accelerated Memory Offloading for LLMs in Scale-Up GPU Domains (ASPLOS 2025)"
CLAIMS: dict[str, Claim] = {
    claim.key: claim
    for claim in (
        *BURSTS,
        *LONG_PROMPTS,
        Lora(),
        Producers(),
        *ELASTIC,
        Links(),
        Placement(),
        Profiles(),
        Shared(),
        Ablation(),
    )
}
"""Every claim by its key."""
