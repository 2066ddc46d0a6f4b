"""The faster case-study model: its trainings, its routes, the choice between them, and the stored result."""

import json

import numpy as np
import pytest

from hwlimits import data
from hwlimits.pruning import PruningError
from hwlimits.training import fast_cnn, fast_cnn_training, fit, prune
from hwlimits.training import mnist as mnist_data
from hwlimits.training.distill import Teacher
from hwlimits.training.evaluate import accuracy_interval
from hwlimits.training.fast_cnn import FastCnnError, choose, executable, measure
from hwlimits.training.fast_cnn_training import Branch, branches, narrowed
from hwlimits.training.keras import keras, tf
from hwlimits.training.litert import LiteRTFile
from hwlimits.training.models import article_cnn
from hwlimits.training.recipe import Phase, Recipe

QUICK = {"rounds": 3, "attempts": 1, "min_sample_s": 1e-4}
FEW = dict.fromkeys(fast_cnn_training.FULL_EPOCHS, 1)


@pytest.fixture(scope="module")
def trained(tiny, tmp_path_factory):
    """Some of the tree's branches, trained for an epoch, and the folder where they are kept."""
    tf.config.experimental.enable_op_determinism()
    names = ("base", "8-16-32", "8-16-32 sparse", "designed")
    tree, folder = {name: branches(FEW)[name] for name in names}, tmp_path_factory.mktemp("fast")
    return tree, {name: branch.model(tiny, folder) for name, branch in tree.items()}, folder


@pytest.fixture(scope="module")
def files(trained, tiny):
    tree, _, folder = trained
    return fast_cnn_training.files(tree, tiny, folder)


@pytest.fixture(scope="module")
def measured(files, tiny):
    lenient = pytest.MonkeyPatch()
    lenient.setattr(fast_cnn, "HELD_OUT_ACCURACY", 0.0)
    void = pytest.MonkeyPatch()
    void.setattr("hwlimits.machine.timing.AA_TOLERANCE", np.inf)  # the tests are about something else than quiet
    found = measure(files, tiny.hold_out(40), tiny, **QUICK)
    lenient.undo()
    void.undo()
    return found


# --- the trainings -----------------------------------------------------------------------------


def test_the_tree_has_the_article_s_network_at_its_root_and_one_beside_it():
    tree = branches()
    roots = {branch.name for branch in tree.values() if branch.parent is None}
    assert roots == {"base", "designed"}
    for branch in tree.values():
        while branch.parent:
            branch = branch.parent
        assert branch.name in roots
    assert all(branch.teacher is (tree["base"] if branch.parent else None) for branch in tree.values())


def test_a_narrow_network_has_the_widths_that_its_name_says():
    model = article_cnn()
    for name, widths in fast_cnn_training.WIDTHS.items():
        found = narrowed(model, widths)
        sizes = [found.get_layer(layer).output_shape[-1] for layer in ("conv1", "conv2", "dense1")]
        assert "-".join(map(str, sizes)) == name
        assert found.get_layer("dense2").output_shape == (None, 10)


def test_the_filters_that_stay_are_those_of_the_largest_norm():
    model = article_cnn()
    kernel = model.get_layer("conv1").kernel.numpy()
    norms = np.array([np.abs(kernel[..., i]).sum() for i in range(32)])
    best = np.sort(np.argsort(norms)[-8:])
    found = narrowed(model, {"conv1": 8})
    assert np.array_equal(found.get_layer("conv1").kernel.numpy(), kernel[..., best])
    assert np.array_equal(
        found.get_layer("conv2").kernel.numpy(), model.get_layer("conv2").kernel.numpy()[:, :, best, :]
    )


@pytest.mark.parametrize("width", [0, 33])
def test_a_width_that_can_t_be_is_refused(width):
    with pytest.raises(PruningError, match=rf"narrowed: {width} filters of conv1, which has 32; keep 1 to all"):
        narrowed(article_cnn(), {"conv1": width})


def test_the_pruned_branch_has_the_zeros_of_its_recipe(trained):
    _, models, _ = trained
    prune.check_sparsity(prune.layer_sparsity(models["8-16-32 sparse"]), fast_cnn_training.SPARSITY)
    assert prune.layer_sparsity(models["8-16-32"])["conv2"] < 0.01


def test_what_is_trained_is_found_again_and_not_trained_twice(trained, tiny, capsys):
    _, models, folder = trained
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("phase-*.npz")}
    again = branches(FEW)["8-16-32 sparse"].model(tiny, folder)
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("phase-*.npz")}
    assert "epoch" not in capsys.readouterr().err
    for a, b in zip(again.get_weights(), models["8-16-32 sparse"].get_weights(), strict=True):
        assert np.array_equal(a, b)


def test_another_parent_teacher_or_width_has_another_folder():
    phases = (Phase(1, 1e-3),)
    base, longer = Branch("base", phases), Branch("base", (Phase(2, 1e-3),))
    kinds = [
        Branch("x", phases), Branch("x", phases, base), Branch("x", phases, longer), Branch("x", phases, teacher=base),
        Branch("x", phases, base, {"conv1": 8}), Branch("x", phases, build=fast_cnn_training.designed_cnn),
    ]  # fmt: skip
    marks = {branch.mark("mnist") for branch in kinds} | {kinds[0].mark("mnist-5k")}
    assert len(marks) == len(kinds) + 1


def test_a_network_learns_from_its_teacher(tiny, tmp_path):
    """A teacher that is sure of the digit after the right one is followed, as far as its weight goes."""
    tf.config.experimental.enable_op_determinism()
    keras.utils.set_random_seed(0)
    liar = keras.Sequential([keras.Input((28, 28, 1)), keras.layers.Flatten(), keras.layers.Dense(10, "softmax")])
    liar.set_weights([np.zeros((784, 10)), np.eye(10)[3] * 50])  # it sees a 3, always
    recipe = Recipe("small", 32, 0, (Phase(3, 5e-3),), {})
    shares = {}
    for weight in (0.0, 1.0):
        keras.utils.set_random_seed(0)
        teacher = Teacher(liar, temperature=1.0, weight=weight)
        student = fast_cnn_training.designed_cnn()
        model = fit.run(student, recipe, tiny, 0, tmp_path / str(weight), lambda *_: None, teacher=teacher)
        shares[weight] = np.mean(model.predict(mnist_data.scale(tiny.x_test), verbose=0).argmax(axis=1) == 3)
    assert shares[1.0] == 1.0
    assert shares[0.0] < 0.5


# --- the routes --------------------------------------------------------------------------------


def test_every_file_is_a_route_with_each_engine_that_takes_it(files):
    found = [(network, engine) for network, engine, _ in fast_cnn.routes(files)]
    assert found[0] == ("base", "LiteRT float32")
    assert len(found) == len(set(found)) == 3 * 3 + 2
    assert ("8-16-32 sparse", "LiteRT int8") not in found
    for _, engine, content in fast_cnn.routes(files):
        assert LiteRTFile(content).int8_weights == (engine == "LiteRT int8")


@pytest.mark.parametrize("name", ["base", "8-16-32", "8-16-32 sparse", "designed"])
def test_every_engine_answers_as_the_model_does_that_it_is_of(trained, files, tiny, name):
    """In float32 as the Keras model; in int8 as the file does in batches."""
    _, models, _ = trained
    expected = {"float32": models[name].predict(mnist_data.scale(tiny.x_test), verbose=0).argmax(axis=1)}
    if "int8" in files[name]:
        expected["int8"] = LiteRTFile(files[name]["int8"]).predict(tiny.x_test)
    routes = [engine for engine in fast_cnn.ENGINES if engine.split()[1] in expected]
    for engine in routes:
        kind = engine.split()[1]
        assert np.array_equal(executable(files[name][kind], engine).predict(tiny.x_test), expected[kind]), engine


def test_what_is_timed_is_what_gives_the_scores(files, tiny):
    """`invoke` computes: it puts back the scores of the last image where they were spoilt."""
    run = executable(files["8-16-32"]["float32"], "kernels float32")
    first = run.scores(tiny.x_test[0]).copy()
    network = run.invoke.__self__
    out = network._out
    network._memory[out.at : out.at + out.channels] = np.nan
    run.invoke()
    assert np.array_equal(network._memory[out.at : out.at + out.channels], first)


def test_an_engine_that_is_not_known_or_not_for_the_file_is_refused(files):
    with pytest.raises(FastCnnError, match="executable.engine='GPU'.: choose one of LiteRT float32, LiteRT int8"):
        executable(files["base"]["float32"], "GPU")
    with pytest.raises(FastCnnError, match="the weights of the file are int8; take the engine that is for them"):
        executable(files["base"]["int8"], "kernels float32")


def test_a_file_s_record_counts_what_its_zeros_save(files):
    record, sparse = (fast_cnn.file_record(files[name]["float32"]) for name in ("8-16-32", "8-16-32 sparse"))
    conv1, conv2 = 26 * 26 * 9 * 8, 11 * 11 * 72 * 16
    assert record["macs"] == sparse["macs"] == conv1 + conv2 + 400 * 32 + 32 * 10
    assert record["effective_macs"] > 0.99 * record["macs"]
    kept = conv1 + 0.3 * conv2 + 0.2 * 400 * 32 + 32 * 10
    assert sparse["effective_macs"] == pytest.approx(kept, rel=0.01)
    assert sparse["deflated_bytes"] < 0.6 * record["deflated_bytes"]
    assert record["parameters"] == 14_410


# --- the choice --------------------------------------------------------------------------------


def route(network, accuracy, ratio, verdict="faster"):
    return {"network": network, "held_out_accuracy": accuracy, "ratio": ratio, "verdict": verdict}


def test_the_fastest_of_those_that_are_right_often_enough_is_chosen():
    found = [
        route("base", 0.999, 9.0), route("a", 0.9930, 3.0), route("b", 0.9931, 4.0), route("c", 0.9929, 5.0),
        route("d", 0.995, 6.0, "VOID"), route("designed", 0.995, 7.0),
    ]  # fmt: skip
    assert choose(found) == 2


def test_no_choice_is_an_error_that_says_how_far_it_was():
    with pytest.raises(FastCnnError, match=r"held-out accuracy of 0.993, the best of them 0.9920; train longer"):
        choose([route("base", 0.999, 1.0), route("a", 0.992, 3.0)])
    with pytest.raises(FastCnnError, match=r"all 1 routes that are right often enough are VOID; measure again"):
        choose([route("a", 0.995, 3.0, "VOID"), route("b", 0.992, 3.0)])


def test_the_choice_is_made_before_a_test_image_is_seen(files, tiny, monkeypatch):
    seen = []

    def chooses(found):
        seen.extend(found[0])
        raise KeyboardInterrupt

    monkeypatch.setattr(fast_cnn, "choose", chooses)
    with pytest.raises(KeyboardInterrupt):
        measure({"base": files["base"]}, tiny.hold_out(40), tiny, **QUICK)
    assert "held_out_accuracy" in seen
    assert not [key for key in seen if key.startswith("test")]


def test_measuring_gives_every_route_with_the_designed_one_apart(measured):
    networks = {record["network"] for record in measured["routes"]}
    assert networks == {"base", "8-16-32", "8-16-32 sparse"}
    assert {record["network"] for record in measured["designed_apart"]} == {"designed"}
    assert len(measured["routes"]) == 8
    first = measured["routes"][0]
    assert (first["network"], first["engine"]) == ("base", "LiteRT float32")
    for record in measured["routes"] + measured["designed_apart"]:
        check_record(record, first, held_out=40, test=100)
    best = max((r for r in measured["routes"] if r["network"] != "base"), key=lambda r: r["ratio"])
    assert measured["chosen"] == {key: best[key] for key in ("network", "engine")}
    assert fast_cnn.chosen_route(measured) is best
    assert fast_cnn.summary(best).startswith(best["network"])


def test_a_result_is_stored_whole_and_never_with_a_void_comparison(measured, tmp_path):
    kept = [record | {"verdict": "faster"} for record in measured["routes"]]
    good = measured | {"routes": kept, "designed_apart": []}
    fast_cnn.store(good, b"a file", tmp_path)
    assert json.loads((tmp_path / "fast_cnn.json").read_text()) == good
    assert (tmp_path / "fast_cnn.tflite").read_bytes() == b"a file"
    bad = good | {"designed_apart": [measured["designed_apart"][0] | {"verdict": "VOID"}]}
    with pytest.raises(SystemExit, match="not stored: void comparisons of designed by LiteRT float32; run again on a"):
        fast_cnn.store(bad, b"another", tmp_path)
    assert (tmp_path / "fast_cnn.tflite").read_bytes() == b"a file"
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".tflite"]


# --- the stored result -------------------------------------------------------------------------


def check_record(record, baseline, held_out, test):
    """A record agrees with itself."""
    for prefix, images in (("held_out", held_out), ("test", test)):
        share = record[f"{prefix}_accuracy"]
        assert record[f"{prefix}_images"] == images
        interval = record[f"{prefix}_accuracy_low"], record[f"{prefix}_accuracy_high"]
        assert interval == pytest.approx(accuracy_interval(round(share * images), images))
    assert record["ratio_low"] <= record["ratio"] <= record["ratio_high"]
    differ = record["mcnemar_vs_baseline"]
    gained = differ["only_b_right"] - differ["only_a_right"]
    assert gained == round((record["test_accuracy"] - baseline["test_accuracy"]) * test)
    assert record["deflated_bytes"] <= record["raw_bytes"]
    assert record["nonzero_parameters"] <= record["parameters"]
    assert record["effective_macs"] <= record["macs"]


@pytest.fixture(scope="module")
def stored():
    return fast_cnn.stored()


def test_the_stored_routes_agree_with_themselves_and_none_is_void(stored):
    records = stored["routes"] + stored["designed_apart"]
    assert stored["dataset"] == "mnist"
    for record in records:
        check_record(record, stored["routes"][0], held_out=5_000, test=10_000)
        assert record["verdict"] != "VOID"
        assert abs(record["aa_control"] - 1) <= 0.03
        assert record["ratio"] == pytest.approx(record["baseline_median_s"] / record["median_s"], rel=0.05)
    assert {(r["network"], r["engine"]) for r in records} == {
        (name, engine)
        for name, branch in branches().items()
        for engine in fast_cnn.ENGINES
        if engine != "LiteRT int8" or not any(phase.sparsity for phase in branch.phases)
    }


def test_the_stored_trainings_are_those_of_the_code(stored):
    assert stored["training_images"] == 55_000
    assert stored["trainings"] == {name: branch.record() for name, branch in branches().items()}


def test_the_stored_choice_follows_the_rule(stored):
    assert stored["rule"] == fast_cnn.RULE
    assert stored["routes"][choose(stored["routes"])] is fast_cnn.chosen_route(stored)


def test_the_chosen_model_meets_both_targets(stored):
    chosen = fast_cnn.chosen_route(stored)
    assert chosen["test_accuracy"] >= fast_cnn.TEST_ACCURACY
    assert chosen["ratio_low"] >= 1 / fast_cnn.TIME_SHARE
    assert chosen["network"] not in ("base", "designed")


def test_the_stored_file_is_the_one_that_was_measured(stored):
    chosen, content = fast_cnn.chosen_route(stored), data.path("results/fast_cnn.tflite").read_bytes()
    record = fast_cnn.file_record(content)
    assert record == {key: chosen[key] for key in record}


def test_the_stored_file_gets_the_accuracy_that_is_stored(stored):
    mnist = mnist_data.load()
    if mnist.source != "mnist":
        pytest.skip("needs all of MNIST: set HWLIMITS_MNIST")
    right = fast_cnn.stored_run().predict(mnist.x_test) == mnist.y_test
    # kernels of another processor may round otherwise: a few images in ten thousand
    assert np.mean(right) == pytest.approx(fast_cnn.chosen_route(stored)["test_accuracy"], abs=0.0005)
