"""Filters removed: the smaller model answers as the masked one, whatever follows; where it could not, it is refused."""

import numpy as np
import pytest

from hwlimits import pruning
from hwlimits.pruning import PruningError
from hwlimits.training.keras import keras
from hwlimits.training.models import article_cnn
from hwlimits.training.remove_filters import ELEMENTWISE, mask_filters, remove_filters

L = keras.layers
IMAGE = (9, 8, 3)


def randomise(model, seed=0):
    """Random numbers in every weight: Keras' biases and shifts of 0 would hide what becomes of them."""
    rng = np.random.default_rng(seed)
    weights = []
    for variable in model.weights:
        value = rng.normal(size=variable.shape) / np.sqrt(max(1, np.prod(variable.shape[:-1])))
        weights.append(np.abs(value) + 0.5 if "variance" in variable.name else value)
    model.set_weights(weights)
    return model


def sequential(*layers, shape=IMAGE):
    return randomise(keras.Sequential([keras.Input(shape), *layers], name="net"))


def keep_of(model, *names, share=0.5, seed=1):
    """Random filters of the layers named, at least one of each, at least one not."""
    rng, keep = np.random.default_rng(seed), {}
    for name in names:
        size = model.get_layer(name).output_shape[-1]
        keep[name] = rng.permutation(size) < min(max(1, round(share * size)), size - 1)
    return keep


def masked_by_hand(model, keep):
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    for name, filters in keep.items():
        layer = copy.get_layer(name)
        weights = [w.copy() for w in layer.get_weights()]
        for w in weights:
            w[..., ~filters] = 0
        layer.set_weights(weights)
    return copy


def outputs(model, seed=2):
    shapes = model.input_shape if isinstance(model.input_shape, list) else [model.input_shape]
    rng = np.random.default_rng(seed)
    given = [rng.normal(size=(3, *shape[1:])).astype("float32") for shape in shapes]
    found = model(given if len(given) > 1 else given[0], training=False)
    return [np.asarray(f) for f in (found if isinstance(found, list) else [found])]


def check(model, keep):
    """The smaller model answers as the masked one, which answers otherwise than the whole one."""
    smaller = remove_filters(model, keep)
    for name, filters in keep.items():
        assert smaller.get_layer(name).output_shape[-1] == filters.sum()
    whole, masked, found = outputs(model), outputs(masked_by_hand(model, keep)), outputs(smaller)
    assert [f.shape for f in found] == [w.shape for w in whole]
    for m, f in zip(masked, found, strict=True):
        np.testing.assert_allclose(f, m, rtol=1e-4, atol=1e-5 * np.abs(m).max())
    assert any(not np.allclose(w, m, rtol=1e-3) for w, m in zip(whole, masked, strict=True)), "the mask does nothing"
    assert smaller.count_params() < model.count_params()
    assert type(smaller) is type(model)
    return smaller


CHAINS = {
    "valid": lambda: [L.Conv2D(8, 3, activation="relu", name="a"), L.Conv2D(6, 3, name="b"), L.Flatten(), L.Dense(5)],
    "same": lambda: [
        L.Conv2D(8, 3, padding="same", activation="relu", name="a"),
        L.MaxPooling2D(2),
        L.Conv2D(6, 3, padding="same", activation="tanh", name="b"),
        L.Conv2D(4, 3, padding="same"),
    ],
    "a constant into a convolution": lambda: [
        L.Conv2D(8, 3, activation="sigmoid", name="a"),
        L.Conv2D(6, (3, 2), activation="softplus", name="b"),
        L.Conv2D(4, 1, padding="same"),
    ],
    "strides and dilation": lambda: [
        L.Conv2D(8, 3, strides=2, padding="same", activation="relu", name="a"),
        L.Conv2D(6, 2, dilation_rate=2, activation="sigmoid", name="b"),
        L.Conv2D(4, 2, strides=2),
    ],
    "a bias that was not there": lambda: [
        L.Conv2D(8, 3, use_bias=False, activation="sigmoid", name="a"),
        L.Conv2D(6, 3, use_bias=False, activation="relu", name="b"),
        L.Flatten(),
        L.Dense(5, use_bias=False),
    ],
    "batch normalization": lambda: [
        L.Conv2D(8, 3, name="a"),
        L.BatchNormalization(),
        L.ReLU(),
        L.Conv2D(6, 3, use_bias=False, name="b"),
        L.BatchNormalization(scale=False, epsilon=0.1),
        L.Activation("tanh"),
        L.Flatten(),
        L.Dense(5),
    ],
    "batch normalization without shift": lambda: [
        L.Conv2D(8, 3, name="a"),
        L.BatchNormalization(center=False),
        L.Conv2D(6, 3, activation="elu", name="b"),
        L.BatchNormalization(center=False, scale=False),
        L.GlobalAveragePooling2D(),
        L.Dense(5),
    ],
    "depthwise, its bias left": lambda: [
        L.Conv2D(8, 3, activation="relu", name="a"),
        L.DepthwiseConv2D(3, padding="same", activation="relu"),
        L.Conv2D(6, 1, padding="same", activation="relu", name="b"),
        L.DepthwiseConv2D(3, use_bias=False),
        L.Conv2D(4, 2),
    ],
    "depthwise, two for a channel": lambda: [
        L.Conv2D(8, 3, activation="sigmoid", name="a"),
        L.DepthwiseConv2D((2, 3), depth_multiplier=2, activation="tanh"),
        L.Conv2D(6, 3, activation="sigmoid", name="b"),
        L.DepthwiseConv2D(1, padding="same", depth_multiplier=3),
        L.Flatten(),
        L.Dense(5),
    ],
    "average pooling at the border": lambda: [
        L.Conv2D(8, 3, activation="sigmoid", name="a"),
        L.AveragePooling2D(2, padding="same"),
        L.MaxPooling2D(3, strides=1, padding="same"),
        L.Flatten(),
        L.Dense(6, activation="sigmoid", name="b"),
        L.Dense(5, activation="softmax"),
    ],
    "global pooling": lambda: [
        L.Conv2D(8, 3, activation="sigmoid", name="a"),
        L.GlobalMaxPooling2D(keepdims=True),
        L.Conv2D(6, 1, name="b", activation="gelu"),
        L.GlobalAveragePooling2D(),
        L.Dense(5),
    ],
    "padding of its own": lambda: [
        L.Conv2D(8, 3, activation="relu", name="a"),
        L.ZeroPadding2D(2),
        L.Conv2D(6, 3, activation="sigmoid", name="b"),
        L.Cropping2D(1),
        L.UpSampling2D(2, interpolation="bilinear"),
        L.Conv2D(4, 2),
    ],
    "what only training sees": lambda: [
        L.Conv2D(8, 3, activation="sigmoid", name="a"),
        L.SpatialDropout2D(0.5),
        L.GaussianNoise(1.0),
        L.Flatten(),
        L.Dropout(0.5),
        L.Dense(6, activation="sigmoid", name="b"),
        L.Dense(5),
    ],
    "activations as layers": lambda: [
        L.Conv2D(8, 3, name="a"),
        L.LeakyReLU(0.2),
        L.BatchNormalization(),
        L.ReLU(max_value=0.5, negative_slope=0.1, threshold=0.1),
        L.Conv2D(6, 3, name="b"),
        L.ELU(0.7),
        L.BatchNormalization(),
        L.ThresholdedReLU(0.1),
        L.Conv2D(4, 2),
    ],
    "dense layers on images": lambda: [
        L.Dense(8, activation="sigmoid", name="a"),
        L.Dense(6, activation="softplus", name="b"),
        L.Conv2D(4, 3),
    ],
}


@pytest.mark.parametrize("which", [("a",), ("a", "b")], ids="-".join)
@pytest.mark.parametrize("chain", CHAINS)
def test_the_smaller_model_answers_as_the_masked_one(chain, which):
    model = sequential(*CHAINS[chain]())
    check(model, keep_of(model, *which))


@pytest.mark.parametrize("name", sorted(ELEMENTWISE - {"relu6", "leaky_relu", "silu"}))
def test_every_activation_that_is_known(name):
    model = sequential(
        L.Conv2D(8, 3, activation=name, name="a"), L.Conv2D(6, 3), L.Activation(name), L.Flatten(), L.Dense(5)
    )
    check(model, keep_of(model, "a"))


@pytest.mark.parametrize("seed", range(6))
def test_random_networks(seed):
    rng = np.random.default_rng(seed)
    layers, names = [], []
    for i in range(4):
        constant_free = rng.random() < 0.5  # then padding is allowed
        activation = rng.choice(["relu", "tanh"] if constant_free else ["sigmoid", "softplus", "exponential"])
        names.append(f"conv{i}")
        layers.append(
            L.Conv2D(int(rng.integers(2, 9)), int(rng.integers(1, 4)), use_bias=bool(rng.integers(2)),
                     activation=activation, name=names[-1])
        )  # fmt: skip
        if not constant_free:
            layers.append(L.BatchNormalization(scale=bool(rng.integers(2)), center=bool(rng.integers(2))))
        if rng.random() < 0.4:
            layers.append(L.DepthwiseConv2D(2, depth_multiplier=int(rng.integers(1, 3)), activation="tanh"))
        if rng.random() < 0.3:
            layers.append([L.MaxPooling2D, L.AveragePooling2D][rng.integers(2)](2, strides=1, padding="same"))
    model = sequential(
        *layers, L.Flatten(), L.Dense(7, activation="sigmoid", name="dense"), L.Dense(3), shape=(18, 17, 2)
    )
    model = randomise(model, seed)
    names = [n for n in [*names, "dense"] if rng.random() < 0.7] or ["dense"]
    check(model, keep_of(model, *names, share=rng.uniform(0.2, 0.8), seed=seed))


def functional(build, shapes=(IMAGE,)):
    inputs = [keras.Input(shape) for shape in shapes]
    return randomise(keras.Model(inputs, build(*inputs), name="net"))


def test_branches_that_are_concatenated():
    def build(x):
        a = L.Conv2D(6, 3, activation="sigmoid", name="a")(x)
        b = L.Conv2D(4, 3, activation="relu", name="b")(x)
        return L.Conv2D(5, 3)(L.Concatenate()([b, L.BatchNormalization()(a), a, L.Conv2D(3, 3)(x)]))

    model = functional(build)
    check(model, keep_of(model, "a", "b"))
    check(model, keep_of(model, "b"))


def test_a_sum_of_which_the_same_filters_are_removed():
    def build(x):
        x = L.Conv2D(6, 1, name="a", activation="sigmoid")(x)
        y = L.Conv2D(6, 1, name="b", activation="softplus")(x)
        return L.Conv2D(5, 3)(L.Add()([x, y]))

    model = functional(build)
    keep = keep_of(model, "a")["a"]
    check(model, {"a": keep, "b": keep})


def test_a_residual_connection_around_what_is_pruned():
    def build(x):
        x = L.Conv2D(6, 1, name="a", activation="relu")(x)
        y = L.Conv2D(8, 3, padding="same", name="inside", activation="relu")(x)
        y = L.Conv2D(6, 3, padding="same", name="b")(y)
        return L.Dense(4)(L.GlobalAveragePooling2D()(L.ReLU()(L.Add(name="sum")([x, y]))))

    model = functional(build)
    check(model, keep_of(model, "inside"))
    for names in (["a"], ["b"], ["a", "b"]):
        keep = {name: keep_of(model, name, seed=i)[name] for i, name in enumerate(names)}
        with pytest.raises(PruningError, match="sum adds tensors of which other filters are removed; in a residual"):
            remove_filters(model, keep)


def test_several_inputs_and_outputs():
    def build(x, y):
        a = L.Conv2D(6, 3, activation="sigmoid", name="a")(x)
        b = L.Dense(5, activation="sigmoid", name="b")(y)
        both = L.Concatenate()([L.GlobalAveragePooling2D()(a), b])
        return [L.Dense(3)(both), L.Conv2D(2, 2)(a)]

    model = functional(build, (IMAGE, (4,)))
    check(model, keep_of(model, "a", "b"))


def test_what_is_not_touched_by_a_removed_filter_can_be_anything():
    def build(x):
        y = L.Conv2D(6, 3, groups=3, padding="same", activation=keras.layers.Softmax())(L.Permute((2, 1, 3))(x))
        y = L.Lambda(lambda t: t * 2)(y) + 1.0
        y = L.Conv2D(6, 3, activation="relu", name="a")(y)
        return L.Reshape((10,))(L.Dense(10)(L.Flatten()(y)))

    model = functional(build)
    check(model, keep_of(model, "a"))


def test_the_model_given_is_left_as_it_was():
    model = sequential(L.Conv2D(8, 3, name="a"), L.Flatten(), L.Dense(5))
    before = [w.copy() for w in model.get_weights()]
    keep = keep_of(model, "a")
    remove_filters(model, keep)
    mask_filters(model, keep)
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))


def test_masked_is_weights_and_bias_zero():
    model = sequential(L.Conv2D(8, 3, name="a"), L.Flatten(), L.Dense(6, name="b"), L.Dense(5))
    keep = keep_of(model, "a", "b")
    expected = masked_by_hand(model, keep).get_weights()
    assert all(np.array_equal(a, b) for a, b in zip(mask_filters(model, keep).get_weights(), expected, strict=True))


def test_the_article_s_cnn_by_l1_norm_of_its_filters():
    model = randomise(article_cnn())
    keep = {
        name: pruning.mask(pruning.unit_scores(pruning.magnitude(model.get_layer(name).kernel.numpy()), "filter"), 0.75)
        for name in ("conv1", "conv2", "dense1")
    }
    smaller = check(model, keep)
    # 8 filters of 9 + 1; 16 of 72 + 1; 16 units of 400 + 1; 10 of 16 + 1
    assert smaller.count_params() == 8 * 10 + 16 * 73 + 16 * 401 + 10 * 17


# --- refused -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        (lambda: [L.Conv2D(4, 3, padding="same", name="c")], "the removed filter 0 before it gives 0.5"),
        (lambda: [L.DepthwiseConv2D(3, padding="same", name="c")], "c pads with 0, and the removed filter 0 before it"),
        (lambda: [L.ZeroPadding2D(1, name="c"), L.Conv2D(2, 3)], "c pads with 0"),
        (lambda: [L.Softmax(name="c"), L.Conv2D(2, 3)], "reach c, and what a Softmax makes of them is not known here"),
        (lambda: [L.Activation("softmax", name="c"), L.Conv2D(2, 3)], "the activation softmax of c is not known"),
        (lambda: [L.Activation(keras.backend.abs, name="c"), L.Conv2D(2, 3)], "the activation abs of c is not known"),
        (lambda: [L.LayerNormalization(name="c"), L.Conv2D(2, 3)], "what a LayerNormalization makes of them"),
        (lambda: [L.Conv2DTranspose(2, 3, name="c")], "what a Conv2DTranspose makes of them"),
        (lambda: [L.SeparableConv2D(2, 3, name="c")], "what a SeparableConv2D makes of them"),
        (lambda: [L.PReLU(name="c"), L.Conv2D(2, 3)], "what a PReLU makes of them"),
        (lambda: [L.Reshape((-1,), name="c"), L.Dense(2)], "what a Reshape makes of them"),
        (lambda: [L.BatchNormalization(axis=1, name="c"), L.Conv2D(2, 3)], "c normalizes another axis than the last"),
        (lambda: [L.Conv2D(4, 3, groups=2, name="c")], "c has 2 groups of filters"),
        (lambda: [L.MaxPooling2D(2, data_format="channels_first", name="c"), L.Conv2D(2, 1)], "has its channels first"),
        (lambda: [L.MaxPooling2D(2, name="c")], "removed filters reach c, the output of net"),
        (lambda: [keras.Sequential([L.Conv2D(2, 3)], name="c")], "what a Sequential makes of them"),
    ],
)  # fmt: skip
def test_what_would_be_wrong_is_refused_by_name(layers, said):
    model = sequential(L.Conv2D(4, 3, activation="sigmoid", name="a"), *layers())
    with pytest.raises(PruningError) as caught:
        remove_filters(model, {"a": np.array([False, True, True, True])})
    assert said in str(caught.value)


def test_softmax_of_what_is_removed_is_refused():
    model = sequential(L.Dense(4, activation="softmax", name="a"), L.Dense(2), shape=(5,))
    with pytest.raises(
        PruningError, match="the activation softmax of a is not known to look at each element for itself"
    ):
        remove_filters(model, keep_of(model, "a"))


def test_a_shift_in_front_of_padding_is_refused_and_none_is_not():
    layers = lambda **norm: [  # noqa: E731
        L.Conv2D(4, 3, name="a"), L.BatchNormalization(**norm), L.ReLU(), L.Conv2D(3, 3, padding="same", name="c"),
    ]  # fmt: skip
    model = sequential(*layers())
    norm = model.layers[1]
    gamma, beta, mean, variance = norm.get_weights()
    norm.set_weights([gamma, np.abs(beta) + 1, 0 * mean, variance])
    with pytest.raises(PruningError, match="c pads with 0, and the removed filter . before it gives 1"):
        remove_filters(model, keep_of(model, "a"))
    norm.set_weights([gamma, -np.abs(beta), 0 * mean, variance])  # relu cuts the shift off
    check(model, keep_of(model, "a"))


def test_a_layer_used_twice_is_refused():
    shared = L.Conv2D(3, 3, padding="same", name="shared")
    model = functional(lambda x: shared(shared(x)))
    with pytest.raises(PruningError, match="shared is used 2 times in the model"):
        remove_filters(model, keep_of(model, "shared"))


@pytest.mark.parametrize("function", [mask_filters, remove_filters])
@pytest.mark.parametrize(
    ("keep", "said"),
    [
        ({"x": np.ones(4, bool)}, "no layer 'x' in net; it has a, pool, flatten, c"),
        ({"pool": np.ones(4, bool)}, "pool is a MaxPooling2D; filters are removed from Conv2D and Dense layers"),
        ({"a": np.ones(3, bool)}, "a needs booleans of shape (4,), one for each filter; got bool (3,)"),
        ({"a": np.ones(4)}, "got float64 (4,)"),
        ({"a": np.zeros(4, bool)}, "no filter of a is kept, so nothing would get through"),
    ],
)
def test_masks_that_fit_nothing_are_refused(function, keep, said):
    model = sequential(
        L.Conv2D(4, 3, name="a"), L.MaxPooling2D(2, name="pool"), L.Flatten(name="flatten"), L.Dense(2, name="c")
    )
    with pytest.raises(PruningError) as caught:
        function(model, keep)
    assert f"{function.__name__}: " in str(caught.value)
    assert said in str(caught.value)


def test_the_output_s_own_filters_are_refused():
    model = sequential(L.Flatten(), L.Dense(4, name="a"))
    with pytest.raises(
        PruningError, match="reach a, the output of net, whose size is what the model answers; keep them"
    ):
        remove_filters(model, keep_of(model, "a"))


def test_a_subclassed_model_is_refused():
    class Own(keras.Model):
        pass

    with pytest.raises(PruningError, match="own is no Sequential or functional model of which"):
        remove_filters(Own(name="own"), {})
