"""Small networks that are trained to be short files: quantized, and told what each code costs, while they learn.

Weights are float32 underneath and go forward as code * step. The step is learnt with them (its logarithm is, in
eighths of a power of two, which is what the file keeps), and the loss has a second term: the bits that the codes would
take, times `rate`. A weight whose worth to the loss is less than its bits' becomes zero or small by itself.

Sources: Esser et al., "Learned step size quantization" (2020, arXiv 1902.08153); Oktay et al., "Scalable model
compression by entropy penalized reparameterization" (2020, arXiv 1906.06624), for the rate in the loss; Ioffe and
Szegedy (2015, arXiv 1502.03167) for the normalisation, which is folded into weights and biases before quantization.
"""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral

import numpy as np

from hwlimits import hwz
from hwlimits.compressed import Layer, Network, Tensor, tensor_shapes
from hwlimits.training.keras import tf

STEPS_PER_OCTAVE = 8  # a step is 2**(k / 8)
SLOWNESS = 10.0  # a step moves all codes of its tensor: its logarithm is learnt so many times slower than a weight
MOST_BITS = 16  # a float32 tells such codes apart
MOMENTUM, EPSILON = 0.95, 1e-3
WEIGHTED = ("conv", "separable", "dense")


class Student(tf.Module):
    """Variables of a network, and its logits in each of its forms.

    values      float32 weights, gains and biases, in the order of `compressed.tensor_shapes`
    log_steps   of each, log2 of its step, times `SLOWNESS`; learnt when `quantized`
    masks       0 where pruning took a weight, 1 elsewhere
    quantized   True: kernels go forward as codes
    folded      True: gains and biases do, too; False: layers with a gain are normalised by each batch

    Raises NetworkError for layers that do not fit.
    """

    def __init__(self, input_shape: Sequence[int], layers: Sequence[Layer], seed: int):
        super().__init__()
        self.input_shape, self.layers = tuple(input_shape), tuple(layers)
        self.quantized, self.folded, self.bits, self.bias_bits = False, False, 32, 32
        rng = np.random.default_rng(seed)
        self.values, self.masks, self.log_steps = [], [], []
        for shape in tensor_shapes(input_shape, layers):
            self.values.append(tf.Variable(_drawn(rng, shape)))
            self.masks.append(tf.Variable(tf.ones(shape), trainable=False))
            self.log_steps.append(tf.Variable(0.0))
        self.norms = []  # moving mean and variance of each layer with a gain
        for layer in layers:
            if layer.gain:
                zeros, ones = tf.zeros(layer.units), tf.ones(layer.units)
                self.norms.append((tf.Variable(zeros, trainable=False), tf.Variable(ones, trainable=False)))
        self._normalised_kernels = set()
        for layer, kernels, gain, _ in self._weighted():
            if gain is not None:
                self.values[gain].assign(tf.ones(layer.units))
                self._normalised_kernels.update(kernels)

    def trainable(self) -> list[tf.Variable]:
        """What the present form learns.

        Where there was a normalisation, folding ends the learning of kernels: without it, a code that goes to and fro
        moves all that comes after it, and the errors with it.
        """
        if not self.quantized:
            return list(self.values)
        ended = self.folded and self.norms
        learnt = [i for i, value in enumerate(self.values) if not ended or value.shape.rank == 1]
        return [*(self.values[i] for i in learnt), *(self.log_steps[i] for i in learnt)]

    def logits(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        """(n, classes) for images float32 (n, height, width, channels) in [0, 1].

        training   layers with a gain are normalised by this batch, and their moving means move
        """
        tensors = []
        for i, value in enumerate(self.values):
            tensors.append(self._coded(i)[0] if self._goes_as_codes(i) else value * self.masks[i])
        return self._forward(images, tensors, training)

    def rate_bits(self) -> tf.Tensor:
        """Bits of all kernels' codes, if zeros, signs and geometrically distributed magnitudes are coded ideally.

        Between two codes it is interpolated, so that it has a gradient; the probabilities are those of the
        present codes of each tensor and have none. In a tensor where a zero would cost more than a one, a one counts
        as much as a zero: no weight is paid for leaving it.
        """
        total = 0.0
        for i, value in enumerate(self.values):
            if value.shape.rank > 1:
                magnitudes = tf.abs(self._coded(i)[1])
                zero, first, further = (tf.stop_gradient(cost) for cost in _costs(tf.round(magnitudes)))
                bits = zero + tf.maximum(first - zero, 0.0) * tf.minimum(magnitudes, 1.0)
                total += tf.reduce_sum(bits + further * tf.maximum(magnitudes - 1.0, 0.0))
        return total

    def distance(self) -> tf.Tensor:
        """Sum over all weights that go forward as codes of the squared distance to these, in steps."""
        total = 0.0
        for i in range(len(self.values)):
            if self._goes_as_codes(i):
                codes = self._coded(i)[1]
                total += tf.reduce_sum((codes - tf.stop_gradient(tf.round(codes))) ** 2)
        return total

    def quantize(self, bits: int) -> None:
        """Let kernels go forward as codes of so many bits, symmetric about zero: from 1 - 2^(bits - 1) to its negative.

        Raises ValueError for bits outside 2 to 16.
        """
        _check_bits("quantize", bits)
        self.quantized, self.bits = True, bits
        for i, value in enumerate(self.values):
            if value.shape.rank > 1:
                weights = np.abs((value * self.masks[i]).numpy())
                used = weights[weights > 0]
                step = 2 * used.mean() / self._highest(i) ** 0.5 if used.size else 1.0
                self.log_steps[i].assign(SLOWNESS * np.log2(step).astype(np.float32))

    def fold(self, bits: int) -> None:
        """Put the normalisation into gains and biases, and let these go forward as codes of so many bits; once.

        Raises ValueError for bits outside 2 to 16, and the second time: the normalisation would be put in twice.
        """
        _check_bits("fold", bits)
        if self.folded:
            raise ValueError("fold(): this student is folded already; a student is folded once")
        self.folded, self.bias_bits, norms = True, bits, iter(self.norms)
        for _, kernels, gain, bias in self._weighted():
            if gain is not None:
                mean, variance = next(norms)
                self.values[gain].assign(self.values[gain] / tf.sqrt(variance + EPSILON))
                for i in kernels:
                    mean = mean * self._round_step(i, gain)
                self.values[bias].assign(self.values[bias] - mean * self.values[gain])
        for i, value in enumerate(self.values):
            if value.shape.rank == 1:
                largest = max(float(tf.reduce_max(tf.abs(value))), 1e-3)
                eighths = np.ceil(STEPS_PER_OCTAVE * np.log2(largest / self._highest(i)))  # rounded up: none is cut off
                self.log_steps[i].assign(SLOWNESS * eighths / STEPS_PER_OCTAVE)

    def _round_step(self, i: int, gain: int) -> float:
        """Round the step of a kernel to eighths of an octave, and keep its codes; returns by what the kernel grew."""
        eighths = float(self.log_steps[i]) / SLOWNESS * STEPS_PER_OCTAVE
        growth = 2.0 ** ((round(eighths) - eighths) / STEPS_PER_OCTAVE)
        self.log_steps[i].assign(round(eighths) / STEPS_PER_OCTAVE * SLOWNESS)
        self.values[i].assign(self.values[i] * growth)
        self.values[gain].assign(self.values[gain] / growth)
        return growth

    def network(self) -> Network:
        """Codes and steps, as they are now. Where there is a gain, its step has the kernels' steps in it.

        Before `fold` the kernels' codes alone say something: normalisation is not in it, and gains and biases have no
        steps yet.
        """
        eighths = [round(float(self._eighths(i))) for i in range(len(self.values))]
        for _, kernels, gain, _ in self._weighted():
            if gain is not None:
                for i in kernels:
                    eighths[gain] += eighths[i]
                    eighths[i] = 0
        codes = [np.round(self._coded(i)[1].numpy()).astype(np.int64) for i in range(len(self.values))]
        steps = [hwz.grid_step(k) for k in eighths]
        return Network(self.input_shape, self.layers, tuple(map(Tensor, codes, steps)))

    def _weighted(self):
        """Each layer that has weights, with where its kernels, its gain (or None) and its bias are."""
        i = 0
        for layer in self.layers:
            if layer.kind in WEIGHTED:
                kernels = [i, i + 1] if layer.kind == "separable" else [i]
                i += len(kernels) + layer.gain + 1
                yield layer, kernels, i - 2 if layer.gain else None, i - 1

    def _goes_as_codes(self, i: int) -> bool:
        return self.quantized and (self.folded or self.values[i].shape.rank > 1)

    def _highest(self, i: int) -> int:
        return 2 ** ((self.bias_bits if self.values[i].shape.rank == 1 else self.bits) - 1) - 1

    def _eighths(self, i: int) -> tf.Tensor:
        """log2 of the step, in eighths; not rounded."""
        return self.log_steps[i] / SLOWNESS * STEPS_PER_OCTAVE

    def _coded(self, i: int) -> tuple[tf.Tensor, tf.Tensor]:
        """Weights as they go forward, and their codes before rounding; both differentiable."""
        eighths = self._eighths(i)
        if self.folded or i not in self._normalised_kernels:  # normalisation would undo the rounding's change at once
            eighths += tf.stop_gradient(tf.round(eighths) - eighths)
        step = 2.0 ** (eighths / STEPS_PER_OCTAVE)
        highest = self._highest(i)
        codes = tf.clip_by_value(self.values[i] * self.masks[i] / step, -highest, highest)
        return (codes + tf.stop_gradient(tf.round(codes) - codes)) * step, codes

    def _forward(self, x, tensors, training):
        tensors, norms = iter(tensors), iter(self.norms)
        for layer in self.layers:
            kind = layer.kind
            if kind == "flatten":
                x = tf.reshape(x, (tf.shape(x)[0], int(np.prod(x.shape[1:]))))
            elif kind == "global_mean":
                x = tf.reduce_mean(x, axis=(1, 2))
            elif kind == "max_pool":
                x = tf.nn.max_pool2d(x, layer.kernel, layer.kernel, "VALID")
            elif kind == "mean_pool":
                x = tf.nn.avg_pool2d(x, layer.kernel, layer.kernel, "VALID")
            else:
                kernel = next(tensors)
                if kind == "separable":  # nothing is between its two parts, so one kernel does both: faster to train
                    kernel = kernel[..., None] * next(tensors)
                gain = next(tensors) if layer.gain else None
                bias, norm = next(tensors), next(norms) if layer.gain else None
                for _ in range(layer.times):
                    y = x @ kernel if kind == "dense" else _convolved(x, kernel, layer)
                    if gain is None:
                        y = y + bias
                    elif self.folded:
                        y = y * gain + bias
                    else:
                        y = _normalised(y, gain, bias, norm, training)
                    y = y + x if layer.residual else y
                    x = tf.nn.relu(y) if layer.relu else y
        return x


def _check_bits(function: str, bits: int) -> None:
    if isinstance(bits, bool) or not isinstance(bits, Integral) or not 2 <= bits <= MOST_BITS:
        raise ValueError(f"{function}(bits={bits!r}): must be a whole number from 2 to {MOST_BITS}")


def _drawn(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """He's normal initialisation for kernels, zeros for biases."""
    if len(shape) == 1:
        return np.zeros(shape, np.float32)
    fan_in = shape[0] if len(shape) == 2 else shape[0] * shape[1] * (shape[2] if len(shape) == 4 else 1)
    return rng.normal(0, np.sqrt(2 / fan_in), shape).astype(np.float32)


def _convolved(x, kernel, layer: Layer):
    if layer.same and layer.stride > 1:  # "SAME" would pad by the stride, too; `compressed` does not
        ends = (layer.kernel - 1) // 2, layer.kernel // 2
        return tf.nn.conv2d(tf.pad(x, ((0, 0), ends, ends, (0, 0))), kernel, layer.stride, "VALID")
    return tf.nn.conv2d(x, kernel, layer.stride, "SAME" if layer.same else "VALID")


def _normalised(y, gain, bias, norm, training):
    moving_mean, moving_variance = norm
    if not training:
        return (y - moving_mean) * (gain / tf.sqrt(moving_variance + EPSILON)) + bias
    shape = tf.shape(y)
    images = y if y.shape.rank == 4 else y[:, None, None]  # the fused operation takes images alone
    images, mean, variance = tf.compat.v1.nn.fused_batch_norm(images, gain, bias, epsilon=EPSILON)
    moving_mean.assign(MOMENTUM * moving_mean + (1 - MOMENTUM) * mean)
    moving_variance.assign(MOMENTUM * moving_variance + (1 - MOMENTUM) * variance)
    return tf.reshape(images, shape)


def _costs(magnitudes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Bits of a zero, of a one with its sign, and of each further unit, by how often they are (each once more)."""
    count = tf.cast(tf.size(magnitudes), tf.float32)
    used = tf.reduce_sum(tf.cast(magnitudes > 0, tf.float32))
    share = (used + 1.0) / (count + 2.0)
    more = (tf.reduce_sum(magnitudes) - used + 1.0) / (tf.reduce_sum(magnitudes) + 2.0)
    log2 = np.float32(np.log(2))
    return -tf.math.log(1 - share) / log2, 1.0 - tf.math.log(share * (1 - more)) / log2, -tf.math.log(more) / log2
