"""More networks of the library transformers, of random weights: one line each. Texts, pictures, sounds, series, by torch's exporters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tools.models.networks import SMALL, TEXT, embedding, seeded, text_feed
from tools.models.numbers import Made
from tools.models.sources import Cache, export

_DECODER = {**SMALL, "num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_ENCODER = {**SMALL, "num_labels": 5, "pad_token_id": 0}
_PICTURE = {"num_labels": 5, "image_size": 32}
_VIT = {**SMALL, **_PICTURE, "patch_size": 8}
_WAVES = {
    **SMALL,
    "num_labels": 5,
    "conv_dim": (16, 16, 16),
    "conv_kernel": (10, 3, 2),
    "conv_stride": (5, 2, 2),
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 4,
    "num_feat_extract_layers": 3,
}

TEXTS: dict[str, tuple[str, str, Mapping[str, Any]]] = {
    "DistilBERT": ("encoder", "DistilBertForSequenceClassification",
                   {"vocab_size": 101, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48, "num_labels": 5}),
    "RoBERTa": ("positions counted from the padding", "RobertaForSequenceClassification", {**_ENCODER, "max_position_embeddings": 64}),
    "XLM-RoBERTa": ("the same, multilingual", "XLMRobertaForSequenceClassification", {**_ENCODER, "max_position_embeddings": 64}),
    "ALBERT": ("layers that share weights", "AlbertForSequenceClassification", {**_ENCODER, "embedding_size": 16}),
    "ELECTRA": ("embeddings of another width", "ElectraForSequenceClassification", {**_ENCODER, "embedding_size": 16}),
    "MPNet": ("relative positions in buckets", "MPNetForSequenceClassification", {**_ENCODER, "max_position_embeddings": 64}),
    "DeBERTa-v2": ("disentangled attention", "DebertaV2ForSequenceClassification",
                   {**_ENCODER, "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "max_relative_positions": 16}),
    "RoFormer": ("rotary positions in an encoder", "RoFormerForSequenceClassification", {**_ENCODER, "embedding_size": 32}),
    "SqueezeBERT": ("grouped convolutions for products", "SqueezeBertForSequenceClassification", {**_ENCODER, "embedding_size": 32}),
    "ConvBERT": ("convolutions of spans", "ConvBertForSequenceClassification", {**_ENCODER, "embedding_size": 32, "head_ratio": 2}),
    "FNet": ("Fourier transforms for attention", "FNetForSequenceClassification", _ENCODER),
    "ModernBERT": ("local and global attention, GLU", "ModernBertForSequenceClassification",
                   {**_ENCODER, "cls_token_id": 1, "sep_token_id": 2, "bos_token_id": 1, "eos_token_id": 2,
                    "attn_implementation": "eager"}),
    "Mistral": ("sliding window, grouped heads", "MistralForCausalLM", {**_DECODER, "sliding_window": 4}),
    "Qwen2": ("biases of queries and keys", "Qwen2ForCausalLM", _DECODER),
    "Qwen3": ("norms of queries and keys", "Qwen3ForCausalLM", {**_DECODER, "head_dim": 8}),
    "Gemma": ("scaled embeddings, GELU gates", "GemmaForCausalLM", {**_DECODER, "head_dim": 8}),
    "Gemma 2": ("capped scores", "Gemma2ForCausalLM", {**_DECODER, "head_dim": 8, "sliding_window": 4, "query_pre_attn_scalar": 8}),
    "Phi": ("partial rotary positions, parallel branches", "PhiForCausalLM", _DECODER),
    "OPT": ("learnt positions", "OPTForCausalLM",
            {"vocab_size": 101, "hidden_size": 32, "num_hidden_layers": 2, "ffn_dim": 48, "num_attention_heads": 4,
             "word_embed_proj_dim": 32, "max_position_embeddings": 64}),
    "GPT-NeoX": ("parallel branches", "GPTNeoXForCausalLM", {**SMALL, "max_position_embeddings": 64}),
    "GPT-J": ("interleaved rotary positions", "GPTJForCausalLM",
              {"vocab_size": 101, "n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 4, "n_positions": 64}),
    "BLOOM": ("ALiBi", "BloomForCausalLM", {"vocab_size": 101, "hidden_size": 32, "n_layer": 2, "n_head": 4}),
    "Falcon": ("one key for all heads", "FalconForCausalLM",
               {"vocab_size": 101, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "multi_query": True}),
    "StableLM": ("partial rotary positions, LayerNorm", "StableLmForCausalLM", _DECODER),
    "OLMo": ("norms without weights", "OlmoForCausalLM", _DECODER),
    "Granite": ("multipliers of all kinds", "GraniteForCausalLM", _DECODER),
    "StarCoder2": ("GELU, biases", "Starcoder2ForCausalLM", _DECODER),
    "Mamba": ("a state space, step by step", "MambaForCausalLM",
              {"vocab_size": 101, "hidden_size": 16, "state_size": 4, "num_hidden_layers": 1, "use_mambapy": False}),
}  # fmt: skip
"""Name: (what it is, class, settings)."""

PICTURES: dict[str, tuple[str, str, Mapping[str, Any]]] = {
    "DeiT": ("ViT with a second class token", "DeiTForImageClassification", _VIT),
    "BEiT": ("relative positions of patches", "BeitForImageClassification", {**_VIT, "use_relative_position_bias": True}),
    "DINOv2": ("layer scale, SwiGLU", "Dinov2ForImageClassification", {**_VIT, "use_swiglu_ffn": True}),
    "DINOv2 with registers": ("register tokens", "Dinov2WithRegistersForImageClassification", {**_VIT, "num_register_tokens": 2}),
    "MobileViT": ("convolutions and attention", "MobileViTForImageClassification",
                  {"num_labels": 5, "image_size": 64, "hidden_sizes": [16, 24, 32], "neck_hidden_sizes": [8, 8, 16, 16, 24, 24, 48]}),
    "SegFormer": ("reduced keys", "SegformerForImageClassification",
                  {"num_labels": 5, "depths": [1, 1, 1, 1], "hidden_sizes": [8, 8, 16, 16], "num_attention_heads": [1, 1, 2, 2]}),
    "SegFormer, masks": ("segmentation", "SegformerForSemanticSegmentation",
                         {"num_labels": 5, "depths": [1, 1, 1, 1], "hidden_sizes": [8, 8, 16, 16], "num_attention_heads": [1, 1, 2, 2],
                          "decoder_hidden_size": 16}),
    "ResNet": ("bottlenecks", "ResNetForImageClassification",
               {"num_labels": 5, "embedding_size": 8, "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}),
    "RegNet": ("grouped convolutions, squeeze and excite", "RegNetForImageClassification",
               {"num_labels": 5, "embedding_size": 8, "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "groups_width": 8}),
    "EfficientNet": ("SiLU, squeeze and excite", "EfficientNetForImageClassification",
                     {"num_labels": 5, "image_size": 32, "width_coefficient": 0.25, "depth_coefficient": 0.25, "hidden_dim": 320}),
    "MobileNetV1": ("depthwise convolutions, ReLU6", "MobileNetV1ForImageClassification", {**_PICTURE, "depth_multiplier": 0.25}),
    "MobileNetV2": ("inverted residuals", "MobileNetV2ForImageClassification", {**_PICTURE, "depth_multiplier": 0.25}),
    "PoolFormer": ("pooling for attention", "PoolFormerForImageClassification",
                   {"num_labels": 5, "depths": [1, 1, 1, 1], "hidden_sizes": [8, 16, 16, 24]}),
    "LeViT": ("attention that shrinks", "LevitForImageClassification",
              {"num_labels": 5, "image_size": 64, "hidden_sizes": [16, 24, 32], "num_attention_heads": [2, 2, 2], "depths": [1, 1, 1],
               "key_dim": [8, 8, 8]}),
    "Swin v2": ("cosine attention", "Swinv2ForImageClassification",
                {**_PICTURE, "patch_size": 2, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 4], "window_size": 4}),
    "PVT": ("a pyramid of attention", "PvtForImageClassification",
            {**_PICTURE, "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 2, 2, 4]}),
    "PVT v2": ("overlapping patches", "PvtV2ForImageClassification",
               {**_PICTURE, "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 2, 2, 4]}),
    "FocalNet": ("focal modulation", "FocalNetForImageClassification",
                 {**_PICTURE, "patch_size": 4, "embed_dim": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "focal_levels": [2, 2],
                  "focal_windows": [3, 3]}),
    "ConvNeXt V2": ("global response normalisation", "ConvNextV2ForImageClassification",
                    {"num_labels": 5, "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}),
    "SwiftFormer": ("additive attention", "SwiftFormerForImageClassification",
                    {"num_labels": 5, "image_size": 64, "depths": [1, 1, 1, 1], "embed_dims": [8, 16, 24, 32]}),
    "Hiera": ("pooled attention in stages", "HieraForImageClassification",
              {"num_labels": 5, "image_size": [64, 64], "embed_dim": 8, "depths": [1, 1, 1], "num_heads": [1, 2, 4], "patch_stride": [4, 4],
               "query_stride": [2, 2], "num_query_pool": 1, "masked_unit_size": [4, 4]}),
    "ViT-MSN": ("ViT of another training", "ViTMSNForImageClassification", _VIT),
    "YOLOS": ("a detector: ViT with tokens for boxes", "YolosForObjectDetection",
              {**_VIT, "image_size": [32, 32], "num_detection_tokens": 4}),
    "GLPN": ("depth of a scene", "GLPNForDepthEstimation",
             {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 8, 16, 16], "num_attention_heads": [1, 1, 2, 2], "decoder_hidden_size": 16}),
    "CLIP, picture side": ("pre-norm ViT", "CLIPVisionModelWithProjection", {**_VIT, "projection_dim": 12}),
    "SigLIP, picture side": ("attention pooling", "SiglipVisionModel", {**SMALL, "image_size": 32, "patch_size": 8}),
}  # fmt: skip

SOUNDS: dict[str, tuple[str, str, Mapping[str, Any], tuple[int, ...]]] = {
    "HuBERT": ("as Wav2Vec2", "HubertForSequenceClassification", _WAVES, (2, 2000)),
    "WavLM": ("gated relative positions", "WavLMForSequenceClassification", _WAVES, (2, 2000)),
    "SEW": ("squeezed in time", "SEWForSequenceClassification",
            {**_WAVES, "squeeze_factor": 2}, (2, 2000)),
    "UniSpeech": ("as Wav2Vec2", "UniSpeechForSequenceClassification", _WAVES, (2, 2000)),
    "Wav2Vec2-Conformer": ("convolutions between attention", "Wav2Vec2ConformerForSequenceClassification",
                           {**_WAVES, "conv_depthwise_kernel_size": 7}, (2, 2000)),
    "AST": ("ViT on spectrograms", "ASTForAudioClassification",
            {**SMALL, "num_labels": 5, "max_length": 48, "num_mel_bins": 32, "patch_size": 8, "frequency_stride": 8, "time_stride": 8},
            (2, 48, 32)),
    "Whisper encoder": ("convolutions, then attention", "WhisperForAudioClassification",
                        {"num_mel_bins": 16, "d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 48,
                         "max_source_positions": 20, "num_labels": 5, "vocab_size": 101, "pad_token_id": 0, "bos_token_id": 1,
                         "eos_token_id": 2, "decoder_start_token_id": 1, "classifier_proj_size": 8}, (2, 16, 40)),
    "PatchTST": ("a series in patches", "PatchTSTForClassification",
                 {"num_input_channels": 3, "context_length": 32, "patch_length": 8, "patch_stride": 8, "d_model": 16,
                  "num_attention_heads": 2, "num_hidden_layers": 1, "ffn_dim": 16, "num_targets": 5, "use_cls_token": True}, (2, 32, 3)),
    "PatchTSMixer": ("a series mixed by layers", "PatchTSMixerForTimeSeriesClassification",
                     {"num_input_channels": 3, "context_length": 32, "patch_length": 8, "patch_stride": 8, "d_model": 8, "num_layers": 1,
                      "num_targets": 5}, (2, 32, 3)),
}  # fmt: skip

NOT_BY_TORCHSCRIPT = ("FNet", "DINOv2 with registers", "PatchTST", "PatchTSMixer")
"""What this exporter of torch cannot write, or writes for one batch size only."""

BY_DYNAMO = NOT_BY_TORCHSCRIPT
"""What the other one writes."""

ANSWERS = ("logits", "prediction_outputs", "prediction_logits", "image_embeds", "pooler_output", "predicted_depth", "last_hidden_state")
"""What a network returns, by the library's names: the first that is there."""


def _network(cache: Cache, model: str, settings: Mapping[str, Any], **call: Any) -> Callable[[], Any]:
    """A module with one output. Weights are drawn as large as training leaves them: the library's own make scores of 1e-27."""
    import torch

    cache.libraries()
    import transformers

    def answer(told: Any) -> Any:
        return next(value for name in ANSWERS if (value := getattr(told, name, None)) is not None)

    class Plain(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            kind = getattr(transformers, model)
            self.inner = kind(kind.config_class(**settings))
            draw = torch.Generator().manual_seed(0)
            for name, weight in self.inner.named_parameters():
                if name.endswith("bias"):  # else exporters store one array of zeros for all
                    weight.data.copy_(0.2 * torch.rand(weight.shape, generator=draw) - 0.1)
                elif weight.ndim > 1 and "embed" not in name:
                    weight.data.copy_(torch.randn(weight.shape, generator=draw) * (1.5 / weight[0].numel()) ** 0.5)

    class OfIds(Plain):
        def forward(self, input_ids: Any) -> Any:
            return answer(self.inner(input_ids=input_ids, **call))

    class OfText(Plain):
        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            return answer(self.inner(input_ids=input_ids, attention_mask=attention_mask, **call))

    class OfTensor(Plain):
        def forward(self, x: Any) -> Any:
            return answer(self.inner(x))

    return OfTensor if model not in {entry[1] for entry in TEXTS.values()} else OfIds if model.startswith(UNMASKED) else OfText


UNMASKED = ("Mamba", "FNet")
"""Text models that take no mask."""


def text(model: str, settings: Mapping[str, Any], dynamo: bool) -> Callable[[Cache], Made]:
    """A text model, explained at its word embeddings."""

    def make(cache: Cache) -> Made:
        feed = text_feed(8)
        if model.startswith(UNMASKED):
            del feed["attention_mask"]
        network = seeded(_network(cache, model, settings, **({"use_cache": False} if "CausalLM" in model else {})))
        proto = export(network, feed, ["scores"], dynamo, {name: TEXT[name] for name in feed})
        return Made(proto, feed, {"input": embedding(proto)})

    return make


def tensor(model: str, settings: Mapping[str, Any], shape: tuple[int, ...], dynamo: bool) -> Callable[[Cache], Made]:
    """A model of pictures, waves or series: one tensor in."""

    def make(cache: Cache) -> Made:
        feed = {"x": np.random.default_rng(1).standard_normal(shape).astype(np.float32)}
        network = settled(seeded(_network(cache, model, settings)), feed["x"])
        proto = export(network, feed, ["scores"], dynamo, {"x": {0: "N"}})
        return Made(proto, feed, {})

    return make


def settled(network: Any, x: np.ndarray) -> Any:
    """The network with statistics of its own activations in every batch normalisation, as training leaves them."""
    import torch

    norms = [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None
        norm.train()
    with torch.no_grad():
        if norms:
            network(torch.from_numpy(np.concatenate([x, 0.5 * x[::-1] + 0.3])))
        for norm in norms:  # of four samples some units have hardly any variance, which would be divided by
            norm.running_var.clamp_(min=0.2)
    return network.eval()


def side(settings: Mapping[str, Any]) -> int:
    """Height and width of the pictures that a network takes."""
    size = settings.get("image_size", 32)
    return int(size[0] if isinstance(size, list) else size)
