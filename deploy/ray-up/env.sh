# shellcheck shell=bash
# What Ray and a driver are started with on every node; cluster.yaml and you source it.
# shellcheck source=/dev/null
source ~/ratchet/.venv/bin/activate
export RATCHET_HOME=/shared                      # the folder that all nodes see
export RATCHET_STATE_HOME=/shared/.state
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=/shared/.ray-token
export RAY_ADDRESS=auto                          # a driver joins the Ray of its node
