// Runs oidc-provider over TLS: node provider.mjs <port> <certificate> <key> <clients>
import { readFileSync } from 'node:fs';
import https from 'node:https';
import './localhost.mjs';
import { Provider } from 'oidc-provider';

const [port, cert, key, clients] = process.argv.slice(2);
const provider = new Provider(`https://localhost:${port}`, {
	clients: JSON.parse(clients),
	claims: { openid: ['sub'], email: ['email', 'email_verified'] },
	conformIdTokenClaims: false, // those of the scopes are in the ID token
	// By itself, it sends nothing to this very machine.
	fetch: (url, { dispatcher, ...options }) => fetch(url, options),
	// Whoever signs in as somebody is that.
	findAccount: (_, id) => ({
		accountId: id,
		claims: () => ({ sub: id, email: `${id}@example.com`, email_verified: true }),
	}),
	features: {
		backchannelLogout: { enabled: true },
		revocation: { enabled: true },
		resourceIndicators: {
			enabled: true,
			getResourceServerInfo: (_, resource) => ({
				scope: 'tools', audience: resource, accessTokenFormat: 'jwt', jwt: { sign: { alg: 'RS256' } },
			}),
			useGrantedResource: () => true,
		},
	},
});

provider.on('backchannel.success', (_, client) => console.log('logout token: taken by', client.clientId));
provider.on('backchannel.error', (_, err) => console.log('logout token: refused:', err.message));
provider.on('server_error', (_, err) => console.error(err));

https.createServer({ cert: readFileSync(cert), key: readFileSync(key) }, provider.callback()).listen(Number(port), '127.0.0.1');
