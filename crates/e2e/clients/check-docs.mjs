// Validates docs/asyncapi.json: against the schema of AsyncAPI 3.0, that every
// reference leads somewhere, and that every example and every fixture is what
// the document's own schemas say.
//
// usage: node check-docs.mjs DOCUMENT FIXTURES

import { readFileSync, readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { createRequire } from 'node:module';
import Ajv from 'ajv';
import addFormats from 'ajv-formats';

const load = (file) => JSON.parse(readFileSync(file, 'utf8'));
const specification = createRequire(import.meta.url)('@asyncapi/specs/schemas/3.0.0.json');
const [documentFile, fixtures] = process.argv.slice(2);
const document = load(documentFile);
const complaints = [];

/** A validator; `strict: false` since the specification has keywords of its own. */
const ajv = (more) => addFormats(new Ajv({ strict: false, allErrors: true, ...more }));

function explain(where, errors) {
  for (const { instancePath, message } of errors) {
    complaints.push(`${where}${instancePath}: ${message}`);
  }
}

// 1. The document is an AsyncAPI document.
// Its schema brings the schema of schemas along.
const isDocument = ajv({ meta: false, validateSchema: false }).compile(specification);
if (!isDocument(document)) explain('document', isDocument.errors);

// 2. References lead somewhere.
function lookUp(pointer) {
  const unescape = (part) => part.replaceAll('~1', '/').replaceAll('~0', '~');
  const parts = pointer.slice(2).split('/').map(unescape);
  return parts.reduce((value, part) => value?.[part], document);
}
let references = 0;
(function visit(value, path) {
  if (value === null || typeof value !== 'object') return;
  if (typeof value.$ref === 'string') {
    references += 1;
    if (lookUp(value.$ref) === undefined) complaints.push(`${path}: ${value.$ref} leads nowhere`);
  }
  for (const [key, below] of Object.entries(value)) visit(below, `${path}/${key}`);
})(document, '');

// 3. Messages of operations belong to the operations' channels.
for (const [name, operation] of Object.entries(document.operations)) {
  for (const part of [operation, operation.reply ?? { messages: [] }]) {
    for (const { $ref } of part.messages) {
      if (!$ref.startsWith(`${part.channel.$ref}/messages/`)) {
        complaints.push(`operations/${name}: ${$ref} is not of its channel`);
      }
    }
  }
}

// 4. Examples and fixtures are what the schemas say.
const schemas = ajv();
for (const [name, schema] of Object.entries(document.components.schemas)) {
  schemas.addSchema(schema, name);
}
let checked = 0;
function check(schema, value, where) {
  const validate = schemas.getSchema(schema);
  if (!validate) {
    complaints.push(`${where}: there is no schema ${schema}`);
    return;
  }
  checked += 1;
  if (!validate(value)) explain(where, validate.errors);
}
for (const [name, message] of Object.entries(document.components.messages)) {
  if (!message.examples?.length) complaints.push(`messages/${name} has no example`);
  for (const example of message.examples ?? []) {
    check(message.payload.$ref.split('/').pop(), example.payload, `messages/${name}`);
  }
}
function files(folder) {
  return readdirSync(folder).flatMap((entry) => {
    const path = join(folder, entry);
    return statSync(path).isDirectory() ? files(path) : [path];
  });
}
for (const file of files(fixtures)) {
  // <dialect>/<side>/<message>[-<variation>].json, events/<domain>.<type>.json,
  // or <dialect>/event/<type>.json with a producer's data and the frame of it;
  // of workspace, where types are told apart by their domains, with both
  const parts = file.slice(fixtures.length).split('/').filter(Boolean);
  // Names of messages may have hyphens themselves: the longest that there is.
  let message = parts.pop().replace(/\.json$/, '');
  while (message.includes('-') && !document.components.schemas[[...parts, message].join('.')]) {
    message = message.replace(/-[^-]*$/, '');
  }
  if (parts[1] !== 'event') {
    check([...parts, message].join('.'), load(file), file);
    continue;
  }
  const { data, frame } = load(file);
  const isPublished = (name) => {
    const [root, domain, ...type] = name.split('.');
    return root === 'events' && [type.join('.'), `${domain}.${type.join('.')}`].includes(message);
  };
  const event = Object.keys(document.components.schemas).find(isPublished);
  check(event ?? `events.?.${message}`, data, `${file} data`);
  // The test that uses it adds what is different each time.
  const schema = parts[0] === 'mesh' ? `${frame.type}.${frame.event}` : (frame.event_type ?? frame.type);
  check(`${parts[0]}.server.${schema}`, { id: 'e-1', seq: '1-1', ...frame }, `${file} frame`);
}

for (const complaint of complaints) console.error(complaint);
console.log(`asyncapi.json: ${references} references, ${checked} examples and fixtures checked`);
process.exit(complaints.length ? 1 : 0);
