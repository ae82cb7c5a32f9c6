package aventusauth

import (
	"net/http"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// isPage reports whether a request is a browser's visit of a page, as opposed to
// what a script, an image or an API client asks for. A visit that is fetched ahead
// is one, too: those who begin logins refuse it. What an embed or an object element shows is a part of another page.
func isPage(r *http.Request) bool {
	if r.Method != http.MethodGet && r.Method != http.MethodHead || isWebSocket(r) || isEmbedded(r) {
		return false
	}
	return isNavigation(r)
}

// isForm reports whether a request is a form that a browser submits by POST.
func isForm(r *http.Request) bool {
	if original(r).Method != http.MethodPost {
		return false
	}
	return isNavigation(r)
}

// mayBeGetForm reports whether a navigation may be a form that a page of the site submits by GET. The URL of such
// a form has a query, if an empty one (https://html.spec.whatwg.org/#submit-mutate-action). So has that of many a
// link, and nothing tells them apart.
func mayBeGetForm(r *http.Request) bool {
	orig := original(r)
	return orig.Method == http.MethodGet && (orig.URL.RawQuery != "" || orig.URL.ForceQuery) &&
		r.Header.Get("Sec-Fetch-Site") == "same-origin" && isNavigation(r)
}

// mayFollowForm reports whether a tab's visit may be a redirect that answers a form of another origin. The
// browser says where such a visit began, and not by what: a form, a link or a script
// (https://www.w3.org/TR/fetch-metadata/#sec-fetch-site-header). What is typed began nowhere.
func mayFollowForm(r *http.Request) bool {
	from := r.Header.Get("Sec-Fetch-Site")
	return r.Header.Get("Sec-Fetch-Dest") == "document" && (from == "cross-site" || from == "same-site")
}

// isNavigation reports whether a request is a navigation. Where the client has no Fetch
// Metadata, only an Accept that names HTML shows it.
func isNavigation(r *http.Request) bool {
	if _, ok := r.Header["Sec-Fetch-Mode"]; ok {
		return navigates(r)
	}
	_, scripted := r.Header["X-Requested-With"]
	return !scripted && namesHTML(r.Header["Accept"])
}

// mayRenewByVisit reports whether a request is a page visit that can go through the
// authorization server and come back: a browser's own word, and not ahead of time. A frame cannot, as
// the authorization server's pages are shown in none. A service worker that passes a visit on makes its destination
// "empty".
func mayRenewByVisit(r *http.Request) bool {
	if dest, ok := r.Header["Sec-Fetch-Dest"]; ok && !slices.Equal(dest, []string{"document"}) &&
		!(slices.Equal(dest, []string{"empty"}) && r.Header.Get("Sec-Fetch-Mode") == "same-origin") {
		return false
	}
	return r.Method == http.MethodGet && navigates(r) && isPage(r) && !isFetchedAhead(r)
}

// navigates reports whether the browser says that a request is a navigation
// (https://www.w3.org/TR/fetch-metadata/#sec-fetch-mode-header). A service worker that
// passes one on with an option of its own makes it "same-origin"; the other headers of
// a navigation stay (https://fetch.spec.whatwg.org/#dom-request, step 12).
func navigates(r *http.Request) bool {
	mode := r.Header["Sec-Fetch-Mode"]
	if len(mode) != 1 {
		return false
	}
	if mode[0] != "same-origin" {
		return mode[0] == "navigate"
	}
	_, scripted := r.Header["X-Requested-With"]
	return !scripted && r.Header.Get("Upgrade-Insecure-Requests") == "1" && namesHTML(r.Header["Accept"])
}

// isFetchedAhead reports whether a browser, or a framework's script, asks for what the
// person has not asked for yet and may never ask for. Sec-Purpose is the standard
// (https://fetch.spec.whatwg.org/#sec-purpose-header), Purpose what Chromium sent
// before, X-Purpose what Safari sends, and X-Moz what Firefox sent before. The others
// are set by the scripts of Turbo, Next.js and htmx.
func isFetchedAhead(r *http.Request) bool {
	for _, name := range [...]string{"Sec-Purpose", "Purpose", "X-Sec-Purpose", "X-Purpose", "X-Moz"} {
		for _, line := range r.Header[name] {
			line = strings.ToLower(line)
			if strings.Contains(line, "prefetch") || strings.Contains(line, "prerender") ||
				strings.Contains(line, "preview") {
				return true
			}
		}
	}
	for _, name := range [...]string{"Next-Router-Prefetch", "X-Middleware-Prefetch", "Hx-Preloaded"} {
		if _, ok := r.Header[name]; ok {
			return true
		}
	}
	return false
}

// isEmbedded reports whether a request is for a part of a page, such as an image, or
// for a link's ping. Its user is not asked, and whoever may write into the page can
// add one. A frame is none, nor is what a script fetches
// (https://www.w3.org/TR/fetch-metadata/#sec-fetch-dest-header).
func isEmbedded(r *http.Request) bool {
	if _, ok := r.Header["Ping-To"]; ok { // https://html.spec.whatwg.org/#ping-to
		return true
	}
	dest, ok := r.Header["Sec-Fetch-Dest"]
	if !ok {
		return false
	}
	return len(dest) != 1 || !slices.Contains([]string{"document", "iframe", "frame", "empty"}, dest[0])
}

// isFrame reports whether a request is for a page inside another page.
func isFrame(r *http.Request) bool {
	dest := r.Header.Get("Sec-Fetch-Dest")
	return dest == "iframe" || dest == "frame"
}

// namesHTML reports whether an Accept header admits HTML by its name, as browsers do when they visit a
// page (RFC 9110, section 12.5.1). "*/*" alone, or no header, is what scripts and tools send: they would
// take the page they are redirected to for the answer.
func namesHTML(accept []string) bool {
	admitted := false
	for item := range strings.SplitSeq(strings.Join(accept, ","), ",") {
		mediaType, params, _ := strings.Cut(item, ";")
		if !strings.EqualFold(strings.TrimSpace(mediaType), "text/html") {
			continue
		}
		admitted = true
		for param := range strings.SplitSeq(params, ";") {
			name, value, _ := strings.Cut(param, "=")
			if strings.EqualFold(strings.TrimSpace(name), "q") {
				q, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
				admitted = err == nil && q > 0
			}
		}
	}
	return admitted
}

// isWebSocket reports whether a request opens a WebSocket: by upgrade (RFC 6455,
// section 4.1; stripUpgrade has deleted every other Upgrade) or by CONNECT.
func isWebSocket(r *http.Request) bool {
	return httpguts.HeaderValuesContainsToken(r.Header["Upgrade"], "websocket") || connectsWebSocket(r)
}

// isCrossSite reports whether the browser says that another site made the request
// (https://www.w3.org/TR/fetch-metadata/#sec-fetch-site-header).
func isCrossSite(r *http.Request) bool { return r.Header.Get("Sec-Fetch-Site") == "cross-site" }

// opensTunnel reports whether a request is a CONNECT for anything but a WebSocket. In
// such a tunnel, or in the body that a handler makes of it, a client could send further
// requests, with any path and any identity. The method that was sent counts, too: what a
// rewrite makes a POST of it has the same body. Nor does its case matter: some servers take connect for it.
func opensTunnel(r *http.Request, sentMethod string) bool {
	isConnect := strings.EqualFold(r.Method, http.MethodConnect) || strings.EqualFold(sentMethod, http.MethodConnect)
	return isConnect && !connectsWebSocket(r)
}

// connectsWebSocket reports whether a request opens a WebSocket by CONNECT (RFC 8441,
// RFC 9220). It asks what reverse_proxy asks, which makes a GET of such a request and
// sends every other CONNECT on as it is.
func connectsWebSocket(r *http.Request) bool {
	if r.Method != http.MethodConnect {
		return false
	}
	switch r.ProtoMajor {
	case 2:
		return r.Header.Get(":protocol") == "websocket"
	case 3:
		return r.Proto == "websocket"
	}
	return false
}
