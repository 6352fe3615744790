"""Exact command logs of cases small enough to work out by hand: blocks of 4 tokens, one iteration per unit of time.

How to read a line: see `player`.
"""

import pytest
from player import Jobs, Player, limits

from aquasim.core import TierResized, Transfer, make_policy

TWO: Jobs = [(0, 7, 5), (0, 7, 5)]
"""Two prompts of two blocks: both fit in 4 blocks until each wants a third block for its 9th token."""


def test_fcfs_preempts_the_last_and_recomputes_it() -> None:
    """The later request loses everything at its 9th token, waits for the first to end, and prefills 9 tokens."""
    assert Player(limits(), make_policy("fcfs"), TWO).play() == [
        "0: step0 0[0:7]! 1[0:7]!",
        "1: step1 decode 2@14 +0 +1",
        "2: step2 decode 1@8 -1 x 1",
        "3: step3 decode 1@9",
        "4: step4 decode 1@10",
        "5: step5 1[0:9]!",
        "6: step6 decode 1@9 +1",
        "7: step7 decode 1@10",
    ]


def test_fcfs_swap_pages_the_last_out_whole_and_back_whole() -> None:
    """The preempted request moves out and, when the first has ended, back: two blocks each way, no recompute."""
    player = Player(limits(tiers=(("host", 20),)), make_policy("fcfs-swap"), TWO)
    assert player.play() == [
        "0: step0 0[0:7]! 1[0:7]!",
        "1: step1 decode 2@14 +0 +1",
        "2: t0 out host 1:2",
        "2: step2 decode 1@8 -1 after 0 x 1",
        "3: step3 decode 1@9",
        "4: step4 decode 1@10",
        "5: t1 in host 1:2",
        "6: step5 decode 1@8 +1",
        "7: step6 decode 1@9",
        "8: step7 decode 1@10",
    ]
    assert player.scheduler.pager.tiers["host"].free == 20


def test_cfs_pages_new_and_dirty_blocks_out_and_all_blocks_in() -> None:
    """Slices of 2 between two requests of which one fits.

    The first trips move all 2 and 3 blocks. Later ones only what is new since the copy and the last block if it
    was partial: request 1 (copy of 8 tokens, 10 computed) block 3; request 0 (copy of 9, 11 computed) its
    partial block 3; at last (11, 13 computed) block 3 again and block 4. Every page-in moves the whole context.
    Out before in, and the step after both.
    """
    player = Player(limits(tiers=(("host", 20),)), make_policy("cfs", slice_length=2), [(0, 7, 8), (0, 7, 8)])
    assert player.play() == [
        "0: step0 0[0:7]! 1[0:7]!",
        "1: step1 decode 2@14 +0 +1",
        "2: t0 out host 1:2",
        "2: step2 decode 1@8 -1 after 0 x 1",
        "3: t1 out host 0:3",
        "3: t2 in host 1:2 after 1",
        "3: step3 decode 1@8 +1 -0 after 1,2 x 0",
        "4: step4 decode 1@9",
        "5: t3 out host 1:1",
        "5: t4 in host 0:3 after 3",
        "5: step5 decode 1@9 +0 -1 after 3,4 x 1",
        "6: step6 decode 1@10",
        "7: t5 out host 0:1",
        "7: t6 in host 1:3 after 5",
        "7: step7 decode 1@10 +1 -0 after 5,6 x 0",
        "8: step8 decode 1@11",
        "9: t7 out host 1:1",
        "9: t8 in host 0:3 after 7",
        "9: step9 decode 1@11 +0 -1 after 7,8 x 1",
        "10: step10 decode 1@12",
        "11: t9 out host 0:2",
        "11: t10 in host 1:3 after 9",
        "11: step11 decode 1@12 +1 -0 after 9,10 x 0",
        "12: step12 decode 1@13",
        "13: t11 in host 0:4",
        "13: step13 decode 1@13 +0 after 11",
    ]
    assert player.scheduler.pager.tiers["host"].held == 0


def test_without_room_in_a_tier_pages_are_recomputed() -> None:
    """A host of 2 blocks holds one copy of 2: whoever needs more is dropped and prefills all it knows."""
    player = Player(limits(tiers=(("host", 2),)), make_policy("cfs", slice_length=2), TWO)
    assert player.play() == [
        "0: step0 0[0:7]! 1[0:7]!",
        "1: step1 decode 2@14 +0 +1",
        "2: t0 out host 1:2",
        "2: step2 decode 1@8 -1 after 0 x 1",
        "3: t1 in host 1:2",
        "3: step3 decode 1@8 +1 -0 after 1 x 0",
        "4: step4 decode 1@9",
        "5: step5 -1 0[0:10]! x 1",
        "6: step6 decode 1@10 +0",
        "7: step7 1[0:11]!",
    ]


def test_prompt_only_iterations_prefill_before_any_decode() -> None:
    """A running request pauses while newcomers prefill together; then all decode."""
    jobs = [(0, 4, 4), (1, 4, 3), (1, 8, 3)]
    player = Player(limits(blocks=10, prefill="prompt-only"), make_policy("fcfs-v0"), jobs)
    assert player.play() == [
        "0: step0 0[0:4]!",
        "1: step1 +0 1[0:4]! 2[0:8]!",
        "2: step2 decode 3@16 +1 +2",
        "3: step3 decode 3@19",
        "4: step4 decode 1@6",
    ]


def test_chunks_share_the_budget_with_decodes() -> None:
    """Of 6 tokens an iteration, one decodes and 5 prefill: a prompt of 10 takes two iterations, the last samples."""
    player = Player(limits(blocks=10, max_num_batched_tokens=6), make_policy("fcfs"), [(0, 4, 4), (1, 10, 2)])
    assert player.play() == [
        "0: step0 0[0:4]!",
        "1: step1 decode 1@4 +0 1[0:5]",
        "2: step2 decode 1@5 1[5:10]!",
        "3: step3 decode 2@16 +1",
    ]


def test_a_shrinking_tier_migrates_its_pages_and_is_released() -> None:
    """The peer calls its memory back: the copy moves to the host, then the peer is free."""
    tiers = (("peer", 8), ("host", 8))
    player = Player(limits(tiers=tiers), make_policy("cfs", slice_length=2), [(0, 7, 8), (0, 7, 8)])
    assert player.play({3: TierResized("peer", 0)}, until=6) == [
        "0: step0 0[0:7]! 1[0:7]!",
        "1: step1 decode 2@14 +0 +1",
        "2: t0 out peer 1:2",
        "2: step2 decode 1@8 -1 after 0 x 1",
        "3: t1 migrate peer->host 1:2",
        "3: step3 decode 1@9",
        "4: released peer 0",
        "4: step4 decode 1@10",
        "5: t2 out host 0:3",
        "5: t3 in host 1:2 after 2",
        "5: step5 decode 1@8 +1 -0 after 2,3 x 0",
    ]


def test_a_tier_that_shrinks_to_what_is_spare_drops_copies_without_moving() -> None:
    """Copies of resident requests are spare: dropping one makes room at once, and its next page-out moves all."""
    tiers = (("peer", 8), ("host", 8))
    player = Player(limits(tiers=tiers), make_policy("cfs", slice_length=2), [(0, 7, 8), (0, 7, 8)])
    log = player.play({4: TierResized("peer", 3)}, until=6)
    assert log[-5:] == [
        "4: released peer 3",
        "4: step4 decode 1@9",
        "5: t3 out host 1:3",
        "5: t4 in peer 0:3 after 3",
        "5: step5 decode 1@9 +0 -1 after 3,4 x 1",
    ]


def test_a_growing_tier_draws_copies_up_one_at_a_time() -> None:
    """The peer comes back while two copies are on the host: they move up one after the other, none that returns."""
    jobs = [(0, 7, 8), (0, 7, 8), (0, 7, 8)]
    tiers = (("peer", 0), ("host", 8))
    player = Player(limits(blocks=4, tiers=tiers), make_policy("cfs", slice_length=4), jobs)
    log = player.play({6: TierResized("peer", 8)}, until=12)
    assert [entry for entry in log if " t" in entry] == [
        "1: t0 out host 0:2",
        "2: t1 out host 1:2",
        "5: t2 out host 2:3",
        "5: t3 in host 0:2 after 2",
        "6: t4 migrate host->peer 1:2",
        "7: t5 migrate host->peer 2:3",
        "9: t6 out host 0:2",
        "9: t7 in peer 1:2 after 6",
        "10: t8 migrate host->peer 0:3",
    ]


def test_lent_hbm_leaves_when_it_is_free_and_comes_back() -> None:
    """The pool shrinks to 3 of 6 blocks: nobody starts, who grows last is dropped, and it is reported when true."""
    player = Player(
        limits(blocks=6, max_model_len=12), make_policy("fcfs"), [(0, 7, 5), (0, 7, 3), (3, 4, 2)]
    )
    assert player.play({2: TierResized("hbm", 3), 7: TierResized("hbm", 6)}) == [
        "0: step0 0[0:7]! 1[0:7]!",
        "1: step1 decode 2@14 +0 +1",
        "2: step2 decode 1@8 -1 x 1",
        "3: released hbm 3",
        "3: step3 decode 1@9",
        "4: step4 decode 1@10",
        "5: step5 1[0:9]!",
        "6: step6 2[0:4]!",
        "7: released hbm 6",
        "7: step7 decode 1@4 +2",
    ]


@pytest.mark.parametrize(
    ("prompt", "output", "reason"),
    [
        (16, 1, "prompt of 16 tokens does not fit max_model_len 16"),
        (0, 1, "a request needs at least 1 prompt and 1 output token, not 0 and 1"),
    ],
)
def test_what_cannot_run_is_rejected_at_once(prompt: int, output: int, reason: str) -> None:
    """A prompt that leaves no room for one token, or no prompt at all, is refused with its reason."""
    assert Player(limits(), make_policy("fcfs"), [(0, prompt, output)]).play() == [f"0: reject 0: {reason}"]


@pytest.mark.parametrize(
    ("policy", "options", "jobs", "expected"),
    [
        ("fcfs", {}, [(0, 7, 9)], "1: step1 decode 1@7 x9 +0"),
        ("fcfs", {}, TWO, "1: step1 decode 2@14 +0 +1"),
        ("fcfs", {}, [(0, 3, 9), (0, 3, 9)], "1: step1 decode 2@6 x5 +0 +1"),
        ("cfs", {"slice_length": 2}, [(0, 3, 9), (0, 3, 9), (0, 3, 9)], "1: step1 decode 3@9 +0 +1 +2"),
    ],
)
def test_a_step_repeats_until_blocks_run_out(
    policy: str, options: dict[str, int], jobs: Jobs, expected: str
) -> None:
    """Of 4 blocks: one sequence of 7 tokens grows to 16 in 9 iterations; two of 3 grow to 8 in 5; and so on."""
    player = Player(limits(max_repeat=1000), make_policy(policy, **options), jobs)
    assert player.play(until=2)[-1] == expected


def test_tracked_transfers_say_which_blocks_go_where() -> None:
    """Page-outs copy from the blocks held, page-ins back to others, migrations on; as many as the moves say."""
    tiers = (("peer", 8), ("host", 8))
    player = Player(limits(tiers=tiers), make_policy("cfs", slice_length=2), [(0, 7, 8), (0, 7, 8)])
    pager = player.scheduler.pager
    pager.track = True
    holding: dict[tuple[str, int], tuple[int, int]] = {}  # (tier, block): (request, place in its context)
    seen = set()
    for now in range(12):
        player._facts(now)
        if now == 3:
            player.scheduler.handle(now, TierResized("peer", 0))
        before = {id: list(request.blocks) for id, request in player.scheduler.requests.items()}
        for command in player.scheduler.plan(now):
            if isinstance(command, Transfer):
                flight = pager.flights[command.transfer]
                assert [len(source) for source, _ in flight.pages] == [move.blocks for move in command.moves]
                for move, (source, target) in zip(command.moves, flight.pages, strict=True):
                    assert len(set(target)) == len(target) == len(source)
                    follow(command, move.request, source, target, before, holding)
                seen.add(command.kind)
            player._take(command)
    assert seen == {"out", "in", "migrate"}


def follow(
    command: Transfer,
    request: int,
    source: tuple[int, ...],
    target: tuple[int, ...],
    before: dict[int, list[int]],
    holding: dict[tuple[str, int], tuple[int, int]],
) -> None:
    """Check that what is copied is the request's own, in order, and note where it is now."""
    if command.kind == "out":
        places = [(request, before[request].index(block)) for block in source]
    else:
        places = [holding[command.tier, block] for block in source]
        assert {owner for owner, _ in places} == {request}
    assert [place for _, place in places] == sorted(place for _, place in places)
    if command.kind != "in":
        tier = command.to or command.tier
        for block, place in zip(target, places, strict=True):
            holding[tier, block] = place
