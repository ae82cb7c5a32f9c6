#!/usr/bin/env bash
# Tool:      Caddy v2.11.9 (encode) behind the cache of nginx 1.22.1 (Debian 12)
# Guess:     A field on two lines means the same as one line with a comma (RFC 9110,
#            section 5.3), so encode can serve an app that sends Vary: Accept-Language
#            behind a cache that respects Vary.
# Behaviour: encode adds Vary: Accept-Encoding as a second line, and nginx 1.22 respects
#            only the last Vary line. It stores the German page and serves it to a client
#            that asks for French. If the app sends both names in one line, encode adds
#            none and the cache works.
# Output seen:
# > without encode: 1 Vary line; de gets de, fr gets fr
# > with encode: 2 Vary lines; de gets de, fr gets de
# > with encode, joined by the app: 1 Vary line; de gets de, fr gets fr
set -euo pipefail
tmp=$(mktemp -d)
pids=''
trap '[ -z "$pids" ] || kill $pids 2>/dev/null || true; wait; rm -rf "$tmp"' EXIT
sed -n 's/^# > //p' "$0" >"$tmp/want"
chmod 755 "$tmp"
cd "$tmp"

GOBIN=$tmp go install github.com/caddyserver/caddy/v2/cmd/caddy@v2.11.9 2>log || { cat log >&2; exit 1; }
cat >Caddyfile <<EOF
{
	admin off
	persist_config off
}
http:// {
	bind unix/$tmp/caddy.sock|0777
	header Content-Type text/plain
	header Cache-Control max-age=60
	header /plain* Vary Accept-Language
	header /encoded* Vary Accept-Language
	header /joined* Vary "Accept-Language, Accept-Encoding"
	encode /encoded*
	encode /joined*
	# long enough for encode to take it
	respond "{header.Accept-Language} $(printf '%01000d' 0)"
}
EOF
cat >nginx.conf <<EOF
pid nginx.pid;
error_log error.log;
daemon off;
worker_processes 1;
events {}
http {
	access_log off;
	client_body_temp_path t1;
	proxy_temp_path t2;
	fastcgi_temp_path t3;
	uwsgi_temp_path t4;
	scgi_temp_path t5;
	proxy_cache_path cache keys_zone=z:1m;
	server {
		listen unix:$tmp/nginx.sock;
		location / { proxy_pass http://unix:$tmp/caddy.sock:; proxy_cache z; }
	}
}
EOF
./caddy run --config Caddyfile 2>log &
pids=$!
nginx -p "$tmp" -c "$tmp/nginx.conf" 2>log2 &
pids="$pids $!"
for _ in $(seq 100); do [ ! -S caddy.sock ] || [ ! -S nginx.sock ] || break; sleep 0.1; done

ask() { curl -s --compressed --unix-socket nginx.sock -H "Accept-Language: $2" "http://site/$1" | cut -c 1-2; }
# path LABEL PATH
path() {
	n=$(curl -s --compressed --unix-socket caddy.sock -D - -o /dev/null "http://site/$2" | grep -ci '^vary:')
	[ "$n" = 1 ] && lines=line || lines=lines
	printf '%s: %s Vary %s; de gets %s, fr gets %s\n' "$1" "$n" "$lines" "$(ask "$2" de)" "$(ask "$2" fr)"
}
{
	path 'without encode' plain
	path 'with encode' encoded
	path 'with encode, joined by the app' joined
} >got
cat got
diff want got
