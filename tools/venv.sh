# Sourced by demo, test and test_site: makes .venv in the checkout and installs the package into it, once per pyproject.toml.

ROOT=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
VENV=$ROOT/.venv

die() {
    printf '%s: %s\n' "$(basename -- "$0")" "$*" >&2
    exit 2
}

# Prints the first Python that is new enough and can make virtual environments.
find_python() {
    local name
    for name in ${PYTHON:+"$PYTHON"} python3.11 python3.12 python3.13 python3.14 python3 python; do
        if "$name" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
            printf '%s\n' "$name"
            return
        fi
    done
    die "no Python 3.11 or newer with venv and pip was found. Install one (on Debian and Ubuntu: python3 and python3-venv)," \
        "or name it: PYTHON=/path/to/python3 $0"
}

# install_debian PACKAGE...: as far as this is Debian and root runs it; without them the tests that use them are skipped.
install_debian() {
    if [ $# -gt 0 ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        printf 'installing %s\n' "$*" >&2
        { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"; } >/dev/null 2>&1 ||
            printf '%s could not be installed: the tests that use them are skipped\n' "$*" >&2
    fi
}

# install_package [EXTRAS]: the package itself stays in the checkout (editable), so only a new pyproject.toml asks for another install.
install_package() {
    local extra=${1:-} stamp wanted python
    if ! "$VENV/bin/python" -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
        python=$(find_python) || exit
        printf 'making %s with %s\n' "$VENV" "$("$python" --version)" >&2
        rm -rf -- "$VENV"
        "$python" -m venv "$VENV" || die "'$python -m venv $VENV' failed."
    fi
    wanted="$ROOT $(cksum <"$ROOT/pyproject.toml")"
    for stamp in "$VENV/installed-$extra" "$VENV"/installed-${extra:-*}*; do  # more extras than are wanted will do
        if [ -f "$stamp" ] && [ "$(cat -- "$stamp")" = "$wanted" ]; then
            return
        fi
    done
    printf 'installing onnxsal and what it needs into %s; this takes a few minutes, once\n' "$VENV" >&2
    "$VENV/bin/python" -m pip install -qq --disable-pip-version-check --no-compile -e "$ROOT${extra:+[$extra]}" ||
        die "the packages named in pyproject.toml could not be installed; pip says why above."
    printf '%s\n' "$wanted" >"$VENV/installed-$extra"
}

# install_node: ONNX Runtime for JavaScript, in which converted models are run. Nothing of it is compiled or run on installing.
install_node() {
    if ! cmp -s "$ROOT/tests/node/package-lock.json" "$VENV/node/package-lock.json" || [ ! -d "$VENV/node/node_modules" ]; then
        mkdir -p "$VENV/node"
        cp "$ROOT/tests/node/package.json" "$ROOT/tests/node/package-lock.json" "$VENV/node/"
        { command -v npm && npm ci --prefix "$VENV/node" --ignore-scripts --no-audit --no-fund; } >/dev/null 2>&1 ||
            { rm -rf -- "$VENV/node"; printf 'onnxruntime-node and onnxruntime-web could not be installed: what needs them is skipped\n' >&2; }
    fi
}
