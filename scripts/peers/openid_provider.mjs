// A real OpenID provider on loopback, as a stand-in for Google, driven by JSON lines: one request a line on standard
// input, one answer a line on standard output (peer.py has the protocol). It signs ID tokens with RS256, puts name and
// email into them and demands PKCE, as Google does for what it calls desktop apps. Needs Node.js 22.19 or newer.
//
//   node openid_provider.mjs [--port PORT] [--setup '{"clients": [...], "users": [...]}']
//
// Nothing here is fit for real users: who asks to be somebody is.

import {
  createHash, createHmac, createPrivateKey, createPublicKey, generateKeyPairSync, randomBytes, sign
} from 'node:crypto'
import { createServer } from 'node:http'
import { createInterface } from 'node:readline'
import { parseArgs } from 'node:util'
import Provider from 'oidc-provider'

const HOST = '127.0.0.1'
const INTERACTION = /^\/interaction\/([\w-]+)$/
const FORM_BYTES = 4096

const { values: options } = parseArgs({
  options: {
    port: { type: 'string', default: '0' }, // 0: a free port
    setup: { type: 'string', default: '{}' }
  }
})
const setup = JSON.parse(options.setup)
const clients = new Map((setup.clients ?? []).map(client => [client.client_id, client]))
const users = new Map((setup.users ?? []).map(user => [user.sub, user]))

const say = message => process.stdout.write(JSON.stringify(message) + '\n')
// What the library prints is for people: standard output is the control's.
console.info = console.warn = console.log = console.error
const realNow = Date.now

// --- keys ------------------------------------------------------------------------------------------------------------

function newKey () {
  const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 })
  const jwk = privateKey.export({ format: 'jwk' })
  const kid = createHash('sha256').update(jwk.n).digest('hex').slice(0, 40)
  return { ...jwk, kid, use: 'sig', alg: 'RS256' }
}

const publicPart = ({ kty, n, e, kid, use, alg }) => ({ kty, n, e, kid, use, alg })

let keys = [newKey()] // the first one signs
const strangerKeys = [newKey()] // of an issuer that is not this one
const cookieKeys = [randomBytes(32).toString('hex')]

// --- the provider ----------------------------------------------------------------------------------------------------

const state = { lifetime: 3600, stranger: false, down: false }
let issuer = ''
let genuine, impostor // the same provider with its own keys, and with keys that it does not publish

function makeProvider (signing) {
  const provider = new Provider(issuer, {
    clients: [...clients.values()],
    jwks: { keys: signing },
    cookies: { keys: cookieKeys },
    findAccount: (ctx, sub) => users.has(sub)
      ? { accountId: sub, claims: () => ({ email_verified: true, ...users.get(sub) }) }
      : undefined,
    claims: {
      openid: ['sub'],
      email: ['email', 'email_verified'],
      profile: ['name', 'given_name', 'family_name', 'picture', 'hd']
    },
    conformIdTokenClaims: false, // what the scopes ask for is in the ID token
    scopes: ['openid', 'email', 'profile'],
    responseTypes: ['code'],
    pkce: { required: () => true },
    features: { devInteractions: { enabled: false } },
    interactions: { url: (ctx, interaction) => `/interaction/${interaction.uid}` },
    ttl: { IdToken: () => state.lifetime, AccessToken: 3600, Grant: 86400, Interaction: 3600, Session: 86400 },
    renderError: (ctx, out) => {
      ctx.type = 'html'
      ctx.body = page('Something went wrong', Object.entries(out).map(pair => `<p>${escaped(pair.join(': '))}</p>`))
    }
  })
  return provider
}

function makeProviders () {
  genuine = makeProvider(keys)
  impostor = makeProvider([{ ...strangerKeys[0], kid: keys[0].kid }])
}

// --- its pages: who are you, may they know it ------------------------------------------------------------------------

const escaped = text => String(text).replace(/[&<>"']/g, c => `&#${c.charCodeAt(0)};`)

function page (title, body) {
  return '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">' +
    `<title>${title}</title><body><main><h1>${title}</h1>${body.join('')}</main></body></html>`
}

const button = (name, value, label) => `<p><button name="${name}" value="${escaped(value)}">${escaped(label)}</button></p>`
const form = buttons => `<form method="post">${buttons.join('')}</form>`

function show (prompt, params) {
  if (prompt.name === 'login') {
    const rows = [...users.values()].map(user => button('login', user.sub, `${user.name} (${user.email})`))
    return page('Sign in', [form([...rows, button('deny', '1', 'Cancel')])])
  }
  return page('Allow access', [
    `<p>${escaped(params.client_id)} asks for your ${escaped(params.scope)}.</p>`,
    form([button('allow', '1', 'Allow'), button('deny', '1', 'Deny')])
  ])
}

async function decide (provider, details, answer) {
  if (answer.get('deny')) return { error: 'access_denied', error_description: 'the user said no' }
  if (details.prompt.name === 'login') return { login: { accountId: answer.get('login') } }
  const { grantId, session, params, prompt } = details
  const grant = grantId
    ? await provider.Grant.find(grantId)
    : new provider.Grant({ accountId: session.accountId, clientId: params.client_id })
  if (prompt.details.missingOIDCScope) grant.addOIDCScope(prompt.details.missingOIDCScope.join(' '))
  if (prompt.details.missingOIDCClaims) grant.addOIDCClaims(prompt.details.missingOIDCClaims)
  return { consent: { grantId: await grant.save() } }
}

async function interact (provider, request, response) {
  const details = await provider.interactionDetails(request, response)
  if (request.method !== 'POST') {
    response.setHeader('content-type', 'text/html; charset=utf-8')
    return response.end(show(details.prompt, details.params))
  }
  let body = ''
  for await (const chunk of request) {
    body += chunk
    if (body.length > FORM_BYTES) throw new Error('too much')
  }
  const result = await decide(provider, details, new URLSearchParams(body))
  await provider.interactionFinished(request, response, result, { mergeWithLastSubmission: true })
}

// --- HTTP ------------------------------------------------------------------------------------------------------------

async function handle (request, response) {
  const path = new URL(request.url, issuer).pathname
  if (state.down) {
    response.statusCode = 503
    return response.end('down for now')
  }
  if (path === '/jwks' || !state.stranger) {
    if (INTERACTION.test(path)) return interact(genuine, request, response)
    return genuine.callback()(request, response)
  }
  if (INTERACTION.test(path)) return interact(impostor, request, response)
  return impostor.callback()(request, response)
}

const server = createServer((request, response) => {
  handle(request, response).catch(error => {
    process.stderr.write(`${request.method} ${request.url}: ${error.stack}\n`)
    response.statusCode = 400
    response.end(String(error.message))
  })
})
await new Promise(resolve => server.listen(Number(options.port), HOST, resolve))
issuer = `http://${HOST}:${server.address().port}`
makeProviders()

// --- requests --------------------------------------------------------------------------------------------------------

const base64url = value => Buffer.from(value).toString('base64url')

// A token of any content: `key` is "own", "stranger", "none" (no signature), or "public" (HS256 with the published key
// as the secret, the mistake that checks of `alg` are there for).
function forge ({ claims, header = {}, key = 'own' }) {
  const signing = key === 'stranger' ? strangerKeys[0] : keys[0]
  const alg = { none: 'none', public: 'HS256' }[key] ?? 'RS256'
  const parts = [{ alg, typ: 'JWT', kid: keys[0].kid, ...header }, claims].map(part => base64url(JSON.stringify(part)))
  const input = parts.join('.')
  const privateKey = createPrivateKey({ key: signing, format: 'jwk' })
  let signature = ''
  if (alg === 'RS256') signature = sign('sha256', Buffer.from(input), privateKey).toString('base64url')
  if (alg === 'HS256') {
    const secret = createPublicKey(privateKey).export({ type: 'spki', format: 'pem' })
    signature = createHmac('sha256', secret).update(input).digest('base64url')
  }
  return `${input}.${signature}`
}

const commands = {
  // A new signing key; the old ones stay published unless `drop`.
  rotate ({ drop = false }) {
    keys = [newKey(), ...(drop ? [] : keys)]
    makeProviders()
    return { kid: keys[0].kid }
  },
  keys: () => ({ keys: keys.map(publicPart) }),
  client ({ client }) {
    clients.set(client.client_id, client)
    makeProviders()
  },
  user ({ user }) { users.set(user.sub, user) },
  // Its clock is so many seconds ahead of the machine's.
  clock ({ offset }) { Date.now = () => realNow() + offset * 1000 },
  // Seconds for which the ID tokens are good from now on.
  lifetime ({ seconds }) { state.lifetime = seconds },
  // Sign what comes with a key of another issuer, while publishing its own.
  stranger ({ on }) { state.stranger = on },
  down ({ on }) { state.down = on },
  token: request => ({ token: forge(request) })
}

function stop () {
  server.close()
  server.closeAllConnections()
  process.exit(0)
}

function serve (line) {
  const { id, cmd, ...request } = JSON.parse(line)
  if (cmd === 'stop') return stop()
  try {
    if (!Object.hasOwn(commands, cmd)) throw new Error(`unknown command ${cmd}`)
    say({ id, ok: true, result: commands[cmd](request) ?? {} })
  } catch (error) {
    say({ id, ok: false, error: `${cmd}: ${error.message}` })
  }
}

say({ event: 'ready', impl: 'oidc-provider', pid: process.pid, peer_id: issuer, addrs: [issuer] })
createInterface({ input: process.stdin }).on('line', serve).on('close', stop)
