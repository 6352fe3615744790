"""Scenarios with tenants: what cannot be is one line that says where and what is valid; systems are changes."""

from pathlib import Path

import pytest

import aquasim
from aquasim.errors import UserError
from aquasim.scenario import ServerScenario, load_scenario
from aquasim.scenario.server import merged
from aquasim.sim.tenants.plan import SystemPlan

FILE = """\
question = "Who lends?"
duration_s = 5

[machine]
server = "8xH100"

[tenants.chat]
kind = "llm"
gpus = [0]
host_gib = 4
peer_gib = 4
model.name = "Llama-3.1-8B"
engine = { kv_blocks = 600, max_model_len = 2048 }
policy = "cfs"
tiers = ["peer", "host"]

[tenants.chat.workload]
requests = 20
arrivals = { kind = "poisson", rate = 4 }
prompt = { kind = "fixed", tokens = 100 }
output = { kind = "fixed", tokens = 40 }

[tenants.sd]
kind = "batch"
gpu = 1
model = "sd"
batch = 16

[tenants.small]
kind = "llm"
gpus = [2]
model.name = "Mistral-7B"
lends = { retain_gib = 20 }
engine = { max_model_len = 4096 }

[tenants.small.workload]
requests = 5
arrivals = { kind = "poisson", rate = 1 }
prompt = { kind = "fixed", tokens = 100 }
output = { kind = "fixed", tokens = 40 }

[pairs]
chat = ["sd"]

[systems.host]
leases.protocol = "none"
tenants.chat.tiers = ["host"]

[systems.peer]

[systems.small]
pairs.chat = ["small"]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Write a small scenario."""
    path = tmp_path / "mine.toml"
    path.write_text(FILE)
    return path


def complaint(file: Path, system: str, *changes: str) -> str:
    """Return what running a system complains of."""
    with pytest.raises(UserError) as caught:
        aquasim.simulate(file, system, changes=changes)
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(str(file), "mine.toml")


def test_every_system_runs(file: Path) -> None:
    """A system is the scenario with its changes; requests, batches and tables are there."""
    for system in ("host", "peer", "small"):
        run = aquasim.simulate(file, system)
        assert run.only("chat").summary()["requests_done"] == 20
        assert run.only("sd").count("work") >= 1
        assert set(run.summary()["tenants"]) == {"chat", "sd", "small"}
    assert not len(aquasim.simulate(file, "host").leases)


def test_changes_merge_table_by_table() -> None:
    """Tables are merged, values and lists replaced, neither argument touched."""
    base = {"a": {"x": 1, "y": [1, 2]}, "b": 3}
    changes = {"a": {"y": [3]}, "c": {"z": 1}}
    assert merged(base, changes) == {"a": {"x": 1, "y": [3]}, "b": 3, "c": {"z": 1}}
    assert base == {"a": {"x": 1, "y": [1, 2]}, "b": 3}
    assert changes == {"a": {"y": [3]}, "c": {"z": 1}}


def test_systems_share_their_workloads(file: Path) -> None:
    """The same requests under every system; tenants draw from streams of their own; a start shifts arrivals."""
    scenario = load_scenario(str(file))
    assert isinstance(scenario, ServerScenario)
    one, two = (SystemPlan.of(scenario, system).llms for system in ("host", "peer"))
    assert (one["chat"].workload.arrival == two["chat"].workload.arrival).all()
    late = SystemPlan.of(scenario, "host", {"tenants.chat.start_s": 2.0}).llms["chat"].workload
    assert (late.arrival == one["chat"].workload.arrival + 2 * 10**9).all()


@pytest.mark.parametrize(
    ("system", "changes", "text"),
    [
        ("what", (), "unknown system 'what'; the scenario has: host, peer, small"),
        ("peer", ("machine.server=9xH100",), "machine.server is '9xH100'; known: 8xH100"),
        ("peer", ("tenants.chat.model.name=Llama-9",), "unknown model 'Llama-9'"),
        ("peer", ("tenants.sd.model=sdxxl",), "unknown producer 'sdxxl'; nearest: sdxl"),
        ("peer", ("tenants.sd.gpu=0",), "GPU 0 is given to chat and sd; one tenant per GPU"),
        ("peer", ("tenants.sd.gpu=8",), "tenants.sd: there is no GPU 8; 8xH100 has 8"),
        ("peer", ("tenants.chat.gpus=[0,3]",), "tenants.chat.gpus names 2 GPUs, model.tp is 1; give one per rank"),
        ("peer", ('pairs.chat=["sdd"]',), "pairs: no tenant is called 'sdd'; there are: chat, sd, small"),
        ("peer", ('pairs.sd=["small"]',), "pairs.sd: sd is a batch producer, which borrows nothing"),
        ("peer", ("tenants.sd.lends=false",), "pairs.chat: sd does not lend (its key lends)"),
        (
            "small",
            ('pairs.small=["sd"]',),
            "pairs.small: small lends and borrows, which goes round in circles; take its key lends or the pair out",
        ),
        (
            "peer",
            ('pairs.chat=["sd", "small"]', "leases.protocol=faithful"),
            "pairs.chat: faithful, and AQUA's release knows one donor per consumer GPU",
        ),
        ("peer", ("tenants.sd.lend_gib=70",), "tenants.sd.lend_gib is 70, but sd at batch 16 leaves only"),
        (
            "small",
            ("tenants.small.lends.retain_gib=70",),
            "tenants.small.lends.retain_gib is 70, but its KV cache has 5",
        ),
        (
            "small",
            ("tenants.small.lends.retain_gib=0.2",),
            "tenants.small.engine.max_model_len is 4096, but with lends.retain_gib 0.2 only 1632 tokens",
        ),
        ("peer", ("tenants.chat.peer_gib=0",), "tenants.chat: tier 'peer' is used, but peer_gib is 0"),
        ("host", ("tenants.chat.host_gib=0",), "tenants.chat: tier 'host' is used, but host_gib is 0"),
        ("peer", ("tenants.chat.peer_gib=-1",), "--set tenants.chat.peer_gib=-1: tenants.chat.peer_gib is -1: input"),
        ("peer", ("tenants.chat.peer=1",), "--set tenants.chat.peer=1: unknown key 'tenants.chat.peer'"),
        ("peer", ("leases.pol_s=1",), "--set leases.pol_s=1: unknown key 'leases.pol_s'; did you mean 'poll_s'"),
        ("peer", ("leases.protocol=maybe",), "--set leases.protocol=maybe: leases.protocol is 'maybe': input should"),
        ("peer", ("tenants.x.kind=robot",), "--set tenants.x.kind=robot: tenants.x: input tag 'robot' found using"),
        ("peer", ('without=["chat", "sd", "small"]',), "systems.peer: without leaves no tenant"),
        ("peer", ("tenants.chat.policy=cfz",), "tenants.chat: unknown policy 'cfz'"),
        ("peer", ("tenants.chat.adapters.rank=8",), "tenants.chat.adapters: its workload asks for none"),
        (
            "peer",
            ("tenants.chat.adapters.rank=8", "tenants.chat.workload.adapters.count=4"),
            "pairs.chat: donors hold chat's adapters or its pages, not both; take one out",
        ),
        ("peer", ("machine.server=4xL40S", "tenants.chat.engine.kv_blocks=99999"), "tenants.chat.engine.kv_blocks"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_one_line(file: Path, system: str, changes: tuple[str, ...], text: str) -> None:
    """The line begins with the key or the change, says the value, and what is valid or there."""
    assert complaint(file, system, *changes).startswith(text)


def test_a_fault_within_a_system_names_its_line(file: Path) -> None:
    """A wrong key or value of a system: the file, the line it stands on, the key with the system's name."""
    file.write_text(FILE.replace('tenants.chat.tiers = ["host"]', 'tenants.chat.tiers = ["disk"]'))
    text = complaint(file, "host")
    line = FILE.splitlines().index('tenants.chat.tiers = ["host"]') + 1
    assert text.startswith(f"mine.toml:{line}: systems.host.tenants.chat.tiers.0 is 'disk'"), text
    file.write_text(FILE.replace('tenants.chat.tiers = ["host"]', 'tenants.chat.teirs = ["host"]'))
    assert "unknown key 'systems.host.tenants.chat.teirs'; did you mean 'tiers'?" in complaint(file, "host")


def test_pairs_need_a_peer_link(file: Path) -> None:
    """On pairs of GPUs with a bridge each, a donor of another pair is refused."""
    changes = ["machine.server=2xA100-pair", 'without=["small"]', "tenants.sd.gpu=1"]
    aquasim.simulate(file, "peer", changes=changes)
    text = complaint(file, "peer", *changes[:2], "tenants.chat.gpus=[1]", "tenants.sd.gpu=2")
    assert text == "tenants.sd: there is no GPU 2; 2xA100-pair has 2"
