"""All-reduce as formulas, as schedules, and between real processes whose bytes are counted."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import psutil
import pytest

from hwlimits import collectives
from hwlimits.bandwidth import BandwidthError, LinkModel
from hwlimits.collectives import ALGORITHMS, Cost, cost, crossovers, cuts, fastest, lower_bound, schedule
from hwlimits.machine import allreduce, allreduce_worker
from hwlimits.machine.allreduce import Group, GroupError

each_algorithm = pytest.mark.parametrize("algorithm", ALGORITHMS)

# schedules and formulas


@each_algorithm
def test_every_process_ends_with_the_sum(algorithm):
    for p in range(1, 18):
        for n in (1, 2, 3, 7, 16, 37):
            arrays = np.random.default_rng(p).integers(-9, 10, (p, n))
            after = schedule(algorithm, p, n).simulate(arrays)
            np.testing.assert_array_equal(after, np.broadcast_to(arrays.sum(axis=0), (p, n)))


@each_algorithm
def test_a_process_sends_and_receives_one_message_in_a_step(algorithm):
    for p in range(2, 18):
        for step in schedule(algorithm, p, 23).steps():
            for side in ("source", "target"):
                places = [getattr(message, side) for message in step]
                assert len(set(places)) == len(places), (p, step)
            assert all(m.source != m.target and m.elements > 0 for m in step)


@each_algorithm
def test_the_formula_counts_what_the_schedule_has(algorithm):
    for p in range(1, 40):
        for n in (1, 2, 5, 8, 31, 64, 1000):
            assert cost(algorithm, p, n) == schedule(algorithm, p, n).cost(), (p, n)


# p = 8, n = 8000, from the cost terms of Thakur, Rabenseifner and Gropp 2005: alpha, n beta, n gamma
@pytest.mark.parametrize(
    ("algorithm", "steps", "critical", "added"),
    [
        ("ring", 2 * 7, 2 * 7 / 8, 7 / 8),  # 2 (p - 1), 2 (p - 1) / p, (p - 1) / p
        ("halving-doubling", 2 * 3, 2 * 7 / 8, 7 / 8),  # 2 lg p, 2 (p - 1) / p, (p - 1) / p
        ("recursive-doubling", 3, 3, 3),  # lg p, lg p, lg p
        ("tree", 2 * 3, 2 * 3, 3),  # reduce and broadcast along binomial trees: lg p of each, twice
        ("naive", 2 * 7, 2 * 7, 7),
    ],
)
def test_the_published_terms(algorithm, steps, critical, added):
    found = cost(algorithm, 8, 8000)
    assert (found.steps, found.critical, found.added) == (steps, critical * 8000, added * 8000)


def test_three_processes_and_seven_elements_by_hand():
    """Parts of the ring: 3, 2, 2. Process 0 sends parts 0 and 2, then 1 and 0; the others likewise."""
    assert cost("ring", 3, 7) == Cost(4, (3 + 2 + 2 + 3, 2 + 3 + 2 + 2, 2 + 2 + 3 + 2), 4 * 3, 2 * 3)
    # 0 gives its 7 to 1; 1 and 2 halve (4 | 3), 1 sending 3 and getting 4; and back; 1 gives 7 to 0
    assert cost("halving-doubling", 3, 7) == Cost(4, (7, 3 + 4 + 7, 4 + 3), 7 + 4 + 4 + 7, 7 + 4)
    assert cost("recursive-doubling", 3, 7) == Cost(3, (7, 7 + 7, 7), 3 * 7, 2 * 7)
    assert cost("tree", 3, 7) == Cost(4, (14, 7, 7), 4 * 7, 2 * 7)
    assert cost("naive", 3, 7) == Cost(4, (14, 7, 7), 4 * 7, 2 * 7)


def test_totals_over_all_processes():
    """Every algorithm but recursive doubling sends 2 (p - 1) n in all, as (p - 1) n have to be added and spread."""
    for p in (2, 3, 4, 5, 6, 7, 8, 12, 16):
        q = 2 ** int(np.log2(p))
        for n in (1, 7, 100):
            for algorithm in ("naive", "tree", "ring", "halving-doubling"):
                assert cost(algorithm, p, n).total == 2 * (p - 1) * n, (algorithm, p, n)
            assert cost("recursive-doubling", p, n).total == (q * int(np.log2(q)) + 2 * (p - q)) * n


def test_the_lower_bound_and_who_reaches_it():
    for p in (2, 3, 5, 8, 16):
        n = 16 * 15 * 7 * p
        factor = lower_bound(p, n) / n
        assert factor == pytest.approx({2: 1, 3: 4 / 3, 5: 8 / 5, 8: 7 / 4, 16: 15 / 8}[p]), "NCCL's factor"
        for algorithm in ALGORITHMS:
            assert max(cost(algorithm, p, n).sent) >= lower_bound(p, n) * (1 - 1e-12)
        assert set(cost("ring", p, n).sent) == {lower_bound(p, n)}
    assert set(cost("halving-doubling", 16, 1600).sent) == {lower_bound(16, 1600)}


def test_time_in_the_alpha_beta_gamma_model_by_hand():
    """Ring, 4 processes, 1000 float32: 6 steps of 20 us, 6 of 250 elements, 3 of them added."""
    link = LinkModel(20e-6, 1e9)
    found = cost("ring", 4, 1000).time_s(link, element_bytes=4, add_s_per_byte=1e-10)
    assert found == pytest.approx(6 * 20e-6 + 6 * 1000 / 1e9 + 3 * 1000 * 1e-10)
    assert cost("ring", 4, 1000).bytes_sent(2) == (3000,) * 4


def test_crossovers_are_where_two_costs_are_equal():
    """p = 8: 3 alpha + 3 x against 6 alpha + 7/4 x: x = 12/5 alpha / beta, in bytes."""
    link = LinkModel(1e-4, 1e9)
    (_, small), (at, large) = crossovers(8, link)
    assert (small, large) == ("recursive-doubling", "halving-doubling")
    assert at * 4 == pytest.approx(2.4 * 1e-4 * 1e9, rel=0.01)
    found = crossovers(6, link)
    assert found[-1][1] == "ring", "six are no power of two: halving pays for two processes too many"
    for (at, algorithm), before in zip(found[1:], found, strict=False):
        assert fastest(6, at, link)[0] == algorithm
        assert fastest(6, at - 1, link)[0] == before[1]


def test_the_fastest_is_the_least_of_all():
    link = LinkModel(5e-5, 1e8)
    for p in (2, 3, 8, 13):
        for n in (1, 10**3, 10**6):
            name, time_s = fastest(p, n, link)
            assert time_s == min(cost(a, p, n).time_s(link) for a in ALGORITHMS) == cost(name, p, n).time_s(link)


def test_on_shared_cores():
    """Enough cores and work that is half copying: the link bounds. One core: all work, one after the other."""
    link, work = LinkModel(5e-6, 1e9), LinkModel(2e-6, 2e9)
    plan = schedule("ring", 4, 1000)
    many = collectives.time_on_cores_s(plan, link, work, cores=16)
    assert many == pytest.approx(plan.cost().time_s(link))
    one = collectives.time_on_cores_s(plan, link, work, cores=1)
    assert one == pytest.approx(6 * 4 * (2e-6 + 1000 / 2e9)), "6 steps of 4 messages"
    busy = collectives.time_on_cores_s(plan, LinkModel(0, 1e12), work, cores=16)
    assert busy == pytest.approx(6 * (2e-6 + 1000 / 2e9)), "half of a message sent and half of one received"
    adding = collectives.time_on_cores_s(plan, link, work, cores=1, add_s_per_byte=1e-9)
    assert adding - one == pytest.approx(3 * 4 * 1000 * 1e-9)


def test_cuts_are_even():
    for n in range(1, 30):
        for p in range(1, 12):
            sizes = np.diff(cuts(n, p))
            assert [len(part) for part in np.array_split(np.arange(n), p)] == sizes.tolist()


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        (("butterfly", 2, 2), "algorithm 'butterfly' is not one of naive, tree, recursive-doubling, halving-doubling"),
        (("ring", 0, 2), r"all-reduce\(processes=0\): must be a whole number, at least 1"),
        (("ring", 2, 0), r"all-reduce\(elements=0\): must be a whole number, at least 1"),
        (("ring", 2, 1.5), r"all-reduce\(elements=1.5\)"),
    ],
)
def test_what_can_t_be_asked(asked, text):
    for function in (schedule, cost):
        with pytest.raises(BandwidthError, match=text):
            function(*asked)


def test_arrays_of_another_shape_are_refused():
    with pytest.raises(BandwidthError, match=r"shape \(3, 5\); this schedule is for 3 processes with 4 elements"):
        schedule("ring", 3, 4).simulate(np.zeros((3, 5)))


# between real processes


def rounds_needed(run):
    """How many rounds the logs of the processes take if a message is sent and received in one round.

    Each process does its own exchanges in order; both ends of the k-th message between two processes
    fall into one round. No step's number is looked at.
    """
    ends = {}
    for rank, entries in enumerate(run.rounds):
        for place, (_, to, _, source, _) in enumerate(entries):
            if to is not None:
                ends.setdefault((rank, to, "sent"), []).append((rank, place))
            if source is not None:
                ends.setdefault((source, rank, "got"), []).append((rank, place))
    linked = []
    for (source, target, which), places in ends.items():
        if which == "sent":
            linked += zip(places, ends[source, target, "got"], strict=True)
    at = {(rank, place): place for rank, entries in enumerate(run.rounds) for place in range(len(entries))}
    changed = True
    while changed:
        changed = False
        for a, b in linked:
            if at[a] != at[b]:
                at[a] = at[b] = max(at[a], at[b])
                changed = True
        for rank, place in sorted(at):
            if place and at[rank, place] <= at[rank, place - 1]:
                at[rank, place] = at[rank, place - 1] + 1
                changed = True
    return max(at.values(), default=-1) + 1


@pytest.mark.parametrize("p", [2, 3, 4, 5, 8])
def test_bytes_and_steps_counted_are_those_predicted(p):
    """Exactly: by each process's calls, and by the system where it tells. The group itself checks the sum."""
    with Group(p) as group:
        for n in (1, 7, 1000, 2**16 + 1):
            for algorithm in ALGORITHMS:
                run, predicted = group.all_reduce(algorithm, n, repeats=1), cost(algorithm, p, n)
                pairs = {pair: 4 * sent for pair, sent in sorted(schedule(algorithm, p, n).pairs().items())}
                assert run.steps == rounds_needed(run) == predicted.steps, (algorithm, n)
                assert run.sent_bytes == predicted.bytes_sent(4), (algorithm, n)
                assert sum(run.received_bytes) == sum(run.sent_bytes)
                assert run.pairs == pairs
                if sys.platform.startswith("linux"):
                    assert run.system_pairs == pairs
                assert run.time_s > 0
                assert run.cpu_s > 0
        assert group.all_reduce("ring", 40, seed=1, repeats=2).times_s != ()


def test_one_process_alone_has_its_sum():
    with Group(1) as group:
        run = group.all_reduce("ring", 10)
        assert (run.steps, run.sent_bytes, run.pairs) == (0, (0,), {})
        with pytest.raises(BandwidthError, match=r"Group.messages\(processes=1\)"):
            group.messages([1])


def test_messages_between_two_processes_and_their_fit():
    sizes = [1, 100, 10_000, 1_000_000, 8_000_001]
    with Group(2) as group:
        found = group.messages(sizes, repeats=3)
        assert found.sizes_bytes == tuple(sizes)
        assert [len(times) for times in found.times_s] == [3] * 5
        assert found.medians_s()[-1] > 5 * found.medians_s()[0]
        assert all(seconds > 0 for seconds in found.cpu_s)
        link = found.link().link
        assert 1e-7 < link.latency_s < 0.05
        assert 1e6 < link.bytes_per_s < 1e12
        with pytest.raises(BandwidthError, match=r"Group.messages\(size=0\)"):
            group.messages([0])


def gone(pids):
    """True when none of these processes is there any more, within some seconds."""
    end_s = time.monotonic() + 10
    while any(map(psutil.pid_exists, pids)) and time.monotonic() < end_s:
        time.sleep(0.05)
    return not any(map(psutil.pid_exists, pids))


def go_on(group):
    """All-reduces without an end."""
    while True:
        group.all_reduce("ring", 2**20)


def test_a_killed_process_is_named_and_all_are_ended():
    with Group(3) as group:
        pids = group.pids
        os.kill(pids[1], signal.SIGKILL)
        with pytest.raises(GroupError, match="^all-reduce: process 1 of 3 ended with status -9.$"):
            group.all_reduce("ring", 1000)
        assert gone(pids)
        with pytest.raises(GroupError, match="this group of 3 processes has ended: process 1 of 3 .* Make a new one"):
            group.all_reduce("ring", 1000)


def test_a_process_killed_at_work_is_named():
    """The others lose their connection, and say so; the error is about the one that caused it."""
    with Group(3) as group:
        pids = group.pids
        killer = threading.Timer(0.6, os.kill, (pids[2], signal.SIGKILL))
        killer.start()
        with pytest.raises(GroupError, match="^all-reduce: process 2 of 3 ended with status -9.$"):
            go_on(group)
        killer.join()
        assert gone(pids)


@pytest.mark.parametrize("algorithm", ["ring", "tree"])
def test_a_process_that_hangs_is_named_in_time(algorithm):
    with Group(3, timeout_s=0.5) as group:
        pids = group.pids
        os.kill(pids[1], signal.SIGSTOP)
        begun = time.monotonic()
        with pytest.raises(GroupError, match=r"^all-reduce: process 1 of 3 moved nothing for 0.5 s; all were ended.$"):
            group.all_reduce(algorithm, 1000)
        assert time.monotonic() - begun < 10
        assert gone(pids)


def test_a_process_that_hangs_at_work_is_named_by_those_that_wait():
    with Group(3, timeout_s=0.5) as group:
        pids = group.pids
        stopper = threading.Timer(0.6, os.kill, (pids[1], signal.SIGSTOP))
        stopper.start()
        with pytest.raises(GroupError, match=r"^all-reduce: process 1 of 3 moved nothing for 0.5 s; all were ended.$"):
            go_on(group)
        stopper.join()
        assert gone(pids)


def test_a_group_that_is_left_ends_its_processes():
    with contextlib.suppress(KeyError), Group(2) as group:
        pids = group.pids
        raise KeyError
    assert gone(pids)
    with pytest.raises(GroupError, match="it was closed"):
        group.all_reduce("ring", 1)


def test_processes_end_when_their_owner_is_killed():
    """Also in the middle of an all-reduce, and without being told."""
    program = textwrap.dedent("""
        from hwlimits.machine.allreduce import Group
        with Group(3) as group:
            print(*group.pids, flush=True)
            while True:
                group.all_reduce("ring", 2**20)
    """)
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as owner:
        pids = [int(pid) for pid in owner.stdout.readline().split()]
        time.sleep(0.5)
        owner.kill()
    assert len(pids) == 3
    assert gone(pids)


def test_processes_that_wait_for_one_that_hangs_end_when_their_owner_is_killed():
    """Not only after the time that they would wait for it."""
    program = textwrap.dedent("""
        import os, signal, threading
        from hwlimits.machine.allreduce import Group
        with Group(3, timeout_s=60) as group:
            threading.Timer(0.5, os.kill, (group.pids[1], signal.SIGSTOP)).start()
            print(*group.pids, flush=True)
            group.all_reduce("ring", 1000, repeats=10**6)  # small ones: nearly all of the time is exchange
    """)
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as owner:
        pids = [int(pid) for pid in owner.stdout.readline().split()]
        time.sleep(1.5)
        owner.kill()
    try:
        assert gone([pids[0], pids[2]])
    finally:
        os.kill(pids[1], signal.SIGKILL)  # it stands still, and notices nothing


def planted(monkeypatch, folder, program):
    """Every Python that is started runs this first."""
    (folder / "sitecustomize.py").write_text(textwrap.dedent(program))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]))


def test_a_wrong_sum_is_no_result(monkeypatch, tmp_path):
    """A planted fault: in process 1 only, what comes is put where it should be added."""
    fault = """
        import sys
        if sys.argv[0] == "-m" and "1" in sys.orig_argv[3:4]:
            import numpy as np
            np.add = lambda a, b, out: out
    """
    planted(monkeypatch, tmp_path, fault)
    with Group(2) as group:
        pids = group.pids
        with pytest.raises(GroupError, match="^all-reduce: process 1 of 2 ended with a sum that is wrong.$"):
            group.all_reduce("recursive-doubling", 100)
        assert gone(pids)


def test_a_process_that_can_t_start_says_why(monkeypatch, tmp_path):
    planted(monkeypatch, tmp_path, "import sys\nif sys.argv[0] == '-m': sys.exit('no numbers here')")
    with pytest.raises(
        GroupError, match=r"^all-reduce: process \d of 2 ended with status 1: SystemExit: no numbers here.$"
    ):
        Group(2)


def test_processes_that_do_not_connect_are_an_error_in_time(monkeypatch, tmp_path):
    planted(monkeypatch, tmp_path, "import sys, time\nif sys.argv[0] == '-m': time.sleep(60)")
    monkeypatch.setattr(allreduce, "CONNECT_S", 0.5)
    with pytest.raises(GroupError, match=r"processes 0, 1 of 2 had not connected after 0.5 s"):
        Group(2)


@pytest.mark.parametrize("said", [b"", b"x", bytes(allreduce_worker.TOKEN_BYTES + 4)], ids=["nothing", "a byte", "all"])
def test_a_stranger_who_connects_first_is_sent_away(monkeypatch, said):
    monkeypatch.setattr(allreduce_worker, "TOKEN_WITHIN_S", 0.3)
    strangers = []
    popen = subprocess.Popen

    def connect_first(command, **options):
        if not strangers:
            strangers.append(socket.create_connection(("127.0.0.1", int(command[-2]))))
            strangers[0].sendall(said)
        return popen(command, **options)

    monkeypatch.setattr(allreduce.subprocess, "Popen", connect_first)
    with Group(2) as group:
        assert group.all_reduce("ring", 5).sent_bytes == (20, 20)
        with strangers[0] as stranger:
            stranger.settimeout(5)
            with contextlib.suppress(ConnectionResetError):
                assert stranger.recv(1) == b"", "nothing was said to it"


def test_an_unknown_algorithm_runs_nothing():
    with Group(2) as group:
        with pytest.raises(BandwidthError, match="'star' is not one of"):
            group.all_reduce("star", 10)
        assert group.all_reduce("tree", 10).sent_bytes == (40, 40), "and the group goes on"
    for bad in (0, 1.5):
        with pytest.raises(BandwidthError, match=r"Group\(processes="):
            Group(bad)
