// A real Helia 7 node on loopback, driven by JSON lines: one request a line on standard input, one answer a line on
// standard output (peer.py has the protocol, helia_commands.mjs the requests). Needs Node.js 22.19 or newer.
//
//   node helia_peer.mjs [--tcp PORT] [--repo DIR] [--dht lan,wan|none] [--dht-mode server|client] ...

import fs from 'node:fs'
import path from 'node:path'
import { createInterface } from 'node:readline'
import { parseArgs } from 'node:util'
import { withBitswap } from '@helia/bitswap'
import { withLibp2pLight } from '@helia/libp2p'
import { generateKeyPair } from '@libp2p/crypto/keys' // comes with libp2p
import { identify, identifyPush } from '@libp2p/identify'
import { kadDHT, passthroughMapper } from '@libp2p/kad-dht'
import { mdns } from '@libp2p/mdns'
import { mplex } from '@libp2p/mplex'
import { noise } from '@libp2p/noise'
import { ping } from '@libp2p/ping'
import { preSharedKey } from '@libp2p/pnet'
import { tcp } from '@libp2p/tcp'
import { tls } from '@libp2p/tls'
import { yamux } from '@libp2p/yamux'
import { MemoryBlockstore } from 'blockstore-core'
import { FsBlockstore } from 'blockstore-fs'
import { MemoryDatastore } from 'datastore-core'
import { LevelDatastore } from 'datastore-level'
import { createHeliaLight } from 'helia'
import { makeCommands } from './helia_commands.mjs'

const STOP_MS = 3000 // for a node that does not leave by itself

const DHT_PROTOCOLS = { lan: '/ipfs/lan/kad/1.0.0', wan: '/ipfs/kad/1.0.0' }
const ENCRYPTERS = { noise, tls }
const MUXERS = { yamux, mplex }

const { values: options } = parseArgs({
  options: {
    host: { type: 'string', default: '127.0.0.1' },
    tcp: { type: 'string', default: '0' }, // 0: a free port
    repo: { type: 'string', default: '' }, // '': everything in memory
    dht: { type: 'string', default: 'none' }, // none, or a list of: lan, wan, or a protocol
    'dht-mode': { type: 'string', default: 'server' }, // server, client
    security: { type: 'string', default: 'noise' }, // a list of: noise, tls
    muxer: { type: 'string', default: 'yamux' }, // a list of: yamux, mplex
    identity: { type: 'string', default: '' }, // a new key of the kind Ed25519, RSA, secp256k1; '': that of the repo
    'swarm-key': { type: 'string', default: '' }, // file with the key of a private network
    mdns: { type: 'boolean', default: false }
  }
})

const list = text => text.split(',').filter(item => item !== '' && item !== 'none')
const say = message => process.stdout.write(JSON.stringify(message) + '\n')

// One DHT service for each protocol asked for, as `dht_lan`, `dht_wan` ...
function dhtServices () {
  const services = {}
  for (const name of list(options.dht)) {
    const service = 'dht_' + name.replace(/[^a-z0-9]/g, '_')
    services[service] = kadDHT({
      protocol: DHT_PROTOCOLS[name] ?? name,
      clientMode: options['dht-mode'] === 'client',
      peerInfoMapper: passthroughMapper, // the default drops loopback addresses
      allowQueryWithZeroPeers: true,
      initialQuerySelfInterval: 500,
      logPrefix: 'libp2p:' + service,
      datastorePrefix: '/' + service,
      metricsPrefix: service
    })
  }
  return services
}

async function openStores () {
  if (options.repo === '') {
    return { blockstore: new MemoryBlockstore(), datastore: new MemoryDatastore() }
  }
  fs.mkdirSync(options.repo, { recursive: true })
  const blockstore = new FsBlockstore(path.join(options.repo, 'blocks'))
  const datastore = new LevelDatastore(path.join(options.repo, 'data'))
  await datastore.open()
  return { blockstore, datastore }
}

const dhts = dhtServices()
const libp2pOptions = {
  addresses: { listen: [`/ip4/${options.host}/tcp/${options.tcp}`] },
  transports: [tcp()],
  connectionEncrypters: list(options.security).map(name => ENCRYPTERS[name]()),
  streamMuxers: list(options.muxer).map(name => MUXERS[name]()),
  peerDiscovery: options.mdns ? [mdns({ interval: 1000 })] : [],
  connectionGater: { denyDialMultiaddr: () => false }, // the default does not dial loopback addresses
  // All the peers of a test share one IP address; the default takes five connections a second from one.
  connectionManager: { inboundConnectionThreshold: 1000, maxIncomingPendingConnections: 100 },
  services: { identify: identify(), identifyPush: identifyPush(), ping: ping(), ...dhts }
}
if (options.identity !== '') {
  libp2pOptions.privateKey = await generateKeyPair(options.identity)
}
if (options['swarm-key'] !== '') {
  libp2pOptions.connectionProtector = preSharedKey({ psk: fs.readFileSync(options['swarm-key']) })
}

const stores = await openStores()
const helia = await withBitswap(withLibp2pLight(createHeliaLight(stores), libp2pOptions)).start()
if (options['dht-mode'] === 'server') {
  for (const name of Object.keys(dhts)) await helia.libp2p.services[name].setMode('server')
}

const commands = makeCommands(helia, Object.keys(dhts))

async function stop () {
  setTimeout(() => process.exit(0), STOP_MS).unref()
  await helia.stop()
  await stores.datastore.close?.()
  process.exit(0)
}

function describe (error) {
  const causes = error.errors?.map(cause => cause.message) ?? []
  return [`${error.name}: ${error.message}`, ...causes].join('; ')
}

function serve (line) {
  const request = JSON.parse(line)
  if (request.cmd === 'stop') return stop()
  const command = commands[request.cmd]
  if (command == null) return say({ id: request.id, ok: false, error: `unknown command ${request.cmd}` })
  command(request).then(
    result => say({ id: request.id, ok: true, result: result ?? {} }),
    error => say({ id: request.id, ok: false, error: `${request.cmd}: ${describe(error)}` })
  )
}

process.on('unhandledRejection', error => process.stderr.write(`unhandled rejection: ${error?.stack ?? error}\n`))
if (options.mdns) {
  helia.libp2p.addEventListener('peer:discovery', event => {
    say({ event: 'discovery', peer: String(event.detail.id), addrs: event.detail.multiaddrs.map(String) })
  })
}
say({
  event: 'ready',
  impl: `Helia ${commands.version()}`,
  pid: process.pid,
  peer_id: String(helia.libp2p.peerId),
  addrs: helia.libp2p.getMultiaddrs().map(String)
})
createInterface({ input: process.stdin }).on('line', serve).on('close', stop)
