#!/usr/bin/env bash
# All experts in RAM, the rest on a 24 GB card.
set -euo pipefail
export CUDA_VISIBLE_DEVICES=0
exec llama-server \
  -hf ggml-org/gpt-oss-120b-GGUF \
  --ctx-size 65536 --n-gpu-layers 99 \
  -ot ".ffn_.*_exps.=CPU" \
  -md draft-Q8_0.gguf -b 2048 -ub 2048 \
  --host 0.0.0.0 --port 8080
