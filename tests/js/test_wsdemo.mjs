// Reconnection in the browser: does wsdemo.js keep the rules of the Python client?
// Run by tests/client/test_browser_client.py: `node --test tests/js/test_wsdemo.mjs`.
import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";

import { Clock, Fake, settled } from "./clock.mjs";

const clock = new Clock();
const { Client, retryAfterMs, shouldReconnect } = await import("../../wsdemo/client/wsdemo.js");
const URLS = ["ws://a/ws", "ws://b/ws"];

let states, client;
const made = (options = {}) => {
  states = [];
  client = new Client("alice", URLS, { WebSocket: Fake, onState: (state, why) => states.push([state, why]), ...options });
  return client;
};
const last = () => Fake.made.at(-1);

// A client that is registered at the first gateway.
async function registered(options) {
  made(options).start();
  await settled();
  last().register();
  return client;
}

// `close` waits for the gateway at most a second; virtual time must pass for it.
const closed = async (who) => { const done = who.close(); await clock.pass(1000); await done; };

beforeEach(() => { Fake.made.length = 0; });
afterEach(async () => { if (client) await closed(client); client = null; });

test("it registers with its instance and the number of the attempt", async () => {
  await registered();
  const [hello] = last().sent;
  assert.deepEqual(Object.keys(hello), ["type", "userId", "inst", "att"]);
  assert.equal(hello.att, 1);
  assert.match(hello.inst, /^[0-9a-f]{16}$/);
  assert.equal(client.state, "registered");
  assert.equal(client.gatewayId, "gateway-01");
});

test("a token is shown, and a function is asked for one at each attempt", async () => {
  let n = 0;
  await registered({ token: async () => `token-${++n}` });
  assert.equal(last().sent[0].token, "token-1");
  last().end(1012);
  await clock.pass(5000);
  last().open();
  assert.equal(last().sent[0].token, "token-2");
});

test("a token that was good and has ended is asked for again; a refused one is not", async () => {
  await registered({ token: () => "t" });
  last().end(4504);
  await clock.pass(200);
  assert.equal(client.state, "reconnecting");
  last().open();
  last().end(4504);
  assert.equal(client.state, "closed");
});

test("after 4509 it stays closed until a person asks", async () => {
  await registered();
  last().end(4509, "replaced by a newer session");
  await clock.pass(60_000);
  assert.equal(client.state, "closed");
  assert.equal(Fake.made.length, 1);
  assert.equal(states.at(-1)[1].code, 4509);
  client.start();
  await settled();
  last().register("gateway-02");
  assert.equal(client.state, "registered");
  assert.equal(last().sent[0].att, 2);
});

test("`start` is rejected when a gateway forbids it", async () => {
  made();
  const started = client.start();
  await settled();
  last().open();
  last().end(4513);
  await assert.rejects(started, /4513/);
});

test("the next attempt goes to the next gateway, after a pause below the ceiling", async () => {
  await registered();
  last().end(1006);
  const pauses = [];
  for (let failures = 0; failures < 9; failures++) {
    pauses.push(states.at(-1)[1].pauseMs);
    assert.ok(pauses.at(-1) <= Math.min(5000, 100 * 2 ** failures), `${pauses}`);
    await clock.pass(pauses.at(-1));
    assert.equal(last().url, URLS[(failures + 1) % 2]);
    last().end(1006);
  }
  assert.ok(new Set(pauses).size > 5, "the pauses are random");
});

test("the ceiling of the pause doubles with each failure, up to the cap, and a registration resets it", async () => {
  const { random } = Math;
  try {
    Math.random = () => 1;
    await registered();
    const pauses = [];
    for (let i = 0; i < 9; i++) {
      last().end(1006);
      pauses.push(states.at(-1)[1].pauseMs);
      await clock.pass(pauses.at(-1));
    }
    assert.deepEqual(pauses, [100, 200, 400, 800, 1600, 3200, 5000, 5000, 5000]);
    last().register();
    last().end(1006);
    assert.equal(states.at(-1)[1].pauseMs, 100);
  } finally {
    Math.random = random;
  }
});

test("the pause is never shorter than the gateway asks", async () => {
  await registered();
  last().end(1012, "service restart; retryAfterMs=1500");
  const { pauseMs } = states.at(-1)[1];
  assert.ok(pauseMs >= 1500 && pauseMs <= 1600);
  await clock.pass(1499);
  assert.equal(Fake.made.length, 1);
});

test("a `bye` says what a lost code would have said", async () => {
  await registered();
  last().say({ type: "bye", code: 1012, retryAfterMs: 700 });
  last().end(1002);
  const [state, why] = states.at(-1);
  assert.deepEqual([state, why.code, why.reason], ["reconnecting", 1012, "service restart"]);
  assert.ok(why.pauseMs >= 700);
});

test("a gateway that does not answer is left after the deadline", async () => {
  made().start();
  await clock.pass(4999);
  assert.equal(Fake.made.length, 1);
  await clock.pass(1 + 200);
  assert.equal(Fake.made.length, 2);
  last().open();
  await clock.pass(7999);
  assert.equal(Fake.made.length, 2);
  await clock.pass(1 + 400);
  assert.equal(Fake.made.length, 3);
});

test("heartbeats go out in the gateway's interval, and an answer keeps the connection", async () => {
  await registered();
  for (let i = 0; i < 200; i++) {
    await clock.pass(250);
    if (last().sent.at(-1).type === "ping") last().say({ type: "pong" });
  }
  const pings = last().sent.filter(({ type }) => type === "ping").length;
  assert.ok(pings >= 11 && pings <= 13, `${pings} in 50 s at one in 4 s`);
  assert.equal(Fake.made.length, 1);
});

test("without an answer for half a heartbeat, the connection is dead", async () => {
  await registered();
  while (last().sent.at(-1).type !== "ping") await clock.pass(250);
  await clock.pass(2000);
  assert.equal(client.state, "registered");
  await clock.pass(250);
  assert.equal(client.state, "reconnecting");
  assert.equal(states.at(-1)[1].code, 1006);
  assert.equal(Fake.made[0].onmessage, null);
});

test("also where heartbeats are more frequent than the patience is long", async () => {
  await registered();
  last().end(1006);
  await clock.pass(100);
  last().register("gateway-02", 500);
  await clock.pass(2000);
  assert.equal(states.at(-1)[0], "reconnecting");
});

test("a page that stood still asks again before it judges", async () => {
  await registered();
  while (last().sent.at(-1).type !== "ping") await clock.pass(250);
  const before = last().sent.length;
  clock.standStill(60_000);
  await clock.pass(250);
  assert.equal(client.state, "registered");
  assert.equal(last().sent.length, before + 1);
  last().say({ type: "pong" });
  await clock.pass(3000);
  assert.equal(client.state, "registered");
});

test("there is at most one connection, also while it moves", async () => {
  await registered();
  const moving = client.move("ws://c/ws");
  assert.equal(states.at(-1)[1].moved, true);
  assert.equal(Fake.made[0].closedWith, 1000);
  assert.equal(Fake.made.length, 1, "the old one has not said goodbye");
  Fake.made[0].end(1000);
  await moving;
  await settled();
  assert.equal(last().url, "ws://c/ws");
  last().register("gateway-03");
  assert.equal(client.gatewayId, "gateway-03");
});

test("a gateway that does not say goodbye holds up a move for a second only", async () => {
  await registered();
  client.move("ws://b/ws");
  await clock.pass(999);
  assert.equal(Fake.made.length, 1);
  await clock.pass(1);
  assert.equal(Fake.made.length, 2);
});

test("each answer has its status, and a late one corrects the receipt", async () => {
  const told = [];
  await registered({ onReceipt: ({ status }) => told.push(status) });
  const answers = [["ack", { status: "routed" }], ["ack", { status: "offline" }], ["ack", { status: "busy" }],
    ["error", { error: "User not found", code: "offline" }], ["error", { error: "Message too large", code: "too_large" }]];
  const receipts = [];
  for (const [type, more] of answers) {
    const sent = client.send("bob", "x");
    const { id } = last().sent.at(-1);
    clock.standStill(12);
    last().say({ type, id, ...more });
    receipts.push(await sent);
  }
  assert.deepEqual(receipts.map(({ status }) => status), ["routed", "offline", "busy", "offline", "refused"]);
  assert.equal(receipts[0].ms, 12);
  last().say({ type: "ack", id: receipts[0].id, status: "unreachable" });
  assert.equal(receipts[0].status, "unreachable");
  assert.equal(told.at(-1), "unreachable");
  last().say({ type: "ack", id: receipts[0].id, status: "of a later version" });
  assert.equal(receipts[0].status, "unreachable");
});

test("a message waits for a connection: `busy` when none came, `unknown` when it was lost on the way", async () => {
  made().start();
  await settled();
  const early = client.send("bob", "1"), second = client.send("bob", "2");
  await clock.pass(5000);
  assert.deepEqual([(await early).status, (await second).status], ["busy", "busy"]);
  const inTime = [client.send("bob", "3"), client.send("bob", "4")];
  await clock.pass(300);
  last().register();
  assert.deepEqual(last().sent.slice(1).map(({ content }) => content), ["3", "4"]);
  const more = client.send("bob", "now");
  assert.deepEqual(last().sent.slice(1).map(({ content }) => content), ["3", "4", "now"], "each is sent once");
  last().end(1006);
  assert.equal((await more).status, "unknown");
  for (const sent of inTime) assert.equal((await sent).status, "unknown");
  const silent = client.send("bob", "5");
  await clock.pass(200);
  last().register();
  await clock.pass(1);
  await clock.pass(5000);
  assert.equal((await silent).status, "unknown");
});

test("half a character is refused here: a gateway could not say which message it was", async () => {
  await registered();
  assert.equal((await client.send("bob", "\ud83d")).status, "refused");
  assert.equal(last().sent.length, 1);
});

test("`close` ends everything: nothing runs, nobody waits", async () => {
  await registered();
  const sent = client.send("bob", "1");
  await closed(client);
  assert.equal((await sent).status, "unknown");
  assert.equal((await client.send("bob", "2")).status, "busy");
  assert.equal(clock.waiting, 0);
  assert.equal(Fake.made[0].closedWith, 1000);
});

test("how long it was away is measured from the loss to the next registration", async () => {
  await registered();
  last().end(1006);
  await clock.pass(100);
  last().end(1006);
  await clock.pass(1000);
  last().register();
  const [state, why] = states.at(-1);
  assert.equal(state, "registered");
  assert.equal(why.awayMs, 1100);
});

test("what is no JSON, or of a later version, changes nothing", async () => {
  await registered();
  last().onmessage({ data: "{" });
  last().onmessage({ data: "null" });
  last().say({ type: "weather" });
  assert.equal(client.state, "registered");
});

test("codes that no table has: 45xx to 49xx forbid it, all others do not", () => {
  for (const [code, again] of [[1006, true], [1005, true], [4000, true], [4499, true], [4500, false], [4999, false], [5000, true]]) {
    assert.equal(shouldReconnect(code), again, `${code}`);
  }
  assert.equal(retryAfterMs("service restart; retryAfterMs=1500"), 1500);
  assert.equal(retryAfterMs("retryAfterMs=15x"), 0);
  assert.equal(retryAfterMs("retryAfterMs=12345678"), 0);
});

test("addresses that cannot work are refused at once", () => {
  assert.throws(() => new Client("a", []), TypeError);
  assert.throws(() => new Client("a", "http://a/"), TypeError);
  assert.throws(() => new Client("a", "nowhere"), TypeError);
});
