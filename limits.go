package aventusauth

import (
	"time"

	"github.com/aventus-platform/caddy-aventus-auth/internal/records"
)

// These are the limits of the front, with their reasons. The limits of the packages in internal/ stand there:
// records.ClockSkew and records.LearnInterval, the time-outs of the storage and of the authorization
// server, the ages of keys.

// Lifetimes, and pauses.
const (
	// maxLifetime bounds a session's lifetime. The end of all sessions of a user is remembered for
	// longer, or a session could outlive it.
	maxLifetime = 400 * 24 * time.Hour

	// rememberUserEnd is how long it is remembered that a user's sessions were ended: longer than any
	// session may live, whatever its configuration said, and clocks may differ.
	rememberUserEnd = maxLifetime + 24*time.Hour

	// logoutAnswer is how long the authorization server waits at most for an answer to a logout token. It
	// gives up after some seconds, and does not send the token again.
	logoutAnswer = 800 * time.Millisecond

	// logoutTimeout is how long the work for a logout token may take, also after the answer: if the key set does
	// not answer for as long as a fetch may take, there is time for another fetch. logoutPause is how often it is
	// tried again to verify a token whose key could not be had.
	logoutTimeout = 30 * time.Second
	logoutPause   = time.Second

	// loginLifetime is how long a person may take to sign in; the authorization
	// server gives up then, too.
	loginLifetime = time.Hour

	// A login that came back stale, or to another browser, is started once more:
	// that helps if the visitor was slow, and not if their browser keeps no cookies. So is one whose session has ended
	// meanwhile, and a visit whose ticket came to another browser.
	maxRestarts = 1

	// ticketLifetime is how long a ticket between hosts is good: it travels in one redirect, so a minute
	// is for slow networks alone.
	ticketLifetime = time.Minute

	// maxRounds is how often one page visit may ask for another ticket, because one was late or spent, or
	// its session had ended meanwhile. With several tabs, each of these can happen once.
	maxRounds = 3

	// tabsSettle is how long several tabs may take that log in at once.
	tabsSettle = time.Minute

	// retryRenewal is how long a renewal that failed is not tried again, and what
	// Retry-After says meanwhile.
	retryRenewal = 10 * time.Second

	// restartPause is the least time from one visit of a browser that goes through the authorization server to the
	// next one that does so to have a token renewed.
	restartPause = time.Minute

	// A note that a refresh token is being spent is believed when it still stands
	// after so long: until then, who wrote it may only be waiting for the storage to
	// record what came of it.
	doubtful = retryRenewal

	// logoutPatience is how long a visitor waits for their logout to be recorded.
	logoutPatience = 5 * time.Second

	// maxUses is how often one renewal tries to be the first to use a refresh token. lostLeast is the least that it
	// waits, beyond the time that the first has to send it, before it tries again, and lostMost is how much longer it
	// waits at most.
	maxUses   = 4
	lostLeast = 500 * time.Millisecond
	lostMost  = 10 * time.Second

	// renewAtLast is how long before its end a token is renewed by visits, too, that may be forms, or whose URL is
	// too long to come back whole: with a page whose links are all of that kind, no other visit may come.
	renewAtLast = time.Minute

	// awaitOther is how long a renewal waits for what comes of another instance's, which has noted that it sends
	// the refresh token, and awaitPause is how often it looks.
	awaitOther = 3 * time.Second
	awaitPause = 100 * time.Millisecond

	// damagedFor is how long a session whose record does not open may come back: longer than an engine may show
	// what is half written. After that, its visitor signs in again, and need not wait for what may never come.
	damagedFor = time.Minute

	// settleFor is how long a session's lock is held for a write that was given up on, and that the storage
	// may still carry out.
	settleFor = 10 * time.Minute

	// rememberAttempts is how long an attempt to renew a session is remembered: longer than any pause
	// between two of them.
	rememberAttempts = 20 * time.Minute

	// lookAgain is how often the record of a session is read while a stream of it is open, and the token
	// has died as far as this process remembers: another instance may have renewed it, or been refused.
	lookAgain = time.Minute

	// warnStorage is how often a failing storage is reported in the log.
	warnStorage = 10 * time.Second
)

// streamCheck is how often a stream that was let through is looked at. With what it
// takes to learn that a session has ended elsewhere, it is closed within ten seconds.
// Tests replace it; it is read when a config is loaded.
var streamCheck = records.LearnInterval / 2

// Sizes of what browsers and proxies are sent.
const (
	// maxCookie is how long a cookie's name and value may be together; browsers
	// drop longer ones (draft-ietf-httpbis-rfc6265bis, section 5.6).
	maxCookie = 4096

	// maxCookies is how long the cookies of a site are to be together when a login adds its session's. nginx as a
	// proxy in front, Apache and many app servers take 8 KB in one line, or in the whole header, and Caddy refuses
	// some 20 KB, the logout's too. A quarter is left to cookies that come later, or that the callback is not sent.
	maxCookies = 6 << 10

	// maxAnswerHeader is how long the header of an answer of the module's own may be. nginx takes no
	// longer one by default (proxy_buffer_size, on most platforms), and answers 502 in its place.
	maxAnswerHeader = 4096

	// otherFields is how much of it is left to what is not known when a cookie or a URL is made: the
	// status line, the attributes of cookies, the header fields that the module and Caddy add.
	otherFields = 768

	// maxChallengeScope is how long the scopes in a WWW-Authenticate header may be together. More are
	// left to the metadata.
	maxChallengeScope = 1024

	// longToken is what app servers take in one header: some 8 KB, as a rule (Apache, Tomcat, gunicorn).
	longToken = 8 << 10

	// maxState bounds the state parameter, for URLs that are too long fail in
	// many places.
	maxState = 1536

	// maxCookieName leaves the rest of a cookie to the session.
	maxCookieName = 64

	// maxHost bounds a host name (RFC 1035, section 2.3.4).
	maxHost = 253

	// maxListedSubject limits a subject's length in the session index.
	maxListedSubject = 1024
)

// Numbers of what a process remembers. Of the rest, each is bounded by the time that it is kept: attempts to
// renew a session (rememberAttempts), used codes (loginLifetime, records.Once), and ended sessions (until
// their own end, records.Ended).
const (
	// rememberedBytes limits the memory for sessions as they were opened or made, for all blocks that have
	// the same storage; so does an eighth of GOMEMLIMIT (memoryLimit). It is enough for 65,000 sessions with
	// tokens of 1,500 characters.
	rememberedBytes = 128 << 20

	// These are what a remembered session is taken to weigh beside its texts: rememberedBase with all that
	// keeps it, rememberedHandle if it rests in the storage, and rememberedClaims for each byte of its tokens
	// once their claims are parsed. TestMemoryIsBounded compares them with what it really takes.
	rememberedBase   = 442
	rememberedHandle = 80
	rememberedClaims = 3

	// rememberedUses is how many sessions a handler remembers the last use of, where several hosts share them.
	rememberedUses = 4096

	// rememberedHosts is how many hosts of one login a handler remembers the site of: more than a config
	// lists, as a rule. A wildcard stands for any number. Each has some hundred bytes.
	rememberedHosts = 256

	// verifiedTokens is how many tokens of API clients a handler remembers as verified,
	// at a few kilobytes each.
	verifiedTokens = 4096

	// damagedRecords limits the records of sessions that are remembered as damaged.
	damagedRecords = 1024

	// rememberedLogins limits the browsers whose latest logins, and logouts, are remembered for each storage, and
	// loginsOfOne the logins of each browser, at some hundred bytes a login.
	rememberedLogins = 4096
	loginsOfOne      = 32

	// maxPredecessors limits the storages that no config has any more, and for which it is remembered what has ended,
	// and what is to be written: more than an operator tries, as a rule, until the config has the right one again.
	maxPredecessors = 8

	// maxWrittenAt limits the texts with placeholders whose lines are remembered: more than a Caddyfile has, as
	// a rule. A process may adapt any number of Caddyfiles, for each of its reloads.
	maxWrittenAt = 4096
)

// Work that a request or a config can cause.
const (
	// maxLogoutRequest limits the body of a logout request, whose token has some hundred characters.
	maxLogoutRequest = 64 << 10

	// logoutsAtOnce limits the logout tokens of a block that are at work, and those that wait for keys. Anyone
	// can send some of these.
	logoutsAtOnce = 64

	// maxReadings limits the interpretations tried per path. Only a crafted path has more.
	maxReadings = 16

	// maxTrails limits the ways through the error routes that are followed, and maxDepth how deep:
	// named routes may invoke each other. Beyond them, the error routes are not used.
	maxTrails = 256
	maxDepth  = 32
)
