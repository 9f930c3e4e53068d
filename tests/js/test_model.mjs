// The state of a board: is any moment, reached by a checkpoint, what a replay from the start gives?
// Run by tests/lab/classroom/test_pages.py: `RUN=batches.json node --test tests/js/test_model.mjs`.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { Run, agreement, apply, initial, redisAnswers } from "../../wsdemo/lab/classroom/static/model.js";
import { batches } from "./batches.mjs";

const SEEDS = [1, 2, 3];
const run = (all, options) => { const made = new Run(options); for (const batch of all) made.add(batch); return made; };

// At every entry: a replay, and the checkpoint's way, lead to the same state.
function agreesAtEveryEntry(made, every = 1) {
  const state = made.first ? made.after(made.first) : initial();
  for (let i = made.first; i <= made.total; i++) {
    if (i > made.first) apply(state, made.entry(i - 1));
    if (i % every === 0 || i === made.total) assert.deepEqual(made.after(i), state, `after ${i} of ${made.total}`);
  }
  assert.deepEqual(made.head, state);
}

for (const seed of SEEDS) {
  test(`random batches of seed ${seed}: every moment agrees with a replay`, () => {
    const made = run(batches(seed, { seconds: 60, students: 6, crowd: 6, accidents: 0.3 }));
    assert.ok(made.total > 1000);
    assert.ok(made._checkpoints.length > 2);
    agreesAtEveryEntry(made);
  });

  test(`random batches of seed ${seed}: what is left after the oldest were dropped agrees with the whole`, () => {
    const all = [...batches(seed, { seconds: 120, students: 6, crowd: 6, accidents: 0.2 })];
    const whole = run(all, { kept: Infinity }), made = run(all, { kept: 800 });
    assert.ok(made.first > 0, "something was dropped");
    assert.equal(made.total, whole.total);
    assert.ok(made._rows <= 800 * 1.5, `${made._rows} rows are kept`);
    for (let i = made.first; i <= made.total; i += 7) assert.deepEqual(made.after(i), whole.after(i));
    assert.deepEqual(made.head, whole.head);
    assert.equal(made.begin, whole.after(made.first).t);
    assert.equal(made.count(made.end), made.total);
    assert.ok(made.marks.every(({ t }) => t >= made.begin));
    agreesAtEveryEntry(made, 5);
  });
}

test("a recorded run: every moment agrees with a replay", { skip: !process.env.RUN && "no recorded run was given" }, () => {
  const recorded = JSON.parse(readFileSync(process.env.RUN, "utf8"));
  const made = run(recorded);
  assert.ok(made.total > 10);
  agreesAtEveryEntry(made);
  const before = made.head.t;
  made.add({ type: "batch", t: before + 1, e: [{ k: "of a later version", t: before + 1 }] });
  assert.equal(made.head.t, before + 1);
});

test("checkpoints become fewer, not more: their number is bounded", () => {
  const made = run(batches(5, { seconds: 2700, students: 10, accidents: 0.3 }));
  assert.ok(made.total > 120 * 250);
  assert.ok(made._checkpoints.length <= 61);
  const gaps = made._checkpoints.slice(1).map(({ at }, i) => at - made._checkpoints[i].at);
  assert.ok(Math.max(...gaps) <= 2.1 * Math.min(...gaps), `equally far apart: ${gaps}`);
  agreesAtEveryEntry(made, 997);
});

test("entries are in the order of their times, and a time is found again", () => {
  const made = run(batches(4, { seconds: 30, accidents: 0.3 }));
  for (let i = 1; i < made.total; i++) assert.ok(made.entry(i).t >= made.entry(i - 1).t);
  for (const t of [0, 3.14, 10, 29.9]) {
    const n = made.count(t);
    assert.ok(n === 0 || made.entry(n - 1).t <= t);
    assert.ok(n === made.total || made.entry(n).t > t);
  }
});

test("while Redis is away, nothing is known of anybody", () => {
  const set = { k: "set", t: 1, u: "ann", g: "gateway-01", c: "c1", x: 16 };
  for (const away of [[{ k: "redis_down", t: 2 }], [{ k: "freeze", t: 2, g: "redis" }], [{ k: "beliefs_unknown", t: 2 }]]) {
    const made = run([{ t: 1, e: [set] }]);
    assert.equal(agreement(made.head, "ann", "gateway-01"), "ok");
    made.add({ t: 2, e: away });
    assert.equal(redisAnswers(made.head), false);
    assert.equal(agreement(made.head, "ann", "gateway-01"), "unknown");
    made.add({ t: 3, e: [{ k: "redis_up", t: 3 }, { k: "beliefs_known", t: 3 }] });
    assert.equal(redisAnswers(made.head), true);
    assert.equal(agreement(made.head, "ann", "gateway-01"), "nobody");
  }
});

test("a lease that has ended is no word of Redis", () => {
  const made = run([{ t: 1, e: [{ k: "set", t: 1, u: "ann", g: "gateway-01", c: "c1", x: 16 }] }, { t: 15.9 }]);
  const state = made.after(made.total);
  state.t = 15.9;
  assert.equal(agreement(state, "ann", "gateway-02"), "elsewhere");
  state.t = 16;
  assert.equal(agreement(state, "ann", "gateway-01"), "nobody");
});

test("who erased whose entry: only where nothing refuses it, and only of somebody who is connected", () => {
  const moved = [{ k: "set", t: 1, u: "ann", g: "gateway-01", c: "c1", x: 16 }, { k: "set", t: 2, u: "ann", g: "gateway-02", c: "c2", x: 17 },
    { k: "close", t: 3, u: "ann", g: "gateway-01", c: "c1" }, { k: "del", t: 4, u: "ann", g: "gateway-01", c: "c1" }];
  const last = (made) => made.entry(made.total - 1);
  assert.equal(last(run([{ t: 4, e: moved }])).erased, "gateway-02");
  assert.deepEqual(run([{ t: 4, e: moved }]).marks.map(({ kind }) => kind), ["erased"]);
  assert.equal(last(run([{ t: 4, e: moved }], { fenced: true })).erased, undefined);
  assert.equal(last(run([{ t: 4, e: [moved[0], moved[3]] }])).erased, undefined);
});

test("a refusal is a rescue only if the entry was another's", () => {
  const refused = (r) => run([{ t: 1, e: [{ k: "rej", t: 1, u: "ann", g: "gateway-01", c: "c1", r }] }]).marks.length;
  assert.deepEqual(["other owner", "no entry", "superseded"].map(refused), [1, 0, 0]);
});

test("what has happened before a board came is no news: it is neither marked nor told", async () => {
  const { Lines } = await import("../../wsdemo/lab/classroom/static/words.js");
  const again = [{ k: "cut", t: 9 }, { k: "crash", t: 9, g: "gateway-01", again: true }];
  const made = run([{ t: 9, e: again, b: [["ann", "gateway-02", "c", 20]] }]);
  assert.equal(made.begin, 9);
  assert.deepEqual(made.marks, []);
  assert.equal(made.head.gateways["gateway-01"], "crashed");
  assert.equal(new Lines().add(made.entry(1), made.head), null);
});

test("a user may have the name of something that every object has", () => {
  for (const u of ["constructor", "toString", "__proto__"]) {
    const state = apply(initial(), { k: "ready", t: 0, g: "gateway-01" });
    assert.equal(agreement(state, u, "gateway-01"), "nobody");
    apply(state, { k: "set", t: 1, u, g: "gateway-01", c: "c1", x: 9 });
    assert.deepEqual(state.users[u], { name: u, kind: "lab" });
    assert.equal(agreement(state, u, "gateway-01"), "ok");
    apply(state, { k: "del", t: 2, u, g: "gateway-01", c: "c1" });
    assert.equal(agreement(state, u, "gateway-01"), "nobody");
  }
});
