// Sequences that come and go in one session: each gets what it gets alone.

import { describe, expect, spyOn, test } from "bun:test";
import { join } from "node:path";
import { makeBatch } from "../../src/data/batch.ts";
import { IGNORE } from "../../src/data/sample.ts";
import {
  checkpointSource,
  GenerationSession,
  generate,
  Llama,
  loadForInference,
  type Sequence,
} from "../../src/model/index.ts";
import { chancesOf } from "../../src/model/token-chances.ts";
import type { Device } from "../../src/native/index.ts";
import { describeBackends } from "../backends.ts";
import { folder, readCase } from "../golden/support.ts";

function withModel(device: Device, name: string, use: (model: Llama) => void, maxTokens = 64): void {
  const model = Llama.load(device, checkpointSource(join(folder, "models", name)), {
    ...({ dtype: "f32", tune: "none", recompute: "none", maxTargets: 1, maxPosition: 128, seed: 1 } as const),
    maxTokens,
  });
  try {
    use(model);
  } finally {
    model.close();
  }
}

function inSession<T>(model: Llama, slots: number, use: (session: GenerationSession) => T): T {
  const session = new GenerationSession(model, { slots, capacity: 96 });
  try {
    return use(session);
  } finally {
    session.close();
  }
}

/** A model whose weights lie in one of the ways that products read. */
async function variant(device: Device, kind: "f32" | "bf16" | "NF4" | "an adapter, bf16"): Promise<Llama> {
  const sizes = { maxTokens: 64, maxTargets: 1, maxPosition: 128 };
  const name = kind === "NF4" ? "tiny-mha-nf4" : "tiny-gqa-bf16-sharded";
  const adapter = join(folder, (await readCase("tiny-gqa-bf16-sharded")).lora_train[0]!.adapter_final);
  return loadForInference(
    device,
    {
      dir: join(folder, "models", name),
      dtype: kind === "f32" ? "f32" : "bf16",
      quantization: null,
      adapter: kind === "an adapter, bf16" ? adapter : undefined,
    },
    sizes,
  );
}

const prompt = (length: number, seed = 7) =>
  Int32Array.from({ length }, (_, i) => (i * i * 31 + i * seed + seed) % 500);
const finished = (session: GenerationSession) => {
  while (!session.isIdle) session.step();
};
const greedy = { maxNewTokens: 12, eosIds: [] };

describeBackends((device) => {
  for (const name of ["tiny-gqa-bf16-sharded", "tiny-mistral-window", "tiny-qwen3"]) {
    test(`${name}: in company, as alone`, () => {
      withModel(device, name, (model) => {
        const prompts = [5, 21, 1, 33].map((length, i) => prompt(length, i + 3));
        const alone = prompts.map((ids) => [...generate(model, [ids], greedy)[0]!]);
        inSession(model, 3, (session) => {
          const all: Sequence[] = [];
          // One joins at every second step, as soon as there is room.
          for (let step = 0; all.length < prompts.length || !session.isIdle; step++) {
            if (step % 2 === 0 && all.length < prompts.length && session.freeSlots > 0)
              all.push(session.add(prompts[all.length]!, greedy));
            session.step();
          }
          expect(all.map(({ output }) => output)).toEqual(alone);
          expect(all.map(({ finishReason }) => finishReason)).toEqual([
            "length",
            "length",
            "length",
            "length",
          ]);
        });
      });
    });
  }

  test("a prompt that is longer than the model's buffers is read in chunks", () => {
    const ids = prompt(50);
    let whole: number[] = [];
    withModel(device, "tiny-gqa-bf16-sharded", (model) => {
      whole = [...generate(model, [ids], greedy)[0]!];
    });
    withModel(
      device,
      "tiny-gqa-bf16-sharded",
      (model) => {
        inSession(model, 2, (session) => {
          const other = session.add(prompt(3), greedy);
          session.step();
          const long = session.add(ids, greedy);
          session.step();
          expect(long.output).toEqual([]);
          expect(other.output.length).toBe(2); // it goes on meanwhile
          finished(session);
          expect(long.output).toEqual(whole);
        });
      },
      16,
    );
  });

  test("a sequence that begins as one before it reads only what is new", () => {
    withModel(device, "tiny-mistral-window", (model) => {
      inSession(model, 1, (session) => {
        const first = session.add(prompt(20), greedy);
        finished(session);
        const second = Int32Array.from([...first.prompt, ...first.output, 17, 18, 19]);
        const next = session.add(second, greedy);
        expect(next.cachedTokens).toBe(31); // all but the last new token, which was never read
        const read = spyOn(model, "forwardHidden");
        finished(session);
        // So few, as new tokens are: tiles would take as long as for a long prompt.
        expect(read.mock.calls.map(([{ tokens }, , rows]) => [tokens, rows])[0]).toEqual([4, "each"]);
        read.mockRestore();
        expect(next.output).toEqual([...generate(model, [second], greedy)[0]!]);
        // The same prompt again: its last token is read for its logits.
        const again = session.add(second, greedy);
        expect(again.cachedTokens).toBe(second.length - 1);
        finished(session);
        expect(again.output).toEqual(next.output);
        // Half of it: the rest is forgotten. So few tokens are read anew, in the way of short prompts.
        for (const [length, cached] of [
          [19, 18],
          [10, 0],
        ] as const) {
          const half = session.add(second.slice(0, length), greedy);
          expect(half.cachedTokens).toBe(cached);
          finished(session);
          expect(half.output).toEqual([...generate(model, [second.slice(0, length)], greedy)[0]!]);
        }
      });
    });
  });

  test("a short prompt that goes on from tokens that the model made is read anew", () => {
    withModel(device, "tiny-gqa-bf16-sharded", (model) => {
      inSession(model, 1, (session) => {
        const first = session.add(prompt(10), greedy);
        finished(session);
        const longer = Int32Array.from([...first.prompt, ...first.output.slice(0, 3), 17]);
        const next = session.add(longer, greedy);
        expect(next.cachedTokens).toBe(0);
        finished(session);
        // These were given.
        expect(session.add(Int32Array.from([...longer.subarray(0, 12), 18]), greedy).cachedTokens).toBe(12);
      });
    });
  });

  test.each([
    [6, 0],
    [7, 17],
  ])("a prompt goes on from 10 tokens and %d that the model made: %d are not read", (made, cached) => {
    withModel(device, "tiny-gqa-bf16-sharded", (model) => {
      inSession(model, 1, (session) => {
        const { output } = session.add(prompt(10), greedy);
        finished(session);
        const other = (output[made]! + 1) % 500;
        const next = Int32Array.from([...prompt(10), ...output.slice(0, made), other, 17]);
        expect(session.add(next, greedy).cachedTokens).toBe(cached);
      });
    });
  });

  test.each([
    [10, 10],
    [9, 0],
  ])("of 20 tokens that another sequence left behind, %d in common are worth %d", (common, cached) => {
    withModel(device, "tiny-gqa-bf16-sharded", (model) => {
      inSession(model, 2, (session) => {
        session.add(prompt(20), { ...greedy, maxNewTokens: 1 });
        finished(session);
        const next = prompt(20).map((id, i) => (i < common ? id : (id + 1) % 500));
        expect(session.add(next, greedy).cachedTokens).toBe(cached);
      });
    });
  });

  test("a conversation keeps its place when another one begins with some of the same tokens", () => {
    withModel(device, "tiny-gqa-bf16-sharded", (model) => {
      inSession(model, 2, (session) => {
        const first = session.add(prompt(40), greedy);
        finished(session);
        const other = session.add(
          Int32Array.from([...prompt(40).subarray(0, 20), ...prompt(20, 11)]),
          greedy,
        );
        finished(session);
        const next = session.add(Int32Array.from([...first.prompt, ...first.output, 17]), greedy);
        expect([other.cachedTokens, next.cachedTokens]).toEqual([0, 51]);
        finished(session);
      });
    });
  });

  test("a short prompt does not take the place of a long one that begins alike and of which it can use nothing", () => {
    withModel(device, "tiny-gqa-bf16-sharded", (model) => {
      inSession(model, 2, (session) => {
        const once = { ...greedy, maxNewTokens: 1 };
        const cachedOf = (ids: Int32Array) => {
          const { cachedTokens } = session.add(ids, once);
          finished(session);
          return cachedTokens;
        };
        expect(cachedOf(prompt(20))).toBe(0);
        expect(cachedOf(prompt(12))).toBe(0);
        // Both are there still; a short prompt uses the short one.
        expect(cachedOf(Int32Array.from([...prompt(20), 17]))).toBe(20);
        expect(cachedOf(Int32Array.from([...prompt(12), 17]))).toBe(12);
      });
    });
  });

  test("of much that is new behind a prefix, only that is read, beside others whose prompts begin", () => {
    withModel(
      device,
      "tiny-gqa-bf16-sharded",
      (model) => {
        inSession(model, 2, (session) => {
          const first = session.add(prompt(30), greedy);
          finished(session);
          const long = Int32Array.from([...first.prompt, ...prompt(50, 11)]);
          const next = session.add(long, greedy);
          expect(next.cachedTokens).toBe(30);
          const other = session.add(prompt(20, 3), greedy);
          session.step();
          expect([next, other].map(({ output }) => output.length)).toEqual([1, 1]);
          finished(session);
          expect(next.output).toEqual([...generate(model, [long], greedy)[0]!]);
          expect(other.output).toEqual([...generate(model, [other.prompt], greedy)[0]!]);
        });
      },
      96,
    );
  });

  test("each sequence is sampled by its own numbers", () => {
    withModel(device, "tiny-gqa-bf16-sharded", (model) => {
      const ids = prompt(9);
      const wishes = [
        { temperature: 0 },
        { temperature: 1.5, seed: 4 },
        { temperature: 1.5, seed: 5, topK: 20 },
        { temperature: 1.5, seed: 4, draw: 2 },
        { temperature: 0, repetitionPenalty: 1.8 },
      ].map((wish) => ({ ...greedy, ...wish }));
      const alone = wishes.map(({ draw = 0, ...wish }) => [
        ...generate(model, [ids], { ...wish, firstDraw: draw })[0]!,
      ]);
      expect(new Set(alone.map(String)).size).toBe(5);
      inSession(model, 5, (session) => {
        const all = wishes.map((wish, i) => {
          if (i === 3) session.step(); // the last two are behind
          return session.add(ids, wish);
        });
        finished(session);
        expect(all.map(({ output }) => output)).toEqual(alone);
      });
    });
  });

  for (const kind of ["f32", "bf16", "NF4", "an adapter, bf16"] as const)
    test(`${kind}: the bits that a sequence gets are its own, whatever joins and leaves and was before`, async () => {
      const model = await variant(device, kind);
      const options = { maxNewTokens: 6, eosIds: [], logprobs: 3 };
      // The emulator is slow.
      const [count, rooms] = device.isHost
        ? [
            26,
            [
              [20, 17],
              [11, 9],
              [3, 1],
            ],
          ]
        : [9, [[9, 8]]];
      const jobs = Array.from({ length: count }, (_, i) => ({
        prompt: prompt([5, 40, 1, 17, 9, 90, 16, 26, 12][i % 9]!, 3 + i),
        options: { ...options, maxNewTokens: 2 + (i % 5), promptLogprobs: i % 4 === 1 },
      }));
      const bits = ({ output, chances, promptChances }: Sequence) => ({ output, chances, promptChances });
      const alone = jobs.map(({ prompt: ids, options: wish }) =>
        inSession(model, 1, (session) => {
          const sequence = session.add(ids, wish);
          finished(session);
          return bits(sequence);
        }),
      );
      try {
        for (const [slots, first] of rooms as [number, number][])
          inSession(model, slots, (session) => {
            const all: Sequence[] = [];
            const add = () => {
              const job = jobs[all.length]!;
              all.push(session.add(job.prompt, job.options));
            };
            while (all.length < first) add();
            while (all.length < jobs.length || !session.isIdle) {
              if (all.length < jobs.length && session.freeSlots > 0) add();
              session.step();
            }
            expect(all.map(bits)).toEqual(alone);
          });
        // Once more, and others that begin alike: what is in the cache already is as if read anew.
        inSession(model, 1, (session) => {
          const long = prompt(50);
          const shared = Int32Array.from([...long.subarray(0, 30), ...prompt(20, 11)]);
          const chances = [long, long, shared, long.slice(0, 33)].map((ids) => {
            const sequence = session.add(ids, options);
            finished(session);
            return { ...bits(sequence), cached: sequence.cachedTokens };
          });
          expect(chances.map(({ cached }) => cached)).toEqual([0, 49, 30, 30]);
          for (const [i, ids] of [long, long, shared, long.slice(0, 33)].entries())
            inSession(model, 1, (anew) => {
              const sequence = anew.add(ids, options);
              finished(anew);
              expect({ ...bits(sequence), cached: chances[i]!.cached }).toEqual(chances[i]!);
            });
        });
      } finally {
        model.close();
      }
    });

  test("log probabilities, of the prompt too", () => {
    withModel(device, "tiny-gqa-bf16-sharded", (model) => {
      const ids = prompt(30);
      inSession(model, 1, (session) => {
        const options = { maxNewTokens: 3, eosIds: [], logprobs: 2, promptLogprobs: true };
        const sequence = session.add(ids, options);
        finished(session);
        const all = [...ids, ...sequence.output];
        const chances = [...sequence.promptChances, ...sequence.chances];
        expect(chances.length).toBe(all.length - 1);
        const batch = makeBatch(
          [{ ids: Int32Array.from(all), labels: new Int32Array(all.length).fill(IGNORE), truncated: false }],
          {
            packing: true,
          },
        );
        const rows = Int32Array.from({ length: all.length - 1 }, (_, i) => i);
        const logits = model.logits(batch, rows);
        const V = model.config.vocabSize;
        for (const [i, { logprob, top }] of chances.entries()) {
          const want = chancesOf(logits.subarray(i * V, (i + 1) * V), all[i + 1]!, 2);
          expect(Math.abs(logprob - want.logprob)).toBeLessThan(1e-4);
          expect(top.map(({ id }) => id)).toEqual(want.top.map(({ id }) => id));
        }
        // Only the prompt's.
        const scored = session.add(ids, { ...options, maxNewTokens: 0 });
        finished(session);
        expect(scored.output).toEqual([]);
        expect(scored.promptChances).toEqual(sequence.promptChances);
      });
    });
  });

  test("EOS and the owner end a sequence; its slot is free at once", () => {
    withModel(device, "tiny-qwen2-tied-bf16", (model) => {
      const ids = prompt(6);
      const plain = [...generate(model, [ids], greedy)[0]!];
      inSession(model, 1, (session) => {
        const stopped = session.add(ids, { ...greedy, eosIds: [plain[2]!] });
        finished(session);
        const end = plain.indexOf(plain[2]!) + 1;
        expect([stopped.output, stopped.finishReason]).toEqual([plain.slice(0, end), "stop"]);
        const own: Sequence = session.add(ids, {
          ...greedy,
          onToken: () => {
            if (own.output.length === 4) session.remove(own);
          },
        });
        finished(session);
        expect([own.output, own.finishReason]).toEqual([plain.slice(0, 4), "stop"]);
        expect(session.freeSlots).toBe(1);
      });
    });
  });

  test("refused: no room, too long, nothing to begin with", () => {
    withModel(device, "tiny-mha-f32", (model) => {
      inSession(model, 1, (session) => {
        expect(() => session.add(new Int32Array(0), greedy)).toThrow("a prompt is empty");
        expect(() => session.add(prompt(90), greedy)).toThrow("more than the 96 that fit");
        session.add(prompt(5), greedy);
        expect(() => session.add(prompt(5), greedy)).toThrow("all 1 sequences that fit at once are in use");
      });
      const huge = () => new GenerationSession(model, { slots: 2 ** 20, capacity: 2 ** 20 });
      expect(huge).toThrow(
        /keys and values of 1048576 sequences of up to 1048576 tokens need .* GiB, .* free/,
      );
    });
  });
});

describe("log probabilities of a row", () => {
  test("sum to one, equals in order of their ids, no more than asked for", () => {
    const logits = Float32Array.of(1, 3, 3, -2, 1000);
    const { logprob, top } = chancesOf(Float32Array.of(1, 3, 3, -2), 0, 3);
    const total = [0, 1, 2, 3].reduce(
      (sum, id) => sum + Math.exp(chancesOf(Float32Array.of(1, 3, 3, -2), id, 0).logprob),
      0,
    );
    expect(total).toBeCloseTo(1, 12);
    expect(top.map(({ id }) => id)).toEqual([1, 2, 0]);
    expect(top[2]!.logprob).toBe(logprob);
    expect(chancesOf(logits, 4, 1)).toEqual({ logprob: 0, top: [{ id: 4, logprob: 0 }] });
    expect(chancesOf(logits, 4, 9).top.length).toBe(5);
  });
});
