"""ONNX Runtime for browsers: where its files are found, or how they are fetched. They are no part of onnxsal (MIT licence)."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from onnxsal.disk import read_bytes
from onnxsal.errors import InputError
from onnxsal.runtime.files import write_whole
from onnxsal.settings import shown

PACKAGE = "onnxruntime-web"
VERSION = "1.30.0"
INTEGRITY = "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
"""The release that is fetched, and its hash as npm's own lock files spell it."""
LARGEST = 200 * 2**20
"""Bytes of an archive that is read."""


@dataclass(frozen=True)
class Flavour:
    """The two files of a build: ``script`` (an ES module) and ``binary``, in the folder ``dist`` of the package."""

    script: str
    binary: str


FLAVOURS = {
    "wasm": Flavour("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"),
    "webgpu": Flavour("ort.webgpu.bundle.min.mjs", "ort-wasm-simd-threaded.asyncify.wasm"),
}
"""``webgpu`` runs on WebGPU and on the CPU, ``wasm`` on the CPU only; compressed they are 3.7 and 6.6 MB."""


@dataclass(frozen=True)
class WebRuntime:
    """A build that was found: its files, its version, and where it lay."""

    script: bytes
    binary: bytes
    version: str
    folder: Path


def web_runtime(flavour: str, folder: Path | None = None, fetch: bool = False) -> WebRuntime:
    """The files of a build: of ``folder`` if given, else of a ``node_modules`` around the working folder, else those fetched before.

    ``fetch`` gets them from the npm registry (that of ``NPM_CONFIG_REGISTRY``, or else of npm) and keeps them for the next time. Raises
    ``InputError`` where there are none, and says how to get them.
    """
    places = [folder] if folder is not None else list(_places())
    for place in places:
        for dist in (place, place / "dist", place / "node_modules" / PACKAGE / "dist"):
            if all((dist / name).is_file() for name in _names(flavour)):
                return _read(dist, flavour)
    if fetch and folder is None:
        return _read(_fetched(flavour), flavour)
    looked = ", ".join(f"'{place}'" for place in places)
    raise InputError(
        f"the page needs {' and '.join(_names(flavour))} of {PACKAGE}, which are not in {looked}. Give --fetch to download {VERSION} "
        f"from the npm registry (its hash is checked), run `npm install {PACKAGE}@{VERSION}` here, or name the folder with --runtime."
    )


def _names(flavour: str) -> tuple[str, str]:
    return FLAVOURS[flavour].script, FLAVOURS[flavour].binary


def _places() -> Iterator[Path]:
    """Folders that may hold the package, nearest first."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "node_modules" / PACKAGE).is_dir():
            yield folder
    yield Path(sys.prefix) / "node"
    yield cache()


def cache() -> Path:
    """Where fetched files are kept."""
    root = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA") or str(Path.home() / ".cache")
    return Path(root) / "onnxsal" / f"{PACKAGE}-{VERSION}"


def _read(dist: Path, flavour: str) -> WebRuntime:
    script, binary = (read_bytes(dist / name) for name in _names(flavour))
    return WebRuntime(script, binary, _version(script), dist)


def _version(script: bytes) -> str:
    """The version that a script states in its first lines; '' where it says none."""
    said = re.search(rb"ONNX Runtime Web v([\w.-]{1,40})", script[:500])
    return said[1].decode() if said else ""


def _registry() -> str:
    """The address of the npm registry that the user has set, or that npm takes. Raises ``InputError`` where neither tells."""
    if told := os.environ.get("NPM_CONFIG_REGISTRY"):
        return told.rstrip("/")
    npm = shutil.which("npm")
    asked = None if npm is None else subprocess.run([npm, "config", "get", "registry"], capture_output=True, text=True, check=False)
    if asked is None or asked.returncode or not asked.stdout.strip():
        raise InputError(
            "where the npm registry is, is not known: there is no npm that tells, and NPM_CONFIG_REGISTRY is not set. Set it, or name a "
            f"folder that holds {PACKAGE} {VERSION} with --runtime."
        )
    return asked.stdout.strip().rstrip("/")


def _fetched(flavour: str) -> Path:
    """Download the release, check its hash, and keep the files of all builds; returns their folder."""
    address = f"{_registry()}/{PACKAGE}/-/{PACKAGE}-{VERSION}.tgz"
    try:
        with urllib.request.urlopen(address, timeout=60) as answer:
            archive = answer.read(LARGEST + 1)
    except (urllib.error.URLError, OSError, ValueError) as error:
        raise InputError(f"{PACKAGE} {VERSION} cannot be fetched from {shown(address)}: {error}. Name a folder with --runtime.") from error
    told = "sha512-" + base64.b64encode(hashlib.sha512(archive).digest()).decode()
    if told != INTEGRITY:
        raise InputError(
            f"what {shown(address)} answers is not {PACKAGE} {VERSION}: its hash is {told}, wanted {INTEGRITY}. Nothing was kept."
        )
    wanted = {f"package/dist/{name}" for name in (*_names("wasm"), *_names("webgpu"))}
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as files:
        for name in sorted(wanted):
            held = files.extractfile(name)
            assert held is not None, name
            write_whole(cache() / Path(name).name, held.read())
    return cache()
