// Runs oauth2-mock-server over TLS: node mock.mjs <port> <certificate> <key>
import { OAuth2Server } from 'oauth2-mock-server';

const [port, cert, key] = process.argv.slice(2);
const server = new OAuth2Server(key, cert);
await server.issuer.keys.generate('RS256');

// By itself, it gives out access tokens that are for nobody in particular.
server.service.on('beforeTokenSigning', (token) => {
	token.payload.aud ??= 'https://api.example.com/';
});

// Says how it was asked for a token.
server.service.on('beforeResponse', (_, req) => {
	const { client_id: id, client_secret: secret } = req.body;
	console.log('token request:', JSON.stringify({ type: req.headers['content-type'], id, secret, authorization: req.headers.authorization }));
});

await server.start(Number(port), '127.0.0.1');
