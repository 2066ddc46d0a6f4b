"""A Keras model's configuration, checked before anything is made of it.

Keras builds a model from a tree of class names and arguments, and some of them are code: a Lambda
layer carries Python bytecode, a custom class is imported, a lookup layer opens the file it names.
So the tree is copied here, and only what is known gets into the copy: layers that compute and
nothing else, with plain arguments. Where a class is to be found is written anew, not taken over.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

MAX_DEPTH = 60  # of the tree; a model in a model in a wrapper has about 15
MAX_CALLS = 5_000  # of layers, each time one is called; the deepest of keras.applications has about 1,050
MAX_PASSES = 200  # over the layers until each call has its inputs; a shared layer takes one for each call

WHAT_TO_DO = "Count the model where it was made, with hwlimits.training.cost, or save it with Keras' own layers only."

_LAYERS = """
Activation ActivityRegularization AdaptiveAveragePooling1D AdaptiveAveragePooling2D AdaptiveAveragePooling3D
AdaptiveMaxPooling1D AdaptiveMaxPooling2D AdaptiveMaxPooling3D Add AdditiveAttention AlphaDropout Attention Average
AveragePooling1D AveragePooling2D AveragePooling3D BatchNormalization Bidirectional CategoryEncoding CenterCrop
Concatenate Conv1D Conv1DTranspose Conv2D Conv2DTranspose Conv3D Conv3DTranspose ConvLSTM1D ConvLSTM2D ConvLSTM3D
Cropping1D Cropping2D Cropping3D Dense DepthwiseConv1D DepthwiseConv2D Dot Dropout ELU EinsumDense Embedding Flatten
GRU GRUCell GaussianDropout GaussianNoise GlobalAveragePooling1D GlobalAveragePooling2D GlobalAveragePooling3D
GlobalMaxPooling1D GlobalMaxPooling2D GlobalMaxPooling3D GroupNormalization GroupQueryAttention
GroupedQueryAttention Identity InputLayer LSTM LSTMCell LayerNormalization LeakyReLU Masking
MaxPooling1D MaxPooling2D MaxPooling3D Maximum Minimum MultiHeadAttention Multiply
Normalization PReLU Permute RMSNormalization RNN RandomBrightness RandomContrast RandomCrop RandomFlip RandomRotation
RandomTranslation RandomZoom ReLU RepeatVector Rescaling Reshape Resizing ReversibleEmbedding SeparableConv1D
SeparableConv2D SimpleRNN SimpleRNNCell Softmax SpatialDropout1D SpatialDropout2D SpatialDropout3D StackedRNNCells
Subtract ThresholdedReLU TimeDistributed UnitNormalization UpSampling1D UpSampling2D UpSampling3D ZeroPadding1D
ZeroPadding2D ZeroPadding3D
"""
_INITIALIZERS = """
Constant GlorotNormal GlorotUniform HeNormal HeUniform Identity IdentityInitializer LecunNormal LecunUniform Ones
Orthogonal OrthogonalInitializer RandomNormal RandomUniform TruncatedNormal VarianceScaling Zeros
"""
_KINDS = {
    "initializers": _INITIALIZERS,
    "regularizers": "L1 L1L2 L2 OrthogonalRegularizer",
    "constraints": "MaxNorm MinMaxNorm NonNeg RadialConstraint UnitNorm",
}
_ACTIVATIONS = """
celu elu exponential gelu glu hard_shrink hard_sigmoid hard_silu hard_swish hard_tanh leaky_relu linear log_sigmoid
log_softmax mish relu relu6 selu sigmoid silu soft_shrink softmax softplus softsign sparse_plus sparse_sigmoid
sparsemax squareplus swish tanh tanh_shrink threshold
"""

# functions of TensorFlow that tf_keras calls between layers (x + y, tf.concat): arithmetic and moving data about
_FUNCTIONS = """
__operators__.add __operators__.getitem abs add add_n argmax argmin broadcast_to cast clip_by_value concat cos divide
einsum equal exp expand_dims floor gather greater greater_equal identity less less_equal linalg.matmul
logical_and logical_not logical_or math.abs math.add math.add_n math.argmax math.argmin math.cos math.cumsum
math.divide math.divide_no_nan math.equal math.erf math.exp math.floor math.floordiv math.floormod math.greater
math.greater_equal math.l2_normalize math.less math.less_equal math.log math.log1p math.logical_and
math.logical_not math.logical_or math.maximum math.minimum math.multiply math.negative math.not_equal math.pow
math.reciprocal math.reduce_all math.reduce_any math.reduce_logsumexp math.reduce_max math.reduce_mean
math.reduce_min math.reduce_prod math.reduce_std math.reduce_sum math.reduce_variance math.round math.rsqrt
math.sigmoid math.sign math.sin math.softplus math.sqrt math.square math.squared_difference math.subtract
math.tanh math.truediv matmul maximum minimum multiply negative nn.avg_pool nn.conv2d nn.depth_to_space nn.elu
nn.gelu nn.l2_normalize nn.leaky_relu nn.local_response_normalization nn.log_softmax nn.max_pool nn.relu nn.relu6
nn.selu nn.sigmoid nn.silu nn.softmax nn.softplus nn.softsign nn.space_to_depth nn.swish nn.tanh not_equal
ones_like pad pow reduce_all reduce_any reduce_max reduce_mean reduce_min reduce_prod reduce_sum repeat reshape
reverse round shape sigmoid sign sin slice split sqrt square squeeze stack stop_gradient strided_slice subtract
tanh tile transpose where zeros_like
"""

# operations of Keras 3 between layers, by the module that has them
_OPERATIONS = {
    "numpy": """
    Abs Absolute Add Amax Amin Argmax Argmin BroadcastTo Ceil Clip Concatenate Cos Cumsum Divide Dot Einsum Equal Exp
    ExpandDims Flip Floor FloorDivide GetItem Greater GreaterEqual Less LessEqual Log Log1p LogicalAnd LogicalNot
    LogicalOr Matmul Max Maximum Mean Min Minimum Mod Moveaxis Multiply Negative NotEqual OnesLike Outer Pad Power Prod
    Ravel Reciprocal Repeat Reshape Roll Round Sign Sin Split Sqrt Square Squeeze Stack Std Subtract Sum Swapaxes Take
    Tanh Tensordot Tile Transpose Tril Triu TrueDivide Var Where ZerosLike""",
    "nn": """
    AveragePool BatchNorm Celu Conv ConvTranspose DepthToSpace DepthwiseConv DotProductAttention Elu Gelu Glu
    HardSigmoid HardSilu HardTanh LayerNorm LeakyRelu LogSigmoid LogSoftmax MaxPool Normalize OneHot RMSNorm Relu Relu6
    Selu SeparableConv Sigmoid Silu Softmax Softplus Softsign SpaceToDepth SparsePlus Squareplus""",
    "core": "Cast ConvertToTensor Slice StopGradient",
    "math": "Erf Logsumexp Rsqrt",
    "linalg": "Norm",
    "image": "Resize",
}
_DTYPES = (
    "bool",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "float16",
    "bfloat16",
    "float32",
    "float64",
)


class ConfigError(ValueError):
    """A configuration holds what is not built here: the message says what, and where in the tree."""


def checked(config: object, keras_3: bool) -> dict:
    """A copy of a model's configuration that holds nothing but layers that compute, and plain arguments.

    keras_3   the Keras that wrote it: 3, or else 2, which is tf_keras

    Raises ConfigError for anything else: code, a class of another module, a layer not known here.
    """
    if not isinstance(config, dict) or config.get("class_name") not in ("Sequential", "Functional", "Model"):
        named = config.get("class_name") if isinstance(config, dict) else type(config).__name__
        raise ConfigError(
            f"the model is of a class of its own ({_short(named)}), whose code the file does not hold and this course "
            f"would not run. {WHAT_TO_DO}"
        )
    copy = _Copy(keras_3).copy(config, "model", "", 0)
    if _calls(copy) > MAX_CALLS:
        raise ConfigError(f"its layers are called {_calls(copy):,} times; up to {MAX_CALLS:,} are built here")
    return copy


class _Copy:
    def __init__(self, keras_3: bool):
        self.keras_3 = keras_3
        self.kinds = {name: f"keras.{kind}" for kind, names in _KINDS.items() for name in names.split()}
        self.operations = {}
        if keras_3:
            self.operations = {
                name: f"keras.src.ops.{module}" for module, names in _OPERATIONS.items() for name in names.split()
            }
        self.layers = set(_LAYERS.split())
        self.strings = {
            "activation": set(_ACTIVATIONS.split()),
            **{kind[:-1]: {_flat(name) for name in names.split()} | {"uniform", "normal", "one", "zero"}
               for kind, names in _KINDS.items()},
        }  # fmt: skip

    def copy(self, value, path: str, key: str, depth: int):
        if depth > MAX_DEPTH:
            raise ConfigError(f"{path[:80]}... is nested more than {MAX_DEPTH} deep")
        if value is None or isinstance(value, bool | int | float):
            return value
        if isinstance(value, str):
            return self.string(value, path, key)
        if isinstance(value, list):
            return [self.copy(x, path, key, depth + 1) for x in value]
        if "class_name" in value:
            return self.object(value, path, key, depth)
        return {k: self.copy(v, f"{path}.{k}", k, depth + 1) for k, v in value.items()}

    def string(self, value: str, path: str, key: str) -> str:
        """A string that names a function is looked up by Keras: it must be one of Keras' own."""
        kind = next((kind for kind in self.strings if key == kind or key.endswith(f"_{kind}")), None)
        if kind and value not in self.strings[kind] and _flat(value) not in self.strings[kind]:
            raise ConfigError(f"{path} is {_short(value)}, which is none of Keras' {kind}s. {WHAT_TO_DO}")
        if inner := re.fullmatch(r"<dtype: '(\w+)'>", value):
            return inner[1]
        return value

    def object(self, value: dict, path: str, key: str, depth: int):
        name, config, module = value["class_name"], value.get("config"), value.get("module")
        path = f"{path}/{config['name']}" if isinstance(config, dict) and isinstance(config.get("name"), str) else path
        if not isinstance(name, str) or not isinstance(module, str | None):
            raise ConfigError(f"{path} is of no class")
        if name in ("Lambda", "__lambda__"):
            raise ConfigError(
                f"{path} is a Lambda: Python code stored in the file. It is not run here, whoever the file is from. "
                f"{WHAT_TO_DO}"
            )
        if name.startswith("__"):
            return self.special(name, value, path, depth)
        package = (module or "keras").split(".")[0]
        if package not in ("keras", "tf_keras") and (name, module) != ("function", "builtins"):
            raise ConfigError(
                f"{path} is {_short(f'{module}.{name}')}: code from outside Keras, not run here. {WHAT_TO_DO}"
            )
        if name == "function":  # a function by its name; as a string it can only be one of Keras' own
            if not isinstance(config, str) or not any(key == k or key.endswith(f"_{k}") for k in self.strings):
                raise ConfigError(
                    f"{path} is the function {_short(config)}, not one of Keras' activations. {WHAT_TO_DO}"
                )
            return self.string(config, path, key)
        registered = value.get("registered_name")
        if registered not in (None, name) and registered != f"Keras>{name}":
            raise ConfigError(
                f"{path} is the custom class {_short(registered)}: its code is not run here. {WHAT_TO_DO}"
            )
        if not isinstance(config, dict):
            raise ConfigError(f"{path} ({_short(name)}) has no arguments")
        return self.known(name, module, value, config, path, depth)

    def known(self, name: str, module: str | None, value: dict, config: dict, path: str, depth: int) -> dict:
        found = {"class_name": name, "module": "keras.layers", "registered_name": None}
        is_operation = name in self.operations and (
            module.startswith("keras.src.ops") if module else not {"trainable", "dtype"} & config.keys()
        )
        if name in ("Functional", "Model"):
            found |= {"class_name": "Functional", "registered_name": "Functional"}
            found["module"] = "keras.src.models.functional" if self.keras_3 else "keras.src.engine.functional"
        elif name == "Sequential":
            found["module"] = "keras"
        elif is_operation:
            found |= {"module": self.operations[name], "registered_name": name}
        elif name in self.kinds and not (name == "Identity" and (module == "keras.layers" or "trainable" in config)):
            found["module"] = self.kinds[name]
        elif name in ("DTypePolicy", "FloatDTypePolicy", "Policy"):
            found |= (
                {"class_name": "DTypePolicy", "module": "keras"}
                if self.keras_3
                else {"module": "keras.mixed_precision"}
            )
        elif name in ("TFOpLambda", "SlicingOpLambda") and not self.keras_3:
            function = config.get("function")
            if not isinstance(function, str) or function.removeprefix("compat.v1.") not in _FUNCTIONS.split():
                raise ConfigError(
                    f"{path} calls tf.{_short(function)}: only plain arithmetic is built here. {WHAT_TO_DO}"
                )
            found |= {"module": "keras.src.layers.core.tf_op_layer", "registered_name": name}
        elif name not in self.layers:
            raise ConfigError(f"{path} is of the class {_short(name)}, which this course does not load. {WHAT_TO_DO}")
        found["config"] = self.copy(config, path, "", depth + 1)
        if isinstance(found["config"].get("layers"), list):
            found["config"]["layers"] = _Layers(found["config"]["layers"])
        if found["config"].get("unroll"):
            found["config"]["unroll"] = False  # the same arithmetic, without a layer for each step
        for k in ("build_config", "inbound_nodes", "name", "shared_object_id"):
            if k in value:
                found[k] = self.copy(value[k], f"{path}.{k}", k, depth + 1)
        if not isinstance(found.get("inbound_nodes", []), list):
            raise ConfigError(f"{path} has no list of calls")
        splits = name == "Split" or config.get("function") == "split"
        if splits and max(_integers([found["config"], found.get("inbound_nodes")]), default=0) > MAX_CALLS:
            raise ConfigError(f"{path} splits something into more than {MAX_CALLS:,} parts")
        for node in found.get("inbound_nodes", []):
            if node and not any(_references(node)):  # it would be computed at once, whatever its size
                raise ConfigError(f"{path} is called without the output of another layer")
        return found

    def special(self, name: str, value: dict, path: str, depth: int):
        config = value.get("config")
        if name == "__keras_tensor__" and isinstance(config, dict):
            return {"class_name": name, "config": self.copy(config, path, "", depth + 1)}
        if name in ("__numpy__", "__tensor__") and isinstance(config, dict) and config.get("dtype") in _DTYPES:
            return {
                "class_name": name,
                "config": {"value": _numbers(config.get("value"), path, depth), "dtype": config["dtype"]},
            }
        if name == "__tuple__" and isinstance(value.get("items"), list):
            items = [self.copy(x, path, "", depth + 1) for x in value["items"]]
            return items if any(isinstance(x, str) for x in items) else tuple(items)  # ("CompositeTensor", ...) is run
        if name == "__ellipsis__":
            return {"class_name": name, "config": {}} if self.keras_3 else ...
        if name == "__slice__" and isinstance(config, dict):
            return {"class_name": name, "config": self.copy(config, path, "", depth + 1)}
        raise ConfigError(f"{path} is {_short(name)}, which this course does not load. {WHAT_TO_DO}")


class _Layers(list):
    """A model's layers, to be gone through so often: tf_keras never ends where two calls wait for each other."""

    passes = 0

    def __iter__(self):
        self.passes += 1
        if self.passes > MAX_PASSES:
            raise ConfigError("the calls of its layers wait for each other, or for one that there is not")
        return super().__iter__()


def _numbers(value, path: str, depth: int):
    if isinstance(value, bool | int | float):
        return value
    if isinstance(value, list) and depth < MAX_DEPTH:
        return [_numbers(x, path, depth + 1) for x in value]
    raise ConfigError(f"{path} has an array that is not of numbers")


def _integers(value) -> Iterator[int]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for x in value:
            yield from _integers(x)
    elif isinstance(value, int):
        yield value


def _references(node) -> Iterator[bool]:
    """Whether a call of a layer takes another layer's output: one True for each that it does."""
    if isinstance(node, dict):
        if node.get("class_name") == "__keras_tensor__":
            yield True
        else:
            for x in node.values():
                yield from _references(x)
    elif isinstance(node, list | tuple):
        if len(node) >= 3 and isinstance(node[0], str) and type(node[1]) is type(node[2]) is int and node[1] >= 0:
            yield True
        for x in node:
            yield from _references(x)


def _calls(value) -> int:
    """How many calls of layers a configuration stands for: a model called twice calls all of its layers twice."""
    if isinstance(value, list | tuple):
        return sum(map(_calls, value))
    if not isinstance(value, dict):
        return 0
    inside = sum(_calls(x) for k, x in value.items() if k not in ("inbound_nodes", "build_config"))
    if "class_name" not in value or str(value.get("module")) not in _CALLED:
        return inside
    # a wrapper calls what it wraps a few times while its shapes are worked out
    wraps = 4 if {"layer", "cell", "cells", "backward_layer"} & value.get("config", {}).keys() else 1
    return max(len(value.get("inbound_nodes", ())), 1) * max(wraps * inside, 1)


_CALLED = {"keras.layers", "keras", "keras.src.models.functional", "keras.src.engine.functional",
           "keras.src.layers.core.tf_op_layer", *(f"keras.src.ops.{module}" for module in _OPERATIONS)}  # fmt: skip


def _flat(name: str) -> str:
    return name.replace("_", "").lower()


def _short(value) -> str:
    text = repr(value) if not isinstance(value, str) else value
    text = "".join(c if c.isprintable() else "?" for c in text)
    return text if len(text) <= 60 else text[:60] + "..."
