package aventusauth

import (
	"errors"
	"slices"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"golang.org/x/oauth2"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventus"
)

// Counters live as long as the process: Caddy makes a new
// registry for each config, and gets the same collectors for each. The label site is
// from the config (the origin of its redirect URI), and the others have few values:
// nothing that a visitor sends makes a new series.
var (
	loginsBegun = counter("logins_begun_total",
		"Visitors who were sent to the authorization server.")
	loginsFinished = counter("logins_finished_total",
		"Logins that made a session.")
	loginsFailed = counter("logins_failed_total",
		"Callbacks that were answered with an error, by its code.", "reason")
	tokenRequests = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Namespace: "caddy", Subsystem: "aventus_auth", Name: "token_request_duration_seconds",
		Help: "How long requests to the token endpoint took, by grant and outcome: " +
			"ok, unreachable, timed_out, unavailable, refused or malformed.",
	}, []string{"site", "grant", "outcome"})
	renewals = counter("renewals_total",
		"Sessions whose refresh token was used, or could not be: renewed, failed (it is tried again) or given_up.",
		"outcome")
	sessionsRefused = counter("sessions_refused_total",
		"Session cookies, and people signed in, that were not let through: "+
			"invalid, expired, idle, ended, or the code of the error.",
		"reason")
	backchannelLogouts = counter("backchannel_logouts_total",
		"Logout tokens of the authorization server, by outcome: ended, refused or failed.", "outcome")
	storageErrors = prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: "caddy", Subsystem: "aventus_auth", Name: "storage_errors_total",
		Help: "Calls of Caddy's storage that failed, or were not answered in time, by operation.",
	}, []string{"operation"})
)

func counter(name, help string, labels ...string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: "caddy", Subsystem: "aventus_auth", Name: name, Help: help,
	}, append([]string{"site"}, labels...))
}

var collectors = []prometheus.Collector{
	loginsBegun, loginsFinished, loginsFailed, tokenRequests, renewals, sessionsRefused, backchannelLogouts,
	storageErrors,
}

// register makes Caddy's registry know what is counted, and what further collectors tell.
func register(registry *prometheus.Registry, further ...prometheus.Collector) error {
	for _, collector := range append(further, collectors...) {
		var already prometheus.AlreadyRegisteredError // by another block
		if err := registry.Register(collector); err != nil && !errors.As(err, &already) {
			return err
		}
	}
	for _, operation := range storageOperations {
		storageErrors.WithLabelValues(operation)
	}
	return nil
}

// These are the values of labels that can be known. Their series begin at zero: Prometheus sees a
// series rise only from a value that it has read before, so the first failure of each kind would
// otherwise be on no dashboard.
var (
	storageOperations = []string{"loading", "storing", "deleting", "listing", "locking", "unlocking"}

	// tokenOutcomes are those of a token request.
	tokenOutcomes = []string{"ok", "refused", "unavailable", "timed_out", "unreachable", "malformed"}

	// loginFailures are what a callback may end in.
	loginFailures = []failure{
		errBadHost, errUnlisted, errMethod, errCallback, errState, errLoginLost, errDenied, errServer, errServerBusy,
		errToken, errTokenTimeout, errTokenInvalid, errTokenTooLong, errOverThere, errStorage, errGone,
	}

	// refusals are what may keep a session from going on, beside its own end.
	refusals = []failure{errScope, errClaim, errStorage, errGone}

	// bearerRefusals are what may keep an API client's token from going on.
	bearerRefusals = []failure{errBearer, errToken, errTokenTimeout, errServerBusy}
)

// meter counts what happens at a block's site, and reports it in the log and to Caddy's events app.
type meter struct {
	site   string // the label
	logger *zap.Logger
	events *caddyevents.App // nil: none, in tests
	ctx    caddy.Context

	longTokenReported, noRefreshReported atomic.Bool
}

// start makes the series of the site, at zero. The series of renewals, of API clients and of logout
// tokens exist only for blocks that have any.
func (m *meter) start(renews, acceptsBearer, takesLogouts bool) {
	loginsBegun.WithLabelValues(m.site)
	loginsFinished.WithLabelValues(m.site)
	for _, f := range loginFailures {
		loginsFailed.WithLabelValues(m.site, f.code)
	}
	grants, refused := []string{"authorization_code"}, refusals
	if renews {
		grants, refused = append(grants, "refresh_token"), append(slices.Clip(refused), errRenewal)
		for _, outcome := range []string{"renewed", "failed", "given_up"} {
			renewals.WithLabelValues(m.site, outcome)
		}
	}
	if takesLogouts {
		for _, outcome := range []string{"ended", "refused", "failed"} {
			backchannelLogouts.WithLabelValues(m.site, outcome)
		}
	}
	if acceptsBearer {
		refused = append(slices.Clip(refused), bearerRefusals...)
	}
	for _, reason := range []string{"invalid", "expired", "idle", "ended"} {
		sessionsRefused.WithLabelValues(m.site, reason)
	}
	for _, f := range refused {
		sessionsRefused.WithLabelValues(m.site, f.code)
	}
	for _, grant := range grants {
		for _, outcome := range tokenOutcomes {
			tokenRequests.WithLabelValues(m.site, grant, outcome)
		}
	}
}

func (m *meter) loginBegun()    { loginsBegun.WithLabelValues(m.site).Inc() }
func (m *meter) loginFinished() { loginsFinished.WithLabelValues(m.site).Inc() }

// loginFailed counts a callback that was answered with a failure.
func (m *meter) loginFailed(f *failure, client string) {
	loginsFailed.WithLabelValues(m.site, f.code).Inc()
	m.emit("refused", map[string]any{"reason": f.code, "client_ip": client})
}

// sessionOver counts a session's cookie that is good no more, by the reason.
func (m *meter) sessionOver(reason string) { sessionsRefused.WithLabelValues(m.site, reason).Inc() }

// refused counts a request that brought a session, or a token, and got no further.
func (m *meter) refused(refused *refusal, client string) {
	sessionsRefused.WithLabelValues(m.site, refused.code).Inc()
	data := map[string]any{"reason": refused.code, "client_ip": client}
	if refused.user != nil {
		data["user_id"] = aventus.CleanText(refused.user.subject())
	}
	m.emit("refused", data)
}

// renewal counts a session whose refresh token was used, or could not be.
func (m *meter) renewal(outcome string) { renewals.WithLabelValues(m.site, outcome).Inc() }

// tokenRequest sends a token request, and counts how long it took and its outcome.
func (m *meter) tokenRequest(
	grant string, send func() (*oauth2.Token, *aventus.Error),
) (*oauth2.Token, *aventus.Error) {
	elapsed := stopwatch()
	token, err := send()
	outcome := "ok"
	if err != nil {
		outcome = err.Kind.String()
	}
	tokenRequests.WithLabelValues(m.site, grant, outcome).Observe(elapsed().Seconds())
	return token, err
}

// backchannelLogout counts a logout token.
func (m *meter) backchannelLogout(outcome string) {
	backchannelLogouts.WithLabelValues(m.site, outcome).Inc()
}

// toldOut reports in the log, and as an event, that the authorization server has ended a session, or all
// of a user's.
func (m *meter) toldOut(said aventus.Logout) {
	user, sid := aventus.CleanText(said.Subject), aventus.CleanText(said.SessionID)
	m.logger.Info("signed out by the authorization server",
		zap.String("user_id", user), zap.String("site", m.site), zap.String("sid", sid))
	m.emit("logout", map[string]any{"user_id": user, "site": m.site, "sid": sid})
}

// tell reports in the log, and as an event, that someone signed in or out.
func (m *meter) tell(event, message, origin, subject, session, client string) {
	user, id := aventus.CleanText(subject), session[:8]
	m.logger.Info(message, zap.String("user_id", user), zap.String("site", origin), zap.String("session", id),
		zap.String("client_ip", client))
	m.emit(event, map[string]any{"user_id": user, "site": origin, "session": id, "client_ip": client})
}

// revoked reports the same of sessions that were ended from outside: of one, or, without an id, of all
// that a user has.
func (m *meter) revoked(subject, origin, session string) {
	user := aventus.CleanText(subject)
	fields, data := []zap.Field{zap.String("user_id", user)}, map[string]any{"user_id": user}
	if session != "" {
		id := session[:8]
		fields = append(fields, zap.String("site", origin), zap.String("session", id))
		data["site"], data["session"] = origin, id
	}
	m.logger.Info("revoked", fields...)
	m.emit("revoked", data)
}

// tokenLength reports once that tokens are longer than apps may take. Otherwise, the app's own error
// is all that anybody learns of it.
func (m *meter) tokenLength(bytes int) {
	if bytes > longToken && !m.longTokenReported.Swap(true) {
		m.logger.Warn("an access token is longer than 8 KB",
			zap.String("site", m.site), zap.Int("bytes", bytes), zap.String("advice",
				"many app servers refuse headers of that size, and Caddy itself those of more than 16 KiB in "+
					"total: have the authorization server put less into its tokens, or raise the app's limit"))
	}
}

// noRefreshToken reports once that a refresh token was asked for and did not come. Sessions end with their
// tokens then, and nothing else says so.
func (m *meter) noRefreshToken() {
	if !m.noRefreshReported.Swap(true) {
		m.logger.Warn("the authorization server gave no refresh token, though scope has offline_access",
			zap.String("site", m.site), zap.String("advice",
				"sessions end with their access tokens: allow refresh tokens (offline access) for the application "+
					"and for the API of audience (without an audience, some servers give none), or take "+
					"offline_access out of scope"))
	}
}

// emit emits an event of Caddy's events app.
func (m *meter) emit(name string, data map[string]any) {
	if m.events != nil {
		m.events.Emit(m.ctx, name, data)
	}
}
