"""The zoo against the published counts, and against counts derived by hand from named dimensions."""

import numpy as np
import pytest

from hwlimits.training import zoo
from hwlimits.training.cost import cost
from hwlimits.training.zoo import ZooError, build

# Parameters and MACs (convolutions and dense layers), one image. Parameters: Keras' documentation for
# its own networks; torchvision's for alexnet (61.1 M); Han et al. 2015 for the LeNets (266K and 431K weights).
# MACs: torchvision's tables (AlexNet 0.714 G, VGG-16 15.47 G), slim's (MobileNet V1 569 M, V2 300 M),
# the papers' (ResNet-50 3.8 G, EfficientNet-B0 0.39 G).
PUBLISHED = {
    "article-cnn": (121_930, 2_528_000),
    "lenet-300-100": (266_610, 266_200),
    "lenet-5-caffe": (431_080, 2_293_000),
    "alexnet": (61_100_840, 714_188_480),
    "alexnet-caffe": (60_965_224, 724_406_816),
    "vgg-16": (138_357_544, 15_470_264_320),
    "resnet-50": (25_636_712, 3_857_973_248),
    "mobilenet-v1": (4_253_864, 568_740_352),
    "mobilenet-v2": (3_538_984, 300_774_272),
    "efficientnet-b0": (5_330_571, 385_814_752),
}

# height = width of the output, filters, kernel, channels that one filter sees
ALEXNET = [(55, 64, 11, 3), (27, 192, 5, 64), (13, 384, 3, 192), (13, 256, 3, 384), (13, 256, 3, 256)]
ALEXNET_CAFFE = [(55, 96, 11, 3), (27, 256, 5, 48), (13, 384, 3, 256), (13, 384, 3, 192), (13, 256, 3, 192)]
ALEXNET_DENSE = [(6 * 6 * 256, 4096), (4096, 4096), (4096, 1000)]


@pytest.mark.parametrize("name", PUBLISHED)
def test_images_networks_have_the_published_parameters_and_macs(name):
    found = cost(build(name))
    assert (found.total.parameters, found.total.macs) == PUBLISHED[name]
    assert not found.not_counted


@pytest.mark.parametrize(("name", "convolutions"), [("alexnet", ALEXNET), ("alexnet-caffe", ALEXNET_CAFFE)])
def test_alexnet_layer_by_layer(name, convolutions):
    macs = [size**2 * filters * kernel**2 * seen for size, filters, kernel, seen in convolutions]
    macs += [inputs * outputs for inputs, outputs in ALEXNET_DENSE]
    assert [layer.cost.macs for layer in cost(build(name)).layers if layer.cost.macs] == macs
    assert sum(macs) == PUBLISHED[name][1]


def attention_macs(queries, keys, width):
    """Four projections; scores and their use, over all heads together."""
    return 2 * queries * width**2 + 2 * keys * width**2 + 2 * queries * keys * width


def feed_forward_macs(tokens, width, inner):
    return 2 * tokens * width * inner


def attention_parameters(width, biases=True):
    return 4 * (width**2 + biases * width)


def feed_forward_parameters(width, inner, biases=True):
    return 2 * width * inner + biases * (inner + width)


def test_transformer_base_by_hand():
    """Vaswani et al. 2017, table 3, base; 37,000 tokens shared between source, target and output."""
    vocabulary, width, inner, layers, s, t = 37_000, 512, 2048, 6, 20, 20
    norm = 2 * width
    encoder = attention_parameters(width) + feed_forward_parameters(width, inner) + 2 * norm
    decoder = 2 * attention_parameters(width) + feed_forward_parameters(width, inner) + 3 * norm
    parameters = vocabulary * width + layers * (encoder + decoder)
    assert parameters == 63_082_496

    macs = layers * (attention_macs(s, s, width) + feed_forward_macs(s, width, inner))
    macs += layers * (attention_macs(t, t, width) + attention_macs(t, s, width) + feed_forward_macs(t, width, inner))
    macs += t * width * vocabulary
    found = cost(build("transformer-base", sequence_length=s))
    assert (found.total.parameters, found.total.macs) == (parameters, macs)
    assert not found.not_counted


def bert_macs(tokens, width=768, inner=3072, layers=12):
    return layers * (attention_macs(tokens, tokens, width) + feed_forward_macs(tokens, width, inner))


def test_bert_base_by_hand():
    vocabulary, positions, types, width, inner, layers = 30_522, 512, 2, 768, 3072, 12
    norm = 2 * width
    layer = attention_parameters(width) + feed_forward_parameters(width, inner) + 2 * norm
    pooler = width * width + width
    parameters = (vocabulary + positions + types) * width + norm + layers * layer + pooler
    assert parameters == 109_482_240
    found = cost(build("bert-base"))
    assert found.total.parameters == parameters
    assert found.total.macs == bert_macs(128) + width * width  # the pooler sees one token
    assert not found.not_counted


@pytest.mark.parametrize(("tokens", "published"), [(128, 22.35), (256, 45.9), (384, 70.7), (512, 96.6)])
def test_bert_base_s_two_famous_numbers_are_two_lengths(tokens, published):
    """Published are the matrix products of the twelve layers, at two FLOPs a MAC; the pooler is 0.001 of it."""
    digits = len(str(published).split(".")[1])
    assert round(2 * bert_macs(tokens) / 1e9, digits) == published
    if tokens in (256, 512):
        found = cost(build("bert-base", sequence_length=tokens)).total.macs
        assert found == bert_macs(tokens) + 768 * 768


def test_gpt_2_by_hand_and_as_nanogpt_counts_it():
    vocabulary, tokens, width, layers = 50_257, 1024, 768, 12
    layer = attention_parameters(width, False) + feed_forward_parameters(width, 4 * width, False) + 2 * width
    parameters = (vocabulary + tokens) * width + layers * layer + width
    macs = layers * (attention_macs(tokens, tokens, width) + feed_forward_macs(tokens, width, 4 * width))
    macs += tokens * width * vocabulary
    assert (parameters, 2 * macs) == (124_337_664, 291_648_307_200)
    found = cost(build("gpt-2-124m"))
    assert (found.total.parameters, found.total.macs) == (parameters, macs)


def test_the_transformer_looks_at_positions_and_never_ahead():
    model = build("transformer-base", sequence_length=4)
    source, target = np.array([[5, 6, 7, 8]]), np.array([[1, 2, 3, 4]])
    scores = model([source, target]).numpy()
    assert scores.shape == (1, 4, 37_000)
    assert scores.sum(axis=-1) == pytest.approx(1, abs=1e-4)
    later = model([source, np.array([[1, 2, 3, 9]])]).numpy()
    assert later[0, :3] == pytest.approx(scores[0, :3], abs=1e-6)
    assert abs(later[0, 3] - scores[0, 3]).max() > 1e-6
    other = model([source[:, ::-1], target]).numpy()
    assert abs(other - scores).max() > 1e-6, "the order of the source matters: positions are in"
    assert model.get_layer("scores").kernel is model.get_layer("embedding").embeddings


def test_the_sinusoids_are_the_paper_s():
    """PE(pos, 2i) = sin(pos / 10000^(2i/d)), PE(pos, 2i+1) = cos of the same."""
    table = zoo._sinusoids(5, 8)
    for position in range(5):
        for i in range(4):
            angle = position / 10_000 ** (2 * i / 8)
            assert table[position, 2 * i] == pytest.approx(np.sin(angle))
            assert table[position, 2 * i + 1] == pytest.approx(np.cos(angle))


def test_gpt_2_never_looks_ahead_and_bert_does():
    gpt = build("gpt-2-124m", sequence_length=3)
    a = gpt([np.array([[1, 2, 3]]), np.array([[0, 1, 2]])]).numpy()
    b = gpt([np.array([[1, 2, 9]]), np.array([[0, 1, 2]])]).numpy()
    assert b[0, :2] == pytest.approx(a[0, :2], abs=1e-5)
    bert = build("bert-base", sequence_length=3)
    rest = [np.array([[0, 1, 2]]), np.array([[0, 0, 1]])]
    first = bert([np.array([[1, 2, 3]]), *rest]).numpy()
    assert first.shape == (1, 768)
    assert abs(bert([np.array([[1, 2, 9]]), *rest]).numpy() - first).max() > 1e-6


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("resnet50", "no network called 'resnet50': did you mean resnet-50"),
        ("VGG-16", "did you mean vgg-16"),
        ("zzz", "no network called 'zzz': The zoo has article-cnn, lenet-300-100"),
        (None, "no network called None"),
    ],
)
def test_an_unknown_name_is_answered_with_the_near_ones_and_all(name, says):
    with pytest.raises(ZooError, match=says) as error:
        build(name)
    assert all(known in str(error.value) for known in zoo.NAMES)


@pytest.mark.parametrize(
    ("name", "length", "says"),
    [
        ("bert-base", 513, "bert-base takes 1 to 512 tokens"),
        ("bert-base", 0, r"sequence_length=0\): bert-base takes"),
        ("gpt-2-124m", 2.5, "takes 1 to 1,024 tokens"),
        ("transformer-base", True, "takes 1 to"),
        ("vgg-16", 128, "vgg-16 takes images, not a sequence"),
    ],
)
def test_a_length_that_does_not_fit_is_refused(name, length, says):
    with pytest.raises(ZooError, match=says):
        build(name, sequence_length=length)
