"""python make_repository.py explained.onnx models/ [name]: a model repository for Triton's ONNX Runtime backend. `pip install onnx`.

Writes models/NAME/config.pbtxt and models/NAME/1/model.onnx; `tritonserver --model-repository=models` serves it.
"""

import shutil
import sys
from pathlib import Path

import onnx

MOST = 8
"""Samples in a batch that Triton may put together, where the model leaves the batch open."""


def is_open(value: onnx.ValueInfoProto) -> bool:
    """Whether the first axis has no fixed size."""
    dims = value.type.tensor_type.shape.dim
    return len(dims) > 0 and not dims[0].HasField("dim_value")


def tensor(value: onnx.ValueInfoProto, batched: bool) -> str:
    """One input or output. Triton does not count the axis of samples; what is then left without axes is one number, given another shape."""
    kind = onnx.TensorProto.DataType.Name(value.type.tensor_type.elem_type)
    name = {"FLOAT": "FP32", "FLOAT16": "FP16", "DOUBLE": "FP64"}.get(kind, kind)
    dims = [d.dim_value if d.HasField("dim_value") else -1 for d in value.type.tensor_type.shape.dim][1 if batched else 0 :]
    shape = f"dims: [ {', '.join(map(str, dims or [1]))} ]" + ("" if dims else " reshape: { shape: [ ] }")
    return f'  {{ name: "{value.name}" data_type: TYPE_{name} {shape} }}'


def config(model: onnx.ModelProto, name: str) -> str:
    """The text of config.pbtxt."""
    weights = {t.name for t in model.graph.initializer}
    inputs = [i for i in model.graph.input if i.name not in weights]
    outputs = list(model.graph.output)
    batched = all(map(is_open, (*inputs, *outputs)))
    return (
        f'name: "{name}"\nbackend: "onnxruntime"\nmax_batch_size: {MOST if batched else 0}\n'
        + "input [\n" + ",\n".join(tensor(i, batched) for i in inputs) + "\n]\n"
        + "output [\n" + ",\n".join(tensor(o, batched) for o in outputs) + "\n]\n"
        + (f"dynamic_batching {{ preferred_batch_size: [ {MOST} ] max_queue_delay_microseconds: 1000 }}\n" if batched else "")
    )  # fmt: skip


if __name__ == "__main__":
    source, repository = Path(sys.argv[1]), Path(sys.argv[2])
    called = sys.argv[3] if len(sys.argv) > 3 else source.stem
    folder = repository / called
    (folder / "1").mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, folder / "1" / "model.onnx")
    (folder / "config.pbtxt").write_text(config(onnx.load(str(source), load_external_data=False), called))
    print(folder / "config.pbtxt")
