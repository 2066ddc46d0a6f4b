"""Arrays that are kept: in their order, whole or not at all."""

import numpy as np
import pytest

from hwlimits.training import checkpoint


def test_what_is_saved_comes_back_in_its_order(tmp_path):
    arrays = [
        np.arange(i, dtype=np.float32).reshape(1, -1) for i in range(12)
    ]  # past arr_9, where names sort otherwise
    checkpoint.save(tmp_path / "kept.npz", arrays)
    back = checkpoint.restore(tmp_path / "kept.npz")
    assert [(a.dtype, a.tolist()) for a in back] == [(a.dtype, a.tolist()) for a in arrays]
    assert [path.name for path in tmp_path.iterdir()] == ["kept.npz"]


def test_what_is_interrupted_leaves_what_was_there(tmp_path):
    checkpoint.save(tmp_path / "kept.npz", [np.ones(2)])

    class Interrupting:
        def __array__(self, *_, **__):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(tmp_path / "kept.npz", [np.zeros(3), Interrupting()])
    assert checkpoint.restore(tmp_path / "kept.npz")[0].tolist() == [1.0, 1.0]
