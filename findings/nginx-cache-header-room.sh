#!/usr/bin/env bash
# Tool:      nginx 1.22.1 (Debian 12), proxy_pass with and without proxy_cache
# Guess:     The upstream's header may fill proxy_buffer_size (4,096 bytes by default on
#            amd64), whether or not the location caches.
# Behaviour: With proxy_cache, the same buffer also holds the header of the cache file,
#            which contains the cache key. The longer the URL, the less room is left. A
#            response that passes without proxy_cache is a 502 ("upstream sent too big
#            header") with it, for long URLs and not for short ones, even if the response
#            says no-store. A few cookies can be enough.
# Output seen:
# > header of 3700 bytes, /: plain 200, cache 200
# > header of 3700 bytes, long URL: plain 200, cache 502
# > header of 3900 bytes, /: plain 200, cache 502
# > header of 4096 bytes, /: plain 200, cache 502
# > header of 4097 bytes, /: plain 502, cache 502
set -euo pipefail
tmp=$(mktemp -d)
pids=''
trap '[ -z "$pids" ] || kill $pids 2>/dev/null || true; wait; rm -rf "$tmp"' EXIT
sed -n 's/^# > //p' "$0" >"$tmp/want"
chmod 755 "$tmp"
cd "$tmp"

# The upstream answers a header of as many bytes as the path begins with.
cat >upstream.js <<'EOF'
require('net').createServer((c) => {
	c.on('error', () => {})
	c.once('data', (d) => {
		const size = Number(/^GET \/(\d+)/.exec(d)[1])
		const start = 'HTTP/1.1 200 OK\r\nConnection: close\r\nCache-Control: no-store\r\nContent-Length: 2\r\nX-Fill: '
		c.end(start + 'a'.repeat(size - start.length - 4) + '\r\n\r\nok')
	})
}).listen('up.sock', () => require('fs').chmodSync('up.sock', 0o777))
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
	proxy_buffer_size 4096;
	server {
		listen unix:$tmp/plain.sock;
		location / { proxy_pass http://unix:$tmp/up.sock; }
	}
	server {
		listen unix:$tmp/cache.sock;
		location / { proxy_pass http://unix:$tmp/up.sock; proxy_cache z; }
	}
}
EOF
node upstream.js &
pids=$!
nginx -p "$tmp" -c "$tmp/nginx.conf" 2>log &
pids="$pids $!"
for _ in $(seq 100); do [ ! -S up.sock ] || [ ! -S cache.sock ] || break; sleep 0.1; done

# ask SIZE LABEL SUFFIX
ask() {
	printf 'header of %s bytes, %s:' "$1" "$2"
	sep=' '
	for s in plain cache; do
		printf '%s%s %s' "$sep" "$s" "$(curl -s -o /dev/null -w '%{http_code}' --unix-socket $s.sock "http://site/$1$3")"
		sep=', '
	done
	echo
}
{
	ask 3700 / ''
	ask 3700 'long URL' "?q=$(printf '%0300d' 0)"
	ask 3900 / ''
	ask 4096 / ''
	ask 4097 / ''
} >got
cat got
grep -q 'upstream sent too big header' error.log
diff want got
