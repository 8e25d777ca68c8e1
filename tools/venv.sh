# Sourced by demo and test: makes .venv in the checkout and installs the package into it, once per pyproject.toml.

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

# install_package [EXTRA]: the package itself stays in the checkout (editable), so only a new pyproject.toml asks for another install.
install_package() {
    local extra=${1:-} stamp wanted python
    if ! "$VENV/bin/python" -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
        python=$(find_python) || exit
        printf 'making %s with %s\n' "$VENV" "$("$python" --version)" >&2
        rm -rf -- "$VENV"
        "$python" -m venv "$VENV" || die "'$python -m venv $VENV' failed."
    fi
    wanted="$ROOT $(cksum <"$ROOT/pyproject.toml")"
    for stamp in "$VENV/installed-test" "$VENV/installed-$extra"; do  # what the tests need includes what the run needs
        if [ -f "$stamp" ] && [ "$(cat -- "$stamp")" = "$wanted" ]; then
            return
        fi
    done
    printf 'installing onnxsal and what it needs into %s; this takes a few minutes, once\n' "$VENV" >&2
    "$VENV/bin/python" -m pip install -qq --disable-pip-version-check -e "$ROOT${extra:+[$extra]}" ||
        die "the packages named in pyproject.toml could not be installed; pip says why above."
    printf '%s\n' "$wanted" >"$VENV/installed-$extra"
}
