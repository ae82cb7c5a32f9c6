#!/usr/bin/env bash
# Tool:      Chromium 156.0.8078.108 and Firefox ESR 153.8.0
# Guess:     The browsers agree on whether a SameSite=Strict cookie is sent when a page
#            of the site starts a sign-in: /login redirects to another site, which
#            redirects back to /callback.
# Behaviour: Firefox considers the whole redirect chain. It omits the cookie at
#            /callback and at the page that /callback redirects to, and sends it again
#            from the next navigation on. Chromium considers only who started the
#            navigation and sends the cookie every time. Sec-Fetch-Site is cross-site in
#            both, so it does not tell whether Strict cookies were withheld.
# Output seen:
# > chromium: /login same-origin strict,lax
# > chromium: /callback cross-site strict,lax
# > chromium: /home cross-site strict,lax
# > chromium: /next same-origin strict,lax
# > firefox-esr: /login same-origin strict,lax
# > firefox-esr: /callback cross-site lax
# > firefox-esr: /home cross-site lax
# > firefox-esr: /next same-origin strict,lax
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
		w.setHeader('Set-Cookie', ['strict=1; SameSite=Strict', 'lax=1; SameSite=Lax'])
		return page(w, 'location = "/login"')
	}
	if (!['/login', '/callback', '/home', '/next'].includes(r.url)) return w.writeHead(404).end()
	const cookies = (r.headers.cookie || '').split('; ').map((c) => c.split('=')[0]).join()
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
