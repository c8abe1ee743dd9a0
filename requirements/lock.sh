#!/usr/bin/env bash
# Write the pinned requirement files from pyproject.toml: names, versions and hashes, no addresses.
set -euo pipefail
cd "$(dirname "$0")/.."
uv=${UV:-.venv/bin/uv}
wheels=${UV_FIND_LINKS:-${PIP_FIND_LINKS:-}}
compile() { # file, extras, further options
    local file=$1; shift
    "$uv" pip compile pyproject.toml "$@" --python-platform x86_64-manylinux_2_28 --python-version 3.11 --generate-hashes --no-header \
        --no-annotate --no-emit-index-url --no-emit-find-links --quiet --output-file "$file"
    # torch may come from a local folder, whose wheel has another hash than the same version elsewhere.
    python3 - "$file" <<'PYTHON'
import re, sys
path = sys.argv[1]
text = open(path).read()
text = re.sub(r"(?m)^(torch==[^\\\n]*?)\s*\\\n(?:\s+--hash=\S+(?: \\)?\n)+", r"\1\n", text)
open(path, "w").write(text)
PYTHON
}
compile requirements/cpu.txt --extra cpu --extra plot --extra s3 --extra server --extra dev --override requirements/overrides.txt ${wheels:+--find-links "$wheels"}
compile requirements/gpu.txt --extra gpu --extra plot --extra s3 --extra server --extra dev
