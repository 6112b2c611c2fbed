#!/bin/sh
# Makes every secret of the production shape into a folder: make-secrets.sh secrets gold anna bert cora dirk
# What is there already stays. As root each file is given to the one user that reads it in its container.
# REDIS_HOST, REDIS_PORT, POSTGRES_HOST, POSTGRES_PORT and POSTGRES_DB are for stores that stand elsewhere.
set -eu
umask 077
here=$(cd "$(dirname "$0")" && pwd)
folder=${1:?expected the folder to make, then the names of the accounts}
shift
mkdir -p "$folder/accounts" "$folder/redis" "$folder/postgres"
cd "$folder"

password() { [ -s "$1" ] || openssl rand -hex 24 | tr -d '\n' > "$1"; }
digest() { openssl dgst -sha256 -r < "$1" | cut -d' ' -f1; }

for name in "$@"; do password "accounts/$name"; done
password stream.key
password metrics.token
password postgres/password
password redis/watcher
password redis/worker
password redis/probe

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
certificate redis/redis "DNS:${REDIS_HOST:-redis},DNS:localhost,IP:127.0.0.1"
certificate engine "DNS:${ENGINE_HOST:-copier},DNS:localhost,IP:127.0.0.1"

sed -e "s/WATCHER_SHA256/$(digest redis/watcher)/" -e "s/WORKER_SHA256/$(digest redis/worker)/" \
  -e "s/PROBE_SHA256/$(digest redis/probe)/" "$here/../redis/users.acl" > redis/users.acl
place="${REDIS_HOST:-redis}:${REDIS_PORT:-6379}/0?ssl_ca_certs=secrets/ca.crt"
printf 'rediss://watcher:%s@%s' "$(cat redis/watcher)" "$place" > redis_watcher.url
printf 'rediss://worker:%s@%s' "$(cat redis/worker)" "$place" > redis_worker.url
place="${POSTGRES_HOST:-postgres}:${POSTGRES_PORT:-5432}/${POSTGRES_DB:-copier}"
printf 'postgresql+psycopg://copier:%s@%s' "$(cat postgres/password)" "$place" > ledger.url

chmod 644 ca.crt
if [ "$(id -u)" = 0 ] && [ "${OWNERS:-containers}" = containers ]; then
  chmod 711 .
  chown -R 10001:10001 accounts ./*.url stream.key metrics.token engine.crt engine.key
  chown -R 999:1000 redis
  chown -R 70:70 postgres
fi
