# shellcheck shell=bash
# What Ray and a driver are started with on every node; cluster.yaml and you source it.
# shellcheck source=/dev/null
source ~/ratchet/.venv/bin/activate
export RATCHET_HOME=/shared                      # the folder that all nodes see
export RATCHET_STATE_HOME=/shared/.state
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=/shared/.ray-token
export RAY_ADDRESS=auto                          # a driver joins the Ray of its node
# `deploy/tls.sh ca /shared/.tls`, before the cluster starts: what nodes of Ray say to each other is then encrypted. Nodes
# may have the home in common.
if [ -s /shared/.tls/tls.crt ]; then
    RAY_TLS_CA_CERT=~/.ratchet-tls/$(hostname)/ca.crt
    ~/ratchet/deploy/tls.sh node /shared/.tls "$(dirname "$RAY_TLS_CA_CERT")"
    export RAY_USE_TLS=1 RAY_TLS_CA_CERT RAY_TLS_SERVER_CERT=${RAY_TLS_CA_CERT%ca.crt}node.crt
    export RAY_TLS_SERVER_KEY=${RAY_TLS_CA_CERT%ca.crt}node.key
fi
