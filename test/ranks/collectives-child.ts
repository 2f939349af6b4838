// One rank that joins the others and runs every collective: prints hashes and small results as one line of JSON.

import { asRank } from "./child.ts";
import { contribution, ELEMENTS, hashOf, shareOf } from "./collectives.ts";

await asRank(({ device, comm, rank, size }) => {
  const read = (tensor: ReturnType<typeof device.allocate>) => {
    comm.wait(device);
    return hashOf(device.readBytes(tensor));
  };
  const result: Record<string, unknown> = { rank, size, transport: comm.transport.transport };
  for (const dtype of ["f32", "bf16"] as const) {
    const sum = device.allocate(dtype, [ELEMENTS]);
    device.writeFloats(sum, contribution(rank, ELEMENTS));
    comm.allReduce(device, sum);
    result[`sum ${dtype}`] = read(sum);

    const n = shareOf(ELEMENTS, size);
    const whole = device.allocate(dtype, [n * size]);
    const part = device.allocate(dtype, [n]);
    device.writeFloats(whole, contribution(rank, n * size));
    comm.overlap(device, true);
    comm.reduceScatter(device, part, whole);
    comm.overlap(device, false);
    result[`part ${dtype}`] = read(part);
    comm.allGather(device, whole, part);
    result[`whole ${dtype}`] = read(whole);
    // In place, both ways.
    device.writeFloats(whole, contribution(rank, n * size));
    comm.reduceScatter(device, whole.rows(rank * n, n), whole);
    comm.allGather(device, whole, whole.rows(rank * n, n));
    result[`in place ${dtype}`] = read(whole);

    const given = device.allocate(dtype, [ELEMENTS]);
    device.writeFloats(given, contribution(rank, ELEMENTS));
    comm.broadcast(device, given, size - 1);
    result[`broadcast ${dtype}`] = read(given);
  }
  comm.allReduce(device, device.allocate("f32", [0]));
  comm.barrier(device);
  comm.wait(device);
  result.texts = comm
    .gatherBytes(device, new TextEncoder().encode(`rank ${rank}`))
    .map((bytes) => new TextDecoder().decode(bytes));
  console.log(JSON.stringify(result));
  if (process.env.FAULT_RANK === String(rank)) process.kill(process.pid, process.env.FAULT);
  if (process.env.FAULT_RANK !== undefined) {
    const values = device.allocate("f32", [1000]);
    for (;;) {
      comm.allReduce(device, values);
      comm.wait(device);
    }
  }
});
