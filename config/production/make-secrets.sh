#!/bin/sh
# Makes every secret of the production shape into a folder: make-secrets.sh secrets gold anna bert cora dirk
# Needs openssl and mt-copier; the image has both. What is there already stays. As root each file is given to the one user that
# reads it in its container. ENGINE_HOST: name or address that terminals dial, which must stand in the certificate. WORKERS: their
# names. REDIS_HOST, REDIS_PORT, POSTGRES_HOST, POSTGRES_PORT, POSTGRES_DB: for stores that stand elsewhere.
set -eu
umask 077
here=$(cd "$(dirname "$0")" && pwd)
folder=${1:?expected the folder to make, then the names of the accounts}
shift
mkdir -p "$folder/accounts" "$folder/redis" "$folder/postgres"
cd "$folder"
folder=$(pwd)

password() { [ -s "$1" ] || openssl rand -hex 24 | tr -d '\n' > "$1"; }

for name in "$@"; do password "accounts/$name"; done
password stream_key
password metrics_token
password postgres/password

if [ ! -s ca.crt ]; then
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 3650 -subj "/CN=mt-copier CA" \
    -addext "keyUsage=critical,keyCertSign,cRLSign" -keyout ca.key -out ca.crt 2>/dev/null
fi
certificate() { # file, names
  [ ! -s "$1.crt" ] || return 0
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "/CN=mt-copier" -keyout "$1.key" -out "$1.csr" 2>/dev/null
  printf 'subjectAltName=%s\nextendedKeyUsage=serverAuth\n' "$2" > "$1.ext"
  openssl x509 -req -in "$1.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -days 825 -extfile "$1.ext" -out "$1.crt" 2>/dev/null
  rm "$1.csr" "$1.ext"
}
named() { # host
  case "$1" in *:*) echo "IP:$1" ;; *[!0-9.]*) echo "DNS:$1" ;; *) echo "IP:$1" ;; esac
}
certificate redis/redis "$(named "${REDIS_HOST:-redis}"),DNS:localhost,IP:127.0.0.1"
certificate engine "$(named "${ENGINE_HOST:-copier}"),DNS:localhost,IP:127.0.0.1"

place="${POSTGRES_HOST:-postgres}:${POSTGRES_PORT:-5432}/${POSTGRES_DB:-copier}"
printf 'postgresql+psycopg://copier:%s@%s' "$(cat postgres/password)" "$place" > ledger_url

if [ ! -d redis-users ]; then
  home=$(mktemp -d)
  cp "$here/copier.yaml" "$home"
  ln -s "$folder" "$home/secrets"
  workers=$(printf -- '--worker %s ' ${WORKERS:-one two})
  place="rediss://${REDIS_HOST:-redis}:${REDIS_PORT:-6379}/0?ssl_ca_certs=secrets/ca.crt"
  (cd "$home" && MT_COPIER__REDIS=memory:// ${MT_COPIER:-mt-copier} redis-acl copier.yaml --out "$folder/redis-users" \
    --at "$place" $workers >/dev/null)
  rm -r "$home"
  mv redis-users/users.acl redis-users/reader.url redis/
fi

chmod 644 ca.crt
if [ "$(id -u)" = 0 ] && [ "${OWNERS:-containers}" = containers ]; then
  chmod 711 .
  chown -R 10001:10001 accounts redis-users ledger_url stream_key metrics_token engine.crt engine.key
  chown -R 999:1000 redis
  chown -R 70:70 postgres
fi
