// A zip (a Python wheel is one) whose bytes follow from its files alone.

import { crc32 } from "node:zlib";
import { deflated } from "./deflate.ts";
import type { Entry } from "./tar.ts";

/** MS-DOS time and date, in UTC; they begin with 1980. */
function dosTime(seconds: number): { time: number; date: number } {
  const when = new Date(Math.max(seconds, Date.UTC(1980, 0, 1) / 1000) * 1000);
  return {
    time: (when.getUTCHours() << 11) | (when.getUTCMinutes() << 5) | (when.getUTCSeconds() >> 1),
    date: ((when.getUTCFullYear() - 1980) << 9) | ((when.getUTCMonth() + 1) << 5) | when.getUTCDate(),
  };
}

/** The archive of `entries` in the order given, each of them modified `seconds` after 1970. Below 4 GiB. */
export function zip(entries: readonly Entry[], seconds: number): Buffer {
  const { time, date } = dosTime(seconds);
  const parts: Buffer[] = [];
  const directory: Buffer[] = [];
  let offset = 0;
  for (const { path, bytes, isExecutable } of entries) {
    const name = Buffer.from(path);
    const data = deflated(bytes);
    // What the file's own header and the directory at the end both say.
    const common = Buffer.alloc(26);
    common.writeUInt16LE(20, 0); // needs version 2.0
    common.writeUInt16LE(0x800, 2); // names are UTF-8
    common.writeUInt16LE(8, 4); // deflated
    common.writeUInt16LE(time, 6);
    common.writeUInt16LE(date, 8);
    common.writeUInt32LE(crc32(bytes), 10);
    common.writeUInt32LE(data.length, 14);
    common.writeUInt32LE(bytes.length, 18);
    common.writeUInt16LE(name.length, 22);
    const mode = 0o100000 | (isExecutable === true ? 0o755 : 0o644);
    const tail = Buffer.alloc(14);
    tail.writeUInt32LE((mode << 16) >>> 0, 6);
    tail.writeUInt32LE(offset, 10);
    // The directory says by what system it was made: 3 is Unix, whose modes stand in the upper half of the attributes.
    directory.push(Buffer.from("PK\x01\x02\x14\x03", "latin1"), common, tail, name);
    const local = [Buffer.from("PK\x03\x04", "latin1"), common, name, data];
    parts.push(...local);
    offset += local.reduce((sum, part) => sum + part.length, 0);
  }
  const listed = Buffer.concat(directory);
  const end = Buffer.alloc(22);
  end.write("PK\x05\x06", "latin1");
  end.writeUInt16LE(entries.length, 8);
  end.writeUInt16LE(entries.length, 10);
  end.writeUInt32LE(listed.length, 12);
  end.writeUInt32LE(offset, 16);
  return Buffer.concat([...parts, listed, end]);
}
