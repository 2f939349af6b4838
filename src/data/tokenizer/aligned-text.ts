// A text made from another, its source, and where in the source each part of it comes from. What a normalizer puts in
// or takes out is charged as Hugging Face's tokenizers charges it: a character that is put in shares the place of the
// one before it, one that is taken out belongs to nobody.

/** Pieces of a text as pairs of UTF-16 offsets, [begin, end, begin, end, …]; they may leave gaps. */
export type Pieces = number[];

export class AlignedText {
  readonly text: string;
  /** Where the source of each UTF-16 unit begins and ends; null while the text is its source, `shift` units into it. */
  private readonly starts: Int32Array | null; // [units]
  private readonly ends: Int32Array | null; // [units]
  private readonly shift: number;

  private constructor(text: string, shift: number, starts: Int32Array | null, ends: Int32Array | null) {
    this.text = text;
    this.shift = shift;
    this.starts = starts;
    this.ends = ends;
  }

  /** A text that is its own source, or stands `shift` units into it. */
  static of(text: string, shift = 0): AlignedText {
    return new AlignedText(text, shift, null, null);
  }

  /** Where the source of unit i begins. */
  start(i: number): number {
    return this.starts === null ? this.shift + i : this.starts[i]!;
  }

  /** Where the source of unit i ends. */
  end(i: number): number {
    return this.ends === null ? this.shift + i + 1 : this.ends[i]!;
  }

  slice(begin: number, end: number): AlignedText {
    if (begin === 0 && end === this.text.length) return this;
    return new AlignedText(
      this.text.slice(begin, end),
      this.shift + begin,
      this.starts?.subarray(begin, end) ?? null,
      this.ends?.subarray(begin, end) ?? null,
    );
  }

  /** With text in front of it, unless it is empty. The first character shares its place with it. */
  prepend(prefix: string): AlignedText {
    if (this.text === "" || prefix === "") return this;
    const built = new Builder(this.text.length + prefix.length);
    built.add(prefix, this.start(0), this.end(this.width(0) - 1));
    built.copy(this, 0, this.text.length);
    return built.finish();
  }

  /** With `content` in place of each match. It takes the place of the match's last character. */
  replace(matches: Pieces, content: string): AlignedText {
    if (matches.length === 0) return this;
    const built = new Builder(this.text.length + (matches.length / 2) * content.length);
    let done = 0;
    for (let k = 0; k < matches.length; k += 2) {
      built.copy(this, done, matches[k]!);
      done = matches[k + 1]!;
      const last = this.characterBegin(done - 1);
      built.add(content, done === 0 ? 0 : this.start(last), done === 0 ? 0 : this.end(done - 1));
    }
    built.copy(this, done, this.text.length);
    return built.finish();
  }

  /** The same places under another text of the same length, whose surrogates stand where this one's do. */
  withText(text: string): AlignedText {
    return new AlignedText(text, this.shift, this.starts, this.ends);
  }

  /**
   * Made anew from characters, each with a change: 0 takes the place of the next character of this text, −n does and
   * takes n more away, 1 is put in beside the character before. Hugging Face's name for it is the same.
   */
  transform(characters: readonly string[], changes: readonly number[]): AlignedText {
    const built = new Builder(characters.reduce((sum, one) => sum + one.length, 0));
    let at = 0;
    for (let k = 0; k < characters.length; k++) {
      const change = changes[k]!;
      const from = change > 0 ? this.characterBegin(at - 1) : at;
      if (from < 0) built.add(characters[k]!, 0, 0);
      else built.add(characters[k]!, this.start(from), this.end(from + this.width(from) - 1));
      for (let taken = change > 0 ? 1 : change; taken <= 0; taken++) at += this.width(at);
    }
    return built.finish();
  }

  /** Pieces of this text, each changed by itself, and put together again; `pieces` becomes where they stand then. */
  rebuild(
    pieces: Pieces,
    change: (piece: AlignedText) => AlignedText,
  ): { text: AlignedText; pieces: Pieces } {
    const parts: AlignedText[] = [];
    const moved: Pieces = [];
    let length = 0;
    for (let k = 0; k < pieces.length; k += 2) {
      const part = change(this.slice(pieces[k]!, pieces[k + 1]!));
      parts.push(part);
      moved.push(length, length + part.text.length);
      length += part.text.length;
    }
    if (parts.length === 1) return { text: parts[0]!, pieces: moved };
    const built = new Builder(length);
    for (const part of parts) built.copy(part, 0, part.text.length);
    return { text: built.finish(), pieces: moved };
  }

  /** The first unit of the character that unit i belongs to. */
  private characterBegin(i: number): number {
    return i > 0 && this.text.codePointAt(i - 1)! > 0xffff ? i - 1 : i;
  }

  /** Units of the character that begins at unit i. */
  private width(i: number): number {
    return (this.text.codePointAt(i) ?? 0) > 0xffff ? 2 : 1;
  }

  /** For Builder: copies the places of units [begin, end); both units of a surrogate pair get the whole character's. */
  copyPlaces(begin: number, end: number, starts: Int32Array, ends: Int32Array, at: number): void {
    if (this.starts !== null) {
      starts.set(this.starts.subarray(begin, end), at);
      ends.set(this.ends!.subarray(begin, end), at);
      return;
    }
    for (let i = begin, to = at; i < end; i++, to++) {
      const unit = this.text.charCodeAt(i) & 0xfc00;
      starts[to] = this.shift + (unit === 0xdc00 ? i - 1 : i);
      ends[to] = this.shift + (unit === 0xd800 ? i + 2 : i + 1);
    }
  }

  /** For Builder. */
  static made(text: string, starts: Int32Array, ends: Int32Array): AlignedText {
    return new AlignedText(text, 0, starts, ends);
  }
}

/** Puts a text together from parts of others. */
class Builder {
  readonly starts: Int32Array;
  readonly ends: Int32Array;
  private text = "";

  constructor(units: number) {
    this.starts = new Int32Array(units);
    this.ends = new Int32Array(units);
  }

  add(text: string, start: number, end: number): void {
    this.starts.fill(start, this.text.length, this.text.length + text.length);
    this.ends.fill(end, this.text.length, this.text.length + text.length);
    this.text += text;
  }

  copy(from: AlignedText, begin: number, end: number): void {
    if (begin >= end) return;
    from.copyPlaces(begin, end, this.starts, this.ends, this.text.length);
    this.text += from.text.slice(begin, end);
  }

  finish(): AlignedText {
    const { length } = this.text;
    if (length === this.starts.length) return AlignedText.made(this.text, this.starts, this.ends);
    return AlignedText.made(this.text, this.starts.subarray(0, length), this.ends.subarray(0, length));
  }
}
