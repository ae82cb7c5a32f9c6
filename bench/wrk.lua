-- Has wrk print what it measured as JSON, exactly where its own report rounds.
function done(summary, latency, requests)
	local e = summary.errors
	io.write(string.format(
		'\nreport {"requests": %d, "micros": %d, "bytes": %d, "p50": %.1f, "p99": %.1f, ' ..
		'"errors": {"connect": %d, "read": %d, "write": %d, "status": %d, "timeout": %d}}\n',
		summary.requests, summary.duration, summary.bytes, latency:percentile(50), latency:percentile(99),
		e.connect, e.read, e.write, e.status, e.timeout))
end
