"""Pictures, preprocessing and labels against small computations by hand."""

from __future__ import annotations

import io
import json
import struct

import numpy as np
import pytest
from PIL import Image

from onnxsal.errors import InputError, TargetError
from onnxsal.runtime.beside import beside
from onnxsal.runtime.labels import find_label, load_labels
from onnxsal.runtime.pictures import find_pictures, load_picture, save_picture
from onnxsal.runtime.preprocess import Preprocess
from onnxsal.runtime.preprocess_files import load_preprocess

RANDOM = np.random.default_rng(0)
PIXELS = RANDOM.integers(0, 256, (30, 45, 3), np.uint8)
PICTURE = Image.fromarray(PIXELS)


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


# ----- loading -----


def test_a_picture_loads_from_path_bytes_and_memory(tmp_path):
    path = save_picture(PICTURE, tmp_path / "sub" / "p.png")
    for source in (path, str(path), path.read_bytes(), PICTURE):
        np.testing.assert_array_equal(load_picture(source), PIXELS)


def test_exif_turns_a_picture_upright():
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn clockwise
    np.testing.assert_array_equal(load_picture(encoded(PICTURE, exif=exif)), np.rot90(PIXELS, -1))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_laid_on_white(mode):
    transparent = PICTURE.convert(mode)
    transparent.putalpha(0)
    assert np.all(np.asarray(load_picture(encoded(transparent))) == 255)
    half = Image.new("RGBA", (1, 1), (0, 100, 200, 128))
    np.testing.assert_allclose(np.asarray(load_picture(half))[0, 0], 127 + np.array([0, 50, 100]), atol=1)


def test_a_transparent_palette_is_laid_on_white():
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putpixel((1, 0), 1)
    assert np.asarray(load_picture(encoded(palette, transparency=0))).tolist() == [[[255, 255, 255], [40, 50, 60]]]


@pytest.mark.parametrize(("mode", "expected"), [("L", 3), ("1", 3), ("P", 3), ("CMYK", 3)])
def test_every_mode_becomes_rgb(mode, expected):
    kind = "TIFF" if mode == "CMYK" else "PNG"
    assert np.asarray(load_picture(encoded(PICTURE.convert(mode), kind))).shape == (30, 45, expected)


def test_sixteen_bits_become_eight():
    values = np.array([[0, 257, 128 * 257, 65535]], np.uint16)
    for kind in ("PNG", "TIFF"):
        assert np.asarray(load_picture(encoded(Image.fromarray(values), kind)))[0, :, 0].tolist() == [0, 1, 128, 255]


def png_with_broken_chunk() -> bytes:
    data = bytearray(encoded(PICTURE))
    data[data.index(b"IDAT") + 20] ^= 0xFF
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (encoded(PICTURE)[:200], "damaged|cut short"),
        (encoded(PICTURE, "JPEG")[:300], "damaged or cut short"),
        (png_with_broken_chunk(), "damaged"),
        (b"no picture at all", "not a picture that Pillow can read"),
        (b"", "not a picture that Pillow can read"),
        (encoded(Image.fromarray(np.ones((2, 2), np.float32)), "TIFF"), "32-bit values from 1.0 to 1.0"),
        (encoded(Image.fromarray(np.ones((2, 2), np.int32)), "TIFF"), "32-bit values from 1 to 1"),
        (struct.pack("<2sIHHI", b"BM", 54, 0, 0, 54) + b"\0" * 40, "damaged|not a picture"),
    ],
)
def test_a_damaged_picture_is_one_clear_error(data, message, tmp_path):
    (tmp_path / "p.png").write_bytes(data)
    with pytest.raises(InputError, match=message) as caught:
        load_picture(tmp_path / "p.png")
    assert str(tmp_path / "p.png") in str(caught.value)


def test_a_missing_picture_is_one_clear_error(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        load_picture(tmp_path / "gone.png")


def test_pictures_are_found_in_folders(tmp_path):
    for name in ("b.png", "a.JPG", "deep/c.webp", "notes.txt", ".hidden/d.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [p.name for p in find_pictures([tmp_path])] == ["a.JPG", "b.png", "c.webp"]
    assert [p.name for p in find_pictures([tmp_path / "notes.txt"])] == ["notes.txt"]
    (tmp_path / "deep" / "c.webp").unlink()
    with pytest.raises(InputError, match=r"no picture was found in .*deep"):
        find_pictures([tmp_path / "deep"])


# ----- applying -----


def test_values_are_scaled_then_normalised_in_the_models_order():
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    rgb = (PIXELS / 255 - mean) / std
    made = Preprocess(scale=1 / 255, mean=mean, std=std).apply(PICTURE)
    assert made.shape == (1, 3, 30, 45)
    assert made.dtype == np.float32
    np.testing.assert_allclose(made[0], rgb.transpose(2, 0, 1), rtol=1e-6, atol=1e-6)
    bgr = (PIXELS[..., ::-1] - np.array([104, 117, 123.0])) / 1
    made = Preprocess(scale=1, mean=(104, 117, 123), layout="NHWC", channels="BGR", dtype="float64").apply(PICTURE)
    np.testing.assert_array_equal(made[0], bgr)
    grey = np.asarray(PICTURE.convert("L"))
    made = Preprocess(scale=1 / 255, channels="GRAY").apply(PICTURE)
    np.testing.assert_allclose(made[0, 0], grey / 255, rtol=1e-6)
    np.testing.assert_array_equal(Preprocess(scale=1, dtype="uint8", layout="NHWC").apply(PICTURE)[0], PIXELS)
    assert Preprocess(scale=1, dtype="float16").apply(PICTURE).dtype == np.float16


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("channels", ["RGB", "BGR", "GRAY"])
def test_black_is_what_a_black_picture_becomes(layout, channels):
    depth = 1 if channels == "GRAY" else 3
    preprocess = Preprocess(scale=2, mean=(1.0, 2.0, 3.0)[:depth], std=(4.0, 5.0, 6.0)[:depth], layout=layout, channels=channels)
    black = preprocess.black()
    assert black.shape == ((1, depth, 1, 1) if layout == "NCHW" else (1, 1, 1, depth))
    np.testing.assert_array_equal(
        preprocess.apply(Image.new("RGB", (4, 5))), np.broadcast_to(black, preprocess.apply(PICTURE.resize((4, 5))).shape)
    )
    np.testing.assert_allclose(black.ravel(), -np.array([1, 2, 3])[:depth] / [4, 5, 6][:depth], rtol=1e-6)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("channels", ["RGB", "BGR", "GRAY"])
def test_pixels_are_found_again_in_the_input(layout, channels):
    preprocess = Preprocess(scale=1 / 255, mean=(0.5,), std=(0.25,), layout=layout, channels=channels)
    np.testing.assert_array_equal(preprocess.pixels(preprocess.apply(PICTURE))[0], preprocess.display(PICTURE))
    assert preprocess.pixels(preprocess.apply(PICTURE) * 1e6).max() == 255


@pytest.mark.parametrize(
    ("how", "box"),
    [
        ({}, (0, 0, 45, 30)),
        ({"resize": (20, 10)}, (0, 0, 45, 30)),
        ({"crop": (10, 20)}, (12, 10, 32, 20)),
        ({"crop_pct": 0.8, "resize": (12, 12)}, (10, 3, 34, 27)),
        ({"resize": 60, "crop": (40, 30)}, (15, 5, 30, 25)),  # twice as large, then 30 x 40 of 90 x 60
        ({"crop_pct": 0.8, "crop": (12, 18), "resize": 48}, (17.5, 12, 26.5, 18)),  # 36 x 24 from (4, 3), twice as large
    ],
)
def test_the_part_of_a_picture_that_the_model_sees(how, box):
    shown = Preprocess(scale=1, interpolation="box", **how).shown(PICTURE)
    assert shown.original.size == (45, 30)
    assert shown.box == pytest.approx(box)
    height, width = shown.seen.shape[:2]
    again = shown.original.resize((width, height), Image.Resampling.BOX, box=shown.box)
    assert np.abs(np.asarray(again, float) - shown.seen).max() <= 2  # rounded once more, where a picture is cut and then resized


def test_geometry():
    stretched = Preprocess(scale=1, resize=(20, 10), interpolation="bicubic").display(PICTURE)
    np.testing.assert_array_equal(stretched, PICTURE.resize((10, 20), Image.Resampling.BICUBIC))
    shorter = Preprocess(scale=1, resize=20).display(PICTURE)
    np.testing.assert_array_equal(shorter, PICTURE.resize((30, 20), Image.Resampling.BILINEAR))
    assert Preprocess(scale=1, resize=20).display(PICTURE.rotate(90, expand=True)).shape == (30, 20, 3)
    cropped = Preprocess(scale=1, crop=(10, 20)).display(PICTURE)
    np.testing.assert_array_equal(cropped, PIXELS[10:20, 12:32])
    part = Preprocess(scale=1, crop_pct=0.8, resize=(12, 12), interpolation="nearest").display(PICTURE)
    np.testing.assert_array_equal(part, PIXELS[3:27, 10:34][1::2, 1::2])
    assert Preprocess(scale=1, crop_pct=0.8).display(PICTURE).shape == (24, 36, 3)
    assert Preprocess(scale=1, channels="GRAY").display(PICTURE).shape == (30, 45, 3)
    with pytest.raises(InputError, match="does not fit into a picture of 30x45"):
        Preprocess(scale=1, crop=(31, 2)).apply(PICTURE)


def test_a_batch_is_made_of_one_size():
    pictures = [PICTURE, PICTURE.resize((50, 40))]
    assert Preprocess(scale=1, resize=(8, 8)).batch(pictures).shape == (2, 3, 8, 8)
    with pytest.raises(InputError, match="30x45, 40x50"):
        Preprocess(scale=1).batch(pictures)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layout": "NCWH"}, "layout 'NCWH' is none of NCHW, NHWC .did you mean"),
        ({"channels": "RGBA"}, "RGB, BGR, GRAY"),
        ({"interpolation": "cubic"}, "did you mean 'bicubic'"),
        ({"mean": (1.0, 2.0)}, "mean has 2 numbers for 3 channels"),
        ({"std": (0.0,)}, "std not 0"),
        ({"mean": (float("nan"),)}, "finite"),
        ({"crop_pct": 87.5}, "above 0 and up to 1"),
        ({"resize": 0}, "at least 1 pixel"),
        ({"dtype": "uint8", "mean": (127.0,)}, "uint8 input takes the pixels as they are"),
    ],
)
def test_impossible_settings(settings, message):
    with pytest.raises(InputError, match=message):
        Preprocess(scale=1, **settings)


# ----- files -----

VIT = {
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_processor_type": "ViTImageProcessor",
    "image_std": [0.5, 0.5, 0.5],
    "resample": 2,
    "rescale_factor": 0.00392156862745098,
    "size": {"height": 224, "width": 224},
}
CLIP = {
    "crop_size": {"height": 224, "width": 224},
    "do_center_crop": True,
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_resize": True,
    "feature_extractor_type": "CLIPFeatureExtractor",
    "image_mean": [0.48, 0.46, 0.41],
    "image_std": [0.27, 0.26, 0.28],
    "resample": 3,
    "size": {"shortest_edge": 224},
}
CONVNEXT = {**VIT, "image_processor_type": "ConvNextImageProcessor", "crop_pct": 0.875, "size": {"shortest_edge": 224}}
TIMM = {
    "architecture": "resnet50",
    "num_classes": 1000,
    "pretrained_cfg": {
        "crop_mode": "center",
        "crop_pct": 0.95,
        "first_conv": "conv1",
        "fixed_input_size": False,
        "input_size": [3, 224, 224],
        "interpolation": "bicubic",
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
    },
}
HALF = (0.5, 0.5, 0.5)


def written(tmp_path, config, name="preprocessor_config.json"):
    path = tmp_path / name
    path.write_text(config if isinstance(config, str) else json.dumps(config), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (VIT, Preprocess(1 / 255, HALF, HALF, resize=(224, 224))),
        (CLIP, Preprocess(1 / 255, (0.48, 0.46, 0.41), (0.27, 0.26, 0.28), resize=224, crop=(224, 224), interpolation="bicubic")),
        (CONVNEXT, Preprocess(1 / 255, HALF, HALF, resize=256, crop=(224, 224))),
        ({**CONVNEXT, "size": {"shortest_edge": 384}}, Preprocess(1 / 255, HALF, HALF, resize=(384, 384))),
        ({**VIT, "size": 200, "default_to_square": True}, Preprocess(1 / 255, HALF, HALF, resize=(200, 200))),
        ({**VIT, "do_rescale": False, "data_format": "channels_last"}, Preprocess(1.0, HALF, HALF, "NHWC", resize=(224, 224))),
        ({"do_resize": False, "do_normalize": False, "do_flip_channel_order": True}, Preprocess(1 / 255, channels="BGR")),
        ({**VIT, "do_pad": False, "pad_size": None}, Preprocess(1 / 255, HALF, HALF, resize=(224, 224))),
        (
            TIMM,
            Preprocess(1 / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), resize=235, crop=(224, 224), interpolation="bicubic"),
        ),
        (
            {"input_size": [1, 32, 40], "mean": [0.5], "std": [0.5], "crop_pct": 0.8, "crop_mode": "squash", "interpolation": "bilinear"},
            Preprocess(1 / 255, (0.5,), (0.5,), channels="GRAY", resize=(40, 50), crop=(32, 40)),
        ),
    ],
)
def test_the_files_of_others_are_read_as_they_are(config, expected, tmp_path):
    assert load_preprocess(written(tmp_path, config)) == expected


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({**VIT, "do_pad": True}, "'do_pad' = true may change"),
        ({**VIT, "rescale_offset": 1}, "'rescale_offset' = 1 may change"),
        ({**VIT, "image_men": [0.5]}, "did you mean 'image_mean'"),
        ({**VIT, "size": 224}, "can be read in two ways"),
        ({**VIT, "size": {"longest_edge": 800, "shortest_edge": 600}}, "can be read in two ways"),
        ({**VIT, "resample": None}, "'resample' is missing"),
        ({**VIT, "resample": 9}, "interpolation 9 is none of nearest .0., .*bicubic .3."),
        ({**VIT, "image_std": None}, "'image_std' is missing"),
        ({k: v for k, v in VIT.items() if k != "do_normalize"}, "'image_mean' is given but 'do_normalize' is not"),
        ({**VIT, "crop_size": 224}, "'crop_size' is given but 'do_center_crop' is not"),
        ({**VIT, "crop_pct": 0.9}, "crop_pct is known for ConvNext"),
        ({**VIT, "do_flip_channel_order": True}, "ambiguous about the order"),
        ({**VIT, "data_format": "middle"}, "channels_first"),
        ({"pretrained_cfg": {**TIMM["pretrained_cfg"], "crop_mode": "border"}}, "crop_mode 'border'"),
        ({"pretrained_cfg": {**TIMM["pretrained_cfg"], "interpolation": "random"}}, "interpolation 'random'"),
        ({"pretrained_cfg": {**TIMM["pretrained_cfg"], "input_size": [3, 224]}}, "input_size must be"),
        ({"pretrained_cfg": {**TIMM["pretrained_cfg"], "input_size": [6, 224, 224]}}, "6 channels"),
        ({"model_type": "bert"}, "describes no preprocessing"),
        ("[1, 2]", "holds a list"),
        ("{", "not valid JSON"),
    ],
)
def test_what_is_not_understood_is_refused(config, message, tmp_path):
    with pytest.raises(InputError, match=message) as caught:
        load_preprocess(written(tmp_path, config))
    assert "preprocessor_config.json" in str(caught.value)


SHORT = """
layout = "NHWC"
channels = "BGR"
resize = 256
crop = 224
interpolation = "bicubic"
scale = 1
mean = [104, 117, 123]
std = 1.0
"""


def test_our_short_form(tmp_path):
    expected = Preprocess(1, (104, 117, 123), (1.0,), "NHWC", "BGR", 256, (224, 224), None, "bicubic")
    assert load_preprocess(written(tmp_path, SHORT, "p.toml")) == expected
    assert load_preprocess(written(tmp_path, "scale = 1\nresize = [20, 30]\ncrop_pct = 0.9", "p.toml")).size == (20, 30)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mean = 127", "'scale' is missing"),
        ("scale = 1\nmeen = 127", "unknown key 'meen' .did you mean 'mean'"),
        ("scale = '1/255'", "scale must be a number"),
        ("scale = 1\nresize = [1, 2, 3]", "resize must be one number or"),
        ("scale = 1\nmean = [1, 2]", "mean has 2 numbers"),
        ("scale = ", "not valid TOML"),
    ],
)
def test_errors_in_our_short_form_name_the_file(text, message, tmp_path):
    with pytest.raises(InputError, match=message) as caught:
        load_preprocess(written(tmp_path, text, "p.toml"))
    assert "p.toml" in str(caught.value)


# ----- labels -----


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.txt", "tench\ngoldfish, Carassius auratus\n\n"),
        ("b.txt", "{0: 'tench',\n 1: 'goldfish, Carassius auratus'}"),
        ("c.json", '{"id2label": {"1": "goldfish, Carassius auratus", "0": "tench"}, "hidden_size": 8}'),
        ("d.json", '["tench", "goldfish, Carassius auratus"]'),
        ("e.json", '{"0": ["n01440764", "tench"], "1": ["n01443537", "goldfish, Carassius auratus"]}'),
        ("f.json", '{"pretrained_cfg": {"label_names": ["tench", "goldfish, Carassius auratus"]}}'),
    ],
)
def test_labels_are_read_from_the_usual_files(name, text, tmp_path):
    assert load_labels(written(tmp_path, text, name)) == ["tench", "goldfish, Carassius auratus"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "tench\n\ngoldfish", "line 2 is empty"),
        ("a.txt", "", "hold no label"),
        ("b.txt", "{0: 'tench', 2: 'shark'}", "2 labels, and none for class 1"),
        ("b.txt", "{0: 'tench'", "neither JSON nor a Python dict"),
        ("c.json", '{"0": ', "not valid JSON"),
        ("c.json", '{"hidden_size": 8}', "hold no label"),
    ],
)
def test_bad_labels_are_refused(name, text, message, tmp_path):
    with pytest.raises(InputError, match=message):
        load_labels(written(tmp_path, text, name))


def test_a_label_leads_back_to_its_index():
    labels = ["tench, Tinca tinca", "crane", "tiger cat", "crane", "projectile, missile", "missile"]
    assert [find_label(labels, name) for name in ("Tinca tinca", "TIGER CAT", "missile", "projectile, missile")] == [0, 2, 5, 4]
    with pytest.raises(TargetError, match=r"2 classes .1 = crane, 3 = crane"):
        find_label(labels, "crane")
    with pytest.raises(TargetError, match="did you mean 'tiger cat'"):
        find_label(labels, "tigercat")


# ----- beside a model -----


def test_what_lies_beside_a_model_is_found(tmp_path):
    model = tmp_path / "net.onnx"
    assert beside(model).preprocess is None
    assert beside(model).labels is None
    written(tmp_path, '[models.net]\nfile = "net.onnx"\nlabels = "l.txt"\n[models.net.preprocess]\nscale = 2', "manifest.toml")
    written(tmp_path, "one\ntwo", "l.txt")
    assert (beside(model).preprocess, beside(model).labels) == (Preprocess(2), ("one", "two"))
    assert beside(tmp_path / "other.onnx").preprocess is None
    written(tmp_path, {"id2label": {"0": "uno", "1": "due"}, "model_type": "vit"}, "config.json")
    written(tmp_path, VIT)
    assert beside(model).preprocess == Preprocess(1 / 255, HALF, HALF, resize=(224, 224))
    assert beside(model).labels == ("uno", "due")
    written(tmp_path, "scale = 3\nlabels = 'l.txt'", "net.toml")
    found = beside(model)
    assert (found.preprocess, found.labels) == (Preprocess(3), ("one", "two"))
    assert found.preprocess_from == str(tmp_path / "net.toml")
    assert found.labels_from == str(tmp_path / "l.txt")


def test_a_damaged_file_beside_a_model_is_not_passed_over(tmp_path):
    written(tmp_path, {**VIT, "do_pad": True})
    with pytest.raises(InputError, match="do_pad"):
        beside(tmp_path / "net.onnx")


def test_a_labels_file_beside_a_model(tmp_path):
    written(tmp_path, "x\ny", "labels.txt")
    assert beside(tmp_path / "net.onnx").labels == ("x", "y")
    written(tmp_path, "z", "net.labels.txt")
    assert beside(tmp_path / "net.onnx").labels == ("z",)
