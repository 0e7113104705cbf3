# vLLM on one node of eight cards
vllm serve Qwen/Qwen3-235B-A22B-Instruct-2507-FP8 \
    --tensor-parallel-size 4 \
    --pipeline-parallel-size 2 \
    --max-model-len 65536 \
    --compilation-config.level 3 -O3 \
    --tool-call-parser hermes --enable-auto-tool-choice
