package aventusauth

import (
	"crypto/sha256"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventus"
	"github.com/aventus-platform/caddy-aventus-auth/internal/doctor"
	"github.com/aventus-platform/caddy-aventus-auth/internal/routing"
)

// forDoctor is what the doctor is given.
func forDoctor() doctor.Front {
	return doctor.Front{
		Blocks: func() []*doctor.Block {
			var blocks []*doctor.Block
			for _, h := range handlers() {
				blocks = append(blocks, h.house.forDoctor(h))
			}
			return blocks
		},
		Refusals:       refusalsOf,
		RefusalsAdvice: errorRoutesAdvice,

		Unguarded: unguardedBy, UnguardedAdvice: unguardedAdvice,
		Now: func() time.Time { return clock() },
	}
}

func (h *house) forDoctor(handler caddyhttp.MiddlewareHandler) *doctor.Block {
	s := h.settings
	var notices []doctor.Notice
	for _, n := range s.notices(h.gate.matching.sets) {
		notices = append(notices, doctor.Notice{About: n.about, Detail: n.detail, Next: n.advice})
	}
	return &doctor.Block{
		Notices: notices,
		Handler: handler, Config: s.Config, Client: h.server.client, KeySet: h.keySet, Issuer: s.issuer,
		JWKSURL:     s.jwksURL,
		RedirectURI: s.sites.redirectURI, Hosts: s.listed, Sealed: s.sealedFor(), WithNonce: s.asksForID(),
		NeedsKeys:     s.verify || s.asksForID() || s.backchannelPath != "",
		KeysInStorage: len(s.keys) == 0,
		Matchers:      h.gate.matching.sets, Passes: s.unauthenticated == "pass", TakesBearers: s.acceptBearer,
		Begins:       s.unauthenticated == "auto" || s.unauthenticated == "redirect",
		CallbackPath: s.callbackPath, OtherPaths: []string{s.logoutPath, s.backchannelPath, s.profilePath},
		Cookie: s.cookieName, BoundTo: fmt.Sprintf("%x", s.memoryID()),
		BackchannelPath: s.backchannelPath, LogoutReturn: h.gate.logouts.registered(),
	}
}

// sealedFor returns what is bound to the sessions of a block, and what seals them.
func (s *settings) sealedFor() []doctor.Setting {
	keys := make([]string, 0, 1)
	for _, key := range s.keys {
		keys = append(keys, fmt.Sprintf("%x", sha256.Sum256(key)))
	}
	if len(keys) == 0 { // those in the storage
		keys = append(keys, "")
	}
	all := []doctor.Setting{
		{Name: "session name", Values: []string{s.cookieName}}, {Name: "issuer", Values: []string{s.issuer}},
		{Name: "client_id", Values: []string{s.ClientID}}, {Name: "audience", Values: []string{s.Audience}},
		{Name: "scope", Values: []string{strings.Join(slices.Sorted(slices.Values(s.Scopes)), " ")}},
		{Name: "session key", Values: keys},
	}
	for _, param := range aventus.ComparedParams {
		all = append(all, doctor.Setting{Name: "authorize_param " + param, Values: []string{s.Params[param]}})
	}
	return all
}

// refusalsOf says what the error routes of a server can do with a refusal of each kind, at each of
// the hosts: they may go by its status, or by its code.
func refusalsOf(server *caddyhttp.Server, hosts []string) (unsafe string, found bool) {
	e, at := errorRoutesAt(server, hosts)
	for _, at := range at {
		for _, f := range failures {
			if v := e.verdict(f, at); v.unsafe != "" {
				return v.unsafe, true
			}
		}
	}
	return "", len(e.lists) > 0
}

// unguardedBy says what the error routes of a server can do with a request that fails before it comes to a block, at
// each of the hosts.
func unguardedBy(server *caddyhttp.Server, hosts []string) (unsafe, failing string) {
	e, at := errorRoutesAt(server, hosts)
	for _, at := range at {
		if unsafe, failing := e.unguarded(at); unsafe != "" {
			return unsafe, failing
		}
	}
	return "", ""
}

// errorRoutesAt returns the error routes of a server, and what hostsOf says of each of the hosts.
func errorRoutesAt(server *caddyhttp.Server, hosts []string) (e *errorRoutes, at []string) {
	e = newErrorRoutes(server)
	at = []string{strings.Repeat(string(rune(routing.Maybe)), len(e.hosts))}
	if len(hosts) > 0 {
		at = nil
		for _, host := range hosts {
			r := &http.Request{Method: http.MethodGet, URL: new(url.URL), Host: host, Header: make(http.Header)}
			at = append(at, e.hostsOf(caddyhttp.PrepareRequest(r, caddy.NewReplacer(), nil, server)))
		}
	}
	return e, at
}
