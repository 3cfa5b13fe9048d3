'use strict';
// What runs inside a Node.js instance: finds the wire on descriptor 3 and runs a function's calls.
//
// No dependencies, one file; the frames are those of `stoker.runtimes.wire`. Knows neither who calls
// nor what bounds it. Where a function shares its instance among calls, AsyncLocalStorage tells their
// logs apart.

const { Buffer } = require('node:buffer');
const fs = require('node:fs');
const http = require('node:http');
const https = require('node:https');
const net = require('node:net');
const path = require('node:path');
const util = require('node:util');
const v8 = require('node:v8');
const { spawnSync } = require('node:child_process');
const { createRequire, stripTypeScriptTypes } = require('node:module');
const { pathToFileURL } = require('node:url');
const { AsyncLocalStorage } = require('node:async_hooks');

const WIRE_FD = 3;
const [LOAD, INVOKE, REVOKE, AHEAD] = [0x01, 0x02, 0x03, 0x04];
const [HELLO, LOADED, RESULT, ERROR, LOG, REVOKED, LEAVING] = [0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17];
const OUTPUT_FD = 1;
const HEAD_BYTES = 21;
const ID_AT = 5;
const ZERO_ID = Buffer.alloc(16);
const LOG_FRAME_BYTES = 65536;
const MESSAGE_CHARS_MAX = 16384;
const STACK_LINES_MAX = 50;
const STACK_CHARS_MAX = 16384;
const NAME_CHARS_MAX = 256;
const CHECKED_FILES_MAX = 10;
const STALE_MS = 2; // a call that waited longer here may have been revoked meanwhile: the wire is read first
const EXTENSIONS = ['.js', '.mjs', '.cjs', '.ts', '.mts', '.cts'];
const SHELL_VARIABLES = ['PWD', 'OLDPWD', 'SHLVL', '_'];
const DISPATCHER = Symbol.for('undici.globalDispatcher.1'); // what `fetch` and WebSocket send requests by

// A user's `require` must not pay for these.
const PREREQUIRED = [
  'assert', 'buffer', 'child_process', 'crypto', 'diagnostics_channel', 'dns', 'events', 'fs/promises', 'http', 'http2',
  'https', 'os', 'perf_hooks', 'querystring', 'readline', 'stream', 'stream/promises', 'string_decoder',
  'timers/promises', 'tls', 'url', 'worker_threads', 'zlib',
];

// Taken at boot: a handler may replace what it likes.
const { parse, stringify } = JSON;
const { writeSync } = fs;
const { inspect } = util;
const { now } = require('node:perf_hooks').performance;
const performanceNow = now.bind(require('node:perf_hooks').performance);
const promiseThen = Function.prototype.call.bind(Promise.prototype.then);
const setImmediateAtBoot = setImmediate;
const leave = process.exit.bind(process);
const leaveAtOnce = process.reallyExit.bind(process);

// --- the wire --------------------------------------------------------------------------------------

class Reader {
  // Cuts the bytes of the wire into frames: calls `onFrame(kind, frame)` with a view of the whole frame,
  // which is only good until that returns.
  constructor(onFrame) {
    this.onFrame = onFrame;
    this.head = Buffer.alloc(4);
    this.headBytes = 0;
    this.frame = null; // a frame that came in part, allocated whole
    this.filled = 0;
  }

  feed(data, end) {
    let at = 0;
    while (at < end) {
      if (this.frame !== null) {
        const taken = Math.min(end - at, this.frame.length - this.filled);
        data.copy(this.frame, this.filled, at, at + taken);
        this.filled += taken;
        at += taken;
        if (this.filled === this.frame.length) {
          const whole = this.frame;
          this.frame = null;
          this.onFrame(whole[4], whole);
        }
      } else if (this.headBytes === 0 && end - at >= 4) {
        const size = 4 + data.readUInt32BE(at);
        if (end - at >= size) {
          this.onFrame(data[at + 4], data.subarray(at, at + size));
          at += size;
        } else {
          this.begin(size);
          data.copy(this.frame, 0, at, end);
          this.filled = end - at;
          at = end;
        }
      } else {
        this.head[this.headBytes++] = data[at++];
        if (this.headBytes === 4) {
          this.headBytes = 0;
          this.begin(4 + this.head.readUInt32BE(0));
          this.head.copy(this.frame, 0);
          this.filled = 4;
        }
      }
    }
  }

  begin(size) {
    this.frame = Buffer.allocUnsafeSlow(size);
    this.filled = 0;
  }
}

function encodeFrame(kind, id, body) {
  const frame = Buffer.allocUnsafe(HEAD_BYTES + body.length);
  writeHead(frame, frame.length, kind, id);
  body.copy(frame, HEAD_BYTES);
  return frame;
}

function writeHead(frame, size, kind, id) {
  frame.writeUInt32BE(size - 4, 0);
  frame[4] = kind;
  id.copy(frame, ID_AT);
}

class Wire {
  // Writes at once while the host keeps up, and in order through the stream when it does not.
  constructor(fd) {
    this.fd = fd;
    this.small = Buffer.allocUnsafeSlow(65536);
    this.stream = null;
  }

  open(onFrame) {
    const reader = new Reader(onFrame);
    this.stream = new net.Socket({
      fd: this.fd, readable: true, writable: true,
      onread: { buffer: Buffer.allocUnsafeSlow(65536), callback: (count, data) => { reader.feed(data, count); return true; } },
    });
    this.stream.on('close', () => leaveAtOnce(0));
    this.stream.on('error', () => leaveAtOnce(0));
    this.stream.on('end', () => leaveAtOnce(0));
    this.stream.resume();
  }

  // JSON text as the body; the one copy is its encoding.
  sendText(kind, id, text) {
    if (text.length * 3 + HEAD_BYTES <= this.small.length) {
      const size = HEAD_BYTES + this.small.utf8Write(text, HEAD_BYTES);
      writeHead(this.small, size, kind, id);
      this.write(this.small, size);
    } else {
      this.sendBytes(kind, id, Buffer.from(text));
    }
  }

  sendBytes(kind, id, body) {
    const frame = encodeFrame(kind, id, body);
    this.write(frame, frame.length);
  }

  write(data, size) {
    let at = 0;
    if (this.stream.writableLength === 0) {
      try {
        while (at < size) at += writeSync(this.fd, data, at, size - at);
      } catch (problem) {
        if (problem.code !== 'EAGAIN') leaveAtOnce(0);
      }
    }
    if (at < size) this.stream.write(data === this.small ? Buffer.from(data.subarray(at, size)) : data.subarray(at, size));
  }

  // Waits until everything is out: for the last words of a process.
  drain(then) {
    if (this.stream.writableLength === 0) then();
    else this.stream.write(ZERO_ID.subarray(0, 0), then);
  }
}

// --- errors ----------------------------------------------------------------------------------------

class LoadFailed extends Error {}

function describe(problem, root) {
  // What `throw` gave us, which may be any value: its message, its class and the user's frames.
  try {
    if (util.types.isNativeError(problem) || problem instanceof Error) {
      const given = Object.hasOwn(problem, 'name') && typeof problem.name === 'string' ? problem.name : '';
      const type = given || problem.constructor?.name || 'Error';
      const message = String(problem.message);
      return { error: message || type, error_type: type, stack: userStack(problem, message, root) };
    }
    const text = typeof problem === 'string' ? problem : inspect(problem, { depth: 3, breakLength: Infinity });
    const type = problem === null || problem === undefined ? String(problem) : Object(problem).constructor?.name ?? 'Object';
    return { error: text, error_type: String(type), stack: null };
  } catch {
    return { error: 'a thrown value that cannot be shown', error_type: null, stack: null }; // the user's own getters
  }
}

function userStack(problem, message, root) {
  let stack = problem.stack;
  if (typeof stack !== 'string') return null;
  const at = message ? stack.indexOf(message) : -1;
  if (at >= 0) stack = stack.slice(at + message.length);
  const lines = [];
  for (const line of stack.split('\n')) {
    if (!/^\s+at /.test(line) || line.includes('node:') || line.includes(__filename)) continue;
    if (!/[\\/]/.test(line)) continue; // built in, such as `at Array.map (<anonymous>)`
    lines.push(inside(line.trim(), root));
    if (lines.length === STACK_LINES_MAX) break;
  }
  return lines.join('\n') || null;
}

function inside(text, root) {
  const plain = text.replaceAll('file://', '');
  return root === '/code' ? plain : plain.replaceAll(root + '/', '/code/');
}

// --- loading ---------------------------------------------------------------------------------------

function locate(handler, root) {
  const trimmed = handler.replace(/^\/+|\/+$/g, '');
  const slash = trimmed.lastIndexOf('/');
  const folder = trimmed.slice(0, slash + 1);
  const parts = trimmed.slice(slash + 1).split('.');
  if (parts.length < 2 || parts.includes('') || folder.split('/').includes('..')) {
    throw new LoadFailed(`the handler '${handler}' is not of the form 'index.handler' or 'src/index.handler'`);
  }
  for (let length = parts.length - 1; length > 0; length--) { // the longest name of a file that exists wins
    for (const extension of EXTENSIONS) {
      const file = path.join(root, folder, parts.slice(0, length).join('.') + extension);
      if (fs.statSync(file, { throwIfNoEntry: false })?.isFile()) return { file, exported: parts.slice(length) };
    }
  }
  const wanted = folder + parts.slice(0, -1).join('.');
  throw new LoadFailed(`the handler '${handler}' needs one of ${EXTENSIONS.map((e) => wanted + e).join(', ')}, and none is there`);
}

async function importModule(file, root) {
  if (!/\.mjs$|\.mts$/.test(file)) {
    try {
      return createRequire(root + '/')(file);
    } catch (problem) {
      if (problem?.code !== 'ERR_REQUIRE_ASYNC_MODULE') throw problem; // a module that awaits at its top level
    }
  }
  return import(pathToFileURL(file).href);
}

async function loadHandler({ file, exported }, root) {
  const shown = path.relative(root, file);
  const exportsOf = await importModule(file, root);
  const found = pick(exportsOf, exported) ?? (exportsOf?.default ? pick(exportsOf.default, exported) : undefined);
  if (found === undefined) throw new LoadFailed(`${shown} does not export '${exported.join('.')}' (${listing(exportsOf)})`);
  if (typeof found.value !== 'function') {
    const kind = found.value === null ? 'null' : typeof found.value;
    throw new LoadFailed(`${shown} exports '${exported.join('.')}', but it is of type ${kind}, not a function`);
  }
  return found;
}

function pick(from, names) {
  let owner;
  let value = from;
  for (const name of names) {
    if (value === null || value === undefined || value[name] === undefined) return undefined;
    [owner, value] = [value, value[name]];
  }
  return { value, owner };
}

function listing(exportsOf) {
  const names = exportsOf !== null && ['object', 'function'].includes(typeof exportsOf) ? Object.keys(exportsOf) : [];
  return names.length === 0 ? 'it exports nothing' : `it exports ${names.slice(0, 20).join(', ')}`;
}

// Where the text is that Node cannot read, as `file:line`. Of a CommonJS module it stands above the stack;
// of an ES module only a process that ends of it tells, so one is made that only reads.
function syntaxPlace(problem, file) {
  const above = typeof problem.stack === 'string' ? problem.stack.split('\n    at ')[0] : '';
  const told = /^(?:file:\/\/)?(\/.*?:\d+)$/m.exec(above);
  if (told !== null || file === null) return told?.[1] ?? null;
  const files = [file];
  for (let n = 0; n < Math.min(files.length, CHECKED_FILES_MAX); n++) {
    const text = fs.readFileSync(files[n], 'utf8');
    const input = /ts$/.test(files[n]) ? stripTypeScriptTypes(text) : text;
    const checked = spawnSync(process.execPath, ['--check', '--input-type=module', '-'], { input, timeout: 5000 });
    if (checked.status !== 0) {
      const line = /:(\d+)$/m.exec(String(checked.stderr));
      return line === null ? null : `${files[n]}:${line[1]}`;
    }
    for (const [, specifier] of text.matchAll(/(?:from|import)\s*\(?\s*['"](\.[^'"]+)['"]/g)) {
      const next = path.resolve(path.dirname(files[n]), specifier);
      if (!files.includes(next) && fs.statSync(next, { throwIfNoEntry: false })?.isFile()) files.push(next);
    }
  }
  return null;
}

function describeLoad(problem, root, file) {
  if (problem instanceof LoadFailed) return { error: problem.message, error_type: 'LoadFailed', stack: null };
  const told = describe(problem, root);
  told.error = inside(told.error, root);
  if (problem?.code === 'MODULE_NOT_FOUND') told.error = told.error.split('\nRequire stack')[0];
  if (/Syntax/.test(`${told.error_type} ${problem?.code}`)) {
    const place = syntaxPlace(problem, file);
    if (place !== null) {
      const line = inside(place, root);
      told.error = `${line.replace(/^\/code\//, '')}: ${told.error}`;
      told.stack = told.stack ? `at ${line}\n${told.stack}` : `at ${line}`;
    }
  }
  return told;
}

// --- running ---------------------------------------------------------------------------------------

class Context {
  #deadline;
  constructor(order, hex, timeoutMs) {
    this.awsRequestId = `${hex.slice(0, 8)}-${hex.slice(8, 12)}-${hex.slice(12, 16)}-${hex.slice(16, 20)}-${hex.slice(20)}`;
    this.functionName = order.function_name;
    this.functionVersion = order.function_version;
    this.memoryLimitInMB = order.memory_mb;
    this.#deadline = performanceNow() + timeoutMs;
  }

  getRemainingTimeInMillis() {
    return Math.max(0, Math.floor(this.#deadline - performanceNow()));
  }
}

class Instance {
  constructor(wire, baseEnv) {
    this.wire = wire;
    this.baseEnv = baseEnv;
    this.order = null;
    this.root = '/code';
    this.handler = null;
    this.failure = { error: 'the instance was given to no function', error_type: 'LoadFailed', stack: null };
    this.waiting = null; // calls that came before the module was loaded
    this.calls = new Set(); // in flight
    this.ahead = []; // sent before their turn, where one call at a time runs
    this.leaving = false; // the process ends: what has not begun will not
    this.storage = null; // AsyncLocalStorage, where calls share the instance
  }

  onFrame(kind, frame) {
    if (this.leaving) return;
    if (kind === INVOKE || kind === AHEAD) {
      const id = Buffer.from(frame.subarray(ID_AT, HEAD_BYTES));
      const call = { id, timeoutMs: frame.readUInt32BE(HEAD_BYTES), text: frame.utf8Slice(HEAD_BYTES + 4, frame.length), open: true, marked: kind === AHEAD };
      if (this.waiting !== null) this.waiting.push(call);
      else if (this.storage === null && (this.calls.size > 0 || this.ahead.length > 0)) this.lineUp(call);
      else this.begin(call);
    } else if (kind === REVOKE) {
      const id = frame.subarray(ID_AT, HEAD_BYTES);
      const at = this.ahead.findIndex((call) => call.id.equals(id));
      if (at >= 0) this.wire.sendText(REVOKED, this.ahead.splice(at, 1)[0].id, '');
    } else if (kind === LOAD) {
      this.load(parse(frame.utf8Slice(HEAD_BYTES, frame.length)));
    }
  }

  load(order) {
    this.order = order;
    this.root = path.resolve(order.root);
    this.waiting = [];
    let module = null;
    const failed = (problem) => { this.failure = describeLoad(problem, this.root, module?.file ?? null); };
    const ended = () => {
      const waiting = this.waiting;
      this.waiting = null;
      this.wire.sendText(LOADED, ZERO_ID, '');
      for (const call of waiting) {
        if (this.storage === null && this.calls.size > 0) this.lineUp(call);
        else this.begin(call);
      }
    };
    try {
      process.chdir(this.root); // again: the folder at boot may have been another one
      for (const name of Object.keys(process.env)) delete process.env[name];
      Object.assign(process.env, this.baseEnv, order.env);
      if (process.env.NODE_USE_ENV_PROXY === '1') useProxy();
      if (order.per_instance > 1) this.share();
      beFrugal(order.memory_mb);
      module = locate(order.handler, this.root);
    } catch (problem) {
      failed(problem);
      return ended();
    }
    const loaded = loadHandler(module, this.root).then((found) => { this.handler = found; }, failed);
    return promiseThen(loaded, ended);
  }

  // What a call prints goes out as LOG with its id; what no call prints goes out as it always did.
  share() {
    this.storage = new AsyncLocalStorage();
    for (const stream of [process.stdout, process.stderr]) {
      const write = stream.write.bind(stream);
      stream.write = (chunk, encoding, done) => {
        const call = this.storage.getStore();
        if (call === undefined) return write(chunk, encoding, done);
        const bytes = typeof chunk === 'string' ? Buffer.from(chunk, typeof encoding === 'string' ? encoding : 'utf8') : chunk;
        for (let at = 0; at < bytes.length; at += LOG_FRAME_BYTES) {
          this.wire.sendBytes(LOG, call.id, Buffer.from(bytes.buffer, bytes.byteOffset + at, Math.min(LOG_FRAME_BYTES, bytes.length - at)));
        }
        const told = typeof encoding === 'function' ? encoding : done;
        if (typeof told === 'function') process.nextTick(told);
        return true;
      };
    }
  }

  // One call at a time: the next one begins when this one has been answered.
  lineUp(call) {
    call.since = performanceNow();
    this.ahead.push(call);
  }

  next() {
    if (this.leaving || this.ahead.length === 0 || this.calls.size > 0) return;
    if (performanceNow() - this.ahead[0].since <= STALE_MS) this.begin(this.ahead.shift());
    else setImmediateAtBoot(() => setImmediateAtBoot(() => { // one whole turn of the loop, which reads the wire
      if (!this.leaving && this.ahead.length > 0 && this.calls.size === 0) this.begin(this.ahead.shift());
    }));
  }

  begin(call) {
    this.calls.add(call);
    if (call.marked) writeSync(OUTPUT_FD, call.id); // what stands before it was printed by the call before
    if (this.handler === null) this.fail(call, 'function.load_failed', this.failure);
    else if (this.storage === null) this.run(call);
    else this.storage.run(call, () => this.run(call));
  }

  run(call) {
    const { value: handler, owner } = this.handler;
    try {
      const event = parse(call.text);
      call.text = '';
      const context = new Context(this.order, call.id.hexSlice(0, 16), call.timeoutMs);
      const value = handler.call(owner, event, context, (problem, result) => {
        if (problem !== undefined && problem !== null) this.reject(call, problem);
        else this.resolve(call, result);
      });
      if (value === undefined) {
        if (handler.length < 3) this.resolve(call, undefined);
      } else if (value instanceof Promise) {
        promiseThen(value, (result) => this.resolve(call, result), (problem) => this.reject(call, problem));
      } else if (value !== null && typeof value === 'object' && typeof value.then === 'function') {
        value.then((result) => this.resolve(call, result), (problem) => this.reject(call, problem));
      } else {
        this.resolve(call, value);
      }
    } catch (problem) {
      this.reject(call, problem);
    }
  }

  resolve(call, value) {
    if (!call.open) return;
    let text;
    try {
      text = value === undefined ? 'null' : stringify(value);
    } catch (problem) {
      const { error, error_type } = describe(problem, this.root);
      return this.fail(call, 'function.result_invalid', { error: `the result is not JSON: ${error}`, error_type, stack: null });
    }
    if (text === undefined) {
      return this.fail(call, 'function.result_invalid', { error: `the result is not JSON: a ${typeof value} is none`, error_type: 'TypeError', stack: null });
    }
    const most = this.order.result_bytes_max;
    if (text.length * 3 > most) {
      const size = Buffer.byteLength(text);
      if (size > most) {
        return this.fail(call, 'function.result_too_large', { error: `the result is ${size} bytes of JSON; the most is ${most}`, error_type: null, stack: null });
      }
    }
    this.end(call);
    this.wire.sendText(RESULT, call.id, text);
    return this.next();
  }

  reject(call, problem) {
    if (call.open) this.fail(call, 'function.error', describe(problem, this.root));
  }

  fail(call, code, told) {
    this.end(call);
    this.wire.sendText(ERROR, call.id, stringify({
      code,
      error: told.error.slice(0, MESSAGE_CHARS_MAX),
      error_type: told.error_type?.slice(0, NAME_CHARS_MAX) ?? null,
      stack: told.stack?.slice(0, STACK_CHARS_MAX) ?? null,
    }));
    this.next();
  }

  end(call) {
    call.open = false;
    this.calls.delete(call);
  }

  // Thrown where no handler waits for it: Node would end the process, and so do we, once a call that
  // may be its cause has been told.
  onUncaught(problem) {
    if (process.listenerCount('uncaughtException') > 1) return; // the user's own listener decides
    const shown = util.types.isNativeError(problem) && typeof problem.stack === 'string' ? problem.stack : `Uncaught ${inspect(problem)}`;
    try {
      writeSync(2, `${inside(shown, this.root)}\n`);
    } catch {
      // Nobody reads it: that must not keep us from leaving.
    }
    if (!this.leaving) {
      this.leaving = true;
      this.wire.sendBytes(LEAVING, ZERO_ID, Buffer.concat([...this.calls].map((call) => call.id)));
    }
    const own = this.storage?.getStore() ?? (this.calls.size === 1 ? this.calls.values().next().value : undefined);
    if (own?.open) this.reject(own, problem);
    this.wire.drain(() => leave(1));
  }
}

// V8 is told of no limit at its start, when nobody knows which function it will serve, and left alone it lets garbage
// grow to a multiple of what lives: past the limit of a small instance, which the kernel then kills. This bounds it
// to so many per cent; where there is plenty, V8's own judgement is the quicker one.
function beFrugal(memoryMb) {
  const percent = memoryMb < 256 ? 20 : memoryMb < 512 ? 40 : memoryMb < 1024 ? 80 : 0;
  if (percent > 0) v8.setFlagsFromString(`--heap-growing-percent=${percent}`);
}

// --- the way out -----------------------------------------------------------------------------------

// What Node does at its start where NODE_USE_ENV_PROXY is set, but later: loading the client behind `fetch`
// takes longer than all else at the boot, and most functions never call it.
function useProxy() {
  const options = { keepAlive: true, scheduling: 'lifo', timeout: 5000, proxyEnv: process.env };
  http.globalAgent = new http.Agent(options);
  https.globalAgent = new https.Agent(options);
  globalThis[DISPATCHER] = {
    dispatch(request, handler) {
      const agents = [http.globalAgent, https.globalAgent]; // they may be the user's own by now
      http.setGlobalProxyFromEnv(process.env);
      [http.globalAgent, https.globalAgent] = agents;
      return globalThis[DISPATCHER].dispatch(request, handler);
    },
  };
}

// --- booting ---------------------------------------------------------------------------------------

function main() {
  for (const name of PREREQUIRED) require(`node:${name}`);
  for (const name of SHELL_VARIABLES) delete process.env[name];
  for (const stream of [process.stdout, process.stderr]) {
    stream._handle?.setBlocking?.(true); // what was printed is out before the answer is, and memory stays bounded
  }
  process.argv.length = 1;
  const baseEnv = { ...process.env };
  const wire = new Wire(WIRE_FD);
  const instance = new Instance(wire, baseEnv);
  process.on('uncaughtException', (problem) => instance.onUncaught(problem));
  rehearse(baseEnv, () => {
    wire.open((kind, frame) => instance.onFrame(kind, frame));
    wire.sendText(HELLO, ZERO_ID, stringify({ runtime: 'nodejs', version: process.versions.node }));
  });
}

// Loads and calls a function of our own, as a real one will be: what runs for the first time is slow, and
// here nobody waits for it.
function rehearse(baseEnv, then) {
  const nobody = { sendBytes() {}, sendText(kind) { if (kind === RESULT || kind === ERROR) setImmediateAtBoot(ended); } };
  const ended = () => {
    delete require.cache[path.join(__dirname, 'rehearsal.js')];
    process.chdir('/');
    then();
  };
  const instance = new Instance(nobody, baseEnv);
  instance.load({
    handler: 'rehearsal.handler', root: __dirname, env: {}, function_name: 'rehearsal', function_version: '1',
    memory_mb: 128, per_instance: 1, result_bytes_max: 1024,
  });
  const frame = encodeFrame(INVOKE, ZERO_ID, Buffer.from('\0\0\x03\xe8{"list":[1,"two",null],"more":{"a":0.5}}', 'latin1'));
  instance.onFrame(INVOKE, frame);
}

if (require.main === module) main();
else module.exports = { Reader, encodeFrame, kinds: { LOAD, INVOKE, REVOKE, AHEAD, HELLO, LOADED, RESULT, ERROR, LOG, REVOKED, LEAVING } };
