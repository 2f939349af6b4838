// Where the samples of a micro-batch lie.

/** Where the samples of a micro-batch, laid end to end, begin and end. */
export interface SampleBorders {
  /** Int32 [samples + 1]: where each sample begins; the last is the number of tokens. */
  cuSeqlens: Int32Array;
}
