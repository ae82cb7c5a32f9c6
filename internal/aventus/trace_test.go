package aventus

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
)

// recorder keeps what spans say, as an exporter would send it.
type recorder struct {
	noop.TracerProvider
	said []string
}

func (r *recorder) Tracer(name string, _ ...trace.TracerOption) trace.Tracer {
	return recordingTracer{r: r, name: name}
}

type recordingTracer struct {
	noop.Tracer
	r    *recorder
	name string
}

func (t recordingTracer) Start(ctx context.Context, name string, options ...trace.SpanStartOption) (context.Context,
	trace.Span) {
	config := trace.NewSpanStartConfig(options...)
	t.r.said = append(t.r.said, fmt.Sprint("start ", name, " ", config.SpanKind(), " ", say(config.Attributes())))
	span := recordingSpan{r: t.r}
	return trace.ContextWithSpan(ctx, span), span
}

type recordingSpan struct {
	noop.Span
	r *recorder
}

func (s recordingSpan) TracerProvider() trace.TracerProvider { return s.r }
func (s recordingSpan) SetAttributes(a ...attribute.KeyValue) {
	s.r.said = append(s.r.said, say(a))
}
func (s recordingSpan) SetStatus(code codes.Code, text string) {
	s.r.said = append(s.r.said, fmt.Sprint(code, " ", text))
}
func (s recordingSpan) End(...trace.SpanEndOption) { s.r.said = append(s.r.said, "end") }

func say(attributes []attribute.KeyValue) string {
	var said []string
	for _, a := range attributes {
		said = append(said, string(a.Key)+"="+a.Value.String())
	}
	return strings.Join(said, " ")
}

// TestTrace: a token request is a span of the trace of the request that it is for.
// Neither does it hold what was sent, nor is the server told of the trace.
func TestTrace(t *testing.T) {
	var sent []http.Header
	status, body := 200, goodAnswer
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sent = append(sent, r.Header)
		w.WriteHeader(status)
		fmt.Fprint(w, body)
	}))
	defer server.Close()
	c := newClient(t, server.URL, nil)
	r := new(recorder)
	ctx := trace.ContextWithSpan(within(t), recordingSpan{r: r})
	if _, err := c.Exchange(ctx, testCode, testRedirect, testVerifier); err != nil {
		t.Fatal(err)
	}
	status, body = 403, `{"error":"invalid_grant"}`
	if _, err := c.Refresh(ctx, "the-refresh-token"); err == nil {
		t.Fatal("no error")
	}
	server.Close()
	if _, err := c.Refresh(ctx, "the-refresh-token"); err == nil {
		t.Fatal("no error")
	}
	want := []string{
		"start token request client oauth.grant_type=authorization_code", "end",
		"start token request client oauth.grant_type=refresh_token", "Error refused",
		"http.response.status_code=403", "end",
		"start token request client oauth.grant_type=refresh_token", "Error unreachable", "end",
	}
	if !slices.Equal(r.said, want) {
		t.Errorf("spans %q, want %q", r.said, want)
	}
	for _, header := range sent {
		for name := range header {
			if strings.HasPrefix(strings.ToLower(name), "trace") {
				t.Errorf("the server was sent %s", name)
			}
		}
	}
}
