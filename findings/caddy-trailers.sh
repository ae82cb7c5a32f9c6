#!/usr/bin/env bash
# Tool:      Caddy v2.11.9, reverse_proxy
# Guess:     "header -Server-Timing" and "header_down -Server-Timing" remove every field
#            of that name from the response, and a trailer that the app has not announced
#            in a Trailer field is dropped.
# Behaviour: Both directives apply to the header section only. The field is still sent
#            after the body, announced or not, over HTTP/1.1 and HTTP/2. Handlers in
#            front of reverse_proxy that edit or count header fields do not see trailers.
# Output seen:
# > announced, HTTP/1.1: header 0, trailer Server-Timing: tail
# > announced, HTTP/2: header 0, trailer server-timing: tail
# > unannounced, HTTP/1.1: header 0, trailer Server-Timing: tail
# > unannounced, HTTP/2: header 0, trailer server-timing: tail
set -euo pipefail
tmp=$(mktemp -d)
pids=''
trap '[ -z "$pids" ] || kill $pids 2>/dev/null || true; wait; rm -rf "$tmp"' EXIT
sed -n 's/^# > //p' "$0" >"$tmp/want"
cd "$tmp"

GOBIN=$tmp go install github.com/caddyserver/caddy/v2/cmd/caddy@v2.11.9 2>log || { cat log >&2; exit 1; }
cat >app.js <<'EOF'
require('net').createServer((c) => {
	c.on('error', () => {})
	c.once('data', (d) => c.end('HTTP/1.1 200 OK\r\n' +
		(/^GET \/announced /.test(d) ? 'Trailer: Server-Timing\r\n' : '') +
		'Server-Timing: head\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n' +
		'5\r\nbody\n\r\n0\r\nServer-Timing: tail\r\n\r\n'))
}).listen('app.sock')
EOF
cat >Caddyfile <<EOF
{
	admin off
	persist_config off
}
http:// {
	bind unix/$tmp/caddy.sock
	header -Server-Timing
	reverse_proxy unix/$tmp/app.sock {
		header_down -Server-Timing
	}
}
EOF
node app.js &
pids=$!
./caddy run --config Caddyfile 2>log &
pids="$pids $!"
for _ in $(seq 100); do [ ! -S app.sock ] || [ ! -S caddy.sock ] || break; sleep 0.1; done

# ask PATH LABEL OPTION
ask() {
	curl -s "$3" -i --raw --unix-socket caddy.sock "http://site/$1" | tr -d '\r' >answer
	printf '%s, %s: header %s, trailer %s\n' "$1" "$2" \
		"$(sed '/^$/q' answer | grep -ci '^server-timing' || true)" "$(sed '1,/^$/d' answer | grep -i '^server-timing')"
}
{
	for p in announced unannounced; do
		ask $p HTTP/1.1 --http1.1
		ask $p HTTP/2 --http2-prior-knowledge
	done
} >got
cat got
diff want got
