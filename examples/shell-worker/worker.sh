#!/bin/sh
# A job that tells its browser how far it is: worker.sh JOB_ID FILE...
#
# It takes the checksums of files. It publishes through the sqlite3 shell into TABLECAST_DB, the
# server's SQLite file, or where TABLECAST_URL is set (http://127.0.0.1:8081) through curl.
set -eu

sql() { printf "'%s'" "$(printf %s "$1" | sed "s/'/''/g")"; }
json() { printf '"%s"' "$(printf %s "$1" | tr '\001-\037' ' ' | sed 's/["\\]/\\&/g')"; }

publish() { # STREAM JSON
  if [ -n "${TABLECAST_URL:-}" ]; then
    curl -fsS --max-time 5 -o /dev/null -H 'content-type: application/json' \
      -d "{\"stream\":$(json "$1"),\"data\":$2}" "$TABLECAST_URL/broadcast"
  else
    sqlite3 -bail -cmd '.timeout 5000' "file:${TABLECAST_DB:-tablecast.db}?mode=rw" \
      "INSERT INTO tablecast_publish (stream, data) VALUES ($(sql "$1"), $(sql "$2"))"
  fi || echo "not published to $1" >&2 # the job matters more than its bar
}

job=$1
shift
tell() { publish "progress:$job" "{\"id\":$(json "$job"),\"status\":$1}"; }

trap 'code=$?; [ $code -eq 0 ] || tell "\"failed\",\"error\":$(json "exit $code at $file")"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

total=$# at=0 last= file=
for file; do
  sleep "${PAUSE:-0.2}" # the hard work
  sha256sum -- "$file"
  at=$((at + 1)) percent=$((100 * at / total))
  [ "$percent" = "$last" ] || tell "\"working\",\"percent\":$percent,\"at\":$at,\"total\":$total,\"message\":$(json "$file")"
  last=$percent
done
tell '"completed","percent":100'
