package aventusauth

import (
	"errors"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventus"
	"github.com/aventus-platform/caddy-aventus-auth/internal/records"
)

// What is counted is counted for as long as the process lives: Caddy makes a new
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
		Help: "How long requests to the token endpoint took, by grant and outcome: ok, unreachable, timed_out, unavailable, refused or malformed.",
	}, []string{"site", "grant", "outcome"})
	renewals = counter("renewals_total",
		"Sessions whose refresh token was used, or could not be: renewed, failed (it is tried again) or given_up.", "outcome")
	sessionsRefused = counter("sessions_refused_total",
		"Session cookies, and people signed in, that were not let through: invalid, expired, idle, ended, or the code of the error.", "reason")
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

// keyAge is how old the key in each storage is that seals. It is made anew every 30
// days; one that gets much older says that the storage cannot be written.
type keyAge struct{ desc *prometheus.Desc }

func (k keyAge) Describe(descs chan<- *prometheus.Desc) { descs <- k.desc }

func (k keyAge) Collect(metrics chan<- prometheus.Metric) {
	var oldest time.Duration
	memories.Range(func(_, value any) bool {
		if age, ok := value.(*memory).keys.Age(clock()); ok {
			oldest = max(oldest, age)
		}
		return true
	})
	if oldest > 0 {
		metrics <- prometheus.MustNewConstMetric(k.desc, prometheus.GaugeValue, oldest.Seconds())
	}
}

var collectors = []prometheus.Collector{
	loginsBegun, loginsFinished, loginsFailed, tokenRequests, renewals, sessionsRefused, storageErrors,
	keyAge{prometheus.NewDesc("caddy_aventus_auth_sealing_key_age_seconds",
		"The age of the key that seals sessions and logins; of several storages, the oldest one's.", nil, nil)},
}

// register makes Caddy's registry know what is counted.
func (h *Handler) register(registry *prometheus.Registry) error {
	for _, collector := range collectors {
		var already prometheus.AlreadyRegisteredError // by another block
		if err := registry.Register(collector); err != nil && !errors.As(err, &already) {
			return err
		}
	}
	// These are there before they are first counted, so that the first is seen as one
	// more than none.
	loginsBegun.WithLabelValues(h.cfg.label)
	loginsFinished.WithLabelValues(h.cfg.label)
	for _, operation := range []string{"loading", "storing", "deleting", "listing", "locking", "unlocking"} {
		storageErrors.WithLabelValues(operation)
	}
	return nil
}

// countFailure counts a login that ended with an error, and returns the error.
func (h *Handler) countFailure(err error) error {
	var f failure
	if errors.As(err, &f) {
		loginsFailed.WithLabelValues(h.cfg.label, f.code).Inc()
		h.emit("refused", map[string]any{"reason": f.code})
	}
	return err
}

// countRefusal counts a request that brought a session, or a token, and got no further.
func (h *Handler) countRefusal(refused *refusal) {
	sessionsRefused.WithLabelValues(h.cfg.label, refused.code).Inc()
	data := map[string]any{"reason": refused.code}
	if refused.session != nil {
		data["user_id"] = aventus.CleanText(refused.session.subject())
	}
	h.emit("refused", data)
}

// requestToken sends a token request, and notes how long it took and what came of it.
func (h *Handler) requestToken(grant string, send func() (aventus.Token, *aventus.Error)) (aventus.Token, *aventus.Error) {
	sent := time.Now()
	token, err := send()
	outcome := "ok"
	if err != nil {
		outcome = err.Kind.String()
	}
	tokenRequests.WithLabelValues(h.cfg.label, grant, outcome).Observe(time.Since(sent).Seconds())
	return token, err
}

// storageWarned is when it was last said that a storage fails, in Unix seconds.
var storageWarned atomic.Int64

// storageFailed notes a call of the storage that failed. Some of them no request
// waits for, so nobody else would say it.
func (h *Handler) storageFailed(operation string, err error) {
	storageErrors.WithLabelValues(operation).Inc()
	now := time.Now().Unix()
	if last := storageWarned.Load(); now-last >= 10 && storageWarned.CompareAndSwap(last, now) {
		h.logger.Warn("the storage fails", zap.String("operation", operation), zap.Error(err), zap.String("advice", storageAdvice))
	}
}

// tell says in the log, and as an event, that someone signed in or out.
func (h *Handler) tell(event, message string, at site, s *session) {
	user, id := aventus.CleanText(s.subject()), s.name()[:8]
	h.logger.Info(message, zap.String("user_id", user), zap.String("site", at.origin), zap.String("session", id))
	h.emit(event, map[string]any{"user_id": user, "site": at.origin, "session": id})
}

// emit emits an event of Caddy's events app.
func (h *Handler) emit(name string, data map[string]any) {
	if h.events != nil {
		h.events.Emit(h.ctx, name, data)
	}
}

const storageAdvice = "check Caddy's storage (the global option storage; by default, files in its data directory): can Caddy reach it, read it and write to it?"

// advice returns what the operator can do about an error, or nothing.
func advice(err error) zap.Field {
	var adviser interface{ Advice() string }
	text := ""
	switch {
	case errors.As(err, &adviser):
		text = adviser.Advice()
	case errors.Is(err, records.ErrStorage):
		text = storageAdvice
	case errors.Is(err, aventus.ErrToken):
		text = "check issuer, audience and jwks_url against what the authorization server signs, and the clocks of both"
	case errors.Is(err, errTooLarge):
		text = "have the authorization server put less into its tokens"
	}
	if text == "" {
		return zap.Skip()
	}
	return zap.String("advice", text)
}

// Interface guard
var _ prometheus.Collector = keyAge{}
