model=$1
volume=$PWD/data # share a volume with the container to avoid downloading weights every run

docker run --gpus '"device=0"' --shm-size 1g -p 8080:80 -v $volume:/data \
    ghcr.io/huggingface/text-generation-inference:3.3.4 \
    --model-id $model --quantize bitsandbytes-nf4 --max-total-tokens 16384
