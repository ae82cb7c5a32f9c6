// An MCP client that knows the URL of a server, and nothing else: node client.mjs <url> <redirect URI>
//
// It prints the URL at which the person signs in, reads the code that came of it, calls the
// tool whoami, and prints what that says.
import { createInterface } from 'node:readline/promises';
import './localhost.mjs';
import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { UnauthorizedError } from '@modelcontextprotocol/sdk/client/auth.js';
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js';

const [server, redirectUrl] = process.argv.slice(2);
let tokens, verifier;
const authProvider = {
	redirectUrl,
	clientMetadata: { redirect_uris: [redirectUrl], token_endpoint_auth_method: 'none' },
	clientInformation: () => ({ client_id: 'the-mcp-client' }),
	tokens: () => tokens,
	saveTokens: (got) => { tokens = got; },
	codeVerifier: () => verifier,
	saveCodeVerifier: (made) => { verifier = made; },
	redirectToAuthorization: (url) => console.log(`sign in at ${url}`),
};

const asked = [];
const transport = () => new StreamableHTTPClientTransport(new URL(server), {
	authProvider,
	fetch: async (url, init) => {
		const response = await fetch(url, init);
		asked.push(`${init?.method ?? 'GET'} ${new URL(url).pathname} ${response.status}`);
		return response;
	},
});
const client = () => new Client({ name: 'the client', version: '1.0.0' });

const first = transport();
try {
	await client().connect(first);
	throw new Error('it was let in without a token');
} catch (err) {
	if (!(err instanceof UnauthorizedError)) throw err;
}
const input = createInterface({ input: process.stdin });
await first.finishAuth(await input.question(''));
input.close();

const again = client();
await again.connect(transport());
const { content } = await again.callTool({ name: 'whoami' });
console.log(`it is ${content[0].text}`);
console.log(`asked ${asked.join(', ')}`);
await again.close();
