// The list of what happened: is it told in words, and are thirty lines of the same one line?
import assert from "node:assert/strict";
import { test } from "node:test";

import { initial } from "../../wsdemo/lab/classroom/static/model.js";
import { Lines, severity, words } from "../../wsdemo/lab/classroom/static/words.js";

const state = () => ({ ...initial(), users: { ann: { name: "Ann", kind: "student" }, bob: { name: "Bob", kind: "student" }, cy: { name: "Cy", kind: "student" }, user001: { name: "user001", kind: "crowd" } } });
const told = (entries) => {
  const lines = new Lines(), texts = new Map();
  for (const entry of entries) { const line = lines.add(entry, state()); if (line) texts.set(line.id, line.text); }
  return [...texts.values()];
};

test("moves that come together are one line, which grows", () => {
  const moved = (u, t) => ({ k: "set", t, u, g: "gateway-02", p: "gateway-01" });
  assert.deepEqual(told([moved("ann", 1), moved("bob", 1.2)]), ["Ann and Bob moved from gateway-01 to gateway-02"]);
  assert.deepEqual(told([moved("ann", 1), moved("bob", 1.2), moved("cy", 1.3)]), ["Ann, Bob and 1 more moved from gateway-01 to gateway-02"]);
  assert.equal(told([moved("ann", 1), moved("bob", 9)]).length, 2);
});

test("moves and what was seen of them come interleaved, and are two lines", () => {
  const entries = ["ann", "bob"].flatMap((u, i) => [{ k: "set", t: i, u, g: "gateway-02", p: "gateway-01" }, { k: "saw", t: i, u, c: 1006, s: 0.9 + i }]);
  assert.deepEqual(told(entries), ["Ann and Bob moved from gateway-01 to gateway-02", "2 were closed with 1006; back after 0.9 to 1.9 s"]);
});

test("a refusal says whose the entry was, as the lab has said", () => {
  const refused = (r) => words({ k: "rej", g: "gateway-01", u: "ann", r }, "Ann");
  assert.match(refused("other owner"), /refused, not the owner/);
  assert.match(refused("no entry"), /gone already/);
  assert.match(refused("superseded"), /refused, superseded/);
  assert.deepEqual(["other owner", "no entry"].map((r) => severity({ k: "rej", r })), ["saved", ""]);
});

test("of simulated users only what is rare is told", () => {
  assert.deepEqual(told([{ k: "set", t: 1, u: "user001", g: "gateway-01" }]), []);
  assert.equal(told([{ k: "rej", t: 1, u: "user001", g: "gateway-01", r: "other owner" }]).length, 1);
  assert.equal(told([{ k: "del", t: 1, u: "user001", g: "gateway-01", erased: "gateway-02" }]).length, 1);
});

test("a message that arrived is not told, one that did not is", () => {
  const sent = (s) => told([{ k: "msg", t: 1, u: "ann", v: "bob", g: "gateway-01", s }]);
  assert.deepEqual([sent("routed"), sent("local"), sent("offline")], [[], [], ["Ann to Bob: offline"]]);
});

test("a kind that it does not know is not told", () => {
  assert.deepEqual(told([{ k: "of a later version", t: 1 }]), []);
});
