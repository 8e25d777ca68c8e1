"""Operators of ONNX Runtime (com.microsoft) that are neither walked nor written in standard ones: why, and what to do instead."""

from __future__ import annotations

from onnxsal.ops.expansion import MICROSOFT
from onnxsal.ops.registry import not_differentiable, not_yet

not_differentiable("it chooses or counts whole numbers", "BifurcationDetector", "DynamicTimeWarping", "IsAllFinite", domain=MICROSOFT)
not_differentiable("it reads text or hashes whole numbers", "MurmurHash3", "Tokenizer", domain=MICROSOFT)
not_differentiable("it hashes whole numbers", "NGramHashMapping", "VarlenNGramHashMapping", domain=MICROSOFT)

_UNOPTIMISED = "it is written by ONNX Runtime's optimiser for one kind of processor. Use the unoptimised model"
_GPU = "ONNX Runtime has no kernel on CPU for it. Use the model before it was converted for this"

not_yet(
    "it chooses tokens one after the other. Explain the encoder or the decoder by itself, each exported to a file of its own",
    *("BeamSearch", "GreedySearch", "Sampling", "WhisperBeamSearch"),
    domain=MICROSOFT,
)
not_yet(
    f"it packs texts without their padding, and {_GPU} (convert_to_packing_mode)",
    *("PackedAttention", "PackedMultiHeadAttention", "RemovePadding", "RestorePadding"),
    domain=MICROSOFT,
)
not_yet(
    f"it keeps its past in pages or by indices of few keys, and {_GPU}",
    *("PagedAttention", "SparsePagedAttention", "SparseAttentionIndexer", "PackedSparseAttentionIndexer", "DynamicSparseAttention"),
    domain=MICROSOFT,
)
not_yet(
    "it decodes one token with a shared buffer. Use the model as exported, before it was fitted for beam search",
    *("DecoderAttention", "DecoderMaskedSelfAttention", "NGramRepeatBlock"),
    domain=MICROSOFT,
)
not_yet(
    "it attends to blocks or windows of keys only. Export the model with attention written out",
    *("LongformerAttention", "SparseAttention"),
    domain=MICROSOFT,
)
not_yet(
    "it carries a state from token to token. Export the model with that recurrence written out (Loop or Scan)",
    *("LinearAttention", "GatedDeltaNet", "AttnLSTM", "VarlenCausalConvWithState"),
    domain=MICROSOFT,
)
not_yet("use the standard DFT, which is known", "Rfft", "Irfft", domain=MICROSOFT)
not_yet("use the standard MaxPool, which is followed", "MaxpoolWithMask", domain=MICROSOFT)
not_yet("use Gather and Conv, which are followed", "WordConvEmbedding", domain=MICROSOFT)
not_yet("use Gather, which is followed", "TorchEmbedding", domain=MICROSOFT)
not_yet("use the standard Unique, or none", "Unique", domain=MICROSOFT)
not_yet("export the model with dense weights", "SparseToDenseMatMul", domain=MICROSOFT)
not_yet("export the model for inference, in which nothing is dropped", "BitmaskBiasDropout", "BitmaskDropout", domain=MICROSOFT)
not_yet(_UNOPTIMISED, "NhwcFusedConv", "GemmaRotaryEmbedding", domain=MICROSOFT)
not_yet("it holds a model compiled for one device. Use the original model", "EPContext", "Snpe", domain=MICROSOFT)
