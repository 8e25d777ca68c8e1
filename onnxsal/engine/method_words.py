"""What words for whole families of methods could mean, which readers of papers and users of other libraries know them by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache


@dataclass(frozen=True)
class Meaning:
    """A word that names no one method: what it is, and the methods here that it could mean, with what tells them apart."""

    what: str
    methods: Mapping[str, str]

    def __str__(self) -> str:
        listed = "".join(f"\n  {name:<24}{why}" for name, why in self.methods.items())
        return f"{self.what}{':' if listed else '.'}{listed}"


CAM = Meaning(
    "class activation maps are a family",
    {
        "gradcam": "gradients weigh the channels of the last convolution; with a mean before the last layer this is CAM itself",
        "gradcam_plus_plus": "weights that count every place where a class is seen",
        "layercam": "a weight for every place: also for earlier, finer layers",
        "scorecam": "weights by running the model on masked pictures, without gradients",
    },
)
LRP = Meaning(
    "layer-wise relevance propagation is a family; which rule goes to which layer is what tells its members apart",
    {
        "lrp_zero": 'LRP-0 everywhere; what extends = "lrp" and captum\'s LRP are',
        "lrp_epsilon": "LRP-epsilon everywhere: less noise",
        "lrp_epsilon_plus": "epsilon for dense layers, only positive weights for convolutions",
        "lrp_epsilon_gamma_box": "epsilon, gamma, and the range of pixels at the input: for pictures, as published for VGG",
        "lrp_resnet": "for networks with residual additions",
        "attnlrp": "for transformers",
    },
)
SHAP = Meaning(
    "SHAP is a family of estimates of Shapley values",
    {
        "shapley_sampling": "any model, by running it: exact for up to 12 groups, else with standard errors (KernelSHAP's question)",
        "deeplift": "one pass against one baseline: DeepSHAP is its mean over several",
        "integrated_gradients": "a path from one baseline: GradientSHAP (expected gradients) is its mean over several",
    },
)
LIME = Meaning(
    "LIME fits a linear model to the answers around a sample, and is not here; what answers the same question without the fit is",
    {
        "shapley_sampling": "what each group of inputs adds, on average over all others",
        "feature_ablation": "what is lost where a group is taken away",
        "occlusion": "what is lost where a window of the picture is hidden",
    },
)
ATTENTION = Meaning(
    "attention can be followed in several ways",
    {
        "attention_rollout": "attention alone, the same for every class",
        "chefer": "attention times its gradient, of a class",
        "attnlrp": "relevance through the whole transformer",
    },
)

MEANINGS: dict[str, Meaning] = {
    **dict.fromkeys(("cam", "eigencam", "xgradcam", "hirescam", "ablationcam", "layercampp", "finercam"), CAM),
    **dict.fromkeys(("shap", "kernelshap", "deepshap", "deepliftshap", "gradientshap", "expectedgradients", "deepexplainer"), SHAP),
    **dict.fromkeys(("lime", "anchors", "kernellime"), LIME),
    **dict.fromkeys(("attention", "attentionmap"), ATTENTION),
}
"""A word, in small letters and without separators, that names no method -> what it could mean."""

SAID: dict[str, Meaning] = {"lrp": LRP}
"""A word for a family that is also the name of one of its members, which is taken: it is said what else it could have meant."""


@cache
def plain(name: str) -> str:
    """Spelling that ignores case and separators; "++" is part of a name."""
    return "".join(c for c in name.lower().replace("+", "plus") if c.isalnum())


def family_note(name: str, taken: str) -> str:
    """What is said where a word for a family is taken for the method ``taken`` ('' = it is the name of one)."""
    meaning = SAID.get(plain(name))
    return f"'{name}' is taken as {taken}; {meaning}" if meaning is not None else ""


def unknown_word(name: str) -> str:
    """What is said of a word that names no method but a family, or several methods ('' = it is neither)."""
    named = [word.strip() for word in name.split(",") if word.strip()]
    if len(named) > 1:
        return (
            f"'{name}' names {len(named)} methods, and one is meant here. Several go with --methods {','.join(named)}: `onnxsal explain` "
            "shows them side by side, `onnxsal evaluate` measures them, `onnxsal audit` reports on them."
        )
    meaning = MEANINGS.get(plain(name))
    return "" if meaning is None else f"'{name}' is not one method: {meaning}"
