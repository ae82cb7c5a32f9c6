// Runs better-auth's OAuth provider over TLS: node server.mjs <port> <certificate> <key> <secret> <site>
import { readFileSync } from 'node:fs';
import https from 'node:https';
import { betterAuth } from 'better-auth';
import { memoryAdapter } from 'better-auth/adapters/memory';
import { getAuthTables } from 'better-auth/db';
import { toNodeHandler } from 'better-auth/node';
import { jwt } from 'better-auth/plugins';
import { oauthProvider } from '@better-auth/oauth-provider';

const [port, cert, key, secret, site] = process.argv.slice(2);
const options = {
	baseURL: `https://localhost:${port}`,
	secret: 'of this process alone, as what it keeps',
	emailAndPassword: { enabled: true },
	disabledPaths: ['/token'], // as the plugin's documentation asks
	plugins: [
		jwt(),
		oauthProvider({
			loginPage: '/sign-in', consentPage: '/consent',
			resources: ['https://api.example.com/'], enforcePerClientResources: false,
			customIdTokenClaims: ({ user }) => ({ email: user.email }), // by itself, only userinfo has it
			generateClientId: () => 'the-client', generateClientSecret: () => secret,
		}),
	],
};
const tables = Object.values(getAuthTables(options)).map(({ modelName }) => [modelName, []]);
const auth = betterAuth({ ...options, database: memoryAdapter(Object.fromEntries(tables)) });

// The first user registers the site.
const { headers } = await auth.api.signUpEmail({
	body: { email: 'ada@example.com', password: 'a password', name: 'Ada' }, returnHeaders: true,
});
const cookie = headers.getSetCookie().map((line) => line.split(';')[0]).join('; ');
await auth.api.adminCreateOAuthClient({
	headers: new Headers({ cookie }),
	body: {
		redirect_uris: [`${site}/oauth2/callback`], token_endpoint_auth_method: 'client_secret_post',
		grant_types: ['authorization_code', 'refresh_token'], skip_consent: true,
	},
});

const api = toNodeHandler(auth);
https.createServer({ cert: readFileSync(cert), key: readFileSync(key) }, (req, res) => {
	if (req.url.startsWith('/api/auth/')) {
		api(req, res);
	} else {
		res.end('a page to sign in at, by a script that posts to /api/auth/sign-in/email');
	}
}).listen(Number(port), '127.0.0.1');
