"""The steps of a network's plan: each a few numbers that say where it reads and where it writes."""

from __future__ import annotations

from numba import njit, types

from hwlimits.kernels.simd import halve
from hwlimits.kernels.sparse import dot_rows, pixel_rows, strided_rows

LAY, ROWS, STRIDED, CLEAR, POOL, MEAN, DOT = range(7)
FIELDS = 15  # numbers of a step: what it does, and up to 14 of what follows

_every_second, _largest_of_four = halve(False), halve(True)


@njit(nogil=True, cache=True)
def _lay_image(memory, step):
    """Each element of each phase: from the image, or zero where the padding is."""
    channels, height, width, x_at, x_plane, x_pitch, x_column, y_at, y_plane, y_pitch, stride, top, left = step[1:14]
    rows = (y_plane + y_pitch - 1) // y_pitch
    for c in range(channels):
        for phase in range(stride * stride):
            down, right = phase // stride - top, phase % stride - left  # the image's pixel at the phase's first
            first = -(right // stride) if right < 0 else 0
            last = max(first, (width - 1 - right) // stride + 1)
            y = y_at + (c * stride * stride + phase) * y_plane
            for row in range(rows):
                to, end = y + row * y_pitch, y + min((row + 1) * y_pitch, y_plane)
                at = x_at + c * x_plane + (row * stride + down) * x_pitch
                inside = 0 <= row * stride + down < height
                begin = to + first if inside else end
                for i in range(to, min(begin, end)):
                    memory[i] = 0
                if inside:
                    count = min(last - first, end - begin)
                    at += (first * stride + right) * x_column
                    step = stride * x_column
                    if step == 2:
                        address = memory.ctypes.data + 4 * at
                        _every_second(count, address, address, memory.ctypes.data + 4 * begin)
                    else:
                        for i in range(count):
                            memory[begin + i] = memory[at + i * step]
                    for i in range(begin + count, end):
                        memory[i] = 0


@njit(nogil=True, cache=True)
def _max_pool(memory, step):
    channels, height, width, x_at, x_plane, x_pitch, y_at, y_plane, y_pitch, size = step[1:11]
    for c in range(channels):
        for row in range(height):
            to, at = y_at + c * y_plane + row * y_pitch, x_at + c * x_plane + row * size * x_pitch
            if size == 2:
                first = memory.ctypes.data
                _largest_of_four(width, first + 4 * at, first + 4 * (at + x_pitch), first + 4 * to)
            else:
                for i in range(width):
                    best = memory[at + size * i]
                    for j in range(size * size):
                        best = max(best, memory[at + j // size * x_pitch + size * i + j % size])
                    memory[to + i] = best


@njit(nogil=True, cache=True)
def _mean(memory, step):
    channels, height, width, x_at, x_plane, x_pitch, y_at = step[1:8]
    for c in range(channels):
        total = 0.0
        for row in range(height):
            for column in range(width):
                total += memory[x_at + c * x_plane + row * x_pitch + column]
        memory[y_at + c] = total / (height * width)


@njit(nogil=True, cache=True)
def _clear(memory, step):
    channels, height, width, at, plane, pitch, before = step[1:8]
    for c in range(channels):
        start, end = at + c * plane, at + (c + 1) * plane
        for i in range(start, start + before):
            memory[i] = 0
        for row in range(height):
            gap = start + before + row * pitch + width
            for i in range(gap, end if row == height - 1 else gap + pitch - width):
                memory[i] = 0


def _array(kind, dimensions=1, readonly=True):
    return types.Array(kind, dimensions, "C", readonly=readonly)


_PARTS = (_array(types.float32), _array(types.int32), _array(types.int64), _array(types.float32))


@njit(
    types.void(_array(types.int64, 2), _array(types.float32, 2), *_PARTS, _array(types.float32, 1, False)),
    nogil=True, cache=True,
)  # fmt: skip
def run(steps, bounds, values, offsets, starts, biases, memory):
    """Every step of a plan, one after the other."""
    for number in range(steps.shape[0]):
        step, low, high = steps[number], bounds[number, 0], bounds[number, 1]
        if step[0] in (ROWS, STRIDED, DOT):
            v, o, s, b, rows, block, x_at, y_at, y_row = step[1:10]
            parts = values[v:], offsets[o:], starts[s : s + rows + 1], biases[b : b + rows * block]
            if step[0] == ROWS:
                pixel_rows(*parts, block, memory, x_at, low, high, memory, y_at, y_row, step[10], step[11])
            elif step[0] == STRIDED:
                x_pitch, y_pitch, height, width = step[10:14]
                strided_rows(*parts, memory, x_at, x_pitch, low, high, memory, y_at, y_row, y_pitch, height, width)
            else:
                dot_rows(*parts, block, memory, x_at, low, high, memory, y_at)
        elif step[0] == LAY:
            _lay_image(memory, step)
        elif step[0] == POOL:
            _max_pool(memory, step)
        elif step[0] == MEAN:
            _mean(memory, step)
        else:
            _clear(memory, step)
