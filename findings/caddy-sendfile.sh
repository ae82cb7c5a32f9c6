#!/usr/bin/env bash
# Tool:      Caddy v2.11.9, file_server over plain HTTP/1.1 (Linux, strace)
# Guess:     An uncompressed file is sent with sendfile, as by net/http's FileServer. A
#            comment in Caddy's write idle timeout says that most of this is preserved.
# Behaviour: The write idle timeout, which is on by default, wraps the source in an
#            io.LimitedReader. net/http has already wrapped the file in one, and the net
#            package unwraps only one level, so every file is copied through user space.
#            A negative write_idle restores sendfile.
# Output seen:
# > write idle timeout as it comes: 8000000 bytes, sendfile: no
# > write idle timeout off: 8000000 bytes, sendfile: yes
set -euo pipefail
tmp=$(mktemp -d)
pid=''
trap '[ -z "$pid" ] || kill "$pid" 2>/dev/null || true; rm -rf "$tmp"' EXIT
sed -n 's/^# > //p' "$0" >"$tmp/want"
cd "$tmp"

GOBIN=$tmp go install github.com/caddyserver/caddy/v2/cmd/caddy@v2.11.9 2>log || { cat log >&2; exit 1; }
mkdir www
head -c 8000000 /dev/zero >www/file
port=$(node -e 'require("net").createServer().listen(0, "127.0.0.1", function () {
	console.log(this.address().port)
	this.close()
})')

# fetch LABEL GLOBAL_OPTION
fetch() {
	cat >Caddyfile <<-EOF
		{
			admin off
			persist_config off
			$2
		}
		http://127.0.0.1:$port {
			root * $tmp/www
			file_server
		}
	EOF
	strace -f -qq -e trace=sendfile -e signal=none -o trace ./caddy run --config Caddyfile --pidfile pid 2>log &
	tracer=$!
	for _ in $(seq 200); do curl -so /dev/null "http://127.0.0.1:$port/" && break; sleep 0.1; done
	pid=$(cat pid)
	size=$(curl -s -o /dev/null -w '%{size_download}' "http://127.0.0.1:$port/file")
	kill "$pid"
	wait "$tracer" || true
	pid=''
	printf '%s: %s bytes, sendfile: %s\n' "$1" "$size" "$(grep -q 'sendfile(' trace && echo yes || echo no)"
	rm -f pid
}
{
	fetch 'write idle timeout as it comes' ''
	fetch 'write idle timeout off' 'servers {
		timeouts {
			write_idle -1s
		}
	}'
} >got
cat got
diff want got
