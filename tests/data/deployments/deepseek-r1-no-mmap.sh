#!/bin/sh
# 212 GB of weights from an SSD, on a machine with 64 GB of RAM.
./build/bin/llama-server \
    --model DeepSeek-R1-UD-Q2_K_XL-00001-of-00005.gguf \
    --no-mmap --ctx-size 4096 --cache-type-k q4_0 --n-cpu-moe 99 -ngl 99
