#!/usr/bin/env bash
# Certificates with which Ray encrypts its own calls between nodes (RAY_USE_TLS=1). Ray compares the address that it
# calls with the certificate, so each node makes one of its own.
#
#     tls.sh ca CA                       make an authority, tls.crt and tls.key, in the folder CA; one that is there stays
#     tls.sh node CA FOLDER [ADDRESS..]  make node.crt and node.key in FOLDER for this host's addresses, and those named,
#                                        with ca.crt beside them; what is there, names them all and is good for another
#                                        day, stays
#
# Who has tls.key can make himself a node: only its user can read it.
set -euo pipefail

fail() { echo "tls.sh: $1" >&2; exit 2; }

new_key() { openssl ecparam -name prime256v1 -genkey -noout -out "$1"; }

ca() {
    [ ! -s "$1/tls.crt" ] || return 0
    mkdir -p "$1"
    new_key "$1/tls.key"
    openssl req -x509 -new -key "$1/tls.key" -days 3650 -out "$1/tls.crt.new" -config <(printf '%s\n' \
        '[req]' 'distinguished_name=name' 'x509_extensions=ca' 'prompt=no' '[name]' 'CN=ratchet' \
        '[ca]' 'basicConstraints=critical,CA:TRUE' 'keyUsage=critical,keyCertSign' 'subjectKeyIdentifier=hash')
    mv -f "$1/tls.crt.new" "$1/tls.crt"
}

node() { # the authority's folder, the node's, more addresses
    local ca=$1 folder=$2 new address good=yes names=DNS:localhost
    shift 2
    [ -s "$ca/tls.crt" ] && [ -s "$ca/tls.key" ] || fail "$ca has no tls.crt and tls.key: make them with \`tls.sh ca $ca\`"
    for address in 127.0.0.1 $(hostname -I) "$@"; do
        names+=,IP:$address
        openssl verify -CAfile "$ca/tls.crt" -verify_ip "$address" "$folder/node.crt" >/dev/null 2>&1 || good=
    done
    [ -z "$good" ] || ! openssl x509 -checkend 86400 -noout -in "$folder/node.crt" >/dev/null 2>&1 || return 0
    mkdir -p "$folder"
    new=$(mktemp -d "$folder/.new.XXXXXX")
    new_key "$new/node.key"
    openssl req -new -key "$new/node.key" -subj "/CN=$(hostname)" -out "$new/request" \
        -config <(printf '[req]\ndistinguished_name=name\n[name]\n')
    openssl x509 -req -in "$new/request" -CA "$ca/tls.crt" -CAkey "$ca/tls.key" -days 365 \
        -set_serial "0x$(openssl rand -hex 16)" -out "$new/node.crt" 2>/dev/null -extfile <(printf '%s\n' \
        "subjectAltName=$names" 'extendedKeyUsage=serverAuth,clientAuth' 'keyUsage=critical,digitalSignature')
    cp "$ca/tls.crt" "$new/ca.crt"
    mv -f "$new/node.key" "$new/ca.crt" "$new/node.crt" "$folder" # what is looked for comes last
    rm -r "$new"
}

umask 077
command -v openssl >/dev/null || fail "openssl is missing: sudo apt-get install -y openssl"
case "${1:-} $#" in
"ca 2") ca "$2" ;;
"node "[3-9]*) node "${@:2}" ;;
*) fail "name the folders: ca CA, or node CA FOLDER [ADDRESS..]" ;;
esac
