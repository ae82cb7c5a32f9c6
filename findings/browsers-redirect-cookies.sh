#!/usr/bin/env bash
# Tool:      Chromium 156.0.8078.108 and Firefox ESR 153.8.0
# Guess:     The browsers agree on which SameSite cookies are sent when a page of the site
#            starts a sign-in, in its own window or in a frame: /login redirects to another
#            site, which redirects back to /callback.
# Behaviour: Firefox considers the whole redirect chain. At /callback, and at the page that
#            /callback redirects to, it omits Strict cookies, and in a frame Lax cookies as
#            well, so a sign-in in a frame fails. It sends them again from the next
#            navigation on. Chromium considers only who started the navigation and sends
#            the cookies every time. Sec-Fetch-Site is cross-site in both, so it does not
#            tell whether cookies were withheld.
# Output seen:
# > chromium: page /login same-origin strict,lax
# > chromium: page /callback cross-site strict,lax
# > chromium: page /home cross-site strict,lax
# > chromium: page /next same-origin strict,lax
# > chromium: frame /login same-origin strict,lax
# > chromium: frame /callback cross-site strict,lax
# > chromium: frame /home cross-site strict,lax
# > chromium: frame /next same-origin strict,lax
# > firefox-esr: page /login same-origin strict,lax
# > firefox-esr: page /callback cross-site lax
# > firefox-esr: page /home cross-site lax
# > firefox-esr: page /next same-origin strict,lax
# > firefox-esr: frame /login same-origin strict,lax
# > firefox-esr: frame /callback cross-site none
# > firefox-esr: frame /home cross-site none
# > firefox-esr: frame /next same-origin strict,lax
set -euo pipefail
tmp=$(mktemp -d)
pids=''
trap '[ -z "$pids" ] || kill $pids 2>/dev/null || true; wait; rm -rf "$tmp"' EXIT
sed -n 's/^# > //p' "$0" >"$tmp/want"
cd "$tmp"

# The site is 127.0.0.1, and the sign-in server localhost: two sites to a browser.
cat >servers.js <<'EOF'
const http = require('http')
const [, , name, start] = process.argv
const starts = {
	page: 'location = "/login"',
	frame: 'const f = document.createElement("iframe"); f.src = "/login"; document.documentElement.append(f)',
}
const page = (w, script) => {
	w.setHeader('Content-Type', 'text/html')
	w.end(`<script>${script}</script>`)
}
const redirect = (w, to) => w.writeHead(302, { Location: to }).end()
const site = http.createServer((r, w) => {
	if (r.url === '/') {
		w.setHeader('Set-Cookie', ['strict=1; SameSite=Strict', 'lax=1; SameSite=Lax'])
		return page(w, starts[start])
	}
	if (!['/login', '/callback', '/home', '/next'].includes(r.url)) return w.writeHead(404).end()
	const cookies = (r.headers.cookie || 'none').split('; ').map((c) => c.split('=')[0]).join()
	console.log(`${name}: ${start} ${r.url} ${r.headers['sec-fetch-site']} ${cookies}`)
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
setTimeout(() => process.exit(1), 300000)
EOF

# drive START BROWSER ARGS... opens the site, and ends the browser when it has come to /next.
drive() {
	local start=$1
	shift
	rm -f port
	node servers.js "$1" "$start" >>got &
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
mkdir firefox
for start in page frame; do
	drive "$start" chromium --headless $sandbox --user-data-dir="$tmp/chromium" --remote-debugging-port=0
done
for start in page frame; do
	drive "$start" firefox-esr --headless --no-remote --profile "$tmp/firefox"
done
cat got
diff want got
