"""The processor's energy counters, on a made-up computer whose files in powercap count what it is told to take."""

import re
from pathlib import Path

import pytest

from hwlimits import devices
from hwlimits.machine import power
from hwlimits.machine.power import NotMeasured


class Computer:
    """Files like those under /sys/class/powercap; `run` lets time pass at so many watts for each zone."""

    def __init__(self, root: Path, ranges_uj: dict[str, int], start_uj: int = 0):
        self.root, self.now_s, self.reads = root, 0.0, 0
        self.ranges, self.exact = ranges_uj, {}
        for i, (name, range_uj) in enumerate(ranges_uj.items()):
            kind = "intel-rapl:0:" if name in ("dram", "core") else "intel-rapl:"
            folder = root / f"{kind}{i}"
            folder.mkdir(parents=True)
            (folder / "name").write_text(f"{name}\n")
            (folder / "max_energy_range_uj").write_text(f"{range_uj}\n")
            self.exact[name] = (folder, float(start_uj))
        self.write()

    def write(self):
        for name, (folder, value) in self.exact.items():
            (folder / "energy_uj").write_text(f"{int(value) % self.ranges[name]}\n")

    def run(self, seconds, **watts):
        self.now_s += seconds
        for name, value in watts.items():
            name = name.replace("_", "-")
            folder, before = self.exact[name]
            self.exact[name] = (folder, before + value * seconds * 1e6)
        self.write()

    def clock(self):
        return self.now_s


LARGE = 262_143_328_850  # what an Intel package has


def measured(computer, fn, **options):
    idle = {"package_0": 10.0, "dram": 1.0} if "dram" in computer.exact else {"package_0": 10.0}
    return power.measure(
        fn, root=computer.root, clock=computer.clock, sleep=lambda s: computer.run(s, **idle), **options
    )


def test_a_call_of_known_power_and_time(tmp_path):
    """30 W in the package and 4 W in the memory for 10 ms: 0.34 J a call, of which 11 W are there when idle."""
    computer = Computer(tmp_path, {"package-0": LARGE, "dram": LARGE})
    found = measured(computer, lambda: computer.run(0.010, package_0=30, dram=4))
    assert found.counters == ("package-0", "dram")
    assert found.joules == pytest.approx(0.34, rel=1e-4)
    assert found.idle_w == pytest.approx(11, rel=1e-4)
    assert found.call_s == pytest.approx(0.010)
    assert found.above_idle_j == pytest.approx(0.34 - 0.11, rel=1e-3)
    assert not found.noisy
    assert re.match(
        r"0\.34 J a call \(IQR .*, n = 10\), 0\.23 J above idle at 11 W, from package-0 \+ dram", str(found)
    )


def test_parts_of_a_package_and_the_whole_platform_are_not_added(tmp_path):
    computer = Computer(tmp_path, {"package-0": LARGE, "core": LARGE, "psys": LARGE, "package-1": LARGE})
    found = measured(computer, lambda: computer.run(0.1, package_0=30, core=20, psys=90, package_1=5), repeats=3)
    assert found.counters == ("package-0", "package-1")
    assert found.joules == pytest.approx(3.5, rel=1e-4)


def test_the_same_packages_by_memory_mapped_registers_are_not_counted_twice(tmp_path):
    Computer(tmp_path, {"package-0": LARGE})
    again = tmp_path / "intel-rapl-mmio:0"
    again.mkdir()
    for name, text in (("name", "package-0"), ("energy_uj", "5"), ("max_energy_range_uj", str(LARGE))):
        (again / name).write_text(text)
    assert [zone.folder.name for zone in power.zones(tmp_path)] == ["intel-rapl:0"]


def test_a_counter_that_starts_anew_is_followed(tmp_path):
    """2,400 J are the range: a counter 3 J before its end starts anew in the first window."""
    range_uj = 2_400_000_000
    computer = Computer(tmp_path, {"package-0": range_uj}, start_uj=range_uj - 3_000_000)
    found = measured(computer, lambda: computer.run(0.5, package_0=40), repeats=4)
    assert found.samples_j == pytest.approx([20, 20, 20, 20], rel=1e-6)


def test_between_two_readings_by_hand():
    zone = power.Zone("package-0", Path("x"), range_uj=1_000_000)
    assert zone.between_j(200_000, 700_000) == pytest.approx(0.5)
    assert zone.between_j(900_000, 100_000) == pytest.approx(0.2)
    assert zone.between_j(5, 5) == 0


def test_a_call_so_long_that_a_counter_may_have_started_anew_twice_is_refused(tmp_path):
    computer = Computer(tmp_path, {"package-0": 65_532_610_987})
    long_s = 65_532 / power.most_watts() * 1.1
    with pytest.raises(NotMeasured, match="a counter starts anew every .* s, and may have done so unseen"):
        measured(computer, lambda: computer.run(long_s, package_0=40), repeats=3)


def test_no_processor_of_the_registry_draws_half_of_what_a_counter_is_taken_to_see():
    cpus = [d for d in devices.devices() if d.kind.endswith("-cpu") and "power" in d.numbers]
    assert max(d.power_w for d in cpus) * 2 == power.most_watts()


def test_short_calls_fill_a_window_and_long_ones_are_done_once(tmp_path):
    computer = Computer(tmp_path, {"package-0": LARGE})
    calls = []
    measured(computer, lambda: (calls.append(1), computer.run(0.0625, package_0=20)), repeats=3, window_s=0.25)
    assert len(calls) == 1 + 3 * 4  # the first one warms up
    measured(computer, lambda: (calls.append(1), computer.run(1.0, package_0=20)), repeats=3, window_s=0.25)
    assert len(calls) == 1 + 3 * 4 + 1 + 3


def test_windows_that_differ_are_noisy(tmp_path):
    computer, watts = Computer(tmp_path, {"package-0": LARGE}), iter([20, 20, 90, 20, 90, 20, 90, 20, 90, 20, 90])
    found = measured(computer, lambda: computer.run(0.3, package_0=next(watts)))
    assert found.noisy
    assert "NOISY" in str(found)


class TestWhereItIsNotMeasured:
    def test_no_powercap(self, tmp_path):
        said = power.why_not_measured(tmp_path / "none")
        assert said.startswith("energy is not measured here: there is no ")
        assert "a virtual machine, a container, macOS and Windows show none" in said
        with pytest.raises(NotMeasured, match="there is no"):
            power.measure(lambda: None, root=tmp_path / "none")

    def test_no_counter(self, tmp_path):
        assert "has no counter of a package; it has no counter at all" in power.why_not_measured(tmp_path)
        Computer(tmp_path, {"psys": LARGE})
        assert "has no counter of a package; it has psys" in power.why_not_measured(tmp_path)

    def test_readable_by_root_alone(self, tmp_path, monkeypatch):
        """As root every file may be read, so the refusal is planted."""
        Computer(tmp_path, {"package-0": LARGE})
        read = Path.read_text

        def guarded(path, *given, **named):
            if path.name == "energy_uj":
                raise PermissionError(13, "Permission denied")
            return read(path, *given, **named)

        monkeypatch.setattr(Path, "read_text", guarded)
        said = power.why_not_measured(tmp_path)
        assert "may be read by root alone" in said
        assert said.endswith("sudo chmod -R a+r /sys/class/powercap")

    def test_what_is_no_number(self, tmp_path):
        Computer(tmp_path, {"package-0": LARGE})
        (tmp_path / "intel-rapl:0" / "energy_uj").write_text("")
        assert "can't be read as a number" in power.why_not_measured(tmp_path)

    def test_where_it_is_there_is_nothing_to_say(self, tmp_path):
        computer = Computer(tmp_path, {"package-0": LARGE})
        assert power.why_not_measured(tmp_path, sleep=lambda s: computer.run(s, package_0=2)) == ""

    def test_counters_that_stand_still_are_no_measurement(self, tmp_path):
        """Some virtual machines have the files, and nothing counts in them: 0 J would be a lie."""
        computer = Computer(tmp_path, {"package-0": LARGE, "dram": LARGE})
        said = power.why_not_measured(tmp_path, sleep=computer.run)
        assert said.startswith("energy is not measured here: the counters stand still (package-0 + dram)")
        with pytest.raises(NotMeasured, match=r"the counters stand still \(package-0 \+ dram\)"):
            power.measure(lambda: computer.run(0.1), root=tmp_path, clock=computer.clock, sleep=computer.run, repeats=3)

    def test_a_counter_without_a_name(self, tmp_path):
        Computer(tmp_path, {"package-0": LARGE})
        (tmp_path / "intel-rapl:0" / "name").unlink()
        said = power.why_not_measured(tmp_path)
        assert said.startswith("energy is not measured here: ")
        assert "intel-rapl:0/name can't be read" in said

    def test_the_work_is_not_done_if_it_can_not_be_measured(self, tmp_path):
        done = []
        with pytest.raises(NotMeasured):
            power.measure(lambda: done.append(1), root=tmp_path)
        assert not done

    def test_too_few_windows(self, tmp_path):
        for repeats in (2, 3.5, "3", True, None):
            with pytest.raises(
                ValueError, match=re.escape(f"measure(repeats={repeats!r}): ask for at least 3 windows")
            ):
                power.measure(lambda: None, repeats=repeats, root=tmp_path)

    @pytest.mark.parametrize("window_s", [0, -1.0, float("nan"), float("inf"), "1", True])
    def test_windows_without_an_end(self, tmp_path, window_s):
        Computer(tmp_path, {"package-0": LARGE})
        with pytest.raises(ValueError, match=re.escape(f"measure(window_s={window_s!r}): must be a number above 0")):
            power.measure(lambda: None, window_s=window_s, root=tmp_path, clock=iter(range(9)).__next__)


def test_this_computer_says_one_or_the_other():
    """Live, on whatever this is: a reading above 0, or a sentence."""
    why = power.why_not_measured()
    if why:
        assert why.startswith("energy is not measured here: ")
    else:
        assert power.measure(lambda: sum(range(100_000)), repeats=3, window_s=0.05).joules > 0
