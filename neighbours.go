package aventusauth

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"net/http"
	"slices"
	"time"
)

// neighbour is a block as the others of its config know it: one whose sessions a browser may hold.
type neighbour struct {
	sites   *sites
	cookies *cookies
	keeper  *keeper
	server  *authServer
	meter   *meter

	// how long what is sealed with its keys may last, by any instance and config: see [keyring.Ring.Keep]
	keep func(context.Context) (time.Duration, error)

	takesLogouts   bool          // of the authorization server: backchannel_logout
	logoutPath     string        // empty: none
	logoutProvider bool          // by way of the authorization server's logout
	requests       *hostRequests // to the login host
}

// neighbours are the blocks of one config.
type neighbours struct{ roster[*neighbour] }

// takeLogouts reports whether any of the blocks takes logout tokens for the client of a server: they end sessions that
// others of its blocks have made, too.
func (ns *neighbours) takeLogouts(server *authServer) bool {
	return slices.ContainsFunc(ns.list(), func(n *neighbour) bool {
		return n.takesLogouts && n.server.issuer == server.issuer && n.server.clientID == server.clientID
	})
}

// present is a block with the site that it has for a request.
type present struct {
	*neighbour
	at site
}

// isOfGroup reports whether two blocks have the same sessions at all hosts.
func (b present) isOfGroup(other present) bool { return bytes.Equal(b.at.group, other.at.group) }

// atHost returns the blocks whose cookies a browser has at the host of a site of own: own itself, which
// is the first, and its neighbours there. A browser tells cookies apart neither by port nor by scheme.
func (ns *neighbours) atHost(own *neighbour, r *http.Request, at site) []present {
	found := []present{{own, at}}
	for _, other := range ns.list() {
		if other == own {
			continue
		}
		if there, err := other.sites.of(r); err == nil && there.host() == at.host() {
			found = append(found, present{other, there})
		}
	}
	return found
}

// otherAccount returns a sentence on how the user of a request that own refuses can use another account, or "" if no
// block at its origin has a logout. That of any block there will do, since it ends the sessions of all. Unless it goes
// by way of the authorization server, that one would sign the same person in again, without a question.
func (ns *neighbours) otherAccount(own *neighbour, r *http.Request) string {
	at, err := own.sites.of(r)
	if err != nil {
		return ""
	}
	for _, b := range ns.atHost(own, r, at) {
		switch {
		case b.at.origin != at.origin: // another port
		case b.neighbour != own && b.sites.fixed == nil: // it may be at another host
		case b.logoutProvider:
			return " To use another account, sign out first, at " + b.logoutPath + "."
		case b.logoutPath != "":
			return " To use another account, sign out first, at " + b.logoutPath + " and at the sign-in server."
		}
	}
	return ""
}

// isForAnother reports whether a request names the host of another block, and not that of own: the paths of the
// module's own there, but for the callback, are the other one's to serve, if it has any. Where no block has the
// host, as behind a proxy that sets its own, each serves what it gets.
func (ns *neighbours) isForAnother(own *neighbour, r *http.Request) bool {
	host := hostOf(r)
	if own.sites.fixed == nil || own.sites.names(host) {
		return false
	}
	return slices.ContainsFunc(ns.list(), func(other *neighbour) bool {
		return other.sites.names(host)
	})
}

// held is a session that a request's cookies hold, with the block that opened it.
type held struct {
	*keptSession
	by present
}

// heldBy returns the sessions of some blocks that the lines of a Cookie header hold, valid or not. The error
// covers cookies that no block opened and at least one failed to check, and sessions of which the record cannot be
// read; the latter and the other sessions are returned all the same.
func heldBy(ctx context.Context, blocks []present, cookies []string) ([]held, error) {
	var sessions []held
	opened, failed := make(map[string]bool), make(map[string]error)
	for _, b := range blocks {
		for value := range cookieValues(cookies, b.cookies.session) {
			if opened[value] { // by a block that is alike
				continue
			}
			k, _, err := b.keeper.open(ctx, b.at, value)
			if k != nil {
				opened[value] = true
				delete(failed, value)
				sessions = append(sessions, held{k, b})
			}
			if err != nil {
				failed[value] = err
			}
		}
	}
	return sessions, errors.Join(slices.Collect(maps.Values(failed))...)
}

// isRead reports whether the session is known, and not only its handle.
func (s held) isRead() bool { return s.tokenCame != 0 }

// canEnd reports whether there is something to end. An idle session's cookie may have a younger copy,
// but what has ended is not ended, revoked and reported again.
func (s held) canEnd() bool {
	kp := s.by.keeper
	return kp.now().Before(s.expires.time()) && (!kp.hasEnded(s.session) || kp.ends.isUnwritten(s.session))
}
