# A Caddy with this module, and with Redis as a storage to choose. In a clone:
#
#	docker build -t caddy-aventus .
#
# With Caddy's usual storage, certificates, keys and sessions are in /data: give it a volume,
# or a new container begins without them. compose.yaml has all of that in Redis.
FROM caddy:2.11.9-builder AS builder
COPY . /src
RUN xcaddy build v2.11.9 \
	--with github.com/aventus-platform/caddy-aventus-auth@v0.0.0=/src \
	--with github.com/pberkel/caddy-storage-redis@v1.8.1

FROM caddy:2.11.9
COPY --from=builder /usr/bin/caddy /usr/bin/caddy
COPY Caddyfile.example /etc/caddy/Caddyfile
