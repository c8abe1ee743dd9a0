#!/usr/bin/env bash
# Make the secrets that compose.yaml and the Kubernetes page refer to, each at random, and only where it is missing.
# They go to FOLDER (default: secrets/ beside this file, which git ignores), which only you may enter. Inside, they can be
# read by all: containers have another user than you.
set -euo pipefail
folder=${1:-$(dirname "$0")/secrets}
umask 077
mkdir -p "$folder"
chmod 700 "$folder"
cd "$folder"

write() { # file: what comes in, all of it or nothing
    cat >"$1.new" && chmod 444 "$1.new" && mv -f "$1.new" "$1"
}

for name in ray_token postgres_password redis_password mlflow_password mlflow_key; do
    [ -s "$name" ] || head -c 32 /dev/urandom | od -An -v -tx1 | tr -d ' \n' | write "$name"
done
printf '[mlflow]\nmlflow_tracking_username = ratchet\nmlflow_tracking_password = %s\n' "$(cat mlflow_password)" |
    write mlflow_credentials
echo "secrets: $PWD"
