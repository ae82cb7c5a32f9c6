#!/usr/bin/env bash
# Tool:      nginx 1.22.1 (Debian 12), proxy_cache
# Guess:     proxy_cache_valid decides which status codes are cached: with
#            "proxy_cache_valid 200 1m" an error is not.
# Behaviour: proxy_cache_valid applies only if the upstream's header gives no lifetime.
#            If an app sends max-age with every response, nginx caches every status, and
#            all visitors keep getting a 401 or 503 after the app has recovered.
#            "proxy_cache_valid 401 503 0" does not help; no-store does.
# Output seen:
# > 200 without max-age: MISS, then HIT
# > 401 without max-age: MISS, then MISS
# > 401 with max-age: MISS, then HIT
# > 503 with max-age: MISS, then HIT
# > 401 with max-age and no-store: MISS, then MISS
set -euo pipefail
tmp=$(mktemp -d)
pids=''
trap '[ -z "$pids" ] || kill $pids 2>/dev/null || true; wait; rm -rf "$tmp"' EXIT
sed -n 's/^# > //p' "$0" >"$tmp/want"
chmod 755 "$tmp"
cd "$tmp"

# A path is a status and the Cache-Control to send.
cat >upstream.js <<'EOF'
require('http').createServer((r, w) => {
	const [, status, control] = r.url.split('/')
	if (control) w.setHeader('Cache-Control', decodeURIComponent(control))
	w.writeHead(Number(status)).end('body')
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
	server {
		listen unix:$tmp/nginx.sock;
		location / {
			proxy_pass http://unix:$tmp/up.sock;
			proxy_cache z;
			proxy_cache_valid 200 1m;
			proxy_cache_valid 401 503 0;
			add_header X-Cache \$upstream_cache_status always;
		}
	}
}
EOF
node upstream.js &
pids=$!
nginx -p "$tmp" -c "$tmp/nginx.conf" 2>log &
pids="$pids $!"
for _ in $(seq 100); do [ ! -S up.sock ] || [ ! -S nginx.sock ] || break; sleep 0.1; done

ask() { curl -s -D - -o /dev/null --unix-socket nginx.sock "http://site/$1" | sed -n 's/\r$//; s/^X-Cache: //p'; }
twice() { printf '%s: %s, then %s\n' "$1" "$(ask "$2")" "$(ask "$2")"; }
{
	twice '200 without max-age' 200/
	twice '401 without max-age' 401/
	twice '401 with max-age' 401/max-age=60
	twice '503 with max-age' 503/max-age=60
	twice '401 with max-age and no-store' 401/max-age=60,no-store
} >got
cat got
diff want got
