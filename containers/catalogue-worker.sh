#!/bin/sh
# ComfyUI on loopback, then a Dask worker beside it; the container ends when either does.
#
# DASK_SCHEDULER   address of the scheduler, such as tcp://scheduler:8786
# MODELS           folder with checkpoints, clip_vision, controlnet and ipadapter
# COMFYUI          ComfyUI's folder, with this pack in its custom_nodes
# COMFYUI_PORT     where it listens, on loopback alone
# COMFYUI_OPTIONS  further options of its main.py
# DASK_OPTIONS     further options of `dask worker`
set -eu

: "${COMFYUI_PORT:=8188}"
export PFV_CATALOGUE_SERVER="http://127.0.0.1:${COMFYUI_PORT}"

paths="$(mktemp)"
cat >"${paths}" <<YAML
cluster:
    base_path: ${MODELS}
    checkpoints: checkpoints
    clip_vision: clip_vision
    controlnet: controlnet
    ipadapter: ipadapter
YAML

cd "${COMFYUI}"
# shellcheck disable=SC2086  # several options in one variable
python main.py --listen 127.0.0.1 --port "${COMFYUI_PORT}" --disable-auto-launch \
    --extra-model-paths-config "${paths}" ${COMFYUI_OPTIONS:-} &
comfyui=$!
worker=
trap 'kill "${comfyui}" ${worker} 2>/dev/null || true; rm -f "${paths}"' EXIT
trap 'exit 143' INT TERM
until python -c "import urllib.request; urllib.request.urlopen('${PFV_CATALOGUE_SERVER}/system_stats', timeout=5)" 2>/dev/null; do
    kill -0 "${comfyui}" || exit 1
    sleep 1
done

# shellcheck disable=SC2086
dask worker "${DASK_SCHEDULER}" --nworkers 1 --nthreads 1 --dashboard-address 127.0.0.1:0 ${DASK_OPTIONS:-} &
worker=$!
while kill -0 "${comfyui}" 2>/dev/null && kill -0 "${worker}" 2>/dev/null; do
    sleep 5
done
exit 1
