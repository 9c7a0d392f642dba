// The requests that helia_peer.mjs answers. Each takes the request object and returns the result object.

import fs from 'node:fs'
import path from 'node:path'
import { pipeline } from 'node:stream/promises'
import { fileURLToPath } from 'node:url'
import { car } from '@helia/car'
import { withHTTP } from '@helia/http'
import { globSource, unixfs } from '@helia/unixfs'
import { CarReader } from '@ipld/car'
import { peerIdFromString } from '@libp2p/peer-id'
import { multiaddr } from '@multiformats/multiaddr'
import { MemoryBlockstore } from 'blockstore-core'
import { MemoryDatastore } from 'datastore-core'
import { createHeliaLight } from 'helia'
import { exporter } from 'ipfs-unixfs-exporter'
import { fixedSize } from 'ipfs-unixfs-importer/chunker'
import { balanced } from 'ipfs-unixfs-importer/layout'
import { CID } from 'multiformats/cid'
import * as raw from 'multiformats/codecs/raw'
import { sha256 } from 'multiformats/hashes/sha2'

const DAG_PB = 0x70
const CALL_SECONDS = 600
const READ_BYTES = 1 << 20
const FILES_AT_ONCE = 32 // of a directory that is fetched

// Helia asks its gateways when its other routers are done, and without any it waits for them for ever.
const NOBODY = { name: 'nobody', async * findProviders () {} }

// The importer's own defaults differ from the profiles in places, so everything is said.
const PROFILES = {
  'unixfs-v0-2015': {
    profile: 'unixfs-v0-2015',
    cidVersion: 0,
    rawLeaves: false,
    chunker: fixedSize({ chunkSize: 256 * 1024 }),
    layout: balanced({ maxChildrenPerNode: 174 })
  },
  'unixfs-v1-2025': {
    profile: 'unixfs-v1-2025',
    cidVersion: 1,
    rawLeaves: true,
    chunker: fixedSize({ chunkSize: 1024 * 1024 }),
    layout: balanced({ maxChildrenPerNode: 1024 })
  }
}

export function makeCommands (helia, dhts) {
  const libp2p = helia.libp2p
  const fs_ = unixfs(helia)
  const signal = request => AbortSignal.timeout((request.timeout ?? CALL_SECONDS) * 1000)

  const commands = {
    id: async () => ({
      peer_id: String(libp2p.peerId),
      addrs: libp2p.getMultiaddrs().map(String),
      protocols: libp2p.getProtocols()
    }),

    connect: async request => {
      const connection = await libp2p.dial(multiaddr(request.addr), { signal: signal(request) })
      return {
        addr: String(connection.remoteAddr),
        encryption: connection.encryption,
        muxer: connection.multiplexer
      }
    },

    disconnect: async request => { await libp2p.hangUp(peerIdFromString(request.peer)) },

    peers: async () => ({
      peers: libp2p.getConnections().map(connection => ({
        peer: String(connection.remotePeer),
        addr: String(connection.remoteAddr),
        direction: connection.direction
      }))
    }),

    // What identify told about a peer.
    identify: async request => {
      const peer = await libp2p.peerStore.get(peerIdFromString(request.peer))
      const text = key => new TextDecoder().decode(peer.metadata.get(key) ?? new Uint8Array())
      return {
        protocols: peer.protocols,
        addrs: peer.addresses.map(address => String(address.multiaddr)),
        agent: text('AgentVersion')
      }
    },

    ping: async request => ({
      ms: await libp2p.services.ping.ping(peerIdFromString(request.peer), { signal: signal(request) })
    }),

    add: async request => {
      const began = performance.now()
      const source = fs.createReadStream(request.path, { highWaterMark: READ_BYTES })
      const cid = await fs_.addByteStream(source, PROFILES[request.profile])
      return { cid: String(cid), seconds: since(began) }
    },

    add_dir: async request => {
      const began = performance.now()
      const folder = path.resolve(request.path)
      const source = globSource(path.dirname(folder), path.basename(folder) + '/**/*', { hidden: true })
      let last
      for await (const entry of fs_.addAll(source, { ...PROFILES[request.profile], wrapWithDirectory: false })) {
        last = entry // the folder itself comes last
      }
      return { cid: String(last.cid), seconds: since(began) }
    },

    // A file or a directory, to `dest`. With `providers` (multiaddrs) it asks those in a session, else whoever is
    // connected.
    get: async request => {
      const began = performance.now()
      const cid = CID.parse(request.cid)
      const options = { signal: signal(request) }
      let blockstore = helia.blockstore
      if (request.providers != null) {
        const providers = request.providers.map(address => multiaddr(address))
        blockstore = blockstore.createSession(cid, { ...options, providers })
      }
      const bytes = await fetchEntry(cid, request.dest, blockstore, options)
      return { bytes, seconds: since(began) }
    },

    // The same over HTTP alone, from the trustless gateways at some URLs: a Helia without libp2p, made for this.
    get_http: async request => {
      const began = performance.now()
      const stores = { blockstore: new MemoryBlockstore(), datastore: new MemoryDatastore() }
      const gateways = { recursiveGateways: request.gateways, allowInsecure: true, allowLocal: true }
      const light = withHTTP(createHeliaLight(stores), { delegatedRouters: [], ...gateways })
      light.addRouter(NOBODY)
      await light.start()
      try {
        const cid = CID.parse(request.cid)
        const bytes = await fetchEntry(cid, request.dest, light.blockstore, { signal: signal(request) })
        return { bytes, seconds: since(began) }
      } finally {
        await light.stop()
      }
    },

    // CAR files, as @helia/car writes and reads them.
    export_car: async request => {
      const bytes = car(helia).export(CID.parse(request.cid), { signal: signal(request) })
      await pipeline(bytes, fs.createWriteStream(request.dest))
    },

    import_car: async request => {
      const reader = await CarReader.fromIterable(fs.createReadStream(request.path))
      await car(helia).import(reader, { signal: signal(request) })
      return { roots: (await reader.getRoots()).map(String) }
    },

    pin: async request => {
      const began = performance.now()
      let blocks = 0
      for await (const _ of helia.pins.add(CID.parse(request.cid), { signal: signal(request) })) blocks++
      return { blocks, seconds: since(began) }
    },

    unpin: async request => {
      for await (const _ of helia.pins.rm(CID.parse(request.cid))) { /* it acts as it is read */ }
    },

    pins: async () => {
      const pins = []
      for await (const pin of helia.pins.ls()) pins.push(String(pin.cid))
      return { pins }
    },

    // Single blocks, as hexadecimal text.
    block_put: async request => {
      const data = Buffer.from(request.hex, 'hex')
      const codec = request.codec === 'dag-pb' ? DAG_PB : raw.code
      const cid = CID.createV1(codec, await sha256.digest(data))
      await helia.blockstore.put(cid, data)
      return { cid: String(cid) }
    },

    block_get: async request => {
      const parts = []
      for await (const part of helia.blockstore.get(CID.parse(request.cid), { signal: signal(request) })) {
        parts.push(part)
      }
      return { hex: Buffer.concat(parts).toString('hex') }
    },

    block_has: async request => ({ has: await helia.blockstore.has(CID.parse(request.cid)) }),

    gc: async () => { await helia.gc() },

    // The DHT. `dht` names which one, where there are several.
    provide: async request => drain(dht(request).provide(CID.parse(request.cid), { signal: signal(request) })),

    find_providers: async request => {
      const found = new Map()
      const query = dht(request).findProviders(CID.parse(request.cid), { signal: signal(request) })
      const events = await drain(query, event => {
        for (const peer of event.providers ?? []) found.set(String(peer.id), peerInfo(peer))
      })
      return { providers: [...found.values()], ...events }
    },

    find_peer: async request => {
      let peer
      const query = dht(request).findPeer(peerIdFromString(request.peer), { signal: signal(request) })
      const events = await drain(query, event => { if (event.name === 'FINAL_PEER') peer = peerInfo(event.peer) })
      return { peer, ...events }
    },

    closest_peers: async request => {
      const peers = []
      const key = CID.parse(request.cid).multihash.bytes
      const query = dht(request).getClosestPeers(key, { signal: signal(request) })
      const events = await drain(query, event => { if (event.name === 'FINAL_PEER') peers.push(peerInfo(event.peer)) })
      return { peers, ...events }
    }
  }

  const dht = request => libp2p.services['dht_' + (request.dht ?? dhts[0]?.slice('dht_'.length) ?? 'none')]

  // Not a request: which version this is.
  Object.defineProperty(commands, 'version', {
    enumerable: false,
    value: () => `${versionOf('helia')}, libp2p ${versionOf('libp2p')}, Node.js ${process.versions.node}`
  })
  return commands
}

function since (began) {
  return (performance.now() - began) / 1000
}

function peerInfo (peer) {
  return { id: String(peer.id), addrs: peer.multiaddrs.map(String) }
}

// Runs a query to its end and counts what it said.
async function drain (query, look) {
  const events = {}
  const errors = []
  for await (const event of query) {
    events[event.name] = (events[event.name] ?? 0) + 1
    if (event.name === 'QUERY_ERROR') errors.push(`${event.from}: ${event.error?.message}`)
    look?.(event)
  }
  return { events, errors }
}

// Writes a file, or a directory with all that is in it, to `dest`. Returns the bytes of its files.
async function fetchEntry (cid, dest, blockstore, options) {
  const entry = await exporter(cid, blockstore, options)
  if (entry.type !== 'directory') return fetchFile(entry, dest, options)
  fs.mkdirSync(dest, { recursive: true })
  let bytes = 0
  const running = new Set()
  for await (const child of entry.entries(options)) {
    const task = fetchEntry(child.cid, path.join(dest, path.basename(child.name)), blockstore, options)
      .then(count => { bytes += count })
      .finally(() => running.delete(task))
    running.add(task)
    if (running.size >= FILES_AT_ONCE) await Promise.race(running)
  }
  await Promise.all(running)
  return bytes
}

async function fetchFile (entry, dest, options) {
  const file = fs.openSync(dest, 'w')
  let bytes = 0
  try {
    for await (const part of entry.content(options)) {
      fs.writeSync(file, part)
      bytes += part.byteLength
    }
  } finally {
    fs.closeSync(file)
  }
  return bytes
}

function versionOf (name) {
  const here = path.dirname(fileURLToPath(import.meta.url))
  return JSON.parse(fs.readFileSync(path.join(here, 'node_modules', name, 'package.json'), 'utf8')).version
}
