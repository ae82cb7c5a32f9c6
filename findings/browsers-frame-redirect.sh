#!/usr/bin/env bash
# Tool:      Chromium 156.0.8078.108 and Firefox ESR 153.8.0
# Guess:     A frame whose page and top page are of one site gets that site's cookies with
#            SameSite=Lax, also when it has come through a sign-in at another site: /login
#            redirects there, and it redirects back to /callback.
# Behaviour: Firefox considers the whole redirect chain. It omits the cookie at
#            /callback and at the page that /callback redirects to, so a sign-in in a frame
#            fails. Chromium sends it.
# Output seen:
# > chromium: /login same-origin lax
# > chromium: /callback cross-site lax
# > chromium: /home cross-site lax
# > chromium: /next same-origin lax
# > firefox-esr: /login same-origin lax
# > firefox-esr: /callback cross-site none
# > firefox-esr: /home cross-site none
# > firefox-esr: /next same-origin lax
set -euo pipefail
tmp=$(mktemp -d)
pids=''
trap '[ -z "$pids" ] || kill $pids 2>/dev/null || true; wait; rm -rf "$tmp"' EXIT
sed -n 's/^# > //p' "$0" >"$tmp/want"
cd "$tmp"

# The site is 127.0.0.1, and the sign-in server localhost: two sites to a browser.
cat >servers.js <<'EOF'
const http = require('http')
const name = process.argv[2]
const page = (w, script) => {
	w.setHeader('Content-Type', 'text/html')
	w.end(`<script>${script}</script>`)
}
const redirect = (w, to) => w.writeHead(302, { Location: to }).end()
const site = http.createServer((r, w) => {
	if (r.url === '/') {
		w.setHeader('Set-Cookie', 'lax=1; SameSite=Lax')
		return page(w, 'const f = document.createElement("iframe"); f.src = "/login"; document.documentElement.append(f)')
	}
	if (!['/login', '/callback', '/home', '/next'].includes(r.url)) return w.writeHead(404).end()
	const cookies = (r.headers.cookie || 'none').split('; ').map((c) => c.split('=')[0]).join()
	console.log(`${name}: ${r.url} ${r.headers['sec-fetch-site']} ${cookies}`)
	if (r.url === '/login') return redirect(w, `http://localhost:${idp.address().port}/authorize`)
	if (r.url === '/callback') return redirect(w, '/home')
	if (r.url === '/home') return page(w, 'location = "/next"')
	w.end('done', () => process.exit(0))
})
const idp = http.createServer((r, w) => {
	if (r.url !== '/authorize') return w.writeHead(404).end()
	redirect(w, `http://127.0.0.1:${site.address().port}/callback`)
})
idp.listen(0, 'localhost', () => site.listen(0, '127.0.0.1', () =>
	require('fs').writeFileSync('port', String(site.address().port))))
setTimeout(() => process.exit(1), 90000)
EOF

# drive BROWSER ARGS... opens the site, and ends the browser when it has come to /next.
drive() {
	rm -f port
	node servers.js "$1" >>got &
	local servers=$!
	pids=$servers
	until [ -s port ]; do sleep 0.1; done
	"$@" "http://127.0.0.1:$(cat port)/" >/dev/null 2>&1 &
	local browser=$!
	pids="$servers $browser"
	wait "$servers"
	kill "$browser" 2>/dev/null || true
	wait "$browser" 2>/dev/null || true
	pids=''
}
sandbox=''
[ "$(id -u)" -ne 0 ] || sandbox=--no-sandbox
drive chromium --headless $sandbox --user-data-dir="$tmp/chromium" --remote-debugging-port=0
drive firefox-esr --headless --no-remote --profile "$(mkdir firefox && echo "$tmp/firefox")"
cat got
diff want got
