# A Caddy with this module, and with Redis as a storage to choose. In a clone:
#
#	docker build -t caddy-aventus .
FROM caddy:2.11.9-builder AS builder
COPY . /src
RUN xcaddy build v2.11.9 \
	--with github.com/aventus-platform/caddy-aventus-auth@v0.0.0=/src \
	--with github.com/pberkel/caddy-storage-redis@v1.8.1

FROM caddy:2.11.9
COPY --from=builder /usr/bin/caddy /usr/bin/caddy
COPY Caddyfile.example /etc/caddy/Caddyfile
