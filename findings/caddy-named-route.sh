#!/usr/bin/env bash
# Tool:      Caddy v2.11.9, the Caddyfile adapter
# Guess:     A named route contains all of its directives, like a site block or a handle
#            block with the same lines.
# Behaviour: If no directive has a matcher, the adapter keeps the first and drops the
#            others without a warning, so the route below answers with an empty 200. A
#            matcher on any of them, or a handle block around them, keeps all.
# Output seen:
# > plain: headers
# > with a matcher: headers headers static_response
# > in handle: headers headers static_response
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
sed -n 's/^# > //p' "$0" >"$tmp/want"
cd "$tmp"

GOBIN=$tmp go install github.com/caddyserver/caddy/v2/cmd/caddy@v2.11.9 2>log || { cat log >&2; exit 1; }

# handlers FIRST BEFORE AFTER lists the leaf handlers of a named route.
handlers() {
	printf '&(page) {\n%s\nheader %s X-A a\nheader X-B b\nrespond hello\n%s\n}\n:80 {\ninvoke page\n}\n' \
		"$2" "$1" "$3" >Caddyfile
	./caddy adapt --config Caddyfile 2>/dev/null >adapted
	node -e '
		const names = []
		const walk = (x) => {
			if (!x || typeof x !== "object") return
			if (x.handler && x.handler !== "subroute") names.push(x.handler)
			Object.values(x).forEach(walk)
		}
		walk(JSON.parse(require("fs").readFileSync("adapted")).apps.http.servers.srv0.named_routes)
		console.log(names.join(" "))'
}
{
	printf 'plain: '
	handlers '' '' ''
	printf 'with a matcher: '
	handlers '/a*' '' ''
	printf 'in handle: '
	handlers '' 'handle {' '}'
} | tee got
diff want got
