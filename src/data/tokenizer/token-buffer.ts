// Tokens as they are found, in arrays that grow: token i holds the units [starts[i], ends[i]) of a text.

export class TokenBuffer {
  ids = new Int32Array(1024);
  starts = new Int32Array(1024);
  ends = new Int32Array(1024);
  count = 0;

  add(id: number, start: number, end: number): void {
    this.reserve(1);
    this.ids[this.count] = id;
    this.starts[this.count] = start;
    this.ends[this.count] = end;
    this.count++;
  }

  /** Room for `more` tokens behind those that are there. */
  reserve(more: number): void {
    if (this.count + more <= this.ids.length) return;
    const length = Math.max(2 * this.ids.length, this.count + more);
    this.ids = grown(this.ids, length);
    this.starts = grown(this.starts, length);
    this.ends = grown(this.ends, length);
  }
}

function grown(values: Int32Array<ArrayBuffer>, length: number): Int32Array<ArrayBuffer> {
  const all = new Int32Array(length);
  all.set(values);
  return all;
}
