// Durable messages in the browser: does wsdemo.js keep the rules of the Python client?
// Run by tests/client/test_browser_client.py: `node --test tests/js/test_durable.mjs`.
import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";

import { Clock, Fake, settled } from "./clock.mjs";

const clock = new Clock();
const { Client, localPosition } = await import("../../wsdemo/client/wsdemo.js");
const URLS = ["ws://a/ws", "ws://b/ws"];
const EPOCH = "b1.r1";

let client, got, told;
const last = () => Fake.made.at(-1);
const acks = () => last().sent.filter(({ type }) => type === "ack").map(({ epoch, offset }) => `${epoch} ${offset}`);
const closed = async (who) => { const done = who.close(); await clock.pass(2000); await done; };

// A store in memory, which notes what it is asked for.
class Store {
  saves = [];
  constructor(position = null) { this.position = position; }
  async load() { return this.position; }
  async save(position) { this.saves.push(position.offset); this.position = position; }
}

function made(options = {}) {
  got = []; told = [];
  client = new Client("alice", URLS, {
    WebSocket: Fake, durable: true,
    onMessage: ({ content }) => { got.push(content); },
    onMissed: (count) => { got.push(`missed ${count}`); },
    onError: ({ error, code }) => told.push(`${code}: ${error}`),
    ...options,
  });
  return client;
}

// The gateway registers it and says where it goes on.
async function welcome(resumed = {}) {
  last().open();
  last().say({ type: "registered", gatewayId: "gateway-01", connId: "c1", heartbeatMs: 600_000, durable: true });
  last().say({ type: "resumed", recovered: true, epoch: EPOCH, offset: "0-0", last: "0-0", ...resumed });
  await settled();
}

async function begun(options, resumed) {
  made(options).start();
  await settled();
  await welcome(resumed);
  return client;
}

const message = (offset, content = offset) => last().say({ type: "message", from: "bob", content, id: content, offset });
async function messages(...offsets) {
  for (const offset of offsets) message(offset);
  await settled();
}

// The connection breaks, and the next one is open.
async function broken(resumed) {
  last().end(1006);
  await clock.pass(200);
  await welcome(resumed);
}

beforeEach(() => { Fake.made.length = 0; });
afterEach(async () => { if (client) await closed(client); client = null; });

test("it says where to go on, and a first contact is told as a gap", async () => {
  await begun({}, { recovered: false });
  assert.deepEqual(last().sent[0].resume, { epoch: "", offset: "0-0" });
  await messages("1-5", "2-6");
  assert.deepEqual(got, ["missed null", "1-5", "2-6"]);
});

test("a gap that can be counted is told with its number", async () => {
  await begun({}, { recovered: false, missed: 3, offset: "3-1" });
  assert.deepEqual(got, ["missed 3"]);
});

test("a resume that is recovered is acknowledged at once; a gap when the application knows of it", async () => {
  await begun({}, { offset: "4-1" });
  assert.deepEqual(acks(), [`${EPOCH} 4-1`]);
  await closed(client);
  let know;
  await begun({ onMissed: () => new Promise((resolve) => { know = resolve; }) }, { recovered: false });
  await clock.pass(5000);
  assert.deepEqual(acks(), []);
  know();
  await clock.pass(1000);
  assert.deepEqual(acks(), [`${EPOCH} 0-0`]);
});

test("a message is acknowledged when it is done and not before; several together", async () => {
  const open = [];
  await begun({ onMessage: () => new Promise((resolve) => open.push(resolve)) });
  await messages("1-5", "2-6");
  await clock.pass(5000);
  assert.deepEqual([open.length, acks()], [1, [`${EPOCH} 0-0`]], "one after the other");
  open[0]();
  await settled();
  open[1]();
  await clock.pass(1000);
  assert.deepEqual(acks(), [`${EPOCH} 0-0`, `${EPOCH} 2-6`]);
});

test("when 32 are done, nothing is waited for", async () => {
  await begun();
  await messages(...Array.from({ length: 32 }, (_, n) => `${n + 1}-7`));
  await clock.pass(0);
  assert.equal(acks().at(-1), `${EPOCH} 32-7`);
});

test("after a reconnect it goes on after what has arrived, and acknowledges again", async () => {
  await begun();
  await messages("1-5", "2-6");
  await clock.pass(1000);
  assert.deepEqual(acks(), [`${EPOCH} 0-0`, `${EPOCH} 2-6`]);
  await broken({ offset: "2-6" });
  assert.deepEqual(last().sent[0].resume, { epoch: EPOCH, offset: "2-6" });
  assert.deepEqual(acks(), [`${EPOCH} 2-6`]);
});

test("a reset that goes back brings no message twice; another inbox brings old offsets", async () => {
  await begun();
  await messages("1-5", "2-6");
  await broken({ recovered: false, epoch: "b1.r2", offset: "0-0" });
  await messages("1-5", "2-6", "3-9");
  assert.deepEqual(got, ["1-5", "2-6", "missed null", "3-9"]);
  got.length = 0;
  await broken({ recovered: false, epoch: "b2.r2", offset: "0-0" });
  await messages("1-5", "2-6");
  assert.deepEqual(got, ["missed null", "1-5", "2-6"]);
});

test("after a loss another message may have the offset's number", async () => {
  await begun();
  await messages("1-5", "2-6");
  await broken({ recovered: false, epoch: "b1.r2", offset: "1-5" });
  await messages("2-9");
  assert.deepEqual(got, ["1-5", "2-6", "missed null", "2-9"]);
});

test("a repeated message is dropped, and its position counts", async () => {
  await begun();
  await messages("1-5", "1-5");
  await clock.pass(1000);
  assert.deepEqual([got, acks().at(-1)], [["1-5"], `${EPOCH} 1-5`]);
});

test("what was finished in another epoch is not acknowledged in this one", async () => {
  const wait = () => new Promise((resolve) => { finish = resolve; });
  let finish;
  await begun({ onMessage: wait, onMissed: wait });
  await messages("1-5");
  await broken({ recovered: false, epoch: "b2.r2", offset: "7-1" });
  finish();
  await clock.pass(1000);
  assert.deepEqual(acks(), [], "the message is done, and the gap is not");
  finish();
  await clock.pass(1000);
  assert.deepEqual(acks(), ["b2.r2 7-1"]);
});

test("what an earlier page has had is dropped, by its number alone", async () => {
  const position = new Store({ epoch: EPOCH, offset: "4-1", user: "alice", device: "" });
  await begun({ position }, { offset: "4-1" });
  await messages("3-7", "4-1", "5-2");
  assert.deepEqual(got, ["5-2"]);
});

test("a store is never asked to save two positions at once", async () => {
  const store = new Store(), saves = [];
  store.save = () => new Promise((resolve) => saves.push(resolve));
  await begun({ position: store });
  await messages("1-5");
  await clock.pass(1000);
  await messages(...Array.from({ length: 40 }, (_, n) => `${n + 2}-7`));
  await clock.pass(1000);
  assert.equal(saves.length, 1);
  saves[0]();
  await settled();
  assert.equal(saves.length, 2, "the next one, with all that was done meanwhile");
  saves[1]();
  await settled();
  assert.equal(acks().at(-1), `${EPOCH} 41-7`);
  for (const save of saves) save();
});

test("a `resumed` that breaks the protocol changes nothing", async () => {
  await begun();
  const nonsense = [{ epoch: 7 }, { offset: 7 }, { offset: "x" }, { epoch: "" }, { offset: "1-1-1" }, { epoch: "a b" }];
  for (const wrong of nonsense) last().say({ type: "resumed", recovered: false, epoch: EPOCH, offset: "9-9", ...wrong });
  await messages("1-5");
  assert.deepEqual(got, ["1-5"]);
});

test("plain messages and durable ones share the order", async () => {
  const open = [];
  await begun({ onMessage: ({ content }) => { got.push(content); return new Promise((resolve) => open.push(resolve)); } });
  message("1-5");
  last().say({ type: "message", from: "bob", content: "plain" });
  last().say({ type: "message", from: "bob", content: "of a room", room: "lobby", offset: "9-9" });
  await settled();
  assert.deepEqual(got, ["1-5"]);
  open[0](); await settled(); open[1](); await settled(); open[2](); await settled();
  assert.deepEqual(got, ["1-5", "plain", "of a room"]);
  await clock.pass(1000);
  assert.equal(acks().at(-1), `${EPOCH} 1-5`, "the offset of a room is no place in an inbox");
});

test("the position is saved before the acknowledgement, and the next page goes on from it", async () => {
  const store = new Store();
  let saved;
  store.save = (position) => new Promise((resolve) => { saved = () => { store.position = position; resolve(); }; });
  await begun({ position: store });
  saved();
  await messages("1-5");
  await clock.pass(1000);
  assert.deepEqual(acks(), [`${EPOCH} 0-0`], "it is not saved yet");
  saved();
  await settled();
  assert.equal(acks().at(-1), `${EPOCH} 1-5`);
  await closed(client);
  assert.deepEqual(store.position, { epoch: EPOCH, offset: "1-5", user: "alice", device: "" });
  await begun({ position: new Store(store.position) }, { offset: "1-5" });
  assert.deepEqual(last().sent[0].resume, { epoch: EPOCH, offset: "1-5" });
});

test("a position that cannot be saved is told once and tried again; nothing is acknowledged meanwhile", async () => {
  const store = new Store(), { save } = store;
  store.save = async () => { throw new Error("full"); };
  await begun({ position: store });
  await messages("1-5");
  await clock.pass(5000);
  assert.deepEqual([told, acks()], [["position: position: full"], []]);
  store.save = save;
  await clock.pass(1000);
  assert.equal(acks().at(-1), `${EPOCH} 1-5`);
});

test("closing saves and acknowledges what is done, and gives nothing more", async () => {
  const store = new Store(), open = [];
  await begun({ position: store, onMessage: ({ content }) => { got.push(content); return new Promise((resolve) => open.push(resolve)); } });
  await messages("1-5", "2-6", "3-7");
  open[0](); await settled();
  await closed(client);
  assert.equal(store.position.offset, "1-5");
  assert.equal(acks().at(-1), `${EPOCH} 1-5`);
  open[1](); await settled();
  assert.deepEqual(got, ["1-5", "2-6"]);
  assert.equal(store.position.offset, "2-6", "it was done after all");
  client.start();
  await settled();
  assert.equal(last().sent.length, 0);
  await welcome({ offset: "2-6" });
  assert.deepEqual(last().sent[0].resume, { epoch: EPOCH, offset: "2-6" });
  await messages("3-7");
  assert.deepEqual(got, ["1-5", "2-6", "3-7"]);
  open[2]();
});

test("what the application fails to do is not done, and comes again after the next start", async () => {
  let fails = true;
  await begun({ onMessage: ({ content }) => { got.push(content); if (fails && content === "2-6") throw new Error("no room"); } });
  await messages("1-5", "2-6", "3-7");
  assert.deepEqual([client.state, told, got], ["closed", ["application: no room"], ["1-5", "2-6"]]);
  fails = false;
  client.start();
  await settled();
  await welcome({ offset: "1-5" });
  assert.deepEqual(last().sent[0].resume, { epoch: EPOCH, offset: "1-5" });
  await messages("2-6", "3-7");
  assert.deepEqual(got, ["1-5", "2-6", "2-6", "3-7"]);
});

test("the position of the current message can be saved together with its effect", async () => {
  const seen = [];
  await begun({ onMessage: () => { seen.push(client.position.offset); } });
  await messages("1-5", "2-6");
  assert.deepEqual(seen, ["1-5", "2-6"]);
  assert.equal(client.position.offset, "2-6");
});

test("a position that is none, or somebody else's, is refused", async () => {
  const mine = { epoch: EPOCH, offset: "1-5", user: "alice", device: "" };
  for (const [wrong, words] of [[{ user: "bob" }, /position of bob/], [{ device: "phone" }, /position of alice/], [{ offset: "x" }, /not a position/], [{ epoch: 7 }, /not a position/]]) {
    const started = made({ position: new Store({ ...mine, ...wrong }) }).start();
    await assert.rejects(started, words);
    assert.equal(Fake.made.length, 0);
  }
  assert.throws(() => new Client("alice", URLS, { position: new Store() }), TypeError);
});

test("a gateway that stores nothing is skipped; when none is left, the start is rejected", async () => {
  const started = made().start();
  await settled();
  last().register();
  await clock.pass(200);
  assert.equal(last().url, URLS[1]);
  assert.equal(client.state, "connecting");
  last().register();
  await assert.rejects(started, /stores no messages/);
});

test("a plain client ignores what is about an inbox", async () => {
  made({ durable: false }).start();
  await settled();
  last().register();
  last().say({ type: "resumed", recovered: false, epoch: EPOCH, offset: "0-0", last: "0-0" });
  await messages("1-5", "1-5");
  await clock.pass(1000);
  assert.deepEqual([got, acks()], [["1-5", "1-5"], []]);
  assert.deepEqual(Object.keys(last().sent[0]), ["type", "userId", "inst", "att"]);
});

test("a device has a name and a position of its own", async () => {
  const kept = new Map();
  globalThis.localStorage = { getItem: (key) => kept.get(key) ?? null, setItem: (key, text) => kept.set(key, text) };
  await begun({ device: "phone", position: localPosition("alice", "phone") });
  assert.equal(last().sent[0].device, "phone");
  await messages("1-5");
  await closed(client);
  assert.deepEqual([...kept.keys()], ["wsdemo.position:alice/phone"]);
  assert.equal(localPosition("alice", "phone").load().offset, "1-5");
  assert.equal(localPosition("alice").load(), null);
  delete globalThis.localStorage;
});

// --- sending -----------------------------------------------------------------------------------

const durable = (options) => client.send("bob", "x", { durable: true, ...options });
const sent = () => Fake.made.flatMap(({ sent }) => sent).filter(({ type }) => type === "message");

test("a durable message keeps its id over reconnects until it is stored", async () => {
  await begun();
  const receipt = durable();
  assert.equal(last().sent.at(-1).durable, true);
  assert.match(last().sent.at(-1).id, /^[0-9a-f]{16}-1$/);
  last().end(1006);
  await clock.pass(200);
  await welcome();
  await clock.pass(6000);
  last().say({ type: "ack", id: last().sent.at(-1).id, status: "busy" });
  await clock.pass(1000);
  last().say({ type: "ack", id: last().sent.at(-1).id, status: "duplicate" });
  assert.equal((await receipt).status, "duplicate");
  assert.ok(sent().length >= 4);
  assert.equal(new Set(sent().map(({ id }) => id)).size, 1);
  last().say({ type: "ack", id: (await receipt).id, status: "unknown" });
  assert.equal((await receipt).status, "duplicate", "the answer to a repetition changes nothing");
});

test("it is unknown only after its timeout, and busy when it was never sent", async () => {
  await begun();
  const silent = durable({ timeout: 12_000 });
  await clock.pass(11_999);
  assert.ok(sent().length >= 2);
  let done = false;
  silent.then(() => { done = true; });
  await settled();
  assert.equal(done, false);
  await clock.pass(1);
  assert.equal((await silent).status, "unknown");
  last().end(1006);
  const never = durable({ timeout: 50 });
  await clock.pass(50);
  assert.equal((await never).status, "busy");
});

test("a final answer, or the end of the client, ends it", async () => {
  await begun();
  for (const status of ["stored", "duplicate", "routed", "offline", "unreachable"]) {
    const receipt = durable();
    last().say({ type: "ack", id: last().sent.at(-1).id, status });
    assert.equal((await receipt).status, status);
  }
  const refused = durable();
  last().say({ type: "error", id: last().sent.at(-1).id, error: "This gateway stores no messages", code: "not_durable" });
  assert.equal((await refused).status, "refused");
  const open = durable();
  await closed(client);
  assert.equal((await open).status, "unknown");
  assert.equal(clock.waiting, 0);
  assert.equal((await durable()).status, "busy");
});

test("an id of the application names one message to one recipient", async () => {
  await begun();
  const first = durable({ id: "order-7" });
  assert.throws(() => durable({ id: "order-7" }), TypeError);
  last().say({ type: "ack", id: "order-7", status: "stored" });
  await first;
  assert.throws(() => client.send("carol", "x", { durable: true, id: "order-7" }), TypeError);
  const again = durable({ id: "order-7" });
  last().say({ type: "ack", id: "order-7", status: "duplicate" });
  assert.equal((await again).status, "duplicate");
});
