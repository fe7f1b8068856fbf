#!/bin/sh
# ComfyUI on loopback, then a Dask worker beside it; the container ends when either does.
set -eu

cat >/tmp/models.yaml <<YAML
cluster:
    base_path: ${MODELS}
    checkpoints: checkpoints
    clip_vision: clip_vision
    controlnet: controlnet
    ipadapter: ipadapter
YAML

cd /opt/ComfyUI
# shellcheck disable=SC2086  # several options in one variable
python main.py --listen 127.0.0.1 --port 8188 --disable-auto-launch --extra-model-paths-config /tmp/models.yaml \
    ${COMFYUI_OPTIONS} &
comfyui=$!
until python -c "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8188/system_stats', timeout=5)" 2>/dev/null; do
    kill -0 "${comfyui}" || exit 1
    sleep 1
done

dask worker "${DASK_SCHEDULER}" --nworkers 1 --nthreads 1 --dashboard-address 127.0.0.1:0 &
worker=$!
trap 'kill "${comfyui}" "${worker}" 2>/dev/null || true' EXIT INT TERM
while kill -0 "${comfyui}" 2>/dev/null && kill -0 "${worker}" 2>/dev/null; do
    sleep 5
done
exit 1
