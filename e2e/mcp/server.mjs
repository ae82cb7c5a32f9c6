// An MCP server that knows nothing of tokens: node server.mjs <port>
import { createServer } from 'node:http';
import { McpServer } from '@modelcontextprotocol/sdk/server/mcp.js';
import { StreamableHTTPServerTransport } from '@modelcontextprotocol/sdk/server/streamableHttp.js';

const [port] = process.argv.slice(2);
createServer(async (req, res) => {
	const server = new McpServer({ name: 'the server', version: '1.0.0' });
	server.registerTool('whoami', { description: 'Says who asks' }, ({ requestInfo }) => ({
		content: [{ type: 'text', text: requestInfo.headers['x-user-id'] ?? 'nobody' }],
	}));
	const transport = new StreamableHTTPServerTransport({ sessionIdGenerator: undefined });
	res.on('close', () => server.close());
	await server.connect(transport);
	await transport.handleRequest(req, res);
}).listen(Number(port), '127.0.0.1');
