#!/bin/sh
# Makes what compose.yaml asks for in ./secrets, where it is missing. Nothing that exists is changed: a password
# that a server has been started with is written in that server's data.
#
# The folder is for its owner alone. The files in it can be read by anybody, since the servers run as users of
# their own inside the containers, where nothing but their own secrets is mounted.
set -eu
cd "$(dirname "$0")"
umask 022
mkdir -p secrets
chmod 700 secrets

# 64 hexadecimal digits: nothing in them needs quoting in a URL or a configuration file.
random() {
    od -An -N32 -tx1 /dev/urandom | tr -d ' \n'
}

keep() { # name, content
    [ -s "secrets/$1" ] && return
    printf '%s\n' "$2" > "secrets/$1"
    chmod 444 "secrets/$1"
    echo "secrets/$1"
}

keep postgres_password "$(random)"
keep valkey_password "$(random)"
keep admin_token "$(random)"
keep grafana_password "$(random)"
keep valkey_auth "requirepass $(cat secrets/valkey_password)"
keep database_url "postgresql://facet:$(cat secrets/postgres_password)@postgres:5432/facet"
keep redis_url "redis://:$(cat secrets/valkey_password)@valkey:6379/0"
