// AdamW's moments in memory: their size, and what of them is a tensor of its own.

import { expect, test } from "bun:test";
import { OptimizerState, stateTensorsOf } from "../../src/model/optimizer-state.ts";
import { wholePiece } from "../../src/model/parameter-tensor.ts";
import { Parameters, place } from "../../src/model/parameters.ts";
import { type Allocator, Arena, type Device, MemoryPlan } from "../../src/native/index.ts";
import { describeBackends } from "../backends.ts";

const options = {
  learningRate: 1e-2,
  beta1: 0.9,
  beta2: 0.95,
  epsilon: 1e-8,
  weightDecay: 0.1,
  step: 1,
};

const specs = [
  { name: "whole", shape: [64, 64] },
  { name: "small", shape: [63, 65] },
  { name: "uneven", shape: [67, 101] },
  { name: "next", shape: [17, 256] },
  { name: "norm", shape: [300] },
];

function make(device: Device, optimizer: "adamw" | "adamw8bit", parts = specs) {
  const trained = [{ name: "weights" as const, specs: parts }];
  const plan = new MemoryPlan();
  new Parameters(device, plan, trained, "bf16", true, optimizer);
  const arena = new Arena(device, plan.total);
  const parameters = new Parameters(device, arena, trained, "bf16", true, optimizer);
  for (const { name, size } of parameters.tensors)
    parameters.write(
      name,
      Float32Array.from({ length: size }, (_, i) => Math.sin(i)),
    );
  device.fill(parameters.gradients, 0);
  parameters.initialize(0);
  return { parameters, arena };
}

const gradientOf = (n: number, t: number) =>
  Float32Array.from({ length: n }, (_, i) => Math.sin(i * t + 1) / (1 + (i % 9)));

function steps(device: Device, parameters: Parameters): void {
  for (let step = 1; step <= 3; step++) {
    for (const { name, size } of parameters.tensors)
      device.write(parameters.gradient(name), gradientOf(size, step));
    parameters.startGradientNorm(0)();
    parameters.adamwStep({ ...options, step });
  }
}

/** LoRA's matrices of rank r on a device that lays them out to `wide` columns. */
const loraTensors = (r: number, wide: number) =>
  place([
    {
      name: "lora",
      specs: [
        { name: "q.lora_A.weight", shape: [r, 1024], laid: [wide, 1024] },
        { name: "q.lora_B.weight", shape: [1024, r], laid: [1024, wide] },
      ],
    },
  ]);

test("LoRA's moments have the same type and the user's shapes however a device lays them out", () => {
  const first = (r: number, wide: number) =>
    stateTensorsOf(loraTensors(r, wide), "adamw8bit")
      .filter(({ moment }) => moment === "m")
      .map(({ name, dtype, shape }) => ({ name, dtype, shape }));
  const floats = [
    { name: "m.q.lora_A.weight", dtype: "F32", shape: [12, 1024] },
    { name: "m.q.lora_B.weight", dtype: "F32", shape: [1024, 12] },
  ] as const;
  expect(first(12, 12)).toEqual([...floats]);
  expect(first(12, 16)).toEqual([...floats]);
  expect(first(16, 16).map(({ dtype }) => dtype)).toEqual(["U8", "F32", "U8", "F32"]);
  // 3,072 values in a matrix of 8,192.
  expect(first(3, 8)).toEqual(first(3, 3));
});

describeBackends((device) => {
  test("moments of a rank laid out wider are read and written in the user's shapes", () => {
    const tensors = loraTensors(12, 16);
    const plan = new MemoryPlan();
    const make = (allocator: Allocator) =>
      new OptimizerState(device, allocator, tensors.map(wholePiece), "adamw8bit");
    make(plan);
    const arena = new Arena(device, plan.total);
    const state = make(arena);
    state.clear();
    for (const { name } of state.tensors) {
      const values = gradientOf(12 * 1024, 1);
      state.write(name, new Uint8Array(values.buffer));
      expect(new Float32Array(state.read(name).buffer)).toEqual(values);
    }
    arena.free();
  });

  test("8-bit moments take a quarter of the memory", () => {
    const tensors = [
      {
        name: "w",
        part: "weights" as const,
        shape: [4096, 1024],
        laid: [4096, 1024],
        offset: 0,
        size: 2 ** 22,
        decay: true,
      },
    ];
    const bytes = (optimizer: "adamw" | "adamw8bit") => {
      const plan = new MemoryPlan();
      new OptimizerState(device, plan, tensors.map(wholePiece), optimizer);
      return plan.bytes.trained;
    };
    expect(bytes("adamw")).toBe(8 * 2 ** 22);
    expect(bytes("adamw8bit") / bytes("adamw")).toBeCloseTo(0.25 + 1 / 256, 4);
  });

  test("each tensor of 4,096 values or more has codes and blocks of its own", () => {
    const { parameters, arena } = make(device, "adamw8bit");
    const first = parameters.stateTensors.filter(({ name }) => name.startsWith("m."));
    expect(first).toEqual([
      { name: "m.whole", dtype: "U8", shape: [64, 64] },
      { name: "m.whole.absmax", dtype: "F32", shape: [16] },
      { name: "m.small", dtype: "F32", shape: [63, 65] },
      { name: "m.uneven", dtype: "U8", shape: [67, 101] },
      { name: "m.uneven.absmax", dtype: "F32", shape: [27] },
      { name: "m.next", dtype: "U8", shape: [17, 256] },
      { name: "m.next.absmax", dtype: "F32", shape: [17] },
      { name: "m.norm", dtype: "F32", shape: [300] },
    ]);
    expect(parameters.stateTensors.slice(first.length).map(({ name }) => name)).toEqual(
      first.map(({ name }) => name.replace("m.", "v.")),
    );
    arena.free();
  });

  test("tensors side by side are stepped as each would be alone; states are read and written", () => {
    const { parameters, arena } = make(device, "adamw8bit");
    steps(device, parameters);
    for (const spec of specs) {
      const alone = make(device, "adamw8bit", [spec]);
      steps(device, alone.parameters);
      expect(parameters.read(spec.name)).toEqual(alone.parameters.read(spec.name));
      for (const { name } of alone.parameters.stateTensors)
        expect(parameters.readState(name)).toEqual(alone.parameters.readState(name));
      alone.arena.free();
    }
    const copy = make(device, "adamw8bit");
    for (const { name } of parameters.stateTensors)
      copy.parameters.writeState(name, parameters.readState(name));
    for (const { name } of parameters.stateTensors)
      expect(copy.parameters.readState(name)).toEqual(parameters.readState(name));
    copy.arena.free();
    arena.free();
  });

  test("a moment that is not finite is found by its tensor's name", () => {
    const { parameters, arena } = make(device, "adamw8bit");
    expect(parameters.findNonFinite("v")).toBeNull();
    for (const name of ["v.uneven.absmax", "v.norm"]) {
      const bytes = parameters.readState(name);
      new DataView(bytes.buffer).setFloat32(bytes.length - 4, Number.NaN, true);
      const before = parameters.readState(name);
      parameters.writeState(name, bytes);
      expect(parameters.findNonFinite("v")).toBe(name.split(".")[1]!);
      expect(parameters.findNonFinite("m")).toBeNull();
      parameters.writeState(name, before);
    }
    arena.free();
  });
});
