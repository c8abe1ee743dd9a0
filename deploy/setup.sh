#!/usr/bin/env bash
# Make the environment: .venv with the pinned requirements of one set (cpu, the default, or gpu) and Ratchet itself.
set -euo pipefail
cd "$(dirname "$0")/.."
set_name=${1:-cpu}
requirements=requirements/$set_name.txt
python=${PYTHON:-python3}

fail() { echo "setup: $1" >&2; exit 1; }
need() { command -v "$1" >/dev/null || fail "$1 is missing: sudo apt-get install -y $2"; }

need git git
need g++ g++ # DeepSpeed and vLLM compile small kernels on first use
command -v "$python" >/dev/null || fail "$python is missing: sudo apt-get install -y python3 python3-venv python3-dev"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || fail "Python 3.11 or newer is needed, $("$python" -V) found: set PYTHON=python3.11"
"$python" -c 'import ensurepip, venv' 2>/dev/null || fail "venv is missing: sudo apt-get install -y python3-venv"
include=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
[ -e "$include/Python.h" ] || fail "Python's headers are missing: sudo apt-get install -y python3-dev"

[ -x .venv/bin/python ] || "$python" -m venv .venv
[ -x .venv/bin/uv ] || .venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements/uv.txt
uv() { VIRTUAL_ENV=$PWD/.venv .venv/bin/uv "$@"; }

# uv does not read pip's settings, which may name a mirror or a folder of wheels.
export UV_DEFAULT_INDEX=${UV_DEFAULT_INDEX:-${PIP_INDEX_URL:-}}
[ -n "$UV_DEFAULT_INDEX" ] || unset UV_DEFAULT_INDEX
export UV_FIND_LINKS=${UV_FIND_LINKS:-${PIP_FIND_LINKS:-}}
[ -n "$UV_FIND_LINKS" ] || unset UV_FIND_LINKS

# Compiled once here: where PYTHONDONTWRITEBYTECODE is set, as in many images, each process would compile for seconds.
install() { uv pip install --quiet --no-deps --compile-bytecode "$@" -r "$requirements"; }

if [ "$set_name" = cpu ]; then
    # torch's CPU build is not on PyPI: it comes from a folder of wheels, where one is named, else from PyTorch's index.
    { [ -n "${UV_FIND_LINKS:-}" ] && install 2>.venv/setup.log; } || install --torch-backend cpu 2>.venv/setup.log || {
        cat .venv/setup.log >&2
        fail "the packages could not be installed: torch's CPU build needs PyTorch's CPU index, or PIP_FIND_LINKS naming a folder with its wheel."
    }
else
    install
fi
uv pip install --quiet --no-deps --no-build-isolation -e .
if [ "$set_name" = gpu ]; then
    .venv/bin/python -c 'from workers import cuda; print(*("setup: " + line for line in cuda.lines(cuda.seen())), sep="\n")'
fi
echo "setup: .venv is ready ($set_name); activate it with: source .venv/bin/activate"
