package aventusauth

import (
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/certmagic"
	lru "github.com/hashicorp/golang-lru/v2"
	"go.uber.org/zap"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventus"
	"github.com/aventus-platform/caddy-aventus-auth/internal/keyring"
	"github.com/aventus-platform/caddy-aventus-auth/internal/records"
)

// surroundings are the parts of Caddy that a block needs, and the peers that it shares with other blocks.
type surroundings struct {
	ctx      caddy.Context
	storage  certmagic.Storage
	events   *caddyevents.App // nil: none
	logger   *zap.Logger
	matchers caddyhttp.MatcherSets
	peers    *peers
	now      func() time.Time
}

// house holds the stages of a block. They are made once, from the settings, and each has the few
// parts that it needs.
type house struct {
	settings   *settings
	shared     *shared
	keySet     *aventus.KeySet // the authorization server's public keys
	server     *authServer
	keeper     *keeper
	renewer    *renewer
	identifier *identifier
	logins     *logins
	handOvers  *handOvers
	own        *neighbour // as its peers know it
	gate       *gate
}

// setUp builds the house. It touches neither the network nor the storage.
func (h *Handler) setUp(in surroundings) error {
	cfg, err := h.settings()
	if err != nil {
		return err
	}
	shared, release, err := share(in.storage, in.logger, in.now)
	if err != nil {
		return err
	}
	h.release = append(h.release, release)
	ring := keyring.Stored(shared.storage, &shared.keys, shared.clock, cfg.lifetime)
	if len(cfg.keys) > 0 {
		if ring, err = keyring.Fixed(cfg.keys, in.now); err != nil {
			return fmt.Errorf("session key: %w", err)
		}
	}
	lastUses, _ := lru.New[records.ID, time.Time](rememberedUses) // fails for no size alone, as do these
	damaged, _ := lru.New[[16]byte, time.Time](damagedRecords)
	verified, _ := lru.New[[32]byte, *bearerToken](verifiedTokens)

	// Sites, and the writer of answers.
	sites := cfg.sites
	cookies := &cookies{session: cfg.cookieName, binding: cfg.bindingName, secure: cfg.secure}
	meter := &meter{site: cfg.label, logger: in.logger, events: in.events, ctx: in.ctx}
	challenges := &challenges{scopes: cfg.requireScope}
	answers := &answers{
		cookies: cookies, tokenHeader: cfg.tokenHeader, vary: cfg.vary,
		challenges: challenges, meter: meter, logger: in.logger,
		errors: &errorPages{all: &in.peers.errors, logger: in.logger},
	}
	var metadata *resourceMetadata
	if cfg.acceptBearer {
		scopes := slices.Concat(cfg.requireScope, cfg.Scopes)
		challenges.resource = newResource(sites, cfg.Audience, cfg.issuerWritten, scopes)
		metadata = &resourceMetadata{challenges.resource, &in.peers.resources, answers}
	}

	// The authorization server.
	keySet := aventus.NewKeySet(cfg.jwksURL, in.now)
	ends := &ends{ended: shared.ended, issuer: cfg.issuer}
	server := &authServer{
		client: aventus.NewClient(cfg.Config), issuer: cfg.issuer, clientID: cfg.ClientID, audience: cfg.Audience,
		params: cfg.Params, revokeURL: cfg.revokeURL, ends: ends, now: in.now, meter: meter, logger: in.logger,
	}
	if cfg.asksForID() {
		server.idTokens = aventus.NewIDVerifier(cfg.issuer, cfg.ClientID, keySet, in.now)
	}
	if cfg.verify {
		server.tokens = aventus.NewTokenVerifier(cfg.issuer, cfg.Audience, keySet, in.now)
	}

	// Sessions.
	store := &sessionStore{
		shelf:    records.NewShelf(shared.storage, "aventus_auth/sessions", shared.clock),
		uses:     records.NewShelf(shared.storage, "aventus_auth/uses", shared.clock),
		indexBox: ring.Box("session index", cfg.ClientID), damaged: damaged, clientID: cfg.ClientID, now: in.now,
	}
	keeper := &keeper{
		sessionBox: ring.Box("session", cfg.ClientID), store: store, ends: ends,
		memory: shared.memory, confirm: shared.confirm, memoryID: cfg.memoryID(), lastUses: lastUses,
		tries: &shared.attempts, cookies: cookies, meter: meter,
		lifetime: cfg.lifetime, idle: cfg.idle, inStorage: cfg.inStorage, now: in.now,
	}
	renewer := &renewer{
		locks: shared.storage, uses: shared.used, records: store, memory: keeper,
		flights: &shared.flights, tries: &shared.attempts, server: server, before: cfg.renewBefore,
		now: in.now, meter: meter, logger: in.logger,
	}

	// The identity of a request, and its way to the next handler.
	reader := reader{sessions: keeper, now: in.now}
	if cfg.acceptBearer {
		reader.bearers = &bearers{tokens: server.tokens, keys: keySet, verified: verified, now: in.now}
	}
	identifier := &identifier{reader: reader, renewer: renewer, meter: meter}
	streams := &streams{
		keeper: keeper, bearers: reader.bearers, sites: sites, every: streamCheck, ctx: in.ctx, now: in.now,
	}
	passage := &passage{
		cookies: cookies, tokenHeader: cfg.tokenHeader, takesBearers: cfg.acceptBearer, streams: streams,
		vary: cfg.vary, hasEnded: keeper.hasEnded, noteUse: keeper.noteUse,
	}

	// How sessions begin and end.
	own := &neighbour{
		sites: sites, cookies: cookies, keeper: keeper, server: server, meter: meter, keep: ring.Keep,
	}
	keeper.longest = longestOf(own)
	own.takesLogouts = cfg.backchannelPath != ""
	own.logoutPath, own.logoutProvider = cfg.logoutPath, cfg.logoutProvider
	answers.otherAccount = func(r *http.Request) string { return in.peers.blocks.otherAccount(own, r) }
	replacer := &replacer{own: own, blocks: &in.peers.blocks, latest: &shared.logins, now: in.now, logger: in.logger}
	tickets := &tickets{sites: sites, box: ring.Box("host ticket", cfg.ClientID), answers: answers}
	logins := &logins{
		sites: sites, cookies: cookies, answers: answers, keeper: keeper, server: server,
		states: &states{ring.Box("login state", "")}, verifierBox: ring.Box("code verifier", cfg.ClientID),
		used: shared.used, replacer: replacer, tickets: tickets, others: &in.peers.callbacks,
		asksForRefresh: cfg.asksForRefresh(), now: in.now, meter: meter,
	}
	requests := &hostRequests{
		cookies: cookies, box: ring.Box("host request", cfg.ClientID), answers: answers, now: in.now,
	}
	own.requests = requests
	logouts := &logouts{
		path: cfg.logoutPath, returnURL: cfg.logoutURL, provider: cfg.logoutProvider,
		own: own, blocks: &in.peers.blocks, replacer: replacer, answers: answers,
	}
	handOvers := &handOvers{
		sites: sites, cookies: cookies, answers: answers, keeper: keeper, renewer: renewer,
		logins: logins, tickets: tickets, requests: requests, logouts: logouts,
		used: shared.used, replacer: replacer, now: in.now, meter: meter,
	}

	backchannel := &backchannel{
		path: cfg.backchannelPath, blocks: &in.peers.backchannels,
		verifier: aventus.NewLogoutVerifier(cfg.issuer, cfg.ClientID, keySet, in.now), ends: keeper.ends,
		used: shared.used, remember: keeper.longest,
		busy: make(chan struct{}, logoutsAtOnce), waiting: make(chan struct{}, logoutsAtOnce),
		answers: answers, meter: meter, now: in.now,
	}

	h.house = &house{
		settings: cfg, shared: shared, keySet: keySet, server: server, keeper: keeper, renewer: renewer,
		identifier: identifier, logins: logins, handOvers: handOvers, own: own,
		gate: &gate{
			inFront: &frontCheck{block: h}, matching: newMatching(in.matchers), sites: sites, identifier: identifier,
			rules: &accessRules{cfg.requireScope, cfg.requireClaim}, keeper: keeper, passage: passage,
			handOvers: handOvers, logouts: logouts, backchannel: backchannel,
			profile:  &profile{sites: sites, reader: &identifier.reader, answers: answers},
			metadata: metadata, answers: answers, callbackPath: cfg.callbackPath, logoutPath: cfg.logoutPath,
			backchannelPath: cfg.backchannelPath, profilePath: cfg.profilePath,
			unauthenticated: cfg.unauthenticated, now: in.now,
		},
	}
	meter.start(cfg.asksForRefresh(), cfg.acceptBearer, cfg.backchannelPath != "")
	cfg.logNotices(in.logger, in.matchers)
	in.peers.join(h)
	return nil
}

// close lets go of connections to the authorization server.
func (h *house) close() {
	h.server.client.Close()
	h.keySet.Close()
}
