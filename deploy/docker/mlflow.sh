#!/usr/bin/env bash
# MLflow's server, with users, on PostgreSQL. For compose and Kubernetes, both of which hand secrets over as files.
#
#     SECRETS     folder with postgres_password, mlflow_password (of the user `ratchet`) and mlflow_key
#     POSTGRES    host[:port] of the database `mlflow`, whose owner is the user `mlflow`
#     ARTIFACTS   folder of the artifacts
#     HOSTS       names that the server may be asked by
set -euo pipefail
secrets=${SECRETS:-/run/secrets}
database=postgresql://mlflow@${POSTGRES:-postgres}/mlflow

secret() {
    [ -s "$secrets/$1" ] || { echo "mlflow.sh: $secrets/$1 is missing or empty" >&2; exit 2; }
    cat "$secrets/$1"
}

# In the environment, since arguments and addresses are shown to whoever lists processes. libpq reads PGPASSWORD.
PGPASSWORD=$(secret postgres_password)
MLFLOW_AUTH_ADMIN_PASSWORD=$(secret mlflow_password)
MLFLOW_FLASK_SERVER_SECRET_KEY=$(secret mlflow_key)
export PGPASSWORD MLFLOW_AUTH_ADMIN_PASSWORD MLFLOW_FLASK_SERVER_SECRET_KEY
export MLFLOW_AUTH_ADMIN_USERNAME=ratchet
export MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false # a dozen processes that tracking does not need

MLFLOW_AUTH_CONFIG_PATH=$(mktemp)
export MLFLOW_AUTH_CONFIG_PATH
cat >"$MLFLOW_AUTH_CONFIG_PATH" <<INI
[mlflow]
default_permission = NO_PERMISSIONS
database_uri = $database
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
INI

exec mlflow server --app-name basic-auth --workers "${WORKERS:-2}" \
    --backend-store-uri "$database" --artifacts-destination "${ARTIFACTS:-/mlflow}" \
    --host "${LISTEN:-0.0.0.0}" --port "${PORT:-5000}" \
    --allowed-hosts "${HOSTS:-mlflow,mlflow:*,localhost,localhost:*,127.0.0.1,127.0.0.1:*}"
