"""A decoder-only Transformer counted: parameters, FLOPs, weights, KV cache, and how fast a device can run it.

A text is written in two phases. *Prefill* takes the whole prompt in one step; *decode* then takes one step for
each further token, and keeps the keys and values of all earlier ones in the KV cache, so that they need not be
computed again (Pope et al. 2022, "Efficiently Scaling Transformer Inference", arXiv 2211.05102).

A step's bytes are its compulsory traffic, as everywhere in the course (`hwlimits.counting`), with the whole step
as one layer: every weight that it needs and every cached key and value read once, new ones and the scores
written once. What stays inside (activations, attention scores) moves nothing. All attention scores count, those
that a causal mask hides, too: programs compute them. A bound may count the others alone (`step(causal=True)`).

>>> llama = MODELS["llama-2-7b"]
>>> llama.parameters, llama.cache_bytes(tokens=1) / 2**20
(6738415616, 0.5)
>>> llama.step(new=1, past=512).intensity < 1.1 < 100 < llama.step(new=512).intensity
True
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from numbers import Integral, Real
from typing import Any

from hwlimits import compute, devices
from hwlimits.counting import Cost
from hwlimits.roofline import Roofline


class TransformerError(ValueError):
    """A decoder, or something asked of one, that can't be; the text says what to do."""


def whole(function: str, *, least: int = 1, **given) -> tuple[int, ...]:
    """The numbers given, as ints. Raises TransformerError, in the name of `function`, for what is none from `least` on.

    >>> whole("step", new=3, past=2)
    (3, 2)
    """
    for name, value in given.items():
        if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
            raise TransformerError(f"{function}({name}={value!r}): must be a whole number, at least {least}")
    return tuple(int(value) for value in given.values())


def _names(function: str, **given) -> tuple[str, ...]:
    ((what, names),) = given.items()
    if isinstance(names, str):
        raise TransformerError(f"{function}({what}={names!r}): give names in a list, such as [{names!r}]")
    return tuple(names)


def _size(function: str, **given) -> float:
    ((name, value),) = given.items()
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 < value < math.inf:
        raise TransformerError(f"{function}({name}={value!r}): bytes of a number are above 0, such as 2 or 0.5")
    return float(value)


@dataclass(frozen=True)
class Decoder:
    """The named dimensions of a decoder-only Transformer with normalization before each part (Radford et al. 2019).

    vocabulary  tokens that there are; width: of the residual stream; inner: of the feed-forward part
    key_heads   heads of keys and values if fewer than `heads` (grouped queries, Ainslie et al. 2023)
    head_width  of a head; None: width / heads
    gated       feed-forward is down(activation(gate x) * up x), with three matrices instead of two (Shazeer 2020)
    rms         normalization by the root mean square, without a mean; with `bias`, layer normalization has a summand
    positions   learned position vectors; 0: queries and keys are rotated (Su et al. 2021)
    tied        the embedding's table, transposed, gives the scores of the output

    Raises TransformerError for what is no whole number above 0, no True or False, and for heads that can't be shared.
    """

    name: str
    vocabulary: int
    width: int
    layers: int
    heads: int
    inner: int
    key_heads: int | None = None
    head_width: int | None = None
    gated: bool = False
    activation: str = "gelu_tanh"
    rms: bool = False
    bias: bool = True
    positions: int = 0
    tied: bool = True

    def __post_init__(self):
        for field in ("vocabulary", "width", "layers", "heads", "inner"):
            whole(f"Decoder {self.name!r}", **{field: getattr(self, field)})
        whole(f"Decoder {self.name!r}", least=0, positions=self.positions)
        for field in ("gated", "rms", "bias", "tied"):
            if not isinstance(getattr(self, field), bool):
                given = f"{field}={getattr(self, field)!r}"
                raise TransformerError(f"Decoder {self.name!r}({given}): must be True or False")
        if self.head_width is None:
            if self.width % self.heads:
                raise TransformerError(
                    f"Decoder {self.name!r}: {self.heads} heads don't divide a width of {self.width}; give head_width"
                )
            object.__setattr__(self, "head_width", self.width // self.heads)
        if self.key_heads is None:
            object.__setattr__(self, "key_heads", self.heads)
        whole(f"Decoder {self.name!r}", head_width=self.head_width, key_heads=self.key_heads)
        if self.heads % self.key_heads:
            raise TransformerError(
                f"Decoder {self.name!r}: {self.heads} heads can't share {self.key_heads} key heads evenly"
            )
        compute.activation_flops(self.activation)  # an unknown one is refused here

    # --- what it stores ---

    @property
    def parts(self) -> dict[str, int]:
        """Parameters by what they are for; in all `parameters`.

        >>> MODELS["gpt-2"].parts["embedding"], MODELS["gpt-2"].parameters
        (38597376, 124439808)
        """
        query, key = self.heads * self.head_width, self.key_heads * self.head_width
        w, b, n = self.width, self.bias, self.inner
        attention = (w + b) * (query + 2 * key) + (query + b) * w
        feed_forward = (1 + self.gated) * (w + b) * n + (n + b) * w
        norm = w * (1 if self.rms or not self.bias else 2)
        return {
            "embedding": self.vocabulary * w,
            "positions": self.positions * w,
            "attention": self.layers * attention,
            "feed-forward": self.layers * feed_forward,
            "normalization": (2 * self.layers + 1) * norm,
            "output": 0 if self.tied else self.vocabulary * w,
        }

    @property
    def parameters(self) -> int:
        return sum(self.parts.values())

    @property
    def read_parameters(self) -> int:
        """Parameters of which a step reads every one: all but the tables of which it looks up a few rows."""
        parts = self.parts
        return self.parameters - parts["positions"] - (0 if self.tied else parts["embedding"])

    def weights_bytes(self, weight_bytes: float = 2) -> int:
        """Bytes of all parameters, at so many for each: 4, 2, 1; or 0.625 for 4 bits with 16 + 16 more for each 32."""
        return math.ceil(self.parameters * _size("weights_bytes", weight_bytes=weight_bytes))

    def cache_bytes(self, tokens: int, sequences: int = 1, number_bytes: float = 2) -> int:
        """Bytes of the keys and values of `sequences` texts of so many tokens each.

        Raises TransformerError for more tokens than there are learned positions.

        >>> MODELS["mistral-7b"].cache_bytes(tokens=1) // 2**10  # a quarter of Llama's: 8 heads of 32
        128
        """
        tokens, sequences = whole("cache_bytes", least=0, tokens=tokens, sequences=sequences)
        self._placed(f"cache_bytes(tokens={tokens})", tokens)
        per_token = 2 * self.layers * self.key_heads * self.head_width
        return math.ceil(tokens * sequences * per_token * _size("cache_bytes", number_bytes=number_bytes))

    def _placed(self, call: str, tokens: int) -> None:
        if self.positions and tokens > self.positions:
            raise TransformerError(
                f"{call}: {self.name} has {self.positions:,} positions, so it can't take {tokens:,} tokens"
            )

    # --- what it does ---

    def step(
        self, new: int, past: int = 0, sequences: int = 1, *, scored: int = 1, causal: bool = False,
        weight_bytes: float = 2, number_bytes: float = 2,
    ) -> Cost:  # fmt: skip
        """One step: `new` tokens of each of `sequences` texts that have `past` tokens in the cache.

        scored         positions of each text whose scores over the vocabulary are computed: the last one, to go on
        causal         count only the attention scores that a causal mask leaves: new (past + (new + 1) / 2) of each
                       head. False: all new (past + new), as a program multiplies that masks afterwards
        weight_bytes   of a weight; number_bytes: of a key, a value, a score over the vocabulary

        Prefill is step(new=prompt), decode step(new=1, past=...). Raises TransformerError for more tokens than there
        are learned positions, and for more positions scored than new.

        >>> one = MODELS["llama-2-7b"].step(new=1)
        >>> round(one.macs / MODELS["llama-2-7b"].read_parameters, 3)  # a multiply-add for each weight, for each token
        1.0
        """
        new, sequences = whole("step", new=new, sequences=sequences)
        past, scored = whole("step", least=0, past=past, scored=scored)
        weight, number = _size("step", weight_bytes=weight_bytes), _size("step", number_bytes=number_bytes)
        self._placed(f"step(past={past}, new={new})", past + new)
        if scored > new:
            raise TransformerError(f"step(new={new}, scored={scored}): no more can be scored than is new")
        one = self._arithmetic(new, past, scored, causal)
        # A step reads the rows of its tokens; scores read a whole table: the same one, if tied.
        table, rows = self.vocabulary * self.width, min(sequences * new, self.vocabulary) * self.width
        tables = (table if scored else 0) + (0 if self.tied and scored else rows)
        places = new * self.width if self.positions else 0
        read = (self.read_parameters - table + tables + places) * weight + self.cache_bytes(past, sequences, number)
        written = self.cache_bytes(new, sequences, number) + sequences * scored * self.vocabulary * number
        return Cost(
            macs=sequences * one.macs,
            other_flops=sequences * one.other_flops,
            parameters=self.parameters,
            bytes_read=math.ceil(read),
            bytes_written=math.ceil(written),
        )

    def _arithmetic(self, new: int, past: int, scored: int, causal: bool) -> Cost:
        """MACs and other FLOPs of one text's step; the bytes in it mean nothing."""
        w, heads, keys, bias = self.width, self.heads * self.head_width, self.key_heads * self.head_width, self.bias
        scores = self.heads * (new * past + (new * (new + 1) // 2 if causal else new * new))

        def dense(i, o, activation=None):
            return compute.dense(i, o, positions=new, bias=bias, activation=activation)

        layer = [
            self._norm(new), self._norm(new),
            dense(w, heads), dense(w, keys), dense(w, keys), dense(heads, w),
            Cost(macs=2 * scores * self.head_width),  # Q K' and softmax(Q K') V
            Cost(other_flops=new * heads + scores * compute.activation_flops("softmax")),  # Q / sqrt(head width)
            dense(w, self.inner, self.activation), dense(self.inner, w),
            Cost(other_flops=2 * new * w),  # both parts are added to the stream
        ]  # fmt: skip
        if self.gated:
            layer += [dense(w, self.inner), Cost(other_flops=new * self.inner)]
        if not self.positions:
            layer.append(Cost(other_flops=3 * new * (heads + keys)))  # x cos + x' sin, each element of Q and K
        around = [Cost(other_flops=new * w * bool(self.positions)), self._norm(new)]
        around.append(Cost(macs=scored * self.vocabulary * w))
        inside = sum(layer, Cost())
        return Cost(macs=self.layers * inside.macs, other_flops=self.layers * inside.other_flops) + sum(around, Cost())

    def _norm(self, new: int) -> Cost:
        if self.rms:
            return compute.rms_norm((new, self.width), self.width)
        return compute.layer_norm((new, self.width), self.width, center=self.width if self.bias else 0)


# GPT-2 and DistilGPT2: Radford et al. 2019, table 2, and github.com/huggingface/transformers, research_projects/
# distillation. Llama 2: Touvron et al. 2023 (arXiv 2307.09288) and the config.json of its checkpoints. Mistral 7B:
# Jiang et al. 2023 (arXiv 2310.06825), table 1. Llama 3.1: arXiv 2407.21783, table 3. Read on 2026-11-27.
_LLAMA = {"gated": True, "activation": "silu", "rms": True, "bias": False, "tied": False}
MODELS = {
    model.name: model
    for model in (
        Decoder("gpt-2", 50_257, 768, 12, 12, 3072, positions=1024),
        Decoder("distilgpt2", 50_257, 768, 6, 12, 3072, positions=1024),
        Decoder("llama-2-7b", 32_000, 4096, 32, 32, 11_008, **_LLAMA),
        Decoder("llama-2-70b", 32_000, 8192, 80, 64, 28_672, key_heads=8, **_LLAMA),
        Decoder("mistral-7b", 32_000, 4096, 32, 32, 14_336, key_heads=8, **_LLAMA),
        Decoder("llama-3.1-8b", 128_256, 4096, 32, 32, 14_336, key_heads=8, **_LLAMA),
    )
}


# --- how fast ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Forecast:
    """The least times of a batch of texts on one machine, and the bytes that they need.

    prefill_s      until the first token; step_s: for each further token of all texts, at the middle length
    total_s        prefill and a step for each generated token but the first
    needed_bytes   weights and, at the end, the cache, without the last token: nothing comes after it
    """

    machine: str
    sequences: int
    prefill_s: float
    prefill_bound: str
    step_s: float
    step_bound: str
    total_s: float
    needed_bytes: int

    @property
    def tokens_per_s(self) -> float:
        """Of all texts together, while they are written."""
        return self.sequences / self.step_s


def forecast(
    model: Decoder, machine: Roofline, *, prompt: int, generated: int, sequences: int = 1, weight_bytes: float = 2,
    number_bytes: float = 2,
) -> Forecast:  # fmt: skip
    """What the roofline allows: texts of `prompt` tokens, and `generated` more for each, the first by the prefill.

    A bound, not an estimate: it has no overhead of any kernel, counts no attention score that the causal mask hides
    (`step(causal=True)`), and no machine reaches its published peaks. Steps count at the middle length, which is
    exact to half a token while one and the same limit bounds them.

    Raises TransformerError for more tokens than there are learned positions; the last one generated needs none.

    >>> roofline = Roofline("one TB/s", 1e14, {"memory": 1e12})
    >>> found = forecast(MODELS["llama-2-7b"], roofline, prompt=512, generated=128)
    >>> found.prefill_bound, found.step_bound, round(found.tokens_per_s, 1)
    ('compute', 'memory', 74.0)
    """
    prompt, generated, sequences = whole("forecast", prompt=prompt, generated=generated, sequences=sequences)
    model._placed(f"forecast(prompt={prompt}, generated={generated})", prompt + generated - 1)
    sizes = {"weight_bytes": weight_bytes, "number_bytes": number_bytes}
    prefill = model.step(prompt, 0, sequences, causal=True, **sizes)
    past = prompt + max(0, generated - 2) // 2
    if model.positions:  # where the prompt fills them all, one token can still be generated
        past = min(past, model.positions - 1)
    step = model.step(1, past, sequences, **sizes)
    prefill_s, step_s = machine.time_s(prefill), machine.time_s(step)
    needed = model.weights_bytes(weight_bytes) + model.cache_bytes(prompt + generated - 1, sequences, number_bytes)
    return Forecast(
        machine.name, sequences, prefill_s, machine.bound(prefill), step_s, machine.bound(step),
        prefill_s + (generated - 1) * step_s, needed,
    )  # fmt: skip


def on_devices(
    model: Decoder, names: Iterable[str], *, precisions: Iterable[str] = ("bf16", "fp16"), **options
) -> list[dict[str, Any]]:
    """A row for each device of the registry: its forecast, whether it fits, and why not all of this is known.

    precisions   of the arithmetic, the one preferred first; a row says which was taken, and a device that has none
                 of them has no forecast. `options` are those of `forecast`.

    A row's `fits` is None where no forecast can be made or no memory's size is published; `why` says which.
    Raises DeviceError for a name that is not in the registry, TransformerError for a string in place of a list of
    them, and for no precisions.

    >>> [(r["precision"], r["fits"]) for r in on_devices(MODELS["llama-2-7b"], ["t4"], prompt=9, generated=9)]
    [('fp16', True)]
    """
    precisions, rows = _names("on_devices", precisions=precisions), []
    if not precisions:
        raise TransformerError("on_devices(precisions=()): give names in a list, at least one, such as ['fp16']")
    for name in _names("on_devices", names=names):
        device = devices.device(name)
        row: dict[str, Any] = {"device": device.name, "title": device.title, "precision": None, "fits": None, "why": ""}
        found = [p for p in precisions if p in device.precisions]
        try:
            if not found:
                device.peak_flops_per_s(precisions[0])  # its error says what there is
            made = forecast(model, Roofline.of_device(device, found[0]), **options)
            row |= {"precision": found[0], **asdict(made), "tokens_per_s": made.tokens_per_s}
            row["fits"] = made.needed_bytes <= device.memory_bytes
        except devices.DeviceError as error:
            row["why"] = str(error)
        rows.append(row)
    return rows


def balance(model: Decoder, machine: Roofline, past: int, *, weight_bytes: float = 2, number_bytes: float = 2) -> float:
    """Texts that must be written side by side until arithmetic, and not memory, bounds a decode step.

    Weights are read once for all of them, but each has a cache of its own: FLOPs and bytes are both linear in the
    number of texts, and equal times of both give it. Infinite where a text's own bytes take longer than its FLOPs:
    then no batch helps.

    >>> machine = Roofline("made up", 3e14, {"memory": 1e12})
    >>> round(balance(MODELS["llama-2-7b"], machine, past=0)), balance(MODELS["llama-2-7b"], machine, past=512)
    (304, inf)
    """
    sizes = {"weight_bytes": weight_bytes, "number_bytes": number_bytes}
    one, two = (model.step(1, past, sequences, **sizes) for sequences in (1, 2))
    shared_s = (2 * one.bytes - two.bytes) / machine.bandwidth()
    more_s = (two.flops - one.flops) / machine.peak_flops_per_s - (two.bytes - one.bytes) / machine.bandwidth()
    return shared_s / more_s if more_s > 0 else math.inf


def most_sequences(
    model: Decoder, memory_bytes: float, tokens: int, *, weight_bytes: float = 2, number_bytes: float = 2
) -> int:
    """Texts of so many tokens whose caches fit beside the weights; 0 also where the weights alone don't fit.

    Raises TransformerError for bytes that are no number from 0 up, for a text without tokens, and for more tokens
    than there are learned positions.

    >>> most_sequences(MODELS["llama-2-7b"], memory_bytes=80e9, tokens=2048)
    61
    """
    (tokens,) = whole("most_sequences", least=0, tokens=tokens)
    if isinstance(memory_bytes, bool) or not isinstance(memory_bytes, Real) or not 0 <= memory_bytes < math.inf:
        raise TransformerError(f"most_sequences(memory_bytes={memory_bytes!r}): must be a number, at least 0")
    if not tokens:
        raise TransformerError(
            f"most_sequences(tokens={tokens}): a text without tokens takes no memory; give at least 1"
        )
    model._placed(f"most_sequences(tokens={tokens})", tokens)
    left = memory_bytes - model.weights_bytes(weight_bytes)
    return max(0, int(left // model.cache_bytes(tokens, 1, number_bytes)))
