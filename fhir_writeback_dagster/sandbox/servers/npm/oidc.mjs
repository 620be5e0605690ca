// panva's oidc-provider (OpenID-certified, npm) as authorization server of SMART clients: node oidc.mjs PORT CONFIG.json
// CONFIG: {"clients": [oidc-provider's client metadata], "scopes": [...], "audience": "https://...", "token_seconds": 300}
import fs from 'node:fs';
import http from 'node:http';
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';

const require = createRequire(pathToFileURL(`${process.cwd()}/package.json`));
const { default: Provider } = await import(pathToFileURL(require.resolve('oidc-provider')));
const { exportJWK, generateKeyPair } = await import(pathToFileURL(require.resolve('jose')));

const port = Number(process.argv[2]);
const config = JSON.parse(fs.readFileSync(process.argv[3], 'utf8'));
const issuer = `http://127.0.0.1:${port}`;
const { privateKey } = await generateKeyPair('RS256', { extractable: true });
const scope = config.scopes.join(' ');

const provider = new Provider(issuer, {
  jwks: { keys: [{ ...(await exportJWK(privateKey)), kid: 'op', use: 'sig', alg: 'RS256' }] },
  scopes: ['openid', ...config.scopes],
  clients: config.clients.map((client) => ({
    grant_types: ['client_credentials'], response_types: [], redirect_uris: [], scope, ...client,
  })),
  clientAuthMethods: ['private_key_jwt', 'client_secret_basic', 'client_secret_post'],
  enabledJWA: { clientAuthSigningAlgValues: ['RS384', 'ES384'] },
  ttl: { ClientCredentials: config.token_seconds },
  features: {
    devInteractions: { enabled: false },
    clientCredentials: { enabled: true },
    introspection: { enabled: true },
    resourceIndicators: {
      enabled: true,
      defaultResource: () => config.audience,
      useGrantedResource: () => true,
      getResourceServerInfo: () => ({
        scope, audience: config.audience, accessTokenTTL: config.token_seconds, accessTokenFormat: 'jwt', jwt: { sign: { alg: 'RS256' } },
      }),
    },
  },
});
provider.on('server_error', (_, error) => console.error(error.stack));
provider.on('grant.error', (_, error) => console.error('grant', error.error, error.error_description, error.error_detail));

const discovery = {
  token_endpoint: `${issuer}/token`, jwks_uri: `${issuer}/jwks`, grant_types_supported: ['client_credentials'],
  token_endpoint_auth_methods_supported: ['private_key_jwt', 'client_secret_basic', 'client_secret_post'],
  token_endpoint_auth_signing_alg_values_supported: ['RS384', 'ES384'], scopes_supported: config.scopes,
  capabilities: ['client-confidential-asymmetric', 'client-confidential-symmetric', 'permission-v1', 'permission-v2'],
};
const callback = provider.callback();
http.createServer((request, response) => {
  if (!request.url.endsWith('/.well-known/smart-configuration')) return callback(request, response);
  response.setHeader('content-type', 'application/json');
  return response.end(JSON.stringify(discovery));
}).listen(port, '127.0.0.1', () => console.log('up'));
