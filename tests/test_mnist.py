"""The loader: where it looks, what it refuses, and that it never pretends."""

import functools
import hashlib
import http.server
import os
import re
import subprocess
import sys
import threading
import time
import zipfile

import numpy as np
import pytest

from hwlimits.training import mnist
from hwlimits.training.mnist import MnistError

SHAPES = {"x_train": (60, 28, 28), "y_train": (60,), "x_test": (10, 28, 28), "y_test": (10,)}


@pytest.fixture
def small(monkeypatch, tmp_path):
    """A 'full set' of 70 random images; returns its arrays. The environment names no file, the cache is empty."""
    rng = np.random.default_rng(0)
    arrays = {name: rng.integers(0, 10, shape).astype(np.uint8) for name, shape in SHAPES.items()}
    digest = hashlib.sha256(b"".join(a.tobytes() for a in arrays.values())).hexdigest()
    monkeypatch.setattr(mnist, "FULL_SHAPES", SHAPES)
    monkeypatch.setattr(mnist, "ARRAYS_SHA256", digest)
    monkeypatch.delenv("HWLIMITS_MNIST", raising=False)
    monkeypatch.setenv("HWLIMITS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(mnist, "MIRRORS", ("http://127.0.0.1:9/a.npz", "http://127.0.0.1:9/b.npz"))
    return arrays


@pytest.fixture
def mirror(tmp_path):
    """A server on loopback; returns its address and the folder it serves."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    handler.log_message = lambda *a: None
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", folder
    server.shutdown()
    server.server_close()


def cached(tmp_path):
    return [p for p in (tmp_path / "cache").rglob("*") if p.suffix != ".lock"]


def test_the_sample_is_split_four_to_one_the_same_way_each_time():
    first, again = mnist.load("mnist-5k"), mnist.load("mnist-5k")
    assert first.source == "mnist-5k"
    assert first.x_train.shape == (4000, 28, 28)
    assert (np.bincount(first.y_train) == 400).all()
    assert (np.bincount(first.y_test) == 100).all()
    assert np.array_equal(first.x_test, again.x_test)
    assert first.y_train[:12].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1], "any part of it has all digits"
    seen = {image.tobytes() for image in first.x_train}
    assert not any(image.tobytes() in seen for image in first.x_test)


def test_the_sample_is_part_of_the_training_images_of_mnist():
    if not os.environ.get("HWLIMITS_MNIST"):
        pytest.skip("HWLIMITS_MNIST is not set")
    full = mnist.load()
    assert full.source == "mnist"
    assert (len(full.x_train), len(full.x_test)) == (60_000, 10_000)
    label_of = {image.tobytes(): label for image, label in zip(full.x_train, full.y_train, strict=True)}
    sample = mnist.load("mnist-5k")
    assert [label_of[i.tobytes()] for i in sample.x_train] == list(sample.y_train)
    assert [label_of[i.tobytes()] for i in sample.x_test] == list(sample.y_test)


def test_the_file_that_the_variable_names_comes_first(small, tmp_path, monkeypatch):
    np.savez(tmp_path / "mine.npz", **small)
    monkeypatch.setenv("HWLIMITS_MNIST", str(tmp_path / "mine.npz"))
    found = mnist.load()
    assert found.source == "mnist"
    assert np.array_equal(found.x_test, small["x_test"])


def test_a_named_file_that_is_missing_is_an_error_not_a_substitute(small, monkeypatch):
    monkeypatch.setenv("HWLIMITS_MNIST", "/nowhere/mnist.npz")
    with pytest.raises(MnistError, match=r"HWLIMITS_MNIST names /nowhere/mnist.npz, and there is no such file"):
        mnist.load()


def test_offline_the_sample_is_used_and_said(small, tmp_path, capsys):
    assert mnist.load().source == "mnist-5k"
    said = capsys.readouterr().out
    assert said.count("MNIST: not from http://127.0.0.1:9/") == 2
    assert "using the 5,000 images that come with the course (source: mnist-5k)" in said
    assert cached(tmp_path) == []


def test_who_asks_for_all_of_mnist_gets_no_substitute(small):
    with pytest.raises(MnistError, match="all of MNIST was asked for, and no mirror gave it"):
        mnist.load("mnist")


def test_a_download_is_cached_and_not_repeated(small, mirror, tmp_path, monkeypatch):
    address, folder = mirror
    np.savez(folder / "mnist.npz", **small)
    monkeypatch.setattr(mnist, "MIRRORS", (f"{address}/missing.npz", f"{address}/mnist.npz"))
    assert mnist.load().source == "mnist"
    (folder / "mnist.npz").unlink()
    assert mnist.load().source == "mnist", "from the cache, the mirror being empty"
    assert [p.name for p in cached(tmp_path)] == ["mnist.npz"]


@pytest.mark.parametrize("content", [b"<html>please log in</html>", b"", b"PK\x03\x04 then nothing"])
def test_a_corrupt_download_is_refused_and_leaves_nothing_behind(small, mirror, tmp_path, monkeypatch, content):
    address, folder = mirror
    (folder / "mnist.npz").write_bytes(content)
    monkeypatch.setattr(mnist, "MIRRORS", (f"{address}/mnist.npz",))
    with pytest.raises(MnistError) as caught:
        mnist.load()
    message = str(caught.value)
    assert f"The download from {address}/mnist.npz is not MNIST; nothing was kept" in message
    assert mnist.ARRAYS_SHA256 in message
    assert hashlib.sha256(content).hexdigest() in message
    assert cached(tmp_path) == []


def test_a_corrupt_first_mirror_does_not_stop_the_second(small, mirror, monkeypatch):
    address, folder = mirror
    (folder / "bad.npz").write_bytes(b"nonsense")
    np.savez(folder / "good.npz", **small)
    monkeypatch.setattr(mnist, "MIRRORS", (f"{address}/bad.npz", f"{address}/good.npz"))
    assert mnist.load().source == "mnist"


def damage_truncated(path, arrays):
    np.savez(path, **arrays)
    path.write_bytes(path.read_bytes()[:-3000])


def damage_one_pixel(path, arrays):
    arrays = {name: array.copy() for name, array in arrays.items()}
    arrays["x_test"][3, 5, 5] ^= 1
    np.savez(path, **arrays)


def damage_bits(path, arrays):
    np.savez(path, **arrays)
    content = bytearray(path.read_bytes())
    content[2000] ^= 255
    path.write_bytes(content)


def damage_shape(path, arrays):
    np.savez(path, **{**arrays, "x_train": arrays["x_train"][:, :27]})


def damage_type(path, arrays):
    np.savez(path, **{**arrays, "x_train": arrays["x_train"].astype(np.float32)})


def damage_missing_array(path, arrays):
    np.savez(path, **{name: a for name, a in arrays.items() if name != "y_test"})


def damage_pickled(path, arrays):
    np.savez(path, **{**arrays, "y_test": np.array([print], dtype=object)})


def damage_header_larger_than_data(path, arrays):
    """An array that claims the right shape and holds less, in an archive that is whole."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w") as member:
                np.lib.format.write_array_header_1_0(
                    member, {"descr": "|u1", "fortran_order": False, "shape": array.shape}
                )
                member.write(array.tobytes()[:-1])


def damage_bomb(path, arrays):
    """An array that claims the right shape and holds a gigabyte of zeros."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("x_train.npy", "w") as member:
        np.lib.format.write_array_header_1_0(
            member, {"descr": "|u1", "fortran_order": False, "shape": SHAPES["x_train"]}
        )
        for _ in range(64):
            member.write(bytes(1 << 24))


def damage_bz2_bomb(path, arrays):
    """zipfile would unpack a gigabyte to give the first ten bytes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_BZIP2) as archive, archive.open("x_train.npy", "w") as member:
        for _ in range(32):
            member.write(bytes(1 << 24))


def damage_a_name(path, arrays):
    """zipfile quotes the name that it found: up to 64 kB of the file."""
    np.savez(path, **arrays)
    content = bytearray(path.read_bytes())
    content[27] ^= 0x80
    path.write_bytes(content)


DAMAGES = [value for name, value in sorted(globals().items()) if name.startswith("damage_")]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda d: d.__name__)
def test_a_damaged_file_is_named_with_both_digests_and_what_to_do(small, tmp_path, monkeypatch, damage):
    path = tmp_path / "mine.npz"
    damage(path, small)
    before = path.read_bytes() if path.stat().st_size < 1e6 else None
    monkeypatch.setenv("HWLIMITS_MNIST", str(path))
    start = time.perf_counter()
    with pytest.raises(MnistError) as caught:
        mnist.load()
    message = str(caught.value)
    assert str(path) in message
    assert mnist.ARRAYS_SHA256 in message, "the digest that was expected"
    digests = set(re.findall(r"\b[0-9a-f]{64}\b", message))
    assert len(digests) == 2, "and the one that was found"
    assert "Remove the file or fetch it again" in message
    assert len(message) < 1500
    assert "\n" not in message
    assert time.perf_counter() - start < 5
    assert before is None or path.read_bytes() == before, "the reader's own file is left alone"


@pytest.mark.parametrize("damage", DAMAGES[:3], ids=lambda d: d.__name__)
def test_a_damaged_cache_is_emptied(small, tmp_path, damage):
    (tmp_path / "cache").mkdir()
    damage(tmp_path / "cache" / "mnist.npz", small)
    with pytest.raises(MnistError, match="removed from the cache: run the same again"):
        mnist.load()
    assert cached(tmp_path) == []
    assert mnist.load().source == "mnist-5k"


def test_a_file_too_large_to_be_mnist_is_not_read(small, tmp_path, monkeypatch):
    with open(tmp_path / "huge.npz", "wb") as file:
        file.truncate(8_000_000_000)  # sparse
    monkeypatch.setenv("HWLIMITS_MNIST", str(tmp_path / "huge.npz"))
    start = time.perf_counter()
    with pytest.raises(MnistError, match=r"has 8,000,000,000 bytes; MNIST has at most 100,000,000"):
        mnist.load()
    assert time.perf_counter() - start < 1


def test_a_cached_file_that_can_t_be_read_now_is_kept(small, tmp_path, monkeypatch):
    (tmp_path / "cache").mkdir()
    np.savez(tmp_path / "cache" / "mnist.npz", **small)

    def refuse(*_):
        raise PermissionError("not now")

    monkeypatch.setattr(mnist.zipfile, "ZipFile", refuse)
    with pytest.raises(mnist.UnreadableError, match="can't be read"):
        mnist.load()
    monkeypatch.undo()
    assert (tmp_path / "cache" / "mnist.npz").exists()


def test_a_good_cache_needs_no_lock(small, tmp_path):
    (tmp_path / "cache").mkdir()
    np.savez(tmp_path / "cache" / "mnist.npz", **small)
    with mnist.FileLock(str(tmp_path / "cache" / "mnist.npz.lock")):
        assert mnist.load().source == "mnist"


def test_the_lock_is_given_back_whatever_came_of_it(small, mirror, tmp_path, monkeypatch):
    monkeypatch.setattr(mnist, "LOCK_TIMEOUT_S", 0)
    free = mnist.FileLock(str(tmp_path / "cache" / "mnist.npz.lock"), timeout=0, is_singleton=False)
    assert mnist.load().source == "mnist-5k"
    free.acquire()  # raises Timeout if it is held
    free.release()
    address, folder = mirror
    (folder / "mnist.npz").write_bytes(b"nonsense")
    monkeypatch.setattr(mnist, "MIRRORS", (f"{address}/mnist.npz",))
    with pytest.raises(MnistError):
        mnist.load()
    free.acquire()
    free.release()


def test_who_waits_too_long_for_another_download_makes_one_of_his_own(small, mirror, tmp_path, monkeypatch, capsys):
    address, folder = mirror
    np.savez(folder / "mnist.npz", **small)
    monkeypatch.setattr(mnist, "MIRRORS", (f"{address}/mnist.npz",))
    monkeypatch.setattr(mnist, "LOCK_TIMEOUT_S", 0.1)
    (tmp_path / "cache").mkdir()
    with mnist.FileLock(str(tmp_path / "cache" / "mnist.npz.lock"), is_singleton=False):
        assert mnist.load().source == "mnist"
    assert "no cache in" in capsys.readouterr().out
    assert cached(tmp_path) == []


def test_a_download_that_only_trickles_is_given_up(small, tmp_path, monkeypatch, capsys):
    class Trickle(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", "1000000")
            self.end_headers()
            try:
                while True:
                    self.wfile.write(b"PK")
                    time.sleep(0.02)
            except OSError:
                pass

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Trickle)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(mnist, "MIRRORS", (f"http://127.0.0.1:{server.server_port}/mnist.npz",))
    monkeypatch.setattr(mnist, "SLOW_AFTER_S", 0.5)
    monkeypatch.setattr(mnist, "CHUNK_BYTES", 16)
    assert mnist.load().source == "mnist-5k"
    assert "bytes came in" in capsys.readouterr().out
    assert cached(tmp_path) == []
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("name", ["/dev/zero", "/tmp", "a" * 300, "~nosuchuser/x"])
def test_whatever_the_variable_names_is_answered_in_words(small, monkeypatch, name):
    monkeypatch.setenv("HWLIMITS_MNIST", name)
    with pytest.raises(MnistError, match="HWLIMITS_MNIST names .*, and there is "):
        mnist.load()


def test_two_processes_that_load_at_once_download_once_and_both_succeed(small, mirror, tmp_path):
    address, folder = mirror
    np.savez(folder / "mnist.npz", **small)
    program = (
        "import sys; from hwlimits.training import mnist as m\n"
        f"m.FULL_SHAPES = {SHAPES!r}; m.ARRAYS_SHA256 = {mnist.ARRAYS_SHA256!r}\n"
        f"m.MIRRORS = ('{address}/mnist.npz',)\nprint(m.load().source, m.load().y_test.tolist())"
    )
    children = [subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) for _ in range(4)]
    said = {child.communicate(timeout=60)[0].strip() for child in children}
    assert said == {f"mnist {small['y_test'].tolist()}"}
    assert [p.name for p in cached(tmp_path)] == ["mnist.npz"]


def test_a_cache_that_can_t_be_written_stops_nobody(small, mirror, tmp_path, monkeypatch, capsys):
    address, folder = mirror
    np.savez(folder / "mnist.npz", **small)
    monkeypatch.setattr(mnist, "MIRRORS", (f"{address}/mnist.npz",))
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("HWLIMITS_CACHE", str(tmp_path / "file"))
    assert mnist.load().source == "mnist"
    assert "set HWLIMITS_CACHE to a folder that can be written" in capsys.readouterr().out


def test_a_home_folder_is_understood(small, tmp_path, monkeypatch):
    np.savez(tmp_path / "mine.npz", **small)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HWLIMITS_MNIST", "~/mine.npz")
    assert mnist.load().source == "mnist"


def test_hold_out_keeps_the_test_images_unread(small, tmp_path, monkeypatch):
    np.savez(tmp_path / "mine.npz", **small)
    monkeypatch.setenv("HWLIMITS_MNIST", str(tmp_path / "mine.npz"))
    held = mnist.load().hold_out(5)
    assert np.array_equal(held.x_test, small["x_train"][-5:])
    assert np.array_equal(held.x_train, small["x_train"][:-5])
    assert held.source == "mnist, 5 held out"
    with pytest.raises(ValueError, match="there are 55 training images"):
        held.hold_out(55)


def test_an_unknown_source_is_refused():
    with pytest.raises(ValueError, match="the source is 'best', 'mnist' or 'mnist-5k'"):
        mnist.load("imagenet")
