#!/usr/bin/env bash
# Tool:      Chromium 156.0.8078.108 and Firefox ESR 153.8.0 (takes over two minutes)
# Guess:     A cookie set without SameSite is either sent with the cross-site POST of
#            response_mode=form_post, or it is not.
# Behaviour: Chromium sends it while the cookie is less than two minutes old, and then
#            no longer: a sign-in works in every test and fails for a visitor who
#            searches for a password. Firefox has no such default and always sends it.
#            With an explicit SameSite=Lax, neither browser sends it.
# Output seen:
# > chromium, at once: POST cross-site with unset; the next GET with unset,lax
# > chromium, after 130 s: POST cross-site with nothing; the next GET with unset,lax
# > firefox-esr, at once: POST cross-site with unset; the next GET with unset,lax
# > firefox-esr, after 130 s: POST cross-site with unset; the next GET with unset,lax
set -euo pipefail
tmp=$(mktemp -d)
trap 'kill $(cat "$tmp"/*/pids 2>/dev/null) 2>/dev/null || true; wait; rm -rf "$tmp"' EXIT
sed -n 's/^# > //p' "$0" >"$tmp/want"
cd "$tmp"

# The site is 127.0.0.1, and the sign-in server localhost: two sites to a browser.
cat >servers.js <<'EOF'
const http = require('http')
const wait = Number(process.argv[2])
const page = (w, body) => {
	w.setHeader('Content-Type', 'text/html')
	w.end(body)
}
const names = (r) => (r.headers.cookie || 'nothing').split('; ').map((c) => c.split('=')[0]).join()
const site = http.createServer((r, w) => {
	if (r.url === '/') {
		w.setHeader('Set-Cookie', ['unset=1', 'lax=1; SameSite=Lax'])
		const to = `http://localhost:${idp.address().port}/authorize`
		return page(w, `<script>setTimeout(() => location = "${to}", ${wait})</script>`)
	}
	if (r.url === '/callback') {
		process.stdout.write(`${r.method} ${r.headers['sec-fetch-site']} with ${names(r)}; `)
		return page(w, '<script>location = "/next"</script>')
	}
	if (r.url !== '/next') return w.writeHead(404).end()
	console.log(`the next ${r.method} with ${names(r)}`)
	w.end('done', () => process.exit(0))
})
const idp = http.createServer((r, w) => {
	if (r.url !== '/authorize') return w.writeHead(404).end()
	page(w, `<form method="post" action="http://127.0.0.1:${site.address().port}/callback">
		<input name="code" value="one"></form><script>document.forms[0].submit()</script>`)
})
idp.listen(0, 'localhost', () => site.listen(0, '127.0.0.1', () =>
	require('fs').writeFileSync('port', String(site.address().port))))
setTimeout(() => process.exit(1), wait + 90000)
EOF

sandbox=''
[ "$(id -u)" -ne 0 ] || sandbox=--no-sandbox
# drive FOLDER MILLISECONDS BROWSER writes FOLDER/got.
drive() {
	mkdir -p "$1/profile"
	cd "$1"
	node ../servers.js "$2" >got &
	local servers=$! browser
	echo "$servers" >pids
	until [ -s port ]; do sleep 0.1; done
	if [ "$3" = chromium ]; then
		set -- chromium $sandbox --remote-debugging-port=0 --user-data-dir="$PWD/profile"
	else
		set -- firefox-esr --no-remote --profile "$PWD/profile"
	fi
	"$@" --headless "http://127.0.0.1:$(cat port)/" >/dev/null 2>&1 &
	browser=$!
	echo "$browser" >>pids
	wait "$servers" || echo "no answer" >>got
	kill "$browser" 2>/dev/null || true
	wait "$browser" 2>/dev/null || true
	: >pids
}
(drive c130 130000 chromium) &
(drive f130 130000 firefox-esr) &
(drive c0 0 chromium)
(drive f0 0 firefox-esr)
wait
{
	echo "chromium, at once: $(cat c0/got)"
	echo "chromium, after 130 s: $(cat c130/got)"
	echo "firefox-esr, at once: $(cat f0/got)"
	echo "firefox-esr, after 130 s: $(cat f130/got)"
} | tee final
diff want final
