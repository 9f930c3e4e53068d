/**
 * Reconnection: how does a user stay connected, from a browser?
 *
 *     import { Client } from "./wsdemo.js";
 *     const alice = new Client("alice", ["ws://localhost:8081/ws", "ws://localhost:8082/ws"], {
 *       onMessage: ({ from, content }) => console.log(from, content),
 *       onState: (state, why) => console.log(state, why),
 *     });
 *     await alice.start();                               // registered with a gateway
 *     const receipt = await alice.send("bob", "Hello!"); // receipt.status is "routed", or ...
 *     alice.close();
 *
 * The rules are those of the Python client: the close code says whether to come back, the list of
 * gateways says where, and an exponential backoff with full jitter says when. A connection on which
 * a heartbeat is not answered is dead, whatever the browser thinks of it.
 *
 * With `durable: true` it also reads the inbox of its user: messages that came while nobody was there.
 * A message is done when `onMessage` has returned, or when the promise that it returned is fulfilled.
 * Only then its position is saved, and after that the gateway is told that it may forget the message.
 * No dependency, no build step: one file, for browsers and for Node (MIT License).
 *
 * @typedef {"connecting" | "registered" | "reconnecting" | "closed"} State
 * @typedef {"routed" | "offline" | "unreachable" | "busy" | "unknown" | "refused" | "stored" | "duplicate"} Status
 * @typedef {{ id: string, to: string, status: Status | null, error: string, ms: number }} Receipt
 *   What became of a message. `ms` is the time from sending to the first answer. A `routed` message
 *   may come back later: then `status` changes to `unreachable`, and `onReceipt` is called again.
 * @typedef {{ code: number, reason: string, awayMs: number, pauseMs: number, moved: boolean }} Why
 *   The close code that led to this state (0: none), the time since the last connection was lost,
 *   the pause before the next attempt, and whether `move` was called.
 * @typedef {{ epoch: string, offset: string, user: string, device: string }} Position
 *   How far a user has read. Keep it, and do not look into it.
 */

/** Close code → its meaning, and whether a client that was closed with it comes back by itself. */
export const CLOSE_CODES = {
  1000: ["bye", false],
  1001: ["gateway gone", true],
  1002: ["protocol error", false],
  1003: ["only text frames are understood", false],
  1007: ["text is not UTF-8", false],
  1009: ["frame too big", false],
  1011: ["internal error", true],
  1012: ["service restart", true],
  1013: ["try again later", true],
  4001: ["no register in time", true],
  4008: ["rate limit", true],
  4009: ["heartbeat timeout", true],
  4010: ["a newer attempt of this client exists", true],
  4011: ["slow consumer", true],
  4012: ["presence could not be refreshed", true],
  4502: ["too many malformed messages", false],
  4504: ["authentication failed", false],
  4505: ["already registered as another user", false],
  4509: ["replaced by a newer session", false],
  4513: ["this user id is not allowed", false],
  4515: ["disconnected by the operator", false],
};

/** Times in milliseconds; `options.times` changes some of them. */
export const TIMES = {
  dial: 5000, register: 8000, close: 1000, ack: 5000, backoffBase: 100, backoffCap: 5000, pongAtLeast: 1000,
};

const STATUSES = ["routed", "offline", "unreachable", "busy", "unknown", "refused", "stored", "duplicate"];
const UNCLEAR = [1002, 1005, 1006]; // Codes that say nothing, or were changed on the way.
const AUTH = 4504;
const RECENT = 1024; // Receipts that are kept for a late correction.
const REPEATABLE = ["busy", "unknown"]; // After these answers a durable message is sent again.
const STORED = ["stored", "duplicate"]; // These never change.
const DURABLE_SEND = 30_000; // How long a durable message is sent again and again.
const ACK_AFTER = 1000; // The longest time between the end of a message and its acknowledgement.
const ACK_AFTER_MESSAGES = 32; // When so many are done, they are acknowledged at once.
const REMEMBERED = 1024; // So many of the last messages are recognised when they come again.
const TICK = 250;
const STOOD_STILL = 1000; // A timer that is this late was held back: hidden tab, locked phone, sleep.

/** Say whether a client that was closed with this code may come back by itself. */
export function shouldReconnect(code) {
  return CLOSE_CODES[code]?.[1] ?? !(code >= 4500 && code <= 4999);
}

/** Read the server's advice from the reason of a close frame; 0 when there is none. */
export function retryAfterMs(reason) {
  return Number(/retryAfterMs=(\d{1,7})$/.exec(reason)?.[1] ?? 0);
}

/**
 * Where a page keeps how far its user has read. Another store is an object with `load()`, which gives
 * a `Position` or null, and `save(position)`; both may be async. They are never called two at once.
 */
export function localPosition(user, device = "") {
  const key = `wsdemo.position:${user}${device && `/${device}`}`;
  return {
    load: () => JSON.parse(globalThis.localStorage.getItem(key) ?? "null"),
    save: (position) => globalThis.localStorage.setItem(key, JSON.stringify(position)),
  };
}

const isOffset = (value) => typeof value === "string" && /^\d{1,16}-\d{1,20}$/.test(value);
const isEpoch = (value) => typeof value === "string" && /^[\w.-]{1,128}$/.test(value);
const numberOf = (offset) => BigInt(offset.split("-", 1)[0]); // Messages are counted without holes.

// Which durable messages has the application had, and which come again? The same rules as those of
// wsdemo/client/inbox.py. Pure: it is told what came, and answers what to do.
class Inbox {
  #known = new Set(); #isResumed = false; #unacked = 0; #acked = null;

  constructor(user, device, start) {
    this.user = user;
    this.device = device;
    this.arrived = this.finished = start ?? this.#at("", "0-0");
  }

  #at(epoch, offset) { return { epoch, offset, user: this.user, device: this.device }; }

  // Where to go on, for a register; nothing is acknowledged on that connection yet.
  resume() {
    this.#isResumed = false;
    this.#acked = null;
    return { epoch: this.arrived.epoch, offset: this.arrived.offset };
  }

  // Returns where the gateway goes on, with `missed` when there is a gap; null when it says nonsense.
  resumed({ epoch, offset, recovered, missed }) {
    if (!isEpoch(epoch) || !isOffset(offset)) return null;
    const before = this.arrived, position = this.arrived = this.#at(epoch, offset);
    this.#isResumed = true;
    if (recovered !== true) return { position, missed: Number.isInteger(missed) && missed > 0 ? missed : null };
    if (!before.epoch) this.finished = position; // On from what an earlier page has acknowledged.
    return { position };
  }

  // Returns the position of a message, and whether it has come before. Offsets alone do not show this: after a
  // loss of data another message may have the same. So the birth of the inbox counts as well.
  take(offset) {
    if (!this.#isResumed || !isOffset(offset)) return { isDouble: false }; // Nobody knows its epoch.
    const { epoch } = this.arrived, key = `${epoch.split(".", 1)[0]} ${offset}`;
    const isNew = numberOf(offset) > numberOf(this.arrived.offset);
    const isDouble = !isNew || this.#known.has(key);
    if (isNew) this.arrived = this.#at(epoch, offset);
    this.#known.add(key);
    if (this.#known.size > REMEMBERED) this.#known.delete(this.#known.values().next().value);
    return { position: this.arrived, isDouble };
  }

  // All after this position comes again, or all after what is finished.
  rewind(position) {
    this.arrived = position ?? this.finished;
    this.#known.clear();
  }

  finish(position) { this.finished = position; this.#unacked += 1; }

  get hurries() { return this.#unacked >= ACK_AFTER_MESSAGES; }

  // The acknowledgement of what is finished and saved; null when the gateway knows it.
  ack(finished) {
    const isKnown = this.#acked?.epoch === finished.epoch && this.#acked.offset === finished.offset;
    if (!this.#isResumed || finished.epoch !== this.arrived.epoch || isKnown) return null;
    this.#acked = finished;
    this.#unacked = 0;
    return { type: "ack", epoch: finished.epoch, offset: finished.offset };
  }
}

export class Client {
  #socket = null; #hooks; #times; #token; #WebSocket; #start = null;
  #inst = [...crypto.getRandomValues(new Uint8Array(8))].map((b) => b.toString(16).padStart(2, "0")).join("");
  #turn = 0; #round = 0; #failures = 0; #retryTimer; #deadline; #heart; #notBefore = 0;
  #lostAt = 0; #askedAt = 0; #bye = null; #number = 0;
  #pending = new Map(); // Message id → what was not answered yet.
  #recent = new Map(); // Message id → receipt, for corrections.
  #durable; #device; #positions; #inbox = null; #refusals = 0;
  #items = []; #isWorking = false; #given = null; // What the application has still to do, in order.
  #ackTimer; #acking = null; #saved = null; #told = "";
  #wake = () => { if (globalThis.document?.visibilityState !== "hidden") this.#lookAgain(); };

  /**
   * @param {string} user who we are
   * @param {string | string[]} gateways WebSocket URLs, tried in turn
   * @param {object} [options] `onMessage({from, content, id})`, `onState(state, why)`,
   *   `onReceipt(receipt)`, `onError({error, code})`; `token`: a text, or a function (async or not)
   *   that returns one and is asked at each attempt; `times`; `WebSocket`: another class;
   *   `durable`: read the inbox, and call `onMissed(count)` where messages may be lost (null: nobody
   *   knows how many); `position`: where it is kept how far we have read (in a page `localPosition`;
   *   null: nowhere); `device`: the name of this device, where a user may have several.
   */
  constructor(user, gateways, options = {}) {
    const { token = "", times = {}, WebSocket = globalThis.WebSocket, durable = false, device = "", position, ...hooks } = options;
    if (position && !durable) throw new TypeError("only a durable client has a position");
    this.user = user;
    this.gateways = [].concat(gateways).map(String);
    if (!this.gateways.length) throw new TypeError("a client needs at least one gateway");
    for (const url of this.gateways) checkUrl(url);
    /** @type {State} */ this.state = "closed";
    this.gatewayId = ""; this.connId = ""; this.heartbeatMs = 30000; this.attempts = 0;
    this.#hooks = hooks; this.#times = { ...TIMES, ...times }; this.#token = token; this.#WebSocket = WebSocket;
    this.#durable = durable; this.#device = device;
    this.#positions = position ?? (durable && position === undefined && globalThis.document ? localPosition(user, device) : null);
  }

  /** The URL in use, or to be tried next. */
  get gateway() { return this.gateways[this.#turn % this.gateways.length]; }

  /**
   * Where we are when the message that `onMessage` has now is done. An application with a database of
   * its own saves it there in one transaction with what it does, and gives it to the next page by `load`.
   * @returns {Position | null}
   */
  get position() { return this.#given ?? this.#inbox?.finished ?? null; }

  /**
   * Connect, and stay connected. The promise is fulfilled by the first registration, and rejected
   * when a gateway forbids it. After a close for good (4509, say), call it again to come back.
   */
  start() {
    if (this.state !== "closed") return this.#start.promise;
    this.#start = {};
    this.#start.promise = new Promise((resolve, reject) => Object.assign(this.#start, { resolve, reject }));
    this.#start.promise.catch(() => {}); // Who does not wait for it is told by `onState`.
    this.#failures = this.#refusals = 0;
    this.#listen("addEventListener");
    this.#change("connecting");
    this.#dial();
    return this.#start.promise;
  }

  /**
   * Say goodbye and stop; fulfilled when the gateway has answered, or after a second. The application
   * gets nothing more; of a durable client, what it did not have yet comes after the next `start`.
   */
  async close() {
    this.#forget(this.#given);
    if (this.#inbox && this.state === "registered") await within(this.#acknowledge(), this.#times.close);
    const socket = this.#letGo();
    if (this.state !== "closed") this.#finish(1000, "closed by us");
    if (socket) await goodbye(socket, this.#times.close);
  }

  /** Leave this gateway and register with another one; it heads the list from now on. */
  async move(url) {
    if (!this.gateways.includes(checkUrl(url))) this.gateways.push(url);
    this.#turn = this.gateways.indexOf(url);
    if (this.state === "closed") return;
    if (this.state === "registered") this.#lostAt = Date.now();
    const socket = this.#letGo(), round = this.#round;
    this.#failures = 0;
    this.#change("reconnecting", { code: 1000, reason: "moved", moved: true });
    if (socket) await goodbye(socket, this.#times.close); // At most one connection at a time.
    if (round === this.#round) this.#dial();
  }

  /**
   * Send a message; fulfilled with the outcome, never rejected. While there is no connection it waits for
   * one: `busy` means that it was not sent. `unknown`: it may have been delivered or not.
   *
   * With `durable: true` it is sent again, with the same id and over any number of connections, until
   * it is `stored`, or a `duplicate` of what was stored before. It is `unknown` only after `timeout`
   * milliseconds; then it may be sent again under the same `id`, by another page as well.
   * @param {{ durable?: boolean, id?: string, timeout?: number }} [options]
   * @throws {TypeError} there is another message with this id
   * @returns {Promise<Receipt>}
   */
  send(to, content, { durable = false, id, timeout } = {}) {
    const other = this.#recent.get(id);
    if (this.#pending.has(id) || (other && other.to !== to)) throw new TypeError(`there is another message with the id ${id}`);
    // Ids of durable messages are remembered in Redis, beside those of other clients.
    id ??= `${durable ? this.#inst : this.#inst.slice(0, 6)}-${++this.#number}`;
    const receipt = { id, to, status: null, error: "", ms: 0 };
    return new Promise((resolve) => {
      const entry = { receipt, resolve, at: performance.now(), sent: false, tried: false, durable, tries: 0 };
      entry.text = JSON.stringify({ type: "message", to, content, id, ...(durable && { durable }) });
      this.#pending.set(id, entry);
      this.#recent.set(id, receipt);
      if (this.#recent.size > RECENT) this.#recent.delete(this.#recent.keys().next().value);
      if (/\p{Surrogate}/u.test(to + content)) return this.#settle(id, "refused", "half a character");
      if (this.state === "closed") return this.#giveUp(id, "closed");
      const tooLate = () => this.#giveUp(id, entry.tried ? "no answer in time" : "not connected");
      entry.timer = setTimeout(tooLate, timeout ?? (durable ? DURABLE_SEND : this.#times.ack));
      return this.#flush();
    });
  }

  // --- staying connected ---------------------------------------------------------------------

  async #dial() {
    clearTimeout(this.#retryTimer);
    this.#retryTimer = undefined;
    const round = ++this.#round;
    let token = "";
    try {
      if (this.#durable && !this.#inbox) await this.#load();
    } catch (problem) {
      if (round === this.#round) this.#finish(1000, `position: ${problem?.message ?? problem}`);
      return;
    }
    try {
      token = typeof this.#token === "function" ? await this.#token() : this.#token;
      if (round !== this.#round) return;
      this.attempts += 1;
      this.#socket = new this.#WebSocket(this.gateway);
    } catch (problem) {
      if (round === this.#round) this.#ended(1006, String(problem?.message ?? problem));
      return;
    }
    const socket = this.#socket, mark = { inst: this.#inst, att: this.attempts };
    const register = { type: "register", userId: this.user, ...(token && { token }), ...mark };
    if (this.#device) register.device = this.#device;
    if (this.#inbox) register.resume = this.#inbox.resume();
    // Its own deadline: some blocked connections are reported by the browser only after minutes.
    this.#within(this.#times.dial, "the gateway does not answer");
    socket.onopen = () => {
      this.#within(this.#times.register, "no answer to register");
      socket.send(JSON.stringify(register));
    };
    socket.onmessage = ({ data }) => this.#heard(data);
    socket.onclose = ({ code, reason }) => this.#ended(code, reason);
  }

  #within(ms, reason) {
    clearTimeout(this.#deadline);
    this.#deadline = setTimeout(() => this.#ended(1006, reason), ms);
  }

  #heard(data) {
    let said;
    try { said = JSON.parse(data); } catch { return; }
    switch (said?.type) {
      case "registered": if (this.state !== "registered") this.#registered(said); break;
      case "pong": this.#askedAt = 0; break;
      case "message": this.#came({ from: said.from, content: said.content ?? "", id: said.id ?? null }, said); break;
      case "resumed": if (this.#inbox) this.#resumed(said); break;
      case "ack": this.#settle(said.id, said.status); break;
      case "error":
        if (said.id) this.#settle(said.id, said.code === "offline" ? "offline" : "refused", said.error);
        else this.#hooks.onError?.({ error: said.error, code: said.code ?? "" });
        break;
      case "bye": this.#bye = said; break; // What the close means, should its code not arrive.
    }
  }

  #registered(said) {
    if (this.#durable && said.durable !== true) return this.#skip();
    clearTimeout(this.#deadline);
    this.#refusals = 0;
    this.gatewayId = String(said.gatewayId ?? "");
    this.connId = String(said.connId ?? "");
    this.heartbeatMs = said.heartbeatMs > 0 ? said.heartbeatMs : 30000;
    this.#askedAt = this.#failures = 0;
    this.#beat();
    this.#change("registered");
    this.#lostAt = 0;
    this.#start.resolve();
    return this.#flush();
  }

  // This gateway stores no messages; perhaps another one does.
  #skip() {
    this.#refusals += 1;
    const why = "this gateway stores no messages";
    if (this.#refusals < this.gateways.length) return this.#ended(1006, why);
    this.#letGo()?.close(1000);
    return this.#finish(1000, why);
  }

  // A heartbeat in every interval. Timers of a hidden page run late or not at all, and one clock may stop
  // while the machine sleeps: what counts is the time that has really passed, by two clocks.
  #beat() {
    const patience = Math.max(this.#times.pongAtLeast, this.heartbeatMs / 2);
    let last = [performance.now(), Date.now()];
    let beatAt = last[0] + this.heartbeatMs * Math.random(); // Those who came together spread out.
    this.#heart = setInterval(() => {
      const now = [performance.now(), Date.now()];
      const passed = Math.max(now[0] - last[0], now[1] - last[1]);
      last = now;
      // What has arrived meanwhile may not be read yet: ask again before judging.
      if (passed > TICK + STOOD_STILL) { this.#askedAt = 0; beatAt = now[0]; }
      if (this.#askedAt && now[0] - this.#askedAt > patience) this.#ended(1006, "no answer to a heartbeat");
      else if (now[0] >= beatAt) { beatAt = now[0] + this.heartbeatMs; this.#ping(); }
    }, TICK);
  }

  #ping() {
    if (this.#socket?.readyState !== 1) return;
    this.#askedAt ||= performance.now();
    this.#socket.send('{"type":"ping"}');
  }

  // The page is visible or online again. Is there still somebody at the other end?
  #lookAgain() {
    if (this.state === "registered") { this.#askedAt = 0; this.#ping(); }
    else if (this.#retryTimer !== undefined && Date.now() >= this.#notBefore) { this.#failures = 0; this.#dial(); }
  }

  #listen(method) {
    globalThis.document?.[method]("visibilitychange", this.#wake);
    for (const event of ["pageshow", "online"]) globalThis[method]?.(event, this.#wake);
  }

  // --- the end of a connection ---------------------------------------------------------------

  #ended(code, reason) {
    const wasRegistered = this.state === "registered", bye = this.#bye;
    // Its goodbye is not waited for: a gateway that stands still would not answer it for seconds.
    this.#letGo()?.close();
    let advice = retryAfterMs(reason);
    if (bye && UNCLEAR.includes(code)) [code, reason] = [bye.code, CLOSE_CODES[bye.code]?.[0] ?? "as it was announced"];
    if (bye && !advice) advice = Number(bye.retryAfterMs) || 0;
    if (wasRegistered) this.#lostAt = Date.now();
    // A token that had been good has ended: the function may have a fresh one.
    const again = shouldReconnect(code) || (code === AUTH && wasRegistered && typeof this.#token === "function");
    if (!again) return this.#finish(code, reason);
    this.#failures = wasRegistered ? 0 : this.#failures + 1;
    this.#turn += 1;
    const ceiling = Math.min(this.#times.backoffCap, this.#times.backoffBase * 2 ** this.#failures);
    const pauseMs = advice + Math.random() * ceiling;
    this.#notBefore = Date.now() + advice;
    this.#retryTimer = setTimeout(() => this.#dial(), pauseMs);
    return this.#change(this.#lostAt ? "reconnecting" : "connecting", { code, reason, pauseMs });
  }

  // Take the socket out of use: nothing that it still says is heard. Returns it, to be closed.
  #letGo() {
    this.#round += 1;
    clearTimeout(this.#deadline);
    clearTimeout(this.#retryTimer);
    clearInterval(this.#heart);
    this.#retryTimer = undefined;
    const socket = this.#socket;
    this.#socket = this.#bye = null;
    this.gatewayId = this.connId = "";
    if (socket) socket.onopen = socket.onmessage = socket.onclose = null;
    for (const [id, { sent }] of this.#pending) if (sent) this.#settle(id, "unknown", "the connection broke");
    return socket;
  }

  #finish(code, reason) {
    this.#listen("removeEventListener");
    this.#change("closed", { code, reason });
    for (const id of this.#pending.keys()) this.#giveUp(id, reason);
    this.#start.reject(new Error(`closed with ${code} ${reason}`));
  }

  #change(state, { code = 0, reason = "", pauseMs = 0, moved = false } = {}) {
    this.state = state;
    const awayMs = this.#lostAt ? Date.now() - this.#lostAt : 0;
    this.#hooks.onState?.(state, { code, reason, awayMs, pauseMs, moved });
  }

  // --- messages ------------------------------------------------------------------------------

  #flush() {
    if (this.state !== "registered" || this.#socket?.readyState !== 1) return;
    for (const [id, entry] of this.#pending) {
      if (entry.sent || entry.pause) continue;
      entry.sent = entry.tried = true;
      if (entry.durable) entry.answer = setTimeout(() => this.#settle(id, "unknown", "no answer in time"), this.#times.ack);
      this.#socket.send(entry.text);
    }
  }

  #giveUp(id, why) {
    const entry = this.#pending.get(id);
    if (entry) entry.durable = false; // It is not sent again.
    this.#settle(id, entry?.tried ? "unknown" : "busy", why);
  }

  // The first answer settles the promise; a later one corrects the receipt.
  #settle(id, status, error = "") {
    const receipt = this.#recent.get(id), entry = this.#pending.get(id);
    if (!receipt || !STATUSES.includes(status) || STORED.includes(receipt.status)) return;
    clearTimeout(entry?.answer);
    if (entry?.durable && REPEATABLE.includes(status)) return this.#repeat(entry);
    Object.assign(receipt, { status, error });
    if (entry) {
      this.#pending.delete(id);
      clearTimeout(entry.timer);
      clearTimeout(entry.pause);
      receipt.ms = performance.now() - entry.at;
      entry.resolve(receipt);
    }
    this.#hooks.onReceipt?.(receipt);
  }

  // Send a durable message once more, after a random pause.
  #repeat(entry) {
    if (entry.pause) return;
    entry.sent = false;
    const ceiling = Math.min(this.#times.backoffCap, this.#times.backoffBase * 2 ** entry.tries++);
    entry.pause = setTimeout(() => { entry.pause = undefined; this.#flush(); }, Math.random() * ceiling);
  }

  // --- the inbox -------------------------------------------------------------------------------

  async #load() {
    const found = (await this.#positions?.load()) ?? null;
    if (this.#inbox) return;
    if (found) checkPosition(found, this.user, this.#device);
    this.#saved = found;
    this.#inbox = new Inbox(this.user, this.#device, found);
  }

  #came(message, { offset, room }) {
    if (!this.#inbox) { this.#hooks.onMessage?.(message); return; }
    const { position = null, isDouble = false } = offset !== undefined && !room ? this.#inbox.take(offset) : {};
    this.#queue(isDouble ? null : () => this.#hooks.onMessage?.(message), position);
  }

  #resumed(said) {
    const here = this.#inbox.resumed(said);
    if (!here) return;
    if (here.missed !== undefined) this.#queue(() => this.#hooks.onMissed?.(here.missed), here.position);
    // The gateway waits for it: until then, it does not know that we know where we are.
    else this.#acknowledge();
  }

  #queue(act, position) {
    this.#items.push({ act, position });
    this.#work();
  }

  // Give the application one thing after the other.
  async #work() {
    if (this.#isWorking) return;
    this.#isWorking = true;
    while (this.#items.length) {
      const { act, position } = this.#items.shift();
      this.#given = position;
      try {
        await act?.();
      } catch (problem) {
        this.#failed(problem);
        break;
      }
      this.#given = null;
      if (position) this.#done(position);
    }
    this.#given = null;
    this.#isWorking = false;
  }

  // What the application could not do is not done: it comes again after the next `start`.
  #failed(problem) {
    const why = String(problem?.message ?? problem);
    this.#forget(null);
    this.#hooks.onError?.({ error: why, code: "application" });
    const socket = this.#letGo();
    if (this.state !== "closed") this.#finish(1000, why);
    socket?.close(1000);
  }

  // What the application does not have yet comes again after the next `start`.
  #forget(given) {
    this.#items = [];
    this.#inbox?.rewind(given);
  }

  #done(position) {
    this.#inbox.finish(position);
    if (this.#inbox.hurries || this.state === "closed") this.#acknowledge();
    else this.#ackTimer ??= setTimeout(() => this.#acknowledge(), ACK_AFTER);
  }

  // Save the position, then acknowledge: what is acknowledged is deleted, and a position before it would
  // look like a gap. Never two at once.
  async #acknowledge() {
    clearTimeout(this.#ackTimer);
    this.#ackTimer = undefined;
    while (this.#acking) await this.#acking;
    this.#acking = this.#save(this.#inbox.finished).finally(() => { this.#acking = null; });
    await this.#acking;
  }

  async #save(finished) {
    try {
      if (this.#positions && finished.epoch && finished !== this.#saved) await this.#positions.save(finished);
    } catch (problem) {
      this.#trouble(`position: ${problem?.message ?? problem}`);
      return;
    }
    this.#saved = finished;
    this.#told = "";
    if (this.state !== "registered" || this.#socket?.readyState !== 1) return;
    const ack = this.#inbox.ack(finished);
    if (ack) this.#socket.send(JSON.stringify(ack));
  }

  // The position could not be saved: say so once, and try again.
  #trouble(error) {
    if (error !== this.#told) this.#hooks.onError?.({ error, code: "position" });
    this.#told = error;
    if (this.state !== "closed") this.#ackTimer ??= setTimeout(() => this.#acknowledge(), ACK_AFTER);
  }
}

function checkPosition({ epoch, offset, user, device }, ours, ourDevice) {
  if (!isOffset(offset) || !(epoch === "" || isEpoch(epoch))) throw new TypeError("this is not a position");
  if (user && (user !== ours || (device ?? "") !== ourDevice)) throw new TypeError(`this is the position of ${user}, not of ${ours}`);
}

function within(work, ms) {
  let timer;
  const late = new Promise((resolve) => { timer = setTimeout(resolve, ms); });
  return Promise.race([work, late]).finally(() => clearTimeout(timer));
}

function checkUrl(url) {
  if (!/^wss?:$/.test(new URL(url).protocol)) throw new TypeError(`${url} is no WebSocket URL`);
  return url;
}

function goodbye(socket, withinMs) {
  return new Promise((resolve) => {
    socket.onclose = resolve;
    setTimeout(resolve, withinMs);
    socket.close(1000);
  });
}
